"""Wait for one task, by inotify.

The task's file is opened once and then known by its descriptor, wherever it is renamed
to; inotify tells when that has happened. So a wait costs the same however many tasks
the spool holds, and nothing while nothing happens. Where there is no inotify (a network
file system, no watches left) the file is looked at twice a second.

The steps of a wait are a generator, which says what to wait for: one driver blocks, the
other one awaits.
"""

from collections.abc import Callable, Generator
from contextlib import suppress
from functools import lru_cache, partial
from threading import Event
from typing import Any, Final

import msgspec

from .clock import CLOCK
from .errors import NotFoundError, ResultError, ResultGoneError, TaskFailed
from .spooldir import SpoolDir, reports, results
from .spooldir.results import Record
from .spooldir.tracking import (
    Track,
    Wanted,
    guess,
    locate,
    locate_batch,
    state_at,
    track,
    track_anywhere,
)
from .task import Name, State
from .wakeup import Watchpost, file_system, is_remote

POLL: Final = 0.5
"""Seconds between two looks where there is no inotify."""

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
"""Something that may take long; what it returns is sent into the generator."""

Steps = Generator[Look | Watchpost | None, Any, End]
"""Yields what to wait for, None for a moment; returns how the task has ended."""


class _Wait:
    """One wait for one task."""

    def __init__(self, spool: SpoolDir, wanted: Wanted) -> None:
        self._spool = spool
        self._wanted = wanted
        self._guesses = [] if wanted.name is None else [guess(wanted.name)]
        self._is_remote = _is_remote(spool.path)
        self._post: Watchpost | None = None
        self._last = End(None)  # what is known once the file is nowhere

    def steps(self) -> Steps:
        """Yield what to wait for, until the task has ended.

        Raises:
            OSError: From the file system.
        """
        try:
            if self._wanted.batch is not None:
                end = yield from self._batch(self._wanted.batch)
                if end is not None:
                    return end
            while True:
                found = yield from self._find()
                if isinstance(found, End):
                    return found
                try:
                    end = yield from self._stay_with(found)
                finally:
                    found.close()
                if end is not None:
                    return end
        finally:
            self._leave_post()

    def _find(self) -> Generator[Look, Any, Track | End]:
        """Open the task's file; or return how it has ended."""
        found = track(self._spool, self._guesses)
        if found is not None:
            return found
        record = self._record()
        if record is not None and record.ok:
            return End(None)
        where = partial(locate, self._spool, self._wanted.id)
        elsewhere: Track | None = yield partial(track_anywhere, self._spool, where)
        if elsewhere is not None:
            return elsewhere
        return self._last if record is None else End(State.FAILED)

    def _record(self) -> Record | None:
        """Return what is kept, if something may be: it saves a look everywhere."""
        with suppress(ResultError):
            if self._wanted.keeps or self._wanted.name is None:
                return results.read(self._spool, self._wanted.id)
        return None

    def _stay_with(self, found: Track) -> Generator[Watchpost | None, Any, End | None]:
        """Wait until the file is gone; return None if it is to be looked for again."""
        self._watch(lambda post: post.add_file(found.fd))
        while True:
            path, there = found.place()
            if there and (self._post is not None or found.is_at(path)):
                if state_at(path) in _FINAL:
                    return End(state_at(path), path)
                yield self._post
                continue
            if not self._is_remote and state_at(path) is State.RUNNING:
                return End(None, path)
            # Removed, or replaced by a new file; or another host has moved it.
            self._guesses = [path] if path else []
            self._last = End(None, path or "?", removed=not self._is_remote)
            return None

    # -- lines of batches -------------------------------------------------------

    def _batch(
        self, batch: Name
    ) -> Generator[Look | Watchpost | None, Any, End | None]:
        """Wait until the batch is over, or has told of this line.

        Returns None if all that may be left is a file of the line's own.
        """
        guesses = [guess(batch)]
        while True:
            found = track(self._spool, guesses)
            if found is None and not self._line_has_ended():
                where = partial(locate_batch, self._spool, batch.id)
                found = yield partial(track_anywhere, self._spool, where)
            if found is None:
                return None
            try:
                end = yield from self._stay_with_batch(found)
                if end is not None or not found.has_links():
                    return end
            finally:
                found.close()
            guesses = []

    def _stay_with_batch(
        self, found: Track
    ) -> Generator[Watchpost | None, Any, End | None]:
        """Wait until the batch's file is gone, or the line has ended."""
        self._watch(lambda post: post.add_file(found.fd))
        if self._wanted.keeps:
            self._watch(lambda post: post.add_folder(f"{self._spool.path}/done"))
        while not self._line_has_ended():
            path, there = found.place()
            if not there or (self._post is None and not found.is_at(path)):
                return None
            if state_at(path) in _FINAL:
                return End(state_at(path), path)
            yield self._post
        record = self._record()
        return End(None if record is None or record.ok else State.FAILED)

    def _line_has_ended(self) -> bool:
        return self._wanted.keeps and results.has(self._spool, self._wanted.id)

    # -- the watchpost ----------------------------------------------------------

    def _watch(self, add: Callable[[Watchpost], None]) -> None:
        """Have something watched; do without inotify if that is not possible."""
        if self._is_remote:
            return
        try:
            if self._post is None:
                self._post = Watchpost()
            add(self._post)
        except OSError:
            self._leave_post()

    def _leave_post(self) -> None:
        post, self._post = self._post, None
        if post is not None:
            post.close()


