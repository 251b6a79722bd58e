"""Limits with real daemons: never too many, never stuck, in nobody's way."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest

from spooler.limits import hash_of

from ..helpers import FACTOR
from .conftest import Box, is_alive, stays, wait_until
from .timing import check_in_time, wait_for_rest

AT_REST = 0.010 * max(1.0, FACTOR / 3)
"""The share of a processor that those who wait may need."""


def start(box: Box, *options: str) -> Any:
    return box.start(*options, imports="limited")


def events(box: Box, name: str = "log") -> list[tuple[float, str]]:
    found = [line.split() for line in box.lines(name)]
    return sorted((float(moment), sign) for moment, sign, _ in found)


def most_at_a_time(box: Box, name: str = "log") -> int:
    running, most = 0, 0
    for _, sign in events(box, name):
        running += 1 if sign == "+" else -1
        most = max(most, running)
    return most


def most_in_a_window(box: Box, seconds: float, name: str = "rate") -> int:
    """Return how many began in any window of that length."""
    begun = [moment for moment, _ in events(box, name)]
    return max(sum(a <= b < a + seconds for b in begun) for a in begun)


def test_no_more_than_so_many_run_at_a_time_over_all_daemons(box: Box) -> None:
    for _ in range(2):
        start(box, "--workers", "3")
    wait_until(lambda: len(box.workers()) == 6)
    for _ in range(60):
        box.put("two_at_a_time")
    wait_until(lambda: len(box.lines("log")) == 120)
    assert most_at_a_time(box) == 2
    wait_until(box.is_empty)
    assert not box.failed()
    for daemon in box.daemons:
        assert daemon.end() == 0
    assert box.is_left_clean()


def test_slots_are_used_again_at_once(box: Box) -> None:
    """One daemon's workers tell it, so nobody waits for a look once a second."""
    start(box, "--workers", "4")
    wait_until(lambda: len(box.workers()) == 4)

    def take() -> float:
        begun, before = monotonic(), len(box.lines("log"))
        for _ in range(40):
            box.put("two_at_a_time")
        wait_until(lambda: len(box.lines("log")) == before + 80)
        return monotonic() - begun

    check_in_time(1.5 * FACTOR, take)  # 0.4 s of work
    assert most_at_a_time(box) == 2


def test_each_key_has_slots_of_its_own(box: Box) -> None:
    hosts = ["a", "b", "c"]
    for _ in range(5):
        for host in hosts:
            box.put("one_for_each_host", host=host, gate="gate")
    start(box, "--workers", "3")
    for host in hosts:
        wait_until(lambda name=f"log-{host}-80": box.lines(name))  # type: ignore[misc] # a default binds it
    box.open()
    for host in hosts:
        wait_until(lambda name=f"log-{host}-80": len(box.lines(name)) == 10)  # type: ignore[misc] # a default binds it
        assert most_at_a_time(box, f"log-{host}-80") == 1


def test_a_rate_is_exceeded_in_no_window(box: Box) -> None:
    for number in range(70):
        box.put("at_most_twenty", number=number)
    for _ in range(2):
        start(box, "--workers", "2")
    wait_until(lambda: len(box.lines("rate")) == 70)
    # The task writes the time down some time after it was counted, and so each of the
    # four workers may have brought one along from before the window.
    assert most_in_a_window(box, 0.95) <= 20 + 4
    begun = [moment for moment, _ in events(box, "rate")]
    assert begun[-1] - begun[0] >= 2.9
    assert begun[-1] - begun[0] <= 3.0 + 3.0 * FACTOR
    wait_until(box.is_empty)


def test_the_rate_of_each_user(box: Box) -> None:
    for _ in range(9):
        for user in ("ann", "bob"):
            box.put("for_each_user", user=user)
    start(box, "--workers", "2")
    for user in ("ann", "bob"):
        wait_until(lambda name=f"rate-{user}": len(box.lines(name)) == 9)  # type: ignore[misc] # a default binds it
        # As above; after the first two, which are late perhaps, seven more: 3, 3 and 1.
        assert most_in_a_window(box, 0.95, f"rate-{user}") <= 3 + 2
        begun = [moment for moment, _ in events(box, f"rate-{user}")]
        assert begun[-1] - begun[0] >= 1.9
    wait_until(box.is_empty)


