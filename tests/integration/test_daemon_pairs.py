"""Two daemons, and more, on one spool."""

import signal
from collections import Counter

from .conftest import Box, wait_until


def test_two_daemons_run_each_of_500_tasks_once(box: Box) -> None:
    daemons = [box.start(), box.start()]
    for number in range(500):
        box.put("note", text=str(number))
    wait_until(lambda: len(box.lines()) >= 500, timeout=30)
    wait_until(box.is_empty)
    assert Counter(box.lines()) == Counter(map(str, range(500)))
    for daemon in daemons:
        assert daemon.end() == 0
        assert not daemon.says("died")
    assert box.is_left_clean()


def test_two_daemons_share_what_was_there_before(box: Box) -> None:
    rounds = 10
    for number in range(2 * rounds):
        box.put("gate", text="passed", name=f"gate{number // 2}")
    for number in range(500):
        box.put("note", text=str(number))
    daemons = [box.start("--burst"), box.start("--burst")]
    for number in range(rounds):  # in each of which each of them has one
        wait_until(lambda number=number: len(box.lines("pid")) == 2 * number + 2)  # type: ignore[misc] # its own
        box.open(f"gate{number}")
    for daemon in daemons:
        assert daemon.wait() == 0
    assert set(Counter(box.lines("pid")).values()) == {rounds}
    notes = [line for line in box.lines() if line != "passed"]
    assert Counter(notes) == Counter(map(str, range(500)))
    assert all(daemon.text().count(" ack ") >= rounds for daemon in daemons)


def test_many_daemons_run_each_of_many_tasks_once(box: Box) -> None:
    paused = box.spool / "paused" / "all"
    paused.touch()
    for number in range(3000):
        box.put("note", text=str(number))
    for _ in range(4):
        box.start()
    paused.unlink()  # so that all begin at the same moment
    wait_until(lambda: len(box.lines()) >= 3000, timeout=30)
    wait_until(box.is_empty)
    assert Counter(box.lines()) == Counter(map(str, range(3000)))


def test_a_stopped_daemon_holds_up_nothing(box: Box) -> None:
    paused = box.spool / "paused" / "all"
    paused.touch()
    for number in range(2000):
        box.put("note", text=str(number))
    daemons = [box.start() for _ in range(3)]
    paused.unlink()
    wait_until(lambda: len(box.lines()) > 100)
    daemons[0].send(signal.SIGSTOP)
    wait_until(lambda: len(box.lines()) >= 2000, timeout=30)
    daemons[0].send(signal.SIGCONT)
    wait_until(box.is_empty)
    assert Counter(box.lines()) == Counter(map(str, range(2000)))


def test_when_one_of_two_daemons_is_killed_the_other_runs_all(box: Box) -> None:
    for number in range(500):
        box.put("note_slowly", text=str(number), seconds=0.002)
    first = box.start("--workers", "2")
    box.start("--workers", "2")
    wait_until(lambda: len(box.lines()) > 100)
    first.end(signal.SIGKILL)
    wait_until(lambda: len(set(box.lines())) == 500, timeout=30)
    wait_until(box.is_empty)
    assert len(box.lines()) <= 502
    wait_until(lambda: len(box.names("workers")) == 6)


def test_two_daemons_adopt_each_dropped_file_once(box: Box) -> None:
    box.start()
    box.start()
    for number in range(100):
        box.drop(f"5/file{number}", f"task=note\ntext={number}\n".encode())
    wait_until(lambda: len(box.lines()) >= 100)
    wait_until(box.is_empty)
    assert Counter(box.lines()) == Counter(map(str, range(100)))
    assert not box.names("corrupt")


def test_a_task_that_one_daemon_does_not_know_is_run_by_the_other(box: Box) -> None:
    box.module("")
    other = box.start(imports="mine")
    for number in range(10):
        box.put("note", text=str(number))
    wait_until(lambda: other.text().count("no function of that name here") >= 10)
    # So that chance does not decide how often it is asked first.
    other.send(signal.SIGSTOP)
    box.start()
    box.wait_lines(*map(str, range(10)))


def test_a_living_worker_is_never_taken_for_dead(box: Box) -> None:
    box.start()
    box.put("gate")
    box.number("pid")
    other = box.start("--frequency", "0.1")
    for number in range(20):
        box.put("note", text=str(number))
    wait_until(lambda: len(box.lines()) == 20)
    other.send(signal.SIGHUP)
    other.wait_for("reload: done")
    box.open()
    wait_until(lambda: "passed" in box.lines())
    assert box.lines("attempts") == ["1"]
