"""Two moves on one task at the same time: one is stopped between two system calls.

While it is stopped the other one is made from beginning to end; then the first goes
on, or is dead. What comes of it must be what comes of the two moves one after the
other, in one of the two orders. For all pairs of moves, at every call.
"""

import fcntl
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

from spooler.clock import CLOCK
from spooler.codec import encode
from spooler.ending import Ending, Endings
from spooler.errors import NotFoundError, UsageError
from spooler.options import Follower, IfExists, RunOptions
from spooler.retry import RetryPolicy
from spooler.spooldir import SpoolDir, control, editing, keys, recovery, repair
from spooler.spooldir.claims import Claims
from spooler.spooldir.dropped import Dropped
from spooler.spooldir.recovery import ProcessLock, recover, remove_folder, sweep
from spooler.spooldir.repair import Found
from spooler.task import Claim, Name, Outcome, State, Verdict, minute_of
from tests.helpers import FakeClock, real_clock, tree

ID: Final = "8c1f42d09ab3e617"
SOME: Final = 5
"""At how many calls a move is stopped where not all are tried."""

OWNERS: Final = frozenset({os.getuid()})
KEY: Final = keys.key_path("t", "k")
PURE: Final = frozenset({"fsdecode", "fsencode", "fspath", "geteuid", "urandom"})
LATE: Final = 50 * 86_400.0
NOW_US: Final = real_clock().now_us() + 12 * 3600 * 10**6
"""The same in all plays, and so late that what has no task is old enough to be swept,
however long all tests take; not so late that somebody's hidden files are."""

PATIENCE: Final = (30.0, 0.05)
"""Seconds to wait for a lock: who is stopped meanwhile, and who waits for him."""


class Killed(BaseException):
    """This actor is dead."""


