"""beanstalkd, with the loops of greenstalk's page (Quickstart): reserve, run, delete.

It has no tasks: the arguments go as JSON.
"""

import json
from collections.abc import Iterable

import greenstalk

from ..work import NOTE, noop, port

client = greenstalk.Client(("127.0.0.1", port()))


def put(numbers: Iterable[int]) -> None:
    """Put a task for each number."""
    for n in numbers:
        client.put(json.dumps({"n": n, "note": NOTE}))


def consume() -> None:
    """Run tasks for ever."""
    while True:
        job = client.reserve()
        noop(**json.loads(job.body))
        client.delete(job)


if __name__ == "__main__":
    consume()
