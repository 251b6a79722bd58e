"""A task that was put, for those who want to know what becomes of it.

Importing this loads the standard library and msgspec; waiting loads more.
"""

from collections.abc import Generator
from typing import Any, Final

import msgspec

from .moments import Duration, duration
from .spooldir import SpoolDir
from .spooldir.control import ask_to_kill, cancel
from .spooldir.tracking import Wanted, guess, locate, locate_batch, state_at
from .task import Name, State

_DIRS: Final[dict[str, SpoolDir]] = {}


def spool_dir(path: str) -> SpoolDir:
    """Return the one ``SpoolDir`` of this process for a path."""
    try:
        return _DIRS[path]
    except KeyError:
        spool = SpoolDir(path)
        return _DIRS.setdefault(spool.path, spool)


def is_open(path: str) -> bool:
    """Tell whether this process has used the spool at a path."""
    return path in _DIRS


class Handle(msgspec.Struct, frozen=True):
    """A task that was put.

    ``await`` gives what ``result`` returns, in asyncio and in trio.

    Attributes:
        id: 16 hex digits.
        task: The name of its function; empty where only the id is known.
        spool: The spool's path.
    """

    id: str
    task: str
    spool: str
    _name: Name | None
    # The batch that holds it, if it is a line of one: it is finished when neither a
    # file of its own nor the batch's file is there.
    _batch: Name | None = None
    # Whether a result is to be kept, as far as is known here.
    _keeps: bool = False

    def __repr__(self) -> str:
        return f"Handle(id={self.id!r}, task={self.task!r}, spool={self.spool!r})"

    def state(self) -> State | None:
        """Return where the task stands now; None if it is finished (or removed).

        Cheap while it waits where it was put; else it looks through the spool. A line
        of a batch stands where its batch stands, until it leaves it.

        Raises:
            OSError: From the file system.
        """
        spool = spool_dir(self.spool)
        if self._name is not None and spool.has(guess(self._name)):
            return State.WAITING
        path = locate(spool, self.id)
        if path is None and self._batch is not None:
            path = locate_batch(spool, self._batch.id)
        return None if path is None else state_at(path)

    def wait(self, timeout: Duration | None = None) -> State | None:
        """Wait until the task has ended, however it is retried meanwhile.

        The kernel tells of every move, so a wait costs nothing while nothing happens.

        Args:
            timeout: Seconds, a timedelta or text such as ``10m``; None for no end.

        Returns:
            ``State.FAILED`` or ``State.CORRUPT``; None if it is finished, or removed.

        Raises:
            TimeoutError: It has not ended in that time.
            UsageError: The timeout cannot be.
            OSError: From the file system.
        """
        from .waiting import wait  # noqa: PLC0415 (watchdog is slow to load)

        seconds = duration("timeout", timeout)
        return wait(spool_dir(self.spool), self._wanted(), seconds).state

    def result(self, timeout: Duration | None = None) -> Any:
        """Wait until the task has ended; return what it returned, if that was kept.

        Args:
            timeout: As for ``wait``.

        Returns:
            The value as plain JSON types; None if nothing was to be kept.

        Raises:
            TaskFailed: It was given up.
            NotFoundError: Only its id is known, and neither it nor a result is there.
            ResultGoneError: Its result was not kept for so long, or it was removed.
            ResultError: It has succeeded, but its result could not be kept.
            TimeoutError: It has not ended in that time.
            UsageError: The timeout cannot be.
            OSError: From the file system.
        """
        from .waiting import result  # noqa: PLC0415 (watchdog is slow to load)

        seconds = duration("timeout", timeout)
        return result(spool_dir(self.spool), self._wanted(), seconds)

    def cancel(self, *, kill: bool = False) -> bool:
        """Take the task back: remove it if it has not begun, wherever it waits.

        That is certain: when it was removed, it will not run. A task that waits for
        its next attempt is removed too. A line of a batch cannot be taken back.

        Args:
            kill: If it runs, ask its daemon to kill it, as ``kill`` does.

        Returns:
            True if it was removed, or its daemon was asked. False if there is nothing
            to take back: it runs, or it has ended.

        Raises:
            OSError: From the file system.
        """
        return cancel(spool_dir(self.spool), self.id, kill=kill)

    def kill(self) -> bool:
        """Ask the daemon that runs the task to kill it, and do not wait for that.

        It fails, with the reason ``killed``: ``wait`` tells when.

        Returns:
            Whether it runs, so that somebody was asked.

        Raises:
            OSError: From the file system.
        """
        return ask_to_kill(spool_dir(self.spool), self.id)

    def __await__(self) -> Generator[Any, Any, Any]:
        from .waiting import result_async  # noqa: PLC0415 (so are anyio and watchdog)

        return result_async(spool_dir(self.spool), self._wanted()).__await__()

    def _wanted(self) -> Wanted:
        return Wanted(self.id, self._name, self._batch, self._keeps)
