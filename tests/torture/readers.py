"""Rubbish for what reads bytes and text: the codec, names, moments, arguments."""

import datetime as dt
import json
import math
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal

from spooler.arguments import Arguments
from spooler.codec import Header, decode, encode
from spooler.errors import ArgumentsError, CorruptError, UsageError
from spooler.lines import decode_line
from spooler.moments import duration, parse_at
from spooler.spooldir.batches import Range, parse_range
from spooler.task import MAX_DUE_US, MINUTE_US, Name, minute_of, minute_start_us

from . import reference
from .mutate import MOMENTS, Mutator, an_object

NOW_US: Final = 1_795_208_460_000_000
REASON_MAX: Final = 1000
"""Characters of a reason: it is for one line of a log."""


class Color(Enum):
    """A type of an argument."""

    RED = "red"


@dataclass
class Point:
    """A type of an argument."""

    x: int
    y: float = 0.0
    name: str | None = None


def _numbers(a: int, b: float = 1.5, c: bool = False, d: int | None = None) -> None:
    """Take numbers."""


def _texts(task: str, args: Path, at: dt.datetime, v: Literal["skip", 1] = 1) -> None:
    """Take what text may stand for."""


def _things(
    p: Point | None = None,
    q: list[Point] | dict[str, int] | None = None,
    r: tuple[int, str] = (1, "a"),
    s: set[str] | None = None,
    t: dt.timedelta | dt.date | uuid.UUID | Color | None = None,
) -> None:
    """Take what is made of other things."""


def _any(args: dict[str, Any]) -> None:
    """Take everything."""


def _rest(a: int = 0, body: bytes = b"", **rest: int | str) -> None:
    """Take names that are not known."""


FUNCTIONS: Final = tuple(
    Arguments(each, each.__name__) for each in (_numbers, _texts, _things, _any, _rest)
)


PLAIN: Final = tuple(
    Arguments(function, task)
    for task in ("t", "resize", "remind", "say", "webhook")
    for function in (_numbers, _texts, _things)
)
"""Of functions whose tasks may be read in one step, under names that samples have."""


class Broken(AssertionError):  # noqa: N818 (no error of ours)
    """A promise was broken; the text says by what."""


def expect(fact: object, what: str, *details: object) -> None:
    """Raise ``Broken`` unless something is so."""
    if not fact:
        raise Broken(f"{what}: " + ", ".join(map(repr, details)))


def check_reason(reason: str) -> None:
    """Check what a log is to show."""
    expect(reason and reason.isascii() and reason.isprintable(), "reason", reason)
    expect(len(reason) <= REASON_MAX, "long reason", len(reason), reason[:100])


# -- the codec ------------------------------------------------------------------------


def codec(mutator: Mutator) -> bytes:
    """Read rubbish as a task; compare with the reference."""
    data = mutator.data()
    header, reason = _decoded(data)
    shape = _mask(reason) if header is None else _shape(header)
    mutator.learn(data, shape)
    _compare(data, header, reason)
    _check_pieces(data, header, mutator.chance)
    _check_whole(data, header, mutator.chance)
    if header is not None:
        _use(header, mutator.chance)
    return data


def _decoded(data: bytes) -> tuple[Header | None, str]:
    try:
        header = decode(data, whole=True)
    except CorruptError as error:
        check_reason(error.reason)
        return None, error.reason
    expect(header is not None, "a whole file is a task or none")
    return header, ""


def _mask(reason: str) -> str:
    head = reason.partition("'")[0].partition("`")[0]
    return "".join("9" if c.isdigit() else c for c in head)[:60]


def _shape(header: Header) -> tuple[object, ...]:
    args = header.args
    size = len(args).bit_length() // 2
    given = tuple(type(getattr(header, name)) for name in header.__struct_fields__)
    return (*given, size)


def _compare(data: bytes, header: Header | None, reason: str) -> None:
    """Compare with what the reference says, where it can tell."""
    try:
        task = reference.read(data)
    except reference.Bad as bad:
        expect(header is None, "the reference refuses it", str(bad), header)
        return
    except reference.TooDeepForMe:
        expect(header is None, "too deep, and taken")
        return
    if header is None:
        # Of options the reference knows nothing; a key may occur twice; and where a
        # moment ends exactly is a matter of rounding.
        excused = reason.startswith(("options", "JSON: ")) or "options" in task.keys
        excused = excused or (data[:1] == b"{" and _has_twice(data))
        expect(excused or "2286" in reason, "the reference takes it", reason)
        return
    got = {k: getattr(header, k) for k in reference.LINE_KEYS if hasattr(header, k)}
    for key, value in got.items():
        if key != "options":
            expect(value == task.keys.get(key), "differs", key, value, task.keys)
    expect(header.body_offset == task.body_offset, "where the body begins differs")
    args = header.args
    found = json.loads(args) if isinstance(args, bytes) else args
    expect(found == task.args, "args differ", found, task.args)


