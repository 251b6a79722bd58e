"""Find, kick, fail and remove tasks: what an operator does with a spool.

Works with or without a daemon. Specification: docs/format.md, section 3.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..clock import CLOCK, Clock
from ..errors import NotFoundError, UsageError
from ..task import Claim, Name, Outcome, State, Verdict
from . import reports
from .claims import give_up
from .reading import TaskFile, open_task
from .root import SpoolDir


@dataclass(frozen=True, slots=True)
class Found:
    """A file of the spool and where it stands.

    Attributes:
        path: Relative to the spool.
        name: Its parts; None for what is corrupt and never was a task.
    """

    state: State
    path: str
    name: Name | None

    @property
    def id(self) -> str:
        """What it answers to: the task's id, or the file's name."""
        return self.name.id if self.name else self.path.rpartition("/")[2]


def ls(spool: SpoolDir, *states: State) -> Iterator[Found]:
    """Yield what is in the given states, waiting tasks in the order of running.

    Raises:
        OSError: From the file system.
    """
    for state in states:
        for folder in _folders(spool, state):
            for file in sorted(spool.names(folder)):
                if state in (State.FAILED, State.CORRUPT) and file.endswith(".why"):
                    continue
                name = Name.parse(file)
                if name is not None or state is State.CORRUPT:
                    yield Found(state, f"{folder}/{file}", name)


def _folders(spool: SpoolDir, state: State) -> Iterator[str]:
    match state:
        case State.WAITING:
            for priority in spool.priorities():
                for minute in spool.minutes(priority):
                    yield f"{priority}/{minute}"
        case State.RUNNING:
            for worker in sorted(spool.names("running")):
                yield f"running/{worker}"
        case State.FAILED | State.CORRUPT:
            yield state.value


def find(spool: SpoolDir, task_id: str) -> Found:
    """Return the one file that an id, or its beginning, names.

    Raises:
        NotFoundError: None does, or several do.
        OSError: From the file system.
    """
    if not task_id:
        raise NotFoundError("''", "an id has at least one character")
    found = {
        each.id: each
        for state in State
        for each in ls(spool, state)
        if each.id.startswith(task_id)
    }
    if task_id in found:
        return found[task_id]
    if not found:
        raise NotFoundError(task_id, f"no such task in {spool.path}")
    if len(found) > 1:
        some = ", ".join(sorted(found)[:3])
        raise NotFoundError(task_id, f"{len(found)} tasks begin so: {some}")
    return found.popitem()[1]


def state_of(spool: SpoolDir, name: Name) -> State | None:
    """Return where a task stands; None if it is finished or removed.

    Cheap while it waits under the name it was put; else it looks everywhere.

    Raises:
        OSError: From the file system.
    """
    if spool.has(f"{name.folder}/{name}"):
        return State.WAITING
    for state in (State.RUNNING, State.FAILED, State.WAITING, State.CORRUPT):
        if any(found.id == name.id for found in ls(spool, state)):
            return state
    return None


def read(spool: SpoolDir, found: Found) -> TaskFile:
    """Open a task file to show it, whoever owns it.

    Raises:
        CorruptError: It cannot be read as a task.
        OSError: From the file system.
    """
    return open_task(found.path, None, dir_fd=spool.fd)


def kick(spool: SpoolDir, found: Found, clock: Clock = CLOCK) -> Name:
    """Make a failed task ready again: due now, attempt 0. One rename, synced.

    Returns:
        Its new name.

    Raises:
        UsageError: It is not a failed task.
        NotFoundError: Somebody else moved it.
        OSError: From the file system. The task is where it was.
    """
    if found.state is not State.FAILED or found.name is None:
        raise UsageError(
            f"{found.id}: is {found.state}, and only a failed task can be kicked"
        )
    name = found.name.but(due_us=clock.now_us(), attempt=0)
    _move(lambda: spool.move(found.path, name), found)
    reports.remove_why(spool, found.path)
    return name


def fail(spool: SpoolDir, found: Found, clock: Clock = CLOCK) -> None:
    """Give a waiting task up. Its report first, then one rename, synced.

    Raises:
        UsageError: It does not wait.
        NotFoundError: Somebody else moved it.
        OSError: From the file system.
    """
    if found.state is not State.WAITING or found.name is None:
        raise UsageError(
            f"{found.id}: is {found.state}, and only a waiting task can be failed"
        )
    outcome = Outcome(Verdict.FAIL, "given up by an operator", "operator")
    claim = Claim(found.name, "", "")
    history = reports.attempts(spool, found.name.id)
    report = reports.failure(claim, outcome, history, clock.now_us())
    name = found.name
    _move(lambda: give_up(spool, found.path, name, report), found)


def remove(spool: SpoolDir, found: Found) -> None:
    """Remove a task that is not running, and what was written about it.

    Raises:
        UsageError: It is running.
        NotFoundError: Somebody else moved it.
        OSError: From the file system.
    """
    if found.state is State.RUNNING:
        raise UsageError(f"{found.id}: is running")
    _move(lambda: os.unlink(found.path, dir_fd=spool.fd), found)
    spool.sync(found.path.rpartition("/")[0])
    if found.state is not State.WAITING:
        reports.remove_why(spool, found.path)
    reports.forget_attempts(spool, found.id)


def _move(move: Callable[[], object], found: Found) -> None:
    try:
        move()
    except FileNotFoundError:
        raise NotFoundError(found.id, "somebody else has just moved it") from None
