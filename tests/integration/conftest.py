"""Real daemons for tests: started, watched, and none left behind.

Every process of a test carries a mark in its environment, by which the fixture
finds what is still alive when the test is over.
"""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import pytest
from click.testing import CliRunner, Result

from spooler import Handle, Spooler
from spooler.cli.spool import main
from spooler.spooldir import SpoolDir

from .. import helpers
from ..helpers import patience

LIMIT = 15.0
"""Seconds that a fact may take on a busy machine; none takes a tenth of it else."""

APP = Path(__file__).parent / "app"
SPOOLD = Path(sys.executable).with_name("spoold")
MARK = "SPOOLER_TEST_MARK"


def wait_until(fact: Callable[[], object], *, timeout: float = LIMIT) -> None:
    """Wait for a fact, with a limit that suits processes."""
    helpers.wait_until(fact, timeout=timeout)


def stays(fact: Callable[[], object], *, seconds: float) -> bool:
    """Tell whether a fact is true for so long."""
    deadline = monotonic() + seconds
    while fact():
        if monotonic() >= deadline:
            return True
        Event().wait(0.01)
    return False


def threads(pid: int) -> list[Path]:
    """Return where /proc has the threads of a process; nothing if it is gone."""
    folder = Path(f"/proc/{pid}/task")
    try:
        return [folder / name for name in os.listdir(folder)]
    except (FileNotFoundError, ProcessLookupError):
        return []


def thread_states(pid: int) -> set[str]:
    """Return the states of a process's threads, as letters."""
    found = set()
    for thread in threads(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            stat = (thread / "stat").read_text()
            found.add(stat.rpartition(")")[2].split()[0])
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is not a zombie.

    While one of its threads lives it has its files and locks, though its first thread
    may be a zombie already.
    """
    return not thread_states(pid) <= {"Z", "X"}


def is_stopped(pid: int) -> bool:
    """Tell whether a process stands still, as SIGSTOP asks it to."""
    return thread_states(pid) == {"T"}


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    nanoseconds = Path(f"/proc/{pid}/schedstat").read_text().split()[0]
    return int(nanoseconds) / 1e9


def marked(mark: str) -> set[int]:
    """Return the living processes with a mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        for thread in threads(pid):  # the first one may have died, and tells nothing
            with suppress(OSError):
                if data := (thread / "environ").read_bytes():
                    if wanted in data.split(b"\0") and is_alive(pid):
                        found.add(pid)
                    break
    return found


class Spoold:
    """One running ``spoold``."""

    def __init__(self, command: list[str], cwd: Path, log: Path, **rest: Any) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=cwd, stderr=stderr, stdin=subprocess.DEVNULL, **rest
            )
        self.pid = self.process.pid

    def text(self) -> str:
        """Return what it has logged so far."""
        return self.log.read_text(errors="backslashreplace")

    def says(self, text: str) -> bool:
        """Tell whether it has logged a text.

        The banner has the spool's path in it, and that the name of the test: look
        for more than one word.
        """
        return text in self.text()

    def wait_for(self, text: str) -> None:
        """Wait until it has logged a text."""
        wait_until(lambda: self.says(text) or self.process.poll() is not None)
        assert self.says(text), self.text()

    def children(self) -> set[int]:
        """Return its child processes: the template, and another in a reload."""
        return {
            pid
            for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal())
            if parent_of(pid) == self.pid and is_alive(pid)
        }

    def template(self) -> int:
        """Return the one template process, when there is one."""
        found: set[int] = set()

        def is_alone() -> bool:
            found.clear()
            found.update(self.children())
            return len(found) == 1

        wait_until(is_alone)
        return found.pop()

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """Stop it, and wait until it stands still; SIGCONT has it go on."""
        self.send(signal.SIGSTOP)
        wait_until(lambda: is_stopped(self.pid))

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.send(number)
        return self.wait()

    def wait(self, timeout: float = LIMIT) -> int:
        """Return the exit code."""
        return self.process.wait(patience(timeout))


