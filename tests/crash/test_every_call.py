"""Kill a process before and after every system call of every move, then recover."""

from collections.abc import Callable
from pathlib import Path

import pytest

from spooler.spooldir import SpoolDir, marking
from spooler.task import Name
from tests.helpers import NOW_US, TASK, tasks

from .fatal import CASES, Case, count_calls, kill_at
from .faults import FatalOS, die, every_kill, patched
from .moves import MORE

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]


@every_kill
@pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.name)
def test_no_task_is_lost_or_doubled_by_a_kill(
    case: Case, how: str, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    calls = count_calls(case, tmp_path / "dry")
    for fatal, call in enumerate(calls, 1):
        try:
            kill_at(case, tmp_path / str(fatal), fatal, how)
        except AssertionError as error:
            error.add_note(f"killed {how} call {fatal}, {call}, of {calls}")
            raise
    record_property("kill points", len(calls))


@every_kill
def test_a_spool_that_was_half_made_is_made_whole(tmp_path: Path, how: str) -> None:
    def begin(path: Path) -> Callable[[], object]:
        spool = SpoolDir(path)
        return spool.create

    fatal_os = FatalOS(0, how)
    with patched(fatal_os):
        SpoolDir(tmp_path / "dry").create()
    for fatal in range(1, len(fatal_os.calls) + 1):
        path = tmp_path / str(fatal)
        die(lambda path=path: begin(path), fatal, how)  # type: ignore[misc]
        spool = SpoolDir(path)
        spool.create()
        assert {p.name for p in path.iterdir()} == {".spool", *marking.FOLDERS}
        name = Name(NOW_US, 5, 0, "0" * 16, "t")
        spool.put(name, [TASK], durable=False)
        assert tasks(spool) == {f"{name.folder}/{name}": TASK}
        spool.close()
