"""Open a spool, put tasks into it, list what waits."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from functools import partial
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

from spooler.errors import NotASpoolError, SpoolUncertain
from spooler.spooldir import SpoolDir, files, marking, root
from spooler.task import MAX_DUE_US

WAYS = pytest.mark.parametrize("way", ["unnamed", "hidden"])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> ToldOS:
    told = ToldOS()
    for module in (root, marking, files):
        monkeypatch.setattr(module, "os", told)
    return told


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The names of these tests are due now, so no folder is over."""
    clock = FakeClock()
    monkeypatch.setattr(root, "CLOCK", clock)
    return clock


def use(spool: SpoolDir, way: str) -> None:
    spool._tmpfile = way == "unnamed"


# -- open -------------------------------------------------------------------------


def test_open_refuses_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotASpoolError, match=r"there is no such directory.*spool init"):
        SpoolDir(tmp_path / "none").open()


def test_open_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotASpoolError, match="is not a directory"):
        SpoolDir(tmp_path / "file").open()


def test_create_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotASpoolError, match="is not a directory"):
        SpoolDir(tmp_path / "file").create()


@pytest.mark.parametrize("entry", ["notes.txt", ".git", "tmp", "failed"])
def test_open_refuses_a_directory_of_somebody_else_and_leaves_it(
    tmp_path: Path, entry: str, no_leaks: None
) -> None:
    (tmp_path / entry).mkdir()
    with pytest.raises(NotASpoolError, match=r"is not empty and is not a spool"):
        SpoolDir(tmp_path).open()
    assert os.listdir(tmp_path) == [entry]


def test_open_says_who_takes_over_a_directory_of_uwsgis(tmp_path: Path) -> None:
    (tmp_path / "uwsgi_spoolfile_on_here_1_1_1_1_1").touch()
    with pytest.raises(NotASpoolError, match="`spoold --uwsgi` takes it over"):
        SpoolDir(tmp_path).open()


@pytest.mark.parametrize(
    "text", ['{"format": 2}', "", '{"format": 1', '{"format": 1, "x": 2}', "\xff"]
)
def test_open_refuses_a_marker_that_it_does_not_know(
    spool: SpoolDir, text: str
) -> None:
    Path(spool.path, ".spool").write_text(text)
    with pytest.raises(
        NotASpoolError, match=r"newer spooler, or its file .spool is da"
    ):
        SpoolDir(spool.path).open()


def test_open_takes_a_marker_with_other_spaces(spool: SpoolDir) -> None:
    Path(spool.path, ".spool").write_text('{"format":1}')
    with closing(SpoolDir(spool.path)) as other:
        other.open()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, partial(os.symlink, "made")])
def test_open_refuses_a_marker_that_is_no_file(
    spool: SpoolDir, make: Callable[[Path], None]
) -> None:
    marker = Path(spool.path, ".spool")
    marker.rename(Path(spool.path, "made"))
    make(marker)
    with pytest.raises(NotASpoolError, match=r"its file \.spool is damaged"):
        SpoolDir(spool.path).open()


def test_an_empty_directory_becomes_a_spool(tmp_path: Path) -> None:
    with closing(SpoolDir(tmp_path)) as spool:
        spool.open()
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {".spool", *marking.FOLDERS}
    assert (tmp_path / ".spool").read_bytes() == b'{"format": 1}\n'
    assert not list((tmp_path / "tmp").iterdir())


def test_a_new_spool_is_its_owners_alone(spool: SpoolDir) -> None:
    for path in Path(spool.path).iterdir():
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert Path(spool.path).stat().st_mode & 0o777 == 0o700


