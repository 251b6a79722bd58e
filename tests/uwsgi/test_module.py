"""The functions of ``uwsgi``: their results and errors, as the real one's."""

import os
from pathlib import Path
from typing import Any, Final

import pytest

from ..integration.conftest import wait_until
from .conftest import TIMEOUT, UWSGI, Both, need_uwsgi

pytestmark = pytest.mark.timeout(TIMEOUT)

CALLS: Final = """
import uwsgi

def attempt(name, *args, **kwargs):
    try:
        found = getattr(uwsgi, name)(*args, **kwargs)
    except Exception as error:
        tell(name, args, kwargs, type(error).__name__, str(error)[:19])
    else:
        tell(name, args, kwargs, type(found).__name__)

tell(uwsgi.SPOOL_OK, uwsgi.SPOOL_RETRY, uwsgi.SPOOL_IGNORE)
tell(uwsgi.version, uwsgi.version_info, uwsgi.hostname)
tell(type(uwsgi.spoolers).__name__, uwsgi.spoolers == (os.fsencode(SPOOL),))
tell(sorted(type(uwsgi.opt[name]).__name__ for name in ("master", "spooler")))
for name in ("loop", "applications", "unbit", "is_a_reload"):
    tell(name, getattr(uwsgi, name))
for name in ("buffer_size", "cores", "has_threads", "numproc", "started_on"):
    tell(name, type(getattr(uwsgi, name)).__name__)
tell(uwsgi.masterpid() > 0, uwsgi.worker_id(), uwsgi.mule_id())
tell(uwsgi.i_am_the_spooler())
attempt("spool", "text")
attempt("spool", [])
attempt("spool", a=b"1")
attempt("spool", {"a": b"1"})
attempt("spool", {b"a": "1"})
attempt("spool", {b"a": 1})
attempt("spool", {b"a": None})
attempt("spool", {b"spooler": b"/nowhere"})
attempt("spool", {b"body": b"bytes", b"a": bytearray(b"1")})
attempt("send_to_spooler", {b"at": b"soon", b"priority": b"12345678"})
attempt("spool", {b"body": 5})
attempt("set_spooler_frequency", 5)
attempt("set_spooler_frequency", "5")
attempt("spooler_get_task", "/nowhere")
attempt("log", "a line for the log")
attempt("log", 5)
attempt("parsefile", "/nowhere")
attempt("parsefile", "/etc/passwd")
tell(*{type(job).__name__ for job in uwsgi.spooler_jobs()})
tell(type(uwsgi.spooler_pids()).__name__, type(uwsgi.spooler_pid()).__name__)

def run(vars):
    task = vars["spooler_task_name"]
    tell("run", type(task).__name__, uwsgi.i_am_the_spooler(), uwsgi.worker_id(),
         uwsgi.spooler_pid() == os.getpid(), os.getpid() in uwsgi.spooler_pids(),
         uwsgi.masterpid() not in (0, os.getpid()), uwsgi.mule_id())
    return uwsgi.SPOOL_OK

uwsgi.spooler = run
"""


def test_results_and_errors_are_those_of_uwsgi(both: Both) -> None:
    lines = []
    for side, options in ((both.uwsgi, ("--spooler-ordered",)), (both.spoold, ())):
        # Where its spool is, each side is told in its own way.
        both.application(CALLS.replace("SPOOL)", f"{str(side.spool)!r})"))
        start = both.start_uwsgi if side is both.uwsgi else both.start_spoold
        start(*options)
        wait_until(lambda side=side: sum("run " in x for x in side.lines()) == 2)  # type: ignore[misc]  # bound
        lines.append(side.lines())
        side.stop()
    theirs, ours = lines
    assert ours == theirs


JOBS: Final = """
import uwsgi

if not os.path.exists(os.environ["OUT"] + "/put"):
    open(os.environ["OUT"] + "/put", "w").close()
    path = uwsgi.spool({b"n": b"1", b"body": b"content", b"at": b"4000000000"})
    gone = uwsgi.spool({b"n": b"2", b"at": b"4000000000"})
    os.unlink(gone)
    tell(uwsgi.spooler_jobs() == [path], path.startswith(uwsgi.spoolers[0] + b"/"))
    found = uwsgi.spooler_get_task(path.decode())
    tell(found.pop("spooler_task_name") == path, sorted(map(str, found.items())))
    tell(int(os.stat(path).st_mtime), uwsgi.spooler_get_task(gone.decode()))
    packet = uwsgi.parsefile(path.decode())
    tell(sorted(packet.items()))
    tell("end")
"""


def test_jobs_can_be_looked_at_and_unlinked(both: Both) -> None:
    theirs, ours = both.run(JOBS, until=lambda side: "end" in side.lines())
    assert ours == theirs
    assert ours[0] == "True True"


DECORATED: Final = """
from uwsgidecorators import *
@spool
def f(args): tell(args["a"])
@spool(pass_arguments=True)
def g(*args): tell(args)
f(a="1")
g(1, "2")
"""


