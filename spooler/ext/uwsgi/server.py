"""The sockets of ``spoold``: take uWSGI packets, store the tasks, answer.

A thread of the daemon accepts; each connection has a thread for its one task, since
what takes time is the disk. Nobody is waited for longer than ``timeout``: a body is
written while it comes, to a file without a name, so that memory does not grow.
Specification: docs/reference/network.md.
"""

import logging
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hmac import HMAC
from typing import Final

from ...addresses import Address, parse_address
from ...alarm import SOON, Alarm
from ...clock import CLOCK, Clock
from ...config import Listening
from ...logs import escape
from ...packet import HEAD
from ...sending import KEEPS_BODIES, PING, REFUSED, SPOOL, STORED
from ...spooldir import SpoolDir
from ...spooldir.keys import Sender
from ...spooldir.owner import NOBODY
from .listening import Listener, is_loopback, listen, name_of
from .receiving import (
    HEADER_MAX,
    Keys,
    Packet,
    Plan,
    Refused,
    Rules,
    Secrets,
    begin_signature,
    end_signature,
    plan,
    read_packet,
)
from .storing import Spools

PIECE: Final = 1 << 18
"""Bytes of a body that are in memory at a time."""

BODY_RATE: Final = 1 << 16
"""Bytes in a second that a body must come with, in all."""

LOOK_BYTES: Final = 1 << 20
"""Bytes of a body after which it is looked at again how much room is free."""

PINGS_MAX: Final = 16
"""Pings that one connection may begin with."""

PATIENCE: Final = 0.5
"""Seconds for which a place is kept for who has said nothing, though others wait."""

ACCEPT_AGAIN: Final = 0.1
"""Seconds until a connection is accepted again that could not be."""

LINGER: Final = 1.0
"""Seconds in which the other side is to close after the answer."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that tasks which are just being stored are given when the daemon ends."""

RATE_WAIT: Final = 1.0
"""Seconds that a task waits at most when too many come."""

log = logging.getLogger(__name__)


class _Gone(Exception):  # noqa: N818 (what happened)
    """The other side is gone, or too slow: the text says which."""


class Pace:
    """So many tasks a second, for all connections together.

    Args:
        rate: Tasks in a second; 0 for any number.
    """

    def __init__(self, rate: float, clock: Clock = CLOCK) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock.monotonic()

    def turn(self) -> float:
        """Return the seconds until it is the turn of one more task.

        Raises:
            Refused: Too many.
        """
        if not self._rate:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            turn = max(self._free_at, now - 1.0)  # a second's tasks may come at once
            if turn - now > RATE_WAIT:
                raise Refused(f"more than {self._rate:g} tasks a second come in")
            self._free_at = turn + 1 / self._rate
        return max(0.0, turn - now)


