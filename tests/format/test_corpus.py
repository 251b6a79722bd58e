"""The corpus in spool_dirs: it must be read like this for ever."""

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spooler.codec import Header, decode
from spooler.errors import CorruptError
from spooler.moments import parse_at
from spooler.task import Name, is_priority

SPOOLS = Path(__file__).parents[2] / "spool_dirs"
SAMPLE = SPOOLS / "sample"
EXPECTED: dict[str, Any] = json.loads((SAMPLE / "expected.json").read_text())
NOW_US: int = EXPECTED["now_us"]
GOOD: dict[str, dict[str, Any]] = EXPECTED["good"]
BAD: dict[str, str] = EXPECTED["bad"]


def read(path: Path) -> tuple[Header, bytes]:
    data = path.read_bytes()
    header = decode(data, whole=True)
    assert header is not None
    return header, data


def arguments(header: Header) -> object:
    return json.loads(header.args) if isinstance(header.args, bytes) else header.args


def from_base64(text: str) -> str:
    return base64.b64decode(text).decode("utf-8", "surrogateescape")


def expected_arguments(expected: dict[str, Any]) -> object:
    if "args_json" in expected:
        return json.loads(expected["args_json"])
    if "args_base64" in expected:
        pairs = expected["args_base64"]
        return {from_base64(key): from_base64(value) for key, value in pairs}
    return expected["args"]


def expected_body(expected: dict[str, Any]) -> bytes:
    if "body_base64" in expected:
        return base64.b64decode(expected["body_base64"])
    return str(expected.get("body", "")).encode()


@pytest.mark.parametrize("folder", ["good", "bad"])
def test_every_sample_is_expected(folder: str) -> None:
    files = {path.name for path in (SAMPLE / folder).iterdir()}
    assert files == EXPECTED[folder].keys()


@pytest.mark.parametrize("file", GOOD)
def test_good_sample_is_read_as_expected(file: str) -> None:
    expected = GOOD[file]
    header, data = read(SAMPLE / "good" / file)
    assert header.task == expected["task"]
    assert arguments(header) == expected_arguments(expected)
    assert isinstance(header.args, bytes) is not expected.get("text_args", False)
    assert header.at == expected.get("at")
    assert header.priority == expected.get("priority")
    assert header.id == expected.get("id")
    assert header.key == expected.get("key")
    assert header.traceparent == expected.get("traceparent")
    options = expected.get("options")
    assert (header.options is None) is (options is None)
    assert options is None or json.loads(msgspec.json.encode(header.options)) == options
    assert header.uwsgi is expected.get("uwsgi", False)
    body = (header.body or "").encode() or data[header.body_offset :]
    assert body == expected_body(expected)


@pytest.mark.parametrize("file", [file for file in GOOD if "at" in GOOD[file]])
def test_good_sample_is_due_when_expected(file: str) -> None:
    assert parse_at(GOOD[file]["at"], NOW_US) == GOOD[file]["due_us"]


@pytest.mark.parametrize("file", GOOD)
def test_piece_of_a_good_sample_gives_the_same_header_or_none(file: str) -> None:
    header, data = read(SAMPLE / "good" / file)
    seen = []
    for length in {
        *range(min(len(data), 400)),
        *range(max(0, len(data) - 20), len(data)),
    }:
        piece = decode(data[:length], whole=False)
        assert piece in (None, header), length
        if piece is not None:
            seen.append(length)
    assert not seen or min(seen) >= header.body_offset


@pytest.mark.parametrize("file", BAD)
def test_bad_sample_is_refused_with_its_reason(file: str) -> None:
    data = (SAMPLE / "bad" / file).read_bytes()
    with pytest.raises(CorruptError) as caught:
        decode(data, whole=True)
    assert BAD[file] in caught.value.reason
    assert caught.value.reason.isascii()
    assert caught.value.reason.isprintable()


@pytest.mark.parametrize("file", BAD)
def test_piece_of_a_bad_sample_is_no_task(file: str) -> None:
    data = (SAMPLE / "bad" / file).read_bytes()
    for length in range(min(len(data), 200)):
        try:
            piece = decode(data[:length], whole=False)
        except CorruptError:
            continue
        # As far as that it was a task; what makes it bad comes after its header.
        assert piece is None, length


def test_samples_are_small() -> None:
    assert all(path.stat().st_size < 150_000 for path in SAMPLE.rglob("*"))


WAITING = sorted(
    path
    for path in (SPOOLS / "spool").glob("*/*/*")
    if is_priority(path.parent.parent.name)
)


@pytest.mark.parametrize("path", WAITING, ids=lambda path: path.name)
def test_waiting_task_of_the_sample_spool_lies_where_its_name_says(path: Path) -> None:
    name = Name.parse(path.name)
    assert name is not None
    assert str(path.parent.relative_to(SPOOLS / "spool")) == name.folder
    assert read(path)[0].task == name.task


def test_sample_spool_has_a_task_of_every_kind() -> None:
    spool = SPOOLS / "spool"
    assert json.loads((spool / ".spool").read_text()) == {"format": 1}
    assert {path.parts[-3] for path in WAITING} == {"0", "5"}
    assert read(spool / "5" / "backup-finished.txt")[0].task == "check_backup"


def test_failed_task_of_the_sample_spool_says_why() -> None:
    (path,) = (SPOOLS / "spool" / "failed").glob("*[!w][!h][!y]")
    name = Name.parse(path.name)
    assert name is not None
    assert read(path)[0].task == name.task
    why = json.loads(path.with_name(f"{path.name}.why").read_text())
    assert (why["v"], why["id"], why["task"]) == (1, name.id, name.task)
    assert [one["attempt"] for one in why["attempts"]] == [1, 2, 3]
    assert name.attempt == 3


def test_corrupt_file_of_the_sample_spool_says_why() -> None:
    path = SPOOLS / "spool" / "corrupt" / "nightly-report"
    why = json.loads(path.with_name(f"{path.name}.why").read_text())
    with pytest.raises(CorruptError) as caught:
        read(path)
    assert why["reason"] == caught.value.reason
    assert why["size"] == path.stat().st_size
