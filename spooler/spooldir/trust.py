"""Whether others than its owner and root could have their hands on a spool.

Whoever may rename one of the directories on the way to a spool, or write into those
of the spool, can have a daemon run what he likes. Documented in docs/threats.md.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from ..task import is_priority
from .marking import FOLDERS

_OTHERS: Final = stat.S_IWOTH
_GROUP: Final = stat.S_IWGRP


class Weakness(NamedTuple):
    """Something that others could use.

    Attributes:
        text: What, where, and what helps: one line.
        grave: A daemon should not run what it finds there.
    """

    text: str
    grave: bool


def weaknesses(path: str) -> Iterator[Weakness]:
    """Yield what others could use to get at a spool; nothing if it is not there.

    Args:
        path: The spool's, absolute.

    Raises:
        OSError: From the file system.
    """
    trusted = {0, os.geteuid()}
    with suppress(FileNotFoundError, NotADirectoryError):
        owner = os.stat(path).st_uid
        if os.geteuid() == 0 and owner != 0:
            trusted.add(owner)
            yield Weakness(
                f"{path}: belongs to uid {owner}, whose tasks (with --allow-uid) run as"
                " root: run spoold as that user",
                False,
            )
        for each in _way(path):
            yield from _on_the_way(each, trusted)
        yield from _inside(path, trusted)


def _way(path: str) -> list[str]:
    """Return what is above a spool: as it is named, and where that leads."""
    above: dict[str, None] = {}
    real = os.path.realpath(path)
    for each in (path, real):
        at = each
        while at != os.path.dirname(at):
            at = os.path.dirname(at)
            above[at] = None
        if each != real:
            above[each] = None
    return sorted(above)


def _on_the_way(path: str, trusted: set[int]) -> Iterator[Weakness]:
    status = os.lstat(path)
    yield from _owner(path, status, trusted)
    if stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_ISVTX:
        yield from _writers(path, status)


def _inside(path: str, trusted: set[int]) -> Iterator[Weakness]:
    for name in sorted(os.listdir(path), key=lambda name: (len(name), name)):
        folder = f"{path}/{name}"
        status = os.lstat(folder)
        known = name in FOLDERS or is_priority(name)
        if not known or not stat.S_ISDIR(status.st_mode):
            continue
        yield from _owner(folder, status, trusted)
        # Where one may only add files, they are judged by their owner.
        if not (is_priority(name) and status.st_mode & stat.S_ISVTX):
            yield from _writers(folder, status)
    status = os.stat(path)
    yield from _owner(path, status, trusted)
    yield from _writers(path, status)


def _owner(path: str, status: os.stat_result, trusted: set[int]) -> Iterator[Weakness]:
    if status.st_uid not in trusted:
        yield Weakness(
            f"{path}: belongs to uid {status.st_uid}, who is neither root nor the user"
            f" of spoold (uid {os.geteuid()}): chown it",
            True,
        )


def _writers(path: str, status: os.stat_result) -> Iterator[Weakness]:
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        text = f"everybody may write there (mode {mode:04o}): chmod o-w {path}"
        yield Weakness(f"{path}: {text}", True)
    elif mode & _GROUP and not _is_private(status.st_gid):
        text = f"group {status.st_gid} may write there (mode {mode:04o})"
        yield Weakness(f"{path}: {text}: chmod g-w {path}", False)


def _is_private(gid: int) -> bool:
    """Tell whether a group is root's, or this user's and nobody else's."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return gid == 0
    return gid == 0 or (group.gr_name == user and set(group.gr_mem) <= {user})
