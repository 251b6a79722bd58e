"""Where one task is, for those who wait for it: found once, then known.

A descriptor of the task's file goes with it through every rename, and ``/proc`` tells
its path at any moment; so to know where the task is costs the same however many tasks
the spool holds. Nothing here changes the spool. Specification: docs/format.md.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import msgspec

from ..task import Name, State
from . import batches, repair
from .root import SpoolDir

_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DELETED: Final = " (deleted)"
_STATES: Final = {
    "running": State.RUNNING,
    "held": State.HELD,
    "failed": State.FAILED,
    "corrupt": State.CORRUPT,
}


class Wanted(msgspec.Struct, frozen=True):
    """A task that somebody waits for, and what he knows of it.

    Attributes:
        name: Under which it was put; None if only the id is known.
        batch: The batch that holds it, if it is a line of one: it is finished when
            neither a file of its own nor the batch's file is there.
        keeps: Whether a result is to be kept, as far as is known.
    """

    id: str
    name: Name | None = None
    batch: Name | None = None
    keeps: bool = False


def state_at(path: str) -> State:
    """Return the state in which a file of that path is."""
    return _STATES.get(path.partition("/")[0], State.WAITING)


def locate(spool: SpoolDir, task_id: str) -> str | None:
    """Return the path of a task; None if it is nowhere.

    Looks through the whole spool: 100,000 names that wait take some 0.1 s.

    Raises:
        OSError: From the file system.
    """
    middle = f".{task_id}."
    moving = (State.RUNNING, State.FAILED, State.HELD, State.WAITING)
    # Twice, lest a task that is claimed or put back meanwhile slip by.
    for state in (*moving, *moving, State.CORRUPT):
        for folder in repair.folders(spool, state):
            for file in spool.names(folder):
                if middle in file and _is_of(file, task_id):
                    return f"{folder}/{file}"
    return None


def _is_of(file: str, task_id: str) -> bool:
    name = Name.parse(file)
    return name is not None and name.id == task_id


class Track:
    """One open file, wherever it goes.

    Args:
        path: Where it is, below the spool.

    Raises:
        FileNotFoundError: It is not there.
        OSError: From the file system.
    """

    def __init__(self, spool: SpoolDir, path: str) -> None:
        self._spool = spool
        self.fd = -1
        # Neither its owner nor its mode matters, and nothing is done to the file.
        self.fd = os.open(path, _FLAGS, dir_fd=spool.fd)

    def place(self) -> tuple[str, bool]:
        """Return its path below the spool, and whether it is there.

        It is not there if it was unlinked under the name by which it was opened,
        whatever other links it has; then the path is its last one. If it was moved
        out of the spool that is empty.

        Raises:
            OSError: There is no ``/proc``.
        """
        path = os.readlink(f"/proc/self/fd/{self.fd}")
        root = os.readlink(f"/proc/self/fd/{self._spool.fd}")
        there = not path.endswith(_DELETED)
        path = path.removesuffix(_DELETED)
        if not path.startswith(f"{root}/"):
            return "", False
        return path[len(root) + 1 :], there

    def is_at(self, path: str) -> bool:
        """Tell whether it is what stands at a path of the spool.

        That is certain also where ``/proc`` does not know what another host did.

        Raises:
            OSError: From the file system.
        """
        try:
            there = os.stat(path, dir_fd=self._spool.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self.fd))

    def has_links(self) -> bool:
        """Tell whether the file has a name anywhere.

        Raises:
            OSError: From the file system.
        """
        return os.fstat(self.fd).st_nlink > 0

    def close(self) -> None:
        """Let go of the file. The second time it does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    # Of a search in a thread whose waiter was cancelled nobody takes the result.
    __del__ = close


def track(spool: SpoolDir, guesses: Iterable[str]) -> Track | None:
    """Return the first file there is at the guessed places.

    Raises:
        OSError: From the file system.
    """
    for path in guesses:
        with suppress(FileNotFoundError):
            return Track(spool, path)
    return None


def track_anywhere(
    spool: SpoolDir, find: Callable[[], str | None], tries: int = 10
) -> Track | None:
    """Return the file that ``find`` finds; None if it finds none.

    It may move before it is opened; then it is looked for again.

    Raises:
        OSError: From the file system.
    """
    for _ in range(tries):
        path = find()
        if path is None:
            return None
        found = track(spool, [path])
        if found is not None:
            return found
    return None


def locate_batch(spool: SpoolDir, batch_id: str) -> str | None:
    """Return the path of a batch, or of a part that was cut off it; None if none is.

    Raises:
        OSError: From the file system.
    """
    for part in (batch_id, *(part for part, _ in batches.find(spool, batch_id))):
        path = locate(spool, part)
        if path is not None:
            return path
    return None


def guess(name: Name) -> str:
    """Return where a task was put."""
    return f"{name.folder}/{name}"
