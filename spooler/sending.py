"""Send a task to the spool behind a socket, as a uWSGI packet.

One connection a task: a packet, then the body that it announces; the answer says
whether the task is stored. Importing this loads the standard library and msgspec,
nothing else. Specification: docs/reference/network.md.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hmac import HMAC
from typing import Final

from .addresses import Address, find_address, parse_address
from .clock import CLOCK
from .errors import SpoolRefused, SpoolUnreachable, UsageError
from .packet import HEAD, encode_packet
from .remote import AUTH_KEY, LENGTH_KEY
from .spooldir.key_file import load

SPOOL: Final = 17
"""Modifier 1 of a packet with a task."""

PING: Final = 100
"""Modifier 1 of a question whether somebody is there; it is answered with the same."""

KEEPS_BODIES: Final = 17
"""Modifier 2 of a ping and of its answer: bodies are kept. uWSGI answers 1."""

ANSWER: Final = 255
"""Modifier 1 of the answer to a task; modifier 2 is 1 if it is stored, else 0."""

STORED: Final = bytes((ANSWER, 0, 0, 1))
REFUSED: Final = bytes((ANSWER, 0, 0, 0))

TIMEOUT: Final = 4.0
"""Seconds that the other side is given to take or to send something, as in uWSGI."""

SECRET_FILE: Final = "SPOOLER_SOCKET_SECRET_FILE"  # noqa: S105 (only its name)
"""The environment variable that names the file with the shared secret."""

_RECEIVE_MAX: Final = 16 << 20
_PIECE: Final = 1 << 18
_CLOSED: Final = "the connection was closed without one"


def secret_here() -> bytes | None:
    """Return the secret with which this process sends; None if there is none.

    Raises:
        KeyFileError: The file cannot be used.
    """
    path = os.environ.get(SECRET_FILE)
    return load(os.path.abspath(path))[0] if path else None


def auth_value(secret: bytes, seconds: bytes, block: bytes, length: int) -> HMAC:
    """Return the beginning of what proves a packet; the body is to be added.

    Args:
        seconds: When it was made: ASCII digits, since the epoch.
        block: The pairs of the packet, without this one.
        length: Bytes of the body.
    """
    begin = b"%b.%d.%d\n" % (seconds, len(block), length)
    return HMAC(secret, begin + block, digestmod="sha256")


def seal(
    pairs: Mapping[bytes, bytes], body: bytes = b"", secret: bytes | None = None
) -> bytes:
    """Return a packet that announces its body, with a proof if there is a secret.

    Raises:
        PacketTooLargeError: The pairs do not fit into a packet.
        UsageError: One of the pairs has a name that is used here.
    """
    sealed = {key: value for key, value in pairs.items() if not _is_address(key, value)}
    for key in (LENGTH_KEY, AUTH_KEY):
        if key in sealed:
            raise UsageError(f"{key.decode()} cannot be a key of a task that is sent")
    if body:
        sealed[LENGTH_KEY] = b"%d" % len(body)
    if secret is None:
        return encode_packet(sealed)
    seconds = b"%d" % (CLOCK.now_us() // 1_000_000)
    mac = auth_value(secret, seconds, encode_packet(sealed)[HEAD:], len(body))
    mac.update(body)
    sealed[AUTH_KEY] = seconds + b"." + mac.hexdigest().encode()
    return encode_packet(sealed)


def _is_address(key: bytes, value: bytes) -> bool:
    """Tell whether a pair only says where the task is sent."""
    return key == b"spooler" and find_address(os.fsdecode(value)) is not None


def send(
    address: str,
    pairs: Mapping[bytes, bytes],
    body: bytes = b"",
    *,
    timeout: float = TIMEOUT,
    modifier1: int = SPOOL,
    modifier2: int = 0,
    secret: bytes | None = None,
) -> bytes:
    """Send a packet, and the body after it; return the answer.

    When it has returned the task is stored, and synced if spoold is there. A body is
    sent only to who keeps bodies: uWSGI does not.

    Args:
        timeout: Seconds that the other side is given for each step.
        modifier1: Of anything but a task the answer is returned as it is; all of it,
            until the other side closes, but for a ping.
        secret: The shared one; None for that of the environment, if there is one.

    Raises:
        SpoolUnreachable: There is no answer.
        SpoolRefused: The task was not stored.
        PacketTooLargeError: The pairs do not fit into a packet.
        UsageError: Something else that was given cannot be.
    """
    where = parse_address(address, "address")
    packet = seal(pairs, body, secret or secret_here())
    head = bytes((modifier1,)) + packet[1:3] + bytes((modifier2,))
    with _connection(where, timeout) as line:
        if modifier1 != SPOOL:
            line.send(head + packet[HEAD:] + body)
            return line.receive_head() if modifier1 == PING else line.receive_all()
        if body:
            line.ask_for_bodies()
        line.send(head + packet[HEAD:])
        line.send(body)
        answer = line.receive_head()
    if answer[0] != ANSWER or answer[3] != 1:
        raise SpoolRefused(str(where), "its log says why")
    return answer


class _Line:
    """A connection, whose errors name the other side."""

    def __init__(self, where: Address, connected: socket.socket) -> None:
        self._where = where
        self._socket = connected
        self._sent = False

    def send(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), _PIECE):
                self._socket.sendall(data[start : start + _PIECE])
        except (BrokenPipeError, ConnectionResetError):
            return  # it has ended already: its answer may be there
        except OSError as error:
            raise SpoolUnreachable(str(self._where), _text(error)) from None
        self._sent = True

    def receive_head(self) -> bytes:
        """Return the four bytes of an answer."""
        found = b""
        while len(found) < HEAD:
            piece = self._receive(HEAD - len(found))
            if not piece:
                raise self._lost(_CLOSED)
            found += piece
        return found

    def receive_all(self) -> bytes:
        """Return all that comes until the other side closes."""
        found = b""
        while len(found) < _RECEIVE_MAX and (piece := self._receive(1 << 16)):
            found += piece
        if not found:
            raise self._lost(_CLOSED)
        return found

    def _receive(self, size: int) -> bytes:
        try:
            return self._socket.recv(size)
        except OSError as error:
            raise self._lost(_text(error)) from None

    def _lost(self, problem: str) -> SpoolUnreachable:
        return SpoolUnreachable(str(self._where), problem, uncertain=self._sent)

    def ask_for_bodies(self) -> None:
        """Make sure that a body is kept at the other side, before it is sent.

        Raises:
            SpoolRefused: It is not.
        """
        self.send(bytes((PING, 0, 0, KEEPS_BODIES)))
        self._sent = False  # no task yet
        if self.receive_head() != bytes((PING, 0, 0, KEEPS_BODIES)):
            problem = "it keeps no bodies, as only spoold does; nothing was sent"
            raise SpoolRefused(str(self._where), problem)


@contextmanager
def _connection(where: Address, timeout: float) -> Iterator[_Line]:
    try:
        if where.path:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                made.settimeout(timeout)
                made.connect(where.path)
            except BaseException:
                made.close()
                raise
        else:
            made = socket.create_connection((where.host, where.port), timeout)
    except OSError as error:
        raise SpoolUnreachable(str(where), _text(error)) from None
    with made:
        yield _Line(where, made)


def _text(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return error.strerror or str(error)
