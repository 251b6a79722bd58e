"""What tasks have returned, where somebody asked to keep it: ``done/<id>``.

Specification: docs/format.md, section 9.
"""

import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import msgspec

from ..clock import CLOCK, Clock
from ..errors import ResultError
from ..hints import ENCODER
from ..task import Name, is_id, iso
from . import reports
from .files import DIR_FLAGS, write_new
from .reading import CHUNK, READ_FLAGS
from .root import SpoolDir

MAX_RESULT: Final = 1024 * 1024
"""Bytes that a kept value may take, as JSON."""

SWEEP_STEP: Final = 500
"""How many files of ``done/`` are looked at in one go."""

HIDDEN_MAX_AGE_US: Final = 24 * 3600 * 1_000_000
"""µs after which a file that was being written is a left-over of a crash."""

_NULL: Final = msgspec.Raw(b"null")
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """How a task ended: what stands in ``done/<id>``.

    Attributes:
        ok: It has succeeded.
        result: What it returned, in JSON.
        error: One line, type and text, if it failed.
        reason: Why it failed, one of the words in docs/format.md, "``.why``".
        attempt: The number of its last run, from 1.
        problem: Why ``result`` is null although the task returned something.
    """

    v: int = 1
    id: str
    task: str
    ok: bool
    result: msgspec.Raw = _NULL
    error: str | None = None
    traceback: str | None = None
    reason: str | None = None
    attempt: int = 0
    started: str | None = None
    ended: str | None = None
    expires: str | None = None
    problem: str | None = None

    def value(self) -> Any:
        """Return the result as plain JSON types.

        Raises:
            ResultError: The task has succeeded, but its result could not be kept, or
                was damaged.
        """
        if self.problem is not None:
            raise ResultError(self.id, f"it has succeeded, but {self.problem}")
        try:
            return msgspec.json.decode(self.result)
        except _UNREADABLE as error:
            raise _unreadable(self.id, error) from None


_WRITER: Final = msgspec.json.Encoder()
_READER: Final = msgspec.json.Decoder(Record)


def path_of(task_id: str) -> str:
    """Return where the result of a task is kept."""
    return f"done/{task_id}"


def keep(
    spool: SpoolDir,
    name: Name,
    *,
    ok: bool,
    value: object = None,
    error: str | None = None,
    reason: str | None = None,
    traceback: str | None = None,
    attempt: int,
    started_us: int | None,
    seconds: float,
    clock: Clock = CLOCK,
) -> str | None:
    """Keep how a task ended, for so many seconds. Call it before the ack or fail.

    It is durable when this returns. An older result of the task is replaced.

    Args:
        value: What the function returned; anything.
        attempt: The number of the run, from 1.
        started_us: When the run began; None if it was not run.

    Returns:
        Why the value itself is not kept; None if it is.

    Raises:
        OSError: From the file system. Nothing is kept.
    """
    now_us = clock.now_us()
    result, problem = _encode(value)
    expires_us = now_us + int(seconds * 1e6)
    record = Record(
        id=name.id,
        task=name.task,
        ok=ok,
        result=result,
        error=None if ok else _text(error),
        traceback=None if ok else _text(reports.cut(traceback)),
        reason=None if ok else reason,
        attempt=attempt,
        started=None if started_us is None else iso(started_us),
        ended=iso(now_us),
        expires=iso(expires_us),
        problem=problem,
    )
    data = _WRITER.encode(record) + b"\n"
    hidden = f"done/.{name.id}.{os.urandom(4).hex()}"
    try:
        write_new(spool.fd, hidden, path_of(name.id), data, mtime_us=expires_us)
    except IsADirectoryError:
        return "there is a directory in its place"
    spool.sync("done")
    return problem


def _encode(value: object) -> tuple[msgspec.Raw, str | None]:
    if value is None:
        return _NULL, None
    try:
        data = ENCODER.encode(value)
    except Exception as error:  # noqa: BLE001 (the value's classes are the user's code)
        problem = f"its result cannot be written in JSON: {type(error).__name__}"
        text = " ".join(str(error).split()).replace(" in a task", "")[:200]
        return _NULL, _text(f"{problem}: {text}" if text else problem)
    if len(data) > MAX_RESULT:
        return (
            _NULL,
            f"its result takes {len(data)} bytes; more than {MAX_RESULT} are not kept",
        )
    return msgspec.Raw(data), None