def test_the_marker_comes_last_and_all_is_synced(tmp_path: Path, told: ToldOS) -> None:
    with closing(SpoolDir(tmp_path / "s")) as spool:
        spool.create()
    assert told.calls.count("mkdir") == 1 + len(marking.FOLDERS)
    last = len(told.calls) - told.calls[::-1].index("mkdir")
    assert told.calls.index("rename") >= last
    assert told.syncs(spool.path)[-1] == "."
    assert told.syncs(spool.path)[0] == ".."
    assert told.syncs(spool.path)[1].startswith("tmp/.spool.")


@pytest.mark.parametrize("count", range(1, len(marking.FOLDERS) + 1))
def test_open_finishes_what_a_crash_left_half_made(tmp_path: Path, count: int) -> None:
    for folder in marking.FOLDERS[:count]:
        (tmp_path / folder).mkdir()
    with closing(SpoolDir(tmp_path)) as spool:
        spool.open()
    assert {p.name for p in tmp_path.iterdir()} == {".spool", *marking.FOLDERS}


def test_open_makes_a_folder_that_is_missing(spool: SpoolDir) -> None:
    Path(spool.path, "failed").rmdir()
    spool.open()
    assert Path(spool.path, "failed").is_dir()


def test_open_of_a_whole_spool_changes_nothing(spool: SpoolDir, told: ToldOS) -> None:
    spool.open()
    assert {"mkdir", "rename", "fsync"}.isdisjoint(told.calls)
    assert not told.syncs(spool.path)


def test_opening_again_keeps_the_descriptor(spool: SpoolDir) -> None:
    fd = spool.fd
    spool.open()
    assert spool.fd == fd
    assert not os.get_inheritable(fd)


def test_a_closed_spool_opens_again_when_it_is_used(spool: SpoolDir) -> None:
    spool.close()
    spool.close()
    name = put(spool)
    assert spool.has(path_of(name))


def test_making_a_spooldir_touches_nothing(tmp_path: Path) -> None:
    spool = SpoolDir(tmp_path / "none")
    assert repr(spool) == f"SpoolDir({str(tmp_path / 'none')!r})"
    assert not list(tmp_path.iterdir())


def test_create_lets_nobody_else_write_into_what_it_makes(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(SpoolDir(tmp_path / "a/b/c")) as spool:
            spool.create()
    finally:
        os.umask(before)
    modes = [(tmp_path / each).stat().st_mode & 0o777 for each in ("a", "a/b", "a/b/c")]
    assert modes == [0o755, 0o755, 0o700]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_spool_belongs_to_the_owner_of_its_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    with closing(SpoolDir(tmp_path)) as spool:
        spool.open()
    for path in tmp_path.iterdir():
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346), path


def test_create_makes_the_parents(tmp_path: Path, no_leaks: None) -> None:
    with closing(SpoolDir(tmp_path / "a/b/c")) as spool:
        spool.create()
        spool.create()
    assert (tmp_path / "a/b/c/.spool").exists()


