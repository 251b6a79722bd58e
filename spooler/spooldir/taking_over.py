"""Make a spool of a directory that uWSGI has used, as it lies.

Nothing is moved: its files count as dropped ones from then on, and uWSGI goes on
finding them there. Specification: docs/format.md, section 1.
"""

import logging
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from ..errors import NotASpoolError
from ..logs import escape
from ..task import is_priority
from .files import DIR_FLAGS
from .marking import FOLDERS, MARKER, complete
from .uwsgi_files import is_uwsgi_name, number_of, owner_of

KEPT: Final = frozenset({".gitignore", ".gitkeep", ".keep"})
"""What many projects put into an empty directory; nobody takes it for a task."""

SHOWN: Final = 5
"""How many names are told of that do not belong there."""

log = logging.getLogger(__name__)


def take_over(path: str) -> bool:
    """Make a spool of uWSGI's directory; tell whether it was one.

    A spool, an empty directory and none at all are left to ``SpoolDir.open``, but for
    the mode of numbered folders: a uWSGI in the background makes them for everybody to
    write into. May be repeated, also after somebody was killed doing it.

    Raises:
        NotASpoolError: There is something else in it; names some of that.
        OSError: From the file system.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        root = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        entries = set(os.listdir(root))
        if not entries:
            return False
        if MARKER not in entries:
            foreign = [name for name in sorted(entries) if not _belongs(root, name)]
            if foreign:
                raise NotASpoolError(path, _refusal(foreign))
        _close_to_others(path, root, entries)
        if MARKER in entries:
            return False
        complete(root, entries, owner_of(root))
        count = _count(root, entries)
    finally:
        os.close(root)
    log.info(
        "take over spool=%s: it was uWSGI's, and holds %d of its files",
        escape(path),
        count,
    )
    return True


def _refusal(foreign: list[str]) -> str:
    names = ", ".join(escape(name) for name in foreign[:SHOWN])
    more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
    return (
        "is no spool, and not a directory of uWSGI's alone either: there is"
        f" {names}{more}; move that away"
    )


def _belongs(root: int, name: str) -> bool:
    """Tell whether uWSGI, or we on the way, have made what stands in a directory."""
    try:
        mode = os.stat(name, dir_fd=root, follow_symlinks=False).st_mode
    except FileNotFoundError:  # uWSGI has finished it just now
        return True
    if is_uwsgi_name(name) or name in KEPT:
        return stat.S_ISREG(mode)
    if not stat.S_ISDIR(mode):
        return False
    if number_of(name) is not None:
        return all(is_uwsgi_name(file) for file in _list(root, name))
    # Made by somebody who was killed before the marker was there.
    hidden = f"{MARKER}."
    return name in FOLDERS and all(n.startswith(hidden) for n in _list(root, name))


def _count(root: int, entries: Collection[str]) -> int:
    folders = [name for name in entries if number_of(name) is not None]
    files = sum(is_uwsgi_name(name) for name in entries)
    return files + sum(len(_list(root, folder)) for folder in folders)


def _list(root: int, folder: str) -> list[str]:
    fd = os.open(folder, DIR_FLAGS, dir_fd=root)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _close_to_others(path: str, root: int, entries: set[str]) -> None:
    """Take from everybody else the right to write into numbered folders of ours."""
    for name in filter(is_priority, entries):
        with suppress(FileNotFoundError, NotADirectoryError):  # it was swapped
            fd = os.open(name, DIR_FLAGS, dir_fd=root)
            try:
                mode = _close_one(fd)
            finally:
                os.close(fd)
            if mode is not None:
                text = "chmod o-w %s/%s: everybody could write there (mode %04o)"
                log.warning(text, escape(path), name, mode)


def _close_one(fd: int) -> int | None:
    """Do so with an open folder; return the mode that it had, None if that is right."""
    status = os.fstat(fd)
    mode = stat.S_IMODE(status.st_mode)
    # With the sticky bit it is a group spool's.
    is_open = mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH
    if status.st_uid != os.geteuid() or not is_open:
        return None
    os.fchmod(fd, mode & ~stat.S_IWOTH)
    return mode
