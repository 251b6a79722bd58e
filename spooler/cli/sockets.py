"""At which sockets ``spoold`` takes tasks: its options."""

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..config import Listening, parse_size
from ..errors import UsageError

F = TypeVar("F", bound=Callable[..., None])

_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)


def socket_options(function: F) -> F:
    """Add ``--socket`` and those that begin with it."""
    for option in (
        click.option(
            "--socket-timeout",
            type=float,
            default=10.0,
            metavar="SECONDS",
            help="Time in which a packet must have come.",
        ),
        click.option(
            "--socket-rate",
            type=float,
            default=0.0,
            metavar="N",
            help="Take so many tasks a second from all sockets; 0 for no limit.",
        ),
        click.option(
            "--socket-max-body",
            default="64M",
            metavar="BYTES",
            help="Refuse tasks with a larger body: 1G; 0 for none at all.",
        ),
        click.option(
            "--socket-connections",
            type=int,
            default=100,
            metavar="N",
            help="Serve so many senders at a time.",
        ),
        click.option(
            "--socket-mode",
            default="600",
            metavar="MODE",
            help="Who may use UNIX sockets: 660 for a group.",
        ),
        click.option(
            "--socket-secret-file",
            type=click.Path(readable=False),
            default=None,
            metavar="FILE",
            help="Take tasks only from those who know the secret in this file.",
        ),
        click.option(
            "--socket",
            multiple=True,
            envvar="SPOOLER_SOCKET",
            metavar="ADDRESS",
            help="Take tasks as uWSGI packets at HOST:PORT, or at this path; may be"
            " given several times.",
        ),
    ):
        function = option(function)
    return function


def take_sockets(options: dict[str, Any]) -> Listening | None:
    """Take these options out of all; return what they come to.

    Raises:
        UsageError: One of them cannot be.
    """
    given = {
        name: options.pop(f"socket_{name}")
        for name in ("secret_file", "connections", "rate", "timeout")
    }
    mode, size = options.pop("socket_mode"), options.pop("socket_max_body")
    addresses = options.pop("socket")
    if not _MODE.fullmatch(mode):
        raise UsageError(
            f"socket_mode={mode!r:.80} cannot be: it is such as 600 or 660"
        )
    if given["secret_file"] is not None:
        given["secret_file"] = os.path.abspath(given["secret_file"])
    found = Listening(
        addresses,
        mode=int(mode, 8),
        max_body=parse_size("socket_max_body", size),
        **given,
    )
    return found if addresses or found.secret_file else None
