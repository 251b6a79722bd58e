"""Slots and rates: who may run a limited function now.

A slot is a byte of ``limits/<hash>`` that its process has locked, so the kernel frees
it when the process dies. A rate is a ring of moments in ``limits/<hash>.rate``.
Specification: docs/format.md, section 12.
"""

import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec

from ..clock import CLOCK, Clock
from ..limits import Limits, Rate, hash_for, parse_rate, rate_file
from .files import each_name, some_of, write_new
from .root import SpoolDir

UNUSED_MAX_AGE: Final = 2 * 86_400.0
"""Seconds after which the file of a limit that nobody has used is removed. Must exceed
the longest period of a rate."""

TOUCH_EVERY: Final = 43_200.0
"""Seconds after which the use of a file is written down again, as its time."""

SWEEP_MAX: Final = 1000
"""How many files one sweep looks at."""

AGAIN_MAX: Final = 100
"""How often a file is opened again that somebody keeps removing, and a rate's lock is
asked for."""

RATE_AGAIN: Final = 0.010
"""Seconds to wait if somebody holds the lock of a rate: he was stopped in there."""

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TAKEN: Final = frozenset({errno.EAGAIN, errno.EACCES})
_MOMENT: Final = struct.Struct("<Q")


class Busy(msgspec.Struct, frozen=True):
    """A limit is reached.

    Attributes:
        limit: The hash of the limit, for ``!park``.
        seconds: When to ask again; None when a slot is free.
    """

    limit: str
    seconds: float | None = None


