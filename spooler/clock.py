"""Time: the wall clock in µs and the monotonic clock in seconds.

Nobody else in spooler asks the system for the time.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """What the rest of spooler needs of a clock."""

    def now_us(self) -> int:
        """Return the wall time in µs since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds from some moment on, never going back."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now_us(self) -> int:
        """Return the wall time in µs since the epoch."""
        return int(time.time() * 1e6)  # exact to the µs until the year 2255

    def monotonic(self) -> float:
        """Return seconds from some moment on, never going back."""
        return time.monotonic()


CLOCK = SystemClock()
"""The clock to use where nobody gave another one."""
