"""A producer of a peer, in a process of its own.

``python -m benchmarks.peers.child APP GIVEN`` speaks as ``benchmarks.child`` does. It
runs where the peers are installed, and spooler is not.
"""

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from .work import CELLS

Result = dict[str, Any]
Put = Callable[[Iterable[int]], object]

PAUSE: Final = 0.002
"""Seconds between two looks at the ledger, and from a run to the next put."""

GIVE_UP: Final = 60.0
"""Seconds after which a task that has not begun is lost."""

ENOUGH: Final = 3.0
"""Seconds after which the latency of a slow peer is known well enough."""


def timed(put: Put, first: int, count: int) -> Result:
    """Put tasks; return when that began and ended."""
    begin = time.monotonic_ns()
    put(range(first, first + count))
    return {"begin": begin, "end": time.monotonic_ns(), "count": count}


def latency(put: Put, first: int, count: int) -> Result:
    """Put one task after the other; tell how long each took to begin, in ns."""
    took: list[int] = []
    enough = time.monotonic() + ENOUGH
    for n in range(first, first + count):
        begin = time.monotonic_ns()
        put((n,))
        _wait(n)
        time.sleep(PAUSE)
        took.append(CELLS[2 * n + 1] - begin)
        if time.monotonic() > enough:
            break
    return {"count": len(took), "took": took}


def _wait(n: int) -> None:
    limit = time.monotonic() + GIVE_UP
    while not CELLS[2 * n]:
        time.sleep(PAUSE)
        if time.monotonic() > limit:
            raise SystemExit(f"task {n} did not begin in {GIVE_UP} s")


def main() -> None:
    """Put one task to be warm, then do as told."""
    app = importlib.import_module(f"benchmarks.peers.apps.{sys.argv[1]}")
    given = json.loads(sys.argv[2])
    role, spare = given.pop("role"), given.pop("spare")
    app.put((spare,))
    if role == "latency":
        _wait(spare)
    gc.collect()
    print("ready", flush=True)
    if sys.stdin.readline():
        work = timed if role == "put" else latency
        print(json.dumps(work(app.put, **given)), flush=True)


if __name__ == "__main__":
    main()
