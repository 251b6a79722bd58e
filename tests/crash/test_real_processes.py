"""Real daemons, workers and producers: some of what ``tests.torture.calls`` does."""

from collections.abc import Callable

import pytest

from tests.torture import Report, Skip, calls

pytestmark = [
    pytest.mark.crash,
    pytest.mark.timeout(300),
]

SEED = 20261121
"""The same calls each time; ``make torture`` tries others."""


def run(budget: float, seed: int, only: str = "", plant: str = "") -> Report:
    try:
        return calls.run(budget, seed, only, plant)
    except Skip as why:
        pytest.skip(str(why))


def test_no_promise_is_broken_at_some_of_the_calls(
    record_property: Callable[..., None],
) -> None:
    report = run(8.0, SEED)
    record_property("figures", str(report))
    assert report.broken == []
    assert report.figures["rounds"], report


def test_a_daemon_that_removes_tasks_before_they_run_is_found() -> None:
    report = run(60.0, 1, "killed before 1", "ack first")
    assert any("never run" in each for each in report.broken), report
