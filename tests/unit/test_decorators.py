"""Functions become tasks; tasks are put."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from spooler import decorators, registry
from spooler.codec import decode
from spooler.decorators import (
    Spooler,
    spool,
    spoolforever,
    spoolraw,
    timer,
)
from spooler.errors import ArgumentsError, TaskNameError, UsageError
from spooler.handle import Handle
from spooler.options import RunOptions
from spooler.registry import Entry, Kind, Registry
from spooler.schedule import CronLine, Interval
from spooler.spooldir import SpoolDir
from spooler.task import State
from spooler.tasks import Task

cron = decorators.cron


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Keep the functions of each test to itself."""
    own = Registry()
    monkeypatch.setattr(decorators, "REGISTRY", own)
    monkeypatch.setattr(registry, "REGISTRY", own)
    return own


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a spool that is the default."""
    SpoolDir(tmp_path / "spool").create()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPOOL_DIR", raising=False)
    return tmp_path


def entry(known: Registry, name: str) -> Entry:
    found = known.get(name)
    assert found is not None
    return found


def waiting(path: str | Path = "spool") -> list[str]:
    return [f"{folder}/{name}" for folder, name in SpoolDir(path).waiting()]


def content(path: str | Path = "spool") -> tuple[dict[str, Any], bytes]:
    """Return the header and the body of the one task in a spool."""
    [file] = waiting(path)
    head, _, body = (Path(path) / file).read_bytes().partition(b"\n")
    return json.loads(head), body


def add(a: int, b: int = 2) -> int:
    """Add numbers."""
    return a + b


def takes_body(body: bytes, name: str = "x") -> None:
    raise AssertionError


# -- registering --------------------------------------------------------------------


def test_a_task_is_still_the_function(known: Registry) -> None:
    task = spool(add)
    assert isinstance(task, Task)
    assert task(1) == 3
    assert getattr(task, "__name__", "") == "add"
    assert task.__doc__ == "Add numbers."
    assert repr(task) == "<task add>"
    assert entry(known, "add").function is add


@pytest.mark.parametrize(
    ("decorator", "kind"),
    [(spool, Kind.TASK), (spoolraw, Kind.RAW), (spoolforever, Kind.FOREVER)],
)
def test_decorators_work_with_and_without_parentheses(
    known: Registry, decorator: Callable[..., Any], kind: Kind
) -> None:
    decorator(add)
    decorator(name="other", retries=3)(add)
    assert entry(known, "add").kind is kind
    assert entry(known, "other").retry.retries == 3


def test_options_reach_the_registry(known: Registry) -> None:
    options: dict[str, Any] = {
        "name": "x",
        "priority": 3,
        "hard_timeout": timedelta(minutes=1),
        "max_attempts": 4,
        "backoff": timedelta(seconds=2),
        "backoff_max": 8,
        "jitter": 0.5,
    }
    spool(**options)(add)
    made = entry(known, "x")
    assert (made.priority, made.run.hard_timeout) == (3, 60.0)
    retry = made.retry
    assert (retry.max_attempts, retry.backoff, retry.backoff_max) == (4, 2.0, 8.0)
    assert retry.jitter == 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"retrys": 1},
        {"pause": -1},
        {"hard_timeout": -1},
        {"hard_timeout": float("inf")},
        {"hard_timeout": float("nan")},
        {"priority": -1},
        {"priority": 1.5},
        {"priority": True},
        {"priority": 1_000_000},
        {"durability": "none"},
        {"retries": -1},
        {"retries": 1, "max_attempts": 2},
        {"backoff": -1},
        {"jitter": 2},
        {"name": "a b"},
        {"name": ".x"},
        {"name": "a/b"},
        {"name": "x" * 129},
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        spool(**options)(add)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(TaskNameError):
        spool(lambda: None)
    assert spool(name="named")(lambda: 5)() == 5


@pytest.mark.parametrize("wrong", ["add", 5, None])
def test_what_is_no_function_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="one function is needed"):
        spool(wrong)


def test_two_functions_of_one_name_are_refused() -> None:
    spool(add)
    with pytest.raises(UsageError, match="two functions want to be task 'add'"):
        spool(name="add")(takes_body)


def test_a_function_registered_again_replaces_itself(known: Registry) -> None:
    spool(add)
    spool(retries=7)(add)
    assert entry(known, "add").retry.retries == 7


def test_a_task_for_ever_is_never_given_up_unless_it_says_so(known: Registry) -> None:
    spoolforever(add)
    assert entry(known, "add").retry.max_attempts == 0
    assert entry(known, "add").pause == 1.0
    spoolforever(retries=2, pause=timedelta(seconds=3))(add)
    assert entry(known, "add").retry.max_attempts is None
    assert entry(known, "add").pause == 3.0


# -- timers -------------------------------------------------------------------------


# For calls that a type checker would refuse too.
ANY_TIMER: Any = timer
ANY_CRON: Any = cron


def nothing(text: str = "default") -> None:
    raise AssertionError


def test_a_timer_has_an_interval_and_no_retries(known: Registry) -> None:
    timer(2.5)(nothing)
    made = entry(known, "nothing")
    assert made.schedule == Interval(2.5)
    assert made.retry.retries == 0
    assert not made.overlap
    timer(timedelta(minutes=1), overlap=True, retries=3)(nothing)
    made = entry(known, "nothing")
    assert made.schedule == Interval(60.0)
    assert made.retry.retries == 3
    assert made.overlap


def test_a_cron_line_is_text_or_five_numbers(known: Registry) -> None:
    cron("*/5 * * * *", tz="Europe/Paris")(nothing)
    assert entry(known, "nothing").schedule == CronLine("*/5 * * * *", "Europe/Paris")
    cron(-5, -1, -1, -1, -1)(nothing)
    assert entry(known, "nothing").schedule == CronLine("*/5 * * * *")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ANY_TIMER(0)(nothing),
        lambda: ANY_TIMER(-1)(nothing),
        lambda: ANY_TIMER(float("nan"))(nothing),
        lambda: ANY_TIMER(nothing),
        lambda: ANY_TIMER(1)(add),
        lambda: ANY_TIMER(1, retrys=1)(nothing),
        lambda: ANY_CRON()(nothing),
        lambda: ANY_CRON(nothing),
        lambda: ANY_CRON(1, 2, 3)(nothing),
        lambda: ANY_CRON(99, 0, 0, 0, 0)(nothing),
    ],
)
def test_a_timer_that_cannot_be_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        make()


def test_the_package_gives_the_decorator_in_a_fresh_process() -> None:
    code = "from spooler import cron; cron('* * * * *')(lambda name=1: None)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "TaskNameError" in done.stderr


# -- putting ------------------------------------------------------------------------


def test_a_put_task_waits_with_its_arguments() -> None:
    handle = spool(add).spool(1, b=5)
    header, body = content()
    assert header["task"] == "add"
    assert header["args"] == {"a": 1, "b": 5}
    assert body == b""
    assert handle.id in waiting()[0]
    assert handle.task == "add"
    assert handle.state() is State.WAITING


def test_arguments_are_checked_when_they_are_put() -> None:
    task: Any = spool(add)
    for args, kwargs in [((), {}), (("x",), {}), ((1,), {"c": 2}), ((1, 2, 3), {})]:
        with pytest.raises(ArgumentsError, match="the task is add"):
            task.spool(*args, **kwargs)
    assert not waiting()


def test_using_gives_what_is_not_an_argument() -> None:
    spool(takes_body).using(
        at=datetime(2030, 1, 1, tzinfo=UTC),
        priority=2,
        body=b"content",
        id="00112233445566ff",
        traceparent="00-1",
    ).spool(name="y")  # type: ignore[call-arg]  # the body is given by using()
    header, body = content()
    assert waiting()[0].startswith("2/20300101T0000/")
    assert ".00112233445566ff.takes_body" in waiting()[0]
    assert header["traceparent"] == "00-1"
    assert header["args"] == {"name": "y"}
    assert body == b"content"


def test_magic_keys_may_stand_among_the_arguments() -> None:
    task: Any = spool(takes_body)
    SpoolDir("other").create()
    task.spool(at="+1h", priority=1, body=b"x", spooler="other", name="y")
    assert not waiting()
    assert waiting("other")[0].startswith("1/")
    assert content("other")[0]["args"] == {"name": "y"}


def test_a_parameter_with_the_name_of_a_magic_key_is_an_argument() -> None:
    def f(at: str, priority: str, spooler: str) -> None:
        raise AssertionError

    spool(f).spool(at="home", priority="high", spooler="me")
    header, _ = content()
    assert header["args"] == {"at": "home", "priority": "high", "spooler": "me"}


@pytest.mark.parametrize("kind", ["bytes", "path", "text", "file", "memoryview"])
def test_a_body_comes_from_many_places(here: Path, kind: str) -> None:
    (here / "file").write_bytes(b"content")
    with (here / "file").open("rb") as file:
        body: Any = {
            "bytes": b"content",
            "path": here / "file",
            "text": "file",
            "file": file,
            "memoryview": memoryview(b"content"),
        }[kind]
        spool(takes_body).spool(body=body)
    assert content()[1] == b"content"


def test_a_body_that_nobody_takes_is_refused() -> None:
    task = spool(add)
    with pytest.raises(ArgumentsError, match="no parameter 'body'"):
        task.using(body=b"x").spool(1)
    with pytest.raises(ArgumentsError, match="no parameter 'body'"):
        task.spool(1, body=b"x")  # type: ignore[call-arg]  # what is tested
    assert not waiting()


def test_a_missing_body_file_is_the_callers_error() -> None:
    task: Any = spool(takes_body)
    with pytest.raises(FileNotFoundError):
        task.spool(body=Path("nowhere"))
    assert not waiting()


def test_a_body_annotated_as_a_file_is_put_the_same(known: Registry) -> None:
    def f(body: BinaryIO) -> None:
        raise AssertionError

    task: Any = spool(f)
    task.spool(body=b"x")
    assert content()[1] == b"x"


@pytest.mark.parametrize(
    "options",
    [
        {"at": "tomorrow"},
        {"at": "+5 parsecs"},
        {"at": float("nan")},
        {"at": 1e300},
        {"at": datetime(2030, 1, 1)},  # noqa: DTZ001 (what is tested)
        {"priority": -1},
        {"priority": "1"},
        {"durability": "none"},
        {"id": "xyz"},
        {"id": "00112233445566FF"},
        {"body": 5},
    ],
)
def test_a_put_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    task = spool(takes_body)
    options = {"body": b"x", **options}
    with pytest.raises(UsageError):
        task.using(**options).spool()  # type: ignore[call-arg]  # the body is given
    assert not waiting()


def test_the_same_id_and_moment_cannot_be_put_twice() -> None:
    put = spool(add).using(id="00112233445566ff", at=2_000_000_000)
    put.spool(1)
    with pytest.raises(FileExistsError):
        put.spool(1)


def test_options_of_the_decorator_go_for_each_put() -> None:
    spool(priority=7)(add).spool(1)
    assert waiting()[0].startswith("7/")


# -- where --------------------------------------------------------------------------


def test_the_spool_is_the_key_then_the_spooler_then_the_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "env", "key"):
        SpoolDir(here / name).create()
    own = Spooler("mine").spool(add)
    default = spool(name="default")(add)
    monkeypatch.setenv("SPOOL_DIR", str(here / "env"))
    own.spool(1)
    default.spool(1)
    own.using(spooler=here / "key").spool(1)
    own.using(spooler=Spooler("key")).spool(1)
    assert [len(waiting(n)) for n in ("mine", "env", "key", "spool")] == [1, 1, 2, 0]


def test_a_spooler_keeps_its_place_when_the_folder_changes(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooler = Spooler("spool")
    monkeypatch.chdir("/")
    assert spooler.dir == str(here / "spool")
    assert spooler.path == str(here / "spool")
    assert repr(spooler) == f"Spooler({str(here / 'spool')!r})"


def test_the_default_spool_is_looked_up_at_each_put(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Spooler().dir is None
    assert Spooler().path == str(here / "spool")
    monkeypatch.setenv("SPOOL_DIR", "/elsewhere")
    assert Spooler().path == "/elsewhere"


def test_a_spooler_of_unknown_durability_is_refused() -> None:
    with pytest.raises(UsageError, match="durability"):
        Spooler("spool", durability="none")  # type: ignore[arg-type]  # what is tested


# -- by name ------------------------------------------------------------------------


def test_a_task_is_put_by_name_without_its_function() -> None:
    Spooler("spool").put("elsewhere.f", {"a": [1, {"b": None}]}, priority=0)
    header, _ = content()
    assert header == {"task": "elsewhere.f", "args": {"a": [1, {"b": None}]}}
    assert waiting()[0].startswith("0/")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../x", ".x", "x.tmp", "a\nb"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(TaskNameError):
        Spooler("spool").put(name)
    assert not waiting()


def test_arguments_that_have_no_form_in_json_are_refused() -> None:
    with pytest.raises(ArgumentsError):
        Spooler("spool").put("f", {"a": object()})
    assert not waiting()


def test_arguments_that_take_too_much_are_refused() -> None:
    with pytest.raises(UsageError, match="put what is large into the body"):
        Spooler("spool").put("f", {"a": "x" * 2_000_000})
    assert not waiting()


def test_many_threads_put_into_one_spool(here: Path) -> None:
    task = spool(add)

    def put(number: int) -> str:
        return task.spool(number).id

    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (here only)

    with ThreadPoolExecutor(8) as pool:
        ids: Iterator[str] = pool.map(put, range(200))
        assert len(set(ids)) == 200
    assert len(waiting()) == 200
    assert os.listdir(here / "spool" / "tmp") == []


@pytest.mark.parametrize(
    "args", [{"a": float("nan")}, {"a": b"bytes"}, {"a": object()}, [1], "text"]
)
def test_putting_by_name_refuses_what_would_not_arrive(here: Path, args: Any) -> None:
    with pytest.raises(UsageError, match="elsewhere"):
        Spooler("spool").put("elsewhere", args)
    assert list((here / "spool" / "5").iterdir()) == []


def test_a_date_is_no_moment(here: Path) -> None:
    a_date: Any = date(2026, 11, 20)
    with pytest.raises(UsageError, match="is a date"):
        Spooler("spool").put("elsewhere", at=a_date)


# -- keys -------------------------------------------------------------------------


@pytest.fixture
def spooler() -> Spooler:
    return Spooler("spool", durability="fast")


def key_of(handle: Handle) -> tuple[str | None, RunOptions | None]:
    """Return the key in a task's file, and what it says of its run."""
    (file,) = Path(handle.spool).glob(f"5/*/*.{handle.id}.*")
    header = decode(file.read_bytes(), whole=True)
    assert header is not None
    return header.key, header.options


