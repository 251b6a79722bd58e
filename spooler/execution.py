"""What a worker does with one task: claim it, check it, run it, settle it.

The same for a worker that runs one task at a time and for one that runs many. A path
is a hint: the claim decides. ``claim``, ``begin`` and ``finish`` belong to one thread;
``call``, before the last, may be anywhere.
"""

import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from typing import Final

from msgspec.structs import replace

from . import batch, hooks
from .batch import Attention
from .capture import Capture
from .channel import WorkerSettings
from .clock import CLOCK
from .codec import Header
from .current import CURRENT
from .ending import Ending, Endings, tell
from .errors import (
    ArgumentsError,
    ClaimLostError,
    CorruptError,
    KeyFileError,
    UsageError,
)
from .logs import escape
from .options import NO_OPTIONS, RunOptions, over
from .registry import REGISTRY, Entry
from .retry import ignore_delay
from .run import BATCH_ENTRY, FORKS, Run, is_expired, run_here
from .run_progress import RUNS, forget_progress
from .runner import (
    ACKED,
    READ_AGAIN,
    Guard,
    Wait,
    run_coroutine,
    wait_here,
)
from .soft_limit import soft_limit
from .spooldir.claims import Claims
from .spooldir.limits import Busy, Permit, Permits
from .spooldir.reading import TaskFile
from .task import BATCH, Claim, Outcome, Verdict

BROKEN: Final = 70
"""Exit status of a child that a task forked and did not end."""

PARKED: Final = Outcome(Verdict.RELEASE)
"""Given back already, since a limit is reached."""

CLAIM_AGAIN: Final = 1.0
"""Seconds until a claim that the file system refused is tried again."""

_REFUSED_MAX: Final = 1000
"""How many tasks it is remembered of that this was logged."""

_LOST: Final = (Verdict.RETRY, Verdict.FAIL)

UNREADABLE: Final = (CorruptError, KeyFileError, OSError)
"""What to open a task may raise."""

Limit = Callable[[float], Guard]
"""Makes what interrupts a run after so many seconds."""

log = logging.getLogger(__name__)


