"""uWSGI packets: pairs of bytes ⇄ the block that holds them, with its head.

Works on bytes in memory. Specification: docs/format.md, "uWSGI packet".
"""

from collections.abc import Mapping
from typing import Final

from .errors import CorruptError, PacketTooLargeError

PACKET_MAX: Final = 0xFFFF
"""Bytes of the block, and of a key or a value in it."""

HEAD: Final = 4
"""Bytes before the block: 0x11, its size, modifier 2."""

PACKET: Final = b"\x11"
"""The first byte of a packet."""


def encode_packet(pairs: Mapping[bytes, bytes]) -> bytes:
    """Return the head and the block of a packet.

    Raises:
        PacketTooLargeError: The block is larger than ``PACKET_MAX``.
        ValueError: A key is empty.
    """
    pieces = [b""]
    size = 0
    for key, value in pairs.items():
        if not key:
            raise ValueError("a key of a packet is not empty")
        for piece in (key, value):
            size += 2 + len(piece)
            if size > PACKET_MAX:
                raise PacketTooLargeError(PACKET_MAX)
            pieces += (len(piece).to_bytes(2, "little"), piece)
    pieces[0] = PACKET + size.to_bytes(2, "little") + b"\0"
    return b"".join(pieces)


def packet_end(data: bytes) -> int:
    """Return where the body begins, by the head that data begins with."""
    return HEAD + int.from_bytes(data[1:3], "little")


def decode_pairs(data: bytes) -> tuple[dict[bytes, bytes], int]:
    """Read the packet that data begins with.

    Args:
        data: Its first byte is 0x11; what follows the block is not looked at.

    Returns:
        The pairs, of which the last of equal keys counts; where the body begins.

    Raises:
        CorruptError: It is cut short, or what is in it does not fit.
    """
    end = packet_end(data)
    if len(data) < max(end, HEAD):
        raise CorruptError(f"uWSGI packet: cut short, {len(data)} of {end} bytes")
    pairs: dict[bytes, bytes] = {}
    start = HEAD
    while start < end:
        key, start = _piece(data, start, end)
        value, start = _piece(data, start, end)
        if not key:
            raise CorruptError(f"uWSGI packet: empty key before byte {start}")
        pairs[key] = value
    return pairs, end


def _piece(data: bytes, start: int, end: int) -> tuple[bytes, int]:
    """Read a key or a value; return where the next one begins."""
    first = start + 2
    stop = first + int.from_bytes(data[start:first], "little")
    if first > end or stop > end:
        raise CorruptError(f"uWSGI packet: bytes {start} and on do not fit in it")
    return data[first:stop], stop


def encode_large(pairs: Mapping[bytes, bytes]) -> bytes:
    """Return pairs of any size, each length as 32 bits, little-endian.

    Raises:
        ValueError: A key is empty.
        OverflowError: A key or value has 4 GiB or more.
    """
    pieces: list[bytes] = []
    for key, value in pairs.items():
        if not key:
            raise ValueError("a key of a packet is not empty")
        for piece in (key, value):
            pieces += (len(piece).to_bytes(4, "little"), piece)
    return b"".join(pieces)


def decode_large(block: bytes) -> dict[bytes, bytes]:
    """Read what ``encode_large`` has written: all of the block.

    Raises:
        CorruptError: What is in it does not fit.
    """
    pieces: list[bytes] = []
    start = 0
    while start < len(block):
        first = start + 4
        stop = first + int.from_bytes(block[start:first], "little")
        if first > len(block) or stop > len(block):
            raise CorruptError(f"uwsgi: bytes {start} and on do not fit in its pairs")
        pieces.append(block[first:stop])
        start = stop
    if len(pieces) % 2 or b"" in pieces[::2]:
        raise CorruptError("uwsgi: a key without a value, or an empty key")
    return dict(zip(pieces[::2], pieces[1::2], strict=True))
