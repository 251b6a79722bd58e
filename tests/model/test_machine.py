"""Random moves of several actors, compared with a model in memory."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import Machine

SETTINGS = settings(
    max_examples=8,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
"""What is printed on a failure is what was done."""


@pytest.fixture
def quiet() -> Iterator[None]:
    """Log nothing: the moves that are made on purpose are of no use in a report."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("no_sync", "quiet")
@pytest.mark.parametrize("number", range(4))
def test_spool_is_as_the_model_says_after_every_move(number: int) -> None:
    machine = seed(number)(Machine)  # the same moves each time
    run_state_machine_as_test(machine, settings=SETTINGS)
