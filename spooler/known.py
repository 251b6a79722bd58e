"""What a daemon and its template tell each other of the user's code."""

import msgspec

from .options import Follower
from .registry import Entry
from .retry import RetryOptions
from .schedule import CronLine, Interval


class Known(msgspec.Struct, frozen=True):
    """What a daemon must know of a registered function, without its code.

    Attributes:
        limits: The hashes of those limits that are the same for all its tasks.
        is_async: It is an ``async def`` function.
    """

    name: str
    retry: RetryOptions
    spool: str | None
    priority: int | None
    interval: Interval | None
    cron: CronLine | None
    overlap: bool
    on_failure: tuple[Follower, ...] | None = None
    limits: tuple[str, ...] = ()
    is_async: bool = False


def known_of(entry: Entry) -> Known:
    """Return what a daemon must know of a function."""
    schedule = entry.schedule
    return Known(
        entry.name,
        entry.retry,
        entry.spool,
        entry.priority,
        schedule if isinstance(schedule, Interval) else None,
        schedule if isinstance(schedule, CronLine) else None,
        entry.overlap,
        entry.run.on_failure,
        entry.limits.shared(entry.name) if entry.limits is not None else (),
        entry.is_async,
    )


class Start(msgspec.Struct, frozen=True):
    """What the template is told first.

    Attributes:
        reload: The daemon wants to know of the files that were imported.
    """

    modules: list[str]
    parent: int
    log_level: str = "info"
    log_json: bool = False
    reload: bool = False
