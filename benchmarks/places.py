"""Where to measure: in memory, and on a file system with a journal.

ext4 without a journal makes new files up to twenty times more slowly for minutes after
many were deleted, which would drown all else. So the disk's rows come from an ext4 with
a journal, made in a file for the occasion, where that is allowed.
"""

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")
IMAGE: Final = 16 << 30
"""Room for two million tasks of a block each, and as much again; the file is sparse."""

IMAGE_INODES: Final = 2_600_000

BLOCK: Final = 4096
SMALL_FILE: Final = 6 * 1024
"""Bytes of memory that a file of a block takes on tmpfs, inode and name and all."""


@dataclass(frozen=True, slots=True)
class Place:
    """A fresh directory to measure in.

    Attributes:
        name: For the table.
        path: The directory; removed at the end.
        what: Its file system in words, journal and all.
        is_disk: Whether a sync means something here.
    """

    name: str
    path: Path
    what: str
    is_disk: bool

    def room(self) -> int:
        """Return how many more small files it can hold."""
        free = os.statvfs(self.path)
        rooms = [free.f_bavail * free.f_frsize // BLOCK]
        if free.f_files:  # some file systems have as many as one likes
            rooms.append(free.f_favail)
        if not self.is_disk:
            rooms.append(_memory() // SMALL_FILE)
        return min(rooms)

    def settle(self) -> None:
        """Let the disk take what was written, so that it does not do so meanwhile."""
        if self.is_disk:
            os.sync()


def in_memory(stack: ExitStack) -> Place | None:
    """Return a place on tmpfs, if the system has one."""
    if not os.access(MEMORY, os.W_OK) or _mount(MEMORY)[0] != "tmpfs":
        return None
    path = _fresh(stack, MEMORY)
    return Place("tmpfs", path, describe(path), is_disk=False)


def on_disk(stack: ExitStack, given: Path | None) -> Place:
    """Return a place in ``given``, else on a new ext4, else in the temporary one."""
    if given is None and os.geteuid() == 0:
        mounted = _loop_mount(stack)
        if mounted is not None:
            what = f"{describe(mounted)}, in a file"
            return Place("ext4", mounted, what, is_disk=True)
    path = _fresh(stack, given)
    kind = _mount(path)[0]
    name = "disk" if kind == "tmpfs" else kind
    return Place(name, path, describe(path), is_disk=True)


def _memory() -> int:
    """Return the bytes of memory that nobody needs."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _fresh(stack: ExitStack, parent: Path | None) -> Path:
    path = Path(tempfile.mkdtemp(prefix="spooler-bench-", dir=parent))
    stack.callback(shutil.rmtree, path, ignore_errors=True)
    return path


def _loop_mount(stack: ExitStack) -> Path | None:
    folder = _fresh(stack, None)
    image, point = folder / "image", folder / "mount"
    point.mkdir()
    free = os.statvfs(folder)
    with open(image, "wb") as file:
        file.truncate(min(IMAGE, free.f_bavail * free.f_frsize * 9 // 10))
    made_at_once = "lazy_itable_init=0,lazy_journal_init=0"
    inodes = str(IMAGE_INODES)
    make = ["mkfs.ext4", "-q", "-F", "-N", inodes, "-E", made_at_once, str(image)]
    stack.callback(_unmount, point)
    for command in (make, ["mount", "-o", "loop", str(image), str(point)]):
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no ext4 of our own ({error}): measuring elsewhere")
            return None
    path = point / "bench"
    path.mkdir()
    return path


def _unmount(point: Path) -> None:
    for _ in range(50):
        if not os.path.ismount(point):
            return
        done = subprocess.run(["umount", str(point)], capture_output=True, check=False)
        if done.returncode:
            time.sleep(0.1)
    subprocess.run(["umount", "-l", str(point)], check=False)


def _mount(path: Path) -> tuple[str, str]:
    """Return the type and the device of the file system that holds a path."""
    best = (-1, "unknown", "")
    inside = f"{path.resolve()}/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            fields, _, after = line.partition(" - ")
            point = fields.split()[4].rstrip("/") + "/"
            if inside.startswith(point) and len(point) >= best[0]:
                kind, device = after.split()[:2]
                best = (len(point), kind, device)
    return best[1], best[2]


def describe(path: Path) -> str:
    """Return the file system of a path in words, and whether it has a journal."""
    kind, device = _mount(path)
    if kind != "ext4":
        return kind
    journals = Path("/proc/fs/jbd2").glob(f"{Path(device).name}-*")
    return f"ext4 {'with' if any(journals) else 'WITHOUT'} a journal"
