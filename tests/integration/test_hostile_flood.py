"""Thousands of junk files: good tasks run, log and memory stay small, nothing spins."""

import os

import pytest

from .conftest import Box
from .flood import Flood
from .test_hostile import can_be_made_immutable


def test_good_tasks_run_in_a_flood_of_junk(box: Box) -> None:
    figures = Flood(box, 5000).run()
    # A second on a machine of its own; here others are at work, too.
    figures.put, figures.dropped = figures.put / 10, figures.dropped / 10
    figures.idle /= 3
    assert not figures.broken(), figures
    assert figures.kept == 5000
    text = box.daemons[0].text()
    assert text.count("reject spool=") < 50
    assert "more files are no tasks; they are in corrupt/" in text
    assert text.replace("\n", "").isprintable()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may do this")
def test_junk_that_cannot_be_moved_away_is_left_and_costs_little(box: Box) -> None:
    if not can_be_made_immutable(box.app / "x"):
        pytest.skip("this file system has no immutable files")
    figures = Flood(box, 5000).run_immovable()
    figures.put, figures.dropped = figures.put / 10, figures.dropped / 10
    figures.idle /= 3
    assert not figures.broken(), figures
    assert figures.kept == 0
    text = box.daemons[0].text()
    assert text.count("cannot adopt 5/") == 20
    assert "files more now: each is tried again" in text
