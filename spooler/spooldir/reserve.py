"""A little space that is kept back, so that what was begun can end on a full disk.

``.reserve/`` holds a few files with space of their own. Whoever ends a task, gives one
back or writes its report, and finds no room, removes one of them and tries again. A
daemon makes them anew when there is room. Specification: docs/format.md, section 16.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

FOLDER: Final = ".reserve"

PIECES: Final = 16
"""Files in it, where the file system is not tiny: each is an inode that comes free."""

PIECE: Final = 64 * 1024
"""Bytes of each of them, at most."""

PART: Final = 32
"""It takes at most one of so many of the file system's blocks and inodes."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the kernel says when there is no room, or a quota is used up."""

_DIR_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = ".new"
"""Of a file that has no space yet. A crash leaves it to the next one."""

T = TypeVar("T")


def insist(root: int, act: Callable[[], T]) -> T:
    """Do something that ends work; if there is no room for it, use the reserve.

    Args:
        root: A descriptor of the spool's root.
        act: May be done again after an error.

    Raises:
        OSError: From the file system; without room only when the reserve is used up.
    """
    for _ in range(PIECES):
        try:
            return act()
        except OSError as error:
            if error.errno not in FULL or not use_some(root):
                raise
    return act()


def use_some(root: int) -> bool:
    """Remove one file of the reserve; tell whether there was one. Never fails."""
    with suppress(OSError):
        fd = os.open(FOLDER, _DIR_FLAGS, dir_fd=root)
        try:
            for file in os.listdir(fd):
                with suppress(FileNotFoundError):  # somebody else was first
                    os.unlink(file, dir_fd=fd)
                    return True
        finally:
            os.close(fd)
    return False


def fill(root: int, owner: tuple[int, int] | None) -> int:
    """Make what is missing of the reserve, as far as there is room.

    Args:
        root: A descriptor of the spool's root.
        owner: Whose the files are to be, uid and gid; None for this process's own.

    Returns:
        How many of its files are missing still.

    Raises:
        OSError: From the file system, but not for want of room.
    """
    wanted, size = _plan(os.fstatvfs(root))
    try:
        return _fill(root, owner, wanted, size)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return wanted  # there is no room for its folder


def _plan(system: os.statvfs_result) -> tuple[int, int]:
    """Return how many files there are to be, and how many bytes each has."""
    blocks = system.f_blocks // PART
    inodes = system.f_files // PART if system.f_files else PIECES  # btrfs has no count
    wanted = min(PIECES, blocks, inodes)
    if not wanted:
        return 0, 0
    return wanted, min(PIECE, blocks // wanted * system.f_frsize)


def _fill(root: int, owner: tuple[int, int] | None, wanted: int, size: int) -> int:
    try:
        fd = os.open(FOLDER, _DIR_FLAGS, dir_fd=root)
    except FileNotFoundError:
        os.mkdir(FOLDER, 0o700, dir_fd=root)
        if owner is not None:
            os.chown(FOLDER, *owner, dir_fd=root, follow_symlinks=False)
        fd = os.open(FOLDER, _DIR_FLAGS, dir_fd=root)
    try:
        there = set(os.listdir(fd))
        missing = [str(n) for n in range(wanted) if str(n) not in there]
        while missing and _has_room(fd, size) and _make(fd, missing[-1], size, owner):
            missing.pop()
        return len(missing)
    finally:
        os.close(fd)


def _has_room(fd: int, size: int) -> bool:
    """Tell whether it is of any use to try: what fails may cost the last block."""
    system = os.fstatvfs(fd)
    inodes = system.f_favail if system.f_files else 1
    return inodes > 0 and system.f_bavail * system.f_frsize >= size


def _make(fd: int, file: str, size: int, owner: tuple[int, int] | None) -> bool:
    """Make one file; tell whether there was room for it."""
    try:
        new = os.open(_NEW, _NEW_FLAGS, 0o600, dir_fd=fd)
        try:
            if owner is not None:
                os.fchown(new, *owner)
            os.posix_fallocate(new, 0, size)
        finally:
            os.close(new)
        with suppress(FileNotFoundError):  # used already, or another daemon's by now
            os.rename(_NEW, file, src_dir_fd=fd, dst_dir_fd=fd)
    except OSError as error:
        with suppress(OSError):
            os.unlink(_NEW, dir_fd=fd)
        if error.errno not in FULL:
            raise
        return False
    return True
