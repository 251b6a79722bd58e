"""Signed tasks with a real spoold: what runs, what is put aside, who may attack."""

import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spooler import Handle
from spooler.spooldir.signing import Signer
from spooler.task import Name

from ..helpers import matching
from .conftest import Box, wait_until

KEY = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
SPOOL = str(Path(sys.executable).with_name("spool"))

TASKS = """\
import os
from pathlib import Path
from threading import Event
from typing import BinaryIO

from spooler import Retry, current_task, spool, timer

OUT = Path(os.environ["OUT"])

def write(text):
    fd = os.open(OUT / "out", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text}\\n".encode())
    os.close(fd)

@spool(retries=0)
def note(text: str) -> None:
    write(text)

@spool(retries=0)
def other(text: str) -> None:
    write("other " + text)

@spool(backoff=0.001, jitter=0)
def twice(text: str) -> None:
    write(f"{text} {current_task().attempt}")
    if current_task().attempt == 1:
        raise ValueError(text)

@spool(retries=0, then=["note"])
def parent(text: str) -> None:
    write(text)

@spool(retries=0)
def wrong(text: str) -> None:
    raise ValueError(text)

@spool(retries=0, hard_timeout=30)
def die(text: str) -> None:
    os._exit(1)

@spool(retries=0, expires="+1m")
def soon(text: str) -> None:
    write(text)

@spool(retries=0)
def body(body: BinaryIO) -> None:
    write("begun")
    while not (OUT / "gate").exists():
        Event().wait(0.005)
    data = body.read()
    write(f"{len(data)} {data[:4].decode()} {data[-4:].decode()}")

@spool(retries=0)
def asks(text: str) -> None:
    note.using(durability="fast").spool(text=text)
"""


class Signed:
    """A box whose tasks are signed, with a daemon that requires it.

    Attributes:
        key: The key file.
    """

    def __init__(self, box: Box, root: Path) -> None:
        self.box = box
        self.key = root / "key"
        self.write_keys(KEY)
        box.module(TASKS, "signed")
        self.required = ("--key-file", str(self.key), "--require-signature")

    def write_keys(self, *keys: str) -> None:
        """Replace the key file."""
        new = self.key.with_name("new")
        new.touch(0o600)
        new.write_text("".join(f"{key}\n" for key in keys))
        new.rename(self.key)

    def burst(self, *options: str) -> str:
        """Run all that is due; return the log."""
        daemon = self.box.burst(*(options or self.required), imports="signed")
        return daemon.text()

    def put(self, task: str, /, options: dict[str, object] | None = None) -> Handle:
        """Put a signed task whose text is ``signed``."""
        return self.box.spooler.put(task, {"text": "signed"}, **(options or {}))  # type: ignore[arg-type] # by name

    def path(self, handle: Handle) -> Path:
        """Return the file of a task that waits."""
        [path] = matching(self.box.spool, f"*/*/*.{handle.id}.*")
        return path

    def corrupt(self) -> dict[str, str]:
        """Return what was put aside, with the reason."""
        return {
            path.name: json.loads(path.with_name(f"{path.name}.why").read_text())[
                "reason"
            ]
            for path in (self.box.spool / "corrupt").iterdir()
            if path.suffix != ".why"
        }


