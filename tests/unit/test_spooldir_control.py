"""Hold, release, hurry and cancel tasks that have not begun."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers import (
    NOW_US,
    TASK,
    FakeClock,
    ToldOS,
    make_name,
    path_of,
    put,
    tasks,
)

from spooler.errors import NotFoundError, UsageError
from spooler.spooldir import SpoolDir, claims, control, files, kills, repair, root
from spooler.spooldir.claims import Claims
from spooler.spooldir.repair import Found
from spooler.task import MINUTE_US, Name, State

ID = "8c1f42d09ab3e617"
LATER_US = NOW_US + 5 * MINUTE_US

Move = Callable[[SpoolDir, Found], object]

MOVES: dict[str, Move] = {
    "hold": control.hold,
    "release": control.release,
    "now": control.now,
    "priority": lambda spool, found: control.reprioritise(spool, found, 0),
}


def found(spool: SpoolDir) -> Found:
    return repair.find(spool, ID)


def waiting(spool: SpoolDir, *, due_us: int = LATER_US, attempt: int = 2) -> Name:
    return put(spool, make_name(due_us, attempt=attempt, id=ID, task="resize"))


def running(spool: SpoolDir) -> Claims:
    held = Claims(spool, "w1", {os.getuid()})
    assert held.claim(path_of(waiting(spool, due_us=NOW_US))) is not None
    return held


def held(spool: SpoolDir) -> Name:
    name = waiting(spool)
    control.hold(spool, found(spool))
    return name


# -- moves ------------------------------------------------------------------------


def test_a_held_task_keeps_its_name_and_comes_back_to_its_place(
    spool: SpoolDir,
) -> None:
    name = waiting(spool)
    assert control.hold(spool, found(spool)) == f"held/{name}"
    assert tasks(spool) == {f"held/{name}": TASK}
    assert found(spool).state is State.HELD
    assert control.release(spool, found(spool)) == path_of(name)
    assert tasks(spool) == {path_of(name): TASK}


def test_now_keeps_the_attempt_and_the_priority(
    spool: SpoolDir, clock: FakeClock
) -> None:
    name = waiting(spool)
    path = control.now(spool, found(spool), clock)
    assert path == path_of(name.but(due_us=NOW_US))
    assert tasks(spool) == {path: TASK}


def test_now_keeps_a_held_task_held(spool: SpoolDir, clock: FakeClock) -> None:
    name = held(spool)
    path = control.now(spool, found(spool), clock)
    assert path == f"held/{name.but(due_us=NOW_US)}"
    assert tasks(spool) == {path: TASK}
    assert control.now(spool, found(spool), clock) == path  # it is that already


def test_a_priority_keeps_the_due_time(spool: SpoolDir) -> None:
    name = waiting(spool)
    path = control.reprioritise(spool, found(spool), 4711)
    assert path == path_of(name.but(priority=4711))
    assert control.reprioritise(spool, found(spool), 4711) == path
    assert tasks(spool) == {path: TASK}


def test_a_priority_keeps_a_held_task_held(spool: SpoolDir) -> None:
    name = held(spool)
    path = control.reprioritise(spool, found(spool), 0)
    assert path == f"held/{name.but(priority=0)}"
    assert control.release(spool, found(spool)) == path_of(name.but(priority=0))


def test_the_folder_is_right_if_the_name_says_another_priority(
    spool: SpoolDir,
) -> None:
    name = waiting(spool)
    os.renames(
        Path(spool.path, path_of(name)), Path(spool.path, "7", path_of(name)[2:])
    )
    assert control.hold(spool, found(spool)) == f"held/{name.but(priority=7)}"


@pytest.mark.parametrize("state", ["waiting", "held"])
def test_a_move_overwrites_nothing(
    spool: SpoolDir, clock: FakeClock, state: str
) -> None:
    """Two producers may have chosen the same id."""
    first = make_name(NOW_US + 1, id=ID)
    second = make_name(NOW_US + 2, id=ID)
    for name in (first, second):
        put(spool, name, b"task=t\nn=%d\n" % name.due_us)
    both = list(repair.ls(spool, State.WAITING))
    if state == "held":
        for each in both:
            control.hold(spool, each)
        both = list(repair.ls(spool, State.HELD))
    paths = {control.now(spool, each, clock) for each in both}
    assert len(paths) == 2
    assert set(tasks(spool)) == paths


def test_hold_and_release_overwrite_nothing(spool: SpoolDir) -> None:
    name = waiting(spool)
    control.hold(spool, found(spool))
    put(spool, name, b"task=other\n")
    (again,) = repair.ls(spool, State.WAITING)
    assert control.hold(spool, again) == f"held/{name.but(due_us=name.due_us + 1)}"
    assert len(tasks(spool)) == 2
    put(spool, name, b"task=third\n")
    first = Found(State.HELD, f"held/{name}", name)
    moved = name.but(due_us=name.due_us + 1)
    assert control.release(spool, first) == path_of(moved)
    assert len(tasks(spool)) == 3


# -- what is refused --------------------------------------------------------------


def failed(spool: SpoolDir) -> None:
    name = waiting(spool)
    claims.give_up(spool, path_of(name), name, {"v": 1})


def corrupt(spool: SpoolDir) -> None:
    name = waiting(spool)
    claims.put_aside(spool, path_of(name), "reason", NOW_US)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize(
    ("prepare", "hint"),
    [(failed, "`spool kick` makes it ready again"), (corrupt, "is corrupt")],
)
def test_what_has_ended_is_refused(
    spool: SpoolDir, move: str, prepare: Callable[[SpoolDir], None], hint: str
) -> None:
    prepare(spool)
    before = tasks(spool)
    with pytest.raises(UsageError, match=hint):
        MOVES[move](spool, found(spool))
    assert tasks(spool) == before


@pytest.mark.parametrize("move", MOVES)
def test_what_runs_is_refused(spool: SpoolDir, move: str) -> None:
    worker = running(spool)
    with pytest.raises(UsageError, match="is running: let it end, or `spool kill` it"):
        MOVES[move](spool, found(spool))
    assert next(iter(tasks(spool))).startswith("running/")
    os.close(worker._fd)


def test_hold_and_release_say_so_if_there_is_nothing_to_do(spool: SpoolDir) -> None:
    waiting(spool)
    with pytest.raises(UsageError, match="is waiting, and not held"):
        control.release(spool, found(spool))
    control.hold(spool, found(spool))
    with pytest.raises(UsageError, match="is held already"):
        control.hold(spool, found(spool))


@pytest.mark.parametrize("move", MOVES)
def test_somebody_else_was_first(spool: SpoolDir, move: str) -> None:
    held(spool) if move == "release" else waiting(spool)
    there = found(spool)
    Path(spool.path, there.path).unlink()
    with pytest.raises(NotFoundError, match="somebody else has just moved it"):
        MOVES[move](spool, there)
    assert tasks(spool) == {}


@pytest.mark.parametrize("move", ["now", "priority"])
def test_somebody_else_was_first_with_a_held_task(spool: SpoolDir, move: str) -> None:
    held(spool)
    there = found(spool)
    Path(spool.path, there.path).unlink()
    with pytest.raises(NotFoundError, match="somebody else has just moved it"):
        MOVES[move](spool, there)


# -- durability -------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> ToldOS:
    made = ToldOS()
    for module in (root, files, control):
        monkeypatch.setattr(module, "os", made)
    return made


def test_hold_syncs_where_it_was_then_where_it_is(
    spool: SpoolDir, told: ToldOS
) -> None:
    name = waiting(spool)
    there = found(spool)
    told.calls.clear()
    control.hold(spool, there)
    assert told.calls.count("rename") == 1
    assert told.syncs(spool.path) == [name.folder, "held"]
    there = found(spool)
    told.calls.clear()
    control.release(spool, there)
    assert told.syncs(spool.path)[:2] == ["held", name.folder]
    there = found(spool)
    told.calls.clear()
    control.hold(spool, there, durable=False)
    assert told.syncs(spool.path) == []


def test_a_held_task_that_is_renamed_is_synced(spool: SpoolDir, told: ToldOS) -> None:
    held(spool)
    there = found(spool)
    told.calls.clear()
    control.reprioritise(spool, there, 1)
    assert told.syncs(spool.path) == ["held"]
    there = found(spool)
    told.calls.clear()
    control.reprioritise(spool, there, 2, durable=False)
    assert told.syncs(spool.path) == []


@pytest.mark.parametrize("move", ["hold", "now", "priority"])
def test_an_error_leaves_the_task_where_it_was(
    spool: SpoolDir, told: ToldOS, move: str
) -> None:
    name = waiting(spool)
    there = found(spool)
    told.fail("rename", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        MOVES[move](spool, there)
    assert tasks(spool) == {path_of(name): TASK}


# -- what operators do to held tasks ----------------------------------------------


def test_a_held_task_can_be_failed_and_removed(
    spool: SpoolDir, clock: FakeClock
) -> None:
    name = held(spool)
    repair.fail(spool, found(spool), clock)
    assert list(tasks(spool)) == [f"failed/{name}"]
    repair.kick(spool, found(spool), clock)
    control.hold(spool, found(spool))
    repair.remove(spool, found(spool))
    assert tasks(spool) == {}


def test_a_held_task_is_where_state_of_says(spool: SpoolDir) -> None:
    name = held(spool)
    assert repair.state_of(spool, name) is State.HELD
    control.release(spool, found(spool))
    assert repair.state_of(spool, name) is State.WAITING


# -- cancel and kill --------------------------------------------------------------


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("prepare", [waiting, held])
def test_cancel_removes_what_has_not_begun(
    spool: SpoolDir, prepare: Callable[[SpoolDir], object], kill: bool
) -> None:
    prepare(spool)
    assert control.cancel(spool, ID, kill=kill)
    assert tasks(spool) == {}
    assert not control.cancel(spool, ID, kill=kill)
    assert kills.requests(spool) == []


@pytest.mark.parametrize("prepare", [failed, corrupt])
def test_cancel_leaves_what_has_ended(
    spool: SpoolDir, prepare: Callable[[SpoolDir], object]
) -> None:
    prepare(spool)
    assert not control.cancel(spool, ID, kill=True)
    assert not control.ask_to_kill(spool, ID)
    assert len(tasks(spool)) == 1


def test_cancel_asks_to_kill_what_runs_only_if_told_so(spool: SpoolDir) -> None:
    worker = running(spool)
    assert not control.cancel(spool, ID)
    assert kills.requests(spool) == []
    assert control.cancel(spool, ID, kill=True)
    assert kills.requests(spool) == [ID]
    kills.forget(spool, ID)
    assert control.ask_to_kill(spool, ID)
    assert kills.requests(spool) == [ID]
    os.close(worker._fd)


def test_cancel_finds_a_task_that_moves_meanwhile(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = waiting(spool)
    told = ToldOS()
    told.fail("unlink", errno.ENOENT)
    monkeypatch.setattr(repair, "os", told)
    assert control.cancel(spool, ID)
    assert told.calls.count("unlink") == 2
    assert not spool.has(path_of(name))


def test_cancel_gives_up_on_a_task_that_always_moves(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(spool)
    told = ToldOS()
    told.fail("unlink", *[errno.ENOENT] * 20)
    monkeypatch.setattr(repair, "os", told)
    assert not control.cancel(spool, ID)
