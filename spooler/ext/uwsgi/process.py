"""The functions of ``uwsgi`` about processes, as far as they have a meaning here.

Where uWSGI counts its web workers, there are none, as in one that has only spoolers.
"""

import logging
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from ...clock import CLOCK
from . import spooling
from .state import STATE

_PR_SET_NAME: Final = 15

log = logging.getLogger(__name__)


def reload() -> bool | None:
    """Have ``spoold`` import the modules anew; return None if there is none."""
    return _tell_daemon(signal.SIGHUP)


def stop() -> bool | None:
    """Have ``spoold`` drain and stop; return None if there is none."""
    return _tell_daemon(signal.SIGTERM)


def _tell_daemon(number: signal.Signals) -> bool | None:
    pid = STATE.daemon or spooling.masterpid()
    if pid == os.getpid():
        return None
    try:
        os.kill(pid, number)
    except OSError as error:
        log.warning("cannot send signal %d to spoold, pid %d: %s", number, pid, error)
        return None
    return True


def mem() -> tuple[int, int]:
    """Return how much memory this process has: resident and virtual bytes."""
    with open("/proc/self/statm", "rb") as file:
        size, resident, *_ = map(int, file.read().split())
    page = os.sysconf("SC_PAGE_SIZE")
    return resident * page, size * page


def micros() -> int:
    """Return the time in µs since the epoch."""
    return CLOCK.now_us()


def setprocname(name: str, /) -> None:
    """Name this process, as ``ps -o comm`` shows it."""
    from ctypes import CDLL  # noqa: PLC0415 (few need it)

    CDLL(None).prctl(_PR_SET_NAME, os.fsencode(name)[:15])


def ready() -> bool | None:
    """Return True once the workers have been started, else None."""
    return True if STATE.is_worker else None


def extract(path: str, /) -> bytes | None:
    """Return what is in a file; None if it cannot be read."""
    try:
        with open(path.removeprefix("file://"), "rb") as file:
            return file.read()
    except OSError as error:
        log.warning("extract: %s", error)
        return None


def embedded_data(name: str, /) -> bytes:
    """Raise ``ValueError``: nothing is embedded here."""
    raise ValueError(f"unable to find symbol {name}")


def alarm(name: str, text: str, /) -> None:
    """Write an alarm to the log."""
    log.warning("alarm %s: %s", name, text)


def set_warning_message(text: str, /) -> bool:
    """Write a warning to the log."""
    log.warning("%s", text)
    return True


def accepting(value: int = 1, /) -> None:
    """Do nothing: no requests are accepted here."""


def total_requests() -> int:
    """Return 0: no requests are served here."""
    return 0


def logsize() -> int:
    """Return 0: uWSGI's own log is not there."""
    return 0


def workers() -> tuple[dict[str, Any], ...]:
    """Return an empty tuple: there are no web workers here."""
    return ()


def rpc_list() -> tuple[bytes, ...]:
    """Return an empty tuple: nobody can call a function here."""
    return ()


def in_farm(name: str | None = None, /) -> bool | None:
    """Return None: there are no farms here."""
    return None


PROCESS: Final[dict[str, Callable[..., Any]]] = {
    each.__name__: each
    for each in (
        reload,
        stop,
        mem,
        micros,
        setprocname,
        ready,
        extract,
        embedded_data,
        alarm,
        set_warning_message,
        accepting,
        total_requests,
        logsize,
        workers,
        rpc_list,
        in_farm,
    )
}
"""What ``uwsgi`` has of this."""
