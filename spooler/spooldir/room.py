"""How much may wait in a spool: its limits, and the look at them before each put.

The limits belong to the spool, since producers need no daemon: ``.room``. What waits is
counted by listing; the count is shared through ``.waiting``. Only producers are held to
the limits, never what ends work. Specification: docs/format.md, section 16.
"""

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Final

import msgspec

from ..clock import CLOCK
from ..errors import SpoolFull
from ..task import is_priority, minute_start_us
from .files import write_new
from .marking import FOLDERS, MARKER
from .root import SpoolDir

FILE: Final = ".room"
COUNT_FILE: Final = ".waiting"

LOOK_EVERY_US: Final = 1_000_000
"""For how long the limits are taken to be as they were, and a count to be good."""

DUTY: Final = 20
"""A count is good for so many times what it took, if that is longer. One of somebody
else's, or one that says "full", is good for no longer than that."""

NEAR: Final = 0.9
"""Part of a limit from which on it is nearly reached."""

_SIZE_MAX: Final = 4096

_Limit = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None

log = logging.getLogger(__name__)


class Limits(msgspec.Struct, frozen=True):
    """What must not be exceeded by a put; None for no limit.

    Attributes:
        max_waiting: Files of tasks that wait, due or not.
        min_free: Bytes that are free for everybody on the file system.
        min_free_inodes: Inodes, the same.
    """

    max_waiting: _Limit = None
    min_free: _Limit = None
    min_free_inodes: _Limit = None


NO_LIMITS: Final = Limits()


class Count(msgspec.Struct, frozen=True):
    """How many tasks waited: what stands in ``.waiting``.

    Attributes:
        time_us: When they were counted.
        took_us: How long that took.
    """

    count: int
    time_us: int
    took_us: int

    def is_good(
        self, now_us: int, least_us: int = LOOK_EVERY_US, duty: int = DUTY
    ) -> bool:
        """Tell whether it may still be used; one from the future may not."""
        return 0 <= now_us - self.time_us < max(least_us, duty * self.took_us)


_LIMITS: Final = msgspec.json.Decoder(Limits)
_COUNT: Final = msgspec.json.Decoder(Count)
_NEVER: Final = Count(0, -1, 0)


# -- the limits -----------------------------------------------------------------


def read_limits(spool: SpoolDir) -> Limits:
    """Return the limits of a spool.

    Raises:
        ValueError: Its file is damaged; one line.
        OSError: From the file system.
    """
    try:
        return _LIMITS.decode(_read(spool, FILE))
    except FileNotFoundError:
        return NO_LIMITS
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"{spool.path}/{FILE} cannot be read: {error}") from None


def _read(spool: SpoolDir, file: str) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(file, flags, dir_fd=spool.entry_fd)
    try:
        return os.read(fd, _SIZE_MAX)
    finally:
        os.close(fd)


def set_limits(
    spool: SpoolDir,
    max_waiting: int | None = None,
    min_free: int | None = None,
    min_free_inodes: int | None = None,
) -> Limits:
    """Change limits of a spool; return all of them. Synced.

    Args:
        max_waiting: None leaves it as it is, 0 takes it off; as for the others.

    Raises:
        OSError: From the file system.
    """
    try:
        before = read_limits(spool)
    except ValueError as error:
        log.warning("%s: it is replaced", error)
        before = NO_LIMITS
    given = (max_waiting, min_free, min_free_inodes)
    if given == (None, None, None):
        return before
    old = (before.max_waiting, before.min_free, before.min_free_inodes)
    after = Limits(
        *(o if n is None else n or None for o, n in zip(old, given, strict=True))
    )
    if after == before:
        return after
    if after == NO_LIMITS:
        with suppress(FileNotFoundError):
            os.unlink(FILE, dir_fd=spool.fd)
    else:
        _replace(spool, FILE, msgspec.json.encode(after) + b"\n", durable=True)
    spool.sync(".")
    return after


def _replace(spool: SpoolDir, file: str, data: bytes, *, durable: bool) -> None:
    """Replace a file that all producers read: whoever may read the marker may."""
    root, hidden = spool.fd, f"tmp/{file}.{os.urandom(4).hex()}"
    write_new(root, hidden, file, data, spool.owner, durable=durable)
    like = os.stat(MARKER, dir_fd=root, follow_symlinks=False)
    made = os.stat(file, dir_fd=root, follow_symlinks=False)
    if like.st_mode != made.st_mode:
        os.chmod(file, like.st_mode & 0o644, dir_fd=root)
    if like.st_gid != made.st_gid:
        with suppress(PermissionError):  # of a group of which this user is not
            os.chown(file, -1, like.st_gid, dir_fd=root, follow_symlinks=False)


# -- what there is ---------------------------------------------------------------


def count_waiting(spool: SpoolDir) -> int:
    """Count what waits: tasks, due or not, and dropped files. A batch is one.

    Raises:
        OSError: From the file system, such as no permission to list.
    """
    return sum(_each_folder(spool))


def _each_folder(spool: SpoolDir) -> Iterator[int]:
    for file in spool.names("."):
        if not is_priority(file):
            yield file not in FOLDERS
            continue
        for each in spool.names(file):
            is_minute = minute_start_us(each) is not None
            yield len(spool.names(f"{file}/{each}")) if is_minute else 1


