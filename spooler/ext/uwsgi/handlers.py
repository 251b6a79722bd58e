"""The functions of signals, and how one is called."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ...errors import Fail, Retry
from ...logs import escape

Handler = Callable[[int], Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Registered:
    """The function of a signal.

    Attributes:
        spool: Where its tasks are put; None for the default one.
    """

    function: Handler
    spool: str | None = None


HANDLERS: Final[dict[int, Registered]] = {}
"""By the number of the signal."""


def name_of(function: object) -> str:
    """Return what tells a function from others, in every process."""
    module = getattr(function, "__module__", "?")
    return f"{module}.{getattr(function, '__qualname__', type(function).__name__)}"


def run(number: int, to: str | None = None) -> None:
    """Call a signal's function. What it raises is logged, as uWSGI does.

    A timer's next slot is the retry: nothing else is made of a failure, so that an
    outage does not fill failed/.

    Args:
        to: The name of the function that is meant; None for any.

    Raises:
        Fail: The function that is meant is not that of the signal here. Or the function
            has raised it, or ``Retry``.
    """
    found = HANDLERS.get(number)
    if found is None:
        text = f"signal {number}: no function is registered for it"
        if to is not None:
            raise Fail(text)
        log.warning("%s", text)
        return
    if to is not None and name_of(found.function) != to:
        # Numbers are given in the order of the modules: new code may have others.
        raise Fail(f"signal {number} was for {to}: now it is {name_of(found.function)}")
    try:
        found.function(number)
    except (Fail, Retry):
        raise
    except (Exception, SystemExit) as error:
        name, what = escape(name_of(found.function)), escape(repr(error)[:1000])
        log.exception("signal %d: %s raised %s", number, name, what)
