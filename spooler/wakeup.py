"""Be told of files: watchdog's inotify.

The daemon reads it in its own loop: no thread, so that a new file costs one system
call and no hand-over. Where there is no inotify for a directory (a network file
system, no watches left) the caller must scan.
"""

import errno
import itertools
import logging
import math
import os
import re
import select
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

REMOTE: Final = frozenset(
    {"9p", "afs", "ceph", "cifs", "nfs", "nfs4", "ncpfs", "smb3", "smbfs", "virtiofs"}
)
"""File systems where another host's changes make no inotify event."""

MASK: Final = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_ONLYDIR
)

REMOVALS: Final = Mask(InotifyConstants.IN_DELETE | InotifyConstants.IN_MOVED_FROM)
"""What is watched besides where a name that goes is news, too."""

_WHOLE: Final = MASK & ~InotifyConstants.IN_CREATE

FILE_MASK: Final = Mask(
    InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ATTRIB  # one name less: an open file is not deleted yet
    | InotifyConstants.IN_DELETE_SELF
)

_EVENT: Final = struct.Struct("iIII")
"""The head of an event as the kernel writes it: watch, mask, cookie, length of name."""

_READ_MAX: Final = 1 << 16
"""Bytes of events that are read in one go."""

_ESCAPED = re.compile(r"\\([0-7]{3})")

OnName = Callable[[str, bool], None]
"""Called with a file's name and whether it is known to be whole."""

log = logging.getLogger(__name__)


class _Folder:
    """One watched directory (watchdog's ``WatchCallback``)."""

    def __init__(
        self,
        on_name: OnName,
        on_lost: Callable[[], None],
        on_deleted: Callable[[], None],
    ) -> None:
        self._on_name = on_name
        self._on_lost = on_lost
        self._on_deleted = on_deleted

    def on_event(self, event: InotifyEvent) -> None:
        self.tell(event.mask, event.name)

    def tell(self, mask: int, raw: bytes) -> None:
        """Tell of a file, if it is one to be looked at."""
        name = os.fsdecode(raw)
        if name and name[0] != "." and not name.endswith(".tmp"):
            self._on_name(name, mask & _WHOLE != 0)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        self._on_deleted()

    def on_queue_overflow(self) -> None:
        self._on_lost()


class _Inotify(InotifyFD):
    """watchdog's inotify with its descriptor shown, never started as a thread."""

    def __init__(self) -> None:
        super().__init__()
        for fd in self.descriptors():
            os.set_inheritable(fd, False)

    def fileno(self) -> int:
        return self._inotify_fd

    def descriptors(self) -> tuple[int, ...]:
        return self._inotify_fd, self._kill_r, self._kill_w

    def close_now(self) -> None:
        # watchdog 7 leaves the descriptors to its thread until a first read is over.
        self._is_reading = False
        self.close()

    def read_now(self, folders: Mapping[int, _Folder]) -> None:
        """Read what there is, once it is readable, and tell the folders.

        Names are told at once: for each, watchdog would ask once more whether there
        is something, and make an object. All other news are left to it.
        """
        data = os.read(self._inotify_fd, _READ_MAX)
        at = 0
        while at < len(data):
            wd, mask, cookie, length = _EVENT.unpack_from(data, at)
            begin = at + _EVENT.size
            at = begin + length
            name = data[begin:at].rstrip(b"\0")
            folder = folders.get(wd)
            if name and folder is not None:
                folder.tell(mask, name)
            else:
                self.handle_event(InotifyEvent(wd, mask, cookie, name))


_IDS: Final = itertools.count(1)


