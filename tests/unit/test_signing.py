"""Tests of signatures: what is signed, what is refused, which keys are taken."""

import hashlib
import hmac
import json
import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.helpers import (
    NOW_US,
    TASK,
    FakeClock,
    make_name,
    path_of,
    place,
    real_clock,
    tree,
)

from spooler import Spooler, handle
from spooler.arguments import Arguments
from spooler.codec import decode
from spooler.errors import CorruptError, KeyFileError, UsageError
from spooler.options import Follower
from spooler.spooldir import SpoolDir, key_file, keyed, signing, timers
from spooler.spooldir.claims import Claims
from spooler.spooldir.dropped import Dropped, NotDue
from spooler.spooldir.editing import replace
from spooler.spooldir.followers import stage
from spooler.spooldir.quick import put_quickly
from spooler.spooldir.reading import CHUNK, TaskFile, open_file, open_task
from spooler.spooldir.repair import Found
from spooler.spooldir.signing import (
    IN_LOOP_MAX,
    UNSIGNED,
    WRONG,
    Signer,
    describe,
    disagreement,
)
from spooler.task import BATCH, MAX_HEADER, Claim, Name, State

KEY = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
ID = "8c1f42d09ab3e617"
OWNERS = {os.getuid(), 0}
ZEROS = b"0" * 64


def reference(data: bytes, at: int, key: str = KEY) -> bytes:
    """Return a file with its signature, as the specification says it."""
    blank = data[:at] + ZEROS + data[at + 64 :]
    mac = hmac.new(bytes.fromhex(key), blank, hashlib.sha256)
    return data[:at] + mac.hexdigest().encode() + data[at + 64 :]


def json_file(body: bytes = b"", by: str = KEY, **more: object) -> bytes:
    """Return a signed task in JSON."""
    text = json.dumps({"sig": "0" * 64, "task": "t", **more}, separators=(",", ":"))
    return reference(text.encode() + b"\n" + body, 8, by)


