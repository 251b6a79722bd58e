"""The reserve: made, used, made up again."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from spooler.spooldir import SpoolDir, reserve
from spooler.spooldir.files import write_new
from spooler.spooldir.reserve import FOLDER, PIECE, PIECES, fill, insist, use_some

pytestmark = pytest.mark.usefixtures("no_sync")


def sizes(spool: SpoolDir) -> list[int]:
    return [p.stat().st_blocks * 512 for p in Path(spool.path, FOLDER).iterdir()]


def failing(*errors: int) -> Callable[[], str]:
    left = list(errors)

    def act() -> str:
        if left:
            code = left.pop(0)
            raise OSError(code, os.strerror(code))
        return "done"

    return act


def test_it_has_space_of_its_own(spool: SpoolDir) -> None:
    assert fill(spool.fd, None) == 0
    assert len(sizes(spool)) == PIECES
    assert all(size >= PIECE for size in sizes(spool))
    folder = Path(spool.path, FOLDER)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}


def test_what_was_used_is_made_up(spool: SpoolDir) -> None:
    fill(spool.fd, None)
    assert use_some(spool.fd)
    assert use_some(spool.fd)
    assert len(sizes(spool)) == PIECES - 2
    assert fill(spool.fd, None) == 0
    assert len(sizes(spool)) == PIECES


def test_there_is_none_where_no_daemon_has_been(spool: SpoolDir) -> None:
    assert not use_some(spool.fd)


def test_what_a_crash_left_is_used_by_the_next_one(spool: SpoolDir) -> None:
    folder = Path(spool.path, FOLDER)
    folder.mkdir()
    (folder / ".new").touch()
    assert fill(spool.fd, None) == 0
    assert all(size >= PIECE for size in sizes(spool))
    assert not (folder / ".new").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_without_room_some_of_it_is_used(spool: SpoolDir, code: int) -> None:
    fill(spool.fd, None)
    assert insist(spool.fd, failing(code, code)) == "done"
    assert len(sizes(spool)) == PIECES - 2


def test_when_it_is_used_up_the_error_is_told(spool: SpoolDir) -> None:
    fill(spool.fd, None)
    with pytest.raises(OSError, match="No space"):
        insist(spool.fd, failing(*[errno.ENOSPC] * 100))
    assert sizes(spool) == []


def test_for_another_error_it_is_not_used(spool: SpoolDir) -> None:
    fill(spool.fd, None)
    with pytest.raises(OSError, match="Input/output"):
        insist(spool.fd, failing(errno.EIO))
    assert len(sizes(spool)) == PIECES


def test_without_it_the_error_is_told(spool: SpoolDir) -> None:
    with pytest.raises(OSError, match="No space"):
        insist(spool.fd, failing(errno.ENOSPC))


def test_what_need_not_be_durable_does_not_use_it(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(spool.fd, None)
    act = failing(*[errno.ENOSPC] * 3)
    monkeypatch.setattr("spooler.spooldir.files.write_all", lambda *_: act())
    with pytest.raises(OSError, match="No space"):
        write_new(spool.fd, "tmp/x", "tmp/y", b"z", durable=False)
    assert len(sizes(spool)) == PIECES
    write_new(spool.fd, "tmp/x", "tmp/y", b"z")
    assert len(sizes(spool)) == PIECES - 2


@pytest.mark.parametrize(
    ("blocks", "inodes", "expected"),
    [
        (1 << 20, 1 << 20, (16, 65536)),
        (1024, 1200, (16, 8192)),
        (64, 1200, (2, 4096)),
        (1 << 20, 150, (4, 65536)),
        (1 << 20, 0, (16, 65536)),  # btrfs counts none
        (31, 1200, (0, 0)),
    ],
)
def test_it_is_a_small_part_of_the_file_system(
    blocks: int, inodes: int, expected: tuple[int, int]
) -> None:
    system = os.statvfs_result((4096, 4096, blocks, 0, 0, inodes, 0, 0, 0, 255))
    assert reserve._plan(system) == expected
