"""Again? and when?

With the defaults a task runs ten times in all, over about three quarters of an hour:

=============  ======================  ==============
after attempt  seconds to the next     in all, about
=============  ======================  ==============
1              5 (4 to 6)              5 s
2              10 (8 to 12)            15 s
3              20 (16 to 24)           35 s
4              40 (32 to 48)           1 min 15 s
5              80 (64 to 96)           2 min 35 s
6              160 (128 to 192)        5 min 15 s
7              320 (256 to 384)        10 min 35 s
8              640 (512 to 768)        21 min 15 s
9              1280 (1024 to 1536)     42 min 35 s
10             none: it is given up
=============  ======================  ==============

An attempt is a run begun, as in a task's name (docs/format.md, "Names").
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import random as _random
from typing import Final

from .errors import UsageError
from .task import MAX_ATTEMPT

MAX_BACKOFF: Final = 366 * 86_400
"""Seconds, a year. Keeps what is due after a retry inside what a name can hold."""

IGNORE_MIN: Final = 1.0
IGNORE_MAX: Final = 300.0
"""Seconds that a task waits which nobody here knows: at least and at most."""

CRASH_DELAY: Final = 1.0
"""Seconds that a task waits at most which has killed its worker before."""

_DOUBLINGS: Final = 1000
"""More would overflow a float; any backoff has met its maximum long before."""


def _check(field: str, value: float, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{field}={value!r:.80} cannot be: it takes a number")
    # Not "value < 0 or value > high": nan must be refused too.
    if not 0 <= value <= high:
        raise UsageError(f"{field}={value} cannot be: it takes 0 to {high}")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a task runs and how long it waits in between.

    Attributes:
        max_attempts: Runs in all; 0 means no limit.
        backoff: Seconds before the second attempt. Doubles each time.
        backoff_max: Seconds at which that ends, before the jitter.
        jitter: From 0 to 1; 0.2 multiplies each delay by a random number between
            0.8 and 1.2, so that what failed together does not come back together.

    Raises:
        UsageError: A value is out of range.
    """

    max_attempts: int = 10
    backoff: float = 5.0
    backoff_max: float = 3600.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        _check("max_attempts", self.max_attempts, MAX_ATTEMPT)
        _check("backoff", self.backoff, MAX_BACKOFF)
        _check("backoff_max", self.backoff_max, MAX_BACKOFF)
        _check("jitter", self.jitter, 1)

    def delay(self, attempt: int, random: Callable[[], float] = _random) -> float:
        """Return the seconds to wait after a run that did not succeed.

        Args:
            attempt: Number of runs begun so far, this one included.
            random: Returns a number from 0 to 1.
        """
        doublings = min(max(attempt - 1, 0), _DOUBLINGS)
        delay = min(self.backoff * 2.0**doublings, self.backoff_max)
        return delay * (1 + self.jitter * (2 * random() - 1))

    def exhausted(self, attempt: int) -> bool:
        """Tell whether no run is left after so many were begun."""
        return self.max_attempts != 0 and attempt >= self.max_attempts

    def crash_delay(self, attempt: int) -> float:
        """Return the seconds to wait after a run whose worker died.

        At once after the first attempt, since most workers die of something
        else than their task; then a little, so that a poison task cannot keep
        a daemon busy with starting workers.
        """
        return 0.0 if attempt <= 1 else min(CRASH_DELAY, self.backoff)


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """What one task wants otherwise; None leaves it to the daemon.

    Attributes:
        retries: Runs after the first: ``max_attempts`` less one. Only one of the
            two may be given.

    Raises:
        UsageError: A value is out of range, or both of those are given.
    """

    retries: int | None = None
    max_attempts: int | None = None
    backoff: float | None = None
    backoff_max: float | None = None
    jitter: float | None = None

    def __post_init__(self) -> None:
        if self.retries is not None:
            _check("retries", self.retries, MAX_ATTEMPT - 1)
            if self.max_attempts is not None:
                raise UsageError(
                    f"retries={self.retries} and max_attempts={self.max_attempts}"
                    " cannot both be given: max_attempts is retries + 1"
                )
        merge(RetryPolicy(), self)


def merge(defaults: RetryPolicy, options: RetryOptions) -> RetryPolicy:
    """Return the policy of a task: its options, and the rest from the defaults."""
    policy = defaults
    if options.retries is not None:
        policy = replace(policy, max_attempts=options.retries + 1)
    if options.max_attempts is not None:
        policy = replace(policy, max_attempts=options.max_attempts)
    if options.backoff is not None:
        policy = replace(policy, backoff=options.backoff)
    if options.backoff_max is not None:
        policy = replace(policy, backoff_max=options.backoff_max)
    if options.jitter is not None:
        policy = replace(policy, jitter=options.jitter)
    return policy


def ignore_delay(age_seconds: float) -> float:
    """Return how long a task waits that nobody here knows.

    As long as it has waited already, so that the waits double though nothing
    counts them; at least ``IGNORE_MIN``, at most ``IGNORE_MAX`` seconds.
    """
    return min(max(IGNORE_MIN, age_seconds), IGNORE_MAX)
