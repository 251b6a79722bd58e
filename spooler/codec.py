"""Task file ⇄ bytes: JSON, ``key=value`` lines and uWSGI packets.

Works on bytes in memory and touches no file. What it cannot read it calls corrupt,
always for the same reason, whoever asks and however deep in a program.
Specification: docs/format.md, section 2.
"""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from .errors import CorruptError, TaskNameError, UsageError
from .moments import NUMBER, parse_at, show
from .options import RunOptions, check_key, check_options
from .packet import PACKET, decode_pairs, packet_end
from .task import (
    BATCH,
    MAX_HEADER,
    MAX_PRIORITY,
    check_task_name,
    is_id,
    is_priority,
)

MAX_DEPTH: Final = 200
"""Levels of objects and arrays in JSON. Must stay far below Python's recursion
limit, so that what a supervisor could read a worker can read too."""

SHORT: Final = MAX_DEPTH
"""Bytes of JSON that cannot be nested too deep, whatever they are."""

_SAID_MAX: Final = 300
"""Characters of what a decoder says that are kept: it may quote the whole file."""

UWSGI: Final = "uwsgi"
"""The name of a uWSGI task that has no better one."""

_TOO_DEEP: Final = f"JSON is nested more than {MAX_DEPTH} levels deep"
_TOO_LARGE: Final = f"header is larger than {MAX_HEADER} bytes"

_JSON_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Header(msgspec.Struct, frozen=True):
    """What stands before the body in a task file (docs/format.md, section 2).

    Attributes:
        args: The arguments: the JSON object as it stands in the file, or a dict
            whose values are text (``key=value`` and uWSGI files).
        at: The ``at`` key as it was written, not yet a moment.
        body: The ``body`` key; None if absent.
        body_offset: Where the body begins in the file.
        uwsgi: It is a uWSGI packet.
        signed: When it was signed, in seconds since the epoch, if it says so.
        pairs: How many of the body's first bytes are a uWSGI task's pairs, which were
            too large for a packet; None if it is none.
    """

    task: str
    args: bytes | Mapping[str, object]
    body_offset: int
    at: str | int | float | None = None
    priority: int | None = None
    body: str | None = None
    id: str | None = None
    key: str | None = None
    traceparent: str | None = None
    options: RunOptions | None = None
    uwsgi: bool = False
    signed: float | None = None
    pairs: int | None = None


class _Keys(msgspec.Struct, omit_defaults=True, gc=False):
    """The keys that mean something (docs/format.md, "Keys")."""

    task: str
    args: msgspec.Raw = msgspec.Raw(b"{}")
    at: str | int | float | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)] | None = None
    body: str | None = None
    spooler: str | None = None
    id: str | None = None
    key: str | None = None
    traceparent: str | None = None
    options: RunOptions | None = None
    v: int | None = None
    sig: str | None = None
    signed: Annotated[float, msgspec.Meta(ge=0, lt=1e10)] | None = None
    uwsgi: Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)] | None = None


_LINE_KEYS: Final = tuple(
    key for key in _Keys.__struct_fields__ if key not in ("args", "signed", "uwsgi")
)
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_Keys)
_ANY_DECODER = msgspec.json.Decoder()


def _refuse(constant: str) -> None:
    raise CorruptError(f"not JSON: {constant} is no number")


# Only tells where an object ends and where it is broken; makes no numbers.
_SCANNER = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refuse)


def encode(
    task: str,
    args: bytes,
    *,
    at: str | int | float | None = None,
    priority: int | None = None,
    body: str | None = None,
    id: str | None = None,
    key: str | None = None,
    traceparent: str | None = None,
    options: RunOptions | None = None,
    pairs: int | None = None,
) -> bytes:
    """Return the header of a task file: one line of JSON with its newline.

    ``args`` is a JSON object and is put in as it is. The body, if there is one, goes
    right after the header. The name, the priority and the id are not checked here.

    Args:
        pairs: How many of the body's first bytes are pairs: see ``Header``.

    Raises:
        UsageError: No reader would take it: too large, or nested too deep.
        ValueError: ``at`` is not a moment, or a text has half a surrogate pair.
    """
    if at is not None:
        parse_at(at, 0)
    keys = _Keys(
        task,
        msgspec.Raw(args),
        at,
        priority,
        body,
        None,
        id,
        key,
        traceparent,
        options,
        uwsgi=pairs,
    )
    header = _ENCODER.encode(keys) + b"\n"
    if len(header) > MAX_HEADER:
        raise UsageError(f"{_TOO_LARGE}: put what is large into the body")
    if _is_deep(header):
        raise UsageError(_TOO_DEEP)
    return header


def around(
    task: str, *, traceparent: str | None = None, options: RunOptions | None = None
) -> tuple[bytes, bytes]:
    """Return what stands before and after the arguments in a header.

    With the arguments, ``SHORT`` bytes of them at most, between them it is the header
    that ``encode`` returns.

    Raises:
        UsageError: No reader would take it: too large.
    """
    header = encode(task, b"{}", traceparent=traceparent, options=options)
    if len(header) + SHORT > MAX_HEADER:
        raise UsageError(f"{_TOO_LARGE}: put what is large into the body")
    before, args, after = header.partition(b'"args":{}')
    return before + args[:-2], after


