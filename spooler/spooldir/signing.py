"""Sign task files, and tell whether a signature is good.

Producers and daemons share a key, so that a folder which others may write to runs only
what was signed with it. Keys are read from a file, and again when that changes; they
are never logged. Specification: docs/format.md, section 14.
"""

import errno
import logging
import os
from collections.abc import Iterable
from hmac import HMAC, compare_digest
from typing import Final

from ..clock import CLOCK, Clock
from ..codec import Header
from ..errors import KeyFileError, UsageError
from ..moments import show
from ..task import BATCH, MAX_HEADER, Name
from .files import write_all
from .key_file import KEY_FILE, Stamp, load, stamp_of
from .reading import CHUNK, TaskFile

LOOK_EVERY: Final = 1.0
"""Seconds between two looks whether the key file has changed."""

IN_LOOP_MAX: Final = 256 << 20
"""Bytes of a file that a supervisor verifies: its loop stands still meanwhile."""

LARGE: Final = 1 << 20
"""Bytes of a file above which a worker verifies it beside its event loop."""

HOLES_MAX: Final = 100
"""How many times larger than its room on disk a file may be: a file that is nothing
but a hole costs whoever made it nothing, and whoever verifies it hours."""

UNSIGNED: Final = "is not signed"
WRONG: Final = "its signature is wrong: it was changed, or signed with another key"

_JSON: Final = b'{"sig":"'
_LINES: Final = b"sig="
_STARTS: Final = (_JSON, _LINES)
_DIGITS: Final = 64
_BLANK: Final = b"0" * _DIGITS
_PACKET: Final = b"\x11"
_PIECE: Final = 1 << 20

log = logging.getLogger(__name__)


class _Key:
    """A key, ready to sign a file of either form.

    Attributes:
        begun: By what a file begins with, the sum over that and the blank digits.
    """

    def __init__(self, key: bytes) -> None:
        self.begun = {
            start: HMAC(key, start + _BLANK, digestmod="sha256") for start in _STARTS
        }


