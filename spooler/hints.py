"""What the type hints of a task's function may be, as msgspec types.

msgspec reads most of them as they are. The rest is left to a hook: paths, unions that
msgspec refuses (``Path | str``, two dataclasses), and dataclasses, named tuples and
typed dicts that hold such a union. These unions take the first member, in the order
of the hint, that fits; a dataclass fits if it knows every key.
"""

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence, Set
from contextlib import suppress
from datetime import date, time
from pathlib import PurePath
from typing import Annotated, Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import UNSET

REQUIRED: Final = inspect.Parameter.empty
ANYTHING: Final = (inspect.Parameter.empty, Any, object)
UNIONS: Final = (Union, types.UnionType)
DICTS: Final = (dict, Mapping, MutableMapping)
_OTHERS: Final = (list, tuple, set, frozenset, Sequence, Set, Iterable)
ERRORS: Final = (msgspec.MsgspecError, TypeError, ValueError, RecursionError)


class _Custom(type):
    """Makes types that msgspec leaves to the hook, which calls ``convert``."""

    convert: Callable[..., object]

    def __instancecheck__(cls, instance: object) -> bool:
        return True  # msgspec asks this of what the hook returned


Hints = dict[str, object]


Records = dict[object, _Custom]  # the types made so far: a class may name itself


def show(hint: object) -> str:
    """Return a type hint as its author wrote it, nearly."""
    return public(inspect.formatannotation(hint))


def public(text: str) -> str:
    """Return a signature or hint with the public names of classes."""
    return text.replace("pathlib._local.", "pathlib.")  # Python 3.13


def usable(hint: Any, records: Records) -> Any:
    """Return a type that reads JSON as the hint says, or raise ``TypeError``."""
    if hint in ANYTHING:
        return Any
    for link in ("__supertype__", "__value__"):  # NewType, a ``type`` statement
        if hasattr(hint, link):
            return usable(getattr(hint, link), records)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[(usable(args[0], records), *args[1:])]
    if origin in (typing.Required, typing.NotRequired):
        return usable(args[0], records)
    if origin in UNIONS:
        return _union(args, records)
    if origin in (*DICTS, *_OTHERS):
        inner = tuple(arg if arg is ... else usable(arg, records) for arg in args)
        hint = (list if origin is Iterable else origin)[inner]
    elif _is_record(hint) and not _is_native(hint):
        return _record(hint, records)
    info = msgspec.inspect.type_info(hint)
    custom = isinstance(info, msgspec.inspect.CustomType) and info.cls
    if custom and not issubclass(custom, PurePath):
        raise TypeError(f"{show(hint)} cannot be written in a task")
    return hint


def _union(members: tuple[Any, ...], records: Records) -> Any:
    choices = [usable(member, records) for member in members]
    native = functools.reduce(operator.or_, choices)
    if _is_native(native):
        return native
    choices = [
        _record(member, records) if _is_record(member) else choice
        for member, choice in zip(members, choices, strict=True)
    ]
    names = " | ".join(map(show, members))

    def convert(value: object, *, lax: bool) -> object:
        for loose in (False, True)[: 1 + lax]:
            for choice in choices:
                with suppress(*ERRORS):
                    return read_value(value, choice, lax=loose)
        raise ValueError(f"expected {names}, got {type(value).__name__}")

    return _Custom(names, (), {"convert": convert})


def _record(cls: Any, records: Records) -> _Custom:
    """Return a type for a dataclass, a named tuple or a typed dict."""
    if cls in records:
        return records[cls]
    custom = records[cls] = _Custom(cls.__name__, (), {})  # it may recur
    hints = typing.get_type_hints(cls, include_extras=True)
    if typing.is_typeddict(cls):
        needed = cls.__required_keys__
        defaults = {n: REQUIRED if n in needed else UNSET for n in hints}
    else:
        parameters = inspect.signature(cls).parameters
        defaults = {n: p.default for n, p in parameters.items()}
    parts = [field(n, usable(hints[n], records), d) for n, d in defaults.items()]
    row = issubclass(cls, tuple)
    struct = msgspec.defstruct(
        "_", parts, array_like=row, kw_only=not row, forbid_unknown_fields=True
    )

    def convert(value: object, *, lax: bool) -> object:
        return cls(**fields(read_value(value, struct, lax=lax)))

    custom.convert = convert
    return custom


