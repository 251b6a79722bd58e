"""When a worker has done enough, or has grown too large, and is to be replaced."""

import os
from typing import Final

from .clock import CLOCK, Clock

CHECK_EVERY: Final = 0.1
"""Seconds between two looks at a worker's memory, at least."""

_PAGE: Final = os.sysconf("SC_PAGESIZE")


def less(limit: int) -> int:
    """Return ``limit`` or up to 10 % less, by chance.

    Drawn for each worker's life, so that workers that began together do not all end
    together. Numbers below 10 stay.
    """
    return limit - int.from_bytes(os.urandom(8)) % (limit // 10 + 1)


def resident() -> int:
    """Return the bytes of memory that this process has in use (``VmRSS``).

    Raises:
        OSError: There is no ``/proc``.
    """
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE


class Recycling:
    """How long one worker may go on.

    Args:
        max_tasks: Runs; 0 for any number.
        max_rss: Bytes of memory; 0 for any size.
    """

    def __init__(self, max_tasks: int, max_rss: int, clock: Clock = CLOCK) -> None:
        self._max_tasks = less(max_tasks)
        self._max_rss = less(max_rss)
        self._clock = clock
        self._seen = 0
        self._look_at = 0.0
        self.why: str | None = None
        """Why it ends; None while it goes on."""

    def is_due(self, runs: int, running: int = 0) -> bool:
        """Tell whether the worker is to be replaced.

        Args:
            runs: How many tasks it has begun.
            running: How many of them have not ended.
        """
        if self._max_tasks and runs >= self._max_tasks and self.why is None:
            self.why = f"{runs} runs"
        if self._max_rss and _ended(runs, running) != self._seen:
            now = self._clock.monotonic()
            if now >= self._look_at:
                self._look_at = now + CHECK_EVERY
                self._seen = _ended(runs, running)
                self._look()
        return self.why is not None

    def _look(self) -> None:
        try:
            size = resident()
        except OSError:  # no descriptor is left, or no /proc: nothing is known
            return
        if size > self._max_rss and self.why is None:
            self.why = f"{size >> 20} MiB of memory"

    def look_in(self, runs: int, running: int = 0) -> float | None:
        """Return seconds until ``is_due`` should be asked; None for never.

        An idle worker waits no longer than that.
        """
        if not self._max_rss or _ended(runs, running) == self._seen:
            return None
        return max(0.0, self._look_at - self._clock.monotonic())


def _ended(runs: int, running: int) -> int:
    # A batch runs, but only its lines are runs that were begun.
    return max(0, runs - running)
