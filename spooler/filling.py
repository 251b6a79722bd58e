"""Text with ``{argument}`` in it, as decorators take it: filled for each call."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from string import Formatter
from typing import Any, Final

from .errors import UsageError

_FIRST: Final = re.compile(r"[^.\[]*")


def check(
    what: str, text: object, function: Callable[..., object], *, takes_dict: bool
) -> str:
    """Return ``text`` if a function's arguments can fill it.

    Args:
        what: What it is for, in the message.
        takes_dict: The function takes all arguments, whatever they are called.

    Raises:
        UsageError: It is no text, cannot be read, or names an argument that the
            function cannot have.
    """
    if not isinstance(text, str):
        raise UsageError(f"{what}={text!r:.80} cannot be: it is text")
    try:
        names = set(_names(text))
    except ValueError as error:
        raise UsageError(f"{what}={text!r:.80} cannot be: {error}") from None
    parameters = inspect.signature(function).parameters
    rest = takes_dict or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = set(parameters) - {"body"}
    if not rest and (missing := names - known):
        raise _missing(what, text, min(missing), known)
    return text


def _names(text: str) -> Iterator[str]:
    for _, field, form, _ in Formatter().parse(text):
        if field is None:
            continue
        first = _FIRST.match(field)
        name = first[0] if first else ""
        if not name.isidentifier():
            raise ValueError(f"{{{field}}} does not begin with the name of an argument")
        yield name
        yield from _names(form or "")


def fill(what: str, text: str, args: Mapping[str, Any]) -> str:
    """Return the text of one call.

    Args:
        args: The arguments by name, those with a default too.

    Raises:
        UsageError: It names an argument that is not there, or cannot be made.
    """
    try:
        return text.format_map(args)
    except KeyError as error:
        raise _missing(what, text, str(error.args[0]), set(args)) from None
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise UsageError(f"{what}={text!r:.80} cannot be filled: {error}") from None


def _missing(what: str, text: str, name: str, known: set[str]) -> UsageError:
    there = ", ".join(sorted(known)) or "none"
    return UsageError(
        f"{what}={text!r:.80}: there is no argument {name!r} (there are: {there})"
    )
