"""Fixtures that tests of all kinds use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from spooler.spooldir import SpoolDir
from spooler.wakeup import Watchpost

from .helpers import FACTOR, FakeClock, open_files

# The same examples each time, however slow the machine is. To look for others:
# pytest --hypothesis-profile=search --hypothesis-seed=1
settings.register_profile(
    "same",
    settings.get_profile("ci"),
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
settings.register_profile(
    "search", settings.get_profile("same"), max_examples=2000, derandomize=False
)
settings.load_profile("same")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Have a test take as much longer as the machine may be slower."""
    usual = float(config.getini("timeout"))
    for item in items:
        mark = item.get_closest_marker("timeout")
        seconds = usual if mark is None else mark.args[0]
        mine = pytest.mark.timeout(seconds * max(1, FACTOR))
        item.add_marker(mine, append=False)


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
