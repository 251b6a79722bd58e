"""The reference of uWSGI's names is complete: options, functions, decorators, keys."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers import FACTOR

ROOT = Path(__file__).parents[2]
UWSGI = ROOT / ".venv-bench/bin/uwsgi"
PAGE = (ROOT / "docs/reference/uwsgi.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
SPANS = "\n".join(re.findall(r"`([^`\n]+)`", PROSE))
NAMES = """\
import importlib, sys
from spooler.ext.uwsgi import install
install([sys.argv[1]])
module = importlib.import_module(sys.argv[2])
print(*[name for name in dir(module) if not name.startswith("_")])
"""


def missing(names: list[str]) -> list[str]:
    """Return what stands in no code span of the page, by itself."""
    return [n for n in names if not re.search(rf"(?<![\w-]){n}(?![\w-])", SPANS)]


@pytest.mark.parametrize("module", ["uwsgi", "uwsgidecorators"])
def test_every_name_of_a_module_is_in_the_reference(
    module: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", NAMES, str(tmp_path), module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30 * FACTOR)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert len(names) > 25
    assert not missing(names)


def test_every_option_of_the_spooler_is_in_the_reference() -> None:
    if not UWSGI.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"there is no {UWSGI}")
    done = subprocess.run(
        [UWSGI, "--help"], capture_output=True, text=True, timeout=30 * FACTOR
    )
    options = re.findall(r"--([a-z0-9-]*spool[a-z0-9-]*)", done.stdout)
    assert len(options) > 10
    assert not missing(options)
