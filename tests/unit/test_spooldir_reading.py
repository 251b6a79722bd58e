"""A task file, opened safely and parsed; its body as a file."""

import io
import os
import socket
from pathlib import Path

import pytest
from tests.helpers import TASK, ToldOS, place

from spooler.codec import encode
from spooler.errors import CorruptError
from spooler.spooldir import SpoolDir, reading
from spooler.spooldir.reading import BodyFile, open_task
from spooler.task import MAX_HEADER


def body_of(spool: SpoolDir, data: bytes) -> bytes:
    """Read a body in both ways and compare."""
    place(spool, "x", data)
    task = open_task("x", None, dir_fd=spool.fd)
    try:
        whole = task.body()
        with task.open_body() as file:
            assert file.read() == whole
            assert file.seek(0) == 0
            assert file.read(3) == whole[:3]
        assert task.body() == whole
    finally:
        task.close()
    return whole


@pytest.mark.parametrize(
    "size", [0, 1, 65_536 - len(TASK), 65_537 - len(TASK), 65_536, 2_500_000]
)
def test_the_body_is_what_follows_the_header(spool: SpoolDir, size: int) -> None:
    data = os.urandom(size)
    assert body_of(spool, TASK + data) == data


def test_the_body_may_stand_in_the_header(spool: SpoolDir) -> None:
    data = encode("t", b"{}", body="grüße")
    assert body_of(spool, data) == "grüße".encode()


def test_a_header_may_be_longer_than_the_first_read(spool: SpoolDir) -> None:
    args = b'{"a":"' + b"x" * 500_000 + b'"}'
    assert body_of(spool, encode("t", args) + b"body") == b"body"


def test_a_body_outlives_its_task_file(spool: SpoolDir) -> None:
    place(spool, "x", TASK + b"body")
    task = open_task("x", None, dir_fd=spool.fd)
    file = task.open_body()
    task.close()
    with file:
        assert file.read() == b"body"


def test_a_task_file_tells_what_the_file_system_knows(spool: SpoolDir) -> None:
    status = place(spool, "x").stat()
    task = open_task("x", {os.getuid()}, dir_fd=spool.fd)
    task.close()
    assert (task.size, task.mtime_ns, task.ctime_ns) == (
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


@pytest.mark.parametrize("kind", ["fifo", "socket", "link", "directory", "dangling"])
def test_what_is_no_regular_file_is_corrupt(spool: SpoolDir, kind: str) -> None:
    path = Path(spool.path, "x")
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "link":
            place(spool, "y")
            path.symlink_to("y")
        case "directory":
            path.mkdir()
        case "dangling":
            path.symlink_to("nothing")
    with pytest.raises(CorruptError, match="is not a regular file"):
        open_task("x", None, dir_fd=spool.fd)


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes devices")
def test_a_device_is_corrupt_and_was_not_read(spool: SpoolDir) -> None:
    os.mknod(Path(spool.path, "x"), 0o20600, os.makedev(1, 5))
    with pytest.raises(CorruptError, match="is not a regular file"):
        open_task("x", None, dir_fd=spool.fd)


def test_a_stranger_s_file_is_corrupt(spool: SpoolDir) -> None:
    place(spool, "x")
    with pytest.raises(CorruptError, match=f"its owner, uid {os.getuid()}, may not"):
        open_task("x", {os.getuid() + 1}, dir_fd=spool.fd)


def test_a_missing_file_is_not_corrupt(spool: SpoolDir) -> None:
    with pytest.raises(FileNotFoundError):
        open_task("x", None, dir_fd=spool.fd)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"rubbish", b'{"task":"t"', b'{"a":"' + b"x" * MAX_HEADER]
)
def test_what_is_no_task_is_corrupt_and_leaks_nothing(
    spool: SpoolDir, data: bytes
) -> None:
    place(spool, "x", data)
    with pytest.raises(CorruptError):
        open_task("x", None, dir_fd=spool.fd)


