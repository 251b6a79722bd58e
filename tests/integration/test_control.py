"""Control by operators: commands on real spools, and what real daemons make of them."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from spooler import State
from spooler.cli.spool import main
from spooler.spooldir import SpoolDir, kills, repair
from spooler.spooldir.recovery import ProcessLock

from ..helpers import FACTOR, patience
from .conftest import LIMIT, Box, stays, wait_until

SPOOL = str(Path(sys.executable).with_name("spool"))
ID = "8c1f42d09ab3e617"
OTHER = "8c1f42d09ab3e618"
QUICK = 0.3 * FACTOR
"""Seconds for which a fact is watched that must stay so."""


def run(box: Box, *args: str, stdin: str = "", **environment: str) -> Result:
    """Run ``spool``, in this process; each error is one clear line."""
    clean = {"VISUAL": None, "EDITOR": None, "SPOOL_DIR": str(box.spool)}
    tempfile.tempdir = environment.get("TMPDIR")  # it is looked up once, else
    try:
        done = CliRunner(env={**clean, **environment}).invoke(main, args, input=stdin)
    finally:
        tempfile.tempdir = None
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert all(line.startswith("spool: ") for line in done.stderr.splitlines())
    return done


def fine(box: Box, *args: str, **more: str) -> str:
    done = run(box, *args, **more)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def fails(box: Box, *args: str, code: int = 1, **more: str) -> str:
    done = run(box, *args, **more)
    assert done.exit_code == code, done
    return done.stderr


def states(box: Box) -> dict[str, str]:
    """Return the states of all tasks, by id, as ``ls`` tells them."""
    lines = fine(box, "ls", "--json").splitlines()
    return {each["id"]: each["state"] for each in map(json.loads, lines)}


def show(box: Box, task_id: str = ID) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(fine(box, "show", "--json", task_id))
    return facts


def put(box: Box, *words: str, task_id: str = ID) -> None:
    fine(box, "put", "note", *words, "--id", task_id, "--fast")


# -- hold and release -------------------------------------------------------------


def test_a_held_task_is_not_run_until_it_is_released(box: Box) -> None:
    put(box)
    assert fine(box, "hold", ID) == f"{ID}  held  note\n"
    box.burst()
    assert box.lines() == []
    assert states(box) == {ID: "held"}
    daemon = box.start()
    assert fine(box, "release", ID) == f"{ID}  released  note\n"
    box.wait_lines("done")
    wait_until(box.is_empty)
    assert daemon.end() == 0


def test_a_daemon_that_was_handed_the_name_does_not_begin_it(box: Box) -> None:
    box.start()
    box.put("gate")
    box.number("pid")
    put(box)
    fine(box, "hold", ID)
    box.open()
    box.wait_lines("passed")
    wait_until(lambda: states(box) == {ID: "held"})
    assert stays(lambda: states(box) == {ID: "held"}, seconds=QUICK)


def test_many_are_held_and_released_by_a_pipe(box: Box) -> None:
    for number in range(70):
        box.put("note", text=str(number))
    listed = fine(box, "ls", "waiting", "--limit", "0")
    assert fine(box, "hold", "-", stdin=listed).count("  held  note\n") == 70
    facts = json.loads(fine(box, "status", "--json"))
    assert (facts["held"], facts["waiting"]) == (70, 0)
    assert facts["priorities"][0]["held"] == 70
    assert "70 held (see `spool ls held`)" in fine(box)
    assert len(fine(box, "ls", "held", "--limit", "0").splitlines()) == 71
    listed = fine(box, "ls", "held", "--limit", "0")
    assert fine(box, "release", "-", stdin=listed).count("released") == 70
    box.burst("--workers", "2")
    assert len(box.lines()) == 70


def test_what_cannot_be_done_is_told_and_the_others_are_done(box: Box) -> None:
    put(box)
    put(box, task_id=OTHER)
    fine(box, "hold", OTHER)
    done = run(box, "hold", ID, OTHER, "feed", "--json")
    assert done.exit_code == 1
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["done"] for each in told] == [True, False, False]
    assert "is held already" in told[1]["error"]
    assert "no such task" in told[2]["error"]
    fine(box, "release", ID)
    assert "is waiting, and not held" in fails(box, "release", ID)
    fine(box, "rm", OTHER)
    fine(box, "fail", ID)
    hint = "has failed: `spool kick` makes it ready again"
    for command in ("hold", "release", "now"):
        assert hint in fails(box, command, ID)
    assert hint in fails(box, "priority", ID, "1")
    assert hint in fails(box, "edit", ID, code=2)
    assert states(box) == {ID: "failed"}


def test_what_runs_is_refused(box: Box) -> None:
    box.start()
    handle = box.put("gate")
    box.number("pid")
    hint = "is running: let it end, or `spool kill` it"
    for command in ("hold", "now"):
        assert hint in fails(box, command, handle.id)
    assert hint in fails(box, "priority", handle.id, "1")
    assert hint in fails(box, "edit", handle.id, code=2)
    assert "`spool kill` it first" in fails(box, "rm", handle.id)
    box.open()
    box.wait_lines("passed")


# -- now and priority -------------------------------------------------------------


def test_now_and_priority_have_a_later_task_run_first(box: Box) -> None:
    box.put("note", text="first")
    put(box, "text=later", "--at", "+1h")
    put(box, "text=last", "--at", "+1h", task_id=OTHER)
    assert fine(box, "priority", ID, "0") == f"{ID}  priority 0  note\n"
    due = show(box)["due"]
    assert show(box)["priority"] == 0
    assert fine(box, "now", ID) == f"{ID}  due now  note\n"
    assert show(box)["due"] < due
    fine(box, "hold", OTHER)
    fine(box, "now", OTHER)
    fine(box, "priority", OTHER, "9")
    assert states(box)[OTHER] == "held"
    box.burst()
    assert box.lines() == ["later", "first"]
    fine(box, "release", OTHER)
    box.burst()
    assert box.lines() == ["later", "first", "last"]


@pytest.mark.parametrize("number", ["-1", "1000000", "x", "1.5"])
def test_a_priority_that_cannot_be_is_wrong_usage(box: Box, number: str) -> None:
    put(box)
    fails(box, "priority", ID, "--", number, code=2)
    fails(box, "priority", code=2)
    assert show(box)["priority"] == 5


def test_now_gives_a_retry_its_next_attempt_at_once(box: Box) -> None:
    box.start()
    handle = box.later("note", {"at": "+1h"})
    fine(box, "now", handle.id)
    box.wait_lines("done")


# -- pauses -----------------------------------------------------------------------


def test_nothing_new_begins_while_all_is_paused(box: Box) -> None:
    daemon = box.start("--workers", "2")
    box.put("gate")
    box.number("pid")
    assert fine(box, "pause") == "all  paused  until resumed\n"
    daemon.wait_for("pause what=all")
    box.put("note")
    assert "everything is paused until resumed" in fine(box)
    box.open()
    box.wait_lines("passed")  # what runs goes on
    assert stays(lambda: box.lines() == ["passed"], seconds=QUICK)
    assert fine(box, "resume") == "all  resumed\n"
    box.wait_lines("passed", "done")
    assert fine(box, "resume") == "all  not paused\n"


def test_a_pause_of_a_task_or_a_priority_leaves_the_others(box: Box) -> None:
    daemon = box.start()
    fine(box, "pause", "--task", "note")
    fine(box, "pause", "--priority", "7", "--for", "10m")
    daemon.wait_for("pause what=task.note")
    daemon.wait_for("pause what=priority.7")
    for number in range(20):
        box.put("note", text=str(number))
    box.later("now", {"priority": 7})
    box.put("now")
    wait_until(lambda: len(box.lines()) == 1)
    assert stays(lambda: len(box.lines()) == 1, seconds=QUICK)
    facts = json.loads(fine(box, "status", "--json"))["paused"]
    assert [each["what"] for each in facts] == ["priority.7", "task.note"]
    assert [each["until"] is None for each in facts] == [False, True]
    screen = fine(box)
    assert "task note is paused until resumed" in screen
    assert "priority 7 is paused for " in screen
    assert "still paused: priority.7" in fine(box, "resume", "--task", "note")
    wait_until(lambda: len(box.lines()) == 21)
    assert box.lines()[1:] == [str(number) for number in range(20)]
    assert fine(box, "resume", "--all") == "priority.7  resumed\n"
    wait_until(lambda: len(box.lines()) == 22)
    assert fine(box, "resume", "--all") == "nothing is paused\n"


def test_names_that_a_worker_holds_already_are_not_begun_any_more(box: Box) -> None:
    """A worker that was fast is handed many names; then its tasks turn slow."""
    daemon = box.start()
    for number in range(300):
        box.put("note", text=str(number))
    handles = [box.put("gate", text=f"gate{k}", name=f"open{k}") for k in range(30)]
    box.number("pid")
    fine(box, "pause", "--task", "gate")
    daemon.wait_for("pause what=task.gate")
    # When it tells of another pause it has done what is to be done about the first.
    fine(box, "pause", "--task", "other")
    daemon.wait_for("pause what=task.other")
    begun = len(box.lines("pid"))
    for number in range(30):
        box.open(f"open{number}")
    wait_until(lambda: not box.running())
    assert stays(lambda: not box.running(), seconds=QUICK)
    assert len(box.lines("pid")) == begun
    fine(box, "resume", "--all")
    wait_until(lambda: len(box.lines("pid")) == 30)
    wait_until(lambda: all(handle.state() is None for handle in handles))


def test_a_pause_ends_by_itself(box: Box) -> None:
    daemon = box.start()
    fine(box, "pause", "--for", f"{1 + FACTOR}s")
    daemon.wait_for("pause what=all")
    box.put("note")
    box.wait_lines("done")
    daemon.wait_for("resume what=all")
    wait_until(lambda: box.names("paused") == [])


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("echo +10m > spool/paused/all", "all"),
        ("touch spool/paused/task.note", "task.note"),
        ("date -u -d '+1 hour' +%FT%TZ > spool/paused/priority.5", "priority.5"),
        ("mkdir spool/paused/all", "all"),
        ("echo soon > spool/paused/task.note", "task.note"),
    ],
)
def test_a_shell_pauses_without_a_command(box: Box, command: str, what: str) -> None:
    daemon = box.start()
    root = box.spool.parent
    subprocess.run(["sh", "-euc", command], cwd=root, check=True)
    wait_until(
        lambda: daemon.says(f"pause what={what}") or daemon.says(f"pause {what}")
    )
    box.put("note")
    assert stays(lambda: box.lines() == [], seconds=QUICK)
    subprocess.run(["rm", "-r", f"spool/paused/{what}"], cwd=root, check=True)
    box.wait_lines("done")


def test_a_pause_that_cannot_be_read_is_told_once(box: Box) -> None:
    (box.spool / "paused/all").write_text("whenever")
    daemon = box.start("--frequency", "0.05")
    box.put("note")
    daemon.wait_for("cannot read pause all in")
    assert stays(lambda: box.lines() == [], seconds=QUICK)
    assert daemon.text().count("cannot read pause all in") == 1
    assert "'whenever' is not a moment" in fine(box)
    fine(box, "resume")
    box.wait_lines("done")


def test_a_burst_does_not_wait_for_what_is_paused(box: Box) -> None:
    for task in ("note", "now"):
        box.put(task)
    fine(box, "pause", "--task", "note")
    box.burst()
    assert len(box.lines()) == 1
    fine(box, "pause", "--priority", "5")
    box.put("now")
    box.burst()
    fine(box, "resume", "--all")
    fine(box, "pause")
    box.burst()
    assert len(box.lines()) == 1
    fine(box, "resume")
    box.burst()
    assert len(box.lines()) == 3


def test_pausing_needs_no_daemon_and_survives_one(box: Box) -> None:
    fine(box, "pause")
    box.put("note")
    for _ in range(2):
        daemon = box.start()
        assert stays(lambda: box.lines() == [], seconds=QUICK)
        daemon.process.kill()
        daemon.wait()
    fine(box, "resume")
    box.burst()
    assert box.lines() == ["done"]


@pytest.mark.parametrize(
    "args",
    [
        "pause --for soon",
        "pause --for 0",
        "pause --for -5s",
        "pause --for 99999d",
        "pause --priority -1",
        "pause --task ../all",
        "pause --priority 1 --task t",
        "pause all",
        "resume --all --task t",
        "resume --priority x",
    ],
)
def test_a_pause_that_cannot_be_is_wrong_usage(box: Box, args: str) -> None:
    assert fails(box, *args.split(), code=2).count("\n") == 1
    assert box.names("paused") == []


def test_json_of_pause_and_resume(box: Box) -> None:
    told = json.loads(fine(box, "pause", "--json", "--task", "note", "--for", "1h"))
    assert told["what"] == "task.note"
    assert told["until"].endswith("Z")
    (box.spool / "paused/all").mkdir()
    (box.spool / "paused/all/mine").touch()
    done = run(box, "resume", "--json", "--all")
    assert done.exit_code == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["done"] for each in lines] == [False, True]
    assert lines[0]["error"].endswith("paused/all: Directory not empty")
    error = fails(box, "resume", "--all")
    assert error.endswith("paused/all: Directory not empty\n")


# -- kill -------------------------------------------------------------------------


def test_kill_kills_one_task_and_says_so(box: Box) -> None:
    box.start("--workers", "2")
    handle = box.put("gate")
    box.number("pid")
    other = box.put("gate", text="other", name="gate2")
    wait_until(lambda: len(box.lines("pid")) == 2)
    command = ("kill", "--timeout", str(patience(LIMIT)), handle.id)
    assert fine(box, *command) == f"{handle.id}  killed  gate\n"
    assert box.why()["reason"] == "killed"
    wait_until(lambda: box.names("kill") == [])
    assert other.state() is State.RUNNING
    box.open("gate2")
    box.wait_lines("other")


def test_many_are_killed_at_once(box: Box) -> None:
    box.start("--workers", "3")
    for _ in range(3):
        box.put("gate")
    wait_until(lambda: len(box.lines("pid")) == 3)
    listed = fine(box, "ls", "running")
    command = ("kill", "--timeout", str(patience(LIMIT)), "-")
    assert fine(box, *command, stdin=listed).count("  killed  gate\n") == 3
    wait_until(lambda: len(box.failed()) == 3)


@pytest.mark.parametrize(
    ("before", "hint"),
    [
        ([], "is not running: `spool rm` removes it"),
        (["hold", ID], "is not running: `spool rm` removes it"),
        (["fail", ID], "has failed, and does not run"),
    ],
)
def test_what_does_not_run_is_not_killed(
    box: Box, before: list[str], hint: str
) -> None:
    put(box)
    if before:
        fine(box, *before)
    assert hint in fails(box, "kill", ID)
    assert box.names("kill") == []
    fails(box, "kill", ID, "--timeout", "-1", code=2)
    fails(box, "kill", code=2)


def test_a_daemon_that_does_not_answer_is_told_of(box: Box) -> None:
    daemon = box.start()
    handle = box.put("gate")
    box.number("pid")
    daemon.send(signal.SIGSTOP)
    error = fails(box, "kill", "--timeout", "0.3", handle.id)
    assert "still runs: its daemon did not answer" in error
    assert box.names("kill") == []
    daemon.send(signal.SIGCONT)
    box.open()
    box.wait_lines("passed")
    assert box.failed() == []


def claimed(box: Box) -> tuple[SpoolDir, ProcessLock]:
    """Be a worker that runs the task, without a daemon."""
    put(box)
    spool = SpoolDir(box.spool)
    lock = ProcessLock(spool, "w1")
    assert lock.acquire()
    (box.spool / "running/w1").mkdir()
    (found,) = repair.ls(spool, State.WAITING)
    name = found.path.rpartition("/")[2]
    os.rename(box.spool / found.path, box.spool / f"running/w1/{name}")
    return spool, lock


def test_a_dead_worker_is_told_of_at_once(box: Box) -> None:
    spool, lock = claimed(box)
    lock.release()
    assert "its worker is dead" in fails(box, "kill", ID, "--timeout", "99")
    assert lock.acquire()
    lock.describe({"daemon": "daemon-that-is-gone"})
    assert "its daemon is dead" in fails(box, "kill", ID, "--timeout", "99")
    assert box.names("kill") == []
    lock.remove()
    spool.close()


@pytest.mark.parametrize(
    ("fate", "text"),
    [
        ("ack", "had ended before it was killed"),
        ("retry", "is to run again: `spool rm` removes it"),
        ("fail", "had failed before it was killed: nobody says why"),
    ],
)
def test_a_task_that_ends_by_itself_meanwhile_is_told_of(
    box: Box, fate: str, text: str
) -> None:
    spool, lock = claimed(box)
    limit = str(patience(LIMIT))
    command = [SPOOL, "--dir", str(box.spool), "kill", ID, "--timeout", limit]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: kills.requests(spool) == [ID])
        (file,) = (box.spool / "running/w1").iterdir()
        if fate == "ack":
            file.unlink()
        elif fate == "retry":
            file.rename(box.spool / "5" / file.name)
        else:
            file.rename(box.spool / "failed" / file.name)
        assert process.stderr is not None
        error = process.stderr.read()
    assert process.returncode == 1
    assert text in error
    assert kills.requests(spool) == []
    lock.remove()
    spool.close()


# -- handles ----------------------------------------------------------------------


def test_a_handle_takes_its_task_back(box: Box) -> None:
    handle = box.put("note")
    assert handle.cancel()
    assert handle.state() is None
    assert not handle.cancel()
    box.burst()
    assert box.lines() == []


def test_a_handle_has_its_task_killed(box: Box) -> None:
    handle = box.put("gate")
    assert not handle.kill()
    box.start()
    box.number("pid")
    assert not handle.cancel()
    assert handle.cancel(kill=True)
    wait_until(lambda: handle.state() is State.FAILED)
    assert box.why()["reason"] == "killed"
    assert not handle.kill()


# -- edit -------------------------------------------------------------------------


def editor(box: Box, text: str) -> str:
    """Return a command that edits as a program does, told its file's path."""
    script = box.app / "editor.py"
    script.write_text(f"import sys\npath = sys.argv[-1]\n{text}\n")
    return f"{sys.executable} {script}"