def test_a_rate_that_is_used_up_takes_no_time(box: Box) -> None:
    daemon = start(box, "--workers", "2")
    for number in range(50):
        box.put("twice_an_hour", number=number)
    wait_until(lambda: len(box.lines("hourly")) == 2)
    box.put("plain")
    wait_until(lambda: box.lines("plain"))
    wait_for_rest([daemon.pid, *box.workers()], seconds=3.0, share=AT_REST)
    assert len(box.lines("hourly")) == 2
    assert len(box.waiting()) == 48


@pytest.mark.parametrize("task", ["alone", "one_for_each_host"])
def test_limited_tasks_are_in_nobodys_way(
    box: Box, task: str, record_property: Callable[..., None]
) -> None:
    args: dict[str, Any] = {} if task == "alone" else {"host": "a", "seconds": 1000}
    for _ in range(2000):
        box.put(task, **args)
    daemon = start(box, "--workers", "2")
    log = "pid" if task == "alone" else "log-a-80"
    wait_until(lambda: box.lines(log))
    begun = monotonic()
    box.put("plain")
    wait_until(lambda: box.lines("plain"))
    took = float(box.lines("plain")[0]) - begun
    record_property("seconds", took)
    assert took < 3.0 * FACTOR  # 2,000 names are tried, if they have keys
    assert len(box.lines(log)) == 1
    # And now that all are known to wait it is at once.
    wait_for_rest([daemon.pid], seconds=1.0, share=0.1)

    def take() -> float:
        begun, before = monotonic(), len(box.lines("plain"))
        box.put("plain")
        wait_until(lambda: len(box.lines("plain")) > before)
        return float(box.lines("plain")[-1]) - begun

    for _ in range(5):
        check_in_time(0.25 * FACTOR, take)


def test_waiting_for_a_slot_takes_no_time(box: Box) -> None:
    for _ in range(500):
        box.put("alone")
    daemon = start(box, "--workers", "2")
    box.number("pid")
    wait_until(lambda: len(box.workers()) == 2)
    pids = {daemon.pid, *box.workers()}
    pids.remove(int(box.lines("pid")[0]))  # it polls
    wait_for_rest([*pids], seconds=3.0, share=AT_REST)


def test_tasks_of_a_limit_run_in_their_order(box: Box) -> None:
    """With several workers what they have at hand may come in between."""
    for number in range(100, 300):
        box.put("in_order", number=number)
    daemon = start(box)
    wait_until(lambda: box.lines("order"))
    assert stays(lambda: len(box.lines("order")) == 1, seconds=1.5)
    box.later("in_order", {"priority": 0}, number=0)
    box.drop("9/later", b"task=beside\n")
    daemon.wait_for("adopt task=")  # so it knows of the one before, too
    assert stays(lambda: len(box.lines("order")) == 1, seconds=0.5)
    box.open()
    wait_until(lambda: len(box.lines("order")) == 201, timeout=30)
    order = list(map(int, box.lines("order")))
    assert order.index(0) < 20  # the urgent one is first, but for those at hand
    order.remove(0)
    assert order == sorted(order)


def test_a_burst_runs_what_waits_for_limits(box: Box) -> None:
    for _ in range(20):
        box.put("two_at_a_time")
    for number in range(25):
        box.put("at_most_twenty", number=number)
    daemon = box.launch(box.command("--burst", "--workers", "3", imports="limited"))
    assert daemon.wait() == 0
    assert len(box.lines("log")) == 40
    assert len(box.lines("rate")) == 25
    assert most_at_a_time(box) == 2
    assert box.is_empty()


# -- death ------------------------------------------------------------------------


def test_killed_workers_leave_no_slot_taken(box: Box) -> None:
    for _ in range(40):
        box.later("dies", {"priority": 6}, how="no")
    for _ in range(5):
        box.put("dies", how="kill")
    for _ in range(2):
        start(box, "--workers", "3")
    wait_until(lambda: sum(s == "-" for _, s in events(box)) == 45, timeout=40)
    wait_until(box.is_empty)
    assert not box.failed()


