"""One worker: claim, run, settle.

It is told names of waiting tasks by its supervisor (``Channel``) and looks for
more urgent ones before every task. A name is a hint: the claim decides.
"""

import heapq
import logging
import os
import select
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from .clock import CLOCK
from .current import CURRENT
from .errors import ClaimLostError, CorruptError
from .logs import escape
from .registry import REGISTRY, Entry
from .retry import RetryPolicy, ignore_delay, merge
from .runner import READ_AGAIN, current, run_task
from .spooldir import SpoolDir
from .spooldir.claims import Claims
from .spooldir.reading import TaskFile
from .spooldir.recovery import ProcessLock
from .task import Claim, Outcome, Verdict, iso

REPORT_EVERY: Final = 0.002
"""Seconds after which a busy worker tells its supervisor what it has settled."""

SETTLE_AGAIN: Final = 1.0
"""Seconds until a move that the file system refused is tried again."""

BROKEN: Final = 70
"""Exit status of a child that a task forked and did not end."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told when it is made; it travels as JSON.

    Attributes:
        name: The worker's name, new for each life.
        owners: The uids whose files count as tasks.
        max_tasks: Runs after which it ends, to be replaced; 0 for never.
        hard_timeout: Seconds a run may take that has no limit of its own.
    """

    name: str
    daemon: str
    spool: str
    owners: list[int]
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_tasks: int = 0
    hard_timeout: float | None = None


