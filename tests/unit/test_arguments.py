"""The arguments of a function, checked and converted by its type hints."""

import functools
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from math import inf, nan
from pathlib import Path, PurePath
from typing import (
    Annotated,
    Any,
    BinaryIO,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    Union,
)
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from spooler.arguments import Arguments, BodyKind
from spooler.codec import decode
from spooler.errors import ArgumentsError, CorruptError, UsageError

ID = UUID("12345678-1234-5678-1234-567812345678")
NOW = datetime(2026, 11, 20, 21, 1, 0, 5)  # noqa: DTZ001 (naive ones must stay so)


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


@dataclass
class Point:
    x: int
    y: float | None = None


@dataclass
class Circle:
    x: int
    radius: int


@dataclass(eq=False)
class Bag:
    things: list[Any] = field(default_factory=list)


@dataclass
class Tree:
    name: Path | str
    children: "list[Tree]" = field(default_factory=list)


class Pair(NamedTuple):
    key: UUID | str
    size: int = 3


class Other(NamedTuple):
    key: UUID | str
    size: int = 3


class Entry(TypedDict):
    path: Path | str
    owner: NotRequired[UUID | str]


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


class Moment(datetime):
    pass


class Clock(time):
    pass


UserId = NewType("UserId", int)


def send_mail(to: str, subject: str = "hi", *, copies: int = 1) -> None:
    """Stand for a task."""


def spare(function: Callable[..., object], task: str = "task") -> Arguments:
    return Arguments(function, task)


def of(hint: object) -> Arguments:
    """Return the arguments of a function whose ``value`` has this hint."""

    def task(value, more=None):  # type: ignore[no-untyped-def] # hints follow
        """Stand for a task."""

    task.__annotations__ = {"value": hint}
    return Arguments(task, "task")


def trip(hint: object, value: object) -> object:
    """Return what a function gets for a value."""
    arguments = of(hint)
    return arguments.decode(arguments.encode((), {"value": value}))["value"]


def refusal(hint: object, value: object) -> str:
    with pytest.raises(ArgumentsError) as caught:
        of(hint).encode((), {"value": value})
    return caught.value.problem


def from_text(hint: object, text: object) -> object:
    return of(hint).decode({"value": text})["value"]


def problem_of(arguments: Arguments, *args: object, **kwargs: object) -> str:
    with pytest.raises(ArgumentsError) as caught:
        arguments.encode(args, kwargs)
    return caught.value.problem


# -- what is written ---------------------------------------------------------------


def test_encode_writes_one_json_object_on_one_line() -> None:
    raw = spare(send_mail).encode((), {"to": "a\nb", "copies": 2})
    assert raw == b'{"to":"a\\nb","copies":2}'


def test_encode_gives_positional_arguments_their_names() -> None:
    assert spare(send_mail).encode(("a", "b"), {"copies": 2}) == (
        b'{"to":"a","subject":"b","copies":2}'
    )


def test_arguments_with_a_default_may_stay_absent() -> None:
    arguments = spare(send_mail)
    assert arguments.decode(arguments.encode(("a",), {})) == {"to": "a"}


def test_a_default_of_none_allows_none() -> None:
    def task(count: int = None) -> None:  # type: ignore[assignment] # noqa: RUF013
        """Stand for a task."""

    assert spare(task).decode(spare(task).encode((), {"count": None})) == {
        "count": None
    }


# -- what is refused ---------------------------------------------------------------


def test_a_misspelt_argument_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(ArgumentsError) as caught:
        Arguments(send_mail, "send_mail").encode((), {"to": "a", "subjct": "b"})
    assert str(caught.value) == (
        "unknown argument 'subjct' (did you mean 'subject'?): the task is"
        " send_mail(to: str, subject: str = 'hi', *, copies: int = 1)"
    )
    assert caught.value.task == "send_mail"


def test_an_unknown_argument_that_resembles_none_is_only_named() -> None:
    assert problem_of(spare(send_mail), to="a", xyz=1) == "unknown argument 'xyz'"


