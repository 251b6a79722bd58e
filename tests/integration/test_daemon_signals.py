"""Signals: to the daemon, to workers, from a terminal."""

import os
import signal

import pytest

from .conftest import Box, is_alive, wait_until

NEW = "from tasks import *\nfrom tasks import write\n@spool\ndef mine(): write({!r})\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_daemon_drains(box: Box, number: int) -> None:
    daemon = box.start("--workers", "2")
    box.put("gate", text="one")
    box.put("gate", text="two")
    wait_until(lambda: len(box.lines("pid")) == 2)
    for _ in range(20):
        box.put("note", text="later")
    daemon.send(number)
    daemon.wait_for("drain: signal")
    box.put("note", text="later")
    box.open()
    assert daemon.wait() == 0
    assert sorted(box.lines()) == ["one", "two"]
    assert box.lines("attempts") == ["1", "1"]
    assert len(box.waiting()) == 21
    assert all(".5.0." in name for name in box.waiting())
    assert box.is_left_clean()
    wait_until(box.no_process_is_left)


def test_a_task_that_outlives_the_grace_is_given_back_uncounted(box: Box) -> None:
    daemon = box.start("--grace", "0.2")
    handle = box.put("gate")
    box.number("pid")
    [path] = box.running()
    assert daemon.end() == 0
    assert box.waiting() == [path.rpartition("/")[2]]
    assert f".0.{handle.id}" in box.waiting()[0]
    assert box.is_left_clean()
    assert not box.names("logs")
    box.open()
    box.burst()
    assert box.lines() == ["passed"]
    assert box.lines("attempts") == ["1", "1"]


def test_a_retried_task_keeps_its_attempt_when_it_is_given_back(box: Box) -> None:
    daemon = box.start("--grace", "0.2")
    box.put("gate")
    os.kill(box.number("pid"), signal.SIGKILL)
    wait_until(lambda: len(box.lines("attempts")) == 2)
    assert daemon.end() == 0
    assert ".5.1." in box.waiting()[0]


def test_a_second_signal_stops_at_once(box: Box) -> None:
    daemon = box.start("--grace", "1000")
    box.put("parent")
    child = box.number("child")
    daemon.send(signal.SIGTERM)
    daemon.wait_for("drain: signal")

    def is_stopped() -> bool:  # one in the first 0.2 s counts as the same
        daemon.send(signal.SIGTERM)
        return daemon.says("stop now")

    wait_until(is_stopped)
    assert daemon.wait() == 0
    assert len(box.waiting()) == 1
    assert ".5.0." in box.waiting()[0]
    wait_until(lambda: not is_alive(child))


def test_a_signal_that_comes_twice_at_once_is_one(box: Box) -> None:
    daemon = box.start()
    box.put("gate")
    box.number("pid")
    daemon.stop()  # so that it sees both together
    daemon.send(signal.SIGTERM)
    daemon.send(signal.SIGINT)
    os.kill(daemon.pid, signal.SIGCONT)
    daemon.wait_for("drain: signal")
    box.open()
    assert daemon.wait() == 0
    assert box.lines() == ["passed"]


def test_a_signal_while_the_modules_are_imported_stops(box: Box) -> None:
    box.module("from tasks import OUT, wait_for\n(OUT / 'in').touch()\nwait_for('x')\n")
    daemon = box.launch(box.command(imports="mine"))
    wait_until(lambda: (box.out / "in").exists())
    daemon.send(signal.SIGTERM)
    wait_until(
        lambda: daemon.says("drain: signal") or daemon.process.poll() is not None
    )
    box.open("x")
    assert daemon.wait() == 0
    assert box.is_left_clean()


def test_a_reload_brings_changed_code_and_loses_no_task(box: Box) -> None:
    box.module(NEW.format("old"))
    daemon = box.start("--workers", "2", imports="mine")
    for _ in range(100):
        box.put("note_slowly", text="x")
    box.put("mine")
    wait_until(lambda: "old" in box.lines())
    for _ in range(100):
        box.put("note_slowly", text="x")
    box.put("gate")
    box.module(NEW.format("new, and longer"))
    daemon.send(signal.SIGHUP)
    daemon.wait_for("reload: done")
    box.put("mine")
    wait_until(lambda: "new, and longer" in box.lines())
    box.open()
    wait_until(lambda: len(box.lines()) == 203)
    assert box.lines("attempts") == ["1"]
    wait_until(lambda: len(box.workers()) == 2)
    daemon.template()
    assert daemon.end() == 0