def lines_file(rest: bytes = b"task=t\n", key: str = KEY) -> bytes:
    """Return a signed task in ``key=value`` lines."""
    return reference(b"sig=" + ZEROS + b"\n" + rest, 4, key)


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a key file, and have this process sign with it."""
    path = tmp_path / "key"
    write_keys(path, KEY)
    monkeypatch.setenv("SPOOLER_KEY_FILE", str(path))
    return path


@pytest.fixture
def shared(spool: SpoolDir, monkeypatch: pytest.MonkeyPatch) -> SpoolDir:
    """Give the spool to all who put by its path too."""
    monkeypatch.setitem(handle._DIRS, spool.path, spool)
    return spool


@pytest.fixture
def signing_spool(key: Path, shared: SpoolDir) -> SpoolDir:
    """Give a spool whose tasks are signed."""
    return shared


def write_keys(path: Path, *keys: str) -> None:
    """Replace a key file, as an operator does."""
    new = path.with_name("new")
    new.touch(0o600)
    new.write_text("".join(f"{each}\n" for each in keys))
    new.chmod(0o400)
    new.rename(path)


@contextmanager
def opened(path: Path) -> Iterator[TaskFile]:
    """Open a task file as a worker does."""
    task = open_file(str(path), OWNERS, dir_fd=-100)
    try:
        yield task
    finally:
        task.close()


def problem(signer: Signer, path: Path, data: bytes) -> str | None:
    """Return what is wrong with the signature of a file."""
    path.write_bytes(data)
    with opened(path) as task:
        return signer.check(task)


# -- the key file -----------------------------------------------------------------


def test_keys_are_read_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_keys(path, "# of November", "", f"  {KEY}\t", OTHER.upper() * 2)
    assert key_file.load(str(path)) == (bytes.fromhex(KEY), bytes.fromhex(OTHER * 2))


def test_a_link_to_a_key_file_is_followed(tmp_path: Path) -> None:
    write_keys(tmp_path / "key", KEY)
    (tmp_path / "link").symlink_to("key")
    assert key_file.load(str(tmp_path / "link")) == (bytes.fromhex(KEY),)


@pytest.mark.parametrize(
    "text",
    [
        KEY[:-1],
        KEY[:-2],
        f"{KEY}a",
        f"{KEY[:-1]}g",
        f"{KEY} {KEY}",
        f"0x{KEY}",
        "ä" * 64,
    ],
)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    write_keys(tmp_path / "key", KEY, text)
    with pytest.raises(KeyFileError, match="line 2: a key is 64 hex") as caught:
        key_file.load(str(tmp_path / "key"))
    assert text[:32] not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    write_keys(tmp_path / "key", text)
    with pytest.raises(KeyFileError, match="there is no key in it"):
        key_file.load(str(tmp_path / "key"))


def test_a_large_key_file_is_refused(tmp_path: Path) -> None:
    write_keys(tmp_path / "key", *[KEY] * 1100)
    with pytest.raises(KeyFileError, match="is larger than"):
        key_file.load(str(tmp_path / "key"))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Path.mkdir, "is not a regular file"),
        (lambda path: os.mkfifo(path, 0o400), "is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: None, "No such file"),
    ],
)
def test_what_is_no_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None], why: str, no_leaks: None
) -> None:
    make(tmp_path / "key")
    with pytest.raises(KeyFileError, match=why):
        key_file.load(str(tmp_path / "key"))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to somebody else")
@pytest.mark.parametrize(
    ("mode", "uid", "gid", "allowed"),
    [
        (0o400, 0, 0, True),
        (0o600, 0, 1000, True),
        (0o440, 0, 0, True),
        (0o440, 0, 1000, False),
        (0o460, 0, 0, False),
        (0o404, 0, 0, False),
        (0o401, 0, 0, False),
        (0o400, 65534, 0, False),
    ],
)
def test_a_key_file_is_of_its_owner_alone(
    tmp_path: Path, mode: int, uid: int, gid: int, *, allowed: bool
) -> None:
    path = tmp_path / "key"
    write_keys(path, KEY)
    os.chown(path, uid, gid)
    path.chmod(mode)
    if allowed:
        assert key_file.load(str(path))
        return
    with pytest.raises(KeyFileError, match=r"others may use it|belongs to uid 65534"):
        key_file.load(str(path))


# -- what is signed ---------------------------------------------------------------


def test_a_put_is_signed_with_its_id_and_moment(key: Path, clock: FakeClock) -> None:
    signed = Signer(str(key), clock).sign(ID, TASK)
    seconds = NOW_US // 1_000_000
    text = b'{"sig":"%s","id":"%s","signed":%d.000000,"task":"t"}\n'
    assert signed == reference(text % (ZEROS, ID.encode(), seconds), 8)
    header = decode(signed, whole=True)
    assert header is not None
    assert (header.task, header.id, header.signed) == ("t", ID, seconds)


def test_a_moment_can_be_given(key: Path) -> None:
    header = decode(Signer(str(key)).sign(ID, TASK, 5_250_000), whole=True)
    assert header is not None
    assert header.signed == 5.25


def test_openssl_says_the_same(key: Path, tmp_path: Path) -> None:
    signed = Signer(str(key)).sign(ID, TASK)
    file = tmp_path / "blank"
    file.write_bytes(signed[:8] + ZEROS + signed[72:])
    command = ["openssl", "dgst", "-r", "-sha256", "-mac", "HMAC"]
    done = subprocess.run(
        [*command, "-macopt", f"hexkey:{KEY}", file], capture_output=True, check=True
    )
    assert done.stdout[:64] == signed[8:72]


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_pieces_are_signed_as_the_whole(
    key: Path, clock: FakeClock, tmp_path: Path, size: int
) -> None:
    signer, body = Signer(str(key), clock), os.urandom(size)
    path = tmp_path / "file"
    for chunks in ((TASK + body,), [TASK, body[: size // 2], body[size // 2 :]]):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        signer.write(fd, ID, chunks)
        os.close(fd)
        assert path.read_bytes() == signer.sign(ID, TASK + body)


def test_a_header_has_room_for_its_signature(key: Path) -> None:
    signer = Signer(str(key))
    room = MAX_HEADER - len(signer.sign(ID, b'{"task":"t","x":""}\n'))
    data = b'{"task":"t","x":"%s"}\n'
    fits = signer.sign(ID, data % (b"x" * room) + b"body")
    assert decode(fits, whole=True)
    with pytest.raises(UsageError, match="with its signature"):
        signer.sign(ID, data % (b"x" * (room + 1)) + b"body")


def test_a_signed_task_is_read_in_one_step(key: Path) -> None:
    def noted(n: int) -> None:
        pass

    arguments = Arguments(noted, "t")
    data = b'{"task":"t","args":{"n":1}}\n'
    signed = Signer(str(key)).sign(ID, data)
    assert arguments.decode_whole(signed, ID) == {"n": 1}
    assert arguments.decode_whole(data, ID) == {"n": 1}
    # The long way says what is wrong with these, if anything is.
    assert arguments.decode_whole(signed, "0" * 16) is None
    assert arguments.decode_whole(signed) is None
    assert arguments.decode_whole(re.sub(b'"id":"[^"]*",', b"", signed), ID) is None
    text = re.sub(rb'"signed":([\d.]+)', rb'"signed":"\1"', signed)
    assert arguments.decode_whole(text, ID) is None


# -- what is refused --------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        json_file(),
        json_file(b"body"),
        json_file(b"b" * (CHUNK * 3)),
        lines_file(),
        lines_file(b"task=t\n\n" + b"b" * (CHUNK * 3)),
        json_file(by=OTHER),
        lines_file(key=OTHER),
    ],
)
def test_a_good_signature_is_taken(
    key: Path, tmp_path: Path, data: bytes, no_leaks: None
) -> None:
    write_keys(key, KEY, OTHER)
    assert problem(Signer(str(key)), tmp_path / "file", data) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (TASK, UNSIGNED),
        (b"task=t\n", UNSIGNED),
        (b"x" * CHUNK * 2, UNSIGNED),
        (b"", UNSIGNED),
        (b'{"sig":"', UNSIGNED),
        (b'{"sig":"' + b"a" * 64, WRONG),
        (json_file(by=OTHER), WRONG),
        (lines_file(key=OTHER), WRONG),
        (json_file()[:72].upper() + json_file()[72:], UNSIGNED),
        (json_file()[:8] + json_file()[8:72].upper() + json_file()[72:], WRONG),
        (json_file().replace(b'"sig":', b'"sig": '), UNSIGNED),
        (b'{"task":"t","sig":"%s"}\n' % json_file()[8:72], UNSIGNED),
        (b"task=t\nsig=%s\n" % lines_file()[4:68], UNSIGNED),
        (b"\x11\0\0\0", f"{UNSIGNED}, which a uWSGI packet cannot be"),
        (b"\x11" + b"x" * CHUNK * 2, f"{UNSIGNED}, which a uWSGI packet cannot be"),
    ],
)
def test_anything_else_is_refused_with_a_reason(
    key: Path, tmp_path: Path, data: bytes, why: str, no_leaks: None
) -> None:
    assert problem(Signer(str(key)), tmp_path / "file", data) == why


LARGE = json_file(b"".join(b"%09d\n" % n for n in range(10_000)))


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    data=st.sampled_from([json_file(b"the body"), lines_file(), LARGE]),
    where=st.floats(0, 1, exclude_max=True),
    near=st.booleans(),
    how=st.sampled_from(["change", "insert", "delete", "cut"]),
    byte=st.integers(0, 255),
)
def test_no_byte_can_be_changed_added_or_taken_away(
    key: Path,
    tmp_path: Path,
    data: bytes,
    where: float,
    near: bool,
    how: str,
    byte: int,
) -> None:
    at = int(where * (160 if near and len(data) > 160 else len(data)))
    one = bytes([byte])
    other = {
        "change": data[:at] + one + data[at + 1 :],
        "insert": data[:at] + one + data[at:],
        "delete": data[:at] + data[at + 1 :],
        "cut": data[:at],
    }[how]
    found = problem(Signer(str(key)), tmp_path / "file", other)
    assert (found is None) is (other == data)


def test_a_hole_is_not_read(key: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(json_file())
    os.truncate(path, 1 << 40)
    with opened(path) as task:
        assert "nothing but a hole" in (Signer(str(key)).check(task) or "")
    os.truncate(path, IN_LOOP_MAX + 1)
    with opened(path) as task:
        assert "nothing but a hole" in (Signer(str(key)).check_here(task) or "")


def test_a_supervisor_reads_no_more_than_it_has_time_for(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "IN_LOOP_MAX", 1 << 20)
    path, signer = tmp_path / "file", Signer(str(key))
    for size, why in ((1 << 19, None), (1 << 20, "takes more than 1048576 bytes")):
        path.write_bytes(json_file(b"x" * size))
        with opened(path) as task:
            assert task.header.task == "t"
            found = signer.check_here(task)
        assert found is why is None or why in found  # type: ignore[operator] # not None
    path.write_bytes(json_file(b"x" * (1 << 19))[:-1] + b"y")
    with opened(path) as task:
        assert task.header.task == "t"
        assert signer.check_here(task) == WRONG


@pytest.mark.parametrize("size", [10, CHUNK * 3])
def test_what_was_verified_is_what_is_used(
    key: Path, tmp_path: Path, size: int, no_leaks: None
) -> None:
    path, body = tmp_path / "file", b"good" * (size // 4)
    data = json_file(body)
    path.write_bytes(data)
    with opened(path) as task:
        assert Signer(str(key)).check(task) is None
        # The owner goes on writing to the file that the worker has claimed.
        path.write_bytes(data.replace(b"good", b"evil").replace(b'"t"', b'"u"'))
        assert task.header.task == "t"
        assert task.body() == body
        with task.open_body() as file:
            assert file.read() == body


def test_a_file_that_changes_between_two_looks_is_refused(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    path, data = tmp_path / "file", json_file(b"b" * CHUNK * 3)
    path.write_bytes(data)
    signer = Signer(str(key))
    look = signer._is_good

    def then_change(fd: int, size: int, copy: int | None = None) -> bool:
        good = look(fd, size, copy=copy)
        path.write_bytes(data[:-1] + b"x")
        return good

    monkeypatch.setattr(signer, "_is_good", then_change)
    with opened(path) as task:
        assert signer.check(task) == WRONG


@pytest.mark.parametrize("grows", [True, False])
def test_a_file_that_grows_or_shrinks_is_refused(
    key: Path, tmp_path: Path, no_leaks: None, *, grows: bool
) -> None:
    path, data = tmp_path / "file", json_file(b"b" * CHUNK * 3)
    path.write_bytes(data[:-100] if grows else data)
    with opened(path) as task:
        path.write_bytes(data if grows else data[:-100])
        assert Signer(str(key)).check(task) == WRONG


def test_a_header_that_was_read_is_the_one_that_is_verified(
    key: Path, tmp_path: Path, no_leaks: None
) -> None:
    path, body = tmp_path / "file", b"b" * CHUNK * 3
    path.write_bytes(b'{"task":"u"}\n' + body)
    with opened(path) as task:
        task.data = json_file(body)[:CHUNK].replace(b'"t"', b'"u"')
        assert task.header.task == "u"
        path.write_bytes(json_file(body))
        task.size = path.stat().st_size
        assert Signer(str(key)).check_here(task) == WRONG


def test_a_name_that_says_something_else_is_refused() -> None:
    def says(header: bytes, name: Name) -> str | None:
        found = decode(header, whole=True)
        assert found is not None
        return disagreement(found, name)

    name = make_name(id=ID)
    assert says(TASK, name) is None
    assert says(b'{"task":"t","id":"%s"}' % ID.encode(), name) is None
    assert "for the task 'u'" in (says(b'{"task":"u"}', name) or "")
    other = b'{"task":"t","id":"%s"}' % (b"0" * 16)
    assert "with the id 00" in (says(other, name) or "")
    part = make_name(task=BATCH)
    assert says(b'{"task":"_batch","id":"%s"}' % ID.encode(), part) is None


# -- other keys -------------------------------------------------------------------


def test_a_key_file_is_read_again_when_it_changes(
    key: Path, clock: FakeClock, tmp_path: Path
) -> None:
    signer, file = Signer(str(key), clock), tmp_path / "file"
    assert signer.sign(ID, TASK) == Signer(str(key), clock).sign(ID, TASK)
    write_keys(key, OTHER, KEY)
    assert problem(signer, file, json_file()) is None
    before = signer.sign(ID, TASK)
    clock.advance(2)
    clock.set(NOW_US)
    assert signer.sign(ID, TASK) != before
    assert problem(signer, file, json_file()) is None
    write_keys(key, OTHER)
    clock.advance(2)
    assert problem(signer, file, json_file()) == WRONG
    assert problem(signer, file, json_file(by=OTHER)) is None


def test_a_new_key_is_looked_for_before_a_file_is_refused(
    key: Path, clock: FakeClock, tmp_path: Path
) -> None:
    signer, file = Signer(str(key), clock), tmp_path / "file"
    assert problem(signer, file, json_file()) is None
    write_keys(key, KEY, OTHER)
    assert problem(signer, file, json_file(by=OTHER)) is None


def test_keys_that_another_thread_reads_just_now_count(
    key: Path, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer, real = Signer(str(key), clock), key_file.load
    signer.look()
    write_keys(key, OTHER)

    def load(path: str) -> tuple[bytes, ...]:
        monkeypatch.setattr(signing, "load", real)
        assert problem(signer, tmp_path / "file", json_file(by=OTHER)) is None
        return real(path)

    monkeypatch.setattr(signing, "load", load)
    signer.look()


def test_old_keys_go_on_if_the_file_cannot_be_read(
    key: Path, clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signer, file = Signer(str(key), clock), tmp_path / "file"
    assert problem(signer, file, json_file()) is None
    for number in (1, 2):
        if number == 1:
            key.chmod(0o444)
        else:
            key.unlink()
        for _ in range(3):
            clock.advance(2)
            assert problem(signer, file, json_file()) is None
            assert problem(signer, file, json_file(by=OTHER)) == WRONG
        assert caplog.text.count("the old keys go on: ") == number
    assert KEY not in caplog.text
    write_keys(key, OTHER)
    clock.advance(2)
    assert problem(signer, file, json_file(by=OTHER)) is None


def test_nothing_is_put_with_a_key_that_cannot_be_read(
    key: Path, signing_spool: SpoolDir
) -> None:
    key.chmod(0o644)
    with pytest.raises(KeyFileError, match="others may use it"):
        signing_spool.put(make_name(), [TASK])
    with pytest.raises(KeyFileError, match="others may use it"):
        put_quickly(signing_spool, make_name(), TASK)
    assert tree(signing_spool) == {}


# -- who signs --------------------------------------------------------------------


def is_good(spool: SpoolDir, path: str) -> bool:
    """Tell whether a file of the spool is signed, and is what it is called."""
    task = open_task(path, OWNERS, dir_fd=spool.fd)
    with closing(task):
        name = Name.parse(path.rpartition("/")[2].lstrip("."))
        return describe(Signer(os.environ["SPOOLER_KEY_FILE"]), task, name) == "yes"


@pytest.mark.parametrize("durability", ["safe", "fast"])
@pytest.mark.parametrize("body", [None, b"body", BytesIO(b"x" * 3_000_000)])
@pytest.mark.parametrize("unique", [None, "a"])
def test_every_put_is_signed(
    signing_spool: SpoolDir,
    durability: str,
    body: bytes | BytesIO | None,
    unique: str | None,
) -> None:
    if isinstance(body, BytesIO):
        body.seek(0)
    spooler = Spooler(signing_spool.path)
    options = {"durability": durability, "body": body, "key": unique}
    put = spooler.put("resize", {"width": 200}, **options)  # type: ignore[arg-type] # by name
    path = next(path for path in tree(signing_spool) if not path.startswith("keys/"))
    assert is_good(signing_spool, path)
    data = tree(signing_spool)[path]
    assert data.count(b'"id":') == 1
    header = decode(data[: MAX_HEADER + 1], whole=len(data) <= MAX_HEADER)
    assert header is not None
    assert (header.id, header.key) == (put.id, unique)


def test_a_prepared_put_and_a_batch_are_signed(signing_spool: SpoolDir) -> None:
    spooler = Spooler(signing_spool.path, durability="fast")

    def resize(width: int) -> None:
        pass

    task = spooler.spool(name="test_signing.resize")(resize)
    task.spool(width=1)
    task.map([{"width": n} for n in range(100_000)])
    paths = list(tree(signing_spool))
    assert len(paths) == 2
    assert all(is_good(signing_spool, path) for path in paths)


def test_nothing_is_signed_without_a_key(shared: SpoolDir) -> None:
    assert shared.signer is None
    Spooler(shared.path).put("t", {})
    assert list(tree(shared).values()) == [b'{"task":"t","args":{}}\n']


def test_the_task_of_a_timer_is_signed(signing_spool: SpoolDir) -> None:
    name = make_name(id=timers.slot_id("t", NOW_US))
    with timers.lock(signing_spool):
        timers.put_slot(signing_spool, name, TASK)
    assert is_good(signing_spool, path_of(name))


@pytest.mark.parametrize("signed", [True, False])
def test_followers_are_signed_if_their_parent_was(
    signing_spool: SpoolDir, *, signed: bool
) -> None:
    parent = make_name()
    os.mkdir("running/w1", dir_fd=signing_spool.fd)
    folder = "running/w1"
    staged = stage(
        signing_spool, folder, parent, [Follower("u")], "then", NOW_US, signed=signed
    )
    [each] = staged
    task = open_task(each.path, OWNERS, dir_fd=signing_spool.fd)
    with closing(task):
        says = describe(signing_spool.signer, task, each.name)
    assert says == ("yes" if signed else None)


def test_what_was_dropped_is_copied_as_it_is(signing_spool: SpoolDir) -> None:
    name = make_name()
    data = b'{"task":"t","key":"a","id":"%s"}\n' % name.id.encode()
    file = place(signing_spool, "5/dropped", data)
    with opened(file) as task:
        keyed.adopt_copy(signing_spool, "5/dropped", task, name, "a", "skip")
    assert tree(signing_spool)[path_of(name)] == data


# -- who demands it ---------------------------------------------------------------


@contextmanager
def claimed(
    spool: SpoolDir, data: bytes, name: Name | None = None, *, requires: bool = True
) -> Iterator[tuple[Claims, Claim]]:
    """Claim a task with these bytes."""
    name = name or make_name()
    place(spool, path_of(name), data)
    claims = Claims(spool, "w1", OWNERS, require_signature=requires)
    claim = claims.claim(path_of(name))
    assert claim is not None
    try:
        yield claims, claim
    finally:
        claims.ack(claim)
        claims.close()


def test_a_worker_takes_what_is_signed(signing_spool: SpoolDir) -> None:
    with (
        claimed(signing_spool, json_file(b"body")) as (claims, claim),
        closing(claims.open(claim)) as task,
    ):
        assert claim.signed
        claims.agree(claim, task.header)
        assert task.body() == b"body"


def test_a_worker_refuses_what_is_not(signing_spool: SpoolDir) -> None:
    with claimed(signing_spool, TASK) as (claims, claim):
        with pytest.raises(CorruptError, match="is not signed"):
            claims.open(claim)
        assert not claim.signed


def test_a_worker_refuses_another_name(signing_spool: SpoolDir) -> None:
    data = json_file(id=ID)
    for name, why in (
        (make_name(), f"signed with the id {ID}"),
        (make_name(id=ID, task="u"), "signed for the task 't'"),
    ):
        with (
            claimed(signing_spool, data, name) as (claims, claim),
            closing(claims.open(claim)) as task,
            pytest.raises(CorruptError, match=why),
        ):
            claims.agree(claim, task.header)


def test_where_nobody_demands_it_the_log_says_what_is_not_signed(
    signing_spool: SpoolDir, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with claimed(signing_spool, TASK, requires=False) as (claims, claim):
        claims.open(claim).close()
        assert not claim.signed
    assert re.search(r"unsigned task=[0-9a-f]{16}: is not signed", caplog.text)
    data = json_file(id=ID)
    with (
        claimed(signing_spool, data, requires=False) as (claims, claim),
        closing(claims.open(claim)) as task,
    ):
        assert claim.signed
        claims.agree(claim, task.header)
        assert not claim.signed


def test_what_cannot_be_verified_cannot_be_demanded(spool: SpoolDir) -> None:
    with pytest.raises(UsageError, match="SPOOLER_KEY_FILE is not set"):
        Claims(spool, "w1", OWNERS, require_signature=True)
    assert tree(spool) == {}


def test_a_key_that_cannot_be_read_says_nothing_about_a_task(
    key: Path, signing_spool: SpoolDir, no_leaks: None
) -> None:
    with claimed(signing_spool, json_file()) as (claims, claim):
        key.unlink()
        with pytest.raises(KeyFileError):
            claims.open(claim)
        write_keys(key, KEY)
        claims.open(claim).close()
        assert claim.signed


def test_a_dropped_file_with_a_key_replaces_nothing_if_it_is_not_signed(
    signing_spool: SpoolDir,
) -> None:
    real = real_clock()
    Spooler(signing_spool.path).put("t", {}, key="a")
    before = tree(signing_spool)
    requires = Dropped(signing_spool, OWNERS, real, require_signature=True)
    evil = b'{"task":"t","key":"a","options":{"if_exists":"replace"}}\n'
    place(signing_spool, "5/evil", evil)
    real.advance(5)
    assert requires.adopt("5", "evil", finished=True) is False
    after = tree(signing_spool)
    assert before.items() <= after.items()
    assert all(
        path.startswith("corrupt/evil.") for path in after.keys() - before.keys()
    )
    good = json_file(key="a", options={"if_exists": "replace"})
    place(signing_spool, "5/good", good)
    assert isinstance(requires.adopt("5", "good", finished=True), str)
    assert not set(before) & {p for p in tree(signing_spool) if p[0].isdigit()}


def waiting(spool: SpoolDir) -> set[str]:
    return {f"{folder}/{name}" for folder, name in spool.waiting()}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_a_good_signature_lets_a_file_replace_the_task_of_another_user(
    signing_spool: SpoolDir,
) -> None:
    real = real_clock()
    Spooler(signing_spool.path).put("t", {}, key="a")
    [mine] = waiting(signing_spool)
    adopter = Dropped(signing_spool, {*OWNERS, 12345}, real)  # which does not insist

    def drop(file: str, data: bytes) -> str | bool | NotDue:
        os.chown(place(signing_spool, f"5/{file}", data), 12345, 12345)
        real.advance(5)
        return adopter.adopt("5", file, finished=True)

    options = {"if_exists": "replace"}
    forged = json_file(by="ab" * 32, key="a", options=options)
    for data in (forged, b"{" + forged[forged.index(b'"task"') :]):
        assert drop("evil", data) is False
        assert waiting(signing_spool) == {mine}
    good = drop("good", json_file(key="a", options=options, id=ID, at=1))
    assert waiting(signing_spool) == {good}
    # Its id would be another one than the one that was signed: no worker takes it.
    Path(signing_spool.path, str(good)).unlink()
    Spooler(signing_spool.path).put("t", {}, key="a", id=ID, at=1)
    assert drop("again", json_file(key="a", options=options, id=ID, at=1)) is False
    assert waiting(signing_spool) == {good}


# -- edit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "head"),
    [
        (json_file(b"b" * 300_000, id=ID), b'{"id":"%s","task":"u"}\n' % ID.encode()),
        (lines_file(b"task=t\n\n" + b"b" * 300_000), b"task=u\nx=1\n\n"),
    ],
)
def test_edit_signs_again(signing_spool: SpoolDir, data: bytes, head: bytes) -> None:
    name = make_name(id=ID)
    place(signing_spool, path_of(name), data)
    found = Found(State.WAITING, path_of(name), name)
    renamed = Name(name.due_us, 5, 0, ID, "u")
    with closing(open_task(found.path, OWNERS, dir_fd=signing_spool.fd)) as task:
        path = replace(signing_spool, found, task, head, renamed)
    assert is_good(signing_spool, path)
    assert tree(signing_spool)[path].endswith(b"\nb" + b"b" * 299_999)


@pytest.mark.parametrize("has_key", [True, False])
def test_edit_vouches_for_nothing_that_was_not_signed(
    signing_spool: SpoolDir, *, has_key: bool
) -> None:
    data = json_file(b"body")
    name = make_name()
    place(signing_spool, path_of(name), data[:-1] + b"!" if has_key else data)
    if not has_key:
        signing_spool.signer = None
    before = tree(signing_spool)
    found = Found(State.WAITING, path_of(name), name)
    with (
        closing(open_task(found.path, OWNERS, dir_fd=signing_spool.fd)) as task,
        pytest.raises(UsageError, match="is wrong" if has_key else "no key here"),
    ):
        replace(signing_spool, found, task, b'{"task":"t","x":1}\n', name)
    assert tree(signing_spool) == before


def test_edit_leaves_an_unsigned_task_unsigned(signing_spool: SpoolDir) -> None:
    name = make_name()
    place(signing_spool, path_of(name), TASK)
    found = Found(State.WAITING, path_of(name), name)
    with closing(open_task(found.path, OWNERS, dir_fd=signing_spool.fd)) as task:
        path = replace(signing_spool, found, task, b'{"task":"t","x":1}\n', name)
    assert tree(signing_spool)[path] == b'{"task":"t","x":1}\n'


def test_edit_refuses_a_signature_made_by_hand(
    key: Path, tmp_path: Path, no_leaks: None
) -> None:
    (tmp_path / "file").write_bytes(lines_file())
    with opened(tmp_path / "file") as task, open(tmp_path / "new", "wb") as new:
        assert task.header.task == "t"
        for head, why in (
            (b"task=t\nsig=1\n", "sig: is made here"),
            (b"task=t\nx=" + b"x" * MAX_HEADER, "with its signature"),
        ):
            with pytest.raises(UsageError, match=why):
                Signer(str(key)).sign_again(task, head, new.fileno())
    (tmp_path / "file").write_bytes(TASK)
    with (
        opened(tmp_path / "file") as task,
        open(tmp_path / "new", "wb") as new,
        pytest.raises(UsageError, match="is not signed"),
    ):
        Signer(str(key)).sign_again(task, b"task=t\n", new.fileno())


def test_a_short_write_of_the_signature_is_an_error(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 3)
    with (
        open(tmp_path / "new", "wb") as new,
        pytest.raises(OSError, match="cannot write the signature"),
    ):
        Signer(str(key)).write(new.fileno(), ID, [TASK, b"body"])


# -- what is said of it -----------------------------------------------------------


def test_show_says_what_is_known(key: Path, tmp_path: Path) -> None:
    path, signer = tmp_path / "file", Signer(str(key))

    def says(data: bytes, by: Signer | None, name: Name | None = None) -> str | None:
        path.write_bytes(data)
        with opened(path) as task:
            return describe(by, task, name)

    assert says(TASK, signer) is None
    assert says(json_file(), signer) == "yes"
    assert says(json_file(by=OTHER), signer) == WRONG
    assert says(json_file(), None) == "not verified: no key here"
    wrong = says(json_file(id=ID), signer, make_name())
    assert wrong is not None
    assert wrong.startswith("is signed with the id")
    assert "not verified: key file" in (says(json_file(), Signer("/nowhere")) or "")
    assert KEY not in repr(signer)
