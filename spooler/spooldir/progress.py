"""How far running tasks say that they are: ``logs/<id>.progress``.

For people: nothing is synced, and no task waits for it.
Specification: docs/format.md, section 13.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Final

import msgspec

from ..task import Name
from .files import NEW_FLAGS, write_all
from .reading import READ_FLAGS
from .reports import to_json
from .root import SpoolDir

PROGRESS_MAX_AGE: Final = 7 * 24 * 3600.0
"""Seconds after which a progress that did not change is a left-over."""

_PROGRESS_MAX: Final = 64 * 1024


_Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float
"""What can be divided without an overflow."""


class Progress(msgspec.Struct, frozen=True):
    """How far a run says that it is.

    Attributes:
        total: What ``done`` is to come to; None if nobody knows.
        time: When it said so, ISO 8601.
        attempt: The number of the run, from 1.
    """

    done: _Number
    total: _Number | None
    message: str
    time: str
    attempt: int


def progress_path(task_id: str) -> str:
    """Return where a run says how far it is."""
    return f"logs/{task_id}.progress"


def write_progress(spool: SpoolDir, task_id: str, record: Mapping[str, object]) -> None:
    """Say how far a run is: a reader never sees half of it.

    Raises:
        OSError: From the file system.
    """
    hidden = f"logs/.{os.urandom(8).hex()}"
    fd = os.open(hidden, NEW_FLAGS, 0o600, dir_fd=spool.fd)
    try:
        try:
            write_all(fd, to_json(record))
        finally:
            os.close(fd)
        target = progress_path(task_id)
        os.rename(hidden, target, src_dir_fd=spool.fd, dst_dir_fd=spool.fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(hidden, dir_fd=spool.fd)
        raise


def read_progress(spool: SpoolDir, task_id: str) -> Progress | None:
    """Return how far a run says that it is; None if it does not, or cannot be read."""
    with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        fd = os.open(progress_path(task_id), READ_FLAGS, dir_fd=spool.fd)
        try:
            data = os.read(fd, _PROGRESS_MAX)
        finally:
            os.close(fd)
        return msgspec.json.decode(data, type=Progress)
    return None


def progress_of(spool: SpoolDir, name: Name) -> Progress | None:
    """Return how far a running task says that it is in this attempt, if it does."""
    said = read_progress(spool, name.id)
    return said if said is not None and said.attempt == name.attempt + 1 else None


def forget_progress(spool: SpoolDir, task_id: str) -> None:
    """Remove what a run said of its progress, if it did. Never fails."""
    with suppress(OSError):
        os.unlink(progress_path(task_id), dir_fd=spool.fd)
