"""The file that a uniqueness key's name is a link to, and what it tells of its task.

Specification: docs/format.md, section 8.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from ..clock import Clock
from ..codec import Header
from ..errors import CorruptError
from ..moments import parse_at
from ..task import DEFAULT_PRIORITY, Name, derived_id
from . import reports
from .reading import read_task
from .root import SpoolDir

_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_NO_FLOCK: Final = frozenset(
    {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
)

MARK: Final = "user.spooler.uid"
"""The extended attribute that says who put a task whose file is the daemon's."""

NOBODY: Final = -1
"""Who puts over a network: nobody knows."""

_NO_MARK: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS})

_SEARCHES: Final = 3
"""How often a task that is to be replaced is looked for while it moves."""


def id_of(path: str, header: Header, status: os.stat_result) -> str:
    """Return the id of a task with a key: from its file alone.

    Args:
        path: The key's, from ``key_path``.
    """
    if header.id is not None:
        return header.id
    return derived_id(path.partition("/")[2], status.st_ino, status.st_mtime_ns)


def masters(spool: SpoolDir) -> frozenset[int]:
    """Return who may do anything in a spool: root, its owner and this user."""
    return frozenset({0, os.geteuid(), os.fstat(spool.fd).st_uid})


def mark(fd: int, uid: int) -> bool:
    """Say who put a task, on a file that is not his. Not synced.

    Returns:
        Whether that could be said. Where there are no extended attributes it cannot,
        and the task is nobody's but its file's owner's.
    """
    try:
        os.setxattr(fd, MARK, b"%d" % uid)
    except OSError:
        return False
    return True


def marked(fd: int) -> int:
    """Return the uid of whom a file names as who put it; if nobody, its owner's.

    Raises:
        OSError: From the file system.
    """
    try:
        return int(os.getxattr(fd, MARK))
    except ValueError:
        return NOBODY
    except OSError as error:
        if error.errno not in _NO_MARK:
            raise
        return os.fstat(fd).st_uid


def sender_of(spool: SpoolDir, fd: int) -> int:
    """Return the uid of who put a task: the owner of its file, or whom that names.

    Others could write on their own files whatever they like; and that a task is this
    user's own he says himself only.

    Raises:
        OSError: From the file system.
    """
    uid = os.fstat(fd).st_uid
    named = marked(fd) if uid in masters(spool) else uid
    return uid if named == os.geteuid() else named


def asker_of(fd: int) -> int:
    """Return for whom a task may do what only this user may: this user, or another.

    Raises:
        OSError: From the file system.
    """
    uid = os.fstat(fd).st_uid
    return marked(fd) if uid == os.geteuid() else uid


