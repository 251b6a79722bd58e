"""What stands for something else in a configuration of uWSGI 2.0.31: pure functions.

Letters after a percent sign are replaced in the text of a file before it is read;
``$(NAME)``, ``@(file)`` and ``%(option)`` in the values afterwards. Odd corners are
kept, since an existing file may rely on them: tests/uwsgi/test_ini.py compares each
with the real one.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Final

from ...errors import UsageError

ROUNDS_MAX: Final = 1000
"""Replacements in one value: more can only be an option that names itself."""

_LETTER = re.compile(b"%(.)", re.DOTALL)
_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?\d+)", re.ASCII)
_OPERATIONS: Final[Mapping[str, Callable[[int, int], int]]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: _quotient(a, b),
}


def number(text: str) -> int:
    """Return the whole number that a text begins with, as atoi(3); 0 if none."""
    found = _NUMBER.match(text)
    return int(found[1]) if found else 0


def _quotient(dividend: int, divisor: int) -> int:
    """Return a quotient cut towards zero; 0 if there is none."""
    if divisor == 0:
        return 0
    whole = abs(dividend) // abs(divisor)
    return whole if (dividend < 0) == (divisor < 0) else -whole


def is_true(value: str) -> bool:
    """Tell whether a switch is on: all is, but four words."""
    return value.lower() not in ("false", "off", "no", "0")


def put_letters(data: bytes, letters: Mapping[str, str]) -> str:
    """Return the text of a file, each percent sign and the byte after it replaced.

    One that has no meaning is left out together with the percent sign.
    """

    def replace(found: re.Match[bytes]) -> bytes:
        return os.fsencode(letters.get(found[1].decode("latin-1"), ""))

    return os.fsdecode(_LETTER.sub(replace, data))


def put_values(value: str, sign: str, find: Callable[[str], str | None]) -> str:
    """Replace all ``sign(name)`` in a value, also in what came in their place.

    Args:
        sign: ``$``, ``@`` or ``%``.
        find: Returns what a name stands for; None leaves it as it is.

    Raises:
        UsageError: There is no end of it.
    """
    at = rounds = 0
    while (at := value.find(f"{sign}(", at)) >= 0:
        end, name = _name(value, at + 2, sign)
        found = find(name) if name else None
        if found is None:
            at = end
            continue
        value = value[:at] + found + value[end:]
        at = 1  # the first character is not looked at again
        rounds += 1
        if rounds > ROUNDS_MAX:
            raise UsageError(f"{sign}({name}) has itself in its value")
    return value


def _name(value: str, begin: int, sign: str) -> tuple[int, str]:
    """Return where to go on and the name that begins there; empty if it is none."""
    depth = 0
    for index in range(begin, len(value)):
        letter = value[index]
        if letter == sign:
            return index, ""
        if letter == "(":
            depth += 1
        elif letter == ")":
            if not depth:
                return index + 1, value[begin:index]
            depth -= 1
    return len(value), ""


def calculate(expression: str, find: Callable[[str], str | None]) -> str | None:
    """Return the value of what stands in ``%(…)``: a name, or names and operators.

    Names and numbers side by side are joined; ``+ - * /`` count the next one in, from
    left to right; ``++`` and ``--`` count one up or down.

    Args:
        find: Returns the value of an option; None if there is none.
    """
    if " " not in expression:
        return find(expression)
    result: str | None = None
    operation = ""
    for word in expression.split(" "):
        if word in _OPERATIONS:
            operation = word
        elif word in ("++", "--"):
            if result is not None:
                result = str(number(result) + (1 if word == "++" else -1))
            operation = ""
        elif word:
            is_number = word.isascii() and word.isdigit()
            value = word if is_number else find(word) or ""
            if operation:
                counted = _OPERATIONS[operation](number(result or ""), number(value))
                result = str(counted)
            else:
                result = (result or "") + value
            operation = ""
    return result
