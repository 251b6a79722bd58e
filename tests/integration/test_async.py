"""Async tasks run at the same time, beside plain ones and in threads."""

import json
import os
import signal

import pytest

from spooler import State

from .conftest import Box, Spoold, is_alive, stays, wait_until

APP = "concurrently"
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def start(box: Box, *options: str) -> Spoold:
    return box.start(*options, imports=APP)


# -- async ------------------------------------------------------------------------


@BACKENDS
def test_a_hundred_run_at_the_same_time(box: Box, backend: str) -> None:
    daemon = start(box, "--async-backend", backend)
    for number in range(100):
        box.put("wait", text=str(number))
    wait_until(lambda: len(box.lines("begun")) == 100)
    assert box.lines() == []
    box.open()
    box.wait_lines(*map(str, range(100)))
    assert daemon.end() == 0
    assert box.is_left_clean()


@BACKENDS
def test_no_more_run_at_a_time_than_allowed(box: Box, backend: str) -> None:
    start(box, "--async-backend", backend, "--async-concurrency", "3")
    for number in range(10):
        box.put("wait", text=str(number))
    wait_until(lambda: len(box.lines("begun")) == 3)
    assert stays(lambda: len(box.lines("begun")) == 3, seconds=0.3)
    assert len(box.running()) == 3  # the others can be had by somebody else
    box.open()
    box.wait_lines(*map(str, range(10)))


def test_the_backend_is_the_one_that_was_asked_for(box: Box) -> None:
    box.put("library")
    box.burst("--async-backend", "trio", imports=APP)
    box.put("library")
    box.burst(imports=APP)
    assert box.lines() == ["trio", "asyncio"]


@BACKENDS
def test_async_tasks_answer_like_others(box: Box, backend: str) -> None:
    options = ("--async-backend", backend)
    for how in ("retry", "exit", "error"):
        box.put("answers", how=how)
    box.put("raw")
    daemon = start(box, *options)
    expected = [f"{how} {n}" for how in ("retry", "exit", "error") for n in (1, 2)]
    box.wait_lines(*expected, "1", "2")
    wait_until(box.is_empty)
    box.put("answers", how="fail")
    assert box.why()["reason"] == "fail"
    daemon.end()


def test_arguments_that_do_not_fit_fail_for_good(box: Box) -> None:
    start(box)
    box.put("nap", seconds=[])
    assert box.why()["reason"] == "arguments"


def test_an_async_function_runs_for_ever(box: Box) -> None:
    start(box)
    box.put("forever")
    wait_until(lambda: len(box.lines()) > 2)


def test_an_async_timer_runs(box: Box) -> None:
    box.start(imports=APP, env={"TICKS": "1"})
    wait_until(lambda: len(box.lines()) > 1)


def test_a_body_stays_open_for_a_coroutine(box: Box) -> None:
    start(box)
    box.later("size", {"body": b"x" * 200_000})
    box.wait_lines("200000")


@BACKENDS
def test_a_put_can_be_awaited(box: Box, backend: str) -> None:
    start(box, "--async-backend", backend)
    box.put("puts", left=2)
    box.wait_lines("2", "puts", "1", "puts", "0", "noted")


# -- beside each other ------------------------------------------------------------


def test_a_plain_function_does_not_hold_up_async_ones(box: Box) -> None:
    start(box)
    box.put("block")
    wait_until(lambda: box.lines("begun"))
    for number in range(20):
        box.put("nap", text=str(number), seconds=0.05)
    box.wait_lines(*map(str, range(20)))
    wait_until(lambda: len(box.running()) == 1)  # acked while it goes on
    wait_until(lambda: box.lines("threads") == ["MainThread"])
    box.open()
    wait_until(box.is_empty)


def test_a_function_that_computes_does_not_hold_up_async_ones(box: Box) -> None:
    start(box)
    box.put("burn", seconds=1000)
    wait_until(lambda: box.lines("burning"))
    for number in range(20):
        box.put("nap", text=str(number), seconds=0.05)
    box.wait_lines(*map(str, range(20)))
    assert box.lines("burning") == ["begun"]


def test_plain_functions_run_one_at_a_time(box: Box) -> None:
    start(box)
    for number in range(3):
        box.put("block", text=str(number))
    wait_until(lambda: box.lines("begun"))
    assert stays(lambda: len(box.lines("begun")) == 1, seconds=0.2)
    box.open()
    box.wait_lines("0", "1", "2")


