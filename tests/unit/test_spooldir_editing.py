"""Put a file with another header in the place of a task that has not begun."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.helpers import NOW_US, ToldOS, make_name, path_of, put, tasks, tree

from spooler.clock import CLOCK
from spooler.errors import NotFoundError, UsageError
from spooler.spooldir import (
    SpoolDir,
    claims,
    control,
    editing,
    exchange,
    keys,
    owner,
    repair,
    timers,
)
from spooler.spooldir.reading import TaskFile
from spooler.spooldir.repair import Found
from spooler.spooldir.signing import Signer
from spooler.task import MINUTE_US, Name, State

ID = "8c1f42d09ab3e617"
HEAD = b'{"task":"t","args":{"a":1}}\n'
NEW = b'{"task":"u","args":{"a":22222}}\n'
BODY = b"body\0\n" * 1000
LATER_US = NOW_US + 5 * MINUTE_US

Edited = tuple[Found, TaskFile, Name]


def refusing(code: int) -> Callable[..., int]:
    """Return a renameat2 that fails."""

    def renameat2(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    return renameat2


@pytest.fixture(params=["the file system", "the C library"])
def no_exchange(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have something that cannot exchange two files."""
    by_file_system = request.param == "the file system"
    made = refusing(errno.EINVAL) if by_file_system else None
    monkeypatch.setattr(exchange, "_renameat2", made)


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[str], object]) -> None:
    """Have something happen to the task, at a path, just before the exchange."""

    def both(root: int, one: str, other: str) -> bool:
        monkeypatch.undo()
        act(other)
        return exchange.exchange(root, one, other)

    monkeypatch.setattr(editing, "exchange", both)


def found(spool: SpoolDir) -> Found:
    return repair.find(spool, ID)


def begin(
    spool: SpoolDir, state: State = State.WAITING, data: bytes = HEAD + BODY
) -> Edited:
    name = put(spool, make_name(id=ID), data)
    if state is State.HELD:
        control.hold(spool, found(spool))
    there = found(spool)
    return there, repair.read(spool, there), name


def whole(spool: SpoolDir) -> dict[str, bytes]:
    """Return the tasks; no hidden file may be left."""
    assert not [p for p in tree(spool) if "/." in p and p != "timers/.lock"]
    return tasks(spool)


@pytest.mark.parametrize("state", [State.WAITING, State.HELD])
def test_the_header_changes_and_the_body_stays(spool: SpoolDir, state: State) -> None:
    there, task, name = begin(spool, state)
    path = editing.replace(spool, there, task, NEW, name)
    task.close()
    assert path == (f"held/{name}" if state is State.HELD else path_of(name))
    assert whole(spool) == {path: NEW + BODY}


@pytest.mark.parametrize("state", [State.WAITING, State.HELD])
def test_the_name_changes(spool: SpoolDir, state: State) -> None:
    there, task, name = begin(spool, state)
    other = Name(LATER_US, 0, name.attempt, ID, "u")
    path = editing.replace(spool, there, task, NEW, other)
    task.close()
    assert path == (f"held/{other}" if state is State.HELD else path_of(other))
    assert whole(spool) == {path: NEW + BODY}


def test_the_file_is_as_old_and_as_private_as_before(spool: SpoolDir) -> None:
    there, task, name = begin(spool)
    file = Path(spool.path, there.path)
    file.chmod(0o640)
    os.utime(file, ns=(10**18, 10**18 + 1))
    path = editing.replace(spool, there, task, NEW, name)
    task.close()
    status = os.stat(Path(spool.path, path))
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 10**18 + 1)


def test_the_file_belongs_to_whom_it_belonged(spool: SpoolDir) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    there, task, name = begin(spool)
    os.chown(Path(spool.path, there.path), 12, 34)
    path = editing.replace(spool, there, task, NEW, name)
    task.close()
    status = os.stat(Path(spool.path, path))
    assert (status.st_uid, status.st_gid) == (12, 34)


@pytest.mark.parametrize("way", ["kernel", "sendfile"])
def test_a_large_body_is_copied_in_pieces(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(editing, "CHUNK", 1000)
    there, task, name = begin(spool)
    told = ToldOS()
    if way == "sendfile":
        told.fail("copy_file_range", errno.EXDEV)
    monkeypatch.setattr(editing, "os", told)
    path = editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool) == {path: NEW + BODY}
    calls = {"kernel": "copy_file_range", "sendfile": "sendfile"}
    assert told.calls.count(calls[way]) > 5


