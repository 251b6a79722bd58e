"""Interrupt a function: soft time limits, and runs that somebody wants killed.

In the main thread by SIGALRM, so that a sleeping or waiting call is interrupted too.
In another thread by an exception that Python raises there at the next bytecode: a call
that sleeps or waits is not interrupted before it returns.
"""

import ctypes
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Timer, get_ident
from types import FrameType
from typing import Any, Final, Self

from .errors import SoftTimeout


class Killed(BaseException):
    """Raised inside a function in a thread whose run somebody wants killed."""


AGAIN: Final = 0.5
"""Seconds after which SIGALRM is sent once more, while the block has not noticed."""


@contextmanager
def soft_limit(seconds: float) -> Iterator[None]:
    """Raise ``SoftTimeout`` in the block after so many seconds.

    Only in the main thread. The block must not use SIGALRM itself.
    """
    over = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal over
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not over:
            over = True
            raise SoftTimeout(seconds)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        try:
            # After a stop, or the freezer of a container, the kernel may give the
            # signal to another thread: a call in which this one waits goes on.
            signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
            yield
        finally:
            over = True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_raise_in: Final[Callable[..., int]] = ctypes.pythonapi.PyThreadState_SetAsyncExc


class Interruptible:
    """A block that another thread may interrupt: once, and never after its end.

    If that comes before the block has begun it ends at its beginning.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._thread: int | None = None
        self._early: type[BaseException] | None = None
        self._done = False  # it was interrupted, or has ended

    def __enter__(self) -> Self:
        with self._lock:
            if self._early is not None:
                raise self._early
            self._thread = get_ident()
        return self

    def __exit__(self, *_: object) -> None:
        # Python looks for exceptions from outside at calls and jumps: so none can come
        # between taking the lock and the next line.
        with self._lock:
            thread, self._thread = self._thread, None
            was_interrupted, self._done = self._done, True
            if was_interrupted and thread is not None:
                _raise_in(ctypes.c_ulong(thread), None)  # if it did not come in time

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise an exception in the block, unless it is over."""
        with self._lock:
            if self._done:
                return
            self._done = True
            if self._thread is None:
                self._early = error
            else:
                _raise_in(ctypes.c_ulong(self._thread), ctypes.py_object(error))


@contextmanager
def soft_limit_in_thread(seconds: float) -> Iterator[None]:
    """Raise ``SoftTimeout`` in the block after so many seconds; in any thread."""
    block = Interruptible()
    timer = Timer(seconds, block.interrupt, (timed_out(seconds),))
    timer.daemon = True
    with block:
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def timed_out(seconds: float) -> type[SoftTimeout]:
    """Return ``SoftTimeout`` as a class that is raised without arguments."""

    def init(self: SoftTimeout) -> None:
        SoftTimeout.__init__(self, seconds)

    names: dict[str, Any] = {"__init__": init, "__module__": SoftTimeout.__module__}
    return type(SoftTimeout.__name__, (SoftTimeout,), names)