class Owner:
    """The file that a key's name is a link to: open, and locked by this process.

    Attributes:
        hidden: A left-over name of a producer who died, once ``is_free`` was asked.
    """

    def __init__(self, spool: SpoolDir, path: str, fd: int, clock: Clock) -> None:
        self.fd = fd
        self.hidden: str | None = None
        self._spool = spool
        self._clock = clock
        self._status = os.fstat(fd)
        self._header: Header | None = None
        self.name = Name(0, 0, 0, "0" * 16, "_")
        with suppress(CorruptError):
            self._header = header = read_task(fd, None).header
            self.name = _first_name(header, id_of(path, header, self._status))

    def is_free(self) -> bool:
        """Tell whether others may have its key.

        Raises:
            OSError: From the file system.
        """
        header, links = self._header, os.fstat(self.fd).st_nlink - 1
        if header is None:  # it is no task any more
            return True
        kept = header.options.unique_for if header.options else None
        if kept is not None:
            age_us = self._clock.now_us() - self._status.st_mtime_ns // 1000
            if abs(age_us) < kept * 1e6:  # far in the future is a wrong clock
                return False
        if links and self._is_at(_path(self.name)):
            return False
        hidden = f"{self.name.folder}/.{self.name}"
        if links and self._is_at(hidden):
            self.hidden = hidden
            links -= 1
        if not links:
            return True
        if any(self._found_in(folder) for folder in ("failed", "corrupt")):
            return True
        # It may have been removed from there while it was looked for.
        return os.fstat(self.fd).st_nlink - 1 == (self.hidden is not None)

    @property
    def uid(self) -> int:
        """Who put its task."""
        return sender_of(self._spool, self.fd)

    def remove(self) -> str | None:
        """Remove its task, if it waits; return where it was, None if it does not.

        Raises:
            OSError: From the file system.
        """
        for _ in range(_SEARCHES):
            if not os.fstat(self.fd).st_nlink:
                return None
            path = self._find()
            if path is None:
                continue
            if path.startswith(("running/", "failed/", "corrupt/")):
                return None
            with suppress(FileNotFoundError):  # somebody has claimed it just now
                os.unlink(path, dir_fd=self._spool.fd)
                native = Name.parse(path.rpartition("/")[2])
                if native is not None and native.attempt:
                    reports.forget_attempts(self._spool, native.id)
                return path
        return None

    def _find(self) -> str | None:
        if self._is_at(_path(self.name)):
            return _path(self.name)
        for folder in _folders(self._spool):
            file = None
            with suppress(PermissionError):  # of a worker of root: what is there runs
                file = self._found_in(folder)
            if file is not None:
                return file if folder == "." else f"{folder}/{file}"
        return None

    def _is_at(self, path: str) -> bool:
        return same(self._spool.status(path), self._status)

    def _found_in(self, folder: str) -> str | None:
        """Return its name in a directory; None if it is not there."""
        try:
            entries = os.scandir(f"{self._spool.path}/{folder}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        with entries:
            own = (each for each in entries if each.inode() == self._status.st_ino)
            first = next(own, None)
        return None if first is None else first.name


def _folders(spool: SpoolDir) -> Iterator[str]:
    """Yield where a task may be; where it is soon found first."""
    for worker in spool.names("running"):
        yield f"running/{worker}"
    yield from ("failed", "corrupt", "held", ".")
    for priority in spool.priorities():
        yield str(priority)
        for minute in spool.minutes(priority):
            yield f"{priority}/{minute}"


def _first_name(header: Header, task_id: str) -> Name:
    """Return the name under which a task was put, as far as its file tells.

    The due time of a file that was dropped may not be known: then it is 0.
    """
    due_us = 0
    with suppress(ValueError):
        due_us = parse_at(header.at or 0, 0)
    priority = DEFAULT_PRIORITY if header.priority is None else header.priority
    return Name(due_us, priority, 0, task_id, header.task)


def _path(name: Name) -> str:
    return f"{name.folder}/{name}"


def same(found: os.stat_result | None, status: os.stat_result) -> bool:
    """Tell whether this is what was found at a path; None is nothing."""
    return found is not None and os.path.samestat(found, status)


def open_for_lock(spool: SpoolDir, path: str) -> int:
    """Open a file that is to be locked and read.

    For writing, since an exclusive lock of NFS needs it; a file that was dropped
    read-only cannot be, and then only NFS minds.

    Raises:
        OSError: From the file system.
    """
    try:
        return os.open(path, os.O_RDWR | _FLAGS, dir_fd=spool.fd)
    except PermissionError:
        return os.open(path, os.O_RDONLY | _FLAGS, dir_fd=spool.fd)


def flock(fd: int) -> None:
    """Lock a file for this process alone.

    Raises:
        BlockingIOError: Somebody else has it.
        OSError: From the file system, or it has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        text = "uniqueness keys need locks (flock), and there are none here"
        raise OSError(error.errno, text, os.readlink(f"/proc/self/fd/{fd}")) from None


def unlock(fd: int) -> None:
    """Let go of a lock now: a child that was forked meanwhile has it open too."""
    with suppress(OSError):  # closing it is enough, but for such a child
        fcntl.flock(fd, fcntl.LOCK_UN)
