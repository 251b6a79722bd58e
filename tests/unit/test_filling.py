"""Text with ``{argument}`` in it: checked for a function, filled for a call."""

from typing import Any

import pytest

from spooler.errors import UsageError
from spooler.filling import check, fill


def invoice(number: int, day: str = "today", body: bytes = b"") -> None:
    """Take arguments."""


@pytest.mark.parametrize(
    "text", ["", "plain", "{number}", "{number:>{day}}", "{day[0]}{day.x!r}", "{{no}}"]
)
def test_text_that_arguments_can_fill_is_taken(text: str) -> None:
    assert check("key", text, invoice, takes_dict=False) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{nmber}", r"no argument 'nmber' \(there are: day, number\)"),
        ("{number:{widht}}", "no argument 'widht'"),
        ("{body}", "no argument 'body'"),
        ("{}", "does not begin with the name of an argument"),
        ("{0}", "does not begin with the name of an argument"),
        ("{number", "cannot be: expected '}'"),
        (5, "is text"),
    ],
)
def test_text_that_cannot_be_filled_is_refused(text: object, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        check("key", text, invoice, takes_dict=False)


def test_what_cannot_be_known_is_checked_at_the_call() -> None:
    def rest(**rest: int) -> None: ...
    def packet(args: dict[str, Any]) -> None: ...

    for function, takes_dict in ((rest, False), (packet, True)):
        check("key", "{anything}", function, takes_dict=takes_dict)
    with pytest.raises(UsageError, match=r"no argument 'anything' \(there are: none"):
        fill("key", "{anything}", {})


def test_it_is_filled_as_by_format() -> None:
    assert fill("key", "{a:03}-{b[x]}", {"a": 7, "b": {"x": 1}}) == "007-1"


@pytest.mark.parametrize("text", ["{a:x}", "{a.nothing}", "{a[9]}", "{n[0]}"])
def test_what_format_refuses_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be filled"):
        fill("key", text, {"a": "text", "n": 1})
