"""Put tasks: the last step of every producer in Python."""

import enum
import errno
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.helpers import NOW_US, FakeClock, ToldOS, tasks

from spooler import handle as handles, putting
from spooler.errors import (
    ArgumentsError,
    DuplicateError,
    NotASpoolError,
    UsageError,
)
from spooler.handle import spool_dir
from spooler.options import NO_OPTIONS, RunOptions
from spooler.putting import (
    Prepared,
    PutOptions,
    can_be_prepared,
    check_durability,
    check_priority,
    default_path,
    put,
)
from spooler.spooldir import SpoolDir, files, root
from spooler.task import MAX_HEADER, Name, State

NO_ZONE = datetime(2026, 1, 1)  # noqa: DTZ001 (that is the mistake)


@pytest.fixture(autouse=True)
def dirs(monkeypatch: pytest.MonkeyPatch, no_leaks: None) -> Iterator[None]:
    """Let go of the spools that a test has used."""
    found: dict[str, SpoolDir] = {}
    monkeypatch.setattr(handles, "_DIRS", found)
    yield
    for each in found.values():
        each.close()


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(putting, "CLOCK", clock)
    return clock


def only(spool: SpoolDir) -> tuple[Name, bytes]:
    """Return the only task that waits."""
    ((path, data),) = tasks(spool).items()
    name = Name.parse(path.rpartition("/")[2])
    assert name is not None
    return name, data


def test_a_task_is_due_now_at_priority_5(spool: SpoolDir) -> None:
    handle = put("t", b'{"a":1}', PutOptions(spool=spool.path))
    assert only(spool) == (
        Name(NOW_US, 5, 0, handle.id, "t"),
        b'{"task":"t","args":{"a":1}}\n',
    )
    assert (handle.task, handle.spool) == ("t", spool.path)
    assert repr(handle) == f"Handle(id='{handle.id}', task='t', spool='{spool.path}')"


def test_every_option_is_obeyed(spool: SpoolDir) -> None:
    options = PutOptions(
        at="+90",
        priority=0,
        body=b"body",
        spool=spool.path,
        durability="fast",
        id="8c1f42d09ab3e617",
        traceparent="00-x",
    )
    put("t", b"{}", options)
    assert only(spool) == (
        Name(NOW_US + 90_000_000, 0, 0, "8c1f42d09ab3e617", "t"),
        b'{"task":"t","args":{},"traceparent":"00-x"}\nbody',
    )


@pytest.mark.parametrize(
    ("at", "due_us"),
    [
        (0, 0),
        (NOW_US / 1e6, NOW_US),
        ("2026-11-20T21:01:00Z", NOW_US),
        (datetime(2026, 11, 20, 21, 1, tzinfo=UTC), NOW_US),
        (timedelta(minutes=5), NOW_US + 300_000_000),
        ("+5m", NOW_US + 300_000_000),
        (-1, 0),
    ],
)
def test_at_is_any_moment(spool: SpoolDir, at: putting.At, due_us: int) -> None:
    put("t", b"{}", PutOptions(at=at, spool=spool.path))
    assert only(spool)[0].due_us == due_us


@pytest.mark.parametrize(
    "at",
    ["tomorrow", "", float("nan"), float("inf"), 1e11, NO_ZONE, [], True],
)
def test_what_is_no_moment_is_refused(spool: SpoolDir, at: Any) -> None:
    with pytest.raises(UsageError, match=r"at=.* cannot be"):
        put("t", b"{}", PutOptions(at=at, spool=spool.path))
    assert tasks(spool) == {}


@pytest.mark.parametrize("value", ["", "8c1f", "8C1F42D09AB3E617", "../../etc/passwd"])
def test_what_is_no_id_is_refused(spool: SpoolDir, value: str) -> None:
    with pytest.raises(UsageError, match=r"id=.* cannot be: it takes 16 hex digits"):
        put("t", b"{}", PutOptions(id=value, spool=spool.path))


def test_arguments_that_are_too_large_are_refused(spool: SpoolDir) -> None:
    args = b'{"a":"' + b"x" * MAX_HEADER + b'"}'
    with pytest.raises(UsageError, match="body"):
        put("t", args, PutOptions(spool=spool.path))