class Watch:
    """The inotify watches of one spool.

    Args:
        path: The spool's path; watched directories are below it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._watched: dict[str, WatchDescriptor] = {}
        self._folders: dict[int, _Folder] = {}
        self._full = False
        self._inotify = self._open()

    def _open(self) -> _Inotify | None:
        if is_remote(file_system(self._path)):
            return None
        try:
            return _Inotify()
        except OSError as error:
            log.warning("no inotify for %s (%s): scanning instead", self._path, error)
            return None

    @property
    def mode(self) -> str:
        """How new files are noticed: ``inotify``, or ``scan`` if a watch failed."""
        return "inotify" if self._inotify and not self._full else "scan"

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when there is news, if any."""
        return self._inotify.fileno() if self._inotify else None

    def add(
        self,
        folder: str,
        on_name: OnName,
        on_lost: Callable[[], None],
        *,
        removals: bool = False,
    ) -> bool:
        """Watch a directory; scan it after that, not before.

        Args:
            folder: Relative to the spool.
            on_lost: Called when events were lost or the directory is gone.
            removals: Call ``on_name`` for names that go, too.

        Returns:
            Whether it is watched now.
        """
        if folder in self._watched:
            return True
        if self._inotify is None:
            return False
        path = os.fsencode(os.path.join(self._path, folder))

        def on_deleted() -> None:
            self._forget(folder)
            on_lost()

        callback = _Folder(on_name, on_lost, on_deleted)
        try:
            mask = Mask(MASK | REMOVALS) if removals else MASK
            wd = self._inotify.add_callback(path, mask, callback, CallbackId(1))
            if wd < 0:  # watchdog 7 keeps silent about EACCES
                self._inotify.remove_callbacks([(wd, CallbackId(1))])
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                level = logging.DEBUG if self._full else logging.WARNING
                text = "cannot watch %s/%s (%s): scanning too"
                log.log(level, text, self._path, folder, error)
                self._full = True
            return False
        self._watched[folder] = wd
        self._folders[wd] = callback
        return True

    def has(self, folder: str) -> bool:
        """Tell whether a directory is watched."""
        return folder in self._watched

    def remove(self, folder: str) -> None:
        """Stop watching a directory."""
        wd = self._forget(folder)
        if wd is not None and self._inotify is not None:
            self._inotify.remove_callbacks([(wd, CallbackId(1))])

    def _forget(self, folder: str) -> WatchDescriptor | None:
        wd = self._watched.pop(folder, None)
        if wd is not None:
            self._folders.pop(wd, None)
        return wd

    def read(self) -> None:
        """Read what there is and call back for it. Call it when readable."""
        if self._inotify is not None:
            self._inotify.read_now(self._folders)

    def close(self) -> None:
        """Let go of everything."""
        if self._inotify is not None:
            self._inotify.close_now()


