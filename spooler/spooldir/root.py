"""Open a spool, put tasks into it, list what waits.

This is all that a producer needs; it imports nothing that costs time.
Specification: docs/format.md, sections 1 and 3.
"""

import errno
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, TypeVar

from ..clock import CLOCK
from ..errors import NotASpoolError, SpoolUncertain
from ..task import MAX_DUE_US, MINUTE_US, Name, is_priority, minute_start_us
from .files import DIR_FLAGS, NEW_FLAGS, link_new, sync_directory, write_all, write_new

FORMAT: Final = 1
MARKER: Final = ".spool"
MARKER_TEXT: Final = b'{"format": 1}\n'
FOLDERS: Final = (
    *("running", "failed", "corrupt", "done", "logs", "timers", "workers"),
    *("held", "paused", "kill", "keys", "limits", "batches", "tmp"),
    *(str(priority) for priority in range(10)),
)

_TMPFILE_FLAGS: Final = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})
_SYNCED_MAX: Final = 256

RACES_MAX: Final = 100
"""How often a minute folder is made again that somebody keeps removing."""

EPERM_MAX: Final = 3
"""How often "not permitted" is taken for such a removal, and not at its word."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class SpoolDir:
    """A spool directory.

    Making one touches nothing; ``open`` does, and every move opens it if need be.
    It may be used by several threads and after a fork.

    Attributes:
        path: Its absolute path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self._fd = -1
        self._owner: tuple[int, int] | None = None
        self._synced: set[str] = set()
        self._tmpfile = os.path.isdir("/proc/self/fd")
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        return f"SpoolDir({self.path!r})"

    @property
    def fd(self) -> int:
        """A descriptor of the root, for calls that take ``dir_fd``."""
        if self._fd < 0:
            self.open()
        return self._fd

    @property
    def owner(self) -> tuple[int, int] | None:
        """Whom new files are given to, uid and gid; None if they are ours."""
        return self._owner

    # -- opening ----------------------------------------------------------------

    def open(self) -> None:
        """Check that this is a spool, make what is missing in it, hold it open.

        An empty directory becomes a spool.

        Raises:
            NotASpoolError: Missing, not a directory, not a spool, or newer.
            OSError: From the file system, such as no permission.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            hint = f"there is no such directory: make it with `spool init {self.path}`"
            raise NotASpoolError(self.path, hint) from None
        except NotADirectoryError:
            raise NotASpoolError(self.path, "is not a directory") from None
        try:
            self._check(fd)
            status = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        with self._opening:
            # What root makes in another user's spool is of use only to that user.
            foreign = os.geteuid() == 0 and status.st_uid != 0
            self._owner = (status.st_uid, status.st_gid) if foreign else None
            if self._fd < 0:
                self._fd = fd
            else:  # other threads may be using the number: keep it
                try:
                    os.dup2(fd, self._fd, inheritable=False)
                finally:
                    os.close(fd)
            self._synced.clear()

    def close(self) -> None:
        """Let go of the directory; the next move opens it again."""
        with self._opening:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def is_in_place(self) -> bool:
        """Tell whether the open directory is still the one at its path.

        Raises:
            OSError: From the file system.
        """
        try:
            there = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(there, os.fstat(self.fd))

    def create(self) -> None:
        """Make the directory, if it is missing, and the spool in it.

        Raises:
            NotASpoolError: It holds something else.
            OSError: From the file system.
        """
        with suppress(FileExistsError):
            os.makedirs(self.path, 0o700)
            with suppress(PermissionError):  # one may make there, but not read
                sync_directory(os.path.dirname(self.path))
        self.open()

    def _check(self, fd: int) -> None:
        entries = set(os.listdir(fd))
        if MARKER in entries:
            self._check_marker(fd)
        elif entries != set(FOLDERS[: len(entries)]):  # nor one half made
            hint = "is not empty and is not a spool (it has no file .spool)"
            raise NotASpoolError(self.path, hint)
        made = False
        for folder in FOLDERS:
            if folder not in entries:
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700, dir_fd=fd)
                    made = True
        if MARKER not in entries:
            # Last: a directory that has it has the rest too.
            write_new(fd, f"tmp/{MARKER}.{os.urandom(4).hex()}", MARKER, MARKER_TEXT)
            made = True
        if made:
            os.fsync(fd)

    def _check_marker(self, fd: int) -> None:
        marker = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            text = os.read(marker, 4096)
        finally:
            os.close(marker)
        # A version this code does not know is one that it cannot parse either.
        if b"".join(text.split()) != b"".join(MARKER_TEXT.split()):
            hint = "was made by a newer spooler, or its file .spool is damaged"
            raise NotASpoolError(self.path, f"{hint}; this one knows format {FORMAT}")

    # -- put --------------------------------------------------------------------

    def put(self, name: Name, chunks: Iterable[bytes], *, durable: bool = True) -> None:
        """Write a task and put it into place under ``name``.

        When it has returned and ``durable`` is true, the task survives a power
        cut; else only the death of processes.

        Args:
            name: Its name; must be new.
            chunks: The bytes of the file, in pieces of any size.
            durable: Sync the file and its folder.

        Raises:
            NotASpoolError: The spool is gone.
            FileExistsError: There is a task of this name.
            SpoolUncertain: It is in place, but the last sync failed.
            OSError: From the file system; there is no task then.
        """
        fd, hidden = self.write(name, chunks, durable=durable)
        placed = False
        try:
            try:
                self.place(fd, hidden, name)
                placed = True
            finally:
                self.let_go(fd, hidden)
            if durable:
                self.sync_folder(name)
        except OSError as error:
            if not placed:
                raise
            raise SpoolUncertain(name.id, error) from error

    def write(
        self, name: Name, chunks: Iterable[bytes], *, durable: bool
    ) -> tuple[int, str | None]:
        """Write a task that has no place yet: the first half of ``put``.

        Returns:
            Its descriptor, and its hidden name if it has one: for ``let_go``.

        Raises:
            OSError: From the file system; nothing is left then.
        """
        fd, hidden = self._open_new(name.folder, name)
        try:
            if self._owner is not None:
                os.fchown(fd, *self._owner)
            for chunk in chunks:
                write_all(fd, chunk)
            if durable:
                os.fsync(fd)
        except BaseException as error:
            self.let_go(fd, hidden)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = self.path  # write and fsync do not say where
            raise
        return fd, hidden

    def _open_new(self, folder: str, name: Name) -> tuple[int, str | None]:
        """Open a file without a name, or else a hidden one; return that name too."""
        if self._tmpfile:
            try:
                return self._open_in(folder, folder, _TMPFILE_FLAGS), None
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
                self._tmpfile = False
        hidden = f"{folder}/.{name}"
        return self._open_in(folder, hidden, NEW_FLAGS), hidden

    def _open_in(self, folder: str, path: str, flags: int) -> int:
        return self.in_folder(
            folder, lambda: os.open(path, flags, 0o600, dir_fd=self.fd)
        )

    def let_go(self, fd: int, hidden: str | None) -> None:
        """Close what ``write`` returned, and remove its hidden name."""
        try:
            os.close(fd)
        finally:
            if hidden is not None:
                with suppress(OSError):  # nobody looks at it; it is swept by age
                    os.unlink(hidden, dir_fd=self.fd)

    def place(self, fd: int, hidden: str | None, name: Name) -> None:
        """Give what ``write`` returned its name: the second half of ``put``.

        Raises:
            FileExistsError: There is a task of this name.
            OSError: From the file system; there is no task then.
        """
        folder = name.folder
        path = f"{folder}/{name}"
        if hidden is None:
            self.in_folder(folder, lambda: link_new(self.fd, fd, hidden, path))
        else:  # which keeps its folder from being removed
            link_new(self.fd, fd, hidden, path)

    # -- folders ----------------------------------------------------------------

    def make_folder(self, folder: str) -> None:
        """Make a minute folder, and its priority's if that is missing.

        Raises:
            NotASpoolError: The spool is gone.
            OSError: From the file system.
        """
        self._synced.discard(folder)
        priority = folder.partition("/")[0]
        try:
            self._mkdir(folder)
        except FileNotFoundError:
            self.open()  # the spool may have been made anew
            self._mkdir(priority)
            os.fsync(self.fd)
            self._mkdir(folder)

    def _mkdir(self, folder: str) -> None:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700, dir_fd=self.fd)
            if self._owner is not None:
                os.chown(folder, *self._owner, dir_fd=self.fd, follow_symlinks=False)

    def in_folder(
        self, folder: str, act: Callable[[], T], source: str | None = None
    ) -> T:
        """Do something in a minute folder, which is made if it is not there.

        A daemon removes folders that are empty and over, also one that was made
        just now for a task that has long been due: then it is made again.

        Args:
            source: A file that is needed besides; if it is gone, that is the end.

        Raises:
            OSError: From the file system.
        """
        for races in range(RACES_MAX):
            try:
                return act()
            except FileNotFoundError:
                if source is not None and not self.has(source):
                    raise
            except PermissionError as error:
                # What ext4 says of O_TMPFILE in a directory that is removed just now.
                if error.errno != errno.EPERM or races >= EPERM_MAX:
                    raise
            self.make_folder(folder)
        return act()

    def sync_folder(self, name: Name) -> None:
        """Sync the minute folder that holds ``name``.

        The first time, and whenever the folder is old enough to have been removed
        and made again by somebody else, the folder above it too. If it was removed,
        since the task has been taken from it already, that is all.

        Raises:
            OSError: From the file system.
        """
        folder, priority = name.folder, str(name.priority)
        over = name.due_us + 2 * MINUTE_US < CLOCK.now_us()
        try:
            self.sync(folder)
        except FileNotFoundError:
            over = True
        if over or folder not in self._synced:
            self.sync(priority)
            if priority not in FOLDERS:
                self.sync(".")
            if len(self._synced) >= _SYNCED_MAX:
                self._synced.clear()
            self._synced.add(folder)

    def sync(self, folder: str) -> None:
        """Sync a directory of the spool.

        Raises:
            OSError: From the file system.
        """
        fd = os.open(folder, DIR_FLAGS, dir_fd=self.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_moved(self, *folders: str) -> None:
        """Sync directories after a move; what fails is only logged.

        The move was made, and its caller must not make it again. At worst a power
        cut undoes it.
        """
        for folder in folders:
            try:
                self.sync(folder)
            except FileNotFoundError:
                continue  # it was the last file there, and a daemon removed it
            except OSError as error:
                log.warning("cannot sync %s in %s: %s", folder, self.path, error)

    def free(self, name: Name, folder: str | None = None) -> Name:
        """Return ``name``, or if there is such a file one that is due a bit later.

        ``rename`` overwrites in silence, and two tasks may have chosen the same id.

        Args:
            folder: Where it is to be; None for its minute folder.

        Raises:
            OSError: From the file system.
        """
        if not 0 <= name.due_us <= MAX_DUE_US:
            name = name.but(due_us=min(max(name.due_us, 0), MAX_DUE_US))
        while self.has(f"{folder or name.folder}/{name}"):
            name = name.but(due_us=(name.due_us + 1) % (MAX_DUE_US + 1))
        return name

    def move(self, source: str, name: Name, *, durable: bool = True) -> Name:
        """Rename a file of the spool to a native name: the way back to waiting.

        Returns:
            The name that it has got: see ``free``.

        Raises:
            FileNotFoundError: The file is gone; someone else moved it.
            OSError: From the file system. The file is where it was.
        """
        name = self.free(name)
        target = f"{name.folder}/{name}"
        self.in_folder(
            name.folder,
            lambda: os.rename(source, target, src_dir_fd=self.fd, dst_dir_fd=self.fd),
            source,
        )
        if durable:
            try:
                self.sync_folder(name)
            except OSError as error:
                log.warning("cannot sync %s in %s: %s", name.folder, self.path, error)
            self.sync_moved(source.rpartition("/")[0] or ".")
        return name

    # -- lists ------------------------------------------------------------------

    def names(self, folder: str) -> list[str]:
        """Return the names in a directory of the spool; none if it is gone.

        Names that begin with a dot or end in ``.tmp`` are left out.

        Raises:
            OSError: From the file system.
        """
        found = self.all_names(folder)
        return [n for n in found if n[0] != "." and not n.endswith(".tmp")]

    def all_names(self, folder: str) -> list[str]:
        """Return the names in a directory of the spool, the hidden ones too.

        Raises:
            OSError: From the file system.
        """
        # Opened anew each time: on NFS a kept descriptor shows an old list.
        try:
            fd = os.open(folder, DIR_FLAGS, dir_fd=self.fd)
        except (FileNotFoundError, NotADirectoryError):
            return []
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def priorities(self) -> list[int]:
        """Return the priorities that have a folder, most urgent first."""
        names = [name for name in self.names(".") if is_priority(name)]
        return sorted(int(name) for name in names if self.is_folder(name))

    def minutes(self, priority: int) -> list[str]:
        """Return the minute folders of a priority, earliest first."""
        names = self.names(str(priority))
        return sorted(n for n in names if minute_start_us(n) is not None)

    def waiting(self) -> Iterable[tuple[str, str]]:
        """Yield (folder, name) of all that waits, in no order within a folder.

        Reads every folder: for people who ask, not for the daemon.
        """
        for priority in self.priorities():
            for minute in self.minutes(priority):
                folder = f"{priority}/{minute}"
                for name in self.names(folder):
                    yield folder, name

    def status(self, path: str) -> os.stat_result | None:
        """Return what stands at a path of the spool; None if nothing does.

        Raises:
            OSError: From the file system.
        """
        try:
            return os.stat(path, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def has(self, path: str) -> bool:
        """Tell whether there is a file of that path in the spool."""
        return self.status(path) is not None

    def is_folder(self, path: str) -> bool:
        """Tell whether there is a directory of that path in the spool."""
        status = self.status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)
