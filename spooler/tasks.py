"""A function that is a task: what its decorator makes of it.

Importing this loads the standard library and msgspec, nothing else.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, ParamSpec, TypedDict, TypeVar, Unpack

from msgspec.structs import replace

from .arguments import BodyKind
from .errors import ArgumentsError, UsageError
from .filling import fill
from .handle import Handle
from .lines import frame
from .many import Batch, put_rows
from .moments import Duration
from .options import Follower, IfExists, over, run_options
from .putting import (
    At,
    Call,
    Durability,
    Prepared,
    PutOptions,
    can_be_prepared,
    expires_for_file,
    find_spool,
)
from .registry import Entry
from .spooldir.body import Body
from .task import check_task_name

P = ParamSpec("P")
R = TypeVar("R")

_MAGIC: Final = frozenset({"at", "priority", "body", "spooler"})
_PLAIN_OPTIONS: Final = frozenset(
    name
    for name in PutOptions.__struct_fields__
    if name not in ("run", "keeps", "remote", "spool")
)


class RunKeywords(TypedDict, total=False):
    """What may be said of a run by a decorator and by a put."""

    soft_timeout: Duration | None
    hard_timeout: Duration | None
    expires: At | None
    keep_result: Duration | None
    keep_log: bool | None
    then: "Followers | None"
    on_failure: "Followers | None"
    key: str | None
    if_exists: IfExists | None
    unique_for: Duration | None


class PutKeywords(RunKeywords, total=False):
    """What a put takes (docs/reference/api.md, "Options of a put")."""

    at: At | None
    priority: int | None
    body: Body | None
    durability: Durability | None
    id: str | None
    traceparent: str | None


class UsingKeywords(PutKeywords, total=False):
    """What ``Task.using`` takes besides: which spool, a ``Spooler`` or a path.

    Or the address of a socket, and whether an outbox here is to keep the task.
    """

    spooler: str | os.PathLike[str] | None
    outbox: bool | None


class TaskOptions(RunKeywords, total=False):
    """What a decorator takes (docs/reference/api.md, "Options of the decorators")."""

    name: str | None
    priority: int | None
    durability: Durability | None
    concurrency: int | None
    concurrency_key: str | None
    rate: str | None
    rate_key: str | None

    retries: int | None
    max_attempts: int | None
    backoff: Duration | None
    backoff_max: Duration | None
    jitter: float | None


class ForeverOptions(TaskOptions, total=False):
    """What ``spoolforever`` takes besides: seconds between two runs."""

    pause: Duration


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
        self._magic = _MAGIC - (parameters.keys() - {"body"})
        self._takes_outbox = "outbox" in parameters

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
        prepared = self._prepared
        if prepared is None or not self._magic.isdisjoint(kwargs):
            return self._call(self._options, args, kwargs).spool()
        return prepared.put(self._entry.arguments.encode(args, kwargs))

    async def aspool(self, *args: P.args, **kwargs: P.kwargs) -> Handle:
        """Put a task as ``spool`` does, in a thread: the event loop goes on meanwhile.

        In asyncio and in trio.
        """
        return await self._call(self._options, args, kwargs).aspool()

    @functools.cached_property
    def _prepared(self) -> Prepared | None:
        return self._prepare(self._options)

    def _prepare(self, options: PutOptions) -> Prepared | None:
        """Return what puts the task with these options, if it needs no more."""
        entry = self._entry
        if (
            entry.key is not None
            or not entry.arguments.body_is_optional
            or not can_be_prepared(options)
        ):
            return None
        entry.check_run(options.run)
        return Prepared(self.name, options)

    def using(self, **options: Unpack[UsingKeywords]) -> "Using[P]":
        """Return something whose ``spool`` puts the task so.

        Args:
            **options: ``at``, when it is due; ``priority``, smaller is more urgent;
                ``body``, bytes, a path or a binary file; ``spooler``, which spool,
                or the address of a socket; ``outbox``, keep it here until somebody is
                there; ``durability``; ``id``, 16 hex digits; ``traceparent``; and those
                of the decorator that a put may change (docs/reference/api.md).

        Raises:
            UsageError: One of them cannot be.
        """
        return Using(self, overlay(self._options, **options))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """Return the task with these arguments, to be put later, or by another task.

        It is what ``then=``, ``on_failure=`` and ``spool_many`` take.

        Raises:
            ArgumentsError: They do not fit the function.
            UsageError: Something else that was given cannot be.
        """
        return self._call(self._options, args, kwargs)

    def map(
        self,
        rows: Iterable[object],
        *,
        at: At | None = None,
        priority: int | None = None,
        durability: Durability | None = None,
        id: str | None = None,
    ) -> Batch:
        """Put the task with each of many arguments, in one file: all or nothing.

        Args:
            rows: For each task a dict of its arguments (and ``at`` and ``body``, as
                for ``spool``), a tuple of its positional ones, or the only argument.
            at: When all are due.
            priority: Of all of them.
            durability: Of all of them.
            id: The batch's, 16 hex digits.

        Returns:
            The batch: a sequence of handles. Without rows nothing is put.

        Raises:
            ArgumentsError: A row does not fit the function; it is named by its number.
            UsageError: Something else that was given cannot be.
            SpoolUncertain: The last sync failed: they may run.
            OSError: From the file system; there is no task then.
        """
        given = {"at": at, "priority": priority, "durability": durability, "id": id}
        return self._map(overlay(self._options, **given), rows)

    def _map(self, options: PutOptions, rows: Iterable[object]) -> Batch:
        if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
            raise UsageError(
                f"map takes the arguments of many tasks, such as a list of dicts, not"
                f" {rows!r:.80}"
            )
        if options.key is not None or self._entry.key is not None:
            problem = "a task in a batch cannot have a key: put it by itself"
            raise UsageError(f"{self.name}: {problem}")
        self._entry.check_run(options.run)
        arguments = self._entry.arguments
        form = None
        if options.body is None and arguments.body_is_optional:
            form = frame(self.name, options.traceparent, options.run)
        call = functools.partial(
            self._call, replace(options, at=None, priority=None, id=None)
        )
        return put_rows(
            self.name, rows, form, arguments.encode, call, self._magic, options
        )

    def _call(
        self, options: PutOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call:
        magic = {key: kwargs.pop(key) for key in self._magic if key in kwargs}
        if "spooler" in magic and not self._takes_outbox and "outbox" in kwargs:
            magic["outbox"] = kwargs.pop("outbox")
        if magic:
            options = overlay(options, **magic)
        self._entry.check_run(options.run)
        arguments = self._entry.arguments
        takes_body = arguments.wants_dict or arguments.body is not BodyKind.NONE
        if options.body is not None and not takes_body:
            problem = "it has no parameter 'body' to take the body"
            raise ArgumentsError(self.name, arguments.signature, problem)
        if options.body is None and not arguments.body_is_optional:
            problem = "missing argument 'body', by name"
            raise ArgumentsError(self.name, arguments.signature, problem)
        raw = arguments.encode(args, kwargs)
        if options.key is not None or self._entry.key is not None:
            options = self._with_key(options, raw)
        return Call(self.name, raw, options)

    def _with_key(self, options: PutOptions, raw: bytes) -> PutOptions:
        """Return options with the key, and with all that the file says of it."""
        key, run, own = options.key, options.run, self._entry.run
        if key is None and self._entry.key is not None:
            parameters = inspect.signature(self._function).parameters.values()
            values = {p.name: p.default for p in parameters if p.default is not p.empty}
            values.pop("body", None)
            values |= self._entry.arguments.decode(raw)
            key = fill("key", self._entry.key, values)
        if own.if_exists is not None or own.unique_for is not None:
            run = replace(
                run,
                if_exists=run.if_exists or own.if_exists,
                unique_for=run.unique_for or own.unique_for,
            )
        return replace(options, key=key, run=run)


class Using(Generic[P]):
    """A task with options for its next puts: see ``Task.using``."""

    def __init__(self, task: Task[P, Any], options: PutOptions) -> None:
        self._task = task
        self._options = options

    def spool(self, *args: P.args, **kwargs: P.kwargs) -> Handle:
        """Put the task, as ``Task.spool`` does."""
        return self.call(*args, **kwargs).spool()

    async def aspool(self, *args: P.args, **kwargs: P.kwargs) -> Handle:
        """Put the task, as ``Task.aspool`` does."""
        return await self.call(*args, **kwargs).aspool()

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """Return the task with these arguments, as ``Task.call`` does."""
        return self._task._call(self._options, args, kwargs)

    def map(self, rows: Iterable[object]) -> Batch:
        """Put the task with each of many arguments, as ``Task.map`` does."""
        return self._task._map(self._options, rows)


Followers = Call | Task[..., Any] | str | Sequence[Call | Task[..., Any] | str]
"""A task that follows another one, or several: with its arguments, or without any; by
name if its function is not known here."""


def followers(
    given: Followers | None, spool: str | None
) -> tuple[Follower, ...] | None:
    """Return followers as they stand in a file.

    Args:
        spool: Where the task is that they follow; None for the default one.

    Raises:
        UsageError: One of them cannot be.
    """
    if given is None:
        return None
    several = [given] if isinstance(given, Call | Task | str) else given
    if not isinstance(several, Sequence):
        raise UsageError(f"a follower is a task or a call of one, not {given!r:.80}")
    return tuple(_follower(each, spool) for each in several)


def _follower(given: Call | Task[..., Any] | str, spool: str | None) -> Follower:
    if isinstance(given, str):
        return Follower(check_task_name(given))
    if isinstance(given, Task):
        given = given.call()
    if not isinstance(given, Call):
        raise UsageError(f"a follower is a task or a call of one, not {given!r:.80}")
    return given.follower(spool)


def overlay(base: PutOptions, **given: Any) -> PutOptions:
    """Return the options of a put with others over them.

    Raises:
        UsageError: One of them cannot be.
    """
    spooler = given.pop("spooler", None)
    given = {key: value for key, value in given.items() if value is not None}
    if spooler is not None:
        spool, remote = find_spool(spooler)
        durability = getattr(spooler, "durability", base.durability)
        base = replace(
            base, spool=spool or base.spool, remote=remote, durability=durability
        )
    if not given.keys() <= _PLAIN_OPTIONS:
        for name in ("then", "on_failure"):
            given[name] = followers(given.get(name), base.spool)
        if "expires" in given:
            given["expires"] = expires_for_file(given["expires"])
        given["run"] = over(run_options(given), base.run)
        if unknown := given.keys() - _PLAIN_OPTIONS - {"run"}:
            raise UsageError(f"there is no option {min(unknown)!r} for a put")
    return replace(base, **given) if given else base