@pytest.mark.parametrize("first", ["wait", "block"])
def test_neither_kind_waits_behind_many_of_the_other(box: Box, first: str) -> None:
    other = {"wait": "block", "block": "wait"}[first]
    for number in range(300):
        box.put(first, text=f"{first} {number}", name="never")
    box.put(other, text="other", name="never")
    start(box, "--async-concurrency", "3", "--grace", "0.1")
    wait_until(lambda: "other" in box.lines("begun"))
    number = {"wait": 4, "block": 2}[first]
    wait_until(lambda: len(box.running()) == number)
    assert stays(lambda: len(box.running()) == number, seconds=0.2)


def test_urgent_tasks_run_first_of_their_kind(box: Box) -> None:
    for number in (7, 3, 9, 0, 5):
        box.later("note", {"priority": number}, text=str(number))
    box.burst(imports=APP)
    assert box.lines() == ["0", "3", "5", "7", "9"]


def test_a_plain_function_may_return_something_to_be_awaited(box: Box) -> None:
    start(box)
    box.put("gives_a_coroutine")
    box.wait_lines("spooler-loop gives_a_coroutine")
    box.put("gives_a_slow_coroutine")
    assert box.why()["reason"] == "timeout"
    wait_until(lambda: "cancelled" in box.lines())


@BACKENDS
def test_what_is_to_be_awaited_is_not_begun_when_its_time_is_over(
    box: Box, backend: str
) -> None:
    start(box, "--async-backend", backend)
    box.put("gives_a_coroutine_to_a_busy_loop")
    box.put("hold_the_loop", seconds=2)
    assert box.why()["reason"] == "timeout"
    box.put("gives_a_coroutine")
    box.wait_lines("spooler-loop gives_a_coroutine")


@BACKENDS
def test_each_run_has_a_context_of_its_own(box: Box, backend: str) -> None:
    for number in range(5):
        box.put("context", text=str(number))
        box.put("plain_context", text=str(number))
    box.burst("--async-backend", backend, imports=APP)
    box.put("whose")
    for number in range(5):
        box.put("plain_context", text=str(number))
    box.burst("--threads", "2", imports=APP)
    assert sorted(box.lines()) == ["True"] * 16 + ["nothing"] * 15


def test_the_next_task_is_where_the_daemon_was_started(box: Box) -> None:
    start(box)
    box.put("go_to", folder="/")
    box.open()
    box.put("where")
    box.wait_lines(str(box.app))


# -- time limits, kill ------------------------------------------------------------


@BACKENDS
def test_a_soft_limit_cancels_an_async_function(box: Box, backend: str) -> None:
    start(box, "--async-backend", backend)
    box.put("wait")
    box.put("slow")
    why = box.why()
    assert why["reason"] == "timeout"
    assert why["error"] == "SoftTimeout: its soft limit of 0.1 s is over"
    assert box.lines() == ["1", "cleaned", "2", "cleaned"]
    assert len(box.workers()) == 1  # nobody was killed
    box.open()
    wait_until(box.is_empty)


def test_what_ends_in_spite_of_its_soft_limit_has_succeeded(box: Box) -> None:
    start(box)
    box.put("slow_but_done")
    box.wait_lines("done")
    wait_until(box.is_empty)
    assert not box.failed()


@BACKENDS
def test_a_hard_limit_kills_and_counts_the_culprit_alone(
    box: Box, backend: str
) -> None:
    start(box, "--async-backend", backend)
    for _ in range(3):
        box.put("wait")
    wait_until(lambda: len(box.lines("attempts")) == 3)
    box.put("stuck")
    why = box.why()
    assert why["reason"] == "timeout"
    assert len(why["attempts"]) == 2
    box.open()
    wait_until(box.is_empty)
    assert set(box.lines("attempts")) == {"1"}
    assert box.lines().count("passed") == 3