def test_a_missing_argument_is_named() -> None:
    assert problem_of(spare(send_mail), subject="a") == "missing argument 'to'"


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        (("a",), {"to": "b"}, "argument 'to' is given twice"),
        (("a", "b", 3), {}, "3 arguments by position are too many"),
    ],
)
def test_positional_arguments_are_bound_as_in_a_call(
    args: tuple[object, ...], kwargs: dict[str, object], problem: str
) -> None:
    assert problem_of(spare(send_mail), *args, **kwargs) == problem


@pytest.mark.parametrize(
    ("hint", "value", "problem"),
    [
        (int, "5", "argument 'value': expected int, got str"),
        (str, 5, "argument 'value': expected str, got int"),
        (int, True, "argument 'value': expected int, got bool"),
        (list[int], [1, "2"], "argument 'value' at [1]: expected int, got str"),
        (Point, Point("a"), "argument 'value' at x: expected int, got str"),  # type: ignore[arg-type] # wrong on purpose
        (dict[int, str], {"a": ""}, "argument 'value': expected int, got str"),
        (int | None, "5", "argument 'value': expected int | null, got str"),
        (Path, 5, "argument 'value': expected pathlib.Path, got int"),
        (Path | str, 5, "argument 'value': expected pathlib.Path | str, got int"),
        (Color, "secret", "argument 'value': not one of its values"),
        (Literal["a"], "secret", "argument 'value': not one of its values"),
        (date, NOW, "argument 'value': invalid RFC3339 encoded date"),
        (str, object(), "argument 'value': object cannot be written in a task"),
        (str, "\ud800", "argument 'value': text that is not UTF-8"),
        (
            list[Pair],
            [("a", 1), ("a", "b")],
            "argument 'value' at [1][1]: expected int, got str",
        ),
    ],
)
def test_a_value_that_does_not_fit_its_hint_is_refused_in_the_caller(
    hint: object, value: object, problem: str
) -> None:
    assert refusal(hint, value) == problem


@pytest.mark.parametrize(
    ("hint", "value", "problem"),
    [
        (str, b"a", "bytes would arrive as str"),
        (bytes, "abcd", "str would arrive as bytes"),
        (str, ID, "UUID would arrive as str"),
        (str | UUID, ID, "UUID would arrive as str"),
        (str | bytes, b"abcd", "bytes would arrive as str"),
        (bytes | str, "abcd", "str would arrive as bytes"),
        (Any, NOW, "datetime would arrive as str"),
        (Any, Color.RED, "Color would arrive as str"),
        (Any, Point(1), "Point would arrive as dict"),
        (Any, {1, 2}, "set would arrive as list"),
        (Any, {"a": [1, b"b"]}, "bytes would arrive as str"),
        (Any, {1: "a"}, "some keys would be lost, or become text"),
        (Bag, Bag([NOW]), "datetime would arrive as str"),
        (list[int] | set[int], {1}, "set would arrive as list"),
        (Pair | Other, Other("a"), "Other would arrive as Pair"),
    ],
)
def test_a_value_that_would_arrive_as_another_type_is_refused_in_the_caller(
    hint: object, value: object, problem: str
) -> None:
    assert refusal(hint, value) == f"argument 'value': {problem}"


@pytest.mark.parametrize("number", [nan, inf, -inf])
@pytest.mark.parametrize("hint", [float, list[float], Point])
def test_nan_and_infinity_are_refused_where_a_float_is_expected(
    hint: object, number: float
) -> None:
    value = {float: number, Point: Point(1, number)}.get(hint, [number])  # type: ignore[call-overload] # a hint is no type
    assert "nan and infinity" in refusal(hint, value)


@pytest.mark.parametrize("hint", [Any, float | None, list[float | None], dict, Bag])
def test_nan_and_infinity_are_refused_where_null_is_allowed(hint: object) -> None:
    values = {list[float | None]: [1.0, nan], dict: {"a": nan}, Bag: Bag([nan])}
    value = values.get(hint, nan)  # type: ignore[call-overload] # a hint is no type
    assert refusal(hint, value).endswith("nan and infinity cannot be written in JSON")


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert refusal(Any, endless) == "argument 'value': nested too deeply"


