"""A spool whose files are damaged: all that an operator or a crash may leave."""

import os
import random
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from spooler.limits import hash_for, rate_file
from spooler.spooldir import SpoolDir, reports, results
from spooler.spooldir.recovery import ProcessLock
from spooler.task import Name
from tests.helpers import real_clock

from .mutate import MOMENTS, Mutator, an_object, json_line


class Damaged:
    """A spool with a task in each state, and whatever is written about them.

    Use it as a context manager. ``renew`` makes another.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.base = Path(tempfile.mkdtemp(prefix="spool-fuzz-"))
        self._back = os.getcwd()
        self.number = 0
        self.root = self.base
        self.spool = SpoolDir(self.base / "none")
        self.locks: list[ProcessLock] = []
        self.ids: dict[str, str] = {}
        self.files: dict[str, str] = {}

    def __enter__(self) -> "Damaged":
        os.chdir(self.base)
        self.renew()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        os.chdir(self._back)
        shutil.rmtree(self.base, ignore_errors=True)

    def _close(self) -> None:
        for lock in self.locks:
            lock.release()
        self.locks.clear()
        self.spool.close()

    def renew(self) -> None:
        """Make a new spool in the place of the old one."""
        self._close()
        shutil.rmtree(self.root, ignore_errors=True)
        self.base.mkdir(exist_ok=True)
        os.chdir(self.base)
        self.number += 1
        self.root = self.base / f"s{self.number}"
        self.spool = SpoolDir(self.root)
        self.spool.create()
        self.clock = real_clock()
        self._fill()

    def _fill(self) -> None:
        spool, now_us = self.spool, self.clock.now_us()
        names = {}
        for number, state in enumerate(
            ("waiting", "later", "held", "failed", "corrupt", "running", "keyed")
        ):
            name = Name(now_us - 10**6, 5, number % 3, f"{number:x}" * 16, "t")
            if state == "later":
                name = name.but(due_us=now_us + 10**10)
            names[state] = name
            self.files[state] = f"{name.folder}/{name}"
            self.ids[state] = name.id
            spool.put(name, [b'{"task":"t","args":{"a":1}}\nbody'], durable=False)
            reports.append_attempt(spool, name.id, {"attempt": 1, "error": "E"})
        self._in_states(names)
        for kind in ("worker", "daemon"):
            lock = ProcessLock(spool, f"{kind}-1")
            lock.acquire()
            lock.describe({"kind": kind, "pid": 1, "host": "h", "tasks": ["t"]})
            self.locks.append(lock)
        for state in ("keyed", "failed"):
            name = names[state]
            results.keep(
                spool, name, ok=True, value=1, attempt=1, started_us=now_us, seconds=1e6
            )

    def _in_states(self, names: dict[str, Name]) -> None:
        spool, now_us = self.spool, self.clock.now_us()
        for state in ("held", "failed", "corrupt", "running"):
            name = names[state]
            path = f"{name.folder}/{name}"
            self.files[state] = f"{state}/{name}"
            folder = "running/worker-1" if state == "running" else state
            with suppress(FileExistsError):
                (self.root / folder).mkdir()
            os.rename(self.root / path, self.root / folder / str(name))
            if state in ("failed", "corrupt"):
                why = {"v": 1, "error": "E", "reason": "exception", "attempts": []}
                reports.write_why(spool, f"{state}/{name}", {**why, "failed": now_us})

    # -- rubbish ----------------------------------------------------------------

    def hurt(self, mutator: Mutator) -> tuple[str, bytes]:
        """Damage one file of those that tell something; return which, and how."""
        path, good = self.chance.choice(self._places())
        match self.chance.randrange(6):
            case 0:
                data = json_line(_spoilt(good, self.chance))
            case 1:
                data = json_line(an_object(self.chance))
            case 2:
                text = json_line(good)
                data = text[: self.chance.randrange(len(text))]
            case 3 | 4:
                saved, mutator.corpus = mutator.corpus, [json_line(good)]
                data = mutator.data()
                mutator.corpus = saved
            case _:
                data = mutator.data()
        self._write(path, data)
        return path, data

    def _write(self, path: str, data: bytes) -> None:
        file = self.root / path
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)
        what = self.chance.randrange(40)
        if what == 0:
            file.mkdir()
        elif what == 1:
            os.mkfifo(file)
        elif what == 2:
            file.symlink_to(self.chance.choice(("nowhere", "/dev/zero", ".")))
        else:
            file.write_bytes(data)

    def _places(self) -> list[tuple[str, object]]:
        ids = [*self.ids.values()]
        task_id = self.chance.choice(ids)
        files = {n: f"{self.files[n]}.why" for n in ("failed", "corrupt")}
        attempt = {
            "attempt": 1,
            "started": None,
            "ended": "x",
            "seconds": 1.5,
            "worker": "w",
            "error": "E",
        }
        why = {
            "v": 1,
            "id": task_id,
            "task": "t",
            "error": "E",
            "reason": "exception",
            "traceback": "T",
            "failed": "2026-11-20T10:00:00Z",
            "attempts": [attempt],
        }
        result = {
            "v": 1,
            "id": task_id,
            "task": "t",
            "ok": True,
            "result": {"a": 1},
            "attempt": 1,
            "error": None,
            "started": None,
            "ended": "2026",
            "expires": None,
            "problem": None,
        }
        process = {
            "v": 1,
            "kind": "worker",
            "pid": 1,
            "host": "h",
            "started": "2026-11-20T10:00:00Z",
            "daemon": "daemon-1",
            "tasks": ["t"],
        }
        said = {"done": 1, "total": 3, "message": "m", "time": "x", "attempt": 3}
        running = self.ids["running"]
        pause = self.chance.choice(
            ("all", "priority.5", "task.t", "task.\x1b", "x", "task.é")
        )
        slot = self.chance.choice(
            ("1795208460000000.t", "9999999999999999.t", "0.t", "x")
        )
        limit = hash_for(None, "t", {}, {})
        return [
            (files["failed"], why),
            (files["corrupt"], why),
            (f"logs/{task_id}.attempts", attempt),
            (f"done/{task_id}", result),
            ("workers/worker-1.json", process),
            ("workers/daemon-1.json", process),
            (f"paused/{pause}", self.chance.choice(MOMENTS)),
            (f"batches/{task_id}", f"-{0:015d} {3:016d} {task_id}"),
            (f"timers/{slot}", {}),
            (f"limits/{rate_file(limit)}", [0] * 4),
            (f"logs/{running}.progress", said),
            (f"logs/{task_id}.1", "log"),
            ("logs/worker-1.live", "live"),
            (f"kill/{task_id}", ""),
            (self.files["corrupt"], why),
            (self.files["waiting"], why),
        ]


def _spoilt(good: object, chance: random.Random) -> object:
    """Return an object with some values of other types."""
    if isinstance(good, list):
        return [_spoilt(each, chance) for each in good]
    if not isinstance(good, dict) or chance.random() < 0.1:
        return an_object(chance)
    spoilt = dict(good)
    for _ in range(chance.randrange(1, 4)):
        key = chance.choice([*spoilt, "x"])
        if chance.random() < 0.2:
            spoilt.pop(key, None)
        elif isinstance(spoilt.get(key), dict | list) and chance.random() < 0.7:
            spoilt[key] = _spoilt(spoilt[key], chance)
        else:
            spoilt[key] = an_object(chance)
    return spoilt
