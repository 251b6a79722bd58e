"""Run a task as uWSGI's spooler does: call ``uwsgi.spooler``, judge what it returns.

The rules: docs/reference/uwsgi.md.
"""

import inspect
import os
import pickle  # noqa: TID251 (docs/decisions/, "Pickle")
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from msgspec.structs import replace

from ...arguments import Arguments
from ...errors import ArgumentsError, CorruptError, Fail, Retry, SoftTimeout
from ...registry import Entry, Kind
from ...retry import RetryOptions, RetryPolicy
from ...runner import ACKED
from ...spooldir.owner import asker_of
from ...spooldir.reading import TaskFile
from ...task import Answer, Claim, Outcome, Verdict
from .module import UWSGI
from .pairs import (
    OWN,
    PICKLED,
    Variables,
    functions,
    is_pickled,
    is_uwsgis,
    split,
    variables,
)
from .state import RUNNING, STATE, Current

_NONE: Final = pickle.dumps(None)
_MAGIC: Final = frozenset(
    {"ud_spool_func", "ud_spool_ret", "at", "priority", "spooler", "body"}
)
SOON: Final = 1000
"""Attempts up to which a task that asks for it runs again at uWSGI's own pace; then it
waits as after an exception, so that 10,000 of them take a month at any pace."""

_UNKNOWN: Final = "no function of that name here"


def entry(policy: RetryPolicy) -> Entry:
    """Return what runs every task that no function of spooler's is registered for."""
    return Entry(
        name="uwsgi",
        function=_nothing,
        kind=Kind.RAW,
        arguments=Arguments(_nothing, "uwsgi"),
        retry=RetryOptions(**asdict(policy)),
        handler=handle,
    )


def _nothing(**args: Any) -> None:
    """Stand for the function, which is not known before the task is."""


def started() -> None:
    """Be a worker: call what the application has asked to be called after a fork."""
    STATE.is_worker = True
    hook = getattr(UWSGI, "post_fork_hook", None)
    if hook is not None:
        hook()


def others() -> list[str]:
    """Return the names of the tasks that run here (``registry.Registry``)."""
    function = getattr(UWSGI, "spooler", None)
    if function is None:
        return []
    known = functions(function)
    return ["*"] if known is None else list(known)


def handle(claim: Claim, task: TaskFile) -> Outcome:
    """Run a task (``registry.Handler``)."""
    function = getattr(UWSGI, "spooler", None)
    if function is None:
        return Outcome(Verdict.RELEASE, _why_nobody(task))
    try:
        found = variables(task, claim.name.task, claim.file, function)
    except CorruptError as error:
        return Outcome(Verdict.REJECT, error.reason)
    problem = _why_not(claim, task, found)
    if problem:
        return Outcome(Verdict.FAIL, problem, "arguments")
    if _is_unknown(function, found, task):
        return Outcome(Verdict.RELEASE, _UNKNOWN)
    RUNNING.set(_current(claim, task))
    try:
        result = function(found)
    except (Fail, Retry, SoftTimeout):
        raise
    except BaseException as error:  # to be printed as uWSGI does, and kept with its log
        frames = error.__traceback__ and error.__traceback__.tb_next
        traceback.print_exception(error.with_traceback(frames))
        raise
    return _judge(result, found, claim)


def _why_nobody(task: TaskFile) -> str:
    try:
        pairs, _ = split(task) or (None, b"")
    except CorruptError:  # those that have a function will say so
        pairs = None
    if pairs is None or b"ud_spool_func" in pairs:
        return "uwsgi.spooler is not set here"
    return "uwsgi.spooler is not set, and the task names no ud_spool_func"


def _current(claim: Claim, task: TaskFile) -> Current:
    path = f"{claim.name.folder}/{claim.file}"
    return Current(path, claim.worker, asker_of(task.fd), claim.signed)


def _is_unknown(function: object, found: Variables, task: TaskFile) -> bool:
    """Tell whether another daemon may know the task, and nobody does here."""
    name = _text(found.get(b"ud_spool_func", b""))
    if task.header.task.startswith(OWN) and not is_uwsgis(task):
        return True
    known = functions(function)
    return known is not None and name not in known


