"""Tests of the put of few steps: the same task, the same errors, fewer calls."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.helpers import TASK, ToldOS, make_name, path_of, put, tree

from spooler.errors import NotASpoolError, SpoolUncertain
from spooler.spooldir import SpoolDir, quick
from spooler.spooldir.quick import put_quickly


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[ToldOS]:
    told = ToldOS()
    monkeypatch.setattr(quick, "os", told)
    return told


def test_it_makes_four_calls_and_leaves_the_task(
    spool: SpoolDir, told: ToldOS, no_leaks: None
) -> None:
    Path(spool.path, make_name().folder).mkdir()
    name = make_name()
    put_quickly(spool, name, TASK)
    assert told.calls == ["open", "write", "link", "close"]
    assert tree(spool) == {path_of(name): TASK}
    assert Path(spool.path, path_of(name)).stat().st_mode & 0o777 == 0o600


def test_it_makes_a_folder_that_is_missing(spool: SpoolDir) -> None:
    name = make_name(priority=4711)
    put_quickly(spool, name, TASK)
    assert tree(spool) == {path_of(name): TASK}


@pytest.mark.parametrize("call", ["open", "write", "link"])
@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOENT, errno.EIO])
def test_what_is_in_its_way_is_left_to_put(
    spool: SpoolDir, told: ToldOS, call: str, code: int, no_leaks: None
) -> None:
    put(spool)
    before = tree(spool)
    told.fail(call, code)
    name = make_name()
    put_quickly(spool, name, TASK)
    assert tree(spool) == {**before, path_of(name): TASK}


def test_a_short_write_leaves_the_whole_task(spool: SpoolDir, told: ToldOS) -> None:
    put(spool)
    told.write = lambda fd, data: os.write(fd, data[:3])  # type: ignore[attr-defined] # in place of the function
    name = make_name()
    put_quickly(spool, name, TASK)
    assert tree(spool)[path_of(name)] == TASK


def test_it_refuses_a_name_that_is_there(spool: SpoolDir) -> None:
    name = put(spool, data=b"first")
    with pytest.raises(FileExistsError):
        put_quickly(spool, name, TASK)
    assert tree(spool) == {path_of(name): b"first"}


def test_a_failed_close_of_a_task_in_place_is_uncertain(
    spool: SpoolDir, told: ToldOS
) -> None:
    put(spool)
    name = make_name()

    def close(fd: int) -> None:
        os.close(fd)
        raise OSError(errno.EIO, "close")

    told.close = close  # type: ignore[attr-defined] # in place of the function
    with pytest.raises(SpoolUncertain):
        put_quickly(spool, name, TASK)
    assert tree(spool)[path_of(name)] == TASK


def test_it_finds_the_spool_removed_and_made_anew(spool: SpoolDir) -> None:
    put_quickly(spool, make_name(), TASK)
    shutil.rmtree(spool.path)
    with pytest.raises(NotASpoolError):
        put_quickly(spool, make_name(), TASK)
    with closing(SpoolDir(spool.path)) as new:
        new.create()
    name = make_name()
    put_quickly(spool, name, TASK)
    assert tree(spool) == {path_of(name): TASK}


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_what_root_puts_belongs_to_the_owner_of_the_spool(tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, 4712)
    with closing(SpoolDir(tmp_path)) as spool:
        name = make_name()
        put_quickly(spool, name, TASK)
        status = Path(spool.path, path_of(name)).stat()
        assert (status.st_uid, status.st_gid) == (4711, 4712)
