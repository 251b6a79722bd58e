"""Locks of living processes, recovery of what the dead held, sweeping."""

import errno
import os
import socket
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.helpers import (
    NOW_US,
    TASK,
    FakeClock,
    ToldOS,
    make_name,
    path_of,
    place,
    put,
    real_clock,
    tasks,
    tree,
)

from spooler.spooldir import SpoolDir, batches, files, recovery as module, reports, root
from spooler.spooldir.claims import Claims
from spooler.spooldir.recovery import (
    ATTEMPTS_MAX_AGE,
    TMP_MAX_AGE,
    WHY_MAX_AGE,
    ProcessLock,
    Recovered,
    is_alive,
    process_name,
    processes,
    recover,
    remove_folder,
    sweep,
)
from spooler.task import BATCH, Name, Outcome, Verdict, derived_id

CRASH = Outcome(Verdict.FAIL, "its worker died: signal 9", "crash")
RELEASE = Outcome(Verdict.RELEASE, "the daemon stopped")
LATER_US = NOW_US + 60_000_000


def later(name: Name) -> int:
    return LATER_US


def never(name: Name) -> None:
    return None


def dead(spool: SpoolDir, *names: Name) -> None:
    """Leave what a worker that was killed leaves."""
    place(spool, "workers/w1.lock", b"")
    place(spool, "workers/w1.json", b'{"v":1}\n')
    claims = Claims(spool, "w1", {os.getuid()})
    for name in names:
        assert claims.claim(path_of(put(spool, name))) is not None
    os.close(claims._fd)


@pytest.fixture
def held(spool: SpoolDir) -> Iterator[ProcessLock]:
    """Be the living w1."""
    lock = ProcessLock(spool, "w1")
    assert lock.acquire()
    yield lock
    lock.release()


def traces(spool: SpoolDir) -> list[str]:
    return sorted(spool.names("workers") + spool.names("running"))


# -- names and locks --------------------------------------------------------------


def test_a_process_name_says_what_where_and_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "web_1/ü.example.org")
    first, second = process_name("worker"), process_name("worker")
    assert first.startswith(f"worker-web-1---{os.getpid()}-")
    assert first != second


def test_a_host_without_a_name_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert process_name("daemon").startswith("daemon-host-")


def test_a_lock_is_held_by_one(spool: SpoolDir, held: ProcessLock) -> None:
    other = ProcessLock(spool, "w1")
    assert not other.acquire()
    assert not other.acquire(timeout=0.02)
    held.release()
    assert other.acquire()
    other.release()


def test_a_process_is_alive_while_it_holds_its_lock(
    spool: SpoolDir, held: ProcessLock
) -> None:
    assert is_alive(spool, "w1")
    held.release()
    assert not is_alive(spool, "w1")
    assert not is_alive(spool, "none")
    assert ProcessLock(spool, "w1").acquire()


def test_a_lock_file_is_its_owners_alone(spool: SpoolDir, held: ProcessLock) -> None:
    assert Path(spool.path, "workers/w1.lock").stat().st_mode & 0o777 == 0o600


def test_a_process_describes_itself(spool: SpoolDir, held: ProcessLock) -> None:
    held.describe({"kind": "worker", "pid": 1})
    held.describe({"kind": "worker", "pid": 2})
    facts = reports.read_json(spool, "workers/w1.json")
    assert facts == {"v": 1, "kind": "worker", "pid": 2}
    assert sorted(spool.all_names("workers")) == ["w1.json", "w1.lock"]


def test_remove_leaves_nothing(spool: SpoolDir, held: ProcessLock) -> None:
    held.describe({})
    held.remove()
    assert traces(spool) == []
    assert ProcessLock(spool, "w1").acquire()


