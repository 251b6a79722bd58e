"""Tasks that print, and that say how far they are."""

# ruff: noqa: T201 (that is what they are for)

import ctypes
import logging
import os
import subprocess
import sys
from pathlib import Path
from threading import Event

from spooler import Fail, current_task, progress, spool

OUT = Path(os.environ["OUT"])

log = logging.getLogger("printing")


def write(text: str, name: str = "out") -> None:
    with (OUT / name).open("a") as file:
        file.write(f"{text}\n")


def wait_for(name: str) -> None:
    while not (OUT / name).exists():
        Event().wait(0.005)


@spool
def say(text: str = "hello") -> None:
    print(text)


@spool(keep_log=True)
def say_and_keep(text: str = "hello") -> None:
    print(text)


@spool(keep_log=False)
def say_and_fail_in_secret(text: str = "hello") -> None:
    print(text)
    raise Fail("no")


@spool
def say_all_and_fail() -> None:
    print("from print")
    print("from stderr", file=sys.stderr)
    subprocess.run(["echo", "from a child"], check=True)
    ctypes.CDLL(None).printf(b"from C\n")
    log.warning("from logging")
    print("\x1b]0;evil\x07\ttab \u202e é", end="")
    raise Fail("no")


@spool(retries=1, backoff=0.01)
def say_attempt_and_retry() -> None:
    print("attempt", current_task().attempt)
    raise ValueError("again")


@spool(retries=0)
def say_and_die() -> None:
    print("last words", end="")
    sys.stdout.flush()
    ctypes.string_at(0)


@spool
def say_steps() -> None:
    write(str(os.getpid()), "pid")
    for step in range(1, 4):
        print("step", step)
        Event().wait(0.11)  # what is said sooner after the last time is not written
        progress(step, 4, f"step \x1b{step}")
        wait_for(f"gate{step}")
    print("step 4")


@spool(retries=0)
def report_and_fail() -> None:
    progress(1, 2)
    raise Fail("no")


@spool
def report_badly() -> None:
    try:
        progress(-1)
    except Exception as error:  # noqa: BLE001 (whatever it is)
        write(f"{type(error).__name__}: {error}")


@spool
def say_much() -> None:
    for _ in range(20):
        os.write(1, b"x" * 999_999 + b"\n")
    write("printed")
    wait_for("gate")
    print("the end")
    raise Fail("no")


@spool
def say_slowly() -> None:
    for number in range(5):
        print(number)
        Event().wait(0.02)
