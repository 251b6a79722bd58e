"""What tasks print and how far they say they are: real daemons, real commands."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..helpers import FACTOR
from .conftest import LIMIT, Box, Spoold, wait_until
from .terminal import all_that_was_shown

SPOOL = str(Path(sys.executable).with_name("spool"))
MODULES = "printing"


def command(box: Box, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SPOOL, "--dir", str(box.spool), *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT * FACTOR,
        env=box.environ(),
    )


def background(box: Box, out: Path, *args: str) -> subprocess.Popen[bytes]:
    with out.open("wb") as stdout:
        return subprocess.Popen(
            [SPOOL, "--dir", str(box.spool), *args], stdout=stdout, env=box.environ()
        )


def start(box: Box, *options: str, **rest: Any) -> tuple[Spoold, Path]:
    """Start a daemon; return it and the file to which it prints."""
    out = box.out.parent / f"stdout{len(box.daemons)}"
    with out.open("wb") as stdout:
        return box.start(*options, imports=MODULES, stdout=stdout, **rest), out


def burst(box: Box, *options: str) -> str:
    """Run all that is due; return what was printed."""
    out = box.out.parent / f"stdout{len(box.daemons)}"
    with out.open("wb") as stdout:
        command = box.command("--burst", *options, imports=MODULES)
        daemon = box.launch(command, stdout=stdout)
    assert daemon.wait() == 0, daemon.text()
    return out.read_text()


def logs(box: Box) -> list[str]:
    return box.names("logs")


def test_what_a_failed_run_printed_is_kept_and_shown_escaped(box: Box) -> None:
    task_id = box.put("say_all_and_fail").id
    printed = burst(box)
    assert logs(box) == [f"{task_id}.1"]
    shown = command(box, "log", task_id)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[:4] == ["from print", "from stderr", "from a child", "from C"]
    assert re.fullmatch(r"\S+Z WARNING printing from logging", lines[4])
    assert lines[5:] == ["\\x1b]0;evil\\x07\ttab \\u202e é"]
    raw = (box.spool / "logs" / f"{task_id}.1").read_text()
    assert command(box, "log", task_id, "--raw").stdout == raw
    assert printed == raw
    daemon = box.daemons[-1]
    assert daemon.says("WARNING spoold[")
    assert daemon.says("] from logging")


def test_what_a_run_printed_that_succeeded_is_only_passed_on(box: Box) -> None:
    task_id = box.put("say").id
    assert burst(box) == "hello\n"
    assert logs(box) == []
    shown = command(box, "log", task_id)
    assert shown.returncode == 1
    assert shown.stderr.startswith(f"spool: {task_id}: ")


def test_keep_log_says_otherwise(box: Box) -> None:
    kept = box.put("say_and_keep").id
    by_put = box.later("say", {"keep_log": True}).id
    box.later("say_and_keep", {"keep_log": False})
    box.put("say_and_fail_in_secret")
    assert burst(box) == "hello\n" * 4
    assert logs(box) == sorted([f"{kept}.1", f"{by_put}.1"])
    assert command(box, "log", kept).stdout == "hello\n"


@pytest.mark.parametrize("mode", ["always", "never"])
def test_the_daemon_says_what_is_kept(box: Box, mode: str) -> None:
    task_id = box.put("say").id
    failed_id = box.put("say_all_and_fail").id
    printed = burst(box, "--keep-log", mode)
    assert "hello\n" in printed
    assert "from a child\n" in printed
    kept = {f"{task_id}.1", f"{failed_id}.1"} if mode == "always" else set()
    assert set(logs(box)) == kept


def test_each_attempt_has_a_log(box: Box) -> None:
    task_id = box.put("say_attempt_and_retry").id
    start(box)
    wait_until(box.failed)
    shown = command(box, "log", task_id[:8]).stdout
    pattern = (
        r"==> attempt 1, \S+Z, 10 bytes <==\nattempt 1\n"
        r"==> attempt 2, \S+Z, 10 bytes <==\nattempt 2\n"
    )
    assert re.fullmatch(pattern, shown)
    assert command(box, "log", task_id, "--attempt", "2").stdout == "attempt 2\n"
    found = command(box, "log", task_id, "--json").stdout.splitlines()
    assert [json.loads(line)["text"] for line in found] == [
        "attempt 1\n",
        "attempt 2\n",
    ]
    missing = command(box, "log", task_id, "--attempt", "3")
    assert missing.returncode == 1
    assert "no log of attempt 3 was kept" in missing.stderr
    assert command(box, "rm", task_id).returncode == 0
    assert not [name for name in logs(box) if not name.endswith(".live")]


def test_the_stack_of_a_worker_that_dies_is_kept_and_passed_on(box: Box) -> None:
    task_id = box.put("say_and_die").id
    daemon, out = start(box)
    wait_until(box.failed)
    shown = command(box, "log", task_id).stdout
    assert shown.startswith("last wordsFatal Python error: Segmentation fault\n")
    assert "in say_and_die" in shown
    assert daemon.end() == 0
    assert out.read_text() == shown
    assert logs(box) == [f"{task_id}.1"]


def test_what_a_dead_daemons_worker_printed_is_kept(box: Box) -> None:
    task_id = box.put("say_steps").id
    daemon, _ = start(box)
    wait_until(lambda: command(box, "log", task_id).stdout == "step 1\n")
    daemon.end(signal.SIGKILL)
    start(box)
    wait_until(lambda: f"{task_id}.1" in logs(box))
    wait_until(lambda: "attempt 2, running" in command(box, "log", task_id).stdout)
    assert "==> attempt 1, 2" in command(box, "log", task_id).stdout
    wait_until(lambda: len([n for n in logs(box) if n.endswith(".live")]) == 1)


def test_a_running_task_is_followed(box: Box) -> None:
    task_id = box.put("say_steps").id
    out = box.out.parent / "followed"
    follower = background(box, out, "log", "-f", task_id)
    start(box)
    for step in range(1, 4):
        wait_until(lambda step=step: f"step {step}\n" in out.read_text())  # type: ignore[misc]
        box.open(f"gate{step}")
    assert follower.wait(LIMIT * FACTOR) == 0
    assert out.read_text() in (
        "step 1\nstep 2\nstep 3\n",
        "step 1\nstep 2\nstep 3\nstep 4\n",
    )
    wait_until(box.is_empty)
    assert command(box, "log", "-f", task_id).returncode == 1


def test_following_goes_on_to_the_next_attempt_and_prints_what_was_kept(
    box: Box,
) -> None:
    task_id = box.put("say_attempt_and_retry").id
    out = box.out.parent / "followed"
    follower = background(box, out, "log", "-f", task_id)
    start(box)
    assert follower.wait(LIMIT * FACTOR) == 0
    wait_until(box.failed)
    text = out.read_text()
    assert text == "" or "attempt" in text  # a run may be over before it is seen
    shown = command(box, "log", "-f", task_id)
    assert shown.returncode == 0


def test_a_long_log_is_trimmed_while_it_is_printed(box: Box) -> None:
    task_id = box.put("say_much").id
    _, out = start(box)
    live = box.spool / "logs"

    def is_small() -> bool:
        sizes = [p.stat().st_size for p in live.glob("*.live")]
        return sizes != [0] and sizes != [] and sizes[0] < 100_000

    box.wait_lines("printed")  # or it is trimmed once more when the end comes
    wait_until(is_small)
    box.open()
    wait_until(box.failed)
    text = command(box, "log", task_id).stdout
    assert re.match(r"… \d{8} bytes left out …\n", text)
    assert text.endswith("x\nthe end\n")
    assert len(text) < 100_000
    wait_until(lambda: out.stat().st_size > 60_000)


def test_progress_is_shown_and_gone_afterwards(box: Box) -> None:
    task_id = box.put("say_steps").id
    box.open("gate1")
    start(box)
    wait_until(lambda: "2/4  50%  step \\x1b2" in command(box, "status").stdout)
    facts = json.loads(command(box, "status", "--json").stdout)
    (running,) = [run for worker in facts["workers"] for run in worker["running"]]
    assert running["progress"]["done"] == 2
    assert "progress  2/4  50%  step \\x1b2" in command(box, "show", task_id).stdout
    assert (
        json.loads(command(box, "show", task_id, "--json").stdout)["progress"][
            "attempt"
        ]
        == 1
    )
    for gate in ("gate2", "gate3"):
        box.open(gate)
    wait_until(box.is_empty)
    wait_until(lambda: not [n for n in logs(box) if not n.endswith(".live")])


def test_progress_of_a_failed_run_is_gone_and_bad_values_are_refused(box: Box) -> None:
    box.put("report_and_fail")
    box.put("report_badly")
    burst(box)
    assert box.lines() == ["UsageError: done=-1 cannot be: it takes 0 to 1e18"]
    assert logs(box) == []


def test_watch_ends_with_the_task(box: Box) -> None:
    task_id = box.put("say_steps").id
    out = box.out.parent / "watched"
    watcher = background(box, out, "watch", task_id)
    start(box)
    for step in range(1, 4):
        text = f"{task_id}  running  {step}/4  {step * 25}%  step \\x1b{step}\n"
        wait_until(lambda text=text: text in out.read_text())  # type: ignore[misc]
        box.open(f"gate{step}")
    assert watcher.wait(LIMIT * FACTOR) == 0
    assert out.read_text().endswith(f"{task_id}  finished\n")
    assert "\x1b" not in out.read_text()


def test_watch_tells_by_its_exit_code_that_a_task_has_failed(box: Box) -> None:
    task_id = box.put("report_and_fail").id
    burst(box)
    shown = command(box, "watch", task_id)
    assert (shown.returncode, shown.stdout) == (1, f"{task_id}  failed\n")
    found = command(box, "watch", "--json", task_id)
    assert json.loads(found.stdout)["state"] == "failed"
    assert command(box, "watch", "nosuch").returncode == 1


def test_watch_tells_that_a_task_was_removed(box: Box) -> None:
    task_id = box.later("say", {"at": "+1h"}).id
    out = box.out.parent / "watched"
    watcher = background(box, out, "watch", task_id)
    wait_until(lambda: "waiting" in out.read_text())
    assert command(box, "rm", task_id).returncode == 0
    assert watcher.wait(LIMIT * FACTOR) == 1
    assert out.read_text().endswith(f"{task_id}  removed\n")


def test_watch_draws_a_bar_on_a_terminal(box: Box) -> None:
    task_id = box.put("say_steps").id
    for step in range(1, 4):
        box.open(f"gate{step}")
    ours, theirs = pty.openpty()
    watcher = subprocess.Popen(
        [SPOOL, "--dir", str(box.spool), "watch", task_id],
        stdout=theirs,
        env=box.environ(),
    )
    os.close(theirs)
    shown = os.read(ours, 65536)  # it watches by now
    start(box)
    shown += all_that_was_shown(ours)
    assert watcher.wait(LIMIT * FACTOR) == 0
    assert shown.endswith(b"finished\x1b[K\r\n")
    plain = shown.replace(b"\x1b[K", b"")
    assert b"\x1b" not in plain


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["log", "x", "-f", "--json"], "--follow goes neither with"),
        (["log", "x", "-f", "--attempt", "1"], "--follow goes neither with"),
        (["log", "x", "--raw", "--json"], "--raw does not go with --json"),
        (["log", "x", "--attempt", "0"], "0 is not in the range"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    box: Box, options: list[str], problem: str
) -> None:
    shown = command(box, *options)
    assert shown.returncode == 2
    assert problem in shown.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--keep-log", "sometimes"], "'sometimes' is not one of"),
        (["--keep-logs-for", "0"], "keep_logs_for=0.0 cannot be"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    box: Box, options: list[str], problem: str
) -> None:
    daemon = box.launch(box.command(*options))
    assert daemon.wait() == 2
    assert problem in daemon.text()


def test_old_logs_are_swept_by_the_daemon(box: Box) -> None:
    file = box.spool / "logs" / "8c1f42d09ab3e617.1"
    file.write_text("x")
    os.utime(file, (0, 0))
    burst(box, "--keep-logs-for", "3600")
    assert logs(box) == []
