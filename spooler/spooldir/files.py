"""Write small files and sync directories: what several moves are made of."""

import errno
import os
from contextlib import suppress
from typing import Final

DIR_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
NO_LINK: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""What file systems without hard links say."""


def sync_directory(path: str) -> None:
    """Sync a directory that is not in the spool."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def some_of(names: list[str], most: int) -> list[str]:
    """Return so many names, from anywhere on: what stays hides no other for ever."""
    start = int.from_bytes(os.urandom(4)) % max(1, len(names))
    return [*names[start:], *names[:start]][:most]


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``, over as many calls as it takes."""
    written = os.write(fd, data)
    while written < len(data):
        data = data[written:]
        written = os.write(fd, data)


def write_new(
    root: int,
    hidden: str,
    path: str,
    data: bytes,
    owner: tuple[int, int] | None = None,
    *,
    mtime_us: int | None = None,
) -> None:
    """Write a small file durably and put it into place, over an older one.

    The directory of ``path`` is not synced.

    Args:
        hidden: The name under which it is written first; must be new.
        owner: Whose it is to be, uid and gid; None for this process's own.
        mtime_us: Its modification time, in µs since the epoch; None for now.
    """
    fd = os.open(hidden, NEW_FLAGS, 0o600, dir_fd=root)
    try:
        try:
            if owner is not None:
                os.fchown(fd, *owner)
            write_all(fd, data)
            if mtime_us is not None:
                os.utime(fd, ns=(mtime_us * 1000, mtime_us * 1000))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(hidden, path, src_dir_fd=root, dst_dir_fd=root)
    except BaseException:
        with suppress(OSError):
            os.unlink(hidden, dir_fd=root)
        raise


def link_to(root: int, fd: int, hidden: str | None, path: str) -> None:
    """Give an open file one more name, which never overwrites.

    Args:
        hidden: A name that it has; None for a file that has none.
    """
    if hidden is None:
        source = f"/proc/self/fd/{fd}"
        os.link(source, path, dst_dir_fd=root, follow_symlinks=True)
    else:
        os.link(hidden, path, src_dir_fd=root, dst_dir_fd=root, follow_symlinks=False)


def link_new(root: int, fd: int, hidden: str | None, path: str) -> None:
    """Do as ``link_to``, or rename where there are no hard links."""
    try:
        link_to(root, fd, hidden, path)
    except OSError as error:
        if hidden is None or error.errno not in NO_LINK:
            raise
        try:
            os.stat(path, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(hidden, path, src_dir_fd=root, dst_dir_fd=root)
            return
        # A rename would overwrite it.
        raise FileExistsError(errno.EEXIST, "exists", path) from None
