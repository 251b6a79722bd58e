"""A worker as its supervisor sees it: what it was handed, how fast it works."""

import math
import socket
from collections.abc import Collection
from typing import Final

import msgspec

from .channel import Channel
from .clock import CLOCK
from .forker import Child, Forker
from .task import BATCH, Outcome

AHEAD: Final = 0.010
"""Seconds of work that a worker is handed in advance."""

WINDOW_MAX: Final = 256
"""Names that a worker is handed in advance at most, if it runs one at a time."""

STALLED: Final = 0.020
"""Seconds after which what a worker has not begun goes to an idle one."""

STOPPED: Final = 1.0
"""Seconds after which the only name that a worker was handed goes to an idle one too:
it may not have begun it, and then somebody has stopped it."""

HELPING: Final = 8
"""Names that a worker that runs many at a time is handed in one go."""

SHARE_EVERY: Final = 0.050
"""Seconds until a worker is asked to share its batch, and asked again. Each time it is
twice as long: who does not listen must not be talked to for ever."""


class Places(msgspec.Struct, frozen=True):
    """How many tasks a worker may run at a time.

    Attributes:
        plain: Of plain functions.
        coroutines: Of async functions, if it knows any.
        names: The task names of its async functions.
    """

    plain: int = 1
    coroutines: int = 0
    names: frozenset[str] = frozenset()


ONE: Final = Places()


