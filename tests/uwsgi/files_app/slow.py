"""An application for uWSGI whose tasks wait at a gate."""

import os
from threading import Event
from typing import Any

import uwsgi  # type: ignore[import-untyped]  # who runs this has it

OUT = os.environ["OUT"]


def handle(env: dict[Any, Any]) -> Any:
    write("begun", env)
    while not os.path.exists(f"{OUT}/gate"):
        Event().wait(0.02)
    write("ended", env)
    return uwsgi.SPOOL_OK


def write(name: str, env: dict[Any, Any]) -> None:
    fd = os.open(f"{OUT}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(fd, env[b"n"] + b" " + os.environ["WHO"].encode() + b"\n")
    finally:
        os.close(fd)


uwsgi.spooler = handle
