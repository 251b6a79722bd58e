"""Files that others dropped into one spool: when each is to be looked at."""

import logging
from typing import Final

from .clock import Clock
from .logs import escape
from .spooldir.dropped import Dropped

ADOPT_MAX: Final = 50
"""Dropped files that are looked at in one go, so that tasks need not wait."""

LOOK_AGAIN: Final = 1.0
"""Seconds until a dropped file that was not ready is looked at again."""

LOOK_AGAIN_MAX: Final = 60.0
"""Seconds at which the doubling of that time ends for a file that gives errors."""

log = logging.getLogger(__name__)


class Adopting:
    """The dropped files of one spool.

    Args:
        dropped: What adopts them.
    """

    def __init__(self, dropped: Dropped, clock: Clock) -> None:
        self._dropped = dropped
        self._clock = clock
        self._candidates: dict[tuple[str, str], bool] = {}
        self._unready: dict[tuple[str, str], float] = {}
        self._trouble: dict[tuple[str, str], float] = {}

    def tell(self, folder: str, file: str, *, whole: bool) -> None:
        """Learn that something has happened to a file.

        Args:
            whole: It is known to be whole.
        """
        self._candidates[folder, file] = whole

    def find(self, folder: str, file: str) -> None:
        """Learn that there is a file."""
        self._candidates.setdefault((folder, file), False)

    def adopt_some(self) -> list[str]:
        """Adopt some of what is ready; return the paths of the new tasks."""
        now = self._clock.monotonic()
        for key, moment in list(self._unready.items()):
            if moment <= now:
                del self._unready[key]
                self.find(*key)
        adopted = []
        for key in list(self._candidates)[:ADOPT_MAX]:
            result = self._adopt(*key, whole=self._candidates.pop(key))
            if result is True:
                self._unready[key] = now + self._trouble.get(key, LOOK_AGAIN)
                continue
            self._unready.pop(key, None)
            if isinstance(result, str):
                adopted.append(result)
        return adopted

    def _adopt(self, folder: str, file: str, *, whole: bool) -> str | bool:
        """Return the path of a new task, else whether to look again."""
        try:
            result = self._dropped.adopt(folder, file, finished=whole)
        except OSError as error:
            known = (folder, file) in self._trouble
            level = logging.DEBUG if known else logging.WARNING
            path = escape(f"{folder}/{file}")
            log.log(level, "cannot adopt %s now: %s", path, escape(str(error)))
            delay = self._trouble.get((folder, file), LOOK_AGAIN / 2) * 2
            self._trouble[folder, file] = min(delay, LOOK_AGAIN_MAX)
            return True
        self._trouble.pop((folder, file), None)
        return result

    @property
    def next_look(self) -> float | None:
        """Seconds until a dropped file should be looked at; None if none waits."""
        if self._candidates:
            return 0.0
        if not self._unready:
            return None
        return max(0.0, min(self._unready.values()) - self._clock.monotonic())
