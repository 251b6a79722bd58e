"""What waits in one spool, in the order in which it is to run.

Only folders whose minute has come are read, each as a whole and seldom: while it
is being worked off, nobody looks at its directory again. A folder that is nearly
worked off is watched instead, so that new names come one by one.

Events are hints: a name that comes twice costs the worker one rename that fails.
"""

import heapq
import logging
import re
from bisect import bisect_left, bisect_right, insort
from functools import partial
from typing import Final

from .clock import CLOCK, Clock
from .logs import escape
from .minutes import Folder, Priority, make_folder, task_of
from .pausing import Pausing
from .spooldir import SpoolDir
from .spooldir.dropped import Dropped
from .spooldir.pauses import FOLDER as PAUSED
from .spooldir.recovery import remove_folder
from .spooldir.root import FOLDERS
from .task import MINUTE_US, is_priority, minute_start_us
from .wakeup import Watch

NAMES_MAX: Final = 100_000
"""Names of one folder that are held in memory, of those that were read and of those
that came since; the rest is read again later."""

WATCH_MAX: Final = 1000
"""A folder with more names than this is not watched until they are worked off."""

ADOPT_MAX: Final = 50
"""Dropped files that are looked at in one go, so that tasks need not wait."""

KEEP_US: Final = 3 * MINUTE_US
"""How long a minute folder is kept, from the beginning of its minute."""

KEEP_EMPTY: Final = 2.0
"""Seconds for which a folder is kept that was empty when it was found: somebody may
have made it just now, for a task that has long been due."""

LOOK_AGAIN: Final = 1.0
"""Seconds until a dropped file that was not ready is looked at again."""

LOOK_AGAIN_MAX: Final = 60.0
"""Seconds at which the doubling of that time ends for a file that gives errors."""

log = logging.getLogger(__name__)


