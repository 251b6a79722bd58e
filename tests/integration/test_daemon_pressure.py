"""Too little memory, too many processes: the daemon says so, and goes on by itself."""

import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .conftest import Box, Spoold, wait_until

EAT = """
from tasks import *

@spool(max_attempts=2, backoff=0.05)
def eat(mib: int) -> None:
    write(str(current_task().attempt), "meals")
    food = bytearray(mib << 20)
    write("eaten", "meals")

@spool(backoff=0.05, backoff_max=0.05, max_attempts=0)
def eat_when_there_is_some(mib: int) -> None:
    food = bytearray(mib << 20)
    write("eaten", "meals")
"""


# -- processes --------------------------------------------------------------------


class Crowded:
    """A user of its own, who may have few processes only."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._uid = 1_000_000 + os.getpid()

    def command(self, *options: str) -> list[str]:
        """Return a command line of spoold for this user."""
        rights = [f"--{kind}-caps=+dac_override" for kind in ("inh", "ambient")]
        return [
            "setpriv",
            f"--reuid={self._uid}",
            *rights,
            *self._box.command(*options),
        ]

    def start(self, *options: str) -> Spoold:
        """Start spoold for this user."""
        daemon = self._box.launch(self.command(*options))
        daemon.wait_for("serve spool=")
        return daemon

    def allow(self, number: int, *pids: int) -> None:
        """Have these processes fork only while the user has fewer than so many."""
        for pid in pids:
            limit = ["prlimit", "--pid", str(pid), f"--nproc={number}:"]
            subprocess.run(["setpriv", f"--reuid={self._uid}", *limit], check=True)


@pytest.fixture
def crowded(box: Box) -> Crowded:
    """A user who may have few processes only."""
    if os.geteuid() != 0:
        pytest.skip("needs another user")
    return Crowded(box)


def test_workers_that_cannot_be_forked_are_later(box: Box, crowded: Crowded) -> None:
    daemon = crowded.start("--workers", "2")
    box.put("gate")
    busy = box.number("pid")
    wait_until(lambda: len(box.workers()) == 2)
    crowded.allow(1, daemon.template())
    for pid in set(box.workers()) - {busy}:
        os.kill(pid, signal.SIGKILL)
    daemon.wait_for("cannot fork a worker")
    box.open()
    box.put("note")
    box.wait_lines("passed", "done")
    assert not daemon.says("pid=None")
    crowded.allow(100, daemon.template())
    wait_until(lambda: len(box.workers()) == 2)
    assert daemon.text().count("cannot fork a worker") < 20
    assert daemon.end() == 0
    assert box.is_left_clean()


def test_a_template_that_cannot_be_started_is_later(box: Box, crowded: Crowded) -> None:
    daemon = crowded.start()
    box.put("gate")
    box.number("pid")
    crowded.allow(1, daemon.pid)
    os.kill(daemon.template(), signal.SIGKILL)
    daemon.wait_for("cannot start it now")
    crowded.allow(100, daemon.pid)
    wait_until(lambda: len(box.lines("pid")) == 2)
    box.open()
    box.wait_lines("passed")
    assert box.lines("attempts") == ["1", "2"]
    assert daemon.end() == 0
    assert box.is_left_clean()


def test_workers_that_cannot_start_threads_can_later(
    box: Box, crowded: Crowded
) -> None:
    daemon = crowded.start("--threads", "2")
    victim = box.worker()
    crowded.allow(3, daemon.template())  # spoold, the template, and a worker
    os.kill(victim, signal.SIGKILL)
    daemon.wait_for("can't start new thread")
    box.put("note")
    crowded.allow(100, daemon.template())
    box.wait_lines("done")
    assert daemon.end() == 0
    assert box.is_left_clean()


def test_a_start_without_processes_is_refused_in_one_line(
    box: Box, crowded: Crowded
) -> None:
    command = crowded.command()
    limited = [*command[:4], "prlimit", "--nproc=1:", *command[4:]]
    line = box.refused(limited, 1)
    assert "Resource temporarily unavailable" in line


# -- memory -----------------------------------------------------------------------


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """The file that takes a process into a group with 150 MB for all of it."""
    root = Path("/sys/fs/cgroup")
    old = root / "memory"
    group = (old if old.is_dir() else root) / f"spooler-test-{os.getpid()}"
    limits = {
        "memory.limit_in_bytes": "150M",
        "memory.memsw.limit_in_bytes": "150M",
        "memory.max": "150M",
        "memory.swap.max": "0",
    }
    try:
        group.mkdir()
    except OSError:
        pytest.skip("needs the right to make a cgroup")
    try:
        for name, value in limits.items():
            if (group / name).exists():
                with suppress(OSError):  # no account of swap is kept, say
                    (group / name).write_text(value)
        if not any((group / name).exists() for name in limits):
            pytest.skip("needs the cgroup of memory")
        yield group / "cgroup.procs"
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_task_that_eats_all_memory_is_given_up_and_harms_nobody(
    little_memory: Path, box: Box
) -> None:
    box.module(EAT)
    command = box.command("--workers", "2", imports="mine")
    inside = ["sh", "-c", f'echo $$ > {little_memory} && exec "$@"', "sh"]
    daemon = box.launch([*inside, *command])
    daemon.wait_for("serve spool=")
    box.put("eat", mib=5)
    box.wait_lines("1", "eaten", name="meals")
    template = daemon.template()
    box.put("eat", mib=1000)
    for number in range(20):
        box.put("note", text=str(number))
    assert box.why()["error"] == "its worker died: signal 9"
    box.wait_lines(*map(str, range(20)))
    assert box.lines("meals") == ["1", "eaten", "1", "2"]
    assert daemon.template() == template
    assert daemon.end() == 0


def test_a_task_that_gets_no_memory_is_tried_again(box: Box) -> None:
    box.module(EAT)
    daemon = box.start(imports="mine")
    victim, template = box.worker(), daemon.template()
    limits = resource.prlimit(template, resource.RLIMIT_AS)
    size = re.search(r"VmSize:\s+(\d+)", Path(f"/proc/{template}/status").read_text())
    assert size is not None
    some = (int(size[1]) << 10) + (16 << 20)
    resource.prlimit(template, resource.RLIMIT_AS, (some, limits[1]))
    os.kill(victim, signal.SIGKILL)
    box.put("eat_when_there_is_some", mib=64)
    daemon.wait_for("MemoryError")
    box.put("note")
    box.wait_lines("done")
    wait_until(box.workers)
    for pid in (template, *box.workers()):
        resource.prlimit(pid, resource.RLIMIT_AS, limits)
    box.wait_lines("eaten", name="meals")
    assert daemon.end() == 0
