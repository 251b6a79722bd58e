"""Requests to kill a running task: ``kill/<id>``.

Specification: docs/format.md, section 12.
"""

import os
from contextlib import suppress
from typing import Final

from ..task import is_id
from .root import SpoolDir

KILLED: Final = "killed"
"""The reason of a task that somebody had killed."""

KILL_MAX_AGE: Final = 3600.0
"""Seconds after which a request that nobody has carried out is void."""

_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def ask(spool: SpoolDir, task_id: str) -> None:
    """Ask whoever runs a task to kill it. It is not waited for.

    Raises:
        OSError: From the file system.
    """
    os.close(os.open(f"kill/{task_id}", _FLAGS, 0o600, dir_fd=spool.fd))


def requests(spool: SpoolDir) -> list[str]:
    """Return the ids of the tasks that somebody wants killed.

    Raises:
        OSError: From the file system.
    """
    return [name for name in spool.names("kill") if is_id(name)]


def forget(spool: SpoolDir, task_id: str) -> None:
    """Remove a request: it was carried out, or the task has ended by itself.

    Raises:
        OSError: From the file system.
    """
    with suppress(FileNotFoundError):
        os.unlink(f"kill/{task_id}", dir_fd=spool.fd)