@pytest.mark.parametrize("value", [0, 5, 999_999, None])
def test_a_priority_is_a_whole_number_or_none(value: int | None) -> None:
    assert check_priority(value) == value


def test_a_priority_may_be_an_enum() -> None:
    class Level(enum.IntEnum):
        URGENT = 1

    assert check_priority(Level.URGENT) == 1


@pytest.mark.parametrize("value", [-1, 1_000_000, True, "5", 5.0, float("nan")])
def test_what_is_no_priority_is_refused(value: object) -> None:
    with pytest.raises(
        UsageError, match=r"priority=.* cannot be: it takes a whole num"
    ):
        check_priority(value)


def test_a_durability_is_safe_or_fast() -> None:
    assert check_durability("safe") == "safe"
    assert check_durability("fast") == "fast"
    with pytest.raises(UsageError, match="durability='slow' cannot be"):
        check_durability("slow")


@pytest.mark.parametrize(("durability", "syncs"), [("fast", 0), ("safe", 3), (None, 3)])
def test_safe_is_the_default(
    spool: SpoolDir,
    durability: putting.Durability | None,
    syncs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = ToldOS()
    spool_dir(spool.path).open()
    monkeypatch.setattr(root, "os", told)
    monkeypatch.setattr(files, "os", told)
    put("t", b"{}", PutOptions(spool=spool.path, durability=durability))
    assert len(told.syncs(spool.path)) == syncs


def test_the_spool_is_the_environment_s_or_the_one_in_this_directory(
    spool: SpoolDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ("", None):
        if value is None:
            monkeypatch.delenv("SPOOL_DIR", raising=False)
        else:
            monkeypatch.setenv("SPOOL_DIR", value)
        assert default_path() == f"{tmp_path}/spool"
    monkeypatch.setenv("SPOOL_DIR", "else/where")
    assert default_path() == f"{tmp_path}/else/where"
    monkeypatch.setenv("SPOOL_DIR", "spool")
    assert put("t", b"{}", PutOptions()).spool == spool.path


def test_a_missing_spool_is_an_error_and_closes_the_body(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"x")
    options = PutOptions(spool=str(tmp_path / "none"), body=str(tmp_path / "body"))
    with pytest.raises(NotASpoolError):
        put("t", b"{}", options)


def test_a_missing_body_is_an_error(spool: SpoolDir) -> None:
    with pytest.raises(FileNotFoundError):
        put("t", b"{}", PutOptions(spool=spool.path, body=f"{spool.path}/none"))
    assert tasks(spool) == {}


def test_one_spool_is_opened_once(spool: SpoolDir) -> None:
    assert spool_dir(spool.path) is spool_dir(spool.path)


def test_a_handle_tells_where_its_task_stands(spool: SpoolDir) -> None:
    handle = put("t", b"{}", PutOptions(spool=spool.path))
    assert handle.state() is State.WAITING
    (path,) = tasks(spool)
    Path(spool.path, path).unlink()
    assert handle.state() is None


def test_errors_of_arguments_are_errors_of_usage() -> None:
    assert issubclass(ArgumentsError, UsageError)


def test_an_error_while_writing_names_the_spool(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    told.fail("write", errno.ENOSPC)
    monkeypatch.setattr(files, "os", told)
    with pytest.raises(OSError, match="No space left on device") as caught:
        put("t", b"{}", PutOptions(spool=spool.path))
    assert caught.value.filename == spool.path


# -- keys -------------------------------------------------------------------------


def keyed(spool: SpoolDir, key: Any = "k", **run: Any) -> PutOptions:
    options = RunOptions(**run) if run else NO_OPTIONS
    return PutOptions(spool=spool.path, key=key, run=options)


def test_a_task_with_a_key_tells_its_name_in_its_file(spool: SpoolDir) -> None:
    handle = put("t", b"{}", keyed(spool))
    name, data = only(spool)
    assert name == handle._name
    assert data == (
        b'{"task":"t","args":{},"at":"2026-11-20T21:01:00.000000+00:00","priority":5,'
        b'"id":"%s","key":"k"}\n' % handle.id.encode()
    )


def test_a_handle_is_that_of_the_task_with_the_key(spool: SpoolDir) -> None:
    first = put("t", b"{}", keyed(spool, if_exists="skip"))
    again = put("t", b'{"other":1}', keyed(spool))
    assert (again, again._name, again.state()) == (first, first._name, State.WAITING)


def test_raise_tells_who_has_the_key(spool: SpoolDir) -> None:
    first = put("t", b"{}", keyed(spool))
    with pytest.raises(DuplicateError, match="has the key 'k' already") as caught:
        put("t", b"{}", keyed(spool, if_exists="raise"))
    assert (caught.value.task_id, caught.value.key) == (first.id, "k")
    assert only(spool)[0].id == first.id


def test_replace_gives_a_handle_of_the_new_task(spool: SpoolDir) -> None:
    first = put("t", b"{}", keyed(spool))
    second = put("t", b"{}", keyed(spool, if_exists="replace"))
    assert only(spool)[0].id == second.id != first.id
    assert first.state() is None


@pytest.mark.parametrize("key", ["", "x" * 201, "é" * 101, "a\0b", "\ud800", 5, b"k"])
def test_a_key_that_cannot_be_is_refused(spool: SpoolDir, key: object) -> None:
    with pytest.raises(UsageError, match="1 to 200 bytes, without a NUL"):
        put("t", b"{}", keyed(spool, key))
    assert not tasks(spool)


@pytest.mark.parametrize("option", [{"unique_for": 1.0}, {"if_exists": "skip"}])
def test_options_of_keys_need_one(spool: SpoolDir, option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(option))}= needs key="):
        put("t", b"{}", keyed(spool, None, **option))


@pytest.mark.parametrize("size", [0, 10, 150, 500])
def test_a_prepared_put_writes_the_same_file(spool: SpoolDir, size: int) -> None:
    run = RunOptions(keep_result=5.0)
    options = PutOptions(spool=spool.path, priority=3, traceparent="00-x", run=run)
    args = b'{"x":"%b"}' % (b"a" * size)
    first = put("t", args, options)
    second = Prepared("t", options).put(args)
    third = Prepared("t", replace(options, durability="fast")).put(args)
    name = Name(NOW_US, 3, 0, "", "t")
    files = {path.rpartition("/")[2]: data for path, data in tasks(spool).items()}
    names = [str(name.but(id=each.id)) for each in (first, second, third)]
    assert [files[each] for each in names] == [files[names[0]]] * 3
    assert first._keeps
    assert second == replace(first, id=second.id, _name=second._name)


@pytest.mark.parametrize(
    "options",
    [
        PutOptions(at=1),
        PutOptions(id="8c1f42d09ab3e617"),
        PutOptions(key="k"),
        PutOptions(body=b""),
        PutOptions(spool="here"),
    ],
)
def test_what_differs_with_each_put_is_not_prepared(options: PutOptions) -> None:
    assert not can_be_prepared(options)


def test_a_relative_path_is_meant_from_where_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "_DIRS", {})
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        spool = handles.spool_dir("spool")
        spool.create()
        assert put("t", b"{}", PutOptions(spool="spool")).spool == str(folder / "spool")
        assert len(list(spool.waiting())) == 1
        spool.close()


def test_an_option_that_cannot_be_is_refused_when_it_is_prepared() -> None:
    with pytest.raises(UsageError, match="unique_for= needs key="):
        Prepared("t", PutOptions(run=RunOptions(unique_for=5.0)))
    with pytest.raises(UsageError, match="priority"):
        Prepared("t", PutOptions(priority=-1))


def test_the_default_spool_is_looked_up_at_each_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = Prepared("t", PutOptions())
    for place in ("a", "b", "a"):
        (tmp_path / place).mkdir(exist_ok=True)
        monkeypatch.setenv("SPOOL_DIR", str(tmp_path / place))
        assert prepared.put(b"{}").spool == str(tmp_path / place)
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setenv("SPOOL_DIR", "../b")
    assert prepared.put(b"{}").spool == str(tmp_path / "b")
