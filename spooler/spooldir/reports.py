"""What went wrong, kept beside the tasks: ``.why`` files and lists of attempts.

Specification: docs/format.md, "``.why``".
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from ..task import Claim, Outcome, iso
from .files import write_all, write_new
from .reading import READ_FLAGS
from .reserve import insist
from .root import SpoolDir

ATTEMPTS_MAX: Final = 100
"""How many attempts a report tells of."""

_REPORT_MAX: Final = 4 * 1024 * 1024
_LIST_MAX: Final = 2 * 1024 * 1024
# Not blocking, so as not to wait for somebody who reads, where a FIFO stands there.
_APPEND_FLAGS: Final = (
    os.O_WRONLY
    | os.O_APPEND
    | os.O_CREAT
    | os.O_NOFOLLOW
    | os.O_NONBLOCK
    | os.O_CLOEXEC
)
_TRACEBACK_MAX: Final = 64 * 1024


def to_json(value: object) -> bytes:
    """Return one line of JSON in ASCII, whatever the text in ``value``."""
    return json.dumps(value, ensure_ascii=True).encode() + b"\n"


def read_json(spool: SpoolDir, path: str) -> dict[str, object]:
    """Read a small JSON object of the spool; empty if it is gone or damaged."""
    with suppress(OSError):  # another user's, or no file: it is for people
        for record in _lines(spool, path):
            return record
    return {}


def _lines(spool: SpoolDir, path: str) -> list[dict[str, object]]:
    try:
        fd = os.open(path, READ_FLAGS, dir_fd=spool.fd)
    except FileNotFoundError:
        return []
    try:
        text = os.read(fd, _REPORT_MAX)
    finally:
        os.close(fd)
    records = []
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                records.append(record)
    return records


def attempts_path(task_id: str) -> str:
    """Return where the list of a task's attempts is."""
    return f"logs/{task_id}.attempts"


def attempts(spool: SpoolDir, task_id: str) -> list[dict[str, object]]:
    """Return the earlier attempts of an unfinished task, oldest first."""
    with suppress(OSError):  # the list is for people; the task comes first
        return _lines(spool, attempts_path(task_id))[-ATTEMPTS_MAX:]
    return []


def attempt_record(
    claim: Claim, error: str, started_us: int | None, ended_us: int
) -> dict[str, object]:
    """Return what is kept of one attempt.

    Args:
        started_us: When the run began; None if nobody knows.
    """
    return {
        "attempt": claim.name.attempt + 1,
        "started": None if started_us is None else iso(started_us),
        "ended": iso(ended_us),
        "seconds": None if started_us is None else (ended_us - started_us) / 1e6,
        "worker": claim.worker,
        "error": error,
    }


def append_attempt(spool: SpoolDir, task_id: str, record: Mapping[str, object]) -> None:
    """Add an attempt to a task's list. Not synced: it is for people.

    Raises:
        OSError: From the file system.
    """
    size = insist(spool.fd, lambda: _append(spool, attempts_path(task_id), record))
    if size > _LIST_MAX:  # a task may be tried again for ever
        path = attempts_path(task_id)
        kept = b"".join(map(to_json, attempts(spool, task_id)))
        write_new(spool.fd, f"logs/.{os.urandom(8).hex()}.attempts", path, kept)


def _append(spool: SpoolDir, path: str, record: Mapping[str, object]) -> int:
    """Add a line to a file, all of it or nothing; return the file's size."""
    fd = os.open(path, _APPEND_FLAGS, 0o600, dir_fd=spool.fd)
    try:
        before = os.fstat(fd).st_size
        try:
            write_all(fd, to_json(record))
        except OSError:
            os.ftruncate(fd, before)
            raise
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def forget_attempts(spool: SpoolDir, task_id: str) -> None:
    """Remove the list of a task's attempts, if there is one. Never fails."""
    with suppress(OSError):  # the task has moved on already; it is swept by age
        os.unlink(attempts_path(task_id), dir_fd=spool.fd)


def failure(
    claim: Claim,
    outcome: Outcome,
    history: list[dict[str, object]],
    now_us: int,
) -> dict[str, object]:
    """Return the report of a task that is given up."""
    return {
        "v": 1,
        "id": claim.name.id,
        "task": claim.name.task,
        "error": outcome.error,
        "reason": outcome.reason,
        "traceback": cut(outcome.traceback),
        "failed": iso(now_us),
        "attempts": history[-ATTEMPTS_MAX:],
    }


def cut(traceback: str | None) -> str | None:
    """Return the end of a traceback, where the error is, if it is very long."""
    if traceback is not None and len(traceback) > _TRACEBACK_MAX:
        return "…" + traceback[-_TRACEBACK_MAX:]
    return traceback


def write_why(
    spool: SpoolDir, path: str, report: Mapping[str, object], *, durable: bool = True
) -> None:
    """Write the ``.why`` beside a file that is about to come to ``path``.

    Args:
        durable: It is, once the directory is synced.

    Raises:
        OSError: From the file system.
    """
    folder, _, _ = path.rpartition("/")
    hidden, data = f"{folder}/.{os.urandom(8).hex()}", to_json(report)
    why = f"{path}.why"
    try:
        write_new(spool.fd, hidden, why, data, durable=durable)
    except FileNotFoundError:  # somebody has removed the folder
        spool.open()  # which makes it
        write_new(spool.fd, hidden, why, data, durable=durable)


def read_why(spool: SpoolDir, path: str) -> dict[str, object]:
    """Return the report beside a file; empty if there is none."""
    return read_json(spool, f"{path}.why")


def remove_why(spool: SpoolDir, path: str) -> None:
    """Remove the report beside a file, if there is one. Never fails."""
    with suppress(OSError):  # the task has moved on already; it is swept by age
        os.unlink(f"{path}.why", dir_fd=spool.fd)
