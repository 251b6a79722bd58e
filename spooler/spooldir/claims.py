"""What one worker holds: claim a task, read it, settle it.

Each settling move is called once for a claim, in the process that made it.
Specification: docs/format.md, section 3.
"""

import errno
import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress

from ..clock import CLOCK, Clock
from ..codec import Header
from ..errors import ClaimLostError, CorruptError, NotASpoolError, UsageError
from ..task import BATCH, Claim, Name, Outcome, iso
from . import batches, reports
from .files import DIR_FLAGS
from .key_file import KEY_FILE
from .reading import TaskFile, open_file
from .reserve import FULL, insist, use_some
from .root import SpoolDir
from .signing import disagreement, takes_long

log = logging.getLogger(__name__)


class Claims:
    """The tasks of one worker.

    The caller holds the worker's lock (``recovery.ProcessLock``).

    Args:
        worker: Its name, unique for each life.
        owners: The uids whose files count as tasks.
        require_signature: Take a file that is not signed for corrupt.

    Attributes:
        folder: The worker's folder, below the spool.

    Raises:
        UsageError: Signatures are required, and nobody here can verify them.
        OSError: From the file system.
    """

    def __init__(
        self,
        spool: SpoolDir,
        worker: str,
        owners: Collection[int],
        clock: Clock = CLOCK,
        *,
        require_signature: bool = False,
    ) -> None:
        self.spool = spool
        self._signer = spool.signer
        self._requires = require_signature
        if require_signature and spool.signer is None:
            raise UsageError(f"signatures are required, and ${KEY_FILE} is not set")
        self.worker = worker
        self._owners = owners
        self._clock = clock
        self.folder = f"running/{worker}"
        with suppress(FileExistsError):
            insist(spool.fd, lambda: os.mkdir(self.folder, 0o700, dir_fd=spool.fd))
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
        folder, _, file = path.rpartition("/")
        if file.count(".") < 4:
            raise ValueError(f"{path!r} is not native")
        try:
            os.rename(path, file, src_dir_fd=self.spool.fd, dst_dir_fd=self._fd)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return self.claim(path) if self._has_made_again() else None
            if error.errno == errno.ESTALE and not self.spool.has(path):
                return None
            if error.errno in FULL and use_some(self.spool.fd):
                return self.claim(path)
            raise
        self.spool.left.add(folder)
        return Claim(None, self.worker, file)

    def _has_made_again(self) -> bool:
        """Make the worker's folder again if somebody has removed it; tell whether."""
        if os.fstat(self._fd).st_nlink:
            return False
        try:
            self.spool.open()  # which makes running/
        except NotASpoolError:
            return False
        os.mkdir(self.folder, 0o700, dir_fd=self.spool.fd)
        fd = os.open(self.folder, DIR_FLAGS, dir_fd=self.spool.fd)
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        log.warning("%s was removed, and is made again", self.folder)
        return True

    def open(self, claim: Claim, *, at_once: bool = True) -> TaskFile:
        """Open a claimed task.

        Where there are keys its signature is verified, and the claim says what came
        of that; what the task then holds is what was verified.

        Args:
            at_once: Even if that takes long; else it is left to ``verify``, where
                ``is_unverified`` says so.

        Raises:
            CorruptError: It cannot be a task: reject it.
            KeyFileError: The keys cannot be read; that says nothing about the task.
            OSError: From the file system; it says nothing about the task.
        """
        task = open_file(claim.file, self._owners, dir_fd=self._fd)
        if at_once or not self.is_unverified(task):
            self.verify(claim, task)
        return task

    def is_unverified(self, task: TaskFile) -> bool:
        """Tell whether a file that was not opened at once is still to be verified."""
        return self._signer is not None and takes_long(task)

    def verify(self, claim: Claim, task: TaskFile) -> None:
        """Verify the signature of a task, where there are keys. For any thread.

        Raises:
            CorruptError, KeyFileError, OSError: As ``open``; the task is closed.
        """
        if self._signer is None:
            return
        try:
            self._take(claim, self._signer.check(task))
        except BaseException:
            task.close()
            raise

    def _take(self, claim: Claim, problem: str | None) -> None:
        """Take what was found of a signature; None is a good one."""
        claim.signed = problem is None
        if problem is not None:
            if self._requires:
                raise CorruptError(problem)
            log.info("unsigned task=%s: %s", claim.name.id, problem)

    def agree(self, claim: Claim, header: Header) -> None:
        """Check that the header of a signed task is for its name: after ``open``.

        Raises:
            CorruptError: It is not: reject it.
        """
        if claim.signed and (problem := disagreement(header, claim.name)) is not None:
            self._take(claim, problem)

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
                self.sync()
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
        with suppress(FileNotFoundError):  # somebody has removed the spool
            self.spool.sync(self.folder)

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

    def reject(self, claim: Claim, reason: str, *, durable: bool = True) -> None:
        """Put a task aside that cannot be read: to ``corrupt/``.

        Args:
            durable: As for ``put_aside``.

        Raises:
            ClaimLostError: The file is gone.
            OSError: From the file system. The task is still claimed.
        """
        source = f"{self.folder}/{claim.file}"
        now_us = self._clock.now_us()
        self._or_lost(
            claim,
            lambda: put_aside(self.spool, source, reason, now_us, durable=durable),
        )

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
        OSError: From the file system, or there is no room for the report and the
            reserve is used up. The task is where it was.
    """
    target = f"failed/{spool.free(name, 'failed')}"
    try:
        reports.write_why(spool, target, report)
    except (OSError, NotASpoolError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise  # it can wait: better than to fail without a reason
    try:
        _rename(spool, source, target)
    except FileNotFoundError:
        if not spool.has(target):  # somebody may have moved it there just now
            reports.remove_why(spool, target)
        raise
    spool.sync_moved(source.rpartition("/")[0] or ".", "failed")
    reports.forget_attempts(spool, name.id)


def put_aside(
    spool: SpoolDir, source: str, reason: str, now_us: int, *, durable: bool = True
) -> str:
    """Move anything to ``corrupt/``, its report first.

    A native name stays. Any other gets eight random digits more, so that it never
    meets one that is there. The file itself is not opened.

    Args:
        durable: Sync it. Else a power cut may bring the file back to where it was, so
            that it is found there once more, or may lose the report.

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
        short = os.fsdecode(os.fsencode(file)[:200]).lstrip(".")  # not to be hidden
        file = f"{short}.{os.urandom(4).hex()}"
    target = f"corrupt/{file}"
    with suppress(OSError, NotASpoolError):  # even on a full disk it can be put aside
        reports.write_why(spool, target, report, durable=durable)
    try:
        _rename(spool, source, target)
    except OSError:
        if not spool.has(target):  # somebody may have moved it there just now
            reports.remove_why(spool, target)
        raise
    if durable:
        spool.sync_moved("corrupt")
    return target


def _rename(spool: SpoolDir, source: str, target: str) -> None:
    """Rename within the spool, if need be with the help of the reserve."""
    fd = spool.fd
    insist(fd, lambda: os.rename(source, target, src_dir_fd=fd, dst_dir_fd=fd))
