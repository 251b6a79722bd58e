"""Huey with its files (API documentation, FileHuey)."""

from collections.abc import Iterable

from huey import FileHuey

from ..work import NOTE, folder, noop

huey = FileHuey("bench", path=f"{folder()}/huey")
task = huey.task()(noop)


def put(numbers: Iterable[int]) -> None:
    """Put a task for each number."""
    for n in numbers:
        task(n, NOTE)