def setting(box: Box, data: bytes) -> str:
    return editor(box, f"open(path, 'wb').write({data!r})")


def replacing(box: Box, old: str, new: str) -> str:
    text = f"text = open(path).read(); assert {old!r} in text, text\n"
    return editor(box, f"{text}open(path, 'w').write(text.replace({old!r}, {new!r}))")


def data_of(box: Box, task_id: str = ID) -> bytes:
    return Path(box.spool, show(box, task_id)["path"]).read_bytes()


def test_an_edited_task_runs_with_its_new_arguments(box: Box) -> None:
    put(box, "text=old", "--at", "+1h")
    before = show(box)
    told = fine(box, "edit", ID, EDITOR=replacing(box, '"old"', '"new"'))
    assert told == f"{ID}  changed  note\n"
    after = show(box)
    assert after["path"] == before["path"]
    assert after["put"] == before["put"]
    assert after["args"] == {"text": "new"}
    fine(box, "now", ID)
    box.burst()
    assert box.lines() == ["new"]


def test_an_edit_keeps_the_body_every_byte_of_it(box: Box, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)) * 4096)
    put(box, "text=old", "--body", str(body))
    fine(box, "edit", ID, EDITOR=replacing(box, "old", "a longer text"))
    data = data_of(box)
    assert data.endswith(b"\n" + body.read_bytes())
    assert data[: -body.stat().st_size].count(b"\n") == 1


