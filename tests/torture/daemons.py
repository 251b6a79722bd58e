"""Daemons that are tortured: started, marked, watched."""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Final

from ..helpers import FACTOR
from ..integration.conftest import MARK, SPOOLD, marked
from . import Report
from .ledger import who

PATIENCE: Final = 30.0
"""Seconds after which what has not happened never will."""

SLOWEST: Final = 10.0
"""How many times longer all may take at most because the machine is busy."""

APP: Final = Path(__file__).parent / "app"


class Broken(Exception):  # noqa: N818 (it is a finding)
    """A promise was broken; the text says which."""


def slowness() -> float:
    """Return how many times longer something may take on this machine now."""
    busy = 1.5 * os.getloadavg()[0] / (os.cpu_count() or 1)
    return max(1.0, FACTOR, min(busy, SLOWEST))


def wait_until(fact: Callable[[], object], what: str, *, seconds: float) -> None:
    """Wait for a fact.

    Raises:
        Broken: It did not come true in that time.
    """
    began = monotonic()
    while not fact():
        took = monotonic() - began
        if took > seconds * slowness():
            raise Broken(f"after {took:.0f} s: {what}")
        signal.sigtimedwait([], 0.002)


def what_it_does(pid: int) -> str:
    """Return what a process is, and what it waits for, for an account."""
    found = []
    for file in ("cmdline", "wchan", "syscall"):
        try:
            text = Path(f"/proc/{pid}/{file}").read_text()
        except OSError:
            text = "?"
        found.append(text.replace("\0", " ").strip())
    return " | ".join(found)


@contextmanager
def evidence(name: str, report: Report) -> Iterator[Path]:
    """Make a folder for a torture; it stays, and is named, if something was broken."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    yield folder
    if report.broken:
        report.figures["see"] = folder
    else:
        shutil.rmtree(folder)


def environ(out: Path) -> dict[str, str]:
    """Return the environment of daemons whose tasks write to a folder."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("SPOOL")}
    return {**own, "OUT": str(out), "PYTHONPATH": str(APP)}


def spoold(spool: Path, module: str, *options: str) -> list[str]:
    """Return a command line."""
    return [str(SPOOLD), "--dir", str(spool), "--import", module, *options]


class Daemon:
    """One ``spoold``, with a mark of its own in its environment."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: Path) -> None:
        self.mark = uuid.uuid4().hex
        self._log = log
        with self._log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                env={**env, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                process_group=0,
            )
        self.pid = self.process.pid
        self.who = who(self.pid)
        self.began = monotonic()

    @property
    def serves(self) -> bool:
        """Whether it has said that it serves."""
        return b" serve spool=" in self._log.read_bytes()

    @property
    def last_words(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="backslashreplace")[-2000:]

    def end(self, *, also: int = 0) -> None:
        """Tell it to end; see that it does, and leaves no process behind.

        Args:
            also: Another exit code that is good.
        """
        self.process.terminate()
        try:
            code = self.process.wait(2 * PATIENCE * slowness())
        except subprocess.TimeoutExpired:
            raise Broken(f"{self.pid} does not end: {self.last_words}") from None
        if code not in (0, also):
            raise Broken(f"spoold ended with {code}: {self.last_words}")
        self.check_all_gone()

    def check_all_gone(self) -> None:
        """Check that no process of it is left."""
        try:
            wait_until(lambda: not marked(self.mark), "gone", seconds=PATIENCE)
        except Broken:
            left = {pid: what_it_does(pid) for pid in marked(self.mark)}
            raise Broken(f"{left} outlive their daemon {self.pid}") from None
