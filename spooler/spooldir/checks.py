"""Look a spool over for what should not be there, and mend it.

Works beside a running daemon, which mends most of this by itself: what is only on its
way is not told of. Specification: docs/format.md.
"""

import os
import select
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

from ..clock import CLOCK, Clock
from ..packet import PACKET
from ..retry import RetryPolicy
from ..task import BATCH, Name, Outcome, Verdict, is_priority, minute_start_us
from .dropped import Dropped
from .marking import FOLDERS
from .reading import READ_FLAGS
from .recovery import is_alive, left_overs, processes, recover, remove_left_over
from .reports import read_json
from .root import SpoolDir
from .uwsgi_files import is_uwsgi_name, number_of

ON_ITS_WAY: Final = 10.0
"""Seconds. A file that has changed since then may be in somebody's hands."""

RECOVERY: Final = 3.0
"""Seconds in which a daemon that runs recovers what a dead process held."""

DIED: Final = Outcome(Verdict.FAIL, "its worker and its daemon died", "crash")

_SHARED: Final = frozenset({"tmp", *(each for each in FOLDERS if is_priority(each))})
"""Folders that may be open to others on purpose."""

_STATES: Final = ("held", "failed", "corrupt")
_MEND_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_LINKS: Final = ("keys", "timers", "batches")
"""Where second links to tasks are."""

_OWN: Final = ("done", "logs", "limits", "batches", "timers", "workers", "paused")
"""Folders in which all files are spooler's own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that should not be as it is.

    Attributes:
        kind: One of the words in docs/reference/spool.md, "spool check".
        path: Relative to the spool.
        text: What is wrong, or what a person must do about it.
        mend: Puts it right, and returns what was done; None where a person must.
    """

    kind: str
    path: str
    text: str
    mend: Callable[[], str] | None = None


