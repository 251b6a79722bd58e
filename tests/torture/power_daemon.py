"""``spoold`` in a child that need not be started anew: what takes most of its time.

All that it imports is imported here, once. Else the child is what the command is.
"""

import importlib
import os
import signal
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from time import monotonic

from spooler.cli import spoold

for _module in ("daemon", "template", "worker", "concurrent", "batch"):
    importlib.import_module(f"spooler.{_module}")


def run_forked(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, limit: float
) -> int:
    """Run ``spoold`` with these arguments to its end; return its exit code.

    Args:
        log: To which its output is added.
        limit: Seconds after which it is killed.
    """
    child = os.fork()
    if child == 0:
        _be(arguments, environment, log)
    until = monotonic() + limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if monotonic() > until:
            os.kill(child, signal.SIGKILL)
        Event().wait(0.005)


def _be(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    code = 70
    try:
        os.environ.update(environment)
        with log.open("ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        spoold.main(list(arguments), prog_name="spoold")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)