def test_a_dict_whose_keys_json_has_no_form_for_is_refused() -> None:
    problem = "argument 'value': tuple cannot be written in a task"
    assert refusal(Any, {(1, 2): 3}) == problem


def test_a_key_that_a_typed_dict_does_not_have_is_refused() -> None:
    problem = refusal(Entry, {"path": "a", "size": 3})
    assert problem == "argument 'value': object contains unknown field size"


def test_a_key_that_msgspec_would_drop_is_refused() -> None:
    class Small(TypedDict):
        size: int

    assert "lost" in refusal(Small, {"size": 1, "sise": 2})


def test_a_key_that_is_not_utf_8_is_refused() -> None:
    assert problem_of(spare(with_args), **{"\ud800": 1}) == "text that is not UTF-8"


@pytest.mark.parametrize("value", ["secret", "a\n` - at `$.b", "a` - at `$.b`", "'"])
def test_a_refusal_is_one_line_without_the_value(value: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        of(Color).decode({"value": value})
    assert caught.value.problem == "argument 'value': not one of its values"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("key", ["a\nb", "a` - at `$[0]", "a - at `$.b`", "$", ""])
def test_an_unknown_key_of_any_form_is_refused_in_one_line(key: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        of(int).decode({"value": 1, key: 1})
    assert "\n" not in str(caught.value)


# -- round trips -------------------------------------------------------------------

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ZONES = st.none() | st.integers(-1439, 1439).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
TEXT = st.text(st.characters(codec="utf-8"))
PATHS = TEXT.map(Path)
TREES = st.builds(Tree, PATHS, st.lists(st.builds(Tree, PATHS), max_size=2))
POINTS = st.builds(Point, st.integers(), st.none() | FLOATS)
CIRCLES = st.builds(Circle, st.integers(), st.integers())
ENTRIES = st.fixed_dictionaries({"path": PATHS}, optional={"owner": st.uuids()})
LEAVES: list[tuple[object, st.SearchStrategy[object]]] = [
    (str, TEXT),
    (int, st.integers()),
    (float, FLOATS),
    (bool, st.booleans()),
    (type(None), st.none()),
    (bytes, st.binary()),
    (datetime, st.datetimes(timezones=ZONES)),
    (date, st.dates()),
    (time, st.times(timezones=ZONES)),
    (timedelta, st.timedeltas()),
    (Path, PATHS),
    (PurePath, TEXT.map(PurePath)),
    (UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False)),
    (Color, st.sampled_from(Color)),
    (Level, st.just(Level.LOW)),
    (Word, st.just(Word.YES)),
    (Point, POINTS),
    (Tree, TREES),
    (Pair, st.builds(Pair, st.uuids(), st.integers())),
    (Entry, ENTRIES),
    (UserId, st.integers()),
    (Annotated[int, msgspec.Meta(gt=3)], st.integers(4)),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (datetime | date, st.dates() | st.datetimes()),
    (UUID | str, TEXT | st.uuids()),
    (Point | Circle, POINTS | CIRCLES),
    (Color | int | Path, st.sampled_from(Color) | st.integers() | st.just(Path("é"))),
    (Any, st.none() | st.lists(TEXT | st.integers())),
]
KEYS = [kind for kind in LEAVES if kind[0] in (str, int, date, Path, UUID, Color)]


@st.composite
def hints_and_values(draw: st.DrawFn) -> tuple[object, object]:
    hint, values = draw(st.sampled_from(LEAVES))
    for _ in range(draw(st.integers(0, 2))):
        shape = draw(st.sampled_from(["list", "dict", "tuple", "row", "none", "union"]))
        if shape == "list":
            hint, values = list[hint], st.lists(values, max_size=3)  # type: ignore[valid-type] # made here
        elif shape == "dict":
            key, keys = draw(st.sampled_from(KEYS))
            hint = dict[key, hint]  # type: ignore[valid-type] # made here
            values = st.dictionaries(keys, values, max_size=3)
        elif shape == "tuple":
            hint, values = tuple[hint, int], st.tuples(values, st.integers())  # type: ignore[valid-type] # made here
        elif shape == "row":
            hint = tuple[hint, ...]  # type: ignore[valid-type] # made here
            values = st.lists(values, max_size=3).map(tuple)
        elif shape == "none":
            hint, values = Optional[hint], st.none() | values  # noqa: UP045
        else:
            hint = Union[hint, None, bool]  # noqa: UP007
            values = values | st.booleans()
    return hint, draw(values)


@pytest.mark.parametrize(("hint", "values"), LEAVES)
@settings(max_examples=10)
@given(data=st.data())
def test_every_type_arrives_as_it_was_given(
    hint: object, values: st.SearchStrategy[object], data: st.DataObject
) -> None:
    value = data.draw(values)
    back = trip(hint, value)
    assert back == value
    assert type(back) is type(value)


@given(hints_and_values())
def test_every_type_inside_others_arrives_as_it_was_given(
    case: tuple[object, object],
) -> None:
    hint, value = case
    back = trip(hint, value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (set[Path], {Path("a")}),
        (frozenset[Path | str], frozenset({Path("a")})),
        (Iterable[int], [1]),
        (Mapping[str, Path], {"a": Path("b")}),
        (tuple[()], ()),
        (list[dict[Path, int]], [{Path("a"): 1}]),
        (dict[Path, int], {Path("a"): 1}),
        (Path | str | None, None),
        (Union[Path, str, float], 2.5),  # noqa: UP007 (the old form)
        (dict[int, Path] | Path, {1: Path("a")}),
        (object, "a"),
        (NOW.__class__, NOW),
        (datetime, NOW.replace(tzinfo=UTC)),
    ],
)
def test_a_container_arrives_as_it_was_given(hint: object, value: object) -> None:
    back = trip(hint, value)
    assert back == value
    assert type(back) is type(value)


