"""Put a task whose file says by its time of modification when it is due, as uWSGI's.

Specification: docs/format.md, "uWSGI packet".
"""

import os
from collections.abc import Iterable
from contextlib import suppress

from ..clock import CLOCK
from ..task import Name
from .root import SpoolDir


def put_dated(spool: SpoolDir, name: Name, chunks: Iterable[bytes]) -> str:
    """Put a task, durably; return where it is, below the spool.

    The modification time is for a uWSGI that may be given the file one day: here the
    name says it, so nothing is lost if the process dies before it is set.

    Raises:
        NotASpoolError: The spool is gone.
        SpoolUncertain: It is in place, but the last sync failed.
        OSError: From the file system; there is no task then.
    """
    spool.put(name, chunks)
    try:
        root = spool.fd
    except PermissionError:  # a member of a group spool: the daemon moves it on
        return f"{name.priority}/{name}"
    path = f"{name.folder}/{name}"
    if name.due_us > CLOCK.now_us():
        moment_ns = name.due_us // 1_000_000 * 1_000_000_000
        with suppress(FileNotFoundError):  # somebody was quick to take it
            times = (moment_ns, moment_ns)
            os.utime(path, ns=times, dir_fd=root, follow_symlinks=False)
    return path
