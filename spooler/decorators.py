"""Make functions into tasks, and put tasks: ``@spool`` and its like.

Importing this loads the standard library and msgspec, nothing else.
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import (
    Any,
    Final,
    Generic,
    ParamSpec,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from .arguments import Arguments, BodyKind
from .errors import ArgumentsError, UsageError
from .putting import (
    At,
    Durability,
    Handle,
    PutOptions,
    check_durability,
    check_priority,
    default_path,
    put,
)
from .registry import REGISTRY, Entry, Kind
from .retry import RetryOptions
from .schedule import CronLine, Schedule, from_uwsgi, interval
from .spooldir.body import Body
from .task import check_task_name

P = ParamSpec("P")
R = TypeVar("R")

_MAGIC: Final = ("at", "priority", "body", "spooler")


class TaskOptions(TypedDict, total=False):
    """What a decorator takes: see ``retry`` for the second group.

    Attributes:
        name: The task's name; the function's if absent.
        hard_timeout: Seconds a run may take before its worker is killed.
    """

    name: str | None
    priority: int | None
    durability: Durability | None
    hard_timeout: float | timedelta | None

    retries: int | None
    max_attempts: int | None
    backoff: float | timedelta | None
    backoff_max: float | timedelta | None
    jitter: float | None


class ForeverOptions(TaskOptions, total=False):
    """What ``spoolforever`` takes besides: seconds between two runs."""

    pause: float | timedelta


class Spooler:
    """A spool to put tasks into and to register functions with.

    Args:
        dir: Its directory; None takes ``$SPOOL_DIR``, else ``./spool``, at each put.
        durability: For what is put here, unless the put says otherwise.
    """

    def __init__(
        self,
        dir: str | os.PathLike[str] | None = None,
        *,
        durability: Durability = "safe",
    ) -> None:
        self._dir = None if dir is None else os.path.abspath(os.fspath(dir))
        self.durability: Durability = check_durability(durability)

    def __repr__(self) -> str:
        return f"Spooler({self._dir!r})"

    @property
    def dir(self) -> str | None:
        """The directory it was made with, absolute; None for the default one."""
        return self._dir

    @property
    def path(self) -> str:
        """The spool's path at this moment."""
        return default_path() if self._dir is None else self._dir

    def put(
        self,
        task: str,
        args: Mapping[str, object] | None = None,
        *,
        at: At | None = None,
        priority: int | None = None,
        body: Body | None = None,
        durability: Durability | None = None,
        id: str | None = None,
        traceparent: str | None = None,
    ) -> Handle:
        """Put a task by name, whose function need not be known here.

        The arguments are not checked before the task runs.

        Raises:
            UsageError: Something that was given cannot be.
            SpoolUncertain: The last sync failed: the task may run.
            OSError: From the file system; there is no task then.
        """
        if args is not None and not isinstance(args, Mapping):
            raise UsageError(f"the arguments of {task} are a dict, not {args!r:.80}")
        try:
            raw = _ANYTHING.encode((), args or {})
        except ArgumentsError as error:
            raise ArgumentsError(task, "", error.problem) from None
        durability = durability or self.durability
        options = PutOptions(at, priority, body, self._dir, durability, id, traceparent)
        return put(check_task_name(task), raw, options)

    # -- decorators -------------------------------------------------------------

    @overload
    def spool(self, function: Callable[P, R], /) -> "Task[P, R]": ...
    @overload
    def spool(
        self, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[P, R]], "Task[P, R]"]: ...
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
    def spoolraw(self, function: Callable[P, R], /) -> "Task[P, R]": ...
    @overload
    def spoolraw(
        self, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[P, R]], "Task[P, R]"]: ...
    def spoolraw(self, *function: Any, **options: Any) -> Any:
        """Register a function that returns ``OK``, ``RETRY`` or ``IGNORE``.

        ``IGNORE`` leaves the task to another daemon that may know it better. All
        else that it returns counts as ``RETRY``. Options as for ``spool``.
        """
        return self._decorate(Kind.RAW, function, options)

    @overload
    def spoolforever(self, function: Callable[P, R], /) -> "Task[P, R]": ...
    @overload
    def spoolforever(
        self, **options: Unpack[ForeverOptions]
    ) -> Callable[[Callable[P, R]], "Task[P, R]"]: ...
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
    ) -> Callable[[Callable[P, R]], "Task[P, R]"]:
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
    ) -> Callable[[Callable[P, R]], "Task[P, R]"]: ...
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
    ) -> Callable[[Callable[P, R]], "Task[P, R]"]: ...
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
    ) -> Callable[[Callable[P, R]], "Task[P, R]"]:
        if options.get("retries") is None and options.get("max_attempts") is None:
            options["retries"] = 0

        def decorate(function: Callable[P, R]) -> Task[P, R]:
            _check_timer(function)
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
    ) -> "Task[P, R]":
        given = dict(options)
        name = given.pop("name", None) or getattr(function, "__name__", "")
        check_task_name(name)
        _check_runs(function, name)
        durability = given.pop("durability", None) or self.durability
        entry = Entry(
            name=name,
            function=function,
            kind=kind,
            arguments=Arguments(function, name),
            spool=self._dir,
            priority=check_priority(given.pop("priority", None)),
            hard_timeout=_seconds("hard_timeout", given.pop("hard_timeout", None)),
            pause=_seconds("pause", given.pop("pause", None)) or 0.0,
            schedule=schedule,
            overlap=overlap,
            retry=_retry_options(given),
        )
        REGISTRY.add(entry)
        put_options = PutOptions(
            priority=entry.priority,
            spool=self._dir,
            durability=check_durability(durability),
        )
        return Task(entry, function, put_options)


