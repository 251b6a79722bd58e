"""Where a body comes from: bytes, a path or an open file, in pieces.

Memory does not grow with it.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from ..errors import UsageError

PIECE: Final = 1024 * 1024

Body = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
"""What may be given as the body of a task; text is a path."""


@contextmanager
def pieces(head: bytes, body: Body | None) -> Iterator[Iterable[bytes]]:
    """Give what a task file holds: its header, then its body.

    A small body comes in one piece with the header. A path is opened at once,
    so that a missing file is the caller's error before anything was written.

    Raises:
        UsageError: The body is of no kind that can be.
        OSError: The path cannot be opened or read.
    """
    if body is None:
        yield (head,)
    elif isinstance(body, bytes | bytearray | memoryview):
        small = len(body) <= PIECE
        yield (head + bytes(body),) if small else (head, bytes(body))
    elif isinstance(body, str | os.PathLike):
        with open(body, "rb") as file:
            yield _from_file(head, file)
    elif hasattr(body, "read"):
        yield _from_file(head, body)
    else:
        raise UsageError(
            f"body is of type {type(body).__name__}: give bytes, a path or a binary"
            " file"
        )


def _from_file(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    piece = file.read(PIECE)
    if not isinstance(piece, bytes):
        raise UsageError("body is a text file: open it in binary mode")
    yield head + piece
    while piece := file.read(PIECE):
        yield piece
