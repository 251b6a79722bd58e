"""End runs that are over their time limit, or that somebody wants killed.

A worker that cannot be asked is stopped, and its process group gets TERM, so that what
the task has started can end in order; KILL follows a moment later. Stopped, since else
the function would see its children end and go on, and might even succeed.
"""

import logging
from collections.abc import Mapping
from typing import Final

from .clock import CLOCK, Clock
from .logs import escape
from .spooldir import SpoolDir, kills
from .spooldir.kills import KILLED
from .task import Name, Outcome, Verdict
from .watched import WatchedWorker

CANCEL: Final = 0.150
"""Seconds that a worker is given to end a run that it was asked to cancel."""

CANCEL_AMONG: Final = 1.0
"""The same where it would take other runs with it, if it had to be killed."""

TERM: Final = 0.100
"""Seconds between the two signals, TERM and KILL."""

LATE: Final = 0.150
"""Seconds after a time limit when KILL is sent at the latest, even if TERM was late."""

LOOK_AGAIN: Final = 0.050
"""Seconds between two looks at requests that are being carried out."""

OVERRAN: Final = Outcome(
    Verdict.FAIL, "ran past its time limit and was killed", "timeout"
)
ASKED: Final = Outcome(Verdict.FAIL, "an operator had it killed", KILLED)

log = logging.getLogger(__name__)


class Killing:
    """Who is to be killed in one spool.

    Args:
        workers: The living workers, by name; it changes under our hands.
    """

    def __init__(
        self,
        spool: SpoolDir,
        workers: Mapping[str, WatchedWorker],
        clock: Clock = CLOCK,
    ) -> None:
        self._spool = spool
        self._workers = workers
        self._clock = clock
        self._wanted: dict[str, str] = {}
        self._look_at = 0.0
        self.asked = True
        """Whether there may be new requests."""

    # -- requests ---------------------------------------------------------------

    def look(self, dead: Mapping[str, object]) -> None:
        """Take what was asked for; remove requests that are carried out.

        Args:
            dead: Our workers whose tasks were not recovered yet, by name.

        Raises:
            OSError: From the file system.
        """
        if not self.asked and not self._wanted:
            return
        self._look_at = self._clock.monotonic() + LOOK_AGAIN
        asked = kills.requests(self._spool)
        self.asked = False
        if not asked and not self._wanted:
            return
        runs = {}
        for name in (*self._workers, *dead):
            for file in self._spool.names(f"running/{name}"):
                task = Name.parse(file)
                if task is not None:
                    runs[task.id] = (name, task)
        for task_id in asked:
            worker = self._workers.get(runs[task_id][0]) if task_id in runs else None
            if worker is not None and task_id not in self._wanted:
                is_alone = [name for name, _ in runs.values()].count(worker.name) == 1
                seconds = CANCEL if is_alone else CANCEL_AMONG
                self._cancel(worker, runs[task_id][1], seconds)
        for task_id in [each for each in self._wanted if each not in runs]:
            kills.forget(self._spool, task_id)
            del self._wanted[task_id]

    def _cancel(self, worker: WatchedWorker, task: Name, seconds: float) -> None:
        path = f"{task.folder}/{task}"
        text = "kill task=%s name=%s worker=%s: asked for"
        log.warning(text, task.id, escape(task.task), worker.name)
        self._wanted[task.id] = worker.name
        worker.culprits[path] = ASKED
        if worker.term_at is None:
            worker.term_at = self._clock.monotonic() + seconds
        worker.channel.send([f"!cancel {path}"])

    # -- time -------------------------------------------------------------------

    def enforce(self) -> None:
        """Send the signals that are due."""
        now = self._clock.monotonic()
        for worker in self._workers.values():
            if worker.limits:
                self._enforce_limits(worker, now)
            if worker.frozen:
                self._kill(worker, now)
            elif worker.culprits and worker.term_at is not None:
                self._freeze(worker, now)
            else:
                worker.term_at = worker.kill_at = None  # they have ended in time

    def _enforce_limits(self, worker: WatchedWorker, now: float) -> None:
        for path in [path for path, at in worker.limits.items() if at <= now]:
            limit = worker.limits.pop(path)
            log.error("kill worker=%s: time limit", worker.name)
            worker.culprits.setdefault(path, OVERRAN)
            if not worker.frozen:
                worker.term_at = now
                worker.kill_at = max(now, min(now + TERM, limit + LATE))

    def _freeze(self, worker: WatchedWorker, now: float) -> None:
        if worker.term_at is not None and worker.term_at <= now:
            worker.frozen = worker.draining = True
            worker.kill_at = worker.kill_at or now + TERM
            worker.forker.freeze(worker.child)

    def _kill(self, worker: WatchedWorker, now: float) -> None:
        if not worker.killed and worker.kill_at is not None and worker.kill_at <= now:
            worker.killed = True
            worker.forker.kill(worker.child)

    def next_moment(self) -> float | None:
        """Return when there is something to do, by the monotonic clock."""
        if self.asked:
            return 0.0
        moments = [self._look_at] if self._wanted else []
        for worker in self._workers.values():
            moments += worker.limits.values()
            at = worker.kill_at if worker.frozen else worker.term_at
            if at is not None and not worker.killed:
                moments.append(at)
        return min(moments, default=None)
