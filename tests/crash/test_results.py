"""Kill, and have fail, every system call of what keeps, removes and sweeps results."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from spooler import Handle
from spooler.spooldir import SpoolDir, repair, results
from spooler.spooldir.claims import Claims
from spooler.spooldir.results import Sweeper
from spooler.task import Claim, State
from tests.helpers import make_name, open_files, tasks

from .fatal import (
    CASES,
    DATA,
    FAILED,
    ID,
    Case,
    a_name,
    count_calls,
    failed,
    fresh,
    late_clock,
    let_go,
    supervise,
    waits,
    working,
)
from .faults import FatalOS, Fault, die, every_fault, every_kill, patched, points

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]


def keep(spool: SpoolDir, *, ok: bool = True, value: object = 1) -> None:
    results.keep(
        spool, a_name(), ok=ok, value=value, attempt=1, started_us=0, seconds=60.0
    )


def finishing(spool: SpoolDir) -> Callable[[], object]:
    """Be a worker that keeps a result and acks."""

    def act(held: Claims, claim: Claim) -> None:
        keep(spool, value=2)
        held.ack(claim)

    return working(act)(spool)


def failing(spool: SpoolDir) -> Callable[[], object]:
    """Be a worker that keeps a failure and gives up."""

    def act(held: Claims, claim: Claim) -> None:
        keep(spool, ok=False)
        held.fail(claim, FAILED, started_us=0)

    return working(act)(spool)


def failed_and_kept(spool: SpoolDir) -> None:
    failed(spool)
    keep(spool, ok=False)


def kicking(spool: SpoolDir) -> Callable[[], object]:
    (found,) = repair.ls(spool, State.FAILED)
    return lambda: repair.kick(spool, found)


def sweeping(spool: SpoolDir) -> Callable[[], object]:
    def act() -> None:
        sweeper = Sweeper(spool, keep=1, every=600, pause=0, clock=late_clock())
        for _ in range(4):
            sweeper.work()

    return act


def full_of_results(spool: SpoolDir) -> None:
    waits()(spool)
    for seconds in (1.0, 1e9, 1e9):
        results.keep(
            spool, make_name(), ok=True, attempt=1, started_us=0, seconds=seconds
        )
    Path(spool.path, "done/.half").touch()


HERE = [
    Case(
        "keep and ack",
        waits(),
        finishing,
        counts=frozenset({0, 1}),
        attempts=frozenset({1}),
        final=None,
    ),
    Case(
        "keep and fail",
        waits(),
        failing,
        attempts=frozenset({1}),
        final=State.FAILED,
    ),
    Case("kick what is kept", failed_and_kept, kicking, attempts=frozenset({0, 3})),
    Case("sweep results", full_of_results, sweeping),
]


def promises(spool: SpoolDir, case: Case) -> None:
    """Check what is promised of results, whoever was killed."""
    found = tasks(spool)
    assert len(found) in case.counts, found
    assert set(found.values()) <= {DATA}
    visible = spool.names("done")
    for task_id in visible:  # each is whole
        assert results.read(spool, task_id) is not None
    if case.begin is finishing and not found:
        assert results.read(spool, ID) is not None, "finished without its result"
    if case.begin is kicking and not any(path.startswith("failed/") for path in found):
        assert not visible, "an old failure of a task that waits again"


@every_kill
@pytest.mark.parametrize("case", HERE, ids=lambda case: case.name)
def test_a_kill_leaves_no_finished_task_without_its_result(
    case: Case, how: str, tmp_path: Path
) -> None:
    calls = count_calls(case, tmp_path / "dry")
    for fatal, call in enumerate(calls, 1):
        spool = fresh(case, tmp_path / str(fatal))
        die(lambda spool=spool: case.begin(spool), fatal, how)  # type: ignore[misc] # a default binds it
        supervise(spool)
        try:
            promises(spool, case)
            swept(spool)
        except AssertionError as error:
            error.add_note(f"killed {how} call {fatal}, {call}, of {calls}")
            raise
        spool.close()
        shutil.rmtree(spool.path)


def swept(spool: SpoolDir) -> None:
    """Check that what is left over goes by itself."""
    clock = late_clock()
    clock.advance(1e9)
    Sweeper(spool, keep=10, every=600, clock=clock).work()
    assert spool.all_names("done") == []


@every_fault
@pytest.mark.parametrize("case", HERE, ids=lambda case: case.name)
def test_an_error_leaves_no_finished_task_without_its_result(
    case: Case, fault: Fault, tmp_path: Path, no_leaks: None
) -> None:
    calls = count_calls(case, tmp_path / "dry")
    for fatal in points(calls, fault):
        spool = fresh(case, tmp_path / str(fatal))
        act = case.begin(spool)
        before = open_files()
        try:
            with patched(FatalOS(fatal, fault)):
                act()
        except OSError:
            promises(spool, case)
            act()  # it can be done again
        try:
            promises(spool, case)
        except AssertionError as error:
            error.add_note(f"call {fatal}, {calls[fatal - 1]}, of {calls}")
            raise
        left = {fd: what for fd, what in open_files().items() if fd not in before}
        assert not left, left
        let_go(spool)
        shutil.rmtree(spool.path)


@every_kill
@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name in ("ack", "retry", "fail", "reject")],
    ids=lambda case: case.name,
)
def test_whoever_waits_hears_of_a_task_that_a_kill_has_left(
    case: Case, how: str, tmp_path: Path
) -> None:
    calls = count_calls(case, tmp_path / "dry")
    for fatal in range(1, len(calls) + 1):
        spool = fresh(case, tmp_path / str(fatal))
        (path,) = tasks(spool)
        name = a_name(int(path.split(".")[2]))
        handle = Handle(ID, "t", spool.path, name)
        die(lambda spool=spool: case.begin(spool), fatal, how)  # type: ignore[misc] # a default binds it
        supervise(spool)
        found = list(tasks(spool))
        if found and found[0][0].isdigit():
            with pytest.raises(TimeoutError):
                handle.wait(0)
        else:
            state = State(found[0].partition("/")[0]) if found else None
            assert handle.wait(5) == state
        spool.close()
        shutil.rmtree(spool.path)
