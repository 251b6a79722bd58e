"""What an application sees of its tasks: under uWSGI and under spoold, the same."""

import json
from itertools import pairwise
from typing import Final

import pytest

from ..integration.conftest import wait_until
from .conftest import TIMEOUT, Both, Side

pytestmark = pytest.mark.timeout(TIMEOUT)

NORMAL: Final = """
def normal(vars):
    found = {}
    for key, value in vars.items():
        if key == "spooler_task_name":
            value = type(value).__name__
        found[repr(key)] = repr(value)
    return json.dumps(found, sort_keys=True)
"""


RAW: Final = (
    NORMAL
    + """
import uwsgi

def run(vars):
    tell("run", normal(vars))
    return uwsgi.SPOOL_OK

uwsgi.spooler = run
put = {b"name": b"x", b"empty": b"", b"\\xff\\x00": b"\\xfe\\x00\\n", b"list": [1, 2]}
tell(type(uwsgi.spool(put)).__name__)
with_body = {b"body": b"content", b"task": b"two words"}
uwsgi.send_to_spooler(with_body)
tell(sorted(with_body))
uwsgi.spool({b"body": b"", b"a": b"1"})
uwsgi.spool({b"body": bytearray(b"pair"), b"at": b"100.75", b"priority": b"7"})
uwsgi.spool({b"spooler": uwsgi.spoolers[0], b"ud_spool_func": b"<lambda>"})
uwsgi.spool({})
"""
)


def test_a_raw_function_sees_what_it_sees_in_uwsgi(both: Both) -> None:
    theirs, ours = both.run(
        RAW,
        until=lambda side: len(side.lines()) >= 8 and not side.files(),
    )
    real, own = str(both.uwsgi.spool), str(both.spoold.spool)
    assert sorted(ours) == sorted(line.replace(real, own) for line in theirs)


DECORATED: Final = (
    NORMAL
    + """
import uwsgi
from uwsgidecorators import *

@spool
def plain(args):
    tell("plain", normal(args))

@spoolraw
def raw(args):
    tell("raw", normal(args))
    return uwsgi.SPOOL_OK

@spool(pass_arguments=True)
def arguments(*args, **kwargs):
    tell("arguments", args, sorted(kwargs.items()))

@spoolraw(pass_arguments=True)
def raw_arguments(a, b=2):
    tell("raw arguments", a, b)
    return uwsgi.SPOOL_OK

tell(type(plain).__name__, type(plain({"a": "b"}, c="d")).__name__)
plain.spool(c=b"bytes", body=b"content")
plain.f.spool({"at": "1", "priority": "3"}, body="text")
raw(x="1")
arguments(1, {"two": [3]}, key={4}, at="5", body=b"not seen", priority="2")
raw_arguments(a=None)
tell(plain.base_dict, raw.base_dict, sorted(spooler_functions))
"""
)


def test_decorated_functions_see_what_they_see_in_uwsgi(both: Both) -> None:
    theirs, ours = both.run(
        DECORATED, until=lambda side: len(side.lines()) >= 8 and not side.files()
    )
    assert sorted(ours) == sorted(theirs)


ORDER: Final = """
import uwsgi

def run(vars):
    tell(vars[b"n"].decode())
    return uwsgi.SPOOL_OK

if uwsgi.i_am_the_spooler() is None and not os.path.exists(os.environ["OUT"] + "/put"):
    open(os.environ["OUT"] + "/put", "w").close()
    uwsgi.spool({b"n": b"rest"})
    uwsgi.spool({b"n": b"100", b"priority": b"100"})
    uwsgi.spool({b"n": b"9", b"priority": b"9"})
    uwsgi.spool({b"n": b"0", b"priority": b"0"})
uwsgi.spooler = run
"""


def test_numbered_priorities_run_before_the_rest(both: Both) -> None:
    theirs, ours = both.run(ORDER, until=lambda side: len(side.lines()) == 4)
    assert ours == ["0", "9", "100", "rest"]
    # It sees the root's own files by name, after the numbers.
    assert theirs == ours


