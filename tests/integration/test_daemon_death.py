"""Workers, the template and the daemon die at the wrong moment."""

import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from time import monotonic

import pytest

from spooler.backlog import Backlog
from spooler.channel import SupervisorSettings
from spooler.config import Settings
from spooler.forker import start_template
from spooler.loop import Loop
from spooler.spooldir import SpoolDir
from spooler.spooldir.dropped import Dropped
from spooler.supervisor import Supervisor
from spooler.wakeup import Watch

from ..helpers import FACTOR, patience
from .conftest import LIMIT, Box, is_alive, parent_of, stays, wait_until

SOON = 0.5 * FACTOR
"""Seconds in which a function has begun that was begun."""

GONE = 2.0
"""Seconds in which what belongs to a dead daemon must be gone."""


def test_a_killed_worker_is_replaced_and_its_task_runs_again(box: Box) -> None:
    daemon = box.start("--workers", "2")
    box.put("gate")
    victim = box.number("pid")
    for number in range(50):
        box.put("note", text=str(number))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(box.lines("pid")) == 2)
    box.open()
    box.wait_lines("passed", *map(str, range(50)))
    assert box.lines("attempts") == ["1", "2"]
    wait_until(lambda: len(box.workers()) == 2)
    assert daemon.says("its worker died: signal 9")
    wait_until(lambda: not box.logs())


@pytest.mark.parametrize("how", ["kill", "segfault", "exit"])
def test_a_task_whose_worker_dies_runs_again(box: Box, how: str) -> None:
    box.start()
    box.put("dies_once", how=how)
    box.put("note")
    box.wait_lines("1", "2", "done")
    wait_until(box.is_empty)


def test_a_poison_task_ends_in_failed_and_harms_nobody(box: Box) -> None:
    for number in range(20):
        box.put("note", text=str(number))
    box.put("poison")
    for number in range(20, 40):
        box.put("note", text=str(number))
    box.start("--workers", "2")
    why = box.why()
    assert box.lines("poison") == ["1", "2", "3"]
    assert why["reason"] == "crash"
    assert [each["attempt"] for each in why["attempts"]] == [1, 2, 3]
    box.wait_lines(*map(str, range(40)))


def test_many_poison_tasks_do_not_stop_the_others(box: Box) -> None:
    for _ in range(5):
        box.put("poison", how="exit")
    box.put("note")
    box.start()
    wait_until(lambda: len(box.failed()) == 5, timeout=30)
    box.wait_lines("done")
    assert sorted(box.lines("poison")) == sorted(["1", "2", "3"] * 5)


@pytest.mark.parametrize("how", ["loop", "c"])
def test_a_time_limit_kills_what_is_stuck_and_its_children(box: Box, how: str) -> None:
    box.start()
    # So long that its function has begun by then.
    box.later("stuck", {"hard_timeout": SOON}, how=how)
    box.put("note", name="other")
    why = box.why()
    assert box.lines() == ["1", "2"]
    assert box.lines("deadline") == ["True", "True"]
    assert why["reason"] == "timeout"
    assert [each["attempt"] for each in why["attempts"]] == [1, 2]
    box.wait_lines("done", name="other")
    wait_until(lambda: not any(is_alive(int(pid)) for pid in box.lines("child")))


def test_the_time_limit_of_the_daemon_goes_for_all(box: Box) -> None:
    box.start("--hard-timeout", str(SOON))
    box.put("stuck_without_limit")
    assert box.why()["reason"] == "timeout"
    assert box.lines() == ["True"]


def test_a_time_limit_counts_while_the_daemon_drains(box: Box) -> None:
    daemon = box.start("--hard-timeout", str(1.0 + SOON))
    box.put("stuck_without_limit")
    box.wait_lines("True")
    assert daemon.end() == 0
    assert box.why()["reason"] == "timeout"


def test_what_a_task_has_started_dies_with_its_worker(box: Box) -> None:
    box.start("--max-attempts", "1")
    box.put("parent")
    child = box.number("child")
    os.kill(box.number("pid"), signal.SIGKILL)
    wait_until(lambda: not is_alive(child))
    assert box.why()["reason"] == "crash"


