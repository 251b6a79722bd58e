"""Thousands of junk files: good tasks run, log and memory stay small, nothing spins."""

import os
from time import monotonic

import pytest

from spooler.alarm import LINES, WINDOW

from .conftest import Box
from .flood import Flood
from .test_hostile import can_be_made_immutable


def windows(begun: float) -> int:
    """Return in how many windows an alarm may have told of its first lines."""
    return 1 + int((monotonic() - begun) // WINDOW)


def test_good_tasks_run_in_a_flood_of_junk(box: Box) -> None:
    begun = monotonic()
    figures = Flood(box, 5000).run()
    # A second on a machine of its own; here others are at work, too.
    figures.put, figures.dropped = figures.put / 10, figures.dropped / 10
    figures.idle /= 3
    assert not figures.broken(), figures
    assert figures.kept == 5000
    daemon = box.daemons[0]
    daemon.wait_for("more files are no tasks; they are in corrupt/")
    text = daemon.text()
    # Those that the daemon has met, and those of its worker.
    assert text.count("reject spool=") <= 2 * LINES * windows(begun)
    assert text.replace("\n", "").isprintable()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may do this")
def test_junk_that_cannot_be_moved_away_is_left_and_costs_little(box: Box) -> None:
    if not can_be_made_immutable(box.app / "x"):
        pytest.skip("this file system has no immutable files")
    begun = monotonic()
    figures = Flood(box, 5000).run_immovable()
    figures.put, figures.dropped = figures.put / 10, figures.dropped / 10
    figures.idle /= 3
    assert not figures.broken(), figures
    assert figures.kept == 0
    daemon = box.daemons[0]
    daemon.wait_for("files more now: each is tried again")
    assert LINES <= daemon.text().count("cannot adopt 5/") <= LINES * windows(begun)
