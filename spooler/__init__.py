"""Run Python functions later, from files in a directory.

The directory is the queue, and the format on disk is the specification
(docs/format.md). ``spoold`` runs what is put; ``spool`` shows and repairs it.
"""

from ._version import __version__
from .current import CurrentTask, current_task
from .decorators import (
    Spooler,
    cron,
    spool,
    spoolforever,
    spoolraw,
    timer,
)
from .errors import (
    ArgumentsError,
    Fail,
    NotASpoolError,
    Retry,
    SoftTimeout,
    SpoolerError,
    SpoolUncertain,
    TaskNameError,
    UsageError,
)
from .putting import Call, Handle
from .task import IGNORE, OK, RETRY, Answer, State
from .tasks import Task

__all__ = [
    "IGNORE",
    "OK",
    "RETRY",
    "Answer",
    "ArgumentsError",
    "Call",
    "CurrentTask",
    "Fail",
    "Handle",
    "NotASpoolError",
    "Retry",
    "SoftTimeout",
    "SpoolUncertain",
    "Spooler",
    "SpoolerError",
    "State",
    "Task",
    "TaskNameError",
    "UsageError",
    "__version__",
    "cron",
    "current_task",
    "spool",
    "spoolforever",
    "spoolraw",
    "timer",
]
