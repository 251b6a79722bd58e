"""A flood of junk in a spool, and what it does to good tasks: for a test, a torture."""

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic, time, time_ns
from typing import Final

from spooler.spooldir import SpoolDir

from ..helpers import FACTOR, make_name, put
from .conftest import Box, Spoold, cpu_seconds, wait_until

MODULE: Final = """
import os, time
from pathlib import Path
from spooler import spool

@spool
def note(text: str):
    Path(os.environ["OUT"], text).write_text(repr(time.time()))
"""

GOOD: Final = 20
"""Good tasks that are put, and as many that are dropped, while the junk comes."""

IDLE: Final = 5.0
"""Seconds for which the daemon is watched when all is over."""

NASTY: Final = "\x1b[2J\n\udcff"


@dataclass(slots=True)
class Figures:
    """What a flood came to.

    Attributes:
        put: The longest that a good task has waited that was put, in seconds.
        dropped: The same, of those that were dropped as files.
        aside: Seconds until all junk was put aside, from the beginning.
        log: Bytes that the daemon has logged.
        memory: The most memory that the daemon has used, in MiB.
        idle: The processor time that it takes when all is over, in per cent.
        kept: Files in ``corrupt/``, without reports.
    """

    junk: int
    put: float = 0.0
    dropped: float = 0.0
    aside: float = 0.0
    log: int = 0
    memory: float = 0.0
    idle: float = 0.0
    kept: int = 0

    def broken(self, log: int = 300_000) -> list[str]:
        """Return which limits were passed; those of time hold on a machine of its own.

        Args:
            log: Bytes that the log may have.
        """
        limits = {
            "put": 1.0 * FACTOR,
            # As long as it takes to look at half of what was dropped before and after.
            "dropped": max(5.0, self.junk / 2000) * FACTOR,
            "log": log,
            "memory": 100.0,
            "idle": 2.0 * FACTOR,
        }
        found = ((name, getattr(self, name), most) for name, most in limits.items())
        return [f"{name}: {each} > {most}" for name, each, most in found if each > most]


def make_junk(spool: Path, number: int, *, native: bool = False) -> None:
    """Leave one piece of junk in priority 5, of a kind by its number."""
    path = spool / "5" / (f"{number}{NASTY}" if number % 3 == 0 else f"junk{number}")
    if native and number % 8 == 0:
        name = make_name(time_ns() // 1000, id=os.urandom(8).hex(), task="note")
        put(SpoolDir(spool), name, b'{"task":"note","args":')
        return
    match number % 7:
        case 0:
            path.symlink_to("/etc/passwd")
        case 1:
            os.mkfifo(path)
        case 2:
            path.touch()
        case 3:
            path.write_bytes(b'{"task":')
        case 4:
            path.write_bytes(b"rubbish\0" * 100)
        case 5:
            path.write_bytes(b'{"task":"note","at":1e999}')
        case _:
            path.write_bytes(b"text=no task\n")


class Flood:
    """A daemon in a flood.

    Args:
        count: How much junk.
    """

    def __init__(self, box: Box, count: int) -> None:
        self._box = box
        self._count = count
        self._began = 0.0
        self._good: dict[str, float] = {}
        box.module(MODULE)

    def run(self, *, before: bool = False) -> Figures:
        """Let junk come, with tasks in it by name, and good tasks.

        Args:
            before: The junk is there, without such tasks, when the daemon starts.
        """
        if before:
            for number in range(self._count):
                make_junk(self._box.spool, number)
        daemon = self._start()
        for number in range(self._count if not before else GOOD * 10):
            if not before:
                make_junk(self._box.spool, number, native=True)
            if number % max(1, self._count // GOOD if not before else 10) == 0:
                self._put_good(number)
        self._wait_for_good()
        wait_until(self._is_aside, timeout=max(40, self._count / 200))
        wait_until(self._box.is_empty)  # what has a task's name, in minute folders
        return self._measure(daemon)

    def run_immovable(self) -> Figures:
        """Let junk be in a folder out of which nothing can be moved."""
        for number in range(self._count):
            make_junk(self._box.spool, number)
        folder = self._box.spool / "5"
        subprocess.run(["chattr", "+i", folder], check=True)
        try:
            daemon = self._start()
            for number in range(GOOD):
                self._put_good(number, priority=4)
                Event().wait(0.05)
            self._wait_for_good()
            return self._measure(daemon)
        finally:
            subprocess.run(["chattr", "-i", folder], check=True)

    def _start(self) -> Spoold:
        daemon = self._box.start(imports="mine")
        self._began = monotonic()
        return daemon

    def _put_good(self, number: int, priority: int = 5) -> None:
        box, name = self._box, f"put{number}"
        self._good[name] = time()
        box.later("note", {"priority": priority}, text=name)
        name = f"dropped{number}"
        self._good[name] = time()
        box.drop(f"{priority}/{name}", f"task=note\ntext={name}\n".encode())

    def _wait_for_good(self) -> None:
        out = self._box.out
        # As long as it takes: how long that may be is for the figures.
        wait_until(lambda: all((out / n).exists() for n in self._good), timeout=30)

    def _is_aside(self) -> bool:
        Event().wait(0.3)  # to look costs much
        with os.scandir(self._box.spool / "5") as entries:
            return all(each.is_dir(follow_symlinks=False) for each in entries)

    def _measure(self, daemon: Spoold) -> Figures:
        figures = Figures(self._count, aside=monotonic() - self._began)
        for name, began in self._good.items():
            waited = self._when(name) - began
            if name.startswith("put"):
                figures.put = max(figures.put, waited)
            else:
                figures.dropped = max(figures.dropped, waited)
        Event().wait(2.0)  # what was counted is told by then
        wait_until(lambda: self._is_over(daemon))  # the first look at each
        # Now and then it looks again at all that it cannot move, ever more seldom: of
        # three times in a row one is without that.
        figures.idle = min(self._idle(daemon) for _ in range(3))
        figures.log = daemon.log.stat().st_size
        figures.memory = peak_mib(daemon.pid)
        names = os.listdir(self._box.spool / "corrupt")
        figures.kept = sum(not name.endswith(".why") for name in names)
        return figures

    def _idle(self, daemon: Spoold) -> float:
        """Return the processor time that the daemon takes now, in per cent."""
        begun, before = monotonic(), cpu_seconds(daemon.pid)
        Event().wait(IDLE)
        return (cpu_seconds(daemon.pid) - before) / (monotonic() - begun) * 100

    def _is_over(self, daemon: Spoold) -> bool:
        """Tell whether for a second it needs little: else the limit finds it busy."""
        before = cpu_seconds(daemon.pid)
        Event().wait(1.0)
        return cpu_seconds(daemon.pid) - before < 0.1

    def _when(self, name: str) -> float:
        while True:
            with suppress(ValueError):  # just being written
                return float((self._box.out / name).read_text())


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has ever used."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")
