"""Files with uWSGI's names: their lock, and how they are written.

uWSGI holds an fcntl lock on a file that it writes or runs, and takes it to run one.
Whoever else moves such a file does it under the same lock, so that neither runs what
the other one does. Specification: docs/format.md, section 4.
"""

import errno
import fcntl
import itertools
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ..clock import CLOCK
from ..errors import SpoolUncertain, UsageError
from ..task import MAX_PRIORITY
from .files import DIR_FLAGS, sync_directory, write_chunks
from .reading import READ_FLAGS

PREFIX: Final = "uwsgi_spoolfile_on_"

REST: Final = MAX_PRIORITY
"""The priority of a packet in the root: uWSGI runs those in numbered folders first."""

_LOCK: Final = struct.Struct("hhqqi0q")
"""``struct flock``: type, whence, start, length, pid."""

_COUNTER: Final = itertools.count(1)


def is_uwsgi_name(file: str) -> bool:
    """Tell whether uWSGI takes a file of this name for a task."""
    return file.startswith(PREFIX)


def number_of(folder: str) -> str | None:
    """Return the priority that a folder of uWSGI's means here; None if it means none.

    uWSGI looks into every folder whose name is digits: ``05`` is 5. What is too large
    for a priority becomes the last one that still comes before the rest.
    """
    if not (folder.isascii() and folder.isdigit()):
        return None
    digits = folder.lstrip("0") or "0"
    return digits if len(digits) <= len(str(REST)) else str(REST - 1)


# -- the lock -------------------------------------------------------------------


@contextmanager
def locked(path: str, *, dir_fd: int) -> Iterator[bool]:
    """Hold a file so that no uWSGI begins it; give whether it is held.

    A lock for reading, which keeps off uWSGI's for writing: a file that is opened for
    writing would tell every watcher that it was written. It is the open file's, not the
    process's, which would lose it with any descriptor of the file that it closes.

    Args:
        path: Relative to ``dir_fd``.

    Raises:
        FileNotFoundError: It is gone: uWSGI has finished it, or somebody moved it.
        OSError: From the file system.
    """
    fd = os.open(path, READ_FLAGS, dir_fd=dir_fd)
    try:
        try:
            _set_lock(fd, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            yield False
            return
        # Whoever had the lock may have unlinked it.
        there = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        yield os.path.samestat(there, os.fstat(fd))
    finally:
        _unlock(fd)


def _set_lock(fd: int, kind: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, 0, 0, 0))


def _unlock(fd: int) -> None:
    """Let go and close; a child that was forked meanwhile must not keep the lock."""
    with suppress(OSError):
        _set_lock(fd, fcntl.F_UNLCK)
    os.close(fd)


# -- writing --------------------------------------------------------------------


def write(
    directory: str, chunks: Iterable[bytes], *, priority: str | None, at: float | None
) -> str:
    """Write a file for uWSGI, as it does itself but durably.

    It appears under its name when it is whole, so nobody need keep off it; and it is
    synced, the file and its folder.

    Args:
        directory: uWSGI's directory, which may be a spool.
        chunks: The bytes of the file, in pieces of any size.
        priority: Digits; the file gets into the folder of that number, which is made
            if need be. None or empty for the directory itself.
        at: Seconds since the epoch: its modification time, in whole seconds, before
            which it is not run. None or 0 for at once.

    Returns:
        Its absolute path. Whoever unlinks it cancels the task.

    Raises:
        UsageError: The priority is no number, in whose folder uWSGI would never look;
            or ``at`` is no moment that a file can have.
        SpoolUncertain: It is in place, but the last sync failed.
        OSError: From the file system; there is no task then.
    """
    folder = number_of(priority) if priority else "."
    if folder is None:
        raise UsageError(f"priority={priority!a:.80} cannot be: uWSGI takes digits")
    at_us = _modified_us(at)
    path = os.path.realpath(directory)
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        file = _new_name() if folder == "." else f"{folder}/{_new_name()}"
        if folder != ".":
            _make_folder(root, folder)
        _write(root, file, chunks, at_us)
    finally:
        os.close(root)
    return f"{path}/{file}"


def _modified_us(at: float | None) -> int | None:
    """Return the modification time that uWSGI would give a file, in µs."""
    try:
        seconds = int(at or 0)
    except (ValueError, OverflowError):
        seconds = 1 << 63
    if seconds >= 1 << 33:  # beyond what small file systems can keep, too
        raise UsageError(f"at={at} cannot be: it takes seconds since the epoch")
    return seconds * 1_000_000 if seconds > 0 else None


def _new_name() -> str:
    """Return a name as uWSGI's: host, process, count, chance, time."""
    host = socket.gethostname()
    chance = int.from_bytes(os.urandom(4)) >> 1
    seconds, micro = divmod(CLOCK.now_us(), 1_000_000)
    return f"{PREFIX}{host}_{os.getpid()}_{next(_COUNTER)}_{chance}_{seconds}_{micro}"


def _make_folder(root: int, folder: str) -> None:
    try:
        os.mkdir(folder, 0o700, dir_fd=root)
    except FileExistsError:
        return
    owner = owner_of(root)
    if owner is not None:
        os.chown(folder, *owner, dir_fd=root, follow_symlinks=False)
    os.fsync(root)


def owner_of(root: int) -> tuple[int, int] | None:
    """Return whom root's new files are given to: the directory's owner."""
    status = os.fstat(root)
    is_foreign = os.geteuid() == 0 and status.st_uid != 0
    return (status.st_uid, status.st_gid) if is_foreign else None


def _write(root: int, file: str, chunks: Iterable[bytes], at_us: int | None) -> None:
    folder, _, name = file.rpartition("/")
    hidden = f"{folder or '.'}/.{name}"
    # Such names do not occur twice: nothing is overwritten.
    write_chunks(root, hidden, file, chunks, owner_of(root), at_us)
    try:
        sync_directory(folder or ".", dir_fd=root)
    except OSError as error:
        raise SpoolUncertain(name, error) from error


# -- other folders --------------------------------------------------------------


def bring_over(root: int, folder: str, priority: str) -> int:
    """Move uWSGI's files from a folder such as ``05`` to that of their priority.

    Those that uWSGI runs or writes stay.

    Returns:
        How many were moved.

    Raises:
        OSError: From the file system.
    """
    moved = 0
    fd = os.open(folder, DIR_FLAGS, dir_fd=root)
    try:
        for file in os.listdir(fd):
            if not is_uwsgi_name(file):
                continue
            with suppress(FileNotFoundError), locked(file, dir_fd=fd) as is_held:
                if is_held:
                    _make_folder(root, priority)
                    moved += _move(fd, root, file, priority)
    finally:
        os.close(fd)
    return moved


def _move(source: int, root: int, file: str, priority: str) -> bool:
    """Move a file, unless there is one of that name, which rename would overwrite."""
    path = f"{priority}/{file}"
    try:
        os.stat(path, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(file, path, src_dir_fd=source, dst_dir_fd=root)
        return True
    return False
