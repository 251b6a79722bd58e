"""One run: what a function is called with, and what its end means."""

import asyncio
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from spooler.arguments import Arguments
from spooler.errors import ArgumentsError, Fail, Retry
from spooler.registry import Entry, Kind
from spooler.retry import MAX_BACKOFF
from spooler.runner import current, run_task
from spooler.spooldir import SpoolDir
from spooler.spooldir.reading import TaskFile, open_task
from spooler.task import IGNORE, OK, RETRY, Claim, Name, Outcome, Verdict

from ..helpers import NOW_US

Run = Callable[..., Outcome]

CLAIM = Claim(
    Name(1_795_208_460_123_456, 5, 2, "8c1f42d09ab3e617", "f"),
    "worker-1",
    "1795208460123456.5.2.8c1f42d09ab3e617.f",
)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[bytes], TaskFile]]:
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    files = []

    def open_bytes(data: bytes) -> TaskFile:
        (tmp_path / "task").write_bytes(data)
        files.append(open_task("task", None, dir_fd=root))
        return files[-1]

    yield open_bytes
    for file in files:
        file.close()
    os.close(root)


@pytest.fixture
def run(opened: Callable[[bytes], TaskFile]) -> Run:
    def run_function(
        function: Callable[..., Any],
        data: bytes = b'{"task":"f"}\n',
        kind: Kind = Kind.TASK,
        pause: float = 0.0,
    ) -> Outcome:
        arguments = Arguments(function, "f")
        entry = Entry("f", function, kind, arguments, pause=pause)
        return run_task(entry, CLAIM, opened(data))

    return run_function


def ends(value: object = None, error: BaseException | None = None) -> Any:
    """Return a function that returns or raises something."""

    def function() -> object:
        if error is not None:
            raise error
        return value

    return function


# -- arguments and body -------------------------------------------------------------


def test_the_arguments_are_converted(run: Run) -> None:
    got = []

    def f(count: int, path: Path) -> None:
        got.append((count, path))

    assert run(f, b"task=f\ncount=4\npath=a/b\n").verdict is Verdict.ACK
    assert got == [(4, Path("a/b"))]


def test_arguments_that_do_not_fit_fail_for_good(run: Run) -> None:
    outcome = run(ends(), b'{"task":"f","args":{"x":1}}\n')
    assert outcome.verdict is Verdict.FAIL
    assert outcome.reason == "arguments"
    assert outcome.error.startswith("ArgumentsError: ")


def test_the_same_error_from_inside_a_function_is_an_exception(run: Run) -> None:
    outcome = run(ends(error=ArgumentsError("g", "(x)", "missing")))
    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason == "exception"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"task":"f"}\nabc', b"abc"),
        (b'{"task":"f","body":"text"}\n', b"text"),
        (b'{"task":"f","body":""}\n', b""),
        (b"task=f\n\n" + b"x" * 200_000, b"x" * 200_000),
    ],
)
def test_a_body_comes_as_bytes_and_as_a_file(
    run: Run, data: bytes, expected: bytes
) -> None:
    got = []

    def as_bytes(body: bytes) -> None:
        got.append(body)

    def as_file(body: BinaryIO) -> None:
        got.append(body.read())
        body.seek(0)
        got.append(body.read())

    async def later(body: BinaryIO) -> None:
        await asyncio.sleep(0)
        got.append(body.read())

    for function in (as_bytes, as_file, later):
        assert run(function, data).verdict is Verdict.ACK
    assert got == [expected] * 4


def test_a_body_that_is_not_there_leaves_the_default(run: Run) -> None:
    got: list[object] = []

    def f(body: bytes = b"default") -> None:
        got.append(body)

    run(f)
    run(f, b'{"task":"f"}\nx')
    assert got == [b"default", b"x"]


def test_one_dict_gets_the_name_and_the_body(run: Run) -> None:
    got: list[dict[str, object]] = []

    def f(args: dict[str, object]) -> None:
        got.append(args)

    run(f, b"task=f\na=1\n\nbody")
    run(f)
    assert got[0] == {"a": "1", "spooler_task_name": CLAIM.file, "body": b"body"}
    assert "body" not in got[1]


def test_a_body_that_cannot_be_read_gives_the_task_back(
    opened: Callable[[bytes], TaskFile],
) -> None:
    def f(body: bytes) -> None:
        raise AssertionError

    task = opened(b"task=f\n\n" + b"x" * 200_000)
    task.fd, keep = -1, task.fd
    outcome = run_task(Entry("f", f, Kind.TASK, Arguments(f, "f")), CLAIM, task)
    task.fd = keep
    assert outcome.verdict is Verdict.RELEASE
    assert outcome.after is not None