ANSWERS: Final = """
import uwsgi

def run(vars):
    answer = vars[b"answer"].decode()
    seen = os.environ["OUT"] + "/" + vars[b"answer"].decode()
    first = not os.path.exists(seen)
    open(seen, "w").close()
    tell(answer, "first" if first else "again")
    return eval(answer) if first else uwsgi.SPOOL_OK

uwsgi.spooler = run
for answer in %r:
    uwsgi.spool({b"answer": answer.encode()})
"""


@pytest.mark.parametrize(
    "answer", ["-1", "1", "-3", "None", "'text'", "True", "0", "False", "1 % 0"]
)
def test_an_answer_other_than_ok_runs_it_again(both: Both, answer: str) -> None:
    theirs, ours = both.run(
        ANSWERS % [answer],
        until=lambda side: len(side.lines()) == 2 and not side.files(),
    )
    assert ours == theirs == [f"{answer} first", f"{answer} again"]


FOREVER: Final = """
import uwsgi
from uwsgidecorators import *

@spoolforever
def again(args):
    tell("again", args["n"])

@spoolforever(pass_arguments=True)
def arguments(n):
    tell("arguments", n)
    if len(open(os.environ["OUT"] + "/out").readlines()) == 3:
        raise ValueError("now and then")

again(n="1")
arguments(2)
"""


def test_spoolforever_runs_again_and_again(both: Both) -> None:
    def enough(side: Side) -> bool:
        lines = side.lines()
        return lines.count("again 1") >= 3 and lines.count("arguments 2") >= 3

    theirs, ours = both.run(FOREVER, until=enough)
    assert set(ours) == set(theirs)
    assert both.failed() == []


def test_no_function_leaves_the_task_to_others(both: Both) -> None:
    both.application("import uwsgi\nuwsgi.spool({b'a': b'1'})\ntell('imported')\n")
    side = both.start_spoold()
    side.daemon.wait_for(
        "uwsgi.spooler is not set, and the task names no ud_spool_func"
    )
    side.stop()
    assert len(side.files()) == 1
    assert both.failed() == []


def test_a_name_that_nobody_knows_is_left_to_others(both: Both) -> None:
    both.application(
        "import uwsgi\nfrom uwsgidecorators import *\n"
        "@spool\ndef known(args): tell('ran')\n"
        "uwsgi.spool({b'ud_spool_func': b'other'})\n"
    )
    side = both.start_spoold()
    side.daemon.wait_for("no function of that name here")
    side.stop()
    assert len(side.files()) == 1
    assert both.failed() == []


RETRIED: Final = """
import uwsgi
from uwsgidecorators import *

@spool
def fails(args):
    raise ValueError("no")

@spoolraw
def asks(args):
    return uwsgi.SPOOL_RETRY

@spool
def dies(args):
    os.kill(os.getpid(), 9)

if not os.path.exists(os.environ["OUT"] + "/put"):
    open(os.environ["OUT"] + "/put", "w").close()
    fails()
    asks()
    dies()
"""


def test_what_never_succeeds_ends_in_failed(both: Both) -> None:
    both.application(RETRIED)
    side = both.start_spoold("--max-attempts", "3", "--backoff", "0.01")
    wait_until(lambda: len(both.failed()) == 3)
    reports = [
        json.loads((both.spool / "failed" / f"{name}.why").read_text())
        for name in both.failed()
    ]
    found = {why["task"]: (why["reason"], len(why["attempts"])) for why in reports}
    assert found == {
        "fails": ("exception", 3),
        "asks": ("exception", 3),
        "dies": ("crash", 3),
    }
    side.stop()


