"""SAQ (README, Example): its functions and its producers are coroutines."""

import asyncio
from collections.abc import Iterable

from saq import Queue

from .. import work

queue = Queue.from_url(f"redis://127.0.0.1:{work.port()}")
runner = asyncio.Runner()


async def noop(context: object, *, n: int, note: str) -> None:
    """Run the task."""
    work.noop(n, note)


async def _put(numbers: Iterable[int]) -> None:
    for n in numbers:
        await queue.enqueue("noop", n=n, note=work.NOTE)


def put(numbers: Iterable[int]) -> None:
    """Put a task for each number."""
    runner.run(_put(numbers))


settings = {"queue": queue, "functions": [noop]}
