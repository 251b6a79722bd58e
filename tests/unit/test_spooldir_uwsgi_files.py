"""Files with uWSGI's names: lock, adoption, writing; its directories taken over."""

import errno
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.helpers import FakeClock, ToldOS, place, real_clock, tasks

from spooler import handle
from spooler.errors import (
    NotASpoolError,
    PacketTooLargeError,
    SpoolFull,
    SpoolUncertain,
    UsageError,
)
from spooler.ext.uwsgi.files import write_file
from spooler.packet import decode_pairs, encode_packet
from spooler.spooldir import SpoolDir, uwsgi_files as module
from spooler.spooldir.dropped import Dropped, NotDue, Writers
from spooler.spooldir.marking import FOLDERS
from spooler.spooldir.recovery import sweep
from spooler.spooldir.room import set_limits
from spooler.spooldir.taking_over import take_over
from spooler.spooldir.uwsgi_files import PREFIX, bring_over, locked, number_of
from spooler.task import MAX_PRIORITY, Name

OWNERS = {os.getuid()}
FILE = f"{PREFIX}host_1_1_1804289383_1795208460_123456"
PACKET = encode_packet({b"ud_spool_func": b"resize", b"photo": b"1.png"})
ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="only root may do this")

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
"""What uWSGI does with a file that it runs."""

TAKE = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
"""What it does to begin."""


@pytest.fixture
def clock() -> FakeClock:
    clock = real_clock()
    clock.advance(100)  # later than the files that a test makes, however slowly
    return clock


@pytest.fixture
def alone(spool: SpoolDir, clock: FakeClock) -> Dropped:
    """Return what adopts where no uWSGI is left."""
    return Dropped(spool, OWNERS, clock, uwsgi=True)


@pytest.fixture
def beside(spool: SpoolDir, clock: FakeClock) -> Dropped:
    """Return what adopts where a uWSGI serves the directory, too."""
    return Dropped(spool, OWNERS, clock, uwsgi=True, uwsgi_files=True)