def test_crashes_are_followed_by_ever_longer_pauses(both: Both) -> None:
    both.application(
        """
import uwsgi
from uwsgidecorators import *

@spool
def dies(args):
    tell(time.monotonic())
    os.kill(os.getpid(), 9)

if uwsgi.spooler_jobs() == []:
    dies()
""".replace("import uwsgi", "import time, uwsgi", 1)
    )
    side = both.start_spoold("--backoff", "0.5", "--jitter", "0")
    moments = [float(line) for line in side.wait_lines(5)]
    pauses = [after - before for before, after in pairwise(moments)]
    assert pauses[1] >= 0.5
    assert pauses[2] >= 1
    assert pauses[3] >= 2


def test_by_default_there_are_many_attempts(both: Both) -> None:
    both.application(RETRIED.replace("    dies()\n", ""))
    side = both.start_spoold()
    wait_until(lambda: side.daemon.text().count(" attempt=4 ") >= 2)
    assert both.failed() == []
    side.stop()


TEXT: Final = """
import uwsgi
from uwsgidecorators import *

@spool
def resize(args):
    tell("resize", args["photo"], args.get("body"), args["width"])

@spool(pass_arguments=True)
def crop(photo, width=1):
    tell("crop", photo, width)

@spoolraw
def raw(args):
    tell("raw", args["ud_spool_func"])
    return uwsgi.SPOOL_OK
"""


def test_a_task_from_a_shell_runs_its_function(both: Both) -> None:
    both.application(TEXT)
    side = both.start_spoold()
    both.drop("5/a", b"task=resize\nphoto=1.png\nwidth:=200\n\nbody")
    both.drop("5/b", b'{"task":"crop","args":{"photo":"2.png","width":3}}')
    both.drop("c", b"task=raw\n")
    assert sorted(side.wait_lines(3)) == [
        "crop 2.png 3",
        "raw raw",
        "resize 1.png body 200",
    ]
    side.wait_done()
    both.drop("5/d", b"task=resize\nargs=text\n")
    wait_until(both.failed)
    assert "pickles" in both.why()["error"]


MOVED: Final = """
import uwsgi
from uwsgidecorators import spool as old
import spooler

@spooler.spool
def moved(count: int, name: str = "", body: bytes = b"") -> None:
    tell("moved", repr(count), name, len(body))

@spooler.spool
def whole(args):
    tell("whole", args["ud_spool_func"], args["at"], args["priority"])

@old
def stays(args):
    tell("stays", args["a"])
"""


def test_functions_move_to_spooler_one_at_a_time(both: Both) -> None:
    both.application(MOVED)
    both.produce(
        """
import uwsgi
from uwsgidecorators import *

def moved(count, name=""): pass
def whole(args): pass
def stays(args): pass

old = spool(moved)
old(count="1", name="text")
old(count="2", name="x" * 70000, body=b"y" * 70000)
spool(moved, pass_arguments=True)(3, name="pickled")
spool(whole)(at="5", priority="4")
spool(stays)(a="b")
""",
        "--dir",
        str(both.spool),
    )
    side = both.start_spoold()
    lines = side.wait_lines(5)
    assert sorted(line[:20] for line in lines) == [
        "moved 1 text 0",
        "moved 2 xxxxxxxxxxxx",
        "moved 3 pickled 0",
        "stays b",
        "whole whole 5 4",
    ]
    side.wait_done()
    assert both.failed() == []


def test_pairs_of_any_size_arrive_whole(both: Both) -> None:
    both.application(
        """
import uwsgi

def run(vars):
    tell(len(vars[b"large"]), len(vars.get("body", b"")), sorted(map(str, vars)))
    return uwsgi.SPOOL_OK

uwsgi.spooler = run
uwsgi.spool({b"large": bytes(1 << 20), b"body": bytes(3 << 20)})
uwsgi.spool({b"large": bytes(70_000), b"priority": b"1", b"at": b"1"})
"""
    )
    side = both.start_spoold()
    lines = side.wait_lines(2)
    assert lines[0].startswith("70000 0 ")
    keys = ["b'large'", "body", "spooler_task_name"]
    assert lines[1] == f"{1 << 20} {3 << 20} {keys}"
    side.wait_done()
