"""What every command of ``spool`` has in common: its errors, ``--dir``, ``--json``."""

import errno
import functools
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NoReturn

import click

from ..errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_SETTINGS,
    EXIT_TRY_LATER,
    EXIT_USAGE,
    KeyFileError,
    NotASpoolError,
    SpoolerError,
    SpoolFull,
    SpoolUnreachable,
    UsageError,
)
from ..putting import default_path
from ..spooldir import SpoolDir
from . import output

EXIT_INTERRUPTED: Final = 130
_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ETIMEDOUT})


class Commands(click.Group):
    """Commands whose errors are one line, and whose order is that of their adding."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which the commands were added."""
        return list(self.commands)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run the command line, and exit."""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.ClickException as problem:
            text = " ".join(problem.format_message().split()).removesuffix(".")
            output.error(text[:1].lower() + text[1:])
            code = problem.exit_code
        except click.Abort:  # pragma: no cover (Ctrl-C while options were read)
            code = EXIT_INTERRUPTED
        sys.exit(code if isinstance(code, int) else EXIT_DONE)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error becomes one line and an exit code."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # it may not know all letters
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        except (SpoolerError, OSError) as problem:
            if isinstance(problem, OSError) and problem.errno == errno.EPIPE:
                raise  # click knows what to do
            output.error(output.text_of(problem))
            sys.exit(exit_code(problem))


def exit_code(problem: SpoolerError | OSError) -> int:
    """Return the exit code that stands for an error."""
    if isinstance(problem, SpoolUnreachable):
        return EXIT_TRY_LATER
    if isinstance(problem, OSError):
        if problem.errno in _NOT_ALLOWED:
            return EXIT_SETTINGS
        return EXIT_TRY_LATER if problem.errno in _FULL else EXIT_FAILED
    if isinstance(problem, NotASpoolError | KeyFileError):
        return EXIT_SETTINGS
    if isinstance(problem, SpoolFull):
        return EXIT_TRY_LATER
    return EXIT_USAGE if isinstance(problem, UsageError) else EXIT_FAILED


@dataclass(frozen=True, slots=True)
class Call:
    """What every command is told.

    Attributes:
        path: The spool's absolute path.
        json: Print JSON.
    """

    path: str
    json: bool

    def open(self) -> SpoolDir:
        """Return the spool, checked."""
        spool = SpoolDir(self.path)
        spool.open()
        click.get_current_context().call_on_close(spool.close)
        return spool


def dir_and_json(function: Callable[..., None]) -> Callable[..., None]:
    """Add the two options that stand before or after the command."""

    @click.option(
        "--dir",
        "dir_",
        type=click.Path(readable=False),
        metavar="DIR",
        help="The spool.",
    )
    @click.option("--json", "json_", is_flag=True, help="Print JSON.")
    @functools.wraps(function)
    def wrapper(dir_: str | None, json_: bool, **options: Any) -> None:
        root = click.get_current_context().find_root().params
        path = dir_ or root["dir_"] or default_path()
        function(Call(os.path.abspath(path), json_ or root["json_"]), **options)

    return wrapper


def stdin() -> BinaryIO:
    """Return standard input, which ``-`` stands for, as bytes.

    Raises:
        UsageError: It is closed.
    """
    if sys.stdin is None:
        raise UsageError("- is standard input, which is closed")
    return sys.stdin.buffer
