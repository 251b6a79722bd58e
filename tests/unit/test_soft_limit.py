"""Interrupting a function, in the main thread and in others."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import pytest

from spooler.errors import SoftTimeout
from spooler.soft_limit import Interruptible, Killed, soft_limit, timed_out

from ..helpers import FACTOR, wait_until

STOPPED: Final = """
from threading import Event, Thread
from spooler.errors import SoftTimeout
from spooler.soft_limit import soft_limit
for _ in range(8):
    Thread(target=Event().wait, daemon=True).start()
try:
    with soft_limit(0.2):
        print("waits", flush=True)
        Event().wait()
except SoftTimeout:
    print("interrupted")
"""


def test_a_sleep_in_the_main_thread_is_interrupted() -> None:
    with pytest.raises(SoftTimeout, match=r"0\.02 s is over"), soft_limit(0.02):
        Event().wait(10)


def has_alarm(pid: int) -> bool:
    """Tell whether a signal is there for a process that no thread has taken yet."""
    status = Path(f"/proc/{pid}/status").read_text()
    [pending] = re.findall(r"^ShdPnd:\s+([0-9a-f]+)$", status, re.MULTILINE)
    return bool(int(pending, 16) & 1 << (signal.SIGALRM - 1))


@pytest.mark.parametrize("number", range(4))
def test_whoever_was_stopped_meanwhile_is_interrupted_too(number: int) -> None:
    # The signal is then for whichever thread comes first.
    command = [sys.executable, "-c", STOPPED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waits\n"
        child.send_signal(signal.SIGSTOP)
        wait_until(lambda: child.poll() is not None or has_alarm(child.pid))
        child.send_signal(signal.SIGCONT)
        try:
            out, _ = child.communicate(timeout=10 * FACTOR)
        finally:
            child.kill()
    assert out == "interrupted\n"


def test_what_ends_in_time_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with soft_limit(1000):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is before


def in_thread(function: Callable[[], Any]) -> tuple[Thread, list[object]]:
    """Run a function in a thread; its result or error will be in the list."""
    found: list[object] = []

    def work() -> None:
        try:
            found.append(function())
        except BaseException as error:  # noqa: BLE001 (that is what is tested)
            found.append(error)

    thread = Thread(target=work)
    thread.start()
    return thread, found


@pytest.mark.parametrize("error", [timed_out(2.5), Killed])
def test_a_block_in_a_thread_is_interrupted(error: type[BaseException]) -> None:
    block, begun = Interruptible(), Event()

    def function() -> None:
        with block:
            begun.set()
            while True:
                Event().wait(0.001)

    thread, found = in_thread(function)
    assert begun.wait(20)
    block.interrupt(error)
    thread.join()
    assert isinstance(found[0], error)


@pytest.mark.parametrize("error", [timed_out(2.5), Killed])
def test_a_block_that_is_interrupted_before_it_begins_does_not_begin(
    error: type[BaseException],
) -> None:
    block = Interruptible()
    block.interrupt(error)
    with pytest.raises(error), block:
        pytest.fail("it has begun")


def test_a_timeout_without_arguments_knows_its_seconds() -> None:
    error = timed_out(2.5)()  # type: ignore[call-arg] # that is what it is for
    assert isinstance(error, SoftTimeout)
    assert (error.seconds, str(error)) == (2.5, "its soft limit of 2.5 s is over")


def test_nothing_is_raised_after_the_block() -> None:
    block, go_on = Interruptible(), Event()

    def function() -> str:
        with block:
            pass
        go_on.wait(20)
        return "done"

    thread, found = in_thread(function)
    wait_until(lambda: block._thread is None)
    block.interrupt(Killed)
    go_on.set()
    thread.join()
    assert found == ["done"]


def test_an_interrupt_at_the_very_end_never_comes_late() -> None:
    """It is raised in the block, or never: a thousand times at random moments."""
    blocks: list[Interruptible] = []
    over = Event()

    def shoot() -> None:
        while not over.is_set():
            for block in blocks[-1:]:
                block.interrupt(Killed)

    gunner = Thread(target=shoot)
    gunner.start()

    def function() -> int:
        outside = 0
        for _ in range(1000):
            block = Interruptible()
            try:
                with block:
                    blocks.append(block)
                    for _ in range(20):
                        pass
            except Killed:
                continue
            finally:
                blocks.clear()
            try:
                for _ in range(20):
                    len("not protected")
            except Killed:
                outside += 1
        return outside

    thread, found = in_thread(function)
    thread.join()
    over.set()
    gunner.join()
    assert found == [0]
