"""What an exception in a task leaves to be read."""

import subprocess
import sys
from pathlib import Path

from ..helpers import FACTOR
from .conftest import Both

BAD = """
from uwsgidecorators import spool

@spool
def bad(args):
    return args["nope"]
"""


def test_the_traceback_of_each_attempt_is_in_the_log_of_its_run(both: Both) -> None:
    both.application(BAD)
    both.start_spoold()
    both.produce("import mine\nmine.bad(a='1')", "--dir", str(both.spool))
    both.spoold.daemon.wait_for("retry task=")
    [path] = both.paths_of_waiting()
    spool = str(Path(sys.executable).with_name("spool"))
    command = [spool, "--dir", str(both.spool), "log", path.split(".")[3]]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30 * FACTOR, check=True
    )
    assert 'return args["nope"]' in done.stdout
    assert "handler.py" not in done.stdout
