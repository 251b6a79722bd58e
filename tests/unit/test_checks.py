"""What is found in a spool that should not be there, and how it is mended."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers import (
    NOW_US,
    TASK,
    FakeClock,
    make_name,
    path_of,
    place,
    put,
    real_clock,
    tasks,
)

from spooler.packet import encode_packet
from spooler.spooldir import SpoolDir, checks
from spooler.spooldir.checks import Check, Finding
from spooler.spooldir.claims import Claims
from spooler.spooldir.dropped import Dropped
from spooler.spooldir.recovery import ProcessLock
from spooler.task import DEFAULT_PRIORITY, MAX_PRIORITY, MINUTE_US, Name

DEAD = "worker-gone-1-aaaaaa"


@pytest.fixture
def clock() -> FakeClock:
    """A clock by which all that was done in the test was done long ago."""
    clock = real_clock()
    clock.advance(100)
    return clock


def look(spool: SpoolDir, clock: FakeClock, *uids: int) -> list[Finding]:
    return list(Check(spool, frozenset({0, os.geteuid(), *uids}), clock).run())


def the_one(spool: SpoolDir, clock: FakeClock) -> Finding:
    (finding,) = look(spool, clock)
    return finding


def mend(finding: Finding) -> str:
    assert finding.mend is not None
    return finding.mend()


def claimed(spool: SpoolDir, worker: str = DEAD, attempt: int = 0) -> Name:
    name = put(spool, make_name(attempt=attempt))
    claims = Claims(spool, worker, {os.geteuid()})
    assert claims.claim(path_of(name))
    os.close(claims._fd)
    return name


def test_nothing_is_found_in_a_sound_spool(spool: SpoolDir, clock: FakeClock) -> None:
    put(spool, make_name(clock.now_us()))
    put(spool, make_name(clock.now_us() + 60 * MINUTE_US))
    place(spool, f"failed/{make_name()}")
    place(spool, "corrupt/any thing")
    place(spool, "corrupt/any thing.why")
    check = Check(spool, frozenset({os.geteuid()}), clock)
    assert list(check.run()) == []
    assert check.files == 5


# -- processes --------------------------------------------------------------------


def test_what_a_dead_worker_held_is_given_back(
    spool: SpoolDir, clock: FakeClock
) -> None:
    name = claimed(spool)
    lock = ProcessLock(spool, DEAD)
    assert lock.acquire()
    assert look(spool, clock) == []  # it lives
    lock.release()
    finding = the_one(spool, clock)
    assert (finding.kind, finding.path) == ("dead", f"workers/{DEAD}.lock")
    assert finding.text == "is dead, and held 1 task"
    assert mend(finding) == "recovered, 1 given back"
    again = name.but(attempt=1)
    assert tasks(spool) == {path_of(again): TASK}
    assert look(spool, clock) == []


def test_an_orphaned_folder_is_recovered_too(spool: SpoolDir, clock: FakeClock) -> None:
    claimed(spool)
    finding = the_one(spool, clock)
    assert (finding.kind, finding.path) == ("dead", f"running/{DEAD}")
    mend(finding)
    assert look(spool, clock) == []


def test_a_task_that_kills_its_worker_is_given_up_at_last(
    spool: SpoolDir, clock: FakeClock
) -> None:
    name = claimed(spool, attempt=9)
    done = mend(the_one(spool, clock))
    assert done == "recovered, 0 given back, 1 given up: see `spool ls failed`"
    assert [*tasks(spool)] == [f"failed/{name.but(attempt=10)}"]


def test_left_over_files_of_a_process_are_removed(
    spool: SpoolDir, clock: FakeClock
) -> None:
    place(spool, f"workers/{DEAD}.json", b"{}")
    finding = the_one(spool, clock)
    assert finding.text == "is dead, and left its files behind"
    mend(finding)
    assert os.listdir(Path(spool.path, "workers")) == []


def test_beside_a_daemon_the_dead_are_given_time(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed(spool)
    lock = ProcessLock(spool, "daemon-here-1-aaaaaa")
    assert lock.acquire()
    lock.describe({"kind": "daemon"})
    # Another process recovers, as the daemon would, while this one looks.
    script = (
        "import sys\n"
        "from spooler.spooldir import SpoolDir\n"
        "from spooler.spooldir.recovery import recover\n"
        "from spooler.spooldir.checks import DIED\n"
        f"recover(SpoolDir(sys.argv[1]), {DEAD!r}, lambda name: name.due_us, DIED)\n"
    )
    monkeypatch.setattr(checks, "RECOVERY", 20.0)  # it takes a while to begin
    other = subprocess.Popen([sys.executable, "-c", script, spool.path])
    found = list(Check(spool, frozenset({os.geteuid()})).run())
    assert other.wait() == 0
    lock.release()
    assert found == []


# -- places -----------------------------------------------------------------------


@pytest.mark.parametrize("file", ["x", "-rf"])
@pytest.mark.parametrize("folder", ["5", ".", "5/20361120T2101"])
def test_what_was_dropped_long_ago_is_adopted(
    spool: SpoolDir, clock: FakeClock, folder: str, file: str
) -> None:
    Path(spool.path, folder).mkdir(mode=0o700, exist_ok=True)
    place(spool, f"{folder}/{file}")
    assert look(spool, real_clock()) == []  # somebody may be at it
    finding = the_one(spool, clock)
    path = file if folder == "." else f"{folder}/{file}"
    assert (finding.kind, finding.path) == ("place", path)
    assert mend(finding).endswith(" now")
    (path,) = tasks(spool)
    assert Name.parse(path.rpartition("/")[2]) is not None
    assert look(spool, clock) == []


def test_a_task_in_the_folder_of_another_minute_is_moved(
    spool: SpoolDir, clock: FakeClock
) -> None:
    name = make_name()
    Path(spool.path, "3/20361120T2101").mkdir(mode=0o700)
    place(spool, f"3/20361120T2101/{name}")
    finding = the_one(spool, clock)
    assert finding.text == "lies in the wrong place"
    moved = name.but(priority=3)
    assert mend(finding) == f"is {path_of(moved)} now"
    assert tasks(spool) == {path_of(moved): TASK}


def test_what_is_no_task_is_put_aside(spool: SpoolDir, clock: FakeClock) -> None:
    place(spool, "5/x", b"\xff")
    finding = the_one(spool, clock)
    clock.advance(100)
    assert mend(finding) == "put aside"
    assert next(iter(tasks(spool))).startswith("corrupt/x")
    assert look(spool, clock) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_files_of_others_are_left_to_their_reader(
    spool: SpoolDir, clock: FakeClock
) -> None:
    file = place(spool, "5/x")
    os.chown(file, 4711, 4711)
    finding = the_one(spool, clock)
    assert "belongs to uid 4711" in finding.text
    assert finding.mend is None
    (known,) = look(spool, clock, 4711)
    assert known.mend is not None


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("path", "make"),
    [
        ("shared", Path.mkdir),
        ("5/later", Path.mkdir),
        ("running/x", Path.touch),
        ("failed/x", Path.touch),
        ("held/x", Path.touch),
        (f"failed/{make_name()}", Path.mkdir),
        ("limits/x", make_fifo),
        ("done/x", Path.mkdir),
        ("logs/x", make_socket),
    ],
)
def test_what_is_not_ours_is_left_where_it_is(
    spool: SpoolDir, clock: FakeClock, path: str, make: Callable[[Path], None]
) -> None:
    make(Path(spool.path, path))
    finding = the_one(spool, clock)
    assert (finding.kind, finding.path) == ("foreign", path)
    assert finding.mend is None


UWSGI = "uwsgi_spoolfile_on_host_1_1_1_1_1"
PACKET = encode_packet({b"ud_spool_func": b"mail"})


@pytest.mark.parametrize("path", [UWSGI, "packet", f"5/{UWSGI}"])
def test_files_of_uwsgi_are_left_to_daemons_which_know_how_they_are_taken(
    spool: SpoolDir, clock: FakeClock, path: str
) -> None:
    place(spool, path, PACKET)
    assert look(spool, real_clock()) == []
    finding = the_one(spool, clock)
    assert (finding.kind, finding.path, finding.mend) == ("place", path, None)
    assert finding.text.endswith("start spoold")
    folder, _, file = path.rpartition("/")
    # A daemon with uWSGI's order, and one without.
    for keeps_order, rest in ((True, MAX_PRIORITY), (False, DEFAULT_PRIORITY)):
        place(spool, path, PACKET)
        daemon = Dropped(spool, {os.geteuid()}, clock, uwsgi=keeps_order)
        native = daemon.adopt(folder or ".", file, finished=True)
        assert isinstance(native, str)
        assert native.startswith(f"{folder or rest}/")


def test_beside_a_daemon_files_of_uwsgi_are_its_own_business(
    spool: SpoolDir, clock: FakeClock
) -> None:
    place(spool, UWSGI, PACKET)
    lock = ProcessLock(spool, "daemon-here-1-aaaaaa")
    assert lock.acquire()
    lock.describe({"kind": "daemon"})
    assert look(spool, clock) == []
    lock.release()
    assert {finding.kind for finding in look(spool, clock)} == {"place", "dead"}


def test_a_packet_whose_place_says_its_priority_is_adopted(
    spool: SpoolDir, clock: FakeClock
) -> None:
    place(spool, "7/packet", PACKET)
    assert mend(the_one(spool, clock)).startswith("is 7/")
    name = make_name(priority=7)
    place(spool, str(name), PACKET)
    assert mend(the_one(spool, clock)) == f"is {path_of(name)} now"


def test_a_link_in_the_root_is_put_aside(spool: SpoolDir, clock: FakeClock) -> None:
    outside = place(spool, "tmp/outside", PACKET)
    Path(spool.path, "link").symlink_to(outside)
    assert mend(the_one(spool, clock)) == "put aside"
    assert outside.read_bytes() == PACKET


def test_a_folder_of_uwsgi_is_told_of_while_there_is_something_in_it(
    spool: SpoolDir, clock: FakeClock
) -> None:
    file = place(spool, f"05/{UWSGI}", PACKET)
    finding = the_one(spool, clock)
    assert (finding.kind, finding.path, finding.mend) == ("foreign", "05", None)
    assert "spoold --uwsgi" in finding.text
    file.unlink()
    assert look(spool, clock) == []


# -- modes and owners -------------------------------------------------------------


@pytest.mark.parametrize("folder", ["failed", "running", "keys", "tmp", "5"])
def test_folders_are_for_their_owner(
    spool: SpoolDir, clock: FakeClock, folder: str
) -> None:
    path = Path(spool.path, folder)
    shared = folder in ("tmp", "5")
    path.chmod(0o170 if shared else 0o755)
    finding = the_one(spool, clock)
    assert (finding.kind, finding.path) == ("mode", folder)
    mend(finding)
    assert path.stat().st_mode & 0o7777 == (0o770 if shared else 0o700)
    assert look(spool, clock) == []


def test_minute_folders_too(spool: SpoolDir, clock: FakeClock) -> None:
    name = put(spool)
    path = Path(spool.path, name.folder)
    path.chmod(0o777)
    finding = the_one(spool, clock)
    assert finding.path == name.folder
    mend(finding)
    assert path.stat().st_mode & 0o7777 == 0o700


def test_a_task_that_its_owner_cannot_read(spool: SpoolDir, clock: FakeClock) -> None:
    name = put(spool)
    path = Path(spool.path, path_of(name))
    path.chmod(0o000)
    finding = the_one(spool, clock)
    assert finding.text == "has mode 0000: its owner cannot read it"
    mend(finding)
    assert path.stat().st_mode & 0o7777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
@pytest.mark.parametrize("path", ["keys", "limits/x"])
def test_what_belongs_to_somebody_else(
    spool: SpoolDir, clock: FakeClock, path: str
) -> None:
    os.chown(spool.path, 4711, 4711)
    for folder in os.listdir(spool.path):
        os.chown(Path(spool.path, folder), 4711, 4711)
    place(spool, "limits/x")
    os.chown(Path(spool.path, "limits/x"), 4711, 4711)
    assert look(spool, clock) == []
    os.chown(Path(spool.path, path), 4712, 4712)
    finding = the_one(spool, clock)
    assert (finding.kind, finding.path) == ("owner", path)
    assert mend(finding) == "belongs to uid 4711 now"
    assert Path(spool.path, path).stat().st_uid == 4711


# -- left-overs -------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["tmp/x", "failed/.x", "keys/.x", "kill/0123456789abcdef", "failed/gone.why"],
)
def test_left_overs_of_crashes_are_removed(
    spool: SpoolDir, clock: FakeClock, path: str
) -> None:
    file = place(spool, path)
    assert look(spool, clock) == []
    clock.advance(25 * 3600)
    finding = the_one(spool, clock)
    assert (finding.kind, finding.path) == ("leftover", path)
    assert mend(finding) == "removed"
    assert not file.exists()


def test_a_left_over_that_somebody_writes_is_none(
    spool: SpoolDir, clock: FakeClock
) -> None:
    file = place(spool, "tmp/x")
    clock.advance(25 * 3600)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    with file.open("ab"):
        assert look(spool, clock) == []
    assert look(spool, clock)


def test_a_task_at_two_names_keeps_one(spool: SpoolDir, clock: FakeClock) -> None:
    name = put(spool)
    os.link(Path(spool.path, path_of(name)), Path(spool.path, "tmp/x"))
    os.link(Path(spool.path, path_of(name)), Path(spool.path, "keys/aa"))
    finding = the_one(spool, clock)
    assert (finding.kind, finding.path) == ("twice", "tmp/x")
    assert mend(finding) == "removed"
    assert tasks(spool) == {path_of(name): TASK}
    assert look(spool, clock) == []


def test_a_task_that_waits_twice_is_told_of(spool: SpoolDir, clock: FakeClock) -> None:
    name = put(spool, make_name(NOW_US))
    other = make_name(NOW_US)
    os.link(Path(spool.path, path_of(name)), Path(spool.path, path_of(other)))
    finding = the_one(spool, clock)
    assert finding.kind == "twice"
    assert finding.mend is None


def test_parts_of_a_batch_are_one_file(spool: SpoolDir, clock: FakeClock) -> None:
    name = put(spool, make_name(NOW_US, task="_batch"))
    other = make_name(NOW_US, task="_batch")
    os.link(Path(spool.path, path_of(name)), Path(spool.path, path_of(other)))
    assert look(spool, clock) == []
