"""Put tasks: the last step of every producer in Python.

Importing this loads the standard library and msgspec, nothing else.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

from .addresses import find_address, parse_address
from .clock import CLOCK
from .codec import SHORT, around, encode
from .errors import DuplicateError, UsageError
from .handle import Handle, is_open, spool_dir
from .moments import parse_at
from .options import MAX_KEY, NO_OPTIONS, Follower, RunOptions, check_key
from .packet import encode_packet
from .spooldir import SpoolDir, keys
from .spooldir.body import Body, pieces
from .spooldir.quick import put_quickly
from .spooldir.room import LOOK_EVERY_US, check_room
from .spooldir.signing import signer_here
from .task import DEFAULT_PRIORITY, FORWARD, MAX_PRIORITY, Name, is_id

At = int | float | str | datetime | timedelta
"""When a task is due: seconds since the epoch, ISO 8601 or ``+5m``, a moment with a
time zone, or a time from now."""

Durability = Literal["safe", "fast"]
"""``safe``: a task that was put survives a power cut. ``fast``: only the death of
processes."""

_DEFAULTS: Final[dict[bytes, SpoolDir]] = {}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

DEFAULT_DIR: Final = "./spool"
"""Where tasks go if nothing else says so."""


class PutOptions(msgspec.Struct, frozen=True):
    """How a task is put. What is None comes from the function, then the spool.

    Attributes:
        spool: The spool's path, absolute.
        id: 16 hex digits, to choose the task's id.
        key: At most one task of this name with this key waits or runs.
        keeps: Whether the function's decorator says that results are kept.
        remote: The address of the spool, if it is behind a socket.
        outbox: Keep the task in ``spool`` until it could be sent there.
    """

    at: At | None = None
    priority: int | None = None
    body: Body | None = None
    spool: str | None = None
    durability: Durability | None = None
    id: str | None = None
    traceparent: str | None = None
    key: str | None = None
    run: RunOptions = NO_OPTIONS
    keeps: bool = False
    remote: str | None = None
    outbox: bool = False


class Call(msgspec.Struct, frozen=True):
    """A task that could be put: what ``Task.call`` and ``Spooler.call`` return.

    It is given to ``then=``, to ``on_failure=`` and to ``spool_many``.

    Attributes:
        task: The name of the task.
        args: Its arguments, a JSON object.
    """

    task: str
    args: bytes
    options: PutOptions

    def spool(self) -> Handle:
        """Put it now.

        Raises:
            UsageError: An option cannot be.
            SpoolFull: A limit of the spool is reached.
            SpoolUncertain: The last sync failed: the task may run.
            SpoolUnreachable, SpoolRefused: Of a spool behind a socket.
            OSError: From the file system; there is no task then.
        """
        return put(self.task, self.args, self.options)

    async def aspool(self) -> Handle:
        """Put it now, in a thread, so that an event loop need not wait for the disk.

        In asyncio and in trio. Errors as for ``spool``.
        """
        from .in_thread import in_thread  # noqa: PLC0415 (it loads anyio)

        return await in_thread(self.spool)

    def follower(self, spool: str | None) -> Follower:
        """Return it as what a file says of a follower.

        Args:
            spool: Where the task is that it follows; None for the default one.

        Raises:
            UsageError: It has what a follower cannot have.
        """
        options = self.options
        for name, value in (("key", options.key), ("id", options.id)):
            if value is not None:
                raise UsageError(f"{self.task}: a follower cannot have {name}=")
        if options.remote is not None:
            problem = "a follower goes into the spool of the task that it follows"
            raise UsageError(f"{self.task}: {problem}, not to {options.remote}")
        if options.spool is not None and options.spool != spool:
            raise UsageError(
                f"{self.task}: a follower goes into the spool of the task that it"
                f" follows, not into {options.spool}"
            )
        return Follower(
            self.task,
            msgspec.json.decode(self.args),
            None if options.at is None else at_for_file(options.at),
            check_priority(options.priority),
            self.text_body("a follower"),
            None if options.run is NO_OPTIONS else options.run,
            options.traceparent,
        )

    def text_body(self, what: str) -> str | None:
        """Return the body as text, for where it stands in a line of JSON.

        Raises:
            UsageError: It is a file, or not UTF-8.
        """
        body = self.options.body
        if body is None:
            return None
        if isinstance(body, bytes | bytearray):
            with suppress(UnicodeDecodeError):
                return body.decode()
        raise UsageError(f"{self.task}: the body of {what} is bytes of UTF-8 text")


class Prepared:
    """Puts of a task that differ in nothing but their arguments, as most do.

    All else is worked out once: a put takes a third of the time.

    Args:
        options: Those of each put: see ``can_be_prepared``.

    Raises:
        UsageError: An option cannot be.
    """

    def __init__(self, task: str, options: PutOptions) -> None:
        _check_key(options)
        priority = check_priority(options.priority)
        run = options.run
        self.task = task
        self.options = options
        self._priority = DEFAULT_PRIORITY if priority is None else priority
        self._spool = None if options.spool is None else spool_dir(options.spool)
        self._durable = check_durability(options.durability or "safe") == "safe"
        self._keeps = options.keeps or run.keep_result is not None
        self._before, self._after = around(
            task,
            traceparent=options.traceparent,
            options=None if run is NO_OPTIONS else run,
        )

    def put(self, args: bytes) -> Handle:
        """Put the task with these arguments, encoded: see the function ``put``."""
        if len(args) > SHORT:
            return put(self.task, args, self.options)
        spool = self._spool or default_spool()
        task, task_id, now_us = self.task, os.urandom(8).hex(), CLOCK.now_us()
        if not 0 <= now_us - spool.roomy_us < LOOK_EVERY_US:
            check_room(spool, now_us)
        name = Name(now_us, self._priority, 0, task_id, task)
        head = self._before + args + self._after
        if self._durable:
            spool.put(name, (head,))
        else:
            put_quickly(spool, name, head)
        return Handle(task_id, task, spool.path, name, None, self._keeps)


def can_be_prepared(options: PutOptions) -> bool:
    """Tell whether puts with these options may differ in their arguments only."""
    return (
        options.at is None
        and options.id is None
        and options.key is None
        and options.body is None
        and options.remote is None
        and not options.outbox
        and options.spool in (None, os.path.abspath(options.spool or ""))
    )


def put(task: str, args: bytes, options: PutOptions) -> Handle:
    """Put a task whose arguments are encoded.

    Returns:
        A handle on it, or on the task that has its key.

    Raises:
        UsageError: An option cannot be, or the arguments are too large.
        DuplicateError: Another task has its key, and ``if_exists`` is ``raise``.
        SpoolFull: A limit of the spool is reached.
        SpoolUncertain: The last sync failed: the task may run.
        SpoolUnreachable, SpoolRefused: Of a spool behind a socket.
        OSError: From the file system; there is no task then.
    """
    if options.remote is not None or options.outbox:
        return _put_elsewhere(task, args, options)
    priority = check_priority(options.priority)
    now_us = CLOCK.now_us()
    name = Name(
        due_us=now_us if options.at is None else _due(options.at, now_us),
        priority=DEFAULT_PRIORITY if priority is None else priority,
        attempt=0,
        id=os.urandom(8).hex() if options.id is None else _check_id(options.id),
        task=task,
    )
    run = options.run
    key = _check_key(options)
    spool = spool_dir(options.spool) if options.spool else default_spool()
    head = encode(
        task,
        args,
        # Of a task with a key its file must tell the name.
        at=None if key is None else _exact(name.due_us),
        priority=None if key is None else name.priority,
        id=None if key is None or spool.signer is not None else name.id,  # that adds it
        key=key,
        traceparent=options.traceparent,
        options=None if run is NO_OPTIONS else run,
    )
    if not 0 <= now_us - spool.roomy_us < LOOK_EVERY_US:
        check_room(spool, now_us)
    durable = check_durability(options.durability or "safe") == "safe"
    with pieces(head, options.body) as chunks:
        if key is None:
            spool.put(name, chunks, durable=durable)
        else:
            policy = run.if_exists or "skip"
            there = keys.put(spool, name, chunks, key, policy, durable=durable)
            if there is not None and policy == "raise":
                raise DuplicateError(there.id, key)
            name = there or name
    keeps = options.keeps or run.keep_result is not None
    return Handle(name.id, task, spool.path, name, _keeps=keeps)


def _put_elsewhere(task: str, args: bytes, options: PutOptions) -> Handle:
    """Send a task to the spool behind a socket, or put what will send it.

    Raises:
        UsageError, SpoolUnreachable, SpoolRefused: As for ``put``.
        OSError: From the file system.
    """
    from .remote import RemoteHandle, packed  # noqa: PLC0415 (few need it)

    address = options.remote
    if address is None:
        raise UsageError("outbox= needs spooler= with the address of a socket")
    priority, key = check_priority(options.priority), _check_key(options)
    now_us = CLOCK.now_us()
    due_us = now_us if options.at is None else _due(options.at, now_us)
    task_id = os.urandom(8).hex() if options.id is None else _check_id(options.id)
    signer = signer_here()
    head = encode(
        task,
        args,
        at=_exact(due_us),
        priority=priority,
        id=task_id if signer is None else None,  # which adds it
        key=key,
        traceparent=options.traceparent,
        options=None if options.run is NO_OPTIONS else options.run,
    )
    with pieces(head, options.body) as chunks:
        file = b"".join(chunks)
    if signer is not None:
        file = signer.sign(task_id, file)
    due = None if options.at is None else due_us / 1e6
    pairs, body = packed(task, args, file, due=due, priority=priority)
    if options.outbox:
        return put_outbox(address, pairs, body, options, task=task, task_id=task_id)
    from .sending import send  # noqa: PLC0415 (as above)

    send(address, pairs, body)
    return RemoteHandle(task_id, task, address, None)


def put_outbox(
    address: str,
    pairs: Mapping[bytes, bytes],
    body: bytes = b"",
    options: PutOptions | None = None,
    *,
    task: str = "",
    task_id: str | None = None,
) -> Handle:
    """Put a task here that sends a packet to a socket, as soon as somebody is there.

    Args:
        pairs: The packet.
        body: Its body.
        options: Where and how it is put here: ``spool`` and ``durability`` count.
        task: What is sent, for people.
        task_id: The id of the task that is put here.

    Returns:
        A handle on the task that is put here.

    Raises:
        UsageError, SpoolFull, SpoolUncertain, OSError: As for ``put``.
    """
    options = options or PutOptions()
    own = PutOptions(
        spool=options.spool,
        durability=options.durability,
        id=task_id,
        body=encode_packet(pairs) + body,
    )
    parse_address(address, "spooler")
    return put(FORWARD, msgspec.json.encode({"to": address, "task": task}), own)


def _check_key(options: PutOptions) -> str | None:
    key, run = options.key, options.run
    if key is None:
        for name in ("unique_for", "if_exists"):
            if getattr(run, name) is not None:
                raise UsageError(f"{name}= needs key=")
        return None
    try:
        return check_key(key)
    except (TypeError, ValueError):
        raise UsageError(
            f"key={key!r:.80} cannot be: it is text of 1 to {MAX_KEY} bytes, without"
            " a NUL"
        ) from None


def _exact(due_us: int) -> str:
    """Return a moment as ``at``, with all its digits, which a number may not hold."""
    moment = _EPOCH + timedelta(microseconds=due_us)
    return moment.isoformat(timespec="microseconds")


def _due(at: At, now_us: int, name: str = "at") -> int:
    try:
        return parse_at(at, now_us)
    except (TypeError, ValueError) as error:
        problem = str(error).removeprefix("at: ")
        raise UsageError(f"{name}={at!r} cannot be: {problem}") from None


def at_for_file(at: At, name: str = "at") -> str | int | float:
    """Return a moment as it stands in a file; a time from now stays one.

    Raises:
        UsageError: It is not a moment.
    """
    due_us = _due(at, 0, name)
    if isinstance(at, timedelta):
        return f"+{max(0.0, at.total_seconds()):f}"
    return due_us / 1e6 if isinstance(at, datetime) else at


def expires_for_file(at: At) -> str | int | float:
    """Return by when a task must have begun, as it stands in a file.

    Raises:
        UsageError: It is not a moment, or one that is over.
    """
    moment = at_for_file(at, "expires")
    from_now = isinstance(moment, str) and moment.startswith("+")
    if not from_now and _due(moment, 0, "expires") < CLOCK.now_us():
        raise UsageError(
            f"expires={at!r} cannot be: that moment is over; a time from the put is"
            " written '+60s', or as a timedelta"
        )
    return moment


def _check_id(value: str) -> str:
    if not is_id(value):
        raise UsageError(f"id={value!r} cannot be: it takes 16 hex digits, lower case")
    return value


def find_spool(given: str | os.PathLike[str]) -> tuple[str | None, str | None]:
    """Return where a spool is: its absolute path, or the address of its socket."""
    text = os.fspath(given)
    path = os.path.abspath(text)
    address = None if is_open(path) else find_address(text)
    return (path, None) if address is None else (None, str(address))


def default_path() -> str:
    """Return the spool of tasks that name none: ``$SPOOL_DIR``, else ``./spool``."""
    return os.path.abspath(os.environ.get("SPOOL_DIR") or DEFAULT_DIR)


def default_spool() -> SpoolDir:
    """Return the spool of tasks that name none."""
    try:
        return _DEFAULTS[os.environb[b"SPOOL_DIR"]]  # a third of what `environ` takes
    except KeyError:
        spool = spool_dir(default_path())
        if spool.path == os.environ.get("SPOOL_DIR"):
            _DEFAULTS[os.fsencode(spool.path)] = spool
        return spool


def check_durability(value: str) -> Durability:
    """Return ``value`` if it is a durability; else raise ``UsageError``."""
    if value == "safe":
        return "safe"
    if value == "fast":
        return "fast"
    raise UsageError(f"durability={value!r} cannot be: it is 'safe' or 'fast'")


def check_priority(value: object) -> int | None:
    """Return ``value`` if it is a priority or None; else raise ``UsageError``."""
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 0 <= int(str(value)) <= MAX_PRIORITY:
        raise UsageError(
            f"priority={value!r} cannot be: it takes a whole number,"
            f" 0 to {MAX_PRIORITY}"
        )
    return int(str(value))
