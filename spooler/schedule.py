"""When a timer runs: values only, checked as far as that needs no cron parser.

A producer that imports functions with timers loads this; the moments themselves
are computed in ``slots.py``, which only daemons load.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from .errors import UsageError

MIN_INTERVAL: Final = 0.1
"""Seconds. Each slot costs two file names, and their syncs if put is durable."""

MAX_INTERVAL: Final = 100 * 366 * 86_400
"""Seconds. Longer ones would hardly have a slot that fits in a task's name."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Due at the multiples of so many seconds since 1970-01-01 00:00 UTC.

    Not since the daemon began: so all daemons, and the same one after a restart,
    agree on the slots. A day's interval is due at midnight UTC.

    Attributes:
        times: So many slots count after a daemon has begun, or has read the code
            anew, and then no more; 0 for all.

    Raises:
        UsageError: Not from ``MIN_INTERVAL`` to ``MAX_INTERVAL``.
    """

    seconds: float
    times: int = 0

    def __post_init__(self) -> None:
        if not MIN_INTERVAL <= self.seconds <= MAX_INTERVAL:
            raise UsageError(
                f"an interval of {self.seconds} seconds cannot be: it takes"
                f" {MIN_INTERVAL} to {MAX_INTERVAL}"
            )


@dataclass(frozen=True, slots=True)
class CronLine:
    """Due when the wall clock of a zone matches a crontab's five fields.

    Attributes:
        line: Minute, hour, day of the month, month, day of the week.
        tz: Name of the zone in the tz database, such as ``Europe/Paris``; or what
            ``local_zone`` has found.
    """

    line: str
    tz: str = "UTC"

    @property
    def names_times(self) -> bool:
        """Whether it names times of the day, as 02:30, and not a pace, as each hour."""
        return not any(field.startswith("*") for field in self.line.split()[:2])


Schedule = Interval | CronLine


def interval(value: float | timedelta) -> Interval:
    """Return the interval of so many seconds, or as long as a ``timedelta``.

    Raises:
        UsageError: Not from ``MIN_INTERVAL`` to ``MAX_INTERVAL``.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    return Interval(value)


_UWSGI_FIELDS: Final = (
    # what it is called, smallest and greatest number, greatest N of -N
    ("minute", 0, 59, 60),
    ("hour", 0, 23, 24),
    ("day", 1, 31, 31),
    ("month", 1, 12, 12),
    ("weekday", 0, 7, 7),
)


def _uwsgi_field(value: int, name: str, low: int, high: int, every: int) -> str:
    if value == -1:
        return "*"
    if low <= value <= high:
        return str(value)
    if not -every <= value < 0:
        raise UsageError(
            f"{name}={value} cannot be: it takes {low} to {high}, -1 for every"
            f" {name}, or -2 to -{every} for every so many"
        )
    # uWSGI divides the number itself: day=-2 means the 2nd, 4th, 6th and so on,
    # where cron's */2 counts from the first and means the 1st, 3rd, 5th.
    return f"{-value}-{high}/{-value}" if low else f"*/{-value}"


def from_uwsgi(
    minute: int, hour: int, day: int, month: int, weekday: int, *, tz: str = "UTC"
) -> CronLine:
    """Return the cron line for the five numbers of uWSGI's ``cron``.

    -1 means every, -N every N-th, and n exactly n; 0 and 7 are Sunday. As in
    uWSGI a day and a weekday that are both given exactly mean either; in any
    other case all five must match.

    Args:
        minute: 0 to 59; -2 to -60.
        hour: 0 to 23; -2 to -24.
        day: 1 to 31; -2 to -31.
        month: 1 to 12; -2 to -12.
        weekday: 0 to 7; -2 to -7.
        tz: The zone that uWSGI's machine was in.

    Raises:
        UsageError: A number is out of range, or no cron line means the same.
    """
    values = (minute, hour, day, month, weekday)
    fields = [
        _uwsgi_field(value, *field)
        for value, field in zip(values, _UWSGI_FIELDS, strict=True)
    ]
    if day < -1 and weekday >= 0:
        # Cron joins them with "or" unless one of the fields begins with a star.
        raise UsageError(
            f"day={day} together with weekday={weekday} cannot be written as a cron"
            " line: give one of them as -1"
        )
    return CronLine(" ".join(fields), tz)
