"""The commands ``spool log`` and ``spool watch``: what a task prints, how far it is.

Nothing from a task reaches a terminal unescaped, unless it was asked for (``--raw``).
"""

import codecs
import os
import sys
from contextlib import suppress
from typing import Final

import click
import msgspec

from ..errors import EXIT_FAILED, NotFoundError
from ..logs import escape
from ..spooldir import SpoolDir, repair, runlogs
from ..spooldir.repair import Found
from ..task import State, iso
from . import output
from .group import Call, dir_and_json

_TRIES: Final = 5
"""How often a task is looked for that moves meanwhile."""

_LOG_EXAMPLES: Final = """\b
Examples:
  spool log 8c1f
  spool log 8c1f -f
  spool log 8c1f --attempt 2 --raw > output.bin
"""


class Printer:
    """Prints what tasks have printed, piece by piece.

    Args:
        raw: Print the bytes as they are.
    """

    def __init__(self, *, raw: bool) -> None:
        self._raw = raw
        self._decoder = _decoder()
        self._in_line = False
        self.empty = True

    def head(self, text: str) -> None:
        """Print a heading."""
        if not self._raw:
            self.end()
            click.echo(f"==> {escape(text)} <==")
            self.empty = False

    def data(self, data: bytes) -> None:
        """Print bytes, which may end in the middle of a letter."""
        if not data:
            return
        self.empty = False
        if self._raw:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
            return
        self._text(self._decoder.decode(data))

    def end(self) -> None:
        """End what was begun: a letter, a line."""
        self._text(self._decoder.decode(b"", True))
        self._decoder = _decoder()
        if self._in_line and not self._raw:
            click.echo()
            self._in_line = False

    def _text(self, text: str) -> None:
        if text:
            click.echo(visible(text), nl=False)
            sys.stdout.flush()
            self._in_line = not text.endswith("\n")


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("backslashreplace")


def visible(text: str) -> str:
    """Return text that does nothing to a terminal but begin lines and columns."""
    return "\n".join(
        "\t".join(escape(part) for part in line.split("\t"))
        for line in text.split("\n")
    )


class _Log(msgspec.Struct, frozen=True):
    """What one run printed; ``time_us`` is when it did so last."""

    attempt: int
    running: bool
    size: int
    time_us: int
    path: str
    data: bytes

    def heading(self) -> str:
        when = "running" if self.running else iso(self.time_us)
        return f"attempt {self.attempt}, {when}, {self.size} bytes"

    def as_json(self, task_id: str) -> dict[str, object]:
        return {
            "id": task_id,
            "attempt": self.attempt,
            "running": self.running,
            "size": self.size,
            "time": iso(self.time_us),
            "text": self.data.decode("utf-8", "backslashreplace"),
        }


@click.command("log", epilog=_LOG_EXAMPLES)
@click.argument("task_id", metavar="ID")
@click.option(
    "--attempt", type=click.IntRange(min=1), metavar="N", help="Only this attempt."
)
@click.option(
    "--follow", "-f", is_flag=True, help="Go on printing until the task has ended."
)
@click.option("--raw", is_flag=True, help="Print the bytes as they are, unescaped.")
@dir_and_json
def log(call: Call, task_id: str, attempt: int | None, follow: bool, raw: bool) -> None:
    """Show what a task printed: of each attempt what was kept.

    Of a running task: what it has printed so far.

    An id may be shortened.
    """
    if follow and (attempt is not None or call.json):
        raise click.UsageError("--follow goes neither with --attempt nor with --json")
    if raw and call.json:
        raise click.UsageError("--raw does not go with --json")
    spool = call.open()
    found, full_id = _find(spool, task_id)
    printer = Printer(raw=raw)
    if follow and found is not None:
        # What waits for changes is slow to load, and only needed here.
        from .following import follow_log  # noqa: PLC0415

        follow_log(spool, found, printer)
        printer.end()
        return
    logs = [
        each for each in _logs(spool, found, full_id) if attempt in (None, each.attempt)
    ]
    if not logs:
        which = "" if attempt is None else f" of attempt {attempt}"
        raise NotFoundError(full_id, f"no log{which} was kept")
    if call.json:
        output.say_json(each.as_json(full_id) for each in logs)
        return
    for each in logs:
        if len(logs) > 1:
            printer.head(each.heading())
        printer.data(each.data)
        printer.end()


