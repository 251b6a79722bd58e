"""The functions of ``uwsgi`` that put tasks and look at them.

They take and return what uWSGI's do (docs/reference/uwsgi.md); what it loses, they
keep or refuse.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from operator import index
from typing import Any, Final

from ...clock import CLOCK
from ...codec import encode, is_moment, packet_priority, packet_task
from ...errors import CorruptError, PacketTooLargeError, SpoolerError, UsageError
from ...handle import spool_dir
from ...moments import parse_at
from ...packet import encode_large, encode_packet
from ...spooldir import SpoolDir
from ...spooldir.dated import put_dated
from ...spooldir.reading import open_task
from ...spooldir.recovery import is_alive, processes
from ...spooldir.reports import read_json
from ...spooldir.room import check_room
from ...spooldir.taking_over import take_over
from ...spooldir.uwsgi_files import REST, is_uwsgi_name
from ...task import Name
from .client import put_elsewhere
from .pairs import OWN, Variables, variables
from .state import DEFAULT_FREQUENCY, STATE

_SEEN: Final[set[str]] = set()
"""Directories that are spools, as far as is known here."""

_NO_DICT: Final = "The argument of spooler callable must be a dictionary"
_NO_BYTES: Final = "spooler callable dictionary must contains only bytes"


def spool(*args: Any, **kwargs: Any) -> bytes:
    """Put a task; return the path of its file. To unlink it takes the task back.

    Args:
        *args: A dict of bytes. ``body`` is taken out of it.
        **kwargs: Instead of the dict; as in uWSGI it cannot be, since names are text.

    Raises:
        ValueError: It cannot be put.
    """
    given: Any = args[0] if args else kwargs
    if not isinstance(given, dict) or not (args or kwargs):
        raise ValueError(_NO_DICT)
    body = given.get(b"body")
    if isinstance(body, bytes):
        del given[b"body"]
    else:
        body = b""
    pairs = dict(_bytes(given.items()))
    try:
        return os.fsencode(put(pairs, body))
    except (SpoolerError, OSError, ValueError, OverflowError) as error:
        raise ValueError(f"unable to spool job: {error}") from None


def _bytes(items: Iterable[tuple[object, object]]) -> Iterator[tuple[bytes, bytes]]:
    for key, value in items:
        if key == b"outbox" and isinstance(value, bool):  # ours, beside an address
            yield b"outbox", b"%d" % value
            continue
        number = hasattr(value, "__index__") and not hasattr(value, "__bytes__")
        if not isinstance(key, bytes) or isinstance(value, str) or number:
            raise ValueError(_NO_BYTES)
        try:
            yield key, bytes(value)  # type: ignore[call-overload]  # it tells by itself
        except (TypeError, ValueError):
            raise ValueError(_NO_BYTES) from None


def put(pairs: dict[bytes, bytes], body: bytes) -> str:
    """Put a task where its pairs say; return its path, or the address of a socket.

    Raises:
        SpoolerError, ValueError: Something in it cannot be.
        OSError: From the file system.
    """
    sent = put_elsewhere(pairs, body, STATE.spools[0])
    if sent is not None:
        return os.fsdecode(sent)
    path = _spool_of(pairs.get(b"spooler", b""))
    if not STATE.files:
        return put_into(path, pairs, body)
    from .files import write_file  # noqa: PLC0415 (beside a uWSGI only)

    priority, at = _priority(pairs), _at(pairs)
    number = None if priority is None else str(priority)
    return write_file(path, pairs, body, priority=number, at=at)


def put_into(path: str, pairs: Mapping[bytes, bytes], body: bytes) -> str:
    """Put a task into a spool; return its path.

    Raises:
        SpoolerError, ValueError: Something in it cannot be.
        OSError: From the file system.
    """
    priority, at = _priority(pairs), _at(pairs)
    _take_over(path)
    directory = spool_dir(path)
    task, now_us = packet_task(pairs), CLOCK.now_us()
    due_us = now_us if at is None else parse_at(at, now_us)
    rank = REST if priority is None else priority
    name = Name(due_us, rank, 0, os.urandom(8).hex(), task)
    chunks: tuple[bytes, ...] = ()
    if directory.signer is None:  # a packet has no place for a signature
        with suppress(PacketTooLargeError):
            chunks = (encode_packet(pairs), body)
    if not chunks:
        large = encode_large(pairs)
        head = encode(task, b"{}", at=at, priority=priority, pairs=len(large))
        chunks = (head, large, body)
    check_room(directory, now_us)
    return f"{path}/{put_dated(directory, name, chunks)}"


def _take_over(path: str) -> None:
    """Make a spool of a directory of uWSGI's, the first time that it is used here."""
    if path not in _SEEN:
        take_over(path)
        _SEEN.add(path)