def killed_alone(box: Box, task: str, number: int) -> bool:
    """Kill one of two runs; tell whether the worker lives and the other run goes on.

    On a machine that is too busy for its worker to end the run within a moment
    (``killing.CANCEL``) the worker is killed, and the other one runs again, uncounted.
    """
    texts = [f"{number} other", f"{number} killed"]
    other, killed = (box.put(task, text=text, name=texts[0]) for text in texts)
    wait_until(lambda: set(texts) <= set(box.lines("begun")))
    worker = box.worker()
    (box.spool / "kill" / killed.id).touch()
    wait_until(lambda: killed.state() is State.FAILED)
    [report] = (box.spool / "failed").glob(f"*.{killed.id}.*.why")
    assert json.loads(report.read_text())["reason"] == "killed"
    box.open(texts[0])
    wait_until(lambda: other.state() is None)
    runs = [line for line in box.lines() if line in texts]
    assert set(runs) == {texts[0]}
    assert set(box.lines("attempts")) <= {"1"}
    return is_alive(worker) and len(runs) == 1


@BACKENDS
def test_kill_ends_one_async_run_and_leaves_the_others(box: Box, backend: str) -> None:
    start(box, "--async-backend", backend)
    assert any(killed_alone(box, "wait", number) for number in range(20))


def test_kill_ends_a_plain_function_in_a_thread(box: Box) -> None:
    start(box, "--threads", "2")
    assert any(killed_alone(box, "block", number) for number in range(20))


def test_kill_of_a_plain_function_releases_the_async_ones(box: Box) -> None:
    start(box)
    box.put("wait", text="async")
    handle = box.put("block", name="never")
    wait_until(lambda: len(box.lines("begun")) == 2)
    (box.spool / "kill" / handle.id).touch()
    assert box.why()["reason"] == "killed"
    box.open()
    box.wait_lines("async")
    assert set(box.lines("attempts")) == {"1"}


def test_a_soft_limit_interrupts_the_main_thread_in_its_sleep(box: Box) -> None:
    start(box)
    box.put("one_long_wait")
    assert box.why()["error"].startswith("SoftTimeout: its soft limit of 0.2 s")


def test_a_soft_limit_comes_to_a_thread_too(box: Box) -> None:
    start(box, "--threads", "2")
    box.put("plain_slow")
    why = box.why()
    assert why["error"] == "SoftTimeout: its soft limit of 0.2 s is over"
    assert len(why["attempts"]) == 2
    # It may come before the first line of a function that a busy machine holds up.
    assert "cleaned" in box.lines()


# -- threads ----------------------------------------------------------------------


def test_threads_run_plain_functions_at_the_same_time(box: Box) -> None:
    start(box, "--threads", "8")
    for number in range(12):
        box.put("block", text=str(number))
    wait_until(lambda: len(box.lines("begun")) == 8)
    assert stays(lambda: len(box.lines("begun")) == 8, seconds=0.2)
    assert len(box.running()) == 8
    box.open()
    box.wait_lines(*map(str, range(12)))
    assert set(box.lines("threads")) == {f"spooler-{n}" for n in range(1, 9)}


def test_threads_serve_an_application_without_async_functions(box: Box) -> None:
    for number in range(50):
        box.put("note", text=str(number))
    box.burst("--threads", "4")
    assert sorted(box.lines(), key=int) == list(map(str, range(50)))
    assert box.is_left_clean()


# -- several workers --------------------------------------------------------------


def test_an_idle_worker_takes_what_another_cannot_begin(box: Box) -> None:
    start(box, "--workers", "2")
    wait_until(lambda: len(box.workers()) == 2)
    for number in range(2):
        box.put("block", text=str(number))
    wait_until(lambda: len(box.lines("begun")) == 2)
    assert len(set(box.lines("pid"))) == 2
    box.open()
    wait_until(box.is_empty)


def test_long_async_runs_do_not_keep_a_worker_from_more(box: Box) -> None:
    start(box, "--workers", "2")
    wait_until(lambda: len(box.workers()) == 2)
    for number in range(150):
        box.put("wait", text=str(number))
    wait_until(lambda: len(box.lines("begun")) == 150)
    box.open()
    wait_until(box.is_empty)


# -- the end ----------------------------------------------------------------------


@BACKENDS
def test_term_finishes_what_runs_and_begins_nothing(box: Box, backend: str) -> None:
    box.put("block", text="plain")
    for number in range(4):
        box.put("wait", text=str(number))
    options = ("--async-backend", backend, "--async-concurrency", "2")
    daemon = start(box, *options)
    wait_until(lambda: len(box.lines("begun")) == 3)
    daemon.send(signal.SIGTERM)
    daemon.wait_for("drain: signal")
    assert stays(lambda: daemon.process.poll() is None, seconds=0.2)
    box.open()
    assert daemon.wait() == 0
    assert sorted(box.lines()) == ["0", "1", "plain"]
    assert len(box.waiting()) == 2
    assert box.is_left_clean()


