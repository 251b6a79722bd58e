"""Large signed tasks that a worker verifies before it runs them, beside its loop.

One at a time: more would wait for the same disk. A second one is given back and waits
as for a limit, so that it takes no place here and another worker may have it.
"""

import errno
import os
from collections.abc import Callable
from typing import Final

import anyio
from anyio import to_thread

from .ending import Ending
from .errors import ClaimLostError, CorruptError, KeyFileError
from .execution import UNREADABLE, Execution
from .options import NO_OPTIONS, over
from .registry import REGISTRY
from .run import Run
from .runner import READ_AGAIN
from .spooldir.kills import KILLED
from .spooldir.reading import TaskFile
from .task import BATCH, Claim, Outcome, Verdict

LIMIT: Final = "verification"
"""What the supervisor hears that others wait for: no hash, as those of limits are."""

ASKED: Final = Outcome(Verdict.FAIL, "an operator had it killed", KILLED)

_Problem = CorruptError | KeyFileError | OSError


class Verification:
    """A task that is verified.

    Attributes:
        path: Where it waited.
        is_async: Whether its function is.
        killed: Whether it is not to be run, since somebody wants it killed.
    """

    def __init__(
        self, path: str, claim: Claim, task: TaskFile, *, is_async: bool
    ) -> None:
        self.path = path
        self.claim = claim
        self.task = task
        self.is_async = is_async
        self.killed = False


class Verifier:
    """Verifies the large signed tasks of one worker. For the thread of the loop.

    What it takes it settles, and closes, unless that is to be run.

    Args:
        ends: Tells whether the worker begins nothing more.
    """

    def __init__(self, execution: Execution, ends: Callable[[], bool]) -> None:
        self._execution = execution
        self._ends = ends
        self._busy = False
        # Its own: a thread is there, however many the tasks keep busy.
        self._limiter = anyio.CapacityLimiter(1)

    def take(
        self, path: str, claim: Claim, task: TaskFile, *, is_async: bool
    ) -> Verification | None:
        """Take a task that is to be verified; None if it must wait, which is told."""
        execution = self._execution
        if not self._busy:
            self._busy = True
            execution.tell([f"!go {LIMIT}"])
            return Verification(path, claim, task, is_async=is_async)
        task.close()
        try:
            execution.claims.park(claim)
        except (ClaimLostError, OSError) as error:
            text = f"cannot wait for its verification: {error}"
            outcome = Outcome(Verdict.RELEASE, text, after=READ_AGAIN)
            execution.endings.conclude(Ending(path, claim, outcome, None))
        else:
            execution.tell([f"!park {LIMIT} - {path}"])
        return None

    async def verify(self, job: Verification) -> Run | None:
        """Verify a task that was taken; return its run, if it is to be run now."""
        verify, limiter = self._verify, self._limiter
        problem = await to_thread.run_sync(verify, job, limiter=limiter)
        self._busy = False
        self._execution.tell([f"!free {LIMIT}"])
        if problem is not None:
            self._execution.unreadable(job.path, job.claim, problem)
        elif job.killed:
            self._give_up(job)
        elif self._ends():
            job.task.close()
            outcome = Outcome(Verdict.RELEASE, "its worker ends before it")
            self._execution.endings.conclude(Ending(job.path, job.claim, outcome, None))
        else:
            return self._execution.begin(job.path, job.claim, job.task)
        return None

    def _verify(self, job: Verification) -> _Problem | None:
        """Return why a task cannot be run; then it is closed. For any thread."""
        try:
            self._execution.claims.verify(job.claim, job.task)
        except UNREADABLE as error:
            return error
        except MemoryError:
            return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return None

    def kill(self, job: Verification) -> None:
        """Have a task not be run, since somebody wants it killed.

        It fails when it is verified: only then is it known what is to follow it. The
        supervisor hears at once that it does not run, and need not kill the worker.
        """
        job.killed = True
        self._execution.endings.settled.append(job.path)

    def _give_up(self, job: Verification) -> None:
        claim, name = job.claim, job.claim.name.task
        entry = REGISTRY.find(name) if name != BATCH else None
        try:
            header = job.task.header
            self._execution.claims.agree(claim, header)
        except UNREADABLE as error:
            self._execution.unreadable(job.path, claim, error)
            return
        finally:
            job.task.close()
        options = over(header.options, entry.run if entry else NO_OPTIONS)
        ending = Ending(job.path, claim, ASKED, entry, options)
        self._execution.endings.conclude(ending)
