"""Uniqueness keys: who has one, who may take it, and what becomes of the other."""

import errno
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path

import pytest
from tests.helpers import (
    NOW_US,
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

from spooler.codec import encode
from spooler.errors import CorruptError, SpoolUncertain
from spooler.options import IfExists, RunOptions
from spooler.spooldir import (
    SpoolDir,
    claims,
    dropped,
    files,
    keyed,
    keys,
    owner,
    root,
)
from spooler.spooldir.dropped import Dropped, NotDue
from spooler.spooldir.keys import key_path
from spooler.spooldir.reading import CHUNK, open_task
from spooler.spooldir.recovery import sweep
from spooler.spooldir.repair import kick, ls
from spooler.task import Name, State, derived_id

OWNERS = {os.getuid()}
KEY = key_path("t", "k")
WAYS = pytest.mark.parametrize("way", ["unnamed", "hidden"])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> ToldOS:
    told = ToldOS()
    for module in (root, files, keyed, keys, owner, dropped):
        monkeypatch.setattr(module, "os", told)
    return told


def content(name: Name, if_exists: IfExists = "skip", **options: float) -> bytes:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=name.due_us)
    return encode(
        name.task,
        b"{}",
        at=moment.isoformat(timespec="microseconds"),
        priority=name.priority,
        id=name.id,
        key="k",
        options=RunOptions(if_exists=if_exists, **options),  # type: ignore[arg-type]
    )


def unique(
    spool: SpoolDir,
    if_exists: IfExists = "skip",
    name: Name | None = None,
    *,
    durable: bool = False,
    **options: float,
) -> tuple[Name, Name | None]:
    """Put a task with the key ``k``; return its name, and who has the key."""
    name = name or make_name()
    data = [content(name, if_exists, **options)]
    return name, keys.put(spool, name, data, "k", if_exists, durable=durable)


def first(spool: SpoolDir, unique_for: float | None = None) -> Name:
    options = {} if unique_for is None else {"unique_for": unique_for}
    name, there = unique(spool, "skip", None, durable=False, **options)
    assert there is None
    return name


def move(spool: SpoolDir, name: Name, folder: str, file: str | None = None) -> Path:
    target = Path(spool.path, folder, file or str(name))
    target.parent.mkdir(parents=True, exist_ok=True)
    Path(spool.path, path_of(name)).rename(target)
    return target


def names(spool: SpoolDir) -> list[str]:
    return sorted(tasks(spool))


def age(spool: SpoolDir, seconds: float, path: str = KEY) -> None:
    """Have the file of a key be as old as this."""
    moment = os.stat(f"{spool.path}/{path}").st_mtime_ns - round(seconds * 1e9)
    os.utime(f"{spool.path}/{path}", ns=(moment, moment))


