"""Find, kick, fail and remove tasks: what an operator does with a spool.

Works with or without a daemon. Specification: docs/format.md, section 3.
"""

import errno
import heapq
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from ..clock import CLOCK, Clock
from ..errors import NotFoundError, UsageError
from ..logs import escape
from ..task import Claim, Name, Outcome, State, Verdict
from . import reports, results, runlogs
from .claims import give_up
from .files import DIR_FLAGS
from .reading import READ_FLAGS, TaskFile, open_task
from .root import SpoolDir

_SOME: Final = 3
"""How many tasks a message names that says that there are several."""

_LAST_ATTEMPT: Final = 64 * 1024
"""Bytes at the end of a list of attempts in which the last one is."""

_MOVED: Final = "somebody else has just moved it"

_T = TypeVar("_T")


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
        for folder in folders(spool, state):
            for file in sorted(spool.names(folder)):
                if state in (State.FAILED, State.CORRUPT) and file.endswith(".why"):
                    continue
                name = Name.parse(file)
                if name is not None or state is State.CORRUPT:
                    yield Found(state, f"{folder}/{file}", name)


def folders(spool: SpoolDir, state: State) -> Iterator[str]:
    """Yield the folders that hold what is in a state.

    Raises:
        OSError: From the file system.
    """
    match state:
        case State.WAITING:
            for priority in spool.priorities():
                for minute in spool.minutes(priority):
                    yield f"{priority}/{minute}"
        case State.RUNNING:
            for worker in sorted(spool.names("running")):
                yield f"running/{worker}"
        case State.HELD | State.FAILED | State.CORRUPT:
            yield state.value


def find(spool: SpoolDir, task_id: str) -> Found:
    """Return the one file that an id, or its beginning, names.

    Raises:
        NotFoundError: None does, or several do.
        OSError: From the file system.
    """
    found = find_all(spool, [task_id])[0]
    if isinstance(found, NotFoundError):
        raise found
    return found


def find_all(spool: SpoolDir, ids: Sequence[str]) -> list[Found | NotFoundError]:
    """Return the file that each id names, or why there is no such one.

    An id may be shortened. The name of a file is taken too, and its path below the
    spool; each as it is, or as ``escape`` shows it. The spool is read once for all
    (and once more if some were not found: a task that moves may slip by).

    Raises:
        OSError: From the file system.
    """
    wanted = [escape(each) for each in ids]
    matches = _matches(spool, set(wanted))
    if missing := {each for each in wanted if each not in matches}:
        matches |= _matches(spool, missing)
    return [
        _choose(spool, each, key, matches.get(key, []))
        for each, key in zip(ids, wanted, strict=True)
    ]


def _matches(spool: SpoolDir, wanted: set[str]) -> dict[str, list[Found]]:
    matches: defaultdict[str, list[Found]] = defaultdict(list)
    lengths = {len(each) for each in wanted if each}
    by_name = any("." in each for each in wanted)
    for found in ls(spool, *State):
        task_id = escape(found.id)
        keys = {task_id[:length] for length in lengths}
        if by_name:
            path = escape(found.path)
            keys |= {path, path.rpartition("/")[2]}
        for key in keys & wanted:
            matches[key].append(found)
    return dict(matches)


def _choose(
    spool: SpoolDir, task_id: str, key: str, matches: Iterable[Found]
) -> Found | NotFoundError:
    if not key:
        return NotFoundError("''", "an id has at least one character")
    found = {each.path: each for each in matches}
    exact = {path: each for path, each in found.items() if _is_exact(each, key)}
    found = exact or found
    if 1 < len(found) <= 2 * _SOME:  # it may have moved while we looked
        there = {path: each for path, each in found.items() if spool.has(path)}
        found = there or found
    if not found:
        return NotFoundError(task_id, f"no such task in {spool.path}")
    if len(found) == 1:
        return next(iter(found.values()))
    if exact:
        some = ", ".join(sorted(found)[:_SOME])
        return NotFoundError(task_id, f"{len(found)} files have this id: {some}")
    some = ", ".join(sorted(each.id for each in found.values())[:_SOME])
    return NotFoundError(task_id, f"{len(found)} tasks begin so: {some}")


def _is_exact(found: Found, key: str) -> bool:
    path = escape(found.path)
    return key in (escape(found.id), path, path.rpartition("/")[2])


def state_of(spool: SpoolDir, name: Name) -> State | None:
    """Return where a task stands; None if it is finished or removed.

    Cheap while it waits under the name it was put; else it looks everywhere.

    Raises:
        OSError: From the file system.
    """
    if spool.has(f"{name.folder}/{name}"):
        return State.WAITING
    # Twice, lest a task that is claimed or put back meanwhile slip by.
    moving = (State.RUNNING, State.FAILED, State.HELD, State.WAITING)
    for state in (*moving, *moving, State.CORRUPT):
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


def stat(spool: SpoolDir, found: Found) -> os.stat_result:
    """Return what the file system knows of a file; links are not followed.

    Its change time is the moment of its last move.

    Raises:
        NotFoundError: Somebody else moved it.
        OSError: From the file system.
    """
    try:
        return os.stat(found.path, dir_fd=spool.fd, follow_symlinks=False)
    except FileNotFoundError:
        raise NotFoundError(found.id, _MOVED) from None


def why(spool: SpoolDir, found: Found) -> dict[str, object]:
    """Return the report beside a failed or corrupt file; empty if it is unreadable."""
    with suppress(OSError):
        return reports.read_why(spool, found.path)
    return {}


