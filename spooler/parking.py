"""Names of tasks that wait until a limit lets them run.

They are in nobody's way: the backlog takes them for handed out. When a limit may
have room, its first name goes back to the backlog, to be handed out and tried; if it
can run, the next one follows. One is tried at a time, so that a long queue costs no
more than a short one. Only names: what is forgotten here is found by a scan.
"""

import heapq
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from .clock import CLOCK, Clock

LOOK_AGAIN: Final = 1.0
"""Seconds until a limit is tried again of which nobody here has told anything: another
daemon's worker may have let go of it."""

JUST_NOW: Final = 0.1
"""Seconds for which it is remembered that a run under a limit has ended. A worker that
was refused just before may tell so just after."""

FREED_MAX: Final = 1000
"""How many limits that is remembered of."""

GiveBack = Callable[[str], bool]
"""Takes a path back into the backlog; tells whether it still is a task of it."""


@dataclass(slots=True)
class _Queue:
    """What waits for one limit.

    Attributes:
        names: A heap of (priority, name, path).
        probe: The path that was given back to be tried, and has not been heard of.
        at: When to try the next one.
    """

    names: list[tuple[int, str, str]] = field(default_factory=list)
    probe: str | None = None
    freed: bool = False
    at: float = -1.0


class Parking:
    """What waits for limits in one spool.

    Args:
        give_back: Takes a name back among those that are handed out.
    """

    def __init__(self, give_back: GiveBack, clock: Clock = CLOCK) -> None:
        self._give_back = give_back
        self._clock = clock
        self._queues: dict[str, _Queue] = {}
        self._moments: list[tuple[float, str]] = []
        self._parked: dict[str, str] = {}
        self._probes: dict[str, str] = {}
        self._freed: dict[str, float] = {}
        self._limits: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._parked)

    def use(self, limits: dict[str, tuple[str, ...]]) -> None:
        """Forget all limits, give all back: the code that made them was replaced.

        Args:
            limits: By task name, the limits that are the same for all its tasks.
        """
        self._limits = limits
        for path in self._parked:
            self._give_back(path)
        for each in (self._queues, self._moments, self._parked, self._probes):
            each.clear()
        self._freed.clear()

    # -- news -------------------------------------------------------------------

    def park(self, limit: str, path: str, seconds: float | None) -> None:
        """Keep a name that was refused.

        Args:
            limit: The hash of the limit.
            seconds: When to try again; None when a slot is free.
        """
        queue = self._queues.setdefault(limit, _Queue())
        now = self._clock.monotonic()
        at = now + (LOOK_AGAIN if seconds is None else seconds)
        freed = now - self._freed.pop(limit, now - 2 * JUST_NOW) < JUST_NOW
        is_answer = queue.probe == path
        if freed or (is_answer and queue.freed):
            at = now
        if is_answer:
            self._answered(queue)
        elif queue.names:
            at = min(at, queue.at)
        self._add(queue, limit, path)
        self._look_at(limit, queue, at)

    def _look_at(self, limit: str, queue: _Queue, at: float) -> None:
        if queue.at != at:
            queue.at = at
            heapq.heappush(self._moments, (at, limit))

    def _add(self, queue: _Queue, limit: str, path: str) -> None:
        if self._parked.get(path) == limit:
            return
        self._parked[path] = limit
        priority, _, name = path.split("/")
        heapq.heappush(queue.names, (int(priority), name, path))

    def begun(self, limit: str) -> None:
        """Note that a run under a limit has begun: there may be room for one more."""
        queue = self._queues.get(limit)
        if queue is not None:
            self._answered(queue)
            self._try_next(limit, queue)

    def ended(self, limit: str) -> None:
        """Note that a run under a limit has ended: there is room."""
        queue = self._queues.get(limit)
        if queue is None or not queue.names:
            if len(self._freed) >= FREED_MAX:
                self._freed.clear()
            self._freed[limit] = self._clock.monotonic()
        if queue is not None:
            if queue.probe is None:
                self._try_next(limit, queue)
            else:
                queue.freed = True

    @property
    def is_trying(self) -> bool:
        """Whether somebody was handed a name to try."""
        return bool(self._probes)

    def settled(self, path: str) -> None:
        """Note that a name is done with; if it was to be tried, try the next one."""
        limit = self._probes.get(path)
        if limit is not None:
            queue = self._queues[limit]
            self._answered(queue)
            self._try_next(limit, queue)

    def divert(self, paths: Collection[str]) -> list[str]:
        """Park those whose limit others wait for already; return the rest."""
        kept = []
        for path in paths:
            limits = self._limits.get(path.split(".", 4)[4], ())
            for limit in limits:
                queue = self._queues.get(limit)
                if queue is not None and path not in self._probes:
                    self._add(queue, limit, path)
                    break
            else:
                kept.append(path)
        return kept

    # -- time -------------------------------------------------------------------

    def look(self) -> None:
        """Try again what it is time for."""
        now = self._clock.monotonic()
        while self._moments and self._moments[0][0] <= now:
            at, limit = heapq.heappop(self._moments)
            queue = self._queues.get(limit)
            if queue is not None and queue.at == at:
                queue.at = -1.0
                self._answered(queue)  # or not: whoever has it takes his time
                self._try_next(limit, queue)

    def next_moment(self) -> float | None:
        """Return when ``look`` has something to do, by the monotonic clock."""
        while self._moments:
            at, limit = self._moments[0]
            queue = self._queues.get(limit)
            if queue is not None and queue.at == at:
                return at
            heapq.heappop(self._moments)
        return None

    def _answered(self, queue: _Queue) -> None:
        if queue.probe is not None:
            self._probes.pop(queue.probe, None)
            queue.probe = None
        queue.freed = False

    def _try_next(self, limit: str, queue: _Queue) -> None:
        """Give the first name back that is still there."""
        while queue.names:
            _, _, path = heapq.heappop(queue.names)
            if self._parked.get(path) != limit:  # it waits for another one now
                continue
            del self._parked[path]
            self._probes[path] = limit  # before: it may be handed out at once
            if self._give_back(path):
                queue.probe = path
                at = self._clock.monotonic() + LOOK_AGAIN
                self._look_at(limit, queue, at)
                return
            del self._probes[path]
        del self._queues[limit]
