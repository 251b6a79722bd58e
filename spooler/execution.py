"""What a worker does with one task: claim it, check it, run it, settle it.

The same for a worker that runs one task at a time and for one that runs many. A path
is a hint: the claim decides. ``begin`` and ``finish`` belong to one thread; what is
between them, ``call``, may be anywhere.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Final

import msgspec
from msgspec.structs import replace

from . import hooks
from .capture import Capture
from .channel import WorkerSettings
from .clock import CLOCK
from .current import CURRENT, current_task
from .errors import ArgumentsError, ClaimLostError, CorruptError, UsageError
from .logs import escape
from .moments import parse_at
from .options import NO_OPTIONS, RunOptions, over
from .registry import REGISTRY, Entry
from .retry import ignore_delay, merge
from .run_progress import RUNS, forget_progress
from .runner import READ_AGAIN, Guard, Wait, current, run_coroutine, run_task
from .soft_limit import soft_limit
from .spooldir import results
from .spooldir.claims import Claims
from .spooldir.followers import Settling
from .spooldir.limits import Busy, Permit, Permits
from .spooldir.reading import TaskFile
from .task import Claim, Outcome, Verdict, iso

BROKEN: Final = 70
"""Exit status of a child that a task forked and did not end."""

PARKED: Final = Outcome(Verdict.RELEASE)
"""Given back already, since a limit is reached."""

SETTLE_AGAIN: Final = 1.0
"""Seconds until a move that the file system refused is tried again."""

log = logging.getLogger(__name__)


class Run(msgspec.Struct):
    """A claimed task whose function may be called now.

    Attributes:
        path: Where it waited: what the supervisor knows it by.
        options: What its put and its decorator say, together.
        soft_timeout: Seconds; None without a limit.
        hard_timeout: Seconds; None without a limit.
        started_us: When it was begun.
        permit: Leave to run, if its function has limits.
    """

    path: str
    claim: Claim
    task: TaskFile
    entry: Entry
    options: RunOptions
    started_us: int
    soft_timeout: float | None
    hard_timeout: float | None
    permit: Permit | None = None


class Ending(msgspec.Struct):
    """How a claim ends.

    Attributes:
        started_us: When its run began; None if it was not run.
        settling: How far its followers are; None if it has none.
    """

    claim: Claim
    outcome: Outcome
    entry: Entry | None
    options: RunOptions = NO_OPTIONS
    started_us: int | None = None
    settling: Settling | None = None


class Execution:
    """Runs the tasks of one worker.

    Args:
        claims: What the worker holds.
        tell: Sends lines to the supervisor at once.
        capture: Catches what runs print; None if nobody does.
    """

    def __init__(
        self,
        claims: Claims,
        settings: WorkerSettings,
        tell: Callable[[list[str]], None],
        capture: Capture | None = None,
    ) -> None:
        self.claims = claims
        self._settings = settings
        self._tell = tell
        self._capture = capture
        self._permits = Permits(claims.spool)
        self.refused: list[tuple[str, Ending]] = []
        """Moves that the file system refused, to be tried again."""
        self._pid = os.getpid()
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._home = os.open(".", flags)  # noqa: TID251 (not in the spool)
        self._settle_at = 0.0
        self.settled: list[str] = []
        """Paths that are done with, for the supervisor to hear of."""
        self.runs = 0
        """How many tasks were claimed."""
        self.leaks = False
        """Whether tasks have left no descriptor to work with."""

    def handle(self, path: str) -> None:
        """Claim a task, run it in this thread, settle it."""
        run = self.begin(path)
        if run is not None:
            self.finish(run, self.invoke(run))

    # -- before -----------------------------------------------------------------

    def begin(self, path: str) -> Run | None:
        """Claim a task; return it if it is to be run now.

        What cannot run (unreadable, unknown, expired) is settled here.
        """
        try:
            claim = self.claims.claim(path)
        except OSError as error:
            log.warning("cannot claim %s now: %s", escape(path), error)
            claim = None
        if claim is None:
            self.settled.append(path)
            return None
        if log.isEnabledFor(logging.DEBUG):
            name = escape(claim.name.task)
            log.debug("claim task=%s name=%s", claim.name.id, name)
        self.runs += 1
        return self.check(path, claim)

    def check(self, path: str, claim: Claim) -> Run | None:
        """Read a claimed task; return it if it is to be run now."""
        started_us = CLOCK.now_us()
        entry = REGISTRY.get(claim.name.task)
        try:
            task = self.claims.read(claim)
        except CorruptError as error:
            outcome = Outcome(Verdict.REJECT, error.reason)
            self.conclude(path, Ending(claim, outcome, entry))
            return None
        except OSError as error:
            self._look_for_leaks()
            text = f"cannot be read now: {error}"
            outcome = Outcome(Verdict.RELEASE, text, after=READ_AGAIN)
            self.conclude(path, Ending(claim, outcome, entry))
            return None
        options = over(task.header.options, entry.run if entry else NO_OPTIONS)
        if _is_expired(options, claim, task):
            outcome = Outcome(Verdict.FAIL, "it was not begun in time", "expired")
        elif entry is None:
            age = started_us / 1e6 - task.mtime_ns / 1e9
            text = "no function of that name here"
            outcome = Outcome(Verdict.RELEASE, text, after=ignore_delay(age))
        else:
            permit = None
            if entry.limits is not None:
                permit = self._ask(path, claim, task, entry)
            if not isinstance(permit, Outcome):
                soft = options.soft_timeout or self._settings.soft_timeout
                hard = options.hard_timeout or self._settings.hard_timeout
                return Run(
                    path, claim, task, entry, options, started_us, soft, hard, permit
                )
            outcome = permit
        task.close()
        if outcome is PARKED:
            return None
        self.conclude(path, Ending(claim, outcome, entry, options))
        return None

    def _ask(
        self, path: str, claim: Claim, task: TaskFile, entry: Entry
    ) -> Permit | Outcome | None:
        """Ask for leave to run; else return what is to become of the task."""
        limits = entry.limits
        try:
            arguments = entry.arguments.decode(task.header.args)
        except ArgumentsError:
            return None  # the run itself will say so
        if limits is None:
            return None
        try:
            found = self._permits.acquire(limits, entry.name, arguments)
            if isinstance(found, Busy):
                self.claims.park(claim)
        except UsageError as error:
            return Outcome(Verdict.FAIL, f"UsageError: {error}", "arguments")
        except ClaimLostError as error:
            log.warning("%s: somebody recovered or removed it", error)
            self.settled.append(path)
            return PARKED
        except OSError as error:
            text = f"cannot ask for its limit now: {error}"
            return Outcome(Verdict.RELEASE, text, after=READ_AGAIN)
        if isinstance(found, Busy):
            seconds = "-" if found.seconds is None else found.seconds
            self._tell([f"!park {found.limit} {seconds} {path}"])
            return PARKED
        self._tell([f"!go {limit}" for limit in found.limits])
        return found

    # -- the run ----------------------------------------------------------------

    def invoke(self, run: Run) -> Outcome:
        """Call a task's function in this thread, the main one; return how it ended."""
        self.announce(run)
        seconds = run.soft_timeout
        outcome = self.call(run, None if seconds is None else soft_limit(seconds))
        self.go_home()
        return outcome

    def announce(self, run: Run) -> None:
        """Tell those who must know that a run begins now."""
        if run.hard_timeout is not None:
            self._tell([f"!limit {run.hard_timeout} {run.path}"])
        if self._capture is not None:
            name = run.claim.name
            self._capture.begin(name.id, name.attempt + 1)

    def call(self, run: Run, guard: Guard | None, wait: Wait = asyncio.run) -> Outcome:
        """Call a task's function in this thread, any one; return how it ended.

        Args:
            guard: Interrupts it.
            wait: Runs what it returns that is to be awaited.
        """
        # A context of its own: what a task sets in one is not for the next task.
        outcome = copy_context().run(self._run, run, guard, wait)
        self._end_child()
        return outcome

    def _run(self, run: Run, guard: Guard | None, wait: Wait) -> Outcome:
        self._enter(run)
        keep = run.options.keep_result is not None
        outcome = run_task(run.entry, run.claim, run.task, guard, keep=keep, wait=wait)
        if hooks.AFTER or hooks.FAILURE:
            hooks.after(current_task(), outcome)
        return outcome

    async def call_coroutine(self, run: Run, guard: Guard) -> Outcome:
        """Await a task's coroutine function; return how it ended.

        Call it in a context of its own, as each task of an event loop has one.
        """
        self._enter(run)
        keep = run.options.keep_result is not None
        outcome = await run_coroutine(run.entry, run.claim, run.task, guard, keep=keep)
        if hooks.AFTER or hooks.FAILURE:
            hooks.after(current_task(), outcome)
        self._end_child()
        return outcome

    def _enter(self, run: Run) -> None:
        task = current(run.claim, run.task, self.claims.spool, run.hard_timeout)
        CURRENT.set(task)
        if hooks.BEFORE:
            hooks.before(task)

    def _end_child(self) -> None:
        """End this process if it is a child that the task has forked."""
        if os.getpid() != self._pid:
            os._exit(BROKEN)

    def go_home(self) -> None:
        """Go back to where the daemon was started, for the next task."""
        os.fchdir(self._home)

    # -- after ------------------------------------------------------------------

    def finish(self, run: Run, outcome: Outcome) -> None:
        """Settle a task that was run."""
        self._end_output(run, outcome)
        if outcome.verdict is Verdict.RETRY:
            self._look_for_leaks()
        if outcome.verdict is Verdict.RELEASE and outcome.after is None:
            age = CLOCK.now_us() / 1e6 - run.task.mtime_ns / 1e9
            outcome = replace(outcome, after=ignore_delay(age))
        run.task.close()
        ending = Ending(run.claim, outcome, run.entry, run.options, run.started_us)
        self.conclude(run.path, ending)
        if run.permit is not None:
            run.permit.release()
            if run.permit.slot is not None:
                self._tell([f"!free {run.permit.slot}"])

    def _end_output(self, run: Run, outcome: Outcome) -> None:
        """Keep what the run printed, if that is wanted; forget its progress."""
        name = run.claim.name
        if RUNS:
            forget_progress(name.id)
        if self._capture is not None:
            succeeded = outcome.verdict not in (Verdict.RETRY, Verdict.FAIL)
            keep = run.options.keep_log
            self._capture.end(name.id, name.attempt + 1, succeeded=succeeded, keep=keep)

    def _look_for_leaks(self) -> None:
        """Notice whether tasks have left no descriptor to work with."""
        try:
            os.close(os.dup(self._home))
        except OSError as error:
            log.warning("drain worker=%s: %s", self._settings.name, error)
            self.leaks = True

    def conclude(self, path: str, ending: Ending) -> None:
        """End a claim: every claim ends here."""
        if ending.outcome.verdict is Verdict.RETRY:
            ending = self._retry_or_fail(ending)
        self.settle(path, ending)
        # Refused or not, it runs no more: what else waits may make room.
        self.settled.append(path)

    def _retry_or_fail(self, ending: Ending) -> Ending:
        """Return it with a delay, or failed since no attempt is left."""
        policy, outcome = self._settings.retry, ending.outcome
        if ending.entry is not None:
            policy = merge(policy, ending.entry.retry)
        attempt = ending.claim.name.attempt + 1
        if policy.exhausted(attempt):
            outcome = replace(outcome, verdict=Verdict.FAIL)
        elif outcome.after is None:
            outcome = replace(outcome, after=policy.delay(attempt))
        return replace(ending, outcome=outcome)

    def settle(self, path: str, ending: Ending) -> None:
        """Make the last move of a claim, or keep it for later if it is refused."""
        try:
            self._settle(ending)
        except ClaimLostError as error:
            log.warning("%s: somebody recovered or removed it", error)
        except OSError as error:
            log.error("cannot settle %s now: %s", escape(path), error)
            self.refused.append((path, ending))
            self._settle_at = CLOCK.monotonic() + SETTLE_AGAIN

    @property
    def refused_for(self) -> float | None:
        """Seconds until ``settle_refused`` is due; None if nothing was refused."""
        if not self.refused:
            return None
        return max(0.0, self._settle_at - CLOCK.monotonic())

    def settle_refused(self) -> None:
        """Try the moves again that the file system has refused, if it is time."""
        if CLOCK.monotonic() < self._settle_at:
            return
        refused, self.refused = self.refused, []
        for path, ending in refused:
            self.settle(path, ending)
            self.settled.append(path)

    def _settle(self, ending: Ending) -> None:
        claim, outcome = ending.claim, ending.outcome
        now_us = CLOCK.now_us()
        due_us = now_us + int((outcome.after or 0.0) * 1e6)
        started_us = ending.started_us
        match outcome.verdict:
            case Verdict.ACK:
                if ending.options is NO_OPTIONS:
                    self.claims.ack(claim)
                else:
                    self._end(ending, lambda: self.claims.ack(claim), now_us)
            case Verdict.AGAIN:
                self.claims.again(claim, due_us=due_us)
            case Verdict.RELEASE:
                self.claims.release(claim, due_us=due_us)
            case Verdict.RETRY:
                self.claims.retry(claim, outcome, due_us=due_us, started_us=started_us)
            case Verdict.FAIL:
                self._end(
                    ending,
                    lambda: self.claims.fail(claim, outcome, started_us=started_us),
                    now_us,
                )
            case Verdict.REJECT:
                self.claims.reject(claim, outcome.error)
        took_us = 0 if started_us is None else now_us - started_us
        _tell(claim, outcome, took_us, due_us)

    def _end(self, ending: Ending, move: Callable[[], None], now_us: int) -> None:
        """Make the last move of a task, with all that goes before and after it."""
        options, succeeded = ending.options, ending.outcome.verdict is Verdict.ACK
        if options.keep_result is not None:
            self._keep_result(ending, options.keep_result)
        followers = options.then if succeeded else options.on_failure
        if not followers:
            move()
            return
        if ending.settling is None:
            ending.settling = Settling(
                self.claims.spool,
                self.claims.folder,
                ending.claim.name,
                followers,
                "then" if succeeded else "on_failure",
                now_us,
            )
        ending.settling.settle(move)

    def _keep_result(self, ending: Ending, seconds: float) -> None:
        name, outcome = ending.claim.name, ending.outcome
        problem = results.keep(
            self.claims.spool,
            name,
            ok=outcome.verdict is Verdict.ACK,
            value=outcome.value,
            error=outcome.error,
            reason=outcome.reason,
            traceback=outcome.traceback,
            attempt=name.attempt + (ending.started_us is not None),
            started_us=ending.started_us,
            seconds=seconds,
        )
        if problem is not None:
            text = "result of task=%s name=%s is not kept: %s"
            log.warning(text, name.id, escape(name.task), escape(problem))


def _is_expired(options: RunOptions, claim: Claim, task: TaskFile) -> bool:
    if options.expires is None or claim.name.attempt:
        return False
    return parse_at(options.expires, task.mtime_ns // 1000) < CLOCK.now_us()


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
