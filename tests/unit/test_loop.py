"""Call what is ready; take signals."""

import fcntl
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spooler.loop import Loop, Signals

# -- Signals ----------------------------------------------------------------------


@pytest.fixture
def signals() -> Iterator[Signals]:
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGIO)
    before = {number: signal.getsignal(number) for number in numbers}
    signals = Signals(numbers[:2])
    yield signals
    for number, handler in before.items():
        signal.signal(number, handler)
    for fd in (signals._reader, signals._writer):
        os.close(fd)


def test_signals_come_in_their_order(signals: Signals) -> None:
    assert signals.take() == []
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        signal.raise_signal(number)
    assert select.select([signals.fileno()], [], [], 0)[0]
    assert signals.take() == [signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1]
    assert signals.take() == []
    assert not select.select([signals.fileno()], [], [], 0)[0]


def test_a_full_pipe_loses_no_signal(signals: Signals) -> None:
    fcntl.fcntl(signals._writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(signals._writer, b"x" * 4096)
    signal.raise_signal(signal.SIGUSR1)
    assert signals.take() == [signal.SIGUSR1]


def test_signals_that_come_at_the_end_do_nothing(signals: Signals) -> None:
    signals.ignore()
    signal.raise_signal(signal.SIGUSR1)
    assert signals.take() == []
    # What Python leaves alone while it ends; all other handlers become the default.
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def test_a_broken_lease_does_not_kill(signals: Signals) -> None:
    signal.raise_signal(signal.SIGIO)
    assert signals.take() == []


# -- Loop -------------------------------------------------------------------------


class Lines:
    """Pairs of sockets in a loop, and what was called."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.called: list[str] = []
        self.sockets: list[socket.socket] = []

    def add(self, name: str, act: Callable[[], Any] | None = None) -> socket.socket:
        mine, other = socket.socketpair()
        self.sockets += [mine, other]

        def ready() -> None:
            self.called.append(name)
            mine.recv(1)
            if act is not None:
                act()

        self.loop.add(mine.fileno(), ready)
        return other


@pytest.fixture
def lines(no_leaks: None) -> Iterator[Lines]:
    lines = Lines()
    yield lines
    lines.loop.close()
    for each in lines.sockets:
        each.close()


def test_the_loop_calls_what_is_ready(lines: Lines) -> None:
    a, _ = lines.add("a"), lines.add("b")
    lines.loop.wait(0)
    assert lines.called == []
    a.send(b"x")
    lines.loop.wait(None)
    assert lines.called == ["a"]


def test_what_an_earlier_call_removed_is_not_called(lines: Lines) -> None:
    names = ("a", "b")

    def remove_the_other() -> None:
        other = lines.sockets[2 if lines.called == ["a"] else 0]
        lines.loop.remove(other.fileno())

    for name in names:
        lines.add(name, remove_the_other).send(b"x")
    lines.loop.wait(1)
    assert len(lines.called) == 1


def test_what_took_the_place_of_another_is_not_called_for_it(lines: Lines) -> None:
    called: list[str] = []

    def replace_the_other() -> None:
        other = lines.sockets[2 if lines.called == ["a"] else 0]
        lines.loop.remove(other.fileno())
        lines.loop.add(other.fileno(), lambda: called.append("new"))

    for name in ("a", "b"):
        lines.add(name, replace_the_other).send(b"x")
    lines.loop.wait(1)
    assert len(lines.called) == 1
    assert called == []
    lines.loop.wait(1)
    assert called == ["new"]