def _has_twice(data: bytes) -> bool:
    """Tell whether a key occurs twice in an object of JSON."""
    twice = False

    def note(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal twice
        twice = twice or len(dict(pairs)) < len(pairs)
        return dict(pairs)

    text = data.decode("utf-8", "replace")
    json.JSONDecoder(object_pairs_hook=note).raw_decode(text)
    return twice


def _check_pieces(data: bytes, header: Header | None, chance: random.Random) -> None:
    """Check that a part of a file is never taken for something else."""
    for _ in range(2):
        length = chance.randrange(max(1, len(data)))
        try:
            piece = decode(data[:length], whole=False)
        except CorruptError as error:
            check_reason(error.reason)
            expect(header is None, "a piece is corrupt, the whole is not", length)
            continue
        if header is not None:
            expect(piece in (None, header), "a piece is another task", length)


def _check_whole(data: bytes, header: Header | None, chance: random.Random) -> None:
    """Check that reading in one step takes nothing that the long way refuses."""
    arguments = chance.choice(PLAIN)
    task_id = chance.choice((None, None if header is None else header.id))
    values = arguments.decode_whole(data, task_id)
    if values is None:
        return
    expect(header is not None, "read in one step, and no task")
    if header is not None:
        given = (header.at, header.body, header.key, header.options)
        expect(given == (None,) * 4, "more was said than was read", header)
        expect(header.body_offset == len(data), "it has a body", header)
        expect(arguments.decode(header.args) == values, "differs", header, values)


def _use(header: Header, chance: random.Random) -> None:
    """Do what is done with a header later on."""
    if header.at is not None:
        _moment_of(header.at)
    arguments = chance.choice(FUNCTIONS)
    _load(arguments, header.args)
    name = Name(0, header.priority or 0, 0, header.id or "0" * 16, header.task)
    expect(Name.parse(str(name)) == name, "its name cannot be read back", str(name))
    if isinstance(header.args, bytes):
        _round_trip(header, header.args)


def _round_trip(header: Header, args: bytes) -> None:
    given = {
        key: getattr(header, key)
        for key in ("at", "priority", "body", "id", "key", "traceparent", "options")
    }
    try:
        data = encode(header.task, args, **given)
    except UsageError:
        expect(len(args) > 1000, "what was read cannot be written", len(args))
        return
    again = decode(data, whole=True)
    expect(again is not None, "what was written is not whole")
    for key in ("task", "args", "uwsgi", *given):
        was = b"".join(args.split()) if key == "args" else getattr(header, key)
        now = getattr(again, key)
        now = b"".join(now.split()) if key == "args" else now
        expect(now == was, "changed by writing", key, was, now)


def _load(arguments: Arguments, args: bytes | object) -> None:
    try:
        arguments.decode(args)  # type: ignore[arg-type]  # a header's own
    except ArgumentsError as error:
        expect(len(str(error)) < 5000, "a long message", len(str(error)))


# -- the rest -------------------------------------------------------------------------


def batch_line(mutator: Mutator) -> bytes:
    """Read rubbish as a line of a batch, and as how far a batch has come."""
    data = mutator.data().replace(b"\n", b"")
    try:
        header = decode_line(data)
    except CorruptError as error:
        check_reason(error.reason)
        mutator.learn(data, _mask(error.reason))
    else:
        expect(header.body_offset == len(data), "a line has a body", header)
        given = (header.id, header.key, header.priority)
        expect(given == (None, None, None), "keys", header)
        mutator.learn(data, _shape(header))
    _range(data)
    return data


def _range(data: bytes) -> None:
    try:
        found = parse_range(data)
    except ValueError:
        return
    if found is not None:
        expect(found.encode() == data.rstrip(b"\0"), "a range", found)


def a_range(mutator: Mutator) -> bytes:
    """Read a range after some changes."""
    chance = mutator.chance
    part = Name(NOW_US, 5, 0, "ab" * 8, "_batch") if chance.random() < 0.5 else None
    good = Range(chance.randrange(5), 5, "cd" * 8, part, chance.random() < 0.5)
    expect(parse_range(good.encode()) == good, "a good range", good)
    data = bytearray(good.encode() + b"\0" * chance.randrange(3))
    for _ in range(chance.randrange(4)):
        data[chance.randrange(len(data))] = chance.choice(b"0 -.9a\n\xff\0")
    _range(bytes(data[: chance.randrange(len(data) + 1)]))
    return bytes(data)


_PIECES: Final = (
    *("0000000000000000", "1795208460000000", "9999999999999999", "5", "0", "999999"),
    *("1000000", "05", "", ".", "..", "8c1f42d09ab3e617", "ABCDEF0123456789", "t"),
    *("resize.photo", "_x", " t", "é", "²", "½", "\u0661", "\u202et", "a" * 128),
    *(
        "ä" * 64,
        "ä" * 65,
        "t.tmp",
        "t.why",
        "t\n",
        "\udcff",
        "t/x",
        "\0",
        "日本語",
        "-",
    ),
)


def names(mutator: Mutator) -> bytes:
    """Read rubbish as the name of a file."""
    chance = mutator.chance
    if chance.random() < 0.8:
        parts = [chance.choice(("1795208460000000", chance.choice(_PIECES)))]
        parts += [chance.choice(("5", "0", chance.choice(_PIECES))) for _ in range(2)]
        parts += [chance.choice(("8c1f42d09ab3e617", chance.choice(_PIECES)))]
        parts += [chance.choice(_PIECES) for _ in range(chance.randrange(3))]
        text = ".".join(parts)
    else:
        text = mutator.text()
    name, expected = Name.parse(text), reference.parse_name(text)
    found = name and (name.due_us, name.priority, name.attempt, name.id, name.task)
    expect(found == expected, "differs", text, found, expected)
    if name is not None:
        expect(str(name) == text and Name.parse(str(name)) == name, "again", text)
        start = minute_start_us(name.folder.partition("/")[2])
        expect(start == name.due_us // MINUTE_US * MINUTE_US, "folder", name.folder)
    minute_start_us(text)
    return text.encode("utf-8", "surrogatepass")


def moments(mutator: Mutator) -> bytes:
    """Read rubbish as a moment and as a duration."""
    chance = mutator.chance
    text = chance.choice(MOMENTS)
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        at, new = (
            chance.randrange(len(text) + 1),
            chance.choice("0123456789+-.:TZe smhd"),
        )
        text = chance.choice((text[:at] + new + text[at:], text[:at] + text[at + 1 :]))
    _moment_of(text)
    value = an_object(chance, 0)
    if isinstance(value, int | float):
        _moment_of(value)
    try:
        seconds = duration("x", text)
    except UsageError as error:
        expect(str(error).isprintable(), "message", str(error))
    else:
        expect(seconds is not None and 0 <= seconds < math.inf, "duration", seconds)
    return text.encode()


def _moment_of(value: str | int | float) -> None:
    try:
        expected: float | None = reference.moment(value, NOW_US)
    except reference.Bad:
        expected = None
    try:
        found = parse_at(value, NOW_US)
    except ValueError as error:
        expect(str(error).isprintable(), "message", str(error))
        near = expected is not None and expected > MAX_DUE_US - 2
        expect(expected is None or near, "refused", value, expected, str(error))
        return
    expect(0 <= found <= MAX_DUE_US, "out of range", value, found)
    expect(expected is not None, "taken", value, found)
    allowed = 2 + abs(expected or 0) * 2**-51
    expect(abs(found - (expected or 0)) <= allowed, "differs", value, found, expected)
    minute_of(found)


def written(mutator: Mutator) -> bytes:
    """Write a task at random; it must be read as it was written."""
    chance = mutator.chance
    value = an_object(chance)
    args = json.dumps({chance.choice(("a", "é", "\0")): value}).encode()
    text = chance.choice(("", "x", "\n", "é\u2028", "\x1b", "{", "a" * 5000))
    given: dict[str, Any] = {
        "at": chance.choice((None, "+5m", 1.5, 0, -3, "2026-11-20T10:00:00.5+05")),
        "priority": chance.choice((None, 0, 5, 999_999)),
        "body": chance.choice((None, text)),
        "id": chance.choice((None, "8c1f42d09ab3e617")),
        "key": chance.choice((None, "k", "é" * 100)),
        "traceparent": chance.choice((None, text)),
    }
    data = encode(chance.choice(("t", "_", "é.t", "a" * 128)), args, **given)
    header, reason = _decoded(data)
    expect(header is not None, "what was written is no task", reason)
    for key, was in given.items():
        expect(getattr(header, key) == was, "written", key, was)
    expect(header is not None and header.args == args, "args", args)
    _compare(data, header, reason)
    return data


Target = Callable[[Mutator], bytes]

TARGETS: Final[dict[str, Target]] = {
    "codec": codec,
    "names": names,
    "moments": moments,
    "written": written,
    "lines": batch_line,
    "ranges": a_range,
}
"""Each does something once, and returns the input, to be shown if that broke."""
