import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from spooler.codec import MAX_DEPTH, Header, decode, encode
from spooler.errors import CorruptError, UsageError
from spooler.moments import parse_at
from spooler.task import MAX_DUE_US, MAX_HEADER, iso

GOOD = sorted((Path(__file__).parents[2] / "spool_dirs" / "sample" / "good").iterdir())
NOW_US = 1_795_208_460_000_000

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,20}x", fullmatch=True)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=12,
)
arguments = st.dictionaries(texts, values, max_size=5)
moments = (
    st.integers(0, 9_999_999_999)
    | st.floats(0, 9_999_999_999)
    | st.sampled_from(["+90", "+1.5h", "2026-11-20T21:01:00Z"])
)
ids = st.integers(0, 2**64 - 1).map("{:016x}".format)


def read(data: bytes, *, whole: bool = True) -> Header:
    header = decode(data, whole=whole)
    assert header is not None
    return header


def reason(data: bytes, *, whole: bool = True) -> str:
    with pytest.raises(CorruptError) as caught:
        decode(data, whole=whole)
    return caught.value.reason


def header_or_reason(data: bytes, *, whole: bool) -> Header | str | None:
    try:
        return decode(data, whole=whole)
    except CorruptError as error:
        text = error.reason
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 200
    return text


def loads(args: bytes | Mapping[str, object]) -> object:
    assert isinstance(args, bytes)
    return json.loads(args)


def dumps(value: object, *, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=indent).encode()


# What is written.


def test_encode_writes_one_line_without_absent_keys() -> None:
    args = b'{"photo":"1.png","width":200}'
    line = b'{"task":"resize","args":{"photo":"1.png","width":200}}\n'
    assert encode("resize", args) == line


def test_encode_writes_every_key_that_is_given() -> None:
    header = encode(
        "remind",
        b"{}",
        at="+5m",
        priority=0,
        body="",
        id="8c1f42d09ab3e617",
        key="k",
        traceparent="t",
    )
    assert json.loads(header) == {
        "task": "remind",
        "args": {},
        "at": "+5m",
        "priority": 0,
        "body": "",
        "id": "8c1f42d09ab3e617",
        "key": "k",
        "traceparent": "t",
    }


@given(
    task=names,
    args=arguments,
    at=st.none() | moments,
    priority=st.none() | st.integers(0, 999_999),
    id=st.none() | ids,
    key=st.none()
    | st.text(
        st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=50
    ),
    traceparent=st.none() | texts,
    body=st.binary(max_size=40),
)
def test_decode_returns_what_encode_was_given(
    task: str,
    args: dict[str, object],
    at: float | str | None,
    priority: int | None,
    id: str | None,
    key: str | None,
    traceparent: str | None,
    body: bytes,
) -> None:
    raw = dumps(args)
    header = encode(
        task, raw, at=at, priority=priority, id=id, key=key, traceparent=traceparent
    )
    assert header.count(b"\n") == 1
    assert read(header + body) == Header(
        task, raw, len(header), at, priority, None, id, key, traceparent
    )


def test_encode_refuses_a_header_that_no_reader_takes() -> None:
    args = dumps({"text": "x" * MAX_HEADER})
    with pytest.raises(UsageError, match="header is larger than 1048576 bytes"):
        encode("say", args)


def test_encode_writes_the_largest_header_that_readers_take() -> None:
    room = MAX_HEADER - len(encode("say", b'{"text":""}'))
    header = encode("say", dumps({"text": "x" * room}).replace(b": ", b":"))
    assert len(header) == MAX_HEADER
    assert read(header + b"body", whole=False).body_offset == MAX_HEADER


def test_encode_refuses_arguments_that_no_reader_takes() -> None:
    args = b'{"tree":' + b"[" * 300 + b"]" * 300 + b"}"
    with pytest.raises(UsageError, match="nested more than 200 levels deep"):
        encode("index", args)


@pytest.mark.parametrize("at", ["tomorrow", math.nan, math.inf, 10**10])
def test_encode_refuses_what_is_not_a_moment(at: str | float) -> None:
    with pytest.raises(ValueError, match="at"):
        encode("say", b"{}", at=at)


def test_encode_refuses_half_a_surrogate_pair() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        encode("say", b"{}", key="\ud800")


