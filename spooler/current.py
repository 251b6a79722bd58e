"""What a running function can ask about its own run."""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

import msgspec

from .clock import CLOCK, Clock
from .errors import UsageError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CurrentTask(msgspec.Struct, frozen=True):
    """The task whose function is running.

    Attributes:
        id: 16 hex digits; the same in every attempt.
        name: The name under which the function is registered.
        attempt: The number of this run, from 1.
        priority: Where it waited.
        spool: The spool's path.
        put_us: When it was put (the file's time of modification), in µs since the
            epoch.
        deadline_us: When the run is killed; None without a time limit.
        traceparent: The W3C trace context that the producer gave.
        parent: The id of the task that this one follows; None if it follows none.
    """

    id: str
    name: str
    attempt: int
    priority: int
    spool: str
    put_us: int
    deadline_us: int | None = None
    traceparent: str | None = None
    parent: str | None = None
    clock: Clock = CLOCK

    @property
    def put_at(self) -> datetime:
        """When it was put, UTC."""
        return _EPOCH + timedelta(microseconds=self.put_us)

    @property
    def deadline(self) -> datetime | None:
        """When the run is killed, UTC; None without a time limit."""
        if self.deadline_us is None:
            return None
        return _EPOCH + timedelta(microseconds=self.deadline_us)

    @property
    def age(self) -> float:
        """Seconds since the task was put."""
        return max(0.0, (self.clock.now_us() - self.put_us) / 1e6)


CURRENT: ContextVar[Callable[[], CurrentTask] | None] = ContextVar(
    "CURRENT", default=None
)
"""Set by the worker around each run: returns the task, made when it is asked for."""


def current_task() -> CurrentTask:
    """Return the task whose function is running.

    Raises:
        UsageError: No task is: the function was called as a plain function.
    """
    task = CURRENT.get()
    if task is None:
        raise UsageError("no task is running here: the function was called directly")
    return task()
