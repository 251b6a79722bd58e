"""The arguments of a function, checked and converted by its type hints.

``Arguments`` makes a ``msgspec`` struct of a signature; ``hints`` has what msgspec does
not take by itself.

Refused at registration: recursive type aliases; such unions inside generic
dataclasses, attrs classes and structs; enums of anything but text or whole numbers;
classes without a form in JSON. The keys of a dict may be text, numbers, moments,
paths and the like, not bool, None or tuples. Specification: docs/format.md, "Keys".
"""

import dataclasses
import difflib
import functools
import inspect
import io
import itertools
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import PurePath
from typing import IO, Any, BinaryIO, Final, get_args, get_origin

import msgspec

from .codec import MAX_DEPTH
from .errors import ArgumentsError, UsageError
from .hints import (
    ANYTHING,
    DICTS,
    ENCODER,
    ERRORS,
    HOOKS,
    REQUIRED,
    UNIONS,
    Hints,
    Records,
    field,
    fields,
    public,
    read_value,
    runs_no_code,
    show,
    usable,
)

_FORMAT: Final[dict[str, Any]] = {}
if sys.version_info >= (3, 14):  # pragma: no cover (hints wait until they are read)
    import annotationlib

    _FORMAT["annotation_format"] = annotationlib.Format.FORWARDREF

_FILES: Final = (BinaryIO, IO, IO[bytes], io.BufferedIOBase, io.BufferedReader)
_PLAIN: Final = (str, int, float, bool, type(None), dict, list, tuple)

_PLAIN_HINTS: Final = (str, int, bool, str | None, int | None, bool | None)
"""What is of one of these is in JSON what it was, and there is only one way."""

_NAME_MAX: Final = 60
"""Characters of a name from a file that a message shows."""

_convert: Final = msgspec.convert
_to_json: Final = ENCODER.encode

_SECONDS: Final = re.compile(rb"(?:0|[1-9]\d{0,9})(?:\.\d+)?")
_NAME: Final = re.compile(r"Object (contains|missing) \w+ field `(.*)`", re.DOTALL)
_PLACE: Final = re.compile(r" - at (?:`key` in )?`\$([^`]*)`")
_VALUE: Final = re.compile(rf"Invalid .*value (?s:.*?)((?:{_PLACE.pattern})*)\Z")
"""What msgspec says. Its places follow the problem, the innermost first."""


class BodyKind(Enum):
    """How a function wants the body of its task: its parameter ``body``."""

    NONE = "none"
    BYTES = "bytes"
    FILE = "file"


