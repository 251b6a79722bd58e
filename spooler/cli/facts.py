"""What the command ``spool`` says of a task, as values: the JSON it prints."""

import codecs
import json
import os
from contextlib import suppress

import msgspec

from ..clock import CLOCK
from ..errors import CorruptError, NotFoundError
from ..spooldir import SpoolDir, batches, progress, repair, reports, runlogs
from ..spooldir.reading import TaskFile
from ..spooldir.repair import Found
from ..spooldir.signing import describe
from ..task import BATCH, Name, State, iso

PREVIEW = 200
"""Bytes of a body, or of a file that is no task, that are shown."""


def state_of(found: Found, now_us: int) -> str:
    """Return a state in the words of the command: ``later`` is one of its own."""
    if found.state is State.WAITING and found.name and found.name.due_us > now_us:
        return "later"
    return found.state.value


def fits(name: Name | None, task: str | None, priority: int | None) -> bool:
    """Tell whether a task is one of those asked for; ``None`` asks for any.

    A corrupt file has no name, and fits only where nothing is asked for.
    """
    if name is None:
        return task is None and priority is None
    return task in (None, name.task) and priority in (None, name.priority)


def row(spool: SpoolDir, found: Found, now_us: int) -> dict[str, object]:
    """Return what ``ls`` says of a task; only reports are opened, never the task.

    Raises:
        OSError: From the file system.
    """
    name = found.name
    worker = since = reason = None
    if found.state is State.RUNNING:
        worker = found.path.split("/")[1]
        since = _claimed(spool, found)
    elif found.state in (State.FAILED, State.CORRUPT):
        why = repair.why(spool, found)
        reason = str(why.get("error") or why.get("reason") or "")
    elif name is not None and name.attempt:
        reason = repair.last_error(spool, found)
    return {
        "id": found.id,
        "state": state_of(found, now_us),
        "priority": name and name.priority,
        "attempt": name and name.attempt,
        "due": name and iso(name.due_us),
        "task": name and name.task,
        "path": found.path,
        "worker": worker,
        "since": since,
        "reason": reason,
    }


def _claimed(spool: SpoolDir, found: Found) -> str | None:
    try:
        return iso(repair.stat(spool, found).st_ctime_ns // 1000)
    except NotFoundError:  # it has just ended
        return None


def everything(spool: SpoolDir, found: Found) -> dict[str, object]:
    """Return what ``show`` says of a task.

    Raises:
        NotFoundError: Somebody else moved it.
        OSError: From the file system.
    """
    status = repair.stat(spool, found)
    why = repair.why(spool, found)
    attempts = why.get("attempts") or reports.attempts(spool, found.id)
    if not isinstance(attempts, list):
        attempts = []
    facts: dict[str, object] = {
        **row(spool, found, CLOCK.now_us()),
        "put": iso(max(0, status.st_mtime_ns // 1000)),
        "size": status.st_size,
        "reason": why.get("reason"),
        "error": why.get("error"),
        "failed": why.get("failed") or why.get("time"),
        "found": why.get("found"),
        "first": None,
        "key": None,
        "signed": None,
        "lines": None,
        "progress": _progress(spool, found),
        "args": None,
        "body_size": None,
        "body_text": None,
        "attempts": [each for each in attempts if isinstance(each, dict)],
        "log": _log(spool, found),
        "traceback": why.get("traceback"),
    }
    try:
        task = repair.read(spool, found)
    except CorruptError as problem:
        facts["reason"] = facts["reason"] or problem.reason
        facts["first"] = _first(spool, found)
        return facts
    try:
        signed = describe(spool.signer, task, found.name)
        facts |= {"signed": signed, "lines": _lines(spool, found, task)}
        return {**facts, **_content(task)}
    finally:
        task.close()


def _log(spool: SpoolDir, found: Found) -> str | None:
    """Return where what the last attempt has printed is kept; None if it is not."""
    if found.name is None:
        return None
    path = runlogs.log_path(found.id, found.name.attempt)
    return path if spool.has(path) else None


def _progress(spool: SpoolDir, found: Found) -> object:
    if found.state is not State.RUNNING or found.name is None:
        return None
    said = progress.progress_of(spool, found.name)
    return None if said is None else msgspec.to_builtins(said)


def _lines(spool: SpoolDir, found: Found, task: TaskFile) -> dict[str, int] | None:
    """Return how many lines a batch has, and how many of them are left to it."""
    args = task.header.args
    if task.header.task != BATCH or not isinstance(args, bytes):
        return None
    count = json.loads(args).get("count")
    if not isinstance(count, int):
        return None
    left = count
    with suppress(CorruptError, OSError):  # show what can be shown
        place = batches.read(spool, found.id)
        left = count if place is None else place.end - place.next
    return {"count": count, "left": left}


def _content(task: TaskFile) -> dict[str, object]:
    args = task.header.args
    parsed: object = json.loads(args) if isinstance(args, bytes) else args
    with task.open_body() as body:
        preview = body.read(PREVIEW)
        size = body.seek(0, os.SEEK_END)
    text = _text(preview, cut=size > PREVIEW)
    key = task.header.key
    return {"key": key, "args": parsed, "body_size": size, "body_text": text}


def _text(data: bytes, *, cut: bool) -> str | None:
    """Return bytes as text, without a last character that was cut; None if binary."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data, not cut)
    except UnicodeDecodeError:
        return None
    plain = text.translate({9: " ", 10: " ", 13: " "})
    return text if plain.isprintable() else None


def _first(spool: SpoolDir, found: Found) -> str | None:
    try:
        return repr(repair.first_bytes(spool, found, PREVIEW))
    except OSError:  # a link, a directory, or not readable by us
        return None
