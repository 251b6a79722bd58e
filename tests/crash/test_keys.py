"""Kill producers and adopters of tasks with a key, and have their calls fail.

Whatever happens, no task is lost that was put before, and the key is free or rightly
taken: somebody else can put a task with it, or is told of one that is really there.
"""

import os
import random
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from spooler.codec import encode
from spooler.errors import SpoolUncertain
from spooler.options import IfExists, RunOptions
from spooler.spooldir import SpoolDir, keys
from spooler.spooldir.dropped import Dropped
from spooler.spooldir.keys import key_path
from spooler.spooldir.recovery import remove_folder, sweep
from spooler.task import Name, iso
from tests.helpers import (
    FACTOR,
    NOW_US,
    make_name,
    open_files,
    path_of,
    place,
    tasks,
    tree,
    wait_until,
)

from .fatal import adopting, late_clock
from .faults import FatalOS, Fault, die, every_fault, every_kill, patched, points

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]

KEY = key_path("t", "k")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is stuck is found soon, and one of eight producers gets his turn."""
    monkeypatch.setattr(keys, "LOCK_TIMEOUT", 5.0 * max(1, FACTOR))


def content(name: Name, if_exists: IfExists = "skip") -> bytes:
    return encode(
        "t",
        b"{}",
        at=iso(name.due_us),
        priority=name.priority,
        id=name.id,
        key="k",
        options=RunOptions(if_exists=if_exists),
    )


def unique(
    spool: SpoolDir,
    if_exists: IfExists = "skip",
    *,
    durable: bool = True,
    name: Name | None = None,
) -> Name | None:
    name = name or make_name(id=os.urandom(8).hex())
    data = content(name, if_exists)
    chunks = [data[:20], data[20:]]
    return keys.put(spool, name, chunks, "k", if_exists, durable=durable)


@dataclass(frozen=True, slots=True)
class Case:
    """What is interrupted.

    Attributes:
        act: It puts a task, or adopts one, or sweeps.
        prepare: What is done before, by others.
        most: How many tasks there may be in the end, if it is interrupted.
        again: What a supervisor does after a death.
        hidden: The producer writes under a hidden name.
        copies: What was dropped may be a task already when an error is raised, and
            is looked at again.
    """

    name: str
    act: Callable[[SpoolDir], object]
    prepare: Callable[[SpoolDir], object] = lambda spool: None
    most: int = 1
    again: Callable[[SpoolDir], object] = lambda spool: None
    hidden: bool = False
    copies: bool = False


def ended(spool: SpoolDir) -> None:
    unique(spool)
    for path in tasks(spool):
        os.unlink(f"{spool.path}/{path}")


def died(spool: SpoolDir) -> None:
    """Prepare what a producer leaves who dies with the key alone."""
    name = make_name()
    fd, hidden = spool.write(name, [content(name)], durable=False)
    with keys.Taking(spool, KEY) as taking:
        taking.take(fd, hidden, "skip")
    os.close(fd)


def put_back(spool: SpoolDir) -> None:
    name = make_name()
    unique(spool, name=name)
    spool.move(path_of(name), name.but(due_us=NOW_US + 10**9, attempt=1))


def drop(spool: SpoolDir, if_exists: str = "skip") -> None:
    line = f'task=t\nkey=k\noptions:={{"if_exists":"{if_exists}"}}\n'
    place(spool, "5/dropped", line.encode())


def taken_and_dropped(if_exists: str) -> Callable[[SpoolDir], None]:
    def prepare(spool: SpoolDir) -> None:
        unique(spool)
        drop(spool, if_exists)

    return prepare


def adopt(spool: SpoolDir) -> None:
    adopting()(spool)()


ALICE, BOB, SHOP = 12345, 12346, 12347


def drop_of(spool: SpoolDir, uid: int, if_exists: str = "skip") -> None:
    drop(spool, if_exists)
    os.chown(f"{spool.path}/5/dropped", uid, uid)


def others_drop(if_exists: str, first: str = "") -> Callable[[SpoolDir], None]:
    """Prepare a file of somebody else, and her task that has the key already."""

    def prepare(spool: SpoolDir) -> None:
        if first:
            drop_of(spool, ALICE, first)
            adopt_others(spool)
        drop_of(spool, ALICE, if_exists)

    return prepare


def adopt_others(spool: SpoolDir) -> None:
    clock = late_clock()
    Dropped(spool, {0, ALICE, BOB}, clock).adopt("5", "dropped", finished=True)


def swept(spool: SpoolDir) -> None:
    sweep(spool, late_clock())


def replace(spool: SpoolDir) -> Name | None:
    return unique(spool, "replace")


PUTS = [
    Case("put", unique),
    Case("put fast", lambda spool: unique(spool, durable=False)),
    Case("put, taken", unique, unique),
    Case("put, ended", unique, ended),
    Case("put, died", unique, died),
    Case("replace nothing", replace),
    Case("replace", replace, unique, most=2),
    Case("replace, put back", replace, put_back, most=2),
    Case("replace, ended", replace, ended),
]
CASES = [
    *PUTS,
    *(
        Case(f"{c.name}, hidden", c.act, c.prepare, c.most, c.again, hidden=True)
        for c in PUTS
        if c.name in ("put", "put, died", "replace")
    ),
    Case("adopt", adopt, drop, again=adopt),
    Case("adopt, taken", adopt, taken_and_dropped("skip"), again=adopt),
    Case("adopt, replace", adopt, taken_and_dropped("replace"), most=2, again=adopt),
    Case("sweep", swept, ended),
]
if os.geteuid() == 0:  # which can give files away
    CASES += [
        Case(f"copy, {name}", adopt_others, prepare, most, adopt_others, copies=True)
        for name, prepare, most in (
            ("first", others_drop("skip"), 1),
            ("taken", others_drop("skip", "skip"), 1),
            ("replace nothing", others_drop("replace"), 1),
            ("replace", others_drop("replace", "skip"), 2),
        )
    ]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def fresh(case: Case, path: Path) -> SpoolDir:
    spool = SpoolDir(path)
    spool.create()
    spool._tmpfile = not case.hidden
    case.prepare(spool)
    return spool


def count_calls(case: Case, path: Path) -> list[str]:
    spool = fresh(case, path)
    fatal = FatalOS()
    with patched(fatal):
        case.act(spool)
    check(spool, case, before=bool(tasks(spool)), most=1)
    return fatal.calls


def check(spool: SpoolDir, case: Case, *, before: bool, most: int) -> None:
    """Check that the key is free or rightly taken, now and when all has ended."""
    found = tasks(spool)
    assert len(found) <= most, found
    assert found or not before, "a task that was put is lost"
    there = unique(spool)
    found = tasks(spool)
    assert 1 <= len(found) <= most, found
    inode = os.stat(f"{spool.path}/{KEY}").st_ino
    owners = [p for p in found if os.stat(f"{spool.path}/{p}").st_ino == inode]
    assert len(owners) == 1, "the key is not that of a task that waits"
    if there is not None:
        assert f".{there.id}." in owners[0]
    assert unique(spool) is not None, "the key of a task that waits is free"
    for path in found:
        os.unlink(f"{spool.path}/{path}")
    assert unique(spool) is None, "the key is taken for ever"
    for path in tasks(spool):
        os.unlink(f"{spool.path}/{path}")
    for priority in spool.priorities():
        for minute in spool.minutes(priority):
            assert remove_folder(spool, f"{priority}/{minute}", late_clock())
    sweep(spool, late_clock())
    sweep(spool, late_clock())
    assert tree(spool) == {}
    spool.close()


@every_kill
@EACH
def test_a_kill_loses_no_task_and_leaves_no_key_taken(
    case: Case, how: str, tmp_path: Path
) -> None:
    calls = count_calls(case, tmp_path / "dry")
    for fatal, call in enumerate(calls, 1):
        path = tmp_path / str(fatal)
        spool = fresh(case, path)
        before = bool(tasks(spool))
        try:
            die(lambda spool=spool: lambda: case.act(spool), fatal, how)  # type: ignore[misc]
            case.again(spool)
            check(spool, case, before=before, most=case.most)
        except (AssertionError, OSError) as error:
            error.add_note(f"killed {how} call {fatal}, {call}, of {calls}")
            raise
        shutil.rmtree(path)


@every_fault
@EACH
def test_an_error_loses_no_task_and_leaves_no_key_taken(
    case: Case, fault: Fault, tmp_path: Path, no_leaks: None
) -> None:
    calls = count_calls(case, tmp_path / "dry")
    for fatal in points(calls, fault):
        path = tmp_path / str(fatal)
        spool = fresh(case, path)
        waited = set(tasks(spool))
        files = open_files()
        try:
            with patched(FatalOS(fatal, fault)):
                try:
                    case.act(spool)
                except SpoolUncertain:
                    pass
                except OSError:
                    left = set(tasks(spool))
                    if case.copies and left - waited:
                        waited &= left
                    assert waited <= left, "it was replaced by nothing"
            assert {fd for fd in open_files() if fd not in files} == set()
            case.again(spool)
            check(spool, case, before=bool(waited), most=case.most)
        except (AssertionError, OSError) as error:
            error.add_note(f"{fault} at call {fatal}, {calls[fatal - 1]}, of {calls}")
            raise
        shutil.rmtree(path)


# -- many at a time -----------------------------------------------------------------


def fork(act: Callable[[int], object]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act(os.getpid())
            code = 0
        finally:
            os._exit(code)
    return pid


def producer(
    path: str, if_exists: IfExists, *, hidden: bool, times: int
) -> Callable[[int], None]:
    def act(pid: int) -> None:
        spool = SpoolDir(path)
        spool.open()
        spool._tmpfile = not hidden
        put = sum(unique(spool, if_exists, durable=False) is None for _ in range(times))
        Path(path, "tmp", str(pid)).write_text(str(put))

    return act


@pytest.mark.parametrize("hidden", [False, True], ids=["unnamed", "hidden"])
@pytest.mark.parametrize("if_exists", ["skip", "raise", "replace"])
def test_eight_producers_leave_one_task(
    if_exists: IfExists, hidden: bool, tmp_path: Path
) -> None:
    spool = SpoolDir(tmp_path)
    spool.create()
    act = producer(spool.path, if_exists, hidden=hidden, times=200)
    for pid in [fork(act) for _ in range(8)]:
        assert os.waitpid(pid, 0)[1] == 0
    counts = [int(path.read_text()) for path in (tmp_path / "tmp").iterdir()]
    assert len(counts) == 8
    assert sum(counts) == (1600 if if_exists == "replace" else 1)
    found = tasks(spool)
    assert set(tree(spool)) == {*found, KEY}
    assert len(found) == 1
    for path in found:
        os.unlink(tmp_path / path)
    assert unique(spool) is None
    spool.close()


@pytest.mark.parametrize("if_exists", ["skip", "replace"])
def test_producers_who_are_killed_do_not_hold_up_the_others(
    if_exists: IfExists, tmp_path: Path
) -> None:
    spool = SpoolDir(tmp_path)
    spool.create()
    act = producer(spool.path, if_exists, hidden=False, times=10**6)
    pids = [fork(act) for _ in range(4)]
    chance = random.Random(4711)
    for _ in range(40):
        # Ended tasks free the key, so that there is always something to take.
        for path in tasks_that_wait(spool):
            with suppress(FileNotFoundError):
                os.unlink(tmp_path / path)
        wait_until(lambda: bool(tasks_that_wait(spool)))
        victim = pids.pop(chance.randrange(len(pids)))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        pids.append(fork(act))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    there = unique(spool)
    assert there is None or any(there.id in path for path in tasks(spool))
    for path in tasks(spool):
        os.unlink(tmp_path / path)
    assert unique(spool) is None
    spool.close()


def tasks_that_wait(spool: SpoolDir) -> list[str]:
    return [f"{folder}/{name}" for folder, name in spool.waiting()]


def test_an_adopter_and_a_producer_never_both_have_the_key(tmp_path: Path) -> None:
    spool = SpoolDir(tmp_path)
    spool.create()
    for _ in range(50):
        drop(spool)

        def take(_: int) -> None:
            adopter = Dropped(SpoolDir(tmp_path), {os.getuid()})
            while adopter.adopt("5", "dropped", finished=True) is True:
                pass

        producers = producer(spool.path, "skip", hidden=False, times=3)
        for pid in [fork(take), fork(take), fork(producers)]:
            assert os.waitpid(pid, 0)[1] == 0
        (path,) = tasks(spool)
        os.unlink(tmp_path / path)
    spool.close()


# -- of others ----------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
@every_kill
@pytest.mark.parametrize("way", ["given", "marked"])
@pytest.mark.parametrize("uid", [ALICE, BOB])
def test_a_kill_lets_nobody_replace_the_task_of_another(
    uid: int, way: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "marked":
        monkeypatch.setattr(os, "geteuid", lambda: SHOP)

    def prepare(path: Path) -> tuple[SpoolDir, str]:
        spool = SpoolDir(path)
        spool.create()
        drop_of(spool, ALICE, "skip")
        adopt_others(spool)
        [hers] = tasks_that_wait(spool)
        drop_of(spool, uid, "replace")
        return spool, hers

    spool, hers = prepare(tmp_path / "dry")
    fatal = FatalOS()
    with patched(fatal):
        adopt_others(spool)
    assert (hers in tasks_that_wait(spool)) == (uid == BOB)
    spool.close()
    for number, call in enumerate(fatal.calls, 1):
        spool, hers = prepare(tmp_path / str(number))
        die(lambda spool=spool: lambda: adopt_others(spool), number, how)  # type: ignore[misc] # a default binds it
        if Path(spool.path, "5/dropped").exists():
            adopt_others(spool)
        found = tasks_that_wait(spool)
        where = f"killed {how} call {number}, {call}, of {fatal.calls}"
        if uid == BOB:
            assert found == [hers], where
            [kept] = Path(spool.path, "corrupt").glob("dropped.????????")
            assert kept.stat().st_uid == BOB, where
        else:
            assert set(found) - {hers}, where
            assert len(found) <= 2, where
            assert not Path(spool.path, "5/dropped").exists(), where
        spool.close()
        shutil.rmtree(tmp_path / str(number))