class Execution:
    """Runs the tasks of one worker.

    Args:
        claims: What the worker holds.
        tell: Sends lines to the supervisor at once.
        capture: Catches what runs print; None if nobody does.
        endings: Makes the last moves.
    """

    def __init__(
        self,
        claims: Claims,
        settings: WorkerSettings,
        tell: Callable[[list[str]], None],
        capture: Capture | None = None,
        endings: Endings | None = None,
    ) -> None:
        self.claims = claims
        self._settings = settings
        self.tell = tell
        self._capture = capture
        self._permits = Permits(claims.spool)
        self.endings = endings or Endings(claims, settings.retry)
        self.attend: Callable[[Run], Attention] = _nothing_else
        """Looks up from a batch, to be replaced by the worker."""
        self._debugs = log.isEnabledFor(logging.DEBUG)
        self._forks = FORKS.count
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._home = os.open(".", flags)  # noqa: TID251 (not in the spool)
        self.runs = 0
        """How many runs were begun."""
        self.leaks = False
        """Whether tasks have left no descriptor to work with."""
        self._over: list[str] = []
        self._refused: set[str] = set()

    def handle(self, path: str) -> None:
        """Claim a task, run it in this thread, the main one, and settle it."""
        claim = self.claim(path)
        run = None if claim is None else self.begin(path, claim)
        if run is None:
            return
        self.announce(run)
        seconds = run.soft_timeout
        guard = None if seconds is None else soft_limit(seconds)
        outcome = self.call(run, guard, home=True)
        self.go_home()
        self.finish(run, outcome)

    # -- before -----------------------------------------------------------------

    def claim(self, path: str) -> Claim | None:
        """Claim a task; None if that cannot be, which is told."""
        try:
            claim = self.claims.claim(path)
        except OSError as error:
            self._refuse(path, error)
            return None
        if claim is None:
            self.endings.settled.append(f"!lost {path}")
            return None
        if self._debugs:
            name = escape(claim.name.task)
            log.debug("claim task=%s name=%s", claim.name.id, name)
        return claim

    def begin(
        self, path: str, claim: Claim, task: TaskFile | None = None
    ) -> Run | None:
        """Read a claimed task as ``check`` does, and count it if it is to be run."""
        run = self.check(path, claim, task)
        if run is not None and run.entry is not BATCH_ENTRY:  # its lines are counted
            self.runs += 1
        return run

    def _refuse(self, path: str, error: OSError) -> None:
        """Have a task that cannot be claimed now be handed out again in a while."""
        known = path in self._refused
        if len(self._refused) < _REFUSED_MAX:
            self._refused.add(path)
        level = logging.DEBUG if known else logging.WARNING
        log.log(level, "cannot claim %s now: %s", escape(path), error)
        task_id = path.rpartition("/")[2].split(".")[3]
        self.tell([f"!park {task_id} {CLAIM_AGAIN} {path}"])

    def check(
        self, path: str, claim: Claim, task: TaskFile | None = None
    ) -> Run | None:
        """Read a claimed task; return it if it is to be run now.

        What cannot run (unreadable, unknown, expired) is settled here.

        Args:
            task: Its file, if it is open already, and verified.
        """
        started_us = CLOCK.now_us()
        _, _, attempt, task_id, name = claim.file.split(".", 4)
        entry = REGISTRY.find(name) if name != BATCH else BATCH_ENTRY
        try:
            if task is None:
                task = self.claims.open(claim)
            if entry is not None and entry.is_plain and len(task.data) == task.size:
                values = entry.arguments.decode_whole(task.data, task_id)
                if values is not None:
                    run = self.prepare(path, claim, task, entry, NO_OPTIONS, started_us)
                    run.values = values
                    run.alone = attempt == "0"
                    return run
            header = self._header(task, claim)
        except UNREADABLE as error:
            self.unreadable(path, claim, error)
            return None
        options = over(header.options, entry.run if entry else NO_OPTIONS)
        return self._look_at(path, claim, task, entry, options, started_us)

    def _look_at(
        self,
        path: str,
        claim: Claim,
        task: TaskFile,
        entry: Entry | None,
        options: RunOptions,
        started_us: int,
    ) -> Run | None:
        """Return a task's run, if it is to be run now; else settle it."""
        if is_expired(options, claim, task):
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
                run = self.prepare(path, claim, task, entry, options, started_us)
                run.permit = permit
                return run
            outcome = permit
        task.close()
        if outcome is PARKED:
            return None
        self.endings.conclude(Ending(path, claim, outcome, entry, options))
        return None

    def _header(self, task: TaskFile, claim: Claim) -> Header:
        try:
            if claim.signed:
                self.claims.agree(claim, task.header)
            return task.header
        except BaseException:
            task.close()
            raise

    def unreadable(
        self, path: str, claim: Claim, error: CorruptError | KeyFileError | OSError
    ) -> None:
        """Settle a claimed task that could not be read."""
        if isinstance(error, CorruptError):
            outcome = Outcome(Verdict.REJECT, error.reason)
        else:
            self._look_for_leaks()
            text = f"cannot be read now: {error}"
            outcome = Outcome(Verdict.RELEASE, text, after=READ_AGAIN)
        self.endings.conclude(Ending(path, claim, outcome, None))

    def prepare(
        self,
        path: str,
        claim: Claim,
        task: TaskFile,
        entry: Entry,
        options: RunOptions,
        started_us: int,
    ) -> Run:
        """Return a run with the limits that hold for it."""
        spool, soft, hard = self.claims.spool, None, None
        if entry is not BATCH_ENTRY:  # for which they hold for each of its lines
            soft = options.soft_timeout or self._settings.soft_timeout
            hard = options.hard_timeout or self._settings.hard_timeout
        return Run(
            path,
            claim,
            task,
            entry,
            options,
            started_us,
            soft,
            hard,
            spool,
            tell=self.tell,
            is_limited=hard is not None,
        )

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
            self.endings.settled.append(path)
            return PARKED
        except OSError as error:
            text = f"cannot ask for its limit now: {error}"
            return Outcome(Verdict.RELEASE, text, after=READ_AGAIN)
        if isinstance(found, Busy):
            seconds = "-" if found.seconds is None else found.seconds
            self.tell([f"!park {found.limit} {seconds} {path}"])
            return PARKED
        self.tell([f"!go {limit}" for limit in found.limits])
        return found

    # -- the run ----------------------------------------------------------------

    def announce(self, run: Run) -> None:
        """Tell those who must know that a run begins now."""
        if self._over or run.hard_timeout is not None:
            self._tell_limits(run)
        if self._capture is not None and run.entry is not BATCH_ENTRY:
            self._capture.begin(run.claim)

    def _tell_limits(self, run: Run) -> None:
        # That the last one has ended is told later: its limit must not end this one.
        over, self._over = self._over, []
        lines = [f"!limit 0 {path}" for path in over]
        if run.hard_timeout is not None:
            lines.append(f"!limit {run.hard_timeout} {run.path}")
        self.tell(lines)

    def call(
        self,
        run: Run,
        guard: Guard | None,
        wait: Wait = wait_here,
        limit: Limit = soft_limit,
        *,
        home: bool = False,
    ) -> Outcome:
        """Call a task's function in this thread, any one; return how it ended.

        Args:
            guard: Interrupts it.
            wait: Runs what it returns that is to be awaited.
            limit: Makes what interrupts a line of a batch.
            home: Go home after each line of a batch.
        """
        if run.entry is BATCH_ENTRY:
            host = _Host(self, run, wait, limit, home=home)
            with guard or nullcontext():
                run.claim, outcome = batch.run(host, self.claims, run.claim, run.task)
            return outcome
        # A context of its own: what a task sets in one is not for the next task.
        outcome = copy_context().run(run_here, run, guard, wait)
        if FORKS.count != self._forks:
            os._exit(BROKEN)  # a child that the task has forked
        return outcome

    async def call_coroutine(self, run: Run, guard: Guard) -> Outcome:
        """Await a task's coroutine function; return how it ended.

        Call it in a context of its own, as each task of an event loop has one.
        """
        CURRENT.set(run.current)
        ahead = hooks.CHECKS or hooks.BEFORE
        outcome = hooks.before(run.current()) if ahead else None
        if outcome is None:
            keep = run.options.keep_result is not None
            outcome = await run_coroutine(
                run.entry, run.claim, run.task, run.values, guard, keep=keep
            )
        if hooks.AFTER or hooks.FAILURE:
            hooks.after(run.current(), outcome)
        if FORKS.count != self._forks:
            os._exit(BROKEN)  # a child that the task has forked
        return outcome

    def go_home(self) -> None:
        """Go back to where the daemon was started, for the next task."""
        os.fchdir(self._home)

    # -- after ------------------------------------------------------------------

    def finish(self, run: Run, outcome: Outcome) -> None:
        """Settle a task that was run."""
        if run.entry is not BATCH_ENTRY:
            self.end_output(run, outcome)
            if outcome is not ACKED:
                outcome = self.complete(run.task, outcome)
        run.task.close()
        if run.is_limited:
            self._over.append(run.path)
        alone = outcome is ACKED and run.alone
        if not alone or not self.endings.ack(run.path, run.claim, run.started_us):
            ending = (run.path, run.claim, outcome, run.entry, run.options)
            self.endings.conclude(Ending(*ending, run.started_us))
        if run.permit is not None:
            run.permit.release()
            if run.permit.slot is not None:
                self.tell([f"!free {run.permit.slot}"])

    def complete(self, task: TaskFile, outcome: Outcome) -> Outcome:
        """Return the outcome of a run with what it leaves open."""
        if outcome.verdict is Verdict.RETRY:
            self._look_for_leaks()
        if outcome.verdict is Verdict.RELEASE and outcome.after is None:
            age = CLOCK.now_us() / 1e6 - task.mtime_ns / 1e9
            return replace(outcome, after=ignore_delay(age))
        return outcome

    def end_output(self, run: Run, outcome: Outcome) -> None:
        """Keep what the run printed, if that is wanted; forget its progress."""
        if RUNS:
            forget_progress(run.claim.name.id)
        if self._capture is not None:
            succeeded = outcome is ACKED or outcome.verdict not in _LOST
            keep = run.options.keep_log
            self._capture.end(run.claim, succeeded=succeeded, keep=keep)

    def rest(self) -> None:
        """Do what was left for when there is nothing to run."""
        if self._capture is not None:
            self._capture.rest()

    def _look_for_leaks(self) -> None:
        """Notice whether tasks have left no descriptor to work with."""
        try:
            os.close(os.dup(self._home))
        except OSError as error:
            log.warning("drain worker=%s: %s", self._settings.name, error)
            self.leaks = True


