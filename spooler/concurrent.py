"""A worker that runs many tasks at a time.

The event loop has a thread of its own. There tasks are claimed, settled and told of,
and there ``async def`` functions run; plain functions run in the main thread, or in
several threads (``Crew``). So no plain function holds up an async one, and signals
reach the main thread. See docs/decisions/0021-the-loop-has-a-thread.md.
"""

import heapq
import logging
import os
import signal
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any, Final

import anyio
from anyio import from_thread, lowlevel, to_thread
from msgspec.structs import replace

from .batch import Attention
from .capture import Capture
from .channel import Channel, WorkerSettings
from .clock import CLOCK
from .crew import Crew, Job
from .errors import EXIT_FAILED, SoftTimeout
from .execution import UNREADABLE, Execution
from .recycling import Recycling
from .registry import REGISTRY
from .run import BATCH_ENTRY, Run
from .soft_limit import Interruptible, Killed, timed_out
from .spooldir.claims import Claims
from .task import Outcome
from .verification import ASKED, Verification, Verifier

REPORT_EVERY: Final = 0.002
"""Seconds after which the supervisor is told what is settled, if much is."""

LONG: Final = 0.010
"""Seconds after which the supervisor is told that a task runs, so that nobody else
tries to. Must stay below ``watched.STALLED``."""

BEGIN_MAX: Final = 16
"""Tasks that are begun before those that run get a turn."""

END_TIMEOUT: Final = 5.0
"""Seconds that is waited for what tasks have left running in the loop."""

_DRAIN: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

log = logging.getLogger(__name__)