def test_a_key_is_filled_with_the_arguments(spooler: Spooler) -> None:
    @spooler.spool(key="{number:03}-{day:%Y-%m}-{width}")
    def invoice(number: int, day: date, width: int = 4, body: bytes = b"") -> None: ...

    handle = invoice.spool(7, day=date(2026, 11, 20))
    assert key_of(handle) == ("007-2026-11-4", None)
    assert invoice.spool(number=7, day=date(2026, 11, 1), width=4) == handle
    assert invoice.using(body=b"x").spool(8, date(2026, 11, 1)) != handle


def test_a_key_of_a_put_is_taken_as_it_is(spooler: Spooler) -> None:
    @spooler.spool(key="{number}")
    def invoice(number: int) -> None: ...

    assert key_of(invoice.using(key="{number}").spool(7))[0] == "{number}"
    handle = spooler.put("invoice", {"number": 8}, key="{number}", id="0" * 16)
    assert handle.id != "0" * 16


def test_options_of_a_key_are_written_into_the_file(spooler: Spooler) -> None:
    @spooler.spool(key="k", unique_for="1h", if_exists="raise", hard_timeout=5)
    def invoice(number: int = 1) -> None: ...

    handle = invoice.spool()
    assert key_of(handle)[1] == RunOptions(unique_for=3600.0, if_exists="raise")
    assert invoice.using(if_exists="skip").spool() == handle
    other = invoice.using(key="other", unique_for=timedelta(seconds=5)).spool()
    assert key_of(other)[1] == RunOptions(unique_for=5.0, if_exists="raise")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"key": "{nmber}"}, "there is no argument 'nmber'"),
        ({"key": 5}, "key=5 cannot be: it is text"),
        ({"unique_for": 5}, "unique_for= needs key="),
        ({"if_exists": "skip"}, "if_exists= needs key="),
        ({"key": "k", "if_exists": "maybe"}, "'skip', 'raise' or 'replace'"),
        ({"key": "k", "unique_for": 0}, "more than 0"),
    ],
)
def test_a_key_that_cannot_be_is_refused_at_registration(
    spooler: Spooler, options: dict[str, Any], problem: str
) -> None:
    def invoice(number: int) -> None: ...

    with pytest.raises(UsageError, match=problem):
        spooler.spool(**options)(invoice)


