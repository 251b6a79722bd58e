"""Write small files and sync directories: what several moves are made of."""

import os
from contextlib import suppress
from typing import Final

DIR_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def sync_directory(path: str) -> None:
    """Sync a directory that is not in the spool."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``, over as many calls as it takes."""
    written = os.write(fd, data)
    while written < len(data):
        data = data[written:]
        written = os.write(fd, data)


def write_new(root: int, hidden: str, path: str, data: bytes) -> None:
    """Write a small file durably and put it into place, over an older one.

    The directory of ``path`` is not synced.

    Args:
        hidden: The name under which it is written first; must be new.
    """
    fd = os.open(hidden, NEW_FLAGS, 0o600, dir_fd=root)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(hidden, path, src_dir_fd=root, dst_dir_fd=root)
    except BaseException:
        with suppress(OSError):
            os.unlink(hidden, dir_fd=root)
        raise
