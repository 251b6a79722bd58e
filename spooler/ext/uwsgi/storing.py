"""Where tasks from sockets go: the spools that are served, and a put into one of them.

Specification: docs/reference/network.md.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from ...clock import CLOCK
from ...errors import SpoolerError, SpoolFull
from ...spooldir import SpoolDir, keys
from ...spooldir.keys import Sender
from ...spooldir.room import Room, check_room, free_space
from ...task import Name
from .receiving import Plan, Refused

PATH_MAX: Final = 4096
"""Bytes of a path, as in Linux."""


class Spools:
    """The spools of a daemon.

    Args:
        paths: Where they are; the first takes what names none.

    Attributes:
        key_file: The keys with which producers sign; None if there are none here.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._spools = [SpoolDir(path) for path in paths]
        signer = self._spools[0].signer
        self.key_file = None if signer is None else signer.path
        for spool in self._spools:
            spool.signer = None  # what strangers put must not be vouched for
        self._known = {os.path.realpath(each.path): each for each in self._spools}
        self._known |= {each.path: each for each in self._spools}
        self._rooms = {each.path: Room(each) for each in self._spools}

    def find(self, pairs: Mapping[bytes, bytes]) -> SpoolDir:
        """Return the spool that a packet names, as it is called here.

        Raises:
            Refused: There is none of that name.
        """
        said = pairs.get(b"spooler", b"")
        if not said:
            return self._spools[0]
        wanted = os.fsdecode(said)
        found = self._known.get(wanted)
        if found is None and len(said) <= PATH_MAX:  # it may look at each part
            with suppress(ValueError):  # a NUL
                found = self._known.get(os.path.realpath(wanted))
        if found is None:
            raise Refused(f"spooler: {wanted!a:.200} is not served here")
        return found

    def check_free(self, spool: SpoolDir, coming: int) -> None:
        """Check that so many bytes more leave free what is to remain free.

        Raises:
            SpoolFull: They do not.
            OSError: From the file system.
        """
        least = self._rooms[spool.path].look(CLOCK.now_us()).min_free
        if least is not None and (left := free_space(spool)[0] - coming) < least:
            raise SpoolFull(spool.path, "min_free", least, max(0, left))

    def store(
        self,
        spool: SpoolDir,
        made: Plan,
        chunks: Iterator[bytes],
        sender: Sender | None = None,
    ) -> None:
        """Put a task. When it returns the task is stored, and synced.

        Args:
            chunks: The bytes of its file. They are read to their end in any case, since
                whether it may be stored is known only there.
            sender: As for ``keys.put``.

        Raises:
            Refused: It cannot be.
        """
        try:
            check_room(spool, CLOCK.now_us())
            there = _put(spool, made, chunks, sender)
            if there is None:
                return
            for _ in chunks:
                pass
            if _is_refused(made, there):
                raise Refused(f"task {there.id} has its key already")
            _sync(spool, there, made)
        except (SpoolerError, OSError) as error:
            raise Refused(f"cannot store it: {error}") from None


def _put(
    spool: SpoolDir, made: Plan, chunks: Iterator[bytes], sender: Sender | None
) -> Name | None:
    """Put a task; return the name of that which is there instead, or None."""
    name, header = made.name, made.header
    try:
        if header.key is None:
            spool.put(name, chunks)
            return None
        policy = None if header.options is None else header.options.if_exists
        wanted = (header.key, policy or "skip")
        return keys.put(spool, name, chunks, *wanted, sender=sender)
    except FileExistsError:
        if not spool.has(f"{name.folder}/{name}"):
            raise  # only a hidden one, whose connection may break off
        return name  # the same task once more, as its id says: a random one meets none


def _is_refused(made: Plan, there: Name) -> bool:
    options = made.header.options
    return there != made.name and options is not None and options.if_exists == "raise"


def _sync(spool: SpoolDir, there: Name, made: Plan) -> None:
    """Sync a task that was there: for whoever put it that may have failed."""
    if spool.has(f"{there.folder}/{there}"):
        spool.sync_folder(there)
    if made.header.key is not None:
        spool.sync("keys")
