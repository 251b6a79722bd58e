"""The tasks that are run."""

import os
import time
from typing import Final

from spooler import spool

from .ledger import LEDGER, open_ledger

CELLS: Final = open_ledger(os.environ.get(LEDGER))


@spool(durability="fast")
def noop(n: int, note: str) -> None:
    """Leave a mark."""
    CELLS[2 * n + 1] = time.monotonic_ns()
    CELLS[2 * n] += 1


@spool(durability="safe")
def noop_safe(n: int, note: str) -> None:
    """Leave a mark; put durably."""
    noop(n, note)


@spool(durability="fast")
def signed(n: int, beyond: int) -> None:
    """Leave a mark, and elsewhere in the ledger the number of the process."""
    noop(n, "")
    CELLS[2 * (n + beyond)] = os.getpid()
