"""What runs print: the files in ``logs/``.

All of it is for people: nothing is synced, and no task waits for it.
Specification: docs/format.md, section 13.
"""

import fcntl
import os
import re
import select
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from ..clock import CLOCK, Clock
from ..task import Name, is_id
from .files import NEW_FLAGS, each_name, some_of, write_all
from .progress import PROGRESS_MAX_AGE, forget_progress
from .reading import READ_FLAGS
from .root import SpoolDir

HEAD: Final = 64 * 1024
"""Bytes that are kept of the beginning of what was printed."""

TAIL: Final = 960 * 1024
"""Bytes that are kept of its end."""

LIVE_MAX: Final = 8 * 1024 * 1024
"""Bytes from which on what is being printed is trimmed."""

TRIMMED: Final = 64 * 1024
"""Bytes that trimming leaves."""

FORWARD_TAIL: Final = 2 * LIVE_MAX - HEAD
"""Bytes of the end that are passed on at most, after the first ``HEAD``."""

ATTEMPTS_MAX: Final = 100
"""How many logs of one task are kept: those of its last attempts."""

KEEP_LOGS_FOR: Final = 7 * 24 * 3600.0
"""Seconds for which the logs of finished tasks are kept, where nobody says."""

LEFT_OVER_AGE: Final = 24 * 3600.0
"""Seconds after which a live file without its worker is a left-over."""

SWEEP_MAX: Final = 5_000
"""How many files one sweep looks at."""

PATIENCE_MS: Final = 10
"""Milliseconds for which a supervisor waits for somebody to read what it prints."""

_CHUNK: Final = 64 * 1024
_LOG = re.compile(r"([0-9a-f]{16})\.([1-9]\d{0,6})", re.ASCII)
_NOTE = re.compile("… ([0-9]{1,18}) bytes left out …\n".encode())


def _note(left_out: int) -> bytes:
    return f"… {left_out} bytes left out …\n".encode()


def live_path(worker: str) -> str:
    """Return where what a worker's run prints is, while it runs."""
    return f"logs/{worker}.live"


def log_path(task_id: str, attempt: int) -> str:
    """Return where what a run has printed is kept."""
    return f"logs/{task_id}.{attempt}"


# -- being printed ------------------------------------------------------------------


def open_new(spool: SpoolDir, path: str) -> int:
    """Open an empty file that is appended to and can be read again.

    Raises:
        OSError: From the file system.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=spool.fd)


def append(fd: int, data: bytes) -> None:
    """Add to a file that ``open_new`` has opened.

    Raises:
        OSError: From the file system.
    """
    write_all(fd, data)


def take(
    spool: SpoolDir, fd: int, output: int, run: tuple[str, int] | None
) -> tuple[int, OSError | None]:
    """Pass on what was printed, keep it if it is to be kept, and empty the file.

    Args:
        fd: The file.
        output: Where it is passed on to; may be slow, or gone.
        run: Task id and attempt, if it is to be kept.

    Returns:
        How many bytes were kept, and why they could not be.

    Raises:
        OSError: The file could not be emptied.
    """
    fcntl.flock(fd, fcntl.LOCK_EX)  # not while a supervisor trims it
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        kept, problem = 0, None
        if run is not None:
            try:
                kept = keep(spool, fd, size, *run)
            except OSError as error:
                problem = error
        forward(fd, size, output)
        os.ftruncate(fd, 0)
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
    return kept, problem


def keep(spool: SpoolDir, fd: int, size: int, task_id: str, attempt: int) -> int:
    """Keep the beginning and the end of what was printed; return how many bytes.

    Raises:
        OSError: From the file system. Nothing new is kept.
    """
    data = b"".join(_pieces(fd, size, TAIL))
    hidden = f"logs/.{os.urandom(8).hex()}"
    new = os.open(hidden, NEW_FLAGS, 0o600, dir_fd=spool.fd)
    try:
        try:
            write_all(new, data)
        finally:
            os.close(new)
        _put_in_place(spool, hidden, task_id, attempt)
    except BaseException:
        with suppress(OSError):
            os.unlink(hidden, dir_fd=spool.fd)
        raise
    return len(data)


def _put_in_place(spool: SpoolDir, path: str, task_id: str, attempt: int) -> None:
    target = log_path(task_id, attempt)
    os.rename(path, target, src_dir_fd=spool.fd, dst_dir_fd=spool.fd)
    _forget_oldest(spool, task_id, attempt)


def _forget_oldest(spool: SpoolDir, task_id: str, attempt: int) -> None:
    if attempt > ATTEMPTS_MAX:  # a task may be tried again for ever
        with suppress(OSError):
            os.unlink(log_path(task_id, attempt - ATTEMPTS_MAX), dir_fd=spool.fd)


def _pieces(fd: int, size: int, tail: int) -> Iterator[bytes]:
    """Yield a file's first ``HEAD`` and last ``tail`` bytes, a note between them."""
    if size <= HEAD + tail:
        yield from _read(fd, 0, size)
        return
    yield from _read(fd, 0, HEAD)
    yield _note(size - HEAD - tail)
    yield from _read(fd, size - tail, size)


