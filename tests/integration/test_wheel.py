"""The wheel works by itself: installed elsewhere, away from the source."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TASKS = """
from pathlib import Path

from spooler import spool


@spool
def write(out: Path, text: str) -> None:
    out.write_text(text)
"""


def run(*command: str | Path, cwd: Path) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.timeout(300)
def test_an_installed_wheel_runs_a_task(tmp_path: Path) -> None:
    # It needs the network, for what builds it and for its dependencies.
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet", "--retries", "12")
    source = tmp_path / "source"
    own = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "spooler", source / "spooler", ignore=own)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)  # building writes beside it
    wheel_to = ("wheel", "--no-deps", "-w", tmp_path)
    run(sys.executable, *pip, *wheel_to, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("spoold-*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    commands = tmp_path / "venv" / "bin"
    run(commands / "python", *pip, "install", wheel, cwd=tmp_path)
    app = tmp_path / "app"
    app.mkdir()
    (app / "tasks.py").write_text(TASKS)

    run(commands / "spool", "init", "spool", cwd=app)
    run(commands / "spool", "put", "write", "out=done.txt", "text=hi", cwd=app)
    serve = ("--dir", "spool", "--import", "tasks", "--burst")
    run(commands / "spoold", *serve, cwd=app)

    assert (app / "done.txt").read_text() == "hi"
