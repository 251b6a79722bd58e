"""The outbox: ``spooler.forward``, the task that every worker knows.

It sends a packet to a socket. While nobody is there it is tried again without end; if
the task is refused, only some times. It speaks as the daemon's user, and with the
secret that its worker knows: so it is nobody else's to ask for.
"""

import os
from typing import Final

from .arguments import Arguments
from .clock import CLOCK
from .current import current_task
from .errors import (
    ArgumentsError,
    CorruptError,
    Fail,
    Retry,
    SpoolRefused,
    SpoolUnreachable,
    UsageError,
)
from .handle import spool_dir
from .packet import PACKET, decode_pairs
from .registry import Entry, Kind
from .retry import RetryOptions
from .sending import send
from .spooldir.owner import asker_of
from .spooldir.reading import TaskFile
from .spooldir.reports import attempts
from .task import FORWARD, Claim, Outcome, Verdict

PAUSE_MAX: Final = 30.0
"""Seconds between two looks whether somebody is there, at most."""

SPACING: Final = 0.02
"""Seconds by which tasks are kept apart that wait for the same address."""

REFUSALS_MAX: Final = 10
"""Refusals after which a task is given up."""

REFUSED_PAUSE: Final = 5.0
"""Seconds after the first refusal; doubles each time, up to ``REFUSED_PAUSE_MAX``."""

REFUSED_PAUSE_MAX: Final = 3600.0

_REFUSED: Final = "SpoolRefused: "


class Down:
    """An address at which nobody was.

    One task of a process looks again; the others do not wait for it in vain.
    """

    def __init__(self) -> None:
        self.pause = 0.5
        self.until = 0.0
        self.waiting = 0

    def begin(self, now: float) -> None:
        """Note that nobody was there, once more."""
        self.pause = min(self.pause * 2, PAUSE_MAX)
        self.until = now + self.pause
        self.waiting = 0

    def pause_for(self, now: float) -> float:
        """Return the seconds after which one more task is to try again."""
        self.waiting += 1
        return max(0.0, self.until - now) + self.waiting * SPACING


_DOWN: Final[dict[str, Down]] = {}


def forward(to: str, task: str = "", *, body: bytes) -> None:
    """Send a task on.

    Args:
        to: The address of a socket.
        task: Its name, for people.
        body: The packet, and the body after it.

    Raises:
        Retry: Nobody is there, or it was refused.
        Fail: It was refused too often, or cannot be sent.
    """
    now, down = CLOCK.monotonic(), _DOWN.get(to)
    if down is not None and now < down.until:
        raise Retry(f"nobody was at {to} just now", after=down.pause_for(now))
    try:
        if not body.startswith(PACKET):
            raise CorruptError("its body is no packet")
        pairs, end = decode_pairs(body)
        send(to, pairs, body[end:])
    except SpoolUnreachable as error:
        down = _DOWN.setdefault(to, Down())
        now = CLOCK.monotonic()
        down.begin(now)
        raise Retry(str(error), after=down.pause_for(now)) from None
    except SpoolRefused as error:
        _DOWN.pop(to, None)
        _refuse(error)
    except (CorruptError, UsageError) as error:
        raise Fail(str(error)) from None
    else:
        _DOWN.pop(to, None)


def _handle(claim: Claim, task: TaskFile) -> Outcome:
    """Send a task on, if whoever has put it may ask for that (``registry.Handler``).

    The rule is that of pickles (docs/decisions/, "Pickle"). Followers and lines of
    batches never get here: no file may hold such.

    Raises:
        Retry, Fail: As ``forward``; it may not be asked for.
    """
    header = task.header
    if not claim.signed:
        asker = asker_of(task.fd)
        if asker != os.geteuid():
            raise Fail(f"uid {asker} may not have tasks sent by this user: not signed")
        if header.key is not None:  # of such a file a copy is made, which belongs to us
            raise Fail("a task with a key is not sent on, unless it is signed")
    if header.uwsgi:
        raise Fail(f"{FORWARD} is no name for a task of uWSGI's")
    try:
        values = FORWARD_ENTRY.arguments.decode(header.args)
    except ArgumentsError as error:
        raise Fail(str(error)) from None
    forward(str(values["to"]), body=task.body())
    return Outcome(Verdict.ACK)


def _refuse(error: SpoolRefused) -> None:
    """Have a refused task tried again, or give it up.

    Raises:
        Retry, Fail: As it is.
    """
    run = current_task()
    earlier = attempts(spool_dir(run.spool), run.id)
    count = sum(_REFUSED in str(each.get("error")) for each in earlier)
    if count + 1 >= REFUSALS_MAX:
        raise Fail(f"{error} ({count + 1} times)") from None
    pause = min(REFUSED_PAUSE * 2.0**count, REFUSED_PAUSE_MAX)
    raise Retry(f"{_REFUSED}{error}", after=pause) from None


FORWARD_ENTRY: Final = Entry(
    FORWARD,
    forward,
    Kind.TASK,
    Arguments(forward, FORWARD),
    RetryOptions(max_attempts=0, backoff=1.0, backoff_max=PAUSE_MAX),
    handler=_handle,
)
"""What it is registered as, everywhere."""
