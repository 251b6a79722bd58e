"""What a uWSGI application gets of a task: a dict, as uWSGI makes it from a packet.

Keys and values are bytes; only ``spooler_task_name`` and ``body`` are text as keys.
A task in another form is given the pairs that a packet would have had.
"""

import os
import pickle  # noqa: TID251 (docs/decisions/, "Pickle")
from collections.abc import Mapping
from typing import Final

import msgspec

from ...errors import CorruptError, Fail
from ...packet import decode_large, decode_pairs
from ...spooldir.reading import TaskFile

Variables = dict[str | bytes, bytes]

PICKLED: Final = (b"args", b"kwargs")
"""The pairs that ``uwsgidecorators`` unpickles."""

OWN: Final = "uwsgi."
"""What the names of tasks begin with that are timers, cron lines and signals."""


def is_uwsgis(task: TaskFile) -> bool:
    """Tell whether a task was written as uWSGI's are: what is in it is not ours."""
    return task.header.uwsgi or task.header.pairs is not None


def split(task: TaskFile) -> tuple[dict[bytes, bytes], bytes] | None:
    """Return the pairs of a uWSGI task and its body; None if it is no such task.

    Raises:
        CorruptError: What its header says of its pairs is wrong.
    """
    header = task.header
    if header.uwsgi:
        pairs, _ = decode_pairs(task.data)
        return pairs, b"" if header.body is not None else task.body()
    if header.pairs is None:
        return None
    body = task.body()
    if len(body) < header.pairs:
        raise CorruptError(f"uwsgi: {len(body)} of {header.pairs} bytes of pairs")
    return decode_large(body[: header.pairs]), body[header.pairs :]


def variables(task: TaskFile, name: str, shown: str, manage: object) -> Variables:
    """Return what ``uwsgi.spooler`` is called with.

    Args:
        name: The name of the task.
        shown: What is given as ``spooler_task_name``.
        manage: What ``uwsgi.spooler`` is.

    Raises:
        CorruptError: It cannot be read.
        Fail: Its arguments cannot be given to the function.
    """
    found = split(task)
    pairs, body = (_made(task, name, manage), task.body()) if found is None else found
    result: Variables = {"spooler_task_name": os.fsencode(shown)}
    result.update(pairs.items())
    if body:
        result["body"] = body
    return result


def is_pickled(pairs: Mapping[str | bytes, bytes] | Mapping[bytes, bytes]) -> bool:
    """Tell whether an application may unpickle what is in a dict.

    uWSGI's own function, and those that copy it, do so before they look at anything
    else.
    """
    return any(key in pairs for key in PICKLED)


def _made(task: TaskFile, name: str, manage: object) -> dict[bytes, bytes]:
    """Return the pairs for a task that was not written by uWSGI's functions.

    What a pickle is made of here comes from JSON or text, so it may be read again.
    """
    header = task.header
    args: dict[str, object] = {}
    if isinstance(header.args, bytes):
        args = msgspec.json.decode(header.args)
    else:
        args.update(header.args)
    decorator = _decorator_of(name, manage)
    pairs = {b"ud_spool_func": name.encode()}
    answer = _ANSWERS.get(type(decorator).__name__)
    if answer is not None:
        pairs[b"ud_spool_ret"] = answer
    if getattr(decorator, "pass_arguments", False):
        return pairs | {b"args": pickle.dumps(()), b"kwargs": pickle.dumps(args)}
    pairs.update((key.encode(), _value(value)) for key, value in args.items() if key)
    if is_pickled(pairs):
        raise Fail("its arguments cannot be called args or kwargs: they are pickles")
    return pairs


_ANSWERS: Final = {"_spool": b"-2", "_spoolforever": b"-1"}
"""By the class of the decorator: what counts as the answer of its function."""


def _value(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return msgspec.json.encode(value)


def functions(manage: object) -> Mapping[str, object] | None:
    """Return the functions of ``uwsgidecorators``, ours, uWSGI's or another copy.

    Args:
        manage: What ``uwsgi.spooler`` is.

    Returns:
        The functions by name; None if it is a function of the application's own.
    """
    if getattr(manage, "__name__", "") != "manage_spool_request":
        return None
    found = getattr(manage, "__globals__", {}).get("spooler_functions")
    return found if isinstance(found, dict) else None


def _decorator_of(name: str, manage: object) -> object:
    """Return the decorator of a function by its name: the method ``spool`` is its."""
    put = getattr((functions(manage) or {}).get(name), "spool", None)
    return getattr(put, "__self__", None)
