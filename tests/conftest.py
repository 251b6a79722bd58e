"""Fixtures that tests of all kinds use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from spooler.spooldir import SpoolDir
from spooler.wakeup import Watchpost

from .helpers import FakeClock, open_files


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail if the test leaves a descriptor open."""
    Watchpost().close()  # what those who wait share stays open
    before = open_files()
    yield
    left = {fd: what for fd, what in open_files().items() if fd not in before}
    assert not left, f"left open: {left}"


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have fsync do nothing, for tests in which the machine does not crash.

    They take ten times as long with it; ``SPOOLER_TEST_SYNC=1`` has it work.
    """
    if not os.environ.get("SPOOLER_TEST_SYNC"):
        monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture
def spool(tmp_path: Path, no_leaks: None, no_sync: None) -> Iterator[SpoolDir]:
    """Give a new spool."""
    spool = SpoolDir(tmp_path / "spool")
    spool.create()
    yield spool
    spool.close()


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock that stands still."""
    return FakeClock()