class _File:
    """An open ``limits/<hash>``: one descriptor, since closing any drops all locks."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.held: set[int] = set()


class Permit:
    """Leave to run, until ``release`` or the end of the process.

    Attributes:
        limits: The hashes of the limits that it counts for: tell ``!go`` for each.
        slot: The hash of the limit of which it holds a slot: tell ``!free`` of it.
    """

    def __init__(
        self,
        owner: "Permits",
        limits: tuple[str, ...],
        held: tuple[str, _File, int] | None,
    ) -> None:
        self._owner = owner
        self._held = held
        self.limits = limits
        self.slot = None if held is None else held[0]

    def release(self) -> None:
        """Let go of the slot. The second time it does nothing."""
        held, self._held = self._held, None
        if held is not None:
            self._owner.release(*held)


class Permits:
    """The slots that this process holds in one spool.

    Make one after the fork, for all threads of the process: the locks are the
    process's, and a second one would let go of the first one's.
    """

    def __init__(self, spool: SpoolDir, clock: Clock = CLOCK) -> None:
        self._spool = spool
        self._clock = clock
        self._files: dict[str, _File] = {}
        self._mutex = threading.Lock()

    def acquire(
        self, limits: Limits, task: str, arguments: Mapping[str, object]
    ) -> Permit | Busy:
        """Ask for leave to run a task now; nothing is waited for.

        Args:
            arguments: As the function will get them.

        Raises:
            UsageError: They do not fit the key of a limit.
            OSError: From the file system. Nothing is held then.
        """
        defaults, slot, rate = limits.defaults, None, None
        if limits.concurrency is not None:
            slot = hash_for(limits.concurrency_key, task, arguments, defaults)
        if limits.rate is not None:
            rate = hash_for(limits.rate_key, task, arguments, defaults)
        held = None
        if slot is not None:
            with self._mutex:
                found = self._take_slot(slot, limits.concurrency or 0)
            if found is None:
                return Busy(slot)
            held = (slot, *found)
        names = () if slot is None else (slot,)
        permit = Permit(
            self, names if rate is None else (*names, rate_file(rate)), held
        )
        if rate is None:
            return permit
        try:
            with self._mutex:
                wait = self._count(rate, parse_rate(limits.rate or ""))
        except BaseException:
            permit.release()
            raise
        if wait is None:
            return permit
        permit.release()
        return Busy(rate_file(rate), wait)

    # -- slots ------------------------------------------------------------------

    def _take_slot(self, limit: str, count: int) -> tuple[_File, int] | None:
        path = f"limits/{limit}"
        for _ in range(AGAIN_MAX):
            file = self._files.get(limit)
            if file is None:
                file = _File(os.open(path, _FLAGS, 0o600, dir_fd=self._spool.fd))
            try:
                slot = _lock_one(file, count)
                if slot is None:
                    return None
                if self._keep(limit, file, slot):
                    return file, slot
            finally:
                if not file.held:
                    self._files.pop(limit, None)
                    os.close(file.fd)
        raise OSError(errno.ESTALE, "somebody keeps removing it", path)

    def _keep(self, limit: str, file: _File, slot: int) -> bool:
        """Note that a slot is held, if the file is still in its place."""
        try:
            if not _is_in_place(self._spool, f"limits/{limit}", file.fd):
                # Somebody removed it: those who hold slots of it go on with it.
                self._files.pop(limit, None)
                return False
            _touch(file.fd, self._clock)
            self._files[limit] = file
            file.held.add(slot)
            return True
        finally:
            if slot not in file.held:
                fcntl.lockf(file.fd, fcntl.LOCK_UN, 1, slot)

    def release(self, limit: str, file: _File, slot: int) -> None:
        """Let go of a slot: ``Permit.release`` does it."""
        with self._mutex:
            file.held.discard(slot)
            if file.held:
                fcntl.lockf(file.fd, fcntl.LOCK_UN, 1, slot)
                return
            if self._files.get(limit) is file:
                del self._files[limit]
            with suppress(OSError):  # it is closed whatever it says
                os.close(file.fd)

    # -- rates ------------------------------------------------------------------

    def _count(self, limit: str, rate: Rate) -> float | None:
        """Count a run; return None, or for how many seconds it may not begin."""
        path = f"limits/{rate_file(limit)}"
        for _ in range(AGAIN_MAX):
            fd = os.open(path, _FLAGS, 0o600, dir_fd=self._spool.fd)
            try:
                if not _lock_all(fd):
                    os.sched_yield()
                elif not _is_in_place(self._spool, path, fd):
                    continue
                elif not _is_ring(fd, rate.count):
                    # The code has another rate now. A new file, since who dies in
                    # here must leave one or the other.
                    hidden = f"limits/.{os.urandom(8).hex()}"
                    ring = _resized(fd, rate.count)
                    write_new(self._spool.fd, hidden, path, ring)
                else:
                    # The time under the lock: else it may be the older one.
                    return _enter(fd, rate, self._clock)
            finally:
                os.close(fd)
        return RATE_AGAIN


def _lock_one(file: _File, count: int) -> int | None:
    """Lock a byte that nobody has locked; None if there is none.

    A process gets every lock that it has already, so those are left out.
    """
    for slot in range(count):
        if slot not in file.held and _lock(file.fd, 1, slot):
            return slot
    return None


def _lock_all(fd: int) -> bool:
    return _lock(fd, 0, 0)


def _lock(fd: int, length: int, start: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _is_in_place(spool: SpoolDir, path: str, fd: int) -> bool:
    try:
        there = os.stat(path, dir_fd=spool.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))


def _touch(fd: int, clock: Clock) -> None:
    """Write down that the file is in use, if that was not done lately."""
    if clock.now_us() / 1e6 - os.fstat(fd).st_mtime > TOUCH_EVERY:
        with suppress(PermissionError):  # another user's: his workers do it
            os.utime(fd)


def _enter(fd: int, rate: Rate, clock: Clock) -> float | None:
    """Enter this moment into a ring, or return for how many seconds there is no room.

    The index goes on first: who dies in between has counted nothing, and has left
    a moment in the ring that is over.
    """
    size = _MOMENT.size
    index = _read(fd, 0) % rate.count
    oldest_us, now_us = _read(fd, (index + 1) * size), clock.now_us()
    wait_us = oldest_us + rate.period_us - now_us
    # A moment more than a period ahead was written by a clock that was wrong.
    if 0 < wait_us <= 2 * rate.period_us:
        return wait_us / 1e6
    os.pwrite(fd, _MOMENT.pack((index + 1) % rate.count), 0)
    os.pwrite(fd, _MOMENT.pack(now_us), (index + 1) * size)
    return None


def _read(fd: int, offset: int) -> int:
    data = os.pread(fd, _MOMENT.size, offset)
    value: int = _MOMENT.unpack(data.ljust(_MOMENT.size, b"\0"))[0]
    return value


def _is_ring(fd: int, count: int) -> bool:
    """Tell whether a file is a ring of this size; an empty one becomes one."""
    size = os.fstat(fd).st_size
    if size == 0:
        size = (count + 1) * _MOMENT.size
        os.ftruncate(fd, size)
    return size == (count + 1) * _MOMENT.size


def _resized(fd: int, count: int) -> bytes:
    """Return a ring of another size: the newest moments stay, the oldest first."""
    size = _MOMENT.size
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    whole = data[: len(data) // size * size]
    index, *moments = [each for (each,) in _MOMENT.iter_unpack(whole)] or [0]
    if moments:
        index %= len(moments)
        moments = [*moments[index:], *moments[:index]]
    kept = ([0] * count + moments)[-count:]
    return b"".join(map(_MOMENT.pack, [0, *kept]))


# -- sweeping -----------------------------------------------------------------------


def sweep_limits(spool: SpoolDir, clock: Clock = CLOCK) -> int:
    """Remove the files of limits that nobody has used for long; return how many.

    Not in a process that holds slots: looking at a file would let go of them.

    Raises:
        OSError: From the file system.
    """
    some = some_of(each_name(spool.fd, "limits"), SWEEP_MAX)
    return sum(_sweep(spool, f"limits/{name}", clock) for name in some)


def _sweep(spool: SpoolDir, path: str, clock: Clock) -> int:
    with suppress(FileNotFoundError, PermissionError):
        status = os.stat(path, dir_fd=spool.fd, follow_symlinks=False)
        age = clock.now_us() / 1e6 - max(status.st_mtime, status.st_ctime)
        if age < UNUSED_MAX_AGE or not stat.S_ISREG(status.st_mode):
            return 0
        fd = os.open(path, _FLAGS & ~os.O_CREAT, dir_fd=spool.fd)
        try:
            # Whoever locks it after this looks whether it is still in its place.
            if _lock_all(fd) and _is_in_place(spool, path, fd):
                os.unlink(path, dir_fd=spool.fd)
                return 1
        finally:
            os.close(fd)
    return 0