@contextmanager
def held_by_uwsgi(path: Path) -> Iterator[None]:
    """Have another process hold a file open and locked."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
        process.communicate()


def uwsgi_gets(path: Path) -> bool:
    """Tell whether another process would get the lock for running a file."""
    command = [sys.executable, "-c", TAKE, str(path)]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def priority_of(spool: SpoolDir, result: object) -> int:
    """Return the priority of the only task, which was just adopted."""
    assert list(tasks(spool)) == [result]
    name = Name.parse(str(result).rpartition("/")[2])
    assert name is not None
    return name.priority


# -- the lock -----------------------------------------------------------------------


def test_a_file_that_uwsgi_holds_is_not_taken(
    spool: SpoolDir, alone: Dropped, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the kernel knows of no writer: on a network file system.
    monkeypatch.setattr(
        "spooler.spooldir.dropped.writers", lambda path, dir_fd: Writers.UNKNOWN
    )
    file = place(spool, FILE, PACKET)
    clock.advance(60)
    with held_by_uwsgi(file):
        assert alone.adopt(".", FILE, finished=True) is True
        assert file.exists()
    assert isinstance(alone.adopt(".", FILE, finished=True), str)


def test_nor_put_aside(
    spool: SpoolDir, alone: Dropped, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "spooler.spooldir.dropped.writers", lambda path, dir_fd: Writers.UNKNOWN
    )
    file = place(spool, FILE, PACKET[:10])
    clock.advance(60)
    with held_by_uwsgi(file):
        assert alone.adopt(".", FILE, finished=True) is True
        assert file.exists()
    assert alone.adopt(".", FILE, finished=True) is False
    assert not file.exists()


def test_uwsgi_does_not_get_a_file_that_is_held(spool: SpoolDir) -> None:
    file = place(spool, FILE, PACKET)
    with locked(FILE, dir_fd=spool.fd) as is_held:
        assert is_held
        assert not uwsgi_gets(file)
        with suppress(BlockingIOError), file.open("rb"):
            pass  # to close it elsewhere in the process lets nothing go
        assert not uwsgi_gets(file)
    assert uwsgi_gets(file)


def test_a_child_does_not_keep_the_lock(spool: SpoolDir) -> None:
    file = place(spool, FILE, PACKET)
    reader, writer = os.pipe()
    with locked(FILE, dir_fd=spool.fd):
        child = os.fork()
        if not child:  # pragma: no cover (ends without telling)
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    os.close(reader)
    try:
        assert uwsgi_gets(file)
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_a_file_that_uwsgi_has_just_finished_is_gone(
    spool: SpoolDir, alone: Dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place(spool, FILE, PACKET)

    def finish(*_: object) -> None:
        file.unlink()

    monkeypatch.setattr(module, "_set_lock", finish)
    assert alone.adopt(".", FILE, finished=True) is False


def test_a_path_that_is_another_file_by_now_is_looked_at_again(
    spool: SpoolDir, alone: Dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place(spool, FILE, PACKET)
    other = place(spool, "tmp/other", PACKET)
    monkeypatch.setattr(module, "_set_lock", lambda *_: other.replace(file))
    assert alone.adopt(".", FILE, finished=True) is True


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EACCES])
def test_without_locks_it_stays(
    spool: SpoolDir, alone: Dropped, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    place(spool, FILE, PACKET)

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, "_set_lock", refuse)
    with pytest.raises(OSError, match=os.strerror(code)):
        alone.adopt(".", FILE, finished=True)
    assert spool.has(FILE)


# -- adopting -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "data", "priority"),
    [
        (FILE, PACKET, MAX_PRIORITY),
        ("any", PACKET, MAX_PRIORITY),
        (f"7/{FILE}", PACKET, 7),
        ("any", b"task=t\n", 5),
        (FILE, encode_packet({b"task": b"t", b"priority": b"3"}), 3),
    ],
)
def test_packets_in_the_root_come_last(
    spool: SpoolDir, alone: Dropped, path: str, data: bytes, priority: int
) -> None:
    place(spool, path, data)
    folder, _, file = path.rpartition("/")
    result = alone.adopt(folder or ".", file, finished=True)
    assert priority_of(spool, result) == priority


def test_but_not_without_uwsgi(spool: SpoolDir, clock: FakeClock) -> None:
    place(spool, FILE, PACKET)
    result = Dropped(spool, OWNERS, clock).adopt(".", FILE, finished=True)
    assert priority_of(spool, result) == 5


@pytest.mark.parametrize(
    ("pairs", "seconds", "due"),
    [
        ({}, 600, "mtime"),
        ({}, -600, "dropped"),
        ({b"at": b"100"}, 600, "mtime"),
        ({b"at": b"4000000000.5"}, -600, "at"),
    ],
)
def test_uwsgi_files_are_due_by_at_and_by_their_time(
    spool: SpoolDir,
    alone: Dropped,
    clock: FakeClock,
    pairs: dict[bytes, bytes],
    seconds: int,
    due: str,
) -> None:
    file = place(spool, FILE, encode_packet({b"task": b"t", **pairs}))
    mtime = clock.now_us() // 1_000_000 + seconds
    os.utime(file, (mtime, mtime))
    dropped_us = file.stat().st_ctime_ns // 1000
    result = alone.adopt(".", FILE, finished=True)
    name = Name.parse(str(result).rpartition("/")[2])
    assert name is not None
    wanted = {
        "mtime": mtime * 10**6,
        "dropped": dropped_us,
        "at": 4_000_000_000_500_000,
    }
    assert name.due_us == wanted[due]


@pytest.mark.parametrize("key", [b"", b"4000000000"])
def test_beside_uwsgi_a_file_stays_until_it_is_due(
    spool: SpoolDir, beside: Dropped, clock: FakeClock, key: bytes
) -> None:
    file = place(spool, FILE, encode_packet({b"task": b"t", b"at": key}))
    seconds = int(key or clock.now_us() // 1_000_000 + 600)
    if not key:
        os.utime(file, (seconds, seconds))
    due = NotDue(seconds * 1_000_000)
    assert beside.adopt(".", FILE, finished=True) == due
    assert file.exists()
    clock.set(due.due_us)
    assert isinstance(beside.adopt(".", FILE, finished=True), str)


def test_other_packets_do_not_stay(spool: SpoolDir, beside: Dropped) -> None:
    file = place(spool, "any", PACKET)
    os.utime(file, (4_000_000_000, 4_000_000_000))
    assert isinstance(beside.adopt(".", "any", finished=True), str)


def test_a_time_beyond_all_names_stays(spool: SpoolDir, beside: Dropped) -> None:
    file = place(spool, FILE, PACKET)
    os.utime(file, (12_000_000_000, 12_000_000_000))
    result = beside.adopt(".", FILE, finished=True)
    assert isinstance(result, NotDue)
    assert result.due_us < 10**16


def test_without_a_uwsgi_it_is_corrupt(
    spool: SpoolDir, alone: Dropped, clock: FakeClock
) -> None:
    file = place(spool, FILE, PACKET)
    os.utime(file, (12_000_000_000, 12_000_000_000))
    clock.advance(60)
    assert alone.adopt(".", FILE, finished=True) is False
    assert spool.names("corrupt")


@ROOT_ONLY
def test_files_of_others_are_left_to_their_uwsgi(
    spool: SpoolDir, alone: Dropped, beside: Dropped, clock: FakeClock
) -> None:
    file = place(spool, FILE, PACKET)
    os.chown(file, 4321, 4321)
    clock.advance(60)
    with pytest.raises(PermissionError, match="belongs to uid 4321"):
        beside.adopt(".", FILE, finished=True)
    assert file.exists()
    assert alone.adopt(".", FILE, finished=True) is False
    assert not file.exists()


@pytest.mark.parametrize("shares", [True, False])
def test_a_file_that_cannot_be_opened_is_left_to_uwsgi(
    spool: SpoolDir,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    shares: bool,
) -> None:
    dropped = Dropped(spool, OWNERS, clock, uwsgi=True, uwsgi_files=shares)
    place(spool, FILE, PACKET)
    told = ToldOS()
    told.fail("open", PermissionError(errno.EACCES, "Permission denied", FILE))
    monkeypatch.setattr(module, "os", told)
    if shares:
        with pytest.raises(PermissionError):
            dropped.adopt(".", FILE, finished=True)
    else:
        assert isinstance(dropped.adopt(".", FILE, finished=True), str)


# -- folders ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "number"),
    [
        ("0", "0"),
        ("05", "5"),
        ("000", "0"),
        ("10", "10"),
        ("999999", "999999"),
        ("0999999", "999999"),
        ("1000000", "999998"),
        ("9" * 40, "999998"),
        ("high", None),
        ("-1", None),
        ("٣", None),
        ("", None),
    ],
)
def test_every_folder_of_digits_is_a_priority(folder: str, number: str | None) -> None:
    assert number_of(folder) == number


@pytest.mark.parametrize(
    ("folder", "priority"), [("05", "5"), ("12345678", "999998"), ("0017", "17")]
)
def test_its_files_are_brought_to_the_priority(
    spool: SpoolDir, alone: Dropped, folder: str, priority: str
) -> None:
    place(spool, f"{folder}/{FILE}", PACKET)
    place(spool, f"{folder}/other", b"task=t\n")
    assert alone.adopt(".", folder, finished=True) is True
    assert spool.has(f"{priority}/{FILE}")
    assert os.listdir(f"{spool.path}/{folder}") == ["other"]


def test_but_not_those_that_uwsgi_holds_or_that_are_there(spool: SpoolDir) -> None:
    held = place(spool, f"05/{FILE}", PACKET)
    place(spool, f"05/{FILE}2", PACKET)
    place(spool, f"5/{FILE}2", b"another")
    with held_by_uwsgi(held):
        assert bring_over(spool.fd, "05", "5") == 0
    assert bring_over(spool.fd, "05", "5") == 1
    assert Path(spool.path, f"5/{FILE}2").read_bytes() == b"another"


@pytest.mark.parametrize("folder", ["high", "5/7"])
def test_other_folders_stay(spool: SpoolDir, alone: Dropped, folder: str) -> None:
    place(spool, f"{folder}/{FILE}", PACKET)
    above, _, name = folder.rpartition("/")
    with pytest.raises(IsADirectoryError):
        alone.adopt(above or ".", name, finished=True)


def test_a_priority_is_no_business_of_its(spool: SpoolDir, alone: Dropped) -> None:
    place(spool, f"5/{FILE}", PACKET)
    assert alone.adopt(".", "5", finished=True) is True
    assert spool.has(f"5/{FILE}")


def test_without_uwsgi_such_a_folder_is_foreign(
    spool: SpoolDir, clock: FakeClock
) -> None:
    place(spool, f"05/{FILE}", PACKET)
    with pytest.raises(IsADirectoryError):
        Dropped(spool, OWNERS, clock).adopt(".", "05", finished=True)


# -- writing ------------------------------------------------------------------------

NAME = re.compile(rf"{PREFIX}.+_{os.getpid()}_\d+_\d+_\d{{10}}_\d{{1,6}}")


@pytest.mark.parametrize(
    ("priority", "folder"), [(None, ""), ("", ""), ("3", "/3"), ("05", "/5")]
)
@pytest.mark.parametrize("body", [b"", b"x", bytes(1_000_000)])
def test_write_file_writes_what_uwsgi_does(
    tmp_path: Path, priority: str | None, folder: str, body: bytes
) -> None:
    pairs = {b"ud_spool_func": b"f", b"at": b"1795208460.75"}
    path = Path(
        write_file(str(tmp_path), pairs, body, priority=priority, at=1795208460.75)
    )
    assert str(path.parent) == str(tmp_path) + folder
    assert NAME.fullmatch(path.name)
    data = path.read_bytes()
    assert data[:1] == b"\x11"
    found, end = decode_pairs(data)
    assert (found, data[end:]) == (pairs, body)
    status = path.stat()
    assert status.st_mtime == 1795208460
    assert status.st_mode & 0o777 == 0o600
    assert uwsgi_gets(path)


def test_its_names_differ_and_sort_in_time(tmp_path: Path) -> None:
    paths = {
        write_file(str(tmp_path), {b"a": b"b"}, b"", priority=None, at=None)
        for _ in range(100)
    }
    assert len(paths) == 100


def test_a_written_file_is_synced_and_then_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    monkeypatch.setattr(module, "os", told)
    monkeypatch.setattr("spooler.spooldir.files.os", told)
    path = write_file(str(tmp_path), {b"a": b"b"}, b"", priority="17", at=None)
    file = os.path.relpath(path, tmp_path)
    hidden = file.replace("/", "/.")
    assert told.syncs(str(tmp_path)) == [".", hidden, "17"]
    calls = [call.partition(" ")[0] for call in told.calls]
    assert calls[calls.index("rename") :][:3] == ["rename", "open", "fsync"]


def test_a_folder_that_cannot_be_synced_leaves_the_task_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    told.fail("fsync", None, errno.EIO)  # the file's, then the folder's
    monkeypatch.setattr("spooler.spooldir.files.os", told)
    with pytest.raises(SpoolUncertain):
        write_file(str(tmp_path), {b"a": b"b"}, b"", priority=None, at=None)
    [file] = tmp_path.iterdir()
    assert NAME.fullmatch(file.name)


def test_what_a_killed_producer_leaves_is_swept(
    spool: SpoolDir, clock: FakeClock
) -> None:
    left = [place(spool, f".{FILE}"), place(spool, f"5/.{FILE}")]
    others = [place(spool, ".other"), place(spool, FILE)]
    sweep(spool, clock)
    assert all(file.exists() for file in left)
    clock.advance(24 * 3600 + 1)
    sweep(spool, clock)
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in others)
    assert spool.has(".spool")


@pytest.mark.parametrize("call", ["write", "utime", "fsync", "fchown", "rename"])
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    told = ToldOS()
    told.fail(call, errno.ENOSPC)
    monkeypatch.setattr(module, "os", told)
    monkeypatch.setattr("spooler.spooldir.files.os", told)
    monkeypatch.setattr(module, "owner_of", lambda root: (os.getuid(), os.getgid()))
    with pytest.raises(OSError, match="No space left"):
        write_file(str(tmp_path), {b"a": b"b"}, b"", priority=None, at=1.0)
    assert list(tmp_path.iterdir()) == []


@ROOT_ONLY
def test_files_of_root_belong_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 4321, 4322)
    path = write_file(str(tmp_path), {b"a": b"b"}, b"", priority="3", at=None)
    for each in (Path(path), tmp_path / "3"):
        assert (each.stat().st_uid, each.stat().st_gid) == (4321, 4322)


@pytest.mark.parametrize("priority", ["high", "-1", "1.5", "../etc", "٣"])
def test_a_priority_that_uwsgi_would_never_look_at_is_refused(
    tmp_path: Path, priority: str
) -> None:
    with pytest.raises(UsageError, match="uWSGI takes digits"):
        write_file(str(tmp_path), {b"a": b"b"}, b"", priority=priority, at=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [float("nan"), float("inf"), 1e30])
def test_and_so_is_a_moment_that_is_none(tmp_path: Path, at: float) -> None:
    with pytest.raises(UsageError, match="at="):
        write_file(str(tmp_path), {b"a": b"b"}, b"", priority=None, at=at)


@pytest.mark.parametrize("at", [None, 0.0, -5.0])
def test_no_moment_is_now(tmp_path: Path, at: float | None) -> None:
    before = real_clock().now_us()
    path = write_file(str(tmp_path), {b"a": b"b"}, b"", priority=None, at=at)
    assert os.stat(path).st_mtime_ns // 1000 >= before - 20_000  # a tick of the kernel


def test_pairs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PacketTooLargeError):
        write_file(str(tmp_path), {b"a": bytes(66_000)}, b"", priority=None, at=None)
    assert list(tmp_path.iterdir()) == []


def test_a_full_spool_takes_no_more(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(handle._DIRS, spool.path, spool)
    set_limits(spool, max_waiting=1)
    write_file(spool.path, {b"a": b"b"}, b"", priority=None, at=None)
    with pytest.raises(SpoolFull):
        write_file(spool.path, {b"a": b"b"}, b"", priority=None, at=None)


# -- taking over --------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a directory of uWSGI's."""
    old = tmp_path / "old"
    for folder in (".", "5", "05", "17", "12345678"):
        (old / folder).mkdir(exist_ok=True)
        (old / folder / FILE).write_bytes(PACKET)
    return old


