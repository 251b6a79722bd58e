"""Timers and cron lines that are added while the application runs.

The daemon learns of others when the modules are imported. These are tasks that come
again: ``uwsgi.timer`` without end (each once, by a key), and ``uwsgi.times``, which
puts the next one before it runs. They wait in the spool, so unlike uWSGI's they survive
a restart; if their signal has become another function's by then, they fail.
"""

from contextlib import suppress
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

import msgspec

from ... import putting
from ...arguments import Arguments
from ...clock import CLOCK
from ...errors import SpoolerError, UsageError
from ...local_zone import local_zone
from ...putting import PutOptions
from ...registry import REGISTRY, Entry, Kind
from ...retry import RetryOptions
from ...schedule import CronLine, Interval, Schedule
from ...spooldir.reading import TaskFile
from ...task import Claim, Outcome, Verdict
from .handlers import HANDLERS, name_of, run
from .pairs import OWN
from .state import STATE

ENDLESS: Final = f"{OWN}timer"
COUNTED: Final = f"{OWN}times"

_NEVER_US: Final = 50 * 366 * 86_400 * 1_000_000


class Later(msgspec.Struct, omit_defaults=True):
    """The arguments of such a task.

    Attributes:
        to: The name of the function that is meant; None if it is not known.
        left: How many runs there are still to be, this one too; 0 for no end.
    """

    signum: int
    to: str | None = None
    interval: Interval | None = None
    cron: CronLine | None = None
    left: int = 0

    @property
    def schedule(self) -> Schedule:
        """When it runs: a timer or a cron line."""
        return self.interval or self.cron or Interval(1.0)


def put_timer(number: int, seconds: float, times: int) -> None:
    """Have a signal raised every so many seconds, the first time after as many.

    Args:
        times: How often; 0 for ever.

    Raises:
        ValueError: It cannot be put.
    """
    found = Later(number, _function(number), interval=Interval(seconds), left=times)
    _put(found, CLOCK.now_us() + round(seconds * 1e6), None)


def put_cron(number: int, line: CronLine) -> None:
    """Have a signal raised at the moments of a cron line.

    Raises:
        ValueError: It cannot be put.
    """
    found = Later(number, _function(number), cron=line)
    _put(found, _next_us(found, CLOCK.now_us()), None)


def _function(number: int) -> str | None:
    known = HANDLERS.get(number)
    return None if known is None else name_of(known.function)


def _put(found: Later, due_us: int, task_id: str | None) -> None:
    known = HANDLERS.get(found.signum)
    spool = None if known is None else known.spool
    options = PutOptions(
        at=datetime.fromtimestamp(due_us // 1_000_000, UTC).replace(
            microsecond=due_us % 1_000_000
        ),
        spool=spool or STATE.spools[0],
        id=task_id,
        key=None if found.left else _key(found),
    )
    task = COUNTED if found.left else ENDLESS
    try:
        putting.put(task, msgspec.json.encode(found), options)
    except SpoolerError as error:
        raise ValueError(f"unable to add timer: {error}") from error


def _key(found: Later) -> str:
    """Return what makes it the same as another: who adds it twice gets one."""
    if found.cron is not None:
        return f"{found.signum} {found.cron.line} {found.cron.tz}"
    return f"{found.signum} {found.schedule}"


def _next_us(found: Later, after_us: int) -> int:
    """Return the first moment of a cron line later than a moment."""
    from ...slots import next_slot_us  # noqa: PLC0415 (it loads cronsim)

    slot_us = next_slot_us(found.schedule, after_us)
    return after_us + _NEVER_US if slot_us is None else slot_us


def _pause(found: Later, due_us: int) -> float:
    """Return for how many seconds it waits now; what was missed is left out."""
    now_us = CLOCK.now_us()
    if found.interval is None:
        return (_next_us(found, now_us) - now_us) / 1e6
    step_us = round(found.interval.seconds * 1e6)
    return (step_us - max(0, now_us - due_us) % step_us) / 1e6


def _check(found: Later) -> None:
    """Make sure that what others may have written can be run, and again.

    Raises:
        UsageError: It cannot.
    """
    if found.signum not in HANDLERS:
        raise UsageError(f"no function is registered for signal {found.signum}")
    line = found.cron
    if line is not None:
        if line.tz.startswith("/") and line.tz != local_zone():
            raise UsageError(f"there is no time zone {line.tz!r:.80}")
        _next_us(found, CLOCK.now_us())


def _run(claim: Claim, task: TaskFile) -> Outcome:
    """Run such a task (``registry.Handler``)."""
    args = task.header.args
    try:
        if isinstance(args, bytes):
            found = msgspec.json.decode(args, type=Later)
        else:
            found = msgspec.convert(dict(args), Later)
        _check(found)
    except (msgspec.MsgspecError, SpoolerError) as error:
        return Outcome(Verdict.FAIL, f"no timer of uWSGI's: {error}", "arguments")
    due_us = claim.name.due_us
    if found.left > 1 and claim.name.attempt == 0:
        rest = msgspec.structs.replace(found, left=found.left - 1)
        next_id = blake2b(f"{claim.name.id}.next".encode()).hexdigest()[:16]
        after_us = CLOCK.now_us() + round(_pause(found, due_us) * 1e6)
        with suppress(FileExistsError):  # it was given back, and begins again
            _put(rest, after_us, next_id)
    run(found.signum, found.to)
    if found.left:
        return Outcome(Verdict.ACK)
    return Outcome(Verdict.AGAIN, after=_pause(found, due_us))


def _nothing(**args: Any) -> None:
    """Stand for the function, which is not known before the task is."""


def _entry(name: str, retry: RetryOptions) -> Entry:
    arguments = Arguments(_nothing, name)
    return Entry(name, _nothing, Kind.RAW, arguments, retry, handler=_run)


def register() -> None:
    """Have this process run such tasks."""
    endless = RetryOptions(max_attempts=0, backoff=1.0, backoff_max=300.0)
    REGISTRY.add(_entry(ENDLESS, endless))
    REGISTRY.add(_entry(COUNTED, RetryOptions(max_attempts=1)))
