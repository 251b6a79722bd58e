"""When an interval or a cron line is next due.

Daemons only: this loads cronsim, which a producer never needs. Pure functions of
a schedule and a moment; nothing here knows what was put.

A slot is a moment from 1970 to 2286 (as far as a task's name goes). Those of an
interval are its multiples since 1970, those of a cron line whole seconds.

Cron lines mean what they mean in Debian's cron, with ``L``, ``LW`` (last day, last
weekday) and ``MON#2``, ``5L`` (second Monday, last Friday) besides. If the day of the
month and the day of the week both restrict, either will do; but if one of the two
fields begins with a star, both must match. Where the clocks change:

================  ==========================  =================================
the line          an hour is skipped, spring  an hour is repeated, autumn
================  ==========================  =================================
``30 2 * * *``    once, right after the gap   once, in the first of the two
``*/30 2 * * *``  not at all                  in both
``30 * * * *``    in every hour there is      in every hour there is, so in both
================  ==========================  =================================

The first row is for lines in which neither the minute nor the hour begins with a
star: no time that they name is left out or run twice, and those inside a gap share
the one slot right after it. All other lines follow what the clock shows.
In a zone that changes by half an hour (there is one, Australia/Lord_Howe) cronsim
loses slots of such other lines on the day of the change.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Final

from cronsim import CronSim, CronSimError

from .errors import UsageError
from .local_zone import zone_of
from .schedule import CronLine, Interval, Schedule
from .task import MAX_DUE_US

_SECOND_US: Final = 1_000_000


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        # Needs no tz database, and cronsim takes a shorter way.
        return UTC
    try:
        return zone_of(name)
    except (KeyError, ValueError, OSError):
        # OSError: a directory or too long a name, if the tzdata package is there.
        raise UsageError(f"there is no time zone {name!r}") from None


def _moments(
    schedule: CronLine, second: int, *, reverse: bool = False
) -> Iterator[int]:
    """Return what cronsim finds after (or before) a second, nearest first."""
    start = datetime.fromtimestamp(second, _zone(schedule.tz))
    if (fields := len(schedule.line.split())) != 5:
        # cronsim takes six, with seconds, but such lines lose the promise above.
        raise UsageError(
            f"cron line {schedule.line!r} takes five fields and has {fields}"
        )
    try:
        found = CronSim(schedule.line, start, reverse=reverse)
    except (CronSimError, ValueError) as error:
        # ValueError: a number of thousands of digits.
        problem = str(error) if isinstance(error, CronSimError) else "Bad number"
        raise UsageError(f"cron line {schedule.line!r}: {problem.lower()}") from None
    return (int(moment.timestamp()) for moment in found)


def _step_us(schedule: Interval) -> int:
    return round(schedule.seconds * _SECOND_US)


def next_slot_us(schedule: Schedule, after_us: int) -> int | None:
    """Return the first slot later than a moment; None if there will be none.

    A cron line without a match in the next 50 years has none.

    Raises:
        UsageError: As ``check``.
    """
    after_us = min(max(after_us, -1), MAX_DUE_US)
    if isinstance(schedule, Interval):
        step = _step_us(schedule)
        slot = (after_us // step + 1) * step
    else:
        second = after_us // _SECOND_US
        # In a repeated hour cronsim may begin with a moment of its first pass.
        later = (found for found in _moments(schedule, second) if found > second)
        if (found := next(later, None)) is None:
            return None
        slot = found * _SECOND_US
    return slot if slot <= MAX_DUE_US else None


def latest_slot_us(schedule: Schedule, now_us: int) -> int | None:
    """Return the newest slot that is not later than now; None if there was none.

    A cron line without a match in the last 50 years has none.

    Raises:
        UsageError: As ``check``.
    """
    if now_us < 0:
        return None
    now_us = min(now_us, MAX_DUE_US)
    if isinstance(schedule, Interval):
        return now_us - now_us % _step_us(schedule)
    # One second on: what cronsim finds is earlier than where it began.
    before = _moments(schedule, now_us // _SECOND_US + 1, reverse=True)
    if (found := next(before, -1)) < 0:
        return None
    # Backwards, cronsim 2.8 passes over the first of two repeated hours. What it
    # missed is at most that hour's slots, and its way forward finds them.
    slot = found * _SECOND_US
    while (later := next_slot_us(schedule, slot)) is not None and later <= now_us:
        slot = later
    return slot


def check(schedule: Schedule) -> None:
    """Make sure that a schedule can be computed and will be due some day.

    Raises:
        UsageError: The line or its zone cannot be read, or it has no slot in the
            50 years from 1970. The message is one line and names the culprit.
            (An interval is checked when it is made.)
    """
    if isinstance(schedule, CronLine) and next_slot_us(schedule, -1) is None:
        raise UsageError(f"cron line {schedule.line!r} is never due")
