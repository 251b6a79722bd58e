"""Tasks for the tests of the daemon; what they do can be seen in ``$OUT``."""

import asyncio
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

from spooler import (
    Answer,
    Fail,
    Retry,
    current_task,
    spool,
    spoolforever,
    spoolraw,
)

OUT = Path(os.environ["OUT"])


def write(text: str, name: str = "out") -> None:
    """Add a line in one system call, so that no two processes mix theirs."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    fd = os.open(OUT / name, flags, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


def wait_for(name: str) -> None:
    while not (OUT / name).exists():
        Event().wait(0.005)


# -- running ----------------------------------------------------------------------


@spool
def note(text: str = "done", name: str = "out") -> None:
    write(text, name)


@spool
def note_slowly(text: str, seconds: float = 0.005) -> None:
    Event().wait(seconds)
    write(text)


@spool
def now() -> None:
    write(str(datetime.now().timestamp()))  # noqa: DTZ005 (a number all the same)


@spool
def gate(text: str = "passed", name: str = "gate") -> None:
    write(str(os.getpid()), "pid")
    write(str(current_task().attempt), "attempts")
    wait_for(name)
    write(text)


@spool
def size_of_bytes(body: bytes) -> None:
    write(f"{len(body)} {body[:5]!r}")


@spool
def size_of_file(body: BinaryIO) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = 0
    while piece := body.read(65536):
        size += len(piece)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write(f"{size} {after - before}")


@spool
def typed(
    count: int, ratio: float, when: datetime, path: Path, flag: bool = False
) -> None:
    write(f"{count + 1} {ratio * 2} {when.isoformat()} {path.suffix} {flag}")


@spool
def anything(args: dict[str, Any]) -> None:
    args = dict(args)
    args["spooler_task_name"] = args["spooler_task_name"].rpartition(".")[2]
    write(repr(sorted(args.items())))


# Plain functions that return a coroutine: an ``async def`` would have every test of
# this module run in a worker of the other kind (see concurrently.py).


@spool
def later(text: str) -> Coroutine[Any, Any, None]:
    async def do() -> None:
        await asyncio.sleep(0.01)
        write(text)

    return do()


@spool
def later_with_file(body: BinaryIO) -> Coroutine[Any, Any, None]:
    async def do() -> None:
        await asyncio.sleep(0.01)
        write(str(len(body.read())))

    return do()


@spool
def by_position(first: int, second: int = 7, /, third: int = 8) -> None:
    write(f"{first} {second} {third}")


@spool
def about() -> None:
    task = current_task()
    write(task.id)
    write(task.name)
    write(str(task.attempt))
    write(str(task.priority))
    write(task.spool)
    write(str(task.traceparent))
    write(str(0 <= task.age < 3600))
    write(str(task.deadline))


@spool
def chain(left: int) -> None:
    write(str(left))
    if left:
        chain.spool(left - 1)


@spool
def say(text: str) -> None:
    print(text)  # noqa: T201
    print(f"{text} too", file=sys.stderr, flush=True)  # noqa: T201


# -- answers ----------------------------------------------------------------------


@spoolraw(backoff=0.05, jitter=0)
def answer(values: list[str]) -> object:
    """Answer each attempt from a list: a name of an answer, or JSON's null."""
    attempt = current_task().attempt
    write(str(attempt))
    text = values[min(attempt, len(values)) - 1]
    return Answer[text] if text in Answer.__members__ else None


@spoolraw
def ignored_until(name: str) -> Answer:
    write("looked", "looks")
    if not (OUT / name).exists():
        return Answer.IGNORE
    write(f"attempt {current_task().attempt}")
    return Answer.OK


@spoolforever(pause=0.02, backoff=0.02, jitter=0)
def forever() -> None:
    write(str(current_task().attempt))
    if len((OUT / "out").read_text().splitlines()) == 2:
        raise ValueError("this run only")


@spool(backoff=3600)
def again_after(seconds: float) -> None:
    write(str(current_task().attempt))
    if current_task().attempt == 1:
        raise Retry("not yet", after=seconds)


@spool
def give_up() -> None:
    raise Fail("it is of no use")


@spool(max_attempts=3, backoff=0.05, jitter=0)
def broken(text: str) -> None:
    write(str(current_task().attempt))
    raise ValueError(text)


@spool(max_attempts=2, backoff=0.05, jitter=0)
def leave(how: str) -> None:
    write(f"{how} {current_task().attempt}")
    if current_task().attempt == 2:
        return
    if how == "exit":
        sys.exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "memory":
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 29, hard))
        try:
            bytearray(1 << 32)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@spool
def fork() -> None:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        write("parent")
    else:
        write("child")


@spool
def go_to(folder: str) -> None:
    os.chdir(folder)


@spool
def where() -> None:
    write(str(Path.cwd()))


@spool
def close_standard_files() -> None:
    for fd in (0, 1, 2):
        with suppress(OSError):
            os.close(fd)


LEAKED: list[int] = []


@spool
def leak() -> None:
    with suppress(OSError):
        while True:
            LEAKED.append(os.open("/dev/null", os.O_RDONLY))
    os.close(LEAKED.pop())
    write("leaked")
    LEAKED.append(os.open("/dev/null", os.O_RDONLY))


@dataclass
class Strange:
    """An argument whose making fails in an unusual way."""

    value: int

    def __post_init__(self) -> None:
        if self.value:
            raise KeyError(self.value)


@spool(max_attempts=2, backoff=0.01)
def strange(value: Strange) -> None:
    write("never")


@spool
def on_alarm() -> None:
    """Leave a handled signal behind."""
    signal.signal(signal.SIGALRM, lambda *_: write("alarm"))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not (OUT / "out").exists():
        Event().wait(0.005)


# -- death ------------------------------------------------------------------------


def _end(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)


@spool(backoff=0.05)
def dies_once(how: str) -> None:
    write(str(current_task().attempt))
    if current_task().attempt == 1:
        _end(how)


@spool(max_attempts=3, backoff=0.05)
def poison(how: str = "kill") -> None:
    write(str(current_task().attempt), "poison")
    _end(how)


@spool(max_attempts=2, hard_timeout=0.3, backoff=0.05)
def stuck(how: str) -> None:
    write(str(current_task().attempt))
    write(str(current_task().deadline is not None), "deadline")
    with subprocess.Popen(["sleep", "1000"]) as child:
        write(str(child.pid), "child")
        while how == "loop":
            pass
        ctypes.PyDLL(None).sleep(1000)


@spool(max_attempts=1)
def stuck_without_limit() -> None:
    write(str(current_task().deadline is not None))
    while True:
        pass


@spool
def parent() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        write(str(child.pid), "child")
        write(str(os.getpid()), "pid")


@spool
def leave_a_daemon() -> None:
    """Leave a process behind that has everything open and a session of its own."""
    child = os.fork()
    if not child:
        os.setsid()
        if os.fork():
            os._exit(0)
        write(str(os.getpid()), "orphan")
        wait_for("gate")
        os._exit(0)
    os.waitpid(child, 0)
    wait_for("orphan")
    write("done")
    wait_for("gate2")
