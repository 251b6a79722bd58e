"""Values: what a task is called, where it stands, what a run of it came to.

Nothing here touches the disk. The values are msgspec's structs: a worker makes
several for each task, and these take a tenth of a frozen dataclass's time.
Specification: docs/format.md.
"""

import re
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Self

import msgspec
from msgspec.structs import replace

from .errors import TaskNameError

DEFAULT_PRIORITY: Final = 5
"""Where a task goes that names no priority."""

MAX_PRIORITY: Final = 999_999
MAX_ATTEMPT: Final = 999_999

MAX_DUE_US: Final = 10**16 - 1
"""The last moment that fits in a name, in the year 2286."""

MAX_HEADER: Final = 1024 * 1024
"""Bytes that a task's header may take. The body has no limit."""

MINUTE_US: Final = 60_000_000

_NAME = re.compile(
    r"(\d{16})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.([0-9a-f]{16})\.(.+)", re.ASCII
)
_NUMBER = re.compile(r"0|[1-9]\d{0,5}", re.ASCII)
_MINUTE = re.compile(r"\d{8}T\d{4}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class State(StrEnum):
    """Where a task stands."""

    WAITING = "waiting"
    RUNNING = "running"
    HELD = "held"
    FAILED = "failed"
    CORRUPT = "corrupt"


MOVES: Final = frozenset(
    {
        ("put", None, State.WAITING),
        ("adopt", None, State.WAITING),
        ("adopt", None, State.CORRUPT),
        ("claim", State.WAITING, State.RUNNING),
        ("ack", State.RUNNING, None),
        ("retry", State.RUNNING, State.WAITING),
        ("again", State.RUNNING, State.WAITING),
        ("release", State.RUNNING, State.WAITING),
        ("hold", State.WAITING, State.HELD),
        ("release", State.HELD, State.WAITING),
        ("fail", State.RUNNING, State.FAILED),
        ("fail", State.WAITING, State.FAILED),
        ("fail", State.HELD, State.FAILED),
        ("now", State.WAITING, State.WAITING),
        ("now", State.HELD, State.HELD),
        ("priority", State.WAITING, State.WAITING),
        ("priority", State.HELD, State.HELD),
        ("recover", State.RUNNING, State.WAITING),
        ("recover", State.RUNNING, State.FAILED),
        ("kick", State.FAILED, State.WAITING),
        ("reject", State.RUNNING, State.CORRUPT),
        ("remove", State.WAITING, None),
        ("remove", State.HELD, None),
        ("remove", State.FAILED, None),
        ("remove", State.CORRUPT, None),
    }
)
"""Every change of state there is; docs/format.md section 3 lists the same."""


class Answer(Enum):
    """What a ``@spoolraw`` function may return, with uWSGI's values."""

    OK = -2
    RETRY = -1
    IGNORE = 0


OK: Final = Answer.OK
RETRY: Final = Answer.RETRY
IGNORE: Final = Answer.IGNORE


def check_task_name(name: str) -> str:
    """Return ``name`` if a task may have it (docs/format.md, "Names").

    Raises:
        TaskNameError: It may not.
    """
    if (
        not name.isprintable()
        or not (name[:1].isalnum() or name[:1] == "_")
        or " " in name
        or "/" in name
        or f".{name}".endswith((".tmp", ".why"))
        or len(name.encode()) > 128
    ):
        raise TaskNameError(name)
    return name


def is_priority(text: str) -> bool:
    """Tell whether a directory of this name is a priority."""
    return _NUMBER.fullmatch(text) is not None


def is_id(text: str) -> bool:
    """Tell whether this is a whole task id."""
    return _ID.fullmatch(text) is not None


@lru_cache(maxsize=1024)
def _minute(number: int) -> str:
    return (_EPOCH + timedelta(minutes=number)).strftime("%Y%m%dT%H%M")


@lru_cache(maxsize=1024)
def _folder(priority: int, number: int) -> str:
    return f"{priority}/{_minute(number)}"


def minute_of(due_us: int) -> str:
    """Return the name of the folder for tasks due then: the UTC minute."""
    return _minute(due_us // MINUTE_US)


@lru_cache(maxsize=4096)
def minute_start_us(minute: str) -> int | None:
    """Return when a minute folder's minute begins; None if it is not one."""
    if not _MINUTE.fullmatch(minute):
        return None
    try:
        moment = datetime.strptime(minute, "%Y%m%dT%H%M").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int((moment - _EPOCH).total_seconds()) * 1_000_000


@lru_cache(maxsize=64)
def _second(number: int) -> str:
    return (_EPOCH + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%S")


def iso(moment_us: int) -> str:
    """Return a moment in ISO 8601, UTC, to the millisecond."""
    return f"{_second(moment_us // 1_000_000)}.{moment_us // 1000 % 1000:03d}Z"


class Name(msgspec.Struct, frozen=True):
    """The name of a native task file: all about a task that may change.

    Attributes:
        due_us: From when it may run, in µs since the epoch.
        attempt: Number of runs begun and lost or failed so far.
    """

    due_us: int
    priority: int
    attempt: int
    id: str
    task: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the parts of a file's name, or None if it is not native."""
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        due, priority, attempt, task_id, task = match.groups()
        try:
            check_task_name(task)
        except (TaskNameError, UnicodeEncodeError):
            return None
        return cls(int(due), int(priority), int(attempt), task_id, task)

    def __str__(self) -> str:
        return (
            f"{self.due_us:016d}.{self.priority}.{self.attempt}.{self.id}.{self.task}"
        )

    def but(
        self,
        *,
        due_us: int | None = None,
        priority: int | None = None,
        attempt: int | None = None,
        id: str | None = None,
    ) -> Self:
        """Return this name with another place; the attempt ends at the greatest."""
        changes = {"due_us": due_us, "priority": priority, "id": id}
        if attempt is not None:
            changes["attempt"] = min(attempt, MAX_ATTEMPT)
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    @property
    def folder(self) -> str:
        """The minute folder it belongs in, below the spool's root."""
        return _folder(self.priority, self.due_us // MINUTE_US)


FORWARD: Final = "spooler.forward"
"""The task that sends what was put into an outbox. It acts for the daemon's user, so
only files of that user's own, or signed ones, may ask for it."""

BATCH: Final = "_batch"
"""The name of a task whose body holds many (docs/format.md, "Batches")."""


def derived_id(*parts: object) -> str:
    """Return an id that is the same wherever it is computed from the same parts."""
    text = ".".join(map(str, parts))
    return blake2b(text.encode()).hexdigest()[:16]


class Claim(msgspec.Struct, eq=False):
    """A task that this worker holds.

    Attributes:
        known: What ``file`` says, if somebody has asked.
        file: The name of its file in the worker's folder: a native one.
        signed: Its file was signed, with a key that this worker has.
    """

    known: Name | None
    worker: str
    file: str
    signed: bool = False

    @property
    def name(self) -> Name:
        """What the name of its file says."""
        if self.known is None:
            due, priority, attempt, task_id, task = self.file.split(".", 4)
            self.known = Name(int(due), int(priority), int(attempt), task_id, task)
        return self.known


class Verdict(Enum):
    """What is to become of a task after a run."""

    ACK = "ack"
    RETRY = "retry"
    AGAIN = "again"
    RELEASE = "release"
    FAIL = "fail"
    REJECT = "reject"


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended.

    Attributes:
        error: One line, type and text; empty after a success.
        reason: Why it failed, one of the words in docs/format.md, "``.why``".
        after: Seconds that the task asked to wait; None leaves it to the backoff.
        value: What the function returned, if its result is to be kept.
    """

    verdict: Verdict
    error: str = ""
    reason: str = ""
    traceback: str | None = None
    after: float | None = None
    value: object = None
