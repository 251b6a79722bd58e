"""How far a batch has come; cut it; make one of its lines a task of its own.

All but ``find`` and ``sweep`` belong to the worker that has claimed the batch.
Specification: docs/format.md, section 11.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final

from ..clock import CLOCK, Clock
from ..errors import CorruptError, UsageError
from ..task import BATCH, Claim, Name, derived_id, is_id
from .files import NEW_FLAGS, link_to, write_all, write_new
from .reading import NOT_A_FILE, READ_FLAGS
from .reserve import FULL, insist
from .root import SpoolDir

FOLDER: Final = "batches"

LOST_MAX: Final = 100_000
"""Lines at most by which a range may be behind after a power cut: a second's."""
LEFT_OVER_AGE: Final = 3600.0
"""Seconds after which the range of a batch that is nowhere is a left-over."""

BETWEEN: Final = "-"
"""The first character, while a crash would not be the fault of the next line."""

_LINE: Final = 51
"""Bytes of a range, at least: less is what a crash left of the first write."""

_RANGE_MAX: Final = 1024
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TMPFILE: Final = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Range:
    """Which lines of a file are still to be run, both numbers from 0.

    Attributes:
        next: The first.
        end: The one before which to stop.
        origin: The id of the batch that the lines were put with.
        part: The file that was cut off last; None if none was.
        between: No line was being run when this was written.
    """

    next: int
    end: int
    origin: str
    part: Name | None = None
    between: bool = False

    def encode(self) -> bytes:
        """Return the content of the file."""
        rest = f" {self.part}" if self.part else ""
        mark = BETWEEN if self.between else "0"
        first = f"{mark}{self.next:015d}"
        return f"{first} {self.end:016d} {self.origin}{rest}\n".encode()


def parse_range(data: bytes) -> Range | None:
    """Read a range; None if it is only what a crash has left.

    Raises:
        ValueError: It is damaged.
    """
    data = data.rstrip(b"\0")
    if len(data) < _LINE:
        return None
    first, end, origin, *part = data.decode().rstrip("\n").split(" ", 3)
    found = Range(
        int(first[1:]),
        int(end),
        origin,
        Name.parse(part[0]) if part else None,
        between=first[0] == BETWEEN,
    )
    if found.encode() != data or found.next > found.end or not is_id(origin):
        raise ValueError("not a range")
    return found