def _text(text: str | None) -> str | None:
    """Return text that UTF-8 can hold."""
    return text and text.encode("utf-8", "backslashreplace").decode()


def read(spool: SpoolDir, task_id: str) -> Record | None:
    """Return how a task ended, if that is kept.

    Raises:
        ResultError: What is there cannot be read.
        OSError: From the file system.
    """
    try:
        fd = os.open(path_of(task_id), READ_FLAGS, dir_fd=spool.fd)
    except FileNotFoundError:
        return None
    try:
        data = b""
        while chunk := os.read(fd, CHUNK if data else 2 * CHUNK):
            data += chunk
    finally:
        os.close(fd)
    try:
        return _READER.decode(data)
    except _UNREADABLE as error:
        raise _unreadable(task_id, error) from None


def _unreadable(task_id: str, error: Exception) -> ResultError:
    return ResultError(task_id, f"{path_of(task_id)} cannot be read: {error}")


def has(spool: SpoolDir, task_id: str) -> bool:
    """Tell whether a result is kept.

    Raises:
        OSError: From the file system.
    """
    return spool.has(path_of(task_id))


def remove(spool: SpoolDir, task_id: str) -> None:
    """Remove the result of a task, if there is one.

    Raises:
        OSError: From the file system.
    """
    with suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(path_of(task_id), dir_fd=spool.fd)


class Sweeper:
    """Removes results: those that are over, and the oldest if there are too many.

    Attributes:
        due: The monotonic moment from which ``work`` has something to do.

    Args:
        keep: So many are kept.
        every: Seconds between two sweeps.
        pause: Seconds between two steps of a sweep.
    """

    def __init__(
        self,
        spool: SpoolDir,
        *,
        keep: int,
        every: float,
        pause: float = 1.0,
        clock: Clock = CLOCK,
    ) -> None:
        self._spool = spool
        self._keep = keep
        self._every = every
        self._pause = pause
        self._clock = clock
        self._steps: Iterator[None] | None = None
        self.due = clock.monotonic()

    def work(self) -> None:
        """Do a step of a sweep, if one is due: at most ``SWEEP_STEP`` files.

        Raises:
            OSError: From the file system; the sweep begins anew another time.
        """
        now = self._clock.monotonic()
        if now < self.due:
            return
        steps = self._steps or self._sweep()
        self._steps, self.due = None, now + self._every
        for _ in islice(steps, 1):
            self._steps, self.due = steps, now + self._pause

    def _sweep(self) -> Iterator[None]:
        """Go through ``done/``; yield between two steps."""
        ages = array("q")
        for number, step in enumerate(self._status()):
            if number:
                yield
            for file, status in step:
                if not self._is_over(file, status):
                    ages.append(status.st_ctime_ns)
        excess = len(ages) - self._keep
        if excess <= 0:
            return
        limit = sorted(ages)[excess - 1]
        for step in self._status():
            yield
            for file, status in step:
                if excess > 0 and status.st_ctime_ns <= limit and is_id(file):
                    self._unlink(file)
                    excess -= 1

    def _status(self) -> Iterator[list[tuple[str, os.stat_result]]]:
        """Yield the files of ``done/``, so many at a time."""
        fd = os.open("done", DIR_FLAGS, dir_fd=self._spool.fd)
        try:
            with os.scandir(fd) as entries:
                while some := list(islice(entries, SWEEP_STEP)):
                    step = []
                    for entry in some:
                        with suppress(FileNotFoundError):
                            step.append((entry.name, entry.stat(follow_symlinks=False)))
                    yield step
        finally:
            with suppress(OSError):  # there is nobody to hear of it
                os.close(fd)

    def _is_over(self, file: str, status: os.stat_result) -> bool:
        """Remove a file whose time is over, and tell whether it does not count."""
        now_us = self._clock.now_us()
        if file.startswith("."):
            if now_us - status.st_ctime_ns // 1000 >= HIDDEN_MAX_AGE_US:
                self._unlink(file)
            return True
        if not is_id(file):
            return True
        if now_us < status.st_mtime_ns // 1000:
            return False
        self._unlink(file)
        return True

    def _unlink(self, file: str) -> None:
        with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            os.unlink(f"done/{file}", dir_fd=self._spool.fd)
