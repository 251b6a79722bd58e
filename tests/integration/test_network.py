"""Tasks through sockets: the server, the clients, and what goes wrong between them."""

import os
import random
import re
import resource
import signal
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread, Timer
from time import monotonic
from typing import Any

import pytest

from spooler import Spooler, SpoolRefused, SpoolUnreachable, UsageError, spool_many
from spooler.codec import decode
from spooler.config import Listening
from spooler.ext.uwsgi.receiving import HEADER_MAX, Plan, Rules, plan
from spooler.ext.uwsgi.server import Server, _Connection, _Gone
from spooler.packet import encode_packet
from spooler.remote import TASK_KEY
from spooler.sending import SECRET_FILE, STORED, seal, send
from spooler.spooldir import SpoolDir
from spooler.spooldir.room import set_limits
from spooler.spooldir.socket_file import bind

from ..helpers import FACTOR, connect, everything, matching
from .conftest import SPOOLD, Box, Cli, wait_until

pytestmark = pytest.mark.timeout(120)

REFUSED = b"\xff\0\0\0"
PICKLED = {b"ud_spool_func": b"f", b"args": b"(lp0\n."}


class Place:
    """A spool, and a server on it in this process.

    Attributes:
        address: Where it listens.
    """

    def __init__(self, root: Path) -> None:
        self.spool = SpoolDir(root / "spool")
        self.spool.create()
        self.servers: list[Server] = []
        self.address = ""

    def serve(
        self,
        *paths: str,
        rules: Rules | None = None,
        addresses: tuple[str, ...] = ("127.0.0.1:0",),
        **settings: object,
    ) -> str:
        settings.setdefault("timeout", 10.0 * FACTOR)
        listening = Listening(addresses, **settings)  # type: ignore[arg-type]  # a test
        server = Server(listening, (self.spool.path, *paths), rules or Rules(5))
        server.start()
        self.servers.append(server)
        self.address = str(server.addresses[0])
        return self.address

    def connect(self) -> socket.socket:
        return connect(self.address)

    def say(self, data: bytes, *, more: bool = False) -> bytes:
        """Send bytes and return all that is answered."""
        with self.connect() as line:
            with suppress(OSError):  # it has been closed already
                line.sendall(data)
                if not more:
                    line.shutdown(socket.SHUT_WR)
            return everything(line)

    def tasks(self) -> list[bytes]:
        """Return the files of the tasks that wait, in their order."""
        found = sorted((n.split(".", 1), f) for f, n in self.spool.waiting())
        paths = [f"{folder}/{'.'.join(name)}" for name, folder in found]
        return [(Path(self.spool.path) / path).read_bytes() for path in paths]

    def names(self) -> list[str]:
        return sorted(name for _, name in self.spool.waiting())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    try:
        yield made
    finally:
        for server in made.servers:
            server.close()


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text(os.urandom(32).hex())
    return str(path)


# -- tasks ------------------------------------------------------------------------


def test_a_packet_is_stored_and_answered_and_the_connection_closed(
    place: Place,
) -> None:
    place.serve()
    packet = encode_packet({b"task": b"resize", b"photo": b"1.png"})
    assert place.say(packet, more=True) == STORED
    assert place.tasks() == [packet]
    assert place.names()[0].endswith(".resize")


@pytest.mark.parametrize("size", [1, 1000, 300_000, 5_000_000])
def test_a_body_that_is_announced_is_kept(place: Place, size: int) -> None:
    place.serve()
    body = random.Random(size).randbytes(size)
    assert send(place.address, {b"task": b"t"}, body) == STORED
    [data] = place.tasks()
    assert data == encode_packet({b"task": b"t"}) + body


def test_bytes_that_were_not_announced_are_told_of(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve()
    assert place.say(encode_packet({b"task": b"t"}) + b"body") == STORED
    assert place.tasks() == [encode_packet({b"task": b"t"})]
    wait_until(lambda: "4 bytes that came after a task were not" in caplog.text)


def test_the_pair_spooler_chooses_among_the_spools_that_are_served(
    place: Place, tmp_path: Path
) -> None:
    other = SpoolDir(tmp_path / "other")
    other.create()
    place.serve(other.path)
    send(place.address, {b"a": b"1", b"spooler": os.fsencode(other.path)})
    send(place.address, {b"a": b"2", b"spooler": b""})
    assert len(list(other.waiting())) == len(place.names()) == 1
    for wanted in (b"/tmp", b"\0"):
        with pytest.raises(SpoolRefused):
            send(place.address, {b"a": b"3", b"spooler": wanted})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x11\4\0\0\1\0\0\0", "do not fit"),
        (b"\x11\4\0\0\0\0\0\0", "empty key"),
        (b"GET / HTTP/1.1\r\n\r\n", "modifier1 71"),
        (b"\0\0\0\0", "modifier1 0"),
        (b"d\0\0\0" * 20, "nothing but pings"),
        (b"\x11\4\0\0\1\0", "ended before all had come"),
        (seal({b"a": b"b"}, b"body")[:-1], "ended before all had come"),
        (seal({b"a": b"b"}, b"body") + b"bod", "ended before all had come"),
        (encode_packet({b"CONTENT_LENGTH": b"99999999"}), "and 1000000 are allowed"),
        (encode_packet({TASK_KEY: b"{"}), "not JSON"),
        (seal({TASK_KEY: b""}, b"{") + b"{", "not JSON"),
    ],
)
def test_what_is_no_task_is_refused_with_a_line_in_the_log(
    place: Place, caplog: pytest.LogCaptureFixture, data: bytes, reason: str
) -> None:
    place.serve(max_body=1_000_000)
    assert place.say(data)[-4:] == REFUSED
    wait_until(lambda: reason in caplog.text)
    assert "refuse socket peer=127.0.0.1:" in caplog.text
    assert not place.tasks()


