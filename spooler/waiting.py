"""Wait for one task, by inotify.

The task's file is opened once and then known by its descriptor, wherever it is renamed
to; inotify tells when that has happened. So a wait costs the same however many tasks
the spool holds, and nothing while nothing happens. Where there is no inotify (a network
file system, no instances left) the file is looked at twice a second.

The steps of a wait are a generator, which says what to wait for: one driver blocks, the
other one awaits.
"""

from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from threading import Event
from typing import Any, Final

import msgspec

from .clock import CLOCK
from .errors import ResultError, ResultGoneError, TaskFailed
from .handle import Handle, spool_dir
from .spooldir import SpoolDir, reports, results
from .spooldir.results import Record
from .spooldir.tracking import (
    Track,
    guess,
    locate,
    locate_batch,
    state_at,
    track,
    track_anywhere,
)
from .task import State
from .wakeup import Watchpost, is_remote

POLL: Final = 0.5
"""Seconds between two looks where there is no inotify."""

INSTANCES_MAX: Final = 64
"""Waits of one process that use inotify at a time: a user has 128 instances."""

_FINAL: Final = (State.FAILED, State.CORRUPT)


class End(msgspec.Struct, frozen=True):
    """How a wait ended.

    Attributes:
        path: Where the task's file is, or was last; empty if it was never seen.
        removed: It was removed before it had ended.
    """

    state: State | None
    path: str = ""
    removed: bool = False


Look = Callable[[], Any]
"""Something that may take long; its value is sent into the generator."""

Steps = Generator[Look | Watchpost | None, Any, End]


class _Wait:
    """One wait for one task."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._spool = spool_dir(handle.spool)
        self._guesses = [] if handle._name is None else [guess(handle._name)]
        self._post: Watchpost | None = None
        self._seen = ""

    def steps(self) -> Steps:
        """Yield what to wait for, until the task has ended.

        Raises:
            OSError: From the file system.
        """
        global _instances
        try:
            if self._handle._batch is not None:
                end = yield from self._batch()
                if end is not None:
                    return end
            while True:
                found = yield from self._find()
                if isinstance(found, End):
                    return found
                try:
                    end = yield from self._follow(found)
                finally:
                    found.close()
                if end is not None:
                    return end
        finally:
            if self._post is not None:
                _instances -= 1
                self._post.close()

    def _find(self) -> Generator[Look, Any, Track | End]:
        """Open the task's file, or say that there is none any more."""
        found = track(self._spool, self._guesses)
        if found is not None:
            return found
        record = self._record()
        if record is not None and record.ok:
            return End(None)
        where = partial(locate, self._spool, self._handle.id)
        found = yield partial(track_anywhere, self._spool, where)
        if found is not None:
            return found
        if self._seen:
            return End(None, self._seen, removed=True)
        return End(None if record is None else State.FAILED)

    def _record(self) -> Record | None:
        """Return what is kept, if it may be: it saves a look through the spool."""
        with suppress(ResultError):
            if self._handle._keeps or self._handle._name is None:
                return results.read(self._spool, self._handle.id)
        return None

    def _follow(
        self, found: Track
    ) -> Generator[Watchpost | None, Any, End | None]:
        """Wait until the file is gone; return None if it must be looked for again."""
        self._watch(lambda post: post.add_file(found.fd))
        while True:
            path, there = found.place()
            self._seen = path
            if there and (self._post is not None or found.is_at(path)):
                if state_at(path) in _FINAL:
                    return End(state_at(path), path)
                yield self._post
            elif there or state_at(path) is not State.RUNNING:
                # Moved by another host; or replaced by a new file, or removed.
                self._guesses = [path]
                return None
            else:
                return End(None, path)

    def _watch(self, add: Callable[[Watchpost], None]) -> None:
        """Have the watchpost watch something; do without one if that fails."""
        global _instances
        if is_remote(self._spool.path):
            return
        try:
            if self._post is None and _instances < INSTANCES_MAX:
                self._post = Watchpost()
                _instances += 1
            if self._post is not None:
                add(self._post)
        except OSError:
            if self._post is not None:
                self._post.close()
                self._post = None
                _instances -= 1

    # -- lines of batches -------------------------------------------------------

    def _batch(self) -> Generator[Look | Watchpost | None, Any, End | None]:
        """Wait until the batch is over, or has been heard of this line.

        Returns None if the line may have a file of its own by now.
        """
        batch = self._handle._batch
        assert batch is not None
        guesses = [guess(batch)]
        while True:
            end = self._line()
            if end is not None:
                return end
            found = track(self._spool, guesses)
            if found is None:
                where = partial(locate_batch, self._spool, batch.id)
                found = yield partial(track_anywhere, self._spool, where)
            if found is None:
                return None
            guesses = []
            try:
                end = yield from self._follow_batch(found)
                if end is not None or not found.has_links():
                    return end
            finally:
                found.close()

    def _follow_batch(
        self, found: Track
    ) -> Generator[Watchpost | None, Any, End | None]:
        """Wait until the batch's file is gone, or the line has ended."""
        self._watch(lambda post: post.add_file(found.fd))
        if self._handle._keeps:
            for folder in ("done", "failed"):
                path = f"{self._spool.path}/{folder}"
                self._watch(lambda post, path=path: post.add_folder(path))
        while True:
            end = self._line()
            if end is not None:
                return end
            path, there = found.place()
            if not there or (self._post is None and not found.is_at(path)):
                return None
            if state_at(path) in _FINAL:
                return End(state_at(path), path)
            yield self._post

    def _line(self) -> End | None:
        """Return how the line has ended, if that is known by its id alone."""
        if not self._handle._keeps:
            return None
        record = self._record()
        if record is None:
            return None
        return End(None if record.ok else State.FAILED)


_instances = 0


def wait(handle: Handle, timeout: float | None) -> End:
    """Wait, and block meanwhile.

    Args:
        timeout: Seconds.

    Raises:
        TimeoutError: The task has not ended in that time.
        OSError: From the file system.
    """
    deadline = None if timeout is None else CLOCK.monotonic() + timeout
    steps = _Wait(handle).steps()
    answer: object = None
    try:
        while True:
            what = steps.send(answer)
            answer = None
            if callable(what):
                answer = what()
                continue
            left = None if deadline is None else deadline - CLOCK.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"task {handle.id} has not ended in {timeout:g} s")
            if what is not None:
                what.wait(left)
            else:
                Event().wait(POLL if left is None else min(POLL, left))
    except StopIteration as stop:
        end: End = stop.value
        return end
    finally:
        steps.close()
