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
        self._log = log
        self._running: list[subprocess.Popen[str]] = []

    def _start(
        self, command: Sequence[str], env: Mapping[str, str], **pipes: Any
    ) -> subprocess.Popen[str]:
        # In a session of its own: Ctrl-C is for us, and we end the rest.
        process = subprocess.Popen(
            [sys.executable, *command],
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
        command = ["-c", SPOOLD, "--dir", str(spool), "--import", "benchmarks.tasks"]
        command += ["--log-level", log, *options]
        target = os.devnull if log == "info" else self._log
        with open(target, "a", encoding="utf-8") as file:
            began = time.monotonic_ns()
            process = self._start(command, {}, stdin=subprocess.DEVNULL, stderr=file)
        return Spoold(process, began, self._log)

    def children(
        self, roles: Sequence[tuple[str, Mapping[str, Any]]], env: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """Start one child for each role, let all go at once, return what they tell."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        module = ("-m", "benchmarks.child")
        started = [
            self._start([*module, role, json.dumps(given)], env, **pipes)
            for role, given in roles
        ]
        for child in started:
            if _out(child).readline() != "ready\n":
                raise FailedError(f"a child did not start: {child.args}")
        for child in started:
            child.stdin.write("go\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
        told = []
        for child in started:
            line = _out(child).readline()
            child.communicate()
            if child.returncode or not line:
                raise FailedError(f"a child failed: {child.args}")
            told.append(json.loads(line))
        return told

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


def _out(child: subprocess.Popen[str]) -> Any:
    return child.stdout


def _wait_gone(pid: int) -> None:
    limit = time.monotonic() + 5.0
    while Path(f"/proc/{pid}").exists() and time.monotonic() < limit:
        time.sleep(0.01)


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

    def stop(self, *, now: bool = False) -> None:
        """End it; ``now``: without waiting for a task that does not return."""
        self._process.terminate()
        while now and self._process.poll() is None:
            time.sleep(0.1)
            self._process.terminate()
        self.wait()

    def cpu(self) -> float:
        """Return the seconds of CPU time of the daemon and its children so far."""
        return sum(_cpu(pid) for pid in (self.pid, *descendants(self.pid)))

    def memory(self) -> tuple[float, float]:
        """Return the supervisor's RSS and PSS in MiB."""
        kib = {}
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("Rss", "Pss"):
                kib[name] = int(value.split()[0])
        return kib["Rss"] / 1024, kib["Pss"] / 1024


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