def _is_record(hint: Any) -> bool:
    """Tell whether it is a dataclass, a typed dict or a named tuple."""
    marks = ("__dataclass_fields__", "__required_keys__", "_field_defaults")
    return isinstance(hint, type) and any(hasattr(hint, mark) for mark in marks)


def _is_native(hint: object) -> bool:
    """Tell whether msgspec takes a type as it is."""
    with suppress(TypeError):
        msgspec.json.Decoder(hint)
        return True
    return False


def field(name: str, kind: Any, default: object) -> tuple[Any, ...]:
    """Return a field of a struct; a default of None allows None."""
    if default is REQUIRED:
        return (name, kind)
    return (name, kind if default is not None else kind | None, UNSET)


def fields(struct: msgspec.Struct) -> dict[str, object]:
    """Return the values that were given."""
    values = msgspec.structs.asdict(struct)
    return {name: value for name, value in values.items() if value is not UNSET}


def read_value(value: object, kind: Any, *, lax: bool) -> Any:
    """Convert a value that JSON knows; text may stand for numbers if ``lax``."""
    return msgspec.convert(
        value, kind, strict=not lax, str_keys=True, dec_hook=HOOKS[lax]
    )


def runs_no_code(kind: Any) -> bool:
    """Tell whether reading a value calls nothing but msgspec's own code.

    Args:
        kind: From ``usable``.
    """
    return _is_pure(msgspec.inspect.type_info(kind))


_PURE: Final = (
    msgspec.inspect.AnyType,
    msgspec.inspect.NoneType,
    msgspec.inspect.BoolType,
    msgspec.inspect.IntType,
    msgspec.inspect.FloatType,
    msgspec.inspect.StrType,
    msgspec.inspect.BytesType,
    msgspec.inspect.DateTimeType,
    msgspec.inspect.DateType,
    msgspec.inspect.TimeType,
    msgspec.inspect.TimeDeltaType,
    msgspec.inspect.UUIDType,
    msgspec.inspect.DecimalType,
    msgspec.inspect.LiteralType,
)


def _is_pure(info: msgspec.inspect.Type) -> bool:
    match info:
        case msgspec.inspect.Metadata():
            return _is_pure(info.type)
        case msgspec.inspect.UnionType():
            return all(map(_is_pure, info.types))
        case msgspec.inspect.CollectionType():
            return _is_pure(info.item_type)
        case msgspec.inspect.TupleType():
            return all(map(_is_pure, info.item_types))
        case msgspec.inspect.DictType():
            return _is_pure(info.key_type) and _is_pure(info.value_type)
    return isinstance(info, _PURE)


def _hook(kind: Any, value: object, *, lax: bool) -> object:
    if isinstance(kind, _Custom):
        try:
            return kind.convert(value, lax=lax)
        except msgspec.ValidationError as exc:  # msgspec adds a place to others only
            raise ValueError(str(exc)) from None
    if isinstance(kind, type) and issubclass(kind, PurePath) and isinstance(value, str):
        return kind(value)
    raise ValueError(f"expected {show(kind)}, got {type(value).__name__}")


HOOKS: Final = tuple(functools.partial(_hook, lax=lax) for lax in (False, True))


def _encode_hook(value: object) -> object:
    """Write paths, and classes derived from those that JSON knows."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    for base in (str, int, float):
        if isinstance(value, base):
            return base.__getnewargs__(value)[0]  # type: ignore[arg-type] # as base
    raise TypeError(f"{type(value).__name__} cannot be written in a task")


ENCODER: Final = msgspec.json.Encoder(enc_hook=_encode_hook)
