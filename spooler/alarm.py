"""Log lines that may come by the thousand: the first are told, the others counted."""

import logging
from typing import Final

from .clock import CLOCK, Clock

LINES: Final = 20
"""Lines that are written in a minute."""

WINDOW: Final = 60.0
"""Seconds from the first line on for which those count."""

SOON: Final = 1.0
"""Seconds until it is told how many there were more."""


class Alarm:
    """What is told of one kind of trouble.

    Args:
        log: Where.
        rest: The line that tells of all that had none of its own, with ``%d`` for
            their number.
    """

    def __init__(self, log: logging.Logger, rest: str, clock: Clock = CLOCK) -> None:
        self._log = log
        self._rest = rest
        self._clock = clock
        self._left = 0
        self._hidden = 0
        self._ends_at = self._due_at = float("-inf")

    def tell(self, level: int, text: str, *args: object) -> None:
        """Write one more line, or count it."""
        now = self._clock.monotonic()
        if now >= self._ends_at:
            self._tell_rest()
            self._left, self._ends_at = LINES, now + WINDOW
        if self._left:
            self._left -= 1
            self._due_at = now + SOON
            self._log.log(level, text, *args)
        else:
            self._hidden += 1

    @property
    def hides(self) -> bool:
        """Whether some were counted that were not told of yet."""
        return self._hidden > 0

    def look(self) -> None:
        """Tell of those that were counted, if it is time. Call it now and then."""
        if self._hidden and self._clock.monotonic() >= self._due_at:
            self._tell_rest()

    def _tell_rest(self) -> None:
        """Say how many there were; when this window is over, how many more."""
        if self._hidden:
            self._log.warning(self._rest, self._hidden)
            self._hidden = 0
        self._due_at = self._ends_at
