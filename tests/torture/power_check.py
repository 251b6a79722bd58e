"""What must be true of a spool after a power cut."""

import json
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from spooler.clock import CLOCK
from spooler.codec import decode, encode
from spooler.errors import CorruptError
from spooler.spooldir import SpoolDir, keys
from spooler.task import Name, derived_id

from ..helpers import FACTOR
from .power_ledger import DAMAGED, KEYS, Run, World

REPEAT_MAX: Final = 1.0 + 1.5 * FACTOR
"""Seconds before the cut in which what was finished may run again: one, until what is
done is synced, then a task, the sync itself, and what a busy machine adds."""

_ID: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(slots=True)
class Found:
    """A file of a task, as the cut left it."""

    path: str
    name: Name
    problem: str | None
    key: str | None

    @property
    def state(self) -> str:
        """The word for where it is."""
        first = self.path.partition("/")[0]
        return "waiting" if first.isdigit() else first


@dataclass(slots=True)
class Result:
    """What one cut has shown.

    Attributes:
        broken: What was promised and is not so.
        repeats: The finished tasks that ran again.
        oldest: How many seconds before the cut the oldest of these had ended.
        unsafe: Tasks, put without a promise, that were run though they are damaged.
    """

    broken: list[str] = field(default_factory=list)
    repeats: frozenset[str] = frozenset()
    oldest: float = 0.0
    unsafe: int = 0


def look(spool: Path) -> list[Found]:
    """Return all tasks that a spool holds."""
    root = SpoolDir(spool)
    folders = [f"{p}/{m}" for p in root.priorities() for m in root.minutes(p)]
    folders += [f"running/{worker}" for worker in root.names("running")]
    found = []
    for folder in (*folders, "held", "failed"):
        for file in root.names(folder):
            name = Name.parse(file)
            if name is not None and not file.endswith(".why"):
                found.append(_read(spool, f"{folder}/{file}", name))
    root.close()
    return found


def _read(spool: Path, path: str, name: Name) -> Found:
    try:
        header = decode(Path(spool, path).read_bytes(), whole=True)
    except CorruptError as error:
        return Found(path, name, error.reason, None)
    return Found(path, name, None, header.key if header else None)


def _is_half_a_claim(paths: list[str]) -> bool:
    """Tell whether a file has kept its old name: recovery sees that they are one."""
    states = {path.partition("/")[0] == "running" for path in paths}
    return len(states) == len(paths) and len({p.split("/")[-1] for p in paths}) == 1


