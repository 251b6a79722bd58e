"""Signals, and what raises them: timers, cron lines and changes of files.

A signal's function runs in a worker of ``spoold``, whatever the target, once; as a task
``uwsgi.signal.<n>`` if it was raised by hand, and as a timer of the daemon's else. What
is added while modules are imported the daemon learns from them; what is added later, by
a task or by a web process, becomes a task that comes again: see ``later``.
"""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from operator import index
from typing import Final

import msgspec

from ... import putting
from ...clock import CLOCK
from ...entries import make_entry
from ...errors import SpoolerError, UsageError
from ...handle import spool_dir
from ...local_zone import local_zone, zone_of
from ...logs import escape
from ...putting import PutOptions
from ...registry import REGISTRY, Kind
from ...run import running
from ...schedule import MIN_INTERVAL, CronLine, Interval, Schedule, from_uwsgi
from ...spooldir.user_locks import UserLock
from . import later
from .handlers import HANDLERS, Handler, Registered, name_of, run
from .pairs import OWN
from .state import STATE

SIGNALS: Final = 256
TARGET_MAX: Final = 63
"""Bytes of a target's name, as in uWSGI."""

PATH_MAX: Final = 254
"""Bytes of the path of a file that is watched, as in uWSGI."""

_LOCKS: Final[dict[tuple[str, int], UserLock]] = {}
_SAID: Final[set[str]] = set()

log = logging.getLogger(__name__)


def _number(value: object) -> int:
    """Return a signal's number; as in uWSGI only its last byte counts."""
    return _whole(value) % SIGNALS


def _whole(value: object) -> int:
    if not hasattr(value, "__index__"):
        kind = type(value).__name__
        raise TypeError(f"{kind!r} object cannot be interpreted as an integer")
    return index(value)


def _text(value: object, function: str, position: int) -> str:
    if not isinstance(value, str):
        kind = type(value).__name__
        raise TypeError(f"{function}() argument {position} must be str, not {kind}")
    return value


def _warn_once(text: str) -> None:
    if text not in _SAID:
        _SAID.add(text)
        log.warning("%s", text)


# -- signals ------------------------------------------------------------------------


def register_signal(signum: int, kind: str, handler: Handler, /) -> None:
    """Register the function of a signal.

    Args:
        signum: 0 to 255.
        kind: The target. It runs in one worker of ``spoold``; a spool's path is that
            spool, and what uWSGI has besides (mules, all workers) is said in the log.

    Raises:
        ValueError: Another function has this signal, or the target is too long.
    """
    number, target = _number(signum), _text(kind, "register_signal", 2)
    known = HANDLERS.get(number)
    if known is not None and name_of(known.function) != name_of(handler):
        # As uWSGI's master refuses it, where the modules are imported too.
        theirs = name_of(known.function)
        raise ValueError(f"unable to register signal: {number} is that of {theirs}")
    spool = _spool_of(target)
    if spool is None and len(target.encode()) > TARGET_MAX:
        raise ValueError(f"unable to register signal: target {target:.80} is too long")
    if target.startswith(("mule", "farm", "workers", "active-workers")):
        _warn_once(f"signals for {target} run in one worker of spoold, and once")
    HANDLERS[number] = Registered(handler, spool)
    _add(f"{OWN}signal.{number}", number)
    later.register()


def _spool_of(target: str) -> str | None:
    path = os.path.realpath(target) if target.startswith("/") else None
    return path if path in STATE.spools else None


def signal_registered(signum: int, /) -> bool | None:
    """Return True if a signal has a function, else None."""
    return True if _number(signum) in HANDLERS else None


def signal(signum: int, remote: str | None = None, /) -> None:
    """Raise a signal: have its function run soon.

    Args:
        remote: The socket of a uWSGI, to raise it there.

    Raises:
        OSError: The other side does not answer; or from the file system.
        ValueError: The other side refuses it; or the spool does.
    """
    number = _number(signum)
    if remote is not None:
        _raise_there(number, _text(remote, "signal", 2))
        return
    known = HANDLERS.get(number)
    if known is None and STATE.is_worker:
        log.warning("signal %d: no function is registered for it", number)
        return
    to = None if known is None else name_of(known.function)
    spool = STATE.spools[0] if known is None or known.spool is None else known.spool
    options = PutOptions(spool=spool, durability="fast")
    try:
        putting.put(f"{OWN}signal.{number}", msgspec.json.encode({"to": to}), options)
    except SpoolerError as error:
        raise ValueError(f"unable to raise signal {number}: {error}") from error


