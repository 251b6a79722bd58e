"""The shell examples run: by dash, where it is there, and with a real spoold."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ..helpers import FACTOR

ROOT = Path(__file__).parents[2]
SHELL = ROOT / "examples/shell"
BIN = Path(sys.executable).parent
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]

TASKS = """\
import json
import sys
from spooler import spool

@spool(retries=0)
def note(args):
    body = args.pop("body", b"").decode()
    del args["spooler_task_name"]
    print(json.dumps({**args, "body": body}, sort_keys=True), flush=True)

@spool(retries=0)
def wrong():
    raise ValueError('with "quotes"')
"""


def sh(shell: str, home: Path, script: str, *args: str) -> str:
    command = [shell, "sh"] if shell == "busybox" else [shell]
    keep = {k: v for k, v in os.environ.items() if not k.startswith("SPOOL")}
    done = subprocess.run(
        [*command, str(SHELL / script), *args],
        cwd=home,
        env=keep | {"LC_ALL": "C.UTF-8"},
        input="from stdin",
        capture_output=True,
        text=True,
        timeout=20 * FACTOR,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def burst(home: Path) -> str:
    done = subprocess.run(
        [BIN / "spoold", "--dir", "spool", "--import", "tasks", "--burst"],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=30 * FACTOR,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    subprocess.run(
        [BIN / "spool", "init", "spool"], cwd=tmp_path, check=True, timeout=20 * FACTOR
    )
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


@pytest.mark.parametrize("shell", SHELLS)
def test_enqueue_puts_what_it_was_given(shell: str, home: Path) -> None:
    text = 'It\'s "here": 50 % = half ü'
    sh(shell, home, "enqueue.sh", "note", f"text={text}", "number:=2")
    sh(shell, home, "enqueue.sh", "-d", "spool", "note", "lines=one\ntwo")
    sh(shell, home, "enqueue.sh", "-p", "0", "-b", "-", "note", "n=first")
    sh(shell, home, "enqueue.sh", "-a", "+1h", "note", "n=later")
    first, *others = burst(home).splitlines()
    assert '"body": "from stdin", "n": "first"' in first
    assert any(r"2, " in line and "half" in line for line in others)
    assert any(r'"lines": "one\ntwo"' in line for line in others)
    assert len(others) == 2


@pytest.mark.parametrize("shell", SHELLS)
def test_enqueue_refuses_what_is_no_spool(shell: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not a spool"):
        sh(shell, tmp_path, "enqueue.sh", "note")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shell", SHELLS)
def test_state_shows_what_there_is(shell: str, home: Path) -> None:
    sh(shell, home, "enqueue.sh", "wrong")
    (home / "spool/tmp/x").write_text("no task")
    (home / "spool/tmp/x").rename(home / "spool/3/x")
    burst(home)
    sh(shell, home, "enqueue.sh", "-a", "+1h", "note")
    sh(shell, home, "enqueue.sh", "note")
    state = sh(shell, home, "state.sh", "spool")
    assert re.search(r"^5 +0 +0 +2$", state, re.MULTILINE)
    assert r"ValueError: with \"quotes\"" in state
    corrupt = r"^corrupt\n  x\.[0-9a-f]{8}\n    line 1: no = "
    assert re.search(corrupt, state, re.MULTILINE)


def cron_commands() -> list[str]:
    """Return the commands of the crontab as cron hands them to the shell."""
    lines = (SHELL / "cron.example").read_text().splitlines()
    timed = [line for line in lines if re.match(r"[\d*]", line)]
    return [re.split(r"\s+", line, maxsplit=5)[5].replace(r"\%", "%") for line in timed]


@pytest.mark.parametrize("command", cron_commands())
def test_the_lines_for_cron_put_a_task(command: str, home: Path) -> None:
    here = command.replace("/usr/local/bin/enqueue.sh", str(SHELL / "enqueue.sh"))
    environ = {"SPOOL_DIR": str(home / "spool"), "PATH": "/usr/bin:/bin"}
    if "dpkg-query" in here and shutil.which("dpkg-query") is None:
        here = here.replace("dpkg-query -l", "uname -a")
    done = subprocess.run(
        ["sh", "-c", here], cwd="/", env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    dropped = [p for p in (home / "spool").glob("*/*") if p.parent.name.isdigit()]
    assert len(dropped) == 1
    assert dropped[0].read_text().startswith("task=")


@pytest.mark.timeout(120)
def test_the_demo_shows_what_it_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples/thumbnails/demo.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The daemon has ended and left no process." in done.stdout
    assert "broken.jpg" in done.stdout
    sheet = tmp_path / ".demo" / "contact-sheet.jpg"
    with Image.open(sheet) as image:
        assert min(image.size) > 500
