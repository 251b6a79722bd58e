"""Async tasks and plain ones, where workers run both: neither waits for the other.

A worker has places for either kind. Where the next task in the order is of a kind
that no worker has a place for, its name is set aside, and those after it are looked
at. When there is a place, it goes back to the backlog and has its turn.
"""

import heapq
from collections.abc import Callable, Iterable
from typing import Final

from .watched import WatchedWorker

ASIDE_MAX: Final = 10_000
"""Names of one kind that are set aside at most; after that the other kind waits."""

LOOK_MAX: Final = 1000
"""Names that are looked at in one go, so that nothing else need wait for long."""

GiveBack = Callable[[str], object]
Take = Callable[[int], list[str]]


class Kinds:
    """Hands out names by kind in one spool.

    Args:
        give_back: Takes a name back into the backlog.
    """

    def __init__(self, give_back: GiveBack) -> None:
        self._give_back = give_back
        self._aside: dict[bool, list[tuple[int, str, str]]] = {True: [], False: []}
        self.again = False
        """Whether the last ``feed`` has stopped although there may be more to do."""

    def __len__(self) -> int:
        return sum(map(len, self._aside.values()))

    def give_all_back(self) -> None:
        """Set nothing aside any more."""
        for is_async in self._aside:
            self._recall(is_async, len(self._aside[is_async]))

    def feed(self, workers: Iterable[WatchedWorker], take: Take) -> bool:
        """Hand out what there are places for; tell whether a place is left.

        Args:
            take: Returns at most so many names of due tasks, the most urgent first.
        """
        self.again = False
        looked = 0
        hungry = [worker for worker in workers if worker.room > 0]
        full = self._full()
        while hungry:
            recalled = 0
            for is_async in self._aside:
                recalled += self._recall(is_async, _room(hungry, is_async=is_async))
            wanted = sum(worker.room for worker in hungry)
            for is_async in full:  # take no more than can be handed out
                wanted = min(wanted, _room(hungry, is_async=is_async))
            if not wanted:
                return False
            if looked > LOOK_MAX:
                self.again = True
                return False
            paths = take(wanted)
            if not paths and not recalled:
                return True
            looked += len(paths) + recalled  # what was recalled may have been parked
            self._hand_out(paths, hungry)
            hungry = [worker for worker in hungry if worker.room > 0]
            full = self._full()
        return False

    def _hand_out(self, paths: list[str], hungry: list[WatchedWorker]) -> None:
        parts: dict[int, list[str]] = {}
        rooms = {
            is_async: [worker.room_for(is_async=is_async) for worker in hungry]
            for is_async in self._aside
        }
        for path in paths:
            is_async = hungry[0].is_async(path)
            left = rooms[is_async]
            index = max(range(len(hungry)), key=left.__getitem__)
            if left[index] > 0:
                left[index] -= 1
                parts.setdefault(index, []).append(path)
            elif (busy := _busy_with_less(hungry, path)) is not None:
                parts.setdefault(busy, []).append(path)
            else:
                priority, _, name = path.split("/")
                entry = (int(priority), name, path)
                heapq.heappush(self._aside[is_async], entry)
        for index, part in parts.items():
            hungry[index].offer(part)

    def _full(self) -> list[bool]:
        """Return the kinds of which no more must be set aside."""
        return [each for each, aside in self._aside.items() if len(aside) >= ASIDE_MAX]

    def _recall(self, is_async: bool, count: int) -> int:
        """Give the first ones back; return how many."""
        aside = self._aside[is_async]
        count = min(count, len(aside))
        for _ in range(count):
            self._give_back(heapq.heappop(aside)[2])
        return count


def _busy_with_less(workers: list[WatchedWorker], path: str) -> int | None:
    """Return which worker runs a batch that is less urgent: it looks up from it."""
    priority = int(path.partition("/")[0])
    for index, worker in enumerate(workers):
        if worker.batch and int(worker.batch.partition("/")[0]) > priority:
            return index
    return None


def _room(workers: list[WatchedWorker], *, is_async: bool) -> int:
    """Return how many names of a kind there are places for."""
    return sum(max(0, worker.room_for(is_async=is_async)) for worker in workers)