def test_all_die_with_their_daemon_and_the_next_recovers(box: Box) -> None:
    daemon = box.start("--workers", "2")
    box.put("gate")
    box.put("parent")
    wait_until(lambda: len(box.lines("pid")) == 2)
    box.number("child")
    box.put("note", text="left")
    daemon.end(signal.SIGKILL)
    wait_until(box.no_process_is_left, timeout=GONE)
    assert len(box.running()) == 2
    box.open()
    box.start("--workers", "2")
    wait_until(lambda: {"passed", "left"} <= set(box.lines()))
    assert box.lines("attempts") == ["1", "2"]


def test_all_die_with_a_daemon_that_had_not_heard_everything(box: Box) -> None:
    daemon = box.start("--workers", "2")
    box.put("parent")
    box.number("child")
    busy = box.number("pid")
    wait_until(lambda: len(box.workers()) == 2)
    [idle] = set(box.workers()) - {busy}
    os.kill(daemon.pid, signal.SIGSTOP)
    os.kill(idle, signal.SIGKILL)  # the template tells so, to nobody
    wait_until(lambda: not is_alive(idle))
    daemon.end(signal.SIGKILL)
    wait_until(box.no_process_is_left, timeout=GONE)


def test_a_killed_daemon_leaves_no_trace_after_the_next(box: Box) -> None:
    box.start("--workers", "2")
    wait_until(lambda: len(box.workers()) == 2)
    box.daemons[0].end(signal.SIGKILL)
    assert len(box.names("workers")) >= 2
    wait_until(box.no_process_is_left, timeout=GONE)
    box.burst()
    assert box.is_left_clean()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_daemon_goes_on_when_the_template_dies(box: Box, number: int) -> None:
    daemon = box.start("--workers", "2")
    box.put("gate")
    box.number("pid")
    template = daemon.template()
    os.kill(template, number)
    daemon.wait_for("starting another")
    daemon.wait_for("reload: done")
    wait_until(lambda: len(box.lines("pid")) == 2)
    box.open()
    box.put("note")
    box.wait_lines("passed", "done")
    assert box.lines("attempts") == ["1", "2"]
    assert daemon.end() == 0
    assert box.is_left_clean()


def test_a_template_that_dies_with_broken_code_waits_for_better(box: Box) -> None:
    box.module("from tasks import note")
    daemon = box.start(imports="mine")
    box.module("from tasks import note, nothing")
    began = monotonic()
    os.kill(daemon.template(), signal.SIGKILL)
    daemon.wait_for("cannot import mine")
    box.put("note")
    box.module("from tasks import note")
    box.wait_lines("done")
    assert daemon.text().count("cannot import") <= 3 + (monotonic() - began)
    assert daemon.end() == 0


def test_a_daemon_without_a_template_stops_when_told(box: Box) -> None:
    box.module("from tasks import note")
    daemon = box.start(imports="mine")
    box.worker()
    box.module("1/0")
    os.kill(daemon.template(), signal.SIGKILL)
    daemon.wait_for("cannot import mine")
    assert daemon.end() == 0
    assert box.is_left_clean()


def test_a_term_to_the_template_takes_nothing_away(box: Box) -> None:
    daemon = box.start()
    box.put("gate")
    box.number("pid")
    os.kill(daemon.template(), signal.SIGTERM)
    box.put("note")
    box.open()
    box.wait_lines("passed", "done")
    assert box.lines("attempts") == ["1"]
    assert daemon.end() == 0


def test_a_daemon_whose_template_is_stopped_stops_when_told(box: Box) -> None:
    daemon = box.start("--grace", "0.1")
    box.put("parent")
    child = box.number("child")
    os.kill(daemon.template(), signal.SIGSTOP)
    assert daemon.end() == 0
    wait_until(box.no_process_is_left, timeout=GONE)
    assert not is_alive(child)
    assert [name.split(".")[2] for name in box.waiting()] == ["0"]  # released
    assert box.is_left_clean()


