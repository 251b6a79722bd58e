"""Files that others dropped into one spool: when each is to be looked at.

There may be very many that are no tasks. So a turn takes only some milliseconds; of
many, the oldest and the newest take turns (a good one that comes now need not wait for
all that came before); while others wait for their first look, nothing is put aside at
its own; and what cannot be adopted now is looked at ever more seldom. What is left to a
uWSGI that serves the directory too is looked at when it is due, and wanted.
"""

import logging
from collections import OrderedDict
from heapq import heappop, heappush
from typing import Final

import msgspec

from .alarm import Alarm
from .beside import KNOWN_MAX, DueLater, HeldBack, Key
from .clock import Clock
from .logs import escape
from .spooldir.dropped import Dropped, NotDue
from .spooldir.uwsgi_files import is_uwsgi_name

ADOPT_FOR: Final = 0.005
"""Seconds for which dropped files are looked at in one go, so that tasks need not wait,
and workers are handed names often enough."""

AGAIN_FOR: Final = 0.001
"""Seconds of those for what was looked at before, however much is new."""

MANY: Final = 100
"""Files that are worked off in the order in which they were found; that of their
priorities, where a daemon finds them at its start."""

LOOK_AGAIN: Final = 1.0
"""Seconds until a dropped file that was not ready is looked at again."""

LOOK_AGAIN_MAX: Final = 60.0
"""Seconds at which the doubling of that time ends."""

REFUSED_EVERY: Final = 0.200
"""Seconds, for each file that was not ready, until one is looked at again that the
system has refused: however many there are, five a second."""

FORGET_AFTER: Final = 600.0
"""Seconds after which files that were not ready are found again for which there was
no room."""

log = logging.getLogger(__name__)


class _Later(msgspec.Struct):
    """A file that was not ready.

    Attributes:
        at: When it is looked at again, by the monotonic clock.
        delay: How long it waits for that.
        is_refused: The system has refused to move or to open it.
    """

    at: float
    delay: float
    is_refused: bool


