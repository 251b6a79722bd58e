"""Tasks that are put by the thousand, for the tests of batches. None is async."""

import os
import signal
from pathlib import Path
from threading import Event
from time import time

from spooler import current_task, spool

OUT = Path(os.environ["OUT"])


def write(text: str, name: str = "out") -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    fd = os.open(OUT / name, flags, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


@spool
def line(n: int) -> None:
    write(str(n))


@spool
def slow_line(n: int, seconds: float = 0.01) -> None:
    Event().wait(seconds)
    write(str(n))
    write(str(os.getpid()), "pids")


@spool(retries=2, backoff=0.05)
def shaky_line(n: int) -> None:
    """Fail in the first attempt of each third line."""
    attempt = current_task().attempt
    write(f"{n}.{attempt}", "attempts")
    if n % 3 == 0 and attempt == 1:
        raise ValueError(n)
    write(str(n))


@spool(retries=2, backoff=0.05)
def poison_line(n: int) -> None:
    write(f"{current_task().id} {current_task().attempt}", "attempts")
    os.kill(os.getpid(), signal.SIGKILL)


@spool(hard_timeout=0.4, retries=0)
def endless_line(n: int) -> None:
    write(current_task().id, "begun")
    Event().wait(60)


@spool
def tell_moment() -> None:
    write(repr(time()), "moments")


@spool(then="tell_moment", keep_result=600)
def parent_line(n: int) -> int:
    write(str(n))
    return n * 2


@spool(concurrency=1)
def limited_line(n: int) -> None:
    write(str(n))
