"""Run a batch: one line of its body after the other.

A line that succeeds costs no file. Any other, and one that needs what a file has
(followers, a limit, a kept result, a later moment), becomes a task of its own.
Specification: docs/format.md, section 11.
"""

import io
import logging
import os
from enum import Enum
from typing import Final, Protocol

import msgspec

from .arguments import BodyKind
from .clock import CLOCK
from .codec import Header
from .errors import CorruptError
from .lines import decode_line
from .logs import escape
from .moments import parse_at
from .options import RunOptions
from .registry import REGISTRY, Entry, Kind
from .retry import RetryPolicy, ignore_delay
from .runner import ACKED, READ_AGAIN
from .spooldir import reports
from .spooldir.batches import Progress
from .spooldir.claims import Claims
from .spooldir.reading import TaskFile
from .task import BATCH, MAX_HEADER, Claim, Name, Outcome, Verdict

ATTEND_EVERY: Final = 0.002
"""Seconds after which a batch lets others have a turn, between two lines."""

UNKNOWN_MAX: Final = 10
"""Lines in a row that nobody here knows, after which another daemon may try."""

LINE_MAX: Final = 16 * MAX_HEADER
"""Bytes of a line that may be put aside by itself; it can be a task up to a 16th."""

_SKIP: Final = 1 << 20
_ACK: Final = Outcome(Verdict.ACK)
"""Not ``ACKED``, which means that there is nothing besides the file."""

_PLAIN: Final = frozenset({"soft_timeout", "hard_timeout", "unique_for", "if_exists"})

log = logging.getLogger(__name__)


class Attention(Enum):
    """What a worker has found when it looked up from a batch."""

    GO_ON = "go on"
    STOP = "stop"
    SHARE = "share"


class Host(Protocol):
    """What a batch asks of the worker that runs it."""

    def run_line(
        self,
        claim: Claim,
        task: TaskFile,
        entry: Entry,
        values: dict[str, object] | None,
    ) -> Outcome:
        """Run a line in place, as any task, with its time limits; settle nothing.

        There is no file ``claim.file``. A success has been told (logged) when it has
        returned.

        Args:
            values: Its arguments, if there is nothing else in the line.
        """

    def settle_line(
        self,
        claim: Claim,
        task: TaskFile,
        entry: Entry | None,
        outcome: Outcome,
        started_us: int | None,
    ) -> None:
        """Settle a line that has become a task of its own, which this worker holds.

        Args:
            started_us: When its run began; None if it was not run here.
        """

    def run_claim(self, claim: Claim) -> None:
        """Check, run and settle a task that this worker holds, as after ``claim``."""

    def attend(self) -> Attention:
        """Look at the line to the supervisor; run what is more urgent."""


class Line(TaskFile):
    """A line as a task file that has no descriptor."""

    def close(self) -> None:
        """Do nothing: there is nothing to be closed."""


def run(
    host: Host, claims: Claims, claim: Claim, task: TaskFile
) -> tuple[Claim, Outcome]:
    """Run the lines of a batch that are left; close nothing, settle nothing.

    Returns:
        The claim, whose attempt may be another one, and what is to become of it: ACK;
        RELEASE, where ``after`` None means that it is due as before; REJECT.
    """
    try:
        count = _count(task.header)
        progress = Progress(claims.spool, claim, count)
    except CorruptError as error:
        return claim, Outcome(Verdict.REJECT, error.reason)
    except OSError as error:
        return claim, _not_now(error)
    try:
        _check_origin(claim, task.header, progress)
        with task.open_body() as body:
            outcome = _Lines(host, claims, progress, task, body, count).run()
    except CorruptError as error:
        outcome = Outcome(Verdict.REJECT, error.reason)
    except OSError as error:
        outcome = _not_now(error)
    finally:
        progress.close()
    return progress.claim, outcome


def _check_origin(claim: Claim, header: Header, progress: Progress) -> None:
    """Check that the lines of a signed batch get the ids that they were put with."""
    if claim.signed and header.id not in (None, progress.origin):
        raise CorruptError(f"is signed with the id {header.id}, and is no part of that")


def _not_now(error: OSError) -> Outcome:
    return Outcome(Verdict.RELEASE, f"cannot go on now: {error}", after=READ_AGAIN)


def _count(header: Header) -> int:
    """Return how many lines a batch says that it has."""
    args = header.args
    found = msgspec.json.decode(args) if isinstance(args, bytes) else dict(args)
    count = found.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise CorruptError("a batch has an argument `count`, the number of its lines")
    return count


