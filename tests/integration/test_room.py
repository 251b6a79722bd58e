"""Limits of what may wait: producers are refused, what ends work is not."""

import json
from pathlib import Path

import pytest

from spooler import SpoolFull
from spooler.spooldir import SpoolDir

from .conftest import Box, Cli, stays, wait_until

APP = """
from spooler import Retry, current_task, spool, timer
from tasks import gate, note, wait_for, write

@spool(retries=0)
def fails(n: int = 0) -> None:
    raise ValueError("no")

@spool(backoff=0.1)
def comes_back() -> None:
    if current_task().attempt == 1:
        raise Retry("not yet")
    write("back")

@spool(backoff=0.2)
def puts_more() -> None:
    write(f"attempt {current_task().attempt}")
    note.spool(text="more")

@timer(0.2)
def tick() -> None:
    write("tick", "ticks")
"""


def is_refused(box: Box) -> bool:
    try:
        box.later("note", {"at": "+1d"})
    except SpoolFull:
        return True
    return False


def test_what_ends_work_is_never_refused(box: Box) -> None:
    box.module(APP)
    pause = box.spool / "paused" / "all"
    pause.touch()
    daemon = box.start("--max-waiting", "8", imports="mine")
    after = box.spooler.call("note", {"text": "followed"})
    box.later("note", {"then": [after]}, text="0")
    box.later("fails", {"on_failure": [after]})
    box.put("comes_back")
    lines = [box.spooler.call("note", {"text": str(n)}) for n in range(1, 30)]
    lines.append(box.spooler.call("fails", {"n": 1}))
    box.spooler.spool_many(lines)
    wait_until(lambda: is_refused(box))
    # As if there were room for none at all.
    (box.spool / ".room").write_text('{"max_waiting":1,"min_free":4611686018427387904}')
    pause.unlink()
    notes = [str(n) for n in range(30)]
    box.wait_lines(*notes, "followed", "followed", "back")
    wait_until(lambda: len(box.lines("ticks")) >= 3)
    wait_until(lambda: len(box.failed()) == 2)
    wait_until(lambda: is_refused(box))
    assert daemon.end() == 0


def test_a_task_that_puts_more_is_a_producer_too(box: Box) -> None:
    box.module(APP)
    box.put("puts_more")
    daemon = box.start("--min-free", "1000T", imports="mine")
    daemon.wait_for("SpoolFull")
    daemon.wait_for("min_free is 1099511627776000")
    daemon.wait_for("puts are refused")
    assert daemon.end() == 0
    box.start("--min-free", "0", imports="mine")
    wait_until(lambda: "more" in box.lines())


def test_that_a_spool_is_full_is_logged_once_and_that_it_is_not(box: Box) -> None:
    daemon = box.start("--max-waiting", "10")
    for _ in range(10):
        box.later("note", {"at": "+1d"})
    assert is_refused(box)
    daemon.wait_for("max_waiting=10 found=10: puts are refused")
    gone = [p for p in box.spool.glob("5/*/*") if p.is_file()]
    gone[0].unlink()
    # It is nearly full still: nobody wants to hear of each task.
    assert stays(lambda: not daemon.says("puts are taken again"), seconds=2.5)
    for path in gone[1:]:
        path.unlink()
    daemon.wait_for("max_waiting: puts are taken again")
    assert daemon.text().count("puts are refused") == 1
    assert daemon.end() == 0


def test_options_that_are_not_given_leave_the_limits(box: Box) -> None:
    assert box.start("--max-waiting", "10", "--min-free", "1M").end() == 0
    assert box.start("--min-free-inodes", "7").end() == 0
    assert box.start("--max-waiting", "0").end() == 0
    limits = json.loads((box.spool / ".room").read_text())
    assert limits == {"max_waiting": None, "min_free": 1 << 20, "min_free_inodes": 7}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-waiting", "-1"),
        ("--min-free", "5X"),
        ("--min-free", "-5"),
        ("--min-free", "99999999T"),
        ("--min-free-inodes", "99999999999999999999"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(
    box: Box, cli: Cli, option: str, value: str
) -> None:
    line = box.refused(box.command(option, value), 2)
    assert " cannot be: it takes " in line
    refused = cli("init", option, value)
    assert refused.exit_code == 2
    assert " cannot be: it takes " in refused.output


# -- the command --------------------------------------------------------------------


def test_put_is_refused_with_75_and_says_what_to_do(cli: Cli, spool: SpoolDir) -> None:
    assert cli("init", "--max-waiting", "1").exit_code == 0
    assert cli("put", "note").exit_code == 0
    refused = cli("put", "note")
    assert refused.exit_code == 75
    assert refused.output == (
        f"spool: {spool.path} is full: 1 tasks wait, and max_waiting is 1; put it again"
        " later, see that workers keep up, or change the limit with"
        " `spool init --max-waiting`\n"
    )
    for more in (["--key", "k"], ["--fast"], ["--at", "+5m"]):
        assert cli("put", "note", *more).exit_code == 75
    lines = '{"task":"note"}\n' * 3
    assert cli("put", "--from", "-", stdin=lines).exit_code == 75
    assert cli("init", "--max-waiting", "0").exit_code == 0
    wait_until(lambda: cli("put", "note").exit_code == 0)


def test_status_shows_the_limits(cli: Cli, spool: SpoolDir) -> None:
    def facts() -> dict[str, object]:
        room: dict[str, object] = json.loads(cli("status", "--json").output)["room"]
        return room

    assert facts()["max_waiting"] is None
    assert "limits: " not in cli().output
    cli("init", "--max-waiting", "10", "--min-free", "1K", "--min-free-inodes", "1")
    for _ in range(8):
        cli("put", "note")
    assert "limits: 8 of 10 tasks wait, " in cli().output
    assert facts()["waiting"] == 8
    cli("put", "note")
    assert "nearly full: 9 of 10 tasks wait\n" in cli().output
    assert (facts()["full"], facts()["near"]) == ([], ["max_waiting"])
    cli("put", "note")
    assert "full, puts are refused: 10 of 10 tasks wait\n" in cli().output
    assert (facts()["full"], facts()["near"]) == (["max_waiting"], [])
    Path(spool.path, ".room").write_text("{")
    assert ".room cannot be read: " in cli().output
