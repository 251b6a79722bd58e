"""Adopt dropped files with a uniqueness key: link them to it, or a copy of them.

Specification: docs/format.md, section 8.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..options import IfExists
from ..task import Name
from . import keys
from .body import PIECE
from .files import write_all
from .keys import Sender, Taking, close, key_path, put_written
from .owner import flock, id_of, mark, open_for_lock, same, unlock
from .reading import READ_FLAGS, TaskFile
from .root import SpoolDir


def adopt(
    spool: SpoolDir,
    path: str,
    status: os.stat_result,
    name: Name,
    key: str,
    if_exists: IfExists,
) -> tuple[Name, bool]:
    """Make a dropped file with a key a task, or remove it since the key is taken.

    Not synced. A crash leaves it where it was, or done.

    Args:
        path: Where it was dropped.
        status: Of the file that was read.
        name: What it is to be called.

    Returns:
        The name that it has got, and True; or the task that has the key, and False.

    Raises:
        BlockingIOError: Another daemon is adopting it.
        TimeoutError: Somebody else is busy with the key.
        OSError: From the file system.
    """
    fd = _lock_dropped(spool, path)
    try:
        if not same(os.fstat(fd), status) or not same(spool.status(path), status):
            raise FileNotFoundError(errno.ENOENT, "somebody has moved it", path)
        at = key_path(name.task, key)
        with Taking(spool, at, keys.ADOPT_TIMEOUT) as taking:
            # Not by its name, which its owner can give to another file meanwhile.
            hidden = None if os.path.isdir("/proc/self/fd") else path
            there = taking.take(fd, hidden, if_exists)
            if there is not None:
                os.unlink(path, dir_fd=spool.fd)
                return there, False
            name = spool.move(path, name, durable=False)
            taking.remove_old(durable=False)
            return name, True
    finally:
        unlock(fd)
        close(fd)


def _lock_dropped(spool: SpoolDir, path: str) -> int:
    """Open a dropped file and lock it.

    For reading where that will do: who closes a file that he could write to makes
    inotify tell of it, and the supervisor would look at it again, for ever.
    """
    fd = os.open(path, READ_FLAGS, dir_fd=spool.fd)
    try:
        flock(fd)
    except OSError as error:
        close(fd)
        if error.errno != errno.EBADF:
            raise
        fd = open_for_lock(spool, path)  # NFS, where inotify tells nothing
        flock(fd)
    return fd


def adopt_copy(
    spool: SpoolDir,
    path: str,
    task: TaskFile,
    name: Name,
    key: str,
    if_exists: IfExists,
    sender: Sender | None = None,
) -> tuple[Name, bool]:
    """Do as ``adopt`` with a file of somebody else, of which a copy is made.

    Who can open a file can lock it, and hold up all who want its key: so no file that
    he can open ever has one. Durable, since the file that was dropped is removed.

    Args:
        task: The file, open as it was read.
        sender: As for ``keys.put``.

    Raises:
        CorruptError: As for ``keys.put``; nothing was written.
        SpoolUncertain: As for ``keys.put``.
    """
    at = key_path(name.task, key)
    with _lock_opened(spool, path, task):
        with Taking(spool, at, keys.ADOPT_TIMEOUT, sender=sender) as taking:
            there = taking.look(if_exists)
        if there is None:
            # Its owner may have signed it; this process does not vouch for it.
            fd, hidden = spool.write(name, [task.data], durable=False, sign=False)
            try:
                _copy_rest(task, fd)
                if sender is not None:
                    _give(spool, fd, name, sender.uid)
                os.fsync(fd)
                if task.header.id is None:
                    name = name.but(id=id_of(at, task.header, os.fstat(fd)))
            except BaseException:
                spool.let_go(fd, hidden)
                raise
            with Taking(spool, at, keys.ADOPT_TIMEOUT, sender=sender) as taking:
                new = (name, fd, hidden, taking)
                there = put_written(spool, *new, if_exists, durable=True)
        if same(spool.status(path), os.fstat(task.fd)):  # else it is yet to be seen
            os.unlink(path, dir_fd=spool.fd)
    return (name, True) if there is None else (there, False)


@contextmanager
def _lock_opened(spool: SpoolDir, path: str, task: TaskFile) -> Iterator[None]:
    """Lock a file that was dropped, so that no other daemon copies it too."""
    try:
        flock(task.fd)
    except OSError as error:
        if error.errno != errno.EBADF:  # NFS, for which it must be open for writing
            raise
    try:
        if not same(spool.status(path), os.fstat(task.fd)):
            raise FileNotFoundError(errno.ENOENT, "somebody has moved it", path)
        yield
    finally:
        unlock(task.fd)


def _give(spool: SpoolDir, fd: int, name: Name, uid: int) -> None:
    """Have a copy be his who has dropped the file, as if he had put it; or say so."""
    if os.geteuid() != 0:
        mark(fd, uid)
        return
    above = spool.status(str(name.priority))
    os.fchown(fd, uid, -1 if above is None else above.st_gid)
    os.fchmod(fd, 0o660)


def _copy_rest(task: TaskFile, fd: int) -> None:
    """Have a copy, to which ``task.data`` was written, hold all that the file held.

    The header is the one that was looked at, whatever its owner has written over it:
    without its key the copy would be taken for the daemon's own (see ``forwarding``).
    A hole stays one, and costs nothing.
    """
    at = len(task.data)
    size = max(at, task.size)
    while at < size:
        try:
            at = os.lseek(task.fd, at, os.SEEK_DATA)
            end = min(os.lseek(task.fd, at, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # the rest is a hole, or was cut off
        os.lseek(fd, at, os.SEEK_SET)
        while at < end and (piece := os.pread(task.fd, min(PIECE, end - at), at)):
            write_all(fd, piece)
            at += len(piece)
    os.truncate(fd, size)
    os.utime(fd, ns=(task.mtime_ns, task.mtime_ns))
