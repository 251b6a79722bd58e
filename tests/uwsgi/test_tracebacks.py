"""What an exception in a task leaves to be read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers import FACTOR
from .conftest import TIMEOUT, Both

pytestmark = pytest.mark.timeout(TIMEOUT)

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
    found = re.search(r"retry task=(\w+) ", both.spoold.daemon.text())
    assert found is not None
    spool = str(Path(sys.executable).with_name("spool"))
    command = [spool, "--dir", str(both.spool), "log", found[1], "--attempt", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30 * FACTOR, check=True
    )
    assert 'return args["nope"]' in done.stdout
    assert "handler.py" not in done.stdout