@contextmanager
def locked(spool: SpoolDir, path: str = KEY) -> Iterator[int]:
    """Be another process that is busy with a key."""
    fd = os.open(f"{spool.path}/{path}", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


# -- who has it -------------------------------------------------------------------


def test_the_name_of_a_key_is_the_hash_of_task_and_key() -> None:
    digest = blake2b("résumé\0k 1".encode()).hexdigest()
    assert key_path("résumé", "k 1") == f"keys/{digest[:32]}"


@WAYS
def test_a_key_is_a_second_link_to_its_task(spool: SpoolDir, way: str) -> None:
    spool._tmpfile = way == "unnamed"
    name, _ = unique(spool, durable=True)
    assert set(tree(spool)) == {path_of(name), KEY}
    there = Path(spool.path, path_of(name)).stat()
    assert there.st_nlink == 2
    assert there.st_ino == Path(spool.path, KEY).stat().st_ino


@WAYS
@pytest.mark.parametrize("if_exists", ["skip", "raise"])
def test_a_second_task_with_the_key_is_not_put(
    spool: SpoolDir, way: str, if_exists: IfExists
) -> None:
    spool._tmpfile = way == "unnamed"
    name = first(spool)
    before = tree(spool)
    assert unique(spool, if_exists)[1] == name
    assert tree(spool) == before


def test_a_body_is_not_read_when_the_key_is_taken(spool: SpoolDir) -> None:
    name = first(spool)
    chunks = iter([b"never read"])
    assert keys.put(spool, make_name(), chunks, "k") == name
    assert list(chunks) == [b"never read"]


def test_another_key_and_another_task_are_free(spool: SpoolDir) -> None:
    first(spool)
    assert keys.put(spool, make_name(), [b"x"], "other", durable=False) is None
    assert keys.put(spool, make_name(task="u"), [b"x"], "k", durable=False) is None
    assert len(names(spool)) == 3


@pytest.mark.parametrize("due_us", [0, NOW_US + 1, 9_999_999_999_999_999])
def test_the_name_that_a_task_was_put_with_is_known_exactly(
    spool: SpoolDir, due_us: int
) -> None:
    name = make_name(due_us, priority=77)
    assert unique(spool, name=name) == (name, None)
    assert unique(spool)[1] == name


def test_a_key_is_free_when_its_task_has_ended(spool: SpoolDir) -> None:
    name = first(spool)
    Path(spool.path, path_of(name)).unlink()
    new = first(spool)
    assert names(spool) == [path_of(new)]


@pytest.mark.parametrize("folder", ["running/w1", "held", "3/20301231T2359"])
def test_a_key_is_taken_wherever_its_task_is_unfinished(
    spool: SpoolDir, folder: str
) -> None:
    name = first(spool)
    move(spool, name, folder)
    assert unique(spool)[1] == name
    assert len(names(spool)) == 1


def test_the_key_of_a_failed_task_is_free(spool: SpoolDir) -> None:
    name = first(spool)
    claims.give_up(spool, path_of(name), name, {"v": 1})
    second = first(spool)
    assert {path_of(second), f"failed/{name}"} == set(names(spool))
    assert unique(spool)[1] == second


def test_the_key_of_a_corrupt_task_is_free(spool: SpoolDir) -> None:
    name = first(spool)
    claims.put_aside(spool, path_of(name), "reason", NOW_US)
    first(spool)


def test_a_kicked_task_has_its_key_again(spool: SpoolDir) -> None:
    name = first(spool)
    claims.give_up(spool, path_of(name), name, {"v": 1})
    sweep(spool, late())
    (found,) = ls(spool, State.FAILED)
    kick(spool, found)
    there = unique(spool)[1]
    assert there is not None
    assert there.id == name.id


def test_a_kicked_task_has_lost_its_key_to_one_put_meanwhile(spool: SpoolDir) -> None:
    name = first(spool)
    claims.give_up(spool, path_of(name), name, {"v": 1})
    second = first(spool)
    (found,) = ls(spool, State.FAILED)
    kick(spool, found)
    assert unique(spool)[1] == second


def test_a_key_stays_taken_for_its_time(spool: SpoolDir) -> None:
    name = first(spool, unique_for=60.0)
    Path(spool.path, path_of(name)).unlink()
    assert unique(spool)[1] == name
    age(spool, 59)
    assert unique(spool, "replace")[1] is None  # which takes it all the same
    age(spool, 61)
    for path in names(spool):
        Path(spool.path, path).unlink()
    first(spool)


def test_a_task_waits_longer_than_its_key_was_reserved(spool: SpoolDir) -> None:
    name = first(spool, unique_for=1.0)
    age(spool, 100)
    assert unique(spool)[1] == name


def test_a_reservation_far_in_the_future_is_a_wrong_clock(spool: SpoolDir) -> None:
    name = first(spool, unique_for=60.0)
    Path(spool.path, path_of(name)).unlink()
    age(spool, -3600)
    first(spool)


@pytest.mark.parametrize("data", [b"", b"rubbish", b"{"])
def test_the_key_of_a_file_that_is_no_task_is_free(
    spool: SpoolDir, data: bytes
) -> None:
    place(spool, KEY, data)
    first(spool)


def test_a_fifo_in_the_place_of_a_key_is_removed(spool: SpoolDir) -> None:
    os.mkfifo(f"{spool.path}/{KEY}")
    first(spool)


def test_a_link_in_the_place_of_a_key_is_an_error(spool: SpoolDir) -> None:
    place(spool, "5/x", b"precious")
    Path(spool.path, KEY).symlink_to("../5/x")
    with pytest.raises(OSError, match="symbolic links"):
        unique(spool)
    assert tree(spool) == {"5/x": b"precious"}


def test_the_folder_is_made_again(spool: SpoolDir) -> None:
    Path(spool.path, "keys").rmdir()
    first(spool)


# -- replace ----------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("durable", [True, False])
def test_replace_leaves_the_new_task_alone(
    spool: SpoolDir, way: str, durable: bool
) -> None:
    spool._tmpfile = way == "unnamed"
    first(spool)
    unique(spool, "replace", durable=durable)
    name, there = unique(spool, "replace", durable=durable)
    assert there is None
    assert set(tree(spool)) == {path_of(name), KEY}
    assert unique(spool)[1] == name


def test_replace_finds_a_task_that_was_put_back(spool: SpoolDir) -> None:
    old = first(spool)
    retried = old.but(due_us=NOW_US + 10**9, attempt=2)
    move(spool, old, retried.folder, str(retried))
    place(spool, f"logs/{old.id}.attempts")
    new, _ = unique(spool, "replace", durable=True)
    assert set(tree(spool)) == {path_of(new), KEY}


@pytest.mark.parametrize(
    ("folder", "file"), [("held", None), (".", "dropped"), ("7", "dropped")]
)
def test_replace_finds_a_task_that_is_held_or_dropped(
    spool: SpoolDir, folder: str, file: str | None
) -> None:
    move(spool, first(spool), folder, file)
    new, _ = unique(spool, "replace", durable=True)
    assert set(tree(spool)) == {path_of(new), KEY}


@pytest.mark.parametrize("folder", ["running/w1", "failed", "corrupt"])
def test_replace_leaves_a_task_that_does_not_wait(spool: SpoolDir, folder: str) -> None:
    old = move(spool, first(spool, unique_for=60.0), folder)
    new, there = unique(spool, "replace")
    assert there is None
    assert set(names(spool)) == {path_of(new), f"{folder}/{old.name}"}
    assert unique(spool)[1] == new


def test_replace_takes_a_reserved_key(spool: SpoolDir) -> None:
    Path(spool.path, path_of(first(spool, unique_for=60.0))).unlink()
    new, there = unique(spool, "replace")
    assert there is None
    assert names(spool) == [path_of(new)]


def test_replace_looks_again_for_a_task_that_moves(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, told: ToldOS
) -> None:
    old = first(spool)
    told.fail("unlink", errno.ENOENT)  # as if it had been claimed just then
    new, _ = unique(spool, "replace")
    assert names(spool) == [path_of(new)], old


def test_replace_passes_a_worker_into_whose_folder_it_may_not_look(
    spool: SpoolDir, told: ToldOS, caplog: pytest.LogCaptureFixture
) -> None:
    old = first(spool)
    move(spool, old, old.folder, str(old.but(attempt=1)))
    Path(spool.path, "running/w1").mkdir()
    told.fail("scandir", None, None, errno.EACCES)  # after failed/ and corrupt/
    new, _ = unique(spool, "replace")
    assert names(spool) == [path_of(new)]
    assert caplog.text == ""


def test_replace_gives_up_a_task_that_it_cannot_find(spool: SpoolDir) -> None:
    old = move(spool, first(spool), "tmp")
    new, there = unique(spool, "replace")
    assert there is None
    assert names(spool) == [path_of(new)]
    assert old.exists()


def test_replace_says_what_it_cannot_remove(
    spool: SpoolDir, told: ToldOS, caplog: pytest.LogCaptureFixture
) -> None:
    old = first(spool)
    told.fail("unlink", errno.EIO)
    new, there = unique(spool, "replace")
    assert there is None
    assert names(spool) == sorted([path_of(old), path_of(new)])
    assert "cannot remove the task that was replaced" in caplog.text


# -- others -----------------------------------------------------------------------


@WAYS
def test_the_key_of_a_producer_who_died_is_free(spool: SpoolDir, way: str) -> None:
    spool._tmpfile = way == "unnamed"
    name = make_name()
    fd, hidden = spool.write(name, [content(name)], durable=False)
    with keys.Taking(spool, KEY) as taking:
        assert taking.take(fd, hidden, "skip") is None
    os.close(fd)
    new = first(spool)
    assert set(tree(spool)) == {path_of(new), KEY}


def test_a_left_over_name_does_not_keep_a_key(spool: SpoolDir) -> None:
    spool._tmpfile = False
    name = first(spool)
    old = Path(spool.path, path_of(name))
    os.link(old, old.with_name(f".{name}"))  # its producer died before the unlink
    assert unique(spool)[1] == name
    old.unlink()
    new = first(spool)
    assert set(tree(spool)) == {path_of(new), KEY}


def test_a_producer_waits_for_another(spool: SpoolDir) -> None:
    name = first(spool)
    fd = os.open(f"{spool.path}/{KEY}", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    timer = threading.Timer(0.1, os.close, [fd])
    timer.start()
    assert unique(spool)[1] == name
    timer.join()


@pytest.mark.parametrize("if_exists", ["skip", "replace"])
def test_a_producer_does_not_wait_for_ever(
    spool: SpoolDir, if_exists: IfExists, monkeypatch: pytest.MonkeyPatch
) -> None:
    first(spool)
    before = tree(spool)
    monkeypatch.setattr(keys, "LOCK_TIMEOUT", 0.05)
    with (
        locked(spool),
        pytest.raises(TimeoutError, match=r"with this key for 0.05 s.*keys/"),
    ):
        unique(spool, if_exists)
    assert tree(spool) == before


def test_a_name_that_is_another_file_by_now_is_looked_at_again(
    spool: SpoolDir,
) -> None:
    old = first(spool)
    data = content(make_name())
    with locked(spool) as fd:
        found: list[Name | None] = []
        thread = threading.Thread(target=lambda: found.append(unique(spool)[1]))
        thread.start()
        new = make_name()
        place(spool, "tmp/new", data)
        place(spool, path_of(new), content(new))
        os.link(f"{spool.path}/{path_of(new)}", f"{spool.path}/keys/.x")
        os.rename(f"{spool.path}/keys/.x", f"{spool.path}/{KEY}")
        Path(spool.path, path_of(old)).unlink()
        fcntl.flock(fd, fcntl.LOCK_UN)
        thread.join()
    assert found == [new]


def test_a_chosen_id_that_is_taken_leaves_the_key_free(spool: SpoolDir) -> None:
    name = put(spool)
    with pytest.raises(FileExistsError):
        unique(spool, name=name)
    assert set(tree(spool)) == {path_of(name)}


def test_a_replacement_that_cannot_be_put_gives_the_key_back(spool: SpoolDir) -> None:
    old, name = first(spool), put(spool)
    with pytest.raises(FileExistsError):
        unique(spool, "replace", name=name)
    assert set(tree(spool)) == {path_of(old), path_of(name), KEY}
    assert unique(spool)[1] == old


# -- file systems -----------------------------------------------------------------


def test_file_and_both_folders_are_synced_before_the_old_task_is_removed(
    spool: SpoolDir, told: ToldOS
) -> None:
    old = first(spool)
    told.calls.clear()
    new, _ = unique(spool, "replace", durable=True)
    assert told.syncs(spool.path)[:1] == ["file"]
    assert told.syncs(spool.path)[1:] == [new.folder, "5", "keys", old.folder]
    calls = [each.removeprefix(f"fsync {spool.path}/") for each in told.calls]
    assert calls.index("keys") < calls.index("unlink")
    assert old.folder in calls[calls.index("unlink") :]


def test_without_a_key_a_put_makes_the_same_calls_as_ever(
    spool: SpoolDir, told: ToldOS
) -> None:
    name = put(spool)
    told.calls.clear()
    put(spool, make_name(name.due_us))
    assert told.calls == ["open", "write", "link", "close"]


def test_a_key_costs_a_few_calls(spool: SpoolDir, told: ToldOS) -> None:
    put(spool)
    told.calls.clear()
    first(spool)
    assert told.calls.count("open") == 2
    assert told.calls.count("link") == 2
    assert told.calls.count("write") == 1
    assert len(told.calls) <= 8


def test_no_hard_links_is_said_clearly(spool: SpoolDir, told: ToldOS) -> None:
    told.fail("link", errno.EPERM)
    with pytest.raises(OSError, match="uniqueness keys need hard links"):
        unique(spool)
    assert tree(spool) == {}


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_no_locks_is_said_clearly(
    spool: SpoolDir, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="uniqueness keys need locks"):
        unique(spool)
    assert tree(spool) == {}


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO])
def test_an_error_at_the_lock_is_the_systems_own(
    spool: SpoolDir, told: ToldOS, error: int
) -> None:
    told.fail("link", error)
    with pytest.raises(OSError, match=os.strerror(error)):
        unique(spool)
    assert tree(spool) == {}


