"""Read the folders of one spool in slices, so that nothing waits for a large one.

Between two slices names are handed out and all else is done: of those that were read
so far, the first go first. A folder with few names is read at once.

Watch a folder first, then read it. A large one is not watched, but read again when what
is known of it has been handed out: until its names have become few.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .adopting import Adopting
from .clock import Clock
from .minutes import Folder, task_of
from .names import Names
from .pausing import Pausing
from .spooldir import SpoolDir
from .spooldir.listing import Listing
from .wakeup import Watch

SLICE: Final = 1024
"""Names that are read in one go, which takes a few milliseconds at most."""

WATCH_MAX: Final = 1000
"""A folder with more names than this is not watched until they are worked off."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Look:
    """A directory that is looked through.

    Attributes:
        again: Something was missed meanwhile: begin again when all is read.
    """

    listing: Listing
    on_name: Callable[[str], None]
    again: bool = False


class Slices:
    """Reads the folders of one spool.

    Args:
        watch: What watches them.
        adopting: Who is told of names that are not native.
    """

    def __init__(
        self,
        spool: SpoolDir,
        watch: Watch,
        adopting: Adopting,
        pausing: Pausing,
        clock: Clock,
    ) -> None:
        self._spool = spool
        self._watch = watch
        self._adopting = adopting
        self._pausing = pausing
        self._clock = clock
        self._listed: list[tuple[Folder, Listing]] = []
        self._looks: dict[str, _Look] = {}
        self._closed: set[str] = set()

    @property
    def is_looking(self) -> bool:
        """Whether a directory is being looked through."""
        return bool(self._looks)

    @property
    def is_reading(self) -> bool:
        """Whether ``read_on`` has something to do."""
        return bool(self._looks) or any(
            self._is_wanted(folder) for folder, _ in self._listed
        )

    def look_through(self, path: str, on_name: Callable[[str], None]) -> None:
        """Tell of all names in a directory but the hidden ones: of the first now.

        Raises:
            OSError: From the file system.
        """
        if path in self._looks:
            self._looks[path].again = True
            return
        listing = self._open(path)
        if listing is not None:
            self._looks[path] = _Look(listing, on_name)
            self._look(path)

    def _look(self, path: str) -> None:
        look = self._looks[path]
        try:
            found = look.listing.read()
        except OSError:
            self._looks.clear()
            raise
        if look.listing.is_over:
            del self._looks[path]
        for name in sorted(found, key=_in_order):
            if name[0] != "." and not name.endswith(".tmp"):
                look.on_name(name)
        if look.listing.is_over and look.again:
            self.look_through(path, look.on_name)

    def _is_wanted(self, folder: Folder) -> bool:
        """Tell whether more of a folder should be read now.

        Where other daemons are first, what is read too early is read in vain.
        """
        if not folder.has_jumped:
            return True
        name = folder.names.peek()
        return name is None or name[:16] > f"{self._clock.now_us():016d}"

    def begin(self, folder: Folder) -> None:
        """Read the first slice of a folder, which is watched; forget what was known.

        Raises:
            OSError: From the file system.
        """
        listing = self._open(folder.path)
        folder.unread = folder.has_jumped = False
        if listing is None:
            return
        folder.names = Names()
        folder.skipped = set()
        folder.is_listed, folder.found = True, 0
        self._listed.append((folder, listing))
        self._read(folder, listing)

    def read_on(self) -> None:
        """Read the next slice of a directory and of a folder.

        Raises:
            OSError: From the file system. No directory is looked through any more.
        """
        for path in self._looks:
            self._look(path)
            break
        for folder, listing in self._listed:
            if self._is_wanted(folder):
                self._read(folder, listing)
                return

    def _open(self, path: str) -> Listing | None:
        """Open a folder to be read; return None if it is another user's alone."""
        try:
            listing = Listing(self._spool, path, SLICE)
        except PermissionError as error:  # which must not hold up all the others
            known = path in self._closed
            self._closed.add(path)
            level = logging.DEBUG if known else logging.WARNING
            log.log(level, "cannot read folder %s: %s", path, error)
            return None
        self._closed.discard(path)
        return listing

    def _read(self, folder: Folder, listing: Listing) -> None:
        try:
            found = listing.read()
        except OSError:
            folder.unread = listing.is_over = True
            raise
        finally:
            if listing.is_over:
                folder.is_listed = False
                self._listed.remove((folder, listing))
        found.sort()
        names = self._waiting_of(folder, found)
        folder.add(names)
        folder.found += len(names)
        if folder.found > WATCH_MAX:
            self._watch.remove(folder.path)
            folder.unread = True

    def _waiting_of(self, folder: Folder, found: list[str]) -> list[str]:
        """Return those of the names found in a folder that may be handed out."""
        paused = self._pausing.now.tasks
        plain = not paused and folder.in_flight.isdisjoint(found)
        if plain and folder.are_native(found):  # as nearly always
            return found
        names = []
        for name in found:
            if not folder.is_native(name):
                if name[0] != "." and not name.endswith(".tmp"):
                    self._adopting.find(folder.path, name)
            elif paused and (task := task_of(name)) in paused:
                folder.skipped.add(task)
            elif name not in folder.in_flight:
                names.append(name)
            else:  # not claimed yet, or back again: nobody may tell us later
                folder.returned.add(name)
        return names


def _in_order(name: str) -> tuple[int, str]:
    """Return what sorts names so that priorities come as numbers do."""
    return len(name), name
