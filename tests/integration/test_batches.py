"""Batches in real daemons: killed, shared, retried, and with more urgent tasks."""

import json
import os
import signal
from collections import Counter
from contextlib import suppress
from time import time

from spooler import Batch, State
from spooler.spooldir import SpoolDir, batches
from spooler.task import derived_id

from ..helpers import FACTOR, patience, real_clock
from .conftest import LIMIT, Box, wait_until

MODULES = "many"
PATIENCE = patience(LIMIT)
"""Seconds in which a batch has ended."""

LONG = 5000
"""Lines that take a minute at the least, unless the gate is open: then a moment."""

SLOW = """
from many import *

@spool
def long_line(n: int) -> None:
    if not (OUT / "gate").exists():
        Event().wait(0.01)
    write(str(n))
    write(str(os.getpid()), "pids")
"""


def put(box: Box, task: str, numbers: range, **options: int) -> Batch:
    calls = (box.spooler.call(task, {"n": number}) for number in numbers)
    return box.spooler.spool_many(calls, priority=options.get("priority"))


def is_over(box: Box) -> bool:
    return box.is_empty() and not box.names("batches")


def numbers(box: Box) -> Counter[int]:
    return Counter(map(int, box.lines()))


def test_a_batch_runs_each_line_once_in_order(box: Box) -> None:
    batch = put(box, "line", range(2000))
    daemon = box.burst(imports=MODULES)
    assert [int(line) for line in box.lines()] == list(range(2000))
    assert is_over(box)
    assert box.is_left_clean()
    assert batch.state() is None
    assert batch.wait(timeout=5) is None
    assert f"ack task={batch[7].id} name=line" in daemon.text()
    assert f"ack task={batch.id} name=_batch" in daemon.text()


def test_kill_storms_lose_no_line(box: Box) -> None:
    batch = put(box, "slow_line", range(300))
    box.start("--workers", "2", "--max-attempts", "50", imports=MODULES)
    for storm in range(12):
        wait_until(lambda storm=storm: len(box.lines()) > storm * 15 or is_over(box))  # type: ignore[misc] # its own
        for pid in box.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    wait_until(box.is_empty, timeout=30)
    found = numbers(box)
    assert set(found) == set(range(300))
    assert sum(found.values()) <= 300 + 12 * 2
    assert batch.wait(timeout=PATIENCE) is None
    assert box.failed() == []
    # Who dies while it cuts a batch leaves what it has made of the part.
    much_later = real_clock()
    much_later.advance(2 * batches.LEFT_OVER_AGE)
    spool = SpoolDir(box.spool)
    batches.sweep(spool, much_later)
    assert spool.all_names("batches") == []


def test_killed_daemons_lose_no_line(box: Box) -> None:
    put(box, "slow_line", range(200))
    for number in range(4):
        daemon = box.start(imports=MODULES)
        wait_until(lambda number=number: len(box.lines()) > 20 * (number + 1))  # type: ignore[misc] # its own
        daemon.end(signal.SIGKILL)
    box.burst(imports=MODULES)
    found = numbers(box)
    assert set(found) == set(range(200))
    assert sum(found.values()) <= 204
    wait_until(lambda: is_over(box))


def test_workers_share_a_batch_of_slow_lines(box: Box) -> None:
    box.module(SLOW)
    box.start("--workers", "4", imports="mine")
    put(box, "long_line", range(LONG))

    def all_have_some() -> bool:
        shares = Counter(box.lines("pids"))
        return len(shares) == 4 and min(shares.values()) > 40

    wait_until(all_have_some)
    box.open()
    wait_until(lambda: is_over(box))
    assert numbers(box) == Counter(range(LONG))


def test_a_more_urgent_task_is_run_between_two_lines(box: Box) -> None:
    box.module(SLOW)
    put(box, "long_line", range(LONG))
    box.start(imports="mine")
    wait_until(lambda: len(box.lines()) > 10)

    def delay() -> float:
        told, began = len(box.lines("moments")), time()
        box.later("tell_moment", {"priority": 1})
        wait_until(lambda: len(box.lines("moments")) > told)
        return float(box.lines("moments")[-1]) - began

    # On a busy machine this may need more than one go.
    wait_until(lambda: sorted(delay() for _ in range(5))[2] < 0.05 * FACTOR)
    assert len(box.lines()) < LONG


def test_lines_that_fail_are_retried_by_themselves(box: Box) -> None:
    batch = put(box, "shaky_line", range(30))
    box.start(imports=MODULES)
    assert batch.wait(timeout=PATIENCE) is None
    assert numbers(box) == Counter(range(30))
    attempts = [f"{n}.1" for n in range(30)] + [f"{n}.2" for n in range(0, 30, 3)]
    assert sorted(box.lines("attempts")) == sorted(attempts)
    wait_until(lambda: is_over(box))
    wait_until(lambda: not any(n.endswith(".attempts") for n in box.names("logs")))


