"""Tasks that write down when they begin and end, for the tortures."""

import os
import uuid
from pathlib import Path
from threading import Event
from time import monotonic

from spooler import on_worker_start, on_worker_stop, spool

LEDGER = Path(os.environ["OUT"]) / "ran"
WORKER = ["?"]


def who(pid: int) -> str:
    """Return a process's number and when it began: numbers are given out again."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return f"{pid}:{stat.rpartition(')')[2].split()[19]}"


ABOVE = (who(os.getpid()), who(os.getppid()))
"""The template, which imports this, and the daemon."""


def tell(*words: object) -> None:
    """Add a line in one system call, so that no two processes mix theirs."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    fd = os.open(LEDGER, flags, 0o600)
    try:
        line = " ".join(map(str, (WORKER[0], f"{monotonic():.6f}", *words)))
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


@on_worker_start
def start() -> None:
    WORKER[0] = uuid.uuid4().hex[:12]
    tell("start", who(os.getpid()), *ABOVE)


@on_worker_stop
def stop() -> None:
    tell("stop")


# Some milliseconds long: shorter ones are seldom running when a kill comes.
@spool(backoff=0.05)
def step(n: str, seconds: float = 0.02) -> None:
    tell("begin", n)
    Event().wait(seconds)
    tell("end", n)
