"""Interrupt a function after so many seconds: soft time limits.

In the main thread by SIGALRM, so that a sleeping or waiting call is interrupted too.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import SoftTimeout


@contextmanager
def soft_limit(seconds: float) -> Iterator[None]:
    """Raise ``SoftTimeout`` in the block after so many seconds.

    Only in the main thread. The block must not use SIGALRM itself.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise SoftTimeout(seconds)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