def last_error(spool: SpoolDir, found: Found) -> str | None:
    """Return how the last attempt of an unfinished task ended; None if unknown.

    Reads only the end of the list of its attempts, which may be long.
    """
    with suppress(OSError):
        fd = os.open(reports.attempts_path(found.id), READ_FLAGS, dir_fd=spool.fd)
        try:
            start = max(0, os.fstat(fd).st_size - _LAST_ATTEMPT)
            lines = os.pread(fd, _LAST_ATTEMPT, start).splitlines()
        finally:
            os.close(fd)
        for line in reversed(lines):
            with suppress(ValueError, RecursionError):  # cut off, or damaged
                record = json.loads(line)
                if isinstance(record, dict):
                    return str(record.get("error") or "") or None
    return None


def first_bytes(spool: SpoolDir, found: Found, length: int) -> bytes:
    """Return the first bytes of a regular file, whatever it holds.

    Raises:
        OSError: From the file system, or because it is no file.
    """
    fd = os.open(found.path, READ_FLAGS, dir_fd=spool.fd)
    try:
        return os.read(fd, length)
    finally:
        os.close(fd)


def newest_failed(spool: SpoolDir, limit: int) -> list[Found]:
    """Return the tasks that failed last, newest first. Opens no file.

    Raises:
        OSError: From the file system.
    """
    times: dict[str, int] = {}
    names = set(spool.names("failed"))
    for name in names:
        if name.endswith(".why"):
            continue
        # The report is as old as the failure; without one, so is the last move.
        why = f"{name}.why"
        path, moved = (why, False) if why in names else (name, True)
        with suppress(OSError):
            status = os.stat(f"failed/{path}", dir_fd=spool.fd, follow_symlinks=False)
            times[name] = status.st_ctime_ns if moved else status.st_mtime_ns
    newest = heapq.nlargest(limit, times, key=times.__getitem__)
    parsed = ((name, Name.parse(name)) for name in newest)
    return [Found(State.FAILED, f"failed/{n}", name) for n, name in parsed if name]


def dropped(spool: SpoolDir, folder: str) -> list[str]:
    """Return the files in a priority, or the root (``.``), that nobody adopted yet.

    Directories are left out: they are left where they are.

    Raises:
        OSError: From the file system.
    """
    fd = os.open(folder, DIR_FLAGS, dir_fd=spool.fd)
    try:
        with os.scandir(fd) as entries:
            return [
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and not entry.name.endswith(".tmp")
                and not entry.is_dir(follow_symlinks=False)
            ]
    finally:
        os.close(fd)


def kick(
    spool: SpoolDir, found: Found, clock: Clock = CLOCK, *, durable: bool = True
) -> Name:
    """Make a failed task ready again: due now, attempt 0. One rename, synced.

    Args:
        durable: Sync the folders now. If false, call ``sync`` after many.

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
    results.remove(spool, found.id)  # before: it may run, and keep a new one, at once
    name = unless_moved(lambda: spool.move(found.path, name, durable=durable), found)
    reports.remove_why(spool, found.path)
    return name


def fail(spool: SpoolDir, found: Found, clock: Clock = CLOCK) -> None:
    """Give a task up that waits or is held. Its report first, then one rename, synced.

    Raises:
        UsageError: It neither waits nor is held.
        NotFoundError: Somebody else moved it.
        OSError: From the file system.
    """
    if found.state not in (State.WAITING, State.HELD) or found.name is None:
        raise UsageError(
            f"{found.id}: is {found.state}, and only a waiting or held task can be"
            " failed"
        )
    outcome = Outcome(Verdict.FAIL, "given up by an operator", "operator")
    claim = Claim(found.name, "", "")
    history = reports.attempts(spool, found.name.id)
    report = reports.failure(claim, outcome, history, clock.now_us())
    name = found.name
    unless_moved(lambda: give_up(spool, found.path, name, report), found)


def remove(spool: SpoolDir, found: Found, *, durable: bool = True) -> None:
    """Remove a task that is not running, and what was written about it.

    Args:
        durable: As for ``kick``.

    Raises:
        UsageError: It is running.
        NotFoundError: Somebody else moved it.
        OSError: From the file system.
    """
    if found.state is State.RUNNING:
        raise UsageError(
            f"{found.id}: is running, and cannot be removed: let it end, or"
            " `spool kill` it first"
        )
    unless_moved(lambda: _unlink(spool, found.path), found)
    if durable:
        spool.sync_moved(found.path.rpartition("/")[0])
    if found.state in (State.FAILED, State.CORRUPT):
        reports.remove_why(spool, found.path)
    if found.name is not None:
        reports.forget_attempts(spool, found.id)
        with suppress(OSError):  # it goes by itself when its time is over
            results.remove(spool, found.id)
        runlogs.forget(spool, found.id, found.name.attempt + 1)


def _unlink(spool: SpoolDir, path: str) -> None:
    try:
        os.unlink(path, dir_fd=spool.fd)
    except IsADirectoryError:
        try:
            os.rmdir(path, dir_fd=spool.fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            there = f"{spool.path}/{path}"
            raise UsageError(f"{there}: is a directory with files in it") from None


def sync(spool: SpoolDir, paths: Iterable[str]) -> None:
    """Sync the folders of files that were moved or removed; each folder once.

    Raises:
        OSError: From the file system.
    """
    folders = {path.rpartition("/")[0] for path in paths}
    for folder in folders | {each.partition("/")[0] for each in folders}:
        with suppress(FileNotFoundError):  # emptied, and removed by a daemon
            spool.sync(folder)


def unless_moved(move: Callable[[], _T], found: Found) -> _T:
    """Make a move.

    Raises:
        NotFoundError: Somebody else has moved the file.
        OSError: From the file system.
    """
    try:
        return move()
    except FileNotFoundError:
        raise NotFoundError(found.id, _MOVED) from None
