"""Signals, timers, file monitors, locks and limits, beside the real uWSGI's."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from ..helpers import FACTOR
from ..integration.conftest import wait_until
from .conftest import TIMEOUT, Both, Side, need_uwsgi

pytestmark = pytest.mark.timeout(TIMEOUT)

Run = Callable[..., tuple[list[str], list[str]]]

LATER: Final = {
    "SPOOL_IGNORE",
    "add_ms_timer",
    "send_message",
    "spooler_dir",
}
"""Names that uWSGI 2.0.31 does not have, in this build or at all."""

SPOOLED: Final = """
import uwsgi, uwsgidecorators as ud  # which sets uwsgi.spooler

def spooler(env):
    work(env)
    return uwsgi.SPOOL_OK

uwsgi.spooler = spooler
"""


def has(*lines: str, times: int = 1) -> Callable[[Side], bool]:
    """Return what tells whether each of these lines was told so often."""
    return lambda side: all(side.lines().count(line) >= times for line in lines)


def produce(both: Both, script: str) -> str:
    """Run a script by itself on spoold's spool; return what it prints."""
    return both.produce(script, "--dir", str(both.spool))


# -- names ------------------------------------------------------------------------


def test_every_name_of_the_real_module_is_there(both: Both) -> None:
    need_uwsgi()
    both.application("import uwsgi\ntell(json.dumps(dir(uwsgi)))")
    side = both.start_uwsgi()
    real = set(json.loads(side.wait_lines(1)[0]))
    side.stop()
    both.start_spoold().wait_lines(1)
    ours = set(json.loads(both.spoold.lines()[0]))
    assert real - ours == set()
    # What other builds of uWSGI have, and what must not be missed at an import.
    assert {"add_ms_timer", "queue_push", "sharedarea_read", "snmp_set_gauge"} <= ours


def test_what_only_a_web_server_has_says_what_to_use(both: Both) -> None:
    out = produce(
        both,
        """
import uwsgi
for call in (
    lambda: uwsgi.cache_get("a"),
    lambda: uwsgi.mule_msg(b"a"),
    lambda: uwsgi.rpc("", "f"),
    lambda: uwsgi.websocket_recv(),
    lambda: uwsgi.signal_wait(),
):
    try:
        call()
    except NotImplementedError as error:
        print(error)
""",
    )
    lines = out.splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "uwsgi.cache_get",
        "uwsgi.mule_msg",
        "uwsgi.rpc",
        "uwsgi.websocket_recv",
        "uwsgi.signal_wait",
    ]
    assert all("is not there under spooler: " in line for line in lines)


CALLS: Final = """
import uwsgi

def h(num):
    pass

def tell_of(call):
    try:
        found = eval(call)
        tell(call, "->", type(found).__name__, repr(found))
    except Exception as error:
        tell(call, "!!", type(error).__name__, str(error).partition(":")[0])

for call in CALLS:
    tell_of(call)
tell("end")
"""

