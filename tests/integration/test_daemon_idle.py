"""A daemon with nothing to do does nothing."""

import os
import signal

from ..helpers import FACTOR
from .conftest import Box, Spoold, cpu_seconds, stays, wait_until

SECONDS = 2.0
MOST = 0.020
"""Processor time that all processes of an idle daemon may take in SECONDS."""


def used(box: Box) -> float:
    return sum(cpu_seconds(pid) for pid in box.processes())


def settle(box: Box, daemon: Spoold) -> None:
    """Wait until all has been imported and nothing is in motion."""
    box.put("note", name="settled")
    wait_until(lambda: box.lines("settled"))
    before = [used(box)]

    def is_quiet() -> bool:
        quiet = stays(lambda: True, seconds=0.2)
        before.append(used(box))
        return quiet and before[-1] - before[-2] < MOST / 4

    wait_until(is_quiet)
    assert daemon.process.poll() is None


def check(box: Box) -> None:
    before = used(box)
    assert stays(lambda: True, seconds=SECONDS)
    assert used(box) - before < MOST * max(1.0, FACTOR / 3)


def test_an_idle_daemon_takes_no_time(box: Box) -> None:
    daemon = box.start("--workers", "2")
    box.later("note", {"at": "+1h"})
    settle(box, daemon)
    check(box)


def test_what_nobody_can_run_does_not_keep_it_busy(box: Box) -> None:
    daemon = box.start()
    box.put("nobody_knows")
    box.put("ignored_until", name="never")
    os.mkfifo(box.spool / "5" / "fifo")
    (box.spool / "5" / "folder").mkdir()
    (box.spool / "5" / "20200101T0000").mkdir()
    (box.spool / "5" / "20200101T0000" / "junk").mkdir()
    with (box.spool / "5" / "slow").open("wb") as file:
        file.write(b"task=note\n")
        file.flush()
        settle(box, daemon)
        check(box)
    wait_until(lambda: "done" in box.lines())


def test_what_becomes_due_while_all_are_busy_does_not_spin(box: Box) -> None:
    daemon = box.start()
    box.put("gate")
    box.number("pid")
    daemon.send(signal.SIGCONT)
    box.later("note", {"at": "+1s"})
    assert stays(lambda: not box.lines(), seconds=1.1)
    before = cpu_seconds(daemon.pid)  # the task itself is not idle
    assert stays(lambda: not box.lines(), seconds=SECONDS)
    assert cpu_seconds(daemon.pid) - before < MOST * max(1.0, FACTOR / 3)
    box.open()
    box.wait_lines("passed", "done")


def test_a_signal_that_a_task_handled_does_not_spin(box: Box) -> None:
    daemon = box.start()
    box.put("on_alarm")
    settle(box, daemon)
    check(box)
