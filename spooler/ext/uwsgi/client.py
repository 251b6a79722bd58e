"""Send packets to sockets, as applications of uWSGI do."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ...addresses import find_address
from ...codec import encode, packet_task
from ...errors import UsageError
from ...packet import encode_large
from ...putting import PutOptions, put_outbox
from ...remote import TASK_KEY, fits
from ...sending import SPOOL, TIMEOUT, send

_NO: Final = frozenset({b"", b"0", b"False", b"false", b"None"})


class Answer(bytes):
    """What the other side has answered; goes through a loop as one piece.

    Old versions of uWSGI gave the pieces of an answer one by one: programs loop.
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:  # type: ignore[override]  # see above
        yield bytes(self)


def put_elsewhere(pairs: Mapping[bytes, bytes], body: bytes, here: str) -> bytes | None:
    """Send a task to the socket that its pair ``spooler`` names.

    With a pair ``outbox`` that says yes it is put here, and sent as soon as it can be.

    Args:
        here: The spool's path for what is to be sent later.

    Returns:
        The path of what was put here, or the address; None if it names no socket.

    Raises:
        SpoolUnreachable, SpoolRefused: It could not be sent.
        UsageError, SpoolFull, SpoolUncertain, OSError: It could not be put here.
    """
    where = pairs.get(b"spooler")
    address = find_address(os.fsdecode(where)) if where else None
    if address is None:
        return None
    to = {key: value for key, value in pairs.items() if key != b"spooler"}
    later = to.pop(b"outbox", b"") not in _NO
    if fits(to):
        return _send(str(address), to, body, here, packet_task(to), later=later)
    # Too large: as the file that it is to become.
    large, task = encode_large(to), packet_task(to)
    own = {name: _number(to.get(name.encode(), b"")) for name in ("at", "priority")}
    head = encode(task, b"{}", at=own["at"], priority=own["priority"], pairs=len(large))
    file = b"".join((head, large, body))
    return _send(str(address), {TASK_KEY: b""}, file, here, task, later=later)


def _number(value: bytes) -> int | None:
    return int(value) if value.isdigit() else None


def _send(
    address: str,
    pairs: Mapping[bytes, bytes],
    body: bytes,
    here: str,
    task: str,
    *,
    later: bool,
) -> bytes:
    if not later:
        send(address, pairs, body)
        return os.fsencode(address)
    handle = put_outbox(address, pairs, body, PutOptions(spool=here), task=task)
    name = handle._name
    folder = "" if name is None else f"{name.folder}/{name}"
    return os.fsencode(f"{handle.spool}/{folder}")


def send_message(
    address: str | bytes,
    modifier1: int,
    modifier2: int,
    message: Mapping[Any, Any] | bytes | str,
    timeout: float = TIMEOUT,
    *rest: int,
) -> Answer:
    """Send a packet to a socket: ``uwsgi.send_message`` of old versions of uWSGI.

    Args:
        address: ``HOST:PORT``, or the path of a UNIX socket.
        modifier1: 17 for a task; the answer to anything else is returned as it is.
        message: A dict. Its keys and values are bytes or text.
        timeout: Seconds for each step.
        *rest: A descriptor from which a body would be read, and its size: cannot be.

    Raises:
        SpoolUnreachable: There is no answer.
        SpoolRefused: A task was not stored.
        UsageError: Something else that was given cannot be.
    """
    if rest:
        raise UsageError("send_message reads no body: use uwsgi.spool, with spooler=")
    if not isinstance(message, Mapping):
        raise UsageError(f"a message is a dict, not {type(message).__name__}")
    pairs = {_bytes(key): _bytes(value) for key, value in message.items()}
    body = pairs.pop(b"body", b"") if modifier1 == SPOOL else b""
    where = os.fsdecode(address)
    seconds = timeout or TIMEOUT
    return Answer(
        send(
            where,
            pairs,
            body,
            timeout=seconds,
            modifier1=modifier1,
            modifier2=modifier2,
        )
    )


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else str(value).encode()
