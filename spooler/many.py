"""Put many tasks at once: one file, one line for each, all of them or none.

Importing this loads the standard library and msgspec; waiting loads more.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO, Final, overload

from msgspec.structs import replace

from .clock import CLOCK
from .errors import ArgumentsError, NotFoundError, UsageError
from .handle import Handle, spool_dir
from .lines import Frame, encode_line, frame
from .moments import Duration, duration
from .putting import (
    Call,
    PutOptions,
    at_for_file,
    default_path,
    put,
)
from .registry import REGISTRY
from .spooldir import repair
from .spooldir.batches import find
from .spooldir.repair import Found
from .spooldir.tracking import Wanted, guess
from .task import BATCH, DEFAULT_PRIORITY, Name, State, derived_id

MEMORY: Final = 4 << 20
"""Bytes of lines that are kept in memory before they are put; more go to a file."""

_MOVING: Final = (State.RUNNING, State.FAILED, State.HELD, State.WAITING)
_URGENCY: Final = (
    State.RUNNING,
    State.WAITING,
    State.HELD,
    State.FAILED,
    State.CORRUPT,
)
"""Of the states of its tasks a batch has the first of these."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tasks that were put together; a sequence of their handles.

    Attributes:
        id: 16 hex digits; that of its n-th task follows from it.
        count: How many tasks. With none, nothing was put.
        spool: The spool's path.
    """

    id: str
    count: int
    spool: str
    _name: Name = field(repr=False)
    # Where in it another task's name begins, and which.
    _runs: tuple[tuple[int, str], ...] = field(repr=False)
    _keeps: bool = field(default=False, repr=False, compare=False)

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, index: int) -> Handle: ...
    @overload
    def __getitem__(self, index: slice) -> list[Handle]: ...
    def __getitem__(self, index: int | slice) -> Handle | list[Handle]:
        numbers = range(self.count)[index]
        if isinstance(numbers, int):
            return self._handle(numbers)
        return [self._handle(number) for number in numbers]

    def __iter__(self) -> Iterator[Handle]:
        return map(self._handle, range(self.count))

    def _handle(self, number: int) -> Handle:
        run = bisect_right(self._runs, number, key=lambda run: run[0]) - 1
        task, task_id = self._runs[run][1], derived_id(self.id, number)
        return Handle(task_id, task, self.spool, None, self._name, self._keeps)

    def state(self) -> State | None:
        """Return where it stands: None if all its tasks have ended well (or are gone).

        Of several states the first of running, waiting, held, failed, corrupt. Cheap
        while it waits where it was put; else it looks through the spool.

        Raises:
            OSError: From the file system.
        """
        if not self.count:
            return None
        if spool_dir(self.spool).has(guess(self._name)):
            return State.WAITING
        states = {found.state for found in self._files(self._ids())}
        return next((state for state in _URGENCY if state in states), None)

    def wait(self, timeout: Duration | None = None) -> State | None:
        """Wait until all its tasks have ended, however they are retried meanwhile.

        Args:
            timeout: Seconds, a timedelta or text such as ``10m``; None for no end.

        Returns:
            ``State.FAILED`` or ``State.CORRUPT`` if that became of one of them; else
            None.

        Raises:
            TimeoutError: One has not ended in that time.
            UsageError: The timeout cannot be.
            OSError: From the file system.
        """
        from .waiting import wait  # noqa: PLC0415 (watchdog is slow to load)

        seconds = duration("timeout", timeout)
        deadline = None if seconds is None else CLOCK.monotonic() + seconds
        spool, ids = spool_dir(self.spool), self._ids()
        ended = (State.FAILED, State.CORRUPT)
        while self.count:
            files = list(self._files(ids))
            living = [found for found in files if found.state not in ended]
            if not living:
                states = {found.state for found in files}
                return next((state for state in ended if state in states), None)
            for found in living:
                left = None if deadline is None else deadline - CLOCK.monotonic()
                try:
                    wait(spool, Wanted(found.id, found.name), left)
                except TimeoutError:
                    text = f"batch {self.id} has not ended in {seconds:g} s"
                    raise TimeoutError(text) from None
        return None

    def cancel(self) -> bool:
        """Remove what of it waits; what runs goes on.

        Returns:
            Whether nothing is left that will run.

        Raises:
            OSError: From the file system.
        """
        spool = spool_dir(self.spool)
        gone = True
        for found in list(self._files(self._ids())) if self.count else ():
            if found.state is State.RUNNING:
                gone = False
            elif found.state in (State.WAITING, State.HELD):
                try:
                    repair.remove(spool, found)
                except NotFoundError:  # a worker was first
                    gone = False
        return gone

    def _ids(self) -> frozenset[str]:
        return frozenset(derived_id(self.id, number) for number in range(self.count))

    def _files(self, ids: frozenset[str]) -> Iterator[Found]:
        """Yield the files of the batch, of its parts and of its tasks, each once."""
        spool = spool_dir(self.spool)
        seen = set()
        # Twice, lest one that is claimed or put back meanwhile slip by.
        for states in (_MOVING, _MOVING, (State.CORRUPT,)):
            parts = {self.id, *(part for part, _ in find(spool, self.id))}
            for found in repair.ls(spool, *states):
                if found.path not in seen and (found.id in parts or found.id in ids):
                    seen.add(found.path)
                    if spool.has(found.path):
                        yield found


class Collected:
    """Lines that are about to be put, counted; small ones are kept in memory."""

    def __init__(self) -> None:
        self.count = 0
        self.runs: list[tuple[int, str]] = []
        self._file: BinaryIO = BytesIO()
        self._size = 0

    def __enter__(self) -> "Collected":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def begin(self, task: str) -> None:
        """Say of which task the lines from here on are."""
        if not self.runs or self.runs[-1][1] != task:
            self.runs.append((self.count, task))

    def add(self, line: bytes) -> None:
        """Take a line, with its newline.

        Raises:
            OSError: There is no room for it.
        """
        self.count += 1
        self._size += self._file.write(line)
        if self._size > MEMORY and isinstance(self._file, BytesIO):
            # Slow to load, and seldom needed.
            from tempfile import TemporaryFile  # noqa: PLC0415

            file = TemporaryFile()  # noqa: SIM115 (closed with this)
            file.write(self._file.getbuffer())
            self._file = file

    def put(self, options: PutOptions, *, keeps: bool = False) -> Batch:
        """Put the lines; with none, put nothing.

        Raises:
            UsageError: An option cannot be.
            SpoolUncertain: The last sync failed: they may run.
            OSError: From the file system; there is no task then.
        """
        if not self.count:
            path = os.path.abspath(options.spool or default_path())
            return Batch("", 0, path, _NOBODY, ())
        self._file.seek(0)
        args = b'{"count":%d}' % self.count
        own = PutOptions(
            at=options.at,
            priority=options.priority,
            body=self._file,
            spool=options.spool,
            durability=options.durability,
            id=options.id,
        )
        handle = put(BATCH, args, own)
        name = handle._name or _NOBODY
        runs = tuple(self.runs)
        return Batch(handle.id, self.count, handle.spool, name, runs, keeps)


_NOBODY: Final = Name(0, 0, 0, "", BATCH)


def put_calls(calls: Iterable[Call], options: PutOptions) -> Batch:
    """Put calls together.

    Args:
        options: Of the batch: when it is due, its priority, id, durability and spool.
            Without a priority it has that of the first call.

    Raises:
        UsageError: One of the calls cannot be among them; it is named by its number.
        SpoolUncertain: The last sync failed: they may run.
        OSError: From the file system; there is no task then.
    """
    _check_here(options)
    spool = options.spool or default_path()
    asked, keeps = options.priority is not None, False
    last: PutOptions | None = None
    form: Frame | None = None
    with Collected() as lines:
        for number, call in enumerate(calls):
            try:
                if not isinstance(call, Call):
                    raise UsageError(f"is not a call of a task: {call!r:.80}")
                if call.options is not last or form is None or call.task != form.task:
                    last = call.options
                    if number == 0 and not asked:
                        options = replace(options, priority=last.priority)
                    _check(call, spool, options.priority, asked=asked)
                    keeps = keeps or last.keeps or last.run.keep_result is not None
                    form = _frame(call)
                    lines.begin(call.task)
                lines.add(_line(call) if form is None else form.line(call.args))
            except UsageError as error:
                raise UsageError(f"call {number}: {error}") from None
        return lines.put(options, keeps=keeps)


def _frame(call: Call) -> Frame | None:
    """Return what a call has in common with those of the same options, if all."""
    options = call.options
    if options.at is not None or options.body is not None:
        return None
    return frame(call.task, options.traceparent, options.run)


def _line(call: Call) -> bytes:
    options = call.options
    return encode_line(
        call.task,
        call.args,
        at=None if options.at is None else at_for_file(options.at),
        body=call.text_body("a task in a batch"),
        traceparent=options.traceparent,
        options=options.run,
    )


def _check_here(options: PutOptions) -> None:
    """Check that a task, or a batch, is not for the spool behind a socket."""
    if options.remote is not None or options.outbox:
        raise UsageError(
            f"a batch cannot go to {options.remote or 'an outbox'}: put its tasks one"
            " by one"
        )


def _check(call: Call, spool: str, priority: int | None, *, asked: bool) -> None:
    """Check that a call may be in a batch.

    Args:
        priority: That of the batch.
        asked: Somebody has chosen it; then it goes over those of decorators.
    """
    options = call.options
    _check_here(options)
    for name, value in (("key", options.key), ("id", options.id)):
        if value is not None:
            raise UsageError(f"a task in a batch cannot have {name}=: put it by itself")
    there = options.spool or default_path()
    if there != spool:
        raise UsageError(f"is for the spool {there}, and the batch for {spool}")
    if options.priority == priority:
        return
    entry = REGISTRY.get(call.task)
    by_decorator = entry is not None and entry.priority == options.priority
    if not asked or not (by_decorator or options.priority is None):
        raise UsageError(
            f"has priority {options.priority or DEFAULT_PRIORITY}, and the batch has"
            f" {DEFAULT_PRIORITY if priority is None else priority}: give it as"
            " priority= of the batch"
        )


def put_rows(
    task: str,
    rows: Iterable[object],
    form: Frame | None,
    encode: Callable[[tuple[Any, ...], dict[str, Any]], bytes],
    call: Callable[[tuple[Any, ...], dict[str, Any]], Call],
    magic: frozenset[str],
    options: PutOptions,
) -> Batch:
    """Put a task with each of many arguments: ``Task.map``.

    Args:
        rows: Dicts of arguments, tuples of positional ones, or the only argument.
        form: What the lines have in common; None if each needs its ``call``.
        encode: Returns arguments as JSON.
        magic: The names in a row that need ``call`` too.
        options: Of the batch.

    Raises:
        ArgumentsError: A row does not fit the function; it is named by its number.
        UsageError: Something else that was given cannot be.
        SpoolUncertain: The last sync failed: they may run.
        OSError: From the file system; there is no task then.
    """
    _check_here(options)
    spool = options.spool or default_path()
    keeps = options.keeps or options.run.keep_result is not None
    with Collected() as lines:
        lines.begin(task)
        for number, row in enumerate(rows):
            kwargs = row if isinstance(row, dict) else {}
            args = () if row is kwargs else row if isinstance(row, tuple) else (row,)
            try:
                if form is not None and magic.isdisjoint(kwargs):
                    lines.add(form.line(encode(args, kwargs)))
                    continue
                made = call(args, dict(kwargs))
                _check(made, spool, None, asked=False)
                lines.add(_line(made))
            except ArgumentsError as error:
                problem = f"row {number}: {error.problem}"
                raise ArgumentsError(error.task, error.signature, problem) from None
            except UsageError as error:
                raise UsageError(f"row {number}: {error}") from None
        return lines.put(options, keeps=keeps)
