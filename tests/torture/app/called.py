"""Tasks that write down when they run, for the torture of each system call."""

import os
from pathlib import Path

from spooler import Fail, current_task, progress, spool, timer

RAN = Path(os.environ["OUT"]) / "ran"


def note(n: int) -> None:
    """Add a line in one system call, which is counted like those of the spool."""
    fd = os.open(RAN, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{n} {current_task().attempt}\n".encode())
    finally:
        os.close(fd)


@spool(backoff=0.01, jitter=0)
def plain(n: int, body: bytes = b"") -> None:
    note(n)


@spool(backoff=0.01, jitter=0)
def shaky(n: int) -> None:
    note(n)
    print("something to keep")
    if current_task().attempt == 1:
        raise ValueError("not yet")


@spool(backoff=0.01, jitter=0)
def hopeless(n: int) -> None:
    note(n)
    print("something to keep")
    raise Fail("never")


@spool(backoff=0.01, jitter=0, keep_result=3600)
def kept(n: int) -> int:
    progress(1, 2)
    note(n)
    return n


@spool(backoff=0.01, jitter=0, concurrency=1, rate="1000/s")
def limited(n: int) -> None:
    note(n)


@timer(3600)
def hourly() -> None: ...
