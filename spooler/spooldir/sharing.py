"""Make a group spool: its members may put tasks, and do and see nothing else.

Specification: docs/format.md, "A group spool".
"""

import os
import pwd
from contextlib import suppress
from typing import Final

from ..errors import UsageError
from .files import DIR_FLAGS
from .marking import MARKER, PRIORITIES
from .room import COUNT_FILE, FILE
from .root import SpoolDir

ROOT_MODE: Final = 0o710
"""Of its directory: the group may pass."""

DROP_MODE: Final = 0o3733
"""Of a priority's folder: everybody who gets that far may write into it, and not read
it; what he writes gets its group, and nobody else may remove or rename it."""

READ_MODE: Final = 0o644
"""Of the files that producers read, whoever gets that far."""


def share(spool: SpoolDir, gid: int) -> None:
    """Let the members of a group put tasks, with the priorities 0 to 9. Synced.

    It may be repeated, and mends the modes of a group spool.

    Args:
        gid: The group.

    Raises:
        UsageError: It is the group of the spool's owner, whose files it may read.
        PermissionError: One must be root, or the owner and in the group.
        OSError: From the file system.
    """
    root = spool.fd
    status = os.fstat(root)
    own = _own_group(status.st_uid)
    if own == gid:
        raise UsageError(
            f"{spool.path}: its owner's own group (gid {gid}) cannot be the group of"
            " those who put: they could read each other's tasks"
        )
    for folder in PRIORITIES:
        fd = os.open(folder, DIR_FLAGS, dir_fd=root)
        try:
            os.fchown(fd, status.st_uid, own)
            os.fchmod(fd, DROP_MODE)
            os.fsync(fd)
        finally:
            os.close(fd)
    for file in (MARKER, FILE, COUNT_FILE):
        with suppress(FileNotFoundError):
            os.chmod(file, READ_MODE, dir_fd=root)
    os.fchown(root, -1, gid)
    os.fchmod(root, ROOT_MODE)  # last: before, no member gets in
    os.fsync(root)
    spool.open()


def _own_group(uid: int) -> int:
    if uid == os.geteuid():
        return os.getegid()
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        raise UsageError(
            f"uid {uid}, who owns the spool, is no user of this system: run this as him"
        ) from None
