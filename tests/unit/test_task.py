"""Values: names, minutes and the table of moves."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from spooler.errors import TaskNameError
from spooler.task import (
    MAX_ATTEMPT,
    MAX_DUE_US,
    MAX_PRIORITY,
    MINUTE_US,
    MOVES,
    Name,
    check_task_name,
    is_id,
    is_priority,
    iso,
    minute_of,
    minute_start_us,
)

FORMAT = Path(__file__).parents[2] / "docs/format.md"
GOOD = "1795208460123456.5.0.8c1f42d09ab3e617.resize"

task_names = (
    st.text(min_size=1, max_size=128)
    .map(lambda text: text.encode("utf-8", "ignore")[:128].decode("utf-8", "ignore"))
    .filter(lambda text: text.isprintable() and not set(text) & set(" /"))
    .filter(lambda text: text[:1].isalnum() or text[:1] == "_")
    .filter(lambda text: not f".{text}".endswith((".tmp", ".why")))
)
ascii_names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,40}", fullmatch=True)
names = st.builds(
    Name,
    st.integers(0, MAX_DUE_US),
    st.integers(0, MAX_PRIORITY),
    st.integers(0, MAX_ATTEMPT),
    st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
    ascii_names.filter(lambda n: not f".{n}".endswith((".tmp", ".why"))) | task_names,
)


@given(names)
def test_a_name_survives_being_written_and_read(name: Name) -> None:
    assert Name.parse(str(name)) == name


@given(st.lists(names, min_size=2, max_size=5))
def test_names_of_one_priority_sort_by_due_time(found: list[Name]) -> None:
    same = [name.but(priority=5) for name in found]
    by_text = sorted(same, key=str)
    assert [n.due_us for n in by_text] == sorted(n.due_us for n in same)


@given(st.text(max_size=60))
def test_any_text_can_be_parsed_and_what_is_native_is_written_back(text: str) -> None:
    name = Name.parse(text)
    assert name is None or str(name) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "resize",
        GOOD[1:],
        "0" + GOOD,
        GOOD.replace(".5.", ".05."),
        GOOD.replace(".5.", ".1000000."),
        GOOD.replace(".5.", ".-5."),
        GOOD.replace(".0.", ".00."),
        GOOD.replace(".0.", ".1000000."),
        GOOD.replace("8c", "8C"),
        GOOD.replace("8c", "8"),
        GOOD.replace("1795", "١٧٩٥"),
        GOOD.removesuffix("resize"),
        GOOD + ".tmp",
        GOOD + ".why",
        GOOD + " ",
        GOOD + "\n",
        GOOD + "\udcff",
        GOOD + "\u200b",
        GOOD.replace("resize", "-resize"),
        GOOD.replace("resize", ".resize"),
        GOOD.replace("resize", "x" * 129),
        GOOD.replace("resize", "ü" * 65),
    ],
)
def test_what_is_not_native_is_not_parsed(text: str) -> None:
    assert Name.parse(text) is None


def test_the_name_in_the_specification_is_read_as_it_says() -> None:
    assert GOOD in FORMAT.read_text()
    assert Name.parse(GOOD) == Name(
        1795208460123456, 5, 0, "8c1f42d09ab3e617", "resize"
    )


def test_a_name_says_where_it_belongs() -> None:
    assert Name(1795208460123456, 5, 0, "0" * 16, "t").folder == "5/20261120T2101"


def test_but_changes_what_it_is_told() -> None:
    name = Name(1, 2, 3, "0" * 16, "t")
    assert name.but() == name
    assert name.but(due_us=0, priority=0, attempt=0, id="f" * 16) == Name(
        0, 0, 0, "f" * 16, "t"
    )
    assert name.but(attempt=MAX_ATTEMPT + 1).attempt == MAX_ATTEMPT


@pytest.mark.parametrize("name", ["t", "_t", "0", "a.b:c", "x" * 128, "ü" * 64, "日本"])
def test_a_task_may_have_such_a_name(name: str) -> None:
    assert check_task_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "a/b",
        "..",
        "-a",
        "a\n",
        "a.tmp",
        "a.why",
        "tmp",
        "why",
        "x" * 129,
        "\u202e",
    ],
)
def test_a_task_may_not_have_such_a_name(name: str) -> None:
    with pytest.raises(TaskNameError):
        check_task_name(name)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        *((text, True) for text in ("0", "999999", "10")),
        *((text, False) for text in ("1000000", "01", "", "-1", "٣", "5 ", "5\n")),
    ],
)
def test_a_priority_is_a_whole_number(text: str, right: bool) -> None:
    assert is_priority(text) is right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("8c1f42d09ab3e617", True),
        ("8C1f42d09ab3e617", False),
        ("8c1f", False),
        ("8c1f42d09ab3e6170", False),
        ("8c1f42d09ab3e61\n", False),
    ],
)
def test_an_id_is_16_hex_digits(text: str, right: bool) -> None:
    assert is_id(text) is right


@given(st.integers(0, MAX_DUE_US))
def test_a_moment_lies_in_its_minute(due_us: int) -> None:
    start_us = minute_start_us(minute_of(due_us))
    assert start_us is not None
    assert start_us <= due_us < start_us + MINUTE_US


@given(st.integers(0, MAX_DUE_US // 1_000_000))
def test_a_minute_is_its_utc_time(second: int) -> None:
    moment = datetime.fromtimestamp(second, UTC)
    due_us = second * 1_000_000
    assert minute_of(due_us) == moment.strftime("%Y%m%dT%H%M")


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "20261120",
        "20261120T210",
        "20261120T21011",
        "20261120t2101",
        "20261320T2101",
        "20260230T2101",
        "20261120T2460",
        "00000101T0000",
        "\u0662\u0660\u0662\u0666\u0661\u0661\u0662\u0660T2101",
    ],
)
def test_what_is_no_minute_begins_never(text: str) -> None:
    assert minute_start_us(text) is None


def test_the_first_and_the_last_minute() -> None:
    assert minute_of(0) == "19700101T0000"
    assert minute_start_us("19700101T0000") == 0
    assert minute_of(MAX_DUE_US) == "22861120T1746"


def test_iso_shows_milliseconds() -> None:
    assert iso(1795208460123456) == "2026-11-20T21:01:00.123Z"


def test_the_moves_are_those_of_the_specification() -> None:
    section = FORMAT.read_text().partition("\n## 3. Moves\n")[2]
    table = section.partition("| move |")[2].partition("\n\n")[0]
    states = {"\u2013": [None], "gone": [None], "dropped": [None]}
    found = set()
    for row in re.findall(r"^\| (\w+) \| (.+?) → (.+?) \|", table, re.MULTILINE):
        move, sources, targets = row
        for source in sources.split(", "):
            for target in targets.split(", "):
                for a in states.get(source, [source]):
                    for b in states.get(target, [target]):
                        found.add((move, a, b))
    assert found == {(move, a, b) for move, a, b in MOVES}