def test_a_directory_of_uwsgi_becomes_a_spool(
    old: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = {path for path in old.rglob("*") if path.is_file()}
    assert take_over(str(old))
    assert f"take over spool={old}" in caplog.text
    spool = SpoolDir(old)
    spool.open()
    assert set(FOLDERS) <= set(os.listdir(old))
    assert all(path.read_bytes() == PACKET for path in before)
    assert not take_over(str(old))


def test_such_a_directory_is_no_spool_by_itself(old: Path) -> None:
    with pytest.raises(NotASpoolError, match="is not empty and is not a spool"):
        SpoolDir(old).open()


@pytest.mark.parametrize("count", range(len(FOLDERS) + 1))
def test_taking_over_goes_on_where_somebody_was_killed(old: Path, count: int) -> None:
    for folder in FOLDERS[:count]:
        (old / folder).mkdir(exist_ok=True)
    if count == len(FOLDERS):
        (old / "tmp" / ".spool.12345678").touch()
    assert take_over(str(old))
    SpoolDir(old).open()


@pytest.mark.parametrize(
    "path",
    ["README", "photos/1.png", "5/notes", f"5/6/{FILE}", "running/x", ".git/config"],
)
def test_a_directory_with_anything_else_is_refused(old: Path, path: str) -> None:
    (old / path).parent.mkdir(exist_ok=True, parents=True)
    (old / path).touch()
    before = set(old.rglob("*"))
    with pytest.raises(NotASpoolError, match=f"there is {path.partition('/')[0]};"):
        take_over(str(old))
    assert set(old.rglob("*")) == before


def test_a_link_or_folder_with_the_name_of_a_file_is_refused(old: Path) -> None:
    (old / f"{FILE}2").symlink_to(FILE)
    (old / f"{FILE}3").mkdir()
    with pytest.raises(NotASpoolError, match=f"there is {FILE}2, {FILE}3;"):
        take_over(str(old))


def test_only_some_of_many_names_are_told(old: Path) -> None:
    for number in range(20):
        (old / f"x{number:02}").touch()
    with pytest.raises(NotASpoolError, match=r"x00, x01, x02, x03, x04 and 15 more"):
        take_over(str(old))


@pytest.mark.parametrize("file", [".gitignore", ".gitkeep", ".keep"])
def test_what_keeps_an_empty_directory_does_not_matter(old: Path, file: str) -> None:
    (old / file).touch()
    assert take_over(str(old))


def test_none_and_an_empty_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("missing", "file", "empty"):
        assert not take_over(str(tmp_path / name))
    assert not os.listdir(tmp_path / "empty")


def test_a_file_that_uwsgi_finishes_meanwhile_does_not_matter(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.listdir

    def listdir(path: int) -> list[str]:
        return [*real(path), f"{FILE}9"]

    monkeypatch.setattr("spooler.spooldir.taking_over.os.listdir", listdir)
    assert take_over(str(old))


def test_numbered_folders_are_closed_to_others(
    old: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder, mode in (("5", 0o777), ("17", 0o1777), ("05", 0o777)):
        (old / folder).chmod(mode)
    assert take_over(str(old))
    modes = [(old / folder).stat().st_mode & 0o7777 for folder in ("5", "17")]
    assert modes == [0o775, 0o1777]
    assert f"chmod o-w {old}/5: everybody" in caplog.text
    # and at each later start: a uWSGI in the background goes on making such.
    (old / "23").mkdir()
    (old / "23").chmod(0o777)
    assert not take_over(str(old))
    assert (old / "23").stat().st_mode & 0o7777 == 0o775


@ROOT_ONLY
def test_root_makes_it_for_its_owner(old: Path) -> None:
    os.chown(old, 4321, 4321)
    assert take_over(str(old))
    assert (old / "running").stat().st_uid == 4321
    assert (old / ".spool").stat().st_uid == 4321