THE_SAME: Final = (
    "uwsgi.register_signal(1, 'spooler', h)",
    "uwsgi.register_signal(1, '', lambda num: None)",
    "uwsgi.register_signal(300, '', h)",
    "uwsgi.register_signal(-1, '', h)",
    "uwsgi.register_signal(2, 'x' * 64, h)",
    "uwsgi.register_signal(3, '', 5)",
    "uwsgi.register_signal(4, b'spooler', h)",
    "uwsgi.register_signal('4', '', h)",
    "uwsgi.register_signal(4, 'mule1', h)",
    "uwsgi.register_signal(5, 'nonsense', h)",
    "uwsgi.signal_registered(1)",
    "uwsgi.signal_registered(44)",
    "uwsgi.signal_registered(255)",
    "uwsgi.signal_registered(9)",
    "uwsgi.signal_registered(1.0)",
    "uwsgi.add_timer(1, 3600)",
    "uwsgi.add_timer(1, 2.5)",
    "uwsgi.add_timer(99, 3600)",
    "uwsgi.add_timer(1, 0)",
    "uwsgi.add_rb_timer(1, 3600)",
    "uwsgi.add_rb_timer(1, 3600, 3)",
    "uwsgi.add_cron(1, 0, 0, 1, 1, -1)",
    "uwsgi.add_cron(1, 99, -1, -1, -1, -1)",
    "uwsgi.add_cron(1, -61, -25, -32, -13, -8)",
    "uwsgi.add_cron(1, 0, 0, -2, -1, 3)",
    "uwsgi.add_cron(1, '0', 0, 1, 1, 1)",
    "uwsgi.add_file_monitor(1, '/nowhere/at/all')",
    "uwsgi.add_file_monitor(1, 'x' * 255)",
    "uwsgi.add_file_monitor(1, 'x' * 254)",
    "uwsgi.is_locked()",
    "uwsgi.lock()",
    "uwsgi.is_locked()",
    "uwsgi.unlock()",
    "uwsgi.is_locked()",
    "uwsgi.lock(-1)",
    "uwsgi.lock('0')",
    "uwsgi.set_user_harakiri(5)",
    "uwsgi.set_user_harakiri(0)",
    "uwsgi.set_user_harakiri(1.5)",
    "uwsgi.setprocname('mine')",
    "uwsgi.total_requests()",
    "uwsgi.logsize()",
    "uwsgi.workers()",
    "uwsgi.rpc_list()",
    "uwsgi.in_farm()",
    "uwsgi.ready()",
    "uwsgi.accepting()",
    "uwsgi.alarm('a', 'b')",
    "uwsgi.set_warning_message('careful')",
    "uwsgi.register_rpc('f', h)",
    "uwsgi.embedded_data('nothing')",
    "uwsgi.extract('/proc/sys/kernel/ostype')",
)


def test_functions_return_and_raise_what_the_real_ones_do(side_by_side: Run) -> None:
    source = f"CALLS = {THE_SAME!r}\n{CALLS}"
    real, ours = side_by_side(source, has("end"))
    assert ours == real


def test_the_memory_and_the_time_are_as_they_are(side_by_side: Run) -> None:
    source = """
import time, uwsgi
rss, vsz = uwsgi.mem()
before, now, after = time.time(), uwsgi.micros() / 1e6, time.time()
tell(1e6 < rss < vsz, before - 0.01 < now < after + 0.01)
"""
    real, ours = side_by_side(source, has("True True"))
    assert ours == real == ["True True"]


# -- timers -----------------------------------------------------------------------


def test_timers_run_in_the_spooler(side_by_side: Run) -> None:
    source = """
import uwsgi, uwsgidecorators as ud

@ud.timer(1, target="spooler")
def plain(num):
    tell("plain", num, uwsgi.i_am_the_spooler())

@ud.rbtimer(1, target="spooler")
def tree(num):
    tell("tree", num)

@ud.timer(1, signum=77, target="spooler")
def chosen(num):
    tell("chosen", num)
"""
    lines = ("plain 0 True", "tree 1", "chosen 77")
    for told in side_by_side(source, has(*lines, times=3)):
        assert set(told) == set(lines)


def test_a_timer_with_iterations_runs_so_often(side_by_side: Run) -> None:
    source = """
import uwsgi
uwsgi.register_signal(7, "spooler", lambda num: tell("twice"))
uwsgi.add_rb_timer(7, 1, 2)
uwsgi.register_signal(8, "spooler", lambda num: tell("always"))
uwsgi.add_timer(8, 1)
"""
    real, ours = side_by_side(source, has("always", times=5))
    assert ours.count("twice") == real.count("twice") == 2


def test_a_timer_can_be_added_by_a_task(side_by_side: Run) -> None:
    source = (
        SPOOLED
        + """
uwsgi.register_signal(1, "spooler", lambda num: tell("endless"))
uwsgi.register_signal(2, "spooler", lambda num: tell("twice"))
uwsgi.register_signal(3, "spooler", lambda num: tell("tick"))
uwsgi.add_timer(3, 1)

def work(env):
    uwsgi.add_timer(1, 1)
    uwsgi.add_rb_timer(2, 1, 2)

def put():
    if uwsgi.i_am_the_spooler() and not os.path.exists(os.environ["OUT"] + "/put"):
        open(os.environ["OUT"] + "/put", "w").close()
        uwsgi.spool({b"a": b"1"})

uwsgi.post_fork_hook = put
"""
    )
    real, ours = side_by_side(source, has("endless", "tick", times=5))
    assert ours.count("twice") == real.count("twice") == 2


