"""One line of a batch: a task in JSON on one line ⇄ bytes.

Specification: docs/format.md, section 11.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from .codec import SHORT, Header, around, decode, encode
from .errors import CorruptError, UsageError
from .options import NO_OPTIONS, RunOptions
from .task import BATCH, FORWARD, MAX_HEADER

_NOT_HERE: Final = {BATCH: "a batch", FORWARD: FORWARD}
"""A line that has failed becomes the daemon's own file, whoever has put the batch."""


class Frame(NamedTuple):
    """What stands before and after the arguments of calls that differ in nothing else.

    With it a line is three strings put together.
    """

    task: str
    before: bytes
    after: bytes
    traceparent: str | None
    options: RunOptions

    def line(self, args: bytes) -> bytes:
        """Return a line with these arguments, a JSON object.

        Raises:
            UsageError: No reader would take it.
        """
        if len(args) <= SHORT:
            return self.before + args + self.after
        return encode_line(
            self.task, args, traceparent=self.traceparent, options=self.options
        )


def frame(
    task: str, traceparent: str | None = None, options: RunOptions = NO_OPTIONS
) -> Frame:
    """Return what all lines of a task have in common.

    Raises:
        UsageError: No reader would take them.
    """
    _check_name(task)
    given = None if options is NO_OPTIONS else options
    try:
        before, after = around(task, traceparent=traceparent, options=given)
    except UsageError:
        raise _too_large() from None
    return Frame(task, before, after, traceparent, options)


def encode_line(
    task: str,
    args: bytes,
    *,
    at: str | int | float | None = None,
    body: str | None = None,
    traceparent: str | None = None,
    options: RunOptions = NO_OPTIONS,
) -> bytes:
    """Return a task as a line, with its newline.

    Raises:
        UsageError: No reader would take it: too large, or nested too deep.
    """
    _check_name(task)
    if len(args) + len(body or "") > MAX_HEADER:
        raise _too_large()
    given = None if options is NO_OPTIONS else options
    return encode(task, args, at=at, body=body, traceparent=traceparent, options=given)


def _too_large() -> UsageError:
    return UsageError(
        f"takes more than {MAX_HEADER} bytes, the most in a batch: put it by itself"
    )


@lru_cache(maxsize=1024)
def _check_name(task: str) -> None:
    if task in _NOT_HERE:
        raise UsageError(f"{_NOT_HERE[task]} has no place in a batch")


def decode_line(line: bytes) -> Header:
    """Read a line, without its newline.

    Raises:
        CorruptError: It is not a task, or not one that may stand in a batch.
    """
    if not line.startswith(b"{"):
        raise CorruptError("not a JSON object")
    header = decode(line, whole=True)
    if header is None:  # pragma: no cover (there is no more of it)
        raise CorruptError("not a JSON object")
    if header.id is not None or header.key is not None or header.priority is not None:
        names = ("id", "key", "priority")
        (first, *_) = (name for name in names if getattr(header, name) is not None)
        raise CorruptError(f"{first}: has no place in a batch")
    if header.task in _NOT_HERE:
        raise CorruptError(f"{_NOT_HERE[header.task]} has no place in a batch")
    return header