class _Lines:
    """The lines of one batch, from where it stands."""

    def __init__(
        self,
        host: Host,
        claims: Claims,
        progress: Progress,
        task: TaskFile,
        body: io.BufferedReader,
        count: int,
    ) -> None:
        self._host = host
        self._claims = claims
        self._progress = progress
        self._task = task
        self._body = body
        self._count = count
        self._unknown = 0
        self._attend_at = CLOCK.monotonic() + ATTEND_EVERY
        self._plain: dict[str, Entry] = {}
        self._last: Entry | None = None  # of those, that of the last line

    def run(self) -> Outcome:
        """Run them; return what is to become of the batch.

        Raises:
            CorruptError: The body is damaged; all that could be run was.
            OSError: From the file system.
        """
        progress = self._progress
        progress.publish()
        _skip(self._body, progress.next)
        if progress.claim.name.attempt:
            self._after_crash()
        while len(progress):
            if CLOCK.monotonic() >= self._attend_at:
                outcome = self._attend()
                if outcome is not None:
                    return outcome
            outcome = self._one(self._read())
            if outcome is not None:
                progress.sync(now=True)
                return outcome
        progress.publish()
        if progress.end == self._count and self._body.read(1):
            raise CorruptError(f"there is more in its body than {self._count} lines")
        return _ACK

    def _read(self) -> bytes:
        line = self._body.readline(LINE_MAX)
        done = self._progress.next
        if not line:
            raise CorruptError(f"its body ends after {done} of {self._count} lines")
        if len(line) == LINE_MAX and not line.endswith(b"\n"):
            raise CorruptError(f"line {done + 1} takes {LINE_MAX} bytes or more")
        return line

    def _attend(self) -> Outcome | None:
        progress = self._progress
        progress.mark(between=True)
        progress.sync()
        attention = self._host.attend()
        if attention is Attention.STOP:
            progress.sync(now=True)
            return Outcome(Verdict.RELEASE, "its worker ends before it")
        if attention is Attention.SHARE:
            self._share()
        self._attend_at = CLOCK.monotonic() + ATTEND_EVERY
        return None

    def _share(self) -> None:
        progress = self._progress
        try:
            part = progress.cut()
        except OSError as error:
            log.warning("cannot cut batch %s now: %s", progress.claim.name.id, error)
            return
        if part is not None:
            log.info(
                "cut task=%s part=%s lines=%d", progress.claim.name.id, part.id,
                len(progress),
            )  # fmt: skip

    # -- one line ---------------------------------------------------------------

    def _one(self, line: bytes) -> Outcome | None:
        """Run the next line; return what is to become of the batch if it must end."""
        entry, values = self._last, None
        if entry is not None and line.startswith(b"{") and line.endswith(b"}\n"):
            values = entry.arguments.decode_whole(line)
        if entry is not None and values is not None:  # as in most lines
            self._run(line, None, entry, values)
            return None
        try:
            header = decode_line(line.rstrip(b"\r\n"))
            due_us = self._due_us(header)
        except CorruptError as error:
            self._reject(line, error.reason)
            return None
        entry = self._plain.get(header.task)
        if entry is None or header.options is not None or due_us is not None:
            return self._by_itself(header, line, due_us)
        self._last = entry
        self._run(line, header, entry, None)
        return None

    def _run(
        self,
        line: bytes,
        header: Header | None,
        entry: Entry,
        values: dict[str, object] | None,
    ) -> None:
        """Run the next line in place."""
        progress = self._progress
        self._unknown = 0
        name = progress.line_name(entry.name)
        # The name of its file is for those who have no values.
        file = "" if header is None else str(name)
        claim = Claim(name, self._claims.worker, file, progress.claim.signed)
        task = self._file(header, line)
        started_us = CLOCK.now_us()
        progress.mark(between=False)
        outcome = self._host.run_line(claim, task, entry, values)
        if outcome is ACKED or outcome.verdict is Verdict.ACK:
            progress.advance()
            return
        claim = self._spin_off(name, line)
        self._host.settle_line(claim, task, entry, outcome, started_us)

    def _due_us(self, header: Header) -> int | None:
        """Return when a line is due, if that is not yet."""
        if header.at is None:
            return None
        try:
            due_us = parse_at(header.at, self._task.mtime_ns // 1000)
        except ValueError as error:
            raise CorruptError(str(error)) from None
        return due_us if due_us > CLOCK.now_us() else None

    def _file(self, header: Header | None, line: bytes) -> Line:
        times = self._task.mtime_ns, self._task.ctime_ns
        return Line(-1, header, line, len(line), *times)

    def _spin_off(self, name: Name, line: bytes) -> Claim:
        moment_ns, signed = self._task.mtime_ns, self._task.header.signed
        if self._progress.claim.signed and signed is not None:
            moment_ns = int(signed * 1e6) * 1000
        return self._progress.spin_off(name, line, moment_ns)

    def _by_itself(
        self, header: Header, line: bytes, due_us: int | None
    ) -> Outcome | None:
        """Make a line a task of its own before it runs."""
        entry = REGISTRY.get(header.task)
        if entry is None and due_us is None:
            self._unknown += 1
            if self._unknown > UNKNOWN_MAX:
                text = f"no function {escape(header.task)} here, nor for those before"
                age = CLOCK.now_us() / 1e6 - self._task.mtime_ns / 1e9
                return Outcome(Verdict.RELEASE, text, after=ignore_delay(age))
        elif entry is not None:
            self._unknown = 0
            if header.options is None and due_us is None and _is_plain(entry):
                self._plain[header.task] = entry
                return self._one(line)
        name = self._progress.line_name(header.task)
        if due_us is None:
            self._host.run_claim(self._spin_off(name, line))
            return None
        claim = self._spin_off(name.but(due_us=due_us), line)
        try:
            self._claims.release(claim)
        except OSError as error:
            after = max(0.0, (due_us - CLOCK.now_us()) / 1e6)
            outcome = Outcome(Verdict.RELEASE, str(error), after=after)
            self._host.settle_line(
                claim, self._file(header, line), entry, outcome, None
            )
        return None

    def _reject(self, line: bytes, reason: str) -> None:
        """Put a line aside that is no task; the others are not its fault."""
        number = self._progress.next
        name = self._progress.line_name(f"{BATCH}.{number}")
        claim = self._spin_off(name, line)
        reason = f"line {number + 1} of batch {self._progress.origin}: {reason}"
        task = self._file(Header(name.task, b"{}", len(line)), line)
        outcome = Outcome(Verdict.REJECT, reason)
        self._host.settle_line(claim, task, None, outcome, None)

    def _after_crash(self) -> None:
        """Have the line bear it that was being run when a worker died."""
        progress, spool = self._progress, self._claims.spool
        attempt, batch_id = progress.claim.name.attempt, progress.claim.name.id
        history = reports.attempts(spool, batch_id)
        progress.calm()
        if len(progress) and not progress.between:
            try:
                self._blame(attempt, history)
            except OSError:
                progress.blame(attempt)
                raise
        reports.forget_attempts(spool, batch_id)

    def _blame(self, attempt: int, history: list[dict[str, object]]) -> None:
        line = self._read()
        try:
            header = decode_line(line.rstrip(b"\r\n"))
        except CorruptError as error:
            self._reject(line, error.reason)
            return
        # One less, since to settle it counts it.
        name = self._progress.line_name(header.task, attempt - 1)
        claim = self._spin_off(name, line)
        text = str(history[-1].get("error") if history else "") or "its worker died"
        reason = "timeout" if "time limit" in text else "crash"
        after = RetryPolicy().crash_delay(attempt)
        outcome = Outcome(Verdict.RETRY, text, reason, after=after)
        entry = REGISTRY.get(header.task)
        task = self._file(header, line)
        self._host.settle_line(claim, task, entry, outcome, None)


def _is_plain(entry: Entry) -> bool:
    """Tell whether the runs of a function need no file of their own."""
    fields = RunOptions.__struct_fields__
    asked = {name for name in fields if getattr(entry.run, name) is not None}
    return (
        entry.kind is not Kind.FOREVER
        and entry.limits is None
        and entry.arguments.body is not BodyKind.FILE
        and asked <= _PLAIN
    )


def _skip(body: io.BufferedReader, lines: int) -> None:
    """Move past so many lines."""
    while lines > 0:
        start = body.tell()
        piece = body.read(_SKIP)
        if not piece:
            return
        found = piece.count(b"\n")
        if found > lines:
            end = -1
            for _ in range(lines):
                end = piece.index(b"\n", end + 1)
            body.seek(start + end + 1, os.SEEK_SET)
            return
        if found == lines:
            body.seek(start + piece.rindex(b"\n") + 1, os.SEEK_SET)
            return
        lines -= found