def test_a_key_of_arguments_that_are_not_known_yet_is_checked_at_the_put(
    spooler: Spooler,
) -> None:
    @spooler.spool(key="{a}")
    def unknown(number: "Later") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    @spooler.spool(key="{a}")
    def packet(args: dict[str, Any]) -> None: ...

    assert key_of(packet.spool({"a": 5}))[0] == "5"
    with pytest.raises(UsageError, match="no argument 'a'"):
        packet.spool({"b": 5})


def test_a_key_that_comes_out_empty_is_refused_at_the_put(spooler: Spooler) -> None:
    @spooler.spool(key="{text}")
    def say(text: str) -> None: ...

    with pytest.raises(UsageError, match="1 to 200 bytes"):
        say.spool("")


def test_a_timer_takes_no_key(spooler: Spooler) -> None:
    def tick() -> None: ...

    with pytest.raises(UsageError, match="a timer takes no key="):
        spooler.timer(5, key="k")(tick)


@pytest.mark.parametrize("moment", [60, "60", -5, "1999-12-31T23:59Z"])
def test_expires_in_the_past_is_refused(moment: Any) -> None:
    with pytest.raises(UsageError, match="that moment is over"):
        spool(name="late", expires=moment)(add)
    with pytest.raises(UsageError, match="that moment is over"):
        Spooler("x").call("late", expires=moment)


def test_a_soft_limit_is_below_the_hard_one() -> None:
    with pytest.raises(UsageError, match="soft_timeout=5 cannot be"):
        spool(name="limited", soft_timeout=5, hard_timeout=2)(add)
    with pytest.raises(UsageError, match="it takes less than hard_timeout=5"):
        Spooler("x").call("limited", soft_timeout=5, hard_timeout=5)


@pytest.mark.parametrize("rows", [None, "abc", {"a": 1}, 7])
def test_map_wants_many_arguments(rows: Any) -> None:
    made = spool(name="mapped")(add)
    with pytest.raises(UsageError, match="map takes the arguments of many tasks"):
        made.map(rows)
