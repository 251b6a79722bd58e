"""The threads of a worker in which plain functions run, each one at a time."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from .execution import Execution
from .run import Run
from .runner import Wait
from .soft_limit import Interruptible, soft_limit, soft_limit_in_thread
from .task import Outcome


class Job:
    """A run of a plain function.

    Attributes:
        block: What interrupts it in a thread; None in the main thread.
        killed: Whether it was interrupted since somebody wants it killed.
    """

    def __init__(self, run: Run, block: Interruptible | None) -> None:
        self.run = run
        self.block = block
        self.killed = False


class Crew:
    """Those who run plain functions: the main thread alone, or several threads.

    ``start`` and ``stop`` are for the thread of the event loop.

    Args:
        size: How many; 1 is the main thread, where soft limits need no bytecode.
        ended: Takes a job and its outcome, in the thread that has run it.
        wait: Runs what a function returns that is to be awaited.
    """

    def __init__(
        self,
        size: int,
        execution: Execution,
        ended: Callable[[Job, Outcome], None],
        wait: Wait,
    ) -> None:
        self._size = size
        self._execution = execution
        self._ended = ended
        self._wait = wait
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._over: SimpleQueue[None] = SimpleQueue()

    def work(self) -> None:
        """Run what is started, until ``stop``. For the main thread."""
        if self._size == 1:
            self._run_jobs()
            return
        for number in range(1, self._size + 1):
            name = f"spooler-{number}"
            Thread(target=self._run_jobs, name=name, daemon=True).start()
        self._over.get()

    def start(self, run: Run) -> Job:
        """Have a run begin in a thread that has nothing to do."""
        job = Job(run, None if self._size == 1 else Interruptible())
        self._jobs.put(job)
        return job

    def stop(self) -> None:
        """End the threads; no job must be running."""
        for _ in range(self._size):
            self._jobs.put(None)
        self._over.put(None)

    def _run_jobs(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._ended(job, self._call(job))

    def _call(self, job: Job) -> Outcome:
        guard = job.block
        seconds = job.run.soft_timeout
        limit = soft_limit if self._size == 1 else soft_limit_in_thread
        if guard is None and seconds is not None:
            return self._execution.call(job.run, soft_limit(seconds), self._wait)
        return self._execution.call(job.run, guard, self._wait, limit)
