"""Tests of putting many tasks at once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import path_of, put, tasks

import spooler
from spooler import (
    ArgumentsError,
    Batch,
    Call,
    Handle,
    Spooler,
    State,
    Task,
    UsageError,
    many,
)
from spooler.codec import decode
from spooler.lines import decode_line
from spooler.registry import REGISTRY
from spooler.spooldir import SpoolDir, batches
from spooler.spooldir.batches import Range
from spooler.spooldir.claims import Claims
from spooler.task import BATCH, Name, derived_id

ID = "8c1f42d09ab3e617"
OTHER = "0123456789abcdef"


@pytest.fixture
def here(
    tmp_path: Path, no_sync: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SpoolDir]:
    path = tmp_path / "spool"
    monkeypatch.setenv("SPOOL_DIR", str(path))
    found = SpoolDir(path)
    found.create()
    before = dict(REGISTRY._entries)
    yield found
    REGISTRY._entries.clear()
    REGISTRY._entries.update(before)
    found.close()


@pytest.fixture
def mail(here: SpoolDir) -> Task[..., None]:
    @spooler.spool
    def mail(to: str, number: int = 0) -> None: ...

    return mail


def head_of(spool: SpoolDir) -> tuple[Name, Any, list[bytes]]:
    """Return the only batch there is: its name, its header, its lines."""
    ((path, data),) = tasks(spool).items()
    name = Name.parse(path.rpartition("/")[2])
    assert name is not None
    header = decode(data, whole=True)
    assert header is not None
    return name, header, data[header.body_offset :].splitlines()


def test_spool_many_puts_one_file_with_a_line_for_each(
    here: SpoolDir, mail: Task[..., None]
) -> None:
    batch = spooler.spool_many([mail.call("a", 1), mail.call(to="b", number=2)])
    name, header, lines = head_of(here)
    assert (name.task, name.id, name.priority) == (BATCH, batch.id, 5)
    assert (header.task, header.args) == (BATCH, b'{"count":2}')
    assert lines == [
        b'{"task":"mail","args":{"to":"a","number":1}}',
        b'{"task":"mail","args":{"to":"b","number":2}}',
    ]


def test_a_batch_is_a_sequence_of_handles(
    here: SpoolDir, mail: Task[..., None]
) -> None:
    calls = [mail.call("a"), Spooler().call("other"), mail.call("b")]
    batch = spooler.spool_many(iter(calls))
    assert (batch.count, len(batch), batch.spool) == (3, 3, here.path)
    assert [handle.task for handle in batch] == ["mail", "other", "mail"]
    assert [handle.id for handle in batch] == [
        derived_id(batch.id, number) for number in range(3)
    ]
    assert batch[-1] == batch[2]
    assert batch[1:] == [batch[1], batch[2]]
    assert isinstance(batch[0], Handle)
    assert batch[0].state() is State.WAITING
    with pytest.raises(IndexError):
        batch[3]


def test_options_of_a_batch_are_those_of_its_file(
    here: SpoolDir, mail: Task[..., None]
) -> None:
    batch = spooler.spool_many([mail.call("a")], at=4102444800, priority=2, id=ID)
    name, _, _ = head_of(here)
    assert name == Name(4102444800_000_000, 2, 0, ID, BATCH)
    assert batch.id == ID
    with pytest.raises(UsageError, match="priority=-1"):
        spooler.spool_many([mail.call("a")], priority=-1)


def test_options_of_calls_stand_in_their_lines(
    here: SpoolDir, mail: Task[..., None]
) -> None:
    @spooler.spool
    def store(body: bytes) -> None: ...

    spooler.spool_many(
        [
            mail.using(at="+5m").call("a"),
            store.call(body="grün".encode()),
            mail.using(keep_result=60, traceparent="00-1").call("b"),
        ]
    )
    _, _, lines = head_of(here)
    first, second, third = (decode_line(line) for line in lines)
    assert first.at == "+5m"
    assert second.body == "grün"
    assert third.options is not None
    assert (third.options.keep_result, third.traceparent) == (60, "00-1")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda t: t.using(key="k").call("a"), "cannot have key="),
        (lambda t: t.using(id=OTHER).call("a"), "cannot have id="),
        (lambda t: t.using(spooler="/elsewhere").call("a"), "for the spool /elsewhere"),
        (
            lambda t: t.using(priority=3).call("a"),
            "has priority 3, and the batch has 5",
        ),
        (lambda t: t, "is not a call of a task"),
        (lambda t: Spooler().call("x", body=b"\xff"), "bytes of UTF-8 text"),
        (lambda t: Spooler().call("x", body="/etc/passwd"), "bytes of UTF-8 text"),
        (lambda t: Call(BATCH, b"{}", Spooler().call("x").options), "no place"),
        (lambda t: Spooler().call("x", {"a": "b" * 2**20}), "put it by itself"),
    ],
)
def test_a_call_that_cannot_be_is_named_by_its_number(
    here: SpoolDir,
    mail: Task[..., None],
    make: Callable[[Any], Call],
    problem: str,
) -> None:
    good = mail.call("a")
    with pytest.raises(UsageError, match=f"^call 1: .*{problem}"):
        spooler.spool_many([good, make(mail), good])
    assert tasks(here) == {}


def test_an_error_of_whoever_makes_the_calls_passes_through(
    here: SpoolDir, mail: Task[..., None]
) -> None:
    def calls() -> Iterator[Call]:
        yield mail.call("a")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        spooler.spool_many(calls())
    assert tasks(here) == {}


def test_a_batch_has_the_priority_of_its_calls_unless_one_is_given(
    here: SpoolDir,
) -> None:
    @spooler.spool(priority=2)
    def urgent() -> None: ...

    @spooler.spool
    def usual() -> None: ...

    spooler.spool_many([urgent.call(), urgent.call()])
    assert head_of(here)[0].priority == 2
    with pytest.raises(UsageError, match="call 1: has priority 5, and the batch has 2"):
        spooler.spool_many([urgent.call(), usual.call()])
    batch = spooler.spool_many([urgent.call(), usual.call()], priority=7)
    assert batch._name.priority == 7
    with pytest.raises(UsageError, match="call 0: has priority 3"):
        spooler.spool_many([usual.using(priority=3).call()], priority=7)


def test_without_calls_nothing_is_put(here: SpoolDir, mail: Task[..., None]) -> None:
    for batch in (spooler.spool_many([]), mail.map([])):
        assert (batch.count, list(batch), batch.state()) == (0, [], None)
        assert batch.wait(timeout=1) is None
        assert batch.cancel() is True
        assert batch.spool == here.path
    assert tasks(here) == {}


@pytest.mark.parametrize("memory", [0, 1000, many.MEMORY])
def test_large_batches_go_through_a_file(
    here: SpoolDir,
    mail: Task[..., None],
    memory: int,
    monkeypatch: pytest.MonkeyPatch,
    no_leaks: None,
) -> None:
    monkeypatch.setattr(many, "MEMORY", memory)
    mail.map(("x" * 50, number) for number in range(100))
    _, header, lines = head_of(here)
    assert header.args == b'{"count":100}'
    assert len(lines) == 100
    here.close()
    os.close(os.open("/", os.O_RDONLY))
    from spooler.handle import spool_dir  # noqa: PLC0415

    spool_dir(here.path).close()


# -- Task.map -----------------------------------------------------------------------


def test_map_takes_dicts_tuples_and_plain_values(
    here: SpoolDir, mail: Task[..., None]
) -> None:
    batch = mail.map([{"to": "a", "number": 1}, ("b", 2), "c"])
    _, _, lines = head_of(here)
    assert [decode_line(line).args for line in lines] == [
        b'{"to":"a","number":1}',
        b'{"to":"b","number":2}',
        b'{"to":"c"}',
    ]
    assert [handle.task for handle in batch] == ["mail"] * 3


def test_map_takes_magic_keys_of_a_row(here: SpoolDir) -> None:
    @spooler.spool
    def store(name: str, body: bytes) -> None: ...

    store.map([{"name": "a", "body": b"x", "at": 7}])
    _, _, (line,) = head_of(here)
    header = decode_line(line)
    assert (header.args, header.body, header.at) == (b'{"name":"a"}', "x", 7)
    with pytest.raises(ArgumentsError, match="row 0: missing argument 'body'"):
        store.map([{"name": "a"}])
    with pytest.raises(UsageError, match="row 0: has priority 3"):
        store.map([{"name": "a", "body": b"x", "priority": 3}])


def test_map_keeps_to_using(here: SpoolDir, mail: Task[..., None]) -> None:
    mail.using(keep_result=60, priority=3, at=4102444800).map(["a"])
    name, _, (line,) = head_of(here)
    assert (name.priority, name.due_us) == (3, 4102444800_000_000)
    options = decode_line(line).options
    assert options is not None
    assert options.keep_result == 60


def test_map_names_the_row_that_does_not_fit(
    here: SpoolDir, mail: Task[..., None]
) -> None:
    with pytest.raises(ArgumentsError, match=r"^row 1: argument 'number'.* is mail\("):
        mail.map([("a", 1), ("b", "x")])
    with pytest.raises(ArgumentsError, match="row 0: unknown argument 'two'"):
        mail.map([{"two": "a"}])
    assert tasks(here) == {}


def test_map_refuses_a_task_with_a_key(here: SpoolDir, mail: Task[..., None]) -> None:
    with pytest.raises(UsageError, match="mail: a task in a batch cannot have a key"):
        mail.using(key="k").map(["a"])


def test_map_gives_a_dict_to_a_function_that_wants_one(here: SpoolDir) -> None:
    @spooler.spool
    def old(args: dict[str, Any]) -> None: ...

    old.map([{"x": "1"}])
    assert decode_line(head_of(here)[2][0]).args == b'{"x":"1"}'


# -- a batch later on ---------------------------------------------------------------


@pytest.fixture
def batch(here: SpoolDir, mail: Task[..., None]) -> Batch:
    return mail.map(["a", "b", "c", "d"])


def place(spool: SpoolDir, batch_id: str, origin: str) -> None:
    Path(spool.path, "batches", batch_id).write_bytes(Range(1, 2, origin).encode())


def claim(spool: SpoolDir, name: Name) -> Claims:
    claims = Claims(spool, "w1", {os.getuid()})
    claims.claim(path_of(name))
    os.close(claims._fd)
    return claims


def test_state_of_a_batch_goes_with_its_file(here: SpoolDir, batch: Batch) -> None:
    assert batch.state() is State.WAITING
    claim(here, batch._name)
    assert batch.state() is State.RUNNING
    os.unlink(f"{here.path}/running/w1/{batch._name}")
    assert batch.state() is None


def test_state_of_a_batch_sees_its_parts_and_its_lines(
    here: SpoolDir, batch: Batch
) -> None:
    os.unlink(f"{here.path}/{path_of(batch._name)}")
    failed = Name(1, 5, 1, batch[1].id, "mail")
    Path(here.path, "failed", str(failed)).write_bytes(b"x")
    assert batch.state() is State.FAILED
    part = put(here, batch._name.but(id=OTHER))
    assert batch.state() is State.FAILED
    place(here, OTHER, batch.id)
    assert batch.state() is State.WAITING
    os.unlink(f"{here.path}/{path_of(part)}")
    put(here, Name(1, 5, 1, batch[3].id, "mail"))
    assert batch.state() is State.WAITING


def test_cancel_removes_what_waits(here: SpoolDir, batch: Batch) -> None:
    place(here, OTHER, batch.id)
    put(here, batch._name.but(id=OTHER))
    put(here, Name(1, 5, 1, batch[3].id, "mail"))
    stranger = put(here)
    assert batch.cancel() is True
    assert list(here.waiting()) == [(stranger.folder, str(stranger))]
    assert batch.state() is None


def test_cancel_tells_that_something_runs(here: SpoolDir, batch: Batch) -> None:
    claim(here, batch._name)
    assert batch.cancel() is False
    assert batch.state() is State.RUNNING


def test_wait_ends_when_all_has_ended(here: SpoolDir, batch: Batch) -> None:
    with pytest.raises(TimeoutError):
        batch.wait(timeout=0.05)
    os.unlink(f"{here.path}/{path_of(batch._name)}")
    assert batch.wait(timeout=1) is None
    failed = Name(1, 5, 1, batch[1].id, "mail")
    Path(here.path, "failed", str(failed)).write_bytes(b"x")
    assert batch.wait(timeout=1) is State.FAILED
    assert [found for found, _ in batches.find(here, batch.id)] == []
