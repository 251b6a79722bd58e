"""Write small files and sync directories: what several moves are made of."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from math import log, log1p
from typing import Final, TypeVar

from .reserve import insist

DIR_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
NO_LINK: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""What file systems without hard links say."""

RACES_MAX: Final = 100
"""How often a minute folder is made again that somebody keeps removing."""

EPERM_MAX: Final = 3
"""How often "not permitted" is taken for such a removal, and not at its word."""

T = TypeVar("T")


def sync_directory(path: str, *, dir_fd: int | None = None) -> None:
    """Sync a directory: of the spool, or (without ``dir_fd``) any one.

    Raises:
        OSError: From the file system.
    """
    # Nobody puts links into a spool but to do harm; above it they are usual.
    flags = DIR_FLAGS if dir_fd is not None else DIR_FLAGS & ~os.O_NOFOLLOW
    fd = os.open(path, flags, dir_fd=dir_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def take_over(fd: int, old: int) -> int:
    """Return the descriptor ``fd``, under the number ``old`` if that is one.

    Other threads may be using that number: it is never closed.

    Raises:
        OSError: From the system; ``fd`` is closed then.
    """
    if old < 0:
        return fd
    try:
        os.dup2(fd, old, inheritable=False)
    finally:
        os.close(fd)
    return old


def list_directory(root: int, path: str) -> list[str]:
    """Return the names in a directory of the spool; none if it is gone.

    Raises:
        OSError: From the file system.
    """
    # Opened anew each time: on NFS a kept descriptor shows an old list.
    try:
        fd = os.open(path, DIR_FLAGS, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def each_name(root: int, path: str) -> Iterator[str]:
    """Yield the names in a directory of the spool, in no order; none if it is gone.

    However many there are, it takes no more memory.

    Raises:
        OSError: From the file system.
    """
    try:
        fd = os.open(path, DIR_FLAGS, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                yield entry.name
    finally:
        os.close(fd)


def some_of(names: Iterable[str], most: int) -> list[str]:
    """Return so many names, chosen by chance: what stays hides no other for ever.

    All of them, if they are not more. Li's algorithm L (1994): of a long row most are
    passed over without a look.
    """
    row = iter(names)
    found = list(islice(row, most))
    weight = 1.0
    while len(found) == most:
        weight *= _chance() ** (1 / most)
        passed = log(_chance()) / log1p(-weight) if weight < 1.0 else 0.0
        name = next(islice(row, int(passed), None), None)
        if name is None:
            break
        found[int(_chance() * most)] = name
    return found


def _chance() -> float:
    """Return a number by chance, above 0 and below 1."""
    return (int.from_bytes(os.urandom(4)) + 0.5) / (1 << 32)


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
    durable: bool = True,
) -> None:
    """Write a small file durably and put it into place, over an older one.

    The directory of ``path`` is not synced. Without room the reserve is used, for what
    is to be durable.

    Args:
        hidden: The name under which it is written first; must be new.
        owner: Whose it is to be, uid and gid; None for this process's own.
        mtime_us: Its modification time, in µs since the epoch; None for now.
        durable: Sync it; else a power cut may leave it empty.
    """
    file = (root, hidden, path, (data,), owner, mtime_us)
    if durable:
        insist(root, lambda: write_chunks(*file))
    else:
        write_chunks(*file, durable=False)


def write_chunks(
    root: int,
    hidden: str,
    path: str,
    chunks: Iterable[bytes],
    owner: tuple[int, int] | None = None,
    mtime_us: int | None = None,
    *,
    durable: bool = True,
) -> None:
    """Do what ``write_new`` does, in pieces of any size and without the reserve."""
    fd = os.open(hidden, NEW_FLAGS, 0o600, dir_fd=root)
    try:
        try:
            if owner is not None:
                os.fchown(fd, *owner)
            for chunk in chunks:
                write_all(fd, chunk)
            if mtime_us is not None:
                os.utime(fd, ns=(mtime_us * 1000, mtime_us * 1000))
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(hidden, path, src_dir_fd=root, dst_dir_fd=root)
    except BaseException:
        with suppress(OSError):
            os.unlink(hidden, dir_fd=root)
        raise


def close_new(root: int, fd: int, hidden: str | None) -> None:
    """Close a file that was written, and remove its hidden name, if it has one."""
    try:
        os.close(fd)
    finally:
        if hidden is not None:
            with suppress(OSError):  # nobody looks at it; it is swept by age
                os.unlink(hidden, dir_fd=root)


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


def insist_on_folder(
    act: Callable[[], T], make: Callable[[], None], is_wanted: Callable[[], bool]
) -> T:
    """Do something in a folder that daemons remove, and make it as often as need be.

    Args:
        make: Makes the folder.
        is_wanted: Whether there is anything to do still.

    Raises:
        OSError: From the file system.
    """
    for races in range(RACES_MAX):
        try:
            return act()
        except FileNotFoundError:
            if not is_wanted():
                raise
        except PermissionError as error:
            # What ext4 says of O_TMPFILE in a directory that is removed just now.
            if error.errno != errno.EPERM or races >= EPERM_MAX:
                raise
        make()
    return act()
