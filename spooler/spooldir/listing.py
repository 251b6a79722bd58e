"""Read a large directory of the spool a few names at a time."""

import os
from collections.abc import Iterator
from itertools import islice

from .files import DIR_FLAGS
from .root import SpoolDir


class Listing:
    """The names in a directory of the spool, hidden ones too; none if it is gone.

    What is there all the time comes once. What comes or goes meanwhile may be missing.

    Args:
        most: How many names are read at a time.

    Raises:
        OSError: From the file system.

    Attributes:
        is_over: Whether all were read.
    """

    def __init__(self, spool: SpoolDir, folder: str, most: int) -> None:
        self._most = most
        self._slices: Iterator[list[str]] = iter(())
        self.is_over = False
        try:
            fd = os.open(folder, DIR_FLAGS, dir_fd=spool.fd)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            self._slices = _slices(fd, most)
        finally:
            os.close(fd)

    def read(self) -> list[str]:
        """Return some more names.

        Raises:
            OSError: From the file system.
        """
        names = next(self._slices, [])
        self.is_over = len(names) < self._most
        return names


def _slices(fd: int, most: int) -> Iterator[list[str]]:
    entries = os.scandir(fd)

    def slices() -> Iterator[list[str]]:
        with entries:  # so that it is closed also if nobody reads to the end
            while names := [entry.name for entry in islice(entries, most)]:
                yield names

    return slices()