def test_the_real_uwsgidecorators_work_on_our_module(both: Both) -> None:
    """An application may bring a copy of it; ours is taken out of the way."""
    need_uwsgi()
    packages = UWSGI.parents[1] / "lib"
    [real] = packages.glob("python3*/site-packages/uwsgidecorators.py")
    both.application("import theirs\n" + DECORATED.replace("uwsgidecorators", "theirs"))
    (both.app / "theirs.py").write_text(real.read_text())
    side = both.start_spoold()
    assert sorted(side.wait_lines(2)) == ["(1, '2')", "1"]
    side.wait_done()
    both.drop("5/shell", b"task=f\na=2\n")
    assert side.wait_lines(3)[2] == "2"
    side.wait_done()
    assert both.failed() == []


def test_a_script_puts_tasks_from_outside(both: Both) -> None:
    both.application(DECORATED.partition("f(a=")[0])
    said = both.produce(
        """
import mine, uwsgi
mine.f(a="from a script")
print(uwsgi.i_am_the_spooler(), uwsgi.masterpid() == os.getpid(), sys.argv[1:])
print(len(uwsgi.spooler_jobs()), uwsgi.spooler_pids(), uwsgi.spooler_pid())
""",
        "--dir",
        str(both.spool),
    )
    assert said.splitlines() == ["None True []", "1 [] 0"]
    side = both.start_spoold()
    assert side.wait_lines(1) == ["from a script"]
    said = both.produce(
        "from uwsgi import *\nprint(masterpid(), spooler_pids(), spooler_pid())",
        "--dir",
        str(both.spool),
    )
    [worker] = both.workers()
    assert said.split() == [str(side.daemon.pid), f"[{worker}]", str(worker)]


def test_the_banner_names_the_tasks(both: Both) -> None:
    both.application(DECORATED.partition("f(a=")[0])
    side = both.start_spoold()
    side.daemon.wait_for("tasks=2: f, g")
    side.stop()
    both.application("import uwsgi\nuwsgi.spooler = lambda env: uwsgi.SPOOL_OK\n")
    both.start_spoold().daemon.wait_for("tasks=1: *")


def test_a_frequency_set_in_one_process_counts_in_all(both: Both) -> None:
    both.application(
        """
import uwsgi

def run(vars):
    tell("run")
    uwsgi.set_spooler_frequency(1000)
    return uwsgi.SPOOL_RETRY

uwsgi.spooler = run
uwsgi.set_spooler_frequency(1000)
uwsgi.spool({b"ud_spool_func": b"f", b"ud_spool_ret": b"-1"})
"""
    )
    side = both.start_spoold("--log-level", "debug")
    side.wait_lines(1)
    wait_until(lambda: not both.running())
    [name] = both.waiting()
    put_us = os.stat(both.spool / both.paths_of_waiting()[0]).st_mtime_ns // 1000
    assert int(name[:16]) - put_us > 900 * 10**6


def test_pickles_of_others_are_not_read(both: Both, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    both.application(
        "from uwsgidecorators import *\n"
        "@spool(pass_arguments=True)\ndef f(*args): tell(args)\n"
        "import spooler\n@spooler.spool\ndef moved(a): tell(a)\n"
    )
    both.produce(
        "import uwsgi\nfrom uwsgidecorators import *\n"
        "def f(*args): pass\ndef moved(*args): pass\n"
        "raw = {b'args': pickle.dumps(('read',)), b'kwargs': pickle.dumps({})}\n"
        "os.chown(uwsgi.spool(raw), 65534, -1)\n"
        "for each in (f, moved):\n"
        "    path = spool(each, pass_arguments=True)('x')\n"
        "    os.chown(path, 65534, -1)\n",
        "--dir",
        str(both.spool),
    )
    side = both.start_spoold("--allow-uid", "65534")
    wait_until(lambda: len(both.failed()) == 3)
    for name in both.failed():
        why: Any = (both.spool / "failed" / f"{name}.why").read_text()
        assert "its file belongs to uid 65534" in why
    assert side.lines() == []


def test_a_module_of_the_name_spooler_is_refused(both: Both) -> None:
    project = both.out.parent / "project"
    project.mkdir()
    (project / "mine.py").write_text("from spooler import send_mail")
    (project / "spooler.py").write_text("def send_mail(): pass")
    line = both.refused(both.command("--uwsgi", imports="mine"), 78, cwd=project)
    assert str(project / "spooler.py") in line
    assert "give it another name" in line


def test_files_of_uwsgis_own_are_written_when_asked_for(both: Both) -> None:
    both.application(DECORATED.partition("f(a=")[0])
    both.produce(
        "import mine\nmine.f(a='1', priority='3', at='4000000000')\n",
        "--dir",
        str(both.uwsgi.spool),
        "--uwsgi-files",
    )
    [file] = both.uwsgi.files()
    assert file.startswith("3/uwsgi_spoolfile_on_")
    assert os.stat(both.uwsgi.spool / file).st_mtime == 4_000_000_000