_RAISE: Final = 110
"""Modifier 1 of a packet that raises a signal; its answer is modifier 2, 1 or 0."""


def _raise_there(number: int, remote: str) -> None:
    from ...sending import send  # noqa: PLC0415 (few need it)

    answer = send(remote, {}, modifier1=_RAISE, modifier2=number)
    if len(answer) < 4:
        raise OSError(f"unable to deliver signal {number} to node {remote}")
    if answer[3] != 1:
        raise ValueError(f"node {remote} rejected signal {number}")


def _add(
    task: str,
    number: int,
    schedule: Schedule | None = None,
    *,
    watches: str | None = None,
    weekday: int | None = None,
) -> None:
    """Register the task that runs a signal's function.

    Args:
        weekday: It does nothing if it was due on another day; 0 is Sunday.
    """

    def raise_signal(to: str | None = None) -> None:
        if weekday is None or weekday == _weekday(schedule):
            run(number, to)

    known = HANDLERS.get(number)
    spool = None if known is None else known.spool
    given = {"name": task, "retries": 0}
    entry = make_entry(
        Kind.TASK, raise_signal, given, spool=spool, schedule=schedule, overlap=False
    )
    REGISTRY.add(replace(entry, watches=watches))


def _weekday(schedule: Schedule | None) -> int:
    """Return the day on which the task that runs was due, where its cron line is."""
    found = running()
    due_us = CLOCK.now_us() if found is None else found.claim.name.due_us
    tz = schedule.tz if isinstance(schedule, CronLine) else "UTC"
    return datetime.fromtimestamp(due_us / 1e6, zone_of(tz)).isoweekday() % 7


# -- timers -------------------------------------------------------------------------


def add_timer(signum: int, seconds: int, /) -> None:
    """Raise a signal every so many seconds.

    Raises:
        ValueError: It cannot be put, where it becomes a task.
    """
    _add_timer(_number(signum), _whole(seconds))


def add_rb_timer(signum: int, seconds: int, iterations: int = 0, /) -> None:
    """Raise a signal every so many seconds.

    Args:
        iterations: How often; 0 for ever.

    Raises:
        ValueError: It cannot be put, where it becomes a task.
    """
    _add_timer(_number(signum), _whole(seconds), max(0, _whole(iterations)))


def add_ms_timer(signum: int, milliseconds: int, /) -> None:
    """Raise a signal every so many milliseconds, at least 100.

    Raises:
        ValueError: It cannot be put, where it becomes a task.
    """
    _add_timer(_number(signum), _whole(milliseconds) / 1000)


def _add_timer(number: int, seconds: float, times: int = 0) -> None:
    if seconds <= 0:
        log.warning("signal %d: a timer of %g seconds never runs", number, seconds)
        return
    if seconds < MIN_INTERVAL:
        _warn_once(f"timers of less than {MIN_INTERVAL:g} seconds run as often as that")
        seconds = MIN_INTERVAL
    if _left_to_uwsgi():
        return
    if not _is_declared():
        later.put_timer(number, seconds, times)
        return
    try:
        name = f"{OWN}timer.{number}.{Decimal(str(seconds)):f}"
        name += f".times{times}" if times else ""
        _add(name, number, Interval(float(seconds), times))
    except UsageError as error:
        raise ValueError(f"unable to add timer: {error}") from error


def add_cron(
    signum: int, minute: int, hour: int, day: int, month: int, week: int, /
) -> bool:
    """Raise a signal at the moments of five numbers, in local time.

    -1 is each, -5 every fifth; see ``schedule.from_uwsgi``.

    Raises:
        ValueError: No cron line means the same, or it cannot be put.
    """
    number = _number(signum)
    given = [_whole(value) for value in (minute, hour, day, month, week)]
    if _left_to_uwsgi():
        return True
    # Of a greater number than there are minutes 0 is the only multiple, as of 60.
    fields = [max(value, low) for value, low in zip(given, _LEAST, strict=True)]
    if fields[2] >= 0 and fields[4] >= 0:  # one of them is enough
        if not 1 <= fields[2] <= 31:
            fields[2] = -1
        elif fields[4] > 7:
            fields[4] = -1
    weekday = None
    if fields[2] < -1 and fields[4] >= 0:  # both must match: no cron line says that
        weekday, fields[4] = fields[4] % 7, -1
    is_declared = _is_declared()
    try:
        line = from_uwsgi(*fields, tz=local_zone())
        if STATE.daemon or not is_declared:
            _check(line)
    except UsageError as error:
        log.warning("signal %d: a cron line that never runs: %s", number, error)
        return True
    if is_declared:
        name = "_".join(str(value) for value in given)
        _add(f"{OWN}cron.{number}.{name}", number, line, weekday=weekday)
    elif weekday is None:
        later.put_cron(number, line)
    else:
        text = "unable to add cron: day and weekday, only while modules are imported"
        raise ValueError(text)
    return True


