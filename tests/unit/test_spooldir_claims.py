"""What one worker holds: claim, read, settle."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.helpers import (
    NOW_US,
    TASK,
    FakeClock,
    ToldOS,
    make_name,
    minutes_later,
    path_of,
    place,
    put,
    tasks,
    tree,
)

from spooler.errors import ClaimLostError, CorruptError
from spooler.spooldir import SpoolDir, claims as module, files, reports, root
from spooler.spooldir.claims import Claims, give_up, put_aside
from spooler.spooldir.reserve import fill
from spooler.task import MAX_ATTEMPT, MAX_DUE_US, Claim, Name, Outcome, Verdict

OWNERS = {os.getuid()}
FAILED = Outcome(Verdict.FAIL, "E: it broke", "exception", "Traceback")
LATER_US = NOW_US + 90_000_000


@pytest.fixture
def claims(spool: SpoolDir, clock: FakeClock) -> Iterator[Claims]:
    claims = Claims(spool, "w1", OWNERS, clock)
    yield claims
    os.close(claims._fd)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> ToldOS:
    told = ToldOS()
    for each in (module, reports, root, files):
        monkeypatch.setattr(each, "os", told)
    return told


def take(claims: Claims, name: Name | None = None, data: bytes = TASK) -> Claim:
    """Put a task and claim it."""
    claim = claims.claim(path_of(put(claims.spool, name, data)))
    assert claim is not None
    return claim


SETTLE: dict[str, Callable[[Claims, Claim], None]] = {
    "ack": lambda c, claim: c.ack(claim),
    "retry": lambda c, claim: c.retry(
        claim, FAILED, due_us=LATER_US, started_us=NOW_US
    ),
    "again": lambda c, claim: c.again(claim, due_us=LATER_US),
    "release": lambda c, claim: c.release(claim),
    "fail": lambda c, claim: c.fail(claim, FAILED, started_us=NOW_US),
    "reject": lambda c, claim: c.reject(claim, "not a task"),
}
EVERY = pytest.mark.parametrize("move", SETTLE)


# -- claim ------------------------------------------------------------------------


def test_a_claim_moves_the_task_to_its_worker(claims: Claims) -> None:
    name = put(claims.spool, make_name(attempt=3, priority=0, task="a.b.c"))
    claim = claims.claim(path_of(name))
    assert claim is not None
    assert (claim.name, claim.worker, claim.file) == (name, "w1", str(name))
    assert tree(claims.spool) == {f"running/w1/{name}": TASK}


def test_a_claim_gives_a_task_to_one_worker_only(
    claims: Claims, clock: FakeClock
) -> None:
    other = Claims(claims.spool, "w2", OWNERS, clock)
    path = path_of(put(claims.spool))
    assert claims.claim(path) is not None
    assert other.claim(path) is None
    assert claims.claim(path) is None
    other.close()


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESTALE])
def test_a_task_that_is_gone_is_no_error(
    claims: Claims, told: ToldOS, code: int
) -> None:
    path = path_of(put(claims.spool))
    Path(claims.spool.path, path).unlink()
    told.fail("rename", code)
    assert claims.claim(path) is None


def test_a_stale_answer_does_not_make_a_task_somebody_elses(
    claims: Claims, told: ToldOS
) -> None:
    path = path_of(put(claims.spool))
    told.fail("rename", errno.ESTALE)
    with pytest.raises(OSError, match="Stale"):
        claims.claim(path)
    assert claims.claim(path) is not None


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENOSPC])
def test_an_error_of_the_system_leaves_the_task_waiting(
    claims: Claims, told: ToldOS, code: int
) -> None:
    path = path_of(put(claims.spool))
    told.fail("rename", code)
    with pytest.raises(OSError, match=rf"\[Errno {code}\]"):
        claims.claim(path)
    assert list(tree(claims.spool)) == [path]
    assert claims.claim(path) is not None


def test_a_claim_is_one_rename_and_not_synced(claims: Claims, told: ToldOS) -> None:
    path = path_of(put(claims.spool))
    told.calls.clear()
    claims.claim(path)
    assert told.calls == ["rename"]


def test_what_is_not_native_is_not_moved(claims: Claims) -> None:
    place(claims.spool, "5/20261120T2101/rubbish")
    with pytest.raises(ValueError, match="not native"):
        claims.claim("5/20261120T2101/rubbish")
    assert list(tree(claims.spool)) == ["5/20261120T2101/rubbish"]


def test_a_worker_may_have_its_folder_already(spool: SpoolDir) -> None:
    Path(spool.path, "running/w1").mkdir()
    claims = Claims(spool, "w1", OWNERS)
    assert take(claims).worker == "w1"
    os.close(claims._fd)


def test_read_opens_the_claimed_file(claims: Claims) -> None:
    claim = take(claims, data=TASK + b"body")
    task = claims.open(claim)
    assert (task.header.task, task.body()) == ("t", b"body")
    task.close()


def test_read_tells_what_is_corrupt(claims: Claims) -> None:
    task = claims.open(take(claims, data=b""))
    with pytest.raises(CorruptError, match="empty file"):
        task.header  # noqa: B018 (it is read when asked for)
    task.close()


# -- settle -----------------------------------------------------------------------


@EVERY
def test_a_claim_that_was_recovered_is_lost(claims: Claims, move: str) -> None:
    claim = take(claims)
    os.rename(
        Path(claims.spool.path, "running/w1", claim.file),
        Path(claims.spool.path, "5", claim.file),
    )
    with pytest.raises(ClaimLostError) as caught:
        SETTLE[move](claims, claim)
    assert (caught.value.task_id, caught.value.worker) == (claim.name.id, "w1")
    left = tree(claims.spool)
    left.pop(f"logs/{claim.name.id}.attempts", None)
    assert left == {f"5/{claim.file}": TASK}


@EVERY
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_a_move_that_the_system_refused_can_be_repeated(
    claims: Claims, told: ToldOS, move: str, code: int
) -> None:
    claim = take(claims)
    told.fail("unlink" if move == "ack" else "rename", code)
    if move in ("fail", "reject"):
        told.fail("rename", None, code)  # the first is the report's
    with pytest.raises(OSError, match=rf"\[Errno {code}\]"):
        SETTLE[move](claims, claim)
    assert list(tasks(claims.spool)) == [f"running/w1/{claim.file}"]
    SETTLE[move](claims, claim)
    found = tasks(claims.spool)
    assert list(found.values()) == ([] if move == "ack" else [TASK])
    assert not any(path.startswith("running/") for path in found)


@EVERY
def test_a_move_whose_sync_fails_was_made(
    claims: Claims, told: ToldOS, move: str, caplog: pytest.LogCaptureFixture
) -> None:
    claim = take(claims)
    told.fail("fsync", *[OSError(errno.EIO, "x") for _ in range(9)])
    SETTLE[move](claims, claim)
    assert not any(path.startswith("running/") for path in tree(claims.spool))


def test_ack_removes_the_task_and_its_attempts(claims: Claims) -> None:
    claim = take(claims, make_name(attempt=1))
    reports.append_attempt(claims.spool, claim.name.id, {"attempt": 1})
    claims.ack(claim)
    assert tree(claims.spool) == {}


def test_the_ack_of_a_first_attempt_is_one_unlink(claims: Claims, told: ToldOS) -> None:
    claim = take(claims)
    told.calls.clear()
    claims.ack(claim)
    assert told.calls == ["unlink"]


def test_an_ack_stands_though_its_attempts_cannot_be_removed(
    claims: Claims, told: ToldOS
) -> None:
    claim = take(claims, make_name(attempt=1))
    told.fail("unlink", None, errno.EIO)
    claims.ack(claim)
    assert tree(claims.spool) == {}


def test_acks_are_due_to_be_synced_a_second_after_the_first(
    claims: Claims, clock: FakeClock, told: ToldOS
) -> None:
    assert claims.sync_due() is None
    claims.ack(take(claims))
    assert claims.sync_due() == 1.0
    clock.advance(0.75)
    claims.ack(take(claims))
    assert claims.sync_due() == 0.25
    clock.advance(5)
    assert claims.sync_due() == 0.0
    told.calls.clear()
    claims.sync()
    assert told.syncs(claims.spool.path)[-1] == "running/w1"
    assert claims.sync_due() is None


def test_what_was_claimed_from_is_synced_before_the_claims(
    claims: Claims, told: ToldOS
) -> None:
    first, second = make_name(), minutes_later(1, make_name())
    for name in (first, first.but(id="f" * 16), second):
        take(claims, name)
    told.calls.clear()
    claims.sync()
    *left, own = told.syncs(claims.spool.path)
    assert (sorted(left), own) == ([first.folder, second.folder], "running/w1")
    told.calls.clear()
    claims.sync()
    assert told.syncs(claims.spool.path) == ["running/w1"]


def test_a_folder_that_was_claimed_empty_and_removed_stays_so(
    claims: Claims, told: ToldOS
) -> None:
    claim = take(claims)
    Path(claims.spool.path, claim.name.folder).rmdir()
    told.calls.clear()
    claims.sync()
    assert told.syncs(claims.spool.path) == ["5", "running/w1"]


def test_retry_counts_an_attempt_and_writes_down_why(
    claims: Claims, clock: FakeClock
) -> None:
    claim = take(claims)
    clock.advance(2.5)
    claims.retry(claim, FAILED, due_us=LATER_US, started_us=NOW_US)
    name = claim.name.but(due_us=LATER_US, attempt=1)
    assert tasks(claims.spool) == {path_of(name): TASK}
    (record,) = reports.attempts(claims.spool, name.id)
    assert record["attempt"] == 1
    assert record["error"] == "E: it broke"
    assert record["seconds"] == 2.5


def test_retry_works_though_the_list_cannot_be_written(
    claims: Claims, told: ToldOS
) -> None:
    claim = take(claims)
    told.fail("open", errno.ENOSPC)
    SETTLE["retry"](claims, claim)
    assert list(tree(claims.spool)) == [
        path_of(claim.name.but(due_us=LATER_US, attempt=1))
    ]


def test_attempts_end_at_the_greatest_number(claims: Claims) -> None:
    claim = take(claims, make_name(attempt=MAX_ATTEMPT))
    SETTLE["retry"](claims, claim)
    (path,) = tasks(claims.spool)
    parsed = Name.parse(path.rpartition("/")[2])
    assert parsed is not None
    assert parsed.attempt == MAX_ATTEMPT


def test_a_retry_after_the_last_moment_is_due_at_it(claims: Claims) -> None:
    claim = take(claims)
    claims.retry(claim, FAILED, due_us=10**20, started_us=NOW_US)
    name = claim.name.but(due_us=MAX_DUE_US, attempt=1)
    assert list(tasks(claims.spool)) == [path_of(name)]


def test_again_begins_at_attempt_0(claims: Claims) -> None:
    claim = take(claims, make_name(attempt=4))
    reports.append_attempt(claims.spool, claim.name.id, {"attempt": 1})
    claims.again(claim, due_us=LATER_US)
    assert tree(claims.spool) == {
        path_of(claim.name.but(due_us=LATER_US, attempt=0)): TASK
    }


@pytest.mark.parametrize("due_us", [None, LATER_US])
def test_release_keeps_the_attempt(claims: Claims, due_us: int | None) -> None:
    claim = take(claims, make_name(attempt=4))
    claims.release(claim, due_us=due_us)
    name = claim.name if due_us is None else claim.name.but(due_us=due_us)
    assert tree(claims.spool) == {path_of(name): TASK}


def test_release_does_not_overwrite_a_task_of_the_same_name(claims: Claims) -> None:
    claim = take(claims, data=b"first")
    put(claims.spool, claim.name, b"second")
    claims.release(claim)
    later = claim.name.but(due_us=claim.name.due_us + 1)
    assert tree(claims.spool) == {
        path_of(claim.name): b"second",
        path_of(later): b"first",
    }


@pytest.mark.parametrize("move", ["retry", "again", "release"])
def test_the_way_back_syncs_whence_it_came_then_where_it_went(
    claims: Claims, told: ToldOS, move: str
) -> None:
    claim = take(claims, minutes_later(999, make_name()))
    told.calls.clear()
    SETTLE[move](claims, claim)
    (path,) = tasks(claims.spool)
    syncs = [claim.name.folder, "running/w1", path.rpartition("/")[0], "5"]
    assert told.syncs(claims.spool.path) == syncs


def test_fail_keeps_the_task_and_its_history(claims: Claims) -> None:
    claim = take(claims, make_name(attempt=1), b"bytes")
    reports.append_attempt(claims.spool, claim.name.id, {"attempt": 1})
    SETTLE["fail"](claims, claim)
    path = f"failed/{claim.name.but(attempt=2)}"
    assert tasks(claims.spool) == {path: b"bytes"}
    why = reports.read_why(claims.spool, path)
    assert why["reason"] == "exception"
    assert why["error"] == "E: it broke"
    attempts = why["attempts"]
    assert isinstance(attempts, list)
    assert [each["attempt"] for each in attempts] == [1, 2]
    assert set(tree(claims.spool)) == {path, f"{path}.why"}


def test_fail_writes_its_report_first_and_syncs(claims: Claims, told: ToldOS) -> None:
    claim = take(claims)
    told.calls.clear()
    SETTLE["fail"](claims, claim)
    renames = [i for i, call in enumerate(told.calls) if call == "rename"]
    assert len(renames) == 2
    syncs = told.syncs(claims.spool.path)
    assert syncs[0].startswith("failed/.")
    assert syncs[1:] == [claim.name.folder, "running/w1", "failed"]
    assert told.calls.index(f"fsync {claims.spool.path}/running/w1") > renames[1]


def test_a_report_that_cannot_be_written_does_not_keep_a_task_from_being_given_up(
    claims: Claims, told: ToldOS
) -> None:
    claim = take(claims)
    told.fail("write", errno.EIO)
    SETTLE["fail"](claims, claim)
    assert list(tree(claims.spool)) == [f"failed/{claim.name.but(attempt=1)}"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_without_room_for_its_report_a_task_waits_to_be_given_up(
    claims: Claims, told: ToldOS, code: int
) -> None:
    claim = take(claims)
    told.fail("write", code)
    with pytest.raises(OSError, match=os.strerror(code)):
        SETTLE["fail"](claims, claim)
    assert list(tree(claims.spool)) == [f"running/w1/{claim.file}"]
    SETTLE["fail"](claims, claim)
    failed = f"failed/{claim.name.but(attempt=1)}"
    assert sorted(tree(claims.spool)) == [failed, f"{failed}.why"]


def test_with_a_reserve_a_full_disk_keeps_no_task_from_being_given_up(
    claims: Claims, told: ToldOS
) -> None:
    claim = take(claims)
    fill(claims.spool.fd, None)
    told.fail("write", errno.ENOSPC, errno.ENOSPC)
    SETTLE["fail"](claims, claim)
    failed = f"failed/{claim.name.but(attempt=1)}"
    assert {failed, f"{failed}.why"} <= set(tree(claims.spool))


def test_a_lost_fail_leaves_no_report(claims: Claims) -> None:
    claim = take(claims)
    Path(claims.spool.path, "running/w1", claim.file).unlink()
    with pytest.raises(ClaimLostError):
        SETTLE["fail"](claims, claim)
    assert tree(claims.spool) == {}


def test_two_who_give_up_one_task_leave_its_report(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(spool)
    real = os.rename

    class RacingOS(ToldOS):
        def rename(self, *args: object, **kwargs: object) -> None:
            monkeypatch.setattr(module, "os", os)
            give_up(spool, path_of(name), name, {"who": "first"})
            real(*args, **kwargs)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(module, "os", RacingOS())
    with pytest.raises(FileNotFoundError):
        give_up(spool, path_of(name), name, {"who": "second"})
    assert tasks(spool) == {f"failed/{name}": TASK}
    assert reports.read_why(spool, f"failed/{name}") == {"who": "first"}


def test_giving_up_overwrites_no_failed_task(spool: SpoolDir) -> None:
    name = make_name()
    for data in (b"first", b"second"):
        put(spool, name, data)
        give_up(spool, path_of(name), name, {"data": data.decode()})
    second = name.but(due_us=name.due_us + 1)
    assert tasks(spool) == {f"failed/{name}": b"first", f"failed/{second}": b"second"}
    assert reports.read_why(spool, f"failed/{name}") == {"data": "first"}
    assert reports.read_why(spool, f"failed/{second}") == {"data": "second"}


def test_reject_keeps_the_bytes_and_says_why(claims: Claims) -> None:
    claim = take(claims, data=b"\x00rubbish")
    SETTLE["reject"](claims, claim)
    path = f"corrupt/{claim.file}"
    assert tasks(claims.spool) == {path: b"\x00rubbish"}
    assert reports.read_why(claims.spool, path) == {
        "v": 1,
        "reason": "not a task",
        "found": f"running/w1/{claim.file}",
        "size": 8,
        "uid": os.getuid(),
        "time": "2026-11-20T21:01:00.000Z",
    }


def test_put_aside_overwrites_nothing(spool: SpoolDir) -> None:
    name = make_name()
    for data in (b"first", b"second"):
        put(spool, name, data)
        put_aside(spool, path_of(name), "reason", NOW_US)
    found = tasks(spool)
    assert sorted(found.values()) == [b"first", b"second"]
    assert found[f"corrupt/{name}"] == b"first"
    assert all(reports.read_why(spool, path) for path in found)


@pytest.mark.parametrize(
    "file",
    [
        "x" * 250,
        "ü" * 120,
        "new\nline",
        "\x1b[31m",
        "-rf",
        "\udcff\udcfe",
        "x.why",
        "$(reboot)",
        "a" * 199 + "ü" * 20,
    ],
)
def test_put_aside_takes_any_name(spool: SpoolDir, file: str) -> None:
    place(spool, f"5/{file}", b"rubbish")
    path = put_aside(spool, f"5/{file}", "reason", NOW_US)
    assert tasks(spool) == {path: b"rubbish"}
    assert path.startswith("corrupt/" + os.fsdecode(os.fsencode(file)[:200]))
    found = reports.read_why(spool, path)["found"]
    shown = f"5/{file}".encode("utf-8", "surrogateescape")
    assert found == shown.decode("utf-8", "backslashreplace")


def test_put_aside_leaves_no_report_of_what_it_could_not_move(
    spool: SpoolDir, told: ToldOS
) -> None:
    place(spool, "5/x", b"rubbish")
    told.fail("rename", None, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        put_aside(spool, "5/x", "reason", NOW_US)
    assert tree(spool) == {"5/x": b"rubbish"}


def test_put_aside_works_on_a_full_disk(spool: SpoolDir, told: ToldOS) -> None:
    place(spool, "5/x", b"rubbish")
    told.fail("open", errno.ENOSPC)
    path = put_aside(spool, "5/x", "reason", NOW_US)
    assert tree(spool) == {path: b"rubbish"}


# -- close ------------------------------------------------------------------------


def test_close_removes_the_folder_and_syncs_what_was_done(
    spool: SpoolDir, clock: FakeClock, told: ToldOS
) -> None:
    claims = Claims(spool, "w1", OWNERS, clock)
    claims.ack(take(claims))
    claims.close()
    assert "running/w1" in told.syncs(spool.path)
    assert spool.names("running") == []


def test_close_with_nothing_done_syncs_nothing(spool: SpoolDir, told: ToldOS) -> None:
    Claims(spool, "w1", OWNERS).close()
    assert told.syncs(spool.path) == []


def test_close_of_a_folder_with_tasks_leaves_them_and_no_descriptor(
    spool: SpoolDir,
) -> None:
    claims = Claims(spool, "w1", OWNERS)
    claim = take(claims)
    with pytest.raises(OSError, match="not empty"):
        claims.close()
    assert list(tree(spool)) == [f"running/w1/{claim.file}"]