def test_a_term_to_all_processes_drains(box: Box) -> None:
    daemon = box.start("--workers", "2")
    box.put("gate")
    box.number("pid")
    wait_until(lambda: len(box.workers()) == 2)
    for pid in box.processes():
        with suppress(ProcessLookupError):  # an idle worker may have ended already
            os.kill(pid, signal.SIGTERM)
    daemon.wait_for("drain: signal")
    box.open()
    assert daemon.wait() == 0
    assert box.lines() == ["passed"]
    assert box.lines("attempts") == ["1"]
    assert box.is_empty()


def test_a_stopped_worker_does_not_hold_up_the_others(box: Box) -> None:
    daemon = box.start("--workers", "2")
    box.put("gate")
    stopped = box.number("pid")
    os.kill(stopped, signal.SIGSTOP)
    for number in range(50):
        box.put("note", text=str(number))
    box.wait_lines(*map(str, range(50)))
    box.open()
    os.kill(stopped, signal.SIGCONT)
    wait_until(lambda: "passed" in box.lines())
    assert box.lines("attempts") == ["1"]
    assert daemon.end() == 0


def test_an_idle_worker_that_is_stopped_loses_nothing(box: Box) -> None:
    box.start("--workers", "2")
    wait_until(lambda: len(box.workers()) == 2)
    stopped = box.workers()[0]
    os.kill(stopped, signal.SIGSTOP)
    for number in range(50):
        box.put("note", text=str(number))
    box.wait_lines(*map(str, range(50)))  # the other one runs them all
    os.kill(stopped, signal.SIGCONT)
    assert stays(lambda: len(box.lines()) == 50, seconds=0.1)


def test_a_spool_that_is_replaced_ends_its_daemon_with_a_reason(box: Box) -> None:
    daemon = box.start()
    box.worker()
    box.spool.rename(box.out / "old")
    SpoolDir(box.spool).create()
    assert daemon.wait() == 1
    assert daemon.says("was removed or replaced")
    assert "Traceback" not in daemon.text()


def test_a_spool_that_is_removed_ends_its_daemon_with_a_reason(box: Box) -> None:
    daemon = box.start()
    box.worker()

    def removed() -> bool:  # while a worker writes into it, not at the first go
        shutil.rmtree(box.spool, ignore_errors=True)
        return not box.spool.exists()

    wait_until(removed)
    assert daemon.wait() == 1
    assert daemon.says("was removed or replaced")
    assert "Traceback" not in daemon.text()


def test_a_stopped_daemon_catches_up(box: Box) -> None:
    daemon = box.start()
    box.worker()
    daemon.send(signal.SIGSTOP)
    for number in range(20):
        box.put("note", text=str(number))
    daemon.send(signal.SIGCONT)
    box.wait_lines(*map(str, range(20)))


def test_a_worker_that_cannot_be_forked_takes_no_other_with_it(box: Box) -> None:
    box.module(
        "import errno, os\n"
        "from tasks import *\n"
        "_fork, _calls = os.fork, []\n"
        "def fork():\n"
        "    _calls.append(1)\n"
        "    if len(_calls) == 2:\n"
        "        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))\n"
        "    return _fork()\n"
        "os.fork = fork\n"
    )
    daemon = box.start("--workers", "2", imports="mine")
    wait_until(lambda: len(box.workers()) == 2)
    assert daemon.says("cannot fork a worker")
    assert not daemon.says("the template process died")
    box.put("note")
    box.wait_lines("done")
    assert daemon.end() == 0


def test_a_stranger_that_cannot_be_looked_at_stops_nobody(box: Box) -> None:
    (box.spool / "running" / ("w" * 254)).mkdir()  # too long for a lock's name
    daemon = box.start()
    box.put("note", text="first")
    box.wait_lines("first")
    box.put("gate")
    os.kill(box.number("pid"), signal.SIGKILL)
    wait_until(lambda: len(box.lines("pid")) == 2)
    box.open()
    box.wait_lines("first", "passed")
    assert daemon.text().count("cannot recover www") == 1
    assert daemon.end() == 0