class Check:
    """One look over a spool.

    Args:
        owners: The uids whose files count as tasks.

    Attributes:
        files: How many were looked at.
    """

    def __init__(
        self, spool: SpoolDir, owners: frozenset[int], clock: Clock = CLOCK
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._now_us = clock.now_us()
        self._owners = owners
        self._dropped = Dropped(spool, owners, clock)
        self._root = os.fstat(spool.fd)
        self._links: dict[int, list[str]] = {}
        self.files = 0

    def run(self) -> Iterator[Finding]:
        """Yield what is found. Mend a finding at once or not at all.

        Raises:
            OSError: From the file system.
        """
        yield from self._dead()
        yield from self._top()
        for number in self._spool.priorities():
            yield from self._priority(str(number))
        for worker in self._spool.names("running"):
            folder = f"running/{worker}"
            if self._spool.is_folder(folder):
                yield from self._folder(folder)
                yield from self._tasks(folder)
            else:
                yield Finding("foreign", folder, "is no worker's folder: move it away")
        for folder in _STATES:
            yield from self._tasks(folder)
        for folder in _OWN:
            yield from self._own(folder)
        yield from self._left_overs()
        yield from self._twice()

    # -- processes --------------------------------------------------------------

    def _dead(self) -> Iterator[Finding]:
        """Find what dead processes left behind."""
        dead = self._dead_now()
        if dead and self._is_served():  # then it is recovered any moment
            end = self._clock.monotonic() + RECOVERY
            while dead and self._clock.monotonic() < end:
                select.select([], [], [], 0.1)
                dead = [name for name in dead if name in self._dead_now()]
        for name in dead:
            held = len(self._spool.names(f"running/{name}"))
            text = "is dead, and left its files behind"
            if held:
                text = f"is dead, and held {held} task{'s' * (held > 1)}"
            path = f"running/{name}"
            if any(
                self._spool.has(f"workers/{name}.{end}") for end in ("lock", "json")
            ):
                path = f"workers/{name}.lock"
            elif not self._spool.is_folder(path):
                continue  # told of below
            yield Finding("dead", path, text, partial(self._recover, name))

    def _dead_now(self) -> list[str]:
        return [each for each in processes(self._spool) if not self._lives(each)]

    def _lives(self, name: str) -> bool:
        try:
            return is_alive(self._spool, name)
        except OSError:  # another user's, or no file: told of elsewhere
            return True

    @cached_property
    def _served(self) -> bool:
        return self._is_served()

    def _is_served(self) -> bool:
        for name in processes(self._spool):
            facts = read_json(self._spool, f"workers/{name}.json")
            if facts.get("kind") == "daemon" and self._lives(name):
                return True
        return False

    def _recover(self, name: str) -> str:
        recovered = recover(self._spool, name, self._decide, DIED, owners=self._owners)
        if recovered is None:
            return "it lives after all"
        lost = sum(each.due_us is None for each in recovered)
        text = f"recovered, {len(recovered) - lost} given back"
        return f"{text}, {lost} given up: see `spool ls failed`" if lost else text

    def _decide(self, name: Name) -> int | None:
        """Return when a task runs again: at once, but for one that kills its worker.

        What its decorator says of that is not known here.
        """
        if name.task != BATCH and RetryPolicy().exhausted(name.attempt):
            return None
        return min(name.due_us, self._now_us)

    # -- folders ----------------------------------------------------------------

    def _top(self) -> Iterator[Finding]:
        for name in self._spool.names("."):
            status = self._spool.status(name)
            if status is None:
                continue
            if not stat.S_ISDIR(status.st_mode):
                yield from self._stray(".", name, status)
            elif name in FOLDERS or is_priority(name):
                yield from self._folder(name)
            elif number_of(name) is None:
                yield Finding("foreign", name, "is no folder of a spool: move it away")
            elif not self._is_empty(name):
                text = "is a folder of uWSGI's, and only spoold --uwsgi empties it"
                yield Finding("foreign", name, text)

    def _is_empty(self, folder: str) -> bool:
        try:
            return not self._spool.names(folder)
        except PermissionError:
            return False

    def _folder(self, folder: str) -> Iterator[Finding]:
        status = self._spool.status(folder)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return
        if status.st_dev != self._root.st_dev:
            text = "is on another file system: moves fail. Put it on that of the spool"
            yield Finding("foreign", folder, text)
        yield from self._owner(folder, status)
        mode = stat.S_IMODE(status.st_mode)
        is_open = mode & 0o077 and folder not in _SHARED
        if is_open or mode & 0o700 != 0o700:
            wanted = 0o700 if folder not in _SHARED else mode | 0o700
            text = f"has mode {mode:04o}, not {wanted:04o}"
            mend = partial(self._chmod, folder, wanted)
            yield Finding("mode", folder, text, mend)

    def _owner(self, path: str, status: os.stat_result) -> Iterator[Finding]:
        """Find what the user whose spool it is may not use."""
        uid = self._root.st_uid
        if status.st_uid == uid or (stat.S_ISREG(status.st_mode) and uid == 0):
            return
        text = f"belongs to uid {status.st_uid}, the spool to uid {uid}"
        mend = partial(self._chown, path) if os.geteuid() == 0 else None
        yield Finding("owner", path, text if mend else f"{text}: chown it", mend)

    def _priority(self, folder: str) -> Iterator[Finding]:
        for name in self._spool.names(folder):
            path = f"{folder}/{name}"
            status = self._spool.status(path)
            if status is None:
                continue
            if not stat.S_ISDIR(status.st_mode):
                yield from self._stray(folder, name, status)
            elif minute_start_us(name) is None:
                text = "is no minute's folder, and nobody looks into it: move it away"
                yield Finding("foreign", path, text)
            else:
                yield from self._folder(path)
                yield from self._tasks(path)

    # -- files ------------------------------------------------------------------

    def _tasks(self, folder: str) -> Iterator[Finding]:
        """Look at the files of a folder that holds tasks."""
        try:
            names = self._spool.names(folder)
        except PermissionError:
            yield Finding("mode", folder, "may not be read by you")
            return
        waits = folder[0].isdigit()
        for name in names:
            path = f"{folder}/{name}"
            status = self._spool.status(path)
            if status is None:
                continue
            self.files += 1
            parsed = Name.parse(name)
            is_shared = parsed is not None and parsed.task == BATCH
            if status.st_nlink > 1 and stat.S_ISREG(status.st_mode) and not is_shared:
                self._links.setdefault(status.st_ino, []).append(path)
            if folder == "corrupt":
                continue
            if waits and (parsed is None or not self._belongs(folder, parsed)):
                yield from self._stray(folder, name, status)
            elif parsed is None and not name.endswith(".why"):
                yield Finding("foreign", path, "is no task: move it away")
            elif not stat.S_ISREG(status.st_mode):
                yield Finding("foreign", path, "is not a regular file: remove it")
            else:
                yield from self._readable(path, status)

    def _belongs(self, folder: str, name: Name) -> bool:
        priority = int(folder.partition("/")[0])
        return name.but(priority=priority).folder == folder

    def _stray(
        self, folder: str, name: str, status: os.stat_result
    ) -> Iterator[Finding]:
        """Find a file that a daemon would have taken to its place by now."""
        path = name if folder == "." else f"{folder}/{name}"
        self.files += 1
        if self._age(status) < ON_ITS_WAY or is_priority(name):
            return
        is_file = stat.S_ISREG(status.st_mode)
        if is_file and self._is_for_daemons(folder, name):
            if not self._served:
                text = "is uWSGI's, and only a daemon adopts it: start spoold"
                yield Finding("place", path, text)
            return
        text = "lies in the wrong place" if Name.parse(name) else "was not adopted"
        known = status.st_uid in self._owners or not is_file
        if not known:
            text += f", and belongs to uid {status.st_uid}: see spoold --allow-uid"
        mend = partial(self._adopt, folder, name) if known else None
        yield Finding("place", path, text, mend)

    def _is_for_daemons(self, folder: str, name: str) -> bool:
        """Tell whether a daemon's options say when a file is adopted, and where to.

        So it is with what a uWSGI may run as well (``--uwsgi-files``), and with packets
        in the root, which come last where uWSGI's order is kept (``--uwsgi``).
        """
        if is_uwsgi_name(name):
            return True
        if folder != "." or Name.parse(name) is not None:
            return False
        with suppress(OSError):  # a link, or not for us to read: adoption says so
            fd = os.open(name, READ_FLAGS, dir_fd=self._spool.fd)
            try:
                return os.read(fd, 1) == PACKET
            finally:
                os.close(fd)
        return False

    def _readable(self, path: str, status: os.stat_result) -> Iterator[Finding]:
        mode = stat.S_IMODE(status.st_mode)
        if not mode & 0o400 and status.st_uid == self._root.st_uid:
            text = f"has mode {mode:04o}: its owner cannot read it"
            yield Finding("mode", path, text, partial(self._chmod, path, 0o600))

    def _own(self, folder: str) -> Iterator[Finding]:
        for name in self._spool.all_names(folder):
            path = f"{folder}/{name}"
            status = self._spool.status(path)
            if status is None or (folder in _LINKS and status.st_nlink > 1):
                continue
            self.files += 1
            if not stat.S_ISREG(status.st_mode):
                text = "is not a regular file: remove it"
                yield Finding("foreign", path, text)
            else:
                yield from self._owner(path, status)

    # -- left-overs -------------------------------------------------------------

    def _left_overs(self) -> Iterator[Finding]:
        for path in left_overs(self._spool, self._clock, most=sys.maxsize):
            text = "was left behind, and nobody needs it"
            yield Finding("leftover", path, text, partial(self._remove, path))

    def _twice(self) -> Iterator[Finding]:
        """Find files that are tasks under two names, or beside a name in ``tmp/``.

        A cut of power can do that where a rename into another folder is two writes.
        """
        for folder in ("tmp", *_LINKS) if self._links else ():
            for name in self._spool.all_names(folder):
                status = self._spool.status(f"{folder}/{name}")
                if status is not None and status.st_ino in self._links:
                    self._links[status.st_ino].append(f"{folder}/{name}")
        for paths in self._links.values():
            tasks = [path for path in paths if path.partition("/")[0] not in _LINKS]
            spare = [path for path in tasks if path.startswith("tmp/")]
            for path in spare:
                text = f"is {tasks[0]} once more"
                yield Finding("twice", path, text, partial(self._remove, path))
            if len(tasks) - len(spare) > 1:
                text = f"is {tasks[0]} once more, and runs twice: remove one of them"
                yield Finding("twice", tasks[1], text)

    # -- mending ----------------------------------------------------------------

    def _age(self, status: os.stat_result) -> float:
        """Return the seconds since a file has changed or moved."""
        return (self._now_us - status.st_ctime_ns // 1000) / 1e6

    def _remove(self, path: str) -> str:
        return "removed" if remove_left_over(self._spool, path) else "gone already"

    def _chmod(self, path: str, mode: int) -> str:
        fd = os.open(path, _MEND_FLAGS, dir_fd=self._spool.fd)
        try:
            os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)
        return f"has mode {mode:04o} now"

    def _chown(self, path: str) -> str:
        uid, gid = self._root.st_uid, self._root.st_gid
        os.chown(path, uid, gid, dir_fd=self._spool.fd, follow_symlinks=False)
        return f"belongs to uid {uid} now"

    def _adopt(self, folder: str, name: str) -> str:
        result = self._dropped.adopt(folder, name, finished=False)
        if isinstance(result, str):
            return f"is {result} now"
        return "not whole yet: try again" if result else "put aside"
