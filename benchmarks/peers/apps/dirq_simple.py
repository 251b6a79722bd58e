"""dirq's QueueSimple: a queue of bytes, and the loops that its page shows.

It has no tasks and no way to wait: the arguments go as JSON, the consumer runs the
function and looks again after ``PAUSE`` when the queue is empty.
"""

import json
import time
from collections.abc import Iterable

from dirq.QueueSimple import QueueSimple

from ..work import NOTE, folder, noop

PAUSE = 0.01

queue = QueueSimple(f"{folder()}/dirq")


def put(numbers: Iterable[int]) -> None:
    """Put a task for each number."""
    for n in numbers:
        queue.add(json.dumps({"n": n, "note": NOTE}))


def consume() -> None:
    """Run tasks for ever, as "sample consumer" of dirq.QueueSimple."""
    while True:
        for name in queue:
            if not queue.lock(name):
                continue
            noop(**json.loads(queue.get(name)))
            queue.remove(name)
        time.sleep(PAUSE)


if __name__ == "__main__":
    consume()
