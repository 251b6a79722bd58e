"""A million tasks: waiting, due tomorrow, and run to the last one."""

import os
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

from . import drain, latency
from .bench import RATE, WAIT, Bench, waiting, workers
from .child import MINUTE
from .ledger import runs, times
from .processes import FailedError, Spoold, resident
from .table import at_least, at_most

DAY: Final = 24 * 60 * MINUTE
TIMES: Final = 5
"""How often a few are run, to compare the many with."""

LONG: Final = 1800.0
"""Seconds in which all of a million are run."""


@dataclass(slots=True)
class Pile:
    """A spool in which many wait; each round runs some of them.

    Attributes:
        done: Which ran in earlier rounds. While so many are read their order is not
            that of their numbers.
    """

    spool: Path
    count: int
    done: set[int] = field(default_factory=set)


# -- waiting --------------------------------------------------------------------


def waits(bench: Bench) -> None:
    """Run some of a million that wait; beside it a thousand that do."""
    pile, few = _pile(bench), _few(bench)
    what = f"{pile.count:,} waiting"
    bench.clear()
    daemon = bench.processes.spoold(pile.spool, log="warning")
    if pile.count - len(pile.done) < bench.sizes.tasks:
        raise FailedError(
            f"only {pile.count - len(pile.done)} of {pile.count} are left"
        )
    _wait(bench, pile, bench.sizes.tasks)
    peak, pss = daemon.peak(), daemon.pss()
    daemon.stop()
    marks = _note(bench, pile)
    began = marks[0]
    each = (marks[-1] - began) / (len(marks) - 1) / 1e3
    alone = f"{bench.sizes.few:,} waiting"
    bench.add(f"a task, {what}", "µs", each, (alone, few), at_most(1.15, alone))
    later = (began - daemon.began) / 1e6 - start(bench) * 1e3
    bench.add(f"first run, {what}, later by", "ms", later, None, at_most(100))
    bench.add(f"supervisor's RSS, {what}", "MB", peak, None, at_most(100))
    bench.add(f"supervisor's PSS, {what}", "MB", pss)


def start(bench: Bench) -> float:
    """Return the seconds of this round from the start to the first run, of one."""
    return bench.once("start", lambda: _start(bench))


def _start(bench: Bench) -> float:
    took = []
    for _ in range(TIMES):
        with bench.spool() as spool:
            daemon, seconds = bench.serve(spool)
            daemon.stop()
        took.append(seconds)
    return median(took)


def _wait(bench: Bench, pile: Pile, count: int, limit: float = WAIT) -> None:
    """Wait until so many of the pile ran."""
    deadline = time.monotonic() + limit
    while (done := sum(runs(bench.cells, 0, pile.count))) < count:
        bench.processes.look()
        if time.monotonic() > deadline:
            raise FailedError(f"only {done} of {count} ran in {limit:.0f} s")
        time.sleep(0.1)


def _note(bench: Bench, pile: Pile) -> list[int]:
    """See that each ran once, none again; return when they began, in order."""
    told = runs(bench.cells, 0, pile.count)
    ran = {n for n, count in enumerate(told) if count}
    if sum(told) != len(ran) or ran & pile.done:
        raise FailedError("some ran twice")
    pile.done |= ran
    if waiting(pile.spool) != pile.count - len(pile.done):
        done = f"{len(pile.done)} of {pile.count} ran"
        raise FailedError(f"{done}, and not all others wait")
    return sorted(filter(None, times(bench.cells, 0, pile.count)))


def _pile(bench: Bench) -> Pile:
    return bench.kept("pile", lambda: _make_pile(bench))


