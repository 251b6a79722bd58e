"""What a running function says of how far it is."""

import errno
import logging
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import FakeClock, ToldOS

from spooler import CurrentTask, UsageError, current_task
from spooler.current import CURRENT
from spooler.run_progress import RUNS, SPOOLS, forget_progress, progress
from spooler.spooldir import SpoolDir, progress as files
from spooler.spooldir.progress import Progress

ID = "8c1f42d09ab3e617"


@pytest.fixture
def run(spool: SpoolDir) -> Iterator[SpoolDir]:
    """Be in a run; its second attempt."""
    token = CURRENT.set(lambda: CurrentTask(ID, "t", 2, 5, spool.path, 0))
    yield spool
    CURRENT.reset(token)
    forget_progress(ID)
    SPOOLS.pop(spool.path, spool).close()


def said(spool: SpoolDir) -> tuple[object, object, str] | None:
    found = files.read_progress(spool, ID)
    return None if found is None else (found.done, found.total, found.message)


def test_outside_of_a_task_it_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no task is running here"):
        progress(1, 2)
    with pytest.raises(UsageError, match="no task is running here"):
        current_task()


def test_it_is_written_with_its_time_and_attempt(
    run: SpoolDir, clock: FakeClock
) -> None:
    progress(3, 10, "copying", clock=clock)
    assert files.read_progress(run, ID) == Progress(
        3, 10, "copying", "2026-11-20T21:01:00.000Z", 2
    )


def test_it_is_written_ten_times_a_second_at_most(
    run: SpoolDir, clock: FakeClock
) -> None:
    progress(1, 10, clock=clock)
    clock.advance(0.05)
    progress(2, 10, clock=clock)
    assert said(run) == (1, 10, "")
    clock.advance(0.06)
    progress(3, 10, clock=clock)
    assert said(run) == (3, 10, "")


def test_the_last_one_is_always_written(run: SpoolDir, clock: FakeClock) -> None:
    progress(1, 2, clock=clock)
    progress(2, 2, "done", clock=clock)
    assert said(run) == (2, 2, "done")


def test_what_is_too_soon_makes_no_system_call(
    run: SpoolDir, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress(1, clock=clock)
    told = ToldOS()
    monkeypatch.setattr(files, "os", told)
    progress(2, clock=clock)
    assert told.calls == []


@pytest.mark.parametrize(
    ("done", "total", "shown"),
    [
        (0, 0, (0, 0)),
        (5, None, (5, None)),
        (12, 10, (12, 10)),
        (0.5, 1.5, (0.5, 1.5)),
        (Fraction(1, 4), 1, (0.25, 1)),
    ],
)
def test_numbers_of_all_kinds_are_taken(
    run: SpoolDir, clock: FakeClock, done: Any, total: Any, shown: tuple[Any, Any]
) -> None:
    progress(done, total, clock=clock)
    assert said(run) == (*shown, "")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ((-1,), "done=-1 cannot be: it takes 0 to 1e18"),
        ((float("nan"),), "done=nan cannot be: it takes 0 to 1e18"),
        ((float("inf"),), "done=inf cannot be: it takes 0 to 1e18"),
        ((10**19,), "done=1.* cannot be: it takes 0 to 1e18"),
        (("3",), "done='3' cannot be: it takes a number"),
        ((True,), "done=True cannot be: it takes a number"),
        ((None,), "done=None cannot be: it takes a number"),
        ((Decimal(1),), "done=.* cannot be: it takes a number"),
        ((1, -1), "total=-1 cannot be: it takes 0 to 1e18"),
        ((1, "2"), "total='2' cannot be: it takes a number"),
        ((1, 2, 3), "message=3 cannot be: it takes text"),
        ((1, 2, None), "message=None cannot be: it takes text"),
    ],
)
def test_bad_values_are_usage_errors(
    run: SpoolDir, values: tuple[Any, ...], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        progress(*values)
    assert said(run) is None
    assert not RUNS


def test_a_message_is_cut_and_may_hold_anything(
    run: SpoolDir, clock: FakeClock
) -> None:
    progress(1, 1, "\x1b\ud800\n" + "x" * 5000, clock=clock)
    found = said(run)
    assert found is not None or files.read_progress(run, ID) is None
    clock.advance(1)
    progress(1, 1, "x" * 5000, clock=clock)
    assert said(run) == (1, 1, "x" * 1000)


def test_a_full_disk_does_no_harm_and_is_told_once(
    run: SpoolDir,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = ToldOS()
    told.fail("open", errno.ENOSPC, errno.ENOSPC)
    monkeypatch.setattr(files, "os", told)
    with caplog.at_level(logging.WARNING, "spooler"):
        for done in range(2):
            progress(done, 10, clock=clock)
            clock.advance(1)
    assert len(caplog.records) == 1
    assert "cannot write the progress of task=8c1f" in caplog.text
    progress(3, 10, clock=clock)
    assert said(run) == (3, 10, "")


def test_it_is_forgotten_when_the_run_is_over(run: SpoolDir, clock: FakeClock) -> None:
    progress(1, 2, clock=clock)
    assert ID in RUNS
    forget_progress(ID)
    assert not RUNS
    assert list(Path(run.path, "logs").iterdir()) == []
    forget_progress(ID)
