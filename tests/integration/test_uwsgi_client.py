"""What the module ``uwsgi`` sends, and what it refuses to."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from spooler.errors import SpoolUnreachable, UsageError
from spooler.ext.uwsgi.client import Answer, put_elsewhere, send_message
from spooler.spooldir import SpoolDir


@pytest.fixture
def nobody() -> Iterator[str]:
    """Give an address at which nobody listens, and nobody else can."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{silent.getsockname()[1]}"


def test_what_names_no_socket_is_not_sent(tmp_path: Path) -> None:
    for spooler in ({}, {b"spooler": b""}, {b"spooler": b"/srv/spool"}):
        assert put_elsewhere({b"a": b"b", **spooler}, b"", str(tmp_path)) is None


@pytest.mark.parametrize("no", [b"", b"0", b"False"])
def test_an_outbox_may_be_said_not_to_be_used(tmp_path: Path, no: bytes) -> None:
    pairs = {b"spooler": bytes(tmp_path / "a.sock"), b"outbox": no}
    with pytest.raises(SpoolUnreachable):
        put_elsewhere(pairs, b"", str(tmp_path))


def test_what_is_in_an_outbox_can_be_taken_back(tmp_path: Path, nobody: str) -> None:
    spool = SpoolDir(tmp_path / "spool")
    spool.create()
    large = {b"a": b"x" * 70_000, b"at": b"1795208460", b"priority": b"7"}
    for pairs in ({b"a": b"b"}, large):
        given = {**pairs, b"spooler": nobody.encode(), b"outbox": b"1"}
        path = put_elsewhere(given, b"body", spool.path)
        assert path is not None
        Path(path.decode()).unlink()
    assert not list(spool.waiting())


def test_a_message_is_a_dict_without_a_body_to_be_read(nobody: str) -> None:
    with pytest.raises(UsageError, match="a message is a dict, not bytes"):
        send_message(nobody, 17, 0, b"text")
    with pytest.raises(UsageError, match="reads no body"):
        send_message(nobody, 17, 0, {}, 4, 0, 100)
    message = {"a": 1, b"body": b"b", "c": "d"}
    with pytest.raises(SpoolUnreachable):
        send_message(nobody.encode(), 17, 0, message, 0)


def test_an_answer_goes_through_a_loop_as_one_piece() -> None:
    answer = Answer(b"abc")
    assert (answer, answer[0], len(answer)) == (b"abc", 97, 3)
    pieces: list[object] = list(answer)
    assert pieces == [b"abc"]
    assert b"".join(answer) == b"abc"  # type: ignore[arg-type]  # bytes, by its type
