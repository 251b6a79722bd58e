"""Uniqueness keys: at most one task of a name with a key waits or runs.

``keys/<hash>`` is a hard link to the task's file: its link count tells whether the
task is over, so that nothing need be done when it ends. Whoever changes what the name
is a link to holds the ``flock`` of the file that it is a link to now.
Specification: docs/format.md, section 8.
"""

import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from threading import Event
from typing import Final, NamedTuple, Self

from ..clock import CLOCK, Clock
from ..errors import CorruptError, SpoolUncertain
from ..options import IfExists
from ..task import Name
from .files import NO_LINK, each_name, link_to, some_of
from .owner import NOBODY, Owner, flock, mark, open_for_lock, same, unlock
from .root import SpoolDir

LOCK_TIMEOUT = 10.0
"""Seconds that a producer waits for others who put tasks with the same key."""

ADOPT_TIMEOUT = 0.1
"""The same for a supervisor, whose loop stands still meanwhile."""

FREE_MAX_AGE: Final = 3600.0
"""Seconds after which a link whose task has ended is removed."""

SWEEP_MAX: Final = 1000
"""How many links one sweep looks at."""

_POLL: Final = (0.0005, 0.02)
"""Seconds between two looks at a lock, at first and at most."""

log = logging.getLogger(__name__)


class Sender(NamedTuple):
    """Who puts a task, if he may not do anything here: see ``owner.masters``.

    Attributes:
        uid: He; ``NOBODY`` if nobody knows.
        is_vouched_for: Tells whether somebody with a key has signed the task: then it
            may replace anybody's.
    """

    uid: int
    is_vouched_for: Callable[[], bool]


def key_path(task: str, key: str) -> str:
    """Return the name of a key, from the spool's root."""
    text = f"{task}\0{key}"
    return f"keys/{blake2b(text.encode()).hexdigest()[:32]}"


def put(
    spool: SpoolDir,
    name: Name,
    chunks: Iterable[bytes],
    key: str,
    if_exists: IfExists = "skip",
    *,
    durable: bool = True,
    sign: bool = True,
    sender: Sender | None = None,
) -> Name | None:
    """Write a task and put it into place, unless its key is taken.

    Args:
        name: Its name; must be new.
        chunks: The bytes of the file, with ``id``, ``at``, ``priority`` and ``key`` in
            the header; not read if the key is taken.
        if_exists: ``replace`` removes the task that has the key, if it waits; else
            there is no new task.
        durable: As for ``SpoolDir.put``.
        sign: As for ``SpoolDir.write``.
        sender: For whom it is put; None for somebody who may do anything here.

    Returns:
        None if it was put; else the task that has the key, with the name under which
        it was first put.

    Raises:
        FileExistsError: There is a task of this name.
        CorruptError: It is to replace a task that the sender may not replace.
        TimeoutError: Somebody else is busy with the key.
        SpoolUncertain: It is in place, but the last sync failed.
        OSError: From the file system, or it has no hard links or no locks; there is
            no task then.
    """
    with Taking(spool, key_path(name.task, key), sender=sender) as taking:
        if if_exists != "replace" and (there := taking.look()) is not None:
            return there
        fd, hidden = spool.write(name, chunks, durable=durable, sign=sign)
        if sender is not None:
            mark(fd, sender.uid)
        return put_written(spool, name, fd, hidden, taking, if_exists, durable=durable)


def put_written(
    spool: SpoolDir,
    name: Name,
    fd: int,
    hidden: str | None,
    taking: "Taking",
    if_exists: IfExists,
    *,
    durable: bool,
) -> Name | None:
    """Put what ``SpoolDir.write`` returned into place: see ``put``."""
    placed = False
    try:
        try:
            flock(fd)
            there = taking.take(fd, hidden, if_exists)
            if there is not None:
                return there
            try:
                spool.place(fd, hidden, name)
            except OSError:
                taking.give_back(fd)
                raise
            placed = True
            if durable:
                spool.sync_folder(name)
                spool.sync("keys")
            taking.remove_old(durable=durable)
        finally:
            unlock(fd)
            spool.let_go(fd, hidden)
    except OSError as error:
        if not placed:
            raise
        raise SpoolUncertain(name.id, error) from error
    return None


