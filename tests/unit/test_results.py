"""What is kept of a task that has ended: written, read, removed, swept."""

import enum
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import NOW_US, FakeClock, ToldOS, make_name, real_clock

from spooler.errors import ResultError
from spooler.spooldir import SpoolDir, files, repair, results, root
from spooler.spooldir.claims import give_up
from spooler.spooldir.results import Sweeper
from spooler.task import Name, State

NAME = make_name(id="8c1f42d09ab3e617", task="add")


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float


class Hostile:
    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError


def keep(spool: SpoolDir, name: Name = NAME, **given: Any) -> str | None:
    base = {"ok": True, "attempt": 1, "started_us": NOW_US, "seconds": 60.0}
    return results.keep(spool, name, **(base | given))


def on_disk(spool: SpoolDir, name: Name = NAME) -> dict[str, Any]:
    text = Path(spool.path, "done", name.id).read_bytes()
    assert text.count(b"\n") == 1
    found: dict[str, Any] = json.loads(text)
    return found


def test_what_is_kept_is_one_line_of_json(spool: SpoolDir, clock: FakeClock) -> None:
    clock.advance(5)
    assert keep(spool, value=[1, "ä\n"], attempt=3, clock=clock) is None
    assert on_disk(spool) == {
        "v": 1,
        "id": NAME.id,
        "task": "add",
        "ok": True,
        "result": [1, "ä\n"],
        "error": None,
        "traceback": None,
        "reason": None,
        "attempt": 3,
        "started": "2026-11-20T21:01:00.000Z",
        "ended": "2026-11-20T21:01:05.000Z",
        "expires": "2026-11-20T21:02:05.000Z",
        "problem": None,
    }
    status = os.stat(f"{spool.path}/done/{NAME.id}")
    assert status.st_mtime_ns == (NOW_US + 65_000_000) * 1000
    assert status.st_mode & 0o777 == 0o600


def test_a_failure_is_kept_with_its_reason(spool: SpoolDir) -> None:
    keep(
        spool,
        ok=False,
        error="E: \udcff",
        reason="exception",
        traceback="x" * 100_000,
        started_us=None,
    )
    record = results.read(spool, NAME.id)
    assert record is not None
    assert (record.ok, record.error, record.reason) == (
        False,
        "E: \\udcff",
        "exception",
    )
    assert record.traceback is not None
    assert record.traceback.startswith("…x")
    assert len(record.traceback) < 70_000
    assert record.started is None


def test_it_is_synced_before_it_is_there_and_then_its_folder(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    for module in (files, results, root):
        monkeypatch.setattr(module, "os", told)
    keep(spool)
    order = [each.partition(" ")[0] for each in told.calls]
    order = [each for each in order if each in ("utime", "fsync", "rename")]
    assert order == ["utime", "fsync", "rename", "fsync"]
    assert told.syncs(spool.path)[1:] == ["done"]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (False, False),
        ({"a": (1, 2.5)}, {"a": [1, 2.5]}),
        ({1: "one"}, {"1": "one"}),
        (Path("/tmp/x"), "/tmp/x"),
        (Colour.RED, "red"),
        (Point(1, 2.0), {"x": 1, "y": 2.0}),
        (datetime(2026, 11, 20, tzinfo=UTC), "2026-11-20T00:00:00Z"),
        (b"\x00\xff", "AP8="),
        ({"many": list(range(100_000))}, {"many": list(range(100_000))}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_come_back_as_plain_json(
    spool: SpoolDir, value: object, kept: object
) -> None:
    assert keep(spool, value=value) is None
    record = results.read(spool, NAME.id)
    assert record is not None
    assert record.value() == kept


def nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            object(),
            "its result cannot be written in JSON: TypeError: object cannot be written",
        ),
        (open, "its result cannot be written in JSON: TypeError"),
        (Hostile(), "its result cannot be written in JSON: "),
        ("\ud800", "its result cannot be written in JSON: UnicodeEncodeError"),
        ({(1, 2): 3}, "its result cannot be written in JSON: "),
        (nested(100_000), "its result cannot be written in JSON: RecursionError"),
        ("x" * 1024 * 1024, "its result takes 1048578 bytes"),
    ],
    ids=["object", "function", "hostile", "surrogate", "key", "deep", "large"],
)
def test_a_value_that_cannot_be_kept_is_null_and_says_why(
    spool: SpoolDir, value: object, problem: str
) -> None:
    said = keep(spool, value=value)
    assert said is not None
    assert said.startswith(problem)
    assert on_disk(spool)["result"] is None
    assert on_disk(spool)["ok"] is True
    assert on_disk(spool)["problem"] == said
    record = results.read(spool, NAME.id)
    assert record is not None
    with pytest.raises(ResultError, match="it has succeeded, but its result"):
        record.value()


def test_one_mebibyte_is_kept(spool: SpoolDir) -> None:
    assert keep(spool, value="x" * (results.MAX_RESULT - 2)) is None
    record = results.read(spool, NAME.id)
    assert record is not None
    assert len(record.value()) == results.MAX_RESULT - 2


def test_a_newer_result_replaces_the_older_one(spool: SpoolDir) -> None:
    keep(spool, value=1)
    keep(spool, value=2)
    assert on_disk(spool)["result"] == 2
    assert spool.all_names("done") == [NAME.id]


