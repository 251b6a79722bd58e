"""What a running function says of how far it is: ``progress``.

Specification: docs/format.md, section 13.
"""

import logging
import math
from numbers import Integral, Real
from typing import Final

import msgspec

from .clock import CLOCK, Clock
from .current import current_task
from .errors import UsageError
from .spooldir import SpoolDir, progress as files
from .task import iso

EVERY: Final = 0.1
"""Seconds between two writes of one run at least."""

MESSAGE_MAX: Final = 1000
"""Characters of a message that are kept."""

log = logging.getLogger(__name__)


class _Said(msgspec.Struct):
    """A run that has said how far it is; ``at`` in seconds of the monotonic clock."""

    spool: SpoolDir
    at: float
    failed: bool = False


RUNS: Final[dict[str, _Said]] = {}
"""The runs of this process that have said how far they are, by task id.

Empty as long as none has: so a worker knows in no time that there is nothing to do.
"""

SPOOLS: Final[dict[str, SpoolDir]] = {}


def progress(
    done: float,
    total: float | None = None,
    message: str = "",
    *,
    clock: Clock = CLOCK,
) -> None:
    """Say how far the running task is, for ``spool status`` and ``spool watch``.

    May be called as often as is convenient: it writes a small file ten times a second
    at most; the first time, and when ``done`` equals ``total``, always. A full disk
    does not make it fail.

    Args:
        done: So much is done; 0 or more.
        total: So much is to be done in all; None if nobody knows.
        message: A few words; what goes beyond 1000 characters is cut off.

    Raises:
        UsageError: No task is running here, or a value cannot be.
    """
    task = current_task()
    done = _number("done", done)
    total = None if total is None else _number("total", total)
    if not isinstance(message, str):
        raise UsageError(f"message={message!r:.80} cannot be: it takes text")
    now = clock.monotonic()
    said = RUNS.get(task.id)
    if said is None:
        if task.spool not in SPOOLS:
            SPOOLS[task.spool] = SpoolDir(task.spool)
        said = RUNS[task.id] = _Said(SPOOLS[task.spool], -math.inf)
    if done != total and now - said.at < EVERY:
        return
    said.at = now
    record = {
        "done": done,
        "total": total,
        "message": message[:MESSAGE_MAX],
        "time": iso(clock.now_us()),
        "attempt": task.attempt,
    }
    try:
        files.write_progress(said.spool, task.id, record)
    except OSError as error:  # it is for people; the task comes first
        if not said.failed:
            said.failed = True
            log.warning("cannot write the progress of task=%s: %s", task.id, error)


def _number(name: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{name}={value!r:.80} cannot be: it takes a number")
    number = int(value) if isinstance(value, Integral) else float(value)
    if not 0 <= number <= 1e18:  # nor nan
        raise UsageError(f"{name}={value!r:.80} cannot be: it takes 0 to 1e18")
    return number


def forget_progress(task_id: str) -> None:
    """Remove what a run has said, if it has; for the worker, when the run is over."""
    said = RUNS.pop(task_id, None)
    if said is not None:
        files.forget_progress(said.spool, task_id)
