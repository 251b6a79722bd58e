"""Tasks that return something."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from spooler import Fail, current_task, spool

OUT = Path(os.environ.get("OUT", "."))


@dataclass
class Sum:
    """What ``add`` returns."""

    total: int
    where: Path


@spool(keep_result="1h")
def add(a: int, b: int) -> Sum:
    return Sum(a + b, Path("/x"))


@spool(keep_result="1h")
def divide(a: int, b: int) -> float:
    if not b:
        raise Fail("b is 0")
    return a / b


@spool
def forget(a: int) -> int:
    return a


@spool(keep_result=60, retries=3, backoff=0.05, jitter=0)
def third_time() -> int:
    attempt = current_task().attempt
    if attempt < 3:
        raise ValueError(f"attempt {attempt}")
    return attempt


@spool(keep_result=60, retries=1, backoff=0.01)
def always_wrong(secret: str) -> None:
    raise ValueError("always")


@spool(keep_result=60)
def odd(kind: str) -> Any:
    return {"object": object(), "large": "x" * 2_000_000}[kind]


@spool(keep_result=60, retries=1, backoff=0)
def dies_once() -> int:
    if current_task().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return current_task().attempt


@spool(keep_result=60, retries=0)
def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@spool(keep_result=60, retries=0, hard_timeout=0.3)
def endless() -> None:
    while True:
        Event().wait(0.01)


@spool(keep_result=60)
def gated(number: int) -> int:
    while not (OUT / "gate").exists():
        Event().wait(0.005)
    return number


@spool(keep_result=60)
async def later(number: int) -> int:
    return number


@spool(keep_result=1)
def soon_gone() -> int:
    return 1