class _Host:
    """Runs the lines of a batch (``batch.Host``)."""

    def __init__(
        self, execution: Execution, run: Run, wait: Wait, limit: Limit, *, home: bool
    ) -> None:
        self._execution = execution
        self._run = run
        self._wait = wait
        self._limit = limit
        self._home = home

    def run_line(
        self,
        claim: Claim,
        task: TaskFile,
        entry: Entry,
        values: dict[str, object] | None,
    ) -> Outcome:
        """Run a line in place; settle nothing."""
        execution, path = self._execution, self._run.path
        started_us = CLOCK.now_us()
        options = entry.run
        if values is None:
            options = over(task.header.options, options)
        line = execution.prepare(path, claim, task, entry, options, started_us)
        line.values = values
        execution.runs += 1
        outcome = self._invoke(line)
        execution.end_output(line, outcome)
        if line.is_limited:
            execution.tell([f"!limit 0 {path}"])
        if outcome.verdict is Verdict.ACK:
            now_us = CLOCK.now_us()
            tell(claim, outcome, now_us - started_us, now_us)
        return outcome

    def _invoke(self, run: Run) -> Outcome:
        self._execution.announce(run)
        seconds = run.soft_timeout
        guard = None if seconds is None else self._limit(seconds)
        outcome = self._execution.call(run, guard, self._wait, self._limit)
        if self._home:
            self._execution.go_home()
        return outcome

    def settle_line(
        self,
        claim: Claim,
        task: TaskFile,
        entry: Entry | None,
        outcome: Outcome,
        started_us: int | None,
    ) -> None:
        """Settle a line that has become a task of its own."""
        outcome = self._execution.complete(task, outcome)
        options = over(task.header.options, entry.run if entry else NO_OPTIONS)
        self._execution.endings.conclude(
            Ending(None, claim, outcome, entry, options, started_us)
        )

    def run_claim(self, claim: Claim) -> None:
        """Check, run and settle a task that this worker holds."""
        path = f"{claim.name.folder}/{claim.file}"
        run = self._execution.check(path, claim)
        if run is not None:
            self._execution.runs += 1
            self._execution.finish(run, self._invoke(run))

    def attend(self) -> Attention:
        """Look up from the batch."""
        return self._execution.attend(self._run)


def _nothing_else(run: Run) -> Attention:
    """Look up from a batch where there is nothing to be seen."""
    return Attention.GO_ON