@pytest.fixture
def signed(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signed:
    """Give a box whose tasks are signed: those of this process too."""
    signed = Signed(box, tmp_path)
    monkeypatch.setenv("SPOOLER_KEY_FILE", str(signed.key))
    return signed


@pytest.fixture
def unsigned(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> Signed:
    """Give the same where this process does not sign."""
    monkeypatch.delenv("SPOOLER_KEY_FILE")
    return signed


# -- who is let in ----------------------------------------------------------------


def test_only_what_is_signed_runs(signed: Signed) -> None:
    box = signed.box
    signed.put("note")
    box.drop("5/unsigned", b'{"task":"note","args":{"text":"unsigned"}}')
    packet = b"\x11\x14\0\0\x04\0task\x04\0note\x04\0text\0\0"
    box.drop("5/packet", packet)
    other = hmac.new(bytes.fromhex(OTHER), b"x", "sha256").hexdigest().encode()
    box.drop("5/other", b'{"sig":"%s","task":"note","args":{"text":"x"}}' % other)
    signed.burst()
    assert box.lines() == ["signed"]
    reasons = sorted(signed.corrupt().values())
    assert len(reasons) == 3
    assert reasons[0] == "is not signed"
    assert reasons[1] == "is not signed, which a uWSGI packet cannot be"
    assert reasons[2].startswith("its signature is wrong")


def test_all_that_comes_of_signed_tasks_runs_too(signed: Signed) -> None:
    box = signed.box
    from_line = signed.box.spooler.call("note", {"text": "followed"})
    calls = [
        *(box.spooler.call("note", {"text": str(n)}) for n in range(300)),
        box.spooler.call("twice", {"text": "line"}),
        box.spooler.call("note", {"text": "last"}, then=[from_line]),
    ]
    box.spooler.spool_many(calls)
    signed.put("twice")
    signed.put("note", {"key": "a"})
    signed.put("asks", {"then": [from_line], "keep_result": 60})
    signed.put("wrong", {"on_failure": [from_line]})
    signed.put("die", {"on_failure": [from_line]})
    signed.put("body", {"body": b"body" * 100_000})
    box.open()
    signed.burst(*signed.required, "--workers", "4", "--backoff", "0.001")
    assert signed.corrupt() == {}
    assert box.waiting() == []
    lines = box.lines()
    assert lines.count("followed") == 4
    assert lines.count("signed") == 2
    assert {str(n) for n in range(300)} <= set(lines)
    assert {"line 1", "line 2", "signed 1", "signed 2", "last"} <= set(lines)


def test_parts_of_a_signed_batch_are_shared(signed: Signed) -> None:
    box = signed.box
    box.module("from signed import *\n", "mine")
    # No line has much time until the batch was shared, and then all have none.
    slow = "    (OUT / 'gate').exists() or Event().wait(0.1)\n"
    text = TASKS.replace(
        "    write(text)\n\n@spool(retries=0)\ndef other",
        f"{slow}    write(text)\n\n@spool(retries=0)\ndef other",
    )
    assert text != TASKS
    box.module(text, "signed")
    daemon = box.start(*signed.required, "--workers", "4", imports="signed")
    wait_until(lambda: len(box.workers()) == 4)
    calls = [box.spooler.call("note", {"text": f"n{n}"}) for n in range(600)]
    box.spooler.spool_many(calls)
    daemon.wait_for("cut task=")
    box.open()
    wait_until(lambda: len(box.lines()) == 600 and box.is_empty())
    assert daemon.end() == 0
    assert signed.corrupt() == {}
    assert sorted(box.lines()) == sorted(f"n{n}" for n in range(600))


def test_timers_are_signed(signed: Signed) -> None:
    timers = "@timer(1)\ndef tick() -> None:\n    write('tick')\n"
    signed.box.module(f"{TASKS}\n{timers}", "signed")
    daemon = signed.box.start(*signed.required, imports="signed")
    wait_until(lambda: signed.box.lines("out").count("tick") >= 2)
    assert daemon.end() == 0
    assert signed.corrupt() == {}


def test_a_script_signs_with_openssl(unsigned: Signed) -> None:
    script = """
    set -e
    key=$(head -n 1 "$1")
    printf 'sig=%064d\\ntask=note\\ntext=by hand\\n' 0 > task
    sig=$(openssl dgst -r -sha256 -mac HMAC -macopt hexkey:$key task | cut -c 1-64)
    sed -i "1s/.*/sig=$sig/" task
    mv task "$2/5/"
    """
    box = unsigned.box
    command = ["sh", "-c", script, "sh", str(unsigned.key), str(box.spool)]
    subprocess.run(command, cwd=box.app, check=True)
    unsigned.burst()
    assert box.lines() == ["by hand"]
    assert unsigned.corrupt() == {}


def test_an_id_in_a_dropped_file_is_its_id(unsigned: Signed) -> None:
    box, task_id = unsigned.box, "00000000000000ab"
    head = {"sig": "0" * 64, "id": task_id, "task": "note", "args": {"text": "a"}}
    data = json.dumps(head, separators=(",", ":")).encode()
    mac = hmac.new(bytes.fromhex(KEY), data, hashlib.sha256).hexdigest().encode()
    box.drop("5/one", data[:8] + mac + data[72:])
    assert f"ack task={task_id}" in unsigned.burst()
    assert box.lines() == ["a"]


# -- attackers --------------------------------------------------------------------


def rename(path: Path, **changes: str) -> None:
    """Give a task another name, as somebody may who can write to the folder."""
    name = Name.parse(path.name)
    assert name is not None
    parts = {"id": name.id, "task": name.task, **changes}
    new = Name(name.due_us, name.priority, name.attempt, parts["id"], parts["task"])
    path.rename(path.with_name(str(new)))


def change(path: Path, old: bytes, new: bytes) -> None:
    """Write to a task in place."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


ATTACKS: list[tuple[Callable[[Path], None], str]] = [
    (lambda path: rename(path, task="other"), "is signed for the task 'note'"),
    (lambda path: rename(path, id="00000000000000ab"), "is signed with the id "),
    (lambda path: change(path, b'signed"}', b'evil00"}'), "its signature is wrong"),
    (lambda path: change(path, b'"note"', b'"wrong"'), "its signature is wrong"),
    (lambda path: change(path, b'{"sig"', b'{"sug"'), "is not signed"),
    (lambda path: change(path, b"\n", b"\nbody"), "its signature is wrong"),
]


@pytest.mark.parametrize(("attack", "why"), ATTACKS)
def test_a_task_that_was_tampered_with_is_put_aside(
    signed: Signed, attack: Callable[[Path], None], why: str
) -> None:
    attack(signed.path(signed.put("note")))
    signed.burst()
    assert signed.box.lines() == []
    [(name, reason)] = signed.corrupt().items()
    assert reason.startswith(why)
    # An operator who moves it back gets the same answer.
    (signed.box.spool / "corrupt" / name).rename(signed.box.spool / "5" / name)
    (signed.box.spool / "corrupt" / f"{name}.why").unlink()
    signed.burst()
    assert signed.corrupt() == {name: reason}
    assert signed.box.lines() == []


def test_names_of_two_tasks_cannot_be_swapped(signed: Signed) -> None:
    one, two = (signed.path(signed.put(task)) for task in ("note", "other"))
    spare = one.with_name("x")
    one.rename(spare)
    two.rename(one)
    spare.rename(two)
    signed.burst()
    assert signed.box.lines() == []
    assert len(signed.corrupt()) == 2


@pytest.mark.parametrize("size", [400, 4_000_000])
def test_a_body_that_changes_while_it_is_used_is_not_seen(
    signed: Signed, size: int
) -> None:
    box = signed.box
    box.spooler.put("body", {}, body=b"good" * (size // 4))
    daemon = box.start(*signed.required, imports="signed")
    wait_until(lambda: box.lines() == ["begun"])
    [path] = [box.spool / path for path in box.running()]
    change(path, b"good", b"evil")
    box.open()
    wait_until(box.is_empty)
    assert box.lines() == ["begun", f"{size} good good"]
    assert daemon.end() == 0
    assert signed.corrupt() == {}


def test_a_batch_cannot_be_given_the_ids_of_another(signed: Signed) -> None:
    box = signed.box
    calls = [box.spooler.call("note", {"text": str(n)}) for n in range(3)]
    batch = box.spooler.spool_many(calls)
    progress = f"-{0:015d} {3:016d} 00000000000000ab\n"
    (box.spool / "batches" / batch.id).write_text(progress)
    signed.burst()
    assert box.lines() == []
    [reason] = signed.corrupt().values()
    assert reason.startswith(f"is signed with the id {batch.id}, and is no part")


def test_a_copy_runs_again_until_it_expires(signed: Signed) -> None:
    """What signatures do not stop: whoever can write may put an old task once more."""
    box = signed.box
    kept = {}
    for task in ("note", "soon"):
        path = signed.path(signed.put(task))
        kept[path] = path.read_bytes()
    signed.burst()
    assert box.lines() == ["signed", "signed"]
    for path, data in kept.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    signed.burst()
    assert box.lines() == ["signed"] * 4
    # The same, signed an hour ago; by its times the file is new.
    [path] = [path for path in kept if path.name.endswith(".soon")]
    name = Name.parse(path.name)
    assert name is not None
    text = b'{"task":"soon","args":{"text":"signed"}}\n'
    old = Signer(str(signed.key)).sign(name.id, text, name.due_us - 3600 * 10**6)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(old)
    signed.burst()
    assert box.lines() == ["signed"] * 4
    [why] = (box.spool / "failed").glob("*.why")
    assert json.loads(why.read_text())["reason"] == "expired"


def test_a_follower_of_a_task_that_was_changed_is_not_signed(signed: Signed) -> None:
    box = signed.box
    follower = box.spooler.call("note", {"text": "followed"})
    signed.put("asks", {"on_failure": [follower]})
    text = TASKS.replace(
        "def asks(text: str) -> None:",
        "def asks(text: str) -> None:\n    write('begun')\n    Event().wait(3600)",
    )
    box.module(text, "signed")
    daemon = box.start(*signed.required, "--max-attempts", "1", imports="signed")
    wait_until(lambda: box.lines() == ["begun"])
    [path] = [box.spool / path for path in box.running()]
    change(path, b"followed", b"evil0000")
    os.kill(box.worker(), signal.SIGKILL)
    wait_until(lambda: len(signed.corrupt()) == 1)
    assert list(signed.corrupt().values()) == ["is not signed"]
    wait_until(lambda: len(box.failed()) == 1)
    assert box.lines() == ["begun"]
    assert daemon.end() == 0


# -- getting there ----------------------------------------------------------------


def test_a_daemon_with_a_key_alone_says_what_is_not_signed(unsigned: Signed) -> None:
    box = unsigned.box
    handle = box.put("parent", text="unsigned")
    log = unsigned.burst("--key-file", str(unsigned.key), "--max-tasks", "1")
    assert box.lines()[0] == "unsigned"
    assert f"unsigned task={handle.id}: is not signed" in log
    # Nobody who can drop a file gets a signed one for it.
    assert len(re.findall("unsigned task=", log)) == 2


def test_what_a_task_puts_is_signed(unsigned: Signed) -> None:
    box = unsigned.box
    box.put("asks", text="mine")
    log = unsigned.burst("--key-file", str(unsigned.key))
    assert box.lines() == ["mine"]
    assert log.count("unsigned task=") == 1


def test_keys_are_replaced_without_losing_a_task(signed: Signed) -> None:
    box, own = signed.box, signed.key.with_name("own")
    daemon = box.start(*signed.required, imports="signed")

    def put(key: str) -> None:
        """Put a task as somebody does who has this key yet, and see it run."""
        before = len(box.lines())
        own.touch(0o600)
        own.write_text(key)
        command = [SPOOL, "--dir", str(box.spool), "--key-file", str(own), "put"]
        subprocess.run(
            [*command, "note", "text=x"],
            check=True,
            env=box.environ(),
            capture_output=True,
        )
        wait_until(lambda: len(box.lines()) + len(signed.corrupt()) > before)

    put(KEY)
    steps = [((KEY, OTHER), KEY), ((OTHER, KEY), KEY), ((OTHER,), OTHER)]
    for number, (keys, oldest) in enumerate(steps, 1):
        signed.write_keys(*keys)
        put(oldest)
        daemon.send(signal.SIGHUP)
        wait_until(lambda n=number: daemon.text().count("reload: done") == n)  # type: ignore[misc] # n is bound now
        put(oldest)
    put(OTHER)
    assert signed.corrupt() == {}
    assert len(box.lines()) == 8
    put(KEY)
    [reason] = signed.corrupt().values()
    assert reason.startswith("its signature is wrong")
    assert daemon.end() == 0
    assert KEY not in daemon.text()
    assert OTHER not in daemon.text()


def test_a_reload_without_a_good_key_file_changes_nothing(signed: Signed) -> None:
    box = signed.box
    daemon = box.start(*signed.required, imports="signed")
    box.put("note", text="one")
    box.wait_lines("one")
    signed.key.chmod(0o644)
    daemon.send(signal.SIGHUP)
    daemon.wait_for("reload: the old code and the old keys go on: key file")
    signed.key.chmod(0o400)
    daemon.send(signal.SIGHUP)
    daemon.wait_for("reload: done")
    box.put("note", text="two")
    box.wait_lines("one", "two")
    assert daemon.end() == 0


def test_tasks_wait_for_a_key_that_cannot_be_read(signed: Signed) -> None:
    box = signed.box
    daemon = box.start(*signed.required, imports="signed")
    box.put("note", text="one")
    box.wait_lines("one")
    wait_until(box.is_empty)
    signed.key.rename(signed.key.with_name("away"))
    old = box.worker()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: box.workers() not in ([], [old]))
    box.put("note", text="two")
    daemon.wait_for("cannot be read now")
    signed.key.with_name("away").rename(signed.key)
    box.wait_lines("one", "two")
    assert signed.corrupt() == {}
    assert daemon.end() == 0


# -- settings ---------------------------------------------------------------------


def test_signatures_cannot_be_required_without_keys(box: Box) -> None:
    said = box.refused(box.command("--require-signature"), 2)
    assert "require_signature needs the keys: use --key-file FILE" in said


@pytest.mark.parametrize("what", ["missing", "open", "empty", "short"])
def test_a_key_file_that_cannot_be_used_is_refused(signed: Signed, what: str) -> None:
    if what == "missing":
        signed.key.unlink()
    elif what == "open":
        signed.key.chmod(0o644)
    else:
        signed.key.write_text("" if what == "empty" else KEY[:40])
    said = signed.box.refused(signed.box.command(*signed.required), 78)
    assert said.startswith(f"spoold: key file {signed.key}: ")
    assert KEY[:40] not in said
    done = subprocess.run(
        [SPOOL, "--key-file", signed.key, "put", "note", "text=x"],
        env=signed.box.environ({"SPOOL_DIR": str(signed.box.spool)}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 78
    assert done.stderr.startswith(f"spool: key file {signed.key}: ")
    assert signed.box.waiting() == []


def test_edit_signs_again_with_the_key(signed: Signed) -> None:
    box = signed.box
    handle = signed.put("note", {"at": "+1h"})

    def spool(*words: str) -> "subprocess.CompletedProcess[str]":
        editor = """sed -i 's/"signed"$/"edited"/'"""
        env = box.environ({"SPOOL_DIR": str(box.spool), "EDITOR": editor})
        return subprocess.run([SPOOL, *words], env=env, capture_output=True, text=True)

    without = spool("edit", handle.id)
    assert without.returncode == 1
    assert "there is no key here to sign it again" in without.stderr
    done = spool("--key-file", str(signed.key), "edit", handle.id)
    assert done.returncode == 0, done.stderr
    shown = spool("--key-file", str(signed.key), "show", handle.id).stdout
    assert "signed    yes" in shown
    assert spool("now", handle.id).returncode == 0
    signed.burst()
    assert box.lines() == ["edited"]