def _why_not(
    claim: Claim,
    task: TaskFile,
    found: Mapping[str | bytes, bytes] | Mapping[bytes, bytes],
) -> str:
    """Return why a task must not run: a pickle that somebody else may have written."""
    header = task.header
    if claim.signed or not is_uwsgis(task) or not is_pickled(found):
        return ""
    asker = asker_of(task.fd)
    if asker != os.fstat(task.fd).st_uid:
        what = f"uid {asker} has put it"
    elif asker != os.geteuid():
        what = f"its file belongs to uid {asker}"
    elif header.key is not None:  # of such a file a copy is made, which belongs to us
        what = "it has a key"
    else:
        return ""
    return f"its arguments are pickled, and {what}: see docs/reference/uwsgi.md"


def _judge(result: object, found: Variables, claim: Claim) -> Outcome:
    """Return what the answer of ``uwsgi.spooler`` means."""
    if not isinstance(result, int):
        error = (
            f"returned {type(result).__name__} {result!r:.60}: counts as SPOOL_RETRY"
        )
        return _retry(error, claim)
    if result == Answer.OK.value:
        return ACKED
    if result == Answer.IGNORE.value:
        return Outcome(Verdict.RELEASE, "returned SPOOL_IGNORE")
    if result != Answer.RETRY.value:
        return _retry(f"returned {result}: counts as SPOOL_RETRY", claim)
    if found.get(b"ud_spool_ret") == b"-1":  # @spoolforever
        return Outcome(Verdict.AGAIN, after=STATE.frequency)
    return _retry("returned SPOOL_RETRY", claim)


def _retry(error: str, claim: Claim) -> Outcome:
    """Return that it runs again: no later than uWSGI would look at it again."""
    attempt = claim.name.attempt + 1
    after = STATE.policy.delay(attempt)
    if attempt <= SOON:
        after = min(STATE.frequency, after)
    return Outcome(Verdict.RETRY, error, "exception", after=after)


# -- functions that have moved to spooler's own decorators --------------------------


def translate(entry: Entry, claim: Claim, task: TaskFile) -> Mapping[str, object]:
    """Return the arguments of a function from a uWSGI task (``registry.Translate``).

    Pickled ones are given as they were; else each pair is one, as text. What
    ``uwsgidecorators`` has added is left out, unless the function takes it.

    Raises:
        ArgumentsError: They do not fit the function.
    """
    found = split(task)
    if found is None:
        raise AssertionError("only uWSGI tasks are translated")
    pairs, _ = found
    problem = _why_not(claim, task, pairs)
    if problem:
        raise ArgumentsError(entry.name, entry.arguments.signature, problem)
    if task.header.pairs is not None:
        offset = task.header.body_offset + task.header.pairs
        task.known = replace(task.header, body_offset=offset, pairs=None)
    if is_pickled(pairs):
        args, kwargs = _unpickled(entry, pairs)
        return _named(entry, args, kwargs)
    return _texts(entry, pairs)


def _unpickled(
    entry: Entry, pairs: Mapping[bytes, bytes]
) -> tuple[Sequence[object], Mapping[str, object]]:
    args, kwargs = (pickle.loads(pairs.get(key, _NONE)) for key in PICKLED)  # noqa: S301
    if not isinstance(args or (), Sequence) or not isinstance(kwargs or {}, Mapping):
        problem = "its pickled arguments are no tuple and no dict"
        raise ArgumentsError(entry.name, entry.arguments.signature, problem)
    return args or (), kwargs or {}


def _named(
    entry: Entry, args: Sequence[object], kwargs: Mapping[str, object]
) -> Mapping[str, object]:
    """Give positional arguments their names."""
    if entry.arguments.wants_dict and len(args) == 1 and isinstance(args[0], Mapping):
        return {**args[0], **kwargs}
    try:
        bound = inspect.signature(entry.function).bind(*args, **kwargs)
    except TypeError as error:
        signature = entry.arguments.signature
        raise ArgumentsError(entry.name, signature, str(error)) from None
    names = {key: bound.arguments[key] for key in bound.arguments}
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            names |= names.pop(parameter.name, {})
    return names


def _texts(entry: Entry, pairs: Mapping[bytes, bytes]) -> Mapping[str, object]:
    """Return pairs as arguments, without those that only uWSGI's functions want."""
    texts = {_text(key): _text(value) for key, value in pairs.items()}
    if entry.arguments.wants_dict:
        return texts
    parameters = inspect.signature(entry.function).parameters
    return {k: v for k, v in texts.items() if k not in _MAGIC or k in parameters}


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "surrogateescape")