class Arguments:
    """The arguments of one function, checked and converted by its type hints.

    Attributes:
        signature: The parameters on one line, for messages.
    """

    def __init__(self, function: Callable[..., object], task: str) -> None:
        """Read a signature; hints that are not defined yet wait for the first use.

        Raises:
            UsageError: The function can never be a task.
        """
        try:
            signature = inspect.signature(function, **_FORMAT)
        except (TypeError, ValueError) as exc:
            raise UsageError(f"task {task} has no signature: {exc}") from exc
        self._task = task
        self._globals = _globals(function)
        self._parameters = signature.parameters
        both = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self._positions = [n for n, p in self._parameters.items() if p.kind <= both]
        place = inspect.Parameter.POSITIONAL_ONLY
        self._first = [p for p in self._parameters.values() if p.kind is place]
        text = str(signature.replace(return_annotation=REQUIRED))
        text = public(text)
        self.signature = " ".join(re.sub(r": '([^']*)'", r": \1", text).split())
        self._body, self._wants_dict = BodyKind.NONE, False
        self._takes_names = False
        self._rest: object = None
        self._plain: type[msgspec.Struct] | None = None
        self._decoders: tuple[msgspec.json.Decoder[msgspec.Struct], ...] = ()
        self._whole: Any = None
        self._signed: Any = None
        self._values: Callable[[msgspec.Struct], dict[str, Any]] = fields
        with suppress(NameError):
            self._read_hints()

    @property
    def body(self) -> BodyKind:
        """How parameter ``body`` wants the payload."""
        self._ready()
        return self._body

    @property
    def body_is_optional(self) -> bool:
        """Whether the function can be called without a body."""
        body = self._parameters.get("body")
        return body is None or body.default is not REQUIRED

    @property
    def wants_dict(self) -> bool:
        """Whether the function takes all arguments as one dict, as in uWSGI."""
        self._ready()
        return self._wants_dict

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
        """Return the arguments as a JSON object on one line, without the body.

        Values that JSON knows may stand for what the hint makes of them: text for a
        path or an enum. All others must arrive as the type they are, so bytes for
        ``str`` and a ``datetime`` without a hint are refused; only paths may
        become text.

        Raises:
            ArgumentsError: They do not fit the function.
        """
        if not self._decoders:
            self._ready()
        given = self._bind(args, kwargs) if args else kwargs
        try:
            raw = _to_json(given)
        except ERRORS as exc:
            raise self._error(exc, _culprit(given)) from None
        if self._plain is not None:
            try:
                _convert(given, self._plain)
            except ERRORS:
                pass  # find out below what it is
            else:
                return raw
        arrived = self._arrived(raw)
        for name, value in given.items():
            back = arrived(name)
            if (type(back) is not type(value) or back != value) and (
                problem := _loss(value, back)
            ):
                raise self._refusal(f"argument {name!r}: {problem}")
        return raw

    def _arrived(self, raw: bytes) -> Callable[[str], object]:
        """Return what gives an argument as it would arrive."""
        if self._rest is not None:
            return self._load(raw, lax=False).__getitem__
        try:
            return functools.partial(getattr, self._decoders[False].decode(raw))
        except ERRORS as exc:
            raise self._error(exc, None) from None

    def decode(self, raw: bytes | Mapping[str, object]) -> dict[str, object]:
        """Return the arguments of a task by name, without the body.

        ``raw`` is a JSON object, or a dict of text and JSON values. Text may stand
        for numbers, moments and the like, not for lists or dicts. Arguments that
        have a default and are not given stay absent.

        Raises:
            ArgumentsError: They do not fit the function.
        """
        self._ready()
        return self._load(raw, lax=True)

    def decode_whole(
        self, data: bytes, task_id: str | None = None
    ) -> dict[str, object] | None:
        """Return the arguments by name from a whole task file that holds only them.

        Or also what signing one adds.

        One step instead of ``codec.decode`` and ``decode``, for what most tasks are.

        Args:
            data: All bytes of the file.
            task_id: The id that a signed one must have in it; None for the line of a
                batch.

        Returns:
            None if there is more in it, or anything wrong: those two tell.
        """
        if self._whole is None or (len(data) > MAX_DEPTH and not _is_flat(data)):
            return None
        if data[:1] != b"{" or data[-2:] != b"}\n":  # JSON allows more than a file
            return None
        is_signed = data[:7] == b'{"sig":'
        try:
            found = (self._signed if is_signed else self._whole).decode(data)
        except ERRORS:
            return None
        if found.task != self._task:
            return None
        if is_signed and not (found.id == task_id and _SECONDS.fullmatch(found.signed)):
            return None
        return self._values(found.args)

    def call(
        self, function: Callable[..., object], kwargs: Mapping[str, object]
    ) -> object:
        """Call the function with what ``decode`` returned, and ``body`` if it wants it.

        A function that wants one dict gets ``kwargs`` itself.
        """
        if self._takes_names:
            return function(**kwargs)
        if self.wants_dict:
            return function(kwargs)
        rest = dict(kwargs)
        return function(*[rest.pop(p.name, p.default) for p in self._first], **rest)

    def _ready(self) -> None:
        if not self._decoders:
            try:
                self._read_hints()
            except NameError as exc:
                raise self._refusal(str(exc)) from None

    def _read_hints(self) -> None:
        """Read the type hints; ``NameError`` means that one is not defined (yet)."""
        fields, hints, records, name = [], Hints(), Records(), ""
        try:
            for name, parameter in self._parameters.items():
                note = {name: parameter.annotation}
                holder = types.SimpleNamespace(__annotations__=note)
                hints |= typing.get_type_hints(holder, self._globals, None, True)
            self._wants_dict = self._is_dict(hints)
            self._takes_names = not self._wants_dict and not self._first
            for name, parameter in self._parameters.items():
                if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                    raise TypeError("arguments of a task have names, so no *")
                if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                    self._rest = usable(hints[name], records)
                elif self._wants_dict:
                    self._rest = Any
                elif name == "body":
                    self._body = _body_kind(hints[name])
                else:
                    kind = usable(hints[name], records)
                    fields.append(field(name, kind, parameter.default))
        except (NameError, AttributeError) as exc:
            raise NameError(f"parameter {name!r}: {exc}") from exc
        except (TypeError, SyntaxError, RecursionError) as exc:
            raise self._refusal(f"parameter {name!r}: {_line(str(exc))}") from None
        struct = msgspec.defstruct(
            "_", fields, kw_only=True, forbid_unknown_fields=self._rest is None
        )
        self._use(struct, [kind for _, kind, *_ in fields])

    def _use(self, struct: type[msgspec.Struct], kinds: list[Any]) -> None:
        """Make what reads the arguments.

        Args:
            kinds: The types of the struct's fields.
        """
        self._decoders = (
            msgspec.json.Decoder(struct, dec_hook=HOOKS[False]),
            msgspec.json.Decoder(struct, strict=False, dec_hook=HOOKS[True]),
        )
        if self._rest is not None:
            return
        if all(kind in _PLAIN_HINTS for kind in kinds):
            self._plain = struct
        # A class of the user's is called within the limits of the run.
        if self._body is BodyKind.NONE and all(map(runs_no_code, kinds)):
            parts: list[Any] = [("task", str), ("args", struct)]
            self._whole = _strict_decoder(parts)
            added = [("sig", str), ("signed", msgspec.Raw), ("id", str)]
            self._signed = _strict_decoder(parts + added)
        if not struct.__struct_defaults__:
            self._values = msgspec.structs.asdict

    def _is_dict(self, hints: Mapping[str, object]) -> bool:
        if len(hints) != 1 or not self._positions:
            return False
        [(name, hint)] = hints.items()
        if hint in ANYTHING:
            return name in ("args", "env")
        return all((get_origin(m) or m) in DICTS for m in _members(hint))

    def _bind(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> dict[str, object]:
        """Give positional arguments their names."""
        if self.wants_dict:
            [first] = args if len(args) == 1 else [None]
            if isinstance(first, Mapping) and all(isinstance(k, str) for k in first):
                return {**first, **kwargs}
            raise self._refusal("expected one dict with text keys, or names")
        if len(args) > len(self._positions):
            raise self._refusal(f"{len(args)} arguments by position are too many")
        named = dict(zip(self._positions, args, strict=False))
        for name in named:
            if name in kwargs:
                raise self._refusal(f"argument {name!r} is given twice")
            if name == "body":
                raise self._refusal("the body is not an argument: give it as body=")
        return {**named, **kwargs}

    def _load(
        self, raw: bytes | Mapping[str, object], *, lax: bool
    ) -> dict[str, object]:
        name, decoder = None, self._decoders[lax]
        try:
            if isinstance(raw, bytes):
                values = fields(decoder.decode(raw))
                raw = {} if self._rest is None else msgspec.json.decode(raw)
            else:
                values = fields(read_value(raw, decoder.type, lax=lax))
            for name in [name for name in raw if name not in values]:
                if name == "body" and self._body is not BodyKind.NONE:
                    raise self._unknown(name)
                values[name] = read_value(raw[name], self._rest, lax=lax)
        except ERRORS as exc:
            raise self._error(exc, name) from None
        return values

    def _error(self, exc: Exception, name: str | None) -> ArgumentsError:
        """Say what msgspec or a hook said in our words, without values."""
        message = _VALUE.sub(r"not one of its values\1", str(exc))
        message, *places = _PLACE.split(message)
        place = "".join(reversed(places[::2]))
        if name is None and place:
            _, name, place = re.split(r"^\.?(\w*)", place, maxsplit=1)
        elif name is None and (found := _NAME.fullmatch(message)):
            if found[1] == "contains":
                return self._unknown(found[2])
            return self._refusal(f"missing argument {found[2]!r}")
        if isinstance(exc, UnicodeError):
            message = "text that is not UTF-8"
        elif isinstance(exc, RecursionError):
            message = "nested too deeply"
        elif "float" in message and "got `null`" in message:
            message += " (in JSON, nan and infinity are null)"
        at = place and f" at {place.lstrip('.')}"
        prefix = f"argument {_cut(name)!r}{at}: " if name else ""
        return self._refusal(prefix + _line(message))

    def _unknown(self, name: str) -> ArgumentsError:
        near = difflib.get_close_matches(name, self._parameters.keys() - {name}, 1)
        guess = f" (did you mean {near[0]!r}?)" if near else ""
        return self._refusal(f"unknown argument {_cut(name)!r}{guess}")

    def _refusal(self, problem: str) -> ArgumentsError:
        return ArgumentsError(self._task, self.signature, problem)


def _strict_decoder(fields: list[Any]) -> Any:
    """Return what decodes an object with these fields and no others."""
    struct = msgspec.defstruct("_", fields, forbid_unknown_fields=True)
    return msgspec.json.Decoder(struct, strict=False)


def _is_flat(data: bytes) -> bool:
    """Tell whether JSON cannot be nested too deep, by its number of brackets."""
    return data.count(b"{") + data.count(b"[") <= MAX_DEPTH


def _globals(function: Any) -> dict[str, Any]:
    """Return the names that a function's type hints refer to."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not hasattr(function, "__globals__"):
        is_class = isinstance(function, type)
        function = function.__init__ if is_class else type(function).__call__
    return getattr(inspect.unwrap(function), "__globals__", {})


def _members(hint: object) -> tuple[Any, ...]:
    """Return the types in a union, or the only one, without None."""
    members = get_args(hint) if get_origin(hint) in UNIONS else (hint,)
    return tuple(m for m in members if m is not type(None)) or members


def _body_kind(hint: object) -> BodyKind:
    members = _members(hint)
    if any(member in (bytes, *ANYTHING) for member in members):
        return BodyKind.BYTES
    if any(member in _FILES for member in members):
        return BodyKind.FILE
    raise TypeError(f"the body is bytes or BinaryIO, not {show(hint)}")


def _culprit(given: Mapping[str, object]) -> str | None:
    """Return the first argument that cannot be encoded."""
    for name, value in given.items():
        try:
            ENCODER.encode(value)
        except ERRORS:
            return name
    return None


def _loss(given: Any, back: Any) -> str | None:
    """Tell what would not arrive as it was given."""
    kind, other = type(given), type(back)
    if kind is other and given == back:
        return None
    if back is None and isinstance(given, float):
        return "nan and infinity cannot be written in JSON"
    fits = kind in _PLAIN and other not in (bytes, bytearray)
    is_path_text = other is str and isinstance(given, PurePath)
    if not (fits or is_path_text or isinstance(given, other)):
        return f"{kind.__name__} would arrive as {other.__name__}"
    if isinstance(given, dict) and isinstance(back, dict):
        lost = [key for key in given if key not in back and not isinstance(key, str)]
        if lost or len(given) != len(back):
            return "some keys would be lost, or become text"
        pairs = [(given[key], back[key]) for key in given if key in back]
    elif isinstance(given, list | tuple) and isinstance(back, list | tuple):
        pairs = list(zip(given, back, strict=True))
    elif dataclasses.is_dataclass(back) and isinstance(given, other):
        names = [field.name for field in dataclasses.fields(back)]
        pairs = [(getattr(given, name), getattr(back, name)) for name in names]
    else:
        return None
    return next(filter(None, itertools.starmap(_loss, pairs)), None)


def _cut(name: str) -> str:
    """Return a name that may come from a file, not too long for a line of a log."""
    return name if len(name) <= _NAME_MAX else f"{name[:_NAME_MAX]}..."


def _line(message: str) -> str:
    """Return a message in our style: one line, lower case."""
    text = " ".join(message.replace("`", "").split())
    return text[:1].lower() + text[1:]
