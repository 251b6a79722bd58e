"""The frame of the tortures, and a few seconds of those that need nothing special."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ..torture import Report, Skip
from ..torture.__main__ import TORTURES, _run, main


def torture(report: Report | Exception) -> ModuleType:
    """Return a torture that reports, or raises, this."""

    def run(budget: float, seed: int) -> Report:
        if isinstance(report, Exception):
            raise report
        return report

    made = ModuleType("made")
    made.__dict__["run"] = run
    return made


@pytest.mark.timeout(300)  # it waits for what is slow on a busy machine
@pytest.mark.parametrize("name", ["storms", "soak"])
def test_a_few_seconds_of_it_break_nothing(name: str) -> None:
    # In a process of its own: it forks, and this one may have threads.
    words = ["-m", "tests.torture", "--only", name, "--minutes", "0.1", "--seed", "1"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, *words], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name}: ok" in done.stdout


def test_a_broken_promise_is_told_with_its_seed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    broken = Report({"rounds": 3}, ["a task was lost"])
    assert not _run("power", torture(broken), 1.0, 7)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("power: BROKEN rounds=3 ")
    assert lines[1:] == [
        "power: BROKEN 1: a task was lost",
        "power: again: --only power --seed 7",
    ]


def test_a_torture_that_fails_itself_is_no_success(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert not _run("power", torture(ValueError("of no use")), 1.0, 7)
    assert "ValueError: of no use" in capfd.readouterr().out


def test_what_cannot_be_done_here_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    assert _run("power", torture(Skip("needs root")), 1.0, 7)
    assert capfd.readouterr().out == "power: skipped: needs root\n"


def test_all_tortures_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    names = [line.split()[0] for line in capfd.readouterr().out.splitlines()]
    assert names == [*TORTURES]
