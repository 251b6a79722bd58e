"""Exceptions and exit codes.

::

    SpoolerError
    ├── UsageError            something the caller must change
    │   ├── ArgumentsError    arguments do not fit the function
    │   ├── KeyFileError      the file with the keys for signing cannot be used
    │   ├── NotASpoolError    the directory is missing, or is no spool
    │   ├── OnlyInUwsgiError  a function that only uWSGI itself has
    │   ├── PacketTooLargeError  pairs do not fit into a uWSGI packet
    │   └── TaskNameError     not a name that a task may have
    ├── CorruptError          a file cannot be read as a task
    ├── ClaimLostError        the claim is no longer this worker's
    ├── NotFoundError         no task with that id
    ├── DuplicateError        another task has the uniqueness key
    ├── SpoolFull             a limit of the spool is reached: nothing was put
    ├── SpoolRefused          the spool behind a socket has refused a task
    ├── SpoolUnreachable      nobody answers at a socket (an OSError too)
    ├── SpoolUncertain        the last sync of a put failed: the task may run
    ├── TaskFailed            a task whose result was asked for was given up
    ├── ResultError           a task has succeeded, but its result cannot be had
    │   └── ResultGoneError   it is not kept any more
    ├── SoftTimeout           raised in user code: its soft time limit is over
    ├── Retry                 raised by user code: run it again
    └── Fail                  raised by user code: give it up

``OSError`` passes through unchanged.
"""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TRY_LATER = 75
EXIT_SETTINGS = 78


class SpoolerError(Exception):
    """Every error of spooler's own."""


class UsageError(SpoolerError):
    """Something that the caller asked for cannot be; nothing was done."""


class ArgumentsError(UsageError):
    """Arguments do not fit the function: attributes ``task``, ``problem``."""

    def __init__(self, task: str, signature: str, problem: str) -> None:
        super().__init__(f"{problem}: the task is {task}{signature}")
        self.task = task
        self.signature = signature
        self.problem = problem


class KeyFileError(UsageError):
    """The file with the keys for signing cannot be used: attribute ``path``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"key file {path}: {problem}")
        self.path = path


class NotASpoolError(UsageError):
    """The directory is missing or is not a spool: attribute ``path``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class OnlyInUwsgiError(UsageError, NotImplementedError):
    """A function of ``uwsgi`` that only a web server has: attribute ``name``."""

    def __init__(self, name: str, instead: str) -> None:
        super().__init__(f"uwsgi.{name} is not there under spooler: {instead}")
        self.name = name


class PacketTooLargeError(UsageError):
    """Pairs do not fit into a uWSGI packet: attribute ``limit``, in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a uWSGI packet holds {limit} bytes of keys and values")
        self.limit = limit


class TaskNameError(UsageError):
    """Not a name that a task may have: attribute ``name``."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!a} cannot be the name of a task: it takes 1 to 128 bytes, a"
            " letter, digit or _ first, no space, no /, and no .tmp or .why at the end;"
            " it is not tmp or why either"
        )
        self.name = name


class CorruptError(SpoolerError):
    """A file cannot be read as a task: attribute ``reason``, one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ClaimLostError(SpoolerError):
    """The claim is no longer this worker's: attributes ``task_id``, ``worker``."""

    def __init__(self, task_id: str, worker: str) -> None:
        super().__init__(f"claim on task {task_id} by worker {worker} is gone")
        self.task_id = task_id
        self.worker = worker


class NotFoundError(SpoolerError):
    """No task, or more than one, answers to that id: attribute ``task_id``."""

    def __init__(self, task_id: str, problem: str) -> None:
        super().__init__(f"{task_id}: {problem}")
        self.task_id = task_id


class DuplicateError(SpoolerError):
    """Another task has the uniqueness key: attributes ``task_id`` (its), ``key``."""

    def __init__(self, task_id: str, key: str) -> None:
        super().__init__(f"task {task_id} has the key {key!a} already")
        self.task_id = task_id
        self.key = key