class Inside:
    """A supervisor in this process, with a template of its own."""

    def __init__(self, box: Box, workers: int) -> None:
        self._spool, self._loop = SpoolDir(box.spool), Loop()
        self._watch = Watch(self._spool.path)
        owners = {os.getuid()}
        self.backlog = Backlog(self._spool, self._watch, Dropped(self._spool, owners))
        settings = SupervisorSettings(workers=workers, owners=frozenset(owners))
        add, remove = self._loop.add, self._loop.remove
        self.supervisor = Supervisor(
            self._spool, self.backlog, settings, "d", add, remove
        )
        self.forker = start_template(
            Settings(dirs=(self._spool.path,), imports=("tasks",))
        )
        self._loop.add(self.forker.fileno(), self.forker.read)
        self.wait_until(lambda: self.forker.known is not None)
        self.supervisor.use(self.forker)
        self.supervisor.spawn(self.forker)

    def wait_until(self, fact: Callable[[], object]) -> None:
        """Do what there is to do until something is true."""
        deadline = monotonic() + patience(LIMIT)
        while not fact():
            assert monotonic() < deadline
            self._loop.wait(0.01)

    def waiting(self) -> list[str]:
        """Return the paths of tasks that wait."""
        return [f"{folder}/{name}" for folder, name in self._spool.waiting()]

    def close(self) -> None:
        """End the template and with it the workers."""
        self._loop.remove(self.forker.fileno())
        self._loop.wait(0)
        self.forker.close()
        self._watch.close()
        self._loop.close()
        self._spool.close()


@pytest.fixture
def inside(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], Inside]]:
    """Start a supervisor in this process, with so many workers."""
    monkeypatch.chdir(box.app)
    monkeypatch.setenv("PYTHONPATH", box.environ()["PYTHONPATH"])
    monkeypatch.setenv("OUT", str(box.out))
    with ExitStack() as stack:

        def start(workers: int) -> Inside:
            made = Inside(box, workers)
            stack.callback(made.close)
            return made

        yield start


def test_a_worker_that_died_while_it_was_handed_a_name_is_let_go(
    box: Box, inside: Callable[[int], Inside]
) -> None:
    here = inside(1)
    supervisor, forker = here.supervisor, here.forker
    box.put("gate")
    here.backlog.scan()
    supervisor.feed()
    victim = box.number("pid")
    os.kill(parent_of(victim), signal.SIGKILL)
    wait_until(lambda: not is_alive(victim))
    box.put("note")
    [worker] = supervisor._workers.values()
    worker.offer(here.waiting())  # as a feed does that comes before the bad news
    assert not worker.channel.open
    here.wait_until(lambda: forker.gone)
    assert supervisor.empty
    supervisor.spawn(forker)
    assert supervisor.next_moment() is None  # until there is another template


def test_workers_that_die_together_are_replaced_as_soon_as_one(
    box: Box, inside: Callable[[int], Inside]
) -> None:
    here = inside(8)
    here.wait_until(lambda: len(box.workers()) == 8)
    for pid in box.workers():
        os.kill(pid, signal.SIGKILL)
    here.wait_until(lambda: here.supervisor.empty)
    pause = here.supervisor.next_moment()
    assert pause is not None
    assert pause < 0.5  # doubled for each of them it was 3.2 s


def test_a_task_that_ends_its_worker_with_status_0_is_told_as_it_is(box: Box) -> None:
    box.module("import os\nfrom spooler import spool\n@spool\ndef end(): os._exit(0)\n")
    box.put("end")
    daemon = box.start("--max-attempts", "1", imports="mine")
    assert box.why()["error"] == "its worker died: exit status 0"
    assert daemon.end() == 0


def test_a_reload_without_processes_leaves_the_old_code(box: Box) -> None:
    daemon = box.start()
    box.put("gate")
    box.number("pid")
    limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    daemon.send(signal.SIGHUP)
    daemon.wait_for("the old code goes on")
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
    box.open()
    box.wait_lines("passed")
    assert box.lines("attempts") == ["1"]
    assert daemon.end() == 0


def test_a_daemon_keeps_its_age_in_a_reload(box: Box) -> None:
    def started() -> str:
        [name] = [n for n in box.names("workers") if re.match("daemon.*json", n)]
        facts = json.loads((box.spool / "workers" / name).read_text())
        return str(facts["started"])

    daemon = box.start()
    before = started()
    daemon.send(signal.SIGHUP)
    daemon.wait_for("reload: done")
    assert started() == before
