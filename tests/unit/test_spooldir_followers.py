"""Followers: written beside their parent, put when it is gone."""

import errno
import os
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
    tasks,
    tree,
)

from spooler.codec import decode, encode
from spooler.errors import ClaimLostError
from spooler.options import Follower, RunOptions
from spooler.spooldir import SpoolDir, files, followers as module, root
from spooler.spooldir.followers import (
    Settling,
    discard,
    follower_bytes,
    follower_name,
    publish,
    settle_staged,
    stage,
)
from spooler.spooldir.recovery import Recovered, recover
from spooler.task import (
    MAX_DUE_US,
    MINUTE_US,
    Name,
    Outcome,
    Verdict,
    derived_id,
)

CRASH = Outcome(Verdict.FAIL, "its worker died: signal 9", "crash")
FOLDER = "running/w1"
TWO = (Follower("first", {"a": 1}), Follower("second", at="+5m", priority=8))
END_US = NOW_US + 1_000_000


def never(name: Name) -> None:
    return None


def held(spool: SpoolDir, name: Name, data: bytes = TASK) -> str:
    """Leave a task as a dead worker does; return its path."""
    place(spool, "workers/w1.lock", b"")
    place(spool, f"{FOLDER}/{name}", data)
    return f"{FOLDER}/{name}"


def hidden(spool: SpoolDir) -> list[str]:
    return sorted(path for path in tree(spool) if path.startswith(f"{FOLDER}/."))


# -- names and bytes --------------------------------------------------------------


def test_a_follower_is_due_at_the_end_of_its_parent_at_its_priority() -> None:
    parent = make_name(priority=3, attempt=2)
    name = follower_name(parent, Follower("next"), 1, "then", END_US)
    assert name == Name(END_US, 3, 0, derived_id(parent.id, "then", 1), "next")


def test_a_follower_may_have_its_own_moment_and_priority() -> None:
    follower = Follower("next", at="+5m", priority=0)
    name = follower_name(make_name(), follower, 0, "on_failure", END_US)
    assert (name.due_us, name.priority) == (END_US + 5 * MINUTE_US, 0)


def test_the_ids_of_followers_differ() -> None:
    ids = {
        follower_name(make_name(id="0" * 16), Follower("t"), n, kind, END_US).id
        for n in (0, 1)
        for kind in ("then", "on_failure")
    }
    assert len(ids) == 4


def test_a_follower_whose_moment_is_too_late_by_now_is_due_at_the_last_one() -> None:
    follower = Follower("next", at="+90000d")
    name = follower_name(make_name(), follower, 0, "then", MAX_DUE_US - 1)
    assert name.due_us == MAX_DUE_US


def test_the_file_of_a_follower_says_whom_it_follows() -> None:
    options = RunOptions(keep_log=True, then=(Follower("third"),))
    follower = Follower("n", {"a": [1]}, "+5m", 1, "text", options, "00-1")
    header = decode(follower_bytes(follower, "0" * 16), whole=True)
    assert header is not None
    assert header.options == RunOptions(
        keep_log=True, then=(Follower("third"),), parent="0" * 16
    )
    assert (header.task, header.args, header.body) == ("n", b'{"a":[1]}', "text")
    assert (header.at, header.priority, header.traceparent) == (None, None, "00-1")


# -- stage, publish, discard ------------------------------------------------------


def test_staged_followers_are_hidden_beside_their_parent(spool: SpoolDir) -> None:
    parent = make_name()
    held(spool, parent)
    staged = stage(spool, FOLDER, parent, TWO, "then", END_US)
    assert [each.path for each in staged] == [
        f"{FOLDER}/.{parent.id}.{each.name}" for each in staged
    ]
    assert hidden(spool) == sorted(each.path for each in staged)
    assert Path(spool.path, staged[0].path).stat().st_mode & 0o777 == 0o600
    assert len(tasks(spool)) == 1


def test_published_followers_wait_where_they_belong(spool: SpoolDir) -> None:
    held(spool, make_name())
    staged = stage(spool, FOLDER, make_name(), TWO, "then", END_US)
    names = [each.name for each in staged]
    publish(spool, staged)
    assert staged == []
    assert hidden(spool) == []
    assert {path_of(name) for name in names} < set(tasks(spool))


def test_discarded_followers_are_gone(spool: SpoolDir) -> None:
    held(spool, make_name())
    staged = stage(spool, FOLDER, make_name(), TWO, "then", END_US)
    discard(spool, staged)
    discard(spool, staged)
    assert hidden(spool) == []