def shared_count(spool: SpoolDir) -> Count:
    """Return what somebody counted; one that is not good if nobody did."""
    with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return _COUNT.decode(_read(spool, COUNT_FILE))
    return _NEVER


def count_anew(spool: SpoolDir, now_us: int) -> Count:
    """Count what waits, and share that.

    Raises:
        OSError: From the file system, such as no permission to list.
    """
    begun = CLOCK.monotonic()
    found = count_waiting(spool)
    count = Count(found, now_us, int((CLOCK.monotonic() - begun) * 1e6))
    with suppress(OSError):  # without it, everybody counts for himself
        data = msgspec.json.encode(count) + b"\n"
        _replace(spool, COUNT_FILE, data, durable=False)
    return count


def free_space(spool: SpoolDir) -> tuple[int, int | None]:
    """Return the bytes and the inodes that are free on the spool's file system.

    None where the file system does not count inodes.

    Raises:
        OSError: From the file system.
    """
    system = os.fstatvfs(spool.entry_fd)
    inodes = system.f_favail if system.f_files else None
    return system.f_bavail * system.f_frsize, inodes


def problems(
    spool: SpoolDir, limits: Limits, waiting: int | None, margin: float = 1.0
) -> Iterator[SpoolFull]:
    """Yield what is full.

    Args:
        waiting: What waits; None if that is not known.
        margin: Less than 1 yields what is nearly so, too.
    """
    most = limits.max_waiting
    if most is not None and waiting is not None and waiting >= most * margin:
        yield SpoolFull(spool.path, "max_waiting", most, waiting)
    if limits.min_free is None and limits.min_free_inodes is None:
        return
    free, inodes = free_space(spool)
    least = limits.min_free
    if least is not None and free * margin < least:
        yield SpoolFull(spool.path, "min_free", least, free)
    least = limits.min_free_inodes
    if least is not None and inodes is not None and inodes * margin < least:
        yield SpoolFull(spool.path, "min_free_inodes", least, inodes)


# -- before a put -----------------------------------------------------------------


class Room:
    """What one process knows of the room in one spool.

    It counts once a second or so, and adds its own puts since then: a producer that is
    alone is held to the limit exactly.

    Attributes:
        limits: As ``look`` has found them.
    """

    def __init__(self, spool: SpoolDir) -> None:
        self.spool = spool
        self._file: tuple[int, int] | None = None
        self._looked_us = -LOOK_EVERY_US
        self._count = _NEVER
        self._own = itertools.count()
        self.limits = NO_LIMITS

    def look(self, now_us: int) -> Limits:
        """Return the limits as they are, or were up to a second ago.

        Raises:
            NotASpoolError: The spool is gone.
            OSError: From the file system.
        """
        if 0 <= now_us - self._looked_us < LOOK_EVERY_US:
            return self.limits
        self._looked_us = now_us
        file, root = None, self.spool.entry_fd
        with suppress(FileNotFoundError):
            status = os.stat(FILE, dir_fd=root, follow_symlinks=False)
            file = (status.st_ino, status.st_mtime_ns)
        if file != self._file:
            try:
                self.limits = read_limits(self.spool)
            except ValueError as error:
                log.warning("%s: what it had said before still holds", error)
            self._file = file
        return self.limits

    def check(self, now_us: int) -> None:
        """Check that one more task may be put, and count it.

        Raises:
            SpoolFull: It may not.
            OSError: From the file system.
        """
        limits, waiting = self.look(now_us), None
        if limits.max_waiting is not None:
            waiting = self._waiting(now_us)
            if waiting >= limits.max_waiting and not self._count.is_good(now_us, 0):
                self._recount(now_us)  # there may be room again
                waiting = self._add_own()
        for problem in problems(self.spool, limits, waiting):
            raise problem

    def _waiting(self, now_us: int) -> int:
        """Return how many wait, as far as is known, and count one more."""
        if not self._count.is_good(now_us):
            if (shared := shared_count(self.spool)) != self._count:
                self._use(shared)
            if not self._count.is_good(now_us, 0):
                self._recount(now_us)
        return self._add_own()

    def _recount(self, now_us: int) -> None:
        with suppress(PermissionError):  # one may put here, but not list: a daemon does
            self._use(count_anew(self.spool, now_us))

    def _use(self, count: Count) -> None:
        self._count, self._own = count, itertools.count()

    def _add_own(self) -> int:
        return self._count.count + next(self._own)


_ROOMS: Final[dict[str, Room]] = {}


def check_room(spool: SpoolDir, now_us: int) -> None:
    """Check that a producer may put one more task.

    A spool without limits is not asked again before ``LOOK_EVERY_US`` are over: its
    ``roomy_us`` says so.

    Raises:
        SpoolFull: It may not.
        NotASpoolError: The spool is gone.
        OSError: From the file system.
    """
    room = _ROOMS.get(spool.path)
    if room is None or room.spool is not spool:
        room = _ROOMS[spool.path] = Room(spool)
    if room.look(now_us) == NO_LIMITS:
        spool.roomy_us = now_us
    else:
        room.check(now_us)