def _read(fd: int, begin: int, end: int) -> Iterator[bytes]:
    while begin < end:
        data = os.pread(fd, min(_CHUNK, end - begin), begin)
        if not data:  # somebody has cut it
            return
        yield data
        begin += len(data)


def forward(fd: int, size: int, output: int) -> None:
    """Pass on what was printed to where spoold prints; wait if nobody reads there.

    What cannot be printed there is lost, as it is for any program.
    """
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    with suppress(OSError):
        for data in _pieces(fd, size, FORWARD_TAIL):
            while data:
                try:
                    data = data[os.write(output, data) :]
                except BlockingIOError:
                    poll.poll()


def forward_now(fd: int, size: int, output: int) -> None:
    """Pass on what was printed without ever waiting: for a supervisor.

    If nobody reads there, the rest is left out.
    """
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    with suppress(OSError):
        for data in _pieces(fd, size, TAIL):
            for begin in range(0, len(data), select.PIPE_BUF):
                if not poll.poll(PATIENCE_MS):
                    return
                os.write(output, data[begin : begin + select.PIPE_BUF])


def trim(spool: SpoolDir, worker: str) -> bool:
    """Keep only the end of what a worker's run has printed, if that is too much.

    What is printed at that very moment may be lost.

    Returns:
        Whether something was dropped.

    Raises:
        OSError: From the file system.
    """
    path = live_path(worker)
    try:
        status = os.stat(path, dir_fd=spool.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if status.st_size <= LIVE_MAX:
        return False
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, dir_fd=spool.fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cut(fd)
    except BlockingIOError:  # the run is over: it is being kept
        return False
    finally:
        os.close(fd)


def cut(fd: int) -> bool:
    """Do what ``trim`` does to an open file.

    Raises:
        OSError: From the file system.
    """
    size = os.lseek(fd, 0, os.SEEK_END)
    if size <= LIVE_MAX:
        return False
    begin = size - TRIMMED
    earlier = _NOTE.match(os.pread(fd, 64, 0))
    left_out = begin
    if earlier is not None:
        left_out += int(earlier[1]) - len(earlier[0])
    data = b"".join(_read(fd, begin, size))
    os.ftruncate(fd, 0)
    write_all(fd, _note(left_out) + data)
    return True


def finish(
    spool: SpoolDir, fd: int, output: int, run: tuple[str, int], *, wanted: bool
) -> int:
    """End a log that was written under its own name; close it.

    Args:
        fd: The file, from ``open_new``.
        output: Where it is passed on to.
        run: Task id and attempt.
        wanted: It is to be kept.

    Returns:
        How many bytes were kept.

    Raises:
        OSError: From the file system.
    """
    path = log_path(*run)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        forward(fd, size, output)
        if not wanted:
            os.unlink(path, dir_fd=spool.fd)
            return 0
        if size > HEAD + TAIL:
            return keep(spool, fd, size, *run)
        _forget_oldest(spool, *run)
        return size
    finally:
        os.close(fd)


# -- when a worker has died ---------------------------------------------------------


def rescue(spool: SpoolDir, worker: str, output: int | None = None) -> None:
    """Keep what a dead worker's run has printed. Never fails; may be repeated.

    Call it with its lock, before its tasks are given back. Only if it held one task it
    is known whose log that is.

    Args:
        output: Where to pass it on; None for nowhere.
    """
    path = live_path(worker)
    with suppress(OSError):  # logs are for people; the tasks come first
        names = [*filter(None, map(Name.parse, spool.names(f"running/{worker}")))]
        for name in names:
            forget_progress(spool, name.id)
        fd = os.open(path, READ_FLAGS, dir_fd=spool.fd)
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
            if size and output is not None:
                forward_now(fd, size, output)
            if size and len(names) == 1:
                name = names[0]
                if size > HEAD + TAIL:
                    keep(spool, fd, size, name.id, name.attempt + 1)
                else:  # which works on a full disk too
                    _put_in_place(spool, path, name.id, name.attempt + 1)
        finally:
            os.close(fd)
        forget_live(spool, worker)


def forget_live(spool: SpoolDir, worker: str) -> None:
    """Remove a worker's live file, if there is one. Never fails."""
    with suppress(OSError):
        os.unlink(live_path(worker), dir_fd=spool.fd)


# -- kept ---------------------------------------------------------------------------


def kept(spool: SpoolDir, begin: str) -> dict[str, list[int]]:
    """Return the attempts whose logs are kept, in order, by task id.

    Args:
        begin: The id, or its beginning.

    Raises:
        OSError: From the file system.
    """
    found: dict[str, list[int]] = {}
    for file in spool.names("logs"):
        if file.startswith(begin) and (match := _LOG.fullmatch(file)):
            found.setdefault(match[1], []).append(int(match[2]))
    return {task_id: sorted(attempts) for task_id, attempts in found.items()}


def read(spool: SpoolDir, path: str, begin: int = 0) -> tuple[bytes, int, int]:
    """Return a log from a place on, its size, and its time in µs since the epoch.

    At most ``2 * LIVE_MAX`` bytes.

    Raises:
        OSError: From the file system, such as that there is none.
    """
    fd = os.open(path, READ_FLAGS, dir_fd=spool.fd)
    try:
        status = os.fstat(fd)
        end = min(status.st_size, begin + 2 * LIVE_MAX)
        data = b"".join(_read(fd, begin, end))
    finally:
        os.close(fd)
    return data, status.st_size, status.st_mtime_ns // 1000


def rest(data: bytes, printed: int) -> bytes:
    """Return what follows in a kept log, ``printed`` bytes of the run being known."""
    note = _NOTE.match(data, HEAD)
    if note is None or printed <= HEAD:
        return data[printed:]
    after = printed - HEAD - int(note[1])
    return data[HEAD:] if after < 0 else data[note.end() + after :]


def forget(spool: SpoolDir, task_id: str, attempts: int) -> None:
    """Remove the logs of a task that is removed, and its progress. Never fails.

    Args:
        attempts: How many runs of it were begun at most.
    """
    for attempt in range(max(1, attempts - ATTEMPTS_MAX), attempts + 1):
        with suppress(OSError):  # they are swept by age
            os.unlink(log_path(task_id, attempt), dir_fd=spool.fd)
    forget_progress(spool, task_id)


def sweep(spool: SpoolDir, keep_for: float, clock: Clock = CLOCK) -> int:
    """Remove logs that are old enough; return how many.

    Those of failed tasks stay as long as the task does. A bounded amount of work: where
    there is more, chance chooses.

    Args:
        keep_for: Seconds since a run has ended.

    Raises:
        OSError: From the file system.
    """
    names = (n for n in each_name(spool.fd, "logs") if _age(n, keep_for) is not None)
    chosen = some_of(names, SWEEP_MAX)
    ids = {file[:16] for file in chosen}
    if ids:
        parts = (name.split(".", 4) for name in each_name(spool.fd, "failed"))
        ids.difference_update(part[3] for part in parts if len(part) == 5)
    return sum(
        _unlink_old(spool, f"logs/{file}", clock, _age(file, keep_for) or 0.0)
        for file in chosen
        if file[:16] in ids and not _is_being_printed(spool, file)
    )


def _age(file: str, keep_for: float) -> float | None:
    """Return after how many seconds a file goes; None if that is not for its age."""
    if _LOG.fullmatch(file):
        return keep_for
    if file.endswith(".progress") and is_id(file[:16]):
        return PROGRESS_MAX_AGE
    return LEFT_OVER_AGE if file.endswith(".live") and file[0] != "." else None


def _is_being_printed(spool: SpoolDir, file: str) -> bool:
    return file.endswith(".live") and spool.has(f"workers/{file[:-5]}.lock")


def _unlink_old(spool: SpoolDir, path: str, clock: Clock, age: float) -> int:
    with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        status = os.stat(path, dir_fd=spool.fd, follow_symlinks=False)
        if clock.now_us() - status.st_mtime_ns // 1000 < age * 1e6:
            return 0
        os.unlink(path, dir_fd=spool.fd)
        return 1
    return 0
