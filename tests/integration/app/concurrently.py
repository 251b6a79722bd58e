"""Async tasks, and tasks in threads; what they do can be seen in ``$OUT``."""

import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import anyio
import sniffio
from anyio import to_thread

from spooler import (
    Answer,
    Fail,
    Retry,
    SoftTimeout,
    current_task,
    spool,
    spoolforever,
    spoolraw,
    timer,
)

OUT = Path(os.environ["OUT"])
SEEN: ContextVar[str] = ContextVar("SEEN", default="nothing")


def write(text: object, name: str = "out") -> None:
    """Add a line in one system call, so that no two processes mix theirs."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    fd = os.open(OUT / name, flags, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


async def opened(name: str) -> None:
    while not (OUT / name).exists():
        await anyio.sleep(0.005)


# -- async ------------------------------------------------------------------------


@spool
async def nothing() -> None:
    pass


@spool
async def nap(text: str, seconds: float = 0.2) -> None:
    await anyio.sleep(seconds)
    write(text)


@spool(backoff=0.05)
async def wait(text: str = "passed", name: str = "gate") -> None:
    write(os.getpid(), "pid")
    write(current_task().attempt, "attempts")
    write(text, "begun")
    await opened(name)
    write(text)


@spool(max_attempts=2, soft_timeout=0.1, backoff=0.05)
async def slow() -> None:
    write(current_task().attempt)
    try:
        await anyio.sleep(1000)
    finally:
        write("cleaned")


@spool(soft_timeout=0.1)
async def slow_but_done() -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.2)
    write("done")


@spool(max_attempts=2, hard_timeout=0.4, backoff=0.05)
async def stuck() -> None:
    write(current_task().attempt)
    while True:
        try:
            await anyio.sleep(1000)
        except BaseException:  # noqa: BLE001 (it is stuck)
            continue


@spool(max_attempts=1, soft_timeout=0.2)
async def blocking() -> None:
    while True:
        pass


@spool(backoff=0.05, max_attempts=2)
async def answers(how: str) -> None:
    write(f"{how} {current_task().attempt}")
    await anyio.sleep(0)
    if current_task().attempt == 2:
        return
    if how == "retry":
        raise Retry("not yet", after=0.01)
    if how == "fail":
        raise Fail("it is of no use")
    if how == "exit":
        sys.exit(3)
    if how == "error":
        raise ValueError("this time")


@spoolraw(backoff=0.01)
async def raw() -> Answer:
    await anyio.sleep(0)
    write(current_task().attempt)
    return Answer.OK if current_task().attempt > 1 else Answer.RETRY


@spoolforever(pause=0.02)
async def forever() -> None:
    await anyio.sleep(0)
    write("again")


if os.environ.get("TICKS"):

    @timer(0.2)
    async def tick() -> None:
        await anyio.sleep(0)
        write("tick")


@spool
async def size(body: BinaryIO) -> None:
    await anyio.sleep(0.05)
    write(len(body.read()))


@spool
async def whose() -> None:
    here = current_task().id
    there = await to_thread.run_sync(lambda: current_task().id)
    await anyio.sleep(0.01)
    write(here == there == current_task().id)


@spool
async def context(text: str) -> None:
    write(SEEN.get())
    SEEN.set(text)
    await anyio.sleep(0.05)
    write(SEEN.get() == text)


@spool
async def library() -> None:
    write(sniffio.current_async_library())


@spool
async def puts(left: int) -> None:
    write(left)
    if left:
        handle = await puts.using(priority=left).aspool(left - 1)
        write(handle.task)
    elif left == 0:
        await note.call("noted").aspool()


@asynccontextmanager
async def _resource() -> AsyncIterator[None]:
    yield
    await anyio.sleep(0)


# -- plain ------------------------------------------------------------------------


@spool
def note(text: str) -> None:
    write(text)


@spool
def plain_nothing() -> None:
    pass


@spool
def block(text: str = "blocked", name: str = "gate") -> None:
    write(os.getpid(), "pid")
    write(text, "begun")
    write(threading.current_thread().name, "threads")
    while not (OUT / name).exists():
        Event().wait(0.005)
    write(text)


@spool
def plain_nap(text: str, seconds: float = 0.2) -> None:
    Event().wait(seconds)
    write(threading.current_thread().name, "threads")
    write(text)


@spool
def burn(seconds: float) -> None:
    """Compute in Python, for so many seconds."""
    from time import monotonic  # noqa: PLC0415

    write("begun", "burning")
    end = monotonic() + seconds
    while monotonic() < end:
        pass
    write("burnt", "burning")


@spool(max_attempts=2, soft_timeout=0.2, backoff=0.05)
def plain_slow() -> None:
    write(current_task().attempt)
    try:
        while True:
            Event().wait(0.01)
    except SoftTimeout:
        write("cleaned")
        raise


@spool(max_attempts=1, soft_timeout=0.2)
def one_long_wait() -> None:
    Event().wait(1000)


@spool
def plain_context(text: str) -> None:
    write(SEEN.get())
    SEEN.set(text)
    Event().wait(0.02)
    write(SEEN.get() == text)


@spool
def go_to(folder: str) -> None:
    os.chdir(folder)
    while not (OUT / "gate").exists():
        Event().wait(0.005)


@spool
def where() -> None:
    write(Path.cwd())


def _make(coroutine: Any) -> Any:
    return coroutine


@spool
def gives_a_coroutine() -> Any:
    """Return something to be awaited, although it is no async function."""

    async def later() -> None:
        await anyio.sleep(0.01)
        write(f"{threading.current_thread().name} {current_task().name}")

    return later()


@spool
async def hold_the_loop(seconds: float) -> None:
    write("held", "loop")
    Event().wait(seconds)


@spool(soft_timeout=1, max_attempts=1)
def gives_a_coroutine_to_a_busy_loop() -> Any:
    async def later() -> None:
        write("began")

    while not (OUT / "loop").exists():
        Event().wait(0.005)
    return later()


@spool(soft_timeout=0.2, max_attempts=1)
def gives_a_slow_coroutine() -> Any:
    async def later() -> None:
        try:
            await anyio.sleep(1000)
        finally:
            write("cancelled")

    return later()
