"""What makes a directory a spool: its folders, its owner, the file that marks it.

Specification: docs/format.md, section 1.
"""

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from ..errors import NotASpoolError
from .files import sync_directory, write_new
from .reading import NOT_A_FILE, READ_FLAGS

FORMAT: Final = 1
MARKER: Final = ".spool"
MARKER_TEXT: Final = b'{"format": 1}\n'
PRIORITIES: Final = tuple(str(priority) for priority in range(10))
FOLDERS: Final = (
    *("running", "failed", "corrupt", "done", "logs", "timers", "workers"),
    *("held", "paused", "kill", "keys", "limits", "batches", "tmp"),
    *PRIORITIES,
)


class Opened(NamedTuple):
    """The root of a spool, open.

    Attributes:
        owner: Whom new files are given to, uid and gid; None if they are ours.
        trusted: The uids whose minute folders may be used, if others may write beside
            them; None if only the owner may write into the spool.
    """

    fd: int
    owner: tuple[int, int] | None
    trusted: frozenset[int] | None


def open_root(path: str) -> Opened:
    """Open a spool; make what is missing in it. An empty directory becomes one.

    Raises:
        NotASpoolError: Missing, not a directory, not a spool, or newer.
        OSError: From the file system, such as no permission.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        hint = f"there is no such directory: make it with `spool init {path}`"
        raise NotASpoolError(path, hint) from None
    except NotADirectoryError:
        raise NotASpoolError(path, "is not a directory") from None
    try:
        status = os.fstat(fd)
        # What root makes in another user's spool is of use only to that user.
        foreign = os.geteuid() == 0 and status.st_uid != 0
        owner = (status.st_uid, status.st_gid) if foreign else None
        _check(path, fd, owner)
        return Opened(fd, owner, _trusted(fd, status))
    except BaseException:
        os.close(fd)
        raise


def _check(path: str, fd: int, owner: tuple[int, int] | None) -> None:
    """Check that a directory is a spool, and make what is missing in it. Synced."""
    entries = set(os.listdir(fd))
    if MARKER in entries:
        check_marker(path, fd)
    elif entries != set(FOLDERS[: len(entries)]):  # nor one half made
        hint = "is not empty and is not a spool (it has no file .spool)"
        from .uwsgi_files import is_uwsgi_name  # noqa: PLC0415 (for an error only)

        if any(is_uwsgi_name(name) for name in entries):
            hint += "; it holds files of uWSGI's: `spoold --uwsgi` takes it over"
        raise NotASpoolError(path, hint)
    complete(fd, entries, owner)


def complete(fd: int, entries: Collection[str], owner: tuple[int, int] | None) -> None:
    """Make what is missing in a spool, its marker last. Synced.

    Args:
        entries: What is there.

    Raises:
        OSError: From the file system.
    """
    made = False
    for folder in FOLDERS:
        if folder not in entries:
            with suppress(FileExistsError):
                make_folder(fd, folder, owner)
                made = True
    if MARKER not in entries:
        # Last: a directory that has it has the rest too.
        hidden = f"tmp/{MARKER}.{os.urandom(4).hex()}"
        write_new(fd, hidden, MARKER, MARKER_TEXT, owner)
        made = True
    if made:
        os.fsync(fd)


def make_folder(fd: int, folder: str, owner: tuple[int, int] | None) -> None:
    """Make a folder, for its owner alone.

    Args:
        owner: User and group, if it is root who makes it for somebody else. It is
            theirs from the beginning: their daemon looks into it at once, and would
            leave alone for long what it may not read.

    Raises:
        FileExistsError: There is something of this name.
        OSError: From the file system.
    """
    if owner is None:
        os.mkdir(folder, 0o700, dir_fd=fd)
        return
    with _making_for(*owner):
        os.mkdir(folder, 0o700, dir_fd=fd)
    os.chown(folder, *owner, dir_fd=fd, follow_symlinks=False)  # of a set-gid folder


@contextmanager
def _making_for(uid: int, gid: int) -> Iterator[None]:
    """Have what this thread makes belong to somebody else. For root."""
    import ctypes  # noqa: PLC0415 (few need it)

    libc = ctypes.CDLL(None)
    try:
        libc.setfsgid(gid)  # first: whoever is not root may not choose it
        libc.setfsuid(uid)
        yield
    finally:
        libc.setfsuid(os.geteuid())
        libc.setfsgid(os.getegid())


def check_marker(path: str, fd: int) -> None:
    """Check that the file which marks a spool says a format that is known here.

    Raises:
        NotASpoolError: It does not.
        OSError: From the file system.
    """
    try:
        marker = os.open(MARKER, READ_FLAGS, dir_fd=fd)
        try:
            text = os.read(marker, 4096)
        finally:
            os.close(marker)
    except OSError as error:
        if error.errno not in NOT_A_FILE:
            raise
        text = b""
    # A version this code does not know is one that it cannot parse either.
    if b"".join(text.split()) != b"".join(MARKER_TEXT.split()):
        hint = "was made by a newer spooler, or its file .spool is damaged"
        raise NotASpoolError(path, f"{hint}; this one knows format {FORMAT}")


def _trusted(fd: int, root: os.stat_result) -> frozenset[int] | None:
    if not root.st_mode & 0o011:  # nobody else gets in
        return None
    for folder in PRIORITIES:
        with suppress(FileNotFoundError):
            status = os.stat(folder, dir_fd=fd, follow_symlinks=False)
            if status.st_mode & 0o022:
                return frozenset({0, os.geteuid(), root.st_uid})
    return None


def is_own(status: os.stat_result, trusted: frozenset[int]) -> bool:
    """Tell whether this is a directory into which only those write who are trusted."""
    is_theirs = status.st_uid in trusted and not status.st_mode & 0o022
    return stat.S_ISDIR(status.st_mode) and is_theirs


def make_directory(path: str, mode: int = 0o700) -> None:
    """Make a directory, for its owner alone, and its parents, if need be. Synced.

    Raises:
        OSError: From the file system.
    """
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        # Whatever the umask: others must not be able to replace what is below.
        make_directory(parent, 0o755)
    with suppress(FileExistsError):
        os.mkdir(path, mode)
        with suppress(PermissionError):  # one may make there, but not read
            sync_directory(parent)