def test_a_slot_is_free_when_its_worker_is_killed(box: Box) -> None:
    start(box, "--workers", "2")
    runs = 0

    def take() -> float:
        nonlocal runs
        gate = f"gate{runs}"
        box.put("alone", gate=gate)
        wait_until(lambda: len(box.lines("pid")) == runs + 1)
        victim = box.number("pid")
        box.put("alone", gate=gate)
        assert stays(lambda: len(box.lines("pid")) == runs + 1, seconds=0.3)
        killed = monotonic()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(box.lines("pid")) == runs + 2)
        took = monotonic() - killed
        box.open(gate)
        runs += 3
        wait_until(lambda: len(box.lines("pid")) == runs and box.is_empty())
        return took

    tries = len(check_in_time(0.9 * FACTOR, take))
    assert sorted(box.lines("alone")) == sorted(["1", "2"] * tries)


def test_a_slot_of_a_daemon_that_dies_is_free_for_the_others(box: Box) -> None:
    first = start(box)
    box.put("alone")
    box.number("pid")
    start(box)
    box.put("alone")
    box.put("plain")
    wait_until(lambda: box.lines("plain"))
    first.end(signal.SIGKILL)
    wait_until(lambda: len(box.lines("pid")) == 2)
    box.open()
    wait_until(lambda: len(box.lines("alone")) == 2)
    wait_until(box.is_empty)


def test_what_a_task_leaves_behind_holds_no_slot(box: Box) -> None:
    start(box, "--workers", "2")
    box.put("leaves_a_child")
    wait_until(lambda: box.lines())
    orphan = box.number("orphan")
    box.put("leaves_a_child")
    wait_until(lambda: len(box.lines()) == 2)
    assert is_alive(orphan)
    box.open()


def test_a_worker_that_dies_leaves_what_is_parked(box: Box) -> None:
    daemon = start(box, "--workers", "1")
    for _ in range(20):
        box.put("alone")
    box.number("pid")
    box.open()
    wait_until(lambda: len(box.lines("alone")) >= 5)
    for _ in range(3):
        for pid in box.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert stays(lambda: True, seconds=0.1)
    wait_until(box.is_empty, timeout=30)
    assert len(box.lines("alone")) >= 20
    assert daemon.end() == 0


def test_failures_free_their_slots(box: Box) -> None:
    start(box, "--workers", "2")
    for _ in range(10):
        box.put("fails")
    wait_until(lambda: len(box.failed()) == 10)
    assert len(box.lines()) == 20


def test_a_drain_leaves_what_is_parked_waiting(box: Box) -> None:
    daemon = start(box, "--workers", "2")
    for _ in range(10):
        box.put("alone")
    box.number("pid")
    assert stays(lambda: len(box.lines("pid")) == 1, seconds=0.3)
    daemon.send(signal.SIGTERM)
    daemon.wait_for("drain: signal")
    box.open()
    assert daemon.wait() == 0
    assert len(box.lines("alone")) == 1
    assert len(box.waiting()) == 9
    assert all(name.split(".")[2] == "0" for name in box.waiting())
    box.launch(box.command("--burst", imports="limited")).wait()
    assert len(box.lines("alone")) == 10


def test_a_reload_tries_what_is_parked_with_the_new_limits(box: Box) -> None:
    text = "from limited import *\nfrom spooler import spool\n"
    limited = "@spool(concurrency={})\ndef gated():\n    write('x', 'pid')\n"
    body = limited + "    wait_for('gate')\n"
    box.module(text + body.format(1))
    daemon = box.start("--workers", "4", imports="mine")
    for _ in range(3):
        box.put("gated")
    wait_until(lambda: box.lines("pid"))
    assert stays(lambda: len(box.lines("pid")) == 1, seconds=0.3)
    box.module(text + body.format(3))
    daemon.send(signal.SIGHUP)
    daemon.wait_for("reload: done")
    wait_until(lambda: len(box.lines("pid")) == 3)
    box.open()
    wait_until(box.is_empty)


def test_limits_leave_nothing_but_their_files(box: Box) -> None:
    box.put("two_at_a_time")
    box.put("at_most_twenty", number=1)
    box.launch(box.command("--burst", imports="limited")).wait()
    assert box.names("limits") == sorted(
        [hash_of("two_at_a_time", ""), f"{hash_of('at_most_twenty', '')}.rate"]
    )
