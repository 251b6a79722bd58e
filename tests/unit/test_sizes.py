"""The sizes that docs/operating.md promises, at their edges: one less, and one more."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spooler import Spooler, TaskNameError, UsageError, handle
from spooler.codec import decode
from spooler.errors import CorruptError, SpoolerError
from spooler.spooldir import SpoolDir, results
from spooler.spooldir.reading import open_task
from spooler.task import MAX_ATTEMPT, Name

from ..helpers import make_name, place

pytestmark = pytest.mark.usefixtures("no_sync")

TABLE = (Path(__file__).parents[2] / "docs/operating.md").read_text()

MIB = 1 << 20


@pytest.fixture
def spooler(spool: SpoolDir, monkeypatch: pytest.MonkeyPatch) -> Spooler:
    monkeypatch.setitem(handle._DIRS, spool.path, spool)
    return Spooler(spool.path, durability="fast")


def written(spool: SpoolDir) -> bytes:
    """Return the one task that waits, and remove it."""
    [(folder, name)] = spool.waiting()
    path = Path(spool.path, folder, name)
    data = path.read_bytes()
    path.unlink()
    return data


def edge(spooler: Spooler, spool: SpoolDir, **options: Any) -> int:
    """Return how much text in an argument makes a header of one mebibyte."""
    spooler.put("t", {"x": ""}, **options)
    return MIB - len(written(spool))


def args_of(data: bytes) -> bytes:
    """Return the arguments of a task file in JSON."""
    header = decode(data, whole=True)
    assert header is not None
    assert isinstance(header.args, bytes)
    return header.args


@pytest.mark.parametrize("options", [{}, {"key": "k"}, {"keep_result": 5.0}])
def test_a_header_of_one_mebibyte_can_be_put_and_read(
    spool: SpoolDir, spooler: Spooler, options: dict[str, Any]
) -> None:
    room = edge(spooler, spool, **options)
    for size in (room - 1, room):
        spooler.put("t", {"x": "x" * size}, **options)
        data = written(spool)
        assert len(data) == MIB - room + size
        assert len(args_of(data)) > size
    with pytest.raises(UsageError, match="larger than 1048576 bytes"):
        spooler.put("t", {"x": "x" * (room + 1)}, **options)
    assert not list(spool.waiting())


@pytest.mark.parametrize("body", [b"", b"body" * MIB])
@pytest.mark.parametrize(
    "form", [b'{"task":"t","args":{"x":"%b"}}\n', b"task=t\nx=%b\n\n"]
)
def test_a_dropped_header_of_one_mebibyte_is_read(
    spool: SpoolDir, form: bytes, body: bytes
) -> None:
    room = MIB - len(form % b"")
    for size in (room - 1, room):
        place(spool, "5/mine", form % (b"x" * size) + body)
        task = open_task("5/mine", {0, Path(spool.path).stat().st_uid}, dir_fd=spool.fd)
        assert task.header.task == "t"
        with task.open_body() as file:
            assert len(file.read()) == len(body)
        task.close()
    place(spool, "5/mine", form % (b"x" * (room + 1)) + body)
    with pytest.raises(CorruptError, match="header is larger than 1048576 bytes"):
        open_task("5/mine", {0, Path(spool.path).stat().st_uid}, dir_fd=spool.fd)


def nested(depth: int) -> dict[str, Any]:
    """Return arguments that make a header of so many levels."""
    value: Any = []
    for _ in range(depth - 3):
        value = [value]
    return {"x": value}


def test_json_of_200_levels_can_be_put(spool: SpoolDir, spooler: Spooler) -> None:
    for depth in (199, 200):
        spooler.put("t", nested(depth))
        decode(written(spool), whole=True)
    with pytest.raises(UsageError, match="nested more than 200 levels"):
        spooler.put("t", nested(201))
    deep = spooler.call("t", nested(200))  # in the file of the task that it follows
    with pytest.raises(UsageError, match="nested more than 200 levels"):
        spooler.put("t", {}, then=[deep])
    assert not list(spool.waiting())


def accepts(act: Callable[[], object], error: type[SpoolerError]) -> bool:
    try:
        act()
    except error:
        return False
    return True


@pytest.mark.parametrize("letter", ["a", "ä"])
def test_a_task_name_of_128_bytes_can_be(spooler: Spooler, letter: str) -> None:
    wide = len(letter.encode())
    assert accepts(lambda: spooler.put(letter * (128 // wide), {}), TaskNameError)
    over = letter * (128 // wide) + "a"
    assert not accepts(lambda: spooler.put(over, {}), TaskNameError)


def test_the_longest_name_of_a_file_is_one_that_the_file_system_takes(
    spool: SpoolDir, spooler: Spooler
) -> None:
    name = Name(10**16 - 1, 999_999, MAX_ATTEMPT, "f" * 16, "a" * 128)
    assert len(str(name)) + len(".1234567890123456..why") < 255
    spooler.put("a" * 128, {}, priority=999_999, at="2286-11-20T17:46:39.999999Z")
    assert len(list(spool.waiting())) == 1


def test_a_key_of_200_bytes_can_be(spooler: Spooler) -> None:
    for key in ("k" * 199, "k" * 200, "ä" * 100):
        assert accepts(lambda key=key: spooler.put("t", {}, key=key), UsageError)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    for key in ("k" * 201, "ä" * 100 + "k"):
        assert not accepts(lambda key=key: spooler.put("t", {}, key=key), UsageError)  # type: ignore[misc]  # as above


def test_the_last_moment_is_in_2286(spooler: Spooler) -> None:
    spooler.put("t", {}, at="2286-11-20T17:46:39.999999Z")
    with pytest.raises(UsageError, match="later than 2286"):
        spooler.put("t", {}, at="2286-11-20T17:46:40Z")


def test_priority_999999_is_the_last(spooler: Spooler) -> None:
    spooler.put("t", {}, priority=999_999)
    with pytest.raises(UsageError, match="0 to 999999"):
        spooler.put("t", {}, priority=1_000_000)
    assert (
        make_name(attempt=MAX_ATTEMPT).but(attempt=MAX_ATTEMPT + 1).attempt == 999_999
    )


def test_a_task_in_a_batch_takes_one_mebibyte(
    spool: SpoolDir, spooler: Spooler
) -> None:
    spooler.spool_many([spooler.call("t", {"x": ""})])
    line = written(spool).split(b"\n", 1)[1]
    room = MIB - len(line)
    for size in (room - 1, room):
        spooler.spool_many([spooler.call("t", {"x": "x" * size})])
        assert len(written(spool).split(b"\n", 1)[1]) == MIB - room + size
    with pytest.raises(UsageError, match=r"call 0: .* 1048576 bytes"):
        spooler.spool_many([spooler.call("t", {"x": "x" * (room + 1)})])


def test_a_result_of_one_mebibyte_is_kept(spool: SpoolDir) -> None:
    for size, problem in ((MIB - 1, False), (MIB, False), (MIB + 1, True)):
        found = results.keep(
            spool,
            make_name(),
            ok=True,
            value="x" * (size - 2),
            attempt=1,
            started_us=None,
            seconds=60,
        )
        assert (found is not None) is problem


def test_a_number_of_4300_digits_can_be_read() -> None:
    data = b'{"task":"t","args":{"x":%b}}\n'
    assert json.loads(args_of(data % (b"9" * 4300)))["x"] == 10**4300 - 1
    with pytest.raises(CorruptError):
        decode(data % (b"9" * 4301), whole=True)


@pytest.mark.parametrize(
    "row",
    [
        "header of a task file.*1 MiB \\(1,048,576 bytes\\)",
        "nesting of JSON \\| 200 levels",
        "whole number in arguments \\| 4300 digits",
        "task name \\| 128 bytes",
        "key \\| 200 bytes",
        "`at` \\| 2286-11-20T17:46:39.999999Z",
        "priority, attempt \\| 999,999",
        "task in a batch, on one line \\| 1 MiB",
        "kept result, as JSON \\| 1 MiB",
    ],
)
def test_the_table_says_so(row: str) -> None:
    assert re.search(rf"^\| {row}", TABLE, re.MULTILINE)
