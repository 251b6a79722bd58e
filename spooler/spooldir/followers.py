"""Put the followers of a task when it is finished: each exactly once.

They are written beside their parent before it moves, under hidden names, and renamed
to where they belong after it: so whether the parent is still there tells, to whoever
recovers the folder, whether they count. Specification: docs/format.md, section 10.
"""

import logging
import os
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec
from msgspec.structs import replace

from ..codec import encode
from ..errors import ClaimLostError, CorruptError, KeyFileError, UsageError
from ..logs import escape
from ..moments import parse_at
from ..options import NO_OPTIONS, Follower
from ..task import MAX_DUE_US, Name, derived_id
from .files import NEW_FLAGS, write_all
from .reading import TaskFile, open_task
from .reserve import insist
from .root import SpoolDir
from .signing import disagreement

Kind = Literal["then", "on_failure"]
"""After which end they are put; part of their ids."""

_STAGED = re.compile(r"\.([0-9a-f]{16})\.(.+)", re.ASCII | re.DOTALL)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Staged:
    """A follower that is written beside its parent.

    Attributes:
        path: Its hidden file, from the spool's root.
        parent: The id of the task that it follows.
        name: What it will be called.
    """

    path: str
    parent: str
    name: Name


def follower_name(
    parent: Name, follower: Follower, number: int, kind: Kind, now_us: int
) -> Name:
    """Return the name of a follower: the same wherever it is computed.

    Args:
        parent: The task that has ended; its priority is the follower's too, unless
            that has one of its own.
        number: Which of the followers, from 0.
        now_us: When the parent ended.
    """
    try:
        due_us = now_us if follower.at is None else parse_at(follower.at, now_us)
    except ValueError:  # it was a moment when it was read, but +N may be too late now
        due_us = MAX_DUE_US
    priority = parent.priority if follower.priority is None else follower.priority
    task_id = derived_id(parent.id, kind, number)
    return Name(due_us, priority, 0, task_id, follower.task)


def follower_bytes(follower: Follower, parent: str) -> bytes:
    """Return the file of a follower.

    Raises:
        UsageError: It is larger, or nested deeper, than a task may be.
    """
    return encode(
        follower.task,
        msgspec.json.encode(follower.args),
        body=follower.body,
        traceparent=follower.traceparent,
        options=replace(follower.options or NO_OPTIONS, parent=parent),
    )


def stage(
    spool: SpoolDir,
    folder: str,
    parent: Name,
    followers: Sequence[Follower],
    kind: Kind,
    now_us: int,
    *,
    signed: bool = False,
) -> list[Staged]:
    """Write the followers of a task that is about to move. Durable.

    May be repeated with the same ``now_us``. One that can be no file (too large) is
    left out, and that is logged.

    Args:
        folder: The worker's, which holds the parent: ``running/<worker>``.
        signed: Sign them, since their parent was.

    Raises:
        KeyFileError: The keys cannot be read. None is there then.
        OSError: From the file system. None is there then.
    """
    staged: list[Staged] = []
    spool.sync_left()
    try:
        for number, follower in enumerate(followers):
            name = follower_name(parent, follower, number, kind, now_us)
            try:
                data = follower_bytes(follower, parent.id)
                if signed and spool.signer is not None:
                    data = spool.signer.sign(name.id, data)
            except KeyFileError:
                raise
            except UsageError as error:
                text = "cannot put follower name=%s of task=%s: %s"
                log.error(text, escape(follower.task), parent.id, escape(str(error)))
                continue
            each = Staged(f"{folder}/.{parent.id}.{name}", parent.id, name)
            staged.append(each)
            insist(spool.fd, partial(_write, spool, each.path, data))
        if staged:
            spool.sync(folder)
    except BaseException:
        with suppress(OSError):  # they do not count: the parent is still there
            discard(spool, staged)
        raise
    return staged


def _write(spool: SpoolDir, path: str, data: bytes) -> None:
    with suppress(FileNotFoundError):  # of an earlier try
        os.unlink(path, dir_fd=spool.fd)
    fd = os.open(path, NEW_FLAGS, 0o600, dir_fd=spool.fd)
    try:
        if spool.owner is not None:
            os.fchown(fd, *spool.owner)
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def publish(spool: SpoolDir, staged: list[Staged]) -> None:
    """Put staged followers where they belong. Their parent is gone, durably.

    They are taken from the list one by one, so that after an error the call can be
    repeated. Synced; a sync that fails is only logged: at worst a power cut has whoever
    recovers the folder do this again.

    Raises:
        OSError: From the file system. What is left in the list is still staged.
    """
    done: dict[str, Staged] = {}
    try:
        while staged:
            each = staged[0]
            _publish(spool, each)
            done[each.name.folder] = each
            del staged[0]
    finally:
        spool.sync_moved(*{e.path.rpartition("/")[0]: None for e in done.values()})
        for folder, each in done.items():
            try:
                spool.sync_folder(each.name)
            except OSError as error:
                log.warning("cannot sync %s in %s: %s", folder, spool.path, error)


