"""The workbench: what every measure in a place is made with.

A measure is a function that is given a bench, does something with it once, sees that
the work was really done, and adds what it took to the table.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path
from typing import Any, Final, TypeVar

from spooler.spooldir import SpoolDir

from .ledger import Cells, clear, runs
from .peers import Peer
from .places import Place
from .processes import FailedError, Processes, Spoold, Told
from .table import Beside, Limit, Table
from .tasks import noop

NOTE: Final = "hello"
RATE: Final = "tasks/s"
FILES: Final = 2.1
"""How many files for each task of a crowd: waiting, due tomorrow, and some more."""

WAIT: Final = 60.0
"""Seconds in which a task begins, or is lost."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each."""

    tasks: int = 20_000
    synced: int = 2_000
    puts: int = 500
    few: int = 1_000
    crowd: int = 1_000_000
    recycled: int = 2_000
    daemons: int = 16
    workers: int = 8
    idle: float = 10.0

    def scaled(self, scale: float) -> "Sizes":
        """Return the same, smaller or larger."""
        return Sizes(
            tasks=max(200, int(self.tasks * scale)),
            synced=max(20, int(self.synced * scale)),
            puts=max(10, int(self.puts * scale)),
            few=max(50, int(self.few * scale)),
            crowd=max(5_000, int(self.crowd * scale)),
            recycled=max(300, int(self.recycled * scale)),
            daemons=min(16, max(2, int(self.daemons * scale))),
            workers=min(8, max(2, int(self.workers * scale))),
            idle=min(10.0, max(1.1, self.idle * scale)),
        )

    @property
    def room(self) -> int:
        """How many tasks producers may put while something else is measured."""
        return max(100_000, 20 * self.tasks)

    @property
    def marker(self) -> int:
        """A task that is no part of the others."""
        return max(self.tasks + self.room, self.crowd)

    @property
    def stop(self) -> int:
        """The task whose mark tells producers to stop."""
        return self.marker + 1

    @property
    def cells(self) -> int:
        """How many tasks the ledger must have room for."""
        return self.marker + 2


