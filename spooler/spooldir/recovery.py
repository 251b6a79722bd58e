"""Locks of living processes, recovery of what the dead held, sweeping.

Specification: docs/format.md, sections 1 and 6.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import filelock

from ..clock import CLOCK, Clock
from ..options import Follower
from ..task import Claim, Name, Outcome, Verdict
from . import batches, keys, reports, runlogs
from .claims import give_up, put_aside
from .dropped import Writers, writers
from .files import each_name, some_of, write_new
from .followers import give_up_lost, settle_staged
from .kills import KILL_MAX_AGE, KILLED
from .limits import sweep_limits
from .reserve import insist
from .root import SpoolDir
from .uwsgi_files import PREFIX

TMP_MAX_AGE: Final = 24 * 3600.0
"""Seconds after which a file that nobody has open in tmp/ is abandoned."""

WHY_MAX_AGE: Final = 3600.0
"""Seconds after which a report without its task is a left-over."""

ATTEMPTS_MAX_AGE: Final = 30 * 24 * 3600.0
"""Seconds after which a list of attempts that did not grow is a left-over."""

SWEEP_MAX: Final = 1000
"""How many files of each directory one sweep looks at."""


_HIDDEN: Final = ("failed", "corrupt", "held", "paused", "workers", "timers", "keys")
"""Where hidden files are that crashes left behind."""


def process_name(kind: str) -> str:
    """Return a new name for a process: what it is, host, pid, random digits."""
    host = "".join(c if c.isalnum() and c.isascii() else "-" for c in _hostname())
    return f"{kind}-{host}-{os.getpid()}-{os.urandom(3).hex()}"


def _hostname() -> str:
    return socket.gethostname().partition(".")[0][:40] or "host"


class ProcessLock:
    """The lock that a process holds for its whole life.

    Whoever can take it knows that the process is dead.

    Args:
        name: The process's name, from ``process_name``.
    """

    def __init__(self, spool: SpoolDir, name: str) -> None:
        self.name = name
        self._spool = spool
        # flock, never a lock that lives on as a file: a claim ends with the
        # process. The lock library itself refuses a lock file that was unlinked
        # between its open and its flock.
        self._lock = filelock.FileLock(
            f"{spool.path}/workers/{name}.lock",
            fallback_to_soft=False,
            thread_local=False,
            mode=0o600,
            poll_interval=0.01,
        )

    def acquire(self, timeout: float = 0.0) -> bool:
        """Take the lock; tell whether it worked within ``timeout`` seconds.

        Raises:
            OSError: From the file system.
        """
        try:
            insist(self._spool.fd, lambda: self._lock.acquire(timeout=timeout))
        except filelock.Timeout:
            return False
        return True

    def describe(self, facts: Mapping[str, object]) -> None:
        """Write ``<name>.json``: what this process is.

        Raises:
            OSError: From the file system.
        """
        hidden = f"workers/.{self.name}.{os.urandom(4).hex()}"
        path = f"workers/{self.name}.json"
        write_new(self._spool.fd, hidden, path, reports.to_json({"v": 1, **facts}))

    def remove(self) -> None:
        """Remove the process's files, the lock file last, and let go of it."""
        try:
            for path in (f"workers/{self.name}.json", f"workers/{self.name}.lock"):
                with suppress(FileNotFoundError):
                    try:
                        os.unlink(path, dir_fd=self._spool.fd)
                    except IsADirectoryError:  # somebody else's: it must not stay
                        reason = "is no file of a process"
                        put_aside(self._spool, path, reason, CLOCK.now_us())
        finally:
            self._lock.release()

    def release(self) -> None:
        """Let go of the lock; leave the files."""
        self._lock.release()


@dataclass(frozen=True, slots=True)
class Recovered:
    """A task that a dead worker held, and what became of it.

    Attributes:
        due_us: When it runs again; None if it was given up.
    """

    name: Name
    due_us: int | None


Followers = Mapping[str, tuple[Follower, ...]]
"""By task name, what is to be put when such a task is given up."""

_Lose = Callable[[str, Name, dict[str, object]], None]

Decide = Callable[[Name], int | None]
"""Given a task whose run was lost (attempts already counted), return when it is
due again, in µs since the epoch, or None to give it up."""


