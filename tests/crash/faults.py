"""An ``os`` that kills its process at a call, or has calls fail or write too little."""

import errno
import fcntl
import importlib
import os
import pkgutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

import filelock._unix
import pytest

from spooler import spooldir

PURE: Final = {
    "fsdecode",
    "fsencode",
    "fspath",
    "geteuid",
    "getpid",
    "memfd_create",
    "urandom",
}
WRITES: Final = {
    "write": 1,
    "pwrite": 1,
    "copy_file_range": 2,
    "sendfile": 3,
}
"""What writes, and which of its arguments is the data or how many bytes."""


def _modules() -> Iterator[ModuleType]:
    """Yield all that makes system calls for the spool, with the library of locks."""
    yield filelock._unix
    for each in pkgutil.iter_modules(spooldir.__path__, f"{spooldir.__name__}."):
        module = importlib.import_module(each.name)
        if vars(module).get("os") is os or vars(module).get("fcntl") is fcntl:
            yield module


MODULES: Final = tuple(_modules())


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a call.

    Attributes:
        code: The number of the error; 0 for one that writes less than it was asked to.
        lasts: All calls after it are wrong too, until somebody mends it.
    """

    code: int = 0
    lasts: bool = False

    def __str__(self) -> str:
        name = errno.errorcode[self.code] if self.code else "short"
        return f"{name}, lasting" if self.lasts else name


CODES: Final = (
    errno.ENOSPC,
    errno.EIO,
    errno.EACCES,
    errno.EMFILE,
    errno.ESTALE,
    errno.EDQUOT,
    errno.EINTR,
)
ONCE: Final = tuple(map(Fault, CODES))
LASTING: Final = tuple(
    Fault(code, lasts=True)
    for code in (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE)
)
SHORT: Final = (Fault(), Fault(lasts=True))
FAULTS: Final = [*ONCE, *LASTING, *SHORT]

every_fault = pytest.mark.parametrize("fault", FAULTS, ids=str)
"""Parametrize a test with all that can be wrong with a call."""

every_kill = pytest.mark.parametrize("how", ["before", "after"])


class FatalOS:
    """Counts calls; at the fatal one it kills the process, or has it go wrong.

    Args:
        fatal: The number of that call, from 1; 0 for none.
        how: ``before`` or ``after`` the call; or what is wrong with it.

    Attributes:
        calls: The names of the calls so far.
    """

    def __init__(
        self, fatal: int = 0, how: str | Fault = "before", real: ModuleType = os
    ) -> None:
        self.fatal = fatal
        self.how = how
        self.calls: list[str] = []
        self._real = real

    def of(self, real: ModuleType) -> "FatalOS":
        """Return one for another module, which counts with this one."""
        other = FatalOS(self.fatal, self.how, real)
        other.calls = self.calls
        return other

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not isinstance(real, BuiltinFunctionType | FunctionType) or name in PURE:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            number = len(self.calls)
            if isinstance(self.how, Fault):
                if number == self.fatal or (self.how.lasts and number > self.fatal > 0):
                    return _go_wrong(self.how, name, real, *args, **kwargs)
            elif number == self.fatal:
                _die(self.how, name, real, *args, **kwargs)
            return real(*args, **kwargs)

        return call


def _go_wrong(
    fault: Fault, name: str, real: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    if fault.code:
        if name in ("flock", "lockf") and (
            # No kernel refuses to unlock; and this one says that somebody has it.
            args[1] == fcntl.LOCK_UN or fault.code == errno.EACCES
        ):
            return real(*args, **kwargs)
        if name == "close":  # it is closed whatever it says
            real(*args, **kwargs)
        raise OSError(fault.code, f"{os.strerror(fault.code)} in {name}")
    return real(*_shortened(name, args), **kwargs)


def _shortened(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a call that writes, with half of the bytes."""
    place = WRITES.get(name)
    if place is None:
        return args
    what = args[place]
    if isinstance(what, int):
        less: Any = min(7, what)
    else:
        less = what[: (len(what) + 1) // 2]
    return (*args[:place], less, *args[place + 1 :])


def _die(
    how: str, name: str, real: Callable[..., Any], *args: Any, **kwargs: Any
) -> None:
    if how == "after":
        with suppress(OSError):
            real(*args, **kwargs)
    elif name in WRITES:
        with suppress(OSError):
            real(*_shortened(name, args), **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("survived SIGKILL")


@contextmanager
def patched(fatal: FatalOS) -> Iterator[None]:
    """Have all of spooldir use this ``os``, and an ``fcntl`` like it."""
    locks = fatal.of(fcntl)
    found = [module for module in MODULES if "os" in vars(module)]
    locking = [module for module in MODULES if "fcntl" in vars(module)]
    for module in found:
        vars(module)["os"] = fatal
    for module in locking:
        vars(module)["fcntl"] = locks
    try:
        yield
    finally:
        for module in found:
            vars(module)["os"] = os
        for module in locking:
            vars(module)["fcntl"] = fcntl


def calls_of(act: Callable[[], object]) -> list[str]:
    """Do something undisturbed and return what it called."""
    told = FatalOS()
    with patched(told):
        act()
    return told.calls


def points(calls: list[str], fault: Fault) -> list[int]:
    """Return the numbers of the calls that a fault can befall.

    One that lasts is tried at fewer of them where they are many: from a call on that
    is not reached by far more than the first hundred there is little new.
    """
    if not fault.code:
        writes = [n for n, call in enumerate(calls, 1) if call in WRITES]
        return writes[:1] if fault.lasts else writes
    every = list(range(1, len(calls) + 1))
    return every if not fault.lasts else every[:: max(1, len(every) // 40)]


def die(begin: Callable[[], Callable[[], object]], fatal: int, how: str) -> None:
    """Fork a process that dies at a call, and wait for that."""
    pid = os.fork()
    if pid == 0:
        try:
            act = begin()
            with patched(FatalOS(fatal, how)):
                act()
        except BaseException:  # noqa: BLE001 (nothing may leave this process)
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"ended with {status} before call {fatal}"
    assert os.WTERMSIG(status) == signal.SIGKILL