def decode(data: bytes, *, whole: bool) -> Header | None:
    """Read the header of a task file.

    Args:
        data: The first bytes; ``MAX_HEADER + 1`` are enough for any header.
        whole: That is all of the file. If not, there must be more: ask ``fstat``.

    Returns:
        The header; or None if it goes on after ``data``: read more.

    Raises:
        CorruptError: It is not a task.
    """
    if whole and not data:
        raise CorruptError("empty file")
    head = data[:MAX_HEADER]
    ends = whole and len(data) <= MAX_HEADER
    if head.startswith(b"{"):
        header = _read_json(head, ends=ends)
    elif head.startswith(PACKET):
        header = _read_packet(head, ends=ends)
    else:
        header = _read_lines(head, ends=ends)
    if header is None:
        if len(data) > MAX_HEADER:
            raise CorruptError(_TOO_LARGE)
    elif header.body is not None and not (whole and header.body_offset == len(data)):
        raise CorruptError("there is a key `body` and a body after the header as well")
    return header


def _header(
    keys: _Keys, args: bytes | Mapping[str, object], end: int, *, uwsgi: bool = False
) -> Header:
    """Check what every format has in common."""
    try:
        check_task_name(keys.task)
        if keys.at is not None:
            parse_at(keys.at, 0)
        if keys.key is not None:
            check_key(keys.key)
        if keys.options is not None:
            check_options(keys.options)
    except TaskNameError:
        raise CorruptError(f"task: {show(keys.task)} cannot be a name") from None
    except ValueError as error:
        raise CorruptError(str(error)) from None
    if keys.id is not None and not is_id(keys.id):
        raise CorruptError(f"id: {show(keys.id)} is not 16 hex digits, lower case")
    if keys.v is not None and keys.v != 1:
        raise CorruptError("v: only version 1 of the format is known")
    at, priority, body = keys.at, keys.priority, keys.body
    id_, key, trace, options = keys.id, keys.key, keys.traceparent, keys.options
    if keys.uwsgi is not None and keys.body is not None:
        raise CorruptError("uwsgi: its pairs are in a body after the header")
    return Header(
        keys.task,
        args,
        end,
        at,
        priority,
        body,
        id_,
        key,
        trace,
        options,
        uwsgi,
        keys.signed,
        keys.uwsgi,
    )


def _is_deep(data: bytes) -> bool:
    """Tell whether JSON, known to be well formed, is nested too deep."""
    if len(data) <= MAX_DEPTH or data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    left = _JSON_TEXT.sub(b"", data).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        left = left.replace(b"[]", b"")  # takes away the innermost level
    return left != b""


def _read_json(head: bytes, *, ends: bool) -> Header | None:
    newline = head.find(b"\n")
    line = head if newline < 0 else head[:newline].removesuffix(b"\r")
    end = newline + 1 or len(head)
    if line.endswith(b"}") and (newline > 0 or ends):
        try:
            return _read_object(line, end)
        except (ValueError, RecursionError, msgspec.MsgspecError):
            pass  # Several lines, or broken: find out which, and where.
    try:
        return _read_json_exactly(head, ends=ends)
    except RecursionError:
        raise CorruptError(_TOO_DEEP) from None


def _read_object(data: bytes, end: int) -> Header:
    """Read exactly one JSON object. The common way: keep it short."""
    keys = _DECODER.decode(data)
    if not data.isascii():
        data.decode()  # msgspec skips what it need not make into text
    args = bytes(keys.args)
    if not args.startswith(b"{"):
        if args != b"null":
            raise CorruptError("args: not a JSON object")
        args = b"{}"
    _ANY_DECODER.decode(args)
    if _is_deep(data):
        raise CorruptError(_TOO_DEEP)
    return _header(keys, args, end)


def _read_json_exactly(head: bytes, *, ends: bool) -> Header | None:
    """Read an object of any shape; or say what is wrong, and where."""
    text, is_text = _leading_text(head, ends=ends)
    try:
        _, length = _SCANNER.raw_decode(text)
    except json.JSONDecodeError as error:
        open_end = error.msg.startswith("Unterminated") or error.pos == len(text)
        # An error near the end may come from what is missing there.
        if is_text and not ends and (open_end or error.pos > len(text) - 12):
            return None
        if open_end and not is_text:
            lines = text.count("\n") + 1
            raise CorruptError(f"line {lines}: not UTF-8") from None
        where = f"line {error.lineno}, column {error.colno}"
        raise CorruptError(f"{where}: not JSON: {_lower(error.msg)}") from None
    data = text[:length].encode()
    after = head[len(data) : len(data) + 2]
    if not ends and after in (b"", b"\r"):
        return None
    if after != b"\r\n" and after[:1] not in (b"", b"\n"):
        line = data.count(b"\n") + 1
        raise CorruptError(f"line {line}: no newline after the JSON object")
    try:
        return _read_object(data, len(data) + after.find(b"\n") + 1)
    except msgspec.ValidationError as error:
        raise CorruptError(f"JSON: {_lower(str(error))}") from None
    except msgspec.DecodeError:
        raise CorruptError("JSON: a text has half a surrogate pair") from None


