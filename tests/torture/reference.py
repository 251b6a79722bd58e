"""A second reader of the format, written from docs/format.md alone: slow and plain.

What spooler reads must agree with it. It shares no code with spooler.
"""

import json
import math
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

MAX_HEADER: Final = 1_048_576
MAX_US: Final = 9_999_999_999_999_999
LINE_KEYS: Final[tuple[str, ...]] = (
    *("task", "at", "priority", "body", "spooler", "id", "key", "options"),
    *("traceparent", "v", "sig"),
)


class Bad(Exception):  # noqa: N818 (what a file is)
    """This is no task."""


class TooDeepForMe(Exception):  # noqa: N818 (no error of the file)
    """This reader cannot tell."""


@dataclass
class Task:
    """A task file, read."""

    keys: dict[str, Any] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)
    body_offset: int = 0


# -- names --------------------------------------------------------------------------


def is_task_name(name: str) -> bool:
    """Tell whether a task may have this name (section 1, "Names")."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return False
    if not 1 <= length <= 128 or f".{name}".endswith((".tmp", ".why")):
        return False
    first = unicodedata.category(name[0])
    if not (first[0] in "LN" or name[0] == "_"):
        return False
    return all(c.isprintable() and c not in " /" for c in name)


def _digits(text: str, *, most: int = 6) -> bool:
    fine = 1 <= len(text) <= most and all(c in "0123456789" for c in text)
    return fine and (text == "0" or text[0] != "0")


def parse_name(text: str) -> tuple[int, int, int, str, str] | None:
    """Return due, priority, attempt, id and task of a native name."""
    parts = text.split(".", 4)
    if len(parts) != 5:
        return None
    due, priority, attempt, task_id, task = parts
    if len(due) != 16 or any(c not in "0123456789" for c in due):
        return None
    if not _digits(priority) or not _digits(attempt) or not is_id(task_id):
        return None
    if not is_task_name(task):
        return None
    return int(due), int(priority), int(attempt), task_id, task


def is_id(text: str) -> bool:
    """Tell whether this is 16 hex digits, lower case."""
    return len(text) == 16 and all(c in "0123456789abcdef" for c in text)


# -- moments ------------------------------------------------------------------------

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2})"
    r"(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r"(?:(Z)|([+-])([0-9]{2})(?::?([0-9]{2}))?)?"
)


def moment(value: object, now_us: int) -> float:
    """Return a moment in µs since the epoch, nearly (section 2, "Keys")."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Bad("no moment")
    if not isinstance(value, str):
        try:
            return _bounded(float(value) * 1e6)
        except OverflowError:
            return _bounded(math.inf if value > 0 else -math.inf)
    if match := re.fullmatch(r"\+([0-9]+(?:\.[0-9]+)?)([smhd]?)", value):
        unit = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
        return _bounded(now_us + float(match[1]) * unit * 1e6)
    if _NUMBER.fullmatch(value):
        if math.isinf(number := float(value)):  # either way no moment
            raise Bad("no moment")
        return _bounded(number * 1e6)
    return _bounded(_iso(value))


def _iso(text: str) -> float:
    match = _ISO.fullmatch(text)
    if match is None:
        raise Bad("no moment")
    year, month, day, hour, minute, second = (int(match[n] or 0) for n in range(1, 7))
    offset = timedelta()
    if match[9]:
        hours, minutes = int(match[10]), int(match[11] or 0)
        if hours > 23 or minutes > 59:
            raise Bad("no zone")
        offset = timedelta(hours=hours, minutes=minutes) * (
            1 if match[9] == "+" else -1
        )
    try:
        there = datetime(
            year, month, day, hour, minute, second, tzinfo=timezone(offset)
        )
    except ValueError:
        raise Bad("no such moment") from None
    since = there - datetime(1970, 1, 1, tzinfo=UTC)
    fraction = float(f"0.{match[7]}") if match[7] else 0.0
    return (since / timedelta(microseconds=1)) + fraction * 1e6


def _bounded(us: float) -> float:
    if us > MAX_US + 1:
        raise Bad("too late")
    return max(0.0, us)


# -- JSON ---------------------------------------------------------------------------


def _number(text: str) -> int | float:
    return int(text) if len(text.lstrip("-")) <= 4300 else math.inf


def _no(constant: str) -> None:
    raise Bad(constant)


_JSON = json.JSONDecoder(parse_int=_number, parse_constant=_no)


def json_value(text: str) -> tuple[Any, int]:
    """Return a JSON value at the beginning of a text, and where it ends."""
    try:
        value, end = _JSON.raw_decode(text)
    except RecursionError:
        raise TooDeepForMe from None
    except ValueError:
        raise Bad("not JSON") from None
    if _depth(text[:end]) > 200:
        raise Bad("nested too deep")
    _no_half(value)
    return value, end


def _depth(text: str) -> int:
    depth = most = 0
    inside = escaped = False
    for char in text:
        if inside:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                inside = False
        elif char == '"':
            inside = True
        elif char in "[{":
            depth += 1
            most = max(most, depth)
        elif char in "]}":
            depth -= 1
    return most


def _no_half(value: object) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Bad("half a surrogate pair") from None
    elif isinstance(value, dict):
        for key, each in value.items():
            _no_half(key)
            _no_half(each)
    elif isinstance(value, list):
        for each in value:
            _no_half(each)


def _fits(value: object) -> None:
    """Refuse numbers that are too long, or too large for a float."""
    if isinstance(value, float) and math.isinf(value):
        raise Bad("a number that is too large")
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            _fits(each)


