"""How log lines look."""

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from spooler.errors import UsageError
from spooler.logs import configure, escape

LOG = logging.getLogger("spooler.worker")


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def record(message: str, *args: object) -> logging.LogRecord:
    made = logging.LogRecord("spooler.worker", logging.INFO, "", 0, message, args, None)
    made.created = 1_795_208_460.123
    made.process = 1234
    return made


def fail() -> None:
    raise ValueError("one\r\n2026-11-20T21:01:00.123Z ERROR forged\x1b[2J")


def log_a_failure() -> None:
    try:
        fail()
    except ValueError:
        LOG.exception("fail task=%s", "8c1f")


def test_a_plain_line_has_time_level_process_and_message(stream: io.StringIO) -> None:
    configure("info", json=False, stream=stream)
    LOG.handle(record("ack task=%s attempt=%d", "8c1f42d09ab3e617", 1))
    assert stream.getvalue() == (
        "2026-11-20T21:01:00.123Z INFO spoold[1234] ack task=8c1f42d09ab3e617"
        " attempt=1\n"
    )


def test_a_json_line_has_the_same_and_the_logger(stream: io.StringIO) -> None:
    configure("info", json=True, stream=stream)
    LOG.handle(record("ack task=%s", "8c1f"))
    assert stream.getvalue() == (
        '{"time":"2026-11-20T21:01:00.123Z","level":"INFO","logger":"spooler.worker",'
        '"pid":1234,"message":"ack task=8c1f"}\n'
    )


def test_a_line_has_the_process_that_wrote_it(stream: io.StringIO) -> None:
    configure("info", json=False, stream=stream)
    LOG.info("start")
    assert f" INFO spoold[{os.getpid()}] start\n" in stream.getvalue()


def test_what_others_log_looks_the_same(stream: io.StringIO) -> None:
    configure("info", json=False, stream=stream)
    logging.getLogger("shop.mail").warning("slow")
    assert re.fullmatch(r"\S+Z WARNING spoold\[\d+\] slow\n", stream.getvalue())


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["d", "i", "w", "e"]),
        ("info", ["i", "w", "e"]),
        ("warning", ["w", "e"]),
        ("error", ["e"]),
    ],
)
def test_less_than_the_level_is_not_logged(
    level: str, shown: list[str], stream: io.StringIO
) -> None:
    configure(level, json=False, stream=stream)
    LOG.debug("d")
    LOG.info("i")
    LOG.warning("w")
    LOG.error("e")
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == shown


@pytest.mark.parametrize("level", ["", "INFO", "verbose", "notset", "critical\n"])
def test_an_unknown_level_is_refused(level: str) -> None:
    with pytest.raises(UsageError) as caught:
        configure(level, json=False)
    assert str(caught.value) == (
        f"log level {level!r} is none of debug, info, warning, error"
    )


def test_a_refused_level_changes_nothing(stream: io.StringIO) -> None:
    configure("info", json=False, stream=stream)
    with pytest.raises(UsageError):
        configure("loud", json=True)
    LOG.info("still here")
    assert stream.getvalue().endswith("] still here\n")


def test_the_last_configuration_alone_counts(stream: io.StringIO) -> None:
    before = io.StringIO()
    configure("debug", json=False, stream=before)
    configure("info", json=False, stream=stream)
    LOG.info("once")
    assert before.getvalue() == ""
    assert stream.getvalue().count("once") == 1


def test_lines_go_to_standard_error_as_it_is_when_configured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("info", json=False)
    LOG.info("hello")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("] hello\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_message_is_one_line_and_safe_for_a_terminal(
    stream: io.StringIO, *, as_json: bool
) -> None:
    configure("info", json=as_json, stream=stream)
    LOG.info("name=%s", "a\nb\x1b[2J\u202ec\udcff")
    line = stream.getvalue()
    assert line.removesuffix("\n").isprintable()
    message = json.loads(line)["message"] if as_json else line.split("] ", 1)[1].strip()
    assert message == r"name=a\x0ab\x1b[2J\u202ec\udcff"


def test_a_json_line_is_ascii(stream: io.StringIO) -> None:
    configure("info", json=True, stream=stream)
    LOG.info("photo=%s", "été.png")
    assert stream.getvalue().isascii()
    assert json.loads(stream.getvalue())["message"] == "photo=été.png"


def test_a_plain_traceback_follows_its_line_indented(stream: io.StringIO) -> None:
    configure("info", json=False, stream=stream)
    log_a_failure()
    first, second, *rest = stream.getvalue().splitlines()
    assert first.endswith(" fail task=8c1f")
    assert second == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") and line.isprintable() for line in rest)


def test_an_exception_cannot_forge_a_line(stream: io.StringIO) -> None:
    configure("info", json=False, stream=stream)
    log_a_failure()
    assert stream.getvalue().splitlines()[-2:] == [
        r"  ValueError: one\x0d",
        r"  2026-11-20T21:01:00.123Z ERROR forged\x1b[2J",
    ]


def test_a_json_traceback_is_a_key(stream: io.StringIO) -> None:
    configure("info", json=True, stream=stream)
    log_a_failure()
    (line,) = stream.getvalue().splitlines()
    facts = json.loads(line)
    assert facts["message"] == "fail task=8c1f"
    assert facts["exception"].startswith("Traceback (most recent call last):\n")
    assert facts["exception"].endswith("forged\\x1b[2J")


def test_a_traceback_that_another_formatter_made_is_used(stream: io.StringIO) -> None:
    configure("info", json=False, stream=stream)
    made = record("fail")
    made.exc_text = "Traceback\nOops"
    LOG.handle(made)
    assert stream.getvalue().endswith("] fail\n  Traceback\n  Oops\n")


def test_a_traceback_is_made_once_for_all_handlers(stream: io.StringIO) -> None:
    configure("info", json=False, stream=stream)
    made = record("fail")
    try:
        fail()
    except ValueError:
        made.exc_info = sys.exc_info()
    LOG.handle(made)
    made.exc_info = (None, None, None)
    LOG.handle(made)
    first, second = stream.getvalue().split("2026-11-20T21:01:00.123Z INFO")[1:]
    assert first == second


def test_a_stack_is_shown_like_a_traceback(stream: io.StringIO) -> None:
    configure("info", json=False, stream=stream)
    LOG.info("here", stack_info=True)
    assert stream.getvalue().splitlines()[1] == "  Stack (most recent call last):"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain text", "plain text"),
        ("été 日本 😀", "été 日本 😀"),
        ("a\\b", "a\\b"),
        ("\0\t\n\r\x1b\x7f", r"\x00\x09\x0a\x0d\x1b\x7f"),
        ("\x80\x85\x9b\xa0\xad", r"\x80\x85\x9b\xa0\xad"),
        ("\u202a\u202e\u2066\u2069", r"\u202a\u202e\u2066\u2069"),
        ("\u2028\u2029\ufeff", r"\u2028\u2029\ufeff"),
        ("\udc80\udfff", r"\udc80\udfff"),
        ("\U000e0041\U0010ffff", r"\U000e0041\U0010ffff"),
    ],
)
def test_escape_shows_what_is_not_printable(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(st.text(st.characters()))
def test_escape_leaves_only_printable_text(text: str) -> None:
    assert escape(text).isprintable()


@given(st.text(st.characters()))
def test_escape_does_nothing_the_second_time(text: str) -> None:
    assert escape(escape(text)) == escape(text)


@given(st.text().filter(str.isprintable))
def test_escape_keeps_printable_text(text: str) -> None:
    assert escape(text) == text
