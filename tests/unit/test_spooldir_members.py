"""Group spools: what members do, and what is done against them."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import NOW_US, TASK, ToldOS, make_name, path_of, place, put, tree

from spooler.errors import NotASpoolError, SpoolUncertain, UsageError
from spooler.spooldir import SpoolDir, files, marking, members, root
from spooler.task import Name, minute_of

MINUTE = f"5/{minute_of(NOW_US)}"


@pytest.fixture
def door(spool: SpoolDir) -> Iterator[int]:
    """The root of a spool, as a member has it."""
    fd = members.enter(spool.path)
    assert fd is not None
    yield fd
    os.close(fd)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> ToldOS:
    told = ToldOS()
    for module in (members, files):
        monkeypatch.setattr(module, "os", told)
    return told


def put_as_member(
    spool: SpoolDir,
    door: int,
    name: Name,
    *,
    durable: bool = True,
    way: str = "unnamed",
) -> None:
    def fill(fd: int) -> None:
        files.write_all(fd, TASK)
        if durable:
            vars(members)["os"].fsync(fd)

    options = {"durable": durable, "unnamed": way == "unnamed"}
    members.put(door, spool.path, name, fill, spool.open, **options)


WAYS = pytest.mark.parametrize("way", ["unnamed", "hidden"])


@WAYS
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_put_leaves_a_file_for_the_group(
    spool: SpoolDir, door: int, way: str, umask: int
) -> None:
    name = make_name()
    before = os.umask(umask)
    try:
        put_as_member(spool, door, name, way=way)
    finally:
        os.umask(before)
    assert tree(spool) == {f"5/{name}": TASK}
    assert Path(spool.path, f"5/{name}").stat().st_mode & 0o7777 == 0o660


def test_put_syncs_the_file_before_and_after_it_has_its_name(
    spool: SpoolDir, door: int, told: ToldOS
) -> None:
    put_as_member(spool, door, make_name())
    calls = [call.partition(" ")[0] for call in told.calls]
    assert calls == ["open", "fchmod", "write", "fsync", "link", "fsync", "close"]


def test_put_with_a_hidden_name_syncs_it_twice_too(
    spool: SpoolDir, door: int, told: ToldOS
) -> None:
    put_as_member(spool, door, make_name(), way="hidden")
    calls = [call.partition(" ")[0] for call in told.calls]
    assert calls == (
        ["open", "fchmod", "write", "fsync", "link", "fsync", "close", "unlink"]
    )


def test_a_fast_put_syncs_nothing(spool: SpoolDir, door: int, told: ToldOS) -> None:
    put_as_member(spool, door, make_name(), durable=False)
    assert told.calls == ["open", "fchmod", "write", "link", "close"]


def test_without_unnamed_files_it_has_a_hidden_name(
    spool: SpoolDir, door: int, told: ToldOS
) -> None:
    told.fail("open", errno.EOPNOTSUPP)
    name = make_name()
    put_as_member(spool, door, name)
    assert tree(spool) == {f"5/{name}": TASK}


@WAYS
@pytest.mark.parametrize("call", ["fchmod", "write", "fsync", "link"])
def test_an_error_leaves_nothing(
    spool: SpoolDir, door: int, told: ToldOS, way: str, call: str
) -> None:
    told.fail(call, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        put_as_member(spool, door, make_name(), way=way)
    assert tree(spool) == {}


def test_an_error_of_the_last_sync_is_uncertain(
    spool: SpoolDir, door: int, told: ToldOS
) -> None:
    told.fail("fsync", None, errno.EIO)
    name = make_name()
    with pytest.raises(SpoolUncertain) as caught:
        put_as_member(spool, door, name)
    assert caught.value.task_id == name.id
    assert tree(spool) == {f"5/{name}": TASK}


def test_put_overwrites_nothing(spool: SpoolDir, door: int) -> None:
    name = make_name()
    place(spool, f"5/{name}", b"first")
    with pytest.raises(FileExistsError):
        put_as_member(spool, door, name)
    assert tree(spool) == {f"5/{name}": b"first"}


def test_a_priority_that_is_not_there_is_refused(spool: SpoolDir, door: int) -> None:
    with pytest.raises(UsageError, match="no priority 12 for its group"):
        put_as_member(spool, door, make_name(priority=12))


def test_what_is_no_spool_is_not_entered(tmp_path: Path, no_leaks: None) -> None:
    assert members.enter(str(tmp_path)) is None
    (tmp_path / ".spool").write_text('{"format": 2}')
    with pytest.raises(NotASpoolError):
        members.enter(str(tmp_path))


# -- against members -----------------------------------------------------------------


@pytest.fixture
def open_spool(spool: SpoolDir) -> SpoolDir:
    """A spool where others may write into a priority's folder."""
    Path(spool.path).chmod(0o711)
    Path(spool.path, "5").chmod(0o1733)
    spool.open()
    return spool


