"""Disks that are recorded, and what a power cut leaves of them.

A cut is: all that was written up to a flush, and of what was written after it
everything, nothing, some of it, or a part that ends in the middle of a block.
"""

import ctypes
import mmap
import os
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Event
from time import monotonic
from typing import Final

from ..helpers import FACTOR
from . import Skip, power_recorder
from .power_recorder import ENTRY, FLUSH

SECTOR: Final = 512
"""Bytes that a disk writes whole or not at all."""

BLOCK: Final = 4096
"""Bytes of which a disk may write some of a request's, and others not."""

MODES: Final = ("all", "none", "some", "blocks", "torn")
"""What becomes of the writes after the last flush."""

_MIB: Final = 1 << 20
_NEW_MOUNTS: Final = 0x20000
_SLAVE: Final = 0x4000 | 1 << 19

UNMOUNT_TIMEOUT: Final = 20.0 * max(1.0, FACTOR)
"""Seconds for which something may be in use that was given up."""


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One that is tried: its name, the bytes of an image, how to make it."""

    name: str
    size: int
    make: tuple[str, ...]

    def format(self, image: Path) -> None:
        """Make an empty one."""
        image.unlink(missing_ok=True)
        image.touch(0o600)
        os.truncate(image, self.size)
        _run(*self.make, str(image))


FILE_SYSTEMS: Final = {
    fs.name: fs
    for fs in (
        FileSystem("ext4", 64 * _MIB, ("mkfs.ext4", "-q", "-F", "-m0")),
        FileSystem("xfs", 300 * _MIB, ("mkfs.xfs", "-q", "-f", "-K")),
        FileSystem("btrfs", 256 * _MIB, ("mkfs.btrfs", "-q", "-f", "-K")),
    )
}


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60 * FACTOR
        )
    except FileNotFoundError:
        raise Skip(f"there is no {command[0]}: tests/torture/setup.sh") from None
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _unmount(point: Path) -> None:
    """Unmount, though a loop device may let go a moment later than it says."""
    until = monotonic() + UNMOUNT_TIMEOUT
    while True:
        try:
            _run("umount", str(point))
        except OSError:
            if monotonic() > until:
                _run("umount", "--lazy", str(point))
                raise
            Event().wait(0.02)
        else:
            return


def check_machine() -> None:
    """Raise ``Skip`` if disks cannot be recorded here; else keep mounts to ourselves.

    Whoever makes a mount namespace meanwhile would have copies of them for its life.
    """
    if os.geteuid() != 0:
        raise Skip("only root can mount")
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not Path(device).exists():
            raise Skip(f"there is no {device}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS) or libc.mount(None, b"/", None, _SLAVE, None):
        raise Skip(f"no mounts of our own: {os.strerror(ctypes.get_errno())}")


def place() -> str | None:
    """Return where images are to be: in memory, if there is room for them."""
    memory = Path("/dev/shm")
    with suppress(OSError):
        found = os.statvfs(memory)
        if found.f_bavail * found.f_frsize >= 3 << 30:
            return str(memory)
    return None


@contextmanager
def mounted(image: Path, point: Path, options: str = "noatime") -> Iterator[None]:
    """Have an image mounted, by a loop device; its journal is replayed."""
    device = _run("losetup", "-f", "--show", str(image))
    try:
        _run("mount", "-o", options, device, str(point))
        try:
            yield
        finally:
            _unmount(point)
    finally:
        _run("losetup", "-d", device)


@contextmanager
def recorded(image: Path, log: Path, point: Path) -> Iterator[Path]:
    """Have a file that is an image, and of which each write is put into a log."""
    point.touch()
    command = [sys.executable, "-m", power_recorder.__name__]
    recorder = subprocess.Popen(
        [*command, str(image), str(log), str(point)], stdout=subprocess.PIPE, text=True
    )
    try:
        if recorder.stdout is None or recorder.stdout.readline().strip() != (
            power_recorder.READY
        ):
            raise Skip("FUSE cannot be used here")
        try:
            yield point
        finally:
            _unmount(point)
        recorder.terminate()  # which it takes for the end
        recorder.wait(UNMOUNT_TIMEOUT)
    finally:
        recorder.kill()
        recorder.communicate()


# -- the log -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """A write or flush. ``at`` is where its data are in the log."""

    moment: int
    offset: int
    size: int
    at: int

    @property
    def is_flush(self) -> bool:
        """Tell whether it is a flush."""
        return self.offset == FLUSH


class Log:
    """What a disk was told, in the order in which it was done."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.writes: list[Write] = []
        at = 0
        while at < len(self._data):
            moment, offset, size = ENTRY.unpack_from(self._data, at)
            at += ENTRY.size
            self.writes.append(Write(moment, offset, size, at))
            at += size
        self.flushes = [n for n, w in enumerate(self.writes) if w.is_flush]

    def data(self, write: Write) -> bytes:
        """Return what was written."""
        return self._data[write.at : write.at + write.size]

    def close(self) -> None:
        """Let go of the file."""
        self._data.close()