class Stopping:
    """An ``os`` that stops whoever calls it before one of its calls.

    Args:
        at: The number of the call, from 1.
        meanwhile: What is done while he is stopped.
        fatal: He is dead then: nothing that he calls has any effect.
    """

    def __init__(
        self, at: int, meanwhile: Callable[[], object], *, fatal: bool
    ) -> None:
        self.calls: list[str] = []
        self._at = at
        self._meanwhile = meanwhile
        self._fatal = fatal
        self._inside = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if not isinstance(real, BuiltinFunctionType | FunctionType) or name in PURE:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._inside:
                self._count(name)
            return real(*args, **kwargs)

        return call

    def _count(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self._at:
            self._inside = True
            self._meanwhile()
            self._inside = False
        if self._fatal and len(self.calls) >= self._at and name != "close":
            raise Killed


class Impatient:
    """An ``fcntl`` that does not wait, since whoever has the lock is stopped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)

    def flock(self, fd: int, how: int) -> None:
        fcntl.flock(fd, how if how == fcntl.LOCK_UN else how | fcntl.LOCK_NB)


@contextmanager
def patched(stopping: Stopping, clock: FakeClock) -> Iterator[None]:
    """Have all of spooldir use this ``os``, and nobody really wait."""

    class Event:
        def wait(self, seconds: float) -> None:
            clock.seconds += seconds

    prefix = "spooler.spooldir."
    found = [m for name, m in sys.modules.items() if name.startswith(prefix)]
    modules = [vars(module) for module in found if vars(module).get("os") is os]
    for module in modules:
        module["os"] = stopping
    vars(editing)["fcntl"] = Impatient()
    real, vars(keys)["Event"] = vars(keys)["Event"], Event
    vars(CLOCK)["monotonic"] = clock.monotonic
    before = keys.LOCK_TIMEOUT, keys.ADOPT_TIMEOUT
    keys.LOCK_TIMEOUT = keys.ADOPT_TIMEOUT = PATIENCE[0]
    try:
        yield
    finally:
        for module in modules:
            module["os"] = os
        vars(editing)["fcntl"] = fcntl
        vars(keys)["Event"] = real
        vars(CLOCK).pop("monotonic")
        keys.LOCK_TIMEOUT, keys.ADOPT_TIMEOUT = before


Act = Callable[[], object]
"""A move whose task was found already."""


class Scene:
    """A spool with one task, and those who may move it.

    Args:
        state: Where the task is: ``waiting``, ``later``, ``held``, ``failed``,
            ``running``, ``orphaned`` (its worker is dead) or ``dropped``.
        keyed: It has a uniqueness key.
    """

    def __init__(self, state: str, *, keyed: bool) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="spool-pairs-"))
        self.clock = FakeClock(NOW_US)
        self.now_us = NOW_US
        self.puts = 0
        vars(CLOCK)["now_us"] = self.clock.now_us
        self.spool = SpoolDir(self.root)
        self.spool.create()
        self.other = SpoolDir(self.root)
        self.locks: dict[str, ProcessLock] = {}
        self.claims: dict[str, Claims] = {}
        self.key = "k" if keyed else None
        self.name = Name(self.now_us - 5 * 60_000_000, 5, 2, ID, "t")
        self.data = self._data()
        self.found: Found | None = None
        self.claim: Claim | None = None
        self.file = ""
        for worker in ("w1", "w2", "w3"):
            self.locks[worker] = lock = ProcessLock(self.spool, worker)
            assert lock.acquire()
            self.claims[worker] = Claims(self.spool, worker, OWNERS, self.clock)
        self._begin(state)

    def _data(self) -> bytes:
        then = Follower("after", {"n": 1}, at="+1h")
        options = RunOptions(then=(then,), on_failure=(then, Follower("sad")))
        at = f"{self.name.due_us // 10**6}.{self.name.due_us % 10**6:06d}"
        head = encode(
            "t", b"{}", at=at, priority=5, id=ID, key=self.key, options=options
        )
        return head + b"body"

    def _begin(self, state: str) -> None:
        name, spool = self.name, self.spool
        if state == "dropped":
            self.file = "by hand"
            (self.root / "5" / self.file).write_bytes(self.data)
            return
        first = name.but(attempt=0)
        if self.key is None:
            spool.put(first, [self.data], durable=False)
        else:
            keys.put(spool, first, [self.data], self.key, durable=False)
        path = f"{name.folder}/{name}"
        os.rename(self.root / first.folder / str(first), self.root / path)
        if state in ("running", "orphaned"):
            worker = "w1" if state == "running" else "w3"
            self.claim = self.claims[worker].claim(path)
            assert self.claim is not None
            path = f"running/{worker}/{name}"
            if state == "orphaned":
                self.end(worker)
        elif state in ("held", "failed"):
            os.rename(self.root / path, self.root / state / str(name))
            path = f"{state}/{name}"
            if state == "failed":
                (self.root / f"{path}.why").write_text('{"v":1}\n')
        word = "running" if state == "orphaned" else state
        self.found = Found(State(word), path, name)

    def end(self, worker: str) -> None:
        """Have a worker die."""
        os.close(self.claims.pop(worker)._fd)
        self.locks.pop(worker).release()

    def close(self) -> None:
        vars(CLOCK).pop("now_us")
        for worker in list(self.locks):
            self.end(worker)
        self.spool.close()
        self.other.close()
        shutil.rmtree(self.root)


def _operate(move: Callable[..., object], *more: object) -> Callable[[Scene], Act]:
    return lambda scene: lambda: move(scene.spool, scene.found, *more)


def _claim(worker: str) -> Callable[[Scene], Act]:
    def act(scene: Scene) -> object:
        assert scene.found is not None
        claim = scene.claims[worker].claim(scene.found.path)
        if claim is None:
            raise NotFoundError(ID, "somebody was first")
        return None

    return lambda scene: lambda: act(scene)


def _settle(verdict: Verdict) -> Callable[[Scene], Act]:
    def begin(scene: Scene) -> Act:
        assert scene.claim is not None
        endings = Endings(scene.claims["w1"], RetryPolicy(max_attempts=0, jitter=0.0))
        after = 60.0 if verdict in (Verdict.RETRY, Verdict.AGAIN) else None
        outcome = Outcome(verdict, "E: it broke", "exception", after=after)
        then = Follower("after", {"n": 1}, at="+1h")
        options = RunOptions(then=(then,), on_failure=(then, Follower("sad")))
        ending = Ending(None, scene.claim, outcome, None, options, scene.now_us)

        def act() -> None:
            endings.conclude(ending)
            assert not endings.refused, "it was refused"

        return act

    return begin


def _edit(scene: Scene) -> Act:
    found = scene.found
    assert found is not None
    file = repair.read(scene.spool, found)
    head = encode("t", b'{"edited":1}', id=ID, key=scene.key)

    def act() -> None:
        try:
            editing.replace(scene.spool, found, file, head, scene.name.but(priority=3))
        finally:
            with suppress(Killed):
                file.close()

    return act


def _put(policy: IfExists) -> Callable[[Scene], Act]:
    def begin(scene: Scene) -> Act:
        scene.puts += 1
        new_id = f"{scene.puts:016x}"
        name = Name(scene.now_us + scene.puts, 5, 0, new_id, "t")
        at = f"{name.due_us // 10**6}.{name.due_us % 10**6:06d}"
        data = encode("t", b'{"new":1}', at=at, priority=5, id=new_id, key="k")

        def act() -> None:
            there = keys.put(scene.other, name, [data], "k", policy, durable=False)
            if there is not None:
                raise NotFoundError(there.id, "it has the key")

        return act

    return begin


def _put_again(scene: Scene) -> Act:
    data = b'{"task":"t","args":{"again":1}}\n'
    return lambda: scene.other.put(scene.name, [data], durable=False)


def _recover(due: bool) -> Callable[[Scene], Act]:
    def act(scene: Scene) -> None:
        lost = Outcome(Verdict.FAIL, "its worker died", "crash")
        spool = SpoolDir(scene.root)
        try:
            recover(
                spool,
                "w3",
                lambda name: scene.now_us + 60 * 10**6 if due else None,
                lost,
                owners=OWNERS,
                clock=scene.clock,
            )
        finally:
            with suppress(Killed):
                spool.close()

    return lambda scene: lambda: act(scene)


def _adopt(scene: Scene) -> Act:
    dropped = Dropped(scene.other, OWNERS, scene.clock)
    return lambda: dropped.adopt("5", scene.file, finished=True)


def _by_hand(target: str) -> Callable[[Scene], Act]:
    """Move it as ``mv -n`` does, into a folder from which it is adopted at once."""

    def begin(scene: Scene) -> Act:
        path = scene.found.path if scene.found else f"5/{scene.file}"
        file = path.rpartition("/")[2]
        dropped = Dropped(scene.other, OWNERS, scene.clock)

        def act() -> None:
            os.rename(scene.root / path, scene.root / target / file)
            dropped.adopt(target, file, finished=True)

        return act

    return begin


def _tidy(scene: Scene) -> Act:
    def act() -> None:
        sweep(scene.other, real_clock())
        keys.sweep(scene.other, scene.clock)
        folder = f"5/{minute_of(scene.name.due_us)}"
        remove_folder(scene.other, folder, FakeClock(scene.now_us))

    return act


def _cancel(scene: Scene) -> Act:
    def act() -> None:
        if not control.cancel(scene.other, ID):
            raise NotFoundError(ID, "cannot be cancelled")

    return act


_ANY: Final[dict[str, Callable[[Scene], Act]]] = {
    "put": _put("skip"),
    "replace": _put("replace"),
    "tidy": _tidy,
    "by hand": _by_hand("0"),
}
_NOT_BEGUN: Final[dict[str, Callable[[Scene], Act]]] = {
    "now": _operate(control.now),
    "priority": _operate(control.reprioritise, 1),
    "edit": _edit,
    "fail": _operate(repair.fail),
    "rm": _operate(repair.remove),
    "cancel": _cancel,
}
MOVES: Final[dict[str, dict[str, Callable[[Scene], Act]]]] = {
    "waiting": {
        **_ANY,
        **_NOT_BEGUN,
        "claim": _claim("w1"),
        "claim too": _claim("w2"),
        "hold": _operate(control.hold),
        "put again": _put_again,
    },
    "held": {**_ANY, **_NOT_BEGUN, "release": _operate(control.release)},
    "failed": {**_ANY, "kick": _operate(repair.kick), "rm": _operate(repair.remove)},
    "running": {
        **_ANY,
        **{each.value: _settle(each) for each in Verdict},
    },
    "orphaned": {**_ANY, "recover": _recover(True), "give up": _recover(False)},
    "dropped": {**_ANY, "adopt": _adopt},
}
"""By state, what may be done to a task in it."""

TWO_STEPS: Final = frozenset({"edit", "by hand"})
"""Moves that others may come between: first the content, then the place; or first the
move of a file, then its adoption. The task must be there once, with its bytes."""

REMOVES: Final = frozenset({"rm", "cancel", "replace", "ack"})


@dataclass
class Result:
    """What has come of two moves.

    Attributes:
        files: What is in the spool; for a key, where the task is.
        ends: How each move ended, in one word.
        calls: How many system calls the first one made.
        task: How many files the task has.
    """

    files: dict[str, str] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    task: int = 0


def _do(act: Act) -> str:
    try:
        act()
    except (NotFoundError, FileExistsError, FileNotFoundError, UsageError):
        return "refused"
    except (BlockingIOError, TimeoutError):
        return "busy"
    except Killed:
        return "killed"
    return "done"


def play(
    state: str,
    first: str,
    second: str | None,
    at: int,
    *,
    keyed: bool = True,
    fatal: bool = False,
) -> Result:
    """Make two moves; the first is stopped before its call number ``at``.

    Args:
        second: None for none.
        at: 0 if the second comes first; so is a number above all that the first does,
            if it comes last.
        fatal: The first never goes on; then do what a supervisor does.
    """
    scene = Scene(state, keyed=keyed)
    result = Result()
    try:
        begin = MOVES[state][first](scene)
        other = None if second is None else MOVES[state][second](scene)

        def meanwhile() -> None:
            if other is not None and "second" not in result.ends:
                keys.LOCK_TIMEOUT = keys.ADOPT_TIMEOUT = PATIENCE[1]
                result.ends["second"] = _do(other)
                keys.LOCK_TIMEOUT = keys.ADOPT_TIMEOUT = PATIENCE[0]

        stopping = Stopping(at, meanwhile, fatal=fatal)
        with patched(stopping, scene.clock):
            if at == 0:
                stopping._inside = True
                meanwhile()
                stopping._inside = False
            result.ends["first"] = _do(begin)
            stopping._inside = True
            meanwhile()
        result.calls = len(stopping.calls)
        if fatal:
            _supervise(scene)
        _adopt_all(scene)
        _look(scene, result)
    finally:
        scene.close()
    return result


def _supervise(scene: Scene) -> None:
    """Do what is done about the dead, and remove what is left over, much later."""
    for worker in list(scene.locks):
        scene.end(worker)
    lost = Outcome(Verdict.FAIL, "its worker died", "crash")
    spool = SpoolDir(scene.root)
    for worker in recovery.processes(spool):
        assert recover(spool, worker, lambda name: name.due_us, lost) is not None
    late = FakeClock(scene.now_us + int(LATE * 1e6))
    sweep(spool, late)
    for priority in spool.priorities():
        for minute in spool.minutes(priority):
            remove_folder(spool, f"{priority}/{minute}", late)
    spool.close()


def _adopt_all(scene: Scene) -> None:
    """Look again at what somebody was busy with, as a supervisor does."""
    dropped = Dropped(scene.spool, OWNERS, scene.clock)
    for folder in ("0", "5"):
        for file in sorted(os.listdir(scene.root / folder)):
            if (scene.root / folder / file).is_file() and not file.startswith("."):
                dropped.adopt(folder, file, finished=True)


def _look(scene: Scene, result: Result) -> None:
    inodes: dict[int, str] = {}
    files = tree(scene.spool)
    for path in sorted(files, key=lambda path: path.startswith("keys/")):
        status = os.stat(scene.root / path)
        data = files[path]
        if path.endswith(".attempts"):
            continue  # for people: may tell of a run whose end was not the last word
        if path.endswith(".why"):
            result.files[path] = "-"
        elif path.startswith("keys/"):
            there = inodes.get(status.st_ino, "gone")
            result.files[path] = f"key of {there}"
        else:
            inodes[status.st_ino] = path
            kind = {scene.data: "the task"}.get(data, repr(data))
            result.files[path] = kind
            result.task += data == scene.data or b'"edited"' in data


def problems(
    state: str,
    first: str,
    second: str,
    *,
    keyed: bool,
    fatal: bool,
    chance: random.Random | None = None,
) -> Iterator[tuple[int, str]]:
    """Make a pair of moves, stopped at each call; yield what is wrong, and where.

    Args:
        chance: Stop only at some of them, chosen by it; None for all.
    """
    before = play(state, first, second, 0, keyed=keyed)
    after = play(state, first, second, 10**9, keyed=keyed)
    alone = play(state, first, None, 10**9, keyed=keyed)
    calls = [*range(1, after.calls + 2)]
    if chance is not None:
        calls = sorted(chance.sample(calls, min(SOME, len(calls))))
    for at in calls:
        result = play(state, first, second, at, keyed=keyed, fatal=fatal)
        if fatal or first in TWO_STEPS:
            problem = _once(state, result, {first, second})
        else:
            problem = _as_one_after_the_other(result, before, after, alone)
        if problem:
            yield at, problem


def _as_one_after_the_other(
    result: Result, before: Result, after: Result, alone: Result
) -> str:
    if result.task > 1:
        return f"the task is there twice: {result.files}"
    if any(
        (each.files, each.ends) == (result.files, result.ends)
        for each in (before, after)
    ):
        return ""
    # Who was stopped had it: whoever came meanwhile could do nothing.
    if result.ends["second"] != "done" and result.files == alone.files:
        return ""
    return (
        f"{result.ends} {result.files}\n   before {before.ends} {before.files}"
        f"\n   after {after.ends} {after.files}"
    )


def _once(state: str, result: Result, moves: set[str]) -> str:
    hidden = [path for path in result.files if "/." in path]
    if hidden:
        return f"left over: {hidden}"
    if result.task > 1:
        return f"the task is there twice: {result.files}"
    # What was dropped is removed if another task has its key.
    removes = REMOVES | {"put"} if state == "dropped" else REMOVES
    if result.task < 1 and not moves & removes:
        return f"the task is gone: {result.ends} {result.files}"
    return ""


def pairs() -> list[tuple[str, str, str]]:
    """Return all states and pairs of moves."""
    return [
        (state, first, second)
        for state, moves in MOVES.items()
        for first in moves
        for second in moves
    ]