def test_a_timer_added_by_a_web_process_runs_once_however_often(both: Both) -> None:
    both.application(
        """
import uwsgi
uwsgi.register_signal(1, "", lambda num: tell("run"))
uwsgi.register_signal(2, "", lambda num: tell("counted"))
"""
    )
    both.start_spoold()
    script = """
import mine, uwsgi  # which registers the signals, and starts no timer
for _ in range(3):
    later()
"""
    produce(
        both,
        "def later():\n    uwsgi.add_timer(1, 1)\n"
        "def counted():\n    uwsgi.add_rb_timer(2, 1, 2)\n" + script + "counted()\n",
    )
    side = both.spoold
    wait_until(lambda: side.lines().count("counted") >= 2)
    count = side.lines().count("run")
    wait_until(lambda: side.lines().count("run") >= count + 4)
    side.stop()  # else it may be between two places
    assert side.lines().count("counted") == 2
    [waiting] = side.files()
    assert waiting.endswith(".uwsgi.timer")


def test_importing_an_application_elsewhere_starts_nothing(both: Both) -> None:
    both.application(
        """
import uwsgi, uwsgidecorators as ud

@ud.timer(1)
def often(num):
    tell("run")

@ud.filemon("/tmp")
def changed(num):
    tell("changed")

def start():
    uwsgi.add_cron(0, -1, -1, -1, -1, -1)

start()
"""
    )
    produce(both, "import mine")
    assert both.spoold.files() == []


def test_a_timer_that_fails_goes_on(both: Both, side_by_side: Run) -> None:
    source = """
import uwsgidecorators as ud

@ud.timer(1, target="spooler")
def broken(num):
    tell("run")
    raise ValueError("no")
"""
    real, ours = side_by_side(source, has("run", times=3))
    assert set(ours) == set(real) == {"run"}
    assert list((both.spool / "failed").iterdir()) == []
    assert "mine.broken raised ValueError('no')" in both.spoold.daemon.text()


def test_a_timer_added_by_a_task_goes_on_when_it_fails_or_dies(both: Both) -> None:
    both.application(
        """
import uwsgi

def broken(num):
    tell("run")
    if len(open(os.environ["OUT"] + "/out").readlines()) == 2:
        os._exit(3)
    raise ValueError("no")

uwsgi.register_signal(1, "", broken)
"""
    )
    both.start_spoold()
    produce(both, "import uwsgi\ndef f():\n    uwsgi.add_timer(1, 1)\nf()\n")
    wait_until(lambda: both.spoold.lines().count("run") >= 4)


def test_timers_are_left_to_a_uwsgi_that_runs_beside(both: Both) -> None:
    both.application(
        """
import uwsgidecorators as ud

@ud.timer(1)
def often(num):
    tell("run")
"""
    )
    side = both.start_spoold("--uwsgi-files")
    side.daemon.wait_for("are left to uWSGI")
    side.daemon.wait_for("timers=0")


# -- signals ----------------------------------------------------------------------


def test_a_task_raises_a_signal(side_by_side: Run) -> None:
    source = (
        SPOOLED
        + """
def raised(num):
    tell("raised", type(num).__name__, num)

uwsgi.register_signal(200, "spooler", raised)

def work(env):
    uwsgi.signal(200)
    uwsgi.signal(201)  # which nobody has registered

def put():
    if not os.path.exists(os.environ["OUT"] + "/put"):
        open(os.environ["OUT"] + "/put", "w").close()
        uwsgi.spool({b"a": b"1"})

put()
"""
    )
    for told in side_by_side(source, lambda side: side.lines() and not side.files()):
        assert told == ["raised int 200"]


def test_a_signal_is_raised_from_outside(both: Both) -> None:
    both.application(
        "import uwsgi\nuwsgi.register_signal(5, '', lambda n: tell('raised', n))"
    )
    both.start_spoold()
    produce(both, "import uwsgi\nuwsgi.signal(5)\nuwsgi.signal(5)")
    assert both.spoold.wait_lines(2) == ["raised 5"] * 2
    both.spoold.wait_done()


