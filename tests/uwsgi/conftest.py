"""The same application under the real uWSGI and under ``spoold --uwsgi``.

An application tells what it sees by lines in ``$OUT/out``. It puts its tasks when it
is imported, or from ``@postfork``; so both servers need no web server around them.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from spooler.spooldir import SpoolDir

from ..helpers import FACTOR
from ..integration.conftest import Box, Spoold, wait_until

ROOT: Final = Path(__file__).parents[2]
UWSGI: Final = ROOT / ".venv-bench" / "bin" / "uwsgi"

TIMEOUT: Final = 150
"""Seconds for a test here, times ``FACTOR``."""

TELL: Final = """
import json, os, sys

def tell(*words):
    with open(os.environ["OUT"] + "/out", "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")
"""
"""What every application may use."""


def need_uwsgi() -> None:
    """Skip if uWSGI is not installed; CI has it."""
    if not UWSGI.exists():
        why = "the real uWSGI is missing: make .venv-bench/ready"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a file, without one that is just being written."""
    try:
        return path.read_text().rpartition("\n")[0].splitlines()
    except FileNotFoundError:
        return []


def obeys(pid: int) -> bool:
    """Tell whether the master of a real uWSGI has set its signals, or has ended.

    That is the last that it does before its loop, after it has forked: until then it
    ignores SIGTERM, and SIGINT too. SIGUSR1 is the last of them.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    found = re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    return found is None or bool(int(found[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def wait_until_it_obeys(daemon: Spoold) -> None:
    """Wait until the master of a real uWSGI takes signals."""
    wait_until(lambda: daemon.process.poll() is not None or obeys(daemon.pid))


class Side:
    """One of the two servers, and what it has run.

    Attributes:
        kind: ``uwsgi`` or ``spoold``.
        spool: The spool's path.
        out: Where the application writes.
        daemon: The server.
    """

    def __init__(self, kind: str, spool: Path, out: Path) -> None:
        self.kind = kind
        self.spool = spool
        self.out = out
        self.daemon: Spoold

    def lines(self, name: str = "out") -> list[str]:
        """Return what the application has told."""
        return whole_lines(self.out / name)

    def wait_lines(self, count: int, name: str = "out") -> list[str]:
        """Wait until there are so many lines, and return them."""
        wait_until(lambda: len(self.lines(name)) >= count)
        return self.lines(name)

    def wait_done(self) -> None:
        """Wait until no task is left."""
        wait_until(lambda: not self.files())

    def files(self) -> list[str]:
        """Return the tasks that wait or run: paths in the spool."""
        found = []
        for folder, _, names in os.walk(self.spool):
            relative = os.path.relpath(folder, self.spool)
            top = relative.split("/")[0]
            if top in (".", "running") or top.isdigit():
                found += [
                    os.path.normpath(f"{relative}/{name}")
                    for name in names
                    if name[0] != "."
                ]
        return sorted(found)

    def stop(self) -> None:
        """Stop the server."""
        number = signal.SIGTERM
        if self.kind == "uwsgi":
            wait_until_it_obeys(self.daemon)
            number = signal.SIGINT
        with suppress(ProcessLookupError):
            self.daemon.send(number)
        try:
            self.daemon.wait()
        except subprocess.TimeoutExpired:
            self.daemon.process.kill()
            raise


class Both(Box):
    """A spool for spoold, one for uWSGI, and the same application for both."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.spoold = Side("spoold", self.spool, self.out)
        self.uwsgi = Side("uwsgi", root / "real", root / "real_out")
        self.spool_dir = SpoolDir(self.spool)
        self.uwsgi.spool.mkdir()
        self.uwsgi.out.mkdir()

    def application(self, source: str, name: str = "mine") -> None:
        """Write the application's module; ``tell`` is there."""
        self.module(TELL + source, name)

    def start_uwsgi(
        self,
        *options: str,
        imports: str | None = "mine",
        spool: Path | None = None,
        out: Path | None = None,
    ) -> Side:
        """Start the real uWSGI and wait until its spooler runs.

        Args:
            spool: Its directory; None for the one of its own.
            out: Where the application writes; None for a folder of its own.
        """
        need_uwsgi()
        side = self.uwsgi
        if spool is not None or out is not None:
            side = Side("uwsgi", spool or side.spool, out or side.out)
        command = [str(UWSGI), "--master", "--die-on-term", "--need-app=false"]
        command += ["--spooler", str(side.spool), "--spooler-frequency", "1"]
        if imports:
            command += ["--import", imports]
        env = {"OUT": str(side.out)}
        side.daemon = self.launch([*command, *options], env=env)
        side.daemon.wait_for("spawned the uWSGI spooler on dir")
        return side

    def start_spoold(self, *options: str, imports: str = "mine", **rest: Any) -> Side:
        """Start ``spoold --uwsgi`` and wait until it serves."""
        options = ("--uwsgi", "--frequency", "1", *options)
        self.spoold.daemon = self.start(*options, imports=imports, **rest)
        return self.spoold

    def run(
        self,
        source: str,
        until: Callable[[Side], object],
        *,
        uwsgi: tuple[str, ...] = ("--spooler-ordered",),
        spoold: tuple[str, ...] = (),
    ) -> tuple[list[str], list[str]]:
        """Run an application under both; return what it told: uWSGI's, spoold's.

        Args:
            until: When it has done its work: a fact about a side.
            uwsgi: More options of uWSGI's.
            spoold: More options of spoold's.
        """
        need_uwsgi()
        self.application(source)
        for side in (self.start_uwsgi(*uwsgi), self.start_spoold(*spoold)):
            try:
                wait_until(lambda side=side: until(side))  # type: ignore[misc]  # bound
            except AssertionError:
                pytest.fail(f"{side.kind}: {side.lines()}\n{side.daemon.text()}")
            side.stop()
        return self.uwsgi.lines(), self.spoold.lines()

    def paths_of_waiting(self) -> list[str]:
        """Return the paths of native tasks that wait, in spoold's spool."""
        return sorted(f"{folder}/{name}" for folder, name in self.spool_dir.waiting())

    def produce(self, source: str, *options: str, key: Path | None = None) -> str:
        """Run a script by ``python -m spooler.ext.uwsgi``; return what it prints.

        Args:
            key: A file with keys for signing.
        """
        script = self.app / "produce.py"
        script.write_text(TELL + source)
        done = subprocess.run(
            [sys.executable, "-m", "spooler.ext.uwsgi", *options, str(script)],
            cwd=self.app,
            env=self.environ({"SPOOLER_KEY_FILE": str(key)} if key else None),
            capture_output=True,
            text=True,
            timeout=30 * FACTOR,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout)


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """Give ports of 127.0.0.1 that nobody else is given until the test is over.

    Each is held by a socket that does not listen. A server that sets SO_REUSEADDR, as
    all do, can have it all the same; whoever asks for any port cannot.
    """
    with ExitStack() as held:

        def hold() -> int:
            holder = held.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", 0))
            port: int = holder.getsockname()[1]
            return port

        yield hold


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    """Two spools, one for each server, and an application for both."""
    made = Both(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def side_by_side(both: Both) -> Callable[..., tuple[list[str], list[str]]]:
    """Run an application under both: ``Both.run``."""
    return both.run
