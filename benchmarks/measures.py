"""What is measured, one method each. Each checks that the work was really done."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path
from typing import Any, Final

from spooler import Spooler
from spooler.spooldir import SpoolDir

from .ledger import Cells
from .places import Place
from .processes import FailedError, Processes, Spoold
from .table import Table
from .tasks import block, noop, noop_safe

DAY: Final = 86_400
NOTE: Final = "hello"
RATE: Final = "tasks/s"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each."""

    tasks: int = 20_000
    synced: int = 2_000
    puts: int = 1_000
    together: int = 1_000
    crowd: int = 100_000
    few: int = 20
    idle: float = 10.0

    def scaled(self, scale: float) -> "Sizes":
        """Return the same, smaller or larger."""
        return Sizes(
            tasks=max(50, int(self.tasks * scale)),
            synced=max(20, int(self.synced * scale)),
            puts=max(10, int(self.puts * scale)),
            crowd=max(100, int(self.crowd * scale)),
            idle=min(10.0, max(1.1, self.idle * scale)),
        )

    @property
    def cells(self) -> int:
        """How many tasks the ledger must have room for."""
        return max(self.tasks, self.crowd) + 10


def rate(told: list[dict[str, Any]]) -> float:
    """Return what several children did in a second, together."""
    begin = min(each["begin"] for each in told)
    end = max(each["end"] for each in told)
    return sum(each["count"] for each in told) / (end - begin) * 1e9


