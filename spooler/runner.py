"""Run one task's function; say how it ended.

Here user code is called, and nowhere else.
"""

import inspect
import math
import traceback
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, BinaryIO, Final

import msgspec

from .arguments import BodyKind
from .current import CurrentTask
from .errors import ArgumentsError, Fail, Retry, SoftTimeout
from .registry import REGISTRY, Entry, Kind
from .retry import MAX_BACKOFF
from .spooldir import SpoolDir
from .spooldir.reading import TaskFile
from .task import Answer, Claim, Outcome, Verdict

READ_AGAIN = 5.0
"""Seconds until a task is looked at again that could not be read just now."""


_LIMIT_MAX: Final = 1e10
"""Seconds. A run with a longer limit has no deadline that a calendar can show."""

ACKED: Final = Outcome(Verdict.ACK)
"""A run that was a success, and leaves nothing else."""

_TASK: Final = Kind.TASK  # to look into an enum takes as long as a call


def current(
    claim: Claim,
    task: TaskFile,
    spool: SpoolDir,
    limit: float | None,
    started_us: int,
) -> CurrentTask:
    """Return what the running function may ask about its run.

    Args:
        limit: Seconds the run may take; None for no limit.
    """
    name, header = claim.name, task.known
    trace = parent = None
    if header is not None:
        trace = header.traceparent
        parent = None if header.options is None else header.options.parent
    return CurrentTask(
        name.id,
        name.task,
        name.attempt + 1,
        name.priority,
        spool.path,
        task.mtime_ns // 1000,
        None if limit is None or limit > _LIMIT_MAX else started_us + int(limit * 1e6),
        trace,
        parent,
    )


Guard = AbstractContextManager[object]
"""Around a function's call: interrupts it when its time is over."""

Wait = Callable[[Coroutine[Any, Any, object]], object]
"""Runs a coroutine and waits for it."""


def wait_here(coroutine: Coroutine[Any, Any, object]) -> object:
    """Run a coroutine in a loop of its own and wait for it (``Wait``)."""
    import asyncio  # noqa: PLC0415 (it is large, and few plain functions need it)

    return asyncio.run(coroutine)


_NOTHING: Final[Guard] = nullcontext()


def run_task(
    entry: Entry,
    claim: Claim,
    task: TaskFile,
    values: dict[str, object] | None = None,
    guard: Guard | None = None,
    *,
    keep: bool = False,
    wait: Wait = wait_here,
) -> Outcome:
    """Call a task's function with its arguments; return how it ended.

    Whatever user code raises becomes an outcome: nothing escapes. That goes for
    the classes of its arguments and for what it returns too.

    Args:
        values: Its arguments, if they were read from ``task`` already.
        keep: Have the outcome hold what the function returned.
        wait: Runs what a function returns that is to be awaited.
    """
    try:
        if values is not None and guard is None:  # as most are
            result = entry.arguments.call(entry.function, values)
            if result is None and entry.kind is _TASK:
                return ACKED
            return _judge(entry, _finish(result, wait), keep=keep)
        if entry.handler is not None:
            with guard or _NOTHING:
                return entry.handler(claim, task)
        call = _prepare_or_say_why_not(entry, claim, task, values)
        if isinstance(call, Outcome):
            return call
        with guard or _NOTHING, call.body or _NOTHING:
            result = _finish(call.function(), wait)
        return _judge(entry, result, keep=keep)
    except BaseException as error:  # noqa: BLE001 (SystemExit too: the worker goes on)
        return _failure(error)


async def run_coroutine(
    entry: Entry,
    claim: Claim,
    task: TaskFile,
    values: dict[str, object] | None,
    guard: Guard,
    *,
    keep: bool = False,
) -> Outcome:
    """Await a task's coroutine function; return how it ended, as ``run_task`` does.

    The caller's cancellation ends it too, and is an outcome like any other.
    """
    try:
        call = _prepare_or_say_why_not(entry, claim, task, values)
        if isinstance(call, Outcome):
            return call
        with guard, call.body or _NOTHING:
            result = call.function()
            if inspect.isawaitable(result):
                result = await result
        return _judge(entry, result, keep=keep)
    except BaseException as error:  # noqa: BLE001 (see run_task)
        return _failure(error)


