"""A daemon with nothing to do does nothing."""

import os
from collections.abc import Callable

from ..helpers import FACTOR
from .conftest import Box, cpu_seconds, stays, wait_until

SECONDS = 2.0
MOST = 0.020
"""Processor time that all processes of an idle daemon may take in SECONDS."""


def used(box: Box) -> float:
    return sum(cpu_seconds(pid) for pid in box.processes())


def is_idle(used: Callable[[], float]) -> bool:
    """Tell whether next to no time is used for a while."""
    before = used()
    assert stays(lambda: True, seconds=SECONDS)
    return used() - before < MOST * max(1.0, FACTOR / 3)


def check(box: Box) -> None:
    """Check that all becomes idle, once it has been imported and was run."""
    box.put("note", name="settled")
    wait_until(lambda: box.lines("settled"))
    wait_until(lambda: is_idle(lambda: used(box)))
    assert box.daemons[0].process.poll() is None


def test_an_idle_daemon_takes_no_time(box: Box) -> None:
    box.start("--workers", "2")
    box.later("note", {"at": "+1h"})
    check(box)


def test_what_nobody_can_run_does_not_keep_it_busy(box: Box) -> None:
    box.start()
    box.put("nobody_knows")
    box.put("ignored_until", name="never")
    os.mkfifo(box.spool / "5" / "fifo")
    (box.spool / "5" / "folder").mkdir()
    (box.spool / "5" / "20200101T0000").mkdir()
    (box.spool / "5" / "20200101T0000" / "junk").mkdir()
    with (box.spool / "5" / "slow").open("wb") as file:
        file.write(b"task=note\n")
        file.flush()
        check(box)
    wait_until(lambda: "done" in box.lines())


def test_what_becomes_due_while_all_are_busy_does_not_spin(box: Box) -> None:
    daemon = box.start()
    box.put("gate")
    box.number("pid")
    box.later("note", {"at": "+1s"})
    assert stays(lambda: not box.lines(), seconds=1.1)
    # The task itself is not idle.
    wait_until(lambda: is_idle(lambda: cpu_seconds(daemon.pid)))
    assert not box.lines()
    box.open()
    box.wait_lines("passed", "done")


def test_a_signal_that_a_task_handled_does_not_spin(box: Box) -> None:
    box.start()
    box.put("on_alarm")
    check(box)
