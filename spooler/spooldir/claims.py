"""What one worker holds: claim a task, read it, settle it.

Each settling move is called once for a claim, in the process that made it.
Specification: docs/format.md, section 3.
"""

import errno
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

from ..clock import CLOCK, Clock
from ..errors import ClaimLostError
from ..task import BATCH, Claim, Name, Outcome, iso
from . import batches, reports
from .files import DIR_FLAGS
from .reading import TaskFile, open_file
from .root import SpoolDir

GONE: Final = frozenset({errno.ENOENT, errno.ESTALE})


class Claims:
    """The tasks of one worker.

    The caller holds the worker's lock (``recovery.ProcessLock``).

    Args:
        worker: Its name, unique for each life.
        owners: The uids whose files count as tasks.

    Attributes:
        folder: The worker's folder, below the spool.
    """

    def __init__(
        self,
        spool: SpoolDir,
        worker: str,
        owners: Collection[int],
        clock: Clock = CLOCK,
    ) -> None:
        self.spool = spool
        self.worker = worker
        self._owners = owners
        self._clock = clock
        self.folder = f"running/{worker}"
        with suppress(FileExistsError):
            os.mkdir(self.folder, 0o700, dir_fd=spool.fd)
        self._fd = os.open(self.folder, DIR_FLAGS, dir_fd=spool.fd)
        self._acked_at: float | None = None

    def claim(self, path: str) -> Claim | None:
        """Take a waiting task.

        One rename, not synced.

        Args:
            path: ``<priority>/<minute>/<name>``, a native file.

        Returns:
            The claim, or None if somebody was first.

        Raises:
            OSError: From the file system. The task still waits.
        """
        file = path.rpartition("/")[2]
        if file.count(".") < 4:
            raise ValueError(f"{path!r} is not native")
        try:
            os.rename(path, file, src_dir_fd=self.spool.fd, dst_dir_fd=self._fd)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        return Claim(None, self.worker, file)

    def open(self, claim: Claim) -> TaskFile:
        """Open a claimed task.

        Raises:
            CorruptError: It cannot be a task: reject it.
            OSError: From the file system; it says nothing about the task.
        """
        return open_file(claim.file, self._owners, dir_fd=self._fd)

    def ack(self, claim: Claim, *, alone: bool = False) -> None:
        """Remove a task that is done.

        One unlink; ``sync`` makes it durable.

        Args:
            alone: It was no batch, and its first run: nothing else goes with it.

        Raises:
            ClaimLostError: The file is gone; someone recovered or removed it.
            OSError: From the file system. The task is still claimed.
        """
        try:
            os.unlink(claim.file, dir_fd=self._fd)
        except FileNotFoundError:
            raise ClaimLostError(claim.name.id, self.worker) from None
        if self._acked_at is None:
            self._acked_at = self._clock.monotonic()
        if alone:
            return
        if claim.name.attempt:
            reports.forget_attempts(self.spool, claim.name.id)
        if claim.name.task == BATCH:
            # Durably gone, before what says how far it was.
            with suppress(OSError):
                os.fsync(self._fd)
                batches.remove(self.spool, claim.name.id)

    def sync_due(self) -> float | None:
        """Return seconds until ``sync`` is due; None if nothing waits for it."""
        if self._acked_at is None:
            return None
        return max(0.0, self._acked_at + 1.0 - self._clock.monotonic())

    def sync(self) -> None:
        """Make all acks so far durable.

        Raises:
            OSError: From the file system.
        """
        self._acked_at = None
        os.fsync(self._fd)

    def retry(
        self, claim: Claim, outcome: Outcome, *, due_us: int, started_us: int | None
    ) -> None:
        """Put a task back whose run did not succeed, to run again then.

        Its attempt goes up by one, and what happened is added to its list of
        attempts. One rename, synced.

        Raises:
            ClaimLostError: The file is gone.
            OSError: From the file system. The task is still claimed.
        """
        record = reports.attempt_record(
            claim, outcome.error, started_us, self._clock.now_us()
        )
        with suppress(OSError):  # the list is for people; the task comes first
            reports.append_attempt(self.spool, claim.name.id, record)
        self._back(claim, claim.name.but(due_us=due_us, attempt=claim.name.attempt + 1))

    def again(self, claim: Claim, *, due_us: int) -> None:
        """Put a task back that runs for ever: attempt 0. One rename, synced.

        Raises:
            ClaimLostError: The file is gone.
            OSError: From the file system. The task is still claimed.
        """
        self._back(claim, claim.name.but(due_us=due_us, attempt=0))
        if claim.name.attempt:
            reports.forget_attempts(self.spool, claim.name.id)

    def release(self, claim: Claim, *, due_us: int | None = None) -> None:
        """Give a task back that was not run: same attempt. One rename, synced.

        Args:
            due_us: When somebody should look at it again; None for its old due.

        Raises:
            ClaimLostError: The file is gone.
            OSError: From the file system. The task is still claimed.
        """
        name = claim.name
        self._back(claim, name if due_us is None else name.but(due_us=due_us))

    def park(self, claim: Claim) -> None:
        """Give a task back that must wait for a limit: same name. Not synced.

        Raises:
            ClaimLostError: The file is gone.
            OSError: From the file system. The task is still claimed.
        """
        source = f"{self.folder}/{claim.file}"
        self._or_lost(claim, lambda: self.spool.move(source, claim.name, durable=False))

    def _back(self, claim: Claim, name: Name) -> None:
        self._or_lost(
            claim, lambda: self.spool.move(f"{self.folder}/{claim.file}", name)
        )

    def fail(self, claim: Claim, outcome: Outcome, *, started_us: int | None) -> None:
        """Give a task up: to ``failed/`` with its reason. Synced.

        Args:
            started_us: When its run began; None if it was not run.

        Raises:
            ClaimLostError: The file is gone.
            OSError: From the file system. The task is still claimed.
        """
        now_us = self._clock.now_us()
        name = claim.name
        history = reports.attempts(self.spool, name.id)
        if started_us is not None:
            error = outcome.error
            record = reports.attempt_record(claim, error, started_us, now_us)
            history = [*history, record]
            name = name.but(attempt=name.attempt + 1)
        report = reports.failure(claim, outcome, history, now_us)
        source = f"{self.folder}/{claim.file}"
        self._or_lost(claim, lambda: give_up(self.spool, source, name, report))

    def reject(self, claim: Claim, reason: str) -> None:
        """Put a task aside that cannot be read: to ``corrupt/``. Synced.

        Raises:
            ClaimLostError: The file is gone.
            OSError: From the file system. The task is still claimed.
        """
        source = f"{self.folder}/{claim.file}"
        now_us = self._clock.now_us()
        self._or_lost(claim, lambda: put_aside(self.spool, source, reason, now_us))

    def _or_lost(self, claim: Claim, move: Callable[[], object]) -> None:
        try:
            move()
        except FileNotFoundError:
            raise ClaimLostError(claim.name.id, self.worker) from None

    def close(self) -> None:
        """Remove the worker's folder, which must be empty, and close it.

        Raises:
            OSError: It is not empty.
        """
        if self.sync_due() is not None:
            self.sync()
        try:
            with suppress(FileNotFoundError):  # somebody has removed the spool
                os.rmdir(self.folder, dir_fd=self.spool.fd)
        finally:
            os.close(self._fd)


