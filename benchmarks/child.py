"""What is measured in a process of its own: producers, bare consumers, latencies.

``python -m benchmarks.child ROLE ARGUMENTS`` says that it is ready, waits for a line,
does its work and prints what it measured as JSON. A closed stdin ends it.
"""

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from spooler.task import DEFAULT_PRIORITY

from . import tasks

Result = dict[str, Any]
Work = Callable[[], Result]

IN_MOVED_TO: Final = 0x80
PAUSE: Final = 0.010
"""Seconds between two puts of which the latency is measured: all is idle again."""

MINUTE: Final = 60_000_000
"""The µs of a minute."""

LOOK: Final = 0.002
"""Seconds between two looks whether it has begun: later than it usually does."""

GIVE_UP: Final = 60.0
"""Seconds after which a task that has not begun is lost."""


def timed(count: int, work: Callable[[], object]) -> Result:
    """Run ``work``; return when it began and ended, and the count."""
    begin = time.monotonic_ns()
    work()
    return {"begin": begin, "end": time.monotonic_ns(), "count": count}


# -- the loop written by hand ---------------------------------------------------


def bare_put(folder: str, first: int, count: int, *, sync: bool) -> Work:
    """Write to a file in ``tmp/``, rename it into ``queue/``."""
    queue = os.open(f"{folder}/queue", os.O_RDONLY | os.O_DIRECTORY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

    def work() -> None:
        for n in range(first, first + count):
            name = f"{time.time_ns() // 1000}.{n}"
            data = b'{"task":"noop","args":{"n":%d,"note":"hello"}}\n' % n
            fd = os.open(f"{folder}/tmp/{name}", flags, 0o600)
            os.write(fd, data)
            if sync:
                os.fsync(fd)
            os.close(fd)
            os.rename(f"{folder}/tmp/{name}", f"{folder}/queue/{name}")
            if sync:
                os.fsync(queue)

    return lambda: timed(count, work)


def bare_take(folder: str) -> Work:
    """List, sort; then for each: rename, open, read, close, unlink."""
    mine = f"{folder}/running/{os.getpid()}"
    os.mkdir(mine)

    def work() -> Result:
        names = sorted(os.listdir(f"{folder}/queue"))
        count = 0
        begin = time.monotonic_ns()
        for name in names:
            path = f"{mine}/{name}"
            try:
                os.rename(f"{folder}/queue/{name}", path)
            except FileNotFoundError:
                continue
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.read(fd, 65536)
            os.close(fd)
            os.unlink(path)
            count += 1
        return {"begin": begin, "end": time.monotonic_ns(), "count": count}

    return work


def bare_watch(folder: str, count: int) -> Work:
    """Wait for inotify; rename what came, read it, and leave its mark."""
    libc = ctypes.CDLL(None, use_errno=True)
    inotify = libc.inotify_init1(os.O_CLOEXEC)
    queue = f"{folder}/queue"
    if inotify < 0 or libc.inotify_add_watch(inotify, queue.encode(), IN_MOVED_TO) < 0:
        raise OSError(ctypes.get_errno(), "no inotify")

    def work() -> Result:
        seen = 0
        while seen < count:
            os.read(inotify, 65536)
            for name in sorted(os.listdir(queue)):
                path = f"{folder}/running/{name}"
                os.rename(f"{queue}/{name}", path)
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                os.read(fd, 65536)
                os.close(fd)
                n = int(name.rpartition(".")[2])
                tasks.CELLS[2 * n + 1] = time.monotonic_ns()
                tasks.CELLS[2 * n] += 1
                os.unlink(path)
                seen += 1
        return {"count": seen}

    return work


# -- spooler --------------------------------------------------------------------


def put(first: int, count: int, *, sync: bool) -> Work:
    """Put tasks as an application does, into ``$SPOOL_DIR``."""
    task = tasks.noop_safe if sync else tasks.noop

    def work() -> None:
        for n in range(first, first + count):
            task.spool(n=n, note="hello")

    return lambda: timed(count, work)


def write(folder: str, first: int, count: int, begin: int, step: int) -> Work:
    """Write tasks of which task n is due at ``begin + n * step``, in µs.

    Straight into the minute folders, as in docs/format.md, and so in a third of the
    time: a crowd of which not the enqueueing is measured.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

    def work() -> None:
        last, path = -1, ""
        for n in range(first, first + count):
            due = begin + n * step
            if due // MINUTE != last:
                last = due // MINUTE
                minute = time.strftime("%Y%m%dT%H%M", time.gmtime(last * 60))
                path = f"{folder}/{DEFAULT_PRIORITY}/{minute}"
                os.makedirs(path, 0o700, exist_ok=True)
            name = f"{due:016d}.{DEFAULT_PRIORITY}.0.{n:016x}.noop"
            fd = os.open(f"{path}/{name}", flags, 0o600)
            os.write(fd, b'{"task":"noop","args":{"n":%d,"note":"hello"}}\n' % n)
            os.close(fd)

    return lambda: timed(count, work)


def put_until(first: int, count: int, stop: int) -> Work:
    """Put tasks until task ``stop`` has a mark, at most so many."""

    def work() -> Result:
        begin = time.monotonic_ns()
        n = first
        while n < first + count and not tasks.CELLS[2 * stop]:
            tasks.noop.spool(n=n, note="hello")
            n += 1
        return {"begin": begin, "end": time.monotonic_ns(), "count": n - first}

    return work


# -- latency --------------------------------------------------------------------


def latency(how: str, folder: str, count: int) -> Work:
    """Put one task after the other; tell how long each took to begin, in ns.

    Args:
        how: ``spool``: from before the call of ``.spool()``. ``drop``: from before the
            rename of a file into the spool. ``bare``: the same, into ``queue/``.
    """

    def by_spool(n: int) -> int:
        begin = time.monotonic_ns()
        tasks.noop.spool(n=n, note="hello")
        return begin

    def by_rename(n: int) -> int:
        source, target = f"{folder}/tmp/{n}", f"{folder}/{into}/drop.{n}"
        with open(source, "w", encoding="utf-8") as file:
            file.write(f"task=noop\nn={n}\nnote=hello\n")
        begin = time.monotonic_ns()
        os.rename(source, target)
        return begin

    into = "queue" if how == "bare" else "5"
    one = by_spool if how == "spool" else by_rename

    def work() -> Result:
        took = []
        for n in range(count):
            begin = one(n)
            while not tasks.CELLS[2 * n]:
                time.sleep(LOOK)
                if time.monotonic_ns() - begin > GIVE_UP * 1e9:
                    raise SystemExit(f"task {n} did not begin in {GIVE_UP} s")
            time.sleep(PAUSE)
            took.append(tasks.CELLS[2 * n + 1] - begin)
        return {"count": count, "took": took}

    return work


ROLES: Final[dict[str, Callable[..., Work]]] = {
    "bare_put": bare_put,
    "bare_take": bare_take,
    "bare_watch": bare_watch,
    "put": put,
    "put_until": put_until,
    "write": write,
    "latency": latency,
}


def main() -> None:
    """Be one of the roles."""
    work = ROLES[sys.argv[1]](**json.loads(sys.argv[2]))
    gc.collect()
    print("ready", flush=True)
    if sys.stdin.readline():
        print(json.dumps(work()), flush=True)


if __name__ == "__main__":
    main()