def test_a_running_task_ends_in_the_code_it_began_with(box: Box) -> None:
    daemon = box.start()
    box.put("gate")
    old = box.number("pid")
    daemon.send(signal.SIGHUP)
    daemon.wait_for("reload: done")
    box.put("note")
    box.wait_lines("done")
    assert is_alive(old)
    box.open()
    box.wait_lines("done", "passed")
    wait_until(lambda: not is_alive(old))
    assert box.lines("attempts") == ["1"]


def test_two_reloads_at_once_end_with_the_newest_code(box: Box) -> None:
    text = "from tasks import *\nfrom tasks import OUT, wait_for, write\n"
    box.module(NEW.format("first"))
    daemon = box.start(imports="mine")
    second = "(OUT / 'in').touch()\nwait_for('go')\n"
    box.module(text + second + "@spool\ndef mine(): write('second')\n")
    daemon.send(signal.SIGHUP)
    wait_until(lambda: (box.out / "in").exists())
    box.module(text + "@spool\ndef mine(): write('third')\n")
    daemon.send(signal.SIGHUP)
    box.open("go")
    wait_until(lambda: daemon.text().count("reload: done") == 2)
    box.put("mine")
    box.wait_lines("third")


@pytest.mark.parametrize("bad", ["def (", "1/0", "import os\nos._exit(0)"])
def test_a_reload_of_broken_code_keeps_the_old(box: Box, bad: str) -> None:
    box.module(NEW.format("old"))
    daemon = box.start(imports="mine")
    worker = box.worker()
    box.module(bad)
    daemon.send(signal.SIGHUP)
    daemon.wait_for("the old code goes on")
    box.put("mine")
    box.wait_lines("old")
    assert box.worker() == worker
    box.module(NEW.format("mended"))
    daemon.send(signal.SIGHUP)
    daemon.wait_for("reload: done")
    box.put("mine")
    box.wait_lines("old", "mended")


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "KILL"])
def test_a_worker_that_gets_a_signal_is_replaced(box: Box, name: str) -> None:
    number = signal.Signals[f"SIG{name}"]
    daemon = box.start()
    box.put("gate")
    first = box.number("pid")
    for text in range(30):
        box.put("note", text=str(text))
    os.kill(first, number)
    polite = name in ("TERM", "INT", "HUP")
    if not polite:
        wait_until(lambda: len(box.lines("pid")) == 2)
    box.open()
    box.wait_lines("passed", *map(str, range(30)))
    assert box.lines("attempts") == (["1"] if polite else ["1", "2"])
    wait_until(lambda: not is_alive(first))
    idle = box.worker()
    os.kill(idle, number)
    wait_until(lambda: not is_alive(idle))
    box.put("note")
    wait_until(lambda: "done" in box.lines())
    assert daemon.end() == 0


def test_ctrl_c_in_a_terminal_drains(box: Box) -> None:
    daemon = box.start(process_group=0)
    box.put("gate")
    box.number("pid")
    os.killpg(daemon.pid, signal.SIGINT)
    daemon.wait_for("drain: signal")
    box.open()
    assert daemon.wait() == 0
    assert box.lines() == ["passed"]
    assert box.lines("attempts") == ["1"]


def test_a_quit_ends_the_daemon_and_all_of_its_processes(box: Box) -> None:
    daemon = box.start()
    box.put("gate")
    box.number("pid")
    assert daemon.end(signal.SIGQUIT) == -signal.SIGQUIT
    wait_until(box.no_process_is_left)


def test_a_storm_of_signals_does_no_harm(box: Box) -> None:
    daemon = box.start()
    for number in range(50):
        box.put("note", text=str(number))
    for _ in range(200):
        daemon.send(signal.SIGHUP)
    box.wait_lines(*map(str, range(50)))
    wait_until(lambda: len(daemon.children()) == 1)
    for _ in range(50):
        if daemon.process.poll() is None:
            daemon.send(signal.SIGTERM)
    assert daemon.wait() == 0
    assert box.is_left_clean()


def test_threads_of_an_imported_module_do_not_hold_up_the_end(box: Box) -> None:
    box.module(
        "from threading import Event, Thread\nfrom tasks import note\n"
        "Thread(target=Event().wait).start()\n"
    )
    daemon = box.start(imports="mine")
    box.put("note")
    box.wait_lines("done")
    daemon.wait_for("have started threads")
    [template] = daemon.children()
    assert daemon.end() == 0
    assert not is_alive(template)
    assert not daemon.says("Traceback")
