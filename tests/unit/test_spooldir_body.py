"""Where a body comes from."""

import io
from pathlib import Path

import pytest

from spooler.errors import UsageError
from spooler.spooldir import body
from spooler.spooldir.body import PIECE, Body, pieces


def whole(given: Body | None) -> bytes:
    with pieces(b"head\n", given) as chunks:
        return b"".join(chunks)


@pytest.mark.parametrize(
    ("given", "data"),
    [
        (None, b""),
        (b"", b""),
        (b"abc", b"abc"),
        (bytearray(b"abc"), b"abc"),
        (memoryview(b"xabcx")[1:4], b"abc"),
    ],
)
def test_a_small_body_comes_in_one_piece(given: Body | None, data: bytes) -> None:
    with pieces(b"head\n", given) as chunks:
        assert list(chunks) == [b"head\n" + data]


def test_a_large_body_is_not_copied_to_the_header() -> None:
    data = bytes(PIECE + 1)
    with pieces(b"head\n", data) as chunks:
        assert list(chunks) == [b"head\n", data]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 17])
def test_a_file_comes_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, no_leaks: None
) -> None:
    monkeypatch.setattr(body, "PIECE", 8)
    path = tmp_path / "body"
    path.write_bytes(b"x" * size)
    assert whole(path) == b"head\n" + b"x" * size
    assert whole(str(path)) == b"head\n" + b"x" * size
    file = io.BytesIO(b"yx" + b"x" * size)
    file.seek(2)
    assert whole(file) == b"head\n" + b"x" * size
    assert not file.closed


def test_a_missing_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), pieces(b"", tmp_path / "none"):
        pass


def test_a_file_that_nobody_read_is_closed(tmp_path: Path, no_leaks: None) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"abc")
    with pytest.raises(RuntimeError), pieces(b"", path):
        raise RuntimeError("no spool")
    with pieces(b"", path) as chunks:
        pass
    with pytest.raises(ValueError, match="closed file"):
        list(chunks)


def test_a_text_file_is_refused() -> None:
    with pytest.raises(UsageError, match="text file: open it in binary mode"):
        whole(io.StringIO("abc"))  # type: ignore[arg-type] # that is the mistake


@pytest.mark.parametrize("given", [1, ["a"], {"a": 1}])
def test_anything_else_is_refused(given: object) -> None:
    with pytest.raises(UsageError, match=r"body is of type .*: give bytes, a path or"):
        whole(given)  # type: ignore[arg-type] # that is the mistake
