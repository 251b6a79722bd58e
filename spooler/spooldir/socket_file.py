"""The file of a UNIX socket at which tasks are taken: made, and removed.

It is not in a spool; but files are touched nowhere else.
"""

import errno
import os
import socket
import stat
from contextlib import suppress

LOOK_TIMEOUT = 1.0
"""Seconds that whoever listens at the path already is given to let somebody in."""


def bind(made: socket.socket, path: str, mode: int) -> os.stat_result:
    """Bind a socket to a path; a socket that nobody listens at any more is removed.

    Nobody else may use it before it has its mode.

    Returns:
        What stands there now: for ``remove``.

    Raises:
        OSError: Somebody listens there, or it cannot be used.
    """
    _remove_left(path)
    # Not chmod afterwards, which would follow a link that somebody has put there.
    os.fchmod(made.fileno(), mode)
    before = os.umask(0o777 & ~mode)
    try:
        made.bind(path)
    finally:
        os.umask(before)
    return os.lstat(path)


def _remove_left(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "is not a socket; move it away")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.settimeout(LOOK_TIMEOUT)
            other.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)


def remove(path: str, bound: os.stat_result) -> None:
    """Remove what ``bind`` has made, if it is still there."""
    with suppress(OSError):
        if os.path.samestat(os.lstat(path), bound):
            os.unlink(path)
