"""Damaged and hostile things in every folder of a spool: good tasks run meanwhile."""

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, time_ns

import pytest

from spooler.limits import hash_for
from spooler.spooldir import SpoolDir
from spooler.spooldir.keys import key_path
from spooler.task import BATCH, Name

from ..helpers import make_name, put
from .conftest import Box, Spoold, cpu_seconds, stays, wait_until
from .test_hostile import SPOOL, a_socket, is_plain

MODULE = """
import os
from pathlib import Path

from spooler import Retry, current_task, progress, spool, timer


def write(text):
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    fd = os.open(Path(os.environ["OUT"], "out"), flags, 0o600)
    os.write(fd, f"{text}\\n".encode())
    os.close(fd)


@spool
def note(text: str = "done"):
    write(text)


@spool(keep_result=60, keep_log=True)
def kept(text: str):
    print("printed")
    write(text)
    return text


@spool(key="{text}")
def unique(text: str):
    write(text)


@spool(concurrency=1, rate="1000/s")
def limited(text: str):
    write(text)


@spool(backoff=0.01, max_attempts=5)
def again(text: str):
    print("printed")
    if current_task().attempt == 1:
        raise Retry("once more")
    write(text)


@spool(max_attempts=1)
def fails(text: str):
    write(text)
    raise ValueError("it fails")


@spool
def gate(text: str = "passed"):
    write("begun")
    while not Path(os.environ["OUT"], "gate").exists():
        pass
    write(text)


if "TICK" in os.environ:

    @timer(0.3)
    def tick():
        write("tick")
"""

FOLDERS = (
    *("failed", "corrupt", "held", "done", "logs", "timers", "workers", "paused"),
    *("kill", "keys", "limits", "batches", "tmp", "running"),
)
KINDS = ("fifo", "folder", "link", "dangling", "rubbish", "socket", "empty")
ID = "8c1f42d09ab3e617"


def make(path: Path, kind: str) -> None:
    """Make something at a path that does not belong there."""
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            (path / "sub").mkdir(parents=True)
        case "link":
            path.symlink_to("/etc/passwd")
        case "dangling":
            path.symlink_to("nothing")
        case "socket":
            a_socket(path)
        case "empty":
            path.touch()
        case _:
            path.write_bytes(b'\x1b[2J\xff{"a":' + b"[" * 5000)


def start(box: Box, *options: str, env: Mapping[str, str] | None = None) -> Spoold:
    box.module(MODULE)
    return box.start(*options, imports="mine", env=env)


def put_all(box: Box, text: str) -> list[str]:
    """Put a task of each kind; return the lines that they are to write."""
    texts = [f"{text} {each}" for each in ("note", "kept", "unique", "limited")]
    for each in texts:
        task = each.rpartition(" ")[2]
        options = {"key": text} if task == "unique" else {}
        box.later(task, options, text=each)
    for task in ("again", "fails"):
        box.put(task, text=f"{text} {task}")
    lines = [f"{text} line {number}" for number in range(3)]
    put_batch(box, lines)
    return [*texts, f"{text} again", f"{text} fails", *lines]


