"""The ledger in which each run of a task leaves its mark.

A file in memory, shared by all processes: two numbers for each task, how often it ran
and when it last began. A mark costs less than a microsecond and no system call, so
that the same pass measures and counts.
"""

import mmap
from pathlib import Path
from typing import Final

LEDGER: Final = "SPOOLER_BENCHMARK_LEDGER"
"""The environment variable that names the ledger's file."""

Cells = memoryview
"""Cell 2n counts the runs of task n, cell 2n+1 has the time in monotonic ns."""


def make_ledger(path: Path, count: int) -> None:
    """Make a ledger for so many tasks."""
    path.write_bytes(bytes(16 * count))


def open_ledger(path: str | None) -> Cells:
    """Return the cells of a ledger; without one, those of a task nobody asks for."""
    if path is None:
        return memoryview(bytearray(16)).cast("Q")
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")


def clear(cells: Cells) -> None:
    """Take all marks away."""
    cells.cast("B")[:] = bytes(cells.nbytes)


def runs(cells: Cells, first: int, end: int) -> list[int]:
    """Return how often each of these tasks ran."""
    return cells[2 * first : 2 * end : 2].tolist()


def times(cells: Cells, first: int, end: int) -> list[int]:
    """Return when each of these tasks last began, in monotonic ns."""
    return cells[2 * first + 1 : 2 * end : 2].tolist()
