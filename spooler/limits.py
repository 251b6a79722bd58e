"""How many runs of a function there may be at a time, and how often.

Values only; who holds what is in ``spooldir.limits``. Specification: docs/format.md,
section 12.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from string import Formatter
from typing import Final

import msgspec

from .errors import UsageError
from .filling import fill

CONCURRENCY_MAX: Final = 10_000
RATE_MAX: Final = 100_000

_PERIODS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RATE: Final = re.compile(r"(\d+)/([smhd])", re.ASCII)


class Rate(msgspec.Struct, frozen=True):
    """So many runs may begin in any period of so many µs."""

    count: int
    period_us: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How many runs of a function there may be at a time, and how often.

    Attributes:
        concurrency: So many at a time, for each key if there is one.
        concurrency_key: Text with ``{argument}`` for the arguments.
        rate: So many in a period: ``10/m``; the periods are s, m, h and d.
        rate_key: As for the concurrency.
        defaults: Of arguments that need not be given.

    Raises:
        UsageError: One of them cannot be.
    """

    concurrency: int | None = None
    concurrency_key: str | None = None
    rate: str | None = None
    rate_key: str | None = None
    defaults: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        number: object = self.concurrency
        if number is not None and (
            isinstance(number, bool)
            or not isinstance(number, int)
            or not 1 <= number <= CONCURRENCY_MAX
        ):
            raise UsageError(
                f"concurrency={number!r:.80} cannot be: it is a whole number from 1 to"
                f" {CONCURRENCY_MAX}"
            )
        if self.rate is not None:
            parse_rate(self.rate)
        for name in ("concurrency", "rate"):
            key: object = getattr(self, f"{name}_key")
            if key is None:
                continue
            if getattr(self, name) is None:
                raise UsageError(f"{name}_key={key!r:.80} needs {name}= beside it")
            if not _names_something(key):
                raise UsageError(
                    f"{name}_key={key!r:.80} cannot be: it is text that names an"
                    " argument, such as '{host}'"
                )

    def shared(self, task: str) -> tuple[str, ...]:
        """Return the hashes of those limits that are the same for all its tasks."""
        concurrency = self.concurrency is not None and self.concurrency_key is None
        rate = self.rate is not None and self.rate_key is None
        found = [hash_of(task, "")] if concurrency else []
        return (*found, *([rate_file(hash_of(task, ""))] if rate else []))


def parse_rate(text: object) -> Rate:
    """Return what ``10/m`` means.

    Raises:
        UsageError: It is not of that form.
    """
    rate = _parse_rate(text) if isinstance(text, str) else None
    if rate is None:
        raise UsageError(
            f"rate={text!r:.80} cannot be: it is a whole number from 1 to {RATE_MAX}, a"
            " slash, and s, m, h or d, such as '10/m'"
        )
    return rate


@lru_cache(maxsize=1024)
def _parse_rate(text: str) -> Rate | None:
    found = _RATE.fullmatch(text)
    if found is None or not 1 <= int(found[1][:10]) <= RATE_MAX:
        return None
    return Rate(int(found[1]), _PERIODS[found[2]] * 1_000_000)


def _names_something(template: object) -> bool:
    """Tell whether a key may differ from task to task."""
    if not isinstance(template, str):
        return False
    try:
        return any(name is not None for _, name, _, _ in Formatter().parse(template))
    except ValueError:
        return False


def hash_for(
    template: str | None,
    task: str,
    arguments: Mapping[str, object],
    defaults: Mapping[str, object],
) -> str:
    """Return the hash of a limit for these arguments.

    Args:
        template: Its key; None if it is the same for all tasks of that name.

    Raises:
        UsageError: They do not fit.
    """
    if template is None:
        return hash_of(task, "")
    return hash_of(task, fill("the limit", template, {**defaults, **arguments}))


def hash_of(task: str, key: str) -> str:
    """Return the name of a limit's file."""
    text = f"{task}\0{key}".encode("utf-8", "surrogatepass")
    return blake2b(text).hexdigest()[:32]


def rate_file(limit: str) -> str:
    """Return the name of the file of a rate; it also stands for that limit."""
    return f"{limit}.rate"
