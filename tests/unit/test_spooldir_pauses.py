"""What is not run for a while: the files in ``paused/``."""

import errno
import os
import socket
from pathlib import Path

import pytest
from tests.helpers import NOW_US, ToldOS

from spooler.errors import TaskNameError
from spooler.spooldir import SpoolDir, files, pauses
from spooler.spooldir.pauses import NOTHING, Pause, Paused, name_of, read, together

LATER_US = NOW_US + 600_000_000


def file_of(spool: SpoolDir, what: str) -> Path:
    return Path(spool.path, "paused", what)


def only(spool: SpoolDir) -> Pause:
    (pause,) = read(spool)
    return pause


def test_nothing_is_paused_in_a_new_spool(spool: SpoolDir) -> None:
    assert read(spool) == []
    assert together([]) == NOTHING


def test_a_pause_that_was_written_is_read(spool: SpoolDir) -> None:
    pauses.write(spool, "all", None)
    pauses.write(spool, "priority.5", LATER_US)
    pauses.write(spool, "task.grüße", None)
    assert read(spool) == [
        Pause("all"),
        Pause("priority.5", LATER_US),
        Pause("task.grüße"),
    ]
    assert os.stat(file_of(spool, "all")).st_mode & 0o777 == 0o600
    assert file_of(spool, "priority.5").read_text() == "2026-11-20T21:11:00.000Z\n"
    assert spool.all_names("paused") == spool.names("paused")


def test_a_pause_is_synced_before_it_counts_as_made(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    for module in (pauses, files):
        monkeypatch.setattr(module, "os", told)
    monkeypatch.setattr("spooler.spooldir.root.os", told)
    pauses.write(spool, "all", None)
    syncs = told.syncs(spool.path)
    assert syncs[0].startswith("paused/.all.")
    assert syncs[1:] == ["paused"]
    told.calls.clear()
    assert pauses.remove(spool, "all")
    assert told.syncs(spool.path) == ["paused"]


def test_a_pause_replaces_an_older_one(spool: SpoolDir) -> None:
    pauses.write(spool, "all", LATER_US)
    pauses.write(spool, "all", None)
    assert only(spool) == Pause("all")


def test_a_pause_that_cannot_be_written_leaves_the_old_one(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses.write(spool, "all", LATER_US)
    told = ToldOS()
    told.fail("write", errno.ENOSPC)
    monkeypatch.setattr(files, "os", told)
    with pytest.raises(OSError, match="No space"):
        pauses.write(spool, "all", None)
    assert only(spool) == Pause("all", LATER_US)
    assert spool.all_names("paused") == ["all"]


@pytest.mark.parametrize(
    ("text", "until_us"),
    [
        ("", None),
        (" \n", None),
        ("+10m\n", LATER_US),
        ("+600", LATER_US),
        ("  +600s\n\n", LATER_US),
        ("2026-11-20T21:11:00Z\n", LATER_US),
        ("1795209060", LATER_US),
        ("0", 0),
    ],
)
def test_what_a_shell_writes_is_understood(
    spool: SpoolDir, text: str, until_us: int | None
) -> None:
    file = file_of(spool, "all")
    file.write_text(text)
    os.utime(file, ns=(NOW_US * 1000, NOW_US * 1000))
    assert only(spool) == Pause("all", until_us)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"soon", "'soon' is not a moment"),
        (b"+10 minutes", "is not a moment"),
        (b"\xff", "is not UTF-8"),
        (b"0" * 4097, "is larger than 4096 bytes"),
        (b"+99999999999d", "is later than 2286"),
        (b"\x1b[2J", r"'\x1b[2J'"),
    ],
)
def test_what_cannot_be_read_counts_and_has_no_end(
    spool: SpoolDir, data: bytes, problem: str
) -> None:
    file_of(spool, "task.t").write_bytes(data)
    pause = only(spool)
    assert pause.until_us is None
    assert not pause.is_over(2 * NOW_US)
    assert problem in str(pause.problem)
    assert together([pause]).tasks == {"t"}


@pytest.mark.parametrize("kind", ["folder", "link", "fifo", "socket"])
def test_what_is_no_file_counts_and_is_not_waited_for(
    spool: SpoolDir, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(spool, "all")
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        monkeypatch.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("all")
    pause = only(spool)
    assert pause.problem == "is not a regular file"
    assert together([pause]).everything
    assert pauses.remove(spool, "all")
    assert read(spool) == []


def test_a_pause_that_may_not_be_read_counts(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses.write(spool, "all", LATER_US)
    told = ToldOS()
    told.fail("open", errno.EACCES)
    monkeypatch.setattr(pauses, "os", told)
    assert only(spool) == Pause("all", problem="Permission denied")


def test_a_pause_that_goes_while_it_is_read_is_none(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses.write(spool, "all", LATER_US)
    told = ToldOS()
    told.fail("open", errno.ENOENT)
    monkeypatch.setattr(pauses, "os", told)
    assert read(spool) == []


@pytest.mark.parametrize(
    "what",
    [
        *("alle", "priority.", "priority.-1", "priority.05", "priority.1000000"),
        *("task.", "task. x", "task.x y", "tasks.x", "task.\udcff"),
    ],
)
def test_a_name_that_names_nothing_pauses_nothing(spool: SpoolDir, what: str) -> None:
    file_of(spool, what).touch()
    pause = only(spool)
    assert not pause.is_known
    assert "pauses nothing" in str(pause.problem)
    assert together([pause]) == NOTHING


def test_hidden_and_temporary_names_are_not_looked_at(spool: SpoolDir) -> None:
    for what in (".all", "all.tmp", "task.x.tmp"):
        file_of(spool, what).touch()
    assert read(spool) == []


def test_pauses_come_together() -> None:
    found = [
        Pause("all", LATER_US),
        Pause("priority.3", NOW_US),
        Pause("priority.12"),
        Pause("task.a.b", problem="what?"),
        Pause("x", 1, problem="unknown"),
    ]
    assert together(found) == Paused(
        everything=True,
        priorities=frozenset({3, 12}),
        tasks=frozenset({"a.b"}),
        next_us=NOW_US,
    )


def test_a_pause_is_over_from_its_end_on() -> None:
    assert not Pause("all", NOW_US).is_over(NOW_US - 1)
    assert Pause("all", NOW_US).is_over(NOW_US)
    assert not Pause("all").is_over(NOW_US)


def test_remove_tells_whether_something_was_paused(spool: SpoolDir) -> None:
    pauses.write(spool, "all", None)
    assert pauses.remove(spool, "all")
    assert not pauses.remove(spool, "all")


def test_a_directory_with_something_in_it_is_not_removed(spool: SpoolDir) -> None:
    file_of(spool, "all").mkdir()
    file_of(spool, "all/mine").touch()
    with pytest.raises(OSError, match="not empty"):
        pauses.remove(spool, "all")


def test_only_what_is_over_is_removed(spool: SpoolDir) -> None:
    pauses.write(spool, "all", NOW_US)
    pauses.write(spool, "task.t", LATER_US)
    pauses.write(spool, "task.u", None)
    for what in ("all", "task.t", "task.u", "task.gone"):
        pauses.remove_over(spool, what, NOW_US)
    assert sorted(spool.names("paused")) == ["task.t", "task.u"]


def test_the_name_of_a_pause() -> None:
    assert name_of(None, None) == "all"
    assert name_of(7, None) == "priority.7"
    assert name_of(None, "resize") == "task.resize"
    with pytest.raises(TaskNameError):
        name_of(None, "../all")
