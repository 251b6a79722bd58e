"""What uWSGI's own pages about its spooler and its decorators describe, under both."""

from pathlib import Path
from typing import Final

import pytest

from .conftest import TIMEOUT
from .either import SERVERS, Either

pytestmark = pytest.mark.timeout(TIMEOUT)


@pytest.fixture(params=SERVERS)
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Either:
    """Give the real uWSGI, then spoold."""
    return Either(request.param, tmp_path)


BYTES: Final = "bytes False ('bytes', 'bytes')"
"""The task's name, whether it is a path, and the types of the other pairs."""

ONLY_BYTES: Final = "spooler callable dictionary must contains only bytes"
ONLY_DICTS: Final = "The argument of spooler callable must be a dictionary"

RAW: Final = [
    "given b'what'",
    "path bytes True True",
    "read b'what' spooler_task_name",
    "name True",
    "parsed [(b'what', b'cancelled')]",
    "unable to spool job",
    *[ONLY_BYTES] * 6,
    ONLY_DICTS,
    ONLY_BYTES,
    "here True",
    f"urgent {BYTES} 0",
    f"hello {BYTES} 0",
    f"sent {BYTES} 0",
    *[f"again {BYTES} 0"] * 2,
    *[f"ignored {BYTES} 0"] * 2,
    *[f"other {BYTES} 0"] * 2,
    *[f"nothing {BYTES} 0"] * 2,
    *[f"raised {BYTES} 0"] * 2,
    f"large {BYTES} ('str', 'bytes') 1000000",
    f"directory {BYTES} 0",
    f"cast {BYTES} 0",
    f"long {BYTES} 0",
    f"later {BYTES} 0",
]
"""What ``documented_raw`` tells."""


def test_one_function_for_all_tasks_gets_what_it_gets_from_uwsgi(
    either: Either,
) -> None:
    with either.serve("documented_raw", "documented_raw_put"):
        either.wait_told(*RAW)
    told = either.lines()
    assert told.index(f"urgent {BYTES} 0") < told.index(f"hello {BYTES} 0")


DECORATED: Final = [
    "dict str ('foo', 'bar') ('hello', 'world')"
    " ('ud_spool_func', 'with_a_dict') ('ud_spool_ret', '-2')",
    "dict str ('pippo', 'pluto')"
    " ('ud_spool_func', 'with_a_dict') ('ud_spool_ret', '-2')",
    "dict str ('as', 'bytes') ('more', 'é')"
    " ('ud_spool_func', 'with_a_dict') ('ud_spool_ret', '-2')",
    "arguments 1 two ('foo', ['bar', 'baz']) ('func', <built-in function min>)"
    " ('id', 42)",
    "arguments",
    "answer",
    "controlled bar",
    *["controlled other"] * 2,
    "controlled too 42",
    "body 300000 yes",
    "at True",
    "fails",
    "fails no more",
    "spooler True 0",
    "pids True 0 True",
    "signal 17",
    "lock None",
    "harakiri 3",
    "thread in_a_thread",
    "free True True",
    *[ONLY_BYTES] * 3,
    *[ONLY_DICTS] * 2,
]
"""What ``documented`` tells, besides its timers."""

TIMED: Final = ("each second", "each second too", "each minute", "seldom", "modified")


def test_each_decorator_does_what_its_page_says(either: Either) -> None:
    with either.serve("documented", "documented_put"):
        either.wait_told(*DECORATED, apart=TIMED)
        for name in ("each second", "each second too"):
            either.wait_often(name)
        if either.kind == "spoold":  # it looks once before anything counts as a change
            either.wait_until(
                lambda: list(either.spool.glob("timers/*.uwsgi.filemon.*"))
            )
        (either.out / "watched").write_text("now")
        either.wait_often("modified", 1)
        either.wait_until(lambda: list(either.out.glob("forked-*")))
        either.wait_until(lambda: len(list(either.out.glob("thread-*"))) >= 2)
    assert "seldom" not in either.lines()


def test_tasks_for_ever_run_again_and_again_and_stay(either: Either) -> None:
    with either.serve("documented", "documented_for_ever"):
        for name in ("for ever pluto", "for ever too pluto 42"):
            either.wait_often(name)
    assert len(either.files()) == 2
    assert all(not file.startswith("failed/") for file in either.files())


OWN_KEYS: Final = "spooler_task_name ud_spool_func ud_spool_ret"

UNUSUAL: Final = [
    "unnamed 1",
    "nested 1",
    "nested of a thread",
    "nested of a child",
    "static 1",
    *["exits"] * 2,
    *["dies"] * 2,
    *["true"] * 2,
    "text",
    "directory",
    "größe ü",
    "tmp",
    *[f"magic at priority spooler {OWN_KEYS}"] * 2,
    f"magic at priority {OWN_KEYS}",
    f"magic id key options sig {OWN_KEYS.replace(' ', ' task ', 1)} v",
    "jobs True",
    "none None None",
    "done True True",
]
"""What ``unusual`` tells."""


def test_what_applications_do_all_the_same(either: Either) -> None:
    with either.serve("unusual", "unusual_put"):
        either.wait_told(*UNUSUAL)
