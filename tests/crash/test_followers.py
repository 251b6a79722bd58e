"""Kill, or have a call fail, while a task with followers ends: each is put once."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from spooler.codec import decode, encode
from spooler.errors import SpoolerError
from spooler.options import Follower, RunOptions
from spooler.spooldir import SpoolDir
from spooler.spooldir.claims import Claims
from spooler.spooldir.followers import Settling, stage
from spooler.spooldir.recovery import ProcessLock, processes, recover
from spooler.task import MINUTE_US, Name, derived_id
from tests.helpers import NOW_US, open_files, place, tasks, tree

from .fatal import CRASH, FAILED, ID, OWNERS, Case, a_name, fresh, keep, let_go, path_of
from .faults import FatalOS, Fault, die, every_fault, every_kill, patched, points

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]

FOLLOWERS: Final = (
    Follower("first", {"a": 1}),
    Follower("second", at="+5m", priority=4711, body="text"),
)
OPTIONS: Final = RunOptions(then=FOLLOWERS, on_failure=FOLLOWERS)
PARENT: Final = encode("t", b"{}", options=OPTIONS)
PLAIN: Final = encode("t", b"{}")
END_US: Final = NOW_US + 30_000_000

Act = Callable[[], object]


@dataclass(frozen=True, slots=True)
class End:
    """An end of the parent that is to be interrupted.

    Attributes:
        prepare: What must be there before.
        begin: What the process does before, undisturbed; returns the operation.
        kind: Which followers there are to be.
        data: The parent's bytes.
        lives: Whether what is recovered afterwards runs again.
    """

    name: str
    prepare: Callable[[SpoolDir], object]
    begin: Callable[[SpoolDir], Act]
    kind: str
    data: bytes = PARENT
    lives: bool = True


def waits(data: bytes, spool: SpoolDir) -> None:
    spool.put(a_name(1), [data], durable=False)


def is_held(data: bytes, spool: SpoolDir) -> None:
    """Leave what a killed worker leaves."""
    waits(data, spool)
    place(spool, "workers/w1.lock", b"")
    held = Claims(spool, "w1", OWNERS)
    assert held.claim(path_of(a_name(1)))
    os.close(held._fd)


def was_staged(kind: str, parent: str, spool: SpoolDir) -> None:
    """Leave what a worker leaves that was killed while its task ended."""
    is_held(PARENT, spool)
    assert kind in ("then", "on_failure")
    stage(spool, "running/w1", a_name(1), FOLLOWERS, kind, END_US)  # type: ignore[arg-type] # checked above
    if parent == "gone":
        Path(spool.path, "running/w1", str(a_name(1))).unlink()


def settling(kind: str, spool: SpoolDir) -> Act:
    lock = ProcessLock(spool, "w1")
    assert lock.acquire()
    held = Claims(spool, "w1", OWNERS)
    claim = held.claim(path_of(a_name(1)))
    assert claim is not None
    keep.extend((lock, held))
    if kind == "then":
        then = Settling(spool, "running/w1", claim.name, FOLLOWERS, "then", END_US)
        return lambda: then.settle(lambda: held.ack(claim))
    lost = Settling(spool, "running/w1", claim.name, FOLLOWERS, "on_failure", END_US)
    return lambda: lost.settle(lambda: held.fail(claim, FAILED, started_us=NOW_US))


def recovering(due_us: int | None, spool: SpoolDir) -> Act:
    defaults = {"t": FOLLOWERS}
    return lambda: recover(
        spool, "w1", lambda name: due_us, CRASH, owners=OWNERS, followers=defaults
    )


ENDS: Final = [
    End("ack", partial(waits, PARENT), partial(settling, "then"), "then"),
    End("fail", partial(waits, PARENT), partial(settling, "on_failure"), "on_failure"),
    End(
        "recovery gives up",
        partial(is_held, PARENT),
        partial(recovering, None),
        "on_failure",
        lives=False,
    ),
    End(
        "recovery gives up, the decorator's followers",
        partial(is_held, PLAIN),
        partial(recovering, None),
        "on_failure",
        data=PLAIN,
        lives=False,
    ),
    End(
        "recovery of a parent with staged followers",
        partial(was_staged, "then", "there"),
        partial(recovering, NOW_US),
        "then",
    ),
    End(
        "recovery of staged followers whose parent is gone",
        partial(was_staged, "then", "gone"),
        partial(recovering, NOW_US),
        "then",
    ),
    End(
        "recovery gives up a parent with staged followers",
        partial(was_staged, "on_failure", "there"),
        partial(recovering, None),
        "on_failure",
        lives=False,
    ),
]


def expected(kind: str) -> dict[str, tuple[int, int, str]]:
    return {
        derived_id(ID, kind, 0): (NOW_US, 5, "first"),
        derived_id(ID, kind, 1): (NOW_US + 5 * MINUTE_US, 4711, "second"),
    }


class Others:
    """What else goes on in the spool: somebody takes what is put, at once.

    Attributes:
        taken: The ids that were, in order.
    """

    def __init__(self) -> None:
        self.taken: list[str] = []

    def take(self, spool: SpoolDir, end: End) -> None:
        """Take every follower that can be seen, and check it."""
        for path, data in tasks(spool).items():
            name = Name.parse(path.rpartition("/")[2])
            if name is None or name.id == ID or path.startswith("running/"):
                continue
            due_us, priority, task = expected(end.kind)[name.id]
            assert (name.priority, name.attempt, name.task) == (priority, 0, task)
            assert due_us <= name.due_us
            assert path == path_of(name)
            header = decode(data, whole=True)
            assert header is not None
            assert header.options == RunOptions(parent=ID)
            assert header.body == ("text" if task == "second" else None)
            self.taken.append(name.id)
            Path(spool.path, path).unlink()


def finish(spool: SpoolDir, end: End, others: Others) -> None:
    """Recover what is dead; then check where the parent is, and its followers."""
    for worker in processes(spool):
        assert worker == "w1"
        recovering(NOW_US if end.lives else None, spool)()
    assert processes(spool) == []
    others.take(spool, end)
    left = [path for path in tasks(spool) if not path.startswith("failed/")]
    failed = [path for path in tasks(spool) if path.startswith("failed/")]
    runs_again = bool(left)
    assert len(left) + len(failed) <= 1, (left, failed)
    assert set(tasks(spool).values()) <= {end.data}
    ids = [] if runs_again else sorted(expected(end.kind))
    assert sorted(others.taken) == ids, "parent finished" if ids else "runs again"
    hidden = [p for p in tree(spool) if "/." in p and not p.startswith("failed/")]
    assert hidden == []


def calls_of(end: End, path: Path) -> list[str]:
    spool = fresh(as_case(end), path)
    fatal = FatalOS()
    act = end.begin(spool)
    with patched(fatal):
        act()
    let_go(spool)
    return fatal.calls


def as_case(end: End) -> Case:
    return Case(end.name, end.prepare, end.begin)


@every_kill
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name)
def test_each_follower_is_put_once_if_its_parent_ended(
    end: End, how: str, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    calls = calls_of(end, tmp_path / "dry")
    assert len(calls) > 10
    for fatal, call in enumerate(calls, 1):
        path = tmp_path / str(fatal)
        spool = fresh(as_case(end), path)
        others = Others()
        die(lambda: end.begin(spool), fatal, how)  # noqa: B023 (called at once)
        try:
            others.take(spool, end)
            finish(spool, end, others)
        except AssertionError as error:
            error.add_note(f"killed {how} call {fatal}, {call}, of {calls}")
            raise
        spool.close()
        shutil.rmtree(path)
    record_property("kill points", len(calls))


@every_fault
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name)
def test_after_an_error_the_end_can_be_repeated(
    end: End, fault: Fault, tmp_path: Path, no_leaks: None
) -> None:
    calls = calls_of(end, tmp_path / "dry")
    for fatal in points(calls, fault):
        path = tmp_path / str(fatal)
        spool = fresh(as_case(end), path)
        others = Others()
        act = end.begin(spool)
        before = open_files()
        try:
            with patched(FatalOS(fatal, fault)):
                raised = False
                try:
                    act()
                except OSError:
                    raised = True
            if raised:
                others.take(spool, end)
                act()
            left = {fd: w for fd, w in open_files().items() if fd not in before}
            assert not left, left
            others.take(spool, end)
            let_go(spool)
            finish(spool, end, others)
            assert_ended(spool, end)
        except (AssertionError, OSError, SpoolerError) as error:
            error.add_note(f"call {fatal}, {calls[fatal - 1]}, of {calls}")
            raise
        spool.close()
        shutil.rmtree(path)


def assert_ended(spool: SpoolDir, end: End) -> None:
    """Check that the error was not taken for an end of another kind."""
    again = end.name == "recovery of a parent with staged followers"
    assert bool(tasks(spool)) is (again or end.kind == "on_failure")
    assert all(path.startswith("failed/") is not again for path in tasks(spool))


def test_what_was_put_twice_by_a_power_cut_is_there_once(tmp_path: Path) -> None:
    """Some file systems keep both names of a rename that was not synced."""
    spool = SpoolDir(tmp_path / "spool")
    spool.create()
    was_staged("then", "gone", spool)
    for each in Path(spool.path, "running/w1").iterdir():
        name = Name.parse(each.name.split(".", 2)[2])
        assert name is not None
        spool.make_folder(name.folder)
        shutil.copy(each, Path(spool.path, path_of(name)))
    others = Others()
    finish(spool, ENDS[0], others)
    assert len(others.taken) == 2
    spool.close()


def test_the_order_of_calls_lets_no_power_cut_double_a_follower(
    tmp_path: Path,
) -> None:
    calls = calls_of(ENDS[0], tmp_path / "dry")
    moves = [call for call in calls if call in ("write", "fsync", "unlink", "rename")]
    written = ["unlink", "write", "fsync"]  # the first call is for an earlier try
    staged = ["fsync", *written, *written, "fsync"]  # first what it was claimed from
    parent = ["unlink", "unlink", "fsync"]  # with its list of attempts
    assert moves[:12] == [*staged, *parent, "rename"]
    assert moves[-1] == "fsync"
