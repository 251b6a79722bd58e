"""What waits in one spool, in the order in which it is to run.

Only folders whose minute has come are read, and seldom: while one is being worked
off, nobody looks at its directory again. A folder with few names is watched instead,
so that new ones come one by one.

Events are hints: a name that comes twice costs the worker one rename that fails.
"""

import logging
import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from .adopting import Adopting
from .clock import CLOCK, Clock
from .logs import escape
from .minutes import Folder, Priority, make_folder
from .names import Names
from .pausing import Pausing
from .slices import Slices
from .spooldir import SpoolDir
from .spooldir.dropped import Dropped
from .spooldir.marking import FOLDERS
from .spooldir.pauses import FOLDER as PAUSED
from .spooldir.recovery import remove_folder
from .task import MINUTE_US, is_priority, minute_start_us
from .wakeup import Watch

LOST_MAX: Final = 30
"""Losses of claims, threefold, less the wins, after which names are taken from
elsewhere."""

KEEP_US: Final = 3 * MINUTE_US
"""How long a minute folder is kept, from the beginning of its minute."""

KEEP_EMPTY: Final = 2.0
"""Seconds for which a folder is kept that was empty when it was found: somebody may
have made it just now, for a task that has long been due."""

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
        self._adopting = Adopting(dropped, clock, shares=dropped.shares)
        self._clock = clock
        self._priorities: dict[int, Priority] = {}
        self._order: list[Priority] = []
        self._closed: set[str] = set()
        self.pausing = Pausing(spool, clock)
        """What is not handed out for a while."""
        self._slices = Slices(spool, watch, self._adopting, self.pausing, clock)
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
        self._watch.add(".", self._told(self._on_root), self._on_lost)
        self._slices.look_through(".", partial(self._on_root, whole=None))
        for priority in self._order:
            self._scan_priority(priority)
        self.stale = False

    def _scan_priority(self, priority: Priority) -> None:
        folder = str(priority.number)
        on_name = partial(self._on_priority, priority)
        self._watch.add(folder, self._told(on_name), self._on_lost)
        self._slices.look_through(folder, partial(on_name, whole=None))
        for each in (*priority.folders.values(), *priority.closing.values()):
            each.unread = True
            self._reopen(each)

    def _on_lost(self) -> None:
        self.stale = True

    def _told(
        self, on_name: Callable[[str, bool], None]
    ) -> Callable[[str, bool], None]:
        """Return what takes news as ``on_name`` does; after an error a scan does it."""

        def told(file: str, whole: bool) -> None:
            try:
                on_name(file, whole)
            except OSError as error:
                log.warning("cannot look at %s now: %s", escape(file), error)
                self.stale = True

        return told

    def _on_root(self, file: str, whole: bool | None) -> None:
        if file in _OURS:
            return
        number = int(file) if is_priority(file) else -1
        if number not in self._priorities:
            if number < 0 or not self._spool.is_folder(file):
                self._adopting.tell(".", file, whole=whole)
                return
            priority = self._priorities[number] = Priority(number)
            insort(self._order, priority, key=lambda each: each.number)
            self._scan_priority(priority)
        elif not self.is_blind and not self._watch.has(file):
            self._scan_priority(self._priorities[number])  # it was made anew

    def _on_priority(self, priority: Priority, file: str, whole: bool | None) -> None:
        folder = str(priority.number)
        path = f"{folder}/{file}"
        if whole is not None:  # somebody has made it anew
            self._watch.remove(path)
        if minute_start_us(file) is None or not self._is_minute(path):
            self._adopting.tell(folder, file, whole=whole)
        elif file in priority.known:
            known = priority.folders.get(file) or priority.closing.get(file)
            if known is not None:
                known.unread = True
                self._reopen(known)
        else:
            priority.known.add(file)
            insort(priority.minutes, file)

    def _is_minute(self, folder: str) -> bool:
        with suppress(OSError):
            self._spool.guard(folder)
        return self._spool.is_folder(folder)

    def _on_name(self, folder: Folder, file: str, whole: bool) -> None:
        if not folder.is_native(file):
            if _UNNAMED.fullmatch(file):
                return
            self._adopting.tell(folder.path, file, whole=whole)
        elif file in folder.in_flight:
            folder.returned.add(file)
        else:
            folder.add([file])
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
        """Learn what is paused; have folders read again for what has changed."""
        before = self.pausing.now.tasks
        resumed = self.pausing.read()
        more = not self.pausing.now.tasks <= before
        for priority in self._order:
            for folder in (*priority.folders.values(), *priority.closing.values()):
                many = more and folder.names.is_long  # to be passed over one by one
                if many:
                    folder.names = Names()
                if many or not resumed.isdisjoint(folder.skipped):
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
        for path in self._adopting.adopt_some():
            self._arrive(path)
        if self._adopting.wants_scan:
            self._adopting.wants_scan = False
            self.stale = True

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
        return self._adopting.next_look

    @property
    def is_adopting(self) -> bool:
        """Whether there is, or may be, a dropped file that can be adopted yet."""
        return self._adopting.waits or self._slices.is_looking

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
                if folder and (folder.is_listed or folder.must_be_read(name)):
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
        try:
            for priority in self._going_on():
                if more_urgent_than is not None and priority.number >= more_urgent_than:
                    break
                self._take_from(priority, now_us, limit, taken)
                if len(taken) >= limit:
                    break
        except OSError:
            if not taken:
                raise
            # They are in flight by now. The error will be met again.
        self._adopting.taken(taken)
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
            folder.is_known
            and folder.names.peek() is None
            and start_us + KEEP_US <= now_us
            and folder.keep_until <= self._clock.monotonic()
        )

    def _take_names(
        self, folder: Folder, now_us: int, limit: int, taken: list[str]
    ) -> None:
        now = f"{now_us:016d}"
        paused = self.pausing.now.tasks
        while len(taken) < limit:
            if names := folder.take(now, limit - len(taken), paused):
                folder.keep_until = 0.0
                taken += [f"{folder.path}/{name}" for name in names]
                continue
            name = folder.next_of(paused)
            if folder.must_be_read(name):
                self._watch_folder(folder)
                self._slices.begin(folder)
                continue
            if name is not None:
                self._due_later(int(name[:16]))
            return

    def _due_later(self, due_us: int) -> None:
        if self.next_due_us is None or due_us < self.next_due_us:
            self.next_due_us = due_us

    def _load(self, priority: Priority, minute: str) -> Folder:
        keep_until = self._clock.monotonic() + KEEP_EMPTY
        folder = make_folder(priority.number, minute, keep_until)
        priority.folders[minute] = folder
        return folder

    def _watch_folder(self, folder: Folder) -> None:
        self._watch.add(folder.path, partial(self._on_name, folder), self._on_lost)

    @property
    def is_reading(self) -> bool:
        """Whether ``read_on`` has something to do."""
        return self._slices.is_reading

    def read_on(self) -> None:
        """Read some more of a large folder, if there is one that is being read.

        Raises:
            OSError: From the file system.
        """
        was_looking = self._slices.is_looking
        try:
            self._slices.read_on()
        except OSError:
            self.stale = self.stale or was_looking
            raise

    # -- settling ---------------------------------------------------------------

    def settle_all(self, paths: list[str]) -> None:
        """Forget tasks that a worker is done with; most are of one folder."""
        first = paths[0] if paths else ""
        begin = first.rfind("/") + 1
        stem = first[:begin]
        names = [path[begin:] for path in paths if path.startswith(stem)]
        folder = self._open_folder(stem) if len(names) == len(paths) else None
        if folder is not None and folder.returned.isdisjoint(names):
            folder.in_flight.difference_update(names)
            folder.doubtful.difference_update(names)
            folder.lost = max(0, folder.lost - len(names))
        else:
            for path in paths:
                self.settle(path)

    def _open_folder(self, stem: str) -> Folder | None:
        """Return the folder with that path, ``/`` at its end; None if it is closing."""
        if not stem:
            return None
        number, minute, _ = stem.split("/")
        return self._priorities[int(number)].folders.get(minute)

    def settle(self, path: str) -> None:
        """Forget a task that a worker is done with."""
        number, minute, name = path.split("/")
        priority = self._priorities[int(number)]
        folder = priority.folders.get(minute) or priority.closing.get(minute)
        if folder is None:
            return
        folder.in_flight.discard(name)
        folder.doubtful.discard(name)
        folder.lost = max(0, folder.lost - 1)
        if name in folder.returned:
            folder.returned.discard(name)
            folder.doubtful.add(name)
            self._on_name(folder, name, True)
        elif not folder.in_flight and minute in priority.closing:
            self._close(priority, minute)

    def lose(self, path: str) -> None:
        """Forget a task that somebody else was first to claim.

        Where that happens often, other daemons go through the same names in the same
        order. Then this one goes on elsewhere, and later reads the folder again.
        """
        number, minute, name = path.split("/")
        folder = self._priorities[int(number)].folders.get(minute)
        if folder and name in folder.in_flight and name not in folder.doubtful:
            folder.lost += 3  # one more than it takes two wins to forget
            if folder.lost > LOST_MAX:
                folder.lost = 0
                folder.unread = folder.has_jumped = True
                folder.doubtful |= folder.in_flight
                folder.names.jump(f"{self._clock.now_us() + 1:016d}")
        self.settle(path)

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
            self._closed.add(folder.path)
            level = logging.DEBUG if known else logging.WARNING
            log.log(level, "cannot remove folder %s: %s", folder.path, error)
            return
        self._closed.discard(folder.path)
        self._watch.remove(folder.path)
        del priority.closing[minute]
        priority.known.discard(minute)
        if not gone:
            self._reload_later(priority, minute)

    def _reload_later(self, priority: Priority, minute: str) -> None:
        """Something is left in it: a task that came just now, or junk."""
        folder = self._load(priority, minute)
        self._watch_folder(folder)
        priority.known.add(minute)
        try:
            left = self._spool.names(folder.path)
        except OSError as error:  # a scan finds it anew
            log.warning("cannot read folder %s: %s", folder.path, error)
            del priority.folders[minute]
            priority.known.discard(minute)
            self.stale = True
            return
        if any(folder.is_native(name) for name in left):
            insort(priority.minutes, minute)
            return
        del priority.folders[minute]
        priority.closing[minute] = folder
        for name in left:
            self._adopting.find(folder.path, name)

    def _reopen(self, folder: Folder) -> None:
        number, minute = folder.path.split("/")
        priority = self._priorities[int(number)]
        if minute in priority.closing:
            priority.folders[minute] = priority.closing.pop(minute)
            insort(priority.minutes, minute)


_OURS: Final = frozenset(name for name in FOLDERS if not is_priority(name))

_UNNAMED: Final = re.compile("#[0-9]+")
"""What the kernel calls a file without a name when its producer closes it."""