@dataclass(frozen=True, slots=True)
class Cut:
    """One power cut.

    Attributes:
        first: So many writes and flushes of the log are durable; the last is a flush.
        last: So many had been sent.
        mode: What becomes of those in between: one of ``MODES``.
        moment: When, in monotonic ns: all that was acknowledged before counts.
        seed: Of the chance in it.
    """

    first: int
    last: int
    mode: str
    moment: int
    seed: int

    def __str__(self) -> str:
        return f"{self.mode} of {self.last - self.first} writes after {self.first}"


def choose(log: Log, since: int, until: int, rng: Random) -> Cut | None:
    """Choose a cut in a span of monotonic ns; None if nothing was flushed in it.

    Half of the cuts are chosen by flush, half by time: rare flushes are as
    interesting as frequent ones.
    """
    moments = [log.writes[n].moment for n in log.flushes]
    low, high = bisect_left(moments, since), bisect_left(moments, until)
    if high <= low:
        return None
    if rng.random() < 0.5:
        number = rng.randrange(low, high)
    else:
        number = max(low, bisect_left(moments, rng.randrange(since, until)) - 1)
    first = log.flushes[number] + 1
    end = log.flushes[number + 1] if number + 1 < len(moments) else len(log.writes)
    while end > first and log.writes[end - 1].moment >= until:
        end -= 1
    last = end if rng.random() < 0.6 else rng.randint(first, end)
    # Just before the next thing that the disk was told, or did.
    moment = min(until, log.writes[last].moment if last < len(log.writes) else until)
    return Cut(first, last, rng.choice(MODES), moment, rng.randrange(1 << 32))


def replay(base: Path, log: Log, cut: Cut, image: Path) -> None:
    """Write the image that a cut leaves, from that with which the log began."""
    copy(base, image)
    with image.open("r+b", buffering=0) as file:
        for write in log.writes[: cut.first]:
            if not write.is_flush:
                os.pwrite(file.fileno(), log.data(write), write.offset)
        for offset, data in _kept(log, cut):
            os.pwrite(file.fileno(), data, offset)


def _kept(log: Log, cut: Cut) -> Iterator[tuple[int, bytes]]:
    """Yield what the cut leaves of the writes that no flush made durable."""
    rng, mode = Random(cut.seed), cut.mode
    part = rng.random()
    writes = log.writes[cut.first : cut.last]
    if mode == "none":
        return
    if mode == "torn":
        writes = writes[: rng.randint(0, len(writes))]
    for number, write in enumerate(writes, 1):
        data = log.data(write)
        if mode == "all" or (mode == "some" and rng.random() < part):
            yield write.offset, data
        elif mode == "torn":
            torn = number == len(writes)
            size = rng.randrange(0, len(data), SECTOR) if torn else len(data)
            yield write.offset, data[:size]
        elif mode == "blocks":
            for at in range(0, len(data), BLOCK):
                if rng.random() < part:
                    yield write.offset + at, data[at : at + BLOCK]


def copy(source: Path, target: Path) -> None:
    """Copy an image; what is a hole in it stays one."""
    target.unlink(missing_ok=True)
    with source.open("rb") as old, target.open("wb") as new:
        size = os.fstat(old.fileno()).st_size
        os.truncate(new.fileno(), size)
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                return
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            os.lseek(new.fileno(), at, os.SEEK_SET)
            while at < end:
                at += os.sendfile(new.fileno(), old.fileno(), at, end - at)