def test_pings_are_answered_and_tell_uwsgi_from_spoold(place: Place) -> None:
    place.serve()
    pings = b"d\0\0\0", b"d\0\0\x11"
    packet = encode_packet({b"a": b"b"})
    assert place.say(b"".join(pings) + packet) == b"d\0\0\1" + b"d\0\0\x11" + STORED
    assert place.say(b"") == b""


def test_a_full_spool_refuses(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    set_limits(place.spool, max_waiting=1)
    place.serve()
    send(place.address, {b"a": b"1"})
    with pytest.raises(SpoolRefused, match="its log says why"):
        send(place.address, {b"a": b"2"})
    wait_until(lambda: "is full: 1 tasks wait" in caplog.text)
    assert len(place.tasks()) == 1


def test_who_breaks_off_leaves_nothing(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve()
    with place.connect() as line:
        line.sendall(seal({b"a": b"b"}, b"body")[:-2])
        at_once = struct.pack("ii", 1, 0)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    wait_until(lambda: "it is gone: Connection reset by peer" in caplog.text)
    assert not place.tasks()


def test_who_does_not_close_is_not_waited_for(place: Place) -> None:
    place.serve()
    packet = encode_packet({b"a": b"b"})
    with place.connect() as line:
        line.sendall(packet)
        assert everything(line) == STORED
        wait_until(lambda: not place.servers[0]._open)
        with place.connect() as other:
            other.sendall(packet)
            assert everything(other) == STORED
            place.servers.pop().close()
    assert len(place.tasks()) == 2


def test_who_goes_on_and_on_is_not_heard_out(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve()
    begun = monotonic()
    with place.connect() as line, suppress(BrokenPipeError, ConnectionResetError):
        line.sendall(encode_packet({b"a": b"b"}))
        while monotonic() - begun < 20 * FACTOR:
            line.sendall(bytes(10_000))
    assert monotonic() - begun < 10 * FACTOR
    wait_until(lambda: "bytes that came after a task" in caplog.text)


def test_a_moment_that_is_over_is_over_though_bytes_are_there(place: Place) -> None:
    place.serve()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = _Connection(place.servers[0], ours, "-")
        connection._until = 0.0
        theirs.sendall(b"bytes")
        with pytest.raises(_Gone, match="too slow"):
            connection._receive(5)


def test_what_is_no_task_has_its_own_answer(place: Place) -> None:
    place.serve()
    assert send(place.address, {}, modifier1=5) == REFUSED
    assert send(place.address, {}, modifier1=100) == b"d\0\0\1"


def test_many_refusals_are_counted(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve()
    for _ in range(25):
        assert place.say(b"\0\0\0\0") == REFUSED
    # Those that came within a second after the twentieth are counted at first.
    pattern = r"refuse: [1-5] more tasks from sockets"
    wait_until(lambda: re.search(pattern, caplog.text))
    assert caplog.text.count("modifier1 0") == 20


def test_too_many_open_files_are_told_of_and_waited_for(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve()
    host, _, port = place.address.rpartition(":")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as line:
        resource.setrlimit(resource.RLIMIT_NOFILE, (line.fileno() + 1, limits[1]))
        try:
            line.connect((host, int(port)))
            wait_until(lambda: "cannot accept: " in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        line.settimeout(10 * FACTOR)
        line.sendall(encode_packet({b"a": b"b"}))
        assert everything(line) == STORED


def test_too_many_threads_end_a_connection_and_not_the_server(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.serve()

    def start(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", start)
        assert place.say(encode_packet({b"a": b"b"})) == b""
    wait_until(lambda: "cannot begin: can't start new thread" in caplog.text)
    send(place.address, {b"a": b"b"})


def test_a_spool_that_is_gone_refuses(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve()
    Path(place.spool.path).rename(f"{place.spool.path}.away")
    with pytest.raises(SpoolRefused):
        send(place.address, {b"a": b"2"})
    wait_until(lambda: "cannot store it" in caplog.text)


def test_a_spool_that_was_replaced_refuses(place: Place) -> None:
    place.serve()
    send(place.address, {b"a": b"1"})
    away = f"{place.spool.path}.away"
    Path(place.spool.path).rename(away)
    made = SpoolDir(place.spool.path)
    made.create()
    with pytest.raises(SpoolRefused):
        send(place.address, {b"a": b"2"})
    assert not list(made.waiting())
    assert len(list(SpoolDir(away).waiting())) == 1


# -- what is there already ------------------------------------------------------------

LATER = b'{"task":"t","id":"0123456789abcdef","at":1795208461}\n'


def test_a_task_of_which_only_a_hidden_file_is_there_is_not_stored(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve()
    spool = place.servers[0].spools._spools[0]
    spool.open()
    spool._tmpfile = False  # as on NFS
    packet = seal({TASK_KEY: LATER}, b"body")
    with place.connect() as line:
        line.sendall(packet + b"b")
        root = Path(place.spool.path)
        wait_until(lambda: matching(root, "[0-9]*/*/.*.t"))
        assert place.say(packet + b"body") == REFUSED
        wait_until(lambda: "cannot store it: [Errno 17]" in caplog.text)
    wait_until(lambda: not matching(root, "[0-9]*/*/.*.t"))
    assert not place.tasks()
    assert place.say(packet + b"body") == STORED


@pytest.mark.parametrize("key", [b"", b'"key":"k",'])
def test_a_task_that_is_there_already_is_synced(
    place: Place, monkeypatch: pytest.MonkeyPatch, key: bytes
) -> None:
    place.serve()
    synced: list[str] = []
    problems = [OSError(5, "EIO"), OSError(5, "EIO")]
    sync = SpoolDir.sync

    def fail(spool: SpoolDir, folder: str) -> None:
        if problems:
            raise problems.pop()
        synced.append(folder)
        sync(spool, folder)

    monkeypatch.setattr(SpoolDir, "sync", fail)
    packet = encode_packet({TASK_KEY: LATER.replace(b"{", b"{" + key)})
    assert place.say(packet) == REFUSED
    assert place.say(packet) == REFUSED
    assert not synced
    assert place.say(packet) == STORED
    assert any(folder.startswith("5/") for folder in synced)
    assert ("keys" in synced) == bool(key)
    assert len(place.tasks()) == 1


# -- anything at all ----------------------------------------------------------------


def test_rubbish_harms_nobody(place: Place) -> None:
    place.serve()
    any_ = random.Random(4)
    good = encode_packet({b"task": b"t", b"at": b"1"})
    announced = seal({b"task": b"t"}, bytes(64))
    stored = 0
    for number in range(150):
        mutant = bytearray(any_.choice([good, announced, b"\x11", any_.randbytes(40)]))
        for _ in range(any_.randrange(4)):
            mutant[any_.randrange(len(mutant))] = any_.randrange(256)
        mutant += any_.randbytes(any_.choice([0, 0, 64]))
        answer = place.say(bytes(mutant))
        assert answer in (b"", REFUSED, STORED, b"d\0\0\1", b"d\0\0\1" + REFUSED), (
            number,
            bytes(mutant),
        )
        stored += answer == STORED
    tasks = place.tasks()
    assert len(tasks) == stored > 10
    for data in tasks:
        assert decode(data, whole=True) is not None
    send(place.address, {b"task": b"the last"})


# -- those who take their time --------------------------------------------------------


SLOW = [b"\x11", b"\x11\x09\0\0\1\0", b"d\0\0\0\x11", seal({b"a": b"b"}, b"body")]


@pytest.mark.parametrize("begin", SLOW)
def test_who_is_too_slow_is_cut_off_and_leaves_nothing(
    place: Place, caplog: pytest.LogCaptureFixture, begin: bytes
) -> None:
    place.serve(timeout=0.3)
    begun = monotonic()
    assert place.say(begin, more=True)[-4:] == REFUSED
    assert monotonic() - begun < 5 * FACTOR
    wait_until(lambda: "it was too slow" in caplog.text)
    spool = Path(place.spool.path)
    wait_until(lambda: not any(p.is_file() for p in matching(spool, "[0-9]*/*/*")))


@pytest.mark.parametrize("begin", [b"", b"d\0\0\0"])
def test_who_asks_for_nothing_is_cut_off_without_a_word(
    place: Place, caplog: pytest.LogCaptureFixture, begin: bytes
) -> None:
    place.serve(timeout=0.3)
    assert place.say(begin, more=True) in (b"", b"d\0\0\1")
    assert "refuse" not in caplog.text


def test_byte_after_byte_is_too_slow_too(place: Place) -> None:
    place.serve(timeout=0.5)
    begun = monotonic()
    with place.connect() as line, suppress(BrokenPipeError, ConnectionResetError):
        while monotonic() - begun < 20 * FACTOR:
            line.sendall(b"\x11")
            Event().wait(0.05)
    assert monotonic() - begun < 10 * FACTOR
    assert not place.tasks()


def test_a_body_that_was_only_announced_gives_no_time(place: Place) -> None:
    place.serve(timeout=0.5)
    begun = monotonic()
    with place.connect() as line, suppress(BrokenPipeError, ConnectionResetError):
        line.sendall(encode_packet({b"CONTENT_LENGTH": b"%d" % (64 << 20)}))
        while monotonic() - begun < 20 * FACTOR:
            line.sendall(b"b")
            Event().wait(0.05)
    assert monotonic() - begun < 10 * FACTOR
    assert not place.tasks()


def test_a_body_that_comes_gives_time_for_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spooler.ext.uwsgi.server.BODY_RATE", 1)
    place.serve(timeout=0.5 * FACTOR)
    with place.connect() as line:
        line.sendall(seal({b"a": b"b"}, bytes(1000)) + bytes(100))
        for _ in range(9):
            Event().wait(0.1 * FACTOR)
            line.sendall(bytes(100))
        assert everything(line) == STORED


def test_large_tasks_are_read_one_at_a_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.serve()
    at_work: list[None] = []
    most: list[int] = []

    def slow(*args: Any, **keywords: Any) -> Plan:
        at_work.append(None)
        Event().wait(0.05)
        most.append(len(at_work))
        at_work.pop()
        return plan(*args, **keywords)

    monkeypatch.setattr("spooler.ext.uwsgi.server.plan", slow)
    lines = [place.connect() for _ in range(5)]
    for line in lines:
        line.sendall(encode_packet({b"a": b"b"}))
    for line in lines:
        assert everything(line) == STORED
        line.close()
    assert most == [1] * 5


def test_a_header_of_a_task_is_smaller_here_than_in_a_file(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve()
    there = Spooler(place.address)
    there.put("t", {"a": "x" * (HEADER_MAX - 1000)})
    with pytest.raises(SpoolRefused):
        there.put("t", {"a": "x" * HEADER_MAX})
    wait_until(lambda: "its header is larger than 262144 bytes" in caplog.text)
    assert len(place.tasks()) == 1


def test_a_body_that_leaves_too_little_free_is_refused_before_it_comes(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_limits(place.spool, min_free=1 << 20)
    free = [3 << 20, 10 << 20, 0]
    looked: list[int] = []

    def look(spool: SpoolDir) -> tuple[int, None]:
        looked.append(free.pop(0))
        return looked[-1], None

    monkeypatch.setattr("spooler.ext.uwsgi.storing.free_space", look)
    place.serve()
    large = seal({b"a": b"b"}, bytes(4 << 20))
    assert place.say(large, more=True) == REFUSED
    assert place.say(large + bytes(3 << 19), more=True) == REFUSED
    assert not free
    wait_until(lambda: caplog.text.count("is full: ") == 2)
    assert not place.tasks()


def test_a_path_that_is_too_long_is_not_looked_for(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to(place.spool.path)
    place.serve()
    looked: list[str] = []
    realpath = os.path.realpath

    def look(path: str) -> str:
        looked.append(path)
        return realpath(path)

    monkeypatch.setattr("os.path.realpath", look)
    for wanted in (place.spool.path, str(link)):
        send(place.address, {b"spooler": wanted.encode(), b"a": b"b"})
    with pytest.raises(SpoolRefused):
        send(place.address, {b"spooler": b"/" + b"a/" * 30_000})
    assert looked == [str(link)]
    assert len(place.tasks()) == 2


def test_who_says_nothing_makes_room_for_those_who_do(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve(connections=5, timeout=60.0)
    idle = [place.connect() for _ in range(20)]
    begun = monotonic()
    for number in range(5):
        send(place.address, {b"n": b"%d" % number}, timeout=10 * FACTOR)
    assert monotonic() - begun < 10 * FACTOR
    assert len(place.tasks()) == 5
    wait_until(lambda: "others wait for its place" in caplog.text)
    for line in idle:
        line.close()


def test_many_send_at_a_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # However late one of them gets to say something after it has connected.
    monkeypatch.setattr("spooler.ext.uwsgi.server.PATIENCE", 1000.0)
    place.serve(connections=4)

    def some(sender: int) -> None:
        for number in range(10):
            pairs = {b"n": b"%d.%d" % (sender, number)}
            send(place.address, pairs, timeout=10 * FACTOR)

    threads = [Thread(target=some, args=(sender,)) for sender in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(place.tasks())) == 80


def test_too_many_in_a_second_are_refused(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve(rate=0.001)
    send(place.address, {b"n": b"1"})
    with pytest.raises(SpoolRefused):
        send(place.address, {b"n": b"2"})
    wait_until(lambda: "more than 0.001 tasks a second" in caplog.text)


def test_a_server_that_ends_cuts_off_who_says_nothing(place: Place) -> None:
    place.serve(timeout=60.0)
    with place.connect() as line:
        send(place.address, {b"a": b"b"})  # it has been accepted
        begun = monotonic()
        place.servers.pop().close()
        assert everything(line) in (b"", REFUSED)
    assert monotonic() - begun < 5 * FACTOR


# -- who may ------------------------------------------------------------------------


def test_who_does_not_know_the_secret_is_refused(
    place: Place,
    secret: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place.serve(secret_file=secret)
    for key in (None, bytes(32)):
        with pytest.raises(SpoolRefused):
            send(place.address, {b"a": b"1"}, b"body", secret=key)
    wait_until(lambda: "it does not know the secret" in caplog.text)
    monkeypatch.setenv(SECRET_FILE, secret)
    send(place.address, {b"a": b"1"}, b"body")
    Spooler(place.address).put("t", {"a": "x" * 70_000}, body=b"body")
    first, second = place.tasks()
    assert first == encode_packet({b"a": b"1"}) + b"body"
    assert second.endswith(b"\nbody")


def test_a_secret_that_cannot_be_read_any_more_goes_on(
    place: Place, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve(secret_file=secret)
    key = bytes.fromhex(Path(secret).read_text())
    Path(secret).write_text("rubbish")

    def is_told() -> bool:
        send(place.address, {b"a": os.urandom(8)}, secret=key)
        return "the old secrets go on: key file" in caplog.text

    wait_until(is_told)


def test_what_was_overheard_cannot_be_sent_again(place: Place, secret: str) -> None:
    place.serve(secret_file=secret)
    data = seal({b"a": b"1"}, b"body", bytes.fromhex(Path(secret).read_text()))
    changed = data + b"b0dy"
    assert place.say(changed) == REFUSED
    assert place.say(data + b"body") == STORED
    assert place.say(data + b"body") == REFUSED
    assert len(place.tasks()) == 1


def test_who_does_not_know_the_secret_learns_nothing_of_keys(
    place: Place, secret: str
) -> None:
    place.serve(secret_file=secret)
    key = bytes.fromhex(Path(secret).read_text())
    with_key = LATER.replace(b"{", b'{"key":"k",')
    send(place.address, {TASK_KEY: with_key}, secret=key)
    for body in (b"", b"body"):
        packet = seal({TASK_KEY: with_key}, body, bytes(32))
        assert place.say(packet + body) == REFUSED
    packet = seal({TASK_KEY: with_key}, b"body", key)
    assert place.say(packet + b"body") == STORED  # which has it already
    assert place.tasks() == [with_key]


def test_who_does_not_know_the_secret_uses_up_no_rate(
    place: Place, secret: str
) -> None:
    place.serve(secret_file=secret, rate=0.001)
    for number in range(3):
        with pytest.raises(SpoolRefused):
            send(place.address, {b"n": b"%d" % number}, secret=bytes(32))
    send(place.address, {b"a": b"b"}, secret=bytes.fromhex(Path(secret).read_text()))
    assert len(place.tasks()) == 1


def test_a_forged_signature_removes_no_task_that_has_its_key(
    place: Place,
    secret: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SPOOLER_KEY_FILE", secret)
    place.serve(rules=Rules(5, signed=True))
    there = Spooler(place.address)
    there.put("pay", {"n": 1}, key="invoice", at="+1h")
    [signed] = place.tasks()
    stranger = tmp_path / "other"
    stranger.touch(0o600)
    stranger.write_text(os.urandom(32).hex())
    with monkeypatch.context() as patch:
        patch.setenv("SPOOLER_KEY_FILE", str(stranger))
        with pytest.raises(SpoolRefused):
            there.put("pay", {"n": 2}, key="invoice", if_exists="replace")
        with pytest.raises(SpoolRefused):
            there.put("pay", {"n": 2}, body=b"body")
    wait_until(lambda: caplog.text.count("its signature is wrong") == 2)
    assert place.tasks() == [signed]
    for size in (70_000, 10):  # its header is the beginning of the body, or is not
        args = {"n": "3" * size}
        there.put("pay", args, key="invoice", if_exists="replace", body=bytes(300_000))
    [signed] = place.tasks()
    assert b'"n":"3333333333"' in signed
    monkeypatch.delenv("SPOOLER_KEY_FILE")
    place.serve(rules=Rules(5, signed=True))
    assert place.say(encode_packet({TASK_KEY: signed[: signed.index(b"\n") + 1]})) == (
        REFUSED  # nobody can tell here
    )


def test_keys_that_cannot_be_read_any_more_go_on(
    place: Place,
    secret: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SPOOLER_KEY_FILE", secret)
    place.serve(rules=Rules(5, signed=True))
    there = Spooler(place.address)
    there.put("t")
    [signed] = place.tasks()
    Path(secret).write_text("rubbish")

    def is_told() -> bool:
        assert place.say(encode_packet({TASK_KEY: signed})) == STORED
        return "the old keys go on: key file" in caplog.text

    wait_until(is_told)


def test_a_pickle_from_a_stranger_is_refused(place: Place, secret: str) -> None:
    place.serve()
    with pytest.raises(SpoolRefused):
        send(place.address, PICKLED)
    with pytest.raises(SpoolRefused):
        Spooler(place.address).put("f", {"args": "(lp0\n."})
    assert not place.tasks()
    place.serve(secret_file=secret)
    key = bytes.fromhex(Path(secret).read_text())
    send(place.address, PICKLED, secret=key)
    assert place.tasks() == [encode_packet(PICKLED)]


def test_a_pickle_of_the_same_user_comes_through_a_unix_socket(
    place: Place, tmp_path: Path
) -> None:
    path = str(tmp_path / "s.sock")
    place.serve(addresses=(path,))
    send(path, PICKLED)
    assert len(place.tasks()) == 1


def test_the_daemon_signs_nothing_that_comes_from_a_socket(
    place: Place, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOOLER_KEY_FILE", secret)
    place.serve()
    line = b'{"task":"t"}\n'
    send(place.address, {TASK_KEY: line})
    assert place.tasks() == [line]
    Spooler(place.address).put("t", id="0123456789abcdef")  # its producer has a key
    assert sum(data.startswith(b'{"sig":"') for data in place.tasks()) == 1
    place.serve(rules=Rules(5, signed=True))
    with pytest.raises(SpoolRefused):
        send(place.address, {b"a": b"b"})
    Spooler(place.address).put("t")
    assert len(place.tasks()) == 3


# -- UNIX sockets, and addresses ------------------------------------------------------


def test_a_unix_socket_has_its_mode_and_goes_with_the_server(
    place: Place, tmp_path: Path
) -> None:
    path = tmp_path / "s.sock"
    place.serve(addresses=(str(path),), mode=0o660)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert send(f"unix:{path}", {b"a": b"b"}) == STORED
    with pytest.raises(UsageError, match="in use"):
        place.serve(addresses=(str(path),))
    assert send(str(path), {b"a": b"c"}) == STORED
    place.servers.pop().close()
    assert not path.exists()


def test_the_mode_of_a_socket_is_set_on_nothing_else(tmp_path: Path) -> None:
    path, victim = tmp_path / "s.sock", tmp_path / "victim"
    victim.touch(0o600)

    class Swapped(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            path.rename(tmp_path / "away")
            path.symlink_to(victim)

    for mode in (0o666, 0o600):
        with Swapped(socket.AF_UNIX) as made:
            bind(made, str(path), mode)
        assert stat.S_IMODE(victim.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "away").stat().st_mode) == mode
        path.unlink()


def test_a_socket_that_was_left_is_replaced_and_nothing_else(
    place: Place, tmp_path: Path
) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    place.serve(addresses=(str(path),))
    assert send(str(path), {b"a": b"b"}) == STORED
    file = tmp_path / "file.sock"
    file.touch()
    with pytest.raises(UsageError, match="is not a socket; move it away"):
        place.serve(addresses=(str(file),))
    assert file.exists()


def test_an_address_that_others_reach_is_warned_of(
    place: Place, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve(addresses=("localhost:0", "[::1]:0") if has_ipv6() else (":0",))
    assert "insecure" not in caplog.text
    place.serve(addresses=("0.0.0.0:0",))
    assert "have tasks run here, without --socket-secret-file" in caplog.text
    place.serve(addresses=("0.0.0.0:0",), secret_file=secret)
    assert "nothing is encrypted" in caplog.text


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--socket", "192.0.2.1:1"), 78, "socket 192.0.2.1:1: "),
        (("--socket", "spool"), 2, "it takes HOST:PORT"),
        (("--socket", ":1", "--socket-mode", "rw"), 2, "600 or 660"),
        (("--socket", ":1", "--socket-connections", "0"), 2, "it takes 1 to 1000"),
        (("--socket", ":1", "--socket-rate", "-1"), 2, "it takes 0 or more"),
        (("--socket", ":1", "--socket-timeout", "0"), 2, "it takes more than 0"),
        (("--socket", ":1", "--socket-max-body", "many"), 2, "a size such as"),
        (("--socket", ":1", "--socket-secret-file", "no"), 78, "key file"),
    ],
)
def test_what_cannot_be_listened_at_is_said_at_once(
    box: Box, options: tuple[str, ...], code: int, text: str
) -> None:
    daemon = box.launch(box.command(*options))
    assert daemon.wait() == code
    assert text in daemon.text().splitlines()[-1]


# -- the Python API -----------------------------------------------------------------


def test_a_task_of_the_api_arrives_as_it_was_put(place: Place) -> None:
    place.serve()
    there = Spooler(place.address)
    assert repr(there) == f"Spooler({place.address!r})"
    assert there.path == os.fspath(there) == place.address
    handle = there.put(
        "t",
        {"a": [1, None, "ä"]},
        at=1795208461.5,
        priority=2,
        body=b"body",
        key="k",
        expires="+1h",
        traceparent="00-1",
        id="0123456789abcdef",
    )
    assert place.names() == ["1795208461500000.2.0.0123456789abcdef.t"]
    header = decode(place.tasks()[0], whole=True)
    assert header is not None
    assert header.args == '{"a":[1,null,"ä"]}'.encode()
    assert (header.key, header.traceparent) == ("k", "00-1")
    assert header.options is not None
    assert header.options.expires == "+1h"
    again = there.put("t", key="k")
    assert again.id != handle.id
    assert len(place.tasks()) == 1
    with pytest.raises(SpoolRefused):
        there.put("t", key="k", if_exists="raise")
    there.put("t", id="0123456789abcdef", at=1795208461.5, priority=2)  # once more
    assert len(place.tasks()) == 1


def test_a_handle_of_a_task_elsewhere_knows_its_id_and_nothing_else(
    place: Place,
) -> None:
    place.serve()
    there = Spooler(place.address)
    for handle in (there.put("t"), there.handle("0123456789abcdef")):
        asked: list[Callable[[], object]] = [
            handle.state,
            handle.wait,
            handle.result,
            handle.cancel,
            handle.kill,
            handle.__await__,
        ]
        for ask in asked:
            with pytest.raises(UsageError, match=f"`spool show {handle.id}`"):
                ask()


def test_what_cannot_go_to_a_socket_is_said(place: Place, tmp_path: Path) -> None:
    place.serve()
    there, here = Spooler(place.address), Spooler(tmp_path / "spool")

    @there.spool(name="test_network.f")
    def f(x: int = 0) -> None:
        pass

    f.spool(1)
    f.using(at="+1h").spool()
    f.using(spooler=here).spool()
    assert len(place.tasks()) == 3
    batches: list[Callable[[], object]] = [
        lambda: f.map([{"x": 1}]),
        lambda: there.spool_many([there.call("t")]),
        lambda: spool_many([there.call("t")]),
    ]
    for batch in batches:
        with pytest.raises(UsageError, match="a batch cannot go to 127"):
            batch()
    with pytest.raises(UsageError, match="a follower goes into the spool of the task"):
        here.put("t", then=f)
    with pytest.raises(UsageError, match="a timer is for a spool"):
        there.timer(5)
    with pytest.raises(UsageError, match="outbox= needs spooler="):
        f.using(spooler=here, outbox=True).spool()
    assert len(place.tasks()) == 3


def test_nobody_there_is_an_error_of_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with pytest.raises(SpoolUnreachable, match=f"no answer from unix:{path}: No such"):
        Spooler(path).put("t")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(
            SpoolUnreachable, match="too long; the task was sent"
        ) as got:
            send(str(path), {b"a": b"b"}, timeout=0.1)
        assert got.value.uncertain
        with pytest.raises(ConnectionError, match=r"too long\Z"):
            send(str(path), {b"a": b"b"}, b"body", timeout=0.1)
        with pytest.raises(ConnectionError, match=r"too long\Z"):
            send(str(path), {}, bytes(16 << 20), modifier1=5, timeout=0.1)


def test_who_hangs_up_is_not_there(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with listener.accept()[0] as line:
                at_once = struct.pack("ii", 1, 0)
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)

        thread = Thread(target=hang_up)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(SpoolUnreachable, match=r"reset|closed without"):
            send(address, {}, bytes(16 << 20), modifier1=5)
        thread.join()


# -- real daemons ---------------------------------------------------------------------


def test_what_was_answered_is_there_after_a_kill(box: Box) -> None:
    address = str(box.out.parent / "s.sock")
    any_ = random.Random(5)
    answered: set[str] = set()
    sent = 0
    for _ in range(4):
        daemon = box.start("--socket", address, "--workers", "1", imports="printing")
        killer = Timer(any_.random() * 0.3, daemon.send, (signal.SIGKILL,))
        with suppress(SpoolUnreachable, SpoolRefused):
            while True:
                name = f"{sent:016x}"
                sent += 1
                Spooler(address).put("nobody-knows-it", id=name)
                answered.add(name)
                if killer.ident is None:
                    killer.start()
        killer.join()
        daemon.wait()
        wait_until(box.no_process_is_left)
    there = {name.split(".")[3] for name in box.waiting()}
    there |= {path.split("/")[-1].split(".")[3] for path in box.running()}
    assert answered <= there
    assert len(answered) > 3


def test_a_daemon_with_sockets_runs_what_comes_and_stops_at_once(box: Box) -> None:
    box.module(
        "import os, spooler\n"
        "@spooler.spool\n"
        "def write(text: str, number: int, body: bytes = b''):\n"
        "    with open(os.environ['OUT'] + '/out', 'a') as file:\n"
        "        print(text, number, len(body), file=file)\n"
    )
    daemon = box.start("--socket", "127.0.0.1:0", "--grace", "5", imports="mine")
    [address] = re.findall(r"listen socket=(\S+)", daemon.text())
    there = Spooler(address)
    there.put("write", {"text": "a", "number": 1})
    there.put("write", {"text": "b", "number": "2"}, body=b"body")
    box.wait_lines("a 1 0", "b 2 4")
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))):
        there.put("write", {"text": "c", "number": 3})
        begun = monotonic()
        assert daemon.end() == 0
        assert monotonic() - begun < 5 * FACTOR
    assert not daemon.says("Traceback")


OUTBOX = """
import os, spooler
@spooler.spool
def write(n: int, body: bytes = b""):
    with open(os.environ["OUT"] + "/out", "a") as file:
        print(n, len(body), file=file)
"""


def test_an_outbox_keeps_tasks_until_somebody_is_there(
    box: Box, tmp_path: Path
) -> None:
    box.module(OUTBOX)
    address = str(tmp_path / "there.sock")
    here = Spooler(box.spool)
    handles = [
        here.put("write", {"n": n}, body=b"x" * n, spooler=address, outbox=True)
        for n in range(5)
    ]
    assert all(handle.state() is not None for handle in handles)
    first = box.start("--log-level", "debug", imports="mine")
    first.wait_for("retry task=")
    first.end(signal.SIGKILL)
    wait_until(box.no_process_is_left)
    box.start("--workers", "2", imports="mine")
    other = SpoolDir(tmp_path / "other")
    other.create()
    command = [str(SPOOLD), "--dir", other.path, "--import", "mine"]
    box.launch([*command, "--socket", address])
    box.wait_lines(*[f"{n} {n}" for n in range(5)])
    wait_until(lambda: all(handle.state() is None for handle in handles))
    assert box.is_empty()
    assert not box.failed()


def test_an_outbox_that_is_refused_is_tried_again(box: Box, tmp_path: Path) -> None:
    box.module(OUTBOX)
    address = str(tmp_path / "there.sock")
    other = SpoolDir(tmp_path / "other")
    other.create()
    set_limits(other, max_waiting=1)
    Spooler(other.path).put("write", {"n": 1}, at="+1h")
    box.launch(
        [str(SPOOLD), "--dir", other.path, "--import", "mine", "--socket", address]
    ).wait_for("serve spool=")
    sent = Spooler(box.spool).call("write", at="+1h", spooler=address, outbox=True)
    handle = sent.spool()
    box.start(imports="mine").wait_for("Retry: SpoolRefused: ")
    assert handle.state() is not None
    set_limits(other, max_waiting=0)
    wait_until(lambda: handle.state() is None)
    assert len(list(other.waiting())) == 2


# -- the command ----------------------------------------------------------------------


def test_the_command_sends_tasks(cli: Cli, place: Place) -> None:
    place.serve()
    found = cli("put", "t", "a=1", "--spooler", place.address, "--priority", "3")
    assert found.exit_code == 0, found.output
    [data] = place.tasks()
    assert b'"args":{"a":"1"}' in data
    assert found.output.strip() in place.names()[0]
    place.servers.pop().close()
    host, _, port = place.address.rpartition(":")
    with socket.socket() as nobody_else:
        nobody_else.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        nobody_else.bind((host, int(port)))
        found = cli("put", "t", "--spooler", place.address)
    assert found.exit_code == 75
    assert f"no answer from {place.address}: Connection refused" in found.output
    found = cli("put", "t", "--spooler", place.address, "--outbox")
    assert found.exit_code == 0
    assert [name.split(".", 4)[4] for name in place.names()] == ["t", "spooler.forward"]
    found = cli("put", "t", "--outbox")
    assert found.exit_code == 2
    found = cli("put", "--from", "-", "--spooler", place.address, stdin='{"task":"t"}')
    assert found.exit_code == 2


def test_who_is_a_stranger_replaces_what_strangers_have_put(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.serve()
    options = {"key": "invoice", "if_exists": "replace", "at": "+1h"}
    here, stranger = Spooler(place.spool.path), Spooler(place.address)
    here.put("pay", {"n": 1}, **options)  # type: ignore[arg-type] # by name
    [mine] = place.tasks()
    with pytest.raises(SpoolRefused):
        stranger.put("pay", {"n": 2}, **options)  # type: ignore[arg-type] # by name
    wait_until(lambda: "which somebody at a socket may not do" in caplog.text)
    assert place.tasks() == [mine]
    assert here.handle(place.names()[0].split(".")[3]).cancel()
    for number in (3, 4):
        stranger.put("pay", {"n": number}, **options)  # type: ignore[arg-type] # by name
        [theirs] = place.tasks()
        assert b'"n":%d' % number in theirs
    place.serve(addresses=(str(tmp_path / "socket"),))
    Spooler(place.address).put("pay", {"n": 5}, **options)  # type: ignore[arg-type] # by name
    [known] = place.tasks()
    assert b'"n":5' in known
    with pytest.raises(SpoolRefused):
        stranger.put("pay", {"n": 6}, **options)  # type: ignore[arg-type] # by name