@pytest.mark.parametrize("call", ["listdir", "mkdir", "open", "fsync", "rename"])
def test_an_error_while_creating_leaks_nothing_and_can_be_repeated(
    tmp_path: Path, told: ToldOS, call: str, no_leaks: None
) -> None:
    spool = SpoolDir(tmp_path / "s")
    told.fail(call, *([None] if call == "open" else []), errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        spool.create()
    assert spool._fd == -1
    spool.create()
    assert {p.name for p in (tmp_path / "s").iterdir()} == {".spool", *marking.FOLDERS}
    assert not list((tmp_path / "s/tmp").iterdir())
    spool.close()


def test_many_threads_open_one_spool_once(spool: SpoolDir) -> None:
    with closing(SpoolDir(spool.path)) as other:
        names = [make_name() for _ in range(8)]
        threads = [threading.Thread(target=put, args=(other, n)) for n in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(tasks(other)) == {path_of(name) for name in names}


# -- put --------------------------------------------------------------------------


@WAYS
def test_put_leaves_the_whole_task_and_nothing_else(spool: SpoolDir, way: str) -> None:
    use(spool, way)
    name = make_name()
    spool.put(name, iter((b"{", b'"task":"t"}\n', b"body")))
    assert tree(spool) == {path_of(name): b'{"task":"t"}\nbody'}
    status = Path(spool.path, path_of(name)).stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_nlink == 1


@WAYS
def test_put_of_no_bytes_makes_an_empty_file(spool: SpoolDir, way: str) -> None:
    use(spool, way)
    name = make_name()
    spool.put(name, [])
    assert tree(spool) == {path_of(name): b""}


@WAYS
def test_put_makes_a_priority_that_is_missing(spool: SpoolDir, way: str) -> None:
    use(spool, way)
    name = put(spool, make_name(priority=4711))
    assert spool.has(path_of(name))
    assert Path(spool.path, "4711").stat().st_mode & 0o777 == 0o700


@WAYS
def test_put_refuses_a_name_that_is_there(spool: SpoolDir, way: str) -> None:
    use(spool, way)
    name = put(spool, data=b"first")
    with pytest.raises(FileExistsError):
        put(spool, name, b"second")
    assert tree(spool) == {path_of(name): b"first"}


@WAYS
def test_put_writes_on_after_a_short_write(
    spool: SpoolDir, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ShortOS(ToldOS):
        def write(self, fd: int, data: bytes) -> int:
            return os.write(fd, data[:3])

    monkeypatch.setattr(root, "os", ShortOS())
    monkeypatch.setattr(files, "os", ShortOS())
    use(spool, way)
    name = put(spool, data=b"0123456789")
    assert tree(spool) == {path_of(name): b"0123456789"}


@WAYS
def test_a_body_that_breaks_off_leaves_nothing(spool: SpoolDir, way: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield TASK
        raise RuntimeError("the upload was cut")

    use(spool, way)
    with pytest.raises(RuntimeError):
        spool.put(make_name(), pieces())
    assert tree(spool) == {}


def test_put_finds_its_folder_removed_while_it_writes(spool: SpoolDir) -> None:
    name = make_name()

    def pieces() -> Iterator[bytes]:
        yield TASK
        Path(spool.path, name.folder).rmdir()

    spool.put(name, pieces())
    assert tree(spool) == {path_of(name): TASK}


def test_a_hidden_file_keeps_its_folder(spool: SpoolDir) -> None:
    name = make_name()

    def pieces() -> Iterator[bytes]:
        yield TASK
        with pytest.raises(OSError, match="not empty"):
            Path(spool.path, name.folder).rmdir()

    use(spool, "hidden")
    spool.put(name, pieces())
    assert tree(spool) == {path_of(name): TASK}


def test_put_does_not_make_up_a_hidden_file_that_somebody_removed(
    spool: SpoolDir,
) -> None:
    name = make_name()

    def pieces() -> Iterator[bytes]:
        yield TASK
        Path(spool.path, name.folder, f".{name}").unlink()

    use(spool, "hidden")
    with pytest.raises(FileNotFoundError):
        spool.put(name, pieces())
    assert tree(spool) == {}


@WAYS
def test_put_finds_the_spool_removed_and_made_anew(spool: SpoolDir, way: str) -> None:
    use(spool, way)
    put(spool)
    shutil.rmtree(spool.path)
    with closing(SpoolDir(spool.path)) as new:
        new.create()
    name = put(spool)
    assert tree(spool) == {path_of(name): TASK}


@WAYS
def test_put_into_a_spool_that_is_gone_says_so(spool: SpoolDir, way: str) -> None:
    use(spool, way)
    put(spool)
    shutil.rmtree(spool.path)
    with pytest.raises(NotASpoolError):
        put(spool)


def test_put_without_a_name_makes_these_calls(spool: SpoolDir, told: ToldOS) -> None:
    name = make_name()
    spool.put(name, [TASK])
    told.calls.clear()
    spool.put(make_name(), [TASK])
    assert [call.partition(" ")[0] for call in told.calls] == (
        ["open", "write", "fsync", "link", "close", "open", "fsync", "close"]
    )
    assert told.syncs(spool.path) == ["file", name.folder]


def test_put_with_a_hidden_name_makes_these_calls(
    spool: SpoolDir, told: ToldOS
) -> None:
    use(spool, "hidden")
    spool.put(make_name(), [TASK])
    told.calls.clear()
    name = make_name()
    spool.put(name, [TASK])
    assert [call.partition(" ")[0] for call in told.calls] == (
        ["open", "write", "fsync", "link", "close", "unlink", "open", "fsync", "close"]
    )
    assert told.syncs(spool.path) == [f"{name.folder}/.{name}", name.folder]


def test_the_first_put_into_a_folder_syncs_its_priority_too(
    spool: SpoolDir, told: ToldOS
) -> None:
    name = make_name()
    spool.put(name, [TASK])
    assert told.syncs(spool.path) == ["file", name.folder, "5"]


def test_a_folder_that_may_have_been_made_again_has_its_priority_synced(
    spool: SpoolDir, told: ToldOS, early: FakeClock
) -> None:
    early.advance(121)
    for _ in range(2):
        told.calls.clear()
        name = make_name()
        spool.put(name, [TASK])
        assert told.syncs(spool.path) == ["file", name.folder, "5"]


def test_a_folder_that_had_to_be_made_again_has_its_priority_synced(
    spool: SpoolDir, told: ToldOS
) -> None:
    name = make_name()
    spool.put(name, [TASK])
    shutil.rmtree(Path(spool.path, name.folder))
    told.calls.clear()
    spool.put(name, [TASK])
    assert told.syncs(spool.path) == ["file", name.folder, "5"]


def test_a_new_priority_has_the_root_synced(spool: SpoolDir, told: ToldOS) -> None:
    name = make_name(priority=12)
    spool.put(name, [TASK])
    assert told.syncs(spool.path) == [".", "file", name.folder, "12", "."]


def test_a_priority_that_somebody_else_made_has_the_root_synced(
    spool: SpoolDir, told: ToldOS
) -> None:
    name = make_name(priority=12)
    Path(spool.path, "12").mkdir()
    spool.put(name, [TASK])
    assert told.syncs(spool.path) == ["file", name.folder, "12", "."]


def test_fast_syncs_nothing(spool: SpoolDir, told: ToldOS) -> None:
    spool.put(make_name(), [TASK], durable=False)
    use(spool, "hidden")
    spool.put(make_name(), [TASK], durable=False)
    assert told.syncs(spool.path) == []


def test_synced_folders_are_forgotten_when_they_are_many(
    spool: SpoolDir, told: ToldOS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root, "_SYNCED_MAX", 2)
    first = make_name()
    for number in range(3):
        spool.put(minutes_later(number, first), [TASK])
    told.calls.clear()
    spool.put(first.but(id="f" * 16), [TASK])
    assert "5" in told.syncs(spool.path)


@WAYS
@pytest.mark.parametrize("call", ["open", "write", "fsync", "link"])
@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE]
)
def test_an_error_before_it_is_in_place_leaves_no_task(
    spool: SpoolDir, told: ToldOS, way: str, call: str, code: int
) -> None:
    use(spool, way)
    told.fail(call, code)
    with pytest.raises(OSError, match=rf"\[Errno {code}\]"):
        spool.put(make_name(), [TASK])
    assert tree(spool) == {}


@WAYS
def test_a_failed_last_sync_is_uncertain(
    spool: SpoolDir, told: ToldOS, way: str
) -> None:
    use(spool, way)
    name = make_name()
    told.fail("fsync", None, errno.EIO)
    with pytest.raises(SpoolUncertain, match="it may run") as caught:
        spool.put(name, [TASK])
    assert caught.value.task_id == name.id
    assert isinstance(caught.value.__cause__, OSError)
    assert tree(spool) == {path_of(name): TASK}


def test_a_failed_close_of_a_task_in_place_is_uncertain(
    spool: SpoolDir, told: ToldOS
) -> None:
    class CloseError(OSError):
        pass

    name = make_name()
    real = os.close

    def close(fd: int) -> None:
        real(fd)
        raise CloseError(errno.EIO, "close")

    told.close = close  # type: ignore[attr-defined] # in place of the function
    with pytest.raises(SpoolUncertain):
        spool.put(name, [TASK], durable=False)
    del told.close  # the real one again
    assert tree(spool) == {path_of(name): TASK}


def test_a_hidden_name_that_cannot_be_removed_is_no_error(
    spool: SpoolDir, told: ToldOS
) -> None:
    use(spool, "hidden")
    name = make_name()
    told.fail("unlink", errno.EIO)
    spool.put(name, [TASK])
    assert tasks(spool) == {path_of(name): TASK}


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
@pytest.mark.parametrize("folder", ["there", "missing"])
def test_put_works_where_files_without_names_do_not(
    spool: SpoolDir, told: ToldOS, code: int, folder: str
) -> None:
    name = make_name()
    if folder == "there":
        spool.make_folder(name.folder)
        told.fail("open", code)
    else:
        told.fail("open", errno.ENOENT, code)
    spool.put(name, [TASK])
    assert tree(spool) == {path_of(name): TASK}
    assert not spool._tmpfile


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_put_works_where_links_do_not(spool: SpoolDir, told: ToldOS, code: int) -> None:
    use(spool, "hidden")
    name = make_name()
    told.fail("link", code)
    spool.put(name, [TASK])
    assert tree(spool) == {path_of(name): TASK}


def test_put_overwrites_nothing_where_links_do_not_work(
    spool: SpoolDir, told: ToldOS
) -> None:
    use(spool, "hidden")
    name = put(spool, data=b"first")
    told.fail("link", errno.EPERM)
    with pytest.raises(FileExistsError):
        spool.put(name, [TASK])
    assert tree(spool) == {path_of(name): b"first"}


def test_a_task_that_was_taken_and_its_folder_removed_was_put(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, told: ToldOS
) -> None:
    """A worker and a daemon were faster than the last sync."""
    name = make_name()

    def link(*args: object, **kwargs: object) -> None:
        shutil.rmtree(Path(spool.path, name.folder))

    told.link = link  # type: ignore[attr-defined] # in place of the function
    spool.put(name, [TASK])
    assert told.syncs(spool.path) == ["file", "5"]


def test_a_task_in_a_spool_that_was_removed_is_uncertain(
    spool: SpoolDir, told: ToldOS
) -> None:
    def link(*args: object, **kwargs: object) -> None:
        shutil.rmtree(spool.path)

    told.link = link  # type: ignore[attr-defined] # in place of the function
    with pytest.raises(SpoolUncertain):
        spool.put(make_name(), [TASK])


# -- folders ----------------------------------------------------------------------


def test_a_folder_that_is_there_is_left(spool: SpoolDir) -> None:
    spool.make_folder("5/20261120T2101")
    place(spool, "5/20261120T2101/x")
    spool.make_folder("5/20261120T2101")
    assert spool.names("5/20261120T2101") == ["x"]


def test_a_folder_made_by_two_at_once_is_made(spool: SpoolDir, told: ToldOS) -> None:
    real = os.mkdir
    calls = []

    def mkdir(path: str, mode: int, *, dir_fd: int) -> None:
        calls.append(path)
        if len(calls) > 1:  # somebody else is faster
            real(path, mode, dir_fd=dir_fd)
        real(path, mode, dir_fd=dir_fd)

    told.mkdir = mkdir  # type: ignore[attr-defined] # in place of the function
    spool.make_folder("77/20261120T2101")
    assert spool.is_folder("77/20261120T2101")


def test_a_file_in_the_place_of_a_priority_is_an_error(spool: SpoolDir) -> None:
    place(spool, "77")
    with pytest.raises(NotADirectoryError):
        put(spool, make_name(priority=77))


def test_move_renames_and_syncs_both_folders(spool: SpoolDir, told: ToldOS) -> None:
    place(spool, "failed/x")
    name = make_name()
    assert spool.move("failed/x", name) == name
    assert tree(spool) == {path_of(name): TASK}
    assert told.syncs(spool.path) == ["failed", name.folder, "5"]


def test_move_from_the_root_syncs_the_root(spool: SpoolDir, told: ToldOS) -> None:
    place(spool, "x")
    spool.move("x", make_name())
    assert told.syncs(spool.path)[0] == "."


def test_move_without_durability_syncs_nothing(spool: SpoolDir, told: ToldOS) -> None:
    place(spool, "x")
    spool.move("x", make_name(), durable=False)
    assert told.syncs(spool.path) == []


def test_move_of_what_is_gone_says_so(spool: SpoolDir) -> None:
    with pytest.raises(FileNotFoundError):
        spool.move("failed/x", make_name())


def test_move_never_overwrites(spool: SpoolDir) -> None:
    place(spool, "failed/x", b"second")
    name = put(spool, data=b"first")
    got = spool.move("failed/x", name)
    assert got == name.but(due_us=name.due_us + 1)
    assert tree(spool) == {path_of(name): b"first", path_of(got): b"second"}


@pytest.mark.parametrize(
    ("due_us", "got_us"), [(-1, 0), (MAX_DUE_US + 1, MAX_DUE_US), (10**30, MAX_DUE_US)]
)
def test_move_keeps_the_due_time_inside_a_name(
    spool: SpoolDir, due_us: int, got_us: int
) -> None:
    place(spool, "failed/x")
    name = spool.move("failed/x", make_name().but(due_us=due_us))
    assert name.due_us == got_us
    assert list(spool.waiting()) == [(name.folder, str(name))]


def test_the_last_moment_of_all_is_followed_by_the_first(spool: SpoolDir) -> None:
    name = put(spool, make_name(MAX_DUE_US))
    assert spool.free(name).due_us == 0


@pytest.mark.parametrize("errors", [(errno.EIO,), (None, errno.EIO), (None, None, 5)])
def test_a_move_whose_sync_fails_was_made(
    spool: SpoolDir,
    told: ToldOS,
    errors: tuple[int | None, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    place(spool, "failed/x")
    told.fail("fsync", *errors)
    name = spool.move("failed/x", make_name())
    assert tree(spool) == {path_of(name): TASK}
    assert "cannot sync" in caplog.text


def test_a_move_from_a_folder_that_was_then_removed_was_made(
    spool: SpoolDir, caplog: pytest.LogCaptureFixture
) -> None:
    spool.sync_moved("5/20261120T2101", "failed")
    assert caplog.text == ""


# -- lists ------------------------------------------------------------------------


def test_names_leaves_out_what_is_hidden_or_temporary(spool: SpoolDir) -> None:
    for name in (".x", "x", "y.tmp", "tmp.y"):
        place(spool, f"5/{name}")
    assert sorted(spool.names("5")) == ["tmp.y", "x"]
    assert sorted(spool.all_names("5")) == [".x", "tmp.y", "x", "y.tmp"]


def test_names_of_what_is_no_directory_are_none(spool: SpoolDir) -> None:
    place(spool, "file")
    Path(spool.path, "link").symlink_to("failed")
    place(spool, "failed/x")
    for folder in ("none", "file", "link"):
        assert spool.names(folder) == []


def test_an_error_while_listing_passes_and_leaks_nothing(
    spool: SpoolDir, told: ToldOS
) -> None:
    told.fail("listdir", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        spool.names("5")


def test_priorities_are_ordered_as_numbers(spool: SpoolDir) -> None:
    for folder in ("10", "100", "010", "1000000", "x7"):
        Path(spool.path, folder).mkdir()
    place(spool, "77")
    assert spool.priorities() == [*range(11), 100]


def test_minutes_are_ordered_and_nothing_else(spool: SpoolDir) -> None:
    for folder in ("20261120T2102", "20261120T2101", "20261320T2101", "x"):
        Path(spool.path, "5", folder).mkdir()
    assert spool.minutes(5) == ["20261120T2101", "20261120T2102"]


def test_waiting_yields_every_task(spool: SpoolDir) -> None:
    names = [put(spool, make_name(NOW_US * k, k)) for k in (1, 2, 3)]
    assert set(spool.waiting()) == {(name.folder, str(name)) for name in names}


def test_has_does_not_follow_links(spool: SpoolDir) -> None:
    Path(spool.path, "5/link").symlink_to("nowhere")
    assert spool.has("5/link")
    assert not spool.has("5/none")
    assert not spool.is_folder("5/link")
    assert not spool.is_folder("5/none")
    assert spool.is_folder("5")


def test_a_folder_that_is_removed_again_and_again_is_made_again(
    spool: SpoolDir,
) -> None:
    name = make_name()
    left = [3]

    def act(*_: object) -> str:
        if left[0]:
            left[0] -= 1
            Path(spool.path, name.folder).rmdir() if spool.has(name.folder) else None
            raise FileNotFoundError(name.folder)
        return "done"

    assert spool.in_folder(name.folder, act) == "done"
    assert spool.has(name.folder)


def test_a_move_whose_file_is_gone_makes_no_folder(spool: SpoolDir) -> None:
    name = make_name()
    with pytest.raises(FileNotFoundError):
        spool.move("failed/nothing", name)
    assert not spool.has(name.folder)


def test_a_spool_that_was_replaced_is_not_in_place(spool: SpoolDir) -> None:
    assert spool.is_in_place()
    Path(spool.path).rename(spool.path + ".old")
    assert not spool.is_in_place()
    other = SpoolDir(spool.path)
    other.create()
    other.close()
    assert not spool.is_in_place()


@pytest.mark.parametrize(
    ("number", "times", "calls"),
    [(errno.EPERM, 1, 2), (errno.EPERM, 100, 4), (errno.EACCES, 100, 1)],
)
def test_not_permitted_is_believed_when_it_is_said_again(
    spool: SpoolDir, number: int, times: int, calls: int
) -> None:
    made = []

    def act(*_: object) -> None:
        made.append(1)
        if len(made) <= times:
            raise PermissionError(number, "not permitted")

    with nullcontext() if times == 1 else pytest.raises(PermissionError):
        spool.in_folder(make_name().folder, act)
    assert len(made) == calls


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_puts_belongs_to_the_owner_of_the_spool(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.mkdir()
    os.chown(path, 12345, 23456)
    name = make_name(priority=42)
    with closing(SpoolDir(path)) as spool:
        spool.put(name, [b"x"])
    for made in (path / "42", path / name.folder, path / name.folder / str(name)):
        assert (made.stat().st_uid, made.stat().st_gid) == (12345, 23456)


SEEN_BEFORE_CHOWN = """
import os, sys
from spooler.spooldir import SpoolDir

def look(event, args):
    if event == "os.chown":
        print(os.stat(args[0], dir_fd=args[3]).st_uid)

spool = SpoolDir(sys.argv[1])
spool.open()
sys.addaudithook(look)
spool.make_folder("5/20300101T0000")
os.mkdir(sys.argv[2])
print(os.stat(sys.argv[2]).st_uid)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_that_root_makes_is_never_roots(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.mkdir()
    os.chown(path, 12345, 23456)
    done = subprocess.run(
        [sys.executable, "-c", SEEN_BEFORE_CHOWN, path, tmp_path / "own"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "12345\n0\n"