def test_an_edit_of_a_held_task_keeps_it_held(box: Box) -> None:
    put(box, "text=old")
    fine(box, "hold", ID)
    told = fine(box, "edit", "--json", ID, VISUAL=replacing(box, "old", "new"))
    facts = json.loads(told)
    assert (facts["id"], facts["changed"]) == (ID, True)
    assert facts["path"].startswith("held/")
    assert show(box)["state"] == "held"
    assert show(box)["args"] == {"text": "new"}


def test_an_edit_changes_task_due_time_and_priority(box: Box) -> None:
    put(box)
    text = b'{"task": "other", "at": "2099-01-01T00:00Z", "priority": 3}'
    told = fine(box, "edit", ID, EDITOR=setting(box, text))
    assert told == f"{ID}  changed  other\n"
    facts = show(box)
    assert facts["task"] == "other"
    assert facts["priority"] == 3
    assert facts["due"].startswith("2099-01-01")
    assert facts["path"].startswith("3/20990101T0000/")
    fine(box, "edit", ID, EDITOR=setting(box, b'{"task": "other"}'))
    assert show(box)["state"] == "waiting"
    assert show(box)["priority"] == 3


def adopted(box: Box, data: bytes) -> str:
    """Drop a file, have it adopted and not run; return its id."""
    box.drop("5/x", data)
    fine(box, "pause")
    box.burst()
    fine(box, "resume")
    task_id: str = json.loads(fine(box, "ls", "--json"))["id"]
    return task_id