def test_a_poison_line_fails_by_itself_and_the_rest_runs(box: Box) -> None:
    calls = [box.spooler.call("line", {"n": n}) for n in range(10)]
    calls[4] = box.spooler.call("poison_line", {"n": 4})
    batch = box.spooler.spool_many(calls)
    daemon = box.start(imports=MODULES)
    wait_until(lambda: len(box.failed()) == 1 and is_over(box))
    assert numbers(box) == Counter(set(range(10)) - {4})
    line_id = derived_id(batch.id, 4)
    assert box.lines("attempts") == [f"{line_id} {n}" for n in (1, 2, 3)]
    why = box.why()
    assert (why["id"], why["task"], why["reason"]) == (line_id, "poison_line", "crash")
    assert [each["attempt"] for each in why["attempts"]] == [1, 2, 3]
    assert batch.state() is State.FAILED
    assert batch[4].state() is State.FAILED
    assert batch.wait(timeout=PATIENCE) is State.FAILED
    assert daemon.end() == 0


def test_a_line_past_its_time_limit_fails_by_itself(box: Box) -> None:
    calls = [box.spooler.call("line", {"n": n}) for n in range(6)]
    calls[2] = box.spooler.call("endless_line", {"n": 2})
    batch = box.spooler.spool_many(calls)
    box.start(imports=MODULES)
    wait_until(lambda: len(box.failed()) == 1 and is_over(box))
    assert numbers(box) == Counter({0, 1, 3, 4, 5})
    # Once; or, where the limit was over before its function had begun, never.
    assert box.lines("begun") in ([batch[2].id], [])
    why = box.why()
    assert (why["id"], why["reason"]) == (batch[2].id, "timeout")


def test_term_in_the_middle_gives_the_rest_back(box: Box) -> None:
    box.module(SLOW)
    batch = put(box, "long_line", range(LONG))
    daemon = box.start(imports="mine")
    wait_until(lambda: len(box.lines()) > 20)
    assert daemon.end() == 0
    assert len(box.lines()) < LONG
    assert batch.state() is State.WAITING
    assert box.is_left_clean()
    [name] = box.waiting()
    assert name == str(batch._name)
    box.open()
    box.burst(imports="mine")
    assert numbers(box) == Counter(range(LONG))
    assert is_over(box)


def test_special_lines_run_as_any_task(box: Box) -> None:
    calls = [box.spooler.call("parent_line", {"n": n}) for n in range(5)]
    calls += [box.spooler.call("limited_line", {"n": n}) for n in range(5, 10)]
    batch = box.spooler.spool_many(calls)
    box.start(imports=MODULES)
    assert batch.wait(timeout=PATIENCE) is None
    assert numbers(box) == Counter(range(10))
    results = [handle.result(timeout=PATIENCE) for handle in batch[:5]]
    assert results == [0, 2, 4, 6, 8]
    wait_until(lambda: len(box.lines("moments")) == 5)
    wait_until(lambda: is_over(box))


def test_a_bad_line_is_put_aside_and_the_rest_runs(box: Box) -> None:
    lines = (
        b'{"task":"line","args":{"n":1}}\nnonsense\n{"task":"line","args":{"n":2}}\n'
    )
    box.drop("5/batch", b'{"task":"_batch","args":{"count":3}}\n' + lines)
    box.start(imports=MODULES)
    box.wait_lines("1", "2")
    assert "line 2 of batch" in box.why("corrupt")["reason"]
    wait_until(lambda: is_over(box))


def test_a_waiting_batch_can_be_cancelled(box: Box) -> None:
    batch = put(box, "line", range(10))
    assert batch.cancel() is True
    box.burst(imports=MODULES)
    assert box.lines() == []


def test_threads_run_batches_too(box: Box) -> None:
    batch = put(box, "slow_line", range(200))
    box.start("--threads", "4", imports=MODULES)
    assert batch.wait(timeout=PATIENCE) is None
    assert numbers(box) == Counter(range(200))
    wait_until(lambda: is_over(box))


def test_a_worker_is_replaced_after_so_many_lines_with_options(box: Box) -> None:
    put(box, "limited_line", range(20))
    daemon = box.burst("--max-tasks", "5", imports=MODULES)
    assert set(numbers(box)) == set(range(20))
    assert daemon.text().count("recycle worker=") >= 3


def test_a_batch_in_threads_that_is_killed_leaves_no_line_behind(box: Box) -> None:
    box.module(SLOW)
    daemon = box.start("--threads", "2", imports="mine")
    deaths = 0

    def killed_between_two_lines() -> bool:
        """Kill a batch; tell whether that was possible without killing its worker.

        It is not on a machine that is too busy to do it within ``killing.CANCEL``.
        """
        nonlocal deaths
        batch = put(box, "long_line", range(LONG))
        done = len(box.lines())
        wait_until(lambda: len(box.lines()) > done + 5)
        (box.spool / "kill" / batch.id).touch()
        wait_until(lambda: not box.names("kill") and box.is_empty())
        [report] = (box.spool / "failed").glob(f"*.{batch.id}.*.why")
        assert json.loads(report.read_text())["reason"] == "killed"
        before, deaths = deaths, daemon.text().count(" died")
        return deaths == before

    assert any(killed_between_two_lines() for _ in range(20))
    assert "Killed" not in daemon.text()
