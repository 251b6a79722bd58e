"""The daemon's loop: call what is ready, as soon as it is; take signals in it."""

import os
import select
import signal
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Final

Ready = Callable[[], None]
"""Called when a descriptor is readable."""


STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What tells a daemon to stop, or to import anew."""


def hold_signals() -> None:
    """Let what comes from now on wait until ``Signals`` takes it, or a child does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def take_signals() -> None:
    """Let signals come that were held, now that there is a handler."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


class Signals:
    """Signals as bytes in a pipe; the handler does no work.

    Args:
        numbers: The signals to take.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._seen: list[int] = []
        self._numbers = tuple(numbers)
        for number in self._numbers:
            signal.signal(number, self._handle)
        # A lease that is broken while we hold it sends this one; see
        # spooldir.dropped. Not SIG_IGN: that would be inherited by user code.
        signal.signal(signal.SIGIO, _nothing)
        take_signals()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._seen.append(number)
        try:
            os.write(self._writer, b"s")
        except BlockingIOError:
            return  # the pipe is full: the loop is awake anyway

    def ignore(self) -> None:
        """Ignore them from now on: the process is about to end by itself.

        Python gives signals their default effect back while it ends, and one more
        TERM would then turn a good exit code into a death.
        """
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)

    def fileno(self) -> int:
        """Return a descriptor that is readable when signals came."""
        return self._reader

    def take(self) -> list[int]:
        """Return the signals that came since the last call."""
        try:
            os.read(self._reader, 4096)
        except BlockingIOError:
            return []
        seen, self._seen = self._seen, []
        return seen


def _nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal by doing nothing."""


class Loop:
    """Calls what is ready: one epoll for the whole daemon."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}

    def add(self, fd: int, ready: Ready) -> None:
        """Call ``ready`` whenever ``fd`` is readable."""
        self._epoll.register(fd, select.EPOLLIN)
        self._ready[fd] = ready

    def remove(self, fd: int) -> None:
        """Forget ``fd``; do it before it is closed."""
        self._epoll.unregister(fd)
        del self._ready[fd]

    def wait(self, timeout: float | None) -> None:
        """Wait until something is ready or ``timeout`` seconds are over."""
        found = self._epoll.poll(timeout)
        for ready, fd in [(self._ready[fd], fd) for fd, _ in found]:
            # An earlier call may have removed it, and added another in its place.
            if self._ready.get(fd) is ready:
                ready()

    def close(self) -> None:
        """Close the epoll."""
        self._epoll.close()
