"""Make functions into tasks, and put tasks: ``@spool`` and its like.

Importing this loads the standard library and msgspec, nothing else.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import (
    Any,
    Final,
    Unpack,
    overload,
)

from .arguments import Arguments
from .entries import make_entry
from .errors import ArgumentsError, UsageError
from .handle import Handle
from .many import Batch, put_calls
from .putting import (
    At,
    Call,
    Durability,
    PutOptions,
    check_durability,
    default_path,
    find_spool,
)
from .registry import REGISTRY, Kind
from .schedule import CronLine, Schedule, from_uwsgi, interval
from .task import check_task_name, is_id
from .tasks import (
    ForeverOptions,
    P,
    R,
    Task,
    TaskOptions,
    UsingKeywords,
    followers,
    overlay,
)


class Spooler:
    """A spool to put tasks into and to register functions with.

    Args:
        dir: Its directory; None takes ``$SPOOL_DIR``, else ``./spool``, at each put.
            Or the address of the socket behind which it is.
        durability: For what is put here, unless the put says otherwise.
    """

    def __init__(
        self,
        dir: str | os.PathLike[str] | None = None,
        *,
        durability: Durability = "safe",
    ) -> None:
        self._dir, self._remote = (None, None) if dir is None else find_spool(dir)
        self.durability: Durability = check_durability(durability)

    def __repr__(self) -> str:
        return f"Spooler({self._remote or self._dir!r})"

    def __fspath__(self) -> str:
        return self.path

    @property
    def dir(self) -> str | None:
        """The directory it was made with, absolute; None for the default one.

        None, too, for the address of a socket.
        """
        return self._dir

    @property
    def path(self) -> str:
        """The spool's path at this moment, or the address of its socket."""
        return self._remote or self._dir or default_path()

    def put(
        self,
        task: str,
        args: Mapping[str, object] | None = None,
        **options: Unpack[UsingKeywords],
    ) -> Handle:
        """Put a task by name, whose function need not be known here.

        The arguments are not checked before the task runs. Options as for
        ``Task.using``.

        Raises:
            UsageError: Something that was given cannot be.
            SpoolUncertain: The last sync failed: the task may run.
            OSError: From the file system; there is no task then.
        """
        return self.call(task, args, **options).spool()

    def call(
        self,
        task: str,
        args: Mapping[str, object] | None = None,
        **options: Unpack[UsingKeywords],
    ) -> Call:
        """Return a task by name that could be put: see ``Task.call``.

        Raises:
            UsageError: Something that was given cannot be.
        """
        if args is not None and not isinstance(args, Mapping):
            raise UsageError(f"the arguments of {task} are a dict, not {args!r:.80}")
        try:
            raw = _ANYTHING.encode((), args or {})
        except ArgumentsError as error:
            raise ArgumentsError(task, "", error.problem) from None
        return Call(check_task_name(task), raw, overlay(self._base(), **options))

    def spool_many(
        self,
        calls: Iterable[Call],
        *,
        at: At | None = None,
        priority: int | None = None,
        durability: Durability | None = None,
        id: str | None = None,
    ) -> Batch:
        """Put many tasks in one file: all of them, or none.

        Args:
            calls: From ``Task.call`` and ``Spooler.call``, for this spool, without
                ``key`` and ``id``. Their durability does not count here.
            at: When all are due; a call's own ``at`` may be later.
            priority: Of all of them; None takes that which the calls have.
            durability: Of all of them.
            id: The batch's, 16 hex digits.

        Returns:
            The batch: a sequence of handles. Without calls nothing is put.

        Raises:
            UsageError: A call cannot be among them, and is named by its number; or
                something else that was given cannot be.
            SpoolUncertain: The last sync failed: they may run.
            OSError: From the file system; there is no task then.
        """
        given = {"at": at, "priority": priority, "durability": durability, "id": id}
        return put_calls(calls, overlay(self._base(), **given))

    def _base(self) -> PutOptions:
        return PutOptions(
            spool=self._dir, durability=self.durability, remote=self._remote
        )

    def handle(self, task_id: str) -> Handle:
        """Return a handle on a task of which only the id is known. Looks at nothing.

        Raises:
            UsageError: It is not 16 hex digits, lower case.
        """
        if not is_id(task_id):
            raise UsageError(
                f"id={task_id!r:.80} cannot be: it is 16 hex digits, lower case"
            )
        if self._remote is None:
            return Handle(task_id, "", self.path, None)
        from .remote import RemoteHandle  # noqa: PLC0415 (few need it)

        return RemoteHandle(task_id, "", self._remote, None)

    # -- decorators -------------------------------------------------------------

    @overload
    def spool(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def spool(
        self, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def spool(self, *function: Any, **options: Any) -> Any:
        """Register a function as a task: returning is success, an exception a retry.

        Args:
            *function: The function, where the decorator is used without arguments.
            **options: ``name`` (else the function's), ``retries`` or
                ``max_attempts``, ``backoff``, ``backoff_max``, ``jitter`` (see
                ``retry``), ``priority``, ``durability``, ``hard_timeout``.

        Raises:
            UsageError: The function or an option cannot be.
        """
        return self._decorate(Kind.TASK, function, options)

    @overload
    def spoolraw(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def spoolraw(
        self, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def spoolraw(self, *function: Any, **options: Any) -> Any:
        """Register a function that returns ``OK``, ``RETRY`` or ``IGNORE``.

        ``IGNORE`` leaves the task to another daemon that may know it better. All
        else that it returns counts as ``RETRY``. Options as for ``spool``.
        """
        return self._decorate(Kind.RAW, function, options)

    @overload
    def spoolforever(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def spoolforever(
        self, **options: Unpack[ForeverOptions]
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def spoolforever(self, *function: Any, **options: Any) -> Any:
        """Register a function that runs again after each return.

        Options as for ``spool``, and ``pause``: seconds between a return and the
        next run. Without ``retries`` or ``max_attempts`` it is never given up.
        """
        return self._decorate(Kind.FOREVER, function, options)

    def timer(
        self,
        every: float | timedelta,
        /,
        *,
        overlap: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Callable[[Callable[P, R]], Task[P, R]]:
        """Have the daemon run a function at regular intervals.

        The moments are the multiples of the interval since the epoch, so that
        restarts do not shift them. One that was missed is caught up once.

        Args:
            every: Seconds, at least 0.1, or a timedelta.
            overlap: Run again although the last run has not finished.
            **options: As for ``spool``; a failed run is not tried again unless
                ``retries`` or ``max_attempts`` says so: the next one is near.

        Raises:
            UsageError: The interval, the function or an option cannot be.
        """
        if callable(every):
            raise UsageError("timer needs an interval: @timer(30)")
        return self._scheduled(interval(every), overlap, dict(options))

    @overload
    def cron(
        self,
        line: str,
        /,
        *,
        tz: str = "UTC",
        overlap: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    @overload
    def cron(
        self,
        minute: int,
        hour: int,
        day: int,
        month: int,
        weekday: int,
        /,
        *,
        tz: str = "UTC",
        overlap: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def cron(
        self,
        *line: Any,
        tz: str = "UTC",
        overlap: bool = False,
        **options: Any,
    ) -> Any:
        """Have the daemon run a function at the moments of a cron line.

        Args:
            *line: ``"*/5 * * * *"``, or uWSGI's five numbers: minute, hour, day,
                month, weekday; -1 is each, -5 is every fifth.
            tz: The time zone, as ``Europe/Paris``.
            overlap: As for ``timer``.
            **options: As for ``timer``.

        Raises:
            UsageError: The line, the function or an option cannot be.
        """
        if len(line) == 1 and isinstance(line[0], str):
            return self._scheduled(CronLine(line[0], tz), overlap, options)
        if len(line) == 5 and all(isinstance(part, int) for part in line):
            return self._scheduled(from_uwsgi(*line, tz=tz), overlap, options)
        raise UsageError(
            'cron needs a line or five numbers: @cron("*/5 * * * *"),'
            " @cron(-5, -1, -1, -1, -1)"
        )

    def _scheduled(
        self, schedule: Schedule, overlap: bool, options: dict[str, Any]
    ) -> Callable[[Callable[P, R]], Task[P, R]]:
        if options.get("retries") is None and options.get("max_attempts") is None:
            options["retries"] = 0
        if self._remote is not None:
            raise UsageError(f"a timer is for a spool, not for {self._remote}")

        def decorate(function: Callable[P, R]) -> Task[P, R]:
            return self._task(
                Kind.TASK, function, options, schedule=schedule, overlap=overlap
            )

        return decorate

    def _decorate(
        self,
        kind: Kind,
        function: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        if kind is Kind.FOREVER:
            options.setdefault("pause", 1.0)
            if options.get("retries") is None and options.get("max_attempts") is None:
                options["max_attempts"] = 0
        if not function:
            return lambda function: self._task(kind, function, options)
        if len(function) != 1 or not callable(function[0]):
            raise UsageError(f"one function is needed here, not {function!r:.80}")
        return self._task(kind, function[0], options)

    def _task(
        self,
        kind: Kind,
        function: Callable[P, R],
        options: dict[str, Any],
        *,
        schedule: Schedule | None = None,
        overlap: bool = False,
    ) -> Task[P, R]:
        given = dict(options)
        durability = given.pop("durability", None) or self.durability
        for name in ("then", "on_failure"):
            given[name] = followers(given.get(name), self._dir)
        entry = make_entry(
            kind, function, given, spool=self._dir, schedule=schedule, overlap=overlap
        )
        REGISTRY.add(entry)
        put_options = PutOptions(
            priority=entry.priority,
            spool=self._dir,
            durability=check_durability(durability),
            keeps=entry.run.keep_result is not None,
            remote=self._remote,
        )
        return Task(entry, function, put_options)


def _anything(**args: Any) -> None:
    """Stand for a function that is not known here."""


_ANYTHING: Final = Arguments(_anything, "")


DEFAULT: Final = Spooler()
"""The spool of tasks that name none."""

spool = DEFAULT.spool
spoolraw = DEFAULT.spoolraw
spoolforever = DEFAULT.spoolforever
spool_many = DEFAULT.spool_many
timer = DEFAULT.timer
cron = DEFAULT.cron
