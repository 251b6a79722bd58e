"""Keep the workers of one spool: start, feed, watch, replace, stop.

The supervisor hands names of waiting tasks to workers, a few milliseconds' worth
at a time, and hands them to somebody else when they are not begun soon. Handing
out is a hint, so that it may happen twice; the worker's claim decides.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from .backlog import Backlog
from .channel import SupervisorSettings
from .clock import CLOCK, Clock
from .dead import BESIDE, STOPPED, Dead, Fate
from .errors import EXIT_TRY_LATER
from .forker import Forker
from .killing import Killing
from .kinds import Kinds
from .logs import escape
from .parking import Parking
from .spooldir import SpoolDir
from .spooldir.recovery import process_name
from .spooldir.runlogs import trim
from .task import Outcome, Verdict
from .watched import ONE, WINDOW_MAX, Places, WatchedWorker

SPAWN_AGAIN: Final = 5.0
"""Seconds until more workers are tried after the system has refused them."""

ASK_MAX: Final = 16
"""Workers that are asked for at once, so that neither side waits for the other."""

RESPAWN_MAX: Final = 5.0
"""Longest pause between two starts of workers that die at once."""

PARK_MAX: Final = 1000
"""Names that are parked in one go, so that others need not wait."""

log = logging.getLogger(__name__)

AddReader = Callable[[int, Callable[[], None]], None]
RemoveReader = Callable[[int], None]


class Supervisor:
    """The workers of one spool.

    Args:
        add_reader: How to be called when a descriptor is readable.
        daemon: The daemon's name, as in ``workers/``.

    Attributes:
        draining: It starts nothing more.
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
        self._workers: dict[str, WatchedWorker] = {}
        self._dead = Dead(
            spool,
            backlog,
            settings.retry,
            settings.owners,
            lambda: (daemon, *self._workers),
            clock,
        )
        self._killing = Killing(spool, self._workers, clock)
        self._parking = Parking(backlog.give_back, clock)
        self._kinds = Kinds(backlog.give_back)
        self._places = ONE
        self._feed_again = False
        self.draining = False
        self._spawn_at = 0.0
        self._spawn_pause = 0.0
        self._spawns_later = False

    # -- workers ----------------------------------------------------------------

    def use(self, forker: Forker) -> None:
        """Fork workers from here from now on; let those of others finish."""
        known = forker.known or ()
        self._dead.use(
            {each.name: each.retry for each in known},
            {each.name: each.on_failure for each in known if each.on_failure},
            forker.rest,
        )
        names = frozenset(each.name for each in known if each.is_async)
        coroutines = self._settings.async_concurrency if names else 0
        self._places = Places(self._settings.threads, coroutines, names)
        self._kinds.give_all_back()
        self._parking.use({each.name: each.limits for each in known if each.limits})
        for worker in self._workers.values():
            if worker.forker is not forker:
                worker.drain()
        self._spawn_at = 0.0
        self._spawns_later = False

    def spawn(self, forker: Forker) -> None:
        """Start the workers that are missing."""
        now = self._clock.monotonic()
        self._spawns_later = forker.gone or forker.asked >= ASK_MAX  # we hear of it
        if self.draining or now < self._spawn_at or forker.gone:
            return
        for _ in range(self._missing):
            if forker.asked >= ASK_MAX:
                self._spawns_later = True
                return
            try:
                self._start(forker)
            except OSError as error:
                self._spawn_at = now + SPAWN_AGAIN
                have = len(self._workers)
                text = "cannot start more than %d workers in %s now: %s"
                log.error(text, have, escape(self._spool.path), error)
                return

    @property
    def _missing(self) -> int:
        """How many workers more there are to be."""
        active = sum(not worker.draining for worker in self._workers.values())
        return self._settings.workers - active

    def _recycle(self) -> None:
        """Replace those that have done enough, while not too many are ending."""
        ending = sum(worker.draining for worker in self._workers.values())
        for worker in self._workers.values():
            if not worker.is_done or worker.draining:
                continue
            if ending < self._settings.workers:
                worker.drain()
                ending += 1
            else:
                worker.stay()

    def _start(self, forker: Forker) -> None:
        name = process_name("worker")
        settings = self._settings.for_worker(name, self._daemon, self._spool.path)
        child, connection = forker.fork(settings, lambda code: self._ended(name, code))
        worker = WatchedWorker(name, child, connection, forker, self._places)
        self._workers[name] = worker
        self._add_reader(connection.fileno(), lambda: self._heard(worker))
        log.debug("start worker=%s spool=%s", name, self._spool.path)

    def _heard(self, worker: WatchedWorker) -> None:
        lines = worker.channel.receive()
        if not worker.channel.open:
            # It ends; what becomes of it is told when it has ended.
            self._stop_listening(worker)
            worker.drain()
            return
        if self._parking.is_trying or any(line[0] == "!" for line in lines):
            done = sum(self._hear(worker, line) for line in lines)
        else:  # as nearly always, if there are many
            done = len(lines)
            worker.forget_all(lines)
            self._backlog.settle_all(lines)
        if done:
            worker.heard_of(done)
            self._spawn_pause = 0.0

    def _hear(self, worker: WatchedWorker, line: str) -> int:
        """Take one line; return how many names it is done with."""
        if line[0] == "!":
            return self._told(worker, line)
        worker.forget(line)
        self._backlog.settle(line)
        self._parking.settled(line)
        return 1

    def _told(self, worker: WatchedWorker, line: str) -> int:
        """Take what is no settled path; return how many names it is done with."""
        word, _, rest = line.partition(" ")
        match word:
            case "!limit":
                seconds, _, path = rest.partition(" ")
                worker.limit(path, float(seconds))
            case "!go":
                worker.begun[rest] = worker.begun.get(rest, 0) + 1
                self._parking.begun(rest)
            case "!free":
                worker.ended(rest)
                self._parking.ended(rest)
            case "!park":
                limit, after, path = rest.split(" ", 2)
                worker.forget(path)
                self._parking.park(limit, path, None if after == "-" else float(after))
                return 1
            case "!run":
                worker.runs(rest)
            case "!lost":
                worker.forget(rest)
                ours = any(rest in other.in_flight for other in self._workers.values())
                (self._backlog.settle if ours else self._backlog.lose)(rest)
                self._parking.settled(rest)
                return 1
            case "!back":
                worker.forget(rest)
                self._backlog.give_back(rest)
            case "!recycle":
                worker.is_done = True
                self._recycle()
            case "!leave":
                worker.drain()
        return 0

    def _stop_listening(self, worker: WatchedWorker) -> None:
        if worker.listening:
            worker.listening = False
            self._remove_reader(worker.connection.fileno())

    def _ended(self, name: str, code: int) -> None:
        worker = self._workers.pop(name)
        self._recycle()
        if worker.channel.open:
            self._heard(worker)  # what it said at last
        # Also if a name could not be sent to it: then its end was not heard yet.
        self._stop_listening(worker)
        worker.connection.close()
        for path in worker.in_flight:
            self._backlog.give_back(path)
        for limit in worker.begun:  # the kernel has freed its slots
            self._parking.ended(limit)
        # A task that calls os._exit(0) ends its worker too, but not in order.
        if code == 0 and not self._spool.has(f"running/{name}"):
            log.debug("end worker=%s", name)
            return
        self._pause_spawning()
        if worker.child.pid is None and code == EXIT_TRY_LATER:
            return  # it was never forked; the template has said why
        fate = self._fate(worker, code)
        log.log(
            logging.INFO if self.draining else logging.ERROR,
            "worker=%s pid=%s died: %s",
            name,
            worker.child.pid,
            next(iter(fate.culprits.values()), fate.outcome).error,
        )
        self._dead.add(name, fate)
        with suppress(OSError):  # it is looked at again, unless this was the last one
            self._killing.look(self._dead.fates)

    def _pause_spawning(self) -> None:
        """Start the next workers after a while, a longer one each time."""
        now = self._clock.monotonic()
        if now >= self._spawn_at:  # else it dies with one that was counted
            self._spawn_at = now + self._spawn_pause
            self._spawn_pause = min(RESPAWN_MAX, self._spawn_pause * 2 or 0.05)

    def _fate(self, worker: WatchedWorker, code: int) -> Fate:
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        outcome = Outcome(Verdict.FAIL, f"its worker died: {how}", "crash")
        if self.draining:
            outcome = STOPPED
        elif worker.frozen:
            outcome = BESIDE
        culprits = {path.split(".", 4)[3]: o for path, o in worker.culprits.items()}
        return Fate(outcome, culprits)

    def recover_dead(self) -> None:
        """Give back what workers of this supervisor held that have died."""
        self._dead.recover()

    def recover_strangers(self) -> None:
        """Give back what processes held whose daemon is dead too."""
        self._dead.recover_strangers()

    # -- feeding ----------------------------------------------------------------

    def feed(self) -> None:
        """Hand out what is due.

        Raises:
            OSError: From the file system.
        """
        if self.draining:
            return
        self._feed_again = False
        self._parking.look()
        if self._backlog.more_is_paused():
            self._take_back()
            self._kinds.give_all_back()
        self._backlog.read_on()
        self._backlog.forget_past()
        if self._places.coroutines:
            has_room = self._kinds.feed(self._workers.values(), self._take)
            self._feed_again = self._feed_again or self._kinds.again
        else:
            has_room = self._hand_out()
        if has_room:
            self._share([w for w in self._workers.values() if w.room > 0])
        if self._places.coroutines or not has_room:
            self._offer_urgent()

    def _hand_out(self) -> bool:
        """Hand out what there is room for; tell whether there is room for more."""
        hungry = [w for w in self._workers.values() if w.room > 0]
        if len(hungry) > 1:
            hungry.sort(key=lambda worker: len(worker.in_flight))
        while hungry:
            worker = hungry.pop(0)
            wanted = min(worker.room, worker.helping)
            paths = self._take(wanted)
            if paths:
                worker.offer(paths)
                if worker.batch is not None:
                    for each in self._workers.values():
                        each.ask_anew(self._clock.monotonic())
            if len(paths) < wanted:
                return True
            if worker.room > 0:  # after the others, so that all get some
                hungry.append(worker)
        return False

    def _take(self, limit: int, more_urgent_than: int | None = None) -> list[str]:
        """Take names from the backlog; park those that would be refused."""
        taken: list[str] = []
        left = PARK_MAX
        while len(taken) < limit:
            wanted = limit - len(taken)
            try:
                paths = self._backlog.take(wanted, more_urgent_than)
            except OSError:
                if not taken:
                    raise
                break  # what was taken is in flight: see Backlog.take
            if not self._parking:
                return taken + paths
            kept = self._parking.divert(paths)
            taken += kept
            left -= len(paths) - len(kept)
            if len(paths) < wanted:
                break
            if left < 0:
                self._feed_again = True
                break
        return taken

    def _take_back(self) -> None:
        """Drain workers that hold names of paused tasks: they begin no more of them."""
        is_paused = self._backlog.pausing.is_paused
        for worker in self._workers.values():
            waiting = [path for path in worker.in_flight if path not in worker.running]
            if len(worker.in_flight) > 1 and any(map(is_paused, waiting)):
                worker.drain()

    def _offer_urgent(self) -> None:
        """Let workers with names in hand run what is more urgent first."""
        busy = [w for w in self._workers.values() if w.takes_urgent]
        if not busy:
            return
        least = max(worker.least_urgent for worker in busy)
        urgent = self._take(WINDOW_MAX, more_urgent_than=least)
        for worker in busy:
            if urgent:
                worker.offer(urgent)

    def _share(self, hungry: list[WatchedWorker]) -> None:
        """Have those that have nothing help those that have too much."""
        idle = [worker for worker in hungry if not worker.in_flight]
        if not idle:
            return
        now = self._clock.monotonic()
        late = None
        for worker in self._workers.values():
            if worker.batch is not None:
                worker.ask_to_share(now)
            if worker.in_flight and not worker.stalled and worker.late_at <= now:
                late = late or worker
        if late is None:
            return
        # What a slow worker has not begun goes to them.
        late.stalled = True
        is_paused = self._backlog.pausing.is_paused
        paths = [path for path in late.in_flight if path not in late.running]
        paths = [path for path in paths if not is_paused(path)]
        for index, other in enumerate(idle):
            part = paths[index :: len(idle)]
            if part:
                other.offer(part)

    # -- time -------------------------------------------------------------------

    def look_for_kills(self) -> None:
        """Look at once, at the next ``enforce``, what somebody wants killed."""
        self._killing.asked = True

    def enforce(self) -> None:
        """Kill what has run past its time limit, and what somebody wants killed.

        Raises:
            OSError: From the file system.
        """
        self._killing.enforce()
        self._killing.look(self._dead.fates)

    def trim_logs(self) -> None:
        """Drop what running tasks have printed, but for the end, if it is too much."""
        for worker in self._workers.values():
            if worker.in_flight and self._settings.keep_log != "never":
                with suppress(OSError):  # a full disk, say: once more in a second
                    trim(self._spool, worker.name)

    def next_moment(self) -> float | None:
        """Seconds until one of the methods has something to do; None for never."""
        now = self._clock.monotonic()
        if (self._feed_again or self._backlog.is_reading) and not self.draining:
            return 0.0
        moments = [self._killing.next_moment(), self._dead.next_moment()]
        if not self.draining:
            moments.append(self._parking.next_moment())
            if self._missing > 0 and not self._spawns_later:
                moments.append(self._spawn_at)
        if any(not w.in_flight and w.room for w in self._workers.values()):
            for worker in self._workers.values():
                if worker.in_flight and not worker.stalled:
                    moments.append(worker.late_at)
                if worker.batch is not None:
                    moments.append(worker.share_at)
        least = min((each for each in moments if each is not None), default=None)
        return None if least is None else max(0.0, least - now)

    @property
    def takes_more(self) -> bool:
        """Whether ``feed`` has somebody to hand a task to that becomes due."""
        return any(w.room > 0 or w.takes_urgent for w in self._workers.values())

    # -- the end ----------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a worker has, or may have, a task."""
        waits = bool(self._dead.fates or self._parking or self._kinds)
        return waits or any(w.in_flight for w in self._workers.values())

    @property
    def empty(self) -> bool:
        """Whether all workers have ended and all they held is given back."""
        return not self._workers and not self._dead.fates

    def drain(self) -> None:
        """Let the workers finish what they run, and start nothing more."""
        self.draining = True
        for worker in self._workers.values():
            worker.drain()

    def kill(self) -> None:
        """Kill the workers; what they ran is released, not counted."""
        self.draining = True
        for worker in self._workers.values():
            worker.forker.kill(worker.child)
