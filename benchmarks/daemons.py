"""Daemons that start, replace their workers, and share a spool."""

import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from spooler.spooldir import SpoolDir, pauses

from . import crowd, drain
from .bench import RATE, WAIT, Bench, waiting, workers
from .ledger import runs, times
from .processes import FailedError
from .table import at_least, at_most
from .tasks import signed

MAX_TASKS = 100
IMPORTS = "import click, msgspec"


def starts(bench: Bench) -> None:
    """Start a daemon with one task waiting; beside it, bare interpreters."""
    took = crowd.start(bench)
    what = "start of spoold to the first run"
    nothing = ("python -c pass", _interpreter(bench, "pass"))
    bench.add(what, "s", took, nothing, at_most(0.3))
    some = (IMPORTS, _interpreter(bench, IMPORTS))
    bench.add(f"{what}, beside imports", "s", took, some)


def recycling(bench: Bench) -> None:
    """Replace the worker after every hundred tasks; measure the gaps."""
    count = bench.sizes.recycled
    bench.clear()
    with bench.spool() as spool:
        put = signed.using(spooler=spool)
        for n in range(count):
            put.spool(n=n, beyond=count)
        options = ("--burst", "--max-tasks", str(MAX_TASKS))
        bench.processes.spoold(spool, *options, log="warning").wait()
    bench.check(count)
    began = times(bench.cells, 0, count)
    pids = runs(bench.cells, count, 2 * count)
    marks = sorted(zip(began, pids, strict=True))
    gaps = sorted(
        after - before for (before, old), (after, new) in pairwise(marks) if old != new
    )
    if len(gaps) < count // MAX_TASKS - 1:
        raise FailedError(f"only {len(gaps)} workers were replaced")
    for name, gap in (("p50", gaps[len(gaps) // 2]), ("longest", gaps[-1])):
        bench.add(
            f"gap when a worker is replaced, {name}", "ms", gap / 1e6, None, at_most(20)
        )


def sharing(bench: Bench, *, daemons: int, each: int) -> None:
    """Let several workers, of one daemon or of many, run one backlog.

    It is paused until all of them are there, so that their starts are not measured.
    """
    count = bench.sizes.tasks
    bench.clear()
    with bench.spool() as spool:
        bench.fill(spool, count)
        store = SpoolDir(spool)
        pauses.write(store, pauses.ALL, None)
        options = ("--workers", str(each))
        started = [
            bench.processes.spoold(spool, *options, log="warning")
            for _ in range(daemons)
        ]
        _until_there(spool, daemons * each)
        pauses.remove(store, pauses.ALL)
        bench.until_all(count)
        for daemon in started:
            daemon.stop()
        if waiting(spool):
            raise FailedError(f"{waiting(spool)} tasks still wait")
    bench.check(count)
    what = f"{daemons} daemons" if each == 1 else f"{each} workers"
    figure = drain.speed(bench, count)
    beside = ("1 worker", drain.alone(bench, 1))
    bench.add(
        f"drain, {what} on one spool", RATE, figure, beside, at_least(1, "1 worker")
    )


def _until_there(spool: Path, count: int) -> None:
    deadline = time.monotonic() + WAIT
    while len(workers(spool)) < count:
        if time.monotonic() > deadline:
            raise FailedError(f"{len(workers(spool))} workers instead of {count}")
        time.sleep(0.1)
    time.sleep(0.5)


def _interpreter(bench: Bench, code: str) -> float:
    return median(bench.processes.run("-c", code) for _ in range(crowd.TIMES))
