"""What is not run for a while: the files in ``paused/``.

A pause that cannot be read counts as one without an end: nothing runs that somebody
may have wanted to keep from running. Specification: docs/format.md, section 12.
"""

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ..errors import TaskNameError
from ..moments import parse_at
from ..task import check_task_name, is_priority, iso
from .files import write_new
from .reading import READ_FLAGS
from .root import SpoolDir

FOLDER: Final = "paused"
ALL: Final = "all"
"""The name of the file that pauses everything."""

_SIZE_MAX: Final = 4096
_NO_FILE: Final = "is not a regular file"
_LINK: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV})


@dataclass(frozen=True, slots=True)
class Pause:
    """One file in ``paused/``.

    Attributes:
        what: Its name: ``all``, ``priority.<N>`` or ``task.<name>``.
        until_us: When it is over, in µs since the epoch; None if nobody said.
        problem: Why it cannot be read, or names nothing; None if all is well.
    """

    what: str
    until_us: int | None = None
    problem: str | None = None

    @property
    def priority(self) -> int | None:
        """The priority that is paused; None if it is something else."""
        kind, _, number = self.what.partition(".")
        return int(number) if kind == "priority" and is_priority(number) else None

    @property
    def task(self) -> str | None:
        """The name of the task that is paused; None if it is something else."""
        kind, _, name = self.what.partition(".")
        return name if kind == "task" and _is_task_name(name) else None

    @property
    def is_known(self) -> bool:
        """Whether its name says what is paused."""
        return self.what == ALL or self.priority is not None or self.task is not None

    def is_over(self, now_us: int) -> bool:
        """Tell whether it counts no more."""
        return self.until_us is not None and self.until_us <= now_us


@dataclass(frozen=True, slots=True)
class Paused:
    """What is paused, all together.

    Attributes:
        next_us: When the first of these pauses is over; None if none ends by itself.
    """

    everything: bool = False
    priorities: frozenset[int] = frozenset()
    tasks: frozenset[str] = frozenset()
    next_us: int | None = None

    def is_more_than(self, other: "Paused") -> bool:
        """Tell whether something is paused here that is not in ``other``."""
        if other.everything:
            return False
        return (
            self.everything
            or not self.priorities <= other.priorities
            or not self.tasks <= other.tasks
        )


NOTHING: Final = Paused()
"""Nothing is paused."""


def together(pauses: Iterable[Pause]) -> Paused:
    """Return what some pauses come to, none of which is over."""
    known = [each for each in pauses if each.is_known]
    ends = [each.until_us for each in known if each.until_us is not None]
    return Paused(
        everything=any(each.what == ALL for each in known),
        priorities=frozenset(e.priority for e in known if e.priority is not None),
        tasks=frozenset(each.task for each in known if each.task is not None),
        next_us=min(ends, default=None),
    )


def _is_task_name(name: str) -> bool:
    try:
        check_task_name(name)
    except (TaskNameError, UnicodeEncodeError):
        return False
    return True


def name_of(priority: int | None, task: str | None) -> str:
    """Return the name of the file that pauses a priority, a task, or else everything.

    Raises:
        TaskNameError: No task can have that name.
    """
    if task is not None:
        return f"task.{check_task_name(task)}"
    return ALL if priority is None else f"priority.{priority}"


def read(spool: SpoolDir) -> list[Pause]:
    """Return all pauses, those that are over too, in the order of their names.

    Raises:
        OSError: The directory cannot be read.
    """
    found = (_read(spool, what) for what in sorted(spool.names(FOLDER)))
    return [pause for pause in found if pause is not None]


def _read(spool: SpoolDir, what: str) -> Pause | None:
    if not Pause(what).is_known:
        problem = "its name is not all, priority.N or task.NAME, so it pauses nothing"
        return Pause(what, problem=problem)
    try:
        return Pause(what, _until_us(spool, what))
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = _NO_FILE if error.errno in _LINK else str(error.strerror)
    except ValueError as error:
        problem = str(error).removeprefix("at: ")
    return Pause(what, problem=problem)


def _until_us(spool: SpoolDir, what: str) -> int | None:
    fd = os.open(f"{FOLDER}/{what}", READ_FLAGS, dir_fd=spool.fd)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(_NO_FILE)
        data = os.read(fd, _SIZE_MAX + 1)
    finally:
        os.close(fd)
    if len(data) > _SIZE_MAX:
        raise ValueError(f"is larger than {_SIZE_MAX} bytes")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    return parse_at(text, max(0, status.st_mtime_ns // 1000)) if text else None


def write(spool: SpoolDir, what: str, until_us: int | None) -> None:
    """Pause something, in place of an older pause of the same. Synced.

    Args:
        what: As ``name_of`` returns it.
        until_us: When it is over; None for not before ``remove``.

    Raises:
        OSError: From the file system.
    """
    text = b"" if until_us is None else f"{iso(until_us)}\n".encode()
    hidden = f"{FOLDER}/.{what}.{os.urandom(8).hex()}"
    write_new(spool.fd, hidden, f"{FOLDER}/{what}", text, spool.owner)
    spool.sync(FOLDER)


def remove(spool: SpoolDir, what: str) -> bool:
    """Let something go on; tell whether it was paused. Synced.

    Raises:
        OSError: From the file system, or it is a directory that is not empty.
    """
    path = f"{FOLDER}/{what}"
    try:
        os.unlink(path, dir_fd=spool.fd)
    except IsADirectoryError:
        os.rmdir(path, dir_fd=spool.fd)
    except FileNotFoundError:
        return False
    spool.sync(FOLDER)
    return True


def remove_over(spool: SpoolDir, what: str, now_us: int) -> None:
    """Remove a pause that is over, unless somebody has just made it anew.

    Never fails: what is over does not count, whether it is there or not.
    """
    with suppress(OSError):
        pause = _read(spool, what)
        if pause is not None and pause.is_over(now_us):
            os.unlink(f"{FOLDER}/{what}", dir_fd=spool.fd)
