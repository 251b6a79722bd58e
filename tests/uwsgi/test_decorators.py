"""``uwsgidecorators``: its names, and what its decorators do beside putting tasks."""

from typing import Final

import pytest

from .conftest import TIMEOUT, Both

pytestmark = pytest.mark.timeout(TIMEOUT)

NAMES: Final = """
names = {}
exec("from uwsgidecorators import *", names)
names.pop("__builtins__")
tell(*sorted(name for name in names if name != "mstimer"))
tell("end")
"""


def test_a_star_import_brings_the_names_of_uwsgi(both: Both) -> None:
    theirs, ours = both.run(NAMES, until=lambda side: "end" in side.lines())
    assert ours == theirs


AROUND: Final = """
import threading, uwsgi
from uwsgidecorators import *

@postfork
def each():
    if uwsgi.i_am_the_spooler():
        tell("postfork", uwsgi.worker_id())

@postfork(3)
def third():
    tell("never")

@lock
def locked(a):
    tell("locked", a)
    return a

done = threading.Event()

@thread
def threaded(a):
    tell("threaded", a)
    done.set()

@harakiri(60)
def limited(a):
    tell("limited", a)
    return a

@spoolraw
def task(args):
    kind = type(threaded(3)).__name__
    done.wait()  # uWSGI lets no thread go on when the task is over
    tell("task", locked("in the spooler"), limited(2), kind)
    return uwsgi.SPOOL_OK

tell(locked("in the master"), get_free_signal())

@signal(0)
def zero(number): pass

tell(get_free_signal(), type(zero).__name__)
task()
"""


def test_functions_are_wrapped_as_in_uwsgi(both: Both) -> None:
    theirs, ours = both.run(AROUND, until=lambda side: len(side.lines()) >= 7)
    assert sorted(ours) == sorted(theirs)


ERRORS: Final = """
import uwsgi
from uwsgidecorators import *

@spool
def text(args):
    tell("ran", args["a"])

def attempt(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except Exception as error:
        tell(type(error).__name__, str(error)[:19])
    else:
        tell("put")

attempt(text, {"a": 1})
attempt(text, {"a": None})
attempt(text, 5)
attempt(text, a="b", spooler="/nowhere")
attempt(text, {"a": "umlaut \\u00e4"}, priority="1")
attempt(spool(lambda args: tell("lambda", args["ud_spool_func"])), a="1")
"""


def test_what_cannot_be_put_is_refused_as_in_uwsgi(both: Both) -> None:
    theirs, ours = both.run(
        ERRORS, until=lambda side: len(side.lines()) >= 8 and not side.files()
    )
    assert sorted(ours) == sorted(theirs)
