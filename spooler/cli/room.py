"""How much may wait in a spool: the options of ``spoold`` and ``spool init``."""

from collections.abc import Callable
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., None])


def room_options(function: F) -> F:
    """Add ``--max-waiting``, ``--min-free`` and ``--min-free-inodes``."""
    for option in (
        click.option(
            "--min-free-inodes",
            type=int,
            default=None,
            metavar="N",
            help="Refuse puts while the file system has fewer inodes free; 0 for any.",
        ),
        click.option(
            "--min-free",
            default=None,
            metavar="BYTES",
            help="Refuse puts while the file system has less: 500M, 1G; 0 for any.",
        ),
        click.option(
            "--max-waiting",
            type=int,
            default=None,
            metavar="N",
            help="Refuse puts while so many tasks wait; 0 for no limit.",
        ),
    ):
        function = option(function)
    return function
