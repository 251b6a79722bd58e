"""The long run: a mixed load, and nothing grows; at the end all is accounted for.

Two daemons, one whose workers run one task at a time and one whose workers run many,
each with a spool of its own. Tasks of every kind are put, cancelled, held, killed; the
daemons are told to import anew, workers are recycled and die. Every few seconds all
rests, and memory, descriptors and left-overs are counted.
"""

import json
import os
import random
import signal
import statistics
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

from click.testing import CliRunner

from spooler import DuplicateError, Handle, Spooler
from spooler.cli.spool import main
from spooler.spooldir import SpoolDir
from spooler.task import State, minute_start_us

from ..integration.conftest import is_alive, parent_of
from . import Report
from .daemons import PATIENCE, Broken, Daemon, environ, evidence, spoold, wait_until
from .ledger import Ledger

ABOUT: Final = "a mixed load for long: nothing grows, and every task is accounted for"

RESTS: Final = 12
"""How often all rests, at least; every ten seconds in a long run."""

SLACK: Final = {"daemon": (2048, 0), "template": (2048, 0), "worker": (4096, 2)}
"""KiB and descriptors by which each may have grown between the first third of the time
and the last. A worker opens some when they are first needed, and is often a new one."""

JUDGED: Final = 6
"""Rests from which on growth is judged: with fewer, the first time counts as growth."""

EMPTY_MAX: Final = 360.0
"""Seconds after the beginning of its minute for which a folder may stay empty."""

AHEAD: Final = 60
"""Tasks that may wait before no more is put."""


@dataclass(slots=True)
class Sample:
    """What the processes of a daemon use while nothing runs."""

    memory: dict[str, int] = field(default_factory=dict)
    descriptors: dict[str, int] = field(default_factory=dict)