def give_up(
    spool: SpoolDir, source: str, name: Name, report: dict[str, object]
) -> None:
    """Move a task to ``failed/``, its report first. Synced.

    Raises:
        FileNotFoundError: The task is gone.
        OSError: From the file system. The task is where it was.
    """
    target = f"failed/{spool.free(name, 'failed')}"
    # A full disk must not keep a task from being given up.
    with suppress(OSError):
        reports.write_why(spool, target, report)
    try:
        os.rename(source, target, src_dir_fd=spool.fd, dst_dir_fd=spool.fd)
    except FileNotFoundError:
        if not spool.has(target):  # somebody may have moved it there just now
            reports.remove_why(spool, target)
        raise
    spool.sync_moved("failed", source.rpartition("/")[0] or ".")
    reports.forget_attempts(spool, name.id)


def put_aside(spool: SpoolDir, source: str, reason: str, now_us: int) -> str:
    """Move anything to ``corrupt/``, its report first. Synced.

    A native name stays. Any other gets eight random digits more, so that it never
    meets one that is there. The file itself is not opened.

    Returns:
        Its new path.

    Raises:
        FileNotFoundError: It is gone.
        OSError: From the file system. It is where it was.
    """
    status = os.stat(source, dir_fd=spool.fd, follow_symlinks=False)
    report = {
        "v": 1,
        "reason": reason,
        "found": source.encode("utf-8", "surrogateescape").decode(
            "utf-8", "backslashreplace"
        ),
        "size": status.st_size,
        "uid": status.st_uid,
        "time": iso(now_us),
    }
    file = source.rpartition("/")[2]
    if Name.parse(file) is None or spool.has(f"corrupt/{file}"):
        short = os.fsdecode(os.fsencode(file)[:200])
        file = f"{short}.{os.urandom(4).hex()}"
    target = f"corrupt/{file}"
    with suppress(OSError):  # even on a full disk it can be put aside
        reports.write_why(spool, target, report)
    try:
        os.rename(source, target, src_dir_fd=spool.fd, dst_dir_fd=spool.fd)
    except OSError:
        reports.remove_why(spool, target)
        raise
    spool.sync_moved("corrupt")
    return target
