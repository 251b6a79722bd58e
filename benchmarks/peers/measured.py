"""The measures of a peer. Each checks that the work was really done."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..ledger import Cells, clear, runs, times
from ..processes import FailedError, Processes
from .setup import BIN, Setup, version
from .work import FOLDER, PORT

LOST: Final = 60.0
"""Seconds without a run after which what has not run is lost."""

LOOK: Final = 0.05
"""Seconds between two looks at the ledger."""

STOP: Final = 1.0
"""Seconds that a consumer may take to end, in which a task may still run twice."""

LEAST: Final = 50
"""Tasks that each producer puts at least, for a rate that means something."""


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A new queue, and what its processes need to find it."""

    folder: Path
    port: int

    @property
    def env(self) -> dict[str, str]:
        folder = str(self.folder)
        return {FOLDER: folder, PORT: str(self.port), "TMPDIR": folder}


class Measured:
    """A ``Peer``: a setup, and the measures that are the same for all.

    Args:
        cells: The ledger; its last task is one that warms up.
    """

    def __init__(self, setup: Setup, processes: Processes, cells: Cells) -> None:
        self._setup = setup
        self._processes = processes
        self._cells = cells
        self._spare = len(cells) // 2 - 1
        self.name = setup.name
        self.synced = setup.synced
        self.share = setup.share

    def why_not(self) -> str | None:
        """Return what is missing, and what installs it."""
        if version(self._setup.package) is None:
            package = self._setup.package
            return f"{package} is not in {BIN.parent.name}: make .venv-bench/ready"
        server = self._setup.server
        if server is not None and server.missing:
            return f"{server.name} is not installed: benchmarks/servers.sh"
        return None

    def enqueue(self, place: Path, count: int, producers: int) -> float:
        """Return the tasks put in a second by so many processes together."""
        with self._fresh(place) as fresh:
            told = self._put(fresh, max(LEAST, count // producers), producers)
        begin = min(each["begin"] for each in told)
        end = max(each["end"] for each in told)
        return float(sum(each["count"] for each in told) / (end - begin) * 1e9)

    def drain(self, place: Path, count: int, workers: int) -> float:
        """Return the tasks run in a second, from the first run to the last."""
        with self._fresh(place) as fresh:
            self._put(fresh, count, 1)
            consumers = self._consume(fresh, workers)
            self._wait(consumers, count)
            _end(consumers)
            self._check(count)
        began = times(self._cells, 0, count)
        return (count - 1) / (max(began) - min(began)) * 1e9

    def latency(self, place: Path, count: int) -> list[int]:
        """Return how long each took to begin; of fewer if the peer is slow."""
        with self._fresh(place) as fresh:
            given = self._given("latency", 0, count)
            if self._setup.both is None:
                self._consume(fresh, 1)
                command = self._setup.producer(fresh.folder, given)
            else:
                command = self._setup.both(fresh.folder, given)
            [told] = self._processes.together([command], fresh.env)
            self._check(told["count"])
        return list(told["took"])

    # -- what the measures are made of ------------------------------------------

    @contextmanager
    def _fresh(self, place: Path) -> Iterator[_Fresh]:
        clear(self._cells)
        folder = Path(tempfile.mkdtemp(prefix="peer-", dir=place))
        try:
            server = self._setup.server
            port = server.start(self._processes, folder) if server else 0
            yield _Fresh(folder, port)
        except FailedError as error:
            raise FailedError(f"{self.name}: {error}{_log(folder)}") from error
        finally:
            self._processes.close()
            shutil.rmtree(folder)

    def _given(self, role: str, first: int, count: int) -> str:
        given = {"role": role, "first": first, "count": count, "spare": self._spare}
        return json.dumps(given, separators=(",", ":"))  # --pyargv splits at spaces

    def _put(self, fresh: _Fresh, each: int, producers: int) -> list[dict[str, Any]]:
        firsts = range(0, each * producers, each)
        given = [self._given("put", first, each) for first in firsts]
        commands = [self._setup.producer(fresh.folder, some) for some in given]
        return self._processes.together(commands, fresh.env)

    def _consume(self, fresh: _Fresh, workers: int) -> list[subprocess.Popen[str]]:
        commands = self._setup.consumers(fresh.folder, fresh.port, workers)
        with open(fresh.folder / "consumer.log", "a", encoding="utf-8") as log:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            return [
                self._processes.start(command, fresh.env, **pipes)
                for command in commands
            ]

    def _wait(self, consumers: list[subprocess.Popen[str]], count: int) -> None:
        """Wait until each of the tasks ran, or no more of them do."""
        left, since = count + 1, time.monotonic()
        while left:
            now = runs(self._cells, 0, count).count(0)
            if now < left:
                left, since = now, time.monotonic()
            elif time.monotonic() - since > LOST:
                raise FailedError(f"{left} of {count} lost")
            elif any(each.poll() is not None for each in consumers):
                raise FailedError(f"a consumer ended with {left} of {count} left")
            time.sleep(LOOK)

    def _check(self, count: int) -> None:
        often = runs(self._cells, 0, count)
        wrong = count - often.count(1)
        if wrong:
            lost = often.count(0)
            raise FailedError(f"{lost} of {count} lost, {wrong - lost} ran twice")


def _end(consumers: list[subprocess.Popen[str]]) -> None:
    """Ask consumers to end; who does not is killed with the rest."""
    for consumer in consumers:
        os.kill(consumer.pid, signal.SIGINT)
    limit = time.monotonic() + STOP
    for consumer in consumers:
        with suppress(subprocess.TimeoutExpired):
            consumer.wait(max(0.0, limit - time.monotonic()))


def _log(folder: Path) -> str:
    with suppress(FileNotFoundError):
        return "\n" + (folder / "consumer.log").read_text(errors="replace")[-2000:]
    return ""
