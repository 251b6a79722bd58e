"""``spooler.testing``: a spool whose tasks run in the test's own process."""

import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from spooler import (
    Fail,
    Retry,
    Spooler,
    UsageError,
    current_task,
    decorators,
    hooks,
    registry,
)
from spooler.clock import CLOCK
from spooler.errors import TaskFailed
from spooler.ext.uwsgi import install
from spooler.ext.uwsgi.handlers import HANDLERS
from spooler.ext.uwsgi.module import UWSGI
from spooler.ext.uwsgi.state import STATE
from spooler.task import BATCH
from spooler.testing import LocalSpool, local


@pytest.fixture(name="spool")
def local_spool(tmp_path: Path) -> Iterator[LocalSpool]:
    """As the plugin's fixture; the tests of spooler have another one of that name."""
    with LocalSpool(tmp_path / "spool") as made:
        yield made


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep what a test registers from the others."""
    before = dict(registry.REGISTRY._entries)
    yield
    registry.REGISTRY._entries.clear()
    registry.REGISTRY._entries.update(before)


def test_what_is_put_waits_and_is_shown(spool: LocalSpool) -> None:
    made = decorators.spool(name="greet")(lambda text, times=1: None)
    made.using(priority=2).spool(text="hi")
    made.using(at="+5m", priority=1).spool(text="later", times=2)
    first, second = spool.waiting
    assert (first.task, first.args, first.priority) == (
        "greet",
        {"text": "later", "times": 2},
        1,
    )
    assert first.due_us - spool.clock.now_us() == 300_000_000
    assert (second.args, second.attempt) == ({"text": "hi"}, 0)


def test_what_is_for_a_socket_stays_here(spool: LocalSpool) -> None:
    Spooler("127.0.0.1:1").put("elsewhere", outbox=True)
    assert [waiting.task for waiting in spool.waiting] == ["elsewhere"]


def test_run_runs_what_is_due_and_what_that_puts(spool: LocalSpool) -> None:
    seen: list[str] = []

    @decorators.spool(name="second")
    def second(text: str) -> None:
        seen.append(f"second {text} {current_task().attempt}")

    @decorators.spool(name="first")
    def first(text: str) -> None:
        seen.append(f"first {text}")
        second.spool(text=text)

    first.spool(text="a")
    ran = spool.run()
    assert seen == ["first a", "second a 1"]
    assert [(each.task, each.outcome) for each in ran] == [
        ("first", "ack"),
        ("second", "ack"),
    ]
    assert spool.waiting == []
    assert os.listdir(Path(spool.path, "running")) == []
    assert os.listdir(Path(spool.path, "workers")) == []


def test_run_raises_the_error_of_a_task_with_its_traceback(spool: LocalSpool) -> None:
    @decorators.spool(name="broken")
    def broken() -> None:
        raise ValueError("no good")

    broken.spool()
    with pytest.raises(TaskFailed, match="ValueError: no good") as caught:
        spool.run()
    assert "in broken" in "".join(caught.value.__notes__)
    [waiting] = spool.waiting
    assert waiting.attempt == 1
    assert spool.run() == []


def test_time_passes_when_it_is_told_to(spool: LocalSpool) -> None:
    tries: list[int] = []

    @decorators.spool(name="stubborn", retries=2, backoff=60, jitter=0)
    def stubborn() -> None:
        tries.append(CLOCK.now_us())
        raise Retry("again")

    stubborn.using(at=timedelta(hours=1)).spool()
    assert spool.run() == []
    begin = spool.clock.now_us()
    assert [each.outcome for each in spool.advance("1h")] == ["retry"]
    assert [each.outcome for each in spool.advance(59)] == []
    assert [each.outcome for each in spool.advance(1)] == ["retry"]
    [ran] = spool.advance("2m")
    assert (ran.outcome, ran.error) == ("fail", "Retry: again")
    assert [(t - begin) // 1_000_000 for t in tries] == [3600, 3660, 3780]
    [report] = spool.failed
    assert report["error"] == "Retry: again"
    assert not spool.waiting


def test_timers_come_due_as_time_passes(tmp_path: Path) -> None:
    ticks: list[int] = []
    decorators.timer(60, name="tick")(lambda: ticks.append(1))
    with LocalSpool(tmp_path / "spool") as spool:
        spool.advance(0)
        for _ in range(3):
            spool.advance(60)
    assert len(ticks) == 3


def test_immediate_runs_a_task_as_it_is_put(spool: LocalSpool) -> None:
    seen: list[bytes] = []

    @decorators.spool(name="keep")
    def keep(body: BinaryIO) -> None:
        seen.append(body.read())

    spool.immediate = True
    keep.using(body=b"abc").spool()  # type: ignore[call-arg] # the body is apart
    assert seen == [b"abc"]

    @decorators.spool(name="never")
    def never() -> None:
        raise Fail("not today")

    with pytest.raises(TaskFailed, match="not today"):
        never.spool()


def test_what_names_another_spool_stays_in_the_test(
    spool: LocalSpool, tmp_path: Path
) -> None:
    elsewhere = Spooler(tmp_path / "production")
    elsewhere.put("mail", {"to": "a@example.org"})
    assert [each.task for each in spool.waiting] == ["mail"]
    assert not (tmp_path / "production").exists()


@pytest.fixture
def uwsgi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Return the module, whose spool is another one than the test's."""
    for name in ("rest", "others", "translate"):
        monkeypatch.setattr(registry.REGISTRY, name, None)
    for name in ("dirs", "files", "daemon", "policy", "opt", "manage"):
        monkeypatch.setattr(STATE, name, getattr(STATE, name))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in ("uwsgi", "uwsgidecorators"):
        monkeypatch.setitem(sys.modules, name, UWSGI)
    before = list(hooks.START)
    install(tmp_path / "production")
    yield UWSGI
    hooks.START[:] = before
    HANDLERS.clear()
    vars(UWSGI).pop("spooler", None)


