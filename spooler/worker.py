"""One worker: claim, run, settle.

It is told names of waiting tasks by its supervisor (``Channel``) and looks for
more urgent ones before every task. A name is a hint: the claim decides.
"""

import logging
import os
import select
import signal
import socket
from collections import deque
from typing import Final

from . import hooks
from .batch import Attention
from .capture import Capture, capture
from .channel import Channel, WorkerSettings
from .clock import CLOCK
from .ending import SETTLE_AGAIN
from .execution import Execution
from .recycling import Recycling
from .registry import REGISTRY
from .run import Run
from .spooldir import SpoolDir
from .spooldir.claims import Claims
from .spooldir.recovery import ProcessLock
from .task import iso

LOOK_EVERY: Final = 0.001
"""Seconds for which a busy worker does not look up: a run that takes longer is followed
by a look for what is more urgent, shorter ones together."""

REPORT_EVERY: Final = 0.002
"""Seconds after which a busy worker tells its supervisor what it has settled."""

log = logging.getLogger(__name__)


class Worker:
    """Runs tasks until it is told to stop.

    Args:
        channel: The line to the supervisor.
        claims: What it holds; the caller has taken the worker's lock.
        catching: Catches what tasks print; None if nobody does.
    """

    def __init__(
        self,
        channel: Channel,
        claims: Claims,
        settings: WorkerSettings,
        catching: Capture | None = None,
    ) -> None:
        self._channel = channel
        self._claims = claims
        self._settings = settings
        self._execution = Execution(claims, settings, channel.send, catching)
        self._execution.attend = self._attend
        self._share = False
        self._queue: deque[str] = deque()
        self._recycling = Recycling(settings.max_tasks, settings.max_rss)
        self._look_at = self._reported = CLOCK.monotonic()
        self._draining = False
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
        execution = self._execution
        while self._goes_on():
            if not self._queue:
                self._report()
                self._receive(self._patience())
            elif (now := CLOCK.monotonic()) >= self._look_at:
                if now - self._reported > REPORT_EVERY:
                    self._report()
                self._receive(0)
                self._look_at = now + LOOK_EVERY
            if execution.endings.refused:
                execution.endings.settle_refused()
            if self._queue and not self._draining:
                execution.handle(self._queue.popleft())
        self._report()
        while execution.endings.refused and self._channel.open:
            self._receive(SETTLE_AGAIN)
            execution.endings.settle_refused()
        self._report()
        if self._recycling.why is not None:
            text = "recycle worker=%s: after %s"
            log.info(text, self._settings.name, self._recycling.why)
        if not execution.endings.refused:
            self._claims.close()

    def _goes_on(self) -> bool:
        recycled = self._recycling.is_due(self._execution.runs)
        ends = self._draining or self._execution.leaks or recycled
        return self._channel.open and not ends

    def _patience(self) -> float | None:
        """Return the seconds for which there is nothing to do; None for ever."""
        due = self._claims.sync_due()
        if due == 0:
            self._sync()
            due = None
        waits = (
            self._execution.endings.refused_for,
            due,
            self._recycling.look_in(self._execution.runs),
        )
        return min((wait for wait in waits if wait is not None), default=None)

    def _receive(self, patience: float | None) -> None:
        """Take what the supervisor says; wait so many seconds for it."""
        for fd, _ in self._poll.poll(None if patience is None else patience * 1000):
            if fd == self._woken:  # by a signal, maybe one that a task handles
                os.read(self._woken, 4096)
                continue
            lines = self._channel.receive()
            self._line_up([line for line in lines if line[0] != "!"])
            for line in lines:
                if line == "!drain":
                    self._draining = True
                elif line == "!share":
                    self._share = True
                # Else !cancel: it has ended meanwhile.

    def _line_up(self, paths: list[str]) -> None:
        """Put what was handed out where it belongs: what is more urgent first."""
        if not paths:
            return
        queue = self._queue
        stem = (queue[-1] if queue else paths[0]).partition("/")[0] + "/"
        is_sorted = all(path.startswith(stem) for path in paths)
        queue.extend(paths)
        if not is_sorted:
            self._queue = deque(sorted(queue, key=_priority))

    def _attend(self, run: Run) -> Attention:
        """Look up from a batch: report, run what is more urgent."""
        self._report()
        self._receive(0)
        while self._goes_on():
            if not self._queue or _priority(self._queue[0]) >= run.claim.name.priority:
                break
            self._execution.handle(self._queue.popleft())
        else:
            return Attention.STOP
        if self._share:
            self._share = False
            return Attention.SHARE
        return Attention.GO_ON

    def _report(self) -> None:
        self._reported = CLOCK.monotonic()
        self._execution.rest()
        if self._execution.endings.settled:
            self._channel.send(self._execution.endings.take_settled())
        if self._claims.sync_due() == 0:
            self._sync()

    def _sync(self) -> None:
        try:
            self._claims.sync()
        except OSError as error:
            log.warning("cannot sync what is done: %s", error)


def _priority(path: str) -> int:
    return int(path[: path.index("/")])


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
    claims = Claims(
        spool,
        settings.name,
        settings.owners,
        require_signature=settings.require_signature,
    )
    hooks.started()  # what it prints belongs to no task
    many = settings.threads > 1 or any(entry.is_async for entry in REGISTRY)
    catching = capture(spool, settings.name, settings.keep_log, many=many)
    channel = Channel(connection)
    if many:
        from .concurrent import ConcurrentWorker  # noqa: PLC0415 (it loads anyio)

        ConcurrentWorker(channel, claims, settings, catching).work()
    else:
        Worker(channel, claims, settings, catching).work()
    if catching is not None:
        catching.close()
    hooks.stopped()
    channel.send(["!leave"])  # now, since to end takes a process some milliseconds
    lock.remove()