def _find(spool: SpoolDir, task_id: str) -> tuple[Found | None, str]:
    """Return the task, if it is still there, and its whole id.

    Raises:
        NotFoundError: There is neither a task nor a log of one, or several.
    """
    (found,) = repair.find_all(spool, [task_id])
    if isinstance(found, Found):
        return found, found.id
    finished = runlogs.kept(spool, task_id) if task_id else {}
    if len(finished) != 1:
        raise found
    return None, next(iter(finished))


def _logs(spool: SpoolDir, found: Found | None, task_id: str) -> list[_Log]:
    """Return the logs of a task, in the order of its attempts."""
    now: _Log | None = None
    for _ in range(_TRIES):
        now = None if found is None else _running(spool, found)
        if found is None or spool.has(found.path):
            break  # else the worker may already be at its next task
        (again,) = repair.find_all(spool, [task_id])
        found = again if isinstance(again, Found) else None
    logs = []
    for attempt in runlogs.kept(spool, task_id).get(task_id, []):
        path = runlogs.log_path(task_id, attempt)
        if now is None or path != now.path:
            with suppress(FileNotFoundError):  # just removed
                data, size, time_us = runlogs.read(spool, path)
                logs.append(_Log(attempt, False, size, time_us, path, data))
    return logs if now is None else [*logs, now]


def _running(spool: SpoolDir, found: Found) -> _Log | None:
    if found.state is not State.RUNNING or found.name is None:
        return None
    path = running_path(spool, found)
    try:
        data, size, time_us = runlogs.read(spool, path)
    except FileNotFoundError:
        return None
    return _Log(found.name.attempt + 1, True, size, time_us, path, data)


def running_path(spool: SpoolDir, found: Found) -> str:
    """Return where it is written what a running task prints."""
    path = runlogs.live_path(found.path.split("/")[1])
    if found.name is None or spool.has(path):
        return path
    return runlogs.log_path(found.id, found.name.attempt + 1)


_WATCH_EXAMPLES: Final = """\b
Examples:
  spool watch 8c1f
  spool watch 8c1f42d09ab3e617 && echo done
"""


@click.command(epilog=_WATCH_EXAMPLES)
@click.argument("task_id", metavar="ID")
@dir_and_json
def watch(call: Call, task_id: str) -> None:
    """Show how far a task is, until it has ended.

    A bar on a terminal, else a line for each change. Exits with 0 when the task has
    succeeded, with 1 when it failed or was removed.

    An id may be shortened.
    """
    spool = call.open()
    found = repair.find(spool, task_id)
    if found.name is None:
        raise NotFoundError(found.id, "is no task: it cannot run")
    # What waits for changes is slow to load, and only needed here.
    from .following import Facts, watch_task  # noqa: PLC0415

    on_terminal = not call.json and sys.stdout is not None and sys.stdout.isatty()

    def show(facts: Facts) -> None:
        if call.json:
            output.say_json([facts.as_json(found.id)])
        elif on_terminal:
            line = escape(f"{found.id}  {facts.line(bar=True)}")
            click.echo(f"\r{line[: _width() - 1]}\x1b[K", nl=False)
        else:
            click.echo(escape(f"{found.id}  {facts.line(bar=False)}"))
        sys.stdout.flush()

    try:
        succeeded = watch_task(spool, found, show)
    finally:
        if on_terminal:
            click.echo()
    if not succeeded:
        sys.exit(EXIT_FAILED)


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except OSError:
        return 80