class Box:
    """A spool, a folder for what its tasks write, and daemons.

    Attributes:
        spool: The spool's path.
        out: Where tasks write (``$OUT``).
        app: The folder from which the daemon runs.
    """

    def __init__(self, root: Path) -> None:
        self.spool = root / "spool"
        self.out = root / "out"
        self.app = root / "app"
        for folder in (self.spool, self.out, self.app):
            folder.mkdir()
        SpoolDir(self.spool).create()
        self.spooler = Spooler(self.spool, durability="fast")
        self.mark = uuid.uuid4().hex
        self.daemons: list[Spoold] = []

    # -- daemons ----------------------------------------------------------------

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of daemons."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("SPOOL")}
        paths = os.pathsep.join((str(self.app), str(APP)))
        ours = {MARK: self.mark, "OUT": str(self.out), "PYTHONPATH": paths}
        return {**own, **ours, **(extra or {})}

    def command(self, *options: str, imports: str | None = "tasks") -> list[str]:
        """Return a command line of spoold for this spool."""
        command = [str(SPOOLD), "--dir", str(self.spool)]
        if imports:
            command += ["--import", imports]
        return [*command, *options]

    def launch(
        self,
        command: list[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        **rest: Any,
    ) -> Spoold:
        """Start any command as a daemon; do not wait for it."""
        log = self.out.parent / f"log{len(self.daemons)}"
        daemon = Spoold(command, cwd or self.app, log, env=self.environ(env), **rest)
        self.daemons.append(daemon)
        return daemon

    def start(
        self,
        *options: str,
        imports: str = "tasks",
        env: Mapping[str, str] | None = None,
        **rest: Any,
    ) -> Spoold:
        """Start spoold and wait until it serves."""
        command = self.command(*options, imports=imports)
        daemon = self.launch(command, env=env, **rest)
        daemon.wait_for("running as root" if os.geteuid() == 0 else "serve spool=")
        return daemon

    def burst(self, *options: str, imports: str = "tasks") -> Spoold:
        """Run all that is due, and check that spoold ended well."""
        daemon = self.launch(self.command("--burst", *options, imports=imports))
        assert daemon.wait() == 0, daemon.text()
        return daemon

    def refused(self, command: list[str], code: int, **rest: Any) -> str:
        """Check that a command ends at once with one clear line; return it."""
        daemon = self.launch(command, **rest)
        assert daemon.wait() == code, daemon.text()
        lines = daemon.text().splitlines()
        assert "Traceback" not in daemon.text()
        assert len(lines) == 1, daemon.text()
        assert lines[0].startswith("spoold: ")
        return lines[0]

    # -- tasks ------------------------------------------------------------------

    def put(self, task: str, /, **args: Any) -> Handle:
        """Put a task."""
        return self.spooler.put(task, args)

    def later(self, task: str, options: dict[str, Any], /, **args: Any) -> Handle:
        """Put a task with options."""
        return self.spooler.put(task, args, **options)

    def module(self, text: str, name: str = "mine") -> None:
        """Write a module of the application."""
        (self.app / f"{name}.py").write_text(text)

    def lines(self, name: str = "out") -> list[str]:
        """Return the whole lines that tasks have written to a file."""
        try:
            return (self.out / name).read_text().rpartition("\n")[0].splitlines()
        except FileNotFoundError:
            return []

    def wait_lines(self, *lines: str, name: str = "out") -> None:
        """Wait until exactly these lines are written, in any order."""
        wait_until(lambda: len(self.lines(name)) >= len(lines))
        assert sorted(self.lines(name)) == sorted(lines)

    def number(self, name: str) -> int:
        """Wait for a file with a number, such as a process id."""
        wait_until(lambda: self.lines(name))
        return int(self.lines(name)[-1])

    def open(self, name: str = "gate") -> None:
        """Let tasks go on that wait at a gate."""
        (self.out / name).touch()

    # -- the spool --------------------------------------------------------------

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder of the spool, without hidden ones."""
        try:
            found = os.listdir(self.spool / folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in found if name[0] != ".")

    def waiting(self) -> list[str]:
        """Return the names of native tasks that wait."""
        return sorted(name for _, name in SpoolDir(self.spool).waiting())

    def running(self) -> list[str]:
        """Return the paths of claimed tasks."""
        return [
            f"running/{worker}/{name}"
            for worker in self.names("running")
            for name in self.names(f"running/{worker}")
        ]

    def failed(self) -> list[str]:
        """Return the names of failed tasks."""
        return [n for n in self.names("failed") if not n.endswith(".why")]

    def why(self, folder: str = "failed") -> dict[str, Any]:
        """Wait for the one report in a folder and return it."""

        def is_there() -> bool:
            names = self.names(folder)
            return len(names) == 2 and any(name.endswith(".why") for name in names)

        wait_until(is_there)
        [name] = [n for n in self.names(folder) if n.endswith(".why")]
        why: dict[str, Any] = json.loads((self.spool / folder / name).read_text())
        return why

    def workers(self) -> list[int]:
        """Return the process ids of the workers that have described themselves."""
        pids = []
        for name in self.names("workers"):
            if name.startswith("worker-") and name.endswith(".json"):
                with suppress(OSError, ValueError):
                    facts = json.loads((self.spool / "workers" / name).read_text())
                    if is_alive(facts["pid"]):
                        pids.append(facts["pid"])
        return pids

    def worker(self) -> int:
        """Wait for the one worker and return its process id."""
        found: list[int] = []

        def is_alone() -> bool:
            found[:] = self.workers()
            return len(found) == 1

        wait_until(is_alone)
        return found[0]

    def logs(self) -> list[str]:
        """Return the names in logs/, without those of what is printed now."""
        return [name for name in self.names("logs") if not name.endswith(".live")]

    def is_empty(self) -> bool:
        """Tell whether no task waits and none runs."""
        # Often, since between two looks a task may go from the one to the other, and
        # back, and so may what follows it.
        return not any(self._is_claimed() or self.waiting() for _ in range(4))

    def _is_claimed(self) -> bool:
        """Tell whether there is anything in running/, a hidden follower, say."""
        for worker in self.names("running"):
            with suppress(FileNotFoundError):
                if os.listdir(self.spool / "running" / worker):
                    return True
        return False

    def is_left_clean(self) -> bool:
        """Tell whether no process has left a trace in the spool."""
        return not self.names("workers") and not self.names("running")

    def drop(self, path: str, data: bytes) -> None:
        """Put a file into the spool as a shell does: write elsewhere, mv."""
        hidden = self.spool / "tmp" / uuid.uuid4().hex
        hidden.write_bytes(data)
        hidden.rename(self.spool / path)

    # -- the end ----------------------------------------------------------------

    def processes(self) -> set[int]:
        """Return the living processes of this test."""
        return marked(self.mark)

    def no_process_is_left(self) -> bool:
        """Tell whether all processes of this test have ended."""
        return not self.processes()

    def close(self) -> None:
        """Kill the daemons; check that everything else dies by itself."""
        for daemon in self.daemons:
            with suppress(ProcessLookupError):
                os.kill(daemon.pid, signal.SIGCONT)
            daemon.process.kill()
            daemon.process.wait()
        try:
            wait_until(self.no_process_is_left)
        finally:
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A spool with an application."""
    made = Box(tmp_path)
    try:
        yield made
    finally:
        made.close()


Cli = Callable[..., Result]
"""The command ``spool`` in this process; its standard input is ``stdin``."""


@pytest.fixture
def spool(tmp_path: Path) -> SpoolDir:
    """A new spool, with syncs: for commands."""
    made = SpoolDir(tmp_path / "spool")
    made.create()
    return made


@pytest.fixture
def cli(spool: SpoolDir, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command ``spool`` on the test's spool."""
    monkeypatch.setenv("SPOOL_DIR", spool.path)

    def run(*args: str, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(main, args, input=stdin)

    return run