class Channel:
    """A worker's end of the line to its supervisor: lines of text both ways.

    To the worker come paths of waiting tasks, or ``!drain``. From it come paths
    that are settled, or ``!limit <seconds> <path>`` before a run with a time limit.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""
        self.open = True

    def fileno(self) -> int:
        """Return the descriptor, readable when there is something to receive."""
        return self._connection.fileno()

    def receive(self) -> list[str]:
        """Return the lines that have come. ``open`` turns false at the end."""
        try:
            data = self._connection.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.open = False
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [os.fsdecode(line) for line in lines]

    def send(self, lines: list[str]) -> None:
        """Send lines; nobody listening is not an error."""
        try:
            self._connection.sendall(os.fsencode("\n".join(lines) + "\n"))
        except OSError:
            self.open = False


class Worker:
    """Runs tasks until it is told to stop.

    Args:
        channel: The line to the supervisor.
        claims: What it holds; the caller has taken the worker's lock.
    """

    def __init__(
        self, channel: Channel, claims: Claims, settings: WorkerSettings
    ) -> None:
        self._channel = channel
        self._claims = claims
        self._settings = settings
        self._queue: list[tuple[int, str, str]] = []
        self._settled: list[str] = []
        self._reported = CLOCK.monotonic()
        self._refused: list[tuple[str, Callable[[], None]]] = []
        self._settle_at = 0.0
        self._draining = False
        self._runs = 0
        self._pid = os.getpid()
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._home = os.open(".", flags)  # noqa: TID251 (not in the spool)
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        self._wake()

    def _wake(self) -> None:
        """Have signals end a wait; the loop does the work."""
        self._woken, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._woken, select.POLLIN)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._drain)

    def _drain(self, number: int, frame: object) -> None:
        self._draining = True

    # -- the loop ---------------------------------------------------------------

    def work(self) -> None:
        """Run tasks until drained, recycled or left alone."""
        while self._goes_on():
            if self._queue:
                self._receive(0)
            else:
                self._report()
                self._receive(self._patience())
            if self._refused:
                self._settle_refused()
            if self._queue and not self._draining:
                _, _, path = heapq.heappop(self._queue)
                self._handle(path)
                if CLOCK.monotonic() - self._reported > REPORT_EVERY:
                    self._report()
        self._report()
        while self._refused and self._channel.open:
            self._receive(SETTLE_AGAIN)
            self._settle_refused()
        self._report()
        if not self._refused:
            self._claims.close()

    def _goes_on(self) -> bool:
        limit = self._settings.max_tasks
        recycled = limit > 0 and self._runs >= limit
        return self._channel.open and not self._draining and not recycled

    def _patience(self) -> float | None:
        """Return the seconds for which there is nothing to do; None for ever."""
        due = self._claims.sync_due()
        if due == 0:
            self._sync()
            due = None
        if self._refused:
            due = max(0.0, self._settle_at - CLOCK.monotonic())
        return due

    def _receive(self, patience: float | None) -> None:
        """Take what the supervisor says; wait so many seconds for it."""
        for fd, _ in self._poll.poll(None if patience is None else patience * 1000):
            if fd == self._woken:  # by a signal, maybe one that a task handles
                os.read(self._woken, 4096)
                continue
            for line in self._channel.receive():
                if line == "!drain":
                    self._draining = True
                else:
                    priority, _, rest = line.partition("/")
                    heapq.heappush(self._queue, (int(priority), rest, line))

    def _report(self) -> None:
        self._reported = CLOCK.monotonic()
        if self._settled:
            self._channel.send(self._settled)
            self._settled = []
        if self._claims.sync_due() == 0:
            self._sync()

    def _sync(self) -> None:
        try:
            self._claims.sync()
        except OSError as error:
            log.warning("cannot sync what is done: %s", error)

    # -- one task ---------------------------------------------------------------

    def _handle(self, path: str) -> None:
        try:
            claim = self._claims.claim(path)
        except OSError as error:
            log.warning("cannot claim %s now: %s", escape(path), error)
            claim = None
        if claim is None:
            self._settled.append(path)
            return
        if log.isEnabledFor(logging.DEBUG):
            name = escape(claim.name.task)
            log.debug("claim task=%s name=%s", claim.name.id, name)
        self._runs += 1
        started_us = CLOCK.now_us()
        outcome, entry = self._attempt(claim, path)
        self._try_to_settle(
            path, lambda: self._settle(claim, outcome, entry, started_us)
        )

    def _attempt(self, claim: Claim, path: str) -> tuple[Outcome, Entry | None]:
        entry = REGISTRY.get(claim.name.task)
        try:
            task = self._claims.read(claim)
        except CorruptError as error:
            return Outcome(Verdict.REJECT, error.reason), entry
        except OSError as error:
            self._look_for_leaks()
            text = f"cannot be read now: {error}"
            return Outcome(Verdict.RELEASE, text, after=READ_AGAIN), entry
        try:
            if entry is None:
                outcome = Outcome(Verdict.RELEASE, "no function of that name here")
            else:
                outcome = self._run(entry, claim, task, path)
            if outcome.verdict is Verdict.RETRY:
                self._look_for_leaks()
            if outcome.verdict is Verdict.RELEASE and outcome.after is None:
                age = CLOCK.now_us() / 1e6 - task.mtime_ns / 1e9
                outcome = replace(outcome, after=ignore_delay(age))
            return outcome, entry
        finally:
            task.close()

    def _run(self, entry: Entry, claim: Claim, task: TaskFile, path: str) -> Outcome:
        limit = entry.run.hard_timeout or self._settings.hard_timeout
        if limit is not None:
            self._channel.send([f"!limit {limit} {path}"])
        token = CURRENT.set(current(claim, task, self._claims.spool, limit))
        try:
            outcome = run_task(entry, claim, task)
        finally:
            CURRENT.reset(token)
        if os.getpid() != self._pid:  # the task forked, and this is its child
            os._exit(BROKEN)
        os.fchdir(self._home)
        return outcome

    def _look_for_leaks(self) -> None:
        """End, to be replaced, if tasks have left no descriptor to work with."""
        try:
            os.close(os.dup(self._woken))
        except OSError as error:
            log.warning("drain worker=%s: %s", self._settings.name, error)
            self._draining = True

    # -- settling ---------------------------------------------------------------

    def _try_to_settle(self, path: str, settle: Callable[[], None]) -> None:
        try:
            settle()
        except ClaimLostError as error:
            log.warning("%s: somebody recovered or removed it", error)
        except OSError as error:
            log.error("cannot settle %s now: %s", escape(path), error)
            self._refused.append((path, settle))
            self._settle_at = CLOCK.monotonic() + SETTLE_AGAIN
        # Refused or not, it runs no more: what else waits may make room.
        self._settled.append(path)

    def _settle_refused(self) -> None:
        if CLOCK.monotonic() < self._settle_at:
            return
        refused, self._refused = self._refused, []
        for path, settle in refused:
            self._try_to_settle(path, settle)

    def _settle(
        self, claim: Claim, outcome: Outcome, entry: Entry | None, started_us: int
    ) -> None:
        now_us = CLOCK.now_us()
        due_us = now_us
        match outcome.verdict:
            case Verdict.ACK:
                self._claims.ack(claim)
            case Verdict.AGAIN:
                due_us += int((outcome.after or 0.0) * 1e6)
                self._claims.again(claim, due_us=due_us)
            case Verdict.RELEASE:
                due_us += int((outcome.after or 0.0) * 1e6)
                self._claims.release(claim, due_us=due_us)
            case Verdict.RETRY:
                delay = self._retry_delay(claim, outcome, entry)
                if delay is None:
                    outcome = replace(outcome, verdict=Verdict.FAIL)
                    self._claims.fail(claim, outcome, started_us=started_us)
                else:
                    due_us += int(delay * 1e6)
                    self._claims.retry(
                        claim, outcome, due_us=due_us, started_us=started_us
                    )
            case Verdict.FAIL:
                self._claims.fail(claim, outcome, started_us=started_us)
            case Verdict.REJECT:
                self._claims.reject(claim, outcome.error)
        _tell(claim, outcome, now_us - started_us, due_us)

    def _retry_delay(
        self, claim: Claim, outcome: Outcome, entry: Entry | None
    ) -> float | None:
        policy = self._settings.retry
        if entry is not None:
            policy = merge(policy, entry.retry)
        attempt = claim.name.attempt + 1
        if policy.exhausted(attempt):
            return None
        return policy.delay(attempt) if outcome.after is None else outcome.after


_WORDS: Final[Mapping[Verdict, tuple[int, str]]] = {
    Verdict.ACK: (logging.INFO, "ack"),
    Verdict.AGAIN: (logging.INFO, "again"),
    Verdict.RELEASE: (logging.WARNING, "release"),
    Verdict.RETRY: (logging.WARNING, "retry"),
    Verdict.FAIL: (logging.ERROR, "fail"),
    Verdict.REJECT: (logging.WARNING, "reject"),
}


def _tell(claim: Claim, outcome: Outcome, took_us: int, due_us: int) -> None:
    level, move = _WORDS[outcome.verdict]
    if not log.isEnabledFor(level):
        return
    later = outcome.verdict in (Verdict.RETRY, Verdict.RELEASE)
    log.log(
        level,
        "%s task=%s name=%s attempt=%d worker=%s seconds=%.6f%s%s",
        move,
        claim.name.id,
        escape(claim.name.task),
        claim.name.attempt + 1,
        claim.worker,
        took_us / 1e6,
        f" due={iso(due_us)}" if later else "",
        f": {escape(outcome.error)}" if outcome.error else "",
    )


def main(connection: socket.socket, settings: WorkerSettings) -> None:
    """Be a worker: take the lock, work, leave nothing behind.

    Call it in a process of its own.
    """
    spool = SpoolDir(settings.spool)
    lock = ProcessLock(spool, settings.name)
    if not lock.acquire(timeout=10.0):
        raise SystemExit(f"worker {settings.name}: somebody else has its name")
    lock.describe(
        {
            "kind": "worker",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": iso(CLOCK.now_us()),
            "daemon": settings.daemon,
        }
    )
    # What a task puts without naming a spool goes where the task came from.
    os.environ["SPOOL_DIR"] = spool.path
    claims = Claims(spool, settings.name, settings.owners)
    Worker(Channel(connection), claims, settings).work()
    lock.remove()