class Judge:
    """Compares what was promised with what is there.

    Args:
        world: What happened before the cut.
        moment: When that was.
        timer: Whether slots of a timer were put.
    """

    def __init__(self, world: World, moment: int) -> None:
        self._world = world
        self._moment = moment
        self.result = Result()
        self._kind: dict[str, str] = {}
        self._unsafe: set[str] = set()
        for event in world.of("try", "op-try"):
            self._kind.update(dict.fromkeys(event.ids, event.kind))
            if not event.safe:
                self._unsafe.update(event.ids)
        self._ended: dict[str, int] = {}
        for run in world.runs:
            self._ended[run.id] = max(run.t, self._ended.get(run.id, 0))

    def _broken(self, text: str, *ids: str) -> None:
        told = [
            f"{each} ({self._kind.get(each, 'unknown')}{self._age(each)})"
            for each in ids[:3]
        ]
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        self.result.broken.append(f"{text}: {', '.join(told)}{more}" if ids else text)

    def _age(self, task_id: str) -> str:
        if task_id not in self._ended:
            return ""
        return f", ran {(self._moment - self._ended[task_id]) / 1e9:.2f} s before"

    # -- before a daemon has started ---------------------------------------------

    def as_left(self, found: list[Found]) -> None:
        """Judge what the cut has left."""
        places: dict[str, list[str]] = defaultdict(list)
        for each in found:
            places[each.name.id].append(each.path)
            if each.problem is None:
                continue
            if each.name.id not in self._unsafe:
                self._broken(f"{each.path} is not whole ({each.problem})", each.name.id)
        for task_id, paths in places.items():
            if len(paths) > 1 and not _is_half_a_claim(paths):
                self._broken(f"is in several places: {' '.join(paths)}", task_id)
        self._keys(found)
        self._operated({each.name.id: each.state for each in found})

    def _keys(self, found: list[Found]) -> None:
        holders = defaultdict(list)
        for each in found:
            if each.key is not None and each.state in ("waiting", "running", "held"):
                holders[each.key].append(each.name.id)
        for key, ids in holders.items():
            new = [each for each in ids if each not in self._ended]
            if len(new) > 1:
                self._broken(f"the key {key!r} is held by several tasks", *new)

    def _operated(self, states: dict[str, str]) -> None:
        """Judge tasks that an operator moves, which no daemon touches."""
        allowed: dict[str, set[str]] = {}
        for event in self._world.of("op", "op-try"):
            if event.say == "op":
                allowed[event.ids[0]] = {event.state}
            else:
                allowed.setdefault(event.ids[0], {"gone"}).add(event.state)
        for task_id, wanted in allowed.items():
            state = states.get(task_id, "gone")
            if "kicked" not in wanted and state not in wanted:
                which = " or ".join(sorted(wanted))
                self._broken(f"is {state}, and an operator made it {which}", task_id)

    # -- after it has run all ----------------------------------------------------

    def as_run(self, spool: Path, after: World, found: list[Found]) -> None:
        """Judge what a daemon has made of it."""
        again = {run.id: run for run in after.runs}
        ran = self._ended.keys() | again.keys()
        promised = {e: None for event in self._world.of("put") if event.safe
                    for e in event.ids}  # fmt: skip
        kicked = {e.ids[0]: None for e in self._world.of("op") if e.state == "kicked"}
        lost = [each for each in (*promised, *kicked) if each not in ran]
        if lost:
            self._broken(f"{len(lost)} tasks are lost", *lost)
        damaged = {run.id for run in after.runs if run.what == DAMAGED}
        self.result.unsafe += len(damaged & self._unsafe)
        if damaged - self._unsafe:
            self._broken("was run, and is damaged", *damaged - self._unsafe)
        times = Counter(run.id for run in after.runs)
        twice = [each for each in times if times[each] > 1]
        if twice:
            self._broken("was run twice", *twice)
        self._repeats(again)
        self._whole_batches(ran)
        self._ends(spool, promised, found)
        self._followers(ran, found, promised)
        self._left(spool, found)

    def _repeats(self, again: dict[str, Run]) -> None:
        ages = {each: (self._moment - self._ended[each]) / 1e9
                for each in again.keys() & self._ended.keys()}  # fmt: skip
        self.result.repeats = frozenset(ages)
        self.result.oldest = max(ages.values(), default=0.0)
        late = sorted((e for e in ages if ages[e] > REPEAT_MAX), key=lambda e: -ages[e])
        if late:
            self._broken(f"{len(late)} finished tasks ran again too late", *late)

    def _whole_batches(self, ran: set[str]) -> None:
        for event in self._world.of("try"):
            part = [each for each in event.ids if each in ran]
            if part and len(part) < len(event.ids):
                what = f"of a batch of {len(event.ids)} only {len(part)} ran"
                self._broken(what, *set(event.ids) - set(part))

    def _ends(self, spool: Path, promised: dict[str, None], found: list[Found]) -> None:
        """Judge results that are kept, and tasks that are given up."""
        failed = {each.name.id: each.path for each in found if each.state == "failed"}
        for task_id in promised:
            if self._kind[task_id] == "kept":
                path = spool / "done" / task_id
                if not path.exists():
                    self._broken("its result is lost", task_id)
                elif not json.loads(path.read_bytes())["ok"]:
                    self._broken("its result is wrong", task_id)
            elif self._kind[task_id] == "bad":
                if task_id not in failed:
                    self._broken("was given up, and is not in failed/", task_id)
                elif not Path(spool, failed[task_id] + ".why").exists():
                    self._broken("has failed, and there is no report", task_id)

    def _followers(
        self, ran: set[str], found: list[Found], promised: dict[str, None]
    ) -> None:
        for task_id in promised:
            if self._kind[task_id] == "parent":
                follower = derived_id(task_id, "then", 0)
                if follower not in ran:
                    self._broken("has run, and its follower has not", task_id)

    def _left(self, spool: Path, found: list[Found]) -> None:
        """Judge what is still there."""
        for each in found:
            if each.state in ("waiting", "running") and (
                self._kind.get(each.name.id) != "later"
            ):
                self._broken(f"{each.path} was not run", each.name.id)
        for file in os.listdir(spool / "corrupt"):
            ids = set(_ID.findall(file))
            hidden = file.startswith(".") or file.endswith(".why")
            if not hidden and not ids & self._unsafe:
                why = spool / "corrupt" / f"{file}.why"
                reason = why.read_text() if why.exists() else "?"
                self._broken(f"corrupt/{file}: {reason[:200]}")
        self._free_keys(SpoolDir(spool))

    def _free_keys(self, spool: SpoolDir) -> None:
        """Judge whether all keys can be had again, now that everything has run."""
        for number in range(KEYS):
            name = Name(CLOCK.now_us(), 5, 0, f"{number:016x}", "note")
            key = f"key {number}"
            head = encode("note", b"{}", id=name.id, key=key)
            there = keys.put(spool, name, (head,), key, "raise", durable=False)
            if there is not None:
                self._broken(f"{key} is taken, and its task has run", there.id)
        spool.close()
