"""Hold, release, hurry and cancel tasks that have not begun.

Each is one rename (or one unlink) and works with or without a daemon. Who began the
task meanwhile was first, and nothing is changed. Specification: docs/format.md,
section 3.
"""

import os
from typing import Final

from ..clock import CLOCK, Clock
from ..errors import NotFoundError, UsageError
from ..task import Name, State
from . import kills, repair
from .repair import Found, unless_moved
from .root import SpoolDir
from .tracking import locate, state_at

HELD: Final = "held"
"""Where held tasks are."""

NOT_BEGUN: Final = (State.WAITING, State.HELD)

_TRIES: Final = 10
"""How often a task is looked for that moves while it is looked for."""

_INSTEAD: Final = {
    State.RUNNING: "is running: let it end, or `spool kill` it",
    State.WAITING: "is waiting, and not held",
    State.HELD: "is held already",
    State.FAILED: "has failed: `spool kick` makes it ready again",
    State.CORRUPT: "is corrupt, and not a task",
}


def not_begun(found: Found, *states: State) -> Name:
    """Return the name of a task that is in one of these states.

    Raises:
        UsageError: It is not; the message says what can be done.
    """
    if found.state not in states or found.name is None:
        raise UsageError(f"{found.id}: {_INSTEAD[found.state]}")
    if found.state is State.WAITING:  # the folder is right, if they differ
        return found.name.but(priority=int(found.path.partition("/")[0]))
    return found.name


def hold(spool: SpoolDir, found: Found, *, durable: bool = True) -> str:
    """Keep a waiting task from being run until it is released. One rename, synced.

    Args:
        durable: Sync the folders now. If false, call ``repair.sync`` after many.

    Returns:
        Its new path.

    Raises:
        UsageError: It does not wait.
        NotFoundError: Somebody began or moved it.
        OSError: From the file system. The task is where it was.
    """
    name = not_begun(found, State.WAITING)
    target = f"{HELD}/{spool.free(name, HELD)}"
    _rename(spool, found, target)
    if durable:
        spool.sync_moved(found.path.rpartition("/")[0], HELD)
    return target


def _rename(spool: SpoolDir, found: Found, target: str) -> None:
    unless_moved(
        lambda: os.rename(found.path, target, src_dir_fd=spool.fd, dst_dir_fd=spool.fd),
        found,
    )


def release(spool: SpoolDir, found: Found, *, durable: bool = True) -> str:
    """Let a held task go on, due as it was. One rename, synced.

    Args:
        durable: As for ``hold``.

    Returns:
        Its new path.

    Raises:
        UsageError: It is not held.
        NotFoundError: Somebody else moved it.
        OSError: From the file system. The task is where it was.
    """
    name = not_begun(found, State.HELD)
    moved = unless_moved(lambda: spool.move(found.path, name, durable=durable), found)
    return f"{moved.folder}/{moved}"


def now(
    spool: SpoolDir, found: Found, clock: Clock = CLOCK, *, durable: bool = True
) -> str:
    """Make a task due now; a held one stays held. One rename, synced.

    Args:
        durable: As for ``hold``.

    Returns:
        Its new path.

    Raises:
        UsageError: It is neither waiting nor held.
        NotFoundError: Somebody began or moved it.
        OSError: From the file system. The task is where it was.
    """
    name = not_begun(found, *NOT_BEGUN).but(due_us=clock.now_us())
    return rename(spool, found, name, durable=durable)


def reprioritise(
    spool: SpoolDir, found: Found, priority: int, *, durable: bool = True
) -> str:
    """Give a task another priority, due as it was. One rename, synced.

    Args:
        durable: As for ``hold``.

    Returns:
        Its new path.

    Raises:
        UsageError: It is neither waiting nor held.
        NotFoundError: Somebody began or moved it.
        OSError: From the file system. The task is where it was.
    """
    name = not_begun(found, *NOT_BEGUN).but(priority=priority)
    return rename(spool, found, name, durable=durable)


def rename(spool: SpoolDir, found: Found, name: Name, *, durable: bool = True) -> str:
    """Give a task that has not begun another name, in the state in which it is.

    Returns:
        Its new path.

    Raises:
        NotFoundError: Somebody began or moved it.
        OSError: From the file system. The task is where it was.
    """
    held = found.state is State.HELD
    if found.path == f"{HELD if held else name.folder}/{name}":
        return found.path
    if held:
        target = f"{HELD}/{spool.free(name, HELD)}"
        _rename(spool, found, target)
        if durable:
            spool.sync_moved(HELD)
        return target
    moved = unless_moved(lambda: spool.move(found.path, name, durable=durable), found)
    return f"{moved.folder}/{moved}"


def cancel(spool: SpoolDir, task_id: str, *, kill: bool = False) -> bool:
    """Remove a task that has not begun, wherever it waits.

    Args:
        kill: If it runs, ask its daemon to kill it.

    Returns:
        Whether it was removed, or its daemon was asked.

    Raises:
        OSError: From the file system.
    """
    for _ in range(_TRIES):
        path = locate(spool, task_id)
        state = None if path is None else state_at(path)
        if path is not None and state in NOT_BEGUN:
            found = Found(state, path, Name.parse(path.rpartition("/")[2]))
            try:
                repair.remove(spool, found)
            except NotFoundError:
                continue  # somebody has just moved it: look where it is now
            return True
        if kill and state is State.RUNNING:
            kills.ask(spool, task_id)
            return True
        return False
    return False


def ask_to_kill(spool: SpoolDir, task_id: str) -> bool:
    """Ask whoever runs a task to kill it; tell whether it runs.

    Raises:
        OSError: From the file system.
    """
    path = locate(spool, task_id)
    runs = path is not None and state_at(path) is State.RUNNING
    if runs:
        kills.ask(spool, task_id)
    return runs
