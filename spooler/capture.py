"""Catch what the runs of a worker print, so that it can be kept beside the task.

Two ways, with one face (``Capture``): ``FileCapture`` for a worker that runs one task
at a time takes the descriptors 1 and 2 themselves, so that C code and child processes
are caught too; ``RoutedCapture`` for one that runs many takes ``sys.stdout`` and
``sys.stderr`` and asks the context whose run it is. What was printed is passed on to
where spoold prints when the run is over. Specification: docs/format.md, section 13.
"""

import ctypes
import faulthandler
import io
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol, TextIO

import msgspec

from .config import KeepLog
from .current import CURRENT
from .logs import RunLines
from .spooldir import SpoolDir, runlogs
from .task import Claim

_IOLBF: Final = 1

log = logging.getLogger(__name__)


class Capture(Protocol):
    """What a worker does about its runs' output. All of it is for one process."""

    def start(self) -> bool:
        """Begin to catch; tell whether that works here. If not, a warning is logged."""
        ...

    def begin(self, claim: Claim) -> None:
        """Note that a run begins, in its context."""
        ...

    def end(self, claim: Claim, *, succeeded: bool, keep: bool | None) -> int:
        """Note that a run is over: keep what it printed if asked to, and pass it on.

        Costs next to nothing if it has printed nothing. Never fails.

        Args:
            keep: What its options say (``keep_log``).

        Returns:
            How many bytes were kept.
        """
        ...

    def rest(self) -> None:
        """Pass on what was left for a moment in which nothing runs: every few ms.

        That is what only C code or a child process has printed in runs that have
        succeeded. If one fails sooner, its log begins with that.
        """
        ...

    def close(self) -> None:
        """Catch no more; leave nothing behind."""
        ...


def capture(
    spool: SpoolDir, worker: str, keep_log: KeepLog, *, many: bool = False
) -> Capture | None:
    """Begin to catch what a worker's runs print.

    Args:
        many: It runs many tasks at a time, each in a context of its own.

    Returns:
        What catches it; None if nothing is to be caught, or can be.
    """
    if keep_log == "never":
        return None
    made: Capture
    if many:
        made = RoutedCapture(spool, keep_all=keep_log == "always")
    else:
        made = FileCapture(spool, worker, keep_all=keep_log == "always")
    return made if made.start() else None


class _Raw(io.FileIO):
    """A descriptor to write to, and another for when that fails.

    Args:
        other: -1 for nowhere: what cannot be written is dropped.
        said: Called when something is written.
    """

    def __init__(self, fd: int, other: int, said: Callable[[], None]) -> None:
        super().__init__(fd, "w", closefd=False)
        self._other = other
        self._said = said

    def write(self, data: Any, /) -> int:
        """Write; a full disk must not make a function fail that only prints."""
        self._said()
        try:
            return super().write(data)
        except OSError:
            return len(data) if self._other < 0 else os.write(self._other, data)


class _Text(io.TextIOWrapper):
    """Text for a descriptor; tells as soon as something is printed, not yet written.

    So nobody has to flush it to find out.

    Args:
        lent: Called when what takes bytes is asked for: that does not tell.
    """

    def __init__(
        self,
        fd: int,
        other: int,
        like: TextIO,
        said: Callable[[], None],
        lent: Callable[[], None],
    ) -> None:
        super().__init__(
            io.BufferedWriter(_Raw(fd, other, said)),
            encoding=like.encoding,
            errors=like.errors,
            line_buffering=True,
        )
        self._said = said
        self._lent = lent

    def write(self, text: str, /) -> int:
        """Write text."""
        self._said()
        return super().write(text)

    @property
    def buffer(self) -> Any:
        """What takes bytes."""
        self._lent()
        return super().buffer


def _nothing() -> None:
    """Take no note."""