def sweep(spool: SpoolDir, clock: Clock = CLOCK) -> int:
    """Remove links whose task ended an hour ago; return how many.

    A bounded amount of work, chosen by chance. The link of a failed task stays: if
    it is kicked it has its key again.

    Raises:
        OSError: The directory cannot be read.
    """
    count = 0
    for file in some_of(_links(spool), SWEEP_MAX):
        with suppress(OSError):  # somebody is busy with it, or it is no file
            count += _sweep_link(spool, f"keys/{file}", clock)
    return count


def _links(spool: SpoolDir) -> Iterator[str]:
    names = each_name(spool.fd, "keys")
    return (n for n in names if n[0] != "." and not n.endswith(".tmp"))


def _sweep_link(spool: SpoolDir, path: str, clock: Clock) -> bool:
    status = spool.status(path)
    if status is None or status.st_nlink > 1:
        return False
    changed_us = max(status.st_mtime_ns, status.st_ctime_ns) // 1000
    if clock.now_us() - changed_us < FREE_MAX_AGE * 1e6:
        return False
    with Taking(spool, path, 0.0, clock) as taking:
        return taking.vacate()


class Taking:
    """What one process does with one key. Nothing of it outlives ``with``.

    Args:
        path: The key's, from ``key_path``.
        timeout: Seconds to wait for others.
        sender: As for ``put``.
    """

    def __init__(
        self,
        spool: SpoolDir,
        path: str,
        timeout: float | None = None,
        clock: Clock = CLOCK,
        *,
        sender: Sender | None = None,
    ) -> None:
        self._spool = spool
        self._path = path
        self._sender = sender
        self._clock = clock
        self._timeout = LOCK_TIMEOUT if timeout is None else timeout
        self._deadline = clock.monotonic() + self._timeout
        self._owner: Owner | None = None
        self._replaced = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def look(self, if_exists: IfExists = "skip") -> Name | None:
        """Return the task that has the key; None if it is free now, or to be replaced.

        Raises:
            CorruptError: As for ``put``.
            TimeoutError: Somebody else is busy with the key.
            OSError: From the file system.
        """
        owner = self._open()
        if owner is None or self._vacate(owner):
            return None
        try:
            if if_exists != "replace":
                return owner.name
            self._check_sender(owner)
            return None
        finally:
            self._release()

    def vacate(self) -> bool:
        """Remove the name if the key is free; tell whether that was done."""
        owner = self._open()
        return owner is not None and self._vacate(owner)

    def take(self, fd: int, hidden: str | None, if_exists: IfExists) -> Name | None:
        """Make the key's name a link to a file, if it is free or is to be replaced.

        Args:
            fd: The file, locked by this process.
            hidden: A name that it has; None for a file that has none.

        Returns:
            None if the file has the key now; else the task that has it.

        Raises:
            CorruptError: As for ``put``.
            TimeoutError: Somebody else is busy with the key.
            OSError: From the file system, or it has no hard links.
        """
        while True:
            with suppress(FileExistsError):
                self._link(fd, hidden, self._path)
                return None
            if same(self._spool.status(self._path), os.fstat(fd)):
                return None  # linked by somebody who died adopting it
            owner = self._open()
            if owner is None or self._vacate(owner):
                self._wait(0.0)  # unless others have been faster all the time
            elif if_exists == "replace":
                self._check_sender(owner)
                self._replace(fd, hidden)
                return None
            else:
                self._release()
                return owner.name

    def give_back(self, fd: int) -> None:
        """Undo ``take``, as well as it can be; a key without a task is free anyway."""
        with suppress(OSError):
            if self._owner is not None and self._replaced:
                spare = self._spare(self._owner.fd)
                link_to(self._spool.fd, self._owner.fd, None, spare)
                self._rename(spare)
                self._replaced = False
            elif same(self._spool.status(self._path), os.fstat(fd)):
                os.unlink(self._path, dir_fd=self._spool.fd)

    def remove_old(self, *, durable: bool) -> None:
        """Remove the task whose key was taken, if it waits. Its key is gone already.

        What fails is only logged: the new task is in place.
        """
        if self._owner is None or not self._replaced:
            return
        try:
            path = self._owner.remove()
        except OSError as error:
            log.warning(
                "cannot remove the task that was replaced in %s: %s",
                self._spool.path,
                error,
            )
            return
        if path is not None and durable:
            self._spool.sync_moved(path.rpartition("/")[0] or ".")

    def _open(self) -> Owner | None:
        """Lock what the key's name is a link to; None if that changes just now."""
        pause, longest = _POLL
        while True:
            with suppress(BlockingIOError):
                return self._try_open()
            self._wait(pause)
            pause = min(2 * pause, longest)

    def _try_open(self) -> Owner | None:
        try:
            fd = open_for_lock(self._spool, self._path)
        except FileNotFoundError:
            return None
        try:
            flock(fd)
            owner = Owner(self._spool, self._path, fd, self._clock)
        except BaseException:
            os.close(fd)
            raise
        self._owner = owner
        if same(self._spool.status(self._path), os.fstat(fd)):
            return owner
        self._release()
        return None

    def _wait(self, seconds: float) -> None:
        if self._clock.monotonic() >= self._deadline:
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"another process has been putting a task with this key for"
                f" {self._timeout:g} s",
                f"{self._spool.path}/{self._path}",
            )
        if seconds:
            Event().wait(seconds)

    def _vacate(self, owner: Owner) -> bool:
        if not owner.is_free():
            return False
        os.unlink(self._path, dir_fd=self._spool.fd)
        if owner.hidden is not None:
            with suppress(OSError):  # it is swept by age
                os.unlink(owner.hidden, dir_fd=self._spool.fd)
        self._release()
        return True

    def _check_sender(self, owner: Owner) -> None:
        """Check that the task which has the key may be replaced.

        The file that is asked whose it is is locked, and the one that is removed.
        """
        sender = self._sender
        if sender is None or owner.uid == sender.uid or sender.is_vouched_for():
            return
        raise CorruptError(
            f"is to replace a task with its key, which {_who(sender.uid)} may not do:"
            f" that is of {_who(owner.uid)}"
        )

    def _replace(self, fd: int, hidden: str | None) -> None:
        spare = self._spare(fd)
        with suppress(FileExistsError):  # of somebody who died adopting it
            self._link(fd, hidden, spare)
        self._rename(spare)
        self._replaced = True

    def _spare(self, fd: int) -> str:
        """Return a hidden name in ``keys/`` that no other file can have."""
        folder, _, file = self._path.partition("/")
        return f"{folder}/.{file}.{os.fstat(fd).st_ino}"

    def _rename(self, spare: str) -> None:
        root = self._spool.fd
        try:
            os.rename(spare, self._path, src_dir_fd=root, dst_dir_fd=root)
        except BaseException:
            with suppress(OSError):  # it is swept by age
                os.unlink(spare, dir_fd=root)
            raise

    def _link(self, fd: int, hidden: str | None, path: str) -> None:
        try:
            try:
                link_to(self._spool.fd, fd, hidden, path)
            except FileNotFoundError:
                if self._spool.is_folder("keys"):
                    raise
                self._spool.open()  # which makes it
                link_to(self._spool.fd, fd, hidden, path)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            text = "uniqueness keys need hard links, and there are none here"
            raise OSError(error.errno, text, self._spool.path) from None

    def _release(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            unlock(owner.fd)
            close(owner.fd)


def _who(uid: int) -> str:
    return "somebody at a socket" if uid == NOBODY else f"uid {uid}"


def close(fd: int) -> None:
    """Close a file to which nothing was written, so that nothing can be lost."""
    with suppress(OSError):
        os.close(fd)
