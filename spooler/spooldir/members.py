"""Group spools: members may put tasks, and can do nothing else, nor see anything.

Everything that a member can do he does in a priority's folder, where he may write but
not read, and where only its owner may remove or rename what is there.
Specification: docs/format.md, "A group spool".
"""

import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ..errors import SpoolUncertain, UsageError
from ..logs import escape
from ..task import Name
from .files import NEW_FLAGS, close_new, link_new
from .marking import check_marker, is_own

MODE: Final = 0o660
"""Of a member's task. Its group is the daemon's own, which must read it; and a link,
such as a part of a batch, may be made only to what one may read and write."""

_PATH_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_TMPFILE_FLAGS: Final = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})

Fill = Callable[[int], None]
"""Writes a task into an open file."""

log = logging.getLogger(__name__)


def refusal(path: str) -> PermissionError:
    """Return the error for what a member asks that is not a plain put."""
    text = "you may put tasks here, without a key, and do or see nothing else"
    return PermissionError(errno.EACCES, text, path)


def enter(path: str) -> int | None:
    """Open a spool that may not be read, if one may put there.

    Returns:
        A descriptor of the root for calls that take ``dir_fd``; None if this is no
        spool, as far as one can see.

    Raises:
        NotASpoolError: It is newer.
        OSError: From the file system.
    """
    fd = os.open(path, _PATH_FLAGS)
    try:
        check_marker(path, fd)
    except (FileNotFoundError, PermissionError):
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def put(
    root: int,
    path: str,
    name: Name,
    fill: Fill,
    reopen: Callable[[], None],
    *,
    durable: bool,
    unnamed: bool,
) -> None:
    """Write a task and put it into its priority's folder, whence it is adopted.

    Args:
        root: From ``enter``.
        path: The spool's, for messages.
        fill: Is to sync the file, if that is wanted.
        reopen: Opens the spool anew, under the same number.
        durable: Sync the name too. The folder cannot be synced, since it may not be
            read; the file, once more, does as well on Linux's file systems.
        unnamed: Try ``O_TMPFILE``.

    Raises:
        NotASpoolError: The spool is gone.
        UsageError: There is no such priority.
        FileExistsError: There is a file of this name.
        SpoolUncertain: It is in place, but the last sync failed.
        OSError: From the file system; there is no task then.
    """
    folder, placed = str(name.priority), False
    try:
        fd, hidden = _open_new(root, folder, name, unnamed=unnamed)
    except FileNotFoundError:
        reopen()  # the spool may have been made anew
        try:
            fd, hidden = _open_new(root, folder, name, unnamed=unnamed)
        except FileNotFoundError:
            text = f"{path}: there is no priority {folder} for its group"
            raise UsageError(text) from None
    try:
        try:
            os.fchmod(fd, MODE)  # whatever the umask
            fill(fd)
            link_new(root, fd, hidden, f"{folder}/{name}")
            placed = True
            if durable:
                os.fsync(fd)
        finally:
            close_new(root, fd, hidden)
    except OSError as error:
        if not placed:
            raise
        raise SpoolUncertain(name.id, error) from error


def _open_new(
    root: int, folder: str, name: Name, *, unnamed: bool
) -> tuple[int, str | None]:
    if unnamed:
        try:
            return os.open(folder, _TMPFILE_FLAGS, MODE, dir_fd=root), None
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
    hidden = f"{folder}/.{name}"
    return os.open(hidden, NEW_FLAGS, MODE, dir_fd=root), hidden


# -- against members -----------------------------------------------------------------


def open_own(root: int, path: str, folder: str, trusted: frozenset[int]) -> int:
    """Open a minute folder that is nobody else's, beside which others may write.

    What is opened stays what it is, whatever they do to its name.

    Raises:
        FileNotFoundError: There is none (any more).
        OSError: From the file system.
    """
    try:
        fd = os.open(folder, _PATH_FLAGS | os.O_NOFOLLOW, dir_fd=root)
    except NotADirectoryError:
        fd = -1
    if fd >= 0:
        if is_own(os.fstat(fd), trusted):
            return fd
        os.close(fd)
    put_away(root, path, folder, trusted)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)


def put_away(root: int, path: str, folder: str, trusted: frozenset[int]) -> None:
    """Rename what somebody else has made under the name of a minute folder.

    Else nobody could put a task that is due in that minute. To a hidden name: a
    directory of another user's can be neither moved elsewhere nor emptied.

    Raises:
        OSError: From the file system.
    """
    with suppress(FileNotFoundError):
        status = os.stat(folder, dir_fd=root, follow_symlinks=False)
        if is_own(status, trusted):
            return
        priority, _, minute = folder.partition("/")
        hidden = f"{priority}/.{minute}.{os.urandom(4).hex()}"
        os.rename(folder, hidden, src_dir_fd=root, dst_dir_fd=root)
        text = "reject spool=%s path=%s kept=%s: not ours, of uid %d, mode %04o"
        where = (escape(path), escape(folder), hidden)
        log.warning(text, *where, status.st_uid, status.st_mode & 0o7777)
