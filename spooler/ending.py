"""The last move of a claim: ack, retry, fail and the like, and what goes with them.

Kept results and followers go before and after the move; a move that the file system
refuses is kept and made later.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from .alarm import Alarm
from .clock import CLOCK
from .errors import ClaimLostError
from .logs import escape
from .options import NO_OPTIONS, RunOptions
from .registry import Entry
from .retry import RetryPolicy, merge
from .spooldir import results
from .spooldir.claims import Claims
from .spooldir.followers import Settling
from .task import Claim, Outcome, Verdict, iso

SETTLE_AGAIN: Final = 1.0
"""Seconds until a move that the file system refused is tried again."""

REFUSED_MAX: Final = 20
"""Refusals after which the other moves must wait for the next time."""

_ACK: Final = Outcome(Verdict.ACK)

log = logging.getLogger(__name__)


class Ending(msgspec.Struct):
    """How a claim ends.

    Attributes:
        path: Where it waited, for the supervisor; None if that need not hear of it.
        started_us: When its run began; None if it was not run.
        settling: How far its followers are; None if it has none.
    """

    path: str | None
    claim: Claim
    outcome: Outcome
    entry: Entry | None
    options: RunOptions = NO_OPTIONS
    started_us: int | None = None
    settling: Settling | None = None


class Endings:
    """How the claims of one worker end. For any thread.

    Args:
        policy: What the daemon says of retries.

    Attributes:
        settled: Paths that are done with, for the supervisor to hear of.
        refused: Moves that the file system refused, to be tried again.
    """

    def __init__(self, claims: Claims, policy: RetryPolicy) -> None:
        self.claims = claims
        self._policy = policy
        self._settle_at = 0.0
        self._tells = log.isEnabledFor(logging.INFO)
        self._rejects = Alarm(
            log,
            f"reject worker={claims.worker}: %d more tasks cannot be read; they are in"
            " corrupt/, each with the reason beside it",
        )
        self._refusals = Alarm(log, "cannot settle now: %d times more")
        self.settled: deque[str] = deque()
        self.refused: deque[Ending] = deque()

    def ack(self, path: str, claim: Claim, started_us: int) -> bool:
        """End a claim that leaves nothing but its file: what most tasks come to.

        Returns:
            Whether it has ended; if not, ``conclude`` it.
        """
        try:
            self.claims.ack(claim, alone=True)
        except (ClaimLostError, OSError):
            return False
        self.settled.append(path)
        if self._tells:
            now_us = CLOCK.now_us()
            tell(claim, _ACK, now_us - started_us, now_us)
        return True

    def conclude(self, ending: Ending) -> None:
        """End a claim: every other claim ends here."""
        if ending.outcome.verdict is Verdict.RETRY:
            ending = self._retry_or_fail(ending)
        self.settle(ending)
        # Refused or not, it runs no more: what else waits may make room.
        if ending.path is not None:
            self.settled.append(ending.path)

    def take_settled(self) -> list[str]:
        """Return what is new in ``settled``, and empty it."""
        self._rejects.look()
        self._refusals.look()
        taken = []
        while self.settled:
            taken.append(self.settled.popleft())
        return taken

    def _retry_or_fail(self, ending: Ending) -> Ending:
        """Return it with a delay, or failed since no attempt is left."""
        policy, outcome = self._policy, ending.outcome
        if ending.entry is not None:
            policy = merge(policy, ending.entry.retry)
        attempt = ending.claim.name.attempt + 1
        if policy.exhausted(attempt):
            outcome = replace(outcome, verdict=Verdict.FAIL)
        elif outcome.after is None:
            outcome = replace(outcome, after=policy.delay(attempt))
        return replace(ending, outcome=outcome)

    def settle(self, ending: Ending) -> None:
        """Make the last move of a claim, or keep it for later if it is refused."""
        try:
            self._settle(ending)
        except ClaimLostError as error:
            log.warning("%s: somebody recovered or removed it", error)
        except OSError as error:
            text, file = "cannot settle %s now: %s", escape(ending.claim.file)
            self._refusals.tell(logging.ERROR, text, file, escape(str(error)))
            self.refused.append(ending)
            self._settle_at = CLOCK.monotonic() + SETTLE_AGAIN

    @property
    def refused_for(self) -> float | None:
        """Seconds until ``settle_refused`` is due; None if nothing was refused."""
        if not self.refused:
            return None
        return max(0.0, self._settle_at - CLOCK.monotonic())

    def settle_refused(self) -> None:
        """Try the moves again that the file system has refused, if it is time."""
        if CLOCK.monotonic() < self._settle_at:
            return
        refusals = 0
        for _ in range(len(self.refused)):
            ending, left = self.refused.popleft(), len(self.refused)
            self.settle(ending)
            if ending.path is not None:
                self.settled.append(ending.path)
            refusals += len(self.refused) > left
            if refusals >= REFUSED_MAX:
                return

    def _settle(self, ending: Ending) -> None:
        claim, outcome = ending.claim, ending.outcome
        now_us = CLOCK.now_us()
        later = outcome.after is not None
        due_us = now_us + int((outcome.after or 0.0) * 1e6)
        started_us = ending.started_us
        match outcome.verdict:
            case Verdict.ACK:
                self._end(ending, lambda: self.claims.ack(claim), now_us)
            case Verdict.AGAIN:
                self.claims.again(claim, due_us=due_us)
            case Verdict.RELEASE:
                self.claims.release(claim, due_us=due_us if later else None)
            case Verdict.RETRY:
                self.claims.retry(claim, outcome, due_us=due_us, started_us=started_us)
            case Verdict.FAIL:
                self._end(
                    ending,
                    lambda: self.claims.fail(claim, outcome, started_us=started_us),
                    now_us,
                )
            case Verdict.REJECT:
                durable = ending.path is None  # a line's batch has gone on already
                self.claims.reject(claim, outcome.error, durable=durable)
                self._rejects.tell(logging.WARNING, *_line(claim, outcome, 0, 0))
                return
        took_us = 0 if started_us is None else now_us - started_us
        tell(claim, outcome, took_us, due_us)

    def _end(self, ending: Ending, move: Callable[[], None], now_us: int) -> None:
        """Make the last move of a task, with all that goes before and after it."""
        options, succeeded = ending.options, ending.outcome.verdict is Verdict.ACK
        if options.keep_result is not None:
            self._keep_result(ending, options.keep_result)
        followers = options.then if succeeded else options.on_failure
        if not followers:
            move()
            return
        if ending.settling is None:
            ending.settling = Settling(
                self.claims.spool,
                self.claims.folder,
                ending.claim.name,
                followers,
                "then" if succeeded else "on_failure",
                now_us,
                signed=ending.claim.signed,
            )
        ending.settling.settle(move)

    def _keep_result(self, ending: Ending, seconds: float) -> None:
        name, outcome = ending.claim.name, ending.outcome
        problem = results.keep(
            self.claims.spool,
            name,
            ok=outcome.verdict is Verdict.ACK,
            value=outcome.value,
            error=outcome.error,
            reason=outcome.reason,
            traceback=outcome.traceback,
            attempt=name.attempt + (ending.started_us is not None),
            started_us=ending.started_us,
            seconds=seconds,
        )
        if problem is not None:
            text = "result of task=%s name=%s is not kept: %s"
            log.warning(text, name.id, escape(name.task), escape(problem))


_WORDS: Final[Mapping[Verdict, tuple[int, str]]] = {
    Verdict.ACK: (logging.INFO, "ack"),
    Verdict.AGAIN: (logging.INFO, "again"),
    Verdict.RELEASE: (logging.WARNING, "release"),
    Verdict.RETRY: (logging.WARNING, "retry"),
    Verdict.FAIL: (logging.ERROR, "fail"),
    Verdict.REJECT: (logging.WARNING, "reject"),
}


def tell(claim: Claim, outcome: Outcome, took_us: int, due_us: int) -> None:
    """Log what became of a claim."""
    level, _ = _WORDS[outcome.verdict]
    if log.isEnabledFor(level):
        log.log(level, *_line(claim, outcome, took_us, due_us))


def _line(claim: Claim, outcome: Outcome, took_us: int, due_us: int) -> tuple[Any, ...]:
    """Return what is logged of a claim: the text, and what stands in it."""
    _, move = _WORDS[outcome.verdict]
    later = outcome.verdict in (Verdict.RETRY, Verdict.RELEASE)
    return (
        "%s task=%s name=%s attempt=%d worker=%s seconds=%.6f%s%s",
        move,
        claim.name.id,
        escape(claim.name.task),
        claim.name.attempt + 1,
        claim.worker,
        took_us / 1e6,
        f" due={iso(due_us)}" if later else "",
        f": {escape(outcome.error)}" if outcome.error else "",
    )
