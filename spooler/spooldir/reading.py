"""Read a task file: opened safely, checked, parsed; its body as a file.

Specification: docs/format.md, sections 2 and 4.
"""

import errno
import io
import os
import stat
from collections.abc import Collection
from typing import Any, Final

import msgspec

from ..codec import Header, decode
from ..errors import CorruptError
from ..task import MAX_HEADER

READ_FLAGS: Final = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
)
CHUNK: Final = 64 * 1024
NOT_A_FILE: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR})
"""What ``open`` says of links, sockets and devices, and of directories."""


class BodyFile(io.RawIOBase):
    """The body of a task as a file: position 0 is its first byte.

    Read it through ``io.BufferedReader``. Closing it closes the descriptor.
    """

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._size = max(0, size - offset)
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``; return the number of bytes, 0 at the end."""
        if self.closed:  # the descriptor's number may be another file's by now
            raise ValueError("read of a closed body")
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._size - self._at)
        if length <= 0:
            return 0
        count = os.preadv(self._fd, [view[:length]], self._offset + self._at)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, counted from the body's first byte."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            os.close(self._fd)
        super().close()


class TaskFile(msgspec.Struct, gc=False):
    """An open task file.

    Attributes:
        known: Its header, if it was read.
        data: The first bytes of the file, as far as they were read.
        sealed: All of it is in ``data``, and what is in the file counts no more.
    """

    fd: int
    known: Header | None
    data: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    sealed: bool = False

    @property
    def header(self) -> Header:
        """What stands before the body. Read once, when it is asked for.

        Raises:
            CorruptError: It is not a task.
            OSError: From the file system; it says nothing about the task.
        """
        if self.known is None:
            self.known = self._read_header()
        return self.known

    def _read_header(self) -> Header:
        header = decode(self.data, whole=len(self.data) >= self.size)
        while header is None:
            more = os.pread(self.fd, min(self.size, 2 * MAX_HEADER), 0)
            if len(more) <= len(self.data):  # it shrank: what is there is all there is
                self.size = len(more)
            self.data = more
            header = decode(self.data, whole=len(self.data) >= self.size)
        return header

    def body(self) -> bytes:
        """Return the whole body."""
        if self.header.body is not None:
            return self.header.body.encode()
        offset = self.header.body_offset
        if self.size <= len(self.data):
            return self.data[offset:]
        with io.BufferedReader(BodyFile(os.dup(self.fd), offset, self.size)) as file:
            return file.read()

    def open_body(self) -> io.BufferedReader:
        """Return the body as a file of its own, to be closed by the caller."""
        if self.sealed or self.header.body is not None:
            fd = os.memfd_create("body", os.MFD_CLOEXEC)
            size = os.write(fd, self.body())
            return io.BufferedReader(BodyFile(fd, 0, size))
        body = BodyFile(os.dup(self.fd), self.header.body_offset, self.size)
        return io.BufferedReader(body, buffer_size=CHUNK)

    def close(self) -> None:
        """Close the descriptor; bodies that were opened stay open."""
        os.close(self.fd)


def open_file(path: str, owners: Collection[int] | None, *, dir_fd: int) -> TaskFile:
    """Open a task file, check what it is and whose, and read its first bytes.

    Args:
        path: Relative to ``dir_fd``.
        owners: The uids whose files count; None takes anybody's.

    Raises:
        CorruptError: Not a regular file, or not an accepted owner.
        OSError: From the file system; it says nothing about the task.
    """
    try:
        fd = os.open(path, READ_FLAGS, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.EACCES:
            _check_mode(path, owners, dir_fd=dir_fd)
        if error.errno not in NOT_A_FILE:
            raise
        raise CorruptError("is not a regular file") from None
    try:
        return _read(fd, owners)
    except BaseException:
        os.close(fd)
        raise


def _check_mode(path: str, owners: Collection[int] | None, *, dir_fd: int) -> None:
    """Check that a file which could not be opened may be read, by its mode.

    Raises:
        CorruptError: Never by this user, whatever is tried.
        OSError: From the file system.
    """
    status = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    uid, mode = os.geteuid(), stat.S_IMODE(status.st_mode)
    _check_owner(status, owners)
    if uid == status.st_uid:
        readable = mode & stat.S_IRUSR
    elif status.st_gid in (os.getegid(), *os.getgroups()):
        readable = mode & stat.S_IRGRP
    else:
        readable = mode & stat.S_IROTH
    if not readable and uid != 0:
        raise CorruptError(
            f"may not be read by uid {uid}: it belongs to uid {status.st_uid} and gid"
            f" {status.st_gid}, and its mode is {mode:04o}: put it again with mode 0640"
        )


def _check_owner(status: os.stat_result, owners: Collection[int] | None) -> None:
    if owners is not None and status.st_uid not in owners:
        raise CorruptError(f"its owner, uid {status.st_uid}, may not put tasks here")


def open_task(path: str, owners: Collection[int] | None, *, dir_fd: int) -> TaskFile:
    """Open a task file, and read its header: see ``open_file``.

    Raises:
        CorruptError: Not a regular file, not an accepted owner, or not a task.
        OSError: From the file system; it says nothing about the task.
    """
    task = open_file(path, owners, dir_fd=dir_fd)
    try:
        task.header  # noqa: B018 (it is read now)
    except BaseException:
        task.close()
        raise
    return task


def read_task(fd: int, owners: Collection[int] | None) -> TaskFile:
    """Check a file that was just opened, and read its header: see ``open_task``."""
    task = _read(fd, owners)
    task.header  # noqa: B018 (it is read now)
    return task


def _read(fd: int, owners: Collection[int] | None) -> TaskFile:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise CorruptError("is not a regular file")
    _check_owner(status, owners)
    data = os.read(fd, CHUNK)
    return TaskFile(
        fd, None, data, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
