"""A directory that is served by a real uWSGI, by spoold, or by both."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from ..helpers import matching
from ..integration.conftest import Box, Spoold, wait_until
from .conftest import UWSGI, need_uwsgi, wait_until_it_obeys, whole_lines

APP: Final = Path(__file__).with_name("files_app")


class Line(NamedTuple):
    """What the application wrote about a run of a task."""

    n: str
    who: str
    size: int
    md5: str
    priority: str
    at: str


class Directory(Box):
    """A directory that no spooler has used yet, and who serves it.

    Attributes:
        spool: Its path.
        out: Where the application writes (``$OUT``).
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        subprocess.run(["rm", "-r", str(self.spool)], check=True)
        self.spool.mkdir()
        self._producers = 0

    def environ(self, extra: Any = None) -> dict[str, str]:
        """Return the environment of servers and producers."""
        return {**super().environ(extra), "PYTHONPATH": str(APP)}

    def uwsgi(self, *options: str, module: str = "lines") -> Spoold:
        """Start a real uWSGI on the directory, and wait for its spooler."""
        command = [str(UWSGI), "--master", "--die-on-term", "--spooler-ordered"]
        command += ["--spooler", str(self.spool), "--spooler-frequency", "1"]
        command += ["--pythonpath", str(APP), "--import", module, *options]
        server = self.launch(command, env={"WHO": "uwsgi"})
        server.wait_for("spawned the uWSGI spooler on dir")
        wait_until_it_obeys(server)
        return server

    def spoold(self, *options: str, module: str = "lines") -> Spoold:
        """Start ``spoold --uwsgi`` on the directory."""
        return self.start("--uwsgi", *options, imports=module, env={"WHO": "spoold"})

    def _tasks(self, tasks: Iterable[dict[str, Any]]) -> Path:
        self._producers += 1
        path = self.out.parent / f"tasks{self._producers}.json"
        path.write_text(json.dumps(list(tasks)))
        return path

    def uwsgi_producer(self, tasks: Iterable[dict[str, Any]]) -> "Producer":
        """Start a uWSGI that puts tasks into the directory and runs none."""
        path = self._tasks(tasks)
        command = [str(UWSGI), "--master", "--die-on-term"]
        command += ["--spooler-external", str(self.spool)]
        command += ["--mule=" + str(APP / "produce.py")]
        server = self.launch(command, env={"TASKS": str(path)})
        wait_until_it_obeys(server)
        return Producer(server, path)

    def producer(
        self, tasks: Iterable[dict[str, Any]], *, files: bool = True
    ) -> "Producer":
        """Start a process without uWSGI that puts tasks, as uWSGI's files or not."""
        path = self._tasks(tasks)
        code = (
            "import spooler.ext.uwsgi as u, runpy;"
            f"u.install([{str(self.spool)!r}], files={files});"
            f"runpy.run_path({str(APP / 'produce.py')!r})"
        )
        command = [sys.executable, "-c", code]
        return Producer(self.launch(command, env={"TASKS": str(path)}), path)

    def lines(self, name: str = "out") -> list[str]:
        """Return the lines that tasks have written to a file."""
        return whole_lines(self.out / name)

    def written(self, tasks: Iterable[dict[str, Any]]) -> None:
        """Have a real uWSGI write tasks, and stop it."""
        producer = self.uwsgi_producer(tasks)
        producer.wait()
        assert producer.server.end() == 0, producer.server.text()

    def ran(self) -> list[Line]:
        """Return what was run so far, in order."""
        found = []
        for line in self.lines():
            n, who, size, *rest = line.split()
            found.append(Line(n, who, int(size), *rest))
        return found

    def wait_ran(self, count: int) -> None:
        """Wait until so many were run, for as long as there are more and more."""
        while (before := len(self.lines())) < count:
            wait_until(lambda before=before: len(self.lines()) > before)  # type: ignore[misc]  # bound

    def close(self) -> None:
        """Kill all, children first: uWSGI's outlive their master."""
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                kill(daemon)
        super().close()

    def uwsgi_files(self) -> list[str]:
        """Return the paths of uWSGI's files that are there, below the directory."""
        found = matching(self.spool, "**/uwsgi_spoolfile_on_*")
        return sorted(
            str(path.relative_to(self.spool))
            for path in found
            if path.relative_to(self.spool).parts[0] not in ("corrupt", "failed")
        )


class Producer(NamedTuple):
    """Who puts tasks."""

    server: Spoold
    path: Path

    @property
    def is_done(self) -> bool:
        """Whether it has put all."""
        assert self.server.process.poll() in (None, 0), self.server.text()
        return Path(f"{self.path}.done").exists()

    def wait(self) -> None:
        """Wait until it has put all: beside load that takes a while."""
        wait_until(lambda: self.is_done, timeout=200)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    """A directory, and those who serve it."""
    need_uwsgi()
    made = Directory(tmp_path)
    try:
        yield made
    finally:
        made.close()


def kill(server: Spoold) -> int:
    """Kill a server and all that it has started, at once; return the exit code.

    One that ends by itself (a producer that has put all) may have done so just before.
    """
    server.send(signal.SIGSTOP)  # or it starts others in their place
    for pid in (*_below(server.pid), server.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return server.wait()


def _below(pid: int) -> Iterator[int]:
    path = Path(f"/proc/{pid}/task")
    for thread in path.iterdir() if path.exists() else ():
        try:
            children = (thread / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in map(int, children):
            yield child
            yield from _below(child)
