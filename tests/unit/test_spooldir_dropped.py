"""Adopt what other programs left in a spool."""

import errno
import logging
import os
import socket
from pathlib import Path

import pytest
from tests.helpers import (
    NOW_US,
    TASK,
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

from spooler.spooldir import SpoolDir, dropped as module, reading, reports
from spooler.spooldir.dropped import Dropped, NotDue, Writers, writers
from spooler.task import Name

OWNERS = {os.getuid()}
ID = "8c1f42d09ab3e617"
ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="only root may do this")


@pytest.fixture
def clock() -> FakeClock:
    clock = real_clock()
    clock.advance(100)  # later than the files that a test makes, however slowly
    return clock


@pytest.fixture
def dropped(spool: SpoolDir, clock: FakeClock) -> Dropped:
    return Dropped(spool, OWNERS, clock)


def adopted(spool: SpoolDir, result: str | bool | NotDue) -> Name:
    """Return the name of the only task, which ``adopt`` has just told of."""
    assert isinstance(result, str)
    assert list(tasks(spool)) == [result]
    name = Name.parse(result.rpartition("/")[2])
    assert name is not None
    assert path_of(name) == result
    return name


def reason(spool: SpoolDir) -> str:
    """Return why the only thing in corrupt/ is there."""
    (file,) = [n for n in spool.names("corrupt") if not n.endswith(".why")]
    return str(reports.read_why(spool, f"corrupt/{file}")["reason"])


# -- tasks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "priority"), [("5", 5), ("0", 0), (".", 5), ("7/20261120T2101", 7)]
)
def test_a_task_gets_the_priority_of_its_folder_and_is_due_when_dropped(
    spool: SpoolDir, dropped: Dropped, folder: str, priority: int
) -> None:
    file = place(spool, f"{folder}/any name")
    dropped_us = file.stat().st_ctime_ns // 1000
    name = adopted(spool, dropped.adopt(folder, "any name", finished=True))
    assert (name.priority, name.attempt, name.task) == (priority, 0, "t")
    assert name.due_us == dropped_us
    assert len(name.id) == 16


def test_the_bytes_of_a_task_stay(spool: SpoolDir, dropped: Dropped) -> None:
    data = b"task=t\r\npriority=3\n\nbody\0"
    place(spool, "x", data)
    name = adopted(spool, dropped.adopt(".", "x", finished=True))
    assert tasks(spool) == {path_of(name): data}
    assert name.priority == 3


def test_the_folder_is_right_about_the_priority(
    spool: SpoolDir, dropped: Dropped
) -> None:
    place(spool, "9/x", b"task=t\npriority=3\n")
    assert adopted(spool, dropped.adopt("9", "x", finished=True)).priority == 9


def test_a_task_may_choose_its_id(spool: SpoolDir, dropped: Dropped) -> None:
    place(spool, "5/x", b"task=t\nid=8c1f42d09ab3e617\n")
    assert adopted(spool, dropped.adopt("5", "x", finished=True)).id == ID


def test_an_id_that_would_meet_a_task_is_replaced(
    spool: SpoolDir, dropped: Dropped
) -> None:
    data = b"task=t\nid=8c1f42d09ab3e617\nat=1795208460\n"
    first = put(spool, make_name(NOW_US, id=ID), b"first")
    place(spool, "5/x", data)
    result = dropped.adopt("5", "x", finished=True)
    assert isinstance(result, str)
    assert result != path_of(first)
    assert tasks(spool) == {path_of(first): b"first", result: data}


@pytest.mark.parametrize("at", ["+90", "+1.5m"])
def test_at_counts_from_the_drop(spool: SpoolDir, dropped: Dropped, at: str) -> None:
    file = place(spool, "5/x", f"task=t\nat={at}\n".encode())
    dropped_us = file.stat().st_ctime_ns // 1000
    name = adopted(spool, dropped.adopt("5", "x", finished=True))
    assert name.due_us == dropped_us + 90_000_000


def test_a_drop_in_the_future_was_now(spool: SpoolDir, clock: FakeClock) -> None:
    place(spool, "5/x")
    clock.advance(-3600)
    result = Dropped(spool, OWNERS, clock).adopt("5", "x", finished=True)
    assert adopted(spool, result).due_us == clock.now_us()


