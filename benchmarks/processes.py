"""The processes that a benchmark starts, and what ``/proc`` says of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
SPOOLD: Final = "from spooler.cli.spoold import main; main()"
TIMEOUT: Final = 600.0

Role = tuple[str, Mapping[str, Any]]
"""What a child is to do, and with what: see child.py."""

Told = dict[str, Any]
"""What a child says of its work."""

_TICK: Final = os.sysconf("SC_CLK_TCK")


class FailedError(Exception):
    """A benchmark did not do what it measures: its numbers would mean nothing."""


class Processes:
    """All that was started and may still run; ``close`` ends it.

    Args:
        env: Added to the environment of each.
        log: A file for what ``spoold`` logs.
    """

    def __init__(self, env: Mapping[str, str], log: Path) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._env = {**os.environ, **env, "PYTHONPATH": path.rstrip(os.pathsep)}
        # A start measures no compiling: the first one keeps its bytecode, beside us.
        self._env["PYTHONPYCACHEPREFIX"] = str(log.with_name("bytecode"))
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)
        self._log = log
        self._running: list[subprocess.Popen[str]] = []

    def start(
        self, command: Sequence[str], env: Mapping[str, str], **pipes: Any
    ) -> subprocess.Popen[str]:
        """Start a process, which ``close`` ends with all its descendants."""
        # In a session of its own: Ctrl-C is for us, and we end the rest.
        process = subprocess.Popen(
            command,
            env={**self._env, **env},
            cwd=ROOT,
            start_new_session=True,
            text=True,
            **pipes,
        )
        self._running.append(process)
        return process

    def spoold(self, spool: Path, *options: str, log: str) -> "Spoold":
        """Start a daemon; at level ``info`` it logs to ``/dev/null``."""
        command = [sys.executable, "-c", SPOOLD, "--dir", str(spool)]
        command += ["--import", "benchmarks.tasks", "--log-level", log, *options]
        target = os.devnull if log == "info" else self._log
        with open(target, "a", encoding="utf-8") as file:
            began = time.monotonic_ns()
            process = self.start(command, {}, stdin=subprocess.DEVNULL, stderr=file)
        return Spoold(process, began, self._log)

    def run(self, *arguments: str) -> float:
        """Run Python with these arguments to its end; return the seconds it took."""
        began = time.monotonic_ns()
        command = [sys.executable, *arguments]
        code = self.start(command, {}, stdin=subprocess.DEVNULL).wait(TIMEOUT)
        if code:
            raise FailedError(f"{command} ended with {code}")
        return (time.monotonic_ns() - began) / 1e9

    def children(self, roles: Sequence[Role], env: Mapping[str, str]) -> list[Told]:
        """Start one child for each role, let all go at once, return what they tell."""
        return self.together(commands(roles), env)

    def together(
        self, commands: Sequence[Sequence[str]], env: Mapping[str, str]
    ) -> list[Told]:
        """Do the same with commands of which each speaks as a child does."""
        crew = self.crew(commands, env)
        crew.go()
        return crew.told()

    def crew(self, commands: Sequence[Sequence[str]], env: Mapping[str, str]) -> "Crew":
        """Start such commands; return when all are ready."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started = [self.start(command, env, **pipes) for command in commands]
        for child in started:
            if _out(child).readline() != "ready\n":
                raise FailedError(f"a child did not start: {_name(child)}")
        return Crew(started)

    def look(self) -> None:
        """See that none has ended badly, for those who wait for what it does.

        Raises:
            FailedError: One has.
        """
        for process in self._running:
            if process.poll():
                raise FailedError(f"{_name(process)} ended with {process.returncode}")

    def said(self) -> str:
        """Return the end of what daemons have logged."""
        return self._log.read_text()[-2000:] if self._log.exists() else ""

    def close(self) -> None:
        """Kill what still runs; the workers of a daemon die with it."""
        for process in self._running:
            if process.poll() is None:
                pids = [process.pid, *descendants(process.pid)]
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()
                for pid in pids:
                    _wait_gone(pid)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        self._running.clear()


def commands(roles: Sequence[Role]) -> list[list[str]]:
    """Return the commands of children that have these roles."""
    child = [sys.executable, "-m", "benchmarks.child"]
    return [[*child, role, json.dumps(given)] for role, given in roles]


class Crew:
    """Children that are ready to do their work.

    Args:
        children: Each waits for a line, and tells what it did in one.
    """

    def __init__(self, children: list[subprocess.Popen[str]]) -> None:
        self._children = children

    def go(self) -> None:
        """Let all begin."""
        for child in self._children:
            child.stdin.write("go\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]

    def told(self) -> list[Told]:
        """Wait for their end; return what each tells."""
        told = []
        for child in self._children:
            line = _out(child).readline()
            child.communicate()
            if child.returncode or not line:
                raise FailedError(f"a child failed: {_name(child)}")
            told.append(json.loads(line))
        return told


def _name(process: subprocess.Popen[str]) -> str:
    """Return what a process was called with, but for the path of its program."""
    args = process.args
    words = [args] if isinstance(args, str | bytes | os.PathLike) else list(args)
    return " ".join(map(str, words[1:]))


def _out(child: subprocess.Popen[str]) -> Any:
    return child.stdout


def _wait_gone(pid: int) -> None:
    limit = time.monotonic() + 5.0
    while _is_alive(pid) and time.monotonic() < limit:
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    """Tell whether a process is more than a zombie, which some take long to bury."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Spoold:
    """A running daemon.

    Attributes:
        began: When it was started, in ns of the monotonic clock.
    """

    def __init__(self, process: subprocess.Popen[str], began: int, log: Path) -> None:
        self._process = process
        self._log = log
        self.began = began

    @property
    def pid(self) -> int:
        """The supervisor's number."""
        return self._process.pid

    def wait(self) -> int:
        """Wait for its end; return when that was."""
        code = self._process.wait(TIMEOUT)
        ended = time.monotonic_ns()
        if code:
            raise FailedError(
                f"spoold ended with {code}: {self._log.read_text()[-2000:]}"
            )
        return ended

    def stop(self) -> None:
        """End it: it finishes what runs."""
        self._process.terminate()
        self.wait()

    def cpu(self) -> float:
        """Return the seconds of CPU time of the daemon and its children so far."""
        return sum(_cpu(pid) for pid in (self.pid, *descendants(self.pid)))

    def peak(self) -> float:
        """Return the most that the supervisor has had in memory so far, in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return _kib(status, "VmHWM") * 1024 / 1e6

    def pss(self) -> float:
        """Return the supervisor's memory, its part of what is shared, in MB."""
        status = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return _kib(status, "Pss") * 1024 / 1e6


def _kib(status: str, name: str) -> int:
    for line in status.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise FailedError(f"the system does not tell {name}")


def resident(pid: int, without: Path) -> float:
    """Return the memory of a process in MB, but for one file that it has mapped."""
    total, counts = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name = line.split(None, 1)[0]
        if not name.endswith(":"):
            counts = not line.endswith(str(without))
        elif name == "Rss:" and counts:
            total += int(line.split()[1])
    return total * 1024 / 1e6


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def _cpu(pid: int) -> float:
    """Return user and system time; in ns where the kernel tells, else in ticks."""
    try:
        each = Path(f"/proc/{pid}/task").glob("*/schedstat")
        return sum(int(path.read_text().split()[0]) for path in each) / 1e9
    except OSError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK
