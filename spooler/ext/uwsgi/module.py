"""The module ``uwsgi``: its names, made once for each process.

What deals with tasks is in ``spooling``, signals and locks in ``signals``, and what
only a web server has in ``missing``.
"""

import os
import socket
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from ...clock import CLOCK
from ...errors import CorruptError
from ...packet import decode_pairs
from . import spooling
from .client import send_message
from .missing import NAMES
from .signals import FUNCTIONS
from .state import STATE

VERSION: Final = "2.0.31"
"""The uWSGI whose names these are."""

UWSGI: Final = ModuleType("uwsgi", "What uWSGI gives to applications, by spooler.")
UWSGI.__spec__ = ModuleSpec("uwsgi", None)

_PARSED: Final = (b"\0", b"\x11")


def i_am_the_spooler() -> bool | None:
    """Return True in a worker of ``spoold``, else None."""
    return True if STATE.is_worker else None


def log(text: str) -> bool:
    """Write a line to stderr: to the log of the task that runs, if one does."""
    if not isinstance(text, str):
        raise TypeError(f"log() argument 1 must be str, not {type(text).__name__}")
    sys.stderr.write(f"{text}\n")
    return True


def parsefile(path: str) -> dict[bytes, bytes] | None:
    """Return the pairs of a packet in a file; None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        if data[:1] not in _PARSED:
            return None
        return decode_pairs(data)[0]
    except (OSError, CorruptError):
        return None


def _zero() -> int:
    """Return 0, as in every process that is neither."""
    return 0


def _options() -> dict[str, object]:
    """Return what is known as ``uwsgi.opt``: bytes by text, True for a switch."""
    if STATE.opt is not None:
        return {key: _bytes(value) for key, value in STATE.opt.items()}
    several = [os.fsencode(path) for path in STATE.spools]
    spoolers: object = several[0] if len(several) == 1 else several
    return {
        "master": True,
        "spooler": spoolers,
        # Monitoring libraries refuse to work without these two, which are true here.
        "enable-threads": True,
        "py-call-uwsgi-fork-hooks": True,
    }


def _bytes(value: object) -> object:
    if isinstance(value, str):
        return os.fsencode(value)
    return [_bytes(each) for each in value] if isinstance(value, list) else value


def fill(module: ModuleType) -> None:
    """Give the module its names; what an application has set there stays."""
    values: dict[str, Any] = {
        **NAMES,
        **FUNCTIONS,
        "SPOOL_OK": -2,
        "SPOOL_RETRY": -1,
        "SPOOL_IGNORE": 0,
        "version": VERSION.encode(),
        "version_info": (*map(int, VERSION.split(".")), 0, b""),
        "hostname": os.fsencode(socket.gethostname()),
        "spoolers": tuple(os.fsencode(path) for path in STATE.spools),
        "spooler_dir": os.fsencode(STATE.spools[0]),
        "opt": _options(),
        "numproc": 1,
        "cores": 1,
        "has_threads": 1,
        "loop": None,
        "unbit": None,
        "applications": None,
        "buffer_size": 4096,
        "is_a_reload": False,
        "sockets": [],
        "magic_table": {},
        "started_on": CLOCK.now_us() // 1_000_000,
        "spool": spooling.spool,
        "send_to_spooler": spooling.spool,
        "spooler_jobs": spooling.spooler_jobs,
        "spooler_get_task": spooling.spooler_get_task,
        "spooler_pid": spooling.spooler_pid,
        "spooler_pids": spooling.spooler_pids,
        "set_spooler_frequency": spooling.set_spooler_frequency,
        "masterpid": spooling.masterpid,
        "i_am_the_spooler": i_am_the_spooler,
        "worker_id": _zero,
        "mule_id": _zero,
        "log": log,
        "parsefile": parsefile,
        "send_message": send_message,
    }
    for name, value in values.items():
        setattr(module, name, value)
