"""``spoold --reload``: files of the application change, break and are mended."""

from pathlib import Path

import pytest

from .conftest import Box, stays, wait_until

CODE = """
import os, sys
from spooler import spool
import helper

@spool
def say(number: int) -> None:
    with open(os.environ["OUT"] + "/out", "a") as file:
        file.write(f"{number} {helper.WORD}\\n")
"""


def prepare(box: Box) -> Path:
    box.module(CODE)
    box.module("WORD = 'one'\n", "helper")
    return box.app / "helper.py"


def rename_over(path: Path, text: str) -> None:
    path.with_name("4913").write_text(text)
    path.with_name("4913").rename(path)


def say(box: Box, number: int, word: str) -> None:
    box.put("say", number=number)
    wait_until(lambda: box.lines() and box.lines()[-1].startswith(f"{number} "))
    assert box.lines()[-1] == f"{number} {word}"


@pytest.mark.parametrize("how", ["write", "rename"])
def test_changed_code_is_imported_anew(box: Box, how: str) -> None:
    helper = prepare(box)
    daemon = box.start("--reload", imports="mine")
    say(box, 1, "one")
    change = Path.write_text if how == "write" else rename_over
    # Of the same length, and soon: compiled code from before must not be used.
    for number, word in enumerate(("two", "six", "ten"), 2):
        change(helper, f"WORD = {word!r}\n")
        wait_until(lambda n=number: daemon.text().count("reload: done") >= n - 1)  # type: ignore[misc] # a default binds it
        say(box, number, word)
    assert f"code changed: {helper}" in daemon.text()
    assert not (box.app / "__pycache__").exists()


def test_broken_code_leaves_the_old_and_mended_code_replaces_it(box: Box) -> None:
    helper = prepare(box)
    daemon = box.start("--reload", imports="mine")
    helper.write_text("WORD = (\n")
    daemon.wait_for("reload: the old code goes on: cannot import mine: SyntaxError")
    say(box, 1, "one")
    helper.write_text("from missing import WORD\n")
    daemon.wait_for("No module named 'missing'")
    say(box, 2, "one")
    box.module("WORD = 'two'\n", "missing")
    daemon.wait_for("reload: done")
    say(box, 3, "two")
    assert daemon.process.poll() is None


def test_code_that_stays_is_not_imported_anew(box: Box) -> None:
    prepare(box)
    daemon = box.start("--reload", imports="mine")
    (box.app / "notes.txt").write_text("nothing")
    say(box, 1, "one")
    assert stays(lambda: not daemon.says("reload:"), seconds=0.5)


def test_without_the_option_nothing_is_watched(box: Box) -> None:
    helper = prepare(box)
    daemon = box.start(imports="mine")
    helper.write_text("WORD = 'two'\n")
    assert stays(lambda: not daemon.says("reload:"), seconds=0.5)
    say(box, 1, "one")