def test_lines_are_edited_as_they_are(box: Box) -> None:
    task_id = adopted(box, b"task=note\ntext=old\n\nbody\n")
    fine(box, "edit", task_id, EDITOR=replacing(box, "text=old\n", "text=new = \n"))
    assert data_of(box, task_id) == b"task=note\ntext=new = \n\nbody\n"
    fine(box, "edit", task_id, EDITOR=setting(box, b"task=note\r\ntext=a"))
    assert data_of(box, task_id) == b"task=note\r\ntext=a\n\nbody\n"


@pytest.mark.parametrize(
    "text",
    [
        b'{"task":"note","args":{"text":"old"}}',
        b'{ "task" : "note",\n\n "args": {"text":  "old"}\n}\n\n',
    ],
)
def test_what_says_the_same_is_no_change(box: Box, text: bytes) -> None:
    put(box, "text=old")
    before = os.stat(box.spool / show(box)["path"])
    told = fine(box, "edit", ID, EDITOR=setting(box, text))
    assert told == f"{ID}  unchanged  note\n"
    assert os.stat(box.spool / show(box)["path"]) == before


def kept(error: str) -> Path:
    """Return the file that a message names, which is for its owner alone."""
    path = Path(error.split(" is in ")[1].strip())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "empty file"),
        (b'{"task":"note",\n "args":}', "line 2, column 9: not JSON: expecting value"),
        (b'{"task":"note"', "line 1, column"),
        (b'{"args":{}}', "JSON: object missing required field `task`"),
        (b'{"task":"note","args":[]}', "args: not a JSON object"),
        (b'{"task":"no note"}', "task: 'no note' cannot be a name"),
        (b'{"task":"note","at":"soon"}', "at: 'soon' is not a moment"),
        (b'{"task":"note","priority":-1}', "priority"),
        (b'{"task":"note"}\nmore', "line 2: text after the header"),
        (b"task=note\ntext=a\n\nbody", "line 4: text after the header"),
        (b"task=note\ntext\n", "line 2: no = in 'text'"),
        (b'{"task":"note","body":"x"}', "a key `body` and a body"),
        (b'{"task":"note","id":"8c1f42d09ab3e619"}', f"the id is {ID} for ever"),
        (b'{"task":"note","key":"k"}', "the key cannot be changed"),
        (b'{"task":"_batch","args":{"count":1}}', "a packet or a batch"),
        (b"\x11\x00\x00\x00", "a packet or a batch"),
        (b'{"task":"\xff"}', "not UTF-8"),
        (b'{"task":"note","v":2}', "only version 1"),
    ],
)
def test_a_text_that_is_no_task_changes_nothing_and_is_kept(
    box: Box, text: bytes, problem: str, tmp_path: Path
) -> None:
    fine(box, "put", "note", "text=old", "--id", ID, "--body", "-", stdin="body")
    before = data_of(box)
    own = tmp_path / "own"
    own.mkdir()
    error = fails(box, "edit", ID, EDITOR=setting(box, text), TMPDIR=str(own))
    assert problem in error
    assert "nothing was changed, and your text is in " in error
    assert kept(error).read_bytes() == text
    assert data_of(box) == before
    assert states(box) == {ID: "waiting"}


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("false", "the editor (false) ended with 1"),
        ("/nowhere/at/all", "No such file or directory"),
        ("sh -c 'kill -9 $$'", "ended with -9"),
        ("sh -c 'rm \"$0\"'", "No such file or directory"),
        ("'", "No closing quotation"),
    ],
)
def test_an_editor_that_fails_changes_nothing(
    box: Box, command: str, problem: str, tmp_path: Path
) -> None:
    put(box, "text=old")
    before = data_of(box)
    error = fails(box, "edit", ID, EDITOR=command, TMPDIR=str(tmp_path))
    assert problem in error
    assert data_of(box) == before


