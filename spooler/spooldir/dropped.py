"""Adopt what other programs left in a spool.

Specification: docs/format.md, section 4.
"""

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from enum import Enum
from typing import Final, NamedTuple

from ..alarm import Alarm
from ..clock import CLOCK, Clock
from ..codec import Header
from ..errors import CorruptError, SpoolUncertain
from ..logs import escape
from ..moments import parse_at
from ..task import DEFAULT_PRIORITY, MAX_DUE_US, Name
from . import keyed, keys
from .claims import put_aside
from .owner import id_of, masters, sender_of
from .reading import READ_FLAGS, TaskFile, open_task
from .root import SpoolDir
from .signing import Signer, disagreement
from .uwsgi_files import REST, bring_over, is_uwsgi_name, locked, number_of

SETTLE_US: Final = 1_000_000
"""How long a file must have been left alone before it is judged by that alone."""

_KINDS: Final = {
    stat.S_IFLNK: "is a symbolic link",
    stat.S_IFIFO: "is a FIFO",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}

log = logging.getLogger(__name__)


class Writers(Enum):
    """Who has a file open for writing."""

    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"


class NotDue(NamedTuple):
    """A file that is left to uWSGI until it is due, in µs since the epoch."""

    due_us: int


class _Found(NamedTuple):
    """A file that is looked at, and how: see ``Dropped.adopt``.

    Attributes:
        path: Relative to the spool.
    """

    folder: str
    file: str
    path: str
    status: os.stat_result
    finished: bool
    may_reject: bool