def _failure(error: BaseException) -> Outcome:
    """Return what an exception means that has left a function.

    Call it where the exception is handled.
    """
    text = traceback.format_exc()
    match error:
        case SoftTimeout():
            return Outcome(Verdict.RETRY, _line(error), "timeout", text)
        case Fail():
            return Outcome(Verdict.FAIL, _line(error), "fail", text)
        case Retry():
            after = _seconds(error.after)
            return Outcome(Verdict.RETRY, _line(error), "exception", text, after)
    return Outcome(Verdict.RETRY, _line(error), "exception", text)


class _Call(msgspec.Struct):
    """A function with its arguments.

    Attributes:
        body: The open body, to be closed after the call.
    """

    function: Callable[[], object]
    body: BinaryIO | None = None


def _prepare_or_say_why_not(
    entry: Entry, claim: Claim, task: TaskFile, values: dict[str, Any] | None
) -> _Call | Outcome:
    try:
        if values is not None:
            return _Call(lambda: entry.arguments.call(entry.function, values))
        return _prepare(entry, claim, task)
    except ArgumentsError as error:
        return Outcome(Verdict.FAIL, f"ArgumentsError: {error}", "arguments")
    except OSError as error:
        text = f"its body cannot be read now: {error}"
        return Outcome(Verdict.RELEASE, text, after=READ_AGAIN)


def _prepare(entry: Entry, claim: Claim, task: TaskFile) -> _Call:
    arguments = entry.arguments
    raw = task.header.args
    is_uwsgis = task.header.uwsgi or task.header.pairs is not None
    if is_uwsgis and REGISTRY.translate is not None:
        raw = REGISTRY.translate(entry, claim, task)
    values: dict[str, Any] = arguments.decode(raw)
    if arguments.wants_dict:
        values["spooler_task_name"] = claim.file
        body = task.body()
        if body:
            values["body"] = body
        return _Call(lambda: entry.function(values))
    file = None
    if arguments.body is not BodyKind.NONE:
        has_body = task.header.body is not None or task.size > task.header.body_offset
        if has_body or not arguments.body_is_optional:
            if arguments.body is BodyKind.BYTES:
                values["body"] = task.body()
            else:
                values["body"] = file = task.open_body()
    return _Call(lambda: arguments.call(entry.function, values), file)


def _finish(result: object, wait: Wait) -> object:
    """Run what a function left to be run."""
    if result is None:
        return None
    if inspect.iscoroutine(result):
        return wait(result)
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError("the function is a generator: calling it does not run it")
    return result


def _seconds(after: object) -> float | None:
    """Return a delay that user code asked for, if it can be; else None."""
    if isinstance(after, timedelta):
        after = after.total_seconds()
    if not isinstance(after, int | float) or math.isnan(after):
        return None
    return float(min(max(0.0, after), MAX_BACKOFF))


def _line(error: BaseException) -> str:
    found = traceback.TracebackException.from_exception(error, limit=0)
    found.__notes__ = None  # they stand in the traceback
    text = list(found.format_exception_only())[-1].strip()
    return " ".join(text.removeprefix("spooler.errors.").split())[:1000]


def _judge(entry: Entry, result: object, *, keep: bool) -> Outcome:
    kind = entry.kind
    if kind is _TASK:
        return Outcome(Verdict.ACK, value=result) if keep else ACKED
    if kind is Kind.FOREVER:
        return Outcome(Verdict.AGAIN, after=_seconds(entry.pause))
    value = result.value if isinstance(result, Answer) else result
    if value == Answer.OK.value:
        return ACKED
    if value == Answer.IGNORE.value and value is not False:
        return Outcome(Verdict.RELEASE, "returned IGNORE")
    error = "returned RETRY"
    if value != Answer.RETRY.value:
        error = f"returned {type(result).__name__} {result!r:.60}: counts as RETRY"
    return Outcome(Verdict.RETRY, error, "exception")
