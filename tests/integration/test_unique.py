"""Uniqueness keys with real daemons and real producers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spooler import DuplicateError, Handle, State

from ..helpers import FACTOR
from .conftest import LIMIT, Box, wait_until

SPOOL = Path(sys.executable).with_name("spool")
PRODUCER = """
import sys
from spooler import Spooler
spool = Spooler(sys.argv[1], durability="fast")
for number in range(int(sys.argv[2])):
    args = {"number": number % 3, "seconds": 0.002}
    spool.put("alone", args, key=f"alone-{number % 3}", if_exists=sys.argv[3])
"""


def put(box: Box, task: str, key: str, /, **args: object) -> Handle:
    return box.spooler.put(task, args, key=key)


def spool(box: Box, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(SPOOL), *words, "--dir", str(box.spool)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("if_exists", ["skip", "replace"])
def test_with_many_producers_no_task_runs_beside_itself(
    box: Box, if_exists: str
) -> None:
    daemon = box.start("--workers", "3", imports="unique")
    command = [sys.executable, "-c", PRODUCER, str(box.spool), "100", if_exists]
    producers = [subprocess.Popen(command) for _ in range(4)]
    for producer in producers:
        assert producer.wait(LIMIT * FACTOR) == 0
    wait_until(box.is_empty, timeout=30)
    runs = box.lines()
    assert len(runs) >= 3
    if if_exists == "skip":
        assert not [line for line in runs if "overlaps" in line]
    assert not box.failed(), daemon.text()


def test_a_key_is_taken_while_its_task_runs_and_free_after_it(box: Box) -> None:
    box.start(imports="unique")
    first = put(box, "at_gate", "gate")
    box.wait_lines("at the gate")
    again = put(box, "at_gate", "gate")
    assert again == first
    assert again.state() is State.RUNNING
    with pytest.raises(DuplicateError) as caught:
        box.later("at_gate", {"key": "gate", "if_exists": "raise"})
    assert (caught.value.task_id, caught.value.key) == (first.id, "gate")
    box.open()
    box.wait_lines("at the gate", "through")
    wait_until(box.is_empty)
    assert put(box, "at_gate", "gate") != first
    wait_until(lambda: len(box.lines()) == 4)


def test_replace_lets_the_one_that_runs_go_on(box: Box) -> None:
    box.start("--workers", "1", imports="unique")
    options = {"key": "gate", "if_exists": "replace"}
    box.later("at_gate", options, text="first")
    box.wait_lines("at the gate")
    box.later("at_gate", options, text="second")
    box.later("at_gate", options, text="third")
    assert len(box.waiting()) == 1
    box.open()
    box.wait_lines("at the gate", "first", "at the gate", "third")


def test_a_key_is_kept_over_a_retry_and_free_after_a_failure(box: Box) -> None:
    box.start(imports="unique")
    first = put(box, "broken_once", "1", number=1)
    wait_until(lambda: (box.out / "once-1").exists())
    wait_until(lambda: any(name.split(".")[2] == "1" for name in box.waiting()))
    assert put(box, "broken_once", "1", number=1) == first
    box.open()
    box.wait_lines("mended 1")
    wait_until(box.is_empty)
    failed = put(box, "broken", "1", number=1)
    wait_until(box.failed)
    assert put(box, "broken", "1", number=1) != failed
    wait_until(lambda: len(box.failed()) == 2)


def test_unique_for_holds_off_what_has_just_been_done(box: Box) -> None:
    options = {"key": "alone-7", "unique_for": "1h"}
    first = box.later("alone", options, number=7)
    box.burst(imports="unique")
    assert box.later("alone", options, number=7) == first
    assert first.state() is None
    box.burst(imports="unique")
    assert box.lines() == ["7"]


def test_dropped_files_with_a_key_become_one_task(box: Box) -> None:
    for number in range(5):
        text = "task=alone\nnumber=4\nkey=alone-4\n"
        box.drop(f"5/file{number}", text.encode())
    daemon = box.start("--workers", "1", imports="unique")
    dropped = {f"file{number}" for number in range(5)}
    wait_until(lambda: dropped.isdisjoint(box.names("5")) and box.is_empty())
    assert len(box.lines()) >= 1
    assert "overlaps" not in "".join(box.lines())
    assert daemon.says("adopt task=")


def test_the_key_of_a_killed_producer_is_free(box: Box) -> None:
    command = [sys.executable, "-c", PRODUCER, str(box.spool), "100000", "replace"]
    producer = subprocess.Popen(command, env={**os.environ})
    wait_until(lambda: len(box.waiting()) >= 3)
    producer.kill()
    producer.wait()
    for number in range(3):
        put(box, "alone", f"alone-{number}", number=number)
    box.burst(imports="unique")
    assert set(box.lines()) == {"0", "1", "2"}


def test_the_command_puts_and_shows_a_key(box: Box) -> None:
    words = ("put", "alone", "number:=1", "--key", "alone-1")
    first = spool(box, *words)
    assert spool(box, *words).stdout == first.stdout
    told = json.loads(spool(box, *words, "--json").stdout)
    assert (told["id"], told["key"], told["put"]) == (
        first.stdout.strip(),
        "alone-1",
        False,
    )
    refused = spool(box, *words, "--if-exists", "raise")
    assert refused.returncode == 1
    assert "has the key 'alone-1' already" in refused.stderr
    other = spool(box, *words, "--if-exists", "replace", "--unique-for", "1h", "--json")
    assert json.loads(other.stdout)["put"] is True
    shown = spool(box, "show", json.loads(other.stdout)["id"], "--json")
    assert json.loads(shown.stdout)["key"] == "alone-1"
    refused = spool(box, "put", "alone", "--unique-for", "1h")
    assert (refused.returncode, refused.stderr) == (
        2,
        "spool: unique_for= needs key=\n",
    )