def test_a_sync_that_fails_at_the_end_leaves_a_task_that_may_run(
    spool: SpoolDir, told: ToldOS
) -> None:
    told.fail("fsync", None, None, None, errno.EIO)
    with pytest.raises(SpoolUncertain):
        unique(spool, durable=True)
    assert len(names(spool)) == 1


def test_a_rename_that_fails_leaves_the_old_task_its_key(
    spool: SpoolDir, told: ToldOS
) -> None:
    old = first(spool)
    told.fail("rename", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        unique(spool, "replace")
    assert set(tree(spool)) == {path_of(old), KEY}
    assert unique(spool)[1] == old


# -- dropped ----------------------------------------------------------------------


def drop(spool: SpoolDir, more: bytes = b"", path: str = "5/dropped") -> Path:
    return place(spool, path, b"task=t\nkey=k\n" + more)


def adopter(spool: SpoolDir) -> Callable[[str], str | bool | NotDue]:
    def adopt(file: str) -> str | bool | NotDue:
        folder, _, name = file.rpartition("/")
        return Dropped(spool, OWNERS, real_clock()).adopt(
            folder or ".", name, finished=True
        )

    return adopt


REPLACE = b'options:={"if_exists":"replace"}\n'


def test_a_dropped_file_takes_its_key(spool: SpoolDir) -> None:
    drop(spool)
    path = adopter(spool)("5/dropped")
    assert isinstance(path, str)
    assert set(tree(spool)) == {path, KEY}
    there = unique(spool)[1]
    assert there is not None
    assert f".{there.id}." in path


def test_the_id_of_a_dropped_file_is_computed_from_it(spool: SpoolDir) -> None:
    status = drop(spool).stat()
    path = adopter(spool)("5/dropped")
    task_id = derived_id(KEY[5:], status.st_ino, status.st_mtime_ns)
    assert f".{task_id}." in str(path)


def test_a_dropped_file_keeps_the_id_that_it_chose(spool: SpoolDir) -> None:
    drop(spool, b"id=00000000000000ff\n")
    assert ".00000000000000ff." in str(adopter(spool)("5/dropped"))


def test_a_dropped_file_whose_key_is_taken_is_removed(
    spool: SpoolDir, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    name = first(spool)
    drop(spool)
    assert adopter(spool)("5/dropped") is False
    assert names(spool) == [path_of(name)]
    assert f"skip name=t spool={spool.path} from=5/dropped: task={name.id}" in (
        caplog.text
    )


def test_a_dropped_file_may_be_read_only(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(spool)
    told = ToldOS()
    told.fail("open", None, errno.EACCES, None)  # to read; the key to write, to read
    for module in (owner, keyed):
        monkeypatch.setattr(module, "os", told)
    path = adopter(spool)("5/dropped")
    there = unique(spool)[1]
    assert set(tree(spool)) == {path, KEY}
    assert there is not None
    assert f".{there.id}." in str(path)


def test_a_dropped_file_replaces(spool: SpoolDir) -> None:
    first(spool)
    drop(spool, REPLACE)
    path = adopter(spool)("5/dropped")
    assert set(tree(spool)) == {path, KEY}


def test_a_dropped_file_that_is_linked_already_is_adopted(spool: SpoolDir) -> None:
    os.link(drop(spool, REPLACE), f"{spool.path}/{KEY}")
    path = adopter(spool)("5/dropped")
    assert set(tree(spool)) == {path, KEY}


def test_an_adoption_that_died_at_the_rename_is_done_again(spool: SpoolDir) -> None:
    first(spool)
    file = drop(spool, REPLACE)
    os.link(file, f"{spool.path}/keys/.{KEY[5:]}.{file.stat().st_ino}")
    path = adopter(spool)("5/dropped")
    assert set(tree(spool)) == {path, KEY}


def test_a_busy_file_and_a_busy_key_are_looked_at_again(spool: SpoolDir) -> None:
    first(spool)
    drop(spool)
    with locked(spool, "5/dropped"):
        assert adopter(spool)("5/dropped") is True
    with locked(spool):
        assert adopter(spool)("5/dropped") is True
    assert adopter(spool)("5/dropped") is False


def test_a_file_that_was_swapped_is_left(spool: SpoolDir) -> None:
    status = drop(spool).stat()
    drop(spool, path="5/other").rename(f"{spool.path}/5/dropped")
    with pytest.raises(FileNotFoundError):
        keyed.adopt(spool, "5/dropped", status, make_name(), "k", "skip")
    assert set(tree(spool)) == {"5/dropped"}


@pytest.mark.parametrize("taken", [True, False])
def test_another_users_file_is_copied(
    spool: SpoolDir, taken: bool, told: ToldOS, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = first(spool) if taken else None
    inode = drop(spool, b"\nbody").stat().st_ino
    monkeypatch.setattr(told, "geteuid", lambda: os.getuid() + 1, raising=False)
    path = adopter(spool)("5/dropped")
    if name is not None:
        assert path is False
        assert names(spool) == [path_of(name)]
        return
    assert set(tree(spool)) == {path, KEY}
    copy = Path(spool.path, str(path))
    assert copy.read_bytes() == b"task=t\nkey=k\n\nbody"
    assert copy.stat().st_ino != inode


# -- of others --------------------------------------------------------------------

ALICE, BOB, SHOP = 12345, 12346, 12347
OTHERS = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


@pytest.fixture(params=["given", "marked"])
def members(
    request: pytest.FixtureRequest, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int, bytes], str | bool | NotDue]:
    """Give what adopts a copy of a user's file: as root does, or another daemon."""
    if request.param == "marked":
        monkeypatch.setattr(os, "geteuid", lambda: SHOP)

    def adopt(uid: int, more: bytes = b"") -> str | bool | NotDue:
        drop(spool, more, f"5/{uid}")
        return adopt_of(spool, uid)

    return adopt


def adopt_of(spool: SpoolDir, uid: int, file: str = "") -> str | bool | NotDue:
    """Adopt what a user has dropped, under the name of his uid."""
    path = Path(spool.path, "5", file or str(uid))
    os.chown(path, uid, -1)
    clock = real_clock()
    clock.advance(5)
    return Dropped(spool, {0, ALICE, BOB}, clock).adopt("5", path.name, finished=True)


def waiting(spool: SpoolDir) -> list[str]:
    return sorted(f"{folder}/{name}" for folder, name in spool.waiting())


def reasons(spool: SpoolDir) -> set[str]:
    found = Path(spool.path, "corrupt").glob("*.why")
    return {json.loads(path.read_text())["reason"] for path in found}


def refusal(uid: int, of: int) -> str:
    return (
        f"is to replace a task with its key, which uid {uid} may not do: that is of uid"
        f" {of}"
    )


@OTHERS
def test_a_user_replaces_his_own_task_and_nobody_elses(
    spool: SpoolDir, members: Callable[..., str | bool | NotDue]
) -> None:
    hers = members(ALICE)
    assert members(BOB, REPLACE) is False
    assert waiting(spool) == [hers]
    assert reasons(spool) == {refusal(BOB, ALICE)}
    later = members(ALICE, REPLACE + b"n=2\n")
    assert later != hers
    assert waiting(spool) == [later]
    assert members(BOB) is False  # it is skipped
    assert waiting(spool) == [later]
    assert len(reasons(spool)) == 1


@OTHERS
def test_the_owner_of_a_spool_replaces_all_and_is_replaced_by_nobody(
    spool: SpoolDir, members: Callable[..., str | bool | NotDue]
) -> None:
    mine = first(spool)
    assert members(ALICE, REPLACE) is False
    assert waiting(spool) == [path_of(mine)]
    assert reasons(spool) == {refusal(ALICE, 0)}
    Path(spool.path, path_of(mine)).unlink()
    members(ALICE)
    own = members(0, REPLACE)
    assert waiting(spool) == [own]


@OTHERS
def test_a_key_that_is_kept_is_not_taken_over_either(
    spool: SpoolDir, members: Callable[..., str | bool | NotDue]
) -> None:
    kept = b'options:={"unique_for":3600}\n'
    Path(spool.path, str(members(ALICE, kept))).unlink()
    assert members(BOB, REPLACE) is False
    assert reasons(spool) == {refusal(BOB, ALICE)}
    assert isinstance(members(ALICE, REPLACE), str)


@OTHERS
def test_nobody_says_on_his_own_file_that_it_is_of_another(
    spool: SpoolDir, members: Callable[..., str | bool | NotDue]
) -> None:
    hers = Path(spool.path, str(members(ALICE)))
    os.chown(hers, BOB, BOB)
    os.setxattr(hers, owner.MARK, b"%d" % ALICE)
    assert members(ALICE, REPLACE) is False
    assert reasons(spool) == {refusal(ALICE, BOB)}


@OTHERS
@pytest.mark.parametrize("if_exists", ["skip", "replace"])
def test_who_has_his_file_open_and_locked_holds_up_nobody(
    spool: SpoolDir,
    members: Callable[..., str | bool | NotDue],
    monkeypatch: pytest.MonkeyPatch,
    if_exists: IfExists,
) -> None:
    os.link(drop(spool, path=f"5/{ALICE}"), f"{spool.path}/5/.mine")
    with locked(spool, "5/.mine") as fd:
        assert members(ALICE) is True
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.unlink(f"{spool.path}/5/{ALICE}")
        os.rename(f"{spool.path}/5/.mine", f"{spool.path}/5/{ALICE}")
        os.link(f"{spool.path}/5/{ALICE}", f"{spool.path}/5/.mine")
        hers = adopt_of(spool, ALICE)
        fcntl.flock(fd, fcntl.LOCK_EX)
        monkeypatch.setattr(keys, "LOCK_TIMEOUT", 0.05)
        new, there = unique(spool, if_exists)
        path = path_of(new) if if_exists == "replace" else str(hers)
        assert waiting(spool) == [path]
        assert (there is None) == (if_exists == "replace")
        Path(spool.path, path).unlink()
        assert keys.sweep(spool, late()) == 1


@OTHERS
def test_a_copy_is_as_its_sender_would_have_put_it(spool: SpoolDir) -> None:
    os.chown(f"{spool.path}/5", -1, SHOP)
    file = drop(spool, b"\nbody")
    os.chown(file, ALICE, BOB)
    os.utime(file, ns=(7, 7_000_000_007))
    file.chmod(0o604)
    inode = file.stat().st_ino
    path = Path(spool.path, str(adopt_of(spool, ALICE, "dropped")))
    status = path.stat()
    assert status.st_ino == Path(spool.path, KEY).stat().st_ino != inode
    assert (status.st_uid, status.st_gid) == (ALICE, SHOP)
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o660, 7_000_000_007)
    assert path.read_bytes() == b"task=t\nkey=k\n\nbody"


@OTHERS
def test_the_id_of_a_copy_is_computed_from_it(
    spool: SpoolDir,
    members: Callable[..., str | bool | NotDue],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    path = str(members(ALICE))
    status = Path(spool.path, path).stat()
    task_id = derived_id(KEY[5:], status.st_ino, status.st_mtime_ns)
    assert f".{task_id}." in path
    members(BOB)
    assert f"adopt task={task_id} name=t" in caplog.text
    assert f"task={task_id} has its key" in caplog.text


@OTHERS
def test_a_copy_of_a_hole_is_a_hole(
    spool: SpoolDir, members: Callable[..., str | bool | NotDue]
) -> None:
    size = 4 << 30
    file = drop(spool, b"\n", f"5/{ALICE}")
    with file.open("r+b") as body:
        body.seek(size // 2)
        body.write(b"middle")
        body.truncate(size)
    path = Path(spool.path, str(adopt_of(spool, ALICE)))
    status = path.stat()
    assert (status.st_size, status.st_blocks < 1000) == (size, True)
    with path.open("rb") as body:
        assert body.read(15) == b"task=t\nkey=k\n\n\0"
        body.seek(size // 2 - 1)
        assert body.read(8) == b"\0middle\0"


@OTHERS
def test_what_may_not_replace_is_refused_before_it_is_copied(
    spool: SpoolDir,
    members: Callable[..., str | bool | NotDue],
    told: ToldOS,
) -> None:
    members(ALICE)
    drop(spool, REPLACE)
    sender = keys.Sender(BOB, lambda: False)
    told.calls.clear()
    with (
        closing(open_task("5/dropped", OWNERS, dir_fd=spool.fd)) as task,
        pytest.raises(CorruptError, match="is to replace a task"),
    ):
        keyed.adopt_copy(
            spool, "5/dropped", task, make_name(), "k", "replace", sender=sender
        )
    assert not {"write", "lseek", "truncate", "link"} & set(told.calls)
    assert told.syncs(spool.path) == []


@OTHERS
def test_a_copy_that_cannot_be_synced_is_an_error_and_no_second_task(
    spool: SpoolDir, members: Callable[..., str | bool | NotDue], told: ToldOS
) -> None:
    told.fail("fsync", None, errno.EIO)  # the file; its folder
    with pytest.raises(OSError, match=r"could not be synced \(.*it may run"):
        members(ALICE)
    [hers] = waiting(spool)
    assert set(tree(spool)) == {hers, f"5/{ALICE}", KEY}
    assert adopt_of(spool, ALICE) is False
    assert set(tree(spool)) == {hers, KEY}


def test_one_daemon_makes_a_copy(spool: SpoolDir) -> None:
    drop(spool, REPLACE)
    with closing(open_task("5/dropped", OWNERS, dir_fd=spool.fd)) as task:
        wanted = (make_name(), "k", "replace")
        with locked(spool, "5/dropped"), pytest.raises(BlockingIOError):
            keyed.adopt_copy(spool, "5/dropped", task, *wanted)  # type: ignore[arg-type]
        other = open_task("5/dropped", OWNERS, dir_fd=spool.fd)
        with closing(other):
            [name, adopted] = keyed.adopt_copy(spool, "5/dropped", other, *wanted)  # type: ignore[arg-type]
        assert adopted
        with pytest.raises(FileNotFoundError):
            keyed.adopt_copy(spool, "5/dropped", task, *wanted)  # type: ignore[arg-type]
    assert names(spool) == [path_of(name)]


@OTHERS
def test_a_copy_of_which_nothing_is_said_is_the_daemons(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, told: ToldOS
) -> None:
    monkeypatch.setattr(told, "geteuid", lambda: SHOP, raising=False)
    told.fail("setxattr", errno.EOPNOTSUPP)
    clock = real_clock()
    clock.advance(5)
    adopter = Dropped(spool, {0, ALICE}, clock)
    for more in (b"", REPLACE):
        os.chown(drop(spool, more), ALICE, ALICE)
        adopter.adopt("5", "dropped", finished=True)
    assert len(waiting(spool)) == 1
    assert reasons(spool) == {refusal(ALICE, 0)}


def test_what_was_read_is_copied_whatever_has_its_name(
    spool: SpoolDir, told: ToldOS
) -> None:
    file = drop(spool, b"n=1\n")
    real = told.link

    def link(*args: object, **kwargs: object) -> None:
        if file.read_bytes().endswith(b"2\n"):
            drop(spool, b"n=3\n", "5/other").rename(file)
        real(*args, **kwargs)

    vars(told)["link"] = link
    with closing(open_task("5/dropped", OWNERS, dir_fd=spool.fd)) as task:
        with file.open("ab") as more:
            more.write(b"n=2\n")
        got = keyed.adopt_copy(spool, "5/dropped", task, make_name(), "k", "skip")
    assert tasks(spool) == {
        path_of(got[0]): b"task=t\nkey=k\nn=1\n",
        "5/dropped": b"task=t\nkey=k\nn=3\n",
    }


def test_a_file_that_has_grown_while_it_was_opened_is_copied_with_its_key(
    spool: SpoolDir,
) -> None:
    drop(spool)
    with closing(open_task("5/dropped", OWNERS, dir_fd=spool.fd)) as task:
        task.size = 7  # as it was asked for just before the bytes were read
        got = keyed.adopt_copy(spool, "5/dropped", task, make_name(), "k", "skip")
    assert tasks(spool) == {path_of(got[0]): b"task=t\nkey=k\n"}


def test_a_copy_of_a_file_that_was_swapped_is_not_made(spool: SpoolDir) -> None:
    drop(spool)
    with closing(open_task("5/dropped", OWNERS, dir_fd=spool.fd)) as task:
        drop(spool, b"n=2\n", "5/other").rename(f"{spool.path}/5/dropped")
        with pytest.raises(FileNotFoundError):
            keyed.adopt_copy(spool, "5/dropped", task, make_name(), "k", "skip")
    assert tasks(spool) == {"5/dropped": b"task=t\nkey=k\nn=2\n"}


def test_the_header_that_was_read_is_copied_whatever_is_written_over_it(
    spool: SpoolDir,
) -> None:
    file = drop(spool, b"\n" + bytes(CHUNK))
    with closing(open_task("5/dropped", OWNERS, dir_fd=spool.fd)) as task:
        with file.open("r+b") as same:
            same.write(b"task=t\nkex=k\n")  # a copy without a key is the daemon's own
        got = keyed.adopt_copy(spool, "5/dropped", task, make_name(), "k", "skip")
    assert tasks(spool) == {path_of(got[0]): b"task=t\nkey=k\n\n" + bytes(CHUNK)}


def test_what_was_read_is_linked_whatever_has_its_name(
    spool: SpoolDir, told: ToldOS
) -> None:
    file, real = drop(spool), told.link

    def link(*args: object, **kwargs: object) -> None:
        file.rename(f"{spool.path}/5/aside")
        drop(spool, b"n=2\n")
        real(*args, **kwargs)

    vars(told)["link"] = link
    adopter(spool)("5/dropped")
    assert Path(spool.path, KEY).read_bytes() == b"task=t\nkey=k\n"


def test_a_file_that_is_swapped_before_it_is_locked_is_left(
    spool: SpoolDir, told: ToldOS
) -> None:
    first(spool)
    file = drop(spool, REPLACE)
    real, opened = told.open, []

    def swap(path: str, *args: object, **kwargs: object) -> int:
        opened.append(path)
        if opened.count("5/dropped") == 2:  # to find out who writes; and to lock it
            os.rename(file, f"{spool.path}/5/aside")
            drop(spool, REPLACE + b"n=2\n")
            fd = real(path, *args, **kwargs)
            os.rename(f"{spool.path}/5/aside", file)
            return int(fd)
        return int(real(path, *args, **kwargs))

    vars(told)["open"] = swap
    before = tasks(spool)
    assert adopter(spool)("5/dropped") is False
    assert tasks(spool) == before


def test_an_operators_move_is_not_asked_for_its_key(spool: SpoolDir) -> None:
    name = first(spool)
    claims.give_up(spool, path_of(name), name, {"v": 1})
    second = first(spool)
    Path(spool.path, f"failed/{name}").rename(f"{spool.path}/5/{name}")
    assert adopter(spool)(f"5/{name}") == path_of(name)
    assert {path_of(second), path_of(name)} <= set(names(spool))


# -- sweep ------------------------------------------------------------------------


def late(seconds: float = 3700.0) -> FakeClock:
    clock = real_clock()
    clock.advance(seconds)
    return clock


def test_sweep_removes_the_key_of_a_task_that_ended_an_hour_ago(
    spool: SpoolDir,
) -> None:
    Path(spool.path, path_of(first(spool))).unlink()
    assert keys.sweep(spool, late(3500)) == 0
    assert keys.sweep(spool, late()) == 1
    assert tree(spool) == {}


def test_sweep_leaves_keys_that_are_taken(spool: SpoolDir) -> None:
    waiting = first(spool)
    assert keys.sweep(spool, late()) == 0
    Path(spool.path, path_of(waiting)).unlink()
    with locked(spool):
        assert keys.sweep(spool, late()) == 0
    Path(spool.path, KEY).unlink()
    Path(spool.path, path_of(first(spool, unique_for=7200.0))).unlink()
    assert keys.sweep(spool, late()) == 0
    assert keys.sweep(spool, late(7300)) == 1


def test_sweep_goes_on_after_what_is_no_file(spool: SpoolDir) -> None:
    Path(spool.path, "keys/folder").mkdir()
    Path(spool.path, path_of(first(spool))).unlink()
    assert sweep(spool, late(10 * 86_400)) == 1


def test_sweep_looks_at_so_many_and_begins_anywhere(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        place(spool, f"keys/{number:032x}")
    monkeypatch.setattr(keys, "SWEEP_MAX", 7)
    assert [keys.sweep(spool, late()) for _ in range(4)] == [7, 7, 6, 0]


def test_hidden_names_are_swept_by_age(spool: SpoolDir) -> None:
    place(spool, "keys/.left.1")
    assert sweep(spool, late()) == 0
    assert sweep(spool, late(2 * 86_400)) == 1
