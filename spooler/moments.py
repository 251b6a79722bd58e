"""Moments and durations as people and files write them.

Specification: docs/format.md, "Keys".
"""

import math
import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Final

from .errors import UsageError
from .task import MAX_DUE_US

Duration = float | timedelta | str
"""Seconds, a timedelta, or text such as ``90s``, ``10m``, ``1h``, ``7d``."""

MAX_SECONDS: Final = 10 * 366 * 86_400.0
"""The longest duration, ten years: it keeps sums inside what a name can hold."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_FROM_NOW = re.compile(r"\+(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
_ISO = re.compile(
    r"\d{4}-\d\d-\d\d[T ](?:[01]\d|2[0-3]):\d\d(?::\d\d(?:\.\d+)?)?"
    r"(Z|[+-]\d\d(?::?[0-5]\d)?)?",
    re.ASCII,
)


def parse_at(value: str | int | float | datetime | timedelta, now_us: int) -> int:
    """Return when a task is due, in µs since the epoch (docs/format.md, "Keys").

    ``now_us`` is the moment from which ``+5m`` and a timedelta count. A datetime must
    have its zone; in a text a moment without one is UTC.

    Raises:
        ValueError: It is not a moment, or later than fits in a name. A ``+5m`` that
            `decode` let pass can be too late from this ``now_us``.
    """
    if isinstance(value, str):
        due_us = _text_us(value, now_us)
    elif isinstance(value, timedelta):
        due_us = now_us + value // _MICROSECOND
    elif isinstance(value, date) and not isinstance(value, datetime):
        raise ValueError("at is a date: give a moment, with its time and its zone")
    elif isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"at: {value} has no time zone")
        due_us = (value - _EPOCH) // _MICROSECOND
    else:
        due_us = _seconds_us(value)
    if due_us > MAX_DUE_US:
        raise ValueError("at is later than 2286-11-20T17:46:39Z")
    return max(due_us, 0)


def _seconds_us(seconds: float) -> int:
    """Convert exactly; a product would round."""
    if isinstance(seconds, bool) or not abs(seconds) < math.inf:
        raise ValueError(f"at: {seconds} is not a moment")
    full = math.floor(seconds)
    return full * 1_000_000 + round((seconds - full) * 1_000_000)


def _text_us(text: str, now_us: int) -> int:
    if match := _FROM_NOW.fullmatch(text):
        return now_us + _seconds_us(float(match[1]) * _UNITS[match[2]])
    if NUMBER.fullmatch(text):
        return _seconds_us(float(text))
    if match := _ISO.fullmatch(text):
        with suppress(ValueError):
            moment = datetime.fromisoformat(text if match[1] else f"{text}Z")
            return (moment - _EPOCH) // _MICROSECOND
    raise ValueError(
        f"at: {show(text)} is not a moment, such as +5m or 2026-11-20T21:01:00Z"
    )


def duration(name: str, value: Duration | None, *, low: float = 0.0) -> float | None:
    """Return a duration in seconds; None for None.

    Args:
        name: What it is for, in the message.
        low: The least that it may be; 0 itself must be allowed by the caller.

    Raises:
        UsageError: It is none, or out of range.
    """
    if value is None:
        return None
    seconds: object = value
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _UNITS[match[2]]
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not low <= float(str(seconds)) <= MAX_SECONDS:
        raise UsageError(
            f"{name}={value!r:.80} cannot be: it takes seconds, a timedelta or text"
            " such as '90s', '10m', '1h'" + (", 0 or more" if not low else "")
        )
    return float(str(seconds))


def positive(name: str, value: Duration | None) -> float | None:
    """Return a duration above 0 in seconds; None for None.

    Raises:
        UsageError: It is none, or out of range.
    """
    seconds = duration(name, value)
    if seconds is not None and not seconds > 0:
        raise UsageError(f"{name}={value!r:.80} cannot be: it takes more than 0")
    return seconds


def show(text: str) -> str:
    """Return what a file holds, fit for a line of a log."""
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")
