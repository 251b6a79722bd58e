"""The line between a worker and its supervisor, and what a worker is told first."""

import os
import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from threading import Lock

from .config import AsyncBackend, KeepLog
from .retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told when it is made; it travels as JSON.

    Attributes:
        name: The worker's name, new for each life.
        owners: The uids whose files count as tasks.
        max_tasks: Runs after which it ends, to be replaced; 0 for never.
        max_rss: Bytes of memory above which it ends; 0 for any size.
        soft_timeout: Seconds after which a run is interrupted that has no limit of
            its own.
        hard_timeout: Seconds after which its worker is killed.
        keep_log: Whose logs are kept: failed, always or never.
        threads: Plain functions that run at a time.
        async_concurrency: Async functions that run at a time.
        async_backend: The event loop for them.
        require_signature: Tasks that are not signed are put aside.
    """

    name: str
    daemon: str
    spool: str
    owners: list[int]
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_tasks: int = 0
    max_rss: int = 0
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    keep_log: KeepLog = "failed"
    threads: int = 1
    async_concurrency: int = 100
    async_backend: AsyncBackend = "asyncio"
    require_signature: bool = False


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """How one spool is served: for attributes not listed see ``WorkerSettings``.

    Attributes:
        workers: How many.
        async_concurrency: As there, if there are async functions.
    """

    workers: int = 1
    owners: Collection[int] = frozenset()
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_tasks: int = 0
    max_rss: int = 0
    soft_timeout: float | None = None
    keep_log: KeepLog = "failed"
    threads: int = 1
    async_concurrency: int = 100
    async_backend: AsyncBackend = "asyncio"
    hard_timeout: float | None = None
    require_signature: bool = False

    def for_worker(self, name: str, daemon: str, spool: str) -> WorkerSettings:
        """Return what a worker is told."""
        return WorkerSettings(
            name=name,
            daemon=daemon,
            spool=spool,
            owners=sorted(self.owners),
            retry=self.retry,
            max_tasks=self.max_tasks,
            max_rss=self.max_rss,
            soft_timeout=self.soft_timeout,
            keep_log=self.keep_log,
            threads=self.threads,
            async_concurrency=self.async_concurrency,
            async_backend=self.async_backend,
            hard_timeout=self.hard_timeout,
            require_signature=self.require_signature,
        )


class Channel:
    """A worker's end of the line to its supervisor: lines of text both ways.

    To the worker come paths of waiting tasks, and

    * ``!drain``: finish what runs, begin nothing more;
    * ``!cancel <path>``: end that run, if it can be ended;
    * ``!stay``: it is not replaced yet, go on; ``!drain`` follows when it can be;
    * ``!share``: another worker has nothing to do; cut the batch that runs.

    From it come paths that are settled, and

    * ``!limit <seconds> <path>`` before a run with a time limit; 0 ends the limit;
    * ``!park <hash> <seconds> <path>``: the task was given back, since a limit is
      reached; look again after so many seconds, or (``-``) when a slot is free;
    * ``!run <path>``: it runs, for longer than a moment; nobody else need try;
    * ``!lost <path>``: it was gone already; somebody else has it;
    * ``!back <path>``: it will not be begun here; others may have it at once;
    * ``!recycle``: it has done enough, but something runs; it waits for an answer;
    * ``!leave``: nothing more will be begun here; another worker may take this place;
    * ``!go <hash>`` and ``!free <hash>``: a run under that limit begins, has ended.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = Lock()
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
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        return os.fsdecode(whole).split("\n") if newline else []

    def send(self, lines: list[str]) -> None:
        """Send lines; nobody listening is not an error."""
        try:
            with self._sending:  # or the lines of two threads could mix
                self._connection.sendall(os.fsencode("\n".join(lines) + "\n"))
        except OSError:
            self.open = False
