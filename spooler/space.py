"""The room in one spool, as its daemon looks after it: the reserve, and the limits.

It keeps the reserve filled, counts what waits where producers may not, and says in the
log when the spool has become full and when it is not any more.
"""

import logging
from collections.abc import Mapping
from typing import Final

from .clock import CLOCK, Clock
from .errors import SpoolFull
from .logs import escape
from .spooldir import SpoolDir, reserve
from .spooldir.room import NEAR, Limits, Room, count_anew, problems, shared_count

COUNT_EVERY_US: Final = 5_000_000
"""How old a count may be; longer if it takes more than a hundredth of that."""

COUNT_DUTY: Final = 100

log = logging.getLogger(__name__)


class Space:
    """The room in one spool. ``look`` is called once a second."""

    def __init__(self, spool: SpoolDir, clock: Clock = CLOCK) -> None:
        self._spool = spool
        self._clock = clock
        self._room = Room(spool)
        self._full: Mapping[str, SpoolFull] = {}
        self._missing = 0
        self._problem = ""

    def look(self) -> None:
        """Do what there is to be done. Never fails: what does is logged once."""
        try:
            self._fill()
            self._tell()
        except OSError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                where = escape(self._spool.path)
                log.warning("cannot look after the room in %s: %s", where, error)
        else:
            self._problem = ""

    def _fill(self) -> None:
        missing = reserve.fill(self._spool.fd, self._spool.owner)
        where = escape(self._spool.path)
        if missing and not self._missing:
            text = "full spool=%s reserve=-%d: no room on its file system"
            log.warning(text, where, missing)
        elif self._missing and not missing:
            log.warning("room spool=%s: its reserve is whole again", where)
        self._missing = missing

    def _tell(self) -> None:
        limits = self._room.look(self._clock.now_us())
        waiting = self._waiting(limits)
        full = {each.what: each for each in problems(self._spool, limits, waiting)}
        if self._full:  # it is not told anew each time that one task more is begun
            near = problems(self._spool, limits, waiting, NEAR)
            full = {each.what: each for each in near if each.what in self._full} | full
        where = escape(self._spool.path)
        for each in full.values():
            if each.what not in self._full:
                text = "full spool=%s %s=%d found=%d: puts are refused"
                log.warning(text, where, each.what, each.limit, each.found)
        for what in self._full:
            if what not in full:
                text = "room spool=%s %s: puts are taken again"
                log.warning(text, where, what)
        self._full = full

    def _waiting(self, limits: Limits) -> int | None:
        if limits.max_waiting is None:
            return None
        now_us = self._clock.now_us()
        count = shared_count(self._spool)
        if not count.is_good(now_us, COUNT_EVERY_US, COUNT_DUTY):
            count = count_anew(self._spool, now_us)
        return count.count
