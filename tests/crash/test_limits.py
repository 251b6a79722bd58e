"""Kill and fail at every system call of limits and of kills: nothing is stuck."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest

from spooler.limits import Limits
from spooler.spooldir import SpoolDir, kills
from spooler.spooldir.limits import Busy, Permit, Permits, sweep_limits
from spooler.spooldir.recovery import recover
from spooler.task import Outcome, State, Verdict
from tests.helpers import FakeClock, open_files, real_clock

from .fatal import ID, OWNERS, Case, count_calls, dead, fail_at, kill_at, late_clock
from .faults import FatalOS, Fault, die, every_fault, every_kill, patched, points

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]

COUNT = 3
BOTH = Limits(concurrency=2, rate=f"{COUNT}/h")
OTHER = Limits(concurrency=2, rate="2/h")
ENOUGH = 500
"""How often a slot is taken while somebody sweeps."""

KILLED = {ID: Outcome(Verdict.FAIL, "an operator had it killed", kills.KILLED)}
BESIDE = Outcome(Verdict.RELEASE, "its worker was killed for another task")


def acquire(permits: Permits, limits: Limits = BOTH) -> Permit:
    found = permits.acquire(limits, "t", {})
    assert isinstance(found, Permit)
    return found


def run(spool: SpoolDir, limits: Limits = BOTH) -> Callable[[], object]:
    permits = Permits(spool)
    return lambda: acquire(permits, limits).release()


def sweeping(spool: SpoolDir) -> Callable[[], object]:
    return lambda: sweep_limits(spool, late_clock())


def nothing(spool: SpoolDir) -> None:
    """Prepare nothing."""


def used(spool: SpoolDir) -> None:
    """Prepare files of which one run was counted."""
    run(spool)()


def resizing(spool: SpoolDir) -> Callable[[], object]:
    return run(spool, OTHER)


CASES = {
    "the first run": (nothing, run, 0),
    "another run": (used, run, 1),
    "a run with another rate": (used, resizing, 1),
    "sweep": (used, sweeping, 1),
}


def check(spool: SpoolDir, before: int) -> None:
    """Check that all slots are free, and that the rate has lost a run at most."""
    clock = real_clock()
    permits = Permits(spool, clock)
    for _ in range(2):
        held = [acquire(permits, Limits(concurrency=2)) for _ in range(2)]
        for permit in held:
            permit.release()
    begun = 0
    while isinstance(found := permits.acquire(BOTH, "t", {}), Permit):
        found.release()
        begun += 1
    assert COUNT - before - 1 <= begun <= COUNT
    clock.advance(3600)
    for _ in range(COUNT):
        acquire(permits).release()
    assert isinstance(permits.acquire(BOTH, "t", {}), Busy)


def fresh(path: Path, prepare: Callable[[SpoolDir], object]) -> SpoolDir:
    spool = SpoolDir(path)
    spool.create()
    prepare(spool)
    return spool


@every_kill
@pytest.mark.parametrize("case", CASES)
def test_no_slot_and_no_rate_is_stuck_after_a_kill(
    case: str, how: str, tmp_path: Path
) -> None:
    prepare, begin, before = CASES[case]
    for fatal, call in enumerate(calls(case, tmp_path), 1):
        path = tmp_path / str(fatal)
        spool = fresh(path, prepare)
        die(lambda spool=spool: begin(spool), fatal, how)  # type: ignore[misc] # a default binds it
        try:
            check(spool, before)
        except AssertionError as error:
            error.add_note(f"killed {how} call {fatal}, {call}")
            raise
        spool.close()
        shutil.rmtree(path)


def calls(case: str, tmp_path: Path) -> list[str]:
    """Return what a case calls undisturbed."""
    prepare, begin, _ = CASES[case]
    spool = fresh(tmp_path / "dry", prepare)
    fatal = FatalOS()
    act = begin(spool)
    with patched(fatal):
        act()
    spool.close()
    assert len(fatal.calls) >= 4
    return fatal.calls


@every_fault
@pytest.mark.parametrize("case", CASES)
def test_an_error_holds_nothing(
    case: str, fault: Fault, tmp_path: Path, no_leaks: None
) -> None:
    prepare, begin, before = CASES[case]
    for fatal in points(calls(case, tmp_path), fault):
        spool = fresh(tmp_path / str(fatal), prepare)
        files = open_files()
        act = begin(spool)
        with patched(FatalOS(fatal, fault)), suppress(OSError):
            act()
        assert open_files() == files
        check(spool, before)
        spool.close()


@every_fault
def test_an_error_beside_a_held_slot_takes_no_other(
    fault: Fault, tmp_path: Path, no_leaks: None
) -> None:
    limits = Limits(concurrency=2)
    for fatal in range(1, 5):
        spool = fresh(tmp_path / str(fatal), nothing)
        permits = Permits(spool)
        first = acquire(permits, limits)
        with patched(FatalOS(fatal, fault)), suppress(OSError):
            acquire(permits, limits).release()
        pid = os.fork()
        if pid == 0:  # the other slot is free for others
            found = Permits(SpoolDir(spool.path)).acquire(limits, "t", {})
            os._exit(0 if isinstance(found, Permit) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        first.release()
        spool.close()


def test_a_sweep_never_lets_too_many_in(tmp_path: Path) -> None:
    """Who locks a file that is removed just then must notice."""
    spool = fresh(tmp_path / "spool", nothing)
    limits = Limits(concurrency=1)
    done = tmp_path / "done"
    done.touch()
    pids = [_hammer(spool, limits, done) for _ in range(3)]
    pids.append(os.fork())
    if pids[-1] == 0:
        clock = FakeClock()
        clock.set(late_clock().now_us())
        while _goes_on(done):
            with suppress(OSError):
                sweep_limits(spool, clock)
        os._exit(0)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    assert done.stat().st_size >= ENOUGH
    spool.close()


def _goes_on(done: Path) -> bool:
    """Tell whether there is more to do, and somebody who waits for it."""
    return done.stat().st_size < ENOUGH and os.getppid() != 1


def _hammer(spool: SpoolDir, limits: Limits, done: Path) -> int:
    """Fork a process that takes and leaves the slot, and says if it was not alone."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        permits = Permits(SpoolDir(spool.path))
        while _goes_on(done):
            found = permits.acquire(limits, "t", {})
            if isinstance(found, Permit):
                inside = done.with_name("inside")
                inside.touch(exist_ok=False)
                Event().wait(0.0005)
                with done.open("a") as file:
                    file.write("x")
                inside.unlink()
                found.release()
        code = 0
    finally:
        os._exit(code)


