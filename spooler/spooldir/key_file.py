"""The file that holds the keys for signing: read, and checked.

A key is never logged, and stands in no message. Specification: docs/format.md,
section 14.
"""

import os
import re
import stat
from typing import Final

from ..errors import KeyFileError

KEY_FILE: Final = "SPOOLER_KEY_FILE"
"""The environment variable that names the key file."""

KEY_DIGITS: Final = 64
"""Hex digits of a key, at least: as many bits as the signature has."""

_SIZE_MAX: Final = 64 * 1024
_KEY = re.compile(r"(?:[0-9a-fA-F]{2})+")

Stamp = tuple[int, ...]
"""What tells whether a file is another one than it was."""


def load(path: str) -> tuple[bytes, ...]:
    """Return the keys in a file, the one that signs first.

    Raises:
        KeyFileError: It cannot be read, is open to others, or holds something else.
    """
    try:
        # Links are followed: where secrets are mounted they are links.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(path, flags)
        try:
            _check(path, os.fstat(fd))
            text = os.read(fd, _SIZE_MAX + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise KeyFileError(path, error.strerror or str(error)) from None
    if len(text) > _SIZE_MAX:
        raise KeyFileError(path, f"is larger than {_SIZE_MAX} bytes")
    keys = []
    for number, line in enumerate(text.decode("ascii", "replace").splitlines(), 1):
        digits = line.strip()
        if not digits or digits.startswith("#"):
            continue
        if len(digits) < KEY_DIGITS or not _KEY.fullmatch(digits):
            raise KeyFileError(
                path, f"line {number}: a key is {KEY_DIGITS} hex digits or more, even"
            )
        keys.append(bytes.fromhex(digits))
    if not keys:
        raise KeyFileError(path, "there is no key in it")
    return tuple(keys)


def _check(path: str, status: os.stat_result) -> None:
    """Check that nobody but this user and root can know the key."""
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(path, "is not a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(
            path, f"belongs to uid {status.st_uid}: it must be yours, or root's"
        )
    mode = stat.S_IMODE(status.st_mode)
    shared = mode & 0o077
    if status.st_uid == status.st_gid == 0:  # as service managers hand secrets out
        shared &= ~0o040
    if shared:
        raise KeyFileError(
            path, f"others may use it (its mode is {mode:04o}): chmod 400 {path}"
        )


def stamp_of(path: str) -> Stamp | None:
    """Return what tells whether a file has changed; None if it cannot be found."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, (
        found.st_ctime_ns
    )  # fmt: skip