def test_an_at_that_is_too_late_from_the_drop_is_corrupt(
    spool: SpoolDir, dropped: Dropped, clock: FakeClock
) -> None:
    place(spool, "5/x", b"task=t\nat=+100000d\n")
    clock.advance(2)
    assert dropped.adopt("5", "x", finished=True) is False
    assert "later than 2286" in reason(spool)


def packet(**pairs: str) -> bytes:
    block = b"".join(
        len(text).to_bytes(2, "little") + text.encode()
        for pair in pairs.items()
        for text in pair
    )
    return b"\x11" + len(block).to_bytes(2, "little") + b"\0" + block


@pytest.mark.parametrize(
    ("pairs", "seconds", "due"),
    [
        ({}, 600, "mtime"),
        ({}, -600, "dropped"),
        ({"at": "1795208460"}, 600, "at"),
    ],
)
def test_a_uwsgi_file_may_tell_its_due_time_by_its_mtime(
    spool: SpoolDir,
    dropped: Dropped,
    clock: FakeClock,
    pairs: dict[str, str],
    seconds: int,
    due: str,
) -> None:
    file = place(spool, "5/x", packet(ud_spool_func="t", **pairs))
    mtime_ns = (clock.now_us() // 1_000_000 + seconds) * 10**9
    os.utime(file, ns=(mtime_ns, mtime_ns))
    dropped_us = file.stat().st_ctime_ns // 1000
    name = adopted(spool, dropped.adopt("5", "x", finished=True))
    expected = {"mtime": mtime_ns // 1000, "dropped": dropped_us, "at": NOW_US}
    assert name.due_us == expected[due]


def test_a_uwsgi_file_from_after_2286_is_corrupt(
    spool: SpoolDir, dropped: Dropped, clock: FakeClock
) -> None:
    file = place(spool, "5/x", packet(ud_spool_func="t"))
    os.utime(file, (10**10 + 5, 10**10 + 5))
    if file.stat().st_mtime < 10**10:
        pytest.skip("this file system has no such times")
    clock.advance(2)
    assert dropped.adopt("5", "x", finished=True) is False
    assert "later than 2286" in reason(spool)


def test_the_mtime_of_other_files_says_nothing(
    spool: SpoolDir, dropped: Dropped, clock: FakeClock
) -> None:
    file = place(spool, "5/x")
    os.utime(file, (10**10 - 1, 10**10 - 1))
    name = adopted(spool, dropped.adopt("5", "x", finished=True))
    assert name.due_us <= clock.now_us()


def test_a_second_link_is_accepted_and_left(spool: SpoolDir, dropped: Dropped) -> None:
    file = place(spool, "tmp/kept")
    os.link(file, Path(spool.path, "5/x"))
    adopted(spool, dropped.adopt("5", "x", finished=True))
    assert file.read_bytes() == TASK


def test_what_is_gone_is_nothing(spool: SpoolDir, dropped: Dropped) -> None:
    assert dropped.adopt("5", "x", finished=True) is False


# -- native files in the wrong place ----------------------------------------------


def test_a_failed_task_moved_by_hand_keeps_its_name(
    spool: SpoolDir, dropped: Dropped
) -> None:
    name = make_name(attempt=3, id=ID)
    place(spool, f"5/{name}", b"task=other\n")
    assert dropped.adopt("5", str(name), finished=True) == path_of(name)
    assert tasks(spool) == {path_of(name): b"task=other\n"}


def test_a_waiting_task_moved_by_hand_gets_that_priority(
    spool: SpoolDir, dropped: Dropped
) -> None:
    name = make_name(attempt=3, id=ID)
    place(spool, f"0/{name}")
    result = dropped.adopt("0", str(name), finished=True)
    assert result == path_of(name.but(priority=0))
    assert list(tasks(spool)) == [result]


def test_a_task_in_the_folder_of_another_minute_goes_to_its_own(
    spool: SpoolDir, dropped: Dropped
) -> None:
    name = make_name()
    place(spool, f"5/20300101T0000/{name}")
    result = dropped.adopt("5/20300101T0000", str(name), finished=True)
    assert result == path_of(name)
    assert list(tasks(spool)) == [result]


def test_a_native_file_in_the_root_keeps_its_priority(
    spool: SpoolDir, dropped: Dropped
) -> None:
    name = make_name(priority=3)
    place(spool, str(name))
    assert dropped.adopt(".", str(name), finished=True) == path_of(name)


def test_a_native_file_in_its_place_stays(spool: SpoolDir, dropped: Dropped) -> None:
    name = put(spool)
    assert dropped.adopt(name.folder, str(name), finished=True) == path_of(name)
    assert list(tasks(spool)) == [path_of(name)]


def test_a_copy_of_a_waiting_task_gets_an_id_of_its_own(
    spool: SpoolDir, dropped: Dropped
) -> None:
    name = put(spool, data=b"task=t\n#=1\n")
    place(spool, f"5/{name}", b"task=t\n#=2\n")
    result = dropped.adopt("5", str(name), finished=True)
    assert isinstance(result, str)
    assert tasks(spool) == {path_of(name): b"task=t\n#=1\n", result: b"task=t\n#=2\n"}


# -- what is no file --------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("fifo", "is a FIFO"),
        ("socket", "is a socket"),
        ("link", "is a symbolic link"),
        ("dangling", "is a symbolic link"),
        pytest.param("device", "is a device", marks=ROOT_ONLY),
        pytest.param("block", "is a device", marks=ROOT_ONLY),
    ],
)
def test_what_is_no_regular_file_is_put_aside_and_never_opened(
    spool: SpoolDir,
    dropped: Dropped,
    kind: str,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = Path(spool.path, "5/x")
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "link":
            path.symlink_to("../tmp/secret")
            place(spool, "tmp/secret")
        case "dangling":
            path.symlink_to("nothing")
        case "device":
            os.mknod(path, 0o20600, os.makedev(1, 7))
        case "block":
            os.mknod(path, 0o60600, os.makedev(7, 99))
    told = ToldOS()
    monkeypatch.setattr(module, "os", told)
    assert dropped.adopt("5", "x", finished=True) is False
    assert "open" not in told.calls
    assert not os.path.lexists(path)
    assert reason(spool) == text
    assert "path=5/x kept=corrupt/x." in caplog.text
    assert text in caplog.text


def test_a_directory_is_left(spool: SpoolDir, dropped: Dropped) -> None:
    Path(spool.path, "5/x").mkdir()
    with pytest.raises(IsADirectoryError, match="left where it is"):
        dropped.adopt("5", "x", finished=True)
    assert Path(spool.path, "5/x").is_dir()


@ROOT_ONLY
def test_a_stranger_s_file_is_put_aside(
    spool: SpoolDir, dropped: Dropped, clock: FakeClock
) -> None:
    os.chown(place(spool, "5/x"), 12345, -1)
    clock.advance(2)
    assert dropped.adopt("5", "x", finished=True) is False
    assert reason(spool) == "its owner, uid 12345, may not put tasks here"


@ROOT_ONLY
def test_the_file_of_an_owner_that_was_allowed_is_taken(
    spool: SpoolDir, clock: FakeClock
) -> None:
    os.chown(place(spool, "5/x"), 12345, -1)
    dropped = Dropped(spool, {12345}, clock)
    adopted(spool, dropped.adopt("5", "x", finished=True))


# -- not ready, or never ----------------------------------------------------------


def test_a_file_that_is_being_written_is_waited_for(
    spool: SpoolDir, dropped: Dropped, clock: FakeClock
) -> None:
    path = place(spool, "5/x", b"task=")
    with path.open("ab", buffering=0) as writer:
        clock.advance(3600)
        assert dropped.adopt("5", "x", finished=False) is True
        assert dropped.adopt("5", "x", finished=True) is True
        writer.write(b"t\nphoto=1.png\n")
        assert dropped.adopt("5", "x", finished=False) is True
    adopted(spool, dropped.adopt("5", "x", finished=False))


def test_a_writer_with_another_name_for_it_is_waited_for(
    spool: SpoolDir, dropped: Dropped
) -> None:
    path = place(spool, "tmp/x")
    os.link(path, Path(spool.path, "5/x"))
    with path.open("ab"):
        assert dropped.adopt("5", "x", finished=True) is True
    adopted(spool, dropped.adopt("5", "x", finished=True))


def test_a_reader_is_not_waited_for(spool: SpoolDir, dropped: Dropped) -> None:
    with place(spool, "5/x").open("rb"):
        adopted(spool, dropped.adopt("5", "x", finished=False))


@pytest.mark.parametrize("data", [b"", b"rubbish", b'{"task":"t"', b"\x11\xff"])
def test_what_is_no_task_is_put_aside_after_a_second_of_rest(
    spool: SpoolDir,
    dropped: Dropped,
    clock: FakeClock,
    data: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = place(spool, "5/x", data)
    clock.set(file.stat().st_ctime_ns // 1000 + 999_999)
    assert dropped.adopt("5", "x", finished=True) is True
    assert list(tree(spool)) == ["5/x"]
    clock.advance(0.000_001)
    assert dropped.adopt("5", "x", finished=True) is False
    ((path, kept),) = tasks(spool).items()
    assert path.startswith("corrupt/x.")
    assert kept == data
    assert reports.read_why(spool, path)["found"] == "5/x"
    assert "reject" in caplog.text


def test_a_native_name_over_rubbish_is_corrupt_under_its_name(
    spool: SpoolDir, dropped: Dropped, clock: FakeClock
) -> None:
    name = make_name()
    place(spool, f"5/{name}", b"")
    clock.advance(2)
    assert dropped.adopt("5", str(name), finished=True) is False
    assert list(tasks(spool)) == [f"corrupt/{name}"]
    assert reason(spool) == "empty file"


def test_a_future_mtime_does_not_hold_up_a_verdict(
    spool: SpoolDir, dropped: Dropped, clock: FakeClock
) -> None:
    os.utime(place(spool, "5/x", b"rubbish"), (9e9, 9e9))
    clock.advance(2)
    assert dropped.adopt("5", "x", finished=True) is False
    assert reason(spool)


@pytest.mark.parametrize(
    "file", ["a\nb", "\x1b[2J", "x" * 250, "\udcff\udc80", "-n", "ü€😀", "a b\tc"]
)
@pytest.mark.parametrize("good", [True, False])
def test_any_file_name_can_be_taken_and_logged(
    spool: SpoolDir,
    dropped: Dropped,
    clock: FakeClock,
    file: str,
    good: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    place(spool, f"5/{file}", TASK if good else b"rubbish")
    clock.advance(2)
    result = dropped.adopt("5", file, finished=True)
    if good:
        adopted(spool, result)
    else:
        assert result is False
        assert reason(spool)
    assert not spool.names("5") or good
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.isprintable()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP])
def test_where_leases_do_not_work_a_file_is_taken_when_finished_or_at_rest(
    spool: SpoolDir,
    dropped: Dropped,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    finished: bool,
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.fcntl", refuse)
    file = place(spool, "5/x")
    clock.set(file.stat().st_ctime_ns // 1000 + 500_000)
    result = dropped.adopt("5", "x", finished=finished)
    if not finished:
        assert result is True
        clock.advance(0.5)
        result = dropped.adopt("5", "x", finished=False)
    adopted(spool, result)


@pytest.mark.parametrize(
    "code", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ESTALE, errno.ENOSPC]
)
@pytest.mark.parametrize("call", ["stat", "open"])
def test_an_error_of_the_system_never_makes_a_file_corrupt(
    spool: SpoolDir,
    dropped: Dropped,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
) -> None:
    place(spool, "5/x", b"rubbish")
    clock.advance(5)
    told = ToldOS()
    told.fail(call, code, code)
    for each in (module, reading):
        monkeypatch.setattr(each, "os", told)
    with pytest.raises(OSError, match=rf"\[Errno {code}\]"):
        dropped.adopt("5", "x", finished=True)
    assert list(tree(spool)) == ["5/x"]


def test_writers_sees_whoever_writes(spool: SpoolDir) -> None:
    path = place(spool, "5/x")
    assert writers("5/x", dir_fd=spool.fd) is Writers.NONE
    with path.open("ab"):
        assert writers("5/x", dir_fd=spool.fd) is Writers.SOME
    fd = os.open(path, os.O_RDWR)
    assert writers("5/x", dir_fd=spool.fd) is Writers.SOME
    os.close(fd)
    assert writers("5/x", dir_fd=spool.fd) is Writers.NONE


def test_somebody_else_s_lease_counts_as_a_writer(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(spool, "5/x")
    told = ToldOS()
    told.fail("open", errno.EWOULDBLOCK)
    monkeypatch.setattr(module, "os", told)
    assert writers("5/x", dir_fd=spool.fd) is Writers.SOME


def test_no_writer_is_held_up_afterwards(spool: SpoolDir) -> None:
    path = place(spool, "5/x")
    writers("5/x", dir_fd=spool.fd)
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
