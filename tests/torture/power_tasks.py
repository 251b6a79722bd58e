"""The tasks that run on a disk that is recorded; ``spoold`` imports this.

Each run that has ended is a line in a file that lies on another disk.
"""

import asyncio
import os
import zlib
from threading import Event
from time import monotonic_ns

from spooler import Fail, current_task, spool, timer

from . import power_mutants
from .power_ledger import DAMAGED, LEDGER, NAP, TIMER

_LEDGER = os.open(
    os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
)
_NAP = float(os.environ.get(NAP, "0"))

power_mutants.apply()


def _ran(what: str) -> None:
    """Write down that a run has come to its end; one write, so lines are whole."""
    task = current_task().id
    os.write(_LEDGER, f"{monotonic_ns()} {task} {what}\n".encode())


@spool
def note(n: int, crc: int, body: bytes = b"") -> None:
    """Check that the task has come whole."""
    _ran("note" if zlib.crc32(body, n) == crc else DAMAGED)


@spool
def slow(n: int) -> None:
    """Take a moment."""
    if _NAP:
        Event().wait(_NAP)
    _ran("slow")


@spool(retries=8, backoff=0.01)
def flaky(n: int) -> None:
    """Fail the first time."""
    if current_task().attempt == 1:
        raise RuntimeError("the first time")
    _ran("flaky")


@spool
def bad(n: int) -> None:
    """Give up."""
    _ran("bad")
    raise Fail("as it was meant")


@spool(keep_result="1h")
def kept(n: int) -> int:
    """Return something that is kept."""
    _ran("kept")
    return n


@spool
def parent(n: int) -> None:
    """Have a follower."""
    _ran("parent")


@spool
def child(n: int) -> None:
    """Follow."""
    _ran("child")


@spool
async def wave(n: int) -> None:
    """Wait in the loop."""
    await asyncio.sleep(_NAP)
    _ran("wave")


def tick() -> None:
    """Be put by the daemon."""
    _ran("tick")


# What an earlier recording has put must be known to the next one in any case.
task = timer(0.5)(tick) if os.environ.get(TIMER) == "1" else spool(tick)