def put_batch(box: Box, texts: list[str]) -> Name:
    """Put a batch of tasks that write these lines."""
    head = json.dumps({"task": BATCH, "args": {"count": len(texts)}})
    rows = [json.dumps({"task": "note", "args": {"text": text}}) for text in texts]
    name = make_name(time_ns() // 1000, id=os.urandom(8).hex(), task=BATCH)
    return put(SpoolDir(box.spool), name, "\n".join([head, *rows, ""]).encode())


def have_run(box: Box, lines: list[str]) -> bool:
    return {*lines} <= {*box.lines()}


def said(box: Box, *args: str, code: int | None = 0) -> bytes:
    command = [str(SPOOL), "--dir", str(box.spool), *args]
    done = subprocess.run(command, capture_output=True, check=False)
    assert code is None or done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr, done.stderr
    assert is_plain(done.stderr)
    return done.stdout


def assert_quiet(box: Box, daemon: Spoold) -> None:
    """Check that all is said in plain text, and no error is repeated all the time."""
    assert is_plain(daemon.log.read_bytes())
    assert not daemon.says("Traceback"), daemon.text()
    assert is_plain(said(box))
    for line in said(box, "status", "--json").splitlines():
        json.loads(line)
    assert is_plain(said(box, "ls", "failed", "corrupt", "held", "running"))


def assert_at_rest(daemon: Spoold, *, seconds: float = 2.0) -> None:
    """Check that a daemon comes to log little and to need little, as nothing happens.

    What was done last may take a while until it is over.
    """
    seen: list[object] = []

    def is_at_rest() -> bool:
        before, cpu, begun = daemon.text(), cpu_seconds(daemon.pid), monotonic()
        assert stays(lambda: daemon.process.poll() is None, seconds=seconds)
        news = daemon.text()[len(before) :].splitlines()
        news = [line for line in news if "name=tick" not in line]
        needed = (cpu_seconds(daemon.pid) - cpu) / (monotonic() - begun)
        seen[:] = [needed, *news]
        return len(news) < 3 and needed < 0.2

    try:
        wait_until(is_at_rest)
    except AssertionError as error:
        raise AssertionError(f"never at rest: at last it was {seen}") from error


@pytest.mark.parametrize("folder", FOLDERS)
def test_junk_in_any_folder_harms_nobody(box: Box, folder: str) -> None:
    lines = put_all(box, "before")
    for kind in KINDS:
        for name in (kind, f"{kind}.json", f"{kind}.lock", f"{kind}.why"):
            make(box.spool / folder / name, kind)
    strange = [b"two\nlines.lock", b"\xff\xff.json", b"\x1b[2J", b"-rf", b"x" * 255]
    for odd in strange:
        with open(os.fsencode(box.spool / folder) + b"/" + odd, "wb") as file:
            file.write(b"junk")
    daemon = start(box, env={"TICK": "1"})
    wait_until(lambda: have_run(box, lines))
    for kind in KINDS:
        make(box.spool / folder / f"live-{kind}", kind)
    lines = put_all(box, "after")
    wait_until(lambda: have_run(box, lines))
    wait_until(lambda: box.lines().count("tick") > 1)
    assert_quiet(box, daemon)
    assert_at_rest(daemon)
    assert daemon.end() == 0


# -- what stands where something is to be written ------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_way_of_a_report_does_not_stop_a_task(
    box: Box, kind: str
) -> None:
    waiting = {}
    for task in ("again", "kept", "fails"):
        name = make_name(time_ns() // 1000, task=task)
        data = json.dumps({"task": task, "args": {"text": task}}).encode()
        put(SpoolDir(box.spool), name, data)
        waiting[task] = name
        for path in (
            f"logs/{name.id}.attempts",
            f"logs/{name.id}.1",
            f"logs/{name.id}.2",
            f"logs/{name.id}.progress",
            f"done/{name.id}",
            f"failed/{name.but(attempt=1)}.why",
        ):
            make(box.spool / path, kind)
    daemon = start(box)
    box.put("note")
    wait_until(lambda: have_run(box, ["again", "kept", "fails", "done"]))
    wait_until(box.is_empty)
    assert any(waiting["fails"].id in name for name in box.failed())
    assert_quiet(box, daemon)
    assert Path("/etc/passwd").stat().st_size > 100
    assert daemon.end() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_place_of_a_key_or_a_limit_harms_no_other_task(
    box: Box, kind: str
) -> None:
    make(box.spool / key_path("unique", "taken"), kind)
    limit = hash_for(None, "limited", {}, {})
    make(box.spool / "limits" / limit, kind)
    make(box.spool / "limits" / f"{limit}.rate", kind)
    box.drop("5/x", b"task=unique\nkey=taken\ntext=dropped\n")
    box.put("limited", text="limited")
    daemon = start(box)
    box.put("note")
    wait_until(lambda: "done" in box.lines())
    assert_at_rest(daemon)
    for path in (
        key_path("unique", "taken"),
        f"limits/{limit}",
        f"limits/{limit}.rate",
    ):
        there = box.spool / path
        if there.is_dir() and not there.is_symlink():
            shutil.rmtree(there)
        else:
            there.unlink(missing_ok=True)
    wait_until(lambda: have_run(box, ["limited", "dropped"]), timeout=60)
    assert_quiet(box, daemon)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_place_of_a_batch_s_progress_stops_no_other(
    box: Box, kind: str
) -> None:
    batch = put_batch(box, [str(number) for number in range(5)])
    make(box.spool / "batches" / batch.id, kind)
    daemon = start(box)
    box.put("note")
    wait_until(lambda: "done" in box.lines())
    wait_until(
        lambda: len(box.lines()) == 6 or box.names("corrupt") or box.waiting() != []
    )
    assert_at_rest(daemon)
    assert_quiet(box, daemon)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["lock", "record", "hidden"])