def test_a_naive_moment_stays_naive() -> None:
    back = trip(datetime, NOW)
    assert isinstance(back, datetime)
    assert back.tzinfo is None


@pytest.mark.parametrize(
    ("hint", "value", "back"),
    [
        (Path, "a", Path("a")),
        (Path | str, "a", Path("a")),
        (str | Path, Path("a"), "a"),
        (list[Path | str], ["a"], [Path("a")]),
        (Color, "red", Color.RED),
        (float, 5, 5.0),
        (float | Path | str, 5, 5.0),
        (Point, {"x": 1}, Point(1)),
        (Circle | Point, {"x": 1}, Point(1)),
        (dict[Path, int], {"a": 1}, {Path("a"): 1}),
        (list[int], (1, 2), [1, 2]),
        (str, Text("a"), "a"),
        (int, Whole(5), 5),
        (float, Real(5), 5.0),
        (str, Word.YES, "yes"),
        (datetime, Moment(2026, 1, 1), datetime(2026, 1, 1)),  # noqa: DTZ001
        (time, Clock(12, 30), time(12, 30)),
    ],
)
def test_json_values_and_derived_classes_become_what_the_hint_says(
    hint: object, value: object, back: object
) -> None:
    arrived = trip(hint, value)
    assert arrived == back
    assert type(arrived) is type(back)


