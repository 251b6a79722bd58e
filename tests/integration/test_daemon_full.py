"""A disk without space: the daemon goes on by itself when there is some again."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest

from spooler import Spooler
from spooler.spooldir import SpoolDir

from .conftest import Box, stays, wait_until


@pytest.fixture
def small(box: Box, tmp_path: Path) -> Iterator[Box]:
    """A spool on a file system with few files and little space."""
    path = tmp_path / "small"
    path.mkdir()
    options = "size=256k,nr_inodes=150"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        box.spool = path / "spool"
        SpoolDir(box.spool).create()
        box.spooler = Spooler(box.spool, durability="fast")
        yield box
        box.close()
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(box: Box) -> list[Path]:
    """Take all space, the reserve's too; return what to remove to have some again."""
    made = [box.spool / "tmp" / "large"]
    reserve = box.spool / ".reserve"
    while True:
        with made[0].open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        for number in range(len(made), 1000):
            path = box.spool / "tmp" / str(number)
            try:
                path.touch()
            except OSError:
                break
            made.append(path)
        # A daemon may have made some of it anew while there was room.
        pieces = list(reserve.iterdir()) if reserve.is_dir() else []
        if not pieces:
            return made
        for path in pieces:
            path.unlink(missing_ok=True)


def empty(made: list[Path]) -> None:
    for path in made:
        path.unlink()


def test_a_put_fails_and_leaves_nothing(small: Box) -> None:
    small.put("note")
    made = fill(small)
    with pytest.raises(OSError, match="No space"):
        small.put("note")
    empty(made)
    small.burst()
    assert small.lines() == ["done"]


def test_what_waits_still_runs(small: Box) -> None:
    for number in range(20):
        small.put("note", text=str(number))
    small.start()
    small.put("gate")
    small.number("pid")
    for number in range(20, 40):
        small.put("note", text=str(number))
    fill(small)
    small.open()
    small.wait_lines("passed", *map(str, range(40)))


def test_a_retry_that_cannot_be_put_back_waits_for_space(small: Box) -> None:
    daemon = small.start()
    small.put("again_after", seconds=200)
    small.wait_lines("1")
    wait_until(small.waiting)
    small.put("gate")
    small.number("pid")
    small.put("again_after", seconds=4000)
    small.put("note")
    made = fill(small)
    began = monotonic()
    small.open()
    daemon.wait_for("cannot settle")
    wait_until(lambda: "done" in small.lines())
    wait_until(lambda: len(small.running()) == 1)
    assert stays(lambda: len(small.running()) == 1, seconds=0.2)
    assert daemon.text().count("cannot settle") < 5 + (monotonic() - began)
    empty(made)
    wait_until(lambda: len(small.waiting()) == 2)
    assert all(".5.1." in name for name in small.waiting())
    assert daemon.end() == 0
    assert small.is_left_clean()


def test_workers_that_cannot_start_do_when_there_is_space(small: Box) -> None:
    daemon = small.start()
    small.put("gate")
    small.number("pid")
    small.put("note")
    made = fill(small)
    daemon.send(signal.SIGHUP)
    daemon.wait_for("died: exit status 1")
    wait_until(lambda: daemon.text().count("died: exit status 1") >= 3)
    empty(made)
    small.wait_lines("done")
    small.open()
    small.wait_lines("passed", "done")
    assert small.lines("attempts") == ["1"]
    assert daemon.end() == 0


def test_a_reload_meanwhile_does_not_end_the_daemon(small: Box) -> None:
    daemon = small.start()
    small.worker()
    made = fill(small)
    daemon.send(signal.SIGHUP)
    daemon.wait_for("reload: done")
    assert stays(lambda: daemon.process.poll() is None, seconds=0.2)
    empty(made)
    small.put("note")
    small.wait_lines("done")
    assert daemon.end() == 0


def test_a_failure_waits_for_space_for_its_reason(small: Box) -> None:
    daemon = small.start()
    small.put("gate")
    small.number("pid")
    for _ in range(4):  # more than the gate's file makes room for
        small.put("give_up")
    made = fill(small)
    small.open()
    daemon.wait_for("cannot settle")
    assert small.running()
    empty(made)
    wait_until(small.is_empty)
    names = small.names("failed")
    assert len(small.failed()) == 4
    assert all(f"{name}.why" in names for name in small.failed())
    assert daemon.end() == 0


def test_a_start_on_a_full_disk_is_refused_in_one_line(small: Box) -> None:
    fill(small)
    line = small.refused(small.command(), 78)
    assert "No space" in line
