"""Which slots of timers were put, and whether their tasks have finished.

Specification: docs/format.md, section 7.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b

import filelock

from ..clock import CLOCK
from ..task import Name
from .claims import put_aside
from .files import NEW_FLAGS
from .root import SpoolDir
from .signing import write

LOCK_TIMEOUT = 0.2
"""Seconds to wait for another daemon, which holds the lock for a few milliseconds.
The daemon's loop stands still meanwhile."""

_SLOT = re.compile(r"\d{16}", re.ASCII)


def slot_id(task: str, slot_us: int) -> str:
    """Return the id of a slot's task: the same wherever it is computed."""
    return blake2b(f"{task}@{slot_us}".encode()).hexdigest()[:16]


@contextmanager
def lock(spool: SpoolDir) -> Iterator[None]:
    """Hold the lock under which slots are read and put.

    Raises:
        TimeoutError: Somebody else held it for ``LOCK_TIMEOUT``.
        OSError: From the file system.
    """
    path = f"{spool.path}/timers/.lock"
    held = filelock.FileLock(
        path, fallback_to_soft=False, mode=0o600, timeout=LOCK_TIMEOUT
    )
    try:
        held.acquire()
    except filelock.Timeout:
        raise TimeoutError(f"{path} is held by another daemon") from None
    try:
        yield
    finally:
        held.release()


def latest_slot(spool: SpoolDir, task: str) -> int | None:
    """Return the newest slot that was put for a timer, in µs; None if none was."""
    slots = _slots(spool, task)
    return slots[-1] if slots else None


def _slots(spool: SpoolDir, task: str) -> list[int]:
    slots = []
    for file in spool.names("timers"):
        slot, _, name = file.partition(".")
        if name == task and _SLOT.fullmatch(slot):
            slots.append(int(slot))
    return sorted(slots)


def is_finished(spool: SpoolDir, task: str, slot_us: int) -> bool:
    """Tell whether the task of a slot is no longer waiting or running.

    Its hard link in ``timers/`` has outlived it, or it lies in ``failed/`` or
    ``corrupt/``.

    Raises:
        OSError: From the file system.
    """
    try:
        path = _record(slot_us, task)
        status = os.stat(path, dir_fd=spool.fd, follow_symlinks=False)
    except FileNotFoundError:
        return True
    if status.st_nlink < 2 or not stat.S_ISREG(status.st_mode):
        return True
    if _runs(spool, slot_id(task, slot_us)):  # the other two may hold very much
        return False
    for folder in ("failed", "corrupt"):
        with os.scandir(f"{spool.path}/{folder}") as entries:
            if any(entry.inode() == status.st_ino for entry in entries):
                return True
    return False


def _runs(spool: SpoolDir, task_id: str) -> bool:
    files = (
        file
        for worker in spool.names("running")
        for file in spool.names(f"running/{worker}")
    )
    return any(f".{task_id}." in file for file in files)


def begin(spool: SpoolDir, task: str, slot_us: int) -> None:
    """Note a slot that has passed before the timer was known. Hold the lock.

    Raises:
        OSError: From the file system.
    """
    path = _record(slot_us, task)
    with suppress(FileExistsError):
        os.close(os.open(path, NEW_FLAGS, 0o600, dir_fd=spool.fd))
        spool.sync("timers")


def forget(spool: SpoolDir, task: str, *, after_us: int) -> None:
    """Remove the notes of slots later than a moment. Hold the lock.

    Raises:
        OSError: From the file system.
    """
    for slot_us in _slots(spool, task):
        if slot_us > after_us:
            _remove(spool, _record(slot_us, task))
    spool.sync("timers")


def put_slot(spool: SpoolDir, name: Name, data: bytes) -> None:
    """Put the task of a slot and note it. Durable. Hold the lock.

    A crash at any point leaves either nothing, or a task that the next call for
    the same slot finds.

    Args:
        spool: Where.
        name: With the slot as due time and ``slot_id`` as id.
        data: The bytes of the task file, which is signed here if somebody signs.

    Raises:
        OSError: From the file system.
    """
    hidden = f"timers/.{name.due_us:016d}.{name.task}"
    target = f"{name.folder}/{name}"
    with suppress(FileNotFoundError):  # a crash between the two links
        status = os.stat(hidden, dir_fd=spool.fd, follow_symlinks=False)
        if status.st_nlink == 1 or not stat.S_ISREG(status.st_mode):
            _remove(spool, hidden)
    with suppress(FileExistsError):
        fd = os.open(hidden, NEW_FLAGS, 0o600, dir_fd=spool.fd)
        try:
            write(spool.signer, fd, name.id, (data,))
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            spool.in_folder(
                name.folder,
                lambda at, to: os.link(
                    hidden, f"{to}{name}", src_dir_fd=spool.fd, dst_dir_fd=at
                ),
            )
        except FileExistsError:  # a power cut kept the task and lost its record
            os.unlink(hidden, dir_fd=spool.fd)
            os.link(target, hidden, src_dir_fd=spool.fd, dst_dir_fd=spool.fd)
        spool.sync_folder(name)
    record = _record(name.due_us, name.task)
    os.rename(hidden, record, src_dir_fd=spool.fd, dst_dir_fd=spool.fd)
    for older in _slots(spool, name.task):
        if older < name.due_us:
            _remove(spool, _record(older, name.task))
    spool.sync("timers")


def _remove(spool: SpoolDir, path: str) -> None:
    """Remove a timer's note, or put aside what somebody made in its place."""
    try:
        os.unlink(path, dir_fd=spool.fd)
    except IsADirectoryError:
        put_aside(spool, path, "is not a timer's note", CLOCK.now_us())


def _record(slot_us: int, task: str) -> str:
    return f"timers/{slot_us:016d}.{task}"
