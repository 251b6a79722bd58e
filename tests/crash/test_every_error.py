"""Have every system call of every move go wrong; then do the move again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .fatal import CASES, Case, count_calls, fail_at
from .faults import Fault, every_fault, points
from .moves import MORE

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]


@every_fault
@pytest.mark.parametrize(
    "case",
    [case for case in (*CASES, *MORE) if case.faults],
    ids=lambda case: case.name,
)
def test_an_error_leaves_the_task_in_one_place_and_can_be_repeated(
    case: Case,
    fault: Fault,
    tmp_path: Path,
    record_property: Callable[..., None],
    no_leaks: None,
) -> None:
    calls = count_calls(case, tmp_path / "dry")
    tried = points(calls, fault)
    for fatal in tried:
        try:
            fail_at(case, tmp_path / str(fatal), fatal, fault)
        except Exception as error:
            error.add_note(f"call {fatal}, {calls[fatal - 1]}, of {calls}")
            raise
    record_property("faults", len(tried))