def read(spool: SpoolDir, batch_id: str) -> Range | None:
    """Return how far a batch has come; None if none of its lines was run.

    Raises:
        CorruptError: Its range is damaged.
        OSError: From the file system.
    """
    path = _path(batch_id)
    try:
        fd = os.open(path, READ_FLAGS, dir_fd=spool.fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in NOT_A_FILE:
            raise
        raise CorruptError(f"{path} is not a regular file") from None
    try:
        return parse_range(os.read(fd, _RANGE_MAX))
    except IsADirectoryError:
        raise CorruptError(f"{path} is not a regular file") from None
    except ValueError:
        raise CorruptError(
            f"{path} is damaged: remove it and kick the batch to run all its lines"
        ) from None
    finally:
        os.close(fd)


def _path(batch_id: str) -> str:
    return f"{FOLDER}/{batch_id}"


def _hidden(part: Name) -> str:
    return f"{FOLDER}/.{part}"


class Progress:
    """How far a batch has come: its range, open for writing.

    Args:
        count: How many lines the file says that it has.

    Attributes:
        claim: The batch, claimed; ``calm`` changes it.

    Raises:
        CorruptError: Its range is damaged.
        OSError: From the file system.
    """

    def __init__(
        self, spool: SpoolDir, claim: Claim, count: int, clock: Clock = CLOCK
    ) -> None:
        self._spool = spool
        self._clock = clock
        self.claim = claim
        self._id = claim.name.id
        found = read(spool, self._id)
        if found is None:
            found = Range(0, count, self._id, between=True)
            self._fd = insist(spool.fd, partial(self._make, found))
        else:
            if found.end > count:
                raise CorruptError(f"{_path(self._id)} is not the range of this file")
            self._fd = os.open(_path(self._id), _FLAGS, dir_fd=spool.fd)
        self.next, self.end, self.origin = found.next, found.end, found.origin
        self.between = found.between
        self._part = found.part
        self._unpublished = found.part is not None
        self._synced_at = clock.monotonic()
        self._changed = False

    def _make(self, first: Range) -> int:
        path = _path(self._id)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600, dir_fd=self._spool.fd)
        try:
            write_all(fd, first.encode())
        except BaseException:
            os.close(fd)
            raise
        return fd

    def __len__(self) -> int:
        return self.end - self.next

    def line_name(self, task: str, attempt: int = 0) -> Name:
        """Return the name of the next line, as a task of its own."""
        name = self.claim.name
        line_id = derived_id(self.origin, self.next)
        return Name(name.due_us, name.priority, attempt, line_id, task)

    # -- moving on --------------------------------------------------------------

    def advance(self) -> None:
        """Note that the next line is done. Not synced: ``sync`` does it.

        Raises:
            OSError: From the file system. The line counts as not run.
        """
        self._write(b"%016d" % (self.next + 1))
        self.next += 1
        self._changed = True

    def _write(self, first: bytes) -> None:
        """Overwrite the beginning of the range, for which no room may be needed."""
        try:
            os.pwrite(self._fd, first, 0)
        except OSError as error:
            if error.errno not in FULL:
                raise
            insist(self._spool.fd, lambda: os.pwrite(self._fd, first, 0))

    def mark(self, *, between: bool) -> None:
        """Say whether a crash from now on is the fault of the next line.

        Raises:
            OSError: From the file system.
        """
        if between is not self.between:
            self._write(b"-" if between else b"0")
            self.between = between

    def sync(self, *, now: bool = False) -> None:
        """Make what was done durable, at most once a second.

        Raises:
            OSError: From the file system.
        """
        if not self._changed:
            self._synced_at = self._clock.monotonic()
        elif now or self._clock.monotonic() - self._synced_at >= 1.0:
            os.fsync(self._fd)
            self._changed = False
            self._synced_at = self._clock.monotonic()

    def close(self) -> None:
        """Close the range; it stays."""
        os.close(self._fd)

    # -- one line ---------------------------------------------------------------

    def spin_off(self, name: Name, data: bytes, mtime_ns: int) -> Claim:
        """Make the next line a task of its own that this worker holds; move on.

        Synced, since the range goes on and may reach the disk at any time. It is
        signed if the batch was.

        Args:
            name: From ``line_name``.
            mtime_ns: When the batch was written: ``+N`` counts from then.

        Raises:
            OSError: From the file system. The line is where it was.
        """
        worker = self.claim.worker
        folder = f"running/{worker}"
        path = f"{folder}/{name}"
        signer = self._spool.signer
        if signer is not None and self.claim.signed:
            with suppress(UsageError):  # too large for that: it will be put aside
                data = signer.sign(name.id, data, mtime_ns // 1000)
        try:
            write = partial(_write_whole, self._spool, folder, path, data)
            insist(self._spool.fd, lambda: write(mtime_ns // 1000))
            self._spool.sync(folder)
            # The next one has not begun; one write for both.
            self._write(b"-%015d" % (self.next + 1))
        except BaseException:
            with suppress(OSError):
                os.unlink(path, dir_fd=self._spool.fd)
            raise
        with suppress(OSError):  # else a power cut has two tasks of the line
            os.fsync(self._fd)
        self.next += 1
        self.between = True
        self._changed = True
        return Claim(name, worker, str(name), self.claim.signed)

    def calm(self) -> None:
        """Have the batch's attempt be 0 again: the crash was the next line's fault.

        One rename, not synced.

        Raises:
            FileNotFoundError: The batch is gone.
            OSError: From the file system. It is as it was.
        """
        self._rename(self.claim.name.but(attempt=0))

    def blame(self, attempt: int) -> None:
        """Undo ``calm``, since the line could not be made a task. Never fails."""
        with suppress(OSError):
            self._rename(self.claim.name.but(attempt=attempt))

    def _rename(self, name: Name) -> None:
        folder, fd = f"running/{self.claim.worker}", self._spool.fd
        old, new = f"{folder}/{self.claim.file}", f"{folder}/{name}"
        os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
        self.claim = Claim(name, self.claim.worker, str(name), self.claim.signed)

    # -- sharing ----------------------------------------------------------------

    def cut(self) -> Name | None:
        """Make the second half of what is left a batch of its own, which waits.

        The line that runs now, the next, stays here.

        Returns:
            The name that it was given; None if there is nothing to share, or if the
            last part that was cut off still waits: nobody has time.

        Raises:
            OSError: From the file system. ``publish`` must be called again.
        """
        self.publish()
        if len(self) < 2 or (self._part and self._waits(self._part)):
            return None
        middle = self.next + (len(self) + 1) // 2
        part_id = derived_id(self._id, "from", middle)
        part = self.claim.name.but(attempt=0, id=part_id)
        spool, fd = self._spool, self._spool.fd
        source = f"running/{self.claim.worker}/{self.claim.file}"
        with suppress(FileExistsError):  # a crash or an error came before step 2
            os.link(source, _hidden(part), src_dir_fd=fd, dst_dir_fd=fd)
        theirs = Range(middle, self.end, self.origin, between=True)
        write_new(fd, _hidden_new(part_id), _path(part_id), theirs.encode())
        spool.sync(FOLDER)
        self._replace(Range(self.next, middle, self.origin, part, self.between))
        self.publish()
        return part

    def _waits(self, part: Name) -> bool:
        return self._spool.has(f"{part.folder}/{part}")

    def _replace(self, ours: Range) -> None:
        hidden, path = _hidden_new(self._id), _path(self._id)
        flags = NEW_FLAGS & ~os.O_WRONLY | os.O_RDWR
        new = os.open(hidden, flags, 0o600, dir_fd=self._spool.fd)
        try:
            write_all(new, ours.encode())
            os.fsync(new)
            fd = self._spool.fd
            os.rename(hidden, path, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            os.close(new)
            with suppress(OSError):
                os.unlink(hidden, dir_fd=self._spool.fd)
            raise
        # From here on the lines belong to the part, whatever else fails.
        old, self._fd = self._fd, new
        self.end, self._part, self._unpublished = ours.end, ours.part, True
        os.close(old)
        self._spool.sync_moved(FOLDER)

    def publish(self) -> None:
        """Put the part into place that was cut off last, if that was not done yet.

        Raises:
            OSError: From the file system. Call it again.
        """
        if self._part is not None and self._unpublished:
            with suppress(FileNotFoundError):
                self._spool.move(_hidden(self._part), self._part)
            self._unpublished = False


def _hidden_new(batch_id: str) -> str:
    return f"{FOLDER}/.{batch_id}.{os.urandom(4).hex()}"


def discard_lines(spool: SpoolDir, folder: str) -> None:
    """Remove tasks of lines that their batch has still to run: ``spin_off`` was cut.

    Args:
        folder: A dead worker's: ``running/<worker>``. Nothing in it has moved yet.

    Raises:
        OSError: From the file system. May be repeated.
    """
    names = [name for file in spool.names(folder) if (name := Name.parse(file))]
    alone = {name.id: name for name in names if name.task != BATCH}
    for batch in [name for name in names if alone and name.task == BATCH]:
        try:
            found = read(spool, batch.id) or Range(0, LOST_MAX, batch.id, between=True)
        except CorruptError:
            continue
        for number in range(found.next, min(found.end, found.next + LOST_MAX)):
            if name := alone.get(derived_id(found.origin, number)):
                os.unlink(f"{folder}/{name}", dir_fd=spool.fd)
                break  # a worker makes one at a time


def _write_whole(
    spool: SpoolDir, folder: str, path: str, data: bytes, mtime_us: int
) -> None:
    """Write a file that nobody sees before it is whole and synced."""
    fd = spool.fd
    try:
        new = os.open(folder, _TMPFILE, 0o600, dir_fd=fd)
    except OSError:  # no such thing here; in tmp/ it is swept if we die
        name = path.rpartition("/")[2]
        hidden = f"tmp/.{name}.{os.urandom(4).hex()}"
        write_new(fd, hidden, path, data, spool.owner, mtime_us=mtime_us)
        spool.sync_moved("tmp")
        return
    try:
        if spool.owner is not None:
            os.fchown(new, *spool.owner)
        write_all(new, data)
        os.utime(new, ns=(mtime_us * 1000, mtime_us * 1000))
        os.fsync(new)
        try:
            link_to(fd, new, None, path)
        except FileExistsError:  # of an earlier try that could not be undone
            os.unlink(path, dir_fd=fd)
            link_to(fd, new, None, path)
    finally:
        os.close(new)


def remove(spool: SpoolDir, batch_id: str) -> None:
    """Remove the range of a batch that is finished. Never fails.

    The batch itself must be gone, durably: without its range all its lines would run
    again.
    """
    with suppress(OSError):  # it is swept by age
        os.unlink(_path(batch_id), dir_fd=spool.fd)


def find(spool: SpoolDir, origin: str) -> Iterator[tuple[str, Range]]:
    """Yield the ids of the files that have lines of a batch, and which lines.

    The file that was put is among them only if some of its lines were run.

    Raises:
        OSError: From the file system.
    """
    for file in sorted(spool.names(FOLDER)):
        with suppress(CorruptError):
            found = read(spool, file) if is_id(file) else None
            if found is not None and found.origin == origin:
                yield file, found


def sweep(spool: SpoolDir, clock: Clock = CLOCK) -> int:
    """Remove the ranges of batches that are nowhere; return how many.

    Raises:
        OSError: From the file system.
    """
    old = [f for f in spool.all_names(FOLDER) if _is_old(spool, f, clock)]
    if not old:
        return 0
    named = set()
    for file in spool.names(FOLDER):
        with suppress(CorruptError):
            found = read(spool, file) if is_id(file) else None
            if found is not None and found.part is not None:
                named.add(f".{found.part}")
    ranges = {file for file in old if is_id(file)}
    known = _known(spool, ranges, {file for file in old if file not in named})
    count = 0
    for file in old:
        if file in named:  # its holder is gone, and so is who was to put it in place
            name = Name.parse(file[1:])
            if name is not None:
                with suppress(FileNotFoundError):
                    spool.move(f"{FOLDER}/{file}", name)
        elif file in known:  # not to be looked for again before it is old again
            with suppress(FileNotFoundError):
                os.utime(f"{FOLDER}/{file}", dir_fd=spool.fd, follow_symlinks=False)
        else:
            with suppress(FileNotFoundError, IsADirectoryError):
                os.unlink(f"{FOLDER}/{file}", dir_fd=spool.fd)
                count += 1
    return count


def _is_old(spool: SpoolDir, file: str, clock: Clock) -> bool:
    try:
        status = os.stat(f"{FOLDER}/{file}", dir_fd=spool.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    changed_us = max(status.st_mtime_ns, status.st_ctime_ns) // 1000
    return clock.now_us() - changed_us > LEFT_OVER_AGE * 1e6


def _known(spool: SpoolDir, batches: set[str], left_over: set[str]) -> set[str]:
    """Return which of these batches are anywhere; look no further than need be."""
    missing = set(batches)
    parts = [file[1:] for file in spool.all_names(FOLDER) if file not in left_over]
    # Twice, lest one that is claimed or given back slip by.
    for file in chain(parts, _everywhere(spool), _everywhere(spool)):
        if not missing:
            break
        if BATCH in file and (name := Name.parse(file)) is not None:
            missing.discard(name.id)
    return batches - missing


def _everywhere(spool: SpoolDir) -> Iterator[str]:
    """Yield all names of tasks, those in the small folders first."""
    for worker in spool.names("running"):
        yield from spool.names(f"running/{worker}")
    for folder in ("held", "failed", "corrupt"):
        yield from spool.names(folder)
    for _, file in spool.waiting():
        yield file