class Signer:
    """Signs, and verifies, with the keys in a file.

    The file is read when it is first needed, and again within ``LOOK_EVERY`` seconds
    after it has changed. If it cannot be read then, the old keys go on.

    Args:
        path: The key file, absolute.
    """

    def __init__(self, path: str, clock: Clock = CLOCK) -> None:
        self.path = path
        self._clock = clock
        self._keys: tuple[_Key, ...] = ()
        self._stamp: Stamp | None = None
        self._look_at = 0.0

    def __repr__(self) -> str:
        return f"Signer({self.path!r})"

    def look(self) -> None:
        """Read the key file.

        Raises:
            KeyFileError: It cannot be used; the old keys go on, if there are any.
        """
        self._look_at = self._clock.monotonic() + LOOK_EVERY
        stamp = stamp_of(self.path)
        try:
            self._keys = tuple(map(_Key, load(self.path)))
        finally:  # after the keys: another thread takes it for theirs
            self._stamp = stamp

    def _has_changed(self) -> bool:
        """Read the key file if it has changed; tell whether there are other keys."""
        if stamp_of(self.path) == self._stamp:
            self._look_at = self._clock.monotonic() + LOOK_EVERY
            return False
        try:
            self.look()
        except KeyFileError as error:
            log.error("the old keys go on: %s", error)
            return False
        return True

    def _current(self) -> tuple[_Key, ...]:
        """Return the keys.

        Raises:
            KeyFileError: The file cannot be used, and never could.
        """
        if not self._keys:
            self.look()
        elif self._clock.monotonic() >= self._look_at:
            self._has_changed()
        return self._keys

    # -- signing ----------------------------------------------------------------

    def sign(self, task_id: str, data: bytes, moment_us: int | None = None) -> bytes:
        """Return a task file in JSON with a signature, its id and a moment.

        Args:
            data: The whole file, without ``sig``, ``id`` and ``signed``.
            moment_us: When it was put; None for now.

        Raises:
            KeyFileError: There is no key to sign with.
            UsageError: With all that the header is too large.
        """
        rest = self._first(task_id, data, moment_us)
        mac = self._current()[0].begun[_JSON].copy()
        mac.update(rest)
        return b"".join((_JSON, mac.hexdigest().encode(), rest))

    def write(self, fd: int, task_id: str, chunks: Iterable[bytes]) -> None:
        """Write a task file in pieces, as ``sign`` returns it.

        Args:
            fd: A new file, which nobody else sees.
            chunks: The first one has the whole header.

        Raises:
            KeyFileError: There is no key to sign with.
            UsageError: With all that the header is too large.
            OSError: From the file system.
        """
        if isinstance(chunks, tuple) and len(chunks) == 1:
            write_all(fd, self.sign(task_id, chunks[0]))
            return
        mac, start = self._current()[0].begun[_JSON].copy(), _JSON + _BLANK
        for number, piece in enumerate(chunks):
            chunk = piece if number else self._first(task_id, piece)
            mac.update(chunk)
            write_all(fd, chunk if number else start + chunk)
        _overwrite(fd, len(_JSON), mac.hexdigest())

    def _first(self, task_id: str, data: bytes, moment_us: int | None = None) -> bytes:
        """Return what a file begins with, from the end of its signature on."""
        if moment_us is None:
            moment_us = self._clock.now_us()
        added = f'","id":"{task_id}","signed":{moment_us / 1e6:.6f},'.encode()
        if data.find(b"\n") + len(added) > MAX_HEADER - len(_JSON) - _DIGITS:
            raise _too_large()
        return added + data[1:]

    def sign_again(self, task: TaskFile, head: bytes, fd: int) -> None:
        """Write a signed task with another header, and the same body.

        Args:
            task: Its header must have been read.
            head: The new header, without ``sig``.
            fd: A new file, which nobody else sees.

        Raises:
            KeyFileError: There is no key to sign with.
            UsageError: It is not signed, so that nobody vouches for the body; or with a
                signature the new header is too large.
            OSError: From the file system.
        """
        start, end = _start_of(task.data), task.header.body_offset
        if start is None:
            raise UsageError(_unsigned(task.data))
        old, at = self._begin(start), len(start) + _DIGITS
        for mac in old:
            mac.update(task.data[at:end])
        form = _JSON if head.startswith(b"{") else _LINES
        new, added = self._current()[0].begun[form].copy(), b'",' + head[1:]
        if form is _LINES:
            added = b"\n" + head
            if b"\nsig=" in added:
                raise UsageError("sig: is made here, and cannot be edited")
        if len(added) + at > MAX_HEADER:
            raise _too_large()
        new.update(added)
        write_all(fd, form + _BLANK + added)
        while piece := os.pread(task.fd, _PIECE, end):
            for mac in (new, *old):
                mac.update(piece)
            write_all(fd, piece)
            end += len(piece)
        if not _is_one_of(old, task.data[len(start) : at]):
            raise UsageError(WRONG)
        _overwrite(fd, len(form), new.hexdigest())

    # -- verifying --------------------------------------------------------------

    def check(self, task: TaskFile) -> str | None:
        """Return what is wrong with the signature of a file; None if it is good.

        Then the task's bytes are a copy that nobody can change any more: those that
        were verified. A large file is copied to where temporary files are.

        Raises:
            KeyFileError: There is no key.
            OSError: From the file system; it says nothing about the task.
        """
        keys = self._keys
        problem = self._check(task)
        if problem is WRONG and (self._has_changed() or self._keys is not keys):
            problem = self._check(task)
        return problem

    def _check(self, task: TaskFile) -> str | None:
        if task.size <= len(task.data):
            problem = self._judge(task.data)
            task.sealed = problem is None
            return problem
        if (problem := _cannot_be(task)) is not None:
            return problem
        # Not copied before it is known to be worth that.
        if not self._is_good(task.fd, task.size) or not self._copy(task):
            return WRONG
        return None

    def check_here(self, task: TaskFile) -> str | None:
        """Do as ``check`` for somebody who needs the header only, and soon.

        The header must have been read. No copy is made.
        """
        if task.size <= len(task.data):
            return self._judge(task.data)
        if (problem := _cannot_be(task)) is not None:
            return problem
        if task.size > IN_LOOP_MAX:
            return f"takes more than {IN_LOOP_MAX} bytes, so that nobody verifies it"
        good = self._is_good(task.fd, task.size, begins=task.data)
        return None if good else WRONG

    def _judge(self, data: bytes) -> str | None:
        start = _start_of(data)
        if start is None:
            return _unsigned(data)
        end = len(start) + _DIGITS
        given, rest = data[len(start) : end], data[end:]
        for key in self._current():
            mac = key.begun[start].copy()
            mac.update(rest)
            if compare_digest(mac.hexdigest().encode(), given):
                return None
        return WRONG

    def _begin(self, start: bytes) -> list[HMAC]:
        return [key.begun[start].copy() for key in self._current()]

    def _is_good(
        self, fd: int, size: int, *, begins: bytes = b"", copy: int | None = None
    ) -> bool:
        """Tell whether the first bytes of a file have a good signature.

        Args:
            begins: What they must begin with: it was read before.
            copy: Where to write them.
        """
        macs: list[HMAC] = []
        given, at = b"", 0
        while at < size and (piece := os.pread(fd, min(_PIECE, size - at), at)):
            if copy is not None:
                write_all(copy, piece)
            if at:
                rest = piece
            else:
                start = _start_of(piece)
                if start is None or not piece.startswith(begins[:_PIECE]):
                    return False
                end = len(start) + _DIGITS
                macs, given = self._begin(start), piece[len(start) : end]
                rest = piece[end:]
            for mac in macs:
                mac.update(rest)
            at += len(piece)
        return at == size and _is_one_of(macs, given)

    def _copy(self, task: TaskFile) -> bool:
        """Have a task's bytes be a copy; tell whether that has a good signature."""
        import tempfile  # noqa: PLC0415 (slow to load, and seldom needed)

        with tempfile.TemporaryFile(buffering=0) as file:
            if not self._is_good(task.fd, task.size, copy=file.fileno()):
                return False  # somebody has changed it just now
            copy = os.dup(file.fileno())
        os.close(task.fd)
        task.fd = copy
        task.data = os.pread(copy, CHUNK, 0)
        return True


