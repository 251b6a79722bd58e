"""Keep the workers of one spool: start, feed, watch, replace, stop; recover.

The supervisor hands names of waiting tasks to workers, a few milliseconds' worth
at a time, and hands them to somebody else when they are not begun soon. Handing
out is a hint, so that it may happen twice; the worker's claim decides.
"""

import logging
import os
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from .backlog import Backlog
from .channel import Channel, WorkerSettings
from .clock import CLOCK, Clock
from .forker import Child, Forker
from .logs import escape
from .retry import RetryOptions, RetryPolicy, merge
from .spooldir import SpoolDir
from .spooldir.recovery import is_alive, process_name, processes, recover
from .task import Name, Outcome, Verdict

AHEAD: Final = 0.010
"""Seconds of work that a worker is handed in advance."""

WINDOW_MAX: Final = 256
"""Names that a worker is handed in advance at most."""

STALLED: Final = 0.020
"""Seconds after which what a worker has not begun goes to an idle one."""

STOPPED: Final = 1.0
"""Seconds after which the only name that a worker was handed goes to an idle one too:
it may not have begun it, and then somebody has stopped it."""

RECOVER_AGAIN: Final = 1.0
"""Seconds until a recovery that the file system refused is tried again."""

SPAWN_AGAIN: Final = 5.0
"""Seconds until more workers are tried after the system has refused them."""

ASK_MAX: Final = 16
"""Workers that are asked for at once, so that neither side waits for the other."""

RESPAWN_MAX: Final = 5.0
"""Longest pause between two starts of workers that die at once."""

log = logging.getLogger(__name__)

AddReader = Callable[[int, Callable[[], None]], None]
RemoveReader = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """How one spool is served."""

    workers: int = 1
    owners: frozenset[int] = frozenset()
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_tasks: int = 0
    soft_timeout: float | None = None
    hard_timeout: float | None = None


class _Worker:
    """A worker as its supervisor sees it."""

    def __init__(
        self, name: str, child: Child, connection: socket.socket, forker: Forker
    ) -> None:
        self.name = name
        self.child = child
        self.forker = forker
        self.connection = connection
        self.channel = Channel(connection)
        self.in_flight: dict[str, None] = {}
        self.window = 1
        self.stalled = False
        self.draining = False
        self.heard = CLOCK.monotonic()
        self.least_urgent = 0
        self.limits: dict[str, float] = {}
        self.overran = False
        self.listening = True

    def offer(self, paths: Collection[str]) -> None:
        """Hand over names of waiting tasks."""
        if not self.in_flight:
            self.heard = CLOCK.monotonic()
            self.least_urgent = 0
        for path in paths:
            self.in_flight[path] = None
            self.least_urgent = max(self.least_urgent, _priority(path))
        self.channel.send(list(paths))

    def heard_of(self, done: int) -> None:
        """Learn how fast it works."""
        now = CLOCK.monotonic()
        each = (now - self.heard) / max(1, done)
        self.window = max(1, min(WINDOW_MAX, int(AHEAD / max(each, 1e-6))))
        self.heard = now
        self.stalled = False

    @property
    def late_at(self) -> float:
        """When others may have what it was handed."""
        return self.heard + (STALLED if len(self.in_flight) > 1 else STOPPED)

    @property
    def room(self) -> int:
        """How many more names it may be handed."""
        if self.draining or self.stalled:
            return 0
        return self.window - len(self.in_flight)


def _priority(path: str) -> int:
    return int(path.partition("/")[0])