def is_alive(spool: SpoolDir, name: str) -> bool:
    """Tell whether a process holds its lock, without taking it from anybody.

    Raises:
        OSError: From the file system.
    """
    path = f"workers/{name}.lock"
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, dir_fd=spool.fd)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def processes(spool: SpoolDir) -> list[str]:
    """Return the names of all workers and daemons that left a trace."""
    names = {n[:-5] for n in spool.names("workers") if n.endswith((".lock", ".json"))}
    return sorted(names | set(spool.names("running")))


def recover(
    spool: SpoolDir,
    worker: str,
    decide: Decide,
    outcome: Outcome,
    *,
    owners: Collection[int] | None = None,
    followers: Followers | None = None,
    culprits: Mapping[str, Outcome] | None = None,
    output: int | None = None,
    tell: Callable[[Recovered], object] = lambda recovered: None,
    clock: Clock = CLOCK,
) -> list[Recovered] | None:
    """Give back what a dead process held, and remove its traces.

    Each task is one rename, synced. Safe to repeat after a crash at any point.

    Args:
        outcome: What to write down about the lost runs; with the verdict RELEASE
            the runs do not count as attempts.
        owners: The uids whose files count as tasks; None for root and this user.
        followers: What decorators say of followers, where a file says nothing.
        culprits: By id, tasks for which another outcome is to be written down.
        output: Where to print what its run has printed; None for nowhere.
        tell: Called for each task at once, whatever becomes of the others.

    Returns:
        What it held; None if the process lives.

    Raises:
        OSError: From the file system. What was not given back yet is still there.
    """
    lock = ProcessLock(spool, worker)
    if not lock.acquire():
        return None

    def lose(source: str, name: Name, report: dict[str, object]) -> None:
        default = (followers or {}).get(name.task)
        now_us = clock.now_us()
        move = partial(give_up, spool, source, name, report)
        give_up_lost(spool, source, name, move, default, owners, now_us)

    try:
        folder = f"running/{worker}"
        done, problem = [], None
        runlogs.rescue(spool, worker, output)
        settle_staged(spool, folder)
        batches.discard_lines(spool, folder)
        for file in spool.names(folder):
            name = Name.parse(file)
            try:
                if name is None:
                    now_us = clock.now_us()
                    put_aside(spool, f"{folder}/{file}", "is not a task", now_us)
                    continue
                claim = Claim(name, worker, file)
                own = (culprits or {}).get(name.id, outcome)
                done.append(_give_back(spool, claim, decide, own, clock, lose))
                tell(done[-1])
            except FileNotFoundError:  # an operator was first
                continue
            except OSError as error:  # which must not keep the others
                problem = problem or error
        if problem is not None:
            raise problem
        try:
            remove_folder(spool, folder, clock)
        except NotADirectoryError:  # somebody moved a file right into running/
            put_aside(spool, folder, "is not a worker's folder", clock.now_us())
    except BaseException:
        lock.release()
        raise
    lock.remove()
    return done


def _give_back(
    spool: SpoolDir,
    claim: Claim,
    decide: Decide,
    outcome: Outcome,
    clock: Clock,
    lose: _Lose,
) -> Recovered:
    source = f"running/{claim.worker}/{claim.file}"
    if _waits_too(spool, source, claim.name):
        os.unlink(source, dir_fd=spool.fd)
        return Recovered(claim.name, claim.name.due_us)
    if outcome.verdict is Verdict.RELEASE:
        spool.move(source, claim.name)
        return Recovered(claim.name, claim.name.due_us)
    name = claim.name.but(attempt=claim.name.attempt + 1)
    record = reports.attempt_record(claim, outcome.error, None, clock.now_us())
    due_us = None if outcome.reason == KILLED else decide(name)
    if due_us is None:
        history = [*reports.attempts(spool, name.id), record]
        report = reports.failure(claim, outcome, history, clock.now_us())
        lose(source, name, report)
        return Recovered(name, None)
    with suppress(OSError):  # the list is for people; the task comes first
        reports.append_attempt(spool, name.id, record)
    name = name.but(due_us=due_us)
    spool.move(source, name)
    return Recovered(name, due_us)


def _waits_too(spool: SpoolDir, source: str, name: Name) -> bool:
    """Tell whether a power cut has left both names of a claim, as btrfs may."""
    here, there = spool.status(source), spool.status(f"{name.folder}/{name}")
    return here is not None and there is not None and os.path.samestat(here, there)