def disagreement(header: Header, name: Name) -> str | None:
    """Return where a signed header and a file's name differ, which must not.

    The id of a batch is another matter: see ``batch``.
    """
    if header.task != name.task:
        return f"is signed for the task {show(header.task)}, and its name says another"
    if name.task != BATCH and header.id not in (None, name.id):
        return f"is signed with the id {header.id}, and its name says another"
    return None


def _start_of(data: bytes) -> bytes | None:
    """Return what stands before the digits of a signature; None if there is none."""
    if data[:8] == _JSON:
        start = _JSON
    elif data[:4] == _LINES:
        start = _LINES
    else:
        return None
    return start if len(data) >= len(start) + _DIGITS else None


def _too_large() -> UsageError:
    return UsageError(
        f"header is larger than {MAX_HEADER} bytes with its signature: put what is"
        " large into the body"
    )


def is_signed(data: bytes) -> bool:
    """Tell whether a file that begins so has a signature, good or not."""
    return _start_of(data) is not None


def takes_long(task: TaskFile) -> bool:
    """Tell whether to verify a file takes longer than a moment."""
    return task.size > LARGE and is_signed(task.data)


def describe(signer: Signer | None, task: TaskFile, name: Name | None) -> str | None:
    """Return what can be said of a task's signature; None if it is not signed.

    Args:
        name: What its file is called; None for what is no name of a task.

    Raises:
        OSError: From the file system.
    """
    if not is_signed(task.data):
        return None
    try:
        if signer is None:
            return "not verified: no key here"
        problem = signer.check_here(task)
        if problem is None and name is not None:
            problem = disagreement(task.header, name)
        return problem or "yes"
    except KeyFileError as error:
        return f"not verified: {error}"


def _unsigned(data: bytes) -> str:
    if data.startswith(_PACKET):
        return f"{UNSIGNED}, which a uWSGI packet cannot be"
    return UNSIGNED


def _cannot_be(task: TaskFile) -> str | None:
    """Return why a large file is not worth to be read; None if it is."""
    if _start_of(task.data) is None:
        return _unsigned(task.data)
    if task.size > HOLES_MAX * 512 * os.fstat(task.fd).st_blocks:
        return "is nothing but a hole, whose signature nobody verifies"
    return None


def _is_one_of(macs: list[HMAC], given: bytes) -> bool:
    return any(compare_digest(mac.hexdigest().encode(), given) for mac in macs)


def _overwrite(fd: int, at: int, digits: str) -> None:
    if os.pwrite(fd, digits.encode(), at) != _DIGITS:
        raise OSError(errno.EIO, "cannot write the signature")


def signer_here() -> Signer | None:
    """Return what signs in this process; None if ``$SPOOLER_KEY_FILE`` names nothing.

    Touches nothing: the file is read when something is signed.
    """
    path = os.environ.get(KEY_FILE)
    return Signer(os.path.abspath(path)) if path else None


def write(
    signer: Signer | None, fd: int, task_id: str, chunks: Iterable[bytes]
) -> None:
    """Write a task file, signed if somebody signs here: see ``Signer.write``."""
    if signer is not None:
        signer.write(fd, task_id, chunks)
        return
    for chunk in chunks:
        write_all(fd, chunk)
