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
    spool_many,
    spoolforever,
    spoolraw,
    timer,
)
from .errors import (
    ArgumentsError,
    DuplicateError,
    Fail,
    KeyFileError,
    NotASpoolError,
    NotFoundError,
    ResultError,
    ResultGoneError,
    Retry,
    SoftTimeout,
    SpoolerError,
    SpoolFull,
    SpoolRefused,
    SpoolUncertain,
    SpoolUnreachable,
    TaskFailed,
    TaskNameError,
    UsageError,
)
from .handle import Handle
from .hooks import (
    after_task,
    before_task,
    on_task_failure,
    on_worker_start,
    on_worker_stop,
)
from .many import Batch
from .putting import Call
from .run_progress import progress
from .task import IGNORE, OK, RETRY, Answer, State
from .tasks import Task

__all__ = [
    "IGNORE",
    "OK",
    "RETRY",
    "Answer",
    "ArgumentsError",
    "Batch",
    "Call",
    "CurrentTask",
    "DuplicateError",
    "Fail",
    "Handle",
    "KeyFileError",
    "NotASpoolError",
    "NotFoundError",
    "ResultError",
    "ResultGoneError",
    "Retry",
    "SoftTimeout",
    "SpoolFull",
    "SpoolRefused",
    "SpoolUncertain",
    "SpoolUnreachable",
    "Spooler",
    "SpoolerError",
    "State",
    "Task",
    "TaskFailed",
    "TaskNameError",
    "UsageError",
    "__version__",
    "after_task",
    "before_task",
    "cron",
    "current_task",
    "on_task_failure",
    "on_worker_start",
    "on_worker_stop",
    "progress",
    "spool",
    "spool_many",
    "spoolforever",
    "spoolraw",
    "timer",
]
