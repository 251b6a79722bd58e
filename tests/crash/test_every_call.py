"""Kill a process before and after every system call of every move, then recover."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from spooler.spooldir import SpoolDir, marking, taking_over, uwsgi_files
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


@every_kill
def test_a_directory_of_uwsgi_that_was_half_taken_over_is_taken_over(
    tmp_path: Path, how: str
) -> None:
    file = f"{uwsgi_files.PREFIX}host_1_1_1_1_1"

    def old(name: str) -> Path:
        (tmp_path / name / "5").mkdir(parents=True)
        for path in (file, f"5/{file}"):
            (tmp_path / name / path).write_bytes(b"\x11\0\0\0")
        (tmp_path / name / "5").chmod(0o777)
        return tmp_path / name

    def begin(path: Path) -> Callable[[], object]:
        return lambda: taking_over.take_over(str(path))

    fatal_os = FatalOS(0, how)
    path = old("dry")
    with patched(fatal_os):
        begin(path)()
    for fatal in range(1, len(fatal_os.calls) + 1):
        path = old(str(fatal))
        die(partial(begin, path), fatal, how)
        taking_over.take_over(str(path))
        spool = SpoolDir(path)
        spool.open()
        assert {p.name for p in path.iterdir()} == {".spool", file, *marking.FOLDERS}
        assert (path / "5").stat().st_mode & 0o777 == 0o775
        assert len(tasks(spool)) == 2
        spool.close()


@every_kill
def test_a_file_for_uwsgi_appears_whole_or_not_at_all(tmp_path: Path, how: str) -> None:
    data = b"\x11\0\0\0" + b"body" * 100

    def begin(path: Path) -> Callable[[], object]:
        path.mkdir()
        chunks = [data[:20], data[20:]]
        return lambda: uwsgi_files.write(str(path), chunks, priority="17", at=1.0)

    fatal_os = FatalOS(0, how)
    act = begin(tmp_path / "dry")
    with patched(fatal_os):
        act()
    found = []
    for fatal in range(1, len(fatal_os.calls) + 1):
        path = tmp_path / str(fatal)
        die(partial(begin, path), fatal, how)
        files = list(path.glob(f"17/{uwsgi_files.PREFIX}*"))
        assert all(file.read_bytes() == data for file in files)
        assert all(file.stat().st_mtime == 1 for file in files)
        found.append(len(files))
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 1)