class Soak:
    """One spool, its daemon, and all that was put.

    Attributes:
        put: By number, what became of a put: a handle, or None where there is none.
        cancelled: The numbers of tasks that were removed.
        followers: By the number of a task, those of what follows success and failure.
    """

    def __init__(
        self, folder: Path, module: str, options: tuple[str, ...], chance: random.Random
    ) -> None:
        self.spool, self.out = folder / "spool", folder / "out"
        self.out.mkdir(parents=True)
        SpoolDir(self.spool).create()
        self.spooler = Spooler(self.spool, durability="fast")
        self.chance = chance
        self.kinds = ["step", "step", "shaky", "result", "alone", "nap"]
        if module == "soaky":
            self.kinds.remove("nap")
        self.ledger = Ledger(self.out / "ran")
        self.put: dict[str, Handle | None] = {}
        self.later: set[str] = set()
        self.killed: set[str] = set()
        self.cancelled: set[str] = set()
        self.followers: dict[str, tuple[str, str]] = {}
        self.did: Counter[str] = Counter()
        self.samples: list[Sample] = []
        command = spoold(
            self.spool, module, "--max-attempts", "0", "--max-tasks", "40", *options
        )
        self.daemon = Daemon(command, environ(self.out), self.out / "log")
        wait_until(lambda: self.daemon.serves, "does not serve", seconds=PATIENCE)

    # -- what is put --------------------------------------------------------------

    def _put(self, task: str, **options: Any) -> None:
        number = uuid.uuid4().hex
        self.put[number] = self.spooler.put(task, {"n": number}, **options)
        self.did["put"] += 1

    def put_one(self) -> None:
        """Put a task of any kind, at any priority."""
        priority = self.chance.choice((0, 3, 5, 5, 5, 9, 42))
        self._put(self.chance.choice(self.kinds), priority=priority)

    def put_soon(self) -> None:
        """Put one for a moment later."""
        self._put("step", at=f"+{self.chance.random() * 3:.3f}s")

    def put_for_tomorrow(self) -> None:
        """Put one that will wait to the end, and maybe take it back."""
        self._put("step", at="+1d", priority=7)
        number = next(reversed(self.put))
        self.later.add(number)
        if len(self.later) > 5 or self.chance.random() < 0.5:
            self._cancel(self.later.pop())

    def put_doomed(self) -> None:
        """Put one that fails or kills its worker."""
        self._put(self.chance.choice(("doomed", "doomed", "deadly")))

    def put_large(self) -> None:
        """Put one with a body."""
        self._put("result", body=b"x" * self.chance.randrange(1 << 16))

    def put_unique(self) -> None:
        """Put one whose key may be taken."""
        key = self.chance.choice("abc")
        with suppress(DuplicateError):
            self._put("step", key=key, if_exists="raise")

    def put_followed(self) -> None:
        """Put one that others follow."""
        task = self.chance.choice(("step", "shaky", "doomed"))
        after, instead = uuid.uuid4().hex, uuid.uuid4().hex
        then = self.spooler.call("step", {"n": after})
        on_failure = self.spooler.call("step", {"n": instead})
        self._put(task, then=then, on_failure=on_failure)
        self.followers[next(reversed(self.put))] = (after, instead)

    def put_many(self) -> None:
        """Put a batch."""
        numbers = [uuid.uuid4().hex for _ in range(self.chance.randint(2, 12))]
        kinds = ("step", "shaky", "doomed")
        self.spooler.spool_many(
            self.spooler.call(self.chance.choice(kinds), {"n": number})
            for number in numbers
        )
        self.put.update(dict.fromkeys(numbers))
        self.did["batch"] += 1

    def drop(self) -> None:
        """Drop a file, as a shell script does."""
        number = uuid.uuid4().hex
        path = self.spool / "tmp" / number
        path.write_text(f"task=step\nn={number}\n")
        path.rename(self.spool / self.chance.choice(("5", ".", "2")) / number)
        self.put[number] = None
        self.did["drop"] += 1

    # -- what operators do --------------------------------------------------------

    def _command(self, *words: str) -> bool:
        result = CliRunner().invoke(main, ["--dir", str(self.spool), *words])
        if result.exception is not None and not isinstance(
            result.exception, SystemExit
        ):
            raise result.exception
        return result.exit_code == 0

    def _cancel(self, number: str) -> None:
        handle = self.put[number]
        if handle is not None and handle.cancel():
            self.cancelled.add(number)
            self.did["cancel"] += 1

    def cancel(self) -> None:
        """Put one and take it back at once, if it has not begun."""
        self._put("step", at=self.chance.choice((None, "+1s")))
        self._cancel(next(reversed(self.put)))

    def hold(self) -> None:
        """Put one, hold it, and let it go or remove it."""
        self._put("step", at="+1s")
        number = next(reversed(self.put))
        handle = self.put[number]
        assert handle is not None
        if self._command("hold", handle.id):
            self.did["hold"] += 1
            if self.chance.random() < 0.3 and self._command("rm", handle.id):
                self.cancelled.add(number)
            else:
                self._command("release", handle.id)

    def kick(self) -> None:
        """Kick one of those that failed by themselves, or remove it."""
        failed = [path.name for path in (self.spool / "failed").glob("*.doomed")]
        if failed:
            name = self.chance.choice(failed)
            if self.chance.random() < 0.5:
                self.did["kick"] += self._command("kick", name.split(".")[3])
                return
            number = _number(self.spool / "failed" / name)
            if self._command("rm", name.split(".")[3]):
                self.cancelled.add(number)

    def kill_task(self) -> None:
        """Have a task killed that would run for ever."""
        self._put("endless", priority=0)
        number = next(reversed(self.put))
        handle = self.put[number]
        assert handle is not None
        wait_until(
            lambda: handle.state() is State.RUNNING and handle.kill(),
            "a task does not begin",
            seconds=PATIENCE,
        )
        self.killed.add(number)
        wait_until(
            lambda: handle.state() is State.FAILED,
            "a task is not killed",
            seconds=PATIENCE,
        )
        self.did["kill"] += 1

    def kill_worker(self) -> None:
        """Kill a worker."""
        with suppress(ProcessLookupError, IndexError):
            os.kill(self.chance.choice(self.workers()), signal.SIGKILL)
            self.did["death"] += 1

    def reload(self) -> None:
        """Have the code imported anew."""
        self.daemon.process.send_signal(signal.SIGHUP)
        self.did["reload"] += 1

    # -- rest ---------------------------------------------------------------------

    def workers(self) -> list[int]:
        """Return the workers that live."""
        self.ledger.read()
        lives = self.ledger.workers.values()
        return [w.pids[0] for w in lives if not w.stopped and w.lives]

    def _templates(self) -> list[int]:
        tasks = Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children")
        return [pid for pid in map(int, tasks.read_text().split()) if is_alive(pid)]

    def _files(self, *folders: str) -> list[Path]:
        return [
            path
            for folder in folders
            for path in sorted((self.spool / folder).glob("[!.]*"))
            if path.is_file()
        ]

    def _waiting(self) -> list[Path]:
        spool = SpoolDir(self.spool)
        try:
            return [self.spool / folder / name for folder, name in spool.waiting()]
        finally:
            spool.close()

    def is_ahead(self) -> bool:
        """Tell whether enough waits for the moment."""
        return len(self._waiting()) > AHEAD

    def _rests(self) -> bool:
        dropped = self._files(".", "2", "5")
        runs = [*(self.spool / "running").glob("*/[!.]*")]
        later = {_number(path) for path in self._waiting()} - self.later
        templates = self._templates()
        return (
            not (dropped or runs or later - {"tick"})
            and len(templates) == 1
            and len(self.workers()) == 2
            and all(parent_of(pid) == templates[0] for pid in self.workers())
        )

    def rest(self) -> None:
        """Wait until nothing runs; count what there is.

        Raises:
            Broken: Something was left behind.
        """

        def rests() -> bool:
            with suppress(OSError):  # what was there has just gone
                return self._rests()
            return False

        wait_until(rests, f"{self.spool} does not rest", seconds=2 * PATIENCE)
        self._check_leftovers()
        sample = Sample()
        for kind, pids in (
            ("daemon", [self.daemon.pid]),
            ("template", self._templates()),
            ("worker", self.workers()),
        ):
            with suppress(
                OSError, ValueError
            ):  # it is being recycled, or there is none
                sample.memory[kind] = max(map(_memory, pids))
                sample.descriptors[kind] = max(map(_descriptors, pids))
        self.samples.append(sample)

    def _check_leftovers(self) -> None:
        alive = {f"-{pid}-" for pid in (self.daemon.pid, *self.workers())}
        # Who dies between the end of a batch and the removal of this file leaves it
        # for an hour; others remove it within a second.
        lives = self.ledger.workers.values()
        died = sum(not w.stopped and not w.lives for w in lives)
        wait_until(
            lambda: len(self._files("batches")) <= died,
            f"batches/ of {self.spool} grows",
            seconds=PATIENCE,
        )
        for folder in ("kill", "tmp"):  # the daemon may not have come to it yet
            wait_until(
                lambda folder=folder: not self._files(folder),  # type: ignore[misc]  # bound
                f"{folder}/ of {self.spool} is not emptied while nothing runs",
                seconds=PATIENCE,
            )
        wait_until(
            lambda: len(os.listdir(self.spool / "workers")) <= 4 * len(alive) + 8,
            f"workers/ of {self.spool} holds many more than {len(alive)} processes",
            seconds=PATIENCE,
        )
        now_us = datetime.now(UTC).timestamp() * 1e6
        for path in self.spool.glob("[0-9]*/*T*"):
            minute = minute_start_us(path.name)
            if minute is None or now_us - minute < EMPTY_MAX * 1e6:
                continue
            with suppress(FileNotFoundError):
                if not any(path.iterdir()):
                    raise Broken(f"{path} is empty and has not been removed")

    # -- the end ------------------------------------------------------------------

    def account(self) -> None:
        """See that each task is done, failed, waits or was cancelled: just one of it.

        Call it when the daemon has ended.
        """
        self.ledger.read()
        done = {task for task in self.ledger.runs if self.ledger.has_run(task)}
        failed = {_number(p) for p in self._files("failed") if p.suffix != ".why"}
        waiting = {_number(path) for path in (*self._waiting(), *self._files("held"))}
        for several in (
            failed,
            waiting,
        ):  # a timer's, whose worker may have been killed
            several.discard("tick")
        if found := self._files("corrupt"):
            raise Broken(f"corrupt/ holds {found[:5]}")
        kicked = failed | self.cancelled
        for task, (after, instead) in self.followers.items():
            if task in done:
                self.put[after] = None
            if task in kicked:
                self.put[instead] = None
        places = {"done": done, "failed": failed, "waiting": waiting}
        places["cancelled"] = self.cancelled
        for number in self.put:
            where = [place for place, numbers in places.items() if number in numbers]
            if len(where) != 1:
                raise Broken(f"task {number} is {' and '.join(where) or 'lost'}")
        if strange := set().union(*places.values()) - set(self.put):
            raise Broken(f"{len(strange)} tasks that nobody put: {sorted(strange)[:5]}")
        self.did.update({place: len(numbers) for place, numbers in places.items()})
        self.did["accounted"] = len(self.put)

    def growth(self) -> dict[str, tuple[int, int]]:
        """Return by kind of process how much it has grown: KiB, and descriptors.

        From the middle of the first third, when all has been done once, to the last.
        """
        third = max(1, len(self.samples) // 3)
        first, last = self.samples[third // 2 : third + 1], self.samples[-third:]

        def grown(values: Callable[[Sample], dict[str, int]], kind: str) -> int:
            def middle(some: list[Sample]) -> float:
                return statistics.median(values(s).get(kind, 0) for s in some)

            return round(middle(last) - middle(first))

        return {
            kind: (
                grown(lambda s: s.memory, kind),
                grown(lambda s: s.descriptors, kind),
            )
            for kind in SLACK
        }

    def abandon(self) -> None:
        """Kill the daemon, whatever has happened; its workers die with it."""
        if self.daemon.process.poll() is None:
            self.daemon.process.kill()
            self.daemon.process.wait()


def _number(path: Path) -> str:
    data = path.read_bytes()
    if data[:1] == b"{":
        args = json.loads(data.split(b"\n", 1)[0])["args"]
        return str(args.get("n", path.name.rpartition(".")[2]))
    return data.split(b"n=", 1)[1].split(b"\n", 1)[0].decode()


def _memory(pid: int) -> int:
    """Return the KiB of memory that a process has, without what is files'."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


ACTIONS: Final[dict[Callable[[Soak], None], int]] = {
    Soak.put_one: 60,
    Soak.put_soon: 10,
    Soak.put_for_tomorrow: 4,
    Soak.put_doomed: 4,
    Soak.put_large: 6,
    Soak.put_unique: 10,
    Soak.put_followed: 8,
    Soak.put_many: 6,
    Soak.drop: 10,
    Soak.cancel: 8,
    Soak.hold: 4,
    Soak.kick: 3,
    Soak.kill_task: 1,
    Soak.kill_worker: 2,
    Soak.reload: 1,
}


def _load(soaks: list[Soak], chance: random.Random, until: float) -> None:
    while monotonic() < until:
        soak = chance.choice(soaks)
        if soak.daemon.process.poll() is not None:
            raise Broken(f"spoold has ended by itself: {soak.daemon.last_words}")
        if soak.is_ahead():
            signal.sigtimedwait([], 0.05)
            continue
        [action] = chance.choices([*ACTIONS], [*ACTIONS.values()])
        action(soak)
        signal.sigtimedwait([], chance.random() * 0.02)


def _judge(name: str, soak: Soak, report: Report) -> None:
    report.figures[name] = " ".join(f"{k}={v}" for k, v in sorted(soak.did.items()))
    report.figures[f"{name}_workers"] = len(soak.ledger.workers)
    last = soak.samples[-1]
    for kind, (memory, descriptors) in soak.growth().items():
        report.figures[f"{name}_{kind}"] = (
            f"{last.memory.get(kind, 0)}KiB{memory:+d},"
            f"{last.descriptors.get(kind, 0)}fds{descriptors:+d}"
        )
        if len(soak.samples) < JUDGED:
            continue
        if memory > SLACK[kind][0]:
            report.broken.append(f"the {kind} of {name} has grown by {memory} KiB")
        if descriptors > SLACK[kind][1]:
            report.broken.append(f"the {kind} of {name} has {descriptors} fds more")


def run(budget: float, seed: int) -> Report:
    """Work for so many seconds."""
    end = monotonic() + budget
    chance = random.Random(seed)
    report = Report()
    with evidence("soak", report) as folder:
        soaks: dict[str, Soak] = {}
        try:
            for module, options in (
                ("soaky", ("--workers", "2")),
                ("soaky_async", ("--workers", "2", "--threads", "3")),
            ):
                soaks[module] = Soak(folder / module, module, options, chance)
            pause = min(10.0, budget / RESTS)
            left = pause  # once at least, however long the start took
            while left > pause / 2:
                _load([*soaks.values()], chance, monotonic() + min(pause, left) * 0.7)
                for soak in soaks.values():
                    soak.rest()
                left = end - monotonic()
            for name, soak in soaks.items():
                soak.daemon.end()
                soak.account()
                _judge(name, soak, report)
        except Broken as what:
            report.broken.append(str(what))
        finally:
            for soak in soaks.values():
                soak.abandon()
    return report
