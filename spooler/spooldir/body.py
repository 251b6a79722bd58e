"""Where a body comes from: bytes, a path or an open file, in pieces.

Memory does not grow with it.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO, Final

from ..errors import UsageError

PIECE: Final = 1024 * 1024

Body = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
"""What may be given as the body of a task; text is a path."""


def pieces(head: bytes, body: Body | None) -> Iterator[bytes]:
    """Yield what a task file holds: its header, then its body.

    A small body comes in one piece with the header. A path is opened at once,
    so that a missing file is the caller's error before anything was written.

    Raises:
        UsageError: The body is of no kind that can be.
        OSError: The path cannot be opened or read.
    """
    if body is None:
        return iter((head,))
    if isinstance(body, bytes | bytearray | memoryview):
        if len(body) <= PIECE:
            return iter((head + bytes(body),))
        return iter((head, bytes(body)))
    if isinstance(body, str | os.PathLike):
        return _from_file(head, open(body, "rb"), close=True)
    if hasattr(body, "read"):
        return _from_file(head, body, close=False)
    raise UsageError(
        f"body is of type {type(body).__name__}: give bytes, a path or a binary file"
    )


def _from_file(head: bytes, file: BinaryIO, *, close: bool) -> Iterator[bytes]:
    try:
        piece = file.read(PIECE)
        if not isinstance(piece, bytes):
            raise UsageError("body is a text file: open it in binary mode")
        yield head + piece
        while piece := file.read(PIECE):
            yield piece
    finally:
        if close:
            file.close()
