"""No-op tasks run in a second.

Counted from the beginning of the first run to that of the last one: that many whole
rounds of claim, run and ack.
"""

from pathlib import Path

from .bench import NOTE, RATE, Bench, rate
from .ledger import times
from .processes import FailedError, commands
from .table import BARE, at_least
from .tasks import noop

PRODUCERS = 2


def drain(bench: Bench, *, workers: int) -> None:
    """Run a backlog of single files."""
    what = _what(workers)
    bare = _bare(bench, workers)
    figure = alone(bench, workers)
    limits = [at_least(0.7, BARE)]
    if bench.place.is_disk:
        limits.append(at_least(1, "uWSGI"))
    bench.add(what, RATE, figure, (BARE, bare), *limits)
    count = bench.sizes.tasks
    bench.add_peers(
        {what: RATE},
        lambda peer: [
            peer.drain(bench.place.path, max(10, int(count * peer.share)), workers)
        ],
    )


def batch(bench: Bench, *, workers: int) -> None:
    """Run a backlog that was put in one file."""
    bench.clear()
    with bench.spool() as spool:
        rows = ({"n": n, "note": NOTE} for n in range(bench.sizes.tasks))
        noop.using(spooler=spool).map(rows)
        figure = burst(bench, spool, workers)
    beside = ("one by one", alone(bench, workers))
    what = f"{_what(workers)}, from a batch"
    bench.add(what, RATE, figure, beside, at_least(3, "one by one"))


def info(bench: Bench) -> None:
    """Run a backlog and log each task, to nowhere."""
    figure = files(bench, 1, log="info")
    beside = ("level warning", alone(bench, 1))
    bench.add(f"{_what(1)}, log level info", RATE, figure, beside)


def contended(bench: Bench) -> None:
    """Run a backlog while producers put more at full speed all the time."""
    sizes = bench.sizes
    count, each = sizes.tasks, sizes.room // PRODUCERS
    firsts = [count + i * each for i in range(PRODUCERS)]
    bench.clear()
    with bench.spool() as spool:
        bench.fill(spool, count)
        roles = [
            ("put_until", {"first": first, "count": each, "stop": sizes.stop})
            for first in firsts
        ]
        crew = bench.processes.crew(commands(roles), {"SPOOL_DIR": str(spool)})
        crew.go()
        daemon = bench.processes.spoold(spool, log="warning")
        bench.until_all(count)
        bench.cells[2 * sizes.stop] = 1
        told = crew.told()
        for first, child in zip(firsts, told, strict=True):
            bench.until_all(first + child["count"], first=first)
        daemon.stop()
        _nothing_running(spool)
    bench.check(count)
    for first, child in zip(firsts, told, strict=True):
        if child["count"] == each:
            raise FailedError("the producers were done before the backlog")
        bench.check(first + child["count"], first=first)
    figure = speed(bench, count)
    beside = ("alone", alone(bench, 1))
    what = f"{_what(1)}, while {PRODUCERS} producers run"
    bench.add(what, RATE, figure, beside, at_least(0.6, "alone"))


def alone(bench: Bench, workers: int) -> float:
    """Return the rate of this round without anything else at work."""
    return bench.once(("drain", workers), lambda: files(bench, workers))


def speed(bench: Bench, end: int, *, first: int = 0) -> float:
    """Return the tasks run in a second of those of which all have a mark."""
    told = times(bench.cells, first, end)
    return (len(told) - 1) / (max(told) - min(told)) * 1e9


def _what(workers: int) -> str:
    return f"drain, {workers} worker{'s' * (workers > 1)}"


def files(bench: Bench, workers: int, log: str = "warning") -> float:
    """Run a backlog in a spool of its own; return the tasks run in a second."""
    bench.clear()
    with bench.spool() as spool:
        bench.fill(spool, bench.sizes.tasks)
        return burst(bench, spool, workers, log)


def burst(bench: Bench, spool: Path, workers: int, log: str = "warning") -> float:
    """Run all that waits; return the tasks run in a second."""
    options = ("--burst", "--workers", str(workers))
    bench.processes.spoold(spool, *options, log=log).wait()
    bench.check(bench.sizes.tasks)
    _nothing_running(spool)
    return speed(bench, bench.sizes.tasks)


def _nothing_running(spool: Path) -> None:
    if left := list((spool / "running").glob("*/*")):
        raise FailedError(f"{len(left)} tasks were not acked")


def _bare(bench: Bench, consumers: int) -> float:
    """Return the files that bare consumers take in a second."""
    count = bench.sizes.tasks
    with bench.bare() as folder:
        put = {"folder": str(folder), "first": 0, "count": count, "sync": False}
        bench.processes.children([("bare_put", put)], {})
        roles = [("bare_take", {"folder": str(folder)})] * consumers
        told = bench.processes.children(roles, {})
    if sum(each["count"] for each in told) != count:
        raise FailedError("the bare consumers lost some")
    return rate(told)
