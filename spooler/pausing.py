"""What one spool's daemon knows of pauses: read when they change, told in the log.

Specification: docs/format.md, section 12.
"""

import logging
from typing import Final

from .clock import Clock
from .logs import escape
from .minutes import task_of
from .spooldir import SpoolDir, pauses
from .spooldir.pauses import NOTHING, Pause, Paused
from .task import iso

_COUNTS: Final = "; it counts, and has no end"

log = logging.getLogger(__name__)


class Pausing:
    """The pauses of one spool.

    Attributes:
        now: What is paused.
    """

    def __init__(self, spool: SpoolDir, clock: Clock) -> None:
        self._spool = spool
        self._clock = clock
        self._pauses: dict[str, Pause] = {}
        self._stale = True
        self._more = False
        self.now: Paused = NOTHING

    def is_paused(self, path: str) -> bool:
        """Tell whether a waiting task is one of those that are paused."""
        priority, _, name = path.split("/")
        return (
            self.now.everything
            or int(priority) in self.now.priorities
            or (bool(self.now.tasks) and task_of(name) in self.now.tasks)
        )

    def take_more(self) -> bool:
        """Tell whether something was paused since the last call."""
        more, self._more = self._more, False
        return more

    def on_news(self, file: str, whole: bool) -> None:
        """Learn that something in ``paused/`` has changed."""
        self._stale = True

    @property
    def is_due(self) -> bool:
        """Whether ``read`` has something to learn: a change, or an end."""
        over_us = self.now.next_us
        return self._stale or (over_us is not None and over_us <= self._clock.now_us())

    def read(self) -> frozenset[str]:
        """Learn what is paused; remove what is over.

        Returns:
            The names of the tasks that were paused and go on.

        Raises:
            OSError: From the file system.
        """
        self._stale = True
        now_us = self._clock.now_us()
        found: dict[str, Pause] = {}
        for each in pauses.read(self._spool):
            if each.is_over(now_us):
                pauses.remove_over(self._spool, each.what, now_us)
            else:
                found[each.what] = each
        self._stale = False
        self._tell(found)
        before, self.now = self.now, pauses.together(found.values())
        self._pauses = found
        self._more = self._more or self.now.is_more_than(before)
        return before.tasks - self.now.tasks

    def _tell(self, found: dict[str, Pause]) -> None:
        where = escape(self._spool.path)
        for what, pause in found.items():
            if self._pauses.get(what) == pause:
                continue
            if pause.problem is not None:
                end = _COUNTS if pause.is_known else ""
                problem = escape(pause.problem)
                text = "cannot read pause %s in %s: %s%s"
                log.warning(text, escape(what), where, problem, end)
            else:
                until = "-" if pause.until_us is None else iso(pause.until_us)
                log.info("pause what=%s spool=%s until=%s", escape(what), where, until)
        for what, pause in self._pauses.items():
            if what not in found and pause.is_known:
                log.info("resume what=%s spool=%s", escape(what), where)