def test_a_lock_that_cannot_be_removed_is_let_go(
    spool: SpoolDir, held: ProcessLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    told.fail("unlink", errno.EIO)
    monkeypatch.setattr(module, "os", told)
    with pytest.raises(OSError, match="Input/output"):
        held.remove()
    other = ProcessLock(spool, "w1")
    assert other.acquire()
    other.release()


def test_processes_are_all_that_left_a_trace(spool: SpoolDir) -> None:
    place(spool, "workers/a.lock")
    place(spool, "workers/b.json")
    place(spool, "workers/b.lock")
    place(spool, "workers/.c.lock")
    place(spool, "workers/readme")
    Path(spool.path, "running/d").mkdir()
    assert processes(spool) == ["a", "b", "d"]


# -- recover ----------------------------------------------------------------------


def test_recover_leaves_a_living_worker_alone(
    spool: SpoolDir, held: ProcessLock
) -> None:
    name = make_name()
    dead(spool, name)
    before = tree(spool)
    assert recover(spool, "w1", later, CRASH) is None
    assert tree(spool) == before
    assert traces(spool) == ["w1", "w1.json", "w1.lock"]


def test_recover_gives_tasks_back_and_counts_an_attempt(
    spool: SpoolDir, clock: FakeClock
) -> None:
    names = [make_name(), make_name(attempt=3)]
    dead(spool, *names)
    found = recover(spool, "w1", later, CRASH, clock=clock)
    back = [n.but(attempt=n.attempt + 1, due_us=LATER_US) for n in names]
    assert found is not None
    assert sorted(found, key=str) == [Recovered(name, LATER_US) for name in back]
    assert tasks(spool) == {path_of(name): TASK for name in back}
    assert traces(spool) == []
    (record,) = reports.attempts(spool, names[1].id)
    assert record["attempt"] == 4
    assert record["error"] == "its worker died: signal 9"
    assert record["started"] is None


def test_recover_gives_up_what_has_no_attempts_left(
    spool: SpoolDir, clock: FakeClock
) -> None:
    name = make_name(attempt=1)
    dead(spool, name)
    reports.append_attempt(spool, name.id, {"attempt": 1})
    seen = []

    def decide(given: Name) -> None:
        seen.append(given.attempt)

    found = recover(spool, "w1", decide, CRASH, clock=clock)
    failed = name.but(attempt=2)
    assert found == [Recovered(failed, None)]
    assert seen == [2]
    assert set(tree(spool)) == {f"failed/{failed}", f"failed/{failed}.why"}
    why = reports.read_why(spool, f"failed/{failed}")
    assert why["reason"] == "crash"
    attempts = why["attempts"]
    assert isinstance(attempts, list)
    assert [each["attempt"] for each in attempts] == [1, 2]
    assert traces(spool) == []


def test_recover_after_a_drain_counts_nothing(spool: SpoolDir) -> None:
    name = make_name(attempt=1)
    dead(spool, name)
    assert recover(spool, "w1", never, RELEASE) == [Recovered(name, name.due_us)]
    assert tree(spool) == {path_of(name): TASK}


def test_recover_leaves_one_name_where_a_power_cut_left_both(spool: SpoolDir) -> None:
    name = make_name(attempt=1)
    dead(spool, name)
    path = Path(spool.path, path_of(name))
    path.parent.mkdir(exist_ok=True)
    path.hardlink_to(Path(spool.path, "running/w1", str(name)))
    assert recover(spool, "w1", never, CRASH) == [Recovered(name, name.due_us)]
    assert tree(spool) == {path_of(name): TASK}
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize(("done", "stays"), [(0, False), (3, False), (4, True)])
def test_recover_discards_a_line_that_its_batch_still_has(
    spool: SpoolDir, done: int, stays: bool
) -> None:
    batch = make_name(task=BATCH)
    line = make_name(id=derived_id(batch.id, 3))
    dead(spool, batch, line, other := make_name())
    if done:
        found = batches.Range(done, 9, batch.id, between=True)
        place(spool, f"batches/{batch.id}", found.encode())
    recover(spool, "w1", never, RELEASE)
    left = {Name.parse(path.rpartition("/")[2]) for path in tasks(spool)}
    assert left - {None} == {batch, other, *([line] if stays else [])}


def test_recover_syncs_what_it_moved(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_name(10**16 - 1)
    dead(spool, name)
    told = ToldOS()
    monkeypatch.setattr(root, "os", told)
    monkeypatch.setattr(files, "os", told)
    recover(spool, "w1", never, RELEASE)
    assert told.syncs(spool.path)[-3:] == ["running/w1", name.folder, "5"]


def test_recover_puts_aside_what_is_no_task(spool: SpoolDir) -> None:
    dead(spool, make_name())
    place(spool, "running/w1/core", b"rubbish")
    found = recover(spool, "w1", later, CRASH)
    assert found is not None
    assert len(found) == 1
    (corrupt,) = [path for path in tasks(spool) if path.startswith("corrupt/core.")]
    assert reports.read_why(spool, corrupt)["reason"] == "is not a task"
    assert traces(spool) == []


def test_recover_puts_aside_a_file_right_in_running(spool: SpoolDir) -> None:
    name = make_name()
    place(spool, f"running/{name}")
    assert processes(spool) == [str(name)]
    assert recover(spool, str(name), later, CRASH) == []
    assert tasks(spool) == {f"corrupt/{name}": TASK}
    why = reports.read_why(spool, f"corrupt/{name}")
    assert why["reason"] == "is not a worker's folder"
    assert traces(spool) == []


def test_recover_needs_no_lock_file_and_no_folder(spool: SpoolDir) -> None:
    Path(spool.path, "running/w1").mkdir()
    assert recover(spool, "w1", later, CRASH) == []
    place(spool, "workers/w2.json")
    assert recover(spool, "w2", later, CRASH) == []
    assert traces(spool) == []


def test_recover_may_be_repeated(spool: SpoolDir) -> None:
    dead(spool, make_name())
    assert recover(spool, "w1", later, CRASH)
    before = tree(spool)
    assert recover(spool, "w1", later, CRASH) == []
    assert tree(spool) == before


def test_recover_goes_on_after_an_error_and_again_where_it_was(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead(spool, make_name(), make_name(), make_name())
    spool.make_folder(make_name(LATER_US).folder)
    told_of: list[object] = []
    told = ToldOS()
    told.fail("rename", None, errno.ENOSPC)
    with monkeypatch.context() as patch:
        patch.setattr(root, "os", told)
        patch.setattr(files, "os", told)
        with pytest.raises(OSError, match="No space"):
            recover(spool, "w1", later, CRASH, tell=told_of.append)
    assert len(told_of) == 2
    assert len(tasks(spool)) == 3
    found = recover(spool, "w1", later, CRASH)
    assert found is not None
    assert len(found) == 1
    assert len(tasks(spool)) == 3
    assert traces(spool) == []


def test_a_task_that_an_operator_took_is_left_out(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_name()
    dead(spool, name)

    def decide(given: Name) -> int:
        Path(spool.path, "running/w1", str(name)).unlink()
        return LATER_US

    assert recover(spool, "w1", decide, CRASH) == []
    assert traces(spool) == []


def test_a_worker_with_a_hidden_file_of_today_keeps_its_folder(
    spool: SpoolDir,
) -> None:
    dead(spool)
    place(spool, "running/w1/.nfs0001")
    assert recover(spool, "w1", later, CRASH) == []
    assert traces(spool) == ["w1"]


# -- folders ----------------------------------------------------------------------


def test_remove_folder_takes_an_empty_one_only(spool: SpoolDir) -> None:
    Path(spool.path, "5/20261120T2101").mkdir()
    assert remove_folder(spool, "5/20261120T2101")
    assert remove_folder(spool, "5/20261120T2101")
    name = put(spool)
    assert not remove_folder(spool, name.folder)
    assert tree(spool) == {path_of(name): TASK}


def test_remove_folder_takes_abandoned_hidden_files(spool: SpoolDir) -> None:
    place(spool, "5/20261120T2101/.x")
    clock = real_clock()
    assert not remove_folder(spool, "5/20261120T2101", clock)
    clock.advance(TMP_MAX_AGE + 5)
    assert remove_folder(spool, "5/20261120T2101", clock)
    assert not spool.has("5/20261120T2101")


def test_a_folder_with_more_than_hidden_files_is_not_gone(spool: SpoolDir) -> None:
    place(spool, "5/20261120T2101/.x")
    place(spool, "5/20261120T2101/x")
    clock = real_clock()
    clock.advance(TMP_MAX_AGE + 5)
    assert not remove_folder(spool, "5/20261120T2101", clock)
    assert list(tree(spool)) == ["5/20261120T2101/x"]


def test_remove_folder_tells_of_errors(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    told.fail("rmdir", errno.EIO)
    monkeypatch.setattr(module, "os", told)
    with pytest.raises(OSError, match="Input/output"):
        remove_folder(spool, "5")


# -- sweep ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "age"),
    [
        ("tmp/x", TMP_MAX_AGE),
        ("tmp/.x", TMP_MAX_AGE),
        ("tmp/x.tmp", TMP_MAX_AGE),
        ("logs/8c1f42d09ab3e617.attempts", ATTEMPTS_MAX_AGE),
        ("failed/x.why", WHY_MAX_AGE),
        ("corrupt/x.why", WHY_MAX_AGE),
        ("failed/.0123", TMP_MAX_AGE),
        ("corrupt/.0123", TMP_MAX_AGE),
        ("workers/.w.0123", TMP_MAX_AGE),
        ("timers/.1795208460000000.t", TMP_MAX_AGE),
    ],
)
def test_sweep_removes_left_overs_by_age(
    spool: SpoolDir, path: str, age: float
) -> None:
    place(spool, path)
    clock = real_clock()
    clock.advance(age - 100)
    assert sweep(spool, clock) == 0
    assert spool.has(path)
    clock.advance(200)
    assert sweep(spool, clock) == 1
    assert not spool.has(path)


@pytest.mark.parametrize(
    "path",
    [
        "failed/x",
        "corrupt/x",
        "logs/x",
        "timers/1795208460000000.t",
        "timers/.lock",
        "workers/w.lock",
        "workers/w.json",
        "done/x",
        "5/x",
        "5/20261120T2101/x",
    ],
)
def test_sweep_leaves_what_is_not_a_left_over(spool: SpoolDir, path: str) -> None:
    place(spool, path)
    clock = real_clock()
    clock.advance(10 * ATTEMPTS_MAX_AGE)
    assert sweep(spool, clock) == 0
    assert spool.has(path)


def test_sweep_leaves_the_report_of_a_task(spool: SpoolDir) -> None:
    for path in ("failed/x", "failed/x.why", "corrupt/y", "corrupt/y.why"):
        place(spool, path)
    clock = real_clock()
    clock.advance(10 * WHY_MAX_AGE)
    assert sweep(spool, clock) == 0


def test_sweep_leaves_what_somebody_writes(spool: SpoolDir) -> None:
    clock = real_clock()
    clock.advance(10 * TMP_MAX_AGE)
    with place(spool, "tmp/x").open("ab"):
        assert sweep(spool, clock) == 0
    assert sweep(spool, clock) == 1


def test_sweep_takes_no_more_memory_however_much_has_failed(spool: SpoolDir) -> None:
    for number in range(5_000):
        name = f"failed/{make_name(NOW_US + number, id=f'{number:016x}')}"
        place(spool, name, b"")
        place(spool, f"{name}.why", b"")
    sweep(spool, real_clock())  # what is made once
    tracemalloc.start()
    try:
        assert sweep(spool, real_clock()) == 0
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 10_000 * sys.getsizeof("x" * 40) // 2


def test_sweep_of_very_many_finds_each_in_time(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_MAX", 10)
    for number in range(50):
        place(spool, f"failed/x{number}.why")
    clock = real_clock()
    clock.advance(WHY_MAX_AGE + 5)
    counts = [sweep(spool, clock) for _ in range(5)]
    assert counts == [10] * 5
    assert not os.listdir(f"{spool.path}/failed")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: os.mkdir(path),
        lambda path: os.symlink("/etc/passwd", path),
        lambda path: os.mkfifo(path),
    ],
    ids=["directory", "link", "fifo"],
)
def test_sweep_copes_with_what_is_no_file(
    spool: SpoolDir, make: Callable[[str], None]
) -> None:
    make(f"{spool.path}/tmp/x")
    clock = real_clock()
    clock.advance(10 * TMP_MAX_AGE)
    sweep(spool, clock)
    assert spool.has("tmp/x") == os.path.isdir(f"{spool.path}/tmp/x")


def test_sweep_of_what_vanishes_meanwhile_counts_nothing(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(spool, "tmp/x")
    told = ToldOS()
    told.fail("stat", errno.ENOENT)
    monkeypatch.setattr(module, "os", told)
    assert sweep(spool) == 0


def test_sweep_finds_a_left_over_behind_many_that_are_none(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_MAX", 3)
    for number in range(10):
        place(spool, f"failed/a{number}")
        place(spool, f"failed/a{number}.why")
        place(spool, f"logs/a{number}.1")
    place(spool, "failed/z.why")
    place(spool, "logs/z.attempts")
    clock = real_clock()
    clock.advance(10 * ATTEMPTS_MAX_AGE)
    assert sum(sweep(spool, clock) for _ in range(200)) == 2  # three a sweep, by chance


def test_what_is_young_does_not_hide_a_left_over_for_ever(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_MAX", 3)
    place(spool, "tmp/old")
    clock = real_clock()
    clock.advance(TMP_MAX_AGE + 10)
    for number in range(20):
        os.utime(place(spool, f"tmp/{number}"), (clock.now_us() / 1e6,) * 2)
    assert sum(sweep(spool, clock) for _ in range(200)) == 1


def test_one_sweep_does_a_bounded_amount_of_work(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_MAX", 3)
    for number in range(5):
        place(spool, f"tmp/{number}")
    clock = real_clock()
    clock.advance(10 * TMP_MAX_AGE)
    assert [sweep(spool, clock) for _ in range(3)] == [3, 2, 0]
