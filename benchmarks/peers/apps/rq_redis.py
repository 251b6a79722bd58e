"""RQ (documentation, Jobs)."""

from collections.abc import Iterable

from redis import Redis
from rq import Queue

from ..work import NOTE, noop, port

queue = Queue(connection=Redis(port=port()))


def put(numbers: Iterable[int]) -> None:
    """Put a task for each number."""
    for n in numbers:
        queue.enqueue(noop, n, NOTE)
