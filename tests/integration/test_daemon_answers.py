"""What becomes of a task: its function's answer, exceptions, odd behaviour."""

import signal

import pytest

from .conftest import Box, stays, wait_until


def test_ok_finishes_a_raw_task(box: Box) -> None:
    box.put("answer", values=["OK"])
    box.burst()
    assert box.lines() == ["1"]
    assert box.is_empty()


@pytest.mark.parametrize("first", ["RETRY", "NONE"])
def test_all_but_ok_and_ignore_runs_a_raw_task_again(box: Box, first: str) -> None:
    daemon = box.start()
    box.put("answer", values=[first, "OK"])
    box.wait_lines("1", "2")
    wait_until(box.is_empty)
    assert daemon.text().count("retry") == 1


def test_ignore_leaves_a_task_for_later_without_counting(box: Box) -> None:
    box.start()
    box.put("ignored_until", name="gate")
    wait_until(lambda: box.lines("looks"))
    box.open()
    box.wait_lines("attempt 1")


def test_a_task_for_ever_runs_again_and_survives_exceptions(box: Box) -> None:
    daemon = box.start()
    box.put("forever")
    wait_until(lambda: len(box.lines()) >= 5)
    assert box.lines()[:5] == ["1", "1", "2", "1", "1"]
    assert daemon.says("ValueError: this run only")
    assert daemon.end() == 0
    assert len(box.waiting()) == 1


def test_retry_after_some_seconds_is_obeyed(box: Box) -> None:
    box.start()
    box.put("again_after", seconds=0.2)
    box.wait_lines("1", "2")
    wait_until(box.is_empty)


@pytest.mark.parametrize("seconds", ["inf", "nan", "-5", "1e30", "soon", "delta"])
def test_retry_after_any_value_leaves_the_worker_alive(box: Box, seconds: str) -> None:
    box.module(
        "from datetime import timedelta\n"
        "from spooler import Retry, spool\n"
        "from tasks import note\n"
        f"text = {seconds!r}\n"
        "try: after = float(text)\n"
        "except ValueError: after = text\n"
        "if text == 'delta': after = timedelta(days=3)\n"
        "@spool\n"
        "def again(): raise Retry('for a reason', after=after)\n"
    )
    box.put("again")
    daemon = box.burst("--backoff", "3600", imports="mine")
    assert daemon.says("Retry: for a reason")
    assert not daemon.says("died")
    [name] = [n for n in box.waiting() if n.endswith("again")] or [""]
    assert seconds == "-5" or ".1." in name


def test_fail_gives_up_at_once(box: Box) -> None:
    box.put("give_up")
    box.burst()
    why = box.why()
    assert why["reason"] == "fail"
    assert why["error"].endswith("Fail: it is of no use")
    assert len(why["attempts"]) == 1


def test_a_task_that_fails_each_time_ends_in_failed_with_everything(box: Box) -> None:
    box.start()
    box.put("broken", text="with\na newline")
    why = box.why()
    assert box.lines() == ["1", "2", "3"]
    assert why["reason"] == "exception"
    assert why["error"] == "ValueError: with a newline"
    assert "in broken" in why["traceback"]
    assert [each["attempt"] for each in why["attempts"]] == [1, 2, 3]
    assert all(each["seconds"] >= 0 for each in why["attempts"])
    wait_until(lambda: not box.logs())
    assert box.failed()[0].split(".")[2] == "3"


def test_the_options_of_the_daemon_are_the_defaults_of_tasks(box: Box) -> None:
    box.module(
        "from spooler import spool\n"
        "from tasks import write\n"
        "@spool\n"
        "def bad():\n"
        "    write('run')\n"
        "    raise OSError('no')\n"
    )
    box.put("bad")
    retry = ("--max-attempts", "2", "--backoff", "0.1", "--jitter", "0")
    box.start(*retry, imports="mine")
    assert box.why()["error"] == "OSError: no"
    assert box.lines() == ["run", "run"]


def test_arguments_that_do_not_fit_fail_at_once(box: Box) -> None:
    box.put("typed", count="four")
    box.burst()
    why = box.why()
    assert why["reason"] == "arguments"
    assert "count" in why["error"]
    assert len(why["attempts"]) == 1


def test_an_argument_whose_class_raises_is_an_exception(box: Box) -> None:
    box.put("strange", value={"value": 1})
    daemon = box.start()
    why = box.why()
    assert why["reason"] in ("exception", "arguments")
    assert not daemon.says("died")


@pytest.mark.parametrize(
    "body",
    [
        "    class Odd:\n        def __repr__(self): raise KeyError\n    return Odd()",
        "    class Odd:\n        def __eq__(self, o): raise KeyError\n    return Odd()",
        "    error = ValueError('text')\n    error.add_note('a note')\n    raise error",
        "    class Odd(Exception):\n        def __str__(self): 1/0\n    raise Odd",
        "    raise ExceptionGroup('many', [ValueError(1)])",
        "    raise RecursionError",
        "    raise StopIteration",
        "    raise GeneratorExit",
    ],
)
def test_no_return_and_no_exception_kills_the_worker(box: Box, body: str) -> None:
    box.module(
        f"from spooler import spoolraw\n@spoolraw(max_attempts=1)\ndef odd():\n{body}\n"
    )
    box.put("odd")
    daemon = box.burst(imports="mine")
    assert not daemon.says("died")
    why = box.why()
    assert why["reason"] == "exception"
    if "a note" in body:
        assert why["error"] == "ValueError: text"
        assert "a note" in why["traceback"]


