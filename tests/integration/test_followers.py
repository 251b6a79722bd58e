"""Followers of tasks with real daemons: after success, after failure, after kills."""

import os
import random
import signal
from contextlib import suppress
from threading import Event
from time import time

import pytest

from spooler import Handle
from spooler.task import derived_id

from .conftest import Box, is_alive, wait_until

IMPORTS = "following"


def follower(handle: Handle, kind: str = "then", number: int = 0) -> str:
    return derived_id(handle.id, kind, number)


def ran(box: Box) -> list[tuple[str, str, str]]:
    """Return id, parent and the argument of followers that have run."""
    return [
        (fields[0], fields[1], fields[3])
        for fields in (line.split() for line in box.lines("last"))
    ]


@pytest.mark.parametrize("task", ["decorated", "fails", "dies"])
def test_a_decorators_followers_are_put_when_the_task_has_ended(
    box: Box, task: str
) -> None:
    handle = box.put(task)
    box.start(imports=IMPORTS)
    kind = "then" if task == "decorated" else "on_failure"
    wanted = {
        "decorated": [(0, "7")],
        "fails": [(0, "0"), (1, "8")],
        "dies": [(0, "0")],
    }[task]
    wait_until(lambda: len(box.lines("last")) == len(wanted))
    assert sorted(ran(box)) == sorted(
        (follower(handle, kind, n), handle.id, number) for n, number in wanted
    )
    wait_until(box.is_empty)
    assert len(box.failed()) == (task != "decorated")


def test_a_puts_followers_take_the_place_of_the_decorators(box: Box) -> None:
    last = box.spooler.call("last", {"number": 1})
    handle = box.later("decorated", {"then": [last, "last"]})
    box.later("decorated", {"then": []})
    box.burst(imports=IMPORTS)
    assert sorted(ran(box)) == sorted(
        [
            (follower(handle, number=0), handle.id, "1"),
            (follower(handle, number=1), handle.id, "0"),
        ]
    )
    assert len(box.lines("parents")) == 2


@pytest.mark.parametrize("task", ["waits_for_nothing", "second_time"])
def test_followers_are_put_once_the_task_succeeds(box: Box, task: str) -> None:
    handle = box.later(task, {"then": "last", "on_failure": "fails"})
    box.start(imports=IMPORTS)
    wait_until(lambda: box.lines("last"))
    assert ran(box) == [(follower(handle), handle.id, "0")]
    wait_until(box.is_empty)


def test_a_follower_has_followers(box: Box) -> None:
    chain = box.spooler.call("ends", then=box.spooler.call("ends", then="last"))
    handle = box.later("ends", {"then": chain})
    box.burst(imports=IMPORTS)
    second = follower(handle)
    third = derived_id(second, "then", 0)
    assert box.lines("parents") == [handle.id, second, third]
    assert ran(box) == [(derived_id(third, "then", 0), third, "0")]


def test_a_followers_moment_counts_from_the_end_of_its_parent(box: Box) -> None:
    pause = box.spool / "paused" / "task.last"
    pause.touch()
    last = box.spooler.call("last", at="+0.5s", priority=2)
    handle = box.later("ends", {"then": last, "priority": 7})
    box.start(imports=IMPORTS)
    wait_until(lambda: box.lines("parents"))
    wait_until(lambda: len(box.waiting()) == 1 and not box.running())
    [due, *rest] = box.waiting()[0].split(".")
    assert rest == ["2", "0", follower(handle), "last"]
    written = (box.out / "parents").stat().st_mtime
    assert written + 0.49 < int(due) / 1e6 < time() + 0.5
    pause.unlink()
    wait_until(lambda: ran(box) == [(follower(handle), handle.id, "0")])


def test_a_task_that_was_not_run_in_time_puts_its_failure(box: Box) -> None:
    handle = box.later(
        "ends", {"expires": "+0.001s", "on_failure": "last", "then": "fails"}
    )
    box.burst(imports=IMPORTS)
    assert ran(box) == [(follower(handle, "on_failure"), handle.id, "0")]
    assert box.why()["reason"] == "expired"


