"""Locks for applications: each is held by one thread of one process on a spool.

A lock is an fcntl record lock of all of ``limits/<name>``: so it ends with its
process, no child inherits it, and the file is not swept meanwhile (docs/format.md,
section 12). The threads of a process wait for each other at a lock of their own, since
a process gets every record lock that it has already.
"""

import errno
import fcntl
import os
import threading
from typing import Final

from .root import SpoolDir

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TAKEN: Final = frozenset({errno.EAGAIN, errno.EACCES})


class UserLock:
    """One lock of a spool, for all threads of this process: make one for each name.

    Args:
        spool: Where; it is made if it is not there yet.
        name: The file's, in ``limits/``.
    """

    def __init__(self, spool: SpoolDir, name: str) -> None:
        self._spool = spool
        self._path = f"limits/{name}"
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take it; wait for whoever has it.

        A thread that has it already waits for ever.

        Raises:
            OSError: From the file system; EDEADLK if the one who has it waits for us.
        """
        self._after_fork()
        self._mutex.acquire()
        try:
            while self._fd is None:
                self._fd = self._lock(fcntl.LOCK_EX)
        except BaseException:
            self._mutex.release()
            raise

    def release(self) -> None:
        """Let go of it, whichever thread has it; if nobody here has it do nothing."""
        self._after_fork()
        fd, self._fd = self._fd, None
        if fd is not None:
            try:
                os.close(fd)  # with all locks of this process on the file
            finally:
                self._mutex.release()

    def is_held(self) -> bool:
        """Tell whether anybody has it.

        Raises:
            OSError: From the file system.
        """
        self._after_fork()
        if not self._mutex.acquire(blocking=False):
            return True
        try:
            fd = self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
            if fd is not None:
                os.close(fd)
        except OSError as error:
            if error.errno in _TAKEN:
                return True
            raise
        finally:
            self._mutex.release()
        return False

    def _lock(self, how: int) -> int | None:
        """Lock the file; return its descriptor, or None if it was removed meanwhile."""
        fd = os.open(self._path, _FLAGS, 0o600, dir_fd=self._spool.fd)
        try:
            fcntl.lockf(fd, how)
            there = os.stat(self._path, dir_fd=self._spool.fd, follow_symlinks=False)
            if os.path.samestat(there, os.fstat(fd)):
                os.utime(fd)  # it is in use: not to be swept
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def _after_fork(self) -> None:
        """Begin anew in a child: what its parent held is the parent's alone."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._mutex = threading.Lock()
            if self._fd is not None:
                fd, self._fd = self._fd, None
                os.close(fd)
