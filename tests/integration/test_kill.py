"""Runs that are killed: over their time limit, or since somebody asked for it."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

import pytest

from spooler import Handle
from spooler.spooldir import SpoolDir, kills

from ..helpers import FACTOR
from .conftest import Box, is_alive, is_stopped, stays, wait_until
from .timing import check_in_time

LATE = 0.2 * FACTOR
"""Seconds after its time limit in which a run must be dead."""

HOWS = ["loop", "c", "re", "ignore", "swallow"]


def start(box: Box, *options: str) -> Any:
    return box.start(*options, imports="limited")


def kill(box: Box, task_id: str) -> None:
    spool = SpoolDir(box.spool)
    kills.ask(spool, task_id)
    spool.close()


def requests(box: Box) -> list[str]:
    return box.names("kill")


class Pulse:
    """Writes down when a process has ended."""

    def __init__(self, pid: int) -> None:
        self.ended = 0.0
        self._thread = Thread(target=self._watch, args=(pid,))
        self._thread.start()

    def _watch(self, pid: int) -> None:
        while is_alive(pid):
            Event().wait(0.002)
        self.ended = monotonic()

    def wait(self) -> float:
        self._thread.join()
        return self.ended


# -- time limits ------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
def test_a_run_is_dead_soon_after_its_time_limit(
    box: Box, how: str, record_property: Callable[..., None]
) -> None:
    start(box)

    def late() -> float:
        remove_failed(box)
        asked = monotonic()
        begun, pid = begin_hard(box, how)
        ended = Pulse(pid).wait()
        assert ended - asked >= 0.3
        box.why()
        return ended - begun - 0.3

    record_property("seconds late", check_in_time(LATE, late))
    why = box.why()
    assert why["reason"] == "timeout"
    assert why["error"] == "ran past its time limit and was killed"
    assert [each["attempt"] for each in why["attempts"]] == [1]
    box.put("plain")
    wait_until(lambda: box.lines("plain"))


def begin_hard(box: Box, how: str) -> tuple[float, int]:
    """Have the task ``hard`` begin; return when it did, and its process.

    A worker that gets no processor for all of its time limit is killed before it can
    say so: then once more.
    """
    while True:
        before = len(box.lines("begun"))
        task = box.put("hard", how=how)
        wait_until(lambda: len(box.lines("begun")) > before or has_failed(box, task))  # noqa: B023 (it is over by then)
        if len(box.lines("begun")) > before:
            begun, pid = box.lines("begun")[-1].split()
            return float(begun), int(pid)
        remove_failed(box)


def has_failed(box: Box, task: Handle) -> bool:
    return any(task.id in name for name in box.failed())


def remove_failed(box: Box) -> None:
    """Forget what has failed, the file before its report: none is without."""
    for name in sorted(box.names("failed"), key=lambda name: name.endswith(".why")):
        (box.spool / "failed" / name).unlink()


def wait_line(box: Box, name: str) -> str:
    wait_until(lambda: box.lines(name))
    return box.lines(name)[-1]


def test_a_stopped_worker_is_dead_soon_after_the_time_limit(box: Box) -> None:
    start(box)

    def late() -> float:
        remove_failed(box)
        begun, pid = begin_hard(box, "loop")
        with suppress(ProcessLookupError):  # it has been killed already
            os.kill(pid, signal.SIGSTOP)
        ended = Pulse(pid).wait()
        box.why()
        return ended - begun - 0.3

    check_in_time(LATE, late)
    assert box.why()["reason"] == "timeout"


def test_children_may_end_in_order_and_that_is_no_success(box: Box) -> None:
    start(box)
    # Once more, if the child was not as far as to wait for the signal, or had no time
    # for its answer.
    while not box.lines("trapped"):
        remove_failed(box)
        begin_hard(box, "child")
        assert box.why()["reason"] == "timeout"
    assert box.lines("trapped") == ["ended"]


def test_what_was_handed_to_a_killed_worker_is_not_counted(box: Box) -> None:
    for number in range(20):
        box.later("beside", {"priority": 6}, name=f"beside{number}")
    box.put("hard", how="loop")
    start(box)
    assert box.why()["reason"] == "timeout"
    for number in range(20):
        assert wait_line(box, f"beside{number}") == "1"


# -- requests ---------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
def test_a_kill_ends_a_run_and_its_task_fails(box: Box, how: str) -> None:
    start(box)
    runs = 0

    def take() -> float:
        nonlocal runs
        remove_failed(box)
        handle = box.put("endless", how=how)
        wait_until(lambda: len(box.lines("pid")) > runs)
        runs += 1
        pulse = Pulse(box.number("pid"))
        asked = monotonic()
        kill(box, handle.id)
        ended = pulse.wait()
        why = box.why()
        assert why["reason"] == "killed"
        assert [each["attempt"] for each in why["attempts"]] == [1]
        return ended - asked

    check_in_time(0.5 * FACTOR, take)
    wait_until(lambda: not requests(box))
    box.put("plain")
    wait_until(lambda: box.lines("plain"))
    assert len(box.lines("pid")) == runs


def test_a_kill_ends_a_stopped_run(box: Box) -> None:
    start(box)
    handle = box.put("endless", how="loop")
    pid = box.number("pid")
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(pid))
    kill(box, handle.id)
    assert box.why()["reason"] == "killed"
    wait_until(lambda: not is_alive(pid) and not requests(box))


def test_only_the_daemon_that_runs_a_task_removes_the_request(box: Box) -> None:
    first = start(box)
    handle = box.put("endless", how="loop")
    pid = box.number("pid")
    start(box)
    ours = (first.pid, *first.children())
    for process in ours:  # the first one can do nothing
        os.kill(process, signal.SIGSTOP)
    wait_until(lambda: all(map(is_stopped, ours)))
    kill(box, handle.id)
    assert stays(lambda: requests(box) == [handle.id], seconds=1.5)
    assert is_alive(pid)
    for process in ours:
        os.kill(process, signal.SIGCONT)
    assert box.why()["reason"] == "killed"
    wait_until(lambda: not requests(box))


def test_a_request_that_was_there_before_the_daemon_counts(box: Box) -> None:
    handle = box.put("endless", how="loop")
    kill(box, handle.id)
    (box.spool / "kill" / "no-id").touch()
    start(box)
    assert box.why()["reason"] == "killed"
    wait_until(lambda: requests(box) == ["no-id"])


def test_a_kill_counts_while_the_daemon_drains(box: Box) -> None:
    daemon = start(box, "--grace", "3600")
    handle = box.put("endless", how="loop")
    box.number("pid")
    daemon.send(signal.SIGTERM)
    daemon.wait_for("drain: signal")
    kill(box, handle.id)
    assert daemon.wait() == 0
    assert box.why()["reason"] == "killed"
    assert not requests(box)
    assert box.is_left_clean()


def test_a_request_for_what_waits_or_is_unknown_harms_nobody(box: Box) -> None:
    start(box)
    later = box.later("beside", {"at": "+1h"})
    kill(box, later.id)
    kill(box, "0" * 16)
    box.put("beside")
    assert wait_line(box, "beside") == "1"
    assert stays(lambda: len(requests(box)) == 2, seconds=1.2)
    assert len(box.waiting()) == 1


def test_many_kills_at_once(box: Box) -> None:
    start(box, "--workers", "4")
    handles = [box.put("endless", how="loop") for _ in range(4)]
    wait_until(lambda: len(box.lines("pid")) == 4)
    for handle in handles:
        kill(box, handle.id)
    wait_until(lambda: len(box.failed()) == 4)
    for path in (box.spool / "failed").glob("*.why"):
        assert json.loads(Path(path).read_text())["reason"] == "killed"
    wait_until(lambda: not requests(box))
    assert len(box.lines("pid")) == 4


def test_a_run_that_dies_while_it_is_killed_is_killed(box: Box) -> None:
    start(box)
    handle = box.put("endless", how="ignore")
    pid = box.number("pid")
    kill(box, handle.id)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: box.failed() or len(box.lines("pid")) == 2)
    # Either was first; if it was the death, it runs again, and then it is killed.
    assert box.why()["reason"] == "killed"
    wait_until(lambda: not requests(box))