def tell(text: str) -> None:
    """Say how far it is, to whoever looks."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def rate(told: list[Told]) -> float:
    """Return what several children did in a second, together."""
    begin = min(each["begin"] for each in told)
    end = max(each["end"] for each in told)
    return float(sum(each["count"] for each in told) / (end - begin) * 1e9)


class Bench:
    """One place, and all that is needed to measure in it.

    Args:
        cells: Where the tasks leave their marks.
        ledger: The file of these cells.
        table: Where the figures go.
        peers: Those that are measured beside spooler here: on the disk.

    Attributes:
        has_room: Whether all of a crowd can be here, waiting and due tomorrow.
    """

    def __init__(
        self,
        place: Place,
        sizes: Sizes,
        processes: Processes,
        cells: Cells,
        ledger: Path,
        table: Table,
        peers: Iterable[Peer],
    ) -> None:
        self.place = place
        self.sizes = sizes
        self.processes = processes
        self.cells = cells
        self.ledger = ledger
        self.has_room = place.room() >= FILES * sizes.crowd
        self._table = table
        self._peers = list(peers)
        self._unique = numbers()
        self._once: dict[object, Any] = {}
        self._kept: dict[object, Any] = {}

    def warm_up(self) -> None:
        """Start everything once: what is loaded the first time is not measured."""
        with self.spool() as spool:
            daemon, _ = self.serve(spool)
            daemon.stop()
            one = {"first": 0, "count": 1, "sync": False}
            self.processes.children([("put", one)], {"SPOOL_DIR": str(spool)})

    # -- rounds and figures -----------------------------------------------------

    def begin_round(self) -> None:
        """Forget what was measured once for the round that is over."""
        self._once.clear()

    def once(self, key: object, make: Callable[[], T]) -> T:
        """Return what was measured in this round, for those who compare with it."""
        return _memo(self._once, key, make)

    def kept(self, key: object, make: Callable[[], T]) -> T:
        """Return what is made once and kept over the rounds."""
        return _memo(self._kept, key, make)

    def add(
        self,
        what: str,
        unit: str,
        figure: float,
        beside: Beside | None = None,
        *limits: Limit,
    ) -> None:
        """Add a figure of this round, what it is compared with, and its target."""
        self._table.add(self.place.name, what, unit, figure, beside, limits)

    def add_peers(
        self,
        whats: dict[str, str],
        measure: Callable[[Peer], Iterable[float]],
        wanted: Callable[[Peer], bool] = lambda peer: True,
    ) -> None:
        """Measure the peers for these rows, one after the other.

        Args:
            whats: The rows and their units; ``measure`` gives a figure for each.
            wanted: Which of the peers.
        """
        for peer in filter(wanted, self._peers):
            rows = [self._table.row(self.place.name, *row) for row in whats.items()]
            if any(peer.name in row.failed for row in rows):
                continue
            tell(f"  {peer.name}")
            try:
                figures = list(measure(peer))
            except (FailedError, OSError, ValueError, RuntimeError) as error:
                for row in rows:
                    row.failed[peer.name] = str(error) or type(error).__name__
            else:
                for row, figure in zip(rows, figures, strict=True):
                    row.peers.setdefault(peer.name, []).append(figure)
            finally:
                self.processes.close()

    # -- places to work in ------------------------------------------------------

    def new_spool(self) -> Path:
        """Return a new spool, which nobody removes."""
        path = self._path()
        SpoolDir(path).create()
        return path

    @contextmanager
    def spool(self) -> Iterator[Path]:
        """Give a new spool, for a while."""
        with self._for_a_while(self.new_spool()) as path:
            yield path

    @contextmanager
    def bare(self) -> Iterator[Path]:
        """Give the folders of the bare loop, for a while."""
        with self._for_a_while(self._path()) as path:
            for folder in ("tmp", "queue", "running"):
                (path / folder).mkdir(parents=True)
            yield path

    def _path(self) -> Path:
        return self.place.path / f"{next(self._unique)}"

    @contextmanager
    def _for_a_while(self, path: Path) -> Iterator[Path]:
        try:
            yield path
        finally:
            self.processes.close()  # after an error some may still write here
            shutil.rmtree(path)

    # -- tasks and their marks --------------------------------------------------

    def fill(self, spool: Path, count: int, *, first: int = 0) -> None:
        """Put so many tasks, one by one."""
        put = noop.using(spooler=spool)
        for n in range(first, first + count):
            put.spool(n=n, note=NOTE)

    def clear(self) -> None:
        """Take all marks away."""
        clear(self.cells)

    def check(self, end: int, *, first: int = 0) -> None:
        """See that each of these tasks ran once: none lost, none twice.

        Raises:
            FailedError: Some did not.
        """
        told = runs(self.cells, first, end)
        lost, twice = told.count(0), len(told) - told.count(0) - told.count(1)
        if lost or twice:
            raise FailedError(f"{lost} of {len(told)} lost, {twice} ran twice")

    def until(self, n: int, *, limit: float = WAIT) -> int:
        """Wait until task n ran; return when it began."""
        deadline = time.monotonic() + limit
        while not self.cells[2 * n]:
            self.processes.look()
            if time.monotonic() > deadline:
                raise FailedError(f"task {n} did not begin in {limit:.0f} s")
            time.sleep(0.005)
        return int(self.cells[2 * n + 1])

    def until_all(self, end: int, *, first: int = 0, limit: float = WAIT) -> None:
        """Wait until each of these tasks ran."""
        deadline = time.monotonic() + limit
        while missing := runs(self.cells, first, end).count(0):
            self.processes.look()
            if time.monotonic() > deadline:
                raise FailedError(
                    f"{missing} of {end - first} did not begin in {limit:.0f} s"
                )
            time.sleep(0.05)

    # -- daemons ----------------------------------------------------------------

    def serve(self, spool: Path) -> tuple[Spoold, float]:
        """Start a daemon; return it when it has run something, and how long it took."""
        marker = self.sizes.marker
        self.cells[2 * marker] = 0
        noop.using(spooler=spool, priority=0).spool(n=marker, note=NOTE)
        daemon = self.processes.spoold(spool, log="warning")
        took = (self.until(marker) - daemon.began) / 1e9
        time.sleep(0.3)
        return daemon, took


def waiting(spool: Path) -> int:
    """Return how many tasks wait in a spool."""
    return sum(1 for _ in SpoolDir(spool).waiting())


def workers(spool: Path) -> list[int]:
    """Return the process numbers of a spool's workers."""
    # A name that begins with a dot is being written.
    paths = [path for path in spool.glob("workers/*.json") if path.name[0] != "."]
    told = [json.loads(path.read_text()) for path in paths]
    return [each["pid"] for each in told if each["kind"] == "worker"]


def _memo(known: dict[object, Any], key: object, make: Callable[[], T]) -> T:
    if key not in known:
        known[key] = make()
    made: T = known[key]
    return made