# -- kills ------------------------------------------------------------------------


def recovering(
    culprits: dict[str, Outcome],
) -> Callable[[SpoolDir], Callable[[], object]]:
    return lambda spool: (
        lambda: recover(
            spool,
            "w1",
            lambda name: name.due_us,
            BESIDE,
            culprits=culprits,
            owners=OWNERS,
        )
    )


RECOVERIES = [
    Case(
        "recover a task that was killed",
        dead,
        recovering(KILLED),
        attempts=frozenset({2}),
        final=State.FAILED,
    ),
    Case(
        "recover a task beside it",
        dead,
        recovering({}),
        attempts=frozenset({1, 2}),
    ),
]


@every_kill
@pytest.mark.parametrize("case", RECOVERIES, ids=lambda case: case.name)
def test_a_kill_in_a_recovery_loses_nothing(
    case: Case, how: str, tmp_path: Path
) -> None:
    for fatal in range(1, len(count_calls(case, tmp_path / "dry")) + 1):
        kill_at(case, tmp_path / str(fatal), fatal, how)


@every_fault
@pytest.mark.parametrize("case", RECOVERIES, ids=lambda case: case.name)
def test_an_error_in_a_recovery_loses_nothing(
    case: Case, fault: Fault, tmp_path: Path
) -> None:
    for fatal in points(count_calls(case, tmp_path / "dry"), fault):
        fail_at(case, tmp_path / str(fatal), fatal, fault)


def test_requests_can_be_made_twice_and_forgotten_twice(tmp_path: Path) -> None:
    spool = fresh(tmp_path / "spool", nothing)
    for _ in range(2):
        kills.ask(spool, ID)
    (tmp_path / "spool/kill/.hidden").touch()
    (tmp_path / "spool/kill/rubbish").touch()
    assert kills.requests(spool) == [ID]
    for _ in range(2):
        kills.forget(spool, ID)
    assert kills.requests(spool) == []
    spool.close()