def test_a_worker_that_was_first_keeps_the_task_as_it_was(spool: SpoolDir) -> None:
    there, task, name = begin(spool)
    worker = claims.Claims(spool, "w1", {os.getuid()})
    assert worker.claim(there.path) is not None
    with pytest.raises(NotFoundError, match="somebody else has just moved it"):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    os.close(worker._fd)
    assert whole(spool) == {f"running/w1/{name}": HEAD + BODY}


@pytest.mark.parametrize("state", [State.WAITING, State.HELD])
def test_a_file_that_somebody_else_has_changed_is_left_as_it_is(
    spool: SpoolDir, state: State
) -> None:
    there, task, name = begin(spool, state)
    second = repair.read(spool, there)
    path = editing.replace(spool, there, second, NEW, name)
    second.close()
    with pytest.raises(NotFoundError, match="changed or moved"):
        editing.replace(spool, there, task, HEAD, name)
    task.close()
    assert whole(spool) == {path: NEW + BODY}


# -- whose task it is -------------------------------------------------------------

OWNER, MEMBER = 4711, 4712


as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


@contextmanager
def another(spool: SpoolDir) -> Iterator[None]:
    """Be the user to whom all folders of a spool belong."""
    for folder, _, _ in os.walk(spool.path):
        os.chown(folder, OWNER, OWNER)
    os.setegid(OWNER)
    os.seteuid(OWNER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def spool_opener(spool: SpoolDir) -> Callable[[str, int], int]:
    return lambda path, flags: os.open(path, flags, dir_fd=spool.fd)


def begin_of(spool: SpoolDir, uid: int, data: bytes = HEAD + BODY) -> Edited:
    """Put a task whose file belongs to a user, as members make them."""
    there, task, name = begin(spool, data=data)
    os.fchown(task.fd, uid, OWNER)
    os.fchmod(task.fd, 0o660)
    return there, task, name


@as_root
@pytest.mark.parametrize("uid", [0, MEMBER])
def test_what_cannot_stay_the_file_of_its_owner_says_who_that_was(
    spool: SpoolDir, uid: int
) -> None:
    there, task, name = begin_of(spool, uid)
    with another(spool):
        path = editing.replace(spool, there, task, NEW, name)
        with open(path, "rb", opener=spool_opener(spool)) as file:
            status = os.fstat(file.fileno())
            assert owner.sender_of(spool, file.fileno()) == uid
            assert owner.asker_of(file.fileno()) == uid
    task.close()
    assert (status.st_uid, status.st_mode & 0o777) == (OWNER, 0o640)
    assert whole(spool) == {path: NEW + BODY}


@as_root
def test_an_own_file_stays_ones_own(spool: SpoolDir) -> None:
    there, task, name = begin_of(spool, OWNER)
    with another(spool):
        path = editing.replace(spool, there, task, NEW, name)
        with open(path, "rb", opener=spool_opener(spool)) as file:
            assert owner.asker_of(file.fileno()) == OWNER
            assert os.listxattr(file.fileno()) == []
    task.close()
    assert os.stat(Path(spool.path, path)).st_mode & 0o777 == 0o660


@as_root
def test_nobody_else_says_that_a_task_is_this_users_own(spool: SpoolDir) -> None:
    there, task, name = begin_of(spool, MEMBER)
    owner.mark(task.fd, OWNER)
    with another(spool):
        os.seteuid(0)
        os.fchown(spool.fd, MEMBER, OWNER)
        os.fchmod(spool.fd, 0o770)
        os.seteuid(OWNER)
        assert MEMBER in owner.masters(spool)
        path = editing.replace(spool, there, task, NEW, name)
        with open(path, "rb", opener=spool_opener(spool)) as file:
            assert owner.asker_of(file.fileno()) == MEMBER
            assert owner.sender_of(spool, file.fileno()) == MEMBER
    task.close()


@as_root
def test_a_foreign_task_that_cannot_be_told_from_ones_own_is_left(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, task, name = begin_of(spool, MEMBER)
    told = ToldOS()
    told.fail("setxattr", errno.EOPNOTSUPP)
    monkeypatch.setattr(owner, "os", told)
    wrong = pytest.raises(
        UsageError, match=r"no extended attributes .* edit it as root"
    )
    with wrong, another(spool):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool) == {there.path: HEAD + BODY}


@as_root
def test_a_signed_task_needs_not_say_whose_it_is(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text(os.urandom(32).hex())
    spool.signer = signer = Signer(str(key))
    there, task, name = begin_of(spool, MEMBER, signer.sign(ID, HEAD + BODY))
    told = ToldOS()
    told.fail("setxattr", errno.EOPNOTSUPP)
    monkeypatch.setattr(owner, "os", told)
    with another(spool):
        path = editing.replace(spool, there, task, NEW, name)
    task.close()
    assert os.stat(Path(spool.path, path)).st_uid == OWNER


@pytest.mark.parametrize(
    ("value", "uid"), [(b"12345", 12345), (b"-1", -1), (b"rubbish", -1)]
)
def test_what_a_file_of_ones_own_says_counts(
    spool: SpoolDir, value: bytes, uid: int
) -> None:
    _, task, _ = begin(spool)
    assert owner.asker_of(task.fd) == os.geteuid()
    os.setxattr(task.fd, owner.MARK, value)
    assert owner.asker_of(task.fd) == uid
    assert owner.sender_of(spool, task.fd) == uid
    task.close()


def test_an_error_does_not_make_a_task_ones_own(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, task, _ = begin(spool)
    told = ToldOS()
    told.fail("getxattr", errno.EIO)
    monkeypatch.setattr(owner, "os", told)
    with pytest.raises(OSError, match="Input/output"):
        owner.asker_of(task.fd)
    told.fail("getxattr", errno.EOPNOTSUPP)
    assert owner.asker_of(task.fd) == os.geteuid()
    task.close()


# -- what happens meanwhile -------------------------------------------------------


def test_a_held_file_that_is_gone_is_no_task(spool: SpoolDir) -> None:
    there, task, name = begin(spool, State.HELD)
    Path(spool.path, there.path).unlink()
    with pytest.raises(NotFoundError):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool) == {}


@pytest.mark.parametrize("state", [State.WAITING, State.HELD])
def test_a_task_that_is_removed_in_that_instant_stays_removed(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    there, task, name = begin(spool, state)
    meanwhile(monkeypatch, lambda path: repair.remove(spool, found(spool)))
    with pytest.raises(NotFoundError, match="changed or moved"):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool) == {}


def test_a_task_that_is_moved_in_that_instant_stays_as_it_is(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, task, name = begin(spool, State.HELD)
    meanwhile(monkeypatch, lambda path: control.release(spool, there))
    with pytest.raises(NotFoundError, match="changed or moved"):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool) == {path_of(name): HEAD + BODY}


def test_another_task_that_comes_there_in_that_instant_stays_as_it_is(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, task, name = begin(spool, State.HELD)

    def swap(path: str) -> None:
        control.release(spool, there)
        Path(spool.path, path).write_bytes(b"another")

    meanwhile(monkeypatch, swap)
    with pytest.raises(NotFoundError, match="changed or moved"):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool) == {path_of(name): HEAD + BODY, there.path: b"another"}


def in_turn(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[str], object]) -> None:
    """Have something happen at the path before each exchange."""
    left = list(acts)

    def each(root: int, one: str, other: str) -> bool:
        left.pop(0)(other)
        return exchange.exchange(root, one, other)

    monkeypatch.setattr(editing, "exchange", each)


@pytest.mark.parametrize("last", [None, b"a third"])
def test_another_task_is_kept_if_the_new_one_is_moved_away_before_the_way_back(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, last: bytes | None
) -> None:
    there, task, name = begin(spool, State.HELD)
    later = name.but(due_us=name.due_us + 1)

    def swap(path: str) -> None:
        control.release(spool, there)
        Path(spool.path, path).write_bytes(b"another")

    def move_away(path: str) -> None:
        control.release(spool, there)
        if last is not None:
            Path(spool.path, path).write_bytes(last)

    in_turn(monkeypatch, swap, move_away)
    with pytest.raises(NotFoundError, match="changed or moved"):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    kept = {path_of(name): HEAD + BODY, path_of(later): NEW + BODY}
    kept[there.path] = b"another"
    if last is not None:
        kept[f"held/{later}"] = last
    assert whole(spool) == kept


def test_another_task_is_kept_if_it_cannot_be_exchanged_back(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, task, name = begin(spool, State.HELD)

    def swap(path: str) -> None:
        control.release(spool, there)
        Path(spool.path, path).write_bytes(b"another")

    def break_it(path: str) -> None:
        monkeypatch.setattr(exchange, "_renameat2", refusing(errno.EIO))

    in_turn(monkeypatch, swap, break_it)
    with pytest.raises(OSError, match="Input/output"):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    later = name.but(due_us=name.due_us + 1)
    assert whole(spool)[f"held/{later}"] == b"another"
    assert whole(spool)[path_of(name)] == HEAD + BODY


def test_an_exchange_that_fails_leaves_the_task_as_it_was(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, task, name = begin(spool)
    monkeypatch.setattr(exchange, "_renameat2", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool) == {there.path: HEAD + BODY}


@pytest.mark.usefixtures("no_exchange")
def test_a_task_that_is_released_in_that_instant_is_there_once(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, task, name = begin(spool, State.HELD)

    class Meanwhile(ToldOS):
        def rename(self, source: str, target: str, **_: int) -> None:
            control.release(spool, there)
            fd = spool.fd
            os.rename(source, target, src_dir_fd=fd, dst_dir_fd=fd)

    monkeypatch.setattr(editing, "os", Meanwhile())
    with pytest.raises(NotFoundError, match="changed or moved"):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool) == {path_of(name): HEAD + BODY}


@pytest.mark.usefixtures("no_exchange")
def test_another_task_that_comes_after_it_was_released_stays(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, task, name = begin(spool, State.HELD)

    class Meanwhile(ToldOS):
        def rename(self, source: str, target: str, **_: int) -> None:
            control.release(spool, there)
            fd = spool.fd
            os.rename(source, target, src_dir_fd=fd, dst_dir_fd=fd)
            control.release(spool, there)
            Path(spool.path, target).write_bytes(b"another")

    monkeypatch.setattr(editing, "os", Meanwhile())
    with pytest.raises(NotFoundError, match="changed or moved"):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool)[there.path] == b"another"


def test_what_runs_or_has_failed_is_refused(spool: SpoolDir) -> None:
    there, task, name = begin(spool)
    claims.give_up(spool, there.path, name, {"v": 1})
    with pytest.raises(UsageError, match="kick"):
        editing.replace(spool, found(spool), task, NEW, name)
    task.close()


@pytest.mark.usefixtures("no_exchange")
@pytest.mark.parametrize(
    ("call", "code"),
    [("write", errno.ENOSPC), ("fsync", errno.EIO), ("rename", errno.EIO)],
)
@pytest.mark.parametrize("state", [State.WAITING, State.HELD])
def test_an_error_leaves_the_task_as_it_was(
    spool: SpoolDir,
    monkeypatch: pytest.MonkeyPatch,
    state: State,
    call: str,
    code: int,
) -> None:
    there, task, name = begin(spool, state)
    told = ToldOS()
    told.fail(call, code)
    monkeypatch.setattr(editing, "os", told)
    monkeypatch.setattr("spooler.spooldir.files.os", told)
    with pytest.raises(OSError, match=os.strerror(code)):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool) == {there.path: HEAD + BODY}


@pytest.mark.parametrize("state", [State.WAITING, State.HELD])
def test_a_task_that_cannot_be_put_back_is_held_and_changed(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    there, task, name = begin(spool, state)
    told = ToldOS()
    # The first is the hold, where it waits.
    told.fail("rename", *([None] if state is State.WAITING else []), errno.EIO)
    monkeypatch.setattr(control, "os", told)
    monkeypatch.setattr("spooler.spooldir.root.os", told)
    path = editing.replace(spool, there, task, NEW, name.but(priority=0))
    task.close()
    assert path == f"held/{name}"
    assert whole(spool) == {path: NEW + BODY}


def test_a_file_system_without_locks_is_no_obstacle(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    there, task, name = begin(spool)
    monkeypatch.setattr(fcntl, "flock", flock)
    path = editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool) == {path: NEW + BODY}


def test_an_error_of_the_lock_changes_nothing(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.EIO, "broken")

    there, task, name = begin(spool)
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"):
        editing.replace(spool, there, task, NEW, name)
    task.close()
    assert whole(spool) == {there.path: HEAD + BODY}


# -- other links ------------------------------------------------------------------

KEYED = b'{"task":"t","args":{"a":1},"id":"8c1f42d09ab3e617","key":"k"}\n'
NEW_KEYED = b'{"task":"t","args":{"a":2},"id":"8c1f42d09ab3e617","key":"k"}\n'


def put_keyed(spool: SpoolDir) -> Edited:
    name = make_name(CLOCK.now_us(), id=ID)
    assert keys.put(spool, name, [KEYED], "k", durable=False) is None
    there = found(spool)
    return there, repair.read(spool, there), name


def test_a_key_goes_on_to_the_new_file(spool: SpoolDir) -> None:
    there, task, name = put_keyed(spool)
    path = editing.replace(spool, there, task, NEW_KEYED, name)
    task.close()
    key = keys.key_path("t", "k")
    file = Path(spool.path, path)
    assert file.samefile(Path(spool.path, key))
    assert os.stat(file).st_nlink == 2
    taken = keys.put(spool, make_name(), [KEYED], "k", durable=False)
    assert taken is not None
    assert taken.id == ID
    file.unlink()
    assert keys.put(spool, make_name(), [KEYED], "k", durable=False) is None


@pytest.mark.usefixtures("no_exchange")
def test_a_key_stays_with_the_old_file_after_an_error(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, task, name = put_keyed(spool)
    told = ToldOS()
    told.fail("rename", None, errno.EIO)  # the key's, and then the task's
    monkeypatch.setattr(editing, "os", told)
    with pytest.raises(OSError, match="Input/output"):
        editing.replace(spool, there, task, NEW_KEYED, name)
    task.close()
    key = Path(spool.path, keys.key_path("t", "k"))
    assert key.samefile(Path(spool.path, there.path))
    assert os.stat(key).st_nlink == 2


def test_a_key_is_free_if_its_task_is_removed_in_that_instant(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, task, name = put_keyed(spool)
    meanwhile(monkeypatch, lambda path: Path(spool.path, path).unlink())
    with pytest.raises(NotFoundError, match="changed or moved"):
        editing.replace(spool, there, task, NEW_KEYED, name)
    task.close()
    assert keys.put(spool, make_name(), [KEYED], "k", durable=False) is None


def test_a_copy_is_still_the_task_of_whoever_put_it(spool: SpoolDir) -> None:
    there, task, name = put_keyed(spool)
    owner.mark(task.fd, 12345)
    path = editing.replace(spool, there, task, NEW_KEYED, name)
    task.close()
    with open(Path(spool.path, path)) as file:
        assert owner.sender_of(spool, file.fileno()) == 12345


@pytest.mark.usefixtures("no_exchange")
def test_a_key_stays_with_a_task_that_is_moved_away_in_that_instant(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, task, name = put_keyed(spool)
    real = ToldOS().rename

    def rename(source: str, target: str, **fds: int) -> None:
        if target == f"held/{name}" and source.startswith("held/."):
            spool.move(target, name)
        real(source, target, **fds)

    told = ToldOS()
    vars(told)["rename"] = rename
    monkeypatch.setattr(editing, "os", told)
    with pytest.raises(NotFoundError, match="has just changed or moved it"):
        editing.replace(spool, there, task, NEW_KEYED, name)
    task.close()
    key = Path(spool.path, keys.key_path("t", "k"))
    assert key.samefile(Path(spool.path, path_of(name)))
    assert whole(spool).keys() == {path_of(name)}


def test_a_key_that_cannot_be_changed_leaves_all_as_it_was(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, task, name = put_keyed(spool)
    told = ToldOS()
    told.fail("rename", errno.EIO)
    monkeypatch.setattr(editing, "os", told)
    with pytest.raises(OSError, match="Input/output"):
        editing.replace(spool, there, task, NEW_KEYED, name)
    task.close()
    assert os.stat(Path(spool.path, there.path)).st_nlink == 2
    assert not [p for p in tree(spool) if "/." in p]


def test_a_timer_still_knows_the_task_of_its_slot(spool: SpoolDir) -> None:
    slot = Name(NOW_US, 5, 0, timers.slot_id("t", NOW_US), "t")
    with timers.lock(spool):
        timers.put_slot(spool, slot, HEAD)
    there = repair.find(spool, slot.id)
    task = repair.read(spool, there)
    path = editing.replace(spool, there, task, NEW, slot)
    task.close()
    assert not timers.is_finished(spool, "t", NOW_US)
    assert Path(spool.path, path).read_bytes() == NEW
    Path(spool.path, path).unlink()
    assert timers.is_finished(spool, "t", NOW_US)