class Server:
    """All sockets of a daemon.

    Binds at once; what connects waits until ``start``.

    Args:
        settings: Where it listens, and what it takes.
        paths: The spools, the first of which takes what names none.

    Raises:
        UsageError: An address cannot be used.
        KeyFileError: The file with the secret cannot be used.
    """

    def __init__(self, settings: Listening, paths: Sequence[str], rules: Rules) -> None:
        self.settings = settings
        self.rules = rules
        self.pace = Pace(settings.rate)
        self.secrets: Secrets | None = None
        if settings.secret_file is not None:
            slowest = settings.timeout + settings.max_body / BODY_RATE
            self.secrets = Secrets(settings.secret_file, patience=slowest)
        self.spools = Spools(paths)
        self._signing: Keys | None = None
        if rules.signed and self.spools.key_file is not None:
            self._signing = Keys(self.spools.key_file)
        self.planning = threading.Lock()
        self._lock = threading.Condition()
        self._open: dict[int, _Connection] = {}
        self._stopping = False
        self._alarm = Alarm(log, "refuse: %d more tasks from sockets")
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._listeners: list[Listener] = []
        self._thread = threading.Thread(target=self._run, name="sockets", daemon=True)
        try:
            for text in settings.addresses:
                self._listeners.append(listen(parse_address(text), settings.mode))
        except BaseException:
            self.close()
            raise
        for address in self.addresses:
            secret = "no" if self.secrets is None else "yes"
            log.info("listen socket=%s secret=%s", address, secret)
            if not address.path and not is_loopback(address.host):
                log.warning(
                    "insecure socket=%s: other machines can reach it, and %s",
                    address,
                    "nothing is encrypted"
                    if self.secrets
                    else "have tasks run here, without --socket-secret-file",
                )

    @property
    def addresses(self) -> list[Address]:
        """Where it listens, with the ports that it has got."""
        return [listener.address for listener in self._listeners]

    def start(self) -> None:
        """Begin to accept. Signals remain the main thread's."""
        held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def close(self) -> None:
        """Stop listening; let those end, for a moment, that store a task."""
        self._stopping = True
        with suppress(BlockingIOError):
            os.write(self._writer, b"s")
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT)
        for listener in self._listeners:
            listener.close()
        until = CLOCK.monotonic() + CLOSE_TIMEOUT
        with self._lock:
            for connection in self._open.values():
                if not connection.stores:
                    connection.cut()
            while self._open and (left := until - CLOCK.monotonic()) > 0:
                self._lock.wait(left)

    # -- connections ------------------------------------------------------------

    def _run(self) -> None:
        poll = select.poll()
        sockets = {each.socket.fileno(): each.socket for each in self._listeners}
        for fd in (self._reader, *sockets):
            poll.register(fd, select.POLLIN)
        while not self._stopping:
            for fd, _ in poll.poll(SOON * 1000 if self._alarm.hides else None):
                if fd == self._reader:
                    os.read(fd, 4096)
                else:
                    self._accept(sockets[fd])
            with self._lock:
                self._alarm.look()

    def _accept(self, listener: socket.socket) -> None:
        self._make_room()
        try:
            line, peer = listener.accept()
        except (BlockingIOError, ConnectionError):  # pragma: no cover (a race)
            return  # who has connected is gone already
        except OSError as error:  # too many open files, say: it stays readable
            self.refuse("-", f"cannot accept: {error}")
            threading.Event().wait(ACCEPT_AGAIN)
            return
        connection = _Connection(self, line, name_of(line, peer))
        with self._lock:
            self._open[id(connection)] = connection
        try:
            threading.Thread(target=connection.run, daemon=True).start()
        except RuntimeError as error:  # no more threads
            self.refuse(connection.peer, f"cannot begin: {error}")
            line.close()
            self.forget(connection)

    def _make_room(self) -> None:
        """Wait for a free place; end who has said nothing for longest, if need be."""
        with self._lock:
            while len(self._open) >= self.settings.connections and not self._stopping:
                old = CLOCK.monotonic() - PATIENCE
                found = self._open.values()
                idle = [each for each in found if each.idle and each.begun < old]
                if idle:
                    slowest = min(idle, key=lambda each: each.begun)
                    slowest.cut("others wait for its place")
                self._lock.wait(0.1)

    def forget(self, connection: "_Connection") -> None:
        """Note that a connection has ended."""
        with self._lock:
            self._open.pop(id(connection), None)
            self._lock.notify_all()

    def refuse(self, peer: str, reason: str) -> None:
        """Say that a task was not taken, and why."""
        with self._lock:
            text = "refuse socket peer=%s: %s"
            self._alarm.tell(logging.WARNING, text, peer, escape(reason))
            if self._alarm.hides:  # it is to be looked at
                with suppress(BlockingIOError):
                    os.write(self._writer, b"r")

    # -- tasks ------------------------------------------------------------------

    def begin_proof(self, packet: Packet) -> list[HMAC]:
        """Begin to check that a packet's sender knows the secret, if there is one.

        Raises:
            Refused: He does not.
        """
        if self.secrets is None:
            return []
        with self._lock:
            problem = self.secrets.look()
            if problem is not None:
                log.error("the old secrets go on: %s", problem)
            return self.secrets.begin(packet)

    def end_proof(self, packet: Packet, sums: list[HMAC]) -> None:
        """Check it, once the body is there.

        Raises:
            Refused: He does not.
        """
        if self.secrets is not None:
            with self._lock:
                self.secrets.end(packet.proof, sums)

    def begin_signature(self, made: Plan) -> list[HMAC]:
        """Begin to check the signature of a task, if it must have one."""
        if self._signing is None:
            return []
        with self._lock:
            problem = self._signing.look()
            if problem is not None:
                log.error("the old keys go on: %s", problem)
            return begin_signature(self._signing.found, made.begin)

    def end_signature(self, made: Plan, sums: list[HMAC]) -> None:
        """Check it, once the body is there: before a key is taken from another task.

        Raises:
            Refused: It is wrong, or there is no key here.
        """
        if self.rules.signed:
            end_signature(made.begin, sums)


