"""What is in a spool, counted."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypedDict

import msgspec

from .clock import CLOCK, Clock
from .errors import NotFoundError
from .spooldir import SpoolDir
from .spooldir.pauses import read as read_pauses
from .spooldir.progress import progress_of
from .spooldir.recovery import is_alive, processes
from .spooldir.repair import Found, dropped, ls, newest_failed, stat, why
from .spooldir.reports import read_json
from .spooldir.room import NEAR, NO_LIMITS, free_space, problems, read_limits
from .task import MAX_DUE_US, MINUTE_US, State, iso, minute_start_us

# Cheaper than Name.parse: there may be 100,000 of them.
_NATIVE: Final = re.compile(r"\d{16}\.\d+\.(\d+)\.[0-9a-f]{16}\.", re.ASCII)


class Run(TypedDict):
    """A task that a worker runs; ``since`` is when it was claimed.

    ``progress`` is what it says of how far it is: ``progress.Progress``.
    """

    id: str
    task: str
    since: str
    progress: dict[str, object] | None


class Failure(TypedDict):
    """A failed task, from its report."""

    id: str
    task: str
    failed: str
    reason: str
    error: str


class PauseFacts(TypedDict):
    """What is paused: everything, if neither a priority nor a task is named."""

    what: str
    priority: int | None
    task: str | None
    until: str | None
    problem: str | None


class RoomFacts(TypedDict):
    """The limits of puts, and what there is; None where there is no limit.

    ``waiting`` is what counts against ``max_waiting``; ``full`` and ``near`` name the
    limits that are reached, or nearly.
    """

    max_waiting: int | None
    waiting: int
    min_free: int | None
    free: int
    min_free_inodes: int | None
    free_inodes: int | None
    full: list[str]
    near: list[str]
    problem: str | None


class PriorityFacts(TypedDict):
    """One priority, counted; moments as ISO 8601."""

    priority: int
    waiting: int
    oldest: str | None
    later: int
    next: str | None
    retrying: int
    running: int
    held: int
    failed: int


class Overview(TypedDict):
    """What ``spool status --json`` prints (docs/reference/spool.md).

    ``retrying`` counts those of ``waiting`` and ``later`` that wait for another
    attempt, and ``most_attempts`` is how many of one of them have failed. ``lost``
    counts the tasks that dead workers held; ``unknown`` the waiting ones that no
    living daemon knows, by name.
    """

    spool: str
    waiting: int
    later: int
    retrying: int
    most_attempts: int
    running: int
    held: int
    failed: int
    corrupt: int
    dropped: int
    lost: int
    unreadable: int
    paused: list[PauseFacts]
    room: RoomFacts
    priorities: list[PriorityFacts]
    daemons: list[dict[str, object]]
    workers: list[dict[str, object]]
    unknown: dict[str, int]
    failures: list[Failure]


@dataclass(slots=True)
class PriorityCount:
    """One priority.

    Attributes:
        retrying: Of those that wait, due or later, those that were tried before.
        oldest_us: The due time of the task that has waited longest.
    """

    waiting: int = 0
    later: int = 0
    retrying: int = 0
    running: int = 0
    held: int = 0
    failed: int = 0
    oldest_us: int | None = None
    next_us: int | None = None


@dataclass(slots=True)
class Counts:
    """A spool at one moment.

    Attributes:
        waiting: Due, and nobody has begun it.
        later: Due later.
        retrying: Those of both that wait for another attempt.
        most_attempts: How many attempts of one of those have failed.
        dropped: Files that have not been adopted yet.
        unreadable: Minute folders that may not be read, so what is in them is missing.
    """

    waiting: int = 0
    later: int = 0
    retrying: int = 0
    most_attempts: int = 0
    running: int = 0
    held: int = 0
    failed: int = 0
    corrupt: int = 0
    dropped: int = 0
    unreadable: int = 0
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
    for found in ls(spool, State.RUNNING, State.HELD, State.FAILED):
        if found.name is not None:
            each = counts.priorities.setdefault(found.name.priority, PriorityCount())
            each.running += found.state is State.RUNNING
            each.held += found.state is State.HELD
            each.failed += found.state is State.FAILED
    every = counts.priorities.values()
    counts.running = sum(each.running for each in every)
    counts.held = sum(each.held for each in every)
    counts.failed = sum(each.failed for each in every)
    counts.dropped += len(dropped(spool, "."))
    counts.corrupt = sum(1 for _ in ls(spool, State.CORRUPT))
    return counts


def tried(names: Iterable[str]) -> list[int]:
    """Return how many attempts have failed of each task of which any has.

    Args:
        names: Of files in a minute folder; those that are no task's count for nothing.
    """
    matches = map(_NATIVE.match, names)
    return [int(match[1]) for match in matches if match and match[1] != "0"]


def _count_priority(spool: SpoolDir, number: int, counts: Counts, now_us: int) -> None:
    each = counts.priorities.setdefault(number, PriorityCount())
    counts.dropped += len(dropped(spool, str(number)))
    for file in spool.minutes(number):
        start_us = minute_start_us(file) or 0
        try:
            found = spool.names(f"{number}/{file}")
        except PermissionError:
            counts.unreadable += 1
            continue
        names = [name for name in found if _NATIVE.match(name)]
        counts.dropped += len(found) - len(names)
        if start_us > now_us:
            each.later += len(names)
            if names:
                _note_next(each, min(names))
        elif start_us + MINUTE_US <= now_us:
            each.waiting += len(names)
            if names:
                _note_oldest(each, min(names))
        else:
            _count_current(each, names, now_us)
        counts.waiting_names.update(name.split(".", 4)[-1] for name in names)
        attempts = tried(names)
        each.retrying += len(attempts)
        counts.most_attempts = max([counts.most_attempts, *attempts])
    counts.waiting += each.waiting
    counts.later += each.later
    counts.retrying += each.retrying


def _count_current(each: PriorityCount, names: list[str], now_us: int) -> None:
    now = f"{now_us:016d}"
    due = [name for name in names if name[:16] <= now]
    later = [name for name in names if name[:16] > now]
    each.waiting += len(due)
    each.later += len(later)
    if due:
        _note_oldest(each, min(due))
    if later:
        _note_next(each, min(later))


def _note_oldest(each: PriorityCount, name: str) -> None:
    if name[:16].isdecimal():
        each.oldest_us = min(each.oldest_us or MAX_DUE_US, int(name[:16]))


def _note_next(each: PriorityCount, name: str) -> None:
    if name[:16].isdecimal():
        each.next_us = min(each.next_us or MAX_DUE_US, int(name[:16]))


def living(spool: SpoolDir) -> list[dict[str, object]]:
    """Return what the daemons and workers say of themselves that are alive.

    Raises:
        OSError: From the file system.
    """
    found = []
    for name in processes(spool):
        facts = read_json(spool, f"workers/{name}.json")
        with suppress(OSError):  # another user's: no more can be said of it
            if facts and is_alive(spool, name):
                found.append({"name": name, **facts})
    return found


def unknown_to(
    processes: Iterable[Mapping[str, object]], names: Iterable[str]
) -> list[str]:
    """Return the tasks of which no daemon has the function; none without a daemon.

    Args:
        processes: From ``living``.
    """
    daemons = [each for each in processes if each.get("kind") == "daemon"]
    known: set[object] = set()
    for each in daemons:
        tasks = each.get("tasks")
        if isinstance(tasks, list):  # else the file was damaged
            known.update(task for task in tasks if isinstance(task, str))
    if not daemons or "*" in known:
        return []
    return [name for name in names if name not in known]


def last_failures(spool: SpoolDir, limit: int) -> list[tuple[Found, dict[str, object]]]:
    """Return the tasks that failed last, and why, newest first.

    Only their reports are read, however many have failed.

    Raises:
        OSError: From the file system.
    """
    return [(each, why(spool, each)) for each in newest_failed(spool, limit)]


def overview(spool: SpoolDir, failures: int, clock: Clock = CLOCK) -> Overview:
    """Return all that a glance at a spool should show.

    No task file is opened.

    Args:
        failures: How many of the last failures.

    Raises:
        OSError: From the file system.
    """
    counts = count(spool, clock)
    processes = living(spool)
    daemons = [each for each in processes if each.get("kind") == "daemon"]
    workers = [each for each in processes if each.get("kind") != "daemon"]
    held = _held(spool)
    for worker in workers:
        worker["running"] = held.pop(str(worker["name"]), [])
    names = counts.waiting_names
    unknown = {each: names[each] for each in unknown_to(processes, names)}
    return {
        "spool": spool.path,
        "waiting": counts.waiting,
        "later": counts.later,
        "retrying": counts.retrying,
        "most_attempts": counts.most_attempts,
        "running": counts.running,
        "held": counts.held,
        "failed": counts.failed,
        "corrupt": counts.corrupt,
        "dropped": counts.dropped,
        "lost": sum(map(len, held.values())),
        "unreadable": counts.unreadable,
        "paused": _paused(spool, clock),
        "room": _room(spool, counts),
        "priorities": [
            {
                "priority": number,
                "waiting": each.waiting,
                "oldest": None if each.oldest_us is None else iso(each.oldest_us),
                "later": each.later,
                "next": None if each.next_us is None else iso(each.next_us),
                "retrying": each.retrying,
                "running": each.running,
                "held": each.held,
                "failed": each.failed,
            }
            for number, each in sorted(counts.priorities.items())
            if each.waiting or each.later or each.running or each.held or each.failed
        ],
        "daemons": daemons,
        "workers": workers,
        "unknown": unknown,
        "failures": [_failure(*each) for each in last_failures(spool, failures)],
    }


def _held(spool: SpoolDir) -> dict[str, list[Run]]:
    held: dict[str, list[Run]] = {}
    for found in ls(spool, State.RUNNING):
        if found.name is None:
            continue
        with suppress(NotFoundError):  # it has just ended
            since_us = stat(spool, found).st_ctime_ns // 1000
            worker = found.path.split("/")[1]
            said = progress_of(spool, found.name)
            held.setdefault(worker, []).append(
                {
                    "id": found.id,
                    "task": found.name.task,
                    "since": iso(since_us),
                    "progress": None if said is None else msgspec.to_builtins(said),
                }
            )
    return held


def _paused(spool: SpoolDir, clock: Clock) -> list[PauseFacts]:
    now_us = clock.now_us()
    return [
        {
            "what": each.what,
            "priority": each.priority,
            "task": each.task,
            "until": None if each.until_us is None else iso(each.until_us),
            "problem": each.problem,
        }
        for each in read_pauses(spool)
        if not each.is_over(now_us)
    ]


def _room(spool: SpoolDir, counts: Counts) -> RoomFacts:
    limits, problem = NO_LIMITS, None
    try:
        limits = read_limits(spool)
    except ValueError as error:
        problem = str(error)
    waiting = counts.waiting + counts.later + counts.dropped
    free, inodes = free_space(spool)
    full = [each.what for each in problems(spool, limits, waiting)]
    near = [each.what for each in problems(spool, limits, waiting, NEAR)]
    return {
        "max_waiting": limits.max_waiting,
        "waiting": waiting,
        "min_free": limits.min_free,
        "free": free,
        "min_free_inodes": limits.min_free_inodes,
        "free_inodes": inodes,
        "full": full,
        "near": [what for what in near if what not in full],
        "problem": problem,
    }


def _failure(found: Found, report: Mapping[str, object]) -> Failure:
    return {
        "id": found.id,
        "task": "" if found.name is None else found.name.task,
        "failed": str(report.get("failed", "")),
        "reason": str(report.get("reason", "")),
        "error": str(report.get("error", "")),
    }
