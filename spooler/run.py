"""One run of a task: what it needs, and the call of its function."""

import os
from collections.abc import Callable
from typing import Final

import msgspec

from . import hooks
from .arguments import Arguments
from .clock import CLOCK
from .current import CURRENT, CurrentTask
from .moments import parse_at
from .options import RunOptions
from .registry import Entry, Kind
from .runner import Guard, Wait, current, run_task
from .spooldir import SpoolDir
from .spooldir.limits import Permit
from .spooldir.reading import TaskFile
from .task import BATCH, Claim, Outcome


class Run(msgspec.Struct):
    """A claimed task whose function may be called now.

    Attributes:
        path: Where it waited: what the supervisor knows it by.
        options: What its put and its decorator say, together.
        soft_timeout: Seconds; None without a limit.
        hard_timeout: Seconds; None without a limit.
        started_us: When it was begun.
        permit: Leave to run, if its function has limits.
        values: Its arguments, if there is nothing else in its file.
        alone: It leaves nothing but its file when it has succeeded.
        known: What its function can ask about it, if it has.
        tell: Sends lines to the supervisor at once.
        is_limited: It has a time limit that ends with it.
    """

    path: str
    claim: Claim
    task: TaskFile
    entry: Entry
    options: RunOptions
    started_us: int
    soft_timeout: float | None
    hard_timeout: float | None
    spool: SpoolDir
    permit: Permit | None = None
    values: dict[str, object] | None = None
    alone: bool = False
    known: CurrentTask | None = None
    tell: Callable[[list[str]], None] | None = None
    is_limited: bool = False

    def current(self) -> CurrentTask:
        """Return what its function can ask about it."""
        if self.known is None:
            self.known = current(
                self.claim, self.task, self.spool, self.hard_timeout, self.started_us
            )
        return self.known

    def limit(self, seconds: float) -> None:
        """Have the worker killed so many seconds from now, unless the run has ended.

        A hard limit that it has already stays.

        Args:
            seconds: 0 to take the last such limit back.
        """
        limits = [seconds] if seconds > 0 else []
        if self.hard_timeout is not None:
            over = (CLOCK.now_us() - self.started_us) / 1e6
            limits.append(max(0.001, self.hard_timeout - over))
        self.is_limited = True
        if self.tell is not None:
            self.tell([f"!limit {min(limits, default=0)} {self.path}"])


def running() -> Run | None:
    """Return the run whose function has called; None if it is no task's."""
    run = getattr(CURRENT.get(), "__self__", None)
    return run if isinstance(run, Run) else None


class Forks:
    """How many forks lie between this process and the first one."""

    def __init__(self) -> None:
        self.count = 0
        os.register_at_fork(after_in_child=self._add)

    def _add(self) -> None:
        self.count += 1


FORKS: Final = Forks()


def run_here(run: Run, guard: Guard | None, wait: Wait) -> Outcome:
    """Call a task's function, in a context of its own; return how it ended."""
    CURRENT.set(run.current)
    ahead = hooks.CHECKS or hooks.BEFORE
    outcome = hooks.before(run.current()) if ahead else None
    if outcome is None:
        keep = run.options.keep_result is not None
        outcome = run_task(
            run.entry, run.claim, run.task, run.values, guard, keep=keep, wait=wait
        )
    if hooks.AFTER or hooks.FAILURE:
        hooks.after(run.current(), outcome)
    return outcome


def _batch() -> None:
    """Stand for the function of a batch, which has none."""


BATCH_ENTRY: Final = Entry(BATCH, _batch, Kind.TASK, Arguments(_batch, BATCH))
"""What a batch is registered as, everywhere."""


def is_expired(options: RunOptions, claim: Claim, task: TaskFile) -> bool:
    """Tell whether a task that has not been run yet must not be begun any more."""
    if options.expires is None or claim.name.attempt:
        return False
    put_us = task.mtime_ns // 1000
    if claim.signed and task.header.signed is not None:  # which nobody can change
        put_us = int(task.header.signed * 1e6)
    try:
        return parse_at(options.expires, put_us) < CLOCK.now_us()
    except ValueError:  # it was a moment when it was read, but +N may be too late now
        return False
