"""Hooks in real workers, and workers that are replaced since they have grown."""

import os
import signal

import pytest

from .conftest import Box, wait_until

IMPORTS = "following"


def test_a_worker_calls_its_hooks_at_both_ends(box: Box) -> None:
    daemon = box.start("--max-tasks", "2", imports=IMPORTS, env={"HOOKS": "life"})
    for _ in range(4):
        box.put("pid")
    wait_until(lambda: len(box.lines("pids")) == 4)
    pids = list(dict.fromkeys(box.lines("pids")))
    assert len(pids) == 2
    wait_until(lambda: len(box.lines("hooks")) >= 5)
    assert daemon.end() == 0
    third = box.lines("hooks")[-1].split()[1]
    assert sorted(box.lines("hooks")) == sorted(
        f"{word} {pid}" for pid in [*pids, third] for word in ("start", "stop")
    )
    assert box.lines("hooks")[0] == f"start {pids[0]}"
    assert daemon.says("recycle worker=")
    assert daemon.says("after 2 runs")


def test_the_template_calls_no_hook(box: Box) -> None:
    daemon = box.start(imports=IMPORTS, env={"HOOKS": "life"})
    wait_until(lambda: box.lines("hooks"))
    worker = box.worker()
    assert worker != daemon.template()
    assert box.lines("hooks") == [f"start {worker}"]


def test_each_run_has_its_hooks(box: Box) -> None:
    box.put("second_time")
    box.put("waits_for_nothing")
    box.start(imports=IMPORTS, env={"HOOKS": "runs"})
    wait_until(lambda: len(box.lines("parents")) == 2 and box.is_empty())
    wanted = [
        "before second_time 1",
        "failure second_time 1 ValueError: not yet",
        "after second_time 1",
        "before waits_for_nothing 1",
        "after waits_for_nothing 1",
        "before second_time 2",
        "after second_time 2",
    ]
    assert sorted(box.lines("hooks")) == sorted(wanted)


def test_hooks_that_fail_change_nothing(box: Box) -> None:
    daemon = box.start(imports=IMPORTS, env={"HOOKS": "broken"})
    box.put("pid")
    wait_until(lambda: len(box.lines("pids")) == 1)
    wait_until(box.is_empty)
    assert daemon.end() == 0
    text = daemon.text()
    assert text.count("hook following.broken raised SystemExit") == 2
    assert text.count("hook following.broken_too raised ValueError") == 2
    assert box.is_left_clean()
    assert not box.failed()


def test_an_async_hook_is_refused(box: Box) -> None:
    box.module("from spooler import before_task\n@before_task\nasync def f(t): pass\n")
    line = box.refused(box.command(imports="mine"), 78)
    assert "hook mine.f is async: a hook is a plain function" in line


@pytest.mark.parametrize("tasks", [[300], [80, 80, 140]], ids=["at once", "slowly"])
def test_a_worker_that_has_grown_is_replaced(box: Box, tasks: list[int]) -> None:
    daemon = box.start("--max-rss", "260M", imports=IMPORTS)
    first = box.worker()
    for megabytes in tasks:
        box.put("leaks", megabytes=megabytes)
        wait_until(lambda: box.is_empty())
    wait_until(lambda: box.workers() not in ([], [first]))
    assert set(box.lines("pids")) == {str(first)}
    daemon.wait_for("MiB of memory")
    box.put("pid")
    wait_until(lambda: len(box.lines("pids")) == len(tasks) + 1)
    assert box.lines("pids")[-1] != str(first)
    assert not box.failed()
    assert not daemon.says("died")


def test_an_idle_worker_that_has_grown_is_replaced(box: Box) -> None:
    box.start("--max-rss", "260M", imports=IMPORTS)
    first = box.worker()
    box.put("pid")  # its memory was looked at just now
    box.put("leaks", megabytes=300)
    wait_until(lambda: len(box.lines("pids")) == 2)
    wait_until(lambda: box.workers() not in ([], [first]))


def test_a_worker_that_has_not_grown_stays(box: Box) -> None:
    box.start("--max-rss", "1G", imports=IMPORTS)
    first = box.worker()
    for _ in range(20):
        box.put("leaks", megabytes=1)
    wait_until(lambda: len(box.lines("pids")) == 20)
    assert set(box.lines("pids")) == {str(first)}
    os.kill(first, signal.SIGTERM)


def test_a_size_that_is_none_is_refused(box: Box) -> None:
    line = box.refused(box.command("--max-rss", "200"), 2)
    assert "max_rss='200' cannot be: it takes a size such as 200M" in line
