"""Kill at every system call, and an error in each, of what is done with logs."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spooler.spooldir import SpoolDir, progress, repair, runlogs
from spooler.spooldir.recovery import recover, sweep
from spooler.spooldir.runlogs import HEAD, LIVE_MAX, TAIL
from spooler.task import State
from tests.helpers import NOW_US, open_files, tasks

from .fatal import CRASH, DATA, ID, dead, late_clock, waits
from .faults import FatalOS, Fault, die, every_fault, every_kill, patched, points

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]

Begin = Callable[[SpoolDir], Callable[[], object]]

SMALL = b"0123456789\n" * 10
LARGE = b"0123456789abcde\n" * ((HEAD + TAIL) // 16 + 1000)
LOG = f"logs/{ID}.2"


def print_live(spool: SpoolDir, data: bytes = SMALL) -> None:
    Path(spool.path, runlogs.live_path("w1")).write_bytes(data)


def logs(spool: SpoolDir) -> dict[str, bytes]:
    """Return what is kept: a reader sees no hidden file."""
    folder = Path(spool.path, "logs")
    return {
        p.name: p.read_bytes()
        for p in folder.iterdir()
        if p.name[0] != "." and p.suffix not in (".attempts", ".live")
    }


def cut(data: bytes) -> bytes:
    if len(data) <= HEAD + TAIL:
        return data
    note = f"… {len(data) - HEAD - TAIL} bytes left out …\n".encode()
    return data[:HEAD] + note + data[-TAIL:]


def taking(data: bytes) -> Begin:
    """Be a worker whose run is over."""

    def begin(spool: SpoolDir) -> Callable[[], object]:
        fd = runlogs.open_new(spool, runlogs.live_path("w1"))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        runlogs.append(fd, data)

        def act() -> None:
            _, problem = runlogs.take(spool, fd, nowhere, (ID, 2))
            if problem is not None:
                raise problem

        return act

    return begin


def finishing(data: bytes) -> Begin:
    def begin(spool: SpoolDir) -> Callable[[], object]:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        fd = runlogs.open_new(spool, LOG)
        runlogs.append(fd, data)
        return lambda: runlogs.finish(spool, fd, nowhere, (ID, 2), wanted=True)

    return begin


def said(done: int) -> dict[str, object]:
    return {"done": done, "total": 9, "message": "", "time": "t", "attempt": 1}


def reporting(spool: SpoolDir) -> Callable[[], object]:
    progress.write_progress(spool, ID, said(1))
    return lambda: progress.write_progress(spool, ID, said(2))


def trimming(spool: SpoolDir) -> Callable[[], object]:
    print_live(spool, b"x" * (LIVE_MAX + 1))
    return lambda: runlogs.trim(spool, "w1")


def calls_of(begin: Callable[[], Callable[[], object]]) -> list[str]:
    act, told = begin(), FatalOS()
    with patched(told):
        act()
    return told.calls


@contextmanager
def new(path: Path) -> Iterator[SpoolDir]:
    spool = SpoolDir(path)
    spool.create()
    yield spool
    spool.close()
    shutil.rmtree(path)


def each_kill(
    tmp_path: Path, prepare: Callable[[SpoolDir], object], begin: Begin, how: str
) -> Iterator[SpoolDir]:
    """Yield a spool after a kill at each call."""
    with new(tmp_path / "dry") as spool:
        prepare(spool)
        calls = calls_of(lambda: begin(spool))
    for fatal, call in enumerate(calls, 1):
        with new(tmp_path / str(fatal)) as spool:
            prepare(spool)
            die(lambda spool=spool: begin(spool), fatal, how)  # type: ignore[misc]
            try:
                yield spool
            except AssertionError as error:
                error.add_note(f"killed {how} call {fatal}, {call}, of {calls}")
                raise


@every_kill
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_kept_log_is_whole_or_not_there(
    tmp_path: Path, data: bytes, how: str
) -> None:
    for spool in each_kill(tmp_path, waits(1), taking(data), how):
        assert logs(spool) in ({}, {f"{ID}.2": cut(data)})
        live = Path(spool.path, runlogs.live_path("w1")).read_bytes()
        assert logs(spool) or live == data, "lost"
        assert list(tasks(spool).values()) == [DATA]
        sweep(spool, late_clock())
        assert os.listdir(f"{spool.path}/logs") == []


@every_kill
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("due_us", [NOW_US, None], ids=["retried", "failed"])
def test_the_log_of_a_dead_worker_survives_the_death_of_who_recovers_it(
    tmp_path: Path, due_us: int | None, data: bytes, how: str
) -> None:
    def prepare(spool: SpoolDir) -> None:
        dead(spool)
        print_live(spool, data)
        progress.write_progress(spool, ID, said(1))

    def again(spool: SpoolDir) -> object:
        return recover(spool, "w1", lambda name: due_us, CRASH)

    for spool in each_kill(tmp_path, prepare, lambda spool: lambda: again(spool), how):
        again(spool)
        assert logs(spool) == {f"{ID}.2": cut(data)}
        assert len(tasks(spool)) == 1
        clock = late_clock()
        sweep(spool, clock)
        kept = {} if due_us is not None else {f"{ID}.2": cut(data)}
        assert logs(spool) == kept
        for found in repair.ls(spool, State.FAILED):
            repair.remove(spool, found)
        assert os.listdir(f"{spool.path}/logs") == []


@every_kill
def test_a_progress_is_the_old_one_or_the_new_one(tmp_path: Path, how: str) -> None:
    for spool in each_kill(tmp_path, waits(), reporting, how):
        found = progress.read_progress(spool, ID)
        assert found is not None
        assert found.done in (1, 2)
        sweep(spool, late_clock())
        assert os.listdir(f"{spool.path}/logs") == []


FAULTS = {
    "take": taking(SMALL),
    "take large": taking(LARGE),
    "finish": finishing(SMALL),
    "finish large": finishing(LARGE),
    "progress": reporting,
    "trim": trimming,
}


@every_fault
@pytest.mark.parametrize("name", FAULTS)
def test_an_error_leaves_no_half_log_and_no_open_file(
    name: str, fault: Fault, tmp_path: Path
) -> None:
    with new(tmp_path / "dry") as spool:
        before = set(open_files())
        calls = calls_of(lambda: FAULTS[name](spool))
        close_all_but(before)
    for fatal in points(calls, fault):
        with new(tmp_path / str(fatal)) as spool:
            before = set(open_files())
            act = FAULTS[name](spool)
            inside = set(open_files())
            with patched(FatalOS(fatal, fault)):
                try:
                    act()
                except OSError as error:
                    if error.errno != fault.code:
                        raise
            assert set(open_files()) <= inside, f"call {fatal} of {calls}"
            for data in logs(spool).values():
                assert data in (SMALL, LARGE, cut(LARGE)) or data.endswith(b"}\n")
            close_all_but(before)


def close_all_but(before: set[int]) -> None:
    for fd in set(open_files()) - before:
        try:
            os.close(fd)
        except OSError:
            continue  # of the listing itself


@every_fault
def test_an_error_with_a_log_does_not_keep_a_task_from_being_recovered(
    fault: Fault, tmp_path: Path
) -> None:
    def prepare(spool: SpoolDir) -> None:
        dead(spool)
        print_live(spool, LARGE)

    with new(tmp_path / "dry") as spool:
        prepare(spool)
        calls = calls_of(lambda: lambda: runlogs.rescue(spool, "w1"))
    for fatal in points(calls, fault):
        with new(tmp_path / str(fatal)) as spool:
            prepare(spool)
            with patched(FatalOS(fatal, fault)):
                runlogs.rescue(spool, "w1")
            assert recover(spool, "w1", lambda name: NOW_US, CRASH)
            assert list(tasks(spool).values()) == [DATA]
