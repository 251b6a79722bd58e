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
from functools import partial
from typing import Final, TypeVar

from ..clock import CLOCK
from ..errors import SpoolUncertain
from ..task import MAX_DUE_US, MINUTE_US, Name, is_priority, minute_start_us
from . import marking, members, signing
from .files import (
    NEW_FLAGS,
    close_new,
    insist_on_folder,
    link_new,
    list_directory,
    sync_directory,
    take_over,
)
from .reserve import insist

_TMPFILE_FLAGS: Final = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})
_SYNCED_MAX: Final = 256

T = TypeVar("T")

log = logging.getLogger(__name__)


class SpoolDir:
    """A spool directory.

    Making one touches nothing; ``open`` does, and every move opens it if need be.
    It may be used by several threads and after a fork.

    Attributes:
        path: Its absolute path.
        left: Folders from which files were claimed and that wait for ``sync``.
        signer: Signs what is put here; None if nobody does.
        roomy_us: When it was last seen that it has no limits: see ``room``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.roomy_us = -1_000_000_000
        self.signer = signing.signer_here()
        self._fd = -1
        self._door = -1  # the root, if one may put there and nothing else
        self._owner: tuple[int, int] | None = None
        self._trusted: frozenset[int] | None = None
        self._synced: set[str] = set()
        self.left: set[str] = set()
        self._tmpfile = os.path.isdir("/proc/self/fd")
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        return f"SpoolDir({self.path!r})"

    @property
    def fd(self) -> int:
        """A descriptor of the root, for calls that take ``dir_fd``.

        Raises:
            PermissionError: This user may put tasks, and nothing else.
            NotASpoolError, OSError: As for ``open``.
        """
        if self._fd < 0 and self.entry_fd != self._fd:
            raise members.refusal(self.path)
        return self._fd

    @property
    def entry_fd(self) -> int:
        """The same, for what a member of a group spool may do too: put."""
        if self._fd < 0 and self._door < 0:
            self.open()
        return self._door if self._fd < 0 else self._fd

    @property
    def owner(self) -> tuple[int, int] | None:
        """Whom new files are given to, uid and gid; None if they are ours."""
        return self._owner

    @property
    def is_plain(self) -> bool:
        """Whether nothing is special here: it is its owner's alone, and that is us."""
        if self._fd < 0 and self.entry_fd != self._fd:
            return False
        return self._owner is None and self._trusted is None

    # -- opening ----------------------------------------------------------------

    def open(self) -> None:
        """Check that this is a spool, make what is missing in it, hold it open.

        An empty directory becomes a spool. A member of a group spool may not read it,
        and can do nothing but put.

        Raises:
            NotASpoolError: Missing, not a directory, not a spool, or newer.
            OSError: From the file system, such as no permission.
        """
        try:
            opened = marking.open_root(self.path)
        except PermissionError:
            if self._fd >= 0 or (door := members.enter(self.path)) is None:
                raise
            with self._opening:
                self._door = take_over(door, self._door)
            return
        with self._opening:
            fd, self._owner, self._trusted = opened
            self._fd = take_over(fd, self._fd)
            self._synced.clear()

    def close(self) -> None:
        """Let go of the directory; the next move opens it again."""
        with self._opening:
            held = (self._fd, self._door)
            self._fd = self._door = -1
        for fd in held:
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
        marking.make_directory(self.path)
        self.open()

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
        if self._fd < 0 and self.entry_fd != self._fd:
            fill = partial(self._fill, name=name, chunks=chunks, durable=durable)
            own = {"durable": durable, "unnamed": self._tmpfile}
            members.put(self._door, self.path, name, fill, self.open, **own)
            return
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
        self, name: Name, chunks: Iterable[bytes], *, durable: bool, sign: bool = True
    ) -> tuple[int, str | None]:
        """Write a task that has no place yet: the first half of ``put``.

        Args:
            sign: Sign it, if there is a ``signer``: not what somebody else has written.

        Returns:
            Its descriptor, and its hidden name if it has one: for ``let_go``.

        Raises:
            OSError: From the file system; nothing is left then.
        """
        fd, hidden = self._open_new(name.folder, name)
        try:
            if self._owner is not None:
                os.fchown(fd, *self._owner)
            self._fill(fd, name, chunks, durable=durable, sign=sign)
        except BaseException:
            self.let_go(fd, hidden)
            raise
        return fd, hidden

    def _fill(
        self,
        fd: int,
        name: Name,
        chunks: Iterable[bytes],
        *,
        durable: bool,
        sign: bool = True,
    ) -> None:
        try:
            signing.write(self.signer if sign else None, fd, name.id, chunks)
            if durable:
                os.fsync(fd)
        except OSError as error:
            if error.filename is None:
                error.filename = self.path  # write and fsync do not say where
            raise

    def _open_new(self, folder: str, name: Name) -> tuple[int, str | None]:
        """Open a file without a name, or else a hidden one; return that name too."""
        if self._tmpfile:
            try:
                return self._open_in(folder, ".", _TMPFILE_FLAGS), None
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
                self._tmpfile = False
        return self._open_in(folder, f".{name}", NEW_FLAGS), f"{folder}/.{name}"

    def _open_in(self, folder: str, file: str, flags: int) -> int:
        def make(at: int, folder: str) -> int:
            return os.open(folder + file, flags, 0o600, dir_fd=at)

        return self.in_folder(folder, make)

    def let_go(self, fd: int, hidden: str | None) -> None:
        """Close what ``write`` returned, and remove its hidden name."""
        close_new(self.fd, fd, hidden)

    def place(self, fd: int, hidden: str | None, name: Name) -> None:
        """Give what ``write`` returned its name: the second half of ``put``.

        Raises:
            FileExistsError: There is a task of this name.
            OSError: From the file system; there is no task then.
        """
        if hidden is None:
            self.in_folder(
                name.folder, lambda at, to: link_new(at, fd, hidden, f"{to}{name}")
            )
        else:  # which keeps its folder from being removed
            link_new(self.fd, fd, hidden, f"{name.folder}/{name}")

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
            marking.make_folder(self.fd, folder, self._owner)

    def in_folder(
        self, folder: str, act: Callable[[int, str], T], source: str | None = None
    ) -> T:
        """Do something in a minute folder, which is made if it is not there.

        A daemon removes folders that are empty and over, also one that was made
        just now for a task that has long been due: then it is made again.

        Args:
            act: Does it. It is given a directory, open, and how the folder is called
                from there, with a slash at the end: nobody else can change what that
                means. It may be called several times.
            source: A file that is needed besides; if it is gone, that is the end.

        Raises:
            OSError: From the file system.
        """
        return insist_on_folder(
            lambda: self._act_in(folder, act),
            lambda: self.make_folder(folder),
            lambda: source is None or self.has(source),
        )

    def _act_in(self, folder: str, act: Callable[[int, str], T]) -> T:
        root = self.fd
        if self._trusted is None:
            return act(root, f"{folder}/")
        fd = members.open_own(root, self.path, folder, self._trusted)
        try:
            return act(fd, "")
        finally:
            os.close(fd)

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
            if priority not in marking.FOLDERS:
                self.sync(".")
            if len(self._synced) >= _SYNCED_MAX:
                self._synced.clear()
            self._synced.add(folder)

    def sync(self, folder: str) -> None:
        """Sync a directory of the spool; a worker's after those it claimed from.

        Raises:
            OSError: From the file system.
        """
        if folder.startswith("running/"):
            self.sync_left()
        sync_directory(folder, dir_fd=self.fd)

    def sync_left(self) -> None:
        """Sync what was claimed from; else btrfs may keep both names of a claim."""
        left = tuple(self.left)
        self.left.difference_update(left)
        self.sync_moved(*left)

    def sync_moved(self, *folders: str) -> None:
        """Sync directories after a move, the old one first; what fails is only logged.

        The caller must not move again. At worst a power cut undoes the move.
        """
        for folder in folders:
            try:
                self.sync(folder)
            except FileNotFoundError:  # a daemon removed it, when it was empty
                self.sync_moved(folder.rpartition("/")[0] or ".")
            except OSError as error:
                log.warning("cannot sync %s in %s: %s", folder, self.path, error)

    def guard(self, folder: str) -> None:
        """Put away what somebody else has made under the name of a minute folder.

        Raises:
            OSError: From the file system.
        """
        if self._trusted is not None:
            members.put_away(self.fd, self.path, folder, self._trusted)

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
        if folder is None:
            self.guard(name.folder)
        while self.has(f"{folder or name.folder}/{name}"):
            name = name.but(due_us=(name.due_us + 1) % (MAX_DUE_US + 1))
        return name

    def move(self, source: str, name: Name, *, durable: bool = True) -> Name:
        """Rename a file of the spool to a native name: the way back to waiting.

        Without room for its minute folder the reserve is used.

        Returns:
            The name that it has got: see ``free``.

        Raises:
            FileNotFoundError: The file is gone; someone else moved it.
            OSError: From the file system. The file is where it was.
        """
        name = self.free(name)

        def rename(at: int, folder: str) -> None:
            os.rename(source, f"{folder}{name}", src_dir_fd=self.fd, dst_dir_fd=at)

        insist(self.fd, lambda: self.in_folder(name.folder, rename, source))
        if durable:
            self.sync_moved(source.rpartition("/")[0] or ".")
            try:
                self.sync_folder(name)
            except OSError as error:
                log.warning("cannot sync %s in %s: %s", name.folder, self.path, error)
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
        return list_directory(self.fd, folder)

    def priorities(self) -> list[int]:
        """Return the priorities that have a folder, most urgent first."""
        names = [name for name in self.names(".") if is_priority(name)]
        return sorted(int(name) for name in names if self.is_folder(name))

    def minutes(self, priority: int) -> list[str]:
        """Return the minute folders of a priority, earliest first."""
        names = self.names(str(priority))
        found = sorted(n for n in names if minute_start_us(n) is not None)
        for minute in found if self._trusted is not None else ():
            self.guard(f"{priority}/{minute}")
        return found

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