def test_what_uwsgis_functions_put_stays_in_the_test(
    uwsgi: Any, tmp_path: Path
) -> None:
    seen: list[object] = []

    def manage(task: dict[object, bytes]) -> object:
        seen.append(task[b"n"])
        return uwsgi.SPOOL_OK

    uwsgi.spooler = manage
    uwsgi.register_signal(7, "", seen.append)
    with LocalSpool(tmp_path / "spool") as spool:
        uwsgi.spool({b"n": b"1", b"spooler": b"/elsewhere"})
        uwsgi.signal(7)
        put = {each.task for each in spool.waiting}
        assert put == {"uwsgi", "uwsgi.signal.7"}
        assert not seen
        spool.run()
        assert seen == [7, b"1"]
        spool.immediate = True
        uwsgi.spool({b"n": b"2"})
        assert seen == [7, b"1", b"2"]
        uwsgi.signal(7)
        assert seen == [7, b"1", b"2", 7]
    assert not (tmp_path / "production").exists()
    with pytest.raises(ValueError, match="production"):
        uwsgi.spool({b"n": b"3"})


def test_all_is_as_before_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOOL_DIR", "/there")
    with LocalSpool(tmp_path / "spool") as spool:
        assert os.environ["SPOOL_DIR"] == spool.path
        before = CLOCK.now_us()
        assert CLOCK.now_us() == before
    assert os.environ["SPOOL_DIR"] == "/there"
    assert vars(CLOCK) == {}


def test_an_unknown_task_is_released_and_not_looked_at_again(
    spool: LocalSpool,
) -> None:
    Spooler().put("nobody_knows_this")
    [ran] = spool.run()
    assert ran.outcome == "release"
    assert len(spool.waiting) == 1


def test_tasks_that_put_themselves_for_ever_are_an_error(
    spool: LocalSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "RUNS_MAX", 5)

    @decorators.spool(name="breed")
    def breed() -> None:
        breed.spool()

    breed.spool()
    with pytest.raises(UsageError, match="5 tasks have run"):
        spool.run()


def test_a_task_cannot_run_the_others(spool: LocalSpool) -> None:
    decorators.spool(name="greedy")(lambda: spool.run()).spool()
    with pytest.raises(TaskFailed, match="it runs already"):
        spool.run()


def test_a_name_of_entries_is_kept_for_batches() -> None:
    with pytest.raises(UsageError, match="batches"):
        decorators.spool(name="_batch")(lambda: None)
    assert BATCH == "_batch"


def test_a_batch_for_another_spool_stays_in_the_test_too(
    spool: LocalSpool, tmp_path: Path
) -> None:
    seen: list[int] = []
    elsewhere = Spooler(tmp_path / "production")
    made = elsewhere.spool(name="collect")(lambda number: seen.append(number))
    batch = made.map(range(5))
    assert not (tmp_path / "production").exists()
    spool.run()
    assert seen == [0, 1, 2, 3, 4]
    assert batch.wait(1) is None


def test_waiting_for_a_task_that_nobody_runs_ends(spool: LocalSpool) -> None:
    handle = Spooler().put("nobody_knows_this")
    with pytest.raises(TimeoutError, match="has not ended in"):
        handle.wait(0.05)
