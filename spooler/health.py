"""Whether work makes progress: what ``spool health`` answers.

Cheap enough to be asked every few seconds: it lists the oldest folder with a due task,
and ``running/``, ``failed/`` and ``corrupt/``; and all that waits only where it is to
count what is tried again and again. It opens no task.
"""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypedDict

from .clock import CLOCK, Clock
from .logs import escape
from .spooldir import SpoolDir, pauses
from .spooldir.repair import dropped
from .spooldir.uwsgi_files import is_uwsgi_name
from .status import count, living, tried, unknown_to
from .task import Name, iso, minute_start_us

BEHIND_US: Final = 60_000_000
"""A task that was put, or kicked, so long after the moment in its name has not waited
since then: the others of its folder are looked at, too."""

LOOKED_AT: Final = 1000
"""How many tasks of a folder are looked at, at most."""


_SEE_STATUS: Final = "see `spool status`"
_UNKNOWN: Final = "no daemon has a function of that name, see spoold --import"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What still counts as healthy.

    Attributes:
        max_age: Seconds for which a due task may have waited, or a dropped file.
        max_idle: Seconds for which nothing may have been claimed or finished while a
            task is due and a worker is free.
        max_failed: How many tasks may have failed; None for any number.
        max_corrupt: How many files may be corrupt; None for any number.
        max_retrying: How many tasks may wait for another attempt; None for any number.
        min_attempts: Only those count of which so many attempts have failed.
        max_unknown: How many tasks may wait whose function no daemon has; None for any
            number.
    """

    max_age: float = 300.0
    max_idle: float = 60.0
    max_failed: int | None = 0
    max_corrupt: int | None = 0
    max_retrying: int | None = None
    min_attempts: int = 1
    max_unknown: int | None = None


class Health(TypedDict):
    """What ``spool health --json`` prints (docs/reference/spool.md).

    ``retrying`` and ``unknown`` are None if there is no limit for them: then nobody has
    counted.
    """

    spool: str
    healthy: bool
    problems: list[str]
    daemons: int
    workers: int
    running: int
    oldest: str | None
    moved: str | None
    failed: int
    corrupt: int
    retrying: int | None
    unknown: int | None


@dataclass(frozen=True, slots=True)
class _Waits:
    """The task that has waited longest.

    Attributes:
        since_us: Since when it could have run.
    """

    name: Name
    since_us: int


def health(spool: SpoolDir, bounds: Bounds, clock: Clock = CLOCK) -> Health:
    """Look whether work makes progress.

    Raises:
        OSError: From the file system.
    """
    now_us = clock.now_us()
    processes = living(spool)
    kinds = [each.get("kind") for each in processes]
    workers = spool.names("running")
    held = {worker: len(spool.names(f"running/{worker}")) for worker in workers}
    oldest = _oldest(spool, now_us)
    moved_us = _moved_us(spool, workers)
    failed = sum(not name.endswith(".why") for name in spool.names("failed"))
    corrupt = sum(not name.endswith(".why") for name in spool.names("corrupt"))
    problems = []
    if "daemon" not in kinds:
        problems.append("no daemon serves it: start spoold")
    if oldest is not None:
        is_known = not unknown_to(processes, [oldest.name.task])
        hint = _SEE_STATUS if is_known else _UNKNOWN
        problems += _late(oldest, moved_us, held, bounds, now_us, hint)
    problems += _not_adopted(spool, bounds, now_us)
    retrying = unknown = None
    if bounds.max_retrying is not None:
        retrying = sum(n >= bounds.min_attempts for n in tried(_waiting(spool)))
        problems += _tried_too_often(retrying, bounds)
    if bounds.max_unknown is not None:
        names = count(spool, clock).waiting_names
        unknown = sum(names[each] for each in unknown_to(processes, names))
        problems += _too_many_unknown(unknown, bounds.max_unknown)
    for number, most, word in (
        (failed, bounds.max_failed, "failed"),
        (corrupt, bounds.max_corrupt, "corrupt"),
    ):
        if most is not None and number > most:
            more = f", more than {most}" if most else ""
            problems.append(f"{number} {word}{more}: see `spool ls {word}`")
    return {
        "spool": spool.path,
        "healthy": not problems,
        "problems": problems,
        "daemons": kinds.count("daemon"),
        "workers": kinds.count("worker"),
        "running": sum(held.values()),
        "oldest": None if oldest is None else iso(oldest.since_us),
        "moved": None if moved_us is None else iso(moved_us),
        "failed": failed,
        "corrupt": corrupt,
        "retrying": retrying,
        "unknown": unknown,
    }


def _late(
    oldest: _Waits,
    moved_us: int | None,
    held: dict[str, int],
    bounds: Bounds,
    now_us: int,
    hint: str,
) -> Iterator[str]:
    waited = (now_us - oldest.since_us) / 1e6
    what = f"task {oldest.name.id} ({escape(oldest.name.task)})"
    if waited > bounds.max_age:
        yield f"{what} has been due for {waited:.0f} s, and was not begun: {hint}"
    is_free = not held or not all(held.values())
    still = (now_us - max(moved_us or 0, oldest.since_us)) / 1e6
    if is_free and still > bounds.max_idle:
        yield f"nothing was begun or finished for {still:.0f} s, though {what} is due"


def _waiting(spool: SpoolDir) -> Iterator[str]:
    """Yield the names of all files in minute folders, due or not."""
    for number in spool.priorities():
        for minute in spool.minutes(number):
            with suppress(PermissionError):
                yield from spool.names(f"{number}/{minute}")


def _tried_too_often(retrying: int, bounds: Bounds) -> Iterator[str]:
    most, attempts = bounds.max_retrying or 0, bounds.min_attempts
    if retrying > most:
        more = f", more than {most}" if most else ""
        after = f" after {attempts} attempts or more" if attempts > 1 else ""
        option = f" --min-attempts {attempts}" if attempts > 1 else ""
        yield f"{retrying} retrying{after}{more}: see `spool ls retrying{option}`"


def _too_many_unknown(unknown: int, most: int) -> Iterator[str]:
    if unknown > most:
        more = f", more than {most}" if most else ""
        waits, its = ("waits", "its") if unknown == 1 else ("wait", "their")
        yield (
            f"{unknown} {waits}{more}, and no daemon has a function of {its} name:"
            " see `spool status`"
        )


def _not_adopted(spool: SpoolDir, bounds: Bounds, now_us: int) -> Iterator[str]:
    """Tell of dropped files that nobody has taken."""
    count = 0
    for folder in (".", *map(str, spool.priorities())):
        for file in dropped(spool, folder):
            status = spool.status(f"{folder}/{file}")
            if status is None:
                continue
            since_ns = status.st_ctime_ns
            if is_uwsgi_name(file):  # which may have been left until it is due
                since_ns = max(since_ns, status.st_mtime_ns)
            count += now_us - since_ns // 1000 > bounds.max_age * 1e6
    if count:
        text = "dropped more than {:g} s ago and not adopted: see the daemon's log"
        yield f"{count} {text.format(bounds.max_age)}"


def _moved_us(spool: SpoolDir, workers: list[str]) -> int | None:
    """Return when a task was last claimed or finished by a worker that is here."""
    found = [spool.status(f"running/{worker}") for worker in workers]
    return max((each.st_mtime_ns // 1000 for each in found if each), default=None)


def _oldest(spool: SpoolDir, now_us: int) -> _Waits | None:
    """Return the due task that has waited longest, of those that are not paused."""
    read = pauses.read(spool)
    paused = pauses.together(each for each in read if not each.is_over(now_us))
    if paused.everything:
        return None
    found = []
    for number in spool.priorities():
        if number in paused.priorities:
            continue
        for minute in spool.minutes(number):
            if (minute_start_us(minute) or 0) > now_us:
                break
            first = _oldest_in(spool, f"{number}/{minute}", paused.tasks, now_us)
            if first is not None:
                found.append(first)
                break
    return min(found, default=None, key=lambda each: each.since_us)


def _oldest_in(
    spool: SpoolDir, folder: str, paused: Collection[str], now_us: int
) -> _Waits | None:
    found: list[_Waits] = []
    with suppress(PermissionError):
        for file in sorted(spool.names(folder)):
            name = Name.parse(file)
            if name is None or name.task in paused:
                continue
            if name.due_us > now_us or len(found) >= LOOKED_AT:
                break
            status = spool.status(f"{folder}/{file}")
            if status is None:  # somebody has claimed it just now
                continue
            since_us = max(name.due_us, status.st_ctime_ns // 1000)
            found.append(_Waits(name, since_us))
            if since_us - name.due_us < BEHIND_US:
                break
    return min(found, default=None, key=lambda each: each.since_us)
