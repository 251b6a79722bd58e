"""One spool and what serves it: hand out what is due, look after the rest in time.

What a task may be waiting for comes first. All else has its moment, and until one has
come nobody asks for it.
"""

import errno
import os
from dataclasses import dataclass
from typing import Final

from .backlog import Backlog
from .clock import CLOCK
from .errors import NotASpoolError
from .forker import Forker
from .scheduler import Scheduler
from .space import Space
from .spooldir import SpoolDir
from .spooldir.recovery import ProcessLock, sweep
from .spooldir.results import Sweeper
from .supervisor import Supervisor
from .wakeup import Watch, file_system

LOOK_FOR_DEAD: Final = 1.0
"""Seconds between two looks for processes of other daemons that have died."""

LOOK_FOR_KILLS: Final = 1.0
"""Seconds between two looks for tasks that somebody wants killed."""

SWEEP_EVERY: Final = 600.0
"""Seconds between two sweeps of left-overs."""

BLIND_SCAN: Final = 1.0
"""Seconds between two scans where there is no inotify."""

FULL_AGAIN: Final = 1.0
"""Seconds to wait after an error of the file system."""


@dataclass(slots=True)
class Served:
    """One spool and what serves it.

    Attributes:
        frequency: Seconds between two scans that nothing else caused.
        keep_logs_for: Seconds for which output is kept.
        tend_at: The monotonic moment when something of the rest is due; 0 for now.
    """

    dir: SpoolDir
    lock: ProcessLock
    watch: Watch
    backlog: Backlog
    supervisor: Supervisor
    scheduler: Scheduler
    results: Sweeper
    space: Space
    frequency: float
    keep_logs_for: float
    tend_at: float = 0.0
    _scan_at: float = 0.0
    _look_at: float = 0.0
    _kill_at: float = 0.0
    _sweep_at: float = 0.0
    _pause_until: float = 0.0
    _scanned_at: float = 0.0
    _busy_at: float = 0.0

    def serve(self, forker: Forker) -> float:
        """Do what is due; return for how many seconds nothing will be.

        Raises:
            NotASpoolError: It was removed or replaced.
            OSError: From the file system: ``pause``, then go on.
        """
        paused = self._pause_until - CLOCK.monotonic()
        if paused > 0:
            return paused
        if not self.backlog.stale:
            self.supervisor.feed()
        idle = self._idle_for()
        if idle > 0:
            return idle
        self._tend(forker)
        return self._idle_for()

    def pause(self) -> float:
        """Do nothing for a while; return for how many seconds."""
        self._pause_until = CLOCK.monotonic() + FULL_AGAIN
        return FULL_AGAIN

    def _tend(self, forker: Forker) -> None:
        now = CLOCK.monotonic()
        supervisor = self.supervisor
        supervisor.recover_dead()
        if now >= self._kill_at:
            self._kill_at = now + LOOK_FOR_KILLS
            look = supervisor.look_for_kills
            self.watch.add("kill", lambda file, whole: look(), look)
            look()
        supervisor.enforce()
        if supervisor.draining:
            self.tend_at = self._kill_at
            return
        if now >= self._look_at:
            self._look_at = now + LOOK_FOR_DEAD
            if not self.dir.is_in_place():
                raise NotASpoolError(self.dir.path, "was removed or replaced")
            supervisor.recover_strangers()
            supervisor.trim_logs()
            self.space.look()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY
            sweep(self.dir, keep_logs_for=self.keep_logs_for)
        self.results.work()
        if self.backlog.stale or now >= self._scan_at:
            self._scan(now)
        self.scheduler.put_due()
        self.backlog.adopt_some()
        supervisor.spawn(forker)
        supervisor.feed()
        moments = (self._scan_at, self._look_at, self._sweep_at, self.results.due)
        self.tend_at = min(self._kill_at, *moments)

    def _scan(self, now: float) -> None:
        pause = self.frequency
        if self.backlog.is_blind:
            pause = min(pause, BLIND_SCAN)
        self._scan_at = now + pause
        self.backlog.scan()
        self._scanned_at = CLOCK.monotonic()

    def _idle_for(self) -> float:
        """Return for how many seconds nothing is due."""
        now = CLOCK.monotonic()
        waits = [self.tend_at - now]
        workers = self.supervisor.next_moment()
        if workers is not None:
            waits.append(workers)
        if not self.supervisor.draining:
            if self.backlog.stale:
                return 0.0
            look = self.backlog.next_look
            if look is not None:
                waits.append(look)
            # With all workers busy nobody looks, so it may have passed long ago.
            due_us = self.backlog.next_due_us if self.supervisor.takes_more else None
            for moment_us in (due_us, self.scheduler.next_us):
                if moment_us is not None:
                    waits.append((moment_us - CLOCK.now_us()) / 1e6)
        return max(0.0, min(waits))

    def is_done(self) -> bool:
        """Tell whether nothing is left to run now."""
        backlog = self.backlog
        is_waiting = backlog.has_due or backlog.is_adopting
        if self.supervisor.busy or is_waiting:
            self._busy_at = CLOCK.monotonic()
            return False
        if backlog.is_blind and self._scanned_at <= self._busy_at:
            backlog.stale = True  # nobody told what the last task has put
        return self._scanned_at > 0 and not backlog.stale


def explain(spool: SpoolDir, error: OSError) -> str:
    """Say why a spool cannot be served, and what would help."""
    match error.errno:
        case errno.ENOSYS | errno.ENOLCK | errno.EOPNOTSUPP:
            kind = file_system(spool.path)
            return f"its file system ({kind}) has no locks, which spoold needs (flock)"
        case errno.EROFS:
            return "its file system is read-only: remount it, or name another spool"
        case errno.EACCES | errno.EPERM:
            return f"user {os.geteuid()} has no permission: run spoold as its owner"
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror}{where}"