def _retry_options(given: dict[str, Any]) -> RetryOptions:
    known = ("retries", "max_attempts", "backoff", "backoff_max", "jitter")
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UsageError(f"there is no option {unknown[0]!r} for a task")
    for name in ("backoff", "backoff_max"):
        if name in given:
            given[name] = _seconds(name, given[name])
    return RetryOptions(**given)


def _seconds(name: str, value: float | timedelta | None) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"{name}={value!r} cannot be: it takes seconds, 0 or more")
    return float(seconds)


def _check_runs(function: Callable[..., object], name: str) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"task {name} is a generator: calling it would run nothing")


def _check_timer(function: Callable[..., object]) -> None:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            raise UsageError(
                f"timer {getattr(function, '__name__', function)}: its parameter"
                f" {parameter.name!r} needs a default, since nobody gives it a value"
            )


class Task(Generic[P, R]):
    """A function that is a task: call it here, or put it with ``spool``.

    Attributes:
        name: The name under which it is registered.
    """

    def __init__(
        self, entry: Entry, function: Callable[P, R], options: PutOptions
    ) -> None:
        functools.update_wrapper(self, function)
        self.name = entry.name
        self._entry = entry
        self._function = function
        self._options = options
        parameters = inspect.signature(function).parameters
        self._magic = tuple(
            key for key in _MAGIC if key == "body" or key not in parameters
        )

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now."""
        return self._function(*args, **kwargs)

    def spool(self, *args: P.args, **kwargs: P.kwargs) -> Handle:
        """Put a task that calls the function with these arguments.

        They are checked against its type hints now, and again when it runs. At
        run time the magic keys ``at``, ``priority``, ``body`` and ``spooler`` may
        stand among them, where the function has no parameter of that name; for a
        type checker give them to ``using``. A parameter ``body`` takes bytes, a
        path or a binary file, and its content travels beside the arguments.

        Raises:
            ArgumentsError: They do not fit the function.
            UsageError: Something else that was given cannot be.
            SpoolUncertain: The last sync failed: the task may run.
            OSError: From the file system; there is no task then.
        """
        return self._put(self._options, args, kwargs)

    def using(
        self,
        *,
        at: At | None = None,
        priority: int | None = None,
        body: Body | None = None,
        spooler: str | os.PathLike[str] | Spooler | None = None,
        durability: Durability | None = None,
        id: str | None = None,
        traceparent: str | None = None,
    ) -> "Using[P]":
        """Return something whose ``spool`` puts the task so.

        Args:
            at: When it is due; None for at once.
            priority: A whole number; smaller is more urgent.
            body: Bytes, a path or a binary file of any size.
            spooler: Which spool.
            durability: ``safe`` or ``fast``.
            id: 16 hex digits, to choose the task's id.
            traceparent: W3C trace context.
        """
        options = _overlay(
            self._options,
            at=at,
            priority=priority,
            body=body,
            spooler=spooler,
            durability=durability,
            id=id,
            traceparent=traceparent,
        )
        return Using(self._put, options)

    def _put(
        self, options: PutOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Handle:
        magic = {key: kwargs.pop(key) for key in self._magic if key in kwargs}
        if magic:
            options = _overlay(options, **magic)
        arguments = self._entry.arguments
        takes_body = arguments.wants_dict or arguments.body is not BodyKind.NONE
        if options.body is not None and not takes_body:
            problem = "it has no parameter 'body' to take the body"
            raise ArgumentsError(self.name, arguments.signature, problem)
        if options.body is None and not arguments.body_is_optional:
            problem = "missing argument 'body', by name"
            raise ArgumentsError(self.name, arguments.signature, problem)
        return put(self.name, arguments.encode(args, kwargs), options)


class Using(Generic[P]):
    """A task with options for its next puts: see ``Task.using``."""

    def __init__(
        self,
        put: Callable[[PutOptions, tuple[Any, ...], dict[str, Any]], Handle],
        options: PutOptions,
    ) -> None:
        self._put = put
        self._options = options

    def spool(self, *args: P.args, **kwargs: P.kwargs) -> Handle:
        """Put the task, as ``Task.spool`` does."""
        return self._put(self._options, args, kwargs)


def _anything(**args: Any) -> None:
    """Stand for a function that is not known here."""


_ANYTHING: Final = Arguments(_anything, "")


def _overlay(base: PutOptions, **given: Any) -> PutOptions:
    spooler = given.pop("spooler", None)
    if isinstance(spooler, Spooler):
        given["spool"] = spooler.path
        given["durability"] = given.get("durability") or spooler.durability
    elif spooler is not None:
        given["spool"] = os.fspath(spooler)
    return replace(base, **{key: v for key, v in given.items() if v is not None})


DEFAULT: Final = Spooler()
"""The spool of tasks that name none."""

spool = DEFAULT.spool
spoolraw = DEFAULT.spoolraw
spoolforever = DEFAULT.spoolforever
timer = DEFAULT.timer
cron = DEFAULT.cron