# -- what is read ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (str, "5", "5"),
        (int, "5", 5),
        (float, "1e3", 1000.0),
        (bool, "true", True),
        (int | None, "null", None),
        (int | str, "5", "5"),
        (datetime, "2026-11-20T21:01:00", datetime(2026, 11, 20, 21, 1)),  # noqa: DTZ001
        (date, "2026-11-20", date(2026, 11, 20)),
        (timedelta, "90", timedelta(seconds=90)),
        (Path, "a/b", Path("a/b")),
        (Decimal, "1.50", Decimal("1.50")),
        (Color, "red", Color.RED),
        (Level, "1", Level.LOW),
        (UUID, str(ID), ID),
        (int | Path, "5", Path("5")),
        (int | date | UUID, "5", 5),
        (Any, "5", "5"),
        (list[int], ["1"], [1]),
        (int, 5, 5),
        (bytes, "YQ==", b"a"),
    ],
)
def test_text_becomes_what_the_hint_says(
    hint: object, text: object, value: object
) -> None:
    assert from_text(hint, text) == value


def test_json_may_hold_text_for_a_number() -> None:
    assert of(int).decode(b'{"value":"5"}') == {"value": 5}


@pytest.mark.parametrize("hint", [list[str], dict[str, str], Point, Pair])
def test_text_does_not_become_a_list_or_a_dict(hint: object) -> None:
    with pytest.raises(ArgumentsError, match="argument 'value': expected"):
        from_text(hint, "a,b")


@pytest.mark.parametrize("raw", [b"[]", b"{", b'{"value":1}x', b'{"value":NaN}', b""])
def test_decode_refuses_what_is_no_json_object(raw: bytes) -> None:
    with pytest.raises(ArgumentsError):
        of(int).decode(raw)


def test_decode_refuses_json_nested_too_deeply() -> None:
    with pytest.raises(ArgumentsError, match="nested too deeply"):
        of(Any).decode(b'{"value":' + b"[" * 100_000)


def test_decode_refuses_bytes_that_are_no_moment() -> None:
    with pytest.raises(ArgumentsError, match="text that is not UTF-8"):
        from_text(datetime, "\udcff")


def test_decode_names_a_misspelt_key() -> None:
    with pytest.raises(ArgumentsError, match="did you mean 'subject'"):
        spare(send_mail).decode({"to": "a", "subjekt": "b"})


def test_a_task_from_a_newer_caller_gets_only_what_it_knows_or_an_error() -> None:
    with pytest.raises(ArgumentsError, match="unknown argument 'bcc'"):
        spare(send_mail).decode(b'{"to":"a","bcc":"b"}')


# -- kinds of parameters -----------------------------------------------------------


def test_keyword_arguments_take_any_name_and_one_type() -> None:
    def task(first: int, **more: Path) -> None:
        """Stand for a task."""

    arguments = spare(task)
    raw = arguments.encode((1,), {"a": Path("x"), "more": Path("y")})
    decoded = arguments.decode(raw)
    assert list(decoded.items()) == [
        ("first", 1), ("a", Path("x")), ("more", Path("y"))
    ]  # fmt: skip
    assert arguments.decode({"first": "1", "a": "x"}) == {"first": 1, "a": Path("x")}


def test_a_keyword_argument_of_the_wrong_type_is_named() -> None:
    def task(**more: int) -> None:
        """Stand for a task."""

    assert problem_of(spare(task), a="x") == "argument 'a': expected int, got str"


def test_star_args_are_refused() -> None:
    def task(*names: str) -> None:
        """Stand for a task."""

    with pytest.raises(UsageError, match=r"parameter 'names': .* have names"):
        spare(task)


def test_positional_only_parameters_can_be_called() -> None:
    def task(a: int, b: int = 2, c: int = 3, /, *, d: int = 4) -> tuple[int, ...]:
        return a, b, c, d

    arguments = spare(task)
    decoded = arguments.decode(arguments.encode((1,), {"c": 5, "d": 6}))
    assert arguments.call(task, decoded) == (1, 2, 5, 6)


def test_an_unannotated_parameter_takes_what_json_knows() -> None:
    def task(a, b=None):  # type: ignore[no-untyped-def] # that is the point
        """Stand for a task."""

    arguments = spare(task)
    value = {"x": [1, 2.5, None, True, "y"]}
    assert arguments.decode(arguments.encode((value,), {})) == {"a": value}