class Supervisor:
    """The workers of one spool.

    Args:
        add_reader: How to be called when a descriptor is readable.
        daemon: The daemon's name, as in ``workers/``.
    """

    def __init__(
        self,
        spool: SpoolDir,
        backlog: Backlog,
        settings: SupervisorSettings,
        daemon: str,
        add_reader: AddReader,
        remove_reader: RemoveReader,
        clock: Clock = CLOCK,
    ) -> None:
        self._spool = spool
        self._backlog = backlog
        self._settings = settings
        self._daemon = daemon
        self._add_reader = add_reader
        self._remove_reader = remove_reader
        self._clock = clock
        self._workers: dict[str, _Worker] = {}
        self._dead: dict[str, Outcome] = {}
        self._known: dict[str, RetryOptions] = {}
        self._draining = False
        self._spawn_at = 0.0
        self._spawn_pause = 0.0
        self._recover_at = 0.0
        self._refused: set[str] = set()

    # -- workers ----------------------------------------------------------------

    def use(self, forker: Forker) -> None:
        """Fork workers from here from now on; let those of others finish."""
        self._known = {known.name: known.retry for known in forker.known or ()}
        for worker in self._workers.values():
            if worker.forker is not forker:
                self._drain(worker)
        self._spawn_at = 0.0

    def spawn(self, forker: Forker) -> None:
        """Start the workers that are missing."""
        now = self._clock.monotonic()
        if self._draining or now < self._spawn_at or forker.gone:
            return
        active = sum(not worker.draining for worker in self._workers.values())
        for _ in range(self._settings.workers - active):
            if forker.asked >= ASK_MAX:
                return
            try:
                self._start(forker)
            except OSError as error:
                self._spawn_at = now + SPAWN_AGAIN
                have = len(self._workers)
                text = "cannot start more than %d workers in %s now: %s"
                log.error(text, have, escape(self._spool.path), error)
                return

    def _start(self, forker: Forker) -> None:
        name = process_name("worker")
        settings = WorkerSettings(
            name=name,
            daemon=self._daemon,
            spool=self._spool.path,
            owners=sorted(self._settings.owners),
            retry=self._settings.retry,
            max_tasks=self._settings.max_tasks,
            soft_timeout=self._settings.soft_timeout,
            hard_timeout=self._settings.hard_timeout,
        )
        child, connection = forker.fork(settings, lambda code: self._ended(name, code))
        worker = _Worker(name, child, connection, forker)
        self._workers[name] = worker
        self._add_reader(connection.fileno(), lambda: self._heard(worker))
        log.debug("start worker=%s spool=%s", name, self._spool.path)

    def _heard(self, worker: _Worker) -> None:
        lines = worker.channel.receive()
        if not worker.channel.open:
            # It ends; what becomes of it is told when it has ended.
            self._stop_listening(worker)
            self._drain(worker)
            return
        done = 0
        for line in lines:
            if line.startswith("!limit "):
                _, seconds, path = line.split(" ", 2)
                worker.limits[path] = self._clock.monotonic() + float(seconds)
            else:
                done += 1
                worker.in_flight.pop(line, None)
                worker.limits.pop(line, None)
                self._backlog.settle(line)
        if done:
            worker.heard_of(done)
            self._spawn_pause = 0.0

    def _stop_listening(self, worker: _Worker) -> None:
        if worker.listening:
            worker.listening = False
            self._remove_reader(worker.connection.fileno())

    def _drain(self, worker: _Worker) -> None:
        if not worker.draining:
            worker.draining = True
            worker.channel.send(["!drain"])

    def _ended(self, name: str, code: int) -> None:
        worker = self._workers.pop(name)
        if worker.channel.open:
            self._heard(worker)  # what it said at last
        # Also if a name could not be sent to it: then its end was not heard yet.
        self._stop_listening(worker)
        worker.connection.close()
        for path in worker.in_flight:
            self._backlog.give_back(path)
        # A task that calls os._exit(0) ends its worker too, but not in order.
        if code == 0 and not self._spool.has(f"running/{name}"):
            log.debug("end worker=%s", name)
            return
        self._dead[name] = self._why(worker, code)
        log.log(
            logging.INFO if self._draining else logging.ERROR,
            "worker=%s pid=%s died: %s",
            name,
            worker.child.pid,
            self._dead[name].error,
        )
        if not self._draining:
            now = self._clock.monotonic()
            self._spawn_at = now + self._spawn_pause
            self._spawn_pause = min(RESPAWN_MAX, self._spawn_pause * 2 or 0.05)
        self.recover_dead()

    def _why(self, worker: _Worker, code: int) -> Outcome:
        if worker.overran:
            error = "ran past its time limit and was killed"
            return Outcome(Verdict.FAIL, error, "timeout")
        if self._draining:
            error = "the daemon stopped before it had finished"
            return Outcome(Verdict.RELEASE, error)
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return Outcome(Verdict.FAIL, f"its worker died: {how}", "crash")

    # -- recovery ---------------------------------------------------------------

    def recover_dead(self) -> None:
        """Give back what workers of this supervisor held that have died."""
        if self._clock.monotonic() < self._recover_at:
            return
        for name, outcome in list(self._dead.items()):
            try:
                if self._recover(name, outcome):
                    del self._dead[name]
            except OSError as error:
                log.warning("cannot recover %s now: %s", escape(name), error)
                self._recover_at = self._clock.monotonic() + RECOVER_AGAIN

    def recover_strangers(self) -> None:
        """Give back what processes held whose daemon is dead too."""
        own = {self._daemon, *self._workers, *self._dead}
        outcome = Outcome(Verdict.FAIL, "its worker and its daemon died", "crash")
        for name in processes(self._spool):
            if name in own:
                continue
            try:
                if not is_alive(self._spool, name):
                    self._recover(name, outcome)
            except OSError as error:  # another user's, say: it must not stop this one
                level = logging.DEBUG if name in self._refused else logging.WARNING
                self._refused.add(name)
                log.log(level, "cannot recover %s now: %s", escape(name), error)

    def _recover(self, name: str, outcome: Outcome) -> bool:
        recovered = recover(self._spool, name, self._decide, outcome, clock=self._clock)
        if recovered is None:
            return False
        released = outcome.verdict is Verdict.RELEASE
        for each in recovered:
            lost = each.due_us is None
            log.log(
                logging.ERROR if lost else logging.WARNING,
                "%s task=%s name=%s attempt=%d worker=%s: %s",
                "fail" if lost else "release" if released else "recover",
                each.name.id,
                escape(each.name.task),
                each.name.attempt + released,
                escape(name),
                outcome.error,
            )
        if recovered and self._backlog.is_blind:
            self._backlog.stale = True
        return True

    def _decide(self, name: Name) -> int | None:
        policy = merge(self._settings.retry, self._known.get(name.task, RetryOptions()))
        if policy.exhausted(name.attempt):
            return None
        now_us = self._clock.now_us()
        delay_us = int(policy.crash_delay(name.attempt) * 1e6)
        return now_us + delay_us if delay_us else min(name.due_us, now_us)

    # -- feeding ----------------------------------------------------------------

    def feed(self) -> None:
        """Hand out what is due.

        Raises:
            OSError: From the file system.
        """
        if self._draining:
            return
        if self._backlog.more_is_paused():
            self._take_back()
        hungry = [w for w in self._workers.values() if w.room > 0]
        hungry.sort(key=lambda worker: len(worker.in_flight))
        for worker in hungry:
            paths = self._backlog.take(worker.room)
            if not paths:
                self._share(hungry)
                return
            worker.offer(paths)
        self._offer_urgent()

    def _take_back(self) -> None:
        """Drain workers that hold names of paused tasks: they begin no more of them."""
        is_paused = self._backlog.pausing.is_paused
        for worker in self._workers.values():
            if len(worker.in_flight) > 1 and any(map(is_paused, worker.in_flight)):
                self._drain(worker)

    def _offer_urgent(self) -> None:
        """Let workers with names in hand run what is more urgent first."""
        busy = [w for w in self._workers.values() if 1 < len(w.in_flight) <= WINDOW_MAX]
        if not busy:
            return
        least = max(worker.least_urgent for worker in busy)
        urgent = self._backlog.take(WINDOW_MAX, more_urgent_than=least)
        for worker in busy:
            if urgent:
                worker.offer(urgent)

    def _share(self, hungry: list[_Worker]) -> None:
        """Hand what a slow worker has not begun to those that have nothing."""
        idle = [worker for worker in hungry if not worker.in_flight]
        if not idle:
            return
        now = self._clock.monotonic()
        for worker in self._workers.values():
            if worker.in_flight and not worker.stalled and worker.late_at <= now:
                worker.stalled = True
                is_paused = self._backlog.pausing.is_paused
                paths = [path for path in worker.in_flight if not is_paused(path)]
                for index, other in enumerate(idle):
                    part = paths[index :: len(idle)]
                    if part:
                        other.offer(part)
                return

    # -- time -------------------------------------------------------------------

    def enforce(self) -> None:
        """Kill workers whose task has run past its time limit."""
        now = self._clock.monotonic()
        for worker in self._workers.values():
            if not worker.overran and any(t <= now for t in worker.limits.values()):
                worker.overran = True
                log.error("kill worker=%s: time limit", worker.name)
                worker.forker.kill(worker.child)

    def next_moment(self) -> float | None:
        """Seconds until ``enforce``, ``feed`` or ``spawn`` has something to do."""
        now = self._clock.monotonic()
        moments = [
            t
            for w in self._workers.values()
            if not w.overran
            for t in w.limits.values()
        ]
        if self._dead:
            moments.append(max(now + 0.05, self._recover_at))
        if len(self._workers) < self._settings.workers and not self._draining:
            moments.append(self._spawn_at)
        if any(not w.in_flight and w.room for w in self._workers.values()):
            moments += [
                w.late_at
                for w in self._workers.values()
                if w.in_flight and not w.stalled
            ]
        return max(0.0, min(moments) - now) if moments else None

    @property
    def takes_more(self) -> bool:
        """Whether ``feed`` has somebody to hand a task to that becomes due."""
        return any(w.room > 0 or len(w.in_flight) > 1 for w in self._workers.values())

    # -- the end ----------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a worker has, or may have, a task."""
        return bool(self._dead) or any(w.in_flight for w in self._workers.values())

    @property
    def empty(self) -> bool:
        """Whether all workers have ended and all they held is given back."""
        return not self._workers and not self._dead

    def drain(self) -> None:
        """Let the workers finish what they run, and start nothing more."""
        self._draining = True
        for worker in self._workers.values():
            self._drain(worker)

    def kill(self) -> None:
        """Kill the workers; what they ran is released, not counted."""
        self._draining = True
        for worker in self._workers.values():
            worker.forker.kill(worker.child)


def accepted_owners(extra: Collection[int]) -> frozenset[int]:
    """Return the uids whose files are tasks: root, this user, and ``extra``."""
    return frozenset({0, os.geteuid(), *extra})