def test_no_copy_is_left_when_all_is_well(box: Box, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    put(box, "text=old")
    fine(box, "edit", ID, EDITOR="true", TMPDIR=str(own))
    fine(box, "edit", ID, EDITOR=replacing(box, "old", "new"), TMPDIR=str(own))
    assert list(own.iterdir()) == []


def test_a_task_that_began_meanwhile_runs_as_it_was(box: Box, tmp_path: Path) -> None:
    fine(box, "pause")
    box.start()
    handle = box.put("gate", text="old")
    text = b'{"task":"gate","args":{"text":"new"}}'
    command = editor(
        box,
        "import os, threading\n"
        f"os.unlink({str(box.spool / 'paused/all')!r})\n"
        f"while not os.path.exists({str(box.out / 'pid')!r}):\n"
        "    threading.Event().wait(0.01)\n"
        f"open(path, 'wb').write({text!r})",
    )
    error = fails(box, "edit", handle.id, EDITOR=command, TMPDIR=str(tmp_path))
    assert "somebody else has just moved it" in error
    assert kept(error).read_bytes() == text
    box.open()
    box.wait_lines("old")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x11\x0c\x00\x00\x04\x00task\x04\x00note", "is a uWSGI packet"),
        (b'{"task":"_batch","args":{"count":1}}\n{"task":"note"}\n', "is a batch"),
    ],
)
def test_what_cannot_be_edited_is_refused(box: Box, data: bytes, problem: str) -> None:
    spool = SpoolDir(box.spool)
    put(box)
    (found,) = repair.ls(spool, State.WAITING)
    (box.spool / found.path).write_bytes(data)
    spool.close()
    assert problem in fails(box, "edit", ID, code=2, EDITOR="false")


