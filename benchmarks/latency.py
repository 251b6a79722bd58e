"""Milliseconds until a function begins when all is idle."""

from pathlib import Path

from .bench import Bench
from .table import BARE, at_most

PUT = "latency from .spool(), fast"
DROP = "latency from a rename"


def latency(bench: Bench) -> None:
    """Put one task after the other; drop one file after the other."""
    count = bench.sizes.puts
    bare = _bare(bench)
    put, drop = fresh(bench, "spool"), fresh(bench, "drop")
    below = (at_most(1, "uWSGI"),) if bench.place.is_disk else ()
    targets = {
        (PUT, 50): (at_most(0.15), *below),
        (PUT, 99): (at_most(2),),
        (DROP, 50): (at_most(1),),
        (DROP, 99): (),
    }
    for (what, percent), limits in targets.items():
        took = put if what == PUT else drop
        beside = (BARE, percentile(bare, percent))
        figure = percentile(took, percent)
        bench.add(f"{what}, p{percent}", "ms", figure, beside, *limits)
    bench.add_peers(
        {f"{PUT}, p{percent}": "ms" for percent in (50, 99)},
        lambda peer: _both(
            peer.latency(bench.place.path, max(10, int(count * peer.share)))
        ),
    )


def fresh(bench: Bench, how: str) -> list[int]:
    """Return the latencies in a spool without other tasks."""
    with bench.spool() as spool:
        return latencies(bench, spool, how)


def latencies(bench: Bench, spool: Path, how: str) -> list[int]:
    """Return the latencies in a spool, in ns: see child.py for how."""
    count = bench.sizes.puts
    daemon, _ = bench.serve(spool)
    bench.clear()
    given = {"how": how, "folder": str(spool), "count": count}
    env = {"SPOOL_DIR": str(spool)}
    [told] = bench.processes.children([("latency", given)], env)
    daemon.stop()
    bench.check(count)
    return list(told["took"])


def percentile(took: list[int], percent: int) -> float:
    """Return a percentile of ns, in ms."""
    ordered = sorted(took)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] / 1e6


def _both(took: list[int]) -> list[float]:
    return [percentile(took, 50), percentile(took, 99)]


def _bare(bench: Bench) -> list[int]:
    bench.clear()
    with bench.bare() as folder:
        given = {"folder": str(folder), "count": bench.sizes.puts}
        roles = [("bare_watch", given), ("latency", {"how": "bare", **given})]
        told = bench.processes.children(roles, {})[1]
    bench.check(bench.sizes.puts)
    return list(told["took"])
