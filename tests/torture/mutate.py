"""Rubbish: good and bad files, changed at random."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LEARNT_MAX: Final = 5000
LEARNT_SIZE: Final = 20_000
"""What is kept of what was of use: so many files of so many bytes."""

_SAMPLE: Final = Path(__file__).parents[2] / "spool_dirs" / "sample"

_KEYS: Final = (
    *("task", "args", "at", "priority", "body", "spooler", "id", "key", "options"),
    *("sig", "signed"),
    *("traceparent", "v", "ud_spool_func", "expires", "then", "on_failure", "parent"),
    *("if_exists", "keep_result", "unique_for", "soft_timeout", "keep_log"),
)

_MOMENTS: Final = (
    *("+5m", "+1.5h", "+0", "+", "+-1", "-1", "0", "1e999", "-1e-999", "9" * 400),
    *("9999999999.999999", "9999999999.9999999", "2286-11-20T17:46:39.999999Z"),
    *("2286-11-20T17:46:40Z", "2446-05-10T00:00:00Z", "1969-12-31T23:59:59Z"),
    *("0001-01-01T00:00Z", "0000-01-01T00:00Z", "2026-02-30T00:00Z", "2026-11-20"),
    *("2026-11-20T24:00Z", "2026-11-20T23:59:60Z", "2026-11-20T10:00+23:59"),
    *("2026-11-20T10:00+24:00", "2026-11-20T10:00-05:75", "2026-11-20 10:00+05"),
    *("2026-11-20T10:00:00.1234567890123Z", "20261120T1000Z", "+1e5", "+999999999d"),
    *("2026-11-20T10:00:00,5Z", "\u0661", "nan", "inf", "+1.m", "1.", ".5", "0x10"),
)

_WORDS: Final[tuple[bytes | str, ...]] = (
    *(key.encode() for key in _KEYS),
    *(f'"{key}":'.encode() for key in _KEYS),
    *(f"{key}=".encode() for key in _KEYS),
    *(f"{key}:=".encode() for key in _KEYS),
    *(moment.encode() for moment in _MOMENTS),
    *(b"null", b"true", b"false", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0"),
    *(b"0", b"-1", b"1.0", b"5.5", b"1E5", b"00", b"1" * 4300, b"1" * 4301, b"1" * 20),
    *(b"18446744073709551616", b"-9223372036854775809", b"1e308", b"1e-400", b"5e"),
    *(b"999999", b"1000000", b"8c1f42d09ab3e617", b"8C1F42D09AB3E617", b"_batch"),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b'"',
        b"\\",
        b"{}",
        b"[]",
        b'""',
        b"=",
        b":=",
    ),
    *(
        b"\n",
        b"\r\n",
        b"\r",
        b"\n\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\0",
        b"\x11",
        b"\x1b",
    ),
    *(b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0"),
    *(b"\\u0000", b"\\ud800", b"\\udc00\\ud800", b"\\ud83d\\ude00", b"\\x", b"\\/"),
    *("\u202e", "\u2028", "\u00a0", "\u0085", "\U0001f600", "\ufeff", "e\u0301"),
    *(b"[" * 201, b'{"a":' * 201, b"[" * 100_000, b"]" * 200, b"{" * 30, b"}}}}"),
    *(
        b".tmp",
        b".why",
        b"..",
        b"/",
        b"../../etc/passwd",
        b"\x1b[31m",
        b"\x07",
        b"a" * 300,
    ),
    *(b"\x11\0\0\0", b"\x11\xff\xff\0", b"\x01\0a\x01\0b", b"\x04\0task\x01\0t"),
    *(
        b'{"task":"t"}',
        b"task=t\n",
        b'{"task":"t","args":{"a":1}}\n',
        b"skip",
        b"replace",
    ),
)

WORDS: Final[tuple[bytes, ...]] = tuple(
    each.encode() if isinstance(each, str) else each for each in _WORDS
)
"""What means something to one of the readers."""

MOMENTS: Final = _MOMENTS


def samples() -> list[bytes]:
    """Return the files of all formats that are kept for ever, good and bad."""
    found = [p.read_bytes() for p in sorted(_SAMPLE.glob("*/*")) if p.is_file()]
    return [data for data in found if len(data) < 20_000]


class Mutator:
    """Changes what it is given, at random, and keeps what was of use.

    Args:
        chance: Where all chance comes from.
        corpus: What it begins with.
    """

    def __init__(self, chance: random.Random, corpus: Sequence[bytes]) -> None:
        self.chance = chance
        self.corpus = list(corpus)
        self.last = b""
        self._seen: set[object] = set()

    def data(self) -> bytes:
        """Return rubbish: a file of the corpus after some changes."""
        data = self.chance.choice(self.corpus)
        for _ in range(self.chance.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
            data = self._change(data)
        self.last = data[:3_000_000]
        return self.last

    def text(self) -> str:
        """Return rubbish as text; half surrogates are in it, too."""
        codec = self.chance.choice(("utf-8", "latin-1"))
        return self.data().decode(codec, "surrogateescape")

    def learn(self, data: bytes, sign: object) -> None:
        """Keep data whose effect was new: others are made from it.

        Args:
            sign: What it did; the same for what did the same.
        """
        if sign in self._seen or len(data) > LEARNT_SIZE:
            return
        self._seen.add(sign)
        if len(self.corpus) < LEARNT_MAX:
            self.corpus.append(data)

    @property
    def signs(self) -> int:
        """How many different effects were seen."""
        return len(self._seen)

    def _change(self, data: bytes) -> bytes:
        chance = self.chance
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((0, 1, 1, 2, 4, 16, 200)))
        match chance.randrange(10):
            case 0:
                return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
            case 1:
                return data[:at] + data[end:]
            case 2 | 3 | 4:
                return data[:at] + chance.choice(WORDS) + data[at:]
            case 5:
                return data[:at] + chance.choice(WORDS) + data[end:]
            case 6:
                return data[:at] + data[at:end] * chance.randrange(2, 5) + data[end:]
            case 7:
                other = chance.choice(self.corpus)
                return data[:at] + other[chance.randrange(len(other) + 1) :]
            case 8:
                return self._sized(data)
            case _:
                return data[:at]

    def _sized(self, data: bytes) -> bytes:
        """Return a packet whose block has the size that it says."""
        pairs = data[4:] if data[:1] == b"\x11" else self._pair() + self._pair()
        if self.chance.random() < 0.5:
            pairs += self._pair()
        pairs = pairs[:0xFFFF]
        return b"\x11" + len(pairs).to_bytes(2, "little") + b"\0" + pairs

    def _pair(self) -> bytes:
        words = [self.chance.choice(WORDS)[:1000] for _ in range(2)]
        return b"".join(len(w).to_bytes(2, "little") + w for w in words)


def shown(data: bytes) -> str:
    """Return input for a report: short, on one line."""
    text = repr(data)
    return text if len(text) < 400 else f"{text[:300]}… ({len(data)} bytes)"


def an_object(chance: random.Random, depth: int = 3) -> object:
    """Return a JSON value of any type."""
    kinds = "nbifst" + ("ld" if depth else "")
    match chance.choice(kinds):
        case "n":
            return None
        case "b":
            return chance.random() < 0.5
        case "i":
            return chance.choice((0, 1, -1, 2**63, 2**64, -(2**70), 10**20, 7, 10**400))
        case "f":
            return chance.choice((0.0, -0.5, 1e300, 5e-324, 2.5, 1.7e9))
        case "s":
            return chance.choice(("", "x", "\x1b[2J", "\u202e", "\0", "ä" * 50, "a\nb"))
        case "t":
            return chance.choice(_MOMENTS)
        case "l":
            return [an_object(chance, depth - 1) for _ in range(chance.randrange(4))]
        case _:
            keys = [chance.choice((*_KEYS, "", "\x1b", "é")) for _ in range(3)]
            return {key: an_object(chance, depth - 1) for key in keys}


def json_line(value: object) -> bytes:
    """Return a value as JSON with a line end."""
    return json.dumps(value).encode() + b"\n"
