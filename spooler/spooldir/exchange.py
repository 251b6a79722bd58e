"""Exchange the names of two files: a call of Linux that Python has no name for."""

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

_EXCHANGE: Final = 2
_CANNOT: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})

_libc: Final = ctypes.CDLL(None, use_errno=True)
_renameat2: Final[Callable[..., int] | None] = getattr(_libc, "renameat2", None)


def exchange(root: int, one: str, other: str) -> bool:
    """Give each of two files the name of the other one, in one step.

    Args:
        root: The directory from which both paths count.

    Returns:
        Whether that was done; False where the file system cannot.

    Raises:
        FileNotFoundError: One of them is gone, and nothing was done.
        OSError: From the file system; nothing was done.
    """
    if _renameat2 is None:  # a C library from before 2018
        return False
    paths = (root, os.fsencode(one), root, os.fsencode(other))
    if _renameat2(*paths, _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), one)
