"""Kill a worker at every system call of a batch's moves, and have each call fail."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from spooler.errors import ClaimLostError
from spooler.registry import REGISTRY
from spooler.spooldir import SpoolDir
from spooler.spooldir.batches import Progress
from spooler.spooldir.claims import Claims
from spooler.spooldir.recovery import ProcessLock, sweep
from spooler.task import Claim, Outcome, Verdict, derived_id
from tests.batches import BATCH_ID, PlainWorker, a_batch
from tests.helpers import open_files, tree

from .fatal import late_clock, supervise
from .faults import FatalOS, Fault, die, every_fault, every_kill, patched, points

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync", "function")]

COUNT = 8
BEGUN = 3
LINE = b'{"task":"crash_line"}'
MTIME_NS = 1_700_000_000_000_000_000
FAILED = Outcome(Verdict.RETRY, "E: it broke", "exception")


@pytest.fixture
def function() -> Iterator[None]:
    from spooler.entries import make_entry  # noqa: PLC0415
    from spooler.registry import Kind  # noqa: PLC0415

    def crash_line() -> None: ...

    REGISTRY.add(
        make_entry(Kind.TASK, crash_line, {}, spool=None, schedule=None, overlap=False)
    )
    yield
    del REGISTRY._entries["crash_line"]


@dataclass
class Held:
    """A worker that has a batch and has run some of its lines."""

    lock: ProcessLock
    claims: Claims
    claim: Claim
    progress: Progress | None = None

    def let_go(self) -> None:
        if self.progress is not None:
            self.progress.close()
        os.close(self.claims._fd)
        self.lock.release()


def hold(spool: SpoolDir, *, attempt: int = 0, opened: bool = True) -> Held:
    name = a_batch(spool, *[LINE] * COUNT, attempt=attempt)
    lock = ProcessLock(spool, "w1")
    assert lock.acquire()
    claims = Claims(spool, "w1", {os.getuid()})
    claim = claims.claim(f"{name.folder}/{name}")
    assert claim is not None
    held = Held(lock, claims, claim)
    if opened:
        held.progress = Progress(spool, claim, COUNT)
        for _ in range(BEGUN):
            held.progress.advance()
    return held


def spin_off(held: Held) -> None:
    progress = held.progress
    assert progress is not None
    progress.mark(between=False)
    claim = progress.spin_off(progress.line_name("crash_line"), LINE + b"\n", MTIME_NS)
    held.claims.retry(claim, FAILED, due_us=0, started_us=0)


def of(move: Callable[[Progress], object]) -> Callable[[Held], object]:
    def act(held: Held) -> object:
        assert held.progress is not None
        return move(held.progress)

    return act


def advance(progress: Progress) -> None:
    progress.mark(between=False)
    progress.advance()
    progress.sync(now=True)
    progress.mark(between=True)


def crashed(progress: Progress) -> None:
    progress.calm()
    try:
        progress.spin_off(progress.line_name("crash_line", 0), LINE + b"\n", MTIME_NS)
    except OSError:
        progress.blame(1)
        raise


def begin(held: Held) -> None:
    progress = Progress(held.claims.spool, held.claim, COUNT)
    progress.mark(between=False)
    progress.advance()
    progress.close()


def finish(held: Held) -> None:
    with suppress(ClaimLostError):  # a repeated one
        held.claims.ack(held.claim)


@dataclass(frozen=True)
class Case:
    """A move of a batch.

    Attributes:
        done: The lines that were run before.
        may: The lines that may have been.
        twice: The lines that may run once more.
        attempt: Of the batch when it is claimed.
        error: It can be made again after an error.
    """

    name: str
    act: Callable[[Held], object]
    attempt: int = 0
    done: frozenset[int] = frozenset(range(BEGUN))
    may: frozenset[int] = frozenset()
    twice: frozenset[int] = frozenset()
    opened: bool = True
    error: bool = True


CASES = [
    Case(
        "begin", begin, done=frozenset(), may=frozenset({0}), opened=False, error=False
    ),
    Case("advance", of(advance), may=frozenset({BEGUN}), error=False),
    Case("spin off and retry", spin_off, twice=frozenset({BEGUN}), error=False),
    Case("after a crash", of(crashed), attempt=1, twice=frozenset({BEGUN})),
    Case("cut", of(Progress.cut)),
    Case("ack", finish, done=frozenset(), may=frozenset(range(COUNT)), opened=False),
]


def fresh(path: Path) -> SpoolDir:
    spool = SpoolDir(path)
    spool.create()
    return spool


def calls_of(case: Case, path: Path) -> list[str]:
    spool = fresh(path)
    held = hold(spool, attempt=case.attempt, opened=case.opened)
    told = FatalOS()
    with patched(told):
        case.act(held)
    held.let_go()
    supervise(spool)
    finish_and_check(spool, case)
    return told.calls


def finish_and_check(spool: SpoolDir, case: Case) -> None:
    """Run what is left; check that no line is lost, nor run too often."""
    worker = PlainWorker(spool, "w2")
    worker.run_all()
    worker.close()
    expected = {derived_id(BATCH_ID, number): number for number in range(COUNT)}
    assert set(worker.ran) <= set(expected)
    for line_id, number in expected.items():
        ran = worker.ran[line_id]
        if number in case.done:
            assert ran == 0, number
        elif number in case.may:
            assert ran <= 1, number
        elif number in case.twice:
            assert 1 <= ran <= 2, (number, ran)
        else:
            assert ran == 1, (number, ran)
    sweep(spool, late_clock())
    left = [path for path in tree(spool) if not path.startswith("logs/")]
    assert left == []
    spool.close()


@every_kill
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_line_is_lost_or_run_too_often_after_a_kill(
    case: Case, how: str, tmp_path: Path
) -> None:
    calls = calls_of(case, tmp_path / "dry")
    assert calls
    for fatal, call in enumerate(calls, 1):
        path = tmp_path / str(fatal)
        spool = fresh(path)

        def act(spool: SpoolDir = spool) -> Callable[[], object]:
            held = hold(spool, attempt=case.attempt, opened=case.opened)
            return lambda: case.act(held)

        die(act, fatal, how)
        try:
            supervise(spool)
            finish_and_check(spool, case)
        except AssertionError as error:
            error.add_note(f"killed {how} call {fatal}, {call}, of {calls}")
            raise
        shutil.rmtree(path)


@every_fault
@pytest.mark.parametrize("case", [c for c in CASES if c.error], ids=lambda c: c.name)
def test_a_move_that_failed_can_be_made_again(
    case: Case, fault: Fault, tmp_path: Path, no_leaks: None
) -> None:
    calls = calls_of(case, tmp_path / "dry")
    for fatal in points(calls, fault):
        spool = fresh(tmp_path / str(fatal))
        held = hold(spool, attempt=case.attempt, opened=case.opened)
        before = open_files()
        try:
            with patched(FatalOS(fatal, fault)):
                try:
                    case.act(held)
                except OSError:
                    again = True
                else:
                    again = False
            if again:
                case.act(held)
            left = {fd: w for fd, w in open_files().items() if fd not in before}
            assert set(left.values()) <= {f"{spool.path}/batches/{BATCH_ID}"}, left
            held.let_go()
            supervise(spool)
            finish_and_check(spool, case)
        except Exception as error:
            error.add_note(f"call {fatal}, {calls[fatal - 1]}, of {calls}")
            raise
