"""uWSGI's applications beside what else spooler has: signatures, threads, tests."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from ..integration.conftest import wait_until
from .conftest import Both

pytestmark = pytest.mark.timeout(150)

TASKS: Final = """
import uwsgi
from uwsgidecorators import *

@spool
def plain(args):
    tell("plain", args["n"], len(args.get("body", "")))

@spool(pass_arguments=True)
def pickled(*args, **kwargs):
    tell("pickled", args, kwargs)
"""

PUT: Final = """
import mine
mine.plain(n="1", body="x" * 100_000, at="1", priority="3")
mine.pickled(1, two=[2])
"""


def test_signed_tasks_run_with_their_pickles(both: Both) -> None:
    both.application(TASKS)
    key = both.out.parent / "key"
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    directory = ("--dir", str(both.spool))
    both.produce(PUT, *directory)
    both.produce(PUT.replace('n="1"', 'n="2"'), *directory, key=key)
    side = both.start_spoold("--key-file", str(key), "--require-signature")
    assert sorted(side.wait_lines(2)) == ["pickled (1,) {'two': [2]}", "plain 2 100000"]
    wait_until(lambda: not both.waiting())
    assert sum(not name.endswith(".why") for name in both.names("corrupt")) == 2


def test_threads_are_refused(both: Both) -> None:
    """uWSGI's spooler has one: applications change directory, and keep locals."""
    command = both.command("--uwsgi", "--threads", "2", imports="mine")
    assert "use workers" in both.refused(command, 2)


ASYNC: Final = """
import threading, uwsgi
import spooler

here = threading.local()
here.imported = True

@spooler.spool
async def quick() -> None:
    tell("async")

def run(vars):
    tell("raw", here.imported, threading.current_thread() is threading.main_thread())
    return uwsgi.SPOOL_OK

uwsgi.spooler = run
uwsgi.spool({})
quick.spool()
"""


def test_tasks_run_in_the_thread_that_imported_the_application(both: Both) -> None:
    both.application(ASYNC)
    side = both.start_spoold(env={"SPOOL_DIR": str(both.spool)})
    assert sorted(side.wait_lines(2)) == ["async", "raw True True"]
    side.wait_done()


LOCAL: Final = """
import os
from spooler.ext.uwsgi import install
install()
import mine
from spooler.testing import LocalSpool

def test_tasks():
    with LocalSpool(os.environ["OUT"] + "/local") as local:
        mine.plain(n="1")
        mine.plain(n="2", at=str(int(local.clock.now_us() / 1e6) + 60))
        assert [task.task for task in local.waiting] == ["plain", "plain"]
        assert [ran.task for ran in local.run()] == ["plain"]
        assert [ran.task for ran in local.advance("2m")] == ["plain"]
"""


def test_an_application_can_be_tested_without_a_daemon(both: Both) -> None:
    both.application(TASKS)
    (both.app / "test_local.py").write_text(LOCAL)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "test_local.py"],
        cwd=both.app,
        env=both.environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert both.lines() == ["plain 1 0", "plain 2 0"]


def test_a_directory_that_is_no_spool_is_refused(both: Both, tmp_path: Path) -> None:
    both.application(TASKS)
    other = tmp_path / "other"
    other.mkdir()
    (other / "somebody's").touch()
    said = both.produce(
        "import mine\n"
        "for path in ({}, {'spooler': '/nowhere'}):\n"
        "    try: mine.plain(n='1', **path)\n"
        "    except ValueError as error: print(error)\n",
        "--dir",
        str(other),
    )
    refused, unknown = said.splitlines()
    assert refused.startswith(f"unable to spool job: {other}: ")
    assert unknown.startswith("unable to spool job: there is no spooler /nowhere")
    assert os.listdir(other) == ["somebody's"]


def test_a_full_spool_refuses_tasks(both: Both) -> None:
    both.application(TASKS)
    side = both.start_spoold("--max-waiting", "1")
    side.stop()
    said = both.produce(
        "import mine\n"
        "mine.plain(n='1')\n"
        "try: mine.plain(n='2')\n"
        "except ValueError as error: print(error)\n",
        "--dir",
        str(both.spool),
    )
    assert "is full: 1 tasks wait" in said