def _publish(spool: SpoolDir, staged: Staged) -> None:
    # After a power cut some file systems have both names of a rename.
    if spool.has(f"{staged.name.folder}/{staged.name}"):
        discard(spool, [staged])
        return
    with suppress(FileNotFoundError):  # an operator has taken it
        name = spool.move(staged.path, staged.name, durable=False)
        text = "put task=%s name=%s parent=%s"
        log.info(text, name.id, escape(name.task), staged.parent)


def discard(spool: SpoolDir, staged: Sequence[Staged]) -> None:
    """Remove staged followers whose parent has not ended after all.

    Raises:
        OSError: From the file system. May be repeated.
    """
    for each in staged:
        with suppress(FileNotFoundError):
            os.unlink(each.path, dir_fd=spool.fd)


class Settling:
    """The end of a task that has followers: stage, move the parent, publish.

    Make one for each end of a run; it keeps the moment of that end.

    Args:
        folder: The worker's: ``running/<worker>``.
        parent: The name of the task's file there.
        now_us: When it ended.
        signed: It was signed; so its followers will be.
    """

    def __init__(
        self,
        spool: SpoolDir,
        folder: str,
        parent: Name,
        followers: Sequence[Follower],
        kind: Kind,
        now_us: int,
        *,
        signed: bool = False,
    ) -> None:
        self._spool = spool
        self._folder = folder
        self._parent = parent
        self._followers = followers
        self._kind: Kind = kind
        self._now_us = now_us
        self._signed = signed
        self._staged: list[Staged] | None = None
        self._moved = False
        self._synced = False
        self.put: list[Name] = []

    def settle(self, move: Callable[[], object]) -> None:
        """Do what is not done yet. Call it again after an OSError.

        Args:
            move: Acks the parent or moves it to ``failed/``.

        Raises:
            ClaimLostError: Somebody else has the parent: nothing was put.
            FileNotFoundError: The same, if ``move`` says it so.
            OSError: From the file system. What is not done yet can still be done.
        """
        if self._staged is None:
            self._staged = stage(
                self._spool,
                self._folder,
                self._parent,
                self._followers,
                self._kind,
                self._now_us,
                signed=self._signed,
            )
            self.put = [each.name for each in self._staged]
        if not self._moved:
            try:
                move()
            except (ClaimLostError, FileNotFoundError):
                discard(self._spool, self._staged)
                raise
            self._moved = True
        if not self._synced and self._staged:
            # Before they appear: else a power cut could bring the parent back.
            self._spool.sync(self._folder)
            self._synced = True
        publish(self._spool, self._staged)


def give_up_lost(
    spool: SpoolDir,
    source: str,
    name: Name,
    move: Callable[[], object],
    default: Sequence[Follower] | None,
    owners: Collection[int] | None,
    now_us: int,
) -> None:
    """Give a task up whose run was lost, and put its ``on_failure`` followers.

    Args:
        source: Its file, below ``running/``.
        name: With the attempts counted.
        move: Moves it to ``failed/``.
        default: What its decorator says of followers, if anything.
        owners: The uids whose files count as tasks; None for root and this user.

    Raises:
        FileNotFoundError: It is gone; nothing was put.
        OSError: From the file system. May be repeated, after ``settle_staged``.
    """
    if owners is None:
        owners = (0, os.geteuid())
    try:
        task = open_task(source, owners, dir_fd=spool.fd)
    except CorruptError:  # nobody can say what should follow
        move()
        return
    try:
        options = task.header.options or NO_OPTIONS
        given = default if options.on_failure is None else options.on_failure
        signed = bool(given) and _is_signed(spool, task, name)
    finally:
        task.close()
    if not given:
        move()
        return
    folder = source.rpartition("/")[0]
    settling = Settling(spool, folder, name, given, "on_failure", now_us, signed=signed)
    settling.settle(move)


def _is_signed(spool: SpoolDir, task: TaskFile, name: Name) -> bool:
    """Tell whether a task whose header was read is signed, and is what it is called."""
    if spool.signer is None or spool.signer.check_here(task) is not None:
        return False
    return disagreement(task.header, name) is None


def settle_staged(spool: SpoolDir, folder: str) -> list[Name]:
    """Publish or remove the followers that a dead worker has left staged.

    Call it before anything in the folder moves. Safe to repeat.

    Args:
        folder: The dead worker's: ``running/<worker>``.

    Returns:
        The names of those that were put.

    Raises:
        OSError: From the file system. What is not done yet is still there.
    """
    parents: set[str] = set()
    found: list[Staged] = []
    for file in spool.all_names(folder):
        name = Name.parse(file)
        if name is not None:
            parents.add(name.id)
            continue
        match = _STAGED.fullmatch(file)
        staged = Name.parse(match[2]) if match else None
        if match and staged is not None:
            found.append(Staged(f"{folder}/{file}", match[1], staged))
    if not found:
        return []
    discard(spool, [each for each in found if each.parent in parents])
    left = sorted(
        (each for each in found if each.parent not in parents),
        key=lambda each: each.path,
    )
    names = [each.name for each in left]
    if left:
        spool.sync(folder)  # that the parents are gone must survive a power cut
        publish(spool, left)
    return names
