"""What is in a spool, counted."""

from collections import Counter
from dataclasses import dataclass, field

from .clock import CLOCK, Clock
from .spooldir import SpoolDir
from .spooldir.recovery import ProcessLock, processes
from .spooldir.repair import Found, ls
from .spooldir.reports import read_json, read_why
from .task import MINUTE_US, Name, State, minute_start_us


@dataclass(slots=True)
class PriorityCount:
    """One priority.

    Attributes:
        oldest_us: The due time of the task that has waited longest.
    """

    waiting: int = 0
    later: int = 0
    running: int = 0
    failed: int = 0
    oldest_us: int | None = None
    next_us: int | None = None


@dataclass(slots=True)
class Counts:
    """A spool at one moment.

    Attributes:
        waiting: Due, and nobody has begun it.
        later: Due later.
        dropped: Files that have not been adopted yet.
    """

    waiting: int = 0
    later: int = 0
    running: int = 0
    failed: int = 0
    corrupt: int = 0
    dropped: int = 0
    priorities: dict[int, PriorityCount] = field(default_factory=dict)
    waiting_names: Counter[str] = field(default_factory=Counter)


def count(spool: SpoolDir, clock: Clock = CLOCK) -> Counts:
    """Count what is in a spool.

    Folders are listed; no task file is opened.

    Raises:
        OSError: From the file system.
    """
    counts = Counts()
    now_us = clock.now_us()
    for number in spool.priorities():
        _count_priority(spool, number, counts, now_us)
    for found in ls(spool, State.RUNNING, State.FAILED):
        if found.name is not None:
            each = counts.priorities.setdefault(found.name.priority, PriorityCount())
            if found.state is State.RUNNING:
                each.running += 1
                counts.running += 1
            else:
                each.failed += 1
                counts.failed += 1
    counts.corrupt = sum(1 for _ in ls(spool, State.CORRUPT))
    return counts


def _count_priority(spool: SpoolDir, number: int, counts: Counts, now_us: int) -> None:
    each = counts.priorities.setdefault(number, PriorityCount())
    for file in spool.names(str(number)):
        start_us = minute_start_us(file)
        if start_us is None:
            counts.dropped += 1
            continue
        names = spool.names(f"{number}/{file}")
        if start_us > now_us:
            each.later += len(names)
            if names:
                _note_next(each, int(min(names)[:16]))
        elif start_us + MINUTE_US <= now_us:
            each.waiting += len(names)
            if names:
                _note_oldest(each, min(names))
        else:
            _count_current(each, names, now_us)
        counts.waiting_names.update(name.split(".", 4)[-1] for name in names)
    counts.waiting += each.waiting
    counts.later += each.later


def _count_current(each: PriorityCount, names: list[str], now_us: int) -> None:
    now = f"{now_us:016d}"
    for name in names:
        if name[:16] <= now:
            each.waiting += 1
            _note_oldest(each, name)
        else:
            each.later += 1
            _note_next(each, int(name[:16]))


def _note_oldest(each: PriorityCount, name: str) -> None:
    parsed = Name.parse(name)
    if parsed is not None and (
        each.oldest_us is None or parsed.due_us < each.oldest_us
    ):
        each.oldest_us = parsed.due_us


def _note_next(each: PriorityCount, due_us: int) -> None:
    if each.next_us is None or due_us < each.next_us:
        each.next_us = due_us


def living(spool: SpoolDir) -> list[dict[str, object]]:
    """Return what the daemons and workers say of themselves that are alive.

    Raises:
        OSError: From the file system.
    """
    found = []
    for name in processes(spool):
        facts = read_json(spool, f"workers/{name}.json")
        if not facts:
            continue
        lock = ProcessLock(spool, name)
        if lock.acquire():
            lock.release()
        else:
            found.append({"name": name, **facts})
    return found


def last_failures(spool: SpoolDir, limit: int) -> list[tuple[Found, dict[str, object]]]:
    """Return the tasks that failed last, and why, newest first.

    Raises:
        OSError: From the file system.
    """
    failed = [(found, read_why(spool, found.path)) for found in ls(spool, State.FAILED)]
    failed.sort(key=lambda pair: str(pair[1].get("failed", "")), reverse=True)
    return failed[:limit]