@lru_cache(maxsize=64)
def _is_remote(path: str) -> bool:
    return is_remote(file_system(path))


# -- those who wait ---------------------------------------------------------------


def wait(spool: SpoolDir, wanted: Wanted, timeout: float | None) -> End:
    """Wait, and block meanwhile.

    Args:
        timeout: Seconds.

    Raises:
        TimeoutError: The task has not ended in that time.
        OSError: From the file system.
    """
    deadline = None if timeout is None else CLOCK.monotonic() + timeout
    steps = _Wait(spool, wanted).steps()
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
                raise TimeoutError(f"task {wanted.id} has not ended in {timeout:g} s")
            if what is not None:
                what.wait(left)
            else:
                Event().wait(POLL if left is None else min(POLL, left))
    except StopIteration as stop:
        end: End = stop.value
        return end
    finally:
        steps.close()


def result(spool: SpoolDir, wanted: Wanted, timeout: float | None) -> Any:
    """Wait, and block meanwhile; return what the task returned: ``Handle.result``."""
    return _outcome(spool, wanted, wait(spool, wanted, timeout))


async def result_async(spool: SpoolDir, wanted: Wanted) -> Any:
    """Return what the task returned; await it: ``Handle.__await__``."""
    import anyio  # noqa: PLC0415 (only those who await need it)

    steps = _Wait(spool, wanted).steps()
    answer: object = None
    try:
        while True:
            what = steps.send(answer)
            answer = None
            if callable(what):
                answer = await anyio.to_thread.run_sync(what)
            elif what is None:
                await anyio.sleep(POLL)
            else:
                await anyio.wait_readable(what.fileno())
                what.read()
    except StopIteration as stop:
        return _outcome(spool, wanted, stop.value)
    finally:
        steps.close()


def _outcome(spool: SpoolDir, wanted: Wanted, end: End) -> Any:
    """Return the value that is kept of a task that has ended, or raise."""
    if end.state is not None:
        raise failure(spool, wanted.id, end)
    if end.removed:
        raise ResultGoneError(wanted.id, "it was removed before it had ended")
    record = results.read(spool, wanted.id)
    if record is None:
        if wanted.keeps:
            raise ResultGoneError(wanted.id, "its result is not kept any more")
        if not end.path and wanted.name is None and wanted.batch is None:
            problem = "there is no such task, and no result of one"
            raise NotFoundError(wanted.id, problem)
        return None
    if not record.ok:
        raise _failed(record)
    return record.value()


def _failed(record: Record) -> TaskFailed:
    return TaskFailed(
        record.id, record.error or "", record.reason or "", record.traceback
    )


def failure(spool: SpoolDir, task_id: str, end: End) -> TaskFailed:
    """Return what was kept of a failure, or else reported."""
    with suppress(ResultError):
        record = results.read(spool, task_id)
        if record is not None and not record.ok and end.state is State.FAILED:
            return _failed(record)
    why = reports.read_why(spool, end.path) if end.path else {}
    reason = str(why.get("reason") or "")
    if end.state is State.CORRUPT:
        return TaskFailed(task_id, f"it is corrupt: {reason}", "corrupt", None)
    traceback = why.get("traceback")
    return TaskFailed(
        task_id,
        str(why.get("error") or ""),
        reason or "unknown",
        traceback if isinstance(traceback, str) else None,
    )
