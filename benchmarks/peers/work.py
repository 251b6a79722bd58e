"""The task that every peer runs, and where the processes of a peer find each other."""

import os
import time
from typing import Final

from ..ledger import LEDGER, open_ledger

FOLDER: Final = "SPOOLER_BENCHMARK_FOLDER"
"""The environment variable that names the folder with the peer's queue."""

PORT: Final = "SPOOLER_BENCHMARK_PORT"
"""The environment variable with the port of the peer's server on 127.0.0.1."""

NOTE: Final = "hello"

CELLS: Final = open_ledger(os.environ.get(LEDGER))


def noop(n: int, note: str) -> None:
    """Leave a mark, as ``benchmarks.tasks.noop`` does."""
    CELLS[2 * n + 1] = time.monotonic_ns()
    CELLS[2 * n] += 1


def folder() -> str:
    """Return the folder with the peer's queue."""
    return os.environ[FOLDER]


def port() -> int:
    """Return the port of the peer's server."""
    return int(os.environ[PORT])