def test_a_task_with_a_key_is_edited_and_keeps_it(box: Box, tmp_path: Path) -> None:
    data = b'{"task":"note","args":{"text":"old"},"key":"k"}\n'
    task_id = adopted(box, data)
    fine(box, "edit", task_id, EDITOR=replacing(box, '"old"', '"new"'))
    (key,) = (box.spool / "keys").iterdir()
    assert key.samefile(box.spool / show(box, task_id)["path"])
    assert json.loads(data_of(box, task_id))["id"] == task_id
    for old, new in (('"k"', '"l"'), ('"note"', '"other"'), (task_id, OTHER)):
        command = replacing(box, old, new)
        error = fails(box, "edit", task_id, EDITOR=command, TMPDIR=str(tmp_path))
        assert "nothing was changed" in error


def test_a_ctrl_c_is_for_the_editor(box: Box) -> None:
    put(box, "text=old")
    text = "import os, signal\nos.kill(os.getppid(), signal.SIGINT)"
    assert "unchanged" in fine(box, "edit", ID, EDITOR=editor(box, text))


@pytest.mark.parametrize("args", ["edit", f"edit {ID} {OTHER}", "edit --nonsense"])
def test_wrong_usage_of_edit(box: Box, args: str) -> None:
    assert fails(box, *args.split(), code=2).count("\n") == 1