# -- answers ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, -1, OK, RETRY, IGNORE, "text", [1]])
def test_whatever_a_plain_task_returns_is_success(run: Run, value: object) -> None:
    assert run(ends(value)).verdict is Verdict.ACK


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (OK, Verdict.ACK),
        (-2, Verdict.ACK),
        (RETRY, Verdict.RETRY),
        (-1, Verdict.RETRY),
        (IGNORE, Verdict.RELEASE),
        (0, Verdict.RELEASE),
        (None, Verdict.RETRY),
        (True, Verdict.RETRY),
        (False, Verdict.RETRY),
        (1, Verdict.RETRY),
        ("-2", Verdict.RETRY),
        ([], Verdict.RETRY),
    ],
)
def test_the_answer_of_a_raw_task_decides(
    run: Run, value: object, verdict: Verdict
) -> None:
    assert run(ends(value), kind=Kind.RAW).verdict is verdict


def test_a_task_for_ever_runs_again_after_its_pause(run: Run) -> None:
    outcome = run(ends(), kind=Kind.FOREVER, pause=2.5)
    assert (outcome.verdict, outcome.after) == (Verdict.AGAIN, 2.5)


def test_a_pause_beyond_all_time_is_cut(run: Run) -> None:
    outcome = run(ends(), kind=Kind.FOREVER, pause=1e300)
    assert outcome.after == MAX_BACKOFF


def test_a_coroutine_decides_by_what_it_returns(run: Run) -> None:
    async def f() -> object:
        await asyncio.sleep(0)
        return IGNORE

    assert run(f, kind=Kind.RAW).verdict is Verdict.RELEASE


def test_a_generator_is_an_error(run: Run) -> None:
    def f() -> Iterator[int]:
        yield 1

    async def g() -> Any:
        yield 1

    for function in (f, g):
        outcome = run(function)
        assert outcome.verdict is Verdict.RETRY
        assert "generator" in outcome.error


# -- exceptions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), SystemExit(0), KeyboardInterrupt(), MemoryError(), OSError(5)],
)
def test_an_exception_of_any_kind_is_a_retry(run: Run, error: BaseException) -> None:
    outcome = run(ends(error=error))
    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason == "exception"
    assert outcome.error.startswith(type(error).__name__)
    assert "in function" in (outcome.traceback or "")


def test_fail_is_final(run: Run) -> None:
    outcome = run(ends(error=Fail("no use")))
    assert (outcome.verdict, outcome.reason) == (Verdict.FAIL, "fail")
    assert outcome.error.endswith("no use")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (None, None),
        (0, 0.0),
        (2.5, 2.5),
        (timedelta(minutes=1), 60.0),
        (-5, 0.0),
        (float("inf"), MAX_BACKOFF),
        (1e300, MAX_BACKOFF),
        (float("nan"), None),
        ("soon", None),
    ],
)
def test_retry_asks_for_a_delay_that_can_be(
    run: Run, after: Any, expected: float | None
) -> None:
    outcome = run(ends(error=Retry("why", after=after)))
    assert (outcome.verdict, outcome.after) == (Verdict.RETRY, expected)
    assert outcome.error.endswith("why")


def test_the_error_is_one_line_without_notes(run: Run) -> None:
    error = ValueError("one\n  two")
    error.add_note("a note")
    outcome = run(ends(error=error))
    assert outcome.error == "ValueError: one two"
    assert "a note" in (outcome.traceback or "")


def test_a_long_error_is_cut(run: Run) -> None:
    assert len(run(ends(error=ValueError("x" * 5000))).error) == 1000


class Hostile:
    """Raises wherever it is looked at."""

    def __repr__(self) -> str:
        raise KeyError

    def __eq__(self, other: object) -> bool:
        raise KeyError

    __hash__ = None  # type: ignore[assignment]  # as Python does


class Unspeakable(Exception):  # noqa: N818 (a name for a test)
    """Cannot be shown."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def test_what_a_function_returns_or_raises_cannot_hurt_the_worker(run: Run) -> None:
    assert run(ends(Hostile()), kind=Kind.RAW).verdict is Verdict.RETRY
    assert run(ends(error=Unspeakable())).verdict is Verdict.RETRY


# -- the current task ---------------------------------------------------------------


def test_current_task_has_the_facts_of_the_claim(
    opened: Callable[[bytes], TaskFile], tmp_path: Path
) -> None:
    task = opened(b'{"task":"f","traceparent":"00-1"}\n')
    facts = current(CLAIM, task, SpoolDir(tmp_path), None, NOW_US)
    assert (facts.id, facts.name, facts.attempt) == ("8c1f42d09ab3e617", "f", 3)
    assert (facts.priority, facts.spool) == (5, str(tmp_path))
    assert (facts.traceparent, facts.deadline) == ("00-1", None)


@pytest.mark.parametrize("limit", [float("inf"), 1e300, 1e11])
def test_a_limit_that_no_calendar_can_show_is_no_deadline(
    opened: Callable[[bytes], TaskFile], tmp_path: Path, limit: float
) -> None:
    task = opened(b"task=f\n")
    assert current(CLAIM, task, SpoolDir(tmp_path), limit, NOW_US).deadline is None
    assert current(CLAIM, task, SpoolDir(tmp_path), 1e9, NOW_US).deadline is not None
