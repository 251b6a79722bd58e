"""``spool put --from``: one task for each line of a file, all in one batch.

Each line is checked and none is put before the last one was read; memory does not grow
with the file.
"""

import os
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO, Final

import click
import msgspec

from ..codec import Header
from ..errors import CorruptError, UsageError
from ..lines import decode_line
from ..many import Batch, Collected
from ..putting import PutOptions
from ..task import MAX_HEADER, check_task_name
from . import output
from .group import stdin

_SHOWN_EVERY: Final = 1000
"""Lines after which the bar moves."""

KEYS: Final = frozenset({"task", "args", "at", "body", "options", "traceparent", "v"})
"""What a line may have; anything else is surely a mistake of whoever wrote it now."""

_SPACES: Final = b" \t\r\n"


def put_lines(path: str, task: str | None, options: PutOptions) -> Batch:
    """Put the lines of a file.

    Args:
        path: ``-`` is standard input.
        task: The name of all of them; then each line holds only the arguments.

    Raises:
        UsageError: A line cannot be a task; nothing was put.
        SpoolUncertain: The last sync failed: they may run.
        OSError: From the file system; there is no task then.
    """
    before = b""
    if task is not None:
        before = b'{"task":%b,"args":' % msgspec.json.encode(check_task_name(task))
    with Collected() as lines:
        for number, line in enumerate(_shown(_opened(path)), 1):
            text = line.strip(_SPACES)
            if not text:
                continue
            try:
                header, text = _read(text, before)
            except (CorruptError, UsageError) as problem:
                reason = str(problem).removeprefix("line 1, ")
                raise UsageError(f"{_name(path)}, line {number}: {reason}") from None
            lines.begin(header.task)
            lines.add(text + b"\n")
        if not lines.count:
            output.error(f"{_name(path)} holds no tasks: nothing was put")
        return lines.put(options)


def _read(text: bytes, before: bytes) -> tuple[Header, bytes]:
    """Return a line as a task, and as it is to be put."""
    if len(text) > MAX_HEADER:
        raise UsageError(f"is longer than {MAX_HEADER} bytes: put it by itself")
    if before:
        if not text.startswith(b"{"):
            raise UsageError("with TASK given, a line is a JSON object of arguments")
        text = before + text + b"}"
    header = decode_line(text)
    if unknown := keys_of(text) - KEYS:
        some = ", ".join(sorted(map(ascii, unknown))[:3])
        raise UsageError(
            f"a task has no key {some} (it has: {', '.join(sorted(KEYS))})"
        )
    if before and header.args != text[len(before) : -1]:
        raise UsageError("with TASK given, a line is a JSON object of arguments")
    return header, text


def keys_of(line: bytes) -> set[str]:
    """Return the keys of a JSON object."""
    return set(msgspec.json.decode(line, type=dict[str, msgspec.Raw]))


def _name(path: str) -> str:
    return "standard input" if path == "-" else path


def _opened(path: str) -> BinaryIO:
    if path == "-":
        return stdin()
    try:
        return click.get_current_context().with_resource(open(path, "rb"))
    except OSError as problem:
        raise UsageError(f"--from {output.text_of(problem)}") from None


def _shown(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file, with a bar on a terminal that shows how far it is."""
    size = _size(file)
    if not size or sys.stderr is None or not sys.stderr.isatty():
        yield from _lines(file)
        return
    with click.progressbar(length=size, label="reading", file=sys.stderr) as bar:
        done = 0
        for number, line in enumerate(_lines(file), 1):
            done += len(line)
            if number % _SHOWN_EVERY == 0:
                bar.update(done)
                done = 0
            yield line
        bar.update(done)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    # No line that can be is longer, and one that cannot be is not kept in memory.
    most = MAX_HEADER + 1024
    while line := file.readline(most):
        yield line


def _size(file: BinaryIO) -> int:
    """Return the size of a regular file; 0 for any other."""
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