class Adopting:
    """The dropped files of one spool.

    Args:
        dropped: What adopts them.
        shares: A uWSGI serves the directory too.

    Attributes:
        wants_scan: There may be files for which there was no room, and now there is.
    """

    def __init__(self, dropped: Dropped, clock: Clock, *, shares: bool = False) -> None:
        self._dropped = dropped
        self._shares = shares
        self._clock = clock
        self._new: OrderedDict[Key, bool] = OrderedDict()
        self._again: OrderedDict[Key, bool] = OrderedDict()
        self._later: dict[Key, _Later] = {}
        self._order: list[tuple[float, Key]] = []
        self._due_later = DueLater(clock)
        self._held = HeldBack(clock)
        self._others: set[int] = set()
        self._forget_at = 0.0
        self._takes_newest = False
        self._alarm = Alarm(
            log,
            "cannot adopt %d files more now: each is tried again, ever more seldom",
            clock,
        )
        self._has_missed = self._has_settled = False
        self.wants_scan = False

    def tell(self, folder: str, file: str, *, whole: bool | None) -> None:
        """Learn that something has happened to a file.

        Args:
            whole: It is known to be whole; None if nothing has happened: as ``find``.
        """
        if whole is None:
            self.find(folder, file)
            return
        key = (folder, file)
        if key in self._new or len(self._new) < KNOWN_MAX:
            self._new[key] = whole
            self._again.pop(key, None)
        else:
            self._has_missed = True

    def find(self, folder: str, file: str) -> None:
        """Learn that there is a file."""
        key = (folder, file)
        known = key in self._new or key in self._later or hash(key) in self._others
        if known or key in self._due_later or key in self._held:
            return
        self.tell(folder, file, whole=False)

    def adopt_some(self) -> list[str]:
        """Adopt some of what is ready; return the paths of the new tasks."""
        now = self._clock.monotonic()
        self._find_again(now)
        adopted: list[str] = []
        left = AGAIN_FOR if self._again else 0.0
        self._look(self._new, now + ADOPT_FOR - left, adopted)
        self._look(self._again, now + ADOPT_FOR, adopted)
        if self._has_missed and self._has_settled and not self._due:
            self._has_missed = self._has_settled = False
            self.wants_scan = True
        self._dropped.look()
        self._alarm.look()
        return adopted

    def _look(
        self, files: OrderedDict[Key, bool], until: float, adopted: list[str]
    ) -> None:
        """Look at files, one at least if there is one."""
        while files:
            takes_newest = False
            if files is self._new:
                self._takes_newest = not self._takes_newest and len(files) > MANY
                takes_newest = self._takes_newest
            key, whole = files.popitem(last=takes_newest)
            result = self._adopt(key, whole=whole, is_first=files is self._new)
            if isinstance(result, str):
                adopted.append(result)
            if self._clock.monotonic() >= until:
                break

    def _find_again(self, now: float) -> None:
        """Look again at what was not ready, where it is time for it."""
        while (at := self._next_at()) is not None and at <= now:
            _, key = heappop(self._order)
            self._look_again(key)
        for key in self._due_later.take():
            self._look_again(key)
        if not self._again:
            for key in self._held.take(self._dropped.has):
                self._look_again(key)
        if self._due_later.must_scan() or self._held.must_scan():
            self.wants_scan = True
        if self._others and now >= self._forget_at:
            self._others.clear()

    def _look_again(self, key: Key) -> None:
        if key not in self._new:
            self._again.setdefault(key, False)

    def _adopt(self, key: Key, *, whole: bool, is_first: bool) -> str | bool:
        """Return the path of a new task, else whether to look again."""
        is_refused = False
        shared = self._shares and is_uwsgi_name(key[1])
        if shared and not self._held.has_room(key[0]):
            self._held.hold(key)
            self._later.pop(key, None)
            return False
        has_time = not (is_first and self._new) or len(self._later) >= KNOWN_MAX
        try:
            result = self._dropped.adopt(*key, finished=whole, may_reject=has_time)
        except OSError as error:
            is_refused = result = True
            self._tell_refused(key, error)
        if result is True:
            self._look_later(key, is_refused=is_refused)
            return result
        if isinstance(result, NotDue):
            self._due_later.put(key, result.due_us)
            result = False
        elif shared and isinstance(result, str):
            self._held.adopted(key[0], result)
        self._has_settled = True
        known = self._later.pop(key, None)
        if known is not None and known.is_refused:
            self._look_at_refused()
        return result

    def _tell_refused(self, key: Key, error: OSError) -> None:
        known = self._later.get(key)
        path, why = escape("/".join(key)), escape(error.strerror or str(error))
        if known is not None and known.is_refused:
            log.debug("cannot adopt %s now: %s", path, why)
        else:
            self._alarm.tell(logging.WARNING, "cannot adopt %s now: %s", path, why)

    def _look_later(self, key: Key, *, is_refused: bool) -> None:
        now = self._clock.monotonic()
        known = self._later.get(key)
        if known is None:
            if len(self._later) >= KNOWN_MAX:
                self._leave(key, now, is_refused=is_refused)
                return
            known = self._later[key] = _Later(0.0, LOOK_AGAIN / 2, is_refused)
        known.is_refused = is_refused
        if known.at <= now:  # else it was told of before its time
            known.delay = min(2 * known.delay, LOOK_AGAIN_MAX)
            least = len(self._later) * REFUSED_EVERY if is_refused else 0.0
            known.at = now + max(known.delay, least)
            heappush(self._order, (known.at, key))

    def _look_at_refused(self) -> None:
        """Look again at all that was refused, now that one of them no longer is."""
        for key, each in self._later.items():
            if each.is_refused:
                each.is_refused = False
                self._look_again(key)
        self._has_missed = self._has_missed or bool(self._others)
        self._others.clear()

    def _leave(self, key: Key, now: float, *, is_refused: bool) -> None:
        """Forget a file for a while, since there is no room for it."""
        if not is_refused:
            self._has_missed = True
            return
        if not self._others:
            self._forget_at = now + FORGET_AFTER
        self._others.add(hash(key))

    def taken(self, paths: list[str]) -> None:
        """Learn that tasks were handed out, some of which may have been adopted."""
        self._held.taken(paths)

    @property
    def _due(self) -> bool:
        return bool(self._new or self._again or self._held.has_free)

    @property
    def next_look(self) -> float | None:
        """Seconds until a dropped file should be looked at; None if none waits."""
        if self._due:
            return 0.0
        waits = [self._due_later.next_look, self._held.next_look]
        if (at := self._next_at()) is not None:
            waits.append(max(0.0, at - self._clock.monotonic()))
        return min((each for each in waits if each is not None), default=None)

    def _next_at(self) -> float | None:
        """Return when the first file is due that still waits."""
        while self._order:
            at, key = self._order[0]
            if key in self._later and self._later[key].at == at:
                return at
            heappop(self._order)
        return None

    @property
    def waits(self) -> bool:
        """Whether a file waits that the system has not refused."""
        return (
            self._due
            or self._held.waits
            or not all(e.is_refused for e in self._later.values())
        )
