"""What workers held that have died: give it back.

A worker of this daemon has its end reported; of those of other daemons nobody tells,
so their locks are looked at.
"""

import logging
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from .backlog import Backlog
from .clock import CLOCK, Clock
from .logs import escape
from .retry import RetryOptions, RetryPolicy, merge
from .spooldir import SpoolDir
from .spooldir.recovery import Followers, Recovered, is_alive, processes, recover
from .task import BATCH, Name, Outcome, Verdict

LOOK_AGAIN: Final = 0.05
"""Seconds until a dead worker is looked at again that still holds its lock."""

RECOVER_AGAIN: Final = 1.0
"""Seconds until a recovery that the file system refused is tried again."""

CRASHED: Final = Outcome(Verdict.FAIL, "its worker and its daemon died", "crash")
STOPPED: Final = Outcome(Verdict.RELEASE, "the daemon stopped before it had finished")
BESIDE: Final = Outcome(Verdict.RELEASE, "its worker was killed for another task")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of the tasks that a dead worker held.

    Attributes:
        outcome: Of all but the culprits.
        culprits: By task id, those for which the worker was killed.
    """

    outcome: Outcome
    culprits: Mapping[str, Outcome]

    def of(self, task_id: str) -> Outcome:
        """Return what becomes of one task."""
        return self.culprits.get(task_id, self.outcome)


class Dead:
    """The dead workers of one spool that are not recovered yet.

    Args:
        owners: The uids whose files count as tasks.
        living: Returns the names of this daemon and its living workers.
    """

    def __init__(
        self,
        spool: SpoolDir,
        backlog: Backlog,
        policy: RetryPolicy,
        owners: Collection[int],
        living: Callable[[], Collection[str]],
        clock: Clock = CLOCK,
    ) -> None:
        self._spool = spool
        self._backlog = backlog
        self._policy = policy
        self._owners = owners
        self._living = living
        self._clock = clock
        self._known: dict[str, RetryOptions] = {}
        self._rest: RetryOptions | None = None
        self._followers: Followers = {}
        self._refused: set[str] = set()
        self._again_at = 0.0
        self.fates: dict[str, Fate] = {}
        """Of our own, by name."""

    def use(
        self,
        known: dict[str, RetryOptions],
        followers: Followers | None = None,
        rest: RetryOptions | None = None,
    ) -> None:
        """Take what decorators say of retries and failures, by task name.

        Args:
            rest: The same for all other tasks, which wait as long after a crash as
                after an exception; None for what the daemon says.
        """
        self._known = known
        self._rest = rest
        self._followers = followers or {}

    def add(self, name: str, fate: Fate) -> None:
        """Recover a worker of ours that has died, now or when it can be done."""
        self.fates[name] = fate
        self.recover()

    def recover(self) -> None:
        """Give back what our own dead workers held."""
        now = self._clock.monotonic()
        if not self.fates or now < self._again_at:
            return
        self._again_at = now + LOOK_AGAIN
        for name, fate in list(self.fates.items()):
            try:
                if self._recover(name, fate):
                    del self.fates[name]
            except OSError as error:
                self._tell_refused(name, error)
                self._again_at = now + RECOVER_AGAIN
        if not self.fates:
            self._again_at = 0.0

    def recover_strangers(self) -> None:
        """Give back what processes held whose daemon is dead too."""
        own = {*self._living(), *self.fates}
        for name in processes(self._spool):
            if name in own:
                continue
            try:
                if not is_alive(self._spool, name):
                    self._recover(name, Fate(CRASHED, {}))
            except OSError as error:  # another user's, say: it must not stop this one
                self._tell_refused(name, error)

    def _tell_refused(self, name: str, error: OSError) -> None:
        level = logging.DEBUG if name in self._refused else logging.WARNING
        self._refused.add(name)
        text = escape(str(error))
        log.log(level, "cannot recover %s now: %s", escape(name), text)

    def next_moment(self) -> float | None:
        """Return when ``recover`` has something to do, by the monotonic clock."""
        return self._again_at if self.fates else None

    def _recover(self, name: str, fate: Fate) -> bool:
        recovered = recover(
            self._spool,
            name,
            self._decide,
            fate.outcome,
            owners=self._owners,
            followers=self._followers,
            culprits=fate.culprits,
            output=1 if sys.stdout is not None else None,
            tell=lambda each: _tell(name, each, fate.of(each.name.id)),
            clock=self._clock,
        )
        if recovered is None:
            return False
        if recovered and self._backlog.is_blind:
            self._backlog.stale = True
        return True

    def _decide(self, name: Name) -> int | None:
        known = self._known.get(name.task)
        rest = self._rest if known is None and name.task != BATCH else None
        policy = merge(self._policy, known or rest or RetryOptions())
        # It is the line's attempt that counts, which its worker gives to it.
        if policy.exhausted(name.attempt) and name.task != BATCH:
            return None
        now_us = self._clock.now_us()
        delay = policy.crash_delay(name.attempt)
        if delay and rest is not None:
            delay = policy.delay(name.attempt - 1)
        delay_us = int(delay * 1e6)
        return now_us + delay_us if delay_us else min(name.due_us, now_us)


def _tell(worker: str, recovered: Recovered, outcome: Outcome) -> None:
    released = outcome.verdict is Verdict.RELEASE
    lost = recovered.due_us is None
    log.log(
        logging.ERROR if lost else logging.WARNING,
        "%s task=%s name=%s attempt=%d worker=%s: %s",
        "fail" if lost else "release" if released else "recover",
        recovered.name.id,
        escape(recovered.name.task),
        recovered.name.attempt + released,
        escape(worker),
        outcome.error,
    )