# -- the body ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "kind"),
    [
        (bytes, BodyKind.BYTES),
        (bytes | None, BodyKind.BYTES),
        (Any, BodyKind.BYTES),
        (BinaryIO, BodyKind.FILE),
        (BinaryIO | None, BodyKind.FILE),
        (io.BufferedIOBase, BodyKind.FILE),
        (io.BufferedReader, BodyKind.FILE),
    ],
)
def test_the_hint_says_how_the_body_is_wanted(hint: object, kind: BodyKind) -> None:
    def task(name, body):  # type: ignore[no-untyped-def] # hints follow
        """Stand for a task."""

    assert spare(task).body is BodyKind.BYTES
    task.__annotations__ = {"body": hint}
    assert spare(task).body is kind


def test_a_function_without_body_wants_none() -> None:
    assert spare(send_mail).body is BodyKind.NONE


def test_a_body_that_is_neither_bytes_nor_a_file_is_refused() -> None:
    def task(body: str) -> None:
        """Stand for a task."""

    with pytest.raises(UsageError, match="'body': the body is bytes or BinaryIO, not"):
        spare(task)


def test_a_body_with_a_default_is_optional() -> None:
    def needs(body: bytes) -> None:
        """Stand for a task."""

    def takes(body: bytes = b"") -> None:
        """Stand for a task."""

    optional = [spare(task).body_is_optional for task in (needs, takes, send_mail)]
    assert optional == [False, True, True]


def test_the_body_is_no_argument() -> None:
    def task(name: str, body: bytes, **more: str) -> None:
        """Stand for a task."""

    arguments = spare(task)
    assert arguments.encode((), {"name": "a"}) == b'{"name":"a"}'
    assert problem_of(arguments, name="a", body="b") == "unknown argument 'body'"
    assert "give it as body=" in problem_of(arguments, "a", b"b")


# -- functions that want one dict --------------------------------------------------


def with_args(args):  # type: ignore[no-untyped-def] # as in uWSGI
    return args


def with_env(env: Mapping[str, str]) -> object:
    return env


def with_options(options: dict[str, object] | None = None) -> object:
    return options


@pytest.mark.parametrize("task", [with_args, with_env, with_options])
def test_a_function_with_one_dict_gets_all_arguments_in_it(
    task: Callable[..., object],
) -> None:
    arguments = spare(task)
    assert arguments.wants_dict
    raw = arguments.encode(({"a": 1},), {"b": [None, "x"]})
    assert arguments.encode((), {"a": 1, "b": [None, "x"]}) == raw
    decoded = arguments.decode(raw)
    assert decoded == {"a": 1, "b": [None, "x"]}
    assert arguments.call(task, decoded) is decoded


def test_a_function_with_one_dict_gets_text_as_text() -> None:
    assert spare(with_args).decode({"a": "1", "b": 2}) == {"a": "1", "b": 2}


@pytest.mark.parametrize("args", [("a",), ({1: 2},), ({}, {})])
def test_a_function_with_one_dict_refuses_other_positions(
    args: tuple[object, ...],
) -> None:
    assert "one dict" in problem_of(spare(with_args), *args)


def test_a_function_with_one_dict_refuses_what_json_does_not_know() -> None:
    assert problem_of(spare(with_args), a=b"x") == (
        "argument 'a': bytes would arrive as str"
    )


def test_a_parameter_args_of_another_type_is_an_argument() -> None:
    def task(args: str) -> None:
        """Stand for a task."""

    arguments = spare(task)
    assert not arguments.wants_dict
    assert arguments.decode(arguments.encode(("a",), {})) == {"args": "a"}


def test_a_single_unannotated_parameter_of_another_name_is_an_argument() -> None:
    def task(name):  # type: ignore[no-untyped-def] # that is the point
        """Stand for a task."""

    assert not spare(task).wants_dict


# -- kinds of functions ------------------------------------------------------------


