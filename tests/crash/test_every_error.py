"""Have every system call of every move fail, once; then do the move again."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from .fatal import CASES, Case, count_calls, fail_at

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]

CODES = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE]


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.faults], ids=lambda case: case.name
)
def test_an_error_leaves_the_task_in_one_place_and_can_be_repeated(
    case: Case,
    code: int,
    tmp_path: Path,
    record_property: Callable[..., None],
    no_leaks: None,
) -> None:
    calls = count_calls(case, tmp_path / "dry")
    for fatal, call in enumerate(calls, 1):
        try:
            fail_at(case, tmp_path / str(fatal), fatal, code)
        except Exception as error:
            error.add_note(f"call {fatal}, {call}, of {calls}")
            raise
    record_property("faults", len(calls))
