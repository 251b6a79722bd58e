"""Listen at an address."""

import os
import socket
from ipaddress import ip_address
from typing import Final

import msgspec

from ...addresses import Address
from ...errors import UsageError
from ...spooldir.socket_file import bind, remove

BACKLOG: Final = 512
"""Connections that the kernel keeps until they are accepted."""


class Listener(msgspec.Struct, frozen=True):
    """A socket that listens.

    Attributes:
        address: Where, with the port that it has got.
        file: What it has made at its path; None for TCP.
    """

    socket: socket.socket
    address: Address
    file: os.stat_result | None = None

    def close(self) -> None:
        """Listen no more."""
        self.socket.close()
        if self.file is not None:
            remove(self.address.path, self.file)


def listen(address: Address, mode: int) -> Listener:
    """Listen at an address.

    Args:
        mode: Of a UNIX socket.

    Raises:
        UsageError: The address cannot be used.
    """
    try:
        made = _listen_unix(address, mode) if address.path else _listen_tcp(address)
    except OSError as error:
        raise UsageError(f"socket {address}: {error.strerror or error}") from None
    made.socket.setblocking(False)  # who connects may be gone before he is accepted
    return made


def _listen_tcp(address: Address) -> Listener:
    where = (address.host, address.port)
    found = socket.getaddrinfo(*where, type=socket.SOCK_STREAM)
    made = socket.create_server(where, family=found[0][0], backlog=BACKLOG)
    return Listener(made, Address(address.host, made.getsockname()[1]))


def _listen_unix(address: Address, mode: int) -> Listener:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        file = bind(made, address.path, mode)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return Listener(made, address, file)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, and nobody else can reach it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def name_of(line: socket.socket, peer: object) -> str:
    """Return who is at the other end, for the log."""
    if isinstance(peer, tuple):
        return str(Address(str(peer[0]), int(peer[1])))
    return "unix"