def _flush() -> None:
    """Write what is buffered, wherever user code has left the streams."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.flush()


class _Lines(logging.Handler):
    """Gives what the user's modules log to the log of the run; spooler's own not."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._write = write
        self.setFormatter(RunLines())

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record, unless it is spooler's."""
        if record.name.startswith("spooler."):
            return False
        return bool(super().handle(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self._write(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:  # noqa: BLE001 (logging never fails in the caller)
            # A full disk: it stands in spoold's log all the same. Or a format that
            # does not fit: the other handler tells.
            return


class _Logging:
    """The root logger while output is caught.

    Args:
        stream: Where the handlers go that write to the standard streams.
        write: Takes lines for the log of the run.
    """

    def __init__(self, stream: TextIO | None, write: Callable[[bytes], None]) -> None:
        self._moved: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []
        self._lines = _Lines(write)
        root = logging.getLogger()
        ours = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
        for handler in root.handlers if stream is not None else ():
            if isinstance(handler, logging.StreamHandler) and any(
                handler.stream is each for each in ours
            ):
                self._moved.append((handler, handler.stream))
                handler.setStream(stream)
        root.addHandler(self._lines)

    def close(self) -> None:
        logging.getLogger().removeHandler(self._lines)
        for handler, stream in self._moved:
            handler.setStream(stream)


class FileCapture:
    """Catches all that is written to the descriptors 1 and 2, in one file.

    Args:
        keep_all: Keep the logs of runs that have succeeded too.
    """

    def __init__(self, spool: SpoolDir, worker: str, *, keep_all: bool) -> None:
        self._spool = spool
        self._worker = worker
        self._keep_all = keep_all
        self._fd = -1
        self._runs = False
        self._said = False
        self._unseen = False
        self._saved: list[int] = []
        self._streams: tuple[TextIO, TextIO] | None = None
        self._output: TextIO | None = None
        self._errors: TextIO | None = None
        self._logging: _Logging | None = None

    def start(self) -> bool:
        """Begin to catch; tell whether that works here."""
        stdout, stderr = sys.__stdout__, sys.__stderr__
        if stdout is None or stderr is None or _is_odd(stdout, stderr):
            log.warning("cannot catch what tasks print: no standard output or error")
            return False
        try:
            path = runlogs.live_path(self._worker)
            self._fd = runlogs.open_new(self._spool, path)
            self._saved = [os.dup(1), os.dup(2)]
        except OSError as error:
            log.warning("cannot catch what tasks print: %s", error)
            self._let_go()
            return False
        _flush()
        _line_buffering_in_c()
        os.dup2(self._fd, 1)
        os.dup2(self._fd, 2)
        output, errors = self._saved
        self._streams = stdout, stderr
        self._logging = _Logging(
            _Text(errors, -1, stderr, _nothing, _nothing), self._write
        )
        self._output = _Text(1, output, stdout, self._note, self._lend)
        self._errors = _Text(2, errors, stderr, self._note, self._lend)
        if sys.stdout is stdout:  # or user code has its own, and keeps it
            sys.stdout = self._output
        if sys.stderr is stderr:
            sys.stderr = self._errors
        if not faulthandler.is_enabled():
            faulthandler.enable(2)
        return True

    def _note(self) -> None:
        self._said = True

    def _lend(self) -> None:
        self._output = None  # user code has its own stream from now on

    def _write(self, line: bytes) -> None:
        if self._runs:
            self._said = True
            runlogs.append(self._fd, line)

    def begin(self, claim: Claim) -> None:
        """Note that a run begins."""
        self._runs = True

    def end(self, claim: Claim, *, succeeded: bool, keep: bool | None) -> int:
        """Note that a run is over; keep and pass on what it printed."""
        self._runs = False
        if sys.stdout is not self._output or sys.stderr is not self._errors:
            _flush()  # user code has its own streams
        if succeeded and not keep and not self._keep_all and not self._said:
            self._unseen = True
            return 0
        return self._take(claim, succeeded=succeeded, keep=keep)

    def _take(self, claim: Claim | None, *, succeeded: bool, keep: bool | None) -> int:
        _flush()
        self._said = self._unseen = False
        try:
            if self._fd < 0 or not os.lseek(self._fd, 0, os.SEEK_END):
                return 0
            wanted = keep if keep is not None else self._keep_all or not succeeded
            run = None
            if wanted and claim is not None:
                run = claim.name.id, claim.name.attempt + 1
            kept, problem = runlogs.take(self._spool, self._fd, self._saved[0], run)
        except OSError as error:  # somebody has closed it, say
            log.warning("cannot catch what tasks print any more: %s", error)
            self.close()
            return 0
        if problem is not None and run is not None:
            log.warning("cannot keep the log of task=%s: %s", run[0], problem)
        return kept

    def rest(self) -> None:
        """Pass on what C code or a child of the last runs has printed."""
        if self._unseen:
            self._take(None, succeeded=True, keep=False)

    def close(self) -> None:
        """Catch no more; pass on what was printed since the last run."""
        _flush()
        if self._logging is not None:
            self._logging.close()
            self._logging = None
        if self._streams is not None:
            for fd, saved in enumerate(self._saved, 1):
                with suppress(OSError):
                    os.dup2(saved, fd)
            with suppress(OSError):
                runlogs.take(self._spool, self._fd, 1, None)
            sys.stdout, sys.stderr = self._streams
            self._streams = None
        self._let_go()

    def _let_go(self) -> None:
        for fd in (self._fd, *self._saved):
            with suppress(OSError):
                os.close(fd)
        self._fd, self._saved = -1, []
        runlogs.forget_live(self._spool, self._worker)


def _is_odd(stdout: TextIO, stderr: TextIO) -> bool:
    """Tell whether the standard streams are not the descriptors 1 and 2."""
    try:
        return (stdout.fileno(), stderr.fileno()) != (1, 2)
    except (ValueError, OSError):
        return True


def _line_buffering_in_c() -> None:
    """Have C's ``printf`` write each line at once, as Python does here.

    Else, since it prints to a file now, it would keep it for later, and a worker ends
    without flushing.
    """
    with suppress(AttributeError, OSError, ValueError):
        libc = ctypes.CDLL(None)
        stream = ctypes.c_void_p.in_dll(libc, "stdout")
        libc.setvbuf(stream, None, _IOLBF, ctypes.c_size_t(0))


class _Routed(msgspec.Struct):
    """One of many runs; ``fd`` is -1 until it prints."""

    attempt: int
    fd: int = -1


class _Router(io.TextIOBase):
    """Stands for ``sys.stdout`` or ``sys.stderr``: prints where the run's log is.

    Bytes (``.buffer``) and child processes go to the stream that it stands for.
    """

    def __init__(self, write: Callable[[str, bytes], bool], stream: TextIO) -> None:
        self._write = write
        self._stream = stream

    def write(self, text: str, /) -> int:
        current = CURRENT.get()
        if current is not None:
            data = text.encode("utf-8", "backslashreplace")
            if self._write(current().id, data):
                return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    @property
    def buffer(self) -> object:
        return self._stream.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override] # it is read-only here
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override] # it is read-only here
        return "backslashreplace"


class RoutedCapture:
    """Catches what Python prints and logs in the contexts of many runs.

    Args:
        keep_all: Keep the logs of runs that have succeeded too.
    """

    def __init__(self, spool: SpoolDir, *, keep_all: bool) -> None:
        self._spool = spool
        self._keep_all = keep_all
        self._runs: dict[str, _Routed] = {}
        self._streams: tuple[TextIO, TextIO] | None = None
        self._logging: _Logging | None = None

    def start(self) -> bool:
        """Begin to catch; tell whether that works here."""
        stdout, stderr = sys.stdout, sys.stderr
        if stdout is None or stderr is None:
            log.warning("cannot catch what tasks print: no standard output or error")
            return False
        _flush()
        self._streams = stdout, stderr
        self._logging = _Logging(None, self._log)
        sys.stdout = _Router(self._print, stdout)
        sys.stderr = _Router(self._print, stderr)
        return True

    def _print(self, task_id: str, data: bytes) -> bool:
        """Write to the log of a run; tell whether that is possible."""
        run = self._runs.get(task_id)
        if run is None:  # it is over, and has left something running
            return False
        try:
            if run.fd < 0:
                path = runlogs.log_path(task_id, run.attempt)
                run.fd = runlogs.open_new(self._spool, path)
            runlogs.append(run.fd, data)
            runlogs.cut(run.fd)
        except OSError:  # a full disk: a function that only prints must not fail
            return False
        return True

    def _log(self, line: bytes) -> None:
        current = CURRENT.get()
        if current is not None:
            self._print(current().id, line)

    def begin(self, claim: Claim) -> None:
        """Note that a run begins."""
        self._runs[claim.name.id] = _Routed(claim.name.attempt + 1)

    def end(self, claim: Claim, *, succeeded: bool, keep: bool | None) -> int:
        """Note that a run is over; keep and pass on what it printed."""
        return self._end(claim.name.id, succeeded=succeeded, keep=keep)

    def _end(self, task_id: str, *, succeeded: bool, keep: bool | None) -> int:
        run = self._runs.pop(task_id, None)
        if run is None or run.fd < 0 or self._streams is None:
            return 0
        wanted = keep if keep is not None else self._keep_all or not succeeded
        with suppress(ValueError, OSError):
            return runlogs.finish(
                self._spool,
                run.fd,
                self._streams[0].fileno(),
                (task_id, run.attempt),
                wanted=wanted,
            )
        return 0

    def rest(self) -> None:
        """Do nothing: each run's output was passed on at its end."""

    def close(self) -> None:
        """Catch no more."""
        for task_id in list(self._runs):
            self._end(task_id, succeeded=False, keep=None)
        if self._logging is not None:
            self._logging.close()
            self._logging = None
        if self._streams is not None:
            sys.stdout, sys.stderr = self._streams
            self._streams = None
