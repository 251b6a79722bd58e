"""The .why files and the lists of attempts."""

import errno
import json
import os
from pathlib import Path

import pytest
from tests.helpers import NOW_US, ToldOS, make_name, place, tree

from spooler.spooldir import SpoolDir, files, reports, root
from spooler.task import Claim, Outcome, Verdict

ID = "8c1f42d09ab3e617"


def claim(attempt: int = 0) -> Claim:
    name = make_name(attempt=attempt, id=ID)
    return Claim(name, "w", str(name))


def test_the_list_of_attempts_grows_line_by_line(spool: SpoolDir) -> None:
    assert reports.attempts(spool, ID) == []
    first = reports.attempt_record(claim(), "E: 1", NOW_US, NOW_US + 1_500_000)
    second = reports.attempt_record(claim(1), "E: 2", None, NOW_US)
    reports.append_attempt(spool, ID, first)
    reports.append_attempt(spool, ID, second)
    assert reports.attempts(spool, ID) == [
        {
            "attempt": 1,
            "started": "2026-11-20T21:01:00.000Z",
            "ended": "2026-11-20T21:01:01.500Z",
            "seconds": 1.5,
            "worker": "w",
            "error": "E: 1",
        },
        {
            "attempt": 2,
            "started": None,
            "ended": "2026-11-20T21:01:00.000Z",
            "seconds": None,
            "worker": "w",
            "error": "E: 2",
        },
    ]
    assert Path(spool.path, "logs", f"{ID}.attempts").stat().st_mode & 0o777 == 0o600


def test_a_broken_last_line_is_ignored(spool: SpoolDir) -> None:
    place(spool, f"logs/{ID}.attempts", b'{"attempt":1}\n[1]\nnull\n\xff\n{"attem')
    assert reports.attempts(spool, ID) == [{"attempt": 1}]


def test_a_list_nested_too_deep_is_ignored(spool: SpoolDir) -> None:
    place(spool, f"logs/{ID}.attempts", b'{"a":' + b"[" * 100_000)
    assert reports.attempts(spool, ID) == []


def test_only_the_last_hundred_attempts_are_told(spool: SpoolDir) -> None:
    lines = b"".join(b'{"attempt":%d}\n' % number for number in range(250))
    place(spool, f"logs/{ID}.attempts", lines)
    found = reports.attempts(spool, ID)
    assert [record["attempt"] for record in found] == list(range(150, 250))


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_attempts_that_cannot_be_read_are_none(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    told = ToldOS()
    told.fail("open", code)
    monkeypatch.setattr(reports, "os", told)
    assert reports.attempts(spool, ID) == []


def test_a_directory_in_the_place_of_a_list_is_none(spool: SpoolDir) -> None:
    Path(spool.path, f"logs/{ID}.attempts").mkdir()
    assert reports.attempts(spool, ID) == []


def test_forgetting_what_is_not_there_is_no_error(spool: SpoolDir) -> None:
    place(spool, f"logs/{ID}.attempts", b"{}\n")
    reports.forget_attempts(spool, ID)
    reports.forget_attempts(spool, ID)
    assert tree(spool) == {}


def test_a_report_stands_beside_its_task(spool: SpoolDir) -> None:
    outcome = Outcome(Verdict.FAIL, "E: it", "exception", "Traceback\n")
    report = reports.failure(claim(2), outcome, [{"attempt": 1}], NOW_US)
    reports.write_why(spool, "failed/x", report)
    assert reports.read_why(spool, "failed/x") == {
        "v": 1,
        "id": ID,
        "task": "t",
        "error": "E: it",
        "reason": "exception",
        "traceback": "Traceback\n",
        "failed": "2026-11-20T21:01:00.000Z",
        "attempts": [{"attempt": 1}],
    }
    assert list(tree(spool)) == ["failed/x.why"]
    reports.remove_why(spool, "failed/x")
    reports.remove_why(spool, "failed/x")
    assert reports.read_why(spool, "failed/x") == {}


def test_a_report_replaces_an_older_one(spool: SpoolDir) -> None:
    reports.write_why(spool, "failed/x", {"v": 1})
    reports.write_why(spool, "failed/x", {"v": 2})
    assert reports.read_why(spool, "failed/x") == {"v": 2}


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_a_report_that_cannot_be_written_leaves_nothing(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    told = ToldOS()
    told.fail(call, errno.ENOSPC)
    monkeypatch.setattr(root, "os", told)
    monkeypatch.setattr(files, "os", told)
    with pytest.raises(OSError, match="No space"):
        reports.write_why(spool, "failed/x", {})
    assert tree(spool) == {}


def test_a_report_is_synced_before_it_gets_its_name(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    monkeypatch.setattr(root, "os", told)
    monkeypatch.setattr(files, "os", told)
    reports.write_why(spool, "failed/x", {})
    assert [c.partition(" ")[0] for c in told.calls] == (
        ["open", "write", "fsync", "close", "rename"]
    )


def test_a_damaged_report_is_empty(spool: SpoolDir) -> None:
    place(spool, "failed/x.why", b"{")
    assert reports.read_why(spool, "failed/x") == {}


def test_a_long_traceback_keeps_its_end(spool: SpoolDir) -> None:
    outcome = Outcome(Verdict.FAIL, "E", "exception", "x" * 100_000 + "end")
    traceback = reports.failure(claim(), outcome, [], NOW_US)["traceback"]
    assert isinstance(traceback, str)
    assert traceback.startswith("…xxx")
    assert traceback.endswith("xend")
    assert len(traceback) == 64 * 1024 + 1


def test_a_report_keeps_a_hundred_attempts() -> None:
    history: list[dict[str, object]] = [{"attempt": number} for number in range(101)]
    report = reports.failure(claim(), Outcome(Verdict.FAIL), history, NOW_US)
    assert report["attempts"] == history[1:]
    assert report["traceback"] is None


@pytest.mark.parametrize("text", ["ü\n\x1b[0m", "\udcff", '"\\'])
def test_any_text_becomes_one_line_of_ascii(text: str) -> None:
    line = reports.to_json({"error": text})
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"error": text}


def test_a_report_that_cannot_be_read_is_empty(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(spool, "failed/x.why", b"{}")
    told = ToldOS()
    told.fail("read", errno.EIO)
    monkeypatch.setattr(reports, "os", told)
    assert reports.read_why(spool, "failed/x") == {}
    assert os.listdir(Path(spool.path, "failed")) == ["x.why"]


def test_a_list_of_attempts_is_cut_to_the_last_ones_when_it_is_long(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_LIST_MAX", 20_000)
    for attempt in range(500):
        record = reports.attempt_record(claim(attempt), "E: 1", NOW_US, NOW_US)
        reports.append_attempt(spool, ID, record)
    assert Path(spool.path, reports.attempts_path(ID)).stat().st_size <= 20_000
    kept = [record["attempt"] for record in reports.attempts(spool, ID)]
    assert kept == list(range(501 - len(kept), 501))
    assert os.listdir(Path(spool.path, "logs")) == [f"{ID}.attempts"]
