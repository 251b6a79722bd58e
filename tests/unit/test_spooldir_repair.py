"""Find, kick, fail and remove tasks."""

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
    place,
    put,
    tasks,
    tree,
)

from spooler.errors import CorruptError, NotFoundError, UsageError
from spooler.spooldir import SpoolDir, files, repair, reports, root
from spooler.spooldir.claims import Claims, give_up, put_aside
from spooler.spooldir.repair import Found
from spooler.task import Name, State


def waiting(spool: SpoolDir, name: Name) -> str:
    put(spool, name)
    return path_of(name)


def running(spool: SpoolDir, name: Name) -> str:
    put(spool, name)
    claims = Claims(spool, "w1", {os.getuid()})
    claims.claim(path_of(name))
    os.close(claims._fd)
    return f"running/w1/{name}"


def failed(spool: SpoolDir, name: Name) -> str:
    put(spool, name)
    give_up(spool, path_of(name), name, {"v": 1})
    return f"failed/{name}"


def corrupt(spool: SpoolDir, name: Name) -> str:
    put(spool, name)
    return put_aside(spool, path_of(name), "reason", NOW_US)


MAKE: dict[State, Callable[[SpoolDir, Name], str]] = {
    State.WAITING: waiting,
    State.RUNNING: running,
    State.FAILED: failed,
    State.CORRUPT: corrupt,
}
STATES = pytest.mark.parametrize("state", MAKE)


# -- find -------------------------------------------------------------------------


@STATES
def test_a_task_is_found_by_its_id_in_any_state(spool: SpoolDir, state: State) -> None:
    name = make_name(id="8c1f42d09ab3e617")
    path = MAKE[state](spool, name)
    put(spool)
    for beginning in ("8", "8c1f", "8c1f42d09ab3e617"):
        assert repair.find(spool, beginning) == Found(state, path, name)
    assert repair.state_of(spool, name) is state


@pytest.mark.parametrize("task_id", ["", "0", "8c1f42d09ab3e6170"])
def test_what_is_not_there_is_not_found(spool: SpoolDir, task_id: str) -> None:
    put(spool, make_name(id="8c1f42d09ab3e617"))
    with pytest.raises(NotFoundError):
        repair.find(spool, task_id)


def test_a_beginning_of_several_is_refused_and_names_them(spool: SpoolDir) -> None:
    ids = [f"ab{number:014d}" for number in range(4)]
    for each in ids:
        put(spool, make_name(id=each))
    with pytest.raises(NotFoundError, match=f"4 tasks begin so: {ids[0]}, {ids[1]}"):
        repair.find(spool, "ab")
    assert repair.find(spool, ids[3]).id == ids[3]


def test_a_corrupt_file_answers_to_its_name(spool: SpoolDir) -> None:
    place(spool, "5/photo.txt", b"rubbish")
    path = put_aside(spool, "5/photo.txt", "reason", NOW_US)
    found = repair.find(spool, "photo")
    assert found == Found(State.CORRUPT, path, None)
    assert found.id == path.partition("/")[2]


def test_ls_yields_waiting_tasks_in_the_order_of_running(spool: SpoolDir) -> None:
    names = [
        put(spool, make_name(due_us, priority))
        for priority in (0, 2, 10)
        for due_us in (NOW_US, NOW_US + 1, NOW_US + 10**9)
    ]
    found = list(repair.ls(spool, State.WAITING))
    assert [each.name for each in found] == names


def test_ls_leaves_out_reports_and_what_is_no_task(spool: SpoolDir) -> None:
    name = make_name()
    failed(spool, name)
    for path in ("failed/x", "failed/.x", "running/w/x", "5/20261120T2101/x"):
        place(spool, path)
    corrupt(spool, make_name())
    assert [found.name for found in repair.ls(spool, State.FAILED)] == [name]
    assert len(list(repair.ls(spool, *State))) == 2


def test_a_finished_task_has_no_state(spool: SpoolDir) -> None:
    assert repair.state_of(spool, make_name()) is None


def test_a_task_that_was_put_off_still_waits(spool: SpoolDir) -> None:
    name = put(spool, make_name(NOW_US + 10**9))
    assert repair.state_of(spool, name.but(due_us=NOW_US)) is State.WAITING


