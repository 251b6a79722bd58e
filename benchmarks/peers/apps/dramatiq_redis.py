"""Dramatiq (user guide, Redis Broker)."""

from collections.abc import Iterable

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from ..work import NOTE, noop, port

dramatiq.set_broker(RedisBroker(host="127.0.0.1", port=port()))
task = dramatiq.actor(noop)


def put(numbers: Iterable[int]) -> None:
    """Put a task for each number."""
    for n in numbers:
        task.send(n, NOTE)