class Measures:
    """All measures in one place.

    Args:
        cells: Where the tasks leave their marks.
        table: Where the figures go.
    """

    def __init__(
        self,
        place: Place,
        sizes: Sizes,
        processes: Processes,
        cells: Cells,
        table: Table,
    ) -> None:
        self._cells = cells
        self._place = place
        self._sizes = sizes
        self._processes = processes
        self._table = table
        self._unique = numbers()
        self._later: Path | None = None
        self._waiting: Path | None = None

    def _add(
        self, what: str, unit: str, spooler: float, bare: float | None = None
    ) -> None:
        self._table.add(self._place.name, what, unit, spooler, bare)

    # -- what the measures are made of ------------------------------------------

    def _path(self) -> Path:
        return self._place.path / f"{next(self._unique)}"

    @contextmanager
    def _spool(self) -> Iterator[Path]:
        path = self._path()
        SpoolDir(path).create()
        try:
            yield path
        finally:
            self._processes.close()  # after an error some may still write here
            shutil.rmtree(path)

    @contextmanager
    def _bare(self) -> Iterator[Path]:
        path = self._path()
        for folder in ("tmp", "queue", "running"):
            (path / folder).mkdir(parents=True)
        try:
            yield path
        finally:
            self._processes.close()  # after an error some may still write here
            shutil.rmtree(path)

    def _reset(self) -> None:
        for n in range(len(self._cells)):
            self._cells[n] = 0

    def _fill(self, spool: Path, count: int, *, together: bool = False) -> None:
        put = noop.using(spooler=spool)
        if together:
            put.map({"n": n, "note": NOTE} for n in range(count))
            return
        for n in range(count):
            put.spool(n=n, note=NOTE)

    def _check(self, count: int) -> None:
        """See that each of the tasks ran once: none lost, none twice."""
        wrong = [n for n in range(count) if self._cells[2 * n] != 1]
        if wrong:
            lost = sum(self._cells[2 * n] == 0 for n in wrong)
            raise FailedError(f"{lost} of {count} lost, {len(wrong) - lost} ran twice")

    def _left(self, spool: Path) -> int:
        return sum(1 for _ in SpoolDir(spool).waiting())

    def _until(self, n: int) -> int:
        """Wait until task n ran; return when."""
        limit = time.monotonic() + 60.0
        while not self._cells[2 * n]:
            if time.monotonic() > limit:
                raise FailedError(f"task {n} did not begin in 60 s")
            time.sleep(0.001)
        return self._cells[2 * n + 1]

    # -- put --------------------------------------------------------------------

    def put(self, *, producers: int, sync: bool) -> None:
        """Tasks put in a second by one or several processes."""
        count = self._sizes.synced if sync else self._sizes.tasks
        each = count // producers
        given = [
            {"first": i * each, "count": each, "sync": sync} for i in range(producers)
        ]
        with self._bare() as folder:
            roles = [("bare_put", {"folder": str(folder), **some}) for some in given]
            bare = rate(self._processes.children(roles, {}))
        with self._spool() as spool:
            env = {"SPOOL_DIR": str(spool)}
            told = self._processes.children([("put", some) for some in given], env)
            if self._left(spool) != each * producers:
                raise FailedError(
                    f"{self._left(spool)} tasks instead of {each * producers}"
                )
        how = "safe" if sync else "fast"
        who = "1 process" if producers == 1 else f"{producers} processes"
        self._add(f"put, {how}, {who}", RATE, rate(told), bare)

    def put_many(self) -> None:
        """Milliseconds for tasks put together, synced: the fastest of five."""
        took = []
        rows = [{"n": n, "note": NOTE} for n in range(self._sizes.together)]
        with self._spool() as spool:
            put = noop_safe.using(spooler=spool)
            for _ in range(5):
                begin = time.monotonic_ns()
                batch = put.map(rows)
                took.append(time.monotonic_ns() - begin)
                if batch.count != len(rows):
                    raise FailedError(f"{batch.count} tasks instead of {len(rows)}")
        self._add(f"put {len(rows):,} in a batch, safe", "ms", min(took) / 1e6)

    # -- drain ------------------------------------------------------------------

    def bare_drain(self, consumers: int) -> float:
        """Files that bare consumers take in a second."""
        count = self._sizes.tasks
        with self._bare() as folder:
            put = {"folder": str(folder), "first": 0, "count": count, "sync": False}
            self._processes.children([("bare_put", put)], {})
            roles = [("bare_take", {"folder": str(folder)})] * consumers
            told = self._processes.children(roles, {})
        if sum(each["count"] for each in told) != count:
            raise FailedError("the bare consumers lost some")
        return rate(told)

    def drains(self, workers: int) -> None:
        """No-op tasks run in a second, at two log levels, and beside many for later."""
        bare = self.bare_drain(workers)
        what = f"drain, {workers} worker{'s' * (workers > 1)}"
        with self._spool() as spool:
            fast, wall = self._drain(spool, workers, "warning")
        self._add(what, RATE, fast, bare)
        self._add(f"{what}, from start to exit", "s", wall)
        with self._spool() as spool:
            figure, _ = self._drain(spool, workers, "info")
            self._add(f"{what}, log level info", RATE, figure, bare)
        with self._spool() as spool:
            figure, _ = self._drain(spool, workers, "warning", together=True)
        self._add(f"{what}, in a batch", RATE, figure, bare)
        if workers == 1:
            many = f"{self._sizes.crowd:,}"
            figure, _ = self._drain(self.later(), workers, "warning")
            self._add(f"{what}, {many} due tomorrow", RATE, figure, bare)

    def _drain(
        self, spool: Path, workers: int, log: str, *, together: bool = False
    ) -> tuple[float, float]:
        """Return tasks in a second, and seconds from start to exit.

        Counted from the beginning of the first run to that of the last one: that
        many whole rounds of claim, run, ack.
        """
        count = self._sizes.tasks
        self._reset()
        self._fill(spool, count, together=together)
        daemon = self._processes.spoold(
            spool, "--burst", "--workers", str(workers), log=log
        )
        ended = daemon.wait()
        self._check(count)
        if left := list((spool / "running").glob("*/*")):
            raise FailedError(f"{len(left)} tasks were not acked")
        times = self._cells[1 : 2 * count : 2].tolist()
        figure = (count - 1) / (max(times) - min(times)) * 1e9
        return figure, (ended - daemon.began) / 1e9

    def later(self) -> Path:
        """Return the spool with many tasks due tomorrow, over the whole day."""
        if self._later is None:
            self._later = self._path()
            SpoolDir(self._later).create()
            start = int(time.time()) + DAY
            store = Spooler(self._later, durability="fast")
            for n in range(self._sizes.crowd):
                at = start + n * DAY // self._sizes.crowd
                store.put("noop", {"n": n, "note": NOTE}, at=at)
        return self._later

    # -- latency ----------------------------------------------------------------

    def latencies(self) -> None:
        """Milliseconds until a function begins when all is idle."""
        count = self._sizes.puts
        with self._bare() as folder:
            self._reset()
            given = {"folder": str(folder), "count": count}
            roles = [("bare_watch", given), ("latency", {"how": "bare", **given})]
            bare = self._processes.children(roles, {})[1]["took"]
            self._check(count)
        for how, what in (("spool", "from .spool(), fast"), ("drop", "from a rename")):
            with self._spool() as spool:
                took = self._latency(how, spool, count)
            for percent in (50, 99):
                self._add(
                    f"latency {what}, p{percent}",
                    "ms",
                    _percentile(took, percent),
                    _percentile(bare, percent),
                )

    def _latency(self, how: str, spool: Path, count: int) -> list[int]:
        self._reset()
        daemon, _ = self._serve(spool)
        self._reset()
        given = {"how": how, "folder": str(spool), "count": count}
        env = {"SPOOL_DIR": str(spool)}
        [told] = self._processes.children([("latency", given)], env)
        daemon.stop()
        self._check(count)
        return list(told["took"])

    def _serve(self, spool: Path) -> tuple[Spoold, float]:
        """Start a daemon; return it when it has run something, and how long it took."""
        last = self._sizes.cells - 1
        self._cells[2 * last] = 0
        noop.using(spooler=spool, priority=0).spool(n=last, note=NOTE)
        daemon = self._processes.spoold(spool, log="warning")
        took = (self._until(last) - daemon.began) / 1e9
        time.sleep(0.2)
        return daemon, took

    # -- at rest ----------------------------------------------------------------

    def idle(self) -> None:
        """CPU time and memory of daemons that have nothing to do."""
        many = f"{self._sizes.crowd:,} due tomorrow"
        with self._spool() as empty:
            daemons = {}
            for what, spool in (("empty spool", empty), (many, self.later())):
                daemons[what], took = self._serve(spool)
                self._add(f"start to first run, {what}", "s", took)
            time.sleep(0.3)
            before = {what: daemon.cpu() for what, daemon in daemons.items()}
            time.sleep(self._sizes.idle)
            for what, daemon in daemons.items():
                percent = (daemon.cpu() - before[what]) / self._sizes.idle * 100
                self._add(f"idle CPU, {what}", "%", percent)
            for what, daemon in daemons.items():
                self._memory(what, daemon)
                daemon.stop()

    def _memory(self, what: str, daemon: Spoold) -> None:
        rss, pss = daemon.memory()
        self._add(f"supervisor's RSS, {what}", "MiB", rss)
        self._add(f"supervisor's PSS, {what}", "MiB", pss)

    def starts(self) -> None:
        """Seconds to the first task, and memory, with few and with many waiting."""
        with self._spool() as spool:
            self._start(spool, f"{self._sizes.few} waiting", self._sizes.few)
        fresh = self._waiting is None
        if self._waiting is None:
            self._waiting = self._path()
            SpoolDir(self._waiting).create()
        count = self._sizes.crowd if fresh else 0
        self._start(self._waiting, f"{self._sizes.crowd:,} waiting", count)

    def _start(self, spool: Path, what: str, count: int) -> None:
        """Start with a task that blocks before all the others."""
        first = self._sizes.cells - 1
        self._reset()
        if count:
            block.using(spooler=spool).spool(n=first, note=NOTE)
            self._fill(spool, count)
        waiting = self._left(spool)
        daemon = self._processes.spoold(spool, log="warning")
        took = (self._until(first) - daemon.began) / 1e9
        self._add(f"start to first run, {what}", "s", took)
        time.sleep(0.3)
        self._memory(what, daemon)
        daemon.stop(now=True)
        if self._left(spool) != waiting:
            raise FailedError(f"{self._left(spool)} tasks are left of {waiting}")


def _percentile(took: list[int], percent: int) -> float:
    """Return a percentile of ns, in ms."""
    ordered = sorted(took)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] / 1e6


def one_round(measures: Measures, place: Place) -> Iterator[str]:
    """Measure all of a place once; yield what comes next."""
    for producers in (1, 4):
        yield f"put, fast, {producers}"
        measures.put(producers=producers, sync=False)
        if place.is_disk:
            yield f"put, safe, {producers}"
            measures.put(producers=producers, sync=True)
    yield "put, together"
    measures.put_many()
    for workers in (1, 2):
        yield f"drain, {workers}"
        measures.drains(workers)
    yield "latency"
    measures.latencies()
    if place.is_disk:
        yield "idle"
        measures.idle()
        yield "start and memory"
        measures.starts()
