"""Follow one task while it runs: what it prints, how far it is.

Its file is opened, and so known wherever it is renamed to; inotify tells of changes,
and where it cannot, or is late, it is looked at twice a second.
"""

from collections.abc import Callable
from threading import Event
from typing import Final

import msgspec

from ..clock import CLOCK
from ..errors import NotFoundError
from ..spooldir import SpoolDir, repair, runlogs
from ..spooldir.progress import Progress, progress_of
from ..spooldir.repair import Found
from ..spooldir.tracking import Track, state_at, track_anywhere
from ..task import Name, State
from ..wakeup import Watchpost, file_system, is_remote
from .logs import Printer, running_path
from .output import progress_text

LOOK: Final = 0.5
"""Seconds between two looks, where no event comes."""

BLIND_LOOK: Final = 0.1
"""The same, where there is no inotify."""

_FINAL: Final = frozenset({State.FAILED, State.CORRUPT})
_BAR: Final = 30
_COARSE_US: Final = 20_000
"""How far the times of files may be behind the clock."""


class _Follower:
    """One task, followed to its end.

    Raises:
        NotFoundError: It is gone.
    """

    def __init__(self, spool: SpoolDir, found: Found) -> None:
        self._spool = spool
        self.found = found
        self._track = self._open_track()
        self._post = self._open_post()

    def _open_track(self) -> Track:
        try:
            return Track(self._spool, self.found.path)
        except FileNotFoundError:  # a worker has just moved it
            moved = track_anywhere(self._spool, self._look)
        if moved is None:
            raise NotFoundError(self.found.id, "it has just ended") from None
        self._note(moved.place()[0])
        return moved

    def _open_post(self) -> Watchpost | None:
        if is_remote(file_system(self._spool.path)):
            return None
        try:
            post = Watchpost()
        except OSError:
            return None
        try:
            post.add_file(self._track.fd)
            post.add_folder(f"{self._spool.path}/logs")
        except OSError:
            post.close()
            return None
        return post

    def watch_log(self, path: str) -> None:
        """Have a file watched that grows."""
        if self._post is not None:
            try:
                self._post.add_growing(f"{self._spool.path}/{path}")
            except OSError:
                return  # it is looked at now and then

    def wait(self) -> None:
        """Wait until something may have changed."""
        if self._post is not None:
            self._post.wait(LOOK)
        else:
            Event().wait(BLIND_LOOK)

    @property
    def is_unmoved(self) -> bool:
        """Whether it is still where it was found."""
        return self._track.is_at(self.found.path)

    def find_again(self) -> bool:
        """Find out where it is now; tell whether it is anywhere."""
        path, there = self._track.place()
        moved = None
        if not there or not self._track.is_at(path):
            moved = track_anywhere(self._spool, self._look)
            there = moved is not None
        if moved is not None:
            self._track.close()
            self._track = moved
            path, _ = moved.place()
            if self._post is not None:
                self._post.add_file(moved.fd)
        self._note(path)
        return there

    def _note(self, path: str) -> None:
        """Note where it is, or was last; nowhere tells nothing."""
        if path:
            name = Name.parse(path.rpartition("/")[2])
            self.found = Found(state_at(path), path, name)

    def _look(self) -> str | None:
        (found,) = repair.find_all(self._spool, [self.found.id])
        return found.path if isinstance(found, Found) else None

    def close(self) -> None:
        """Let go of everything."""
        self._track.close()
        if self._post is not None:
            self._post.close()


def follow_log(spool: SpoolDir, found: Found, printer: Printer) -> None:
    """Print what a task prints in this run and those to come, until it has ended.

    Raises:
        OSError: From the file system.
    """
    follower = _Follower(spool, found)
    try:
        while follower.found.state not in _FINAL:
            if follower.found.state is State.RUNNING:
                _follow_run(spool, follower, printer)
            else:
                while follower.is_unmoved:
                    follower.wait()
            if not follower.find_again():
                return
    finally:
        follower.close()


