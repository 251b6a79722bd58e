"""A full disk: what was begun ends all the same, thanks to the reserve."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spooler import Spooler
from spooler.spooldir import SpoolDir, reserve

from .conftest import Box, wait_until

APP = """
from spooler import Retry, current_task, spool
from tasks import wait_for, write

@spool(retries=0)
def fails(n: int) -> None:
    raise ValueError(f"no {n}")

@spool(backoff=0.1)
def comes_back(n: int) -> None:
    if current_task().attempt == 1:
        raise Retry("not yet")
    write(f"back {n}")

@spool(keep_result="1h")
def returns(n: int) -> dict[str, int]:
    return {"n": n}

@spool
def notes(n: int) -> None:
    write(f"note {n}")

@spool
def waits() -> None:
    write("began")
    wait_for("gate")
    write("ended")
"""


@dataclass
class Disk:
    """A small file system with a spool on it."""

    path: Path
    box: Box

    def fill(self, *, space: bool = True, inodes: bool = True) -> None:
        """Take all that is free."""
        (self.path / "full").mkdir(exist_ok=True)
        if inodes:
            with suppress(OSError):
                for number in range(100_000):
                    (self.path / "full" / str(number)).touch()
        if space:
            fd = os.open(
                self.path / "full" / "0", os.O_CREAT | os.O_APPEND | os.O_WRONLY
            )
            for size in (65536, 4096, 512, 1):
                with suppress(OSError):
                    while True:
                        os.write(fd, b"x" * size)
            with suppress(OSError):
                os.fsync(fd)
            os.close(fd)

    def empty(self) -> None:
        """Give it all back."""
        for file in (self.path / "full").iterdir():
            file.unlink()

    def left(self) -> tuple[int, int]:
        """Return the bytes and inodes that are free."""
        system = os.statvfs(self.path)
        return system.f_bavail * system.f_frsize, system.f_favail


def _mount(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr!r}")


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, box: Box, tmp_path: Path) -> Iterator[Disk]:
    """A spool on a file system of a few megabytes and inodes."""
    path = tmp_path / "small"
    path.mkdir()
    if request.param == "tmpfs":
        options = "size=4m,nr_inodes=1200"
        _mount(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)])
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        _mount(["mkfs.ext4", "-q", "-F", "-m0", "-N", "1200", str(image)])
        _mount(["mount", "-o", "loop", str(image), str(path)])
    try:
        box.spool = path / "spool"
        SpoolDir(box.spool).create()
        box.spooler = Spooler(box.spool, durability="fast")
        yield Disk(path, box)
        box.close()
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def pieces(box: Box) -> int:
    return len(os.listdir(box.spool / reserve.FOLDER))


def is_whole(box: Box) -> bool:
    return (box.spool / reserve.FOLDER).is_dir() and pieces(box) == reserve.PIECES


def reports(box: Box) -> list[dict[str, Any]]:
    folder = box.spool / "failed"
    return [json.loads((folder / f"{n}.why").read_text()) for n in box.failed()]


@pytest.mark.parametrize("what", ["space", "inodes", "both"])
def test_on_a_full_disk_all_that_waits_is_run_and_ends(disk: Disk, what: str) -> None:
    box = disk.box
    box.module(APP)
    pause = box.spool / "paused" / "all"
    pause.touch()
    daemon = box.start("--workers", "2", imports="mine")
    wait_until(lambda: is_whole(box))
    kinds = ("fails", "notes", "comes_back", "returns", "notes")
    for number in range(100, 105):  # before anything has given room back
        box.later("fails", {"priority": 0}, n=number)
    for number in range(20):
        for kind in kinds:
            box.put(kind, n=number)
    disk.fill(space=what != "inodes", inodes=what != "space")
    with pytest.raises(OSError, match="No space"):
        box.put("notes", n=1, filler="x" * 200_000)
    pause.unlink()
    wait_until(lambda: box.is_empty() and len(box.failed()) == 25)
    assert not daemon.says("cannot settle"), daemon.text()
    back = [f"back {n}" for n in range(20)]
    notes = [f"note {n}" for n in range(20)] * 2
    assert sorted(box.lines()) == sorted(back + notes)
    for report in reports(box):
        assert report["error"].startswith("ValueError: no ")
        assert "Traceback" in report["traceback"]
        assert len(report["attempts"]) == 1
    results = [
        json.loads((box.spool / "done" / n).read_text()) for n in box.names("done")
    ]
    assert sorted(each["result"]["n"] for each in results) == list(range(20))
    disk.empty()
    wait_until(lambda: is_whole(box))
    assert daemon.end() == 0
    assert box.is_left_clean()


def test_a_daemon_starts_on_a_full_disk_with_a_reserve(disk: Disk) -> None:
    box = disk.box
    box.module(APP)
    daemon = box.start(imports="mine")
    wait_until(lambda: is_whole(box))
    assert daemon.end() == 0
    for number in range(3):
        box.put("notes", n=number)
    disk.fill()
    daemon = box.start(imports="mine")
    box.wait_lines("note 0", "note 1", "note 2")
    daemon.wait_for("no room on its file system")
    disk.empty()
    daemon.wait_for("its reserve is whole again")
    assert daemon.end() == 0
    assert box.is_left_clean()


def test_a_worker_that_dies_on_a_full_disk_is_recovered(disk: Disk) -> None:
    box = disk.box
    box.module(APP)
    daemon = box.start(imports="mine")
    wait_until(lambda: is_whole(box))
    box.put("waits")
    box.wait_lines("began")
    disk.fill()
    os.kill(box.worker(), signal.SIGKILL)
    wait_until(lambda: len(box.lines()) == 2)
    # One that begins before the dead one's file is removed has no room for its own.
    said = daemon.text().replace("cannot catch what tasks print: [Errno 28]", "")
    assert "cannot " not in said, daemon.text()
    box.open()
    box.wait_lines("began", "began", "ended")
    wait_until(box.is_empty)
    disk.empty()
    assert daemon.end() == 0


def test_a_batch_and_followers_end_on_a_full_disk(disk: Disk) -> None:
    box = disk.box
    box.module(APP)
    daemon = box.start(imports="mine")
    wait_until(lambda: is_whole(box))
    (box.spool / "paused" / "all").touch()
    daemon.wait_for("pause what=all")
    after = box.spooler.call("notes", {"n": 100})
    box.later("notes", {"then": [after]}, n=0)
    box.later("fails", {"on_failure": [after]}, n=0)
    lines = [box.spooler.call("notes", {"n": n}) for n in range(1, 20)]
    lines.insert(7, box.spooler.call("fails", {"n": 1}))
    lines.insert(9, box.spooler.call("comes_back", {"n": 1}))
    box.spooler.spool_many(lines)
    disk.fill()
    (box.spool / "paused" / "all").unlink()
    notes = [f"note {n}" for n in range(20)]
    box.wait_lines(*notes, "note 100", "note 100", "back 1")
    wait_until(box.is_empty)
    assert sorted(report["error"] for report in reports(box)) == [
        "ValueError: no 0",
        "ValueError: no 1",
    ]
    disk.empty()
    assert daemon.end() == 0
