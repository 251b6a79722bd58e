"""What is the address of a socket, and what a directory."""

import socket
from pathlib import Path

import pytest

from spooler.addresses import Address, find_address, parse_address
from spooler.errors import UsageError


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("127.0.0.1:10001", "127.0.0.1", 10001, "127.0.0.1:10001"),
        ("photos.example.org:80", "photos.example.org", 80, "photos.example.org:80"),
        ("[::1]:10001", "::1", 10001, "[::1]:10001"),
        (":10001", "127.0.0.1", 10001, "127.0.0.1:10001"),
        ("localhost:0", "localhost", 0, "localhost:0"),
    ],
)
def test_host_and_port_are_an_address(
    text: str, host: str, port: int, shown: str
) -> None:
    found = find_address(text)
    assert found == Address(host, port)
    assert str(found) == shown
    assert find_address(shown) == found


@pytest.mark.parametrize(
    "text",
    [".", "spool", "./a:1", "/a/b:80", "a b:1", "a:65536", "::1:80", "a:x", "", "\0"],
)
def test_everything_else_is_a_directory(text: str) -> None:
    assert find_address(text) is None


def test_a_path_is_an_address_if_it_looks_like_one_or_a_socket_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.sock").mkdir()
    assert find_address("folder.sock") is None
    wanted = Address(path=str(tmp_path / "a.sock"))
    assert find_address("a.sock") == find_address("unix:a.sock") == wanted
    assert str(wanted) == f"unix:{tmp_path}/a.sock"
    assert find_address("b") is None
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("b")
        assert find_address("b") == Address(path=str(tmp_path / "b"))


def test_where_only_an_address_can_be_a_path_is_one() -> None:
    assert parse_address("/run/spoold/tasks") == Address(path="/run/spoold/tasks")
    with pytest.raises(UsageError, match=r"socket='spool' cannot be: it takes HOST"):
        parse_address("spool")
    with pytest.raises(UsageError, match=r"--to='a' cannot .*a / in it \(./foo\); why"):
        parse_address("a", "--to", "; why")
