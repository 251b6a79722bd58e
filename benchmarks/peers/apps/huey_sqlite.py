"""Huey with SQLite (API documentation, SqliteHuey), at its defaults.

They are a write-ahead log and SQLite's own ``synchronous = FULL``: each put is synced.
"""

from collections.abc import Iterable

from huey import SqliteHuey

from ..work import NOTE, folder, noop

huey = SqliteHuey("bench", filename=f"{folder()}/huey.db")
task = huey.task()(noop)


def put(numbers: Iterable[int]) -> None:
    """Put a task for each number."""
    for n in numbers:
        task(n, NOTE)
