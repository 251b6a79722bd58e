"""What packets from a socket become, and which are refused."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from spooler.codec import decode
from spooler.errors import UsageError
from spooler.ext.uwsgi.receiving import (
    CLOCKS_APART,
    LOOK_EVERY,
    Packet,
    Plan,
    Refused,
    Rules,
    Secrets,
    plan,
    read_packet,
)
from spooler.ext.uwsgi.server import Pace
from spooler.packet import HEAD, encode_packet
from spooler.remote import AUTH_KEY, TASK_KEY, packed
from spooler.sending import seal
from spooler.task import MAX_HEADER, Name

from ..helpers import NOW_US, FakeClock

RULES = Rules(priority=5)
UWSGI = Rules(priority=999_999)
KEY = bytes(range(32))
OTHER = bytes(32)
PICKLE = b"(lp0\n."


def planned(
    packet: Packet, first: bytes = b"", rules: Rules = RULES, *, trusted: bool = False
) -> Plan:
    return plan(packet, first, rules, trusted=trusted, clock=FakeClock())


def native(header: dict[str, Any]) -> Packet:
    line = msgspec.json.encode(header) + b"\n"
    return read_packet(encode_packet({TASK_KEY: line}))


def test_a_packet_becomes_a_file_of_the_same_bytes() -> None:
    data = encode_packet({b"task": b"resize", b"at": b"1795208461", b"priority": b"2"})
    made = planned(read_packet(data))
    assert made.begin == data
    due, priority, attempt, _, task = str(made.name).split(".")
    assert (due, priority, attempt, task) == ("1795208461000000", "2", "0", "resize")


def test_what_names_nothing_is_due_now_at_the_priority_of_the_rest() -> None:
    made = planned(read_packet(encode_packet({b"a": b"b"})), rules=UWSGI)
    assert (made.name.due_us, made.name.priority) == (NOW_US, 999_999)
    assert made.name.task == "uwsgi"


@pytest.mark.parametrize("said", [b"", b"x", b"-1", b"0", b"000", b"1" * 40, b"1 "])
def test_what_announces_no_body_stays_as_it_is(said: bytes) -> None:
    packet = read_packet(encode_packet({b"CONTENT_LENGTH": said, b"a": b"b"}))
    assert (packet.length, packet.pairs[b"CONTENT_LENGTH"]) == (0, said)


def test_what_the_network_needs_is_taken_out() -> None:
    packet = read_packet(seal({b"task": b"t"}, b"12345", KEY))
    assert (packet.length, packet.pairs) == (5, {b"task": b"t"})
    assert packet.file is None
    assert packet.proof is not None


def test_a_native_task_is_kept_as_it_was_made() -> None:
    header = {"task": "t", "id": "0123456789abcdef", "at": 7, "priority": 1, "x": [2]}
    made = planned(native(header))
    assert decode(made.begin, whole=True) == made.header
    assert str(made.name) == "0000000007000000.1.0.0123456789abcdef.t"


def test_a_native_task_too_large_for_a_packet_is_in_the_body() -> None:
    file = msgspec.json.encode({"task": "t", "args": {"a": "x" * 70_000}}) + b"\nbody"
    args = msgspec.json.encode({"a": "x" * 70_000})
    pairs, body = packed("t", args, file)
    assert body == file
    packet = read_packet(seal(pairs, body))
    assert (packet.file, packet.length) == (b"", len(file))
    made = planned(packet, body[: MAX_HEADER + 1])
    assert made.begin == file


def test_a_native_task_has_its_arguments_as_uwsgi_would() -> None:
    args = b'{"photo":"1.png","width":200,"tags":["a"],"at":"home","":1}'
    pairs, body = packed("resize", args, b"{}\nbody", due=8.5, priority=3)
    own = {TASK_KEY: b"{}\n", b"at": b"8", b"priority": b"3"}
    text = {b"photo": b"1.png", b"width": b"200", b"tags": b'["a"]'}
    assert pairs == {b"ud_spool_func": b"resize", **text, **own}
    assert body == b"body"


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (read_packet(encode_packet({TASK_KEY: b"task=t\n"})), "not JSON"),
        (read_packet(encode_packet({TASK_KEY: b'{"task":"t"}\nmore'})), "nothing else"),
        (read_packet(encode_packet({TASK_KEY: b'{"task":"a b"}\n'})), "cannot be a na"),
        (native({"task": "_batch", "args": {"count": 1}}), "batch"),
        (native({"task": "t", "at": "+999999999999d"}), "at"),
        (native({"task": "t", "at": "+115000d"}), "at"),
        (native({"task": "t", "options": {"expires": []}}), "options"),
    ],
)
def test_what_is_no_task_is_refused(packet: Packet, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        planned(packet)


def test_a_body_that_stands_in_the_header_is_the_only_one() -> None:
    line = b'{"task":"t","body":"a"}\n'
    packet = read_packet(seal({TASK_KEY: line}, b"another"))
    with pytest.raises(Refused, match="body"):
        planned(packet)


PICKLED: list[Packet] = [
    read_packet(encode_packet({b"ud_spool_func": b"f", b"args": PICKLE})),
    read_packet(encode_packet({b"ud_spool_func": b"f", b"kwargs": PICKLE})),
    read_packet(encode_packet({b"args": PICKLE})),
    native({"task": "f", "args": {"args": "(lp0\n."}}),
    native({"task": "f", "args": {"kwargs": "(lp0\n."}}),
    native({"task": "f", "uwsgi": 4}),
    native(
        {
            "task": "f",
            "options": {
                "then": [
                    {
                        "task": "g",
                        "options": {
                            "on_failure": [{"task": "f", "args": {"args": "("}}]
                        },
                    }
                ]
            },
        }
    ),
]


@pytest.mark.parametrize("packet", PICKLED)
def test_pickles_are_taken_only_from_those_who_are_known(packet: Packet) -> None:
    with pytest.raises(Refused, match="pickled"):
        planned(packet)
    planned(packet, trusted=True)


def test_arguments_that_cannot_be_pickles_are_taken() -> None:
    args = {"args": [], "kwargs": {}, "o": {"args": ""}}
    planned(native({"task": "f", "args": args}))


def test_what_must_be_signed_is_refused_without_a_signature() -> None:
    rules = Rules(priority=5, signed=True)
    for packet in (read_packet(encode_packet({b"a": b"b"})), native({"task": "t"})):
        with pytest.raises(Refused, match="not signed"):
            planned(packet, rules=rules)
    line = b'{"sig":"' + b"0" * 64 + b'","id":"0123456789abcdef","task":"t"}\n'
    planned(read_packet(encode_packet({TASK_KEY: line})), rules=rules)


# -- the secret -----------------------------------------------------------------


def secret_file(folder: Path, *keys: bytes) -> str:
    path = folder / "secret"
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_text("".join(f"{key.hex()}\n" for key in keys))
    return str(path)


class Known:
    """What checks packets, with a clock."""

    def __init__(self, folder: Path, *keys: bytes, patience: float = 0.0) -> None:
        self.clock = FakeClock()
        file = secret_file(folder, *keys)
        self.secrets = Secrets(file, self.clock, patience)

    def check(self, data: bytes, body: bytes = b"") -> None:
        packet = read_packet(data)
        sums = self.secrets.begin(packet)
        for each in sums:
            each.update(body)
        self.secrets.end(packet.proof, sums)


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Known:
    made = Known(tmp_path, OTHER, KEY)
    monkeypatch.setattr("spooler.sending.CLOCK", made.clock)
    return made


def test_who_knows_a_secret_is_let_in_once(known: Known) -> None:
    data = seal({b"task": b"t"}, b"body", KEY)
    known.check(data, b"body")
    with pytest.raises(Refused, match="was sent before"):
        known.check(data, b"body")
    known.check(seal({b"task": b"t"}, b"body", OTHER), b"body")


def test_who_does_not_know_it_is_refused(known: Known) -> None:
    with pytest.raises(Refused, match="does not know the secret"):
        known.check(encode_packet({b"task": b"t"}))
    with pytest.raises(Refused, match="does not know the secret"):
        known.check(seal({b"task": b"t"}, b"", bytes(31) + b"1"))


def test_nothing_can_be_changed_on_the_way(known: Known) -> None:
    data = seal({b"task": b"t", b"a": b"1"}, b"body", KEY)
    with pytest.raises(Refused, match="changed on its way"):
        known.check(data, b"b0dy")
    with pytest.raises(Refused, match="changed on its way"):
        known.check(data.replace(b"\1\0a\1\x001", b"\1\0a\1\x002"), b"body")
    block = data[HEAD:] + b"\1\0b\1\x003"  # after what proves the rest
    more = b"\x11" + len(block).to_bytes(2, "little") + b"\0" + block
    with pytest.raises(Refused, match="not last"):
        known.check(more, b"body")


def test_what_is_old_or_of_the_future_is_refused(known: Known) -> None:
    data = seal({b"task": b"t"}, b"", KEY)
    for seconds in (-CLOCKS_APART - 1, 2 * CLOCKS_APART + 2):
        known.clock.wall_us += seconds * 1_000_000
        with pytest.raises(Refused, match="clock"):
            known.check(data)


def test_what_was_seen_is_forgotten_when_it_is_too_old_anyway(known: Known) -> None:
    for number in range(1024):
        known.check(seal({b"n": b"%d" % number}, b"", KEY))
    known.clock.wall_us += 3 * CLOCKS_APART * 1_000_000
    known.check(seal({b"n": b"last"}, b"", KEY))
    assert len(known.secrets._seen) == 1


def test_what_was_seen_is_known_for_as_long_as_it_may_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(tmp_path, KEY, patience=99.5)
    monkeypatch.setattr("spooler.sending.CLOCK", known.clock)
    data = seal({b"task": b"t"}, b"body", KEY)
    packet = read_packet(data)
    known.clock.wall_us -= CLOCKS_APART * 1_000_000
    known.check(data, b"body")
    known.clock.wall_us += 2 * CLOCKS_APART * 1_000_000
    sums = known.secrets.begin(packet)  # as late as it can be, and its body is slow
    sums[0].update(b"body")
    for number in range(1023):
        known.check(seal({b"n": b"%d" % number}, b"", KEY))
    known.clock.wall_us += 100 * 1_000_000
    with pytest.raises(Refused, match="was sent before"):
        known.secrets.end(packet.proof, sums)
    known.clock.wall_us += 1_000_000
    with pytest.raises(Refused, match="took too long"):
        known.secrets.end(packet.proof, sums)


def test_the_file_is_read_again_when_it_has_changed(
    known: Known, tmp_path: Path
) -> None:
    third = os.urandom(32)
    secret_file(tmp_path, third)
    assert known.secrets.look() is None  # not yet
    known.clock.seconds += LOOK_EVERY
    assert known.secrets.look() is None
    known.check(seal({b"task": b"t"}, b"", third))
    known.clock.seconds += LOOK_EVERY
    assert known.secrets.look() is None  # nothing new
    Path(secret_file(tmp_path)).write_text("rubbish")
    known.clock.seconds += LOOK_EVERY
    assert "a key is 64 hex digits" in (known.secrets.look() or "")
    known.check(seal({b"task": b"u"}, b"", third))


def test_a_pair_of_the_network_cannot_be_sent() -> None:
    for key in (b"CONTENT_LENGTH", AUTH_KEY):
        with pytest.raises(UsageError, match=key.decode()):
            seal({key: b"1"})
    assert seal({b"spooler": b"127.0.0.1:1"}) == encode_packet({})
    assert seal({b"spooler": b"/srv/spool"}) == encode_packet(
        {b"spooler": b"/srv/spool"}
    )


# -- anything at all --------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *(b"task", b"at", b"priority", b"body", b"spooler", b"ud_spool_func", b"args"),
        *(b"CONTENT_LENGTH", AUTH_KEY, TASK_KEY, b"1", b"+5m", b"-1", b"_batch", b""),
        *(b"0123456789abcdef", b"\0", b'{"task":"t"}\n'),
    ]
)
PIECES = st.one_of(WORDS, st.binary(max_size=30))


def check(data: bytes) -> None:
    """Check what becomes of a packet: a task, or nothing."""
    with suppress(Refused):
        packet = read_packet(data)
        made = planned(packet, rules=UWSGI, trusted=True)
        whole = not packet.length
        assert decode(made.begin, whole=whole) == made.header
        assert Name.parse(str(made.name)) == made.name


@given(st.dictionaries(PIECES.filter(len), PIECES, max_size=6))
def test_any_pairs_become_a_readable_task_or_are_refused(
    pairs: dict[bytes, bytes],
) -> None:
    check(encode_packet(pairs))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_become_a_readable_task_or_are_refused(
    data: bytes, fits: bool
) -> None:
    size = len(data).to_bytes(2, "little") if fits else b""
    check(b"\x11" + size + b"\0" + data)


# -- the pace -------------------------------------------------------------------


def test_tasks_beyond_the_rate_wait_and_then_are_refused() -> None:
    clock = FakeClock()
    pace = Pace(2.0, clock)
    clock.seconds += 10
    assert [pace.turn() for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]
    with pytest.raises(Refused, match="more than 2 tasks a second"):
        pace.turn()
    clock.seconds += 0.5
    assert pace.turn() == 1.0
    assert Pace(0).turn() == 0.0
