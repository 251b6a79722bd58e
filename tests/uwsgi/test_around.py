"""uWSGI's applications beside what else spooler has: signatures, threads, tests."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from ..integration.conftest import SPOOLD, wait_until
from .conftest import TIMEOUT, Both

pytestmark = pytest.mark.timeout(TIMEOUT)

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
    wait_until(lambda: len(both.names("corrupt")) == 4)  # with its report, each
    assert sum(not name.endswith(".why") for name in both.names("corrupt")) == 2
    assert both.is_empty()


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


def test_a_producer_that_cannot_begin_says_so_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "ok.py").touch()
    (tmp_path / "broken.py").write_text("import none_of_this_name\n")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "needy").mkdir()
    (package / "needy/__init__.py").write_text("import none_of_this_name\n")
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "__main__.py").write_text("print('here')\n")

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "spooler.ext.uwsgi", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    name = "python -m spooler.ext.uwsgi"
    gone = "[Errno 2] No such file or directory"
    assert run("nope.py") == (
        2,
        f"{name}: can't open file '{tmp_path}/nope.py': {gone}\n",
    )
    assert run("empty") == (
        2,
        f"{name}: can't find '__main__' module in '{tmp_path}/empty'\n",
    )
    for module in ("nope", "nope.a", "package.nope", "ok.nope"):
        assert run("-m", module) == (2, f"{name}: No module named {module}\n")
    for module in ("package", ".ok"):
        code, said = run("-m", module)
        assert (code, len(said.splitlines())) == (2, 1)
    for words in (("ok.py",), ("-m", "ok"), ("program",), ("-m", "program")):
        assert run(*words) == (0, "")
    for words in (("broken.py",), ("-m", "broken"), ("-m", "package.needy.a")):
        code, said = run(*words)
        assert code == 1
        assert "No module named 'none_of_this_name'" in said  # with its traceback
    code, said = run()
    assert code == 2
    assert said.endswith("the following arguments are required: SCRIPT\n")
    missing = f"--dir {tmp_path}/no: there is no such directory: make it with"
    assert run("--dir", f"{tmp_path}/no", "ok.py") == (
        78,
        f"{name}: {missing} `spool init {tmp_path}/no`\n",
    )
    assert run("--dir", "ok.py", "ok.py") == (
        78,
        f"{name}: --dir ok.py: not a directory\n",
    )


def test_what_cannot_be_put_shows_no_inner_tracebacks(both: Both) -> None:
    both.application(TASKS)
    said = both.produce(
        "import mine, traceback\n"
        "try: mine.plain(n='1', priority='high')\n"
        "except ValueError: print(traceback.format_exc())\n",
        "--dir",
        str(both.spool),
    )
    assert said.count("Traceback") == 1
    assert "unable to spool job: priority b'high' is no number" in said


@pytest.mark.parametrize("module", ["uwsgi", "uwsgidecorators"])
def test_an_application_without_the_option_is_told_of_it(
    both: Both, module: str
) -> None:
    both.module(f"import {module}\n", "mine")
    said = both.refused(both.command(imports="mine"), 78)
    assert f"No module named '{module}'" in said
    assert said.rstrip().endswith("; use --uwsgi")


def test_a_directory_in_the_place_of_an_address_is_refused(both: Both) -> None:
    command = [str(Path(sys.executable).parent / "spool"), "put", "a"]
    done = subprocess.run(
        [*command, "--spooler", "bad"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--spooler='bad' cannot be: it takes HOST:PORT" in done.stderr
    assert "; a directory goes to --dir" in done.stderr


IN_A_LOOP: Final = """
import spooler

@spooler.spool
async def quick() -> None:
    tell("quick")
"""


def test_a_task_does_not_run_in_another_directory(both: Both) -> None:
    both.application(TASKS + IN_A_LOOP)
    (both.app / "work").mkdir()
    ini = both.app / "app.ini"
    ini.write_text(
        f"[uwsgi]\nspooler = {both.spool}\nimport = mine\n"
        f"spooler-chdir = {both.app}/work\n"
    )
    both.spoold.daemon = both.launch([str(SPOOLD), "--uwsgi-ini", str(ini)])
    both.spoold.daemon.wait_for("serve spool=")
    (both.app / "work").rmdir()
    both.produce("import mine\nmine.plain(n='1')\n", "--dir", str(both.spool))
    both.put("quick")
    problem = f"spooler-chdir = {both.app}/work: No such file"
    wait_until(lambda: both.spoold.daemon.text().count(problem) >= 2)
    assert both.lines() == []
    (both.app / "work").mkdir()
    assert sorted(both.spoold.wait_lines(2)) == ["plain 1 0", "quick"]
