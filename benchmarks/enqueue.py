"""Tasks put in a second."""

import time
from statistics import median

from spooler import Spooler

from .bench import NOTE, RATE, Bench, rate, waiting
from .processes import FailedError
from .table import BARE, at_least
from .tasks import noop_safe

TIMES = 20
"""How often a batch is put."""


def enqueue(bench: Bench, *, producers: int, sync: bool) -> None:
    """Put tasks one by one, with one or several producers."""
    count = bench.sizes.synced if sync else bench.sizes.tasks
    each = count // producers
    given = [{"first": i * each, "count": each, "sync": sync} for i in range(producers)]
    with bench.bare() as folder:
        roles = [("bare_put", {"folder": str(folder), **some}) for some in given]
        bare = rate(bench.processes.children(roles, {}))
    with bench.spool() as spool:
        env = {"SPOOL_DIR": str(spool)}
        told = bench.processes.children([("put", some) for some in given], env)
        if waiting(spool) != each * producers:
            raise FailedError(f"{waiting(spool)} tasks instead of {each * producers}")
    how = "safe" if sync else "fast"
    what = f"enqueue, {how}, {producers} producer{'s' * (producers > 1)}"
    limits = [at_least(0.9 if sync else 0.7, BARE)]
    if bench.place.is_disk and not sync:
        limits.append(at_least(1, "uWSGI"))
    bench.add(what, RATE, rate(told), (BARE, bare), *limits)
    usual = bench.sizes.tasks
    bench.add_peers(
        {what: RATE},
        lambda peer: [
            peer.enqueue(
                bench.place.path, max(producers, int(usual * peer.share)), producers
            )
        ],
        lambda peer: peer.synced == sync,
    )


def together(bench: Bench) -> None:
    """Put a thousand tasks at once, synced; the calls are made meanwhile."""
    count = bench.sizes.few
    took = []
    with bench.spool() as spool:
        store, put = Spooler(spool), noop_safe.using(spooler=spool)
        for _ in range(TIMES):
            begin = time.monotonic_ns()
            batch = store.spool_many(put.call(n=n, note=NOTE) for n in range(count))
            took.append(time.monotonic_ns() - begin)
            if batch.count != count:
                raise FailedError(f"{batch.count} tasks instead of {count}")
    figure = count / median(took) * 1e9
    bench.add(f"spool_many of {count:,}, safe", RATE, figure, None, at_least(100_000))