def test_a_signal_for_another_function_by_now_fails(both: Both) -> None:
    both.application("import uwsgi\nuwsgi.register_signal(5, '', tell)")
    produce(both, "import mine, uwsgi\nuwsgi.signal(5)")
    both.application("import uwsgi\nuwsgi.register_signal(5, '', lambda n: tell('no'))")
    both.start_spoold()
    why = str(both.why()["error"])
    assert "signal 5 was for mine.tell: now it is mine.<lambda>" in why
    assert both.spoold.lines() == []


def test_a_signal_is_raised_in_a_real_uwsgi(both: Both, tmp_path: Path) -> None:
    address = str(tmp_path / "u.sock")
    both.application(
        "import uwsgi\nuwsgi.register_signal(5, 'spooler', lambda n: tell('raised', n))"
    )
    side = both.start_uwsgi("--socket", address)
    wait_until(lambda: "spawned uWSGI worker 1" in side.daemon.text())
    produce(both, f"import uwsgi\nuwsgi.signal(5, {address!r})")
    assert side.wait_lines(1) == ["raised 5"]
    out = produce(
        both,
        "import uwsgi\n"
        "try:\n    uwsgi.signal(5, '/nowhere/at/all')\n"
        "except OSError as error:\n    print(error)\n",
    )
    assert "/nowhere/at/all" in out


# -- files ------------------------------------------------------------------------


FILES: Final = """
import uwsgidecorators as ud
OUT = os.environ["OUT"]

@ud.filemon(OUT + "/file", target="spooler")
def file(num):
    tell("file")

@ud.filemon(OUT + "/folder", target="spooler")
def folder(num):
    tell("folder")
"""


def change(side: Side, what: str, *, count: int, by: Callable[[], object]) -> None:
    """Change something, and wait until it was told so often as to be one more."""
    by()
    try:
        wait_until(lambda: side.lines().count(what) > count)
    except AssertionError:
        pytest.fail(f"{side.kind}: {side.lines()}\n{side.daemon.text()}")


@pytest.mark.parametrize("kind", ["uwsgi", "spoold"])
def test_a_change_of_a_file_or_in_a_folder_is_told(both: Both, kind: str) -> None:
    if kind == "uwsgi":
        need_uwsgi()
    out = both.uwsgi.out if kind == "uwsgi" else both.out
    (out / "folder").mkdir()
    (out / "file").write_text("1")
    (out / "folder" / "there").write_text("1")
    both.application(FILES)
    side = both.start_uwsgi() if kind == "uwsgi" else both.start_spoold()
    if kind == "spoold":  # it looks once before anything counts as a change
        notes = both.spool / "timers"
        wait_until(lambda: len(list(notes.glob("*.uwsgi.filemon.*"))) == 2)
    else:
        wait_until(lambda: inotifies(side.daemon.process.pid) >= 2)
    changes: tuple[tuple[str, Callable[[], object]], ...] = (
        ("file", lambda: (out / "file").write_text("22")),
        ("file", lambda: os.utime(out / "file", (1, 1))),
        ("file", lambda: (out / "file").chmod(0o640)),
        ("folder", lambda: (out / "folder" / "new").write_text("1")),
        ("folder", lambda: (out / "folder" / "there").write_text("22")),
        ("folder", lambda: (out / "folder" / "there").rename(out / "folder" / "to")),
        ("folder", lambda: (out / "folder" / "new").unlink()),
    )
    for what, by in changes:
        change(side, what, count=side.lines().count(what), by=by)
    assert set(side.lines()) == {"file", "folder"}


def inotifies(pid: int) -> int:
    """Return how many things a process watches."""
    count = 0
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            count += entry.read_text().count("inotify wd")
        except OSError:
            continue
    return count


def test_a_file_that_is_replaced_or_gone_for_a_while_is_still_watched(
    both: Both,
) -> None:
    (both.out / "folder").mkdir()
    file = both.out / "file"
    file.write_text("1")
    both.application(FILES)
    side = both.start_spoold()
    notes = both.spool / "timers"
    wait_until(lambda: len(list(notes.glob("*.uwsgi.filemon.*"))) == 2)
    (both.out / "other").write_text("3")
    changes: tuple[Callable[[], object], ...] = (
        lambda: (both.out / "other").replace(file),
        file.unlink,
        lambda: file.write_text("4"),
    )
    for by in changes:
        change(side, "file", count=side.lines().count("file"), by=by)
    side.stop()
    file.write_text("while nobody has looked")
    count = side.lines().count("file")
    both.start_spoold()
    wait_until(lambda: side.lines().count("file") > count)
    assert "folder" not in side.lines()


