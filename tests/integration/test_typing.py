"""A type checker knows what ``func.spool(...)`` takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spooler

SOURCE = Path(spooler.__file__).parents[1]

GOOD = """
from datetime import timedelta

from spooler import Handle, Spooler, cron, spool, spoolforever, spoolraw, timer


@spool
def bare(to: str, size: int = 1) -> float:
    return size / 2


@spool(retries=3, backoff=timedelta(seconds=1), priority=2, name="other")
def given(to: str) -> None: ...


@spoolraw
def raw(args: dict[str, object]) -> int:
    return -2


@spoolraw(max_attempts=2)
def raw_given() -> int:
    return -2


@spoolforever
def forever() -> None: ...


@spoolforever(pause=0.5)
def forever_given() -> None: ...


@timer(30, overlap=True)
def often() -> None: ...


@cron("*/5 * * * *", tz="Europe/Paris")
def nightly() -> None: ...


@cron(-5, -1, -1, -1, -1)
def fifth() -> None: ...


mail = Spooler("mail", durability="fast")


@mail.spool
def letter(text: str, body: bytes = b"") -> None: ...


half: float = bare("x", size=3)
handle: Handle = bare.spool("x", size=3)
handle = given.using(at="+5m", priority=1, spooler=mail).spool(to="x")
handle = letter.spool(text="x", body=b"y")
handle = mail.put("letter", {"text": "x"}, at=timedelta(minutes=1))
"""

BAD = [
    'bare.spool(two="x")',
    "bare.spool(to=1)",
    "given.using(priority=1).spool()",
    'given.using(at="+5m", colour="red").spool(to="x")',
    "bare()",
]


def mypy(path: Path, text: str) -> subprocess.CompletedProcess[str]:
    path.write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", path.name]
    environ = {**os.environ, "MYPYPATH": os.fspath(SOURCE)}
    return subprocess.run(
        command,
        cwd=path.parent,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(300)
def test_a_type_checker_knows_the_arguments_of_a_task(tmp_path: Path) -> None:
    good = mypy(tmp_path / "good.py", GOOD)
    bad = mypy(tmp_path / "bad.py", GOOD + "\n".join(BAD) + "\n")

    assert good.returncode == 0, good.stdout
    first = len(GOOD.splitlines()) + 1
    flagged = {int(line.split(":")[1]) for line in bad.stdout.splitlines()[:-1]}
    assert flagged == set(range(first, first + len(BAD))), bad.stdout