def test_what_stands_in_the_place_of_a_timer_s_note_stops_no_other(
    box: Box, kind: str, where: str
) -> None:
    slot = f"{time_ns() // 10**9 * 10**6 - 10**6:016d}.tick"
    path = {"lock": ".lock", "record": slot, "hidden": f".{slot}"}[where]
    make(box.spool / "timers" / path, kind)
    daemon = start(box, env={"TICK": "1"})
    box.put("note")
    wait_until(lambda: "done" in box.lines())
    if where != "lock" or kind in ("empty", "rubbish"):
        wait_until(lambda: box.lines().count("tick") > 2)
    assert_at_rest(daemon)
    assert daemon.text().count("cannot put the task of timer") <= 3
    assert_quiet(box, daemon)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_to_kill_may_be_anything(box: Box, kind: str) -> None:
    daemon = start(box)
    handle = box.put("gate")
    wait_until(lambda: "begun" in box.lines())
    make(box.spool / "kill" / handle.id, kind)
    wait_until(lambda: box.failed() and not box.running())
    box.put("note")
    wait_until(lambda: "done" in box.lines())
    assert_at_rest(daemon)
    assert_quiet(box, daemon)


# -- workers -------------------------------------------------------------------------


def test_what_a_dead_worker_held_is_given_back_whatever_lies_beside_it(
    box: Box,
) -> None:
    dead = box.spool / "running" / "worker-dead-1-abcdef"
    dead.mkdir()
    good = [make_name(time_ns() // 1000, task="note") for _ in range(3)]
    for name in good:
        (dead / str(name)).write_bytes(b'{"task":"note"}')
    for kind in KINDS:
        make(dead / kind, kind)
        make(dead / f".{kind}", kind)
        make(dead / str(make_name(time_ns() // 1000, task=kind)), kind)
    daemon = start(box)
    box.put("note", text="good")
    wait_until(lambda: box.lines().count("done") == 3)
    wait_until(lambda: not box.running() or not dead.exists())
    wait_until(lambda: len(box.names("corrupt")) >= 2 * len(KINDS))
    wait_until(lambda: not (box.running() or box.waiting()))  # what is hidden stays
    assert_at_rest(daemon)
    assert_quiet(box, daemon)


def test_one_thing_that_cannot_be_moved_does_not_keep_the_others_of_a_dead_worker(
    box: Box,
) -> None:
    dead = box.spool / "running" / "worker-dead-1-abcdef"
    dead.mkdir()
    names = [make_name(time_ns() // 1000 + n, task="note") for n in range(4)]
    for name in names:
        (dead / str(name)).write_bytes(b'{"task":"note"}')
    fixed = [dead / str(names[0]), dead / str(names[3]), dead / "junk"]
    fixed[2].touch()
    if subprocess.run(["chattr", "+i", *fixed], check=False).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        daemon = start(box)
        wait_until(lambda: box.lines().count("done") == 2)
        daemon.wait_for("cannot recover")
        assert_at_rest(daemon, seconds=3)
    finally:
        subprocess.run(["chattr", "-i", *fixed], check=False)
    wait_until(lambda: box.lines().count("done") == 4)
    wait_until(lambda: not dead.exists())


def test_junk_in_a_living_worker_s_folder_is_kept_when_it_ends(box: Box) -> None:
    daemon = start(box)
    box.put("note")
    wait_until(lambda: "done" in box.lines())
    [worker] = box.names("running")
    for kind in KINDS:
        make(box.spool / "running" / worker / kind, kind)
    make(box.spool / "running" / worker / str(make_name()), "link")
    box.put("note", text="more")
    wait_until(lambda: "more" in box.lines())
    assert_quiet(box, daemon)
    assert daemon.end() == 0
    assert len([n for n in box.names("corrupt") if n.endswith(".why")]) >= len(KINDS)


def test_what_a_liar_says_of_himself_is_shown_as_text(box: Box) -> None:
    """Who holds a lock is alive, whatever he has written beside it."""
    facts = {
        "kind": "daemon",
        "name": ["\x1b[2J"],
        "pid": "\x1b[31m",
        "host": {"a": 1},
        "started": [1],
        "tasks": [{}, None, 7],
        "running": 5,
        "daemon": "\udcff",
    }
    holders = []
    for number, each in enumerate([facts, {**facts, "kind": "worker"}, [], "x", 10]):
        liar = f"liar{number}\x1b[2J"
        file = (box.spool / "workers" / f"{liar}.lock").open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        holders.append(file)
        (box.spool / "workers" / f"{liar}.json").write_text(json.dumps(each))
    why = {"error": ["\x1b"], "reason": {}, "attempts": [1, {}, "x"], "failed": 7}
    deep: object = 1
    for _ in range(300):
        deep = [deep]
    for number, each in enumerate([why, {"traceback": deep}, {"attempts": {"a": 1}}]):
        name = make_name(time_ns() // 1000 + number, task="fails")
        (box.spool / "failed" / str(name)).write_bytes(b'{"task":"fails"}')
        (box.spool / "failed" / f"{name}.why").write_text(json.dumps(each))
    daemon = start(box)
    box.put("note")
    wait_until(lambda: "done" in box.lines())
    assert_quiet(box, daemon)
    for failed in box.failed():
        assert is_plain(said(box, "show", failed))
        assert is_plain(said(box, "show", "--json", failed))
    for file in holders:
        file.close()


# -- folders -------------------------------------------------------------------------


def test_links_do_not_lead_out_of_the_spool(box: Box, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    name = make_name(time_ns() // 1000, task="note")
    minute = elsewhere / name.folder
    minute.mkdir(parents=True)
    file = minute / str(name)
    file.write_bytes(b'{"task":"note","args":{"text":"stolen"}}')
    later = make_name(time_ns() // 1000 + 3600 * 10**6).folder.partition("/")[2]
    (box.spool / name.folder).symlink_to(minute)
    (box.spool / "5" / later).symlink_to(minute)
    (box.spool / "12").symlink_to(elsewhere / "5")
    shutil.rmtree(box.spool / "4")
    (box.spool / "4").symlink_to(elsewhere / "5")
    (box.spool / "running" / "worker-x-1-abcdef").symlink_to(minute)
    daemon = start(box)
    box.put("note")
    wait_until(lambda: "done" in box.lines())
    wait_until(lambda: len(box.names("corrupt")) >= 6)  # a report with each
    wait_until(lambda: not (box.spool / "5" / later).is_symlink())
    assert file.exists()
    assert os.listdir(minute) == [str(name)]
    assert "stolen" not in box.lines()
    assert_quiet(box, daemon)


def test_a_folder_that_becomes_a_link_does_not_lead_out_of_the_spool(
    box: Box, tmp_path: Path
) -> None:
    daemon = start(box)
    box.put("note")
    wait_until(lambda: "done" in box.lines())
    name = make_name(time_ns() // 1000, task="note")
    folder = box.spool / put(SpoolDir(box.spool), name, b'{"task":"note"}').folder
    wait_until(lambda: box.lines().count("done") == 2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.rename(tmp_path / "old")
    folder.symlink_to(elsewhere)
    stolen = make_name(time_ns() // 1000, task="note")
    (elsewhere / str(stolen)).write_bytes(b'{"task":"note","args":{"text":"stolen"}}')
    wait_until(lambda: not folder.is_symlink())
    box.put("note", text="more")
    wait_until(lambda: "more" in box.lines())
    assert os.listdir(elsewhere) == [str(stolen)]
    assert_at_rest(daemon)
    assert_quiet(box, daemon)


@pytest.mark.parametrize("kind", ["rubbish", "fifo", "dangling", "empty"])
def test_a_file_where_a_folder_should_be_is_put_aside(box: Box, kind: str) -> None:
    name = make_name(time_ns() // 1000 + 120 * 10**6)
    make(box.spool / name.folder, kind)
    shutil.rmtree(box.spool / "3")
    make(box.spool / "3", kind)
    make(box.spool / "12", kind)
    daemon = start(box)
    box.put("note")
    wait_until(lambda: "done" in box.lines())
    wait_until(lambda: len(box.names("corrupt")) >= 4)
    wait_until(lambda: not os.path.lexists(box.spool / name.folder))
    box.later("note", {"priority": 3}, text="three")
    wait_until(lambda: "three" in box.lines())
    assert_quiet(box, daemon)


EVERY = [*FOLDERS, "5", "0", "5/minute", "running/worker"]


@pytest.mark.parametrize("folder", EVERY)
def test_a_folder_that_is_removed_under_the_daemon_is_made_again(
    box: Box, folder: str
) -> None:
    daemon = start(box, "--frequency", "1", env={"TICK": "1"})
    lines = put_all(box, "before")
    wait_until(lambda: have_run(box, lines))
    wait_until(lambda: not box.running())
    path = box.spool / folder
    if folder == "5/minute":
        path = max((box.spool / "5").iterdir())
    elif folder == "running/worker":
        [path] = (box.spool / "running").iterdir()
    shutil.rmtree(path, ignore_errors=True)
    box.drop("0/bad" if folder != "0" else "1/bad", b"rubbish") if folder != (
        "tmp"
    ) else None
    lines = put_all(box, "after")
    wait_until(lambda: have_run(box, lines))
    wait_until(
        lambda: (
            any(n.startswith("bad") for n in box.names("corrupt")) or (folder == "tmp")
        )
    )
    wait_until(lambda: any(n.endswith("fails") for n in box.failed()))
    assert_at_rest(daemon)
    assert_quiet(box, daemon)
    assert daemon.end() == 0


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("empty", "rubbish")])
def test_a_damaged_marker_is_refused_at_once(box: Box, kind: str) -> None:
    (box.spool / ".spool").unlink()
    make(box.spool / ".spool", kind)
    box.module(MODULE)
    daemon = box.launch(box.command(imports="mine"))
    assert daemon.wait() == 78
    assert not daemon.says("Traceback")
    assert len(daemon.text().splitlines()) == 1
    said(box, code=None)