# -- files --------------------------------------------------------------------------


def read(data: bytes) -> Task:
    """Read a whole task file; raise ``Bad`` if it is none."""
    if not data or data.startswith(b"\xef\xbb\xbf"):
        raise Bad("empty, or a byte order mark")
    if data[:1] == b"{":
        task = _read_json(data)
    elif data[:1] == b"\x11":
        task = _read_packet(data)
    else:
        task = _read_lines(data)
    if task.body_offset > MAX_HEADER:
        raise Bad("header too large")
    _check(task.keys)
    _fits([task.keys, task.args])
    if task.keys.get("body") is not None and len(data) > task.body_offset:
        raise Bad("two bodies")
    return task


def _read_json(data: bytes) -> Task:
    head = data[:MAX_HEADER]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        text = head[: error.start].decode()
    value, end = json_value(text)
    offset = len(text[:end].encode())
    after = data[offset:]
    if after.startswith(b"\r\n"):
        offset += 2
    elif after.startswith(b"\n"):
        offset += 1
    elif after:
        raise Bad("something after the object")
    keys = dict(value)
    args = keys.pop("args", None)
    if args is None:
        args = {}
    if not isinstance(args, dict):
        raise Bad("args")
    signed = keys.get("signed")
    if signed is not None and not (type(signed) in (int, float) and 0 <= signed < 1e10):
        raise Bad("signed")
    return Task({key: keys[key] for key in LINE_KEYS if key in keys}, args, offset)


def _read_lines(data: bytes) -> Task:
    pairs: dict[str, Any] = {}
    rest, offset = data, 0
    while rest:
        line, newline, rest = rest.partition(b"\n")
        offset += len(line) + len(newline)
        if newline:
            line = line.removesuffix(b"\r")
        if not line:
            break
        key, value = _line(line)
        if key in pairs:
            raise Bad("twice")
        pairs[key] = value
        if offset > MAX_HEADER:
            raise Bad("header too large")
    if "task" not in pairs:
        raise Bad("no task")
    keys = {key: pairs.pop(key) for key in LINE_KEYS if key in pairs}
    return Task(keys, pairs, offset)


def _line(line: bytes) -> tuple[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise Bad("not UTF-8") from None
    key, equals, value = text.partition("=")
    if "\0" in text or not equals or key in ("", ":"):
        raise Bad("line")
    if not key.endswith(":"):
        if key in ("priority", "v"):
            if not _digits(value):
                raise Bad(key)
            return key, int(value)
        return key, value
    stripped = value.strip(" \t\r\n")
    typed, end = json_value(stripped)
    if end != len(stripped):
        raise Bad("more than JSON")
    return key[:-1], typed


def _read_packet(data: bytes) -> Task:
    if len(data) < 4:
        raise Bad("cut short")
    end = 4 + data[1] + 256 * data[2]
    if len(data) < end:
        raise Bad("cut short")
    pairs = _pairs(data, end)
    name = pairs.get("ud_spool_func", pairs.get("task", ""))
    fits = name != "_batch" and name.isprintable() and is_task_name(name)
    keys: dict[str, Any] = {"task": name if fits else "uwsgi"}
    at, priority = pairs.pop("at", ""), pairs.pop("priority", "")
    body = pairs.pop("body", "")
    if "spooler" in pairs:
        keys["spooler"] = pairs.pop("spooler")
    if _NUMBER.fullmatch(at) and _is_moment(at):
        keys["at"] = at
    if re.fullmatch("[0-9]+", priority):
        digits = priority.lstrip("0") or "0"
        keys["priority"] = int(digits) if len(digits) <= 6 else 999_998
    if body and len(data) == end:
        keys["body"] = body
    return Task(keys, pairs, end)


def _is_moment(text: str) -> bool:
    try:
        moment(text, 0)
    except Bad:
        return False
    return True


def _pairs(data: bytes, end: int) -> dict[str, str]:
    pairs: dict[str, str] = {}
    at = 4
    while at < end:
        key, at = _piece(data, at, end)
        value, at = _piece(data, at, end)
        if not key:
            raise Bad("empty key")
        pairs[key] = value
    return pairs


def _piece(data: bytes, at: int, end: int) -> tuple[str, int]:
    size = data[at] + 256 * data[at + 1] if at + 2 <= end else end
    stop = at + 2 + size
    if stop > end:
        raise Bad("leaves the block")
    return data[at + 2 : stop].decode("utf-8", "surrogateescape"), stop


def _check(keys: dict[str, Any]) -> None:
    task = keys.get("task")
    if not isinstance(task, str) or not is_task_name(task):
        raise Bad("task")
    for key in [key for key, value in keys.items() if value is None]:
        del keys[key]
    for key in ("body", "spooler", "id", "key", "traceparent", "sig"):
        if key in keys and not isinstance(keys[key], str):
            raise Bad(key)
    moment(keys.get("at", 0), 0)
    priority, version = keys.get("priority", 0), keys.get("v", 1)
    if type(priority) is not int or not 0 <= priority <= 999_999:
        raise Bad("priority")
    if not is_id(keys.get("id", "0" * 16)):
        raise Bad("id")
    key = keys.get("key", "k")
    if "\0" in key or not 1 <= len(key.encode()) <= 200:
        raise Bad("key")
    if type(version) is not int or version != 1:
        raise Bad("v")
    if not isinstance(keys.get("options", {}), dict):
        raise Bad("options")
