"""uWSGI packets: what fits, what is read back, what is refused."""

import pytest
from hypothesis import given, strategies as st

from spooler import codec
from spooler.errors import CorruptError, PacketTooLargeError
from spooler.packet import (
    PACKET_MAX,
    decode_large,
    decode_pairs,
    encode_large,
    encode_packet,
)

PAIRS = st.dictionaries(st.binary(min_size=1, max_size=50), st.binary(max_size=200))


@given(PAIRS, st.binary(max_size=50))
def test_a_packet_is_read_back_as_it_was(
    pairs: dict[bytes, bytes], rest: bytes
) -> None:
    data = encode_packet(pairs)
    assert decode_pairs(data + rest) == (pairs, len(data))
    assert data[0] == 17
    assert int.from_bytes(data[1:3], "little") == len(data) - 4


@given(PAIRS)
def test_large_pairs_are_read_back_as_they_were(pairs: dict[bytes, bytes]) -> None:
    assert decode_large(encode_large(pairs)) == pairs


def test_a_packet_holds_as_much_as_its_size_can_say() -> None:
    value = bytes(PACKET_MAX - 5)
    assert decode_pairs(encode_packet({b"k": value}))[0] == {b"k": value}
    with pytest.raises(PacketTooLargeError, match="65535"):
        encode_packet({b"k": value + b"1"})
    with pytest.raises(PacketTooLargeError):
        encode_packet({b"k": b"", bytes(PACKET_MAX - 4): b""})


@pytest.mark.parametrize("encode", [encode_packet, encode_large])
def test_an_empty_key_is_refused(encode: object) -> None:
    assert callable(encode)
    with pytest.raises(ValueError, match="empty"):
        encode({b"": b"1"})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x11", "cut short"),
        (b"\x11\x05\x00\x00abc", "cut short"),
        (b"\x11\x01\x00\x00a", "do not fit"),
        (b"\x11\x04\x00\x00\x00\x00\x00\x00", "empty key"),
        (b"\x11\x03\x00\x00\x01\x00a", "do not fit"),
        (b"\x11\x06\x00\x00\x01\x00a\x09\x00b", "do not fit"),
    ],
)
def test_a_broken_packet_is_corrupt(data: bytes, problem: str) -> None:
    with pytest.raises(CorruptError, match=problem):
        decode_pairs(data)


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (b"\x01\x00\x00", "do not fit"),
        (b"\x02\x00\x00\x00a", "do not fit"),
        (b"\x01\x00\x00\x00a", "without a value"),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00", "empty key"),
    ],
)
def test_broken_large_pairs_are_corrupt(block: bytes, problem: str) -> None:
    with pytest.raises(CorruptError, match=problem):
        decode_large(block)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_corrupt(rest: bytes) -> None:
    data = b"\x11" + rest
    try:
        pairs, end = decode_pairs(data)
    except CorruptError:
        return
    assert end <= len(data)
    assert b"" not in pairs


@given(st.binary(max_size=100))
def test_any_large_block_is_read_or_corrupt(block: bytes) -> None:
    try:
        pairs = decode_large(block)
    except CorruptError:
        return
    assert b"" not in pairs


def test_the_name_of_a_packet_is_one_that_a_task_may_have() -> None:
    name = codec.packet_task
    assert name({b"ud_spool_func": b"f", b"task": b"t"}) == "f"
    assert name({b"task": b"t"}) == "t"
    for bad in (b"two words", b"<lambda>", b"", b"\xff", b"_batch", b"a/b", b"x" * 200):
        assert name({b"task": bad}) == "uwsgi"
        assert name({b"ud_spool_func": bad, b"task": b"t"}) == "uwsgi"


def header(pairs: dict[bytes, bytes], rest: bytes = b"") -> codec.Header:
    found = codec.decode(encode_packet(pairs) + rest, whole=True)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "priority"),
    [
        (b"5", 5),
        (b"05", 5),
        (b"0", 0),
        (b"999999", 999_999),
        (b"1795208460", 999_998),
        (b"high", None),
        (b"-1", None),
        (b"", None),
    ],
)
def test_any_priority_can_be_read(text: bytes, priority: int | None) -> None:
    assert header({b"priority": text}).priority == priority


@pytest.mark.parametrize("text", [b"soon", b"", b"99999999999999", b"1e300", b"+5"])
def test_a_moment_that_is_none_counts_as_absent(text: bytes) -> None:
    assert header({b"at": text}).at is None


def test_the_bytes_after_a_packet_are_its_body_before_a_pair() -> None:
    assert header({b"body": b"pair"}).body == "pair"
    assert header({b"body": b"pair"}, b"after").body is None


def test_the_size_of_large_pairs_stands_in_the_header() -> None:
    head = codec.encode("t", b"{}", pairs=12)
    found = codec.decode(head + bytes(12), whole=True)
    assert found is not None
    assert (found.pairs, found.uwsgi, found.body_offset) == (12, False, len(head))
    with pytest.raises(CorruptError, match="uwsgi"):
        codec.decode(b'{"task":"t","uwsgi":1,"body":"x"}', whole=True)
    with pytest.raises(CorruptError, match="uwsgi"):
        codec.decode(b'{"task":"t","uwsgi":"x"}', whole=True)
    lines = codec.decode(b"task=t\nuwsgi=argument\n", whole=True)
    assert lines is not None
    assert lines.args == {"uwsgi": "argument"}
