"""What is in a spool, counted: what waits for another attempt."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import FakeClock, make_name, minutes_later, path_of, place, put

from spooler.spooldir import SpoolDir, control
from spooler.spooldir.claims import Claims
from spooler.spooldir.repair import find
from spooler.status import count, overview, tried
from spooler.task import Outcome, Verdict


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def claims(spool: SpoolDir) -> Iterator[Claims]:
    claims = Claims(spool, "worker-test-1-aaaaaa", {os.geteuid()})
    yield claims
    os.close(claims._fd)


def test_what_waits_for_another_attempt_is_counted(
    spool: SpoolDir, clock: FakeClock
) -> None:
    now_us = clock.now_us()
    for attempt, due_us in ((0, now_us), (1, now_us), (12, now_us + 1), (0, now_us)):
        put(spool, make_name(due_us, attempt=attempt))
    put(spool, minutes_later(5, make_name(now_us, attempt=347)))
    put(spool, minutes_later(-5, make_name(now_us, attempt=2, priority=10)))
    counts = count(spool, clock)
    assert (counts.waiting, counts.later) == (4, 2)
    assert (counts.retrying, counts.most_attempts) == (4, 347)
    facts = overview(spool, 0, clock)
    assert (facts["retrying"], facts["most_attempts"]) == (4, 347)
    each = [(row["priority"], row["retrying"]) for row in facts["priorities"]]
    assert each == [(5, 3), (10, 1)]


def test_nobody_retries_what_is_held_runs_or_has_failed(
    spool: SpoolDir, clock: FakeClock, claims: Claims
) -> None:
    held = put(spool, make_name(attempt=3))
    control.hold(spool, find(spool, held.id))
    running = put(spool, make_name(attempt=4))
    assert claims.claim(path_of(running))
    place(spool, f"failed/{make_name(attempt=5)}")
    counts = count(spool, clock)
    assert (counts.held, counts.running, counts.failed) == (1, 1, 1)
    assert (counts.retrying, counts.most_attempts) == (0, 0)


@pytest.mark.parametrize(
    ("verdict", "retrying"),
    [(Verdict.RELEASE, 0), (Verdict.AGAIN, 0), (Verdict.RETRY, 1)],
)
def test_only_an_attempt_that_has_failed_counts(
    spool: SpoolDir,
    clock: FakeClock,
    claims: Claims,
    verdict: Verdict,
    retrying: int,
) -> None:
    """Not that nobody has its function, that it is left to others, or runs for ever."""
    claim = claims.claim(path_of(put(spool)))
    assert claim is not None
    due_us = clock.now_us() + 1
    match verdict:
        case Verdict.RELEASE:
            claims.release(claim, due_us=due_us)
        case Verdict.AGAIN:
            claims.again(claim, due_us=due_us)
        case _:
            outcome = Outcome(verdict, "OSError: away")
            claims.retry(claim, outcome, due_us=due_us, started_us=None)
    assert count(spool, clock).later == 1
    assert count(spool, clock).retrying == retrying


def test_what_cannot_be_read_is_no_failed_attempt(
    spool: SpoolDir, clock: FakeClock, claims: Claims
) -> None:
    claim = claims.claim(path_of(put(spool, data=b"\xff")))
    assert claim is not None
    claims.reject(claim, "is no task")
    counts = count(spool, clock)
    assert (counts.corrupt, counts.retrying) == (1, 0)


def test_names_that_are_no_task_do_not_count(spool: SpoolDir, clock: FakeClock) -> None:
    name = put(spool, make_name(attempt=1))
    for file in ("dropped.1.1", f"x{name}", f"{name.due_us}.5.1.UPPER.t"):
        place(spool, f"{name.folder}/{file}")
    assert tried(os.listdir(Path(spool.path, name.folder))) == [1]
    assert count(spool, clock).retrying == 1