def test_staging_may_be_repeated(spool: SpoolDir) -> None:
    parent = make_name()
    held(spool, parent)
    first = stage(spool, FOLDER, parent, TWO, "then", END_US)
    assert stage(spool, FOLDER, parent, TWO, "then", END_US) == first
    assert len(hidden(spool)) == 2


def test_staging_that_fails_leaves_nothing(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    held(spool, make_name())
    told = ToldOS()
    told.fail("write", None, errno.ENOSPC)
    monkeypatch.setattr(files, "os", told)
    with pytest.raises(OSError, match="No space"):
        stage(spool, FOLDER, make_name(), TWO, "then", END_US)
    assert hidden(spool) == []


def test_a_follower_that_can_be_no_file_is_left_out_and_told(
    spool: SpoolDir, caplog: pytest.LogCaptureFixture
) -> None:
    held(spool, make_name())
    large = Follower("large", {"a": "x" * 1_100_000})
    staged = stage(spool, FOLDER, make_name(), [large, *TWO], "then", END_US)
    assert [each.name.task for each in staged] == ["first", "second"]
    assert "cannot put follower name=large" in caplog.text


def test_publishing_goes_on_where_an_error_stopped_it(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    held(spool, make_name())
    staged = stage(spool, FOLDER, make_name(), TWO, "then", END_US)
    spool.make_folder(staged[0].name.folder)
    told = ToldOS()
    told.fail("rename", None, errno.ENOSPC)
    with monkeypatch.context() as patch:
        patch.setattr(root, "os", told)
        with pytest.raises(OSError, match="No space"):
            publish(spool, staged)
    assert [each.name.task for each in staged] == ["second"]
    publish(spool, staged)
    assert len(tasks(spool)) == 3


def test_a_sync_that_fails_after_publishing_is_only_told(
    spool: SpoolDir,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    held(spool, make_name())
    staged = stage(spool, FOLDER, make_name(), TWO[:1], "then", END_US)
    told = ToldOS()
    told.fail("fsync", errno.EIO)
    monkeypatch.setattr(files, "os", told)
    publish(spool, staged)
    assert "cannot sync" in caplog.text
    assert len(tasks(spool)) == 2


def test_a_follower_that_an_operator_took_is_left_out(spool: SpoolDir) -> None:
    held(spool, make_name())
    staged = stage(spool, FOLDER, make_name(), TWO[:1], "then", END_US)
    Path(spool.path, staged[0].path).unlink()
    publish(spool, staged)
    assert len(tasks(spool)) == 1


def test_what_was_put_before_a_power_cut_is_not_put_again(spool: SpoolDir) -> None:
    held(spool, make_name())
    staged = stage(spool, FOLDER, make_name(), TWO[:1], "then", END_US)
    place(spool, path_of(staged[0].name))
    publish(spool, staged)
    assert hidden(spool) == []
    assert len(tasks(spool)) == 2


def test_what_is_put_is_logged(
    spool: SpoolDir, caplog: pytest.LogCaptureFixture
) -> None:
    held(spool, make_name())
    parent = make_name()
    staged = stage(spool, FOLDER, parent, TWO[:1], "then", END_US)
    name = staged[0].name
    with caplog.at_level("INFO"):
        publish(spool, staged)
    assert f"put task={name.id} name=first parent={parent.id}" in caplog.text


# -- settling ---------------------------------------------------------------------


def test_settling_puts_followers_after_the_parent_is_gone(spool: SpoolDir) -> None:
    parent = make_name()
    path = held(spool, parent)
    seen: list[object] = []

    def move() -> None:
        seen.append(hidden(spool))
        seen.append(len(tasks(spool)))
        Path(spool.path, path).unlink()

    settling = Settling(spool, FOLDER, parent, TWO, "then", END_US)
    settling.settle(move)
    assert seen == [[f"{FOLDER}/.{parent.id}.{name}" for name in settling.put], 1]
    assert sorted(tasks(spool)) == sorted(map(path_of, settling.put))


@pytest.mark.parametrize("error", [ClaimLostError("0" * 16, "w1"), FileNotFoundError()])
def test_nothing_is_put_for_a_parent_that_somebody_took(
    spool: SpoolDir, error: Exception
) -> None:
    parent = make_name()
    held(spool, parent)

    def move() -> None:
        raise error

    with pytest.raises(type(error)):
        Settling(spool, FOLDER, parent, TWO, "then", END_US).settle(move)
    assert hidden(spool) == []
    assert len(tasks(spool)) == 1


def test_settling_goes_on_where_an_error_stopped_it(spool: SpoolDir) -> None:
    parent = make_name()
    path = held(spool, parent)
    errors = [OSError(errno.EIO, "no"), None]

    def move() -> None:
        error = errors.pop(0)
        if error is not None:
            raise error
        Path(spool.path, path).unlink()

    settling = Settling(spool, FOLDER, parent, TWO, "then", END_US)
    with pytest.raises(OSError, match="no"):
        settling.settle(move)
    assert len(hidden(spool)) == 2
    settling.settle(move)
    settling.settle(move)
    assert len(tasks(spool)) == 2
    assert errors == []


def test_a_task_without_followers_costs_a_settling_nothing(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    for each in (root, files, module):
        monkeypatch.setattr(each, "os", told)
    Settling(spool, FOLDER, make_name(), (), "then", END_US).settle(lambda: None)
    assert told.calls == []


# -- recovery ---------------------------------------------------------------------


def test_recovery_removes_followers_of_a_parent_that_runs_again(
    spool: SpoolDir,
) -> None:
    parent = make_name()
    held(spool, parent)
    stage(spool, FOLDER, parent, TWO, "then", END_US)
    assert settle_staged(spool, FOLDER) == []
    assert hidden(spool) == []
    assert len(tasks(spool)) == 1


def test_recovery_puts_followers_of_a_parent_that_is_gone(spool: SpoolDir) -> None:
    held(spool, make_name())
    staged = stage(spool, FOLDER, make_name(), TWO, "then", END_US)
    assert set(settle_staged(spool, FOLDER)) == {each.name for each in staged}
    assert settle_staged(spool, FOLDER) == []
    assert len(tasks(spool)) == 3


@pytest.mark.parametrize(
    "file", [".nfs0001", f".{'0' * 16}.rubbish", f".x.{make_name()}", ".hidden"]
)
def test_recovery_leaves_other_hidden_files(spool: SpoolDir, file: str) -> None:
    place(spool, f"{FOLDER}/{file}")
    assert settle_staged(spool, FOLDER) == []
    assert hidden(spool) == [f"{FOLDER}/{file}"]


def test_recovery_of_a_worker_without_a_folder_has_nothing_to_settle(
    spool: SpoolDir,
) -> None:
    assert settle_staged(spool, "running/none") == []


def with_failure(*followers: Follower) -> bytes:
    return encode("t", b"{}", options=RunOptions(on_failure=followers))


@pytest.mark.parametrize(
    ("data", "default", "wanted"),
    [
        (with_failure(*TWO), (), ["first", "second"]),
        (with_failure(*TWO), (Follower("other"),), ["first", "second"]),
        (with_failure(), (Follower("other"),), []),
        (TASK, (Follower("other"),), ["other"]),
        (TASK, (), []),
        (b"this is no task", (Follower("other"),), []),
    ],
    ids=["put", "put over decorator", "put none", "decorator", "none", "corrupt"],
)
def test_what_recovery_gives_up_has_its_followers(
    spool: SpoolDir,
    clock: FakeClock,
    data: bytes,
    default: tuple[Follower, ...],
    wanted: list[str],
) -> None:
    parent = make_name(attempt=2)
    held(spool, parent, data)
    found = recover(
        spool, "w1", never, CRASH, followers={"t": default}, owners=None, clock=clock
    )
    assert found == [Recovered(parent.but(attempt=3), None)]
    names = [Name.parse(path.rpartition("/")[2]) for path in tasks(spool)]
    put = sorted(n.task for n in names if n is not None and n.task != "t")
    assert put == wanted
    assert spool.names("running") == []


def test_a_file_of_another_owner_has_no_followers(
    spool: SpoolDir, clock: FakeClock
) -> None:
    held(spool, make_name(), with_failure(*TWO))
    recover(spool, "w1", never, CRASH, owners={os.getuid() + 1}, clock=clock)
    assert len(tasks(spool)) == 1


def test_what_recovery_gives_back_puts_no_followers(
    spool: SpoolDir, clock: FakeClock
) -> None:
    held(spool, make_name(), with_failure(*TWO))
    recover(spool, "w1", lambda name: NOW_US, CRASH, clock=clock)
    assert len(tasks(spool)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_followers_in_another_users_spool_are_that_users(spool: SpoolDir) -> None:
    held(spool, make_name())
    os.chown(spool.path, 1234, 1234)
    spool.open()
    staged = stage(spool, FOLDER, make_name(), TWO[:1], "then", END_US)
    assert Path(spool.path, staged[0].path).stat().st_uid == 1234