def test_what_is_not_there_is_none(spool: SpoolDir) -> None:
    assert results.read(spool, NAME.id) is None
    assert not results.has(spool, NAME.id)
    results.remove(spool, NAME.id)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b'{"id":1}', b'{"id":"1","ok":true}']
)
def test_what_is_damaged_is_an_error_of_its_own(spool: SpoolDir, data: bytes) -> None:
    Path(spool.path, "done", NAME.id).write_bytes(data)
    with pytest.raises(ResultError, match=f"done/{NAME.id} cannot be read"):
        results.read(spool, NAME.id)


def test_a_link_is_not_followed(spool: SpoolDir) -> None:
    Path(spool.path, "done", NAME.id).symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="Too many levels"):
        results.read(spool, NAME.id)


def test_a_full_disk_leaves_no_half_result(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    told.fail("fsync", 28)
    monkeypatch.setattr(files, "os", told)
    with pytest.raises(OSError, match="No space"):
        keep(spool)
    assert spool.all_names("done") == []


# -- operators ----------------------------------------------------------------------


def test_kick_and_remove_remove_it(spool: SpoolDir) -> None:
    for act in (repair.kick, repair.remove):
        name = make_name()
        spool.put(name, [b'{"task":"t"}\n'], durable=False)
        give_up(spool, f"{name.folder}/{name}", name, {"v": 1})
        keep(spool, name, ok=False)
        (found,) = repair.ls(spool, State.FAILED)
        act(spool, found)
        assert not results.has(spool, name.id)


# -- sweeping -----------------------------------------------------------------------


def test_a_sweep_removes_what_is_over(spool: SpoolDir, clock: FakeClock) -> None:
    old, new = make_name(), make_name()
    keep(spool, old, seconds=10, clock=clock)
    keep(spool, new, seconds=11, clock=clock)
    clock.advance(10)
    Sweeper(spool, keep=10, every=600, clock=clock).work()
    assert spool.names("done") == [new.id]


def test_a_sweep_leaves_what_is_no_result(spool: SpoolDir) -> None:
    clock = real_clock()
    for name in (".half", "notes", "8C1F42D09AB3E617"):
        Path(spool.path, "done", name).touch()
    sweeper = Sweeper(spool, keep=0, every=600, clock=clock)
    sweeper.work()
    assert len(spool.all_names("done")) == 3
    clock.advance(25 * 3600)
    work_through(sweeper, clock)
    assert sorted(spool.all_names("done")) == ["8C1F42D09AB3E617", "notes"]


def work_through(sweeper: Sweeper, clock: FakeClock) -> int:
    """Do all steps of one sweep; return how many there were."""
    clock.advance(max(0.0, sweeper.due - clock.monotonic()))
    steps = 0
    while True:
        sweeper.work()
        if sweeper.due > clock.monotonic() + 1:
            return steps
        steps += 1
        clock.advance(1)


def test_the_oldest_go_when_there_are_too_many(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "SWEEP_STEP", 4)
    clock = real_clock()
    names = [make_name() for _ in range(10)]
    for name in names:
        # Of different times, however coarse those of the file system are.
        before = os.stat(f"{spool.path}/done").st_ctime_ns
        while os.stat(f"{spool.path}/done").st_ctime_ns == before:
            keep(spool, name, seconds=1e6, clock=clock)
    sweeper = Sweeper(spool, keep=3, every=600, clock=clock)
    assert work_through(sweeper, clock) == 5
    assert set(spool.names("done")) == {name.id for name in names[-3:]}
    assert work_through(sweeper, clock) == 0
    assert len(spool.names("done")) == 3


def test_a_step_looks_at_so_many_files_only(
    spool: SpoolDir, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "SWEEP_STEP", 4)
    for _ in range(10):
        keep(spool, make_name(), seconds=1, clock=clock)
    sweeper = Sweeper(spool, keep=100, every=600, clock=clock)
    clock.advance(1)
    left = []
    for _ in range(3):
        sweeper.work()
        sweeper.work()  # too early: nothing is done
        left.append(len(spool.names("done")))
        clock.advance(1)
    assert left == [6, 2, 0]
    assert sweeper.due == clock.monotonic() + 599


def test_a_sweep_that_meets_an_error_begins_anew(
    spool: SpoolDir,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    no_leaks: None,
) -> None:
    keep(spool, make_name(), seconds=1, clock=clock)
    clock.advance(1)
    sweeper = Sweeper(spool, keep=100, every=600, clock=clock)
    told = ToldOS()
    told.fail("unlink", 5)
    monkeypatch.setattr(results, "os", told)
    with pytest.raises(OSError, match="Input/output"):
        sweeper.work()
    assert len(spool.names("done")) == 1
    clock.advance(600)
    sweeper.work()
    assert spool.names("done") == []


def test_what_vanishes_meanwhile_is_no_error(
    spool: SpoolDir, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(spool, make_name(), seconds=1, clock=clock)
    clock.advance(1)
    told = ToldOS()
    told.fail("unlink", 2)
    monkeypatch.setattr(results, "os", told)
    Sweeper(spool, keep=100, every=600, clock=clock).work()
    assert len(spool.names("done")) == 1
