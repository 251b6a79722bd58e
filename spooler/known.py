"""What a daemon and its template tell each other of the user's code."""

import msgspec

from .config import Application
from .options import Follower
from .registry import Entry
from .retry import RetryOptions, RetryPolicy
from .schedule import CronLine, Interval


class Known(msgspec.Struct, frozen=True):
    """What a daemon must know of a registered function, without its code.

    Attributes:
        limits: The hashes of those limits that are the same for all its tasks.
        is_async: It is an ``async def`` function.
        watches: The file or folder whose change has it put, absolute.
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
    watches: str | None = None


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
        entry.watches,
    )


class Uwsgi(msgspec.Struct, frozen=True):
    """What an application for uWSGI finds.

    Attributes:
        dirs: The spools.
        files: Its tasks are put as uWSGI's own files.
        frequency: Seconds until a task runs again that has asked for it.
        retry: How often a task runs and how long it waits in between.
        application: What its configuration says.
    """

    dirs: tuple[str, ...]
    files: bool
    frequency: float
    retry: RetryPolicy
    application: Application | None = None


class Start(msgspec.Struct, frozen=True):
    """What the template is told first.

    Attributes:
        reload: The daemon wants to know of the files that were imported.
        uwsgi: What applications for uWSGI find; None if there are none.
    """

    modules: list[str]
    parent: int
    log_level: str = "info"
    log_json: bool = False
    reload: bool = False
    uwsgi: Uwsgi | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """What goes into Python's path before the current directory."""
        application = self.uwsgi.application if self.uwsgi is not None else None
        return application.paths if application is not None else ()

    @property
    def calls(self) -> dict[str, str]:
        """By module: the function that is called when it was imported."""
        application = None if self.uwsgi is None else self.uwsgi.application
        return {} if application is None else dict(application.calls)