class _CoroutineJob:
    """A run of an async function."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.scope = anyio.CancelScope()
        self.killed = False

    @contextmanager
    def cancellable(self) -> Iterator[None]:
        """Turn a cancellation by ``scope`` into an exception that says why.

        Raises:
            SoftTimeout: The soft limit is over.
            Killed: Somebody wants the run killed.
        """
        seconds = self.run.soft_timeout
        if seconds is not None:
            self.scope.deadline = anyio.current_time() + seconds
        with self.scope:
            yield
        if self.scope.cancelled_caught:
            raise Killed if self.killed else SoftTimeout(seconds or 0.0)


class ConcurrentWorker:
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
        self._recycling = Recycling(settings.max_tasks, settings.max_rss)
        self._execution = Execution(claims, settings, channel.send, catching)
        self._execution.attend = self._attend
        self._crew = Crew(settings.threads, self._execution, self._ended, self._await)
        self._async: list[tuple[int, str, str]] = []
        self._plain: list[tuple[int, str, str]] = []
        self._jobs: dict[str, _CoroutineJob | Job | Verification] = {}
        self._timers: dict[str, anyio.CancelScope] = {}
        self._coroutines = 0
        self._fresh: deque[tuple[float, str]] = deque()
        self._outcomes: deque[tuple[Job, Outcome]] = deque()
        self._reported = CLOCK.monotonic()
        self._draining = False
        self._share = False
        self._left = False
        self._has_asked = False
        self._holds = False
        self._syncing = False
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Both: a handler runs only when the main thread is in Python, and user code
        # may take the descriptor away (an event loop with signal handlers does).
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in _DRAIN:
            signal.signal(number, self._on_signal)

    # -- any thread -------------------------------------------------------------

    def _on_signal(self, number: int, frame: object) -> None:
        self._poke(number)

    def _poke(self, number: int = 0) -> None:
        """Wake the loop."""
        with suppress(BlockingIOError):  # it has enough to wake up for
            os.write(self._writer, bytes([number]))

    def _ended(self, job: Job, outcome: Outcome) -> None:
        self._outcomes.append((job, outcome))
        self._poke()

    def _await(self, coroutine: Coroutine[Any, Any, object]) -> object:
        """Run a coroutine in the loop, from another thread; wait for it.

        If the waiting is interrupted the coroutine is cancelled, or not begun.
        """
        scopes = []
        over = False

        async def wait() -> object:
            if over:
                coroutine.close()
                return None
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                return await coroutine
            return None  # cancelled: whoever waited does not wait any more

        def cancel() -> None:
            nonlocal over
            over = True
            for scope in scopes:
                scope.cancel()

        try:
            return from_thread.run(wait, token=self._token)
        except BaseException:
            from_thread.run_sync(cancel, token=self._token)
            raise

    def _attend(self, run: Run) -> Attention:
        """Look up from a batch."""
        if self._ends():
            return Attention.STOP
        job = self._jobs.get(run.path)
        if job is not None and job.killed:
            return Attention.STOP
        # What is more urgent is begun where the batch was.
        if self._plain and self._plain[0][0] < run.claim.name.priority:
            return Attention.STOP
        if self._share:
            self._share = False
            return Attention.SHARE
        return Attention.GO_ON

    def _ends(self) -> bool:
        """Tell whether nothing more is begun."""
        return self._left or self._draining or not self._channel.open

    # -- the main thread --------------------------------------------------------

    def work(self) -> None:
        """Run tasks until drained, recycled or left alone.

        Call it in the main thread.
        """
        loop = Thread(target=self._loop, name="spooler-loop", daemon=True)
        loop.start()
        self._crew.work()
        loop.join(END_TIMEOUT)

    # -- the thread of the loop -------------------------------------------------

    def _loop(self) -> None:
        try:
            anyio.run(self._dispatch, backend=self._settings.async_backend)
        except BaseException:
            # Without it nothing can be settled; the supervisor recovers what ran.
            log.exception(
                "worker %s ends: its event loop has died", self._claims.worker
            )
            os._exit(EXIT_FAILED)

    async def _dispatch(self) -> None:
        self._token = lowlevel.current_token()
        self._news = anyio.Event()
        self._verifier = Verifier(self._execution, self._ends)
        async with anyio.create_task_group() as self._group:
            self._group.start_soon(self._listen)
            self._group.start_soon(self._look)
            while self._goes_on():
                if self._begin_some():
                    await lowlevel.checkpoint()
                else:
                    await self._wait()
            self._leave()
            while self._jobs or (
                self._execution.endings.refused and self._channel.open
            ):
                await self._wait()
            self._report()
            self._group.cancel_scope.cancel()
        if not self._execution.endings.refused:
            self._claims.close()
        self._crew.stop()

    async def _listen(self) -> None:
        """Take what the supervisor says."""
        while self._channel.open:
            await anyio.wait_readable(self._channel)
            for line in self._channel.receive():
                self._take(line)
            self._news.set()

    def _take(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        match word:
            case "!drain":
                self._draining = True
            case "!cancel":
                self._cancel(rest)
            case "!share":
                self._share = True
            case "!stay":
                self._holds = False
            case _ if line in self._jobs:
                pass  # handed out again before it was known to have begun
            case _ if self._left:
                self._channel.send([f"!back {line}"])
            case _:
                entry = REGISTRY.get(line.split(".", 4)[4])
                is_async = entry is not None and entry.is_async
                priority, _, rest = line.partition("/")
                queue = self._async if is_async else self._plain
                heapq.heappush(queue, (int(priority), rest, line))

    async def _look(self) -> None:
        """Take what other threads and signals have to say."""
        while True:
            await anyio.wait_readable(self._reader)
            data = os.read(self._reader, 4096)
            for number in _DRAIN:  # unless a task handles it now
                if number in data and signal.getsignal(number) == self._on_signal:
                    self._draining = True
            while self._outcomes:
                self._finish(*self._outcomes.popleft())
            self._news.set()

    # -- beginning --------------------------------------------------------------

    def _goes_on(self) -> bool:
        recycled = self._recycling.is_due(self._execution.runs, len(self._jobs))
        if recycled and self._jobs:
            # Others may still be busy with their last runs; they must not be many.
            self._ask_to_leave()
            recycled = False
        ends = self._draining or self._execution.leaks or recycled
        return self._channel.open and not ends

    def _ask_to_leave(self) -> None:
        if not self._has_asked:
            self._has_asked = self._holds = True
            self._channel.send(["!recycle"])

    def _begin_some(self) -> bool:
        """Begin what can start at once; tell whether there may be more of it."""
        if self._holds:
            return False
        for _ in range(BEGIN_MAX):
            busy = len(self._jobs) - self._coroutines
            if self._async and self._coroutines < self._settings.async_concurrency:
                queue = self._async
            elif self._plain and busy < self._settings.threads:
                queue = self._plain
            else:
                return False
            self._begin(heapq.heappop(queue)[2], is_async=queue is self._async)
            if not self._goes_on() or self._holds:
                break
        return True

    def _begin(self, path: str, *, is_async: bool) -> None:
        if path in self._jobs:  # it was handed out twice: its end is told once
            return
        claim = self._execution.claim(path)
        if claim is None:
            return
        try:
            task = self._claims.open(claim, at_once=False)
        except UNREADABLE as error:
            self._execution.unreadable(path, claim, error)
            return
        if self._claims.is_unverified(task):
            job = self._verifier.take(path, claim, task, is_async=is_async)
            if job is not None:
                self._jobs[path] = job
                self._coroutines += job.is_async
                self._fresh.append((CLOCK.monotonic() + LONG, path))
                self._group.start_soon(self._verify, job)
            return
        run = self._execution.begin(path, claim, task)
        if run is not None:
            self._start(run)

    async def _verify(self, job: Verification) -> None:
        """Verify a task, for which nothing in the loop waits; then begin it."""
        run = await self._verifier.verify(job)
        del self._jobs[job.path]
        self._coroutines -= job.is_async
        if run is not None:
            self._start(run)
        self._news.set()

    def _start(self, run: Run) -> None:
        path = run.path
        self._execution.announce(run)
        self._fresh.append((CLOCK.monotonic() + LONG, path))
        if run.entry.is_async:
            job = self._jobs[path] = _CoroutineJob(run)
            self._coroutines += 1
            self._group.start_soon(self._run_coroutine, job)
            return
        plain = self._jobs[path] = self._crew.start(run)
        if plain.block is not None and run.soft_timeout is not None:
            self._timers[path] = timer = anyio.CancelScope()
            interrupt = self._interrupt
            self._group.start_soon(interrupt, plain.block, run.soft_timeout, timer)

    async def _run_coroutine(self, job: _CoroutineJob) -> None:
        outcome = await self._execution.call_coroutine(job.run, job.cancellable())
        if not self._group.cancel_scope.cancel_called:  # else the worker dies
            self._coroutines -= 1
            self._finish(job, outcome)
            self._news.set()

    async def _interrupt(
        self, block: Interruptible, seconds: float, timer: anyio.CancelScope
    ) -> None:
        """Interrupt a function in a thread when its soft limit is over."""
        with timer:
            await anyio.sleep(seconds)
            block.interrupt(timed_out(seconds))

    def _cancel(self, path: str) -> None:
        """End a run that somebody wants killed, if it can be ended."""
        job = self._jobs.get(path)
        if isinstance(job, Verification):
            self._verifier.kill(job)
        elif isinstance(job, _CoroutineJob):
            job.killed = True
            job.scope.cancel()
        elif job is not None and job.run.entry is BATCH_ENTRY:
            job.killed = True  # it ends between two of its lines
        elif job is not None and job.block is not None:
            job.killed = True
            job.block.interrupt(Killed)

    # -- ending -----------------------------------------------------------------

    def _finish(self, job: _CoroutineJob | Job, outcome: Outcome) -> None:
        path = job.run.path
        del self._jobs[path]
        if path in self._timers:
            self._timers.pop(path).cancel()
        if job.killed:
            outcome = replace(ASKED, traceback=outcome.traceback)
        self._execution.finish(job.run, outcome)
        if not self._jobs:  # the others are where they are
            self._execution.go_home()

    def _leave(self) -> None:
        """Give back what was not begun: somebody else may have it, and our place."""
        self._left = True
        waiting = [path for _, _, path in (*self._async, *self._plain)]
        waiting = [path for path in waiting if path not in self._jobs]
        self._channel.send([*(f"!back {path}" for path in waiting), "!leave"])
        if self._recycling.why is not None:
            text = "recycle worker=%s: after %s"
            log.info(text, self._settings.name, self._recycling.why)
        self._async, self._plain = [], []

    # -- news for the supervisor, and waiting -----------------------------------

    async def _wait(self) -> None:
        """Wait until there is something to do; report before."""
        if self._execution.endings.refused:
            self._execution.endings.settle_refused()
        waits = [self._report_some(), self._tell_long(), self._sync_some()]
        waits.append(self._execution.endings.refused_for)
        if not self._left:
            runs = self._execution.runs
            waits.append(self._recycling.look_in(runs, len(self._jobs)))
        patience = min((each for each in waits if each is not None), default=None)
        with anyio.move_on_after(patience):
            await self._news.wait()
        self._news = anyio.Event()

    def _report_some(self) -> float | None:
        """Report if it is time; else return in how many seconds it is."""
        if not self._execution.endings.settled:
            return None
        age = CLOCK.monotonic() - self._reported
        if age < REPORT_EVERY and (self._async or self._plain):
            return REPORT_EVERY - age
        self._report()
        return None

    def _report(self) -> None:
        self._reported = CLOCK.monotonic()
        if self._execution.endings.settled:
            self._channel.send(self._execution.endings.take_settled())

    def _tell_long(self) -> float | None:
        """Tell what runs for longer than a moment."""
        now = CLOCK.monotonic()
        lines = []
        while self._fresh:
            at, path = self._fresh[0]
            runs = path in self._jobs
            if runs and at > now:
                break
            self._fresh.popleft()
            if runs:
                lines.append(f"!run {path}")
        if lines:
            self._channel.send(lines)
        return self._fresh[0][0] - now if self._fresh else None

    def _sync_some(self) -> float | None:
        """Make durable what is done, if it is time; else return in how many seconds."""
        if self._syncing:
            return None
        due = self._claims.sync_due()
        if due != 0:
            return due
        self._syncing = True
        self._group.start_soon(self._sync)
        return None

    async def _sync(self) -> None:
        """Sync in a thread: nothing in the loop waits for the disk."""
        try:
            await to_thread.run_sync(self._claims.sync)
        except OSError as error:
            log.warning("cannot sync what is done: %s", error)
        self._syncing = False
        self._news.set()