def remove_folder(spool: SpoolDir, folder: str, clock: Clock = CLOCK) -> bool:
    """Remove a folder if it is empty but for abandoned hidden files.

    Returns:
        Whether it is gone.

    Raises:
        OSError: From the file system.
    """
    if _rmdir(spool, folder):
        return True
    found = _old(spool, folder, clock, TMP_MAX_AGE, SWEEP_MAX, hidden_only=True)
    swept = sum(remove_left_over(spool, each) for each in found)
    return swept > 0 and _rmdir(spool, folder)


def _rmdir(spool: SpoolDir, folder: str) -> bool:
    try:
        os.rmdir(folder, dir_fd=spool.fd)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def sweep(
    spool: SpoolDir,
    clock: Clock = CLOCK,
    *,
    keep_logs_for: float = runlogs.KEEP_LOGS_FOR,
) -> int:
    """Remove what crashes left behind and nobody needs; return how many files.

    A bounded amount of work: repeat it now and then.

    Args:
        keep_logs_for: Seconds for which what runs have printed is kept.

    Raises:
        OSError: From the file system.
    """
    count = keys.sweep(spool, clock) + sweep_limits(spool, clock)
    count += runlogs.sweep(spool, keep_logs_for, clock) + batches.sweep(spool, clock)
    return count + sum(
        remove_left_over(spool, each)
        for each in left_overs(spool, clock, most=SWEEP_MAX)
    )


def left_overs(spool: SpoolDir, clock: Clock, *, most: int) -> Iterator[str]:
    """Yield files that crashes left behind: old enough, and nobody has them open.

    Args:
        most: How many files of each directory are looked at, chosen by chance.

    Raises:
        OSError: From the file system.
    """
    yield from _old(spool, "tmp", clock, TMP_MAX_AGE, most)
    yield from _old(spool, "logs", clock, ATTEMPTS_MAX_AGE, most, suffix=".attempts")
    yield from _old(spool, "kill", clock, KILL_MAX_AGE, most)
    for file in _old(spool, ".", clock, TMP_MAX_AGE, most, hidden_only=True):
        if file.startswith(f"./.{PREFIX}"):
            yield file
    priorities = map(str, spool.priorities())  # where others write before they rename
    for folder in (*_HIDDEN, "logs", *priorities):
        yield from _old(spool, folder, clock, TMP_MAX_AGE, most, hidden_only=True)
    for folder in ("failed", "corrupt"):
        names = each_name(spool.fd, folder)
        found = (n for n in names if n.endswith(".why") and n[0] != ".")
        for path in (f"{folder}/{file}" for file in some_of(found, most)):
            if spool.has(path.removesuffix(".why")):
                continue
            if _is_left_over(spool, path, clock, WHY_MAX_AGE):
                yield path


def _old(
    spool: SpoolDir,
    folder: str,
    clock: Clock,
    age: float,
    most: int,
    *,
    suffix: str = "",
    hidden_only: bool = False,
) -> Iterator[str]:
    found = (
        file
        for file in each_name(spool.fd, folder)
        if file.endswith(suffix)
        and (file[0] == "." or not hidden_only)
        and file != ".lock"  # of timers/
    )
    for file in some_of(found, most):
        if _is_left_over(spool, f"{folder}/{file}", clock, age):
            yield f"{folder}/{file}"


def _is_left_over(spool: SpoolDir, path: str, clock: Clock, age: float) -> bool:
    status = spool.status(path)
    if status is None or stat.S_ISDIR(status.st_mode):
        return False
    changed_us = max(status.st_mtime_ns, status.st_ctime_ns) // 1000
    old = clock.now_us() - changed_us >= age * 1e6
    return old and not _is_open(spool, path)


def remove_left_over(spool: SpoolDir, path: str) -> bool:
    """Remove what ``left_overs`` has found; tell whether it was there to be removed.

    Raises:
        OSError: From the file system.
    """
    with suppress(FileNotFoundError, PermissionError):
        os.unlink(path, dir_fd=spool.fd)
        return True
    return False


def _is_open(spool: SpoolDir, path: str) -> bool:
    try:
        return writers(path, dir_fd=spool.fd) is Writers.SOME
    except OSError:  # a symbolic link, a socket: nobody writes to it
        return False