class Backlog:
    """The tasks that wait in one spool.

    Args:
        watch: Where to ask for news of directories.
        dropped: What adopts foreign files.
    """

    def __init__(
        self, spool: SpoolDir, watch: Watch, dropped: Dropped, clock: Clock = CLOCK
    ) -> None:
        self._spool = spool
        self._watch = watch
        self._dropped = dropped
        self._clock = clock
        self._priorities: dict[int, Priority] = {}
        self._order: list[Priority] = []
        self._candidates: dict[tuple[str, str], bool] = {}
        self._unready: dict[tuple[str, str], float] = {}
        self._trouble: dict[tuple[str, str], float] = {}
        self._closed: set[str] = set()
        self.pausing = Pausing(spool, clock)
        """What is not handed out for a while."""
        self.stale = True
        """Whether something was missed: ``scan`` is due."""
        self.next_due_us: int | None = None
        """When the next task is due that was not due at the last ``take``."""

    # -- news -------------------------------------------------------------------

    def scan(self) -> None:
        """Look at the root and at each priority; read stale folders again.

        Raises:
            OSError: From the file system.
        """
        on_news = self.pausing.on_news
        self._watch.add(PAUSED, on_news, self._on_lost, removals=True)
        self._read_pauses()
        self._watch.add(".", self._on_root, self._on_lost)
        for file in self._spool.names("."):
            self._on_root(file, False)
        for priority in self._order:
            self._scan_priority(priority)
        self.stale = False

    def _scan_priority(self, priority: Priority) -> None:
        folder = str(priority.number)
        on_name = partial(self._on_priority, priority)
        self._watch.add(folder, on_name, self._on_lost)
        for file in self._spool.names(folder):
            self._on_priority(priority, file, False)
        for each in (*priority.folders.values(), *priority.closing.values()):
            each.unread = True
            self._reopen(each)

    def _on_lost(self) -> None:
        self.stale = True

    def _on_root(self, file: str, whole: bool) -> None:
        if file in _OURS:
            return
        number = int(file) if is_priority(file) else -1
        if number not in self._priorities:
            if number < 0 or not self._spool.is_folder(file):
                self._candidates[".", file] = whole
                return
            priority = self._priorities[number] = Priority(number)
            insort(self._order, priority, key=lambda each: each.number)
            self._scan_priority(priority)
        elif not self.is_blind and not self._watch.has(file):
            self._scan_priority(self._priorities[number])  # it was made anew

    def _on_priority(self, priority: Priority, file: str, whole: bool) -> None:
        if file in priority.known:
            known = priority.folders.get(file) or priority.closing.get(file)
            if known is not None:  # somebody has made it anew
                known.unread = True
                self._reopen(known)
            return
        folder = str(priority.number)
        if minute_start_us(file) is None or not self._spool.is_folder(
            f"{folder}/{file}"
        ):
            self._candidates[folder, file] = whole
        else:
            priority.known.add(file)
            insort(priority.minutes, file)

    def _on_name(self, folder: Folder, file: str, whole: bool) -> None:
        if not folder.is_native(file):
            if _UNNAMED.fullmatch(file):
                return
            self._candidates[folder.path, file] = whole
        elif file in folder.in_flight:
            folder.returned.add(file)
        elif len(folder.arrived) >= NAMES_MAX:
            folder.unread = True
        else:
            heapq.heappush(folder.arrived, file)
            self._reopen(folder)

    # -- pauses -----------------------------------------------------------------

    def more_is_paused(self) -> bool:
        """Tell whether something was paused since the last call.

        Then what was handed out before, and was not begun, should be taken back.

        Raises:
            OSError: From the file system.
        """
        if self.pausing.is_due:
            self._read_pauses()
        return self.pausing.take_more()

    def _read_pauses(self) -> None:
        """Learn what is paused; read folders again whose names were passed over."""
        if names := self.pausing.read():
            for priority in self._order:
                for folder in (*priority.folders.values(), *priority.closing.values()):
                    if not names.isdisjoint(folder.skipped):
                        folder.unread = True
                        self._reopen(folder)

    def _going_on(self) -> list[Priority]:
        """Return the priorities that are not paused as a whole."""
        paused = self.pausing.now
        if paused.everything:
            return []
        if not paused.priorities:
            return self._order
        return [p for p in self._order if p.number not in paused.priorities]

    # -- dropped files ----------------------------------------------------------

    def adopt_some(self) -> None:
        """Adopt what others dropped: some of it, so that tasks need not wait."""
        now = self._clock.monotonic()
        for key, moment in list(self._unready.items()):
            if moment <= now:
                del self._unready[key]
                self._candidates.setdefault(key, False)
        for key in list(self._candidates)[:ADOPT_MAX]:
            whole = self._candidates.pop(key)
            if self._adopt(*key, whole=whole):
                self._unready[key] = now + self._trouble.get(key, LOOK_AGAIN)
            else:
                self._unready.pop(key, None)

    def _adopt(self, folder: str, file: str, *, whole: bool) -> bool:
        try:
            result = self._dropped.adopt(folder, file, finished=whole)
        except OSError as error:
            known = (folder, file) in self._trouble
            level = logging.DEBUG if known else logging.WARNING
            path = escape(f"{folder}/{file}")
            log.log(level, "cannot adopt %s now: %s", path, escape(str(error)))
            delay = self._trouble.get((folder, file), LOOK_AGAIN / 2) * 2
            self._trouble[folder, file] = min(delay, LOOK_AGAIN_MAX)
            return True
        self._trouble.pop((folder, file), None)
        if isinstance(result, str):
            self._arrive(result)
            return False
        return result

    def _arrive(self, path: str) -> None:
        number, minute, file = path.split("/")
        self._on_root(number, True)
        priority = self._priorities[int(number)]
        if minute not in priority.known:
            self._on_priority(priority, minute, True)
        folder = priority.folders.get(minute) or priority.closing.get(minute)
        if folder is not None:
            self._on_name(folder, file, True)

    @property
    def next_look(self) -> float | None:
        """Seconds until a dropped file should be looked at; None if none waits."""
        if self._candidates:
            return 0.0
        if not self._unready:
            return None
        return max(0.0, min(self._unready.values()) - self._clock.monotonic())

    @property
    def is_blind(self) -> bool:
        """Whether nobody tells of new files, so that only scans find them."""
        return self._watch.mode == "scan"

    @property
    def has_due(self) -> bool:
        """Whether a task is due that nobody has been handed."""
        now = f"{self._clock.now_us():016d}"
        for priority in self._going_on():
            for minute in priority.minutes:
                if (minute_start_us(minute) or 0) > self._clock.now_us():
                    break
                folder = priority.folders.get(minute)
                name = folder.next_of(self.pausing.now.tasks) if folder else now
                if folder and folder.unread and name is None:
                    name = now
                if name is not None and name[:16] <= now:
                    return True
        return False

    # -- taking -----------------------------------------------------------------

    def forget_past(self) -> None:
        """Forget ``next_due_us`` if that moment is over: ``take`` finds the next one.

        Unless nobody has room for more; then it is of no use to wake up for it.
        """
        if self.next_due_us is not None and self.next_due_us <= self._clock.now_us():
            self.next_due_us = self.pausing.now.next_us

    def take(self, limit: int, more_urgent_than: int | None = None) -> list[str]:
        """Return the paths of due tasks, the most urgent first.

        Each counts as in flight until ``settle``.

        Args:
            limit: How many at most.
            more_urgent_than: Only priorities below this number.

        Raises:
            OSError: From the file system.
        """
        taken: list[str] = []
        now_us = self._clock.now_us()
        if self.pausing.is_due:
            self._read_pauses()
        if more_urgent_than is None:  # or others may have one that is due before
            self.next_due_us = self.pausing.now.next_us
        for priority in self._going_on():
            if more_urgent_than is not None and priority.number >= more_urgent_than:
                break
            self._take_from(priority, now_us, limit, taken)
            if len(taken) >= limit:
                break
        return taken

    def _take_from(
        self, priority: Priority, now_us: int, limit: int, taken: list[str]
    ) -> None:
        index = 0
        while index < len(priority.minutes):
            minute = priority.minutes[index]
            start_us = minute_start_us(minute) or 0
            if start_us > now_us:
                self._due_later(start_us)
                return
            folder = priority.folders.get(minute) or self._load(priority, minute)
            self._take_names(folder, now_us, limit, taken)
            if len(taken) >= limit:
                return
            if self._is_over(folder, start_us, now_us):
                self._close(priority, minute)
                # A task that came just now has brought it back: take it, too.
                index = bisect_left(priority.minutes, minute)
            else:
                index = bisect_right(priority.minutes, minute)

    def _is_over(self, folder: Folder, start_us: int, now_us: int) -> bool:
        return (
            folder.peek() is None
            and start_us + KEEP_US <= now_us
            and folder.keep_until <= self._clock.monotonic()
        )

    def _take_names(
        self, folder: Folder, now_us: int, limit: int, taken: list[str]
    ) -> None:
        now = f"{now_us:016d}"
        while len(taken) < limit:
            name = folder.next_of(self.pausing.now.tasks)
            if name is None:
                if not folder.unread:
                    return
                self._read(folder)
            elif name[:16] > now:
                self._due_later(int(name[:16]))
                return
            else:
                folder.pop()
                folder.keep_until = 0.0
                folder.in_flight.add(name)
                taken.append(f"{folder.path}/{name}")

    def _due_later(self, due_us: int) -> None:
        if self.next_due_us is None or due_us < self.next_due_us:
            self.next_due_us = due_us

    def _load(self, priority: Priority, minute: str) -> Folder:
        keep_until = self._clock.monotonic() + KEEP_EMPTY
        folder = make_folder(priority.number, minute, keep_until)
        priority.folders[minute] = folder
        return folder

    def _read(self, folder: Folder) -> None:
        self._watch.add(folder.path, partial(self._on_name, folder), self._on_lost)
        names = []
        paused = self.pausing.now.tasks
        folder.skipped = set()
        for name in self._list(folder):
            if not folder.is_native(name):
                self._candidates.setdefault((folder.path, name), False)
            elif paused and (task := task_of(name)) in paused:
                folder.skipped.add(task)
            elif name not in folder.in_flight:
                names.append(name)
            else:  # not claimed yet, or back again: nobody may tell us later
                folder.returned.add(name)
        folder.unread = len(names) > WATCH_MAX
        if folder.unread:
            self._watch.remove(folder.path)
        if len(names) > NAMES_MAX:
            names = heapq.nsmallest(NAMES_MAX, names)
        names.sort(reverse=True)
        folder.names = names
        folder.arrived = []

    def _list(self, folder: Folder) -> list[str]:
        """Return the names in a folder; none if it is another user's alone."""
        try:
            found = self._spool.names(folder.path)
        except PermissionError as error:  # which must not hold up all the others
            known = folder.path in self._closed
            self._closed.add(folder.path)
            level = logging.DEBUG if known else logging.WARNING
            log.log(level, "cannot read folder %s: %s", folder.path, error)
            return []
        self._closed.discard(folder.path)
        return found

    # -- settling ---------------------------------------------------------------

    def settle(self, path: str) -> None:
        """Forget a task that a worker is done with, or could not claim."""
        number, minute, name = path.split("/")
        priority = self._priorities[int(number)]
        folder = priority.folders.get(minute) or priority.closing.get(minute)
        if folder is None:
            return
        folder.in_flight.discard(name)
        if name in folder.returned:
            folder.returned.discard(name)
            self._on_name(folder, name, True)
        elif not folder.in_flight and minute in priority.closing:
            self._close(priority, minute)

    def give_back(self, path: str) -> bool:
        """Take back a task that a worker did not get to; tell if it was in flight."""
        number, minute, name = path.split("/")
        priority = self._priorities[int(number)]
        folder = priority.folders.get(minute) or priority.closing.get(minute)
        if folder is None or name not in folder.in_flight:
            return False
        folder.in_flight.discard(name)
        folder.returned.discard(name)
        self._on_name(folder, name, True)
        return True

    def _close(self, priority: Priority, minute: str) -> None:
        """Remove a folder that is over, or wait for what is in flight or paused."""
        folder = priority.closing.get(minute) or priority.folders[minute]
        if minute in priority.folders:
            del priority.folders[minute]
            priority.minutes.remove(minute)
            priority.closing[minute] = folder
        if folder.in_flight or folder.skipped:
            return
        try:
            gone = remove_folder(self._spool, folder.path, self._clock)
        except OSError as error:
            known = folder.path in self._closed
            level = logging.DEBUG if known else logging.WARNING
            log.log(level, "cannot remove folder %s: %s", folder.path, error)
            return
        self._watch.remove(folder.path)
        del priority.closing[minute]
        priority.known.discard(minute)
        if not gone:
            self._reload_later(priority, minute)

    def _reload_later(self, priority: Priority, minute: str) -> None:
        """Something is left in it: a task that came just now, or junk."""
        folder = self._load(priority, minute)
        self._watch.add(folder.path, partial(self._on_name, folder), self._on_lost)
        priority.known.add(minute)
        left = self._spool.names(folder.path)
        if any(folder.is_native(name) for name in left):
            insort(priority.minutes, minute)
            return
        del priority.folders[minute]
        priority.closing[minute] = folder
        for name in left:
            self._candidates.setdefault((folder.path, name), False)

    def _reopen(self, folder: Folder) -> None:
        number, minute = folder.path.split("/")
        priority = self._priorities[int(number)]
        if minute in priority.closing:
            priority.folders[minute] = priority.closing.pop(minute)
            insort(priority.minutes, minute)


_OURS: Final = frozenset(name for name in FOLDERS if not is_priority(name))

_UNNAMED: Final = re.compile("#[0-9]+")
"""What the kernel calls a file without a name when its producer closes it."""