@pytest.mark.parametrize(
    ("above", "below", "plain"),
    [(0o700, 0o1733, True), (0o711, 0o1733, False), (0o711, 0o755, True)],
)
def test_a_spool_is_shared_if_others_get_in_and_may_write(
    spool: SpoolDir, above: int, below: int, plain: bool
) -> None:
    Path(spool.path).chmod(above)
    Path(spool.path, "5").chmod(below)
    spool.open()
    assert spool.is_plain is plain


def make_theirs(spool: SpoolDir, what: str) -> Path:
    path = Path(spool.path, MINUTE)
    match what:
        case "link":
            path.symlink_to("../held")
        case "file":
            path.touch()
        case "open":
            path.mkdir()
            path.chmod(0o777)
        case _:
            path.mkdir(0o700)
            (path / "x").touch()
            os.chown(path, 12345, 12345)
    return path


KINDS = pytest.mark.parametrize("what", ["link", "file", "open", "other"])


@KINDS
def test_a_folder_of_somebody_else_is_not_put_into(
    open_spool: SpoolDir, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    if what == "other" and os.geteuid() != 0:
        pytest.skip("needs another user")
    make_theirs(open_spool, what)
    name = put(open_spool)
    assert tree(open_spool)[path_of(name)] == TASK
    status = Path(open_spool.path, MINUTE).lstat()
    assert (status.st_uid, status.st_mode & 0o777) == (os.geteuid(), 0o700)
    assert f"path={MINUTE} kept=5/.{MINUTE[2:]}." in caplog.text
    assert not os.listdir(Path(open_spool.path, "held"))


@KINDS
def test_a_task_is_not_moved_into_a_folder_of_somebody_else(
    open_spool: SpoolDir, what: str
) -> None:
    if what == "other" and os.geteuid() != 0:
        pytest.skip("needs another user")
    name = make_name()
    place(open_spool, f"5/{name}")
    make_theirs(open_spool, what)
    assert open_spool.move(f"5/{name}", name) == name
    assert tree(open_spool)[path_of(name)] == TASK
    assert Path(open_spool.path, MINUTE).lstat().st_uid == os.geteuid()
    assert not os.listdir(Path(open_spool.path, "held"))


def test_a_folder_that_is_taken_again_and_again_is_an_error_in_the_end(
    open_spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Taking(ToldOS):
        def mkdir(self, path: str, *_: object, **__: object) -> None:
            made.append(path)
            Path(open_spool.path, path).symlink_to("nowhere")

    for module in (root, marking):
        monkeypatch.setattr(module, "os", Taking())
    with pytest.raises(FileNotFoundError):
        put(open_spool)
    assert len(made) == files.RACES_MAX


def test_a_folder_of_ones_own_is_used_as_it_is(open_spool: SpoolDir) -> None:
    names = [put(open_spool), put(open_spool)]
    inode = Path(open_spool.path, MINUTE).stat().st_ino
    names.append(put(open_spool))
    assert Path(open_spool.path, MINUTE).stat().st_ino == inode
    assert set(tree(open_spool)) == {path_of(name) for name in names}
    assert open_spool.minutes(5) == [MINUTE[2:]]
