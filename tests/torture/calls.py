"""Kill at each system call, or have it fail: real daemons, workers and producers.

A small library in C, preloaded, counts the calls of all of them that touch the spool
with one counter (``calls.c``); what happens in a round is in ``calls_rounds.py``.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from ..integration.conftest import MARK, marked
from . import Report, Skip
from .daemons import APP, slowness

ABOUT: Final = "kill, or have fail, each system call of daemons, workers and producers"

HERE: Final = Path(__file__).parent
PROJECT: Final = HERE.parent.parent
MEMORY: Final = Path("/dev/shm")
PATIENCE: Final = 100.0
"""Seconds that the last round may take, and on a slow machine up to five times that."""


def run(budget: float, seed: int, only: str = "", plant: str = "") -> Report:
    """Do rounds for so many seconds.

    Args:
        only: Those in whose description this is.
        plant: What is to be wrong with the daemon, for a look whether it is found.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Skip("needs a C compiler")
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="calls-", dir=memory) as folder:
        library = Path(folder) / "calls.so"
        source = str(HERE / "calls.c")
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), source]
        done = subprocess.run([*command, "-ldl"], check=False)
        if done.returncode:
            raise Skip("the C compiler here cannot make a library")
        return _run([str(budget), str(seed), folder, only, plant], library)


def _run(arguments: list[str], library: Path) -> Report:
    mark = library.parent.name
    own = {k: v for k, v in os.environ.items() if not k.startswith("SPOOL_")}
    paths = os.pathsep.join((str(PROJECT), str(APP)))
    env = {**own, MARK: mark, "LD_PRELOAD": str(library), "PYTHONPATH": paths}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.calls_rounds", *arguments],
        env=env,
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    patience = PATIENCE * min(5.0, slowness())
    try:
        output, _ = process.communicate(timeout=float(arguments[0]) + patience)
        found = json.loads(output)
    except (subprocess.TimeoutExpired, ValueError) as error:
        return Report(broken=[f"the rounds did not end: {error!r}"])
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    return Report(found["figures"], found["broken"])
