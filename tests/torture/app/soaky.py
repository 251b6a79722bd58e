"""Tasks of every kind, for the long run."""

import os
import signal
from threading import Event

from stormy import step, tell  # type: ignore[import-not-found]  # beside this

from spooler import Fail, Retry, current_task, progress, spool, timer

__all__ = ["step"]


@spool(backoff=0.05)
def shaky(n: str) -> None:
    """Fail the first two times."""
    tell("begin", n)
    print("not yet", n)
    if current_task().attempt == 1:
        raise ValueError(n)
    if current_task().attempt == 2:
        raise Retry("a moment", after=0.05)
    tell("end", n)


@spool
def doomed(n: str) -> None:
    tell("begin", n)
    raise Fail("it is of no use")


@spool(backoff=0.05)
def deadly(n: str) -> None:
    """Kill the worker the first time."""
    tell("begin", n)
    if current_task().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    tell("end", n)


@spool
def endless(n: str) -> None:
    tell("begin", n)
    Event().wait(3600)


@spool(keep_result=1.0)
def result(n: str, body: bytes = b"") -> int:
    tell("begin", n)
    progress(1, 2)
    tell("end", n)
    return len(body)


@spool(concurrency=1)
def alone(n: str) -> None:
    step(n)


@timer(1)
def tick() -> None:
    tell("tick")