# Where the header ends.


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_decode_finds_the_same_header_whatever_the_body(path: Path) -> None:
    data = path.read_bytes()
    header = read(data)
    if header.body_offset < len(data):
        longer = data[: header.body_offset] + b"\xff{\n" * 500_000
        assert read(longer) == header
        assert read(longer[:100_000], whole=False) == header


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"task":"say"}',
        b'{"task":"say"}\r',
        b'{\n"task":"say"}\r',
        b'{"task":"caf\xc3',
        b"task=say\n",
        b"task=say\r\n\r",
        b"\x11\x05",
        b"\x11\x05\x00\x00",
    ],
)
def test_decode_asks_for_more_when_the_header_may_go_on(data: bytes) -> None:
    assert decode(data, whole=False) is None


@given(arguments, st.sampled_from([None, 0, 1, 30]), st.data())
def test_decode_asks_for_more_at_every_place_in_json(
    args: dict[str, object], indent: int | None, draw: st.DataObject
) -> None:
    data = dumps({"task": "say", "args": args}, indent=indent) + b"\n"
    length = draw.draw(st.integers(0, len(data) - 1))
    assert decode(data[:length], whole=False) is None
    assert read(data).body_offset == len(data)


@pytest.mark.parametrize("head", [b'{"x":"', b'{"x":[' + b"1," * 40_000, b"x=", b"{\n"])
def test_header_larger_than_the_limit_is_corrupt(head: bytes) -> None:
    data = head + b" " * (MAX_HEADER + 1)
    assert decode(data[:MAX_HEADER], whole=False) is None
    assert reason(data[: MAX_HEADER + 1], whole=False) == (
        "header is larger than 1048576 bytes"
    )
    assert reason(data) == "header is larger than 1048576 bytes"


def test_header_of_exactly_the_limit_is_read() -> None:
    start, end = b'{"task":"say","x":"', b'"}'
    data = start + b"x" * (MAX_HEADER - len(start) - len(end)) + end
    assert read(data).body_offset == MAX_HEADER
    assert reason(data + b"\n") == "header is larger than 1048576 bytes"


def test_mistake_before_a_large_body_is_shown_where_it_is() -> None:
    data = b'{\n"task":"say",\n"args":{,}\n}\n' + b"x" * (2 * MAX_HEADER)
    assert reason(data).startswith("line 3, column 9: not JSON")


def test_mistake_before_a_binary_body_is_shown_where_it_is() -> None:
    data = b'{\n"task":"say",\n"args":{,}\n}\n\xff\xfe'
    assert reason(data).startswith("line 3, column 9: not JSON")


@pytest.mark.parametrize(
    "header", [b'{"task":"say","body":"one"}\n', b"task=say\nbody=one\n\n"]
)
def test_body_key_is_corrupt_in_a_file_that_goes_on(header: bytes) -> None:
    assert read(header).body == "one"
    assert "a body after the header" in reason(header, whole=False)
    assert "a body after the header" in reason(header + b"two", whole=False)
    assert "a body after the header" in reason(header + b"two")


# What it says.


@given(arguments, st.sampled_from([1, 4]))
def test_decode_reads_json_over_several_lines_as_on_one(
    args: dict[str, object], indent: int
) -> None:
    what = {"note": args, "task": "say", "args": args, "key": "k"}
    line = read(dumps(what) + b"\n")
    lines = read(dumps(what, indent=indent) + b"\n")
    assert loads(line.args) == loads(lines.args) == args
    assert (line.task, line.key) == (lines.task, lines.key) == ("say", "k")


@given(values)
def test_typed_value_is_read_as_json(value: object) -> None:
    assert read(b"task=say\nx:=" + dumps(value)).args == {"x": value}


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0")))
def test_plain_value_is_read_as_it_stands(value: str) -> None:
    assert read(f"task=say\nx={value}\n".encode()).args == {
        "x": value.removesuffix("\r")
    }


@pytest.mark.parametrize("depth", [0, 1, 100, 150, 198])
def test_nesting_up_to_the_limit_is_read(depth: int) -> None:
    tree = b"[" * depth + b"1" + b"]" * depth
    wide = b"[" + b"{}," * 300 + tree[1:-1] + b"]" if depth else b"{}"
    for value in (tree, wide, b'"' + b"[" * 300 + b'\\""'):
        assert read(b'{"task":"say","args":{"x":' + value + b"}}").task == "say"
        assert read(b"task=say\nx:=" + value).task == "say"


