"""What tests of batches share: a worker without a daemon."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from spooler import batch
from spooler.batch import Attention
from spooler.current import CURRENT
from spooler.options import over
from spooler.registry import REGISTRY, Entry
from spooler.runner import current, run_task
from spooler.spooldir import SpoolDir
from spooler.spooldir.claims import Claims
from spooler.spooldir.reading import TaskFile
from spooler.task import BATCH, Claim, Name, Outcome, Verdict
from tests.helpers import NOW_US

BATCH_ID = "8c1f42d09ab3e617"
LATER_US = NOW_US + 600_000_000


class PlainWorker:
    """Claims what waits and runs it; settles as a worker without retries does.

    Attributes:
        ran: How often the function of each id was called.
        settled: What became of the lines that left a batch, by id.
        told: Answers of ``attend``, the next one first.
    """

    def __init__(self, spool: SpoolDir, name: str = "w1") -> None:
        self.claims = Claims(spool, name, {os.getuid()})
        self.ran: Counter[str] = Counter()
        self.settled: dict[str, Outcome] = {}
        self.claimed: list[str] = []
        self.attempts: dict[str, int] = {}
        self.told: list[Attention] = []
        self.attended = 0
        self.during: Callable[[], object] = lambda: None

    def close(self) -> None:
        self.claims.sync()
        with suppress(OSError):
            os.rmdir(self.claims.folder, dir_fd=self.claims.spool.fd)
        os.close(self.claims._fd)

    # -- the host of a batch --------------------------------------------------------

    def run_line(
        self,
        claim: Claim,
        task: TaskFile,
        entry: Entry,
        values: dict[str, object] | None,
    ) -> Outcome:
        token = CURRENT.set(lambda: current(claim, task, self.claims.spool, None, 0))
        self.ran[claim.name.id] += 1
        try:
            return run_task(entry, claim, task)
        finally:
            CURRENT.reset(token)

    def settle_line(
        self,
        claim: Claim,
        task: TaskFile,
        entry: Entry | None,
        outcome: Outcome,
        started_us: int | None,
    ) -> None:
        self.settled[claim.name.id] = outcome
        self.settle(claim, outcome, started_us or 0)

    def run_claim(self, claim: Claim) -> None:
        self.claimed.append(claim.name.id)
        self.handle(claim)

    def attend(self) -> Attention:
        self.attended += 1
        self.during()
        return self.told.pop(0) if self.told else Attention.GO_ON

    # -- a worker -------------------------------------------------------------------

    def take(self, name: Name) -> Claim:
        claim = self.claims.claim(f"{name.folder}/{name}")
        assert claim is not None
        return claim

    def run_all(self, *, most: int = 100) -> None:
        """Claim and handle what waits, until nothing does that is due."""
        for _ in range(most):
            names = [Name.parse(file) for _, file in self.claims.spool.waiting()]
            due = [
                name for name in names if name is not None and name.due_us < LATER_US
            ]
            if not due:
                return
            self.handle(self.take(min(due, key=str)))
        raise AssertionError("it goes round in circles")

    def handle(self, claim: Claim) -> Outcome:
        task = self.claims.open(claim)
        self.attempts[claim.name.id] = claim.name.attempt
        try:
            if claim.name.task == BATCH:
                claim, outcome = batch.run(self, self.claims, claim, task)
            else:
                entry = REGISTRY.get(claim.name.task)
                if entry is None:
                    outcome = Outcome(Verdict.RELEASE, "unknown")
                else:
                    over(task.header.options, entry.run)
                    outcome = self.run_line(claim, task, entry, None)
        finally:
            task.close()
        self.settle(claim, outcome, 0)
        return outcome

    def settle(self, claim: Claim, outcome: Outcome, started_us: int) -> None:
        match outcome.verdict:
            case Verdict.ACK:
                self.claims.ack(claim)
            case Verdict.REJECT:
                self.claims.reject(claim, outcome.error)
            case Verdict.FAIL:
                self.claims.fail(claim, outcome, started_us=started_us)
            case Verdict.RETRY:
                due_us = NOW_US if outcome.reason == "crash" else LATER_US
                self.claims.retry(claim, outcome, due_us=due_us, started_us=started_us)
            case _:
                after = outcome.after
                self.claims.release(claim, due_us=None if not after else LATER_US)


def a_batch(
    spool: SpoolDir, *lines: bytes, count: int | None = None, attempt: int = 0
) -> Name:
    """Put a batch of lines without newlines."""
    name = Name(NOW_US, 5, attempt, BATCH_ID, BATCH)
    number = len(lines) if count is None else count
    head = b'{"task":"_batch","args":{"count":%d}}\n' % number
    data = head + b"".join(line + b"\n" for line in lines)
    spool.put(name, [data], durable=False)
    return name
