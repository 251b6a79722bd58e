"""Notice that the application's code has changed (``--reload``): for development.

Or that a file was touched which stands for that: for those who deploy with uWSGI's
``touch-reload``. Such a file is looked at each second, whatever happens to it.

Their directories are watched, not the files, so that an editor may write in place or
rename a new file over the old one. What cannot be watched is looked at now and then.
"""

import logging
import os
from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import Final

from .clock import CLOCK, Clock
from .logs import escape
from .sources import Stamp, stamp
from .wakeup import Watch

SETTLE: Final = 0.2
"""Seconds after the last change until the code is imported anew: an editor, or a
version control system, may change several files."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at files whose directories cannot be watched."""

log = logging.getLogger(__name__)


class CodeWatch:
    """Tells when the application's code has changed.

    Args:
        add_reader: How to be called when a descriptor is readable.
        watch: What watches directories; absolute paths are given to it.
        touch: Files that stand for the code, absolute; they need not be there.
    """

    def __init__(
        self,
        add_reader: Callable[[int, Callable[[], None]], None],
        watch: Watch,
        clock: Clock = CLOCK,
        *,
        touch: Collection[str] = (),
    ) -> None:
        self._watch = watch
        self._clock = clock
        self._files: dict[str, Stamp | None] = {}
        self._touch = {path: stamp(path) for path in touch}
        self._folders: set[str] = set()
        self._due_at: float | None = None
        self._look_at: float | None = None
        fd = watch.fileno()
        if fd is not None:
            add_reader(fd, watch.read)

    def use(self, files: Mapping[str, Stamp]) -> None:
        """Watch these files from now on.

        Args:
            files: What was imported, as it was then: one that is different by now
                counts as changed.
        """
        folders = {
            os.path.dirname(path)
            for file in files
            for path in (file, os.path.realpath(file))
        }
        for folder in self._folders - folders:
            self._watch.remove(folder)
        self._folders = folders
        self._files = dict(files)
        self._watch_folders()
        self._look()

    def _watch_folders(self) -> None:
        """Watch what is not watched yet; see to it that the rest is looked at."""
        missing = [f for f in sorted(self._folders) if not self._watch.has(f)]
        blind = [
            f for f in missing if not self._watch.add(f, self._noted(f), self._lost)
        ]
        look = blind or self._touch
        self._look_at = self._clock.monotonic() + LOOK_EVERY if look else None
        if len(blind) < len(missing):
            self._look()

    def _noted(self, folder: str) -> Callable[[str, bool], None]:
        def on_name(name: str, whole: bool) -> None:
            # Any module there: it may be the one that the last reload has missed.
            if whole and name.endswith(".py"):
                self._changed(f"{folder}/{name}")

        return on_name

    def _lost(self) -> None:
        self._look_at = self._clock.monotonic()

    def _look(self) -> None:
        """Compare the files with what they were."""
        for files in (self._files, self._touch):
            for path, before in files.items():
                now = stamp(path)
                if now != before:
                    files[path] = now
                    self._changed(path)

    def _changed(self, path: str) -> None:
        if self._due_at is None:
            log.info("code changed: %s", escape(path))
        self._due_at = self._clock.monotonic() + SETTLE

    def is_due(self) -> bool:
        """Tell, once, that the code has changed and is to be imported anew."""
        now = self._clock.monotonic()
        if self._look_at is not None and now >= self._look_at:
            self._look()
            self._watch_folders()
        if self._due_at is None or now < self._due_at:
            return False
        self._due_at = None
        return True

    def next_moment(self) -> float:
        """Return seconds until ``is_due`` should be asked; infinity for never."""
        moments = [m for m in (self._due_at, self._look_at) if m is not None]
        return max(0.0, min(moments, default=inf) - self._clock.monotonic())

    def close(self) -> None:
        """Let go of everything."""
        self._watch.close()