def _leading_text(head: bytes, *, ends: bool) -> tuple[str, bool]:
    """Return the text that data begins with, and whether there is nothing else."""
    try:
        return head.decode(), True
    except UnicodeDecodeError as error:
        cut = not ends and error.reason == "unexpected end of data"
        return head[: error.start].decode(), cut


def _read_lines(head: bytes, *, ends: bool) -> Header | None:
    if head.startswith(BOM_UTF8):
        raise CorruptError("line 1: a byte order mark")
    pairs: dict[str, object] = {}
    start = number = 0
    while start < len(head):
        number += 1
        stop = head.find(b"\n", start)
        if stop < 0 and not ends:
            return None
        line = head[start:stop].removesuffix(b"\r") if stop >= 0 else head[start:]
        start = stop + 1 if stop >= 0 else len(head)
        if not line:
            break
        try:
            key, value = _read_line(line)
            if key in pairs:
                raise ValueError(f"the key {show(key)} occurs twice")
        except ValueError as error:
            raise CorruptError(f"line {number}: {error}") from None
        pairs[key] = value
    else:
        if not ends:
            return None
    if "task" not in pairs:
        some = ", ".join(show(key) for key in list(pairs)[:3])
        raise CorruptError(f"no line task=... (its keys: {some})")
    known = {key: pairs.pop(key) for key in _LINE_KEYS if key in pairs}
    try:
        keys = msgspec.convert(known, _Keys)
    except msgspec.ValidationError as error:
        raise CorruptError(_lower(str(error))) from None
    return _header(keys, pairs, start)


def _read_line(line: bytes) -> tuple[str, object]:
    """Read ``key=text`` or ``key:=json``; raise ValueError for anything else."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if "\0" in text:
        raise ValueError("a NUL byte")
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"no = in {show(text)}")
    if key in ("", ":"):
        raise ValueError("no key before the =")
    if not key.endswith(":"):
        return key, _number(key, value) if key in ("priority", "v") else value
    try:
        typed: object = _ANY_DECODER.decode(value)
        if _is_deep(value.encode()):
            raise RecursionError
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except msgspec.MsgspecError as error:
        raise ValueError(f"not JSON: {_lower(str(error))}") from None
    return key[:-1], typed


def _read_packet(head: bytes, *, ends: bool) -> Header | None:
    if not ends and len(head) < packet_end(head):
        return None
    found, end = decode_pairs(head)
    pairs = {_text(key): _text(value) for key, value in found.items()}
    task = packet_task(found)
    taken = {key: pairs.pop(key, "") for key in ("at", "priority", "body", "spooler")}
    at, priority, body = taken["at"], taken["priority"], taken["body"]
    keys = _Keys(
        task,
        at=at if is_moment(at) else None,
        priority=packet_priority(priority),
        # What follows the block is the body, wherever it came from.
        body=body if body and ends and end == len(head) else None,
    )
    return _header(keys, pairs, end, uwsgi=True)


def packet_priority(text: str) -> int | None:
    """Return the priority that uWSGI's ``priority`` means; None if it means none.

    Any digits do. What is too large becomes the last one that comes before the rest.
    """
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    most = len(str(MAX_PRIORITY))
    return int(digits) if len(digits) <= most else MAX_PRIORITY - 1


def is_moment(text: str) -> bool:
    """Tell whether uWSGI's ``at`` is a number, and one that a name can hold."""
    if not NUMBER.fullmatch(text):
        return False
    try:
        parse_at(text, 0)
    except ValueError:
        return False
    return True


def packet_task(pairs: Mapping[bytes, bytes]) -> str:
    """Return the name of the task that a packet is: ``uwsgi`` if it has none."""
    name = _text(pairs.get(b"ud_spool_func", pairs.get(b"task", b"")))
    try:
        return UWSGI if name == BATCH else check_task_name(name)
    except (TaskNameError, UnicodeEncodeError):
        return UWSGI


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "surrogateescape")


def _number(key: str, text: str) -> int:
    if not is_priority(text):
        raise ValueError(f"{key}: {show(text)} is not a whole number up to 999999")
    return int(text)


def _lower(text: str) -> str:
    """Return a message in our style; what it quotes from the file is fit for a log."""
    text = text.removeprefix("JSON is malformed: ")
    plain = text.encode("ascii", "backslashreplace").decode()
    cut = plain if len(plain) <= _SAID_MAX else f"{plain[:_SAID_MAX]}..."
    return cut[:1].lower() + cut[1:]