# -- locks and limits -------------------------------------------------------------


def test_the_spooler_has_no_locks(side_by_side: Run) -> None:
    source = (
        SPOOLED
        + """
@ud.lock
def guarded():
    tell("never")

def work(env):
    tell(guarded())
    for function in (uwsgi.lock, uwsgi.unlock, uwsgi.is_locked):
        try:
            function()
        except ValueError as error:
            tell(error)
    tell("end")

if not os.path.exists(os.environ["OUT"] + "/put"):
    open(os.environ["OUT"] + "/put", "w").close()
    uwsgi.spool({b"a": b"1"})
"""
    )
    real, ours = side_by_side(source, has("end"))
    assert ours == real
    assert len(ours) == 5


def test_a_lock_is_held_by_one_process_and_ends_with_it(both: Both) -> None:
    script = both.app / "holder.py"
    script.write_text(
        """
import sys
import uwsgi
uwsgi.lock(1)
print("held", flush=True)
sys.stdin.read()
"""
    )
    command = [sys.executable, "-m", "spooler.ext.uwsgi", "--dir", str(both.spool)]
    run: dict[str, Any] = {"cwd": both.app, "env": both.environ(), "text": True}
    holder = subprocess.Popen(
        [*command, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **run
    )
    waiter = None
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        ask = "import uwsgi\nprint(uwsgi.is_locked(1), uwsgi.is_locked())\n"
        assert produce(both, ask) == "True False\n"
        wait = both.app / "waiter.py"
        wait.write_text(
            "import uwsgi\nprint('asks', flush=True)\nuwsgi.lock(1)\n"
            "print('has it', uwsgi.is_locked(1), flush=True)\nuwsgi.unlock(1)\n"
            "print(uwsgi.is_locked(1))\n"
        )
        waiter = subprocess.Popen([*command, str(wait)], stdout=subprocess.PIPE, **run)
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "asks\n"
        holder.send_signal(signal.SIGKILL)
        out, _ = waiter.communicate(timeout=30 * FACTOR)
        assert out == "has it True\nFalse\n"
    finally:
        holder.kill()
        holder.communicate()
        if waiter is not None and waiter.poll() is None:
            waiter.kill()
            waiter.communicate()


def test_a_task_is_killed_when_its_user_harakiri_is_over(side_by_side: Run) -> None:
    source = (
        SPOOLED
        + """
import time

@ud.harakiri(1)
def limited(first):
    time.sleep(60 if first else 0)

def work(env):
    first = not os.path.exists(os.environ["OUT"] + "/flag")
    open(os.environ["OUT"] + "/flag", "w").close()
    tell("begin")
    limited(first)
    time.sleep(1.5)  # longer than the limit, which is taken back
    tell("end")

if not os.path.exists(os.environ["OUT"] + "/put"):
    open(os.environ["OUT"] + "/put", "w").close()
    uwsgi.spool({b"a": b"1"})
"""
    )
    # On a slow machine the second run is killed, too, before it takes the limit back.
    until = has("end")
    for told in side_by_side(source, lambda side: until(side) and not side.files()):
        assert told[:2] == ["begin", "begin"]
        assert told.count("end") == 1


def test_a_user_harakiri_ends_with_the_run(both: Both) -> None:
    both.application(
        SPOOLED
        + """
import time

def work(env):
    if b"limit" in env:
        uwsgi.set_user_harakiri(LIMIT)
    else:
        time.sleep(LIMIT + 1)
    tell("end")
""".replace("LIMIT", str(math.ceil(FACTOR)))
    )
    both.start_spoold()
    produce(both, "import uwsgi\nuwsgi.spool({b'limit': b'1', b'priority': b'1'})")
    produce(both, "import uwsgi\nuwsgi.spool({b'sleep': b'1'})")
    assert both.spoold.wait_lines(2) == ["end", "end"]
    both.spoold.wait_done()
    assert "time limit" not in both.spoold.daemon.text()
