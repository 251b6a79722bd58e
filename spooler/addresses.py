"""Where a spool is that is reached over a socket: ``HOST:PORT``, or a socket's path.

A path that ends in ``.sock``, or at which there is a socket, is one; ``unix:PATH`` is
one in any case. Everything else is a directory.
"""

import os
import re
import stat
from typing import Final

import msgspec

from .errors import UsageError

LOOPBACK: Final = "127.0.0.1"
"""The host of an address that names none: this machine, and nobody else."""

_TCP = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]*):(\d{1,5})", re.ASCII)
_UNIX: Final = "unix:"
_SUFFIX: Final = ".sock"
_PORT_MAX: Final = 0xFFFF


class Address(msgspec.Struct, frozen=True):
    """A TCP port, or a UNIX socket.

    Attributes:
        host: A name or a number; empty for a UNIX socket.
        port: 0 for a UNIX socket, or for any port that is free.
        path: Absolute; empty for TCP.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"{_UNIX}{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def find_address(text: str) -> Address | None:
    """Return the address that a text is; None if it is a directory.

    Looks whether there is a socket, where the text alone does not say it.
    """
    if text.startswith(_UNIX):
        return Address(path=os.path.abspath(text.removeprefix(_UNIX)))
    match = _TCP.fullmatch(text)
    if match is not None:
        port = int(match[2])
        return Address(match[1].strip("[]") or LOOPBACK, port) if _fits(port) else None
    try:
        is_socket = stat.S_ISSOCK(os.stat(text).st_mode)
    except OSError:
        is_socket = text.endswith(_SUFFIX)
    except ValueError:  # a NUL
        return None
    return Address(path=os.path.abspath(text)) if is_socket else None


def _fits(port: int) -> bool:
    return port <= _PORT_MAX


def parse_address(text: str, option: str = "socket", hint: str = "") -> Address:
    """Return the address to listen at, or to send to.

    Here every text with a slash is a path.

    Args:
        option: Where it was given, for the error.
        hint: What that says at its end.

    Raises:
        UsageError: It is none.
    """
    found = find_address(text)
    if found is None and "/" in text:
        return Address(path=os.path.abspath(text))
    if found is None:
        raise UsageError(
            f"{option}={text!r:.200} cannot be: it takes HOST:PORT, such as"
            " 127.0.0.1:10001, or the path of a UNIX socket, with a / in it (./foo)"
            f"{hint}"
        )
    return found
