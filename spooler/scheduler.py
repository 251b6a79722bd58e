"""Timers and cron lines: put each slot's task, once.

However many daemons serve a spool, each slot is put by one of them: what was put
stands in the spool (docs/format.md, section 7).
"""

import logging
from dataclasses import dataclass

from .clock import CLOCK, Clock
from .codec import encode
from .known import Known
from .logs import escape
from .monitors import Monitors
from .schedule import CronLine, Interval, Schedule
from .spooldir import SpoolDir, timers
from .task import DEFAULT_PRIORITY, Name, iso

LOOK_AGAIN_US = 1_000_000
"""How soon to look again at a timer whose last task has not finished."""

LOOK_SHARE = 50
"""The same, in times of what a look takes: it may have to read large folders."""

AHEAD_US = 24 * 3600 * 1_000_000
"""How far in the future a slot is that only a wrong clock can have put."""

APART_US = 60_000_000
"""How far apart the clocks of two daemons may be, at most."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Timer:
    known: Known
    schedule: Schedule
    look_us: int = 0
    left: int = 0  # slots that still count, if not all do
    last_us: int | None = None  # the newest slot that was counted
    error: str = ""  # what stood in the way the last time

    def count(self, slot_us: int) -> None:
        """Count a slot that was put, by whomever."""
        if self.left and slot_us != self.last_us:
            self.left -= 1
            self.last_us = slot_us


class Scheduler:
    """The timers that one daemon knows for one spool."""

    def __init__(self, spool: SpoolDir, clock: Clock = CLOCK) -> None:
        self._spool = spool
        self._clock = clock
        self._timers: list[_Timer] = []
        self._monitors = Monitors(spool, clock)
        self._seen_us = 0

    def use(self, known: list[Known]) -> None:
        """Take these functions' timers from now on, at once."""
        self._timers = [
            _Timer(each, schedule)
            for each in known
            if (schedule := each.interval or each.cron) is not None
        ]
        self._monitors.use(known)

    def __len__(self) -> int:
        return len(self._timers) + len(self._monitors)

    @property
    def next_us(self) -> int | None:
        """When ``put_due`` has something to do, in µs since the epoch."""
        moments = [timer.look_us for timer in self._timers]
        if self._monitors:
            moments.append(self._monitors.next_us)
        return min(moments, default=None)

    def put_due(self) -> None:
        """Put the tasks of all slots that have come, and of files that have changed."""
        now_us = self._clock.now_us()
        if self._monitors:
            self._monitors.put_due(now_us)
        set_back = now_us < self._seen_us
        self._seen_us = now_us
        for timer in self._timers:
            # A clock that was set back must not stop a timer for that long.
            if timer.look_us > now_us and not set_back:
                continue
            try:
                timer.look_us = self._look(timer, now_us)
            except OSError as error:
                level = logging.DEBUG if timer.error == str(error) else logging.WARNING
                timer.error, name = str(error), escape(timer.known.name)
                text = "cannot put the task of timer %s now: %s"
                log.log(level, text, name, escape(timer.error))
                timer.look_us = now_us + LOOK_AGAIN_US
            else:
                timer.error = ""

    def _look(self, timer: _Timer, now_us: int) -> int:
        """Put the newest slot's task if nobody has; return when to look again."""
        # Here, since it loads cronsim, and most spools have no timers.
        from .slots import latest_slot_us, next_slot_us  # noqa: PLC0415

        task = timer.known.name
        slot_us = latest_slot_us(timer.schedule, now_us)
        upcoming_us = next_slot_us(timer.schedule, now_us)
        never = now_us + 24 * 3600 * 1_000_000
        again_us = never if upcoming_us is None else upcoming_us
        if slot_us is None:
            return again_us
        if isinstance(timer.schedule, Interval) and timer.schedule.times:
            if timer.last_us is None:  # what was missed before does not count
                timer.last_us, timer.left = slot_us, timer.schedule.times
                with timers.lock(self._spool):
                    timers.begin(self._spool, task, slot_us)
            if not timer.left or slot_us <= timer.last_us:
                return again_us if timer.left else never
        self._take_back(timer, slot_us, now_us)
        if self._is_put(task, slot_us):
            timer.count(slot_us)
            return again_us
        with timers.lock(self._spool):
            last_us = timers.latest_slot(self._spool, task)
            if last_us is None:
                timers.begin(self._spool, task, slot_us)
            elif last_us < slot_us:
                began = self._clock.monotonic()
                finished = timers.is_finished(self._spool, task, last_us)
                if not finished and not timer.known.overlap:
                    took_us = int((self._clock.monotonic() - began) * 1e6)
                    pause_us = max(LOOK_AGAIN_US, LOOK_SHARE * took_us)
                    return min(again_us, now_us + pause_us)
                self._put(timer.known, slot_us)
                timer.count(slot_us)
        return again_us

    def _take_back(self, timer: _Timer, slot_us: int, now_us: int) -> None:
        """Forget slots that were put when the clock ran ahead.

        After a smaller step back the timer waits, so that no slot runs twice: for less
        than a day if it names times of the day, else for one period at most.
        """
        task = timer.known.name
        last_us = timers.latest_slot(self._spool, task)
        if last_us is None or last_us <= now_us + APART_US:
            return
        if last_us <= now_us + _ahead_us(timer.schedule, last_us):
            return
        if not timer.known.overlap and self._runs(timer.known, last_us):
            return
        text = "timer %s ran for %s, which is in the future: it goes on from now"
        log.warning(text, escape(task), iso(last_us))
        with timers.lock(self._spool):
            timers.begin(self._spool, task, slot_us)
            timers.forget(self._spool, task, after_us=slot_us)

    def _runs(self, known: Known, slot_us: int) -> bool:
        """Tell whether the task of a slot was begun and has not finished."""
        name = _name(known, slot_us)
        waits = self._spool.has(f"{name.folder}/{name}")
        return not waits and not timers.is_finished(self._spool, known.name, slot_us)

    def _is_put(self, task: str, slot_us: int) -> bool:
        last_us = timers.latest_slot(self._spool, task)
        return last_us is not None and last_us >= slot_us

    def _put(self, known: Known, slot_us: int) -> None:
        name = _name(known, slot_us)
        timers.put_slot(self._spool, name, encode(known.name, b"{}"))
        log.info(
            "put task=%s name=%s spool=%s slot=%s",
            name.id,
            escape(known.name),
            self._spool.path,
            iso(slot_us),
        )


def _name(known: Known, slot_us: int) -> Name:
    """Return the name of a slot's task."""
    priority = DEFAULT_PRIORITY if known.priority is None else known.priority
    return Name(slot_us, priority, 0, timers.slot_id(known.name, slot_us), known.name)


def _ahead_us(schedule: Schedule, slot_us: int) -> int:
    """Return how far in the future a slot may be that was put already."""
    # Here, as in ``_look``.
    from .slots import next_slot_us  # noqa: PLC0415

    if isinstance(schedule, CronLine) and schedule.names_times:
        return AHEAD_US
    after_us = next_slot_us(schedule, slot_us)
    period_us = AHEAD_US if after_us is None else after_us - slot_us
    return min(AHEAD_US, max(APART_US, period_us))