class Dropped:
    """The files in a spool that are not native yet.

    One for each daemon.

    Args:
        owners: The uids whose files count as tasks.
        require_signature: Take a file with a key that is not signed for corrupt: it
            must not replace a task that is. Of others the worker finds that out.
        uwsgi: What was uWSGI's is served as it would: packets in the root come last,
            and every folder of digits is a priority's.
        uwsgi_files: A uWSGI serves the directory too: its files stay until they are
            due, and so do those that this process may not read.

    Attributes:
        shares: That is so.
    """

    def __init__(
        self,
        spool: SpoolDir,
        owners: Collection[int],
        clock: Clock = CLOCK,
        *,
        require_signature: bool = False,
        uwsgi: bool = False,
        uwsgi_files: bool = False,
    ) -> None:
        self._spool = spool
        self._rest = REST if uwsgi else DEFAULT_PRIORITY
        self._uwsgi = uwsgi
        self.shares = uwsgi_files
        self._signer = spool.signer if require_signature else None
        self._owners = owners
        self._clock = clock
        self._alarm = Alarm(
            log,
            f"reject spool={escape(spool.path)}: %d more files are no tasks;"
            " they are in corrupt/, each with the reason beside it",
            clock,
        )

    def adopt(
        self, folder: str, file: str, *, finished: bool, may_reject: bool = True
    ) -> str | bool | NotDue:
        """Make a native task of a file, or put it aside, or let it wait.

        Args:
            folder: Where it is: a priority, a minute folder, or ``.``.
            finished: It is known to be whole: it was renamed in, or closed.
            may_reject: Put it aside now, if that is its end; else it waits.

        Returns:
            The native path; True if it should be looked at again in a second;
            when, if it is left to uWSGI until then; False if there is nothing more
            to do about it.

        Raises:
            IsADirectoryError: It is one, and stays where it is.
            OSError: From the file system; the file is where it was.
        """
        path = file if folder == "." else f"{folder}/{file}"
        try:
            status = os.stat(path, dir_fd=self._spool.fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                return self._pass_folder(path)
            if not stat.S_ISREG(status.st_mode):
                kind = _KINDS.get(stat.S_IFMT(status.st_mode), "is not a regular file")
                return not may_reject or self._reject(path, kind)
            # What has a native name is whole: see the format.
            whole = finished or Name.parse(file) is not None
            found = _Found(folder, file, path, status, whole, may_reject)
            if is_uwsgi_name(file):
                return self._adopt_uwsgi(found)
            return self._is_being_written(found) or self._take(found)
        except FileNotFoundError:
            return False

    def _pass_folder(self, path: str) -> bool:
        """Look at a folder that is none of ours; tell whether to look again."""
        priority = number_of(path) if self._uwsgi else None
        if priority is None:
            text = "is a directory; left where it is"
            raise IsADirectoryError(errno.EISDIR, text)
        if priority != path:
            bring_over(self._spool.fd, path, priority)
        return True

    def has(self, path: str) -> bool:
        """Tell whether there is a file of that path in the spool."""
        return self._spool.has(path)

    def look(self) -> None:
        """Log what is due about files that had no line of their own."""
        self._alarm.look()

    def _reject(self, path: str, reason: str) -> bool:
        now_us = self._clock.now_us()
        target = put_aside(self._spool, path, reason, now_us, durable=False)
        self._alarm.tell(
            logging.WARNING,
            "reject spool=%s path=%s kept=%s: %s",
            escape(self._spool.path),
            escape(path),
            escape(target),
            escape(reason),
        )
        return False

    def _left_alone_us(self, status: os.stat_result) -> int:
        changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
        # A time in the future says nothing; the change time is the better one.
        if changed_ns > self._clock.now_us() * 1000:
            changed_ns = status.st_ctime_ns
        return self._clock.now_us() - changed_ns // 1000

    def _is_being_written(self, found: _Found) -> bool:
        match writers(found.path, dir_fd=self._spool.fd):
            case Writers.SOME:
                return True
            case Writers.NONE:
                return False
            case Writers.UNKNOWN:
                left_us = self._left_alone_us(found.status)
                return not found.finished and left_us < SETTLE_US

    def _adopt_uwsgi(self, found: _Found) -> str | bool | NotDue:
        """Adopt a file with uWSGI's name, unless uWSGI writes it or runs it."""
        if self.shares:
            mtime_us = found.status.st_mtime_ns // 1000
            if mtime_us > self._clock.now_us():
                return NotDue(min(mtime_us, MAX_DUE_US))
            if found.status.st_uid not in self._owners:
                text = f"belongs to uid {found.status.st_uid}: left to uWSGI"
                raise PermissionError(errno.EPERM, text)
        if self._is_being_written(found):
            return True
        try:
            with locked(found.path, dir_fd=self._spool.fd) as is_held:
                return self._take(found) if is_held else True
        except PermissionError as error:
            if self.shares or error.filename is None:  # it was not `open`
                raise
            return self._take(found)  # which says why it may not be read

    def _take(self, found: _Found) -> str | bool | NotDue:
        try:
            task = open_task(found.path, self._owners, dir_fd=self._spool.fd)
            try:
                return self._take_task(found, task)
            finally:
                with suppress(OSError):  # nothing was written to it
                    task.close()
        except CorruptError as error:
            if self._left_alone_us(found.status) < SETTLE_US or not found.may_reject:
                return True  # whoever made it may still have something to add
            return self._reject(found.path, error.reason)

    def _take_task(self, found: _Found, task: TaskFile) -> str | bool | NotDue:
        """Adopt a file that can be read as a task.

        Raises:
            CorruptError: It is none that may be adopted.
        """
        folder, file, path = found.folder, found.file, found.path
        native = Name.parse(file)
        name = native or self._name(task, is_uwsgi=is_uwsgi_name(file))
        if self._signer is not None and native is None:
            self._check_key(self._signer, task)
        if self.shares and is_uwsgi_name(file) and name.due_us > self._clock.now_us():
            return NotDue(name.due_us)
        if folder != ".":
            name = name.but(priority=int(folder.partition("/")[0]))
        target = f"{name.folder}/{name}"
        if target == path:
            return target
        if self._spool.has(target):
            name = name.but(id=os.urandom(8).hex())
        if native is None and task.header.key is not None:
            taken = self._take_key(path, task, name)
            if isinstance(taken, bool):
                return taken
            name = taken
        else:
            name = self._spool.move(path, name, durable=False)
        target = f"{name.folder}/{name}"
        log.info(
            "adopt task=%s name=%s spool=%s from=%s",
            name.id,
            escape(name.task),
            self._spool.path,
            escape(path),
        )
        return target

    def _check_key(self, signer: Signer, task: TaskFile) -> None:
        if task.header.key is None:
            return
        if (problem := signer.check_here(task)) is not None:
            raise CorruptError(problem)

    def _take_key(self, path: str, task: TaskFile, name: Name) -> Name | bool:
        """Adopt a file with a uniqueness key; return its name, or as ``adopt``."""
        spool, header, status = self._spool, task.header, os.fstat(task.fd)
        policy = (header.options and header.options.if_exists) or "skip"
        sender = None
        if (uid := sender_of(spool, task.fd)) not in masters(spool):
            sender = keys.Sender(uid, lambda: self._is_signed(task, name))
        wanted = (name, header.key or "", policy)
        try:
            if sender is None and os.geteuid() in (0, status.st_uid):
                there, adopted = keyed.adopt(spool, path, status, *wanted)
            else:  # to which this process can make no link, or must not
                there, adopted = keyed.adopt_copy(spool, path, task, *wanted, sender)
        except (BlockingIOError, TimeoutError):
            return True  # somebody else is busy with the file or with the key
        except SpoolUncertain as error:  # the file is there, to be looked at again
            raise OSError(errno.EIO, str(error)) from error
        if adopted:
            return there
        log.info(
            "skip name=%s spool=%s from=%s: task=%s has its key",
            escape(name.task),
            self._spool.path,
            escape(path),
            there.id,
        )
        return False

    def _is_signed(self, task: TaskFile, name: Name) -> bool:
        """Tell whether somebody with a key wants this task, under this name."""
        signer = self._spool.signer
        if signer is None or signer.check_here(task) is not None:
            return False
        return disagreement(task.header, name) is None

    def _name(self, task: TaskFile, *, is_uwsgi: bool) -> Name:
        header = task.header
        now_us = self._clock.now_us()
        dropped_us = max(0, min(task.ctime_ns // 1000, now_us))
        due_us = _due(header, task.mtime_ns // 1000, dropped_us, now_us)
        if is_uwsgi:  # which looks at nothing else
            due_us = max(due_us, _due_by_mtime(header, task.mtime_ns // 1000, now_us))
        default = self._rest if header.uwsgi else DEFAULT_PRIORITY
        return Name(
            due_us=due_us,
            priority=default if header.priority is None else header.priority,
            attempt=0,
            id=_id(task),
            task=header.task,
        )


def _id(task: TaskFile) -> str:
    header = task.header
    if header.key is None:
        return header.id or os.urandom(8).hex()
    path = keys.key_path(header.task, header.key)
    return id_of(path, header, os.fstat(task.fd))


def _due(header: Header, mtime_us: int, dropped_us: int, now_us: int) -> int:
    if header.at is not None:
        try:
            return parse_at(header.at, dropped_us)
        except ValueError as error:
            raise CorruptError(f"at: {error}") from None
    return max(dropped_us, _due_by_mtime(header, mtime_us, now_us))


def _due_by_mtime(header: Header, mtime_us: int, now_us: int) -> int:
    """Return when the modification time of a packet says that it is due; 0 for now."""
    if not header.uwsgi or mtime_us <= now_us:
        return 0
    if mtime_us > MAX_DUE_US:
        raise CorruptError("at: its modification time is later than 2286")
    return mtime_us


def writers(path: str, *, dir_fd: int) -> Writers:
    """Tell whether anybody has a file open for writing.

    The kernel refuses a read lease (fcntl(2), F_SETLEASE) while anybody has. A
    writer that comes in these microseconds waits for the lease's end, and the
    holder gets SIGIO: the process must not die of it.

    Raises:
        OSError: The file cannot be opened.
    """
    try:
        fd = os.open(path, READ_FLAGS, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:  # somebody else's lease
            return Writers.SOME
        if isinstance(error, PermissionError):
            return Writers.UNKNOWN
        raise
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return Writers.SOME
        return Writers.UNKNOWN
    finally:
        os.close(fd)
    return Writers.NONE
