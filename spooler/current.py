"""What a running function can ask about its own run."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from .clock import CLOCK, Clock
from .errors import UsageError


@dataclass(frozen=True, slots=True)
class CurrentTask:
    """The task whose function is running.

    Attributes:
        id: 16 hex digits; the same in every attempt.
        name: The name under which the function is registered.
        attempt: The number of this run, from 1.
        priority: Where it waited.
        spool: The spool's path.
        put_at: When it was put (the file's time of modification), UTC.
        deadline: When the run is killed, UTC; None without a time limit.
        traceparent: The W3C trace context that the producer gave.
    """

    id: str
    name: str
    attempt: int
    priority: int
    spool: str
    put_at: datetime
    deadline: datetime | None = None
    traceparent: str | None = None
    _clock: Clock = field(default=CLOCK, repr=False, compare=False)

    @property
    def age(self) -> float:
        """Seconds since the task was put."""
        epoch = datetime(1970, 1, 1, tzinfo=self.put_at.tzinfo)
        put_us = (self.put_at - epoch) // timedelta(microseconds=1)
        return max(0.0, (self._clock.now_us() - put_us) / 1e6)


CURRENT: ContextVar[CurrentTask | None] = ContextVar("CURRENT", default=None)
"""Set by the worker around each run."""


def current_task() -> CurrentTask:
    """Return the task whose function is running.

    Raises:
        UsageError: No task is: the function was called as a plain function.
    """
    task = CURRENT.get()
    if task is None:
        raise UsageError("no task is running here: the function was called directly")
    return task