def _priority(pairs: Mapping[bytes, bytes]) -> int | None:
    value = pairs.get(b"priority", b"")
    priority = packet_priority(value.decode("ascii", "replace"))
    if value and priority is None:  # uWSGI would write it, and never run it
        raise ValueError(f"priority {value!r:.40} is no number")
    return priority


def _at(pairs: Mapping[bytes, bytes]) -> float | None:
    """Return when a task is due; None for at once, as what is no number is in uWSGI."""
    text = pairs.get(b"at", b"").decode("ascii", "replace")
    return float(text) if is_moment(text) else None


def _spool_of(value: bytes) -> str:
    """Return the path of the spool that a task is for."""
    if not value:
        return STATE.spools[0]
    path = os.path.realpath(os.fsdecode(value))
    if path not in STATE.spools:
        there = ", ".join(STATE.spools)
        raise ValueError(f"there is no spooler {path}; there are: {there}")
    return path


# -- what is there ------------------------------------------------------------------


def spooler_jobs() -> list[bytes]:
    """Return the paths of the tasks in the first spool, those that run among them."""
    path = STATE.spools[0]
    spool = spool_dir(path)
    with suppress(UsageError, FileNotFoundError):
        return [os.fsencode(f"{path}/{file}") for file in _jobs(spool)]
    return []


def _jobs(spool: SpoolDir) -> Iterator[str]:
    for folder in [".", *map(str, spool.priorities())]:
        for name in spool.names(folder):
            if is_uwsgi_name(name):
                yield name if folder == "." else f"{folder}/{name}"
    running = [f"running/{worker}" for worker in spool.names("running")]
    found = [(folder, name) for folder in running for name in spool.names(folder)]
    for folder, file in (*spool.waiting(), *found):
        native = Name.parse(file)
        if native is not None and not native.task.startswith(OWN):
            yield f"{folder}/{file}"


def spooler_get_task(path: str | bytes) -> Variables | None:
    """Return what is in a task's file; None if it is gone, or runs elsewhere."""
    where = os.path.abspath(os.fsdecode(path))
    folder, _, file = where.rpartition("/")
    name = Name.parse(file)
    if "/running/" in where and not _runs_here(folder, file):
        return None
    try:
        task = open_task(where, None, dir_fd=0)  # which an absolute path does not need
        try:
            named = name.task if name else task.header.task
            return variables(task, named, where, STATE.manage())
        finally:
            task.close()
    except (OSError, CorruptError):
        return None


def _runs_here(folder: str, file: str) -> bool:
    current = STATE.current
    if current is None:
        return False
    return (folder.rpartition("/")[2], file) == (
        current.worker,
        current.path.rpartition("/")[2],
    )


def set_spooler_frequency(seconds: int) -> bool:
    """Say after how many seconds tasks run again that have asked for it."""
    STATE.frequency = float(max(0, index(seconds))) or DEFAULT_FREQUENCY
    return True


def spooler_pids() -> list[int]:
    """Return the pids of the workers of all spools here."""
    return [pid for path in STATE.spools for pid in _pids(path, "worker")]


def spooler_pid() -> int:
    """Return the pid of what serves the first spool: a worker here; 0 for nothing."""
    if STATE.is_worker:
        return os.getpid()
    return next(iter(_pids(STATE.spools[0], "worker")), 0)


def masterpid() -> int:
    """Return the pid of the daemon; of this process, if there is none."""
    if STATE.daemon:
        return STATE.daemon
    return next(iter(_pids(STATE.spools[0], "daemon")), os.getpid())


def _pids(path: str, kind: str) -> list[int]:
    """Return the pids of the living processes of a spool, as far as that is known."""
    spool, found = spool_dir(path), []
    with suppress(UsageError, OSError):
        for name in processes(spool):
            facts = read_json(spool, f"workers/{name}.json")
            pid = facts.get("pid")
            if facts.get("kind") == kind and isinstance(pid, int):
                found.append((pid, name))
        return sorted(pid for pid, name in found if is_alive(spool, name))
    return []
