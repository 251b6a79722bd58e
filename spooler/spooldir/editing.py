"""Put a file with another header in the place of a task that has not begun.

The bytes of a file never change: this is a new file, exchanged with the old one while
the task is held, so that nobody begins it meanwhile. A crash at any point leaves the
task once, old or new, where it was or held. Specification: docs/format.md, section 3.
"""

import errno
import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ..errors import NotFoundError, UsageError
from ..task import Name, State
from .control import HELD, NOT_BEGUN, hold, not_begun, rename
from .exchange import exchange
from .files import NEW_FLAGS, link_to, write_all
from .owner import mark, marked, sender_of
from .reading import TaskFile
from .repair import Found
from .root import SpoolDir
from .signing import is_signed

CHUNK: Final = 64 * 1024 * 1024
"""Bytes of a body that are copied by one call."""

_NO_COPY: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
)
_NO_FLOCK: Final = frozenset(
    {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
)
_MOVED: Final = "somebody else has just changed or moved it"


@dataclass(frozen=True, slots=True)
class _New:
    """The new file, under a hidden name."""

    fd: int
    path: str


def replace(
    spool: SpoolDir, found: Found, task: TaskFile, head: bytes, name: Name
) -> str:
    """Give a task that has not begun another header; its body stays. Synced.

    Its file is as old as before, and belongs to whom it belonged, or says who that
    was; if it was signed it is signed again. What else is a link to it, a key or a
    timer's slot, becomes one to the new file.

    Args:
        task: Its file, open, as it was read.
        head: The new header, with the newline or the empty line that ends it.
        name: What it is to be called; it stays held if it was.

    Returns:
        Its new path; if it could not be renamed in the end, where it is held.

    Raises:
        UsageError: It is neither waiting nor held; or its signature is not good, or
            cannot be made here; or the new file cannot say who put the task.
        NotFoundError: Somebody began, moved or changed it; nothing was changed.
        OSError: From the file system. Nothing was changed; but if that could not be
            undone either, a waiting task is held, and its key or its slot may be free.
    """
    first = not_begun(found, *NOT_BEGUN)
    hidden = f"{HELD}/.{os.urandom(8).hex()}"
    fd = os.open(hidden, NEW_FLAGS, 0o600, dir_fd=spool.fd)
    new = _New(fd, hidden)
    try:
        _write(spool, fd, task, head)
        # Whoever changes what a key is a link to holds these locks: see keys.
        _flock(fd)
        _flock(task.fd)
        try:
            return _put_in_place(spool, found, task, new, name)
        finally:
            with suppress(OSError):
                fcntl.flock(task.fd, fcntl.LOCK_UN)
    finally:
        try:
            with suppress(OSError, NotFoundError):  # it is swept by age
                _clear(spool, task, new, first)
        finally:
            with suppress(OSError):  # it was synced before
                os.close(fd)


def _write(spool: SpoolDir, fd: int, task: TaskFile, head: bytes) -> None:
    _keep_owner(spool, fd, task)
    status = os.fstat(task.fd)
    if is_signed(task.data):
        if spool.signer is None:
            raise UsageError("is signed, and there is no key here to sign it again")
        spool.signer.sign_again(task, head, fd)
    else:
        write_all(fd, head)
        _copy(task.fd, task.header.body_offset, fd)
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.fsync(fd)


def _keep_owner(spool: SpoolDir, fd: int, task: TaskFile) -> None:
    """Give the new file to whom the old one belongs, or have it say who put the task.

    Raises:
        UsageError: It cannot say that: it would count as this user's own task.
        OSError: From the file system.
    """
    status = os.fstat(task.fd)
    mode, owner = status.st_mode & 0o777, os.geteuid()
    if owner in (0, status.st_uid):
        owner, sender = status.st_uid, marked(task.fd)
        if os.geteuid() == 0:
            os.fchown(fd, owner, status.st_gid)
    else:
        sender = sender_of(spool, task.fd)
        mode &= ~0o022  # else others could take back what it says
    # Before the mode, which may forbid it. What is signed runs for who has the key.
    if sender != owner and not mark(fd, sender) and not is_signed(task.data):
        raise UsageError(
            "is somebody else's task, and this file system has no extended attributes"
            " to note that on a copy of yours: edit it as root, or remove it and put"
            " another"
        )
    os.fchmod(fd, mode)


def _copy(source: int, offset: int, target: int) -> None:
    """Copy the rest of a file, in the kernel."""
    in_one = True
    while True:
        try:
            if in_one:
                count = os.copy_file_range(source, target, CHUNK, offset)
            else:
                count = os.sendfile(target, source, offset, CHUNK)
        except OSError as error:
            if not in_one or error.errno not in _NO_COPY:
                raise
            in_one = False
            continue
        if not count:
            return
        offset += count


def _flock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise


def _put_in_place(
    spool: SpoolDir, found: Found, task: TaskFile, new: _New, name: Name
) -> str:
    if found.state is State.HELD:
        _swap(spool, found, task, new)
        with suppress(OSError, NotFoundError):
            return rename(spool, found, name)
        return found.path
    path = hold(spool, found)
    held = Found(State.HELD, path, Name.parse(path.partition("/")[2]))
    try:
        _swap(spool, held, task, new)
    except BaseException:
        with suppress(OSError):  # then it stays held
            spool.move(path, not_begun(found, State.WAITING))
        raise
    with suppress(OSError):
        moved = spool.move(path, name)
        return f"{moved.folder}/{moved}"
    return path


def _swap(spool: SpoolDir, held: Found, task: TaskFile, new: _New) -> None:
    """Put the new file in the place of the old one, which is held."""
    if not _is_one_of(spool, held.path, task):
        raise NotFoundError(held.id, _MOVED)
    others = _other_links(spool, task)
    links = os.fstat(task.fd).st_nlink - len(others)
    root = spool.fd
    done: list[str] = []
    try:
        # Killed between these, a key or a slot is free although its task waits.
        for path in others:
            _link_over(spool, new.fd, new.path, path)
            done.append(path)
        if os.fstat(task.fd).st_nlink < links:  # somebody has removed it
            raise NotFoundError(held.id, _MOVED)
        if not _exchange(spool, held, task, new):
            os.rename(new.path, held.path, src_dir_fd=root, dst_dir_fd=root)
            with suppress(OSError):
                if os.fstat(task.fd).st_nlink == links:
                    # The old one was moved away in this instant, so now there are two.
                    if _is_one_of(spool, held.path, new):
                        os.unlink(held.path, dir_fd=spool.fd)
                    raise NotFoundError(held.id, _MOVED)
    except BaseException:
        for path in done:
            with suppress(OSError):
                _link_over(spool, task.fd, None, path)
        raise
    spool.sync_moved(HELD, *(path.partition("/")[0] for path in others))


def _exchange(spool: SpoolDir, held: Found, task: TaskFile, new: _New) -> bool:
    """Exchange the new file with the old one; tell whether the file system can.

    A rename would bring back a task that somebody removes in this instant.

    Raises:
        NotFoundError: Somebody has removed or moved the old one.
    """
    try:
        if not exchange(spool.fd, new.path, held.path):
            return False
        is_ours = False
        try:
            is_ours = _is_one_of(spool, new.path, task)
        finally:
            if not is_ours:  # another one has come there
                exchange(spool.fd, new.path, held.path)
    except FileNotFoundError:
        is_ours = False
    if not is_ours:
        raise NotFoundError(held.id, _MOVED)
    return True


def _clear(spool: SpoolDir, task: TaskFile, new: _New, name: Name) -> None:
    """Remove what has the hidden name: the old file, or the new one.

    If it is another one, which could not be exchanged back, it is held as it was.
    """
    if _is_one_of(spool, new.path, task, new):
        os.unlink(new.path, dir_fd=spool.fd)
    elif spool.has(new.path):
        rename(spool, Found(State.HELD, new.path, name), name)


def _is_one_of(spool: SpoolDir, path: str, *files: TaskFile | _New) -> bool:
    """Tell whether it is one of these files that has a name now."""
    try:
        status = os.stat(path, dir_fd=spool.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return any(os.path.samestat(status, os.fstat(each.fd)) for each in files)


def _other_links(spool: SpoolDir, task: TaskFile) -> list[str]:
    """Return what else is a link to a task's file: its key, or its timer's slot."""
    status = os.fstat(task.fd)
    found = []
    for folder in ("keys", "timers") if status.st_nlink > 1 else ():
        with os.scandir(f"{spool.path}/{folder}") as entries:
            found += [
                f"{folder}/{each.name}"
                for each in entries
                if each.inode() == status.st_ino
            ]
    return found


def _link_over(spool: SpoolDir, fd: int, source: str | None, target: str) -> None:
    """Link a file to a name that is a link to another one.

    Args:
        source: A name that the file has, if that is known.
    """
    folder, _, file = target.partition("/")
    spare = f"{folder}/.{file}.{os.urandom(4).hex()}"
    link_to(spool.fd, fd, source, spare)
    try:
        os.rename(spare, target, src_dir_fd=spool.fd, dst_dir_fd=spool.fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(spare, dir_fd=spool.fd)
        raise