_LEAST: Final = (-60, -24, -32, -13, -7)
"""For each number what is the same as all that is less: the last two never match."""


def _check(line: CronLine) -> None:
    """Make sure that a cron line is ever due.

    Raises:
        UsageError: It is not.
    """
    from ...slots import check  # noqa: PLC0415 (it loads cronsim)

    check(line)


def add_file_monitor(signum: int, filename: str, /) -> None:
    """Raise a signal when a file changes, or something in a folder.

    Raises:
        ValueError: The path is too long, or no modules are being imported.
    """
    number, path = _number(signum), _text(filename, "add_file_monitor", 2)
    if len(os.fsencode(path)) > PATH_MAX:
        raise ValueError(f"unable to add file monitor: {path:.80} is too long")
    if _left_to_uwsgi():
        return
    if not _is_declared():
        text = "unable to add file monitor: only while modules are imported"
        raise ValueError(text)
    watched = os.path.abspath(path)
    count = sum(each.watches is not None for each in REGISTRY)
    same = [each.name for each in REGISTRY if each.watches == watched]
    mine = [name for name in same if name.startswith(f"{OWN}filemon.{number}.")]
    name = mine[0] if mine else f"{OWN}filemon.{number}.{count}"
    _add(name, number, watches=watched)


def _left_to_uwsgi() -> bool:
    """Tell whether a uWSGI beside us runs the timers of the application."""
    if STATE.files:
        _warn_once("timers, cron lines and file monitors are left to uWSGI")
    return STATE.files


def _is_declared() -> bool:
    """Tell whether this is said while modules are imported: so the daemon hears of it.

    In a process that is none of the daemon's, that is its own importing of the same
    modules, which must not start anything.
    """
    if STATE.daemon and not STATE.is_worker:
        return True
    frame = sys._getframe(1)
    ours = frame.f_globals["__name__"].rpartition(".")[0]
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__"), ours):
        frame = frame.f_back
    if frame.f_code.co_name == "<module>":
        return True
    back = frame.f_back
    while back is not None:
        if back.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        back = back.f_back
    return False


def _is_ours(module: object, package: str) -> bool:
    return module == "uwsgidecorators" or str(module).startswith(package)


# -- locks and limits ---------------------------------------------------------------


def _lock_of(number: object) -> UserLock:
    if STATE.is_worker:
        raise ValueError("The spooler cannot lock/unlock resources")
    which = _whole(number)
    if which < 0:
        raise ValueError("Invalid lock number")
    path = STATE.spools[0]
    lock = _LOCKS.get((path, which))
    if lock is None:
        made = UserLock(spool_dir(path), f"uwsgi.lock.{which}")
        lock = _LOCKS.setdefault((path, which), made)
    return lock


def lock(number: int = 0, /) -> None:
    """Take a lock that one thread of one process has at a time; wait for it.

    Raises:
        ValueError: This is a worker of ``spoold``; or there is no such lock.
        SpoolerError, OSError: The spool cannot be used.
    """
    _lock_of(number).acquire()


def unlock(number: int = 0, /) -> None:
    """Let go of a lock. Errors as for ``lock``."""
    _lock_of(number).release()


def is_locked(number: int = 0, /) -> bool:
    """Tell whether anybody has a lock. Errors as for ``lock``."""
    return _lock_of(number).is_held()


def set_user_harakiri(seconds: int, /) -> None:
    """Have this worker killed if the task runs for so many seconds more.

    That ends with the task. Where no task runs nobody is killed.

    Args:
        seconds: 0 to take it back.
    """
    limit = float(max(0, _whole(seconds)))
    found = running()
    if found is not None:
        found.limit(limit)
    elif limit:
        text = "set_user_harakiri: no task runs in process %d, so nothing kills it (%s)"
        log.debug(text, os.getpid(), escape(sys.argv[0] if sys.argv else ""))


FUNCTIONS: Final[dict[str, Callable[..., object]]] = {
    each.__name__: each
    for each in (
        register_signal,
        signal_registered,
        signal,
        add_timer,
        add_rb_timer,
        add_ms_timer,
        add_cron,
        add_file_monitor,
        lock,
        unlock,
        is_locked,
        set_user_harakiri,
    )
}
"""What ``uwsgi`` has of this."""
