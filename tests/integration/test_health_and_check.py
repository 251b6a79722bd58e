"""``spool health`` and ``spool check``, beside a real daemon and after its death."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..helpers import FACTOR
from .conftest import SPOOLD, Box, is_stopped, wait_until

SPOOL = SPOOLD.with_name("spool")


def spool(box: Box, *args: str, code: int = 0) -> str:
    """Run the command, check its exit code, return what it printed."""
    command = [str(SPOOL), "--dir", str(box.spool), *args]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=20 * FACTOR, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def facts(box: Box, *args: str, code: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in spool(box, *args, code=code).splitlines()]


def test_health_follows_the_daemon(box: Box) -> None:
    assert "no daemon serves it" in spool(box, "health", code=1)
    daemon = box.start("--backoff=0.1", "--max-attempts=1")
    box.put("note")
    box.wait_lines("done")
    wait_until(lambda: not box.running())
    text = spool(box, "health")
    assert text.startswith("healthy: 1 daemon, 1 worker, 0 running, last move ")
    [now] = facts(box, "health", "--json")
    assert now["healthy"]
    assert now["moved"] is not None
    box.put("gate")
    box.number("pid")
    box.put("note")
    assert "1 running" in spool(box, "health")
    wait_until(lambda: facts(box, "health", "--json")[0]["oldest"] is not None)
    text = spool(box, "health", "--max-age=0.001", code=1)
    assert "(note) has been due for" in text
    box.open()
    box.wait_lines("done", "passed", "done")
    box.put("give_up")
    wait_until(box.failed)
    wait_until(lambda: not box.running())
    assert (
        spool(box, "health", code=1) == "unhealthy: 1 failed: see `spool ls failed`\n"
    )
    spool(box, "health", "--max-failed=1")
    spool(box, "health", "--progress")
    daemon.end()
    assert "no daemon" in spool(box, "health", "--progress", code=1)


def test_a_stopped_daemon_is_noticed_by_what_waits(box: Box) -> None:
    daemon = box.start()
    pid = box.worker()
    daemon.stop()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(pid))
    try:
        box.put("note")
        text = "nothing was begun or finished for"
        wait_until(
            lambda: (
                text
                in subprocess.run(
                    [SPOOL, "--dir", box.spool, "health", "--max-idle=0.3"],
                    capture_output=True,
                    text=True,
                    check=False,
                ).stdout
            )
        )
    finally:
        os.kill(pid, signal.SIGCONT)
        daemon.send(signal.SIGCONT)
    box.wait_lines("done")


def test_check_finds_nothing_beside_a_busy_daemon(box: Box) -> None:
    box.start("--workers=2")
    for number in range(300):
        box.put("note_slowly", text=str(number))
        if number % 100 == 0:
            box.drop(f"5/dropped{number}", f"task=note\ntext=x{number}\n".encode())
            assert facts(box, "check", "--json") == []
    wait_until(lambda: len(box.lines()) == 303)
    assert spool(box, "check").endswith("nothing found\n")


def test_check_gives_back_what_a_killed_daemon_held(box: Box) -> None:
    daemon = box.start()
    box.put("gate")
    box.number("pid")
    daemon.send(signal.SIGKILL)
    daemon.wait()
    wait_until(box.no_process_is_left)
    found = facts(box, "check", "--json", code=1)
    assert {each["kind"] for each in found} == {"dead"}
    assert sorted(each["text"] for each in found) == [
        "is dead, and held 1 task",
        "is dead, and left its files behind",
    ]
    mended = facts(box, "check", "--repair", "--json")
    assert all(each["mended"] for each in mended)
    assert box.is_left_clean()
    [name] = box.waiting()
    assert name.split(".")[2] == "1"
    box.open()
    box.burst()
    box.wait_lines("passed")
    assert spool(box, "check").endswith("nothing found\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_what_one_may_not_mend_is_told(box: Box) -> None:
    user = 65534
    for path in (box.spool, *box.spool.iterdir()):
        os.chown(path, user, user)
    for path in (box.spool, *box.spool.parents):
        if path.stat().st_uid == 0 and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    (box.spool / "limits" / "x").touch()
    (box.spool / "05").mkdir(mode=0o700)
    # The interpreter itself may be out of this user's reach: import first.
    script = (
        "import os, sys, spooler.spooldir.checks\n"
        "from spooler.cli.spool import main\n"
        f"os.setgroups([]); os.setgid({user}); os.setuid({user})\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", script, "--dir", str(box.spool)]
    command += ["check", "--repair"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "owner  limits/x belongs to uid 0, the spool to uid 65534: chown it" in (
        done.stdout
    )
    assert "foreign  05 is a folder of uWSGI's" in done.stdout


def test_what_fails_again_and_again_is_seen_and_what_is_released_is_not(
    box: Box,
) -> None:
    daemon = box.start()
    box.put("again_after", seconds=3600)
    box.put("nobody_has_this")
    box.put("ignored_until", name="never")
    wait_until(lambda: daemon.says("retry "))
    wait_until(lambda: daemon.says("name=nobody_has_this"))
    wait_until(lambda: daemon.says("name=ignored_until"))
    wait_until(lambda: not box.running())
    [listed] = facts(box, "ls", "retrying", "--json")
    assert (listed["task"], listed["attempt"]) == ("again_after", 1)
    assert listed["reason"] == "Retry: not yet"
    [counted] = facts(box, "status", "--json")
    assert (counted["retrying"], counted["most_attempts"]) == (1, 1)
    spool(box, "health")  # some retries are no reason to wake anybody
    assert spool(box, "health", "--max-retrying=1").endswith(", 1 retrying\n")
    problem = "unhealthy: 1 retrying: see `spool ls retrying`\n"
    assert spool(box, "health", "--max-retrying=0", code=1) == problem
    spool(box, "health", "--max-retrying=0", "--min-attempts=2")
    spool(box, "health", "--max-retrying=0", "--max-unknown=0", "--progress")
    assert spool(box, "health", "--max-unknown=1").endswith(", 1 unknown\n")
    assert spool(box, "health", "--max-unknown=0", code=1).startswith(
        "unhealthy: 1 waits, and no daemon has a function of its name"
    )
    daemon.end()
    # Nor does it count as an attempt that a daemon ended meanwhile.
    assert len(facts(box, "ls", "retrying", "--json")) == 1
    assert (
        "spool: --min-attempts needs --max-retrying"
        in subprocess.run(
            [SPOOL, "--dir", box.spool, "health", "--min-attempts=2"],
            capture_output=True,
            text=True,
            check=False,
        ).stderr
    )
