"""Tasks with limits, and tasks that are hard to stop."""

import ctypes
import os
import re
import signal
import subprocess
from contextlib import suppress
from threading import Event
from time import monotonic

from tasks import (  # type: ignore[import-not-found] # it is in PYTHONPATH
    OUT,
    wait_for,
    write,
)

from spooler import current_task, spool


def begin(name: str = "log") -> None:
    write(f"{monotonic():.6f} + {os.getpid()}", name)


def end(name: str = "log") -> None:
    write(f"{monotonic():.6f} - {os.getpid()}", name)


@spool(concurrency=2, max_attempts=1)
def two_at_a_time(seconds: float = 0.02) -> None:
    begin()
    Event().wait(seconds)
    end()


@spool(concurrency=1, concurrency_key="{host}-{port}")
def one_for_each_host(
    host: str, port: int = 80, seconds: float = 0.05, gate: str = ""
) -> None:
    begin(f"log-{host}-{port}")
    Event().wait(seconds)
    if gate:
        wait_for(gate)
    end(f"log-{host}-{port}")


@spool(concurrency=1)
def alone(gate: str = "gate") -> None:
    write(str(os.getpid()), "pid")
    wait_for(gate)
    write(str(current_task().attempt), "alone")


@spool(concurrency=1)
def in_order(number: int) -> None:
    write(str(number), "order")
    wait_for("gate")


@spool(rate="20/s")
def at_most_twenty(number: int) -> None:
    begin("rate")


@spool(rate="2/h")
def twice_an_hour(number: int) -> None:
    write(str(number), "hourly")


@spool(rate="3/s", rate_key="{user}", concurrency=4)
def for_each_user(user: str) -> None:
    begin(f"rate-{user}")


@spool(concurrency=1, max_attempts=5, backoff=0.01)
def dies(how: str) -> None:
    begin()
    if how == "kill" and current_task().attempt < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    end()


@spool(concurrency=1)
def leaves_a_child() -> None:
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


@spool(concurrency=1, rate="1000/s", backoff=0.01, max_attempts=2)
def fails() -> None:
    write("failed once more")
    raise ValueError("no")


# -- hard to stop -----------------------------------------------------------------


@spool(max_attempts=1, hard_timeout=0.3)
def hard(how: str) -> None:
    """Be stuck; what is written at once is when this began, and in which process."""
    write(f"{monotonic():.6f} {os.getpid()}", "begun")
    stuck(how)


@spool(max_attempts=5)
def endless(how: str) -> None:
    write(str(os.getpid()), "pid")
    stuck(how)


def stuck(how: str) -> None:
    if how == "child":
        # Would succeed if it saw its child end.
        command = "trap 'echo ended >> $OUT/trapped; exit 0' TERM; touch $OUT/ready;"
        subprocess.run(["sh", "-c", f"{command} while :; do sleep 0.01; done"])
        return
    if how == "re":
        re.match(r"(a+)+$", "a" * 60 + "b")
    if how == "ignore":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
    while True:
        wait(how)


def wait(how: str) -> None:
    if how == "c":
        ctypes.PyDLL(None).usleep(900_000)
    elif how == "swallow":
        with suppress(BaseException):
            Event().wait(1)
    else:
        Event().wait(1)


@spool
def beside(name: str = "beside") -> None:
    write(str(current_task().attempt), name)


@spool
def plain() -> None:
    write(f"{monotonic():.6f}", "plain")


assert OUT.is_dir()
