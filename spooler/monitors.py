"""Files and folders whose change has a task put: ``add_file_monitor`` of uWSGI.

They are looked at once a second, so a change is seen on every file system, and several
in a second are one. The moment of a change counts as a timer's slot (docs/format.md,
section 7): so a change is put once however many daemons see it, one that came while no
daemon ran is caught up, and nothing is put before the last run has finished.
"""

import logging
import os
from dataclasses import dataclass
from typing import Final

from .clock import CLOCK, Clock
from .codec import encode
from .known import Known
from .logs import escape
from .spooldir import SpoolDir, timers
from .task import DEFAULT_PRIORITY, Name

LOOK_EVERY_US: Final = 1_000_000
"""How soon to look again."""

LOOK_SHARE: Final = 50
"""The same, in times of what a look takes: a folder may be large."""

State = tuple[tuple[object, ...], ...]
"""What tells whether a file has changed, and of a folder whether a file in it has."""

_GONE: Final[State] = ((),)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Monitor:
    known: Known
    path: str
    state: State | None = None  # None: nobody has looked yet
    waits: bool = False  # a change was seen whose task could not be put yet
    put_us: int = 0  # the slot that was put here last
    error: str = ""  # what stood in the way the last time


class Monitors:
    """The files that one daemon watches for one spool.

    Attributes:
        next_us: When to look again, in µs since the epoch.
    """

    def __init__(self, spool: SpoolDir, clock: Clock = CLOCK) -> None:
        self._spool = spool
        self._clock = clock
        self._monitors: list[_Monitor] = []
        self.next_us = 0

    def use(self, known: list[Known]) -> None:
        """Watch for these functions from now on."""
        before = {(each.known.name, each.path): each for each in self._monitors}
        self._monitors = [
            before.get((each.name, each.watches)) or _Monitor(each, each.watches)
            for each in known
            if each.watches is not None
        ]
        self.next_us = 0

    def __len__(self) -> int:
        return len(self._monitors)

    def put_due(self, now_us: int) -> None:
        """Look, unless that was just now; put the tasks of what has changed."""
        if now_us < self.next_us <= now_us + 24 * 3600 * LOOK_EVERY_US:
            return
        began = self._clock.monotonic()
        for monitor in self._monitors:
            try:
                self._look(monitor, now_us)
            except OSError as error:
                known = monitor.error == str(error)
                level = logging.DEBUG if known else logging.WARNING
                monitor.error, path = str(error), escape(monitor.path)
                log.log(level, "cannot tell if %s has changed: %s", path, error)
            else:
                monitor.error = ""
        took_us = int((self._clock.monotonic() - began) * 1e6)
        self.next_us = now_us + max(LOOK_EVERY_US, LOOK_SHARE * took_us)

    def _look(self, monitor: _Monitor, now_us: int) -> None:
        state, changed_us = look(monitor.path)
        if state == monitor.state and not monitor.waits:
            return
        task = monitor.known.name
        with timers.lock(self._spool):
            last_us = timers.latest_slot(self._spool, task)
            if last_us is None:
                timers.begin(self._spool, task, now_us)
            elif _is_old(monitor, state, changed_us, last_us):
                monitor.waits = False
            elif not timers.is_finished(self._spool, task, last_us):
                monitor.waits = True
            else:
                usual = last_us < changed_us <= now_us
                self._put(monitor, changed_us if usual else max(now_us, last_us + 1))
                monitor.waits = False
        monitor.state = state

    def _put(self, monitor: _Monitor, slot_us: int) -> None:
        known = monitor.known
        priority = DEFAULT_PRIORITY if known.priority is None else known.priority
        task_id = timers.slot_id(known.name, slot_us)
        name = Name(slot_us, priority, 0, task_id, known.name)
        timers.put_slot(self._spool, name, encode(known.name, b"{}"))
        monitor.put_us = slot_us
        text = "put task=%s name=%s spool=%s: %s has changed"
        path = escape(monitor.path)
        log.info(text, name.id, escape(known.name), self._spool.path, path)


def _is_old(monitor: _Monitor, state: State, changed_us: int, last_us: int) -> bool:
    """Tell whether a change was put before: by another daemon, or before we began."""
    if monitor.state is None:
        return state == _GONE or changed_us <= last_us
    return changed_us == last_us != monitor.put_us


def look(path: str) -> tuple[State, int]:
    """Return the state of a file or folder, and when it has changed, as far as is told.

    A link is followed. What is in the folders of a folder does not count.

    Returns:
        The moment in µs since the epoch; for a file that is gone that of the last
        change of its folder; 0 if nothing tells.

    Raises:
        OSError: It cannot be looked at.
    """
    try:
        own = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return _GONE, _folder_changed(path)
    found, newest = [_stamp("", own)], own.st_ctime_ns
    try:
        entries = os.scandir(path)  # noqa: TID251 (not in the spool)
    except NotADirectoryError:
        return tuple(found), newest // 1000
    with entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            found.append(_stamp(entry.name, status))
            newest = max(newest, status.st_ctime_ns)
    return tuple(sorted(found, key=str)), newest // 1000


def _stamp(name: str, status: os.stat_result) -> tuple[object, ...]:
    return name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _folder_changed(path: str) -> int:
    try:
        return os.stat(os.path.dirname(path)).st_ctime_ns // 1000
    except OSError:
        return 0