def test_string_hints_are_resolved() -> None:
    def task(where: "Path", when: "list[datetime]", body: "BinaryIO") -> "Nowhere":  # type: ignore[name-defined] # noqa: F821
        """Stand for a task."""

    arguments = spare(task)
    assert arguments.decode({"where": "a", "when": []})["where"] == Path("a")
    assert arguments.body is BodyKind.FILE
    assert arguments.signature == "(where: Path, when: list[datetime], body: BinaryIO)"


def test_a_hint_that_is_not_defined_yet_is_resolved_at_first_use() -> None:
    def task(value: "Later") -> None:  # type: ignore[name-defined] # noqa: F821
        """Stand for a task."""

    arguments = spare(task)
    with pytest.raises(ArgumentsError, match="parameter 'value': name 'Later' is not"):
        arguments.encode((), {"value": 1})
    globals()["Later"] = int
    try:
        assert arguments.decode({"value": "1"}) == {"value": 1}
    finally:
        del globals()["Later"]


@pytest.mark.parametrize(
    ("hint", "problem"),
    [
        (Callable[[int], str], "cannot be written in a task"),
        (list[type], "type cannot be written in a task"),
        (io.StringIO | int, "io.StringIO cannot be written in a task"),
        ("int +", "forward reference must be an expression"),
        (Enum, "enum types must have at least one item"),
        (5, "is not supported"),
    ],
)
def test_a_hint_that_can_never_work_is_refused_at_registration(
    hint: object, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        of(hint)
    assert "parameter 'value'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_inside_a_dataclass_that_json_has_no_form_for_is_refused() -> None:
    @dataclass
    class Holder:
        thing: io.StringIO | None = None

    assert trip(Holder, Holder()) == Holder()
    with pytest.raises(ArgumentsError, match=r"at thing: expected _?io\.StringIO"):
        of(Holder).decode(b'{"value":{"thing":1}}')


def test_a_recursive_alias_is_refused() -> None:
    class Alias:
        """Stand for ``type Json = list[Json]``, which needs Python 3.12."""

    alias = Alias()
    alias.__value__ = list[alias]  # type: ignore[attr-defined, valid-type] # made here
    with pytest.raises(UsageError, match="parameter 'value': maximum recursion"):
        of(alias)


def test_a_function_without_a_signature_is_refused() -> None:
    with pytest.raises(UsageError, match="task x has no signature"):
        Arguments(type, "x")


def test_a_wrapped_function_is_known_by_its_own_signature() -> None:
    @functools.wraps(send_mail)
    def wrapper(*args: object, **kwargs: object) -> None:
        """Stand for a decorator."""

    assert spare(wrapper).signature == spare(send_mail).signature


def test_methods_partials_classes_and_objects_are_functions() -> None:
    class Mailer:
        def __init__(self, to: "Path" = Path()) -> None:
            """Stand for a class."""

        def send(self, to: "Path") -> None:
            """Stand for a task."""

        def __call__(self, to: "Path") -> None:
            """Stand for a task."""

    partial = functools.partial(Mailer().send)
    for task in (Mailer().send, Mailer(), Mailer, partial):
        assert spare(task).decode({"to": "a"}) == {"to": Path("a")}


def test_a_partial_has_the_arguments_that_are_left() -> None:
    task = functools.partial(send_mail, "a", subject="b")
    assert spare(task).encode((), {"copies": 2}) == b'{"copies":2}'
    assert "unknown argument 'to'" in problem_of(spare(task), to="b")


def test_the_signature_is_one_line_of_the_parameters() -> None:
    class Lines:
        def __repr__(self) -> str:
            return "a\nb"

    def task(value: object = Lines()) -> int:
        return 1

    assert spare(task).signature == "(value: object = a b)"


def test_json_and_encode_agree() -> None:
    value = {"a": [1, 2.5, None, "ä"]}
    assert json.loads(of(Any).encode((), {"value": value})) == {"value": value}


# -- a whole file at once ---------------------------------------------------------


def typed(
    n: int,
    at: datetime | None = None,
    ids: dict[str, list[UUID]] = {},  # noqa: B006 (only its hint counts)
    kind: Literal["a", "b"] = "a",
    pair: tuple[int, Annotated[str, "x"]] = (1, ""),
    rest: Any = None,
) -> None: ...


def noted(n: int, note: str = "-", *, ratio: float | None = None) -> None: ...
def pointed(point: Point, kind: Color = Color.RED) -> None: ...
def anything(**rest: Any) -> None: ...
def with_body(n: int, body: bytes = b"") -> None: ...


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = (
    st.sampled_from(["n", "note", "ratio", "at", "ids", "kind", "pair", "rest"])
    | st.text()
)


def the_long_way(arguments: Arguments, data: bytes) -> dict[str, object] | str:
    """Return what a task file's arguments are, or why they are none."""
    try:
        header = decode(data, whole=True)
        assert header is not None
        return arguments.decode(header.args)
    except (CorruptError, ArgumentsError) as error:
        return str(error)


@given(st.dictionaries(NAMES, VALUES, max_size=3), st.sampled_from([noted, typed]))
def test_a_whole_file_gives_what_the_long_way_gives(
    args: dict[str, object], function: Callable[..., object]
) -> None:
    arguments = Arguments(function, "t")
    data = json.dumps({"task": "t", "args": args}).encode() + b"\n"
    found = arguments.decode_whole(data)
    if found is None:
        # Only what is wrong, or what only the long way tells to be deep.
        assert isinstance(the_long_way(arguments, data), str)
    else:
        assert found == the_long_way(arguments, data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}",
        b'{"task":"t"}\n',
        b'{"task":"other","args":{"n":1}}\n',
        b'{"task":"t","args":{"n":1},"at":"+5m"}\n',
        b'{"task":"t","args":{"n":1},"traceparent":"00-1"}\n',
        b'{"task":"t","args":{"n":1},"unknown":1}\n',
        b'{"task":"t","args":{"n":1}}\nbody',
        b'{"task":"t","args":{"n":1}}\n{}',
        b'{"task":"t","args":{"n":1,"m":2}}\n',
        b'{"task":"t","args":{"n":"x"}}\n',
        b'{"task":"t","args":{"n":1,"note":"\xff"}}\n',
        b'{"task":"t","args":{"n":1,"note":"\xed\xa0\x80"}}\n',
        b'{"task":"t","args":{"n":1}',
        b'{"task":"t","args":{"n":1}}\r\n',
        b' {"task":"t","args":{"n":1}}\n',
        b'{"task":"t","args":{"n":1}} \n',
        b'{"task":"t","args":[1]}\n',
        b"task=t\nn=1\n",
        b'{"task":"t","args":{"n":1,"note":"' + b"{" * 300 + b'"}}\n',
    ],
)
def test_a_whole_file_with_more_or_less_takes_the_long_way(data: bytes) -> None:
    assert Arguments(noted, "t").decode_whole(data) is None


def test_a_whole_file_gives_text_for_numbers_and_leaves_defaults_out() -> None:
    data = b'{"task":"t","args":{"n":"12"}}\n'
    assert Arguments(noted, "t").decode_whole(data) == {"n": 12}
    data = b'{"task":"t","args":{"n":1,"n":2}}\n'
    assert Arguments(noted, "t").decode_whole(data) == {"n": 2}


class Strange(Enum):
    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> "Strange":
        raise SystemExit(str(value))


def enumerated(n: list[Strange]) -> None: ...
def of_path(n: Path) -> None: ...
def test_what_runs_code_of_the_user_takes_the_long_way() -> None:
    data = b'{"task":"t","args":{"n":1}}\n'
    for function in (pointed, enumerated, of_path):
        assert Arguments(function, "t")._whole is None
    assert Arguments(typed, "t").decode_whole(data) == {"n": 1}


@pytest.mark.parametrize("function", [anything, with_body, lambda args: None])
def test_functions_that_take_more_than_arguments_take_the_long_way(
    function: Callable[..., object],
) -> None:
    data = b'{"task":"t","args":{"n":1}}\n'
    assert Arguments(function, "t").decode_whole(data) is None
