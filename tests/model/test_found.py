"""What the fuzzer and the model have found, once each: it must not come back."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from spooler.arguments import Arguments
from spooler.cli.spool import main
from spooler.codec import decode
from spooler.errors import ArgumentsError, CorruptError, ResultError
from spooler.moments import parse_at
from spooler.spooldir import SpoolDir, batches, results
from spooler.spooldir.claims import Claims
from spooler.spooldir.progress import progress_path, read_progress
from spooler.spooldir.recovery import ProcessLock
from spooler.status import overview
from tests.helpers import FakeClock, make_name, path_of, place, put

from .pairs import play, problems

ID = "8c1f42d09ab3e617"
LONG = b"9" * 400


@pytest.mark.parametrize("zone", ["+05:75", "-0560", "+00:99"])
def test_zone_has_at_most_59_minutes(zone: str) -> None:
    with pytest.raises(ValueError, match="is not a moment"):
        parse_at(f"2026-11-20T10:00{zone}", 0)


def test_byte_order_mark_is_only_one_at_the_beginning_of_the_file() -> None:
    header = decode("task=t\n\ufeffa=1\n".encode(), whole=True)
    assert header is not None
    assert header.args == {"\ufeffa": "1"}
    with pytest.raises(CorruptError, match="line 1: a byte order mark"):
        decode("\ufefftask=t\n".encode(), whole=True)


@pytest.mark.parametrize("word", ["x", "ü", "\x85"])
def test_wrong_word_is_cut_in_the_reason(word: str) -> None:
    options = {"if_exists": word * 5000}
    text = json.dumps({"task": "t", "options": options}, ensure_ascii=False)
    for data in (text, f"task=t\noptions:={json.dumps(options)}\n"):
        with pytest.raises(CorruptError) as caught:
            decode(data.encode(), whole=True)
        assert len(caught.value.reason) < 400
        assert caught.value.reason.isascii()
        assert caught.value.reason.isprintable()


def test_unknown_argument_is_cut_in_the_message() -> None:
    def function(a: int = 0) -> None: ...

    def rest(**more: int) -> None: ...

    name = "x" * 100_000
    for arguments in (Arguments(function, "t"), Arguments(rest, "t")):
        with pytest.raises(ArgumentsError) as caught:
            arguments.decode({name: "text"})
        assert "'xxxxxxxx" in str(caught.value)
        assert len(str(caught.value)) < 300


def test_range_of_a_batch_that_is_no_file_is_corrupt(
    spool: SpoolDir, clock: FakeClock
) -> None:
    Path(spool.path, "batches", "0" * 16).symlink_to("nowhere")
    Path(spool.path, "batches", "1" * 16).mkdir()
    for number in "01":
        with pytest.raises(CorruptError, match="is not a regular file"):
            batches.read(spool, number * 16)
    clock.advance(10**9)
    assert batches.sweep(spool, clock) == 1  # the link


@pytest.mark.parametrize(
    "data",
    [
        b'{"id":"\xcf","task":"t","ok":true}',
        b'{"id":"\\u001b","task":"t","ok":true,"result":"\xcf"}',
    ],
)
def test_result_that_was_damaged_is_an_error_of_ours(
    spool: SpoolDir, data: bytes
) -> None:
    place(spool, f"done/{ID}", data)
    with pytest.raises(ResultError, match="cannot be read"):
        _value(spool)
    for line in (["result", ID], ["result", ID, "--json"]):
        found = CliRunner(env={"SPOOL_DIR": spool.path}).invoke(main, line)
        assert found.exit_code == 1, found.output
        assert "cannot be read" in found.stderr


def _value(spool: SpoolDir) -> object:
    record = results.read(spool, ID)
    return None if record is None else record.value()


def test_what_a_daemon_says_of_itself_may_be_damaged(spool: SpoolDir) -> None:
    lock = ProcessLock(spool, "daemon-1")
    assert lock.acquire()
    put(spool)
    lock.describe({"kind": "daemon", "tasks": [["t"], {}, 1, "u"]})
    try:
        assert overview(spool, 0)["unknown"] == {"t": 1}
    finally:
        lock.remove()


def test_report_may_tell_of_no_attempts_and_of_impossible_ones(spool: SpoolDir) -> None:
    name = make_name(id=ID)
    place(spool, f"failed/{name}")
    why = place(spool, f"failed/{name}.why")
    for attempts in ([1, "a"], [{"seconds": 10**400, "attempt": []}], {"a": 1}):
        why.write_text(json.dumps({"attempts": attempts}))
        found = CliRunner(env={"SPOOL_DIR": spool.path}).invoke(main, ["show", ID])
        assert found.exit_code == 0, found.exception


@pytest.mark.parametrize(("done", "total"), [(LONG, b"3"), (b"1", LONG)])
def test_progress_that_no_computer_can_divide_is_none(
    spool: SpoolDir, done: bytes, total: bytes
) -> None:
    said = b'{"done":%b,"total":%b,"message":"m","time":"x","attempt":1}' % (
        done,
        total,
    )
    place(spool, progress_path(ID), said)
    assert read_progress(spool, ID) is None


def test_running_task_with_such_a_progress_is_shown(spool: SpoolDir) -> None:
    name = put(spool, make_name(id=ID))
    claims = Claims(spool, "w1", {os.getuid()})
    assert claims.claim(path_of(name)) is not None
    said = b'{"done":%b,"total":7,"message":"m","time":"x","attempt":1}' % LONG
    place(spool, progress_path(ID), said)
    try:
        for line in (["show", ID], ["status"], ["ls"]):
            found = CliRunner(env={"SPOOL_DIR": spool.path}).invoke(main, line)
            assert found.exit_code == 0, found.exception
    finally:
        os.close(claims._fd)


@pytest.mark.usefixtures("no_sync")
def test_key_of_a_failed_task_is_free_while_it_is_removed() -> None:
    assert not list(problems("failed", "put", "rm", keyed=True, fatal=False))


@pytest.mark.usefixtures("no_sync")
def test_two_who_put_the_same_file_aside_leave_its_reason() -> None:
    assert not list(problems("running", "reject", "reject", keyed=False, fatal=False))


@pytest.mark.usefixtures("no_sync")
def test_task_that_is_removed_while_it_is_edited_does_not_come_back() -> None:
    calls = play("held", "edit", "rm", 10**9).calls
    back = []
    for at in range(1, calls + 1):
        result = play("held", "edit", "rm", at)
        if result.ends["second"] == "done" and result.task:
            back.append(at)
    # Between its last look and its rename nobody can tell.
    assert len(back) <= 1
