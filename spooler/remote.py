"""A task of the Python API, made for the spool behind a socket.

It travels as pairs that uWSGI understands too, and beside them as the header of the
file that it is to become, so that nothing of it is lost where spoold takes it.
Specification: docs/reference/network.md.
"""

from collections.abc import Generator, Mapping
from typing import Any, Final, NoReturn

import msgspec

from .errors import PacketTooLargeError, UsageError
from .handle import Handle
from .moments import Duration
from .packet import encode_packet
from .task import State

TASK_KEY: Final = b"spooler.task"
"""The pair with the header of the task's file; if it is empty the body is the file."""

LENGTH_KEY: Final = b"CONTENT_LENGTH"
"""The pair that announces a body: its bytes, in ASCII digits."""

AUTH_KEY: Final = b"spooler.auth"
"""The last pair of a packet, if there is a shared secret."""

_RESERVED: Final = frozenset(
    {
        *(b"", b"at", b"priority", b"body", b"spooler", b"ud_spool_func"),
        *(TASK_KEY, LENGTH_KEY, AUTH_KEY),
    }
)
_ADDED: Final = {b"-": bytes(200)}
"""As much as the pairs take that are added when a packet is sent."""


class RemoteHandle(Handle, frozen=True):
    """A task in the spool behind a socket: only its id can be known here.

    Attributes:
        spool: The socket's address.
    """

    def _cannot(self) -> NoReturn:
        raise UsageError(
            f"task {self.id} is in the spool behind {self.spool}, which cannot be"
            f" looked into from here: ask there, with `spool show {self.id}`"
        )

    def state(self) -> State | None:
        """Raise ``UsageError``: that cannot be known here."""
        self._cannot()

    def wait(self, timeout: Duration | None = None) -> State | None:
        """Raise ``UsageError``: that cannot be known here."""
        self._cannot()

    def result(self, timeout: Duration | None = None) -> Any:
        """Raise ``UsageError``: that cannot be known here."""
        self._cannot()

    def cancel(self, *, kill: bool = False) -> bool:
        """Raise ``UsageError``: that cannot be done from here."""
        self._cannot()

    def kill(self) -> bool:
        """Raise ``UsageError``: that cannot be done from here."""
        self._cannot()

    def __await__(self) -> Generator[Any, Any, Any]:
        self._cannot()


def packed(
    task: str,
    args: bytes,
    file: bytes,
    *,
    due: float | None = None,
    priority: int | None = None,
) -> tuple[dict[bytes, bytes], bytes]:
    """Return the pairs and the body that stand for a task.

    Args:
        args: The arguments, a JSON object.
        file: The task's file: a header of one line, and the body.
        due: Seconds since the epoch; None for at once.
    """
    header, newline, body = file.partition(b"\n")
    pairs = _plain(task, args)
    if due is not None:
        pairs[b"at"] = b"%d" % due
    if priority is not None:
        pairs[b"priority"] = b"%d" % priority
    pairs[TASK_KEY] = header + newline
    if not fits(pairs):
        return {b"ud_spool_func": task.encode(), TASK_KEY: b""}, file
    return pairs, body


def fits(pairs: Mapping[bytes, bytes]) -> bool:
    """Tell whether pairs can be sent as a packet, with those that are added then."""
    try:
        encode_packet({**pairs, **_ADDED})
    except PacketTooLargeError:
        return False
    return True


def _plain(task: str, args: bytes) -> dict[bytes, bytes]:
    """Return the task as uWSGI would have it: all text."""
    pairs = {b"ud_spool_func": task.encode()}
    for name, value in msgspec.json.decode(args).items():
        key = name.encode()
        if key not in _RESERVED:
            text = isinstance(value, str)
            pairs[key] = value.encode() if text else msgspec.json.encode(value)
    return pairs