def _follow_run(spool: SpoolDir, follower: _Follower, printer: Printer) -> None:
    found, began_us = follower.found, CLOCK.now_us()
    if found.name is None:
        return
    attempt = found.name.attempt + 1
    if attempt > 1 or not printer.empty:
        printer.head(f"attempt {attempt}")
    printed = _print_live(spool, follower, printer)
    data, _, time_us = _read(spool, runlogs.log_path(found.id, attempt))
    if time_us >= began_us - _COARSE_US:  # else of an earlier run
        printer.data(runlogs.rest(data, printed))


def _print_live(spool: SpoolDir, follower: _Follower, printer: Printer) -> int:
    """Print what a run prints until it is over; return how many bytes are printed."""
    watched, printed = "", 0
    while True:
        path = running_path(spool, follower.found)
        if path != watched and spool.has(path):
            watched = path
            follower.watch_log(path)
        data, size, _ = _read(spool, path, printed)
        if not follower.is_unmoved:
            return printed  # what was read may be of the worker's next task
        if 0 < size < printed:  # trimmed
            printed = 0
            continue
        printer.data(data)
        printed += len(data)
        if not data:
            follower.wait()


def _read(spool: SpoolDir, path: str, begin: int = 0) -> tuple[bytes, int, int]:
    try:
        return runlogs.read(spool, path, begin)
    except FileNotFoundError:
        return b"", 0, 0


class Facts(msgspec.Struct, frozen=True):
    """What ``spool watch`` shows.

    Attributes:
        state: In the words of the command; ``finished`` and ``removed`` at the end.
        attempt: The number of the run, from 1; of the next one if none runs.
    """

    state: str
    attempt: int
    progress: Progress | None = None

    def as_json(self, task_id: str) -> dict[str, object]:
        """Return what is printed with ``--json``."""
        said = None if self.progress is None else msgspec.to_builtins(self.progress)
        return {
            "id": task_id,
            "state": self.state,
            "attempt": self.attempt,
            "progress": said,
        }

    def line(self, *, bar: bool) -> str:
        """Return what is printed for people, to be escaped."""
        line = self.state
        if self.attempt > 1:
            line += f" (attempt {self.attempt})"
        if self.progress is None:
            return line
        drawn = _bar(self.progress) if bar else ""
        said = progress_text(msgspec.to_builtins(self.progress))
        return f"{line}  {drawn}{said}"


def _bar(progress: Progress) -> str:
    if not progress.total:
        return ""
    part = min(1.0, max(0.0, progress.done / progress.total))
    full = int(part * _BAR)
    return f"[{'#' * full}{'-' * (_BAR - full)}]  "


def watch_task(spool: SpoolDir, found: Found, show: Callable[[Facts], None]) -> bool:
    """Show how far a task is whenever that changes; tell whether it has succeeded.

    Raises:
        OSError: From the file system.
    """
    follower = _Follower(spool, found)
    shown: Facts | None = None
    try:
        while True:
            facts = _facts(spool, follower.found)
            if facts != shown and follower.is_unmoved:
                shown = facts
                show(facts)
            if follower.found.state in _FINAL:
                return False
            follower.wait()
            if not follower.is_unmoved and not follower.find_again():
                succeeded = follower.found.state is State.RUNNING
                show(Facts("finished" if succeeded else "removed", facts.attempt))
                return succeeded
    finally:
        follower.close()


def _facts(spool: SpoolDir, found: Found) -> Facts:
    attempt = 1 if found.name is None else found.name.attempt + 1
    if found.state in _FINAL:
        return Facts(found.state.value, max(1, attempt - 1))
    if found.state is not State.RUNNING:
        return Facts(found.state.value, attempt)
    said = None if found.name is None else progress_of(spool, found.name)
    return Facts(found.state.value, attempt, said)