class _Connection:
    """One connection, in a thread of its own.

    Attributes:
        begun: When it was accepted, in seconds of the monotonic clock.
        idle: It has not sent a whole packet yet.
        stores: A task is being stored.
    """

    def __init__(self, server: Server, line: socket.socket, peer: str) -> None:
        self._server = server
        self._line = line
        self.peer = peer
        self.begun = CLOCK.monotonic()
        self.idle = True
        self.stores = False
        self._until = self.begun + server.settings.timeout
        self._proof: list[HMAC] = []
        self._signature: list[HMAC] = []
        self._why = ""

    def cut(self, why: str = "spoold ends") -> None:
        """End it from another thread."""
        self._why = self._why or why
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Serve it."""
        try:
            self._serve()
        except Refused as error:
            self._server.refuse(self.peer, str(error))
            self._answer(REFUSED)
        except _Gone as error:
            if str(error):
                self._server.refuse(self.peer, self._why or str(error))
                self._answer(REFUSED)
        finally:
            self._line.close()
            self._server.forget(self)

    def _serve(self) -> None:
        for _ in range(PINGS_MAX):
            head = self._exactly(HEAD, may_end=True)
            if head[0] not in (SPOOL, PING):
                raise Refused(f"modifier1 {head[0]}: only {SPOOL}, for tasks, is known")
            block = self._exactly(int.from_bytes(head[1:3], "little"))
            if head[0] == SPOOL:
                self.idle = False
                self._take(head + block)
                return
            keeps = head[3] == KEEPS_BODIES
            self._send(bytes((PING, 0, 0, KEEPS_BODIES if keeps else 1)))
        raise Refused("nothing but pings")

    def _take(self, data: bytes) -> None:
        """Store a task, and say so."""
        server = self._server
        packet = read_packet(data)
        most = server.settings.max_body
        if packet.length > most:
            raise Refused(f"its body has {packet.length} bytes, and {most} are allowed")
        self._proof = server.begin_proof(packet)
        spool = server.spools.find(packet.pairs)
        self._until = CLOCK.monotonic() + server.settings.timeout
        first = b""
        if packet.file == b"":
            most = min(packet.length, HEADER_MAX + 1)
            first = b"".join(self._body(most))
        peer = self._peer_uid()
        trusted = server.secrets is not None or peer in (0, os.geteuid())
        # A signature is verified at the end of the chunks, before anything is replaced.
        sender = None if trusted else Sender(peer, lambda: server.rules.signed)
        with server.planning:  # one at a time, since it takes memory
            made = plan(packet, first, server.rules, trusted=trusted)
        chunks = self._chunks(packet, made, spool, len(first))
        server.spools.store(spool, made, chunks, sender)
        task = (made.name.id, escape(made.name.task), self.peer)
        log.debug("receive task=%s name=%s peer=%s", *task)
        self._answer(STORED)

    def _chunks(
        self, packet: Packet, made: Plan, spool: SpoolDir, come: int
    ) -> Iterator[bytes]:
        """Yield the file of a task; at its end find out whether it may be stored.

        Args:
            come: Bytes of the body that are in the beginning.

        Raises:
            Refused: It may not.
            SpoolerError, OSError: It cannot.
        """
        server, left = self._server, packet.length - come
        self._signature = server.begin_signature(made)
        server.spools.check_free(spool, left)
        yield made.begin
        look_at = left - LOOK_BYTES
        for piece in self._body(left):
            left -= len(piece)
            if left <= look_at:
                server.spools.check_free(spool, left)
                look_at = left - LOOK_BYTES
            yield piece
        server.end_proof(packet, self._proof)
        server.end_signature(made, self._signature)
        turn = server.pace.turn()
        self.stores = True
        threading.Event().wait(turn)
        if not spool.is_in_place():
            raise Refused("cannot store it: the spool was removed or replaced")

    def _body(self, size: int) -> Iterator[bytes]:
        """Yield so many bytes of the body, each of which gives time for more."""
        while size:
            piece = self._receive(min(size, PIECE))
            size -= len(piece)
            self._until += len(piece) / BODY_RATE
            for each in (*self._proof, *self._signature):
                each.update(piece)
            yield piece

    def _peer_uid(self) -> int:
        """Return who is at the other end of a UNIX socket, else ``NOBODY``."""
        if self._line.family != socket.AF_UNIX:
            return NOBODY
        size = struct.calcsize("iII")
        told = self._line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("iII", told)[1])

    # -- bytes ------------------------------------------------------------------

    def _exactly(self, size: int, *, may_end: bool = False) -> bytes:
        """Return so many bytes; an end before the first one may be said to be none."""
        found = bytearray()
        while len(found) < size:
            try:
                found += self._receive(min(size - len(found), PIECE))
            except _Gone:
                if may_end and not found and not self._why:
                    raise _Gone from None
                raise
        return bytes(found)

    def _receive(self, size: int) -> bytes:
        try:
            self._line.settimeout(self._seconds())
            piece = self._line.recv(size)
        except TimeoutError:
            raise _Gone("it was too slow") from None
        except OSError as error:
            raise _Gone(f"it is gone: {error.strerror}") from None
        if not piece:
            raise _Gone("it has ended before all had come")
        return piece

    def _seconds(self) -> float:
        """Return how long the other side may take now.

        Raises:
            TimeoutError: No longer.
        """
        left = self._until - CLOCK.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, self._server.settings.timeout)

    def _send(self, data: bytes) -> None:
        try:
            self._line.settimeout(self._server.settings.timeout)
            self._line.sendall(data)
        except OSError as error:
            raise _Gone(f"it is gone: {error}") from None

    def _answer(self, data: bytes) -> None:
        """Send the answer, the last that is said, and hear the other side out.

        Else what it has sent besides would have the kernel throw the answer away.
        """
        until, more = CLOCK.monotonic() + LINGER, 0
        with suppress(OSError, _Gone):
            self._send(data)
            self._line.shutdown(socket.SHUT_WR)
            while (left := until - CLOCK.monotonic()) > 0:
                self._line.settimeout(left)
                piece = self._line.recv(PIECE)
                if not piece:
                    break
                more += len(piece)
        if more and data == STORED:
            problem = "bytes that came after a task were not announced, and not kept"
            self._server.refuse(self.peer, f"{more} {problem}")