def test_a_task_that_is_claimed_while_one_looks_has_a_state(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(spool)
    claims = Claims(spool, "w1", {os.getuid()})
    real = repair.ls

    def ls(spool: SpoolDir, *states: State) -> object:
        found = list(real(spool, *states))
        if states == (State.RUNNING,):
            claims.claim(path_of(name))
        return iter(found)

    monkeypatch.setattr(repair, "ls", ls)
    assert repair.state_of(spool, name.but(due_us=NOW_US - 1)) is State.RUNNING
    os.close(claims._fd)


def test_read_shows_a_file_whoever_owns_it(spool: SpoolDir) -> None:
    task = repair.read(spool, Found(State.WAITING, waiting(spool, make_name()), None))
    assert task.header.task == "t"
    task.close()
    place(spool, "corrupt/x", b"rubbish")
    with pytest.raises(CorruptError):
        repair.read(spool, Found(State.CORRUPT, "corrupt/x", None))


# -- looking ----------------------------------------------------------------------


def test_many_are_found_at_once_by_id_name_or_path(spool: SpoolDir) -> None:
    names = [make_name(id=f"{c}" * 16) for c in "abc"]
    paths = [failed(spool, name) for name in names]
    ids = ["aa", str(names[1]), paths[2], "d", ""]
    found = repair.find_all(spool, ids)
    assert [each.path for each in found if isinstance(each, Found)] == paths
    assert [type(each) for each in found[3:]] == [NotFoundError, NotFoundError]


def test_two_files_with_one_id_are_told_by_their_paths(spool: SpoolDir) -> None:
    paths = [failed(spool, make_name(NOW_US + k, id="f" * 16)) for k in range(2)]
    with pytest.raises(NotFoundError, match=f"2 files have this id: {paths[0]}"):
        repair.find(spool, "f" * 16)
    assert repair.find(spool, paths[1]).path == paths[1]


def test_a_task_that_moves_while_one_looks_is_found_once(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_name()
    real = repair.ls

    def ls(spool: SpoolDir, *states: State) -> object:
        yield Found(State.WAITING, path_of(name), name)
        yield from real(spool, *states)

    path = running(spool, name)
    monkeypatch.setattr(repair, "ls", ls)
    assert repair.find(spool, name.id).path == path


def test_a_task_that_slipped_by_is_found_at_the_second_look(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(spool)
    real = repair.ls
    looks = []

    def ls(spool: SpoolDir, *states: State) -> object:
        looks.append(states)
        return iter(()) if len(looks) == 1 else real(spool, *states)

    monkeypatch.setattr(repair, "ls", ls)
    assert repair.find(spool, name.id).path == path_of(name)


def test_a_file_is_looked_at_without_reading_all_of_it(spool: SpoolDir) -> None:
    path = corrupt(spool, make_name())
    found = Found(State.CORRUPT, path, None)
    assert repair.stat(spool, found).st_size == len(TASK)
    assert repair.first_bytes(spool, found, 3) == TASK[:3]
    assert repair.why(spool, found)["reason"] == "reason"
    Path(spool.path, path).unlink()
    with pytest.raises(NotFoundError):
        repair.stat(spool, found)
    Path(spool.path, f"{path}.why").unlink()
    Path(spool.path, f"{path}.why").mkdir()
    assert repair.why(spool, found) == {}


def test_the_newest_failures_come_first(spool: SpoolDir) -> None:
    names = [make_name() for _ in range(4)]
    for second, name in enumerate(names):
        path = failed(spool, name)
        os.utime(Path(spool.path, f"{path}.why"), (second, second))
    Path(spool.path, f"failed/{names[3]}.why").unlink()
    place(spool, "failed/x")
    found = repair.newest_failed(spool, 4)
    assert [each.name for each in found] == [names[3], names[2], names[1]]


def test_dropped_files_are_told_and_directories_are_not(spool: SpoolDir) -> None:
    for path in ("x", "123", ".x", "x.tmp", "5/y", "5/20261120T2101/z"):
        place(spool, path)
    assert sorted(repair.dropped(spool, ".")) == ["123", "x"]
    assert repair.dropped(spool, "5") == ["y"]


def test_many_moves_are_synced_at_once(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [failed(spool, make_name()) for _ in range(3)]
    told = ToldOS()
    monkeypatch.setattr(root, "os", told)
    monkeypatch.setattr(files, "os", told)
    kicked = [
        repair.kick(spool, Found(State.FAILED, p, Name.parse(p[7:])), durable=False)
        for p in paths
    ]
    repair.remove(
        spool, Found(State.WAITING, path_of(kicked[0]), kicked[0]), durable=False
    )
    assert told.syncs(spool.path) == []
    repair.sync(spool, [*paths, *map(path_of, kicked), "5/19700101T0000/gone"])
    assert set(told.syncs(spool.path)) == {
        "failed",
        "5",
        *(name.folder for name in kicked),
    }


# -- kick -------------------------------------------------------------------------


def test_kick_makes_a_failed_task_ready_again(
    spool: SpoolDir, clock: FakeClock
) -> None:
    name = make_name(attempt=5)
    failed(spool, name)
    clock.advance(5)
    kicked = repair.kick(spool, repair.find(spool, name.id), clock)
    assert kicked == name.but(due_us=clock.now_us(), attempt=0)
    assert tree(spool) == {path_of(kicked): TASK}


@STATES
def test_only_a_failed_task_can_be_kicked(spool: SpoolDir, state: State) -> None:
    if state is State.FAILED:
        return
    name = make_name()
    MAKE[state](spool, name)
    before = tree(spool)
    with pytest.raises(UsageError, match=f"is {state.value}, and only a failed task"):
        repair.kick(spool, repair.find(spool, name.id))
    assert tree(spool) == before


def test_kick_of_two_with_one_id_keeps_both(spool: SpoolDir, clock: FakeClock) -> None:
    for number in range(2):
        failed(spool, make_name(NOW_US + number, id="f" * 16))
    for found in list(repair.ls(spool, State.FAILED)):
        repair.kick(spool, found, clock)
    assert len(tasks(spool)) == 2


# -- fail -------------------------------------------------------------------------


def test_fail_gives_a_waiting_task_up(spool: SpoolDir, clock: FakeClock) -> None:
    name = make_name(attempt=2)
    waiting(spool, name)
    reports.append_attempt(spool, name.id, {"attempt": 2})
    repair.fail(spool, repair.find(spool, name.id), clock)
    path = f"failed/{name}"
    assert set(tree(spool)) == {path, f"{path}.why"}
    why = reports.read_why(spool, path)
    assert why["reason"] == "operator"
    assert why["attempts"] == [{"attempt": 2}]


@STATES
def test_only_a_waiting_task_can_be_failed(spool: SpoolDir, state: State) -> None:
    if state is State.WAITING:
        return
    name = make_name()
    MAKE[state](spool, name)
    before = tree(spool)
    with pytest.raises(
        UsageError, match=f"is {state.value}, and only a waiting or held task"
    ):
        repair.fail(spool, repair.find(spool, name.id))
    assert tree(spool) == before


# -- remove -----------------------------------------------------------------------


@STATES
def test_remove_leaves_nothing_of_a_task_that_is_not_running(
    spool: SpoolDir, state: State
) -> None:
    name = make_name()
    path = MAKE[state](spool, name)
    reports.append_attempt(spool, name.id, {"attempt": 1})
    found = repair.find(spool, name.id)
    if state is State.RUNNING:
        with pytest.raises(UsageError, match="is running"):
            repair.remove(spool, found)
        assert list(tasks(spool)) == [path]
    else:
        repair.remove(spool, found)
        assert tree(spool) == {}


def test_remove_takes_a_corrupt_file_without_a_name(spool: SpoolDir) -> None:
    place(spool, "5/x", b"rubbish")
    put_aside(spool, "5/x", "reason", NOW_US)
    repair.remove(spool, repair.find(spool, "x"))
    assert tree(spool) == {}


def test_remove_is_synced(spool: SpoolDir, monkeypatch: pytest.MonkeyPatch) -> None:
    path = waiting(spool, make_name())
    told = ToldOS()
    monkeypatch.setattr(root, "os", told)
    monkeypatch.setattr(files, "os", told)
    repair.remove(spool, Found(State.WAITING, path, None))
    assert told.syncs(spool.path) == [path.rpartition("/")[0]]


# -- all of them ------------------------------------------------------------------

MOVES: dict[str, tuple[State, Callable[[SpoolDir, Found], object]]] = {
    "kick": (State.FAILED, repair.kick),
    "fail": (State.WAITING, repair.fail),
    "remove": (State.FAILED, repair.remove),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_task_that_somebody_else_moved_is_not_found(
    spool: SpoolDir, move: str
) -> None:
    state, act = MOVES[move]
    name = make_name()
    path = MAKE[state](spool, name)
    found = repair.find(spool, name.id)
    Path(spool.path, path).unlink()
    with pytest.raises(NotFoundError, match="somebody else has just moved it"):
        act(spool, found)
    assert not tasks(spool)


@pytest.mark.parametrize("move", MOVES)
def test_a_move_that_cannot_be_synced_was_made(
    spool: SpoolDir, move: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, act = MOVES[move]
    name = make_name()
    MAKE[state](spool, name)
    found = repair.find(spool, name.id)
    told = ToldOS()
    told.fail("fsync", *[errno.EIO] * 9)
    monkeypatch.setattr(root, "os", told)
    monkeypatch.setattr(files, "os", told)
    act(spool, found)
    assert found.path not in tree(spool)