def test_a_task_may_have_more_time_than_there_are_moments(box: Box) -> None:
    handle = box.later("ends", {"expires": "+9000000000", "then": "last"})
    daemon = box.burst(imports=IMPORTS)
    assert ran(box) == [(follower(handle), handle.id, "0")]
    assert " died" not in daemon.text()


@pytest.mark.parametrize("how", ["timeout", "killed"])
def test_a_task_that_is_killed_puts_its_failure(box: Box, how: str) -> None:
    options = {"hard_timeout": 0.3} if how == "timeout" else {}
    handle = box.later("hangs", options)
    box.start(imports=IMPORTS)
    if how == "killed":
        wait_until(lambda: box.lines("parents"))
        assert handle.kill()
    wait_until(lambda: box.lines("last"))
    assert ran(box) == [(follower(handle, "on_failure"), handle.id, "0")]
    assert box.why()["reason"] == how
    wait_until(box.is_empty)


def test_arguments_that_do_not_fit_put_the_failure(box: Box) -> None:
    handle = box.spooler.put("ends", {"no": 1}, on_failure="last")
    box.burst(imports=IMPORTS)
    assert ran(box) == [(follower(handle, "on_failure"), handle.id, "0")]


def test_a_task_that_is_ignored_puts_nothing(box: Box) -> None:
    handle = box.later("ignores", {"then": "last", "on_failure": "last"})
    box.start(imports=IMPORTS)
    wait_until(lambda: len(box.lines("parents")) >= 2)
    names = [*box.waiting(), *(path.split("/")[2] for path in box.running())]
    assert {name.split(".")[3] for name in names} <= {handle.id}
    assert not box.lines("last")


def test_a_follower_that_nobody_knows_waits(box: Box) -> None:
    handle = box.later("ends", {"then": "nobody"})
    box.burst(imports=IMPORTS)
    assert [name.split(".")[3] for name in box.waiting()] == [follower(handle)]


def test_a_daemon_refuses_a_decorators_follower_that_is_no_task(box: Box) -> None:
    box.module(
        "from spooler import spool\n@spool(on_failure='tell_boddy')\ndef f(): pass\n"
    )
    line = box.refused(box.command(imports="mine"), 78)
    assert "task f: on_failure= names 'tell_boddy'" in line


def test_a_daemon_refuses_a_followers_follower_that_is_no_task(box: Box) -> None:
    box.module(
        "from spooler import spool\n"
        "@spool\ndef g(): pass\n"
        "@spool(then=g)\ndef f(): pass\n"
        "@spool(then=f.using(then='nobody').call())\ndef e(): pass\n"
    )
    line = box.refused(box.command(imports="mine"), 78)
    assert "task f: then= names 'nobody'" in line


def kill_some(box: Box, daemon_too: bool, seed: int) -> None:
    """Kill workers, now and then the daemon, until nothing is left to do."""
    chance = random.Random(seed)
    daemon = box.start("--workers", "2", imports=IMPORTS)
    for _ in range(40):
        Event().wait(chance.uniform(0.0, 0.05))
        if daemon_too and chance.random() < 0.2:
            daemon.end(signal.SIGKILL)
            daemon = box.start("--workers", "2", imports=IMPORTS)
            continue
        for pid in box.workers():
            if chance.random() < 0.5 and is_alive(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    wait_until(box.is_empty, timeout=60.0)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("daemon_too", [False, True], ids=["workers", "daemons"])
def test_each_parent_that_ended_has_its_follower_once_whatever_is_killed(
    box: Box, daemon_too: bool
) -> None:
    handles = [
        box.later("ends", {"then": "last", "on_failure": "last"}, seconds=0.002)
        for _ in range(400)
    ]
    kill_some(box, daemon_too, seed=daemon_too)
    failed = {name.split(".")[3] for name in box.failed()}
    wanted = {
        follower(h, "on_failure" if h.id in failed else "then"): h.id for h in handles
    }
    # A follower may be killed too, and run again; but then as another attempt.
    attempts = [tuple(line.split()[:3]) for line in box.lines("last")]
    assert len(attempts) == len(set(attempts)), "a follower was put twice"
    found = {task_id: parent for task_id, parent, _ in attempts}
    lost = failed & set(wanted)  # a follower that was killed too often
    assert {**found, **{each: wanted[each] for each in lost}} == wanted