class WatchedWorker:
    """A worker as its supervisor sees it.

    Args:
        places: How many tasks it may run at a time.

    Attributes:
        in_flight: Paths that it was handed and has not settled.
        asyncs: Those of them that are async, if it has places for them.
        running: Those of them that it says it has begun; it says so of long runs, if it
            runs many at a time.
        limits: When each of its runs is over its time limit, by path.
        culprits: Runs for which it is killed, by path, and what becomes of them.
        term_at: When it is stopped and its group gets TERM; None for never.
        kill_at: When they get KILL.
        frozen: Whether the first has been done; nothing holds the second back then.
        is_done: Whether it has done enough and asks to be replaced.
        begun: By limit, how many runs have begun and not ended.
    """

    def __init__(
        self,
        name: str,
        child: Child,
        connection: socket.socket,
        forker: Forker,
        places: Places = ONE,
    ) -> None:
        self.name = name
        self.child = child
        self.forker = forker
        self.connection = connection
        self.channel = Channel(connection)
        self.places = places
        self.asyncs: set[str] = set()
        self.in_flight: dict[str, None] = {}
        self.running: set[str] = set()
        self.offered = CLOCK.monotonic()
        self.window = 1
        self.stalled = False
        self.draining = False
        self.is_done = False
        self._stays = False
        self.heard = CLOCK.monotonic()
        self.least_urgent = 0
        self.limits: dict[str, float] = {}
        self.culprits: dict[str, Outcome] = {}
        self.term_at: float | None = None
        self.kill_at: float | None = None
        self.frozen = False
        self.killed = False
        self.listening = True
        self.begun: dict[str, int] = {}
        self.share_at = 0.0
        self._share_pause = SHARE_EVERY

    def offer(self, paths: Collection[str]) -> None:
        """Hand over names of waiting tasks."""
        self.offered = CLOCK.monotonic()
        if not self.in_flight:
            self.heard = CLOCK.monotonic()
            self.least_urgent = 0
        self.in_flight.update(dict.fromkeys(paths))
        if self.places.coroutines:
            self.asyncs.update(filter(self.is_async, paths))
        priorities = {path[: path.index("/")] for path in paths}
        self.least_urgent = max(self.least_urgent, max(map(int, priorities), default=0))
        self.channel.send(list(paths))

    def forget(self, path: str) -> None:
        """Note that it is done with what it was handed."""
        self.in_flight.pop(path, None)
        if self.limits:
            self.limits.pop(path, None)
        if self.culprits:
            self.culprits.pop(path, None)
        if self.running:
            self.running.discard(path)
        if self.asyncs:
            self.asyncs.discard(path)

    def forget_all(self, paths: list[str]) -> None:
        """Note that it is done with several things that it was handed."""
        if self.limits or self.culprits or self.running or self.asyncs:
            for path in paths:
                self.forget(path)
        else:
            for path in paths:
                self.in_flight.pop(path, None)

    def runs(self, path: str) -> None:
        """Note that a task runs: others need not try it."""
        if path in self.in_flight:
            self.running.add(path)

    def limit(self, path: str, seconds: float) -> None:
        """Note for how long a run may go on; 0 for as long as it likes."""
        if seconds:
            self.limits[path] = CLOCK.monotonic() + seconds
        else:
            self.limits.pop(path, None)

    def ended(self, limit: str) -> None:
        """Note that a run under a limit has ended."""
        left = self.begun.pop(limit, 1) - 1
        if left > 0:
            self.begun[limit] = left

    def heard_of(self, done: int) -> None:
        """Learn how fast it works."""
        now = CLOCK.monotonic()
        each = (now - self.heard) / max(1, done)
        self.window = max(1, min(WINDOW_MAX, int(AHEAD / max(each, 1e-6))))
        self.heard = now
        self.stalled = False
        self._share_pause = SHARE_EVERY

    def drain(self) -> None:
        """Tell it to finish what it runs and to take no more."""
        if not self.draining:
            self.draining = True
            self.channel.send(["!drain"])

    def stay(self) -> None:
        """Tell it, once, to go on until it can be replaced."""
        if not self._stays:
            self._stays = True
            self.channel.send(["!stay"])

    @property
    def late_at(self) -> float:
        """When others may have what it was handed."""
        waiting = len(self.in_flight) - len(self.running)
        if self.places == ONE:
            return self.heard + (STALLED if waiting > 1 else STOPPED)
        since = max(self.heard, self.offered)
        return since + STALLED if waiting else math.inf

    @property
    def helping(self) -> int:
        """How many names it is handed at a time, while others have room too."""
        return self.window if self.places == ONE else HELPING

    @property
    def room(self) -> int:
        """How many more names it may be handed."""
        if self.places.coroutines:
            return max(self.room_for(is_async=True), self.room_for(is_async=False))
        if self.draining or self.stalled:
            return 0
        return max(self.window, self.places.plain) - len(self.in_flight)

    def is_async(self, path: str) -> bool:
        """Tell whether a task is one of its async functions."""
        return path.split(".", 4)[4] in self.places.names

    def room_for(self, *, is_async: bool) -> int:
        """How many more names of a kind it may be handed."""
        size, taken = self.places.coroutines, len(self.asyncs)
        if not is_async:
            size, taken = self.places.plain, len(self.in_flight) - taken
        held_up = self.stalled and (not is_async or self.asyncs - self.running)
        return 0 if self.draining or held_up else max(self.window, size) - taken

    @property
    def takes_urgent(self) -> bool:
        """Whether what is more urgent than what it has may be handed to it too."""
        if len(self.in_flight) == 1:
            return self.batch is not None and not self.draining
        return 1 < len(self.in_flight) <= WINDOW_MAX

    @property
    def batch(self) -> str | None:
        """The path of a batch among what it was handed first."""
        first = next(iter(self.in_flight), "")
        if first.endswith(_BATCH):
            return first
        return next((path for path in self.running if path.endswith(_BATCH)), None)

    def ask_to_share(self, now: float) -> None:
        """Ask it to cut the batch that it runs, if it was not asked just now."""
        if now >= self.share_at:
            self.channel.send(["!share"])
            self.share_at = now + self._share_pause
            self._share_pause *= 2

    def ask_anew(self, now: float) -> None:
        """Ask it as often as at first: a batch was handed out, so asking may help."""
        self.share_at = now + SHARE_EVERY
        self._share_pause = SHARE_EVERY


_BATCH: Final = f".{BATCH}"
