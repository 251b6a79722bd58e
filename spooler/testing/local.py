"""A spool for one test, whose tasks run in the test's own process.

A ``LocalSpool`` is a real spool in a directory of the test's own. All that the
process puts meanwhile goes there, wherever it was meant to go; ``run`` runs what is
due as a worker does; ``advance`` moves the clock. For pytest there is the fixture
``spool`` (see ``plugin``).
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from .. import many, putting
from ..channel import WorkerSettings
from ..clock import CLOCK, SystemClock
from ..ending import Ending, Endings
from ..errors import TaskFailed, UsageError
from ..execution import Execution
from ..groups import accepted_owners
from ..handle import Handle
from ..known import known_of
from ..moments import Duration, duration
from ..putting import Prepared, PutOptions
from ..registry import REGISTRY
from ..retry import RetryPolicy
from ..scheduler import Scheduler
from ..spooldir import SpoolDir, repair
from ..spooldir.claims import Claims
from ..spooldir.recovery import ProcessLock, process_name
from ..task import Claim, Name, State

_Put = Callable[[str, bytes, PutOptions], Handle]
_PutInto = Callable[[str, Mapping[bytes, bytes], bytes], str]
_PutUwsgi = Callable[[dict[bytes, bytes], bytes], str]

RUNS_MAX: Final = 10_000
"""Runs after which ``run`` takes a spool for one that never gets empty."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that waits in a ``LocalSpool``.

    Attributes:
        args: The arguments, as they stand in the file.
        due_us: When it is due, in µs since the epoch.
    """

    id: str
    task: str
    args: dict[str, Any]
    priority: int
    attempt: int
    due_us: int


@dataclass(frozen=True, slots=True)
class Ran:
    """A run in a ``LocalSpool``.

    Attributes:
        outcome: ``ack``, ``retry``, ``again``, ``release``, ``fail`` or ``reject``.
        error: One line; empty after a success.
    """

    id: str
    task: str
    attempt: int
    outcome: str
    error: str = ""
    traceback: str | None = None


class FakeClock:
    """A clock that stands still until it is told otherwise.

    While it is in use nobody in this process sees the system's time through spooler;
    what the file system notes is real.
    """

    def __init__(self) -> None:
        self._wall_us = SystemClock().now_us()

    def now_us(self) -> int:
        """Return the wall time in µs since the epoch."""
        return self._wall_us

    def monotonic(self) -> float:
        """Return seconds from some moment on; they are real, so that waits end."""
        return SystemClock().monotonic()

    def advance(self, by: Duration) -> None:
        """Let time pass.

        Raises:
            UsageError: That is no duration.
        """
        seconds = duration("by", by) or 0.0
        self._wall_us += timedelta(seconds=seconds) // timedelta(microseconds=1)


class _Recorder(Endings):
    """Tells what became of each claim."""

    def __init__(self, claims: Claims, policy: RetryPolicy) -> None:
        super().__init__(claims, policy)
        self.ran: list[Ran] = []

    def ack(self, path: str, claim: Claim, started_us: int) -> bool:
        return False  # all come to ``settle``

    def settle(self, ending: Ending) -> None:
        super().settle(ending)
        name, outcome = ending.claim.name, ending.outcome
        word = outcome.verdict.value
        ran = Ran(name.id, name.task, name.attempt + 1, word)
        self.ran.append(replace(ran, error=outcome.error, traceback=outcome.traceback))


class LocalSpool:
    """A spool for one test, whose tasks run in this process when it says so.

    Use it as a context manager.

    Args:
        path: A directory; it is made if it is missing.
        immediate: Run each task as soon as it is put.
        retry: What the daemon's options would say of retries.

    Attributes:
        path: The spool's path.
        clock: The clock that everything in spooler sees.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        immediate: bool = False,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.clock = FakeClock()
        self.immediate = immediate
        self._retry = retry or RetryPolicy()
        self._dir = SpoolDir(self.path)
        self._scheduler = Scheduler(self._dir, self.clock)
        self._undo: list[Any] = []
        self._running = False

    def __fspath__(self) -> str:
        return self.path

    # -- what there is ----------------------------------------------------------

    @property
    def waiting(self) -> list[Waiting]:
        """The tasks that wait, in the order in which they are to run."""
        found = [(name.priority, name.due_us, path) for path, name in self._names()]
        return [self._waiting(path) for _, _, path in sorted(found)]

    @property
    def failed(self) -> list[dict[str, object]]:
        """The reports of the tasks that failed (docs/format.md, "``.why``")."""
        found = repair.ls(self._dir, State.FAILED)
        return [repair.why(self._dir, each) for each in found]

    def _names(self) -> Iterator[tuple[str, Name]]:
        for folder, file in self._dir.waiting():
            name = Name.parse(file)
            if name is not None:
                yield f"{folder}/{file}", name

    def _waiting(self, path: str) -> Waiting:
        found = repair.Found(State.WAITING, path, Name.parse(path.rpartition("/")[2]))
        task, name = repair.read(self._dir, found), found.name
        task.close()
        args = task.header.args
        if isinstance(args, bytes):
            args = msgspec.json.decode(args, type=dict[str, Any])
        if name is None:
            raise UsageError(f"{path} is no native name")
        return Waiting(
            name.id, name.task, dict(args), name.priority, name.attempt, name.due_us
        )

    # -- running ----------------------------------------------------------------

    def run(self, *, check: bool = True) -> list[Ran]:
        """Run what is due, and what that puts, until nothing is due any more.

        A task that is to be tried again is due later: see ``advance``.

        Args:
            check: Raise an error if a run did not succeed.

        Returns:
            The runs, in order.

        Raises:
            TaskFailed: A run did not succeed, the first of them, after all have run.
            UsageError: The tasks put more and more, or it runs already.
        """
        if self._running:
            raise UsageError("it runs already: a task cannot run the others")
        self._running = True
        try:
            ran = self._run()
        finally:
            self._running = False
        for each in ran if check else ():
            if each.error and each.outcome in ("retry", "fail", "reject"):
                raise TaskFailed(each.id, each.error, each.outcome, each.traceback)
        return ran

    def _run(self) -> list[Ran]:
        name = process_name("worker")
        lock = ProcessLock(self._dir, name)
        lock.acquire()
        owners = sorted(accepted_owners((), ()))
        settings = WorkerSettings(name, "test", self.path, owners, self._retry)
        claims = Claims(self._dir, name, owners, self.clock)
        recorder = _Recorder(claims, self._retry)
        execution = Execution(claims, settings, _nobody, endings=recorder)
        seen: set[str] = set()
        try:
            while path := self._next(seen):
                seen.add(path)
                if len(seen) > RUNS_MAX:
                    raise UsageError(f"{RUNS_MAX} tasks have run, and more are put")
                execution.handle(path)
        finally:
            claims.close()
            lock.remove()
        return recorder.ran

    def _next(self, seen: set[str]) -> str | None:
        now_us = self.clock.now_us()
        due = [
            (name.priority, str(name), path)
            for path, name in self._names()
            if name.due_us <= now_us and path not in seen
        ]
        return min(due)[2] if due else None

    def advance(self, by: Duration) -> list[Ran]:
        """Let time pass, put the tasks of the timers that come due, run what is due.

        Args:
            by: Seconds, a timedelta, or text such as ``10m``.

        Returns:
            The runs, in order, as ``run(check=False)`` does.

        Raises:
            UsageError: That is no duration.
        """
        self._scheduler.put_due()
        self.clock.advance(by)
        self._scheduler.put_due()
        return self.run(check=False)

    # -- being in use -----------------------------------------------------------

    def __enter__(self) -> Self:
        self._dir.create()
        self._scheduler.use([known_of(entry) for entry in REGISTRY])
        self._replace(CLOCK, "now_us", self.clock.now_us)
        here = self._put_here(putting.put)
        for module in (putting, many):
            self._replace(module, "put", here)
        self._replace(Prepared, "put", lambda it, args: here(it.task, args, it.options))
        uwsgi = sys.modules.get("spooler.ext.uwsgi.spooling")
        if uwsgi is not None:
            self._replace(uwsgi, "put", self._put_uwsgi_here(uwsgi.put_into))
        before = os.environ.get("SPOOL_DIR")
        self._undo.append(lambda: _set_spool_dir(before))
        _set_spool_dir(self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._undo:
            self._undo.pop()()
        self._dir.close()

    def _replace(self, owner: object, name: str, value: object) -> None:
        # The clock's methods are its class's: what stands on the object is over them.
        before = vars(owner).get(name)
        setattr(owner, name, value)
        self._undo.append(
            (lambda: delattr(owner, name))
            if before is None
            else (lambda: setattr(owner, name, before))
        )

    def _put_here(self, real: _Put) -> _Put:
        def put(task: str, args: bytes, options: PutOptions) -> Handle:
            here = msgspec.structs.replace(
                options, spool=self.path, remote=None, outbox=False
            )
            handle = real(task, args, here)
            self._has_put()
            return handle

        return put

    def _put_uwsgi_here(self, real: _PutInto) -> _PutUwsgi:
        def put(pairs: dict[bytes, bytes], body: bytes) -> str:
            path = real(self.path, pairs, body)
            self._has_put()
            return path

        return put

    def _has_put(self) -> None:
        if self.immediate and not self._running:
            self.run()


def _set_spool_dir(path: str | None) -> None:
    if path is None:
        os.environ.pop("SPOOL_DIR", None)
    else:
        os.environ["SPOOL_DIR"] = path


def _nobody(lines: list[str]) -> None:
    """Tell no supervisor."""