def _make_pile(bench: Bench) -> Pile:
    """Make them as a producer leaves them at full speed: all in the same minute.

    So all are in one folder, and the ledger's numbers are their order.
    """
    begin = (time.time_ns() // 1000 // MINUTE - 1) * MINUTE
    count = bench.sizes.crowd
    return Pile(_make(bench, begin, MINUTE // 2 // count), count)


def _make(bench: Bench, begin: int, step: int) -> Path:
    """Make a crowd, with all cores; return its spool when the disk has it."""
    path, cores = bench.new_spool(), os.cpu_count() or 1
    ends = [bench.sizes.crowd * n // cores for n in range(cores + 1)]
    given = {"folder": str(path), "begin": begin, "step": step}
    roles = [
        ("write", {**given, "first": first, "count": end - first})
        for first, end in pairwise(ends)
    ]
    bench.processes.children(roles, {})
    bench.place.settle()
    return path


def _few(bench: Bench) -> float:
    """Return the µs of a task in this round, with a thousand waiting."""
    return bench.once("few", lambda: median(_of_few(bench) for _ in range(TIMES)))


def _of_few(bench: Bench) -> float:
    count = bench.sizes.few
    bench.clear()
    with bench.spool() as spool:
        bench.fill(spool, count)
        daemon = bench.processes.spoold(spool, log="warning")
        bench.until_all(count)
        daemon.stop()
    bench.check(count)
    return 1e6 / drain.speed(bench, count)


# -- due tomorrow ---------------------------------------------------------------


def tomorrow(bench: Bench) -> None:
    """Run others, and rest, beside a million that are due tomorrow."""
    spool = bench.kept("later", lambda: _make_later(bench))
    what = f"{bench.sizes.crowd:,} due tomorrow"
    # Anew, since a few percent would be lost in what the machine does meanwhile.
    without = ("without", drain.files(bench, 1))
    bench.clear()
    bench.fill(spool, bench.sizes.tasks)
    figure = drain.burst(bench, spool, 1)
    bench.add(f"drain, {what}", RATE, figure, without, at_least(0.95, "without"))
    others = latency.fresh(bench, "spool")
    took = latency.latencies(bench, spool, "spool")
    for percent in (50, 99):
        without = ("without", latency.percentile(others, percent))
        figure = latency.percentile(took, percent)
        name = f"latency, {what}, p{percent}"
        bench.add(name, "ms", figure, without, at_most(1.05, "without"))
    _rest(bench, spool, what)


def _rest(bench: Bench, spool: Path, what: str) -> None:
    """Measure daemons that have nothing to do."""
    few = start(bench)
    with bench.spool() as empty:
        daemons = {"empty spool": bench.serve(empty)[0]}
        daemons[what], took = bench.serve(spool)
        time.sleep(0.3)
        before = {name: daemon.cpu() for name, daemon in daemons.items()}
        time.sleep(bench.sizes.idle)
        for name, daemon in daemons.items():
            percent = (daemon.cpu() - before[name]) / bench.sizes.idle * 100
            bench.add(f"idle CPU, {name}", "%", percent, None, at_most(0.1))
        for name, daemon in daemons.items():
            bench.add(f"supervisor's RSS, {name}", "MB", daemon.peak())
            bench.add(f"supervisor's PSS, {name}", "MB", daemon.pss())
            daemon.stop()
    bench.add(f"first run, {what}, later by", "s", took - few, None, at_most(0.5))


def _make_later(bench: Bench) -> Path:
    """Make tasks that are due over the whole of the day that begins in a day."""
    begin = time.time_ns() // 1000 + DAY
    return _make(bench, begin, DAY // bench.sizes.crowd)


# -- to the last one ------------------------------------------------------------


def long(bench: Bench) -> None:
    """Run what the rounds have left of the million; watch the memory."""
    pile = _pile(bench)
    left = pile.count - len(pile.done)
    if left < pile.count // 2:
        raise FailedError(f"only {left} are left of {pile.count}")
    bench.clear()
    daemon = bench.processes.spoold(pile.spool, log="warning")
    seen = {}
    for percent in (10, 50, 100):
        _wait(bench, pile, left * percent // 100, LONG)
        seen[percent] = _memory(bench, pile.spool, daemon)
    daemon.stop()
    marks = _note(bench, pile)
    each = (marks[-1] - marks[0]) / (len(marks) - 1) / 1e3
    alone = f"{bench.sizes.few:,} waiting"
    what = f"a task, {pile.count:,} to the last one"
    bench.add(what, "µs", each, (alone, _few(bench)), at_most(1.15, alone))
    for number, who in enumerate(("worker", "supervisor")):
        for percent, memory in seen.items():
            bench.add(f"{who}'s RSS after {percent} %", "MB", memory[number])
        grown = seen[100][number] - seen[10][number]
        name = f"{who}'s RSS, 10 % to 100 %"
        bench.add(name, "MB", grown, None, at_most(2))


def _memory(bench: Bench, spool: Path, daemon: Spoold) -> tuple[float, float]:
    [worker] = workers(spool)
    return resident(worker, bench.ledger), resident(daemon.pid, bench.ledger)