class _Hub:
    """One inotify for all that waits in this process; read by a thread meanwhile.

    It stays open, since to close one takes the kernel some 10 ms. The thread is there
    while there are watchposts.

    Raises:
        OSError: There is no inotify left for this user.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._inotify = _Inotify()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._posts = 0
        self._is_read = False

    def enter(self) -> None:
        """Have one more watchpost told."""
        with self._lock:
            if not self._is_read:
                threading.Thread(
                    target=self._run, name="spooler-waiting", daemon=True
                ).start()
                self._is_read = True
            self._posts += 1

    def leave(self, watches: list[tuple[WatchDescriptor, CallbackId]]) -> None:
        """Have one watchpost less, and forget what it has watched."""
        self._inotify.remove_callbacks(watches)
        with self._lock:
            self._posts -= 1
            if not self._posts:
                os.eventfd_write(self._bell, 1)

    def add(
        self, path: str, mask: Mask, post: "Watchpost"
    ) -> tuple[WatchDescriptor, CallbackId]:
        """Watch a file or directory."""
        once = CallbackId(next(_IDS))
        wd = self._inotify.add_callback(os.fsencode(path), mask, post, once)
        if wd < 0:  # watchdog 7 keeps silent about EACCES
            self._inotify.remove_callbacks([(wd, once)])
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return wd, once

    def _run(self) -> None:
        poll = select.poll()
        for fd in (self._bell, self._inotify.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._bell:
                    os.eventfd_read(fd)
                    continue
                for event in self._inotify.read_events():
                    self._inotify.handle_event(event)
            with self._lock:
                if not self._posts:
                    self._is_read = False
                    return

    def close(self) -> None:
        """Let go of everything. For the child of a fork, which has no thread."""
        for fd in (self._bell, *self._inotify.descriptors()):
            os.close(fd)


_hubs: Final[list[_Hub]] = []
_HUBS_LOCK: Final = threading.Lock()


def _hub() -> _Hub:
    with _HUBS_LOCK:
        if _hubs and _hubs[0].pid != os.getpid():
            _hubs.pop().close()
        if not _hubs:
            _hubs.append(_Hub())
        return _hubs[0]


os.register_at_fork(
    before=_HUBS_LOCK.acquire,
    after_in_parent=_HUBS_LOCK.release,
    after_in_child=_HUBS_LOCK.release,
)


class Watchpost:
    """Tells that something happened to one of a few files and directories.

    It does not say to which: look again at all of them.

    Raises:
        OSError: There is no inotify, descriptor or thread left.
    """

    def __init__(self) -> None:
        self._hub = _hub()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._watches: list[tuple[WatchDescriptor, CallbackId]] = []
        try:
            self._hub.enter()
        except BaseException as error:
            os.close(self._fd)
            if isinstance(error, RuntimeError):
                raise OSError(errno.EAGAIN, str(error)) from None
            raise

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is news."""
        return self._fd

    def add_file(self, fd: int) -> None:
        """Watch an open file, wherever it is, for being renamed or unlinked.

        Raises:
            OSError: It cannot be watched.
        """
        path = f"/proc/self/fd/{fd}"
        self._watches.append(self._hub.add(path, FILE_MASK, self))

    def add_folder(self, path: str) -> None:
        """Watch a directory for new files.

        Raises:
            OSError: It cannot be watched.
        """
        self._watches.append(self._hub.add(path, MASK, self))

    def add_growing(self, path: str) -> None:
        """Watch a file for being written to.

        Raises:
            OSError: It cannot be watched.
        """
        mask = Mask(InotifyConstants.IN_MODIFY)
        self._watches.append(self._hub.add(path, mask, self))

    def wait(self, timeout: float | None) -> None:
        """Wait for news, or until so many seconds (an hour at most) are over."""
        seconds = 3600.0 if timeout is None else min(timeout, 3600.0)
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        # In whole milliseconds, rounded up: never wake too early, again and again.
        if poll.poll(math.ceil(seconds * 1000)):
            self.read()

    def read(self) -> None:
        """Forget the news so far."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def close(self) -> None:
        """Let go of everything."""
        self._hub.leave(self._watches)
        with self._lock:  # the thread may be about to tell
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _ring(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    # watchdog's ``WatchCallback``: called in the thread

    def on_event(self, event: InotifyEvent) -> None:
        """Tell it."""
        self._ring()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Tell it."""
        self._ring()

    def on_queue_overflow(self) -> None:
        """Tell it."""
        self._ring()


def is_remote(kind: str) -> bool:
    """Tell whether other hosts may change files on such a file system unheard."""
    return kind in REMOTE or kind.startswith("fuse.")


def file_system(path: str) -> str:
    """Return the type of the file system that holds a path, as the kernel says.

    ``unknown`` where ``/proc`` does not tell.
    """
    path = os.path.realpath(path).rstrip("/") + "/"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            mounts = file.read().splitlines()
    except OSError:
        return "unknown"
    best = ("", "unknown")
    for mount in mounts:
        fields, _, after = mount.partition(" - ")
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields.split()[4])
        point = point.rstrip("/") + "/"
        if path.startswith(point) and len(point) >= len(best[0]):
            best = (point, after.split()[0])
    return best[1]