class SpoolUncertain(SpoolerError):  # noqa: N818 (the name in the specification)
    """The task is in place but its last sync failed: it may run.

    Attributes:
        task_id: The id under which it may run.
    """

    def __init__(self, task_id: str, cause: OSError) -> None:
        super().__init__(
            f"task {task_id} was put but could not be synced ({cause}): it may run"
        )
        self.task_id = task_id


class SpoolRefused(SpoolerError):  # noqa: N818 (named like its neighbours)
    """Whoever serves the spool behind a socket has refused a task: nothing was put.

    Attributes:
        address: The socket's.
    """

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(f"{address} has refused the task: {problem}")
        self.address = address


class SpoolUnreachable(SpoolerError, ConnectionError):  # noqa: N818 (as above)
    """Nobody answers at a socket.

    Attributes:
        address: The socket's.
        uncertain: All was sent, so that the task may have been put.
    """

    def __init__(self, address: str, cause: object, *, uncertain: bool = False) -> None:
        may = "; the task was sent, and may have been put" if uncertain else ""
        super().__init__(f"no answer from {address}: {cause}{may}")
        self.address = address
        self.uncertain = uncertain


class SpoolFull(SpoolerError):  # noqa: N818 (the name in the specification)
    """A limit of the spool is reached: nothing was put. Try later.

    Attributes:
        path: The spool's.
        what: The limit: ``max_waiting``, ``min_free`` or ``min_free_inodes``.
        limit: How many tasks may wait; or how many bytes or inodes must be free.
        found: How many there were.
    """

    def __init__(self, path: str, what: str, limit: int, found: int) -> None:
        text, remedy = _FULL[what]
        said = text.format(found=found, limit=limit)
        option = what.replace("_", "-")
        super().__init__(
            f"{path} is full: {said}; put it again later, {remedy}, or change the"
            f" limit with `spool init --{option}`"
        )
        self.path = path
        self.what = what
        self.limit = limit
        self.found = found


_FULL = {
    "max_waiting": (
        "{found} tasks wait, and max_waiting is {limit}",
        "see that workers keep up",
    ),
    "min_free": (
        "{found} bytes are free on its file system, and min_free is {limit}",
        "make room",
    ),
    "min_free_inodes": (
        "{found} inodes are free on its file system, and min_free_inodes is {limit}",
        "remove files",
    ),
}


class SoftTimeout(SpoolerError):  # noqa: N818 (raised in user code, like StopIteration)
    """Raised inside a function whose soft time limit is over: attribute ``seconds``.

    It may be caught, to clean up. What leaves the function uncaught is a failed
    attempt.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"its soft limit of {seconds:g} s is over")
        self.seconds = seconds


class TaskFailed(SpoolerError):  # noqa: N818 (what happened, as in concurrent.futures)
    """A task was given up, and its result was asked for.

    The traceback of its last run is shown below the message.

    Attributes:
        task_id: Its id.
        error: One line, type and text.
        reason: Why it failed, one of the words in docs/format.md, "``.why``", or
            ``corrupt``.
        traceback: That of its last run; None if there is none.
    """

    def __init__(
        self, task_id: str, error: str, reason: str, traceback: str | None
    ) -> None:
        super().__init__(f"task {task_id} failed: {error or reason}")
        self.task_id = task_id
        self.error = error
        self.reason = reason
        self.traceback = traceback
        if traceback is not None:
            self.add_note(f"In the worker:\n{traceback.rstrip()}")


class ResultError(SpoolerError):
    """The result of a task cannot be had: attributes ``task_id``, ``problem``."""

    def __init__(self, task_id: str, problem: str) -> None:
        super().__init__(f"task {task_id}: {problem}")
        self.task_id = task_id
        self.problem = problem


class ResultGoneError(ResultError):
    """No result is kept of this task, or none any more; or it was removed."""


class Retry(SpoolerError):  # noqa: N818 (raised by user code, like StopIteration)
    """Raise it in a task to have it run again.

    Args:
        after: Seconds until then; ``None`` takes the task's own backoff.
    """

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        super().__init__(reason or "retry")
        self.after = after


class Fail(SpoolerError):  # noqa: N818 (raised by user code, like StopIteration)
    """Raise it in a task to give it up at once, whatever attempts are left."""
