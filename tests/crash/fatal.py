"""What is to be interrupted, and what must be true whatever happened to it."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spooler.errors import SpoolerError, SpoolUncertain
from spooler.spooldir import SpoolDir, claims, recovery, repair, reports, timers
from spooler.spooldir.claims import Claims
from spooler.spooldir.dropped import Dropped
from spooler.spooldir.quick import put_quickly
from spooler.spooldir.recovery import ProcessLock, recover, remove_folder, sweep
from spooler.task import MINUTE_US, Claim, Name, Outcome, State, Verdict
from tests.helpers import NOW_US, FakeClock, open_files, real_clock, tasks, tree

from .faults import FatalOS, Fault, die, patched

OWNERS: Final = {os.getuid()}
DATA: Final = b'{"task":"t","args":{"a":1}}\n' + b"body" * 100
BAD: Final = b"this is no task\n"
ID: Final = "8c1f42d09ab3e617"
LATER_US: Final = NOW_US + 5 * MINUTE_US
FAILED: Final = Outcome(Verdict.FAIL, "E: it broke", "exception", "Traceback")
CRASH: Final = Outcome(Verdict.FAIL, "its worker died: signal 9", "crash")


@dataclass(frozen=True, slots=True)
class Case:
    """An operation to be interrupted.

    Attributes:
        prepare: What must be there; done before, by somebody else.
        begin: What the process does before, undisturbed; returns the operation.
        again: What a supervisor does after its death, besides recovering workers.
        counts: How many tasks there may be in the end.
        attempts: How many attempts may be counted in the end.
        final: Where the task is after the operation, as a state; None for gone.
        data: The bytes of its file; None for any.
        left: How many tasks there may be after it has raised an error.
        faults: Whether it can be done again after an error.
    """

    name: str
    prepare: Callable[[SpoolDir], object]
    begin: Callable[[SpoolDir], Callable[[], object]]
    again: Callable[[SpoolDir], object] = lambda spool: None
    counts: frozenset[int] = frozenset({1})
    attempts: frozenset[int] = frozenset({0})
    final: State | None = State.WAITING
    data: bytes | None = DATA
    left: frozenset[int] = frozenset({1})
    faults: bool = True


def a_name(attempt: int = 0, priority: int = 5) -> Name:
    return Name(NOW_US, priority, attempt, ID, "t")


def path_of(name: Name) -> str:
    return f"{name.folder}/{name}"


def waits(attempt: int = 0) -> Callable[[SpoolDir], object]:
    """Prepare a task that waits, with its list of attempts if it has one."""

    def prepare(spool: SpoolDir) -> None:
        spool.put(a_name(attempt), [DATA], durable=False)
        for number in range(attempt):
            reports.append_attempt(spool, ID, {"attempt": number + 1})

    return prepare


def failed(spool: SpoolDir) -> None:
    name = a_name(3)
    spool.put(name, [DATA], durable=False)
    claims.give_up(spool, path_of(name), name, {"v": 1})


def corrupt(spool: SpoolDir) -> None:
    spool.put(a_name(), [DATA], durable=False)
    claims.put_aside(spool, path_of(a_name()), "reason", NOW_US)


def dead(spool: SpoolDir) -> None:
    """Prepare what a killed worker leaves."""
    waits(1)(spool)
    Path(spool.path, "workers/w1.lock").touch()
    Path(spool.path, "workers/w1.json").write_text('{"v":1}\n')
    held = Claims(spool, "w1", OWNERS)
    held.claim(path_of(a_name(1)))
    os.close(held._fd)


def drop(data: bytes, folder: str = "5") -> Callable[[SpoolDir], object]:
    return lambda spool: Path(spool.path, folder, "dropped").write_bytes(data)


def putting(way: str, priority: int = 5, *, durable: bool = True) -> Case:
    def begin(spool: SpoolDir) -> Callable[[], object]:
        spool._tmpfile = way == "unnamed"
        chunks = [DATA[:20], DATA[20:]]
        names = (a_name(0, priority).but(due_us=NOW_US + n) for n in range(10))
        return lambda: spool.put(next(names), chunks, durable=durable)

    where = "" if priority == 5 else ", new priority"
    fast = "" if durable else ", fast"
    return Case(
        f"put {way}{where}{fast}",
        lambda spool: None,
        begin,
        counts=frozenset({0, 1}),
        left=frozenset({0}),
    )


def putting_quickly() -> Case:
    def begin(spool: SpoolDir) -> Callable[[], object]:
        return lambda: put_quickly(spool, a_name(0), DATA)

    return Case(
        "put quickly",
        lambda spool: None,
        begin,
        counts=frozenset({0, 1}),
        left=frozenset({0}),
    )


def working(
    act: Callable[[Claims, Claim], object], attempt: int = 0
) -> Callable[[SpoolDir], Callable[[], object]]:
    """Be a worker that has claimed the task."""

    def begin(spool: SpoolDir) -> Callable[[], object]:
        lock = ProcessLock(spool, "w1")
        assert lock.acquire()
        held = Claims(spool, "w1", OWNERS)
        claim = held.claim(path_of(a_name(attempt)))
        assert claim is not None
        keep.extend((lock, held))
        return lambda: act(held, claim)

    return begin


def claiming(spool: SpoolDir) -> Callable[[], object]:
    lock = ProcessLock(spool, "w1")
    assert lock.acquire()
    held = Claims(spool, "w1", OWNERS)
    keep.extend((lock, held))

    def act() -> object:
        claim = held.claim(path_of(a_name()))
        if claim is None:  # ESTALE counts as gone
            raise OSError("somebody was first")
        return claim

    return act


def living(spool: SpoolDir) -> Callable[[], object]:
    """Be a worker from its birth to its end."""

    def act() -> None:
        lock = ProcessLock(spool, "w1")
        assert lock.acquire()
        lock.describe({"kind": "worker"})
        held = Claims(spool, "w1", OWNERS)
        claim = held.claim(path_of(a_name()))
        assert claim is not None
        held.open(claim).close()
        held.ack(claim)
        held.close()
        lock.remove()

    return act


def adopting(
    folder: str = "5", file: str = "dropped"
) -> Callable[[SpoolDir], Callable[[], object]]:
    def begin(spool: SpoolDir) -> Callable[[], object]:
        clock = real_clock()
        clock.advance(3600)
        adopter = Dropped(spool, OWNERS, clock)
        return lambda: adopter.adopt(folder, file, finished=True)

    return begin


def recovering(due_us: int | None) -> Callable[[SpoolDir], Callable[[], object]]:
    return lambda spool: lambda: recover(spool, "w1", lambda name: due_us, CRASH)


def operating(
    state: State, act: Callable[[SpoolDir, repair.Found], object]
) -> Callable[[SpoolDir], Callable[[], object]]:
    def begin(spool: SpoolDir) -> Callable[[], object]:
        (found,) = repair.ls(spool, state)
        return lambda: act(spool, found)

    return begin


def slot_name() -> Name:
    return Name(NOW_US, 5, 0, timers.slot_id("t", NOW_US), "t")


def put_slot(spool: SpoolDir) -> None:
    with timers.lock(spool):
        latest = timers.latest_slot(spool, "t")
        if latest is None or latest < NOW_US:
            timers.put_slot(spool, slot_name(), DATA)


def slot_again(spool: SpoolDir) -> None:
    put_slot(spool)
    assert timers.latest_slot(spool, "t") == NOW_US
    assert not timers.is_finished(spool, "t", NOW_US)


def older_slot(spool: SpoolDir) -> None:
    timers.begin(spool, "t", NOW_US - MINUTE_US)


def left_overs(spool: SpoolDir) -> None:
    for path in ("tmp/a", "tmp/.b", "failed/x.why", "failed/.c", "timers/.d"):
        Path(spool.path, path).write_bytes(b"x")
    waits()(spool)


def sweeping(spool: SpoolDir) -> Callable[[], object]:
    return lambda: sweep(spool, late_clock())


def late_clock() -> FakeClock:
    clock = real_clock()
    clock.advance(100 * 24 * 3600)
    return clock


keep: list[object] = []
"""What must not be let go before the operation is over."""

CASES: Final = [
    putting("unnamed"),
    putting("hidden"),
    putting("unnamed", 4711),
    putting("hidden", 4711),
    putting("unnamed", durable=False),
    putting("hidden", durable=False),
    putting_quickly(),
    Case("adopt", drop(DATA), adopting(), lambda spool: adopting()(spool)()),
    Case(
        "adopt from the root",
        drop(DATA, "."),
        adopting("."),
        lambda spool: adopting(".")(spool)(),
    ),
    Case(
        "adopt rubbish",
        drop(BAD),
        adopting(),
        lambda spool: adopting()(spool)(),
        final=State.CORRUPT,
        data=BAD,
    ),
    Case(
        "claim",
        waits(),
        claiming,
        attempts=frozenset({0, 1}),
        final=State.RUNNING,
    ),
    Case(
        "ack",
        waits(),
        working(lambda held, claim: held.ack(claim)),
        counts=frozenset({0, 1}),
        attempts=frozenset({1}),
        final=None,
    ),
    Case(
        "ack of a second attempt",
        waits(1),
        working(lambda held, claim: held.ack(claim), 1),
        counts=frozenset({0, 1}),
        attempts=frozenset({2}),
        final=None,
    ),
    Case(
        "retry",
        waits(1),
        working(
            lambda held, claim: held.retry(
                claim, FAILED, due_us=LATER_US, started_us=NOW_US
            ),
            1,
        ),
        attempts=frozenset({2}),
    ),
    Case(
        "again",
        waits(1),
        working(lambda held, claim: held.again(claim, due_us=LATER_US), 1),
        attempts=frozenset({0, 2}),
    ),
    Case(
        "release",
        waits(1),
        working(lambda held, claim: held.release(claim), 1),
        attempts=frozenset({1, 2}),
    ),
    Case(
        "fail",
        waits(1),
        working(lambda held, claim: held.fail(claim, FAILED, started_us=NOW_US), 1),
        attempts=frozenset({2}),
        final=State.FAILED,
    ),
    Case(
        "reject",
        waits(1),
        working(lambda held, claim: held.reject(claim, "reason"), 1),
        attempts=frozenset({1, 2}),
        final=State.CORRUPT,
    ),
    Case("recover", dead, recovering(NOW_US), attempts=frozenset({2})),
    Case(
        "recover at the last attempt",
        dead,
        recovering(None),
        attempts=frozenset({2}),
        final=State.FAILED,
    ),
    Case(
        "kick", failed, operating(State.FAILED, repair.kick), attempts=frozenset({0, 3})
    ),
    Case(
        "fail by an operator",
        waits(1),
        operating(State.WAITING, repair.fail),
        attempts=frozenset({1}),
        final=State.FAILED,
    ),
    Case(
        "remove a waiting task",
        waits(),
        operating(State.WAITING, repair.remove),
        counts=frozenset({0, 1}),
        final=None,
    ),
    Case(
        "remove a failed task",
        failed,
        operating(State.FAILED, repair.remove),
        counts=frozenset({0, 1}),
        attempts=frozenset({3}),
        final=None,
    ),
    Case(
        "remove a corrupt file",
        corrupt,
        operating(State.CORRUPT, repair.remove),
        counts=frozenset({0, 1}),
        final=None,
    ),
    Case(
        "put a slot",
        lambda spool: None,
        lambda spool: lambda: put_slot(spool),
        slot_again,
        left=frozenset({0, 1}),
    ),
    Case(
        "put the next slot",
        older_slot,
        lambda spool: lambda: put_slot(spool),
        slot_again,
        left=frozenset({0, 1}),
    ),
    Case("sweep", left_overs, sweeping),
    Case(
        "the life of a worker",
        waits(),
        living,
        counts=frozenset({0, 1}),
        attempts=frozenset({0, 1}),
        final=None,
        faults=False,  # an error ends it, as a kill does
    ),
]


# -- running ----------------------------------------------------------------------


def count_calls(case: Case, path: Path) -> list[str]:
    """Do the operation undisturbed and return what it called."""
    spool = fresh(case, path)
    fatal = FatalOS(0, "before")
    act = case.begin(spool)
    with patched(fatal):
        act()
    assert_one_place(spool, case, None)
    let_go(spool)
    return fatal.calls


def fresh(case: Case, path: Path) -> SpoolDir:
    spool = SpoolDir(path)
    spool.create()
    case.prepare(spool)
    return spool


def let_go(spool: SpoolDir) -> None:
    """Close what the operation has kept."""
    for each in keep:
        if isinstance(each, ProcessLock):
            each.release()
        elif isinstance(each, Claims):
            with suppress(OSError):  # an operation may have closed it
                os.close(each._fd)
        elif isinstance(each, SpoolDir):
            each.close()
    keep.clear()
    spool.close()


def kill_at(case: Case, path: Path, fatal: int, how: str) -> None:
    """Do the operation in a process that dies at a call; then recover and check."""
    spool = fresh(case, path)
    die(lambda: case.begin(spool), fatal, how)
    supervise(spool)
    case.again(spool)
    check(spool, case)
    assert_swept(spool, case)
    spool.close()
    shutil.rmtree(path)


def supervise(spool: SpoolDir) -> None:
    """Do what a supervisor does about the dead."""
    for worker in recovery.processes(spool):
        assert recover(spool, worker, lambda name: name.due_us, CRASH) is not None
    assert recovery.processes(spool) == []


def check(spool: SpoolDir, case: Case, *, reasons: bool = True) -> None:
    """Check the promises.

    Args:
        reasons: Whether there must be one for each task that was given up: an error
            while it is written does not keep a task from being given up.
    """
    other = SpoolDir(spool.path)
    other.open()
    other.close()
    found = tasks(spool)
    assert len(found) in case.counts, found
    for path, data in found.items():
        assert case.data in (data, None), f"{path} has {len(data)} bytes"
        folder, _, file = path.rpartition("/")
        name = Name.parse(file)
        if folder == "corrupt":
            continue
        assert name is not None, path
        assert name.attempt in case.attempts, path
        if folder not in ("failed", "held"):
            assert folder == name.folder, path
    everything = tree(spool)
    for path in found:
        if path.startswith(("failed/", "corrupt/")):
            why = everything.get(f"{path}.why", b"" if reasons else b"}\n")
            assert why.endswith(b"}\n"), "no reason, or half of it"


def assert_swept(spool: SpoolDir, case: Case) -> None:
    """Check that what is left over goes by itself."""
    sweep(spool, late_clock())
    found = tasks(spool)
    for priority in spool.priorities():
        for minute in spool.minutes(priority):
            folder = f"{priority}/{minute}"
            has_task = any(path.startswith(f"{folder}/") for path in found)
            assert remove_folder(spool, folder, late_clock()) is not has_task
    left = set(tree(spool)) - set(found)
    reasons = {f"{path}.why" for path in found}
    records = {p for p in left if p.startswith("timers/") and "/." not in p}
    assert left - reasons - records <= {"timers/.lock"}, left
    assert sorted(spool.all_names("tmp")) == []


def fail_at(case: Case, path: Path, fatal: int, fault: Fault) -> bool:
    """Have a call go wrong, check, do it again; return whether an error was raised."""
    spool = fresh(case, path)
    act = case.begin(spool)
    before = open_files()
    raised: Exception | None = None
    with patched(FatalOS(fatal, fault)):
        try:
            act()
        except (OSError, SpoolerError) as error:
            raised = error
    assert fault.code or raised is None, raised
    assert_one_place(spool, case, raised)
    if raised is not None and not isinstance(raised, SpoolUncertain):
        assert isinstance(raised, OSError), repr(raised)
        act()
        assert_one_place(spool, case, None)
    left = {fd: what for fd, what in open_files().items() if fd not in before}
    assert not left, left
    let_go(spool)
    supervise(spool)
    case.again(spool)
    check(spool, case, reasons=not fault.code)
    assert_swept(spool, case)
    spool.close()
    shutil.rmtree(path)
    return raised is not None


def assert_one_place(spool: SpoolDir, case: Case, raised: Exception | None) -> None:
    """Check where the task is after the operation, or after it has raised."""
    found = tasks(spool)
    if raised is None or isinstance(raised, SpoolUncertain):
        states = [path.partition("/")[0] for path in found]
        states = ["waiting" if each.isdigit() else each for each in states]
        assert states == ([] if case.final is None else [case.final.value]), raised
    else:
        assert len(found) in case.left, (found, raised)
    assert case.data is None or set(found.values()) <= {case.data}
