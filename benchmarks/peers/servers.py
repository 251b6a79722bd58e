"""The servers that some peers need, from Debian's packages."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..processes import FailedError, Processes

READY = 10.0
"""Seconds that a server may take to listen."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens on 127.0.0.1.

    Attributes:
        name: For the table.
        version: What prints its version.
        command: What starts it, with its data in a folder, on a port.
    """

    name: str
    version: Sequence[str]
    command: Callable[[Path, int], Sequence[str]]

    @property
    def missing(self) -> bool:
        """Whether it is not installed."""
        return shutil.which(self.version[0]) is None

    def __str__(self) -> str:
        if self.missing:
            return self.name
        done = subprocess.run(self.version, capture_output=True, text=True, check=True)
        found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        return f"{self.name} {found.group()}" if found else self.name

    def start(self, processes: Processes, folder: Path) -> int:
        """Start it; return the port on which it listens by now."""
        port = _free_port()
        with open(folder / "server.log", "w", encoding="utf-8") as log:
            process = processes.start(
                self.command(folder, port), {}, stdout=log, stderr=log
            )
        limit = time.monotonic() + READY
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > limit:
                text = (folder / "server.log").read_text(errors="replace")[-2000:]
                raise FailedError(f"{self.name} does not listen: {text}")
            time.sleep(0.01)
        return port


def _free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _listens(port: int) -> bool:
    with closing(socket.socket()) as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _redis(*options: str) -> Server:
    """Return Redis at its defaults, but for the options."""
    return Server(
        "Redis",
        ("redis-server", "--version"),
        lambda folder, port: (
            *("redis-server", "--bind", "127.0.0.1", "--port", str(port)),
            *("--dir", str(folder), *options),
        ),
    )


REDIS = _redis()
REDIS_SYNCED = _redis("--appendonly", "yes", "--appendfsync", "always")
"""Redis with its log, synced before each answer (Redis persistence, AOF)."""

BEANSTALKD = Server(
    "beanstalkd",
    ("beanstalkd", "-v"),
    lambda folder, port: ("beanstalkd", "-l", "127.0.0.1", "-p", str(port)),
)
BEANSTALKD_SYNCED = Server(
    "beanstalkd",
    ("beanstalkd", "-v"),
    lambda folder, port: (
        *("beanstalkd", "-l", "127.0.0.1", "-p", str(port)),
        *("-b", str(folder), "-f0"),
    ),
)
"""beanstalkd with its log, synced at each write (beanstalkd(1), -b and -f)."""
