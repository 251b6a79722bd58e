"""What tests share: a clock, waiting, tasks, an ``os`` that tells what was called."""

import itertools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from time import monotonic, time_ns
from typing import Any

from spooler.spooldir import SpoolDir
from spooler.task import MINUTE_US, Name

FACTOR = float(os.environ.get("SPOOLER_TEST_FACTOR", "1"))
"""How much slower than a developer's machine this one may be."""

NOW_US = 1_795_208_460_000_000
"""2026-11-20T21:01:00Z, the beginning of a minute."""

TASK = b'{"task":"t"}\n'
"""The smallest task."""

_IDS = itertools.count(1)

LONGEST = 100.0
"""Seconds that a wait takes at most, however slow the machine: less than its test."""

_NO_TASKS = ("logs", "timers", "done", "keys", "kill", "paused", "limits", "batches")
"""Folders in which no file is a task by itself."""


def patience(timeout: float) -> float:
    """Return the seconds to wait here for what takes so many elsewhere."""
    return min(timeout * FACTOR, max(timeout, LONGEST))


def wait_until(fact: Callable[[], object], *, timeout: float = 2.0) -> None:
    """Wait for a fact, with a limit."""
    seconds = patience(timeout)
    deadline = monotonic() + seconds
    while not fact():
        assert monotonic() < deadline, f"not true after {seconds} s: {fact}"
        Event().wait(0.01)


class FakeClock:
    """A clock that stands still until told otherwise."""

    def __init__(self, now_us: int = NOW_US) -> None:
        self.wall_us = now_us
        self.seconds = 1000.0

    def now_us(self) -> int:
        """Return the wall time in µs since the epoch."""
        return self.wall_us

    def monotonic(self) -> float:
        """Return seconds from some moment on."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.wall_us += round(seconds * 1_000_000)
        self.seconds += seconds

    def set(self, now_us: int) -> None:
        """Set the wall clock alone, as an operator does."""
        self.wall_us = now_us


def real_clock() -> FakeClock:
    """Return a clock that stands at the real time, for what looks at files' times."""
    return FakeClock(time_ns() // 1000)


def make_name(
    due_us: int = NOW_US,
    priority: int = 5,
    attempt: int = 0,
    id: str | None = None,
    task: str = "t",
) -> Name:
    """Return a name; its id is new unless given."""
    return Name(due_us, priority, attempt, id or f"{next(_IDS):016x}", task)


def path_of(name: Name) -> str:
    """Return where a waiting task of that name is."""
    return f"{name.folder}/{name}"


def put(spool: SpoolDir, name: Name | None = None, data: bytes = TASK) -> Name:
    """Put a task, without syncs."""
    name = name or make_name()
    spool.put(name, [data], durable=False)
    return name


def place(spool: SpoolDir, path: str, data: bytes = TASK) -> Path:
    """Write a file into a spool as a foreign program does, making its folder."""
    file = Path(spool.path, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return the paths that match; folders may come and go meanwhile."""
    while True:
        with suppress(FileNotFoundError):  # glob has found one that is gone
            return list(folder.glob(pattern))


def tree(spool: SpoolDir) -> dict[str, bytes]:
    """Return the files of a spool outside of tmp/ and workers/, hidden ones too."""
    root = Path(spool.path)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and path.relative_to(root).parts[0] not in ("tmp", "workers", ".spool")
    }


def tasks(spool: SpoolDir) -> dict[str, bytes]:
    """Return what a reader takes for tasks: by path, with the bytes."""
    return {
        path: data
        for path, data in tree(spool).items()
        if path.partition("/")[0] not in _NO_TASKS
        and not path.endswith((".why", ".tmp"))
        and not any(part.startswith(".") for part in path.split("/"))
    }


def open_files() -> dict[int, str]:
    """Return this process's descriptors and what they are."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # of the listing itself
    return found


def minutes_later(number: int, name: Name) -> Name:
    """Return the same name, due some minutes later."""
    return name.but(due_us=name.due_us + number * MINUTE_US)


def connect(address: str) -> socket.socket:
    """Connect to HOST:PORT."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), 10 * FACTOR)


def everything(line: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    found = b""
    with suppress(ConnectionResetError):
        while piece := line.recv(100):
            found += piece
    return found


class ToldOS:
    """An ``os`` that writes down what was called and can be told to fail.

    Attributes:
        calls: Names of the functions, in order; with the path for fsync.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._errors: dict[str, Iterator[OSError | None]] = {}

    def fail(self, name: str, *errors: OSError | int | None) -> None:
        """Have the next calls of a function raise these; None lets one through."""
        made = [OSError(e, os.strerror(e)) if isinstance(e, int) else e for e in errors]
        self._errors[name] = iter(made)

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if not callable(real) or name in ("fspath", "fsencode", "fsdecode"):
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            what = name
            if name == "fsync":
                target = os.readlink(f"/proc/self/fd/{args[0]}")
                what = f"fsync {target}"
            self.calls.append(what)
            error = next(self._errors.get(name, iter(())), None)
            if error is not None:
                raise error
            return real(*args, **kwargs)

        return call

    def syncs(self, root: str) -> list[str]:
        """Return what was synced, below ``root``; files without a name as ``file``."""
        found = [call[6:] for call in self.calls if call.startswith("fsync ")]
        return ["file" if "#" in p else os.path.relpath(p, root) for p in found]
