"""Tests of lines of batches: bytes and back."""

import pytest

from spooler.codec import decode
from spooler.errors import CorruptError, UsageError
from spooler.lines import decode_line, encode_line, frame
from spooler.options import RunOptions
from spooler.task import MAX_HEADER

ARGS = b'{"to":"a@b.c","n":1}'


def test_a_line_is_a_task_file_of_one_line() -> None:
    line = encode_line("t", ARGS, at=5.5, body="hi", traceparent="00-1")
    header = decode(line, whole=True)
    assert header is not None
    assert (header.task, header.args) == ("t", ARGS)
    assert (header.at, header.body, header.traceparent) == (5.5, "hi", "00-1")
    assert line.count(b"\n") == 1


@pytest.mark.parametrize("size", [0, 10, 190, 5000])
def test_a_frame_gives_the_same_line_as_encoding_it(size: int) -> None:
    options = RunOptions(keep_result=5.0)
    args = b'{"x":"%b"}' % (b"a" * size)
    line = encode_line("größe", args, traceparent="00", options=options)
    assert frame("größe", "00", options).line(args) == line


def test_a_frame_is_not_misled_by_a_name_like_arguments() -> None:
    line = frame('x"args":{}').line(ARGS)
    assert decode_line(line.rstrip(b"\n")).task == 'x"args":{}'


def test_a_line_too_large_is_refused_by_name_of_the_way_out() -> None:
    large = b'{"x":"%b"}' % (b"a" * MAX_HEADER)
    with pytest.raises(UsageError, match="put it by itself"):
        encode_line("t", large)
    with pytest.raises(UsageError, match="put it by itself"):
        frame("t").line(large)
    with pytest.raises(UsageError, match="put it by itself"):
        encode_line("t", b"{}", body="ä" * MAX_HEADER)
    with pytest.raises(UsageError, match="put it by itself"):
        frame("t", traceparent="x" * (MAX_HEADER - 100))


def test_a_line_nested_too_deep_is_refused() -> None:
    deep = b'{"x":' + b"[" * 201 + b"]" * 201 + b"}"
    with pytest.raises(UsageError, match="nested"):
        frame("t").line(deep)


def test_a_batch_has_no_place_in_a_batch() -> None:
    with pytest.raises(UsageError, match="a batch has no place in a batch"):
        frame("_batch")
    with pytest.raises(CorruptError, match="a batch has no place in a batch"):
        decode_line(b'{"task":"_batch","args":{"count":1}}')


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not a JSON object"),
        (b"task=t", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b'{"task":"t"', "not JSON"),
        (b'{"task":"t"} x', "no newline after"),
        (b'{"args":{}}', "task"),
        (b'{"task":"t","args":[]}', "args"),
        (b'{"task":"t","id":"0123456789abcdef"}', "id: has no place"),
        (b'{"task":"t","key":"k"}', "key: has no place"),
        (b'{"task":"t","priority":1}', "priority: has no place"),
        (b'{"task":"t","args":{"x":"\xff"}}', "UTF-8"),
        (b'{"task":' + b" " * MAX_HEADER + b'"t"}', "larger"),
    ],
)
def test_a_line_that_is_no_task_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(CorruptError, match=reason):
        decode_line(line)


def test_null_counts_as_absent_in_a_line_too() -> None:
    assert decode_line(b'{"task":"t","id":null,"key":null}').task == "t"
