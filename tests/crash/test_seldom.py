"""What is interrupted once in a life: a spool's making, a worker's start; odd files."""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from spooler.errors import SpoolerError
from spooler.spooldir import SpoolDir
from spooler.spooldir.recovery import ProcessLock, sweep
from spooler.task import Name
from tests.helpers import NOW_US, TASK, open_files, tasks, tree

from .fatal import (
    CASES,
    adopting,
    assert_swept,
    check,
    fresh,
    late_clock,
    let_go,
    supervise,
)
from .faults import (
    FatalOS,
    Fault,
    calls_of,
    die,
    every_fault,
    every_kill,
    patched,
    points,
)

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]


@every_fault
def test_a_spool_that_could_not_be_made_can_be_made(
    fault: Fault, tmp_path: Path, no_leaks: None
) -> None:
    dry = SpoolDir(tmp_path / "dry")
    calls = calls_of(dry.create)
    dry.close()
    for fatal in points(calls, fault):
        spool = SpoolDir(tmp_path / str(fatal))
        with patched(FatalOS(fatal, fault)):
            try:
                spool.create()
            except (OSError, SpoolerError):
                assert fault.code
        spool.create()
        name = Name(NOW_US, 5, 0, "0" * 16, "t")
        spool.put(name, [TASK], durable=False)
        assert tasks(spool) == {f"{name.folder}/{name}": TASK}
        sweep(spool, late_clock())
        assert list(tree(spool)) == [f"{name.folder}/{name}"]
        assert not os.listdir(f"{spool.path}/tmp")
        spool.close()


@every_fault
def test_a_worker_that_an_error_ends_leaves_its_task(
    fault: Fault, tmp_path: Path, no_leaks: None
) -> None:
    (life,) = (case for case in CASES if case.name == "the life of a worker")
    spool = fresh(life, tmp_path / "dry")
    calls = calls_of(life.begin(spool))
    spool.close()
    for fatal in points(calls, fault):
        spool = fresh(life, tmp_path / str(fatal))
        pid = os.fork()
        if pid == 0:  # which ends, as a worker does
            with suppress(BaseException), patched(FatalOS(fatal, fault)):
                life.begin(spool)()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        supervise(spool)
        check(spool, life)
        assert_swept(spool, life)
        let_go(spool)


@every_fault
def test_a_lock_that_could_not_be_taken_is_free(
    fault: Fault, tmp_path: Path, no_leaks: None
) -> None:
    def live(spool: SpoolDir) -> None:
        lock = ProcessLock(spool, "w1")
        try:
            if not lock.acquire():
                raise OSError("somebody has it")
            lock.describe({"kind": "worker"})
        except OSError:
            lock.release()
            raise
        lock.remove()

    spool = SpoolDir(tmp_path / "spool")
    spool.create()
    before = open_files()
    for fatal in points(calls_of(lambda: live(spool)), fault):
        with patched(FatalOS(fatal, fault)), suppress(OSError):
            live(spool)
        assert set(open_files()) == set(before)
        live(spool)
        assert [n for n in os.listdir(f"{spool.path}/workers") if n[0] != "."] == []
    spool.close()


# -- what is no file ----------------------------------------------------------------


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def places(spool: SpoolDir) -> list[str]:
    """Return where the odd file is, whatever it is."""
    root = Path(spool.path)
    found = [*root.glob("5/*"), *root.glob("corrupt/*")]
    return [
        path.relative_to(root).parts[0]
        for path in found
        if not stat.S_ISREG(path.lstat().st_mode) and path.name.startswith("dropped")
    ]


ODD = pytest.mark.parametrize("make", [link, pipe])


@every_kill
@ODD
def test_an_odd_file_is_in_one_place_after_a_kill(
    make: Callable[[Path], None], how: str, tmp_path: Path
) -> None:
    spool = made(make, tmp_path / "dry")
    calls = calls_of(adopting()(spool))
    for fatal in range(1, len(calls) + 1):
        spool = made(make, tmp_path / str(fatal))
        die(lambda spool=spool: adopting()(spool), fatal, how)  # type: ignore[misc] # a default binds it
        adopting()(spool)()
        assert places(spool) == ["corrupt"]
        spool.close()


@every_fault
@ODD
def test_an_odd_file_is_put_aside_after_an_error(
    make: Callable[[Path], None], fault: Fault, tmp_path: Path, no_leaks: None
) -> None:
    spool = made(make, tmp_path / "dry")
    calls = calls_of(adopting()(spool))
    spool.close()
    for fatal in points(calls, fault):
        spool = made(make, tmp_path / str(fatal))
        with patched(FatalOS(fatal, fault)), suppress(OSError):
            adopting()(spool)()
        adopting()(spool)()
        assert places(spool) == ["corrupt"]
        spool.close()


def made(make: Callable[[Path], None], path: Path) -> SpoolDir:
    spool = SpoolDir(path)
    spool.create()
    make(path / "5/dropped")
    return spool
