"""Real daemons, workers and producers: some of what ``tests.torture.calls`` does."""

import random
from collections.abc import Callable

import pytest

from tests.torture import Report, Skip, calls

pytestmark = [
    pytest.mark.crash,
    pytest.mark.timeout(300),
]


def run(budget: float, seed: int, only: str = "", plant: str = "") -> Report:
    try:
        return calls.run(budget, seed, only, plant)
    except Skip as why:
        pytest.skip(str(why))


def test_no_promise_is_broken_at_some_of_the_calls(
    record_property: Callable[..., None],
) -> None:
    seed = random.randrange(1 << 32)
    report = run(8.0, seed)
    record_property("figures", str(report))
    assert report.broken == [], f"seed {seed}"
    assert report.figures["rounds"], report


def test_a_daemon_that_removes_tasks_before_they_run_is_found() -> None:
    report = run(60.0, 1, "killed before 1", "ack first")
    assert any("never run" in each for each in report.broken), report
