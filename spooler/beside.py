"""Which files are left to a uWSGI that serves the same directory, and until when.

Those that are not due, until they are; and of those that are, all but the few that
are wanted soon: so who has time runs them, and what waits when one of the two is
stopped the other one finds.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush, nsmallest
from typing import Final

from .clock import Clock

KNOWN_MAX: Final = 10_000
"""Files that are remembered, of each kind: new ones, such as were not ready."""

AHEAD: Final = 32
"""Tasks of one folder that are adopted before a worker has been handed them."""

LOOK_FOR_LOST: Final = 1.0
"""Seconds between two looks for those that somebody else has taken away."""

Key = tuple[str, str]
"""A folder and a name in it."""


class DueLater:
    """Files that are left where they are until they are due, by the wall clock.

    There may be very many. Of all but the first it is only known that they come after
    those: when their time is over all is looked at again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_us: dict[Key, int] = {}
        self._order: list[tuple[int, Key]] = []
        self._until_us: int | None = None
        self._after: set[int] = set()  # what is due then or later

    def __contains__(self, key: Key) -> bool:
        return key in self._due_us or hash(key) in self._after

    def put(self, key: Key, due_us: int) -> None:
        """Learn when a file is due."""
        if self._until_us is not None and due_us >= self._until_us:
            self._due_us.pop(key, None)
            self._after.add(hash(key))
            return
        self._due_us[key] = due_us
        heappush(self._order, (due_us, key))
        if len(self._order) > 2 * KNOWN_MAX:
            self._forget_last()

    def _forget_last(self) -> None:
        self._order = [(due_us, key) for key, due_us in self._due_us.items()]
        if len(self._order) > KNOWN_MAX:
            self._order = nsmallest(KNOWN_MAX, self._order)
            self._until_us = self._order[-1][0]
            before, self._due_us = self._due_us, {key: due for due, key in self._order}
            self._after.update(hash(key) for key in before if key not in self._due_us)
        heapify(self._order)

    def take(self) -> list[Key]:
        """Return the files that are due, and forget them."""
        found = []
        while self._order and self._order[0][0] <= self._clock.now_us():
            due_us, key = heappop(self._order)
            if self._due_us.get(key) == due_us:
                del self._due_us[key]
                found.append(key)
        return found

    def must_scan(self) -> bool:
        """Tell, once, that the first are over, and others may be due."""
        if self._until_us is None or self._due_us:
            return False
        self._until_us = None
        self._after.clear()
        return True

    @property
    def next_look(self) -> float | None:
        """Seconds until the first may be due; None if there is none."""
        if not self._order:
            return None
        return max(0.0, (self._order[0][0] - self._clock.now_us()) / 1e6)


class HeldBack:
    """Files that are due, while enough of their folder were adopted.

    There may be very many. Only the first are remembered; when they are gone all is
    looked at again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[str, OrderedDict[Key, None]] = {}
        self._others: set[int] = set()
        self._ahead: dict[str, str] = {}
        self._count: Counter[str] = Counter()
        self._look_at = 0.0

    def __contains__(self, key: Key) -> bool:
        return key in self._held.get(key[0], ()) or hash(key) in self._others

    def has_room(self, folder: str) -> bool:
        """Tell whether one more may be adopted from a folder."""
        return self._count[folder] < AHEAD

    def hold(self, key: Key) -> None:
        """Leave a file where it is, for a while."""
        held = self._held.setdefault(key[0], OrderedDict())
        if len(held) < KNOWN_MAX:
            held[key] = None
        else:
            self._others.add(hash(key))

    def adopted(self, folder: str, path: str) -> None:
        """Learn that a file was adopted.

        Args:
            folder: Where it was.
            path: Where it waits now.
        """
        self._ahead[path] = folder
        self._count[folder] += 1

    def taken(self, paths: list[str]) -> None:
        """Learn that tasks were handed out; of some it is nothing new."""
        for path in paths if self._ahead else ():
            folder = self._ahead.pop(path, None)
            if folder is not None:
                self._count[folder] -= 1

    def take(self, is_there: Callable[[str], bool]) -> list[Key]:
        """Return the files for which there is room, and forget them.

        Args:
            is_there: Tells whether an adopted task waits where it did.
        """
        now = self._clock.monotonic()
        if self._held and now >= self._look_at:
            self._look_at = now + LOOK_FOR_LOST
            self.taken([path for path in self._ahead if not is_there(path)])
        found = []
        for folder, held in list(self._held.items()):
            for _ in range(min(len(held), AHEAD - self._count[folder])):
                found.append(held.popitem(last=False)[0])
            if not held:
                del self._held[folder]
        return found

    def must_scan(self) -> bool:
        """Tell, once, that those remembered are gone, and that there are others."""
        if self._held or not self._others:
            return False
        self._others.clear()
        return True

    @property
    def waits(self) -> bool:
        """Whether there are any."""
        return bool(self._held)

    @property
    def has_free(self) -> bool:
        """Whether ``take`` would return some."""
        return any(map(self.has_room, self._held))

    @property
    def next_look(self) -> float | None:
        """Seconds until ``take`` is to be called at the latest; None for never."""
        if not self._held:
            return None
        return max(0.0, self._look_at - self._clock.monotonic())