@pytest.mark.parametrize("call", ["fstat", "read", "pread"])
def test_an_error_of_the_system_passes_and_leaks_nothing(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    place(spool, "x", encode("t", b'{"a":"' + b"x" * 100_000 + b'"}'))
    told = ToldOS()
    told.fail(call, 5)
    monkeypatch.setattr(reading, "os", told)
    with pytest.raises(OSError, match="Input/output"):
        open_task("x", None, dir_fd=spool.fd)


def test_a_file_that_shrinks_while_it_is_read_is_corrupt(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place(spool, "x", encode("t", b'{"a":"' + b"x" * 100_000 + b'"}'))

    class ShrinkingOS(ToldOS):
        def pread(self, fd: int, length: int, offset: int) -> bytes:
            os.truncate(path, 70_000)
            return os.pread(fd, length, offset)

    monkeypatch.setattr(reading, "os", ShrinkingOS())
    with pytest.raises(CorruptError):
        open_task("x", None, dir_fd=spool.fd)


def test_a_header_read_in_short_pieces_is_read_on(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(spool, "x", encode("t", b'{"a":"' + b"x" * 300_000 + b'"}'))
    lengths = iter((100_000, 200_000))

    class SlowOS(ToldOS):
        def pread(self, fd: int, length: int, offset: int) -> bytes:
            return os.pread(fd, min(length, next(lengths, length)), offset)

    monkeypatch.setattr(reading, "os", SlowOS())
    open_task("x", None, dir_fd=spool.fd).close()


# -- BodyFile ---------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, no_leaks: None) -> BodyFile:
    path = tmp_path / "file"
    path.write_bytes(b"header0123456789")
    return BodyFile(os.open(path, os.O_RDONLY), 6, 16)


def test_position_0_is_the_first_byte_of_the_body(file: BodyFile) -> None:
    with file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        assert file.tell() == 0
        assert file.read(4) == b"0123"
        assert file.tell() == 4
        assert file.read() == b"456789"
        assert file.read(1) == b""


def test_seek_counts_from_where_it_is_told(file: BodyFile) -> None:
    with file:
        assert file.seek(-3, os.SEEK_END) == 7
        assert file.read(1) == b"7"
        assert file.seek(-2, os.SEEK_CUR) == 6
        assert file.seek(2) == 2
        assert file.read(2) == b"23"
        assert file.seek(100) == 100
        assert file.read() == b""


def test_nobody_gets_before_the_body(file: BodyFile) -> None:
    with file:
        for whence, offset in ((0, -1), (1, -1), (2, -11)):
            with pytest.raises(ValueError, match="negative seek position"):
                file.seek(offset, whence)


def test_a_buffer_of_any_type_is_filled(file: BodyFile) -> None:
    with io.BufferedReader(file, buffer_size=4) as buffered:
        data = bytearray(10)
        assert buffered.readinto(memoryview(data)) == 10
        assert data == b"0123456789"


def test_closing_closes_the_descriptor_once(file: BodyFile) -> None:
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
@pytest.mark.parametrize(
    ("mode", "uid", "gid", "readable"),
    [
        (0o600, 65432, 65432, True),
        (0o060, 65432, 65432, False),
        (0o600, 1, 65432, False),
        (0o640, 1, 65432, True),
        (0o640, 1, 1, False),
        (0o644, 1, 1, True),
        (0o604, 1, 65432, False),
    ],
)
def test_a_file_that_is_closed_by_its_mode_is_no_task(
    spool: SpoolDir, mode: int, uid: int, gid: int, readable: bool
) -> None:
    path = place(spool, "5/x")
    for folder in path.parents[:2]:
        folder.chmod(0o711)
    os.chown(path, uid, gid)
    path.chmod(mode)
    fd, owners = spool.fd, {1, 65432}
    os.setegid(65432)
    os.seteuid(65432)
    try:
        if readable:
            open_task("5/x", owners, dir_fd=fd).close()
            return
        with pytest.raises(CorruptError) as caught:
            open_task("5/x", owners, dir_fd=fd)
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert caught.value.reason == (
        f"may not be read by uid 65432: it belongs to uid {uid} and gid {gid}, and its"
        f" mode is {mode:04o}: put it again with mode 0640"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_whose_a_file_is_counts_more_than_its_mode(spool: SpoolDir) -> None:
    path = place(spool, "5/x")
    for folder in path.parents[:2]:
        folder.chmod(0o711)
    os.chown(path, 1, 1)
    path.chmod(0o600)
    fd = spool.fd
    os.seteuid(65432)
    try:
        with pytest.raises(CorruptError, match="its owner, uid 1, may not put tasks"):
            open_task("5/x", {65432}, dir_fd=fd)
    finally:
        os.seteuid(0)