def test_term_to_the_worker_alone_drains_it(box: Box) -> None:
    start(box)
    box.put("block")
    wait_until(lambda: box.lines("begun"))
    worker = box.worker()
    os.kill(worker, signal.SIGTERM)
    box.put("nap", text="other")  # another worker takes its place at once
    box.wait_lines("other")
    assert is_alive(worker)
    box.open()
    wait_until(lambda: not is_alive(worker))
    assert sorted(box.lines()) == ["blocked", "other"]


def test_what_runs_longer_than_the_grace_is_released(box: Box) -> None:
    daemon = start(box, "--grace", "0.2")
    for _ in range(3):
        box.put("wait")
    wait_until(lambda: len(box.lines("begun")) == 3)
    assert daemon.end() == 0
    assert [name.split(".")[2] for name in box.waiting()] == ["0"] * 3


def test_all_runs_of_a_killed_worker_come_back_counted(box: Box) -> None:
    start(box)
    for _ in range(20):
        box.put("wait")
    wait_until(lambda: len(box.lines("attempts")) == 20)
    os.kill(box.worker(), signal.SIGKILL)
    box.open()
    wait_until(box.is_empty)
    assert sorted(box.lines("attempts")) == ["1"] * 20 + ["2"] * 20


def test_a_recycled_worker_is_replaced_while_a_long_run_goes_on(box: Box) -> None:
    start(box, "--max-tasks", "3")
    box.put("wait")
    wait_until(lambda: box.lines("begun"))
    for number in range(20):
        box.put("note", text=str(number))
    box.wait_lines(*map(str, range(20)))
    box.open()
    wait_until(box.is_empty)
    assert box.lines("attempts") == ["1"]


def test_a_coroutine_that_blocks_the_loop_can_be_killed(box: Box) -> None:
    start(box, "--hard-timeout", "0.4")
    box.put("blocking")
    assert box.why()["reason"] == "timeout"


def test_many_quick_tasks_are_done(box: Box) -> None:
    for _ in range(2000):
        box.put("nothing")
    box.burst(imports=APP)
    assert box.is_empty()


def test_a_worker_whose_loop_is_stopped_is_replaced(box: Box) -> None:
    box.module(
        "import asyncio\n"
        "from spooler import current_task, spool\n"
        "@spool\n"
        "async def stops(text: str) -> None:\n"
        "    if current_task().attempt == 1:\n"
        "        asyncio.get_running_loop().stop()\n"
        "        await asyncio.sleep(10)\n"
        "    print(text, flush=True)\n"
    )
    daemon = box.start("--keep-log", "never", imports="mine")
    box.put("stops", text="again")
    daemon.wait_for("its event loop has died")
    wait_until(box.is_empty)
    # As asyncio cancels what runs in any order, the worker may have settled it yet.
    wait_until(lambda: daemon.says("recover task=") or daemon.says("retry task="))


def test_an_application_without_async_functions_never_loads_anyio(box: Box) -> None:
    box.module(
        "import os, sys\n"
        "from spooler import spool\n"
        "@spool\n"
        "def loaded() -> None:\n"
        "    with open(os.environ['OUT'] + '/out', 'a') as file:\n"
        "        print('anyio' in sys.modules, file=file)\n"
    )
    box.put("loaded")
    box.burst(imports="mine")
    assert box.lines() == ["False"]


def test_a_backend_that_is_not_there_is_refused(box: Box) -> None:
    command = box.command("--async-backend", "curio", imports=APP)
    daemon = box.launch(command)
    assert daemon.wait() == 2
    assert "'curio' is not one of 'asyncio', 'trio'" in daemon.text()


def test_workers_that_have_done_enough_do_not_pile_up(box: Box) -> None:
    for number in range(12):
        box.put("block", text=str(number))
    box.start("--max-tasks", "1", "--threads", "3", imports=APP)
    wait_until(lambda: len(box.lines("begun")) >= 4)
    assert stays(lambda: len(box.workers()) <= 2, seconds=0.5)
    assert len(box.lines("begun")) <= 4
    box.open()
    wait_until(box.is_empty)
    assert len(box.lines()) == 12