def test_a_generator_is_not_taken_for_done(box: Box) -> None:
    box.module(
        "from spooler import spool\n@spool(max_attempts=1)\ndef odd():\n    yield 1\n"
    )
    box.put("odd")
    daemon = box.launch(box.command("--burst", imports="mine"))
    assert daemon.wait() in (0, 78)
    assert box.failed() or daemon.says("generator")


def test_an_unknown_task_waits_until_a_reload_brings_it(box: Box) -> None:
    box.module("from tasks import note")
    daemon = box.start(imports="mine")
    box.put("newcomer")
    daemon.wait_for("no function of that name here")
    wait_until(lambda: len(box.waiting()) == 1)
    box.module("from tasks import spool, write\n@spool\ndef newcomer(): write('new')\n")
    daemon.send(signal.SIGHUP)
    box.wait_lines("new")


def test_an_unknown_task_does_not_keep_burst_from_ending(box: Box) -> None:
    box.put("nobody_knows")
    box.put("note")
    box.burst()
    assert box.lines() == ["done"]
    [name] = box.waiting()
    assert ".5.0." in name


@pytest.mark.parametrize("how", ["exit", "interrupt", "memory"])
def test_an_exception_of_any_kind_is_an_attempt(box: Box, how: str) -> None:
    daemon = box.start()
    pid = box.worker()
    box.put("leave", how=how)
    box.wait_lines(f"{how} 1", f"{how} 2")
    wait_until(box.is_empty)
    assert box.workers() == [pid]
    assert daemon.text().count("retry") == 1


def test_a_forked_child_that_returns_does_not_go_on_as_a_worker(box: Box) -> None:
    daemon = box.start()
    box.put("fork")
    box.wait_lines("child", "parent")
    box.put("note")
    box.wait_lines("child", "parent", "done")
    wait_until(box.is_empty)
    assert daemon.end() == 0
    assert box.no_process_is_left()
    assert not daemon.says("died")


def test_each_task_begins_where_the_daemon_was_started(box: Box) -> None:
    gone = box.out / "gone"
    gone.mkdir()
    box.put("go_to", folder=str(gone))
    box.put("where")
    box.burst()
    assert box.lines() == [str(box.app)]


def test_a_start_folder_that_was_removed_does_no_harm(box: Box) -> None:
    home = box.out / "home"
    home.mkdir()
    daemon = box.start(cwd=home)
    box.worker()
    home.rmdir()
    box.put("note")
    box.put("go_to", folder="/")
    box.put("note")
    box.wait_lines("done", "done")
    assert not daemon.says("died")


def test_a_task_that_closes_the_standard_files_harms_nobody(box: Box) -> None:
    box.put("close_standard_files")
    box.later("size_of_file", {"body": b"x" * 100_000})
    box.put("note")
    box.put("broken", text="x")
    box.start()
    box.why()
    assert "done" in box.lines()
    assert any(line.startswith("100000 ") for line in box.lines())
    wait_until(box.is_empty)


def test_a_signal_that_a_task_handles_does_not_keep_its_worker_awake(box: Box) -> None:
    box.start()
    box.put("on_alarm")
    box.wait_lines("alarm")
    wait_until(box.is_empty)
    box.put("note")
    box.wait_lines("alarm", "done")


def test_a_process_that_a_task_leaves_does_not_hold_the_daemon(box: Box) -> None:
    daemon = box.start()
    box.put("leave_a_daemon")
    box.wait_lines("done")
    worker = box.worker()
    box.open("gate2")
    wait_until(box.is_empty)
    daemon.send(signal.SIGHUP)
    daemon.wait_for("reload: done")
    box.put("note")
    box.wait_lines("done", "done")
    wait_until(lambda: worker not in box.workers())
    assert daemon.end() == 0
    assert stays(lambda: box.number("orphan") in box.processes(), seconds=0.1)
    box.open()
    wait_until(box.no_process_is_left)


def test_a_process_started_by_an_imported_module_may_end(box: Box) -> None:
    box.module(
        "import subprocess\nfrom tasks import note\n"
        "started = subprocess.Popen(['sleep', '0.2'])\n"
        "from tasks import write\nwrite(str(started.pid), 'pid')\n"
    )
    daemon = box.start(imports="mine")
    pid = box.number("pid")
    wait_until(lambda: pid not in box.processes())
    box.put("note")
    box.wait_lines("done")
    assert daemon.end() == 0


def test_a_worker_without_descriptors_is_replaced(box: Box) -> None:
    script = 'ulimit -n 64; exec "$0" "$@"'
    daemon = box.launch(["sh", "-c", script, *box.command("--backoff", "0.1")])
    daemon.wait_for("serve spool=")
    box.put("leak")
    box.wait_lines("leaked")
    for number in range(10):
        box.put("note", text=str(number))
    box.wait_lines("leaked", *map(str, range(10)))
    wait_until(box.is_empty)
    assert daemon.end() == 0
    assert box.is_left_clean()