@pytest.mark.parametrize("depth", [*range(MAX_DEPTH + 1, 1100, 13), 5_000, 100_000])
def test_nesting_over_the_limit_is_corrupt(depth: int) -> None:
    tree = b"[" * depth + b"]" * depth
    assert "nested more than 200" in reason(b'{"task":"say","x":' + tree + b"}")
    assert "nested more than 200" in reason(
        b'{\n"task":"say","args":{"x":' + tree + b"}}"
    )
    assert "nested more than 200" in reason(b"task=say\nx:=" + tree)


def test_arguments_of_json_stay_the_bytes_in_the_file() -> None:
    args = b'{ "ratio" : 1.50, "x":{"\\u0061":[ ]} }'
    assert read(b'{"task":"say", "args": ' + args + b" }\n").args == args


def test_long_name_is_cut_short_in_the_reason() -> None:
    assert len(reason(b"task=" + b"x" * 100_000)) < 100


@given(st.binary(max_size=200), st.sampled_from([b"", b"{", b"\x11", b"task=say\n"]))
def test_decode_of_any_bytes_is_a_header_or_corrupt(data: bytes, start: bytes) -> None:
    header = header_or_reason(start + data, whole=True)
    if isinstance(header, Header):
        assert 0 < header.body_offset <= len(start + data)


@given(
    st.sampled_from([path for path in GOOD if path.stat().st_size < 2000]),
    st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=2)), max_size=4),
    st.booleans(),
)
def test_decode_of_a_damaged_task_is_a_header_or_corrupt(
    path: Path, damages: list[tuple[int, bytes]], whole: bool
) -> None:
    data = path.read_bytes()
    for place, new in damages:
        data = data[:place] + new + data[place + 1 :]
    assert header_or_reason(data, whole=whole) is not None or not whole


# When it is due.


@given(st.integers(0, MAX_DUE_US))
def test_parse_at_is_exact_for_moments_and_iso_texts(due_us: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=due_us)
    assert parse_at(moment, NOW_US) == due_us
    assert parse_at(moment.isoformat(), NOW_US) == due_us
    assert parse_at(moment.replace(tzinfo=None).isoformat(), NOW_US) == due_us
    assert parse_at(moment.astimezone(timezone(timedelta(hours=-5))), 0) == due_us
    assert parse_at(iso(due_us), NOW_US) == due_us // 1000 * 1000


@given(st.integers(0, MAX_DUE_US // 2))
def test_parse_at_takes_seconds_to_the_microsecond(due_us: int) -> None:
    seconds, rest = divmod(due_us, 1_000_000)
    assert parse_at(seconds, NOW_US) == seconds * 1_000_000
    assert parse_at(seconds + rest / 1_000_000, NOW_US) == due_us
    assert parse_at(f"{seconds}.{rest:06}", NOW_US) == due_us


def test_parse_at_counts_a_timedelta_from_now() -> None:
    assert parse_at(timedelta(minutes=5), NOW_US) == NOW_US + 300_000_000
    assert parse_at(timedelta(seconds=-5), NOW_US) == NOW_US - 5_000_000


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -1e308,
        -(10**400),
        "-5",
        timedelta.min,
        datetime.min.replace(tzinfo=UTC),
        "0001-01-01T00:00+14:00",
    ],
)
def test_parse_at_takes_what_is_before_1970_as_1970(
    value: str | float | datetime | timedelta,
) -> None:
    assert parse_at(value, NOW_US) == 0


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        math.nan,
        math.inf,
        -math.inf,
        10**10,
        10**400,
        10**5000,
        1e308,
        "1e400",
        "9" * 500,
        "+" + "9" * 500,
        "+9999999999",
        timedelta.max,
        datetime.max.replace(tzinfo=UTC),
        datetime(2026, 11, 20, 21, 1),  # noqa: DTZ001 (what is tested)
        "",
        "today",
        "2026-11-20",
        "2026-11-20T21:01Z\n",
        "0000-01-01T00:00",
    ],
    ids=lambda value: ascii(value)[:30] if not isinstance(value, int) else "",
)
def test_parse_at_refuses_what_is_not_a_moment(
    value: str | float | datetime | timedelta,
) -> None:
    with pytest.raises(ValueError, match=r"^at") as caught:
        parse_at(value, NOW_US)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 120
