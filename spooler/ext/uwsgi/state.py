"""What this process is to the applications that use uWSGI's names."""

import mmap
import os
import struct
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from ...retry import RetryPolicy

DEFAULT_FREQUENCY: Final = 30.0
"""Seconds between two looks at a task that is to run again, where nothing is said."""

_SECONDS: Final = struct.Struct("d")


@dataclass(frozen=True, slots=True)
class Current:
    """The uWSGI task that runs here.

    Attributes:
        path: Where it waited, below its spool: what the supervisor knows it by.
        worker: The name of the worker that holds it.
        owner: The uid whose file it is, or whom that names as who put it.
        signed: It was signed, with a key that this process has.
    """

    path: str
    worker: str
    owner: int
    signed: bool


RUNNING: Final[ContextVar[Current | None]] = ContextVar("RUNNING", default=None)
"""Set around each run of a task, in a context of its own."""


@dataclass(slots=True)
class State:
    """One for each process: see ``STATE``.

    Attributes:
        dirs: The spools, absolute and without links; the first is the default one.
        files: ``uwsgi.spool`` writes files as uWSGI does.
        is_worker: It is a worker of ``spoold``.
        daemon: The pid of the ``spoold`` that it belongs to; 0 for none.
        opt: What ``uwsgi.opt`` holds; None for what follows from all this.
        policy: How often a uWSGI task runs, and how long it waits in between.
        manage: Returns what ``uwsgi.spooler`` is; None while it is not set.
    """

    dirs: tuple[str, ...] = ()
    files: bool = False
    is_worker: bool = False
    daemon: int = 0
    opt: Mapping[str, object] | None = None
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    manage: Callable[[], object] = lambda: None
    _shared: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, _SECONDS.size))

    @property
    def spools(self) -> tuple[str, ...]:
        """The spools now: ``dirs``, else ``$SPOOL_DIR``, else ``./spool``."""
        return self.dirs or (os.path.realpath(os.environ.get("SPOOL_DIR") or "spool"),)

    @property
    def current(self) -> Current | None:
        """The uWSGI task that runs here, in this thread; None if none does."""
        return RUNNING.get()

    @property
    def frequency(self) -> float:
        """Seconds that a task waits which is to run again; one for all workers."""
        seconds: float = _SECONDS.unpack(self._shared[:])[0]
        return seconds

    @frequency.setter
    def frequency(self, seconds: float) -> None:
        self._shared[:] = _SECONDS.pack(seconds)


STATE: Final = State()
STATE.frequency = DEFAULT_FREQUENCY
