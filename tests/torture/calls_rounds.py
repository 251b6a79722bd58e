"""The rounds of ``calls``: a daemon, a producer, and one call that ends badly.

Runs in a process of its own with ``calls.c`` preloaded. The daemon is a fork of it that
calls the command's ``main``: so a round takes a fraction of a second. No process of a
round outlives it.
"""

import ctypes
import errno
import importlib
import json
import mmap
import os
import random
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, NoReturn

from spooler import Spooler, SpoolerError, SpoolUncertain
from spooler.cli import spoold
from spooler.errors import EXIT_FAILED, EXIT_SETTINGS
from spooler.execution import Execution
from spooler.run import Run
from spooler.spooldir import SpoolDir, control, recovery, repair, results
from spooler.spooldir.claims import Claims
from spooler.task import Name, Outcome, State

from ..helpers import real_clock, tree
from .daemons import slowness

PIDS: Final = 4096
BEFORE, AFTER, FAIL, SHORT = 1, 2, 3, 4
CHANGES, READS = 1, 2
FOREVER: Final = 1 << 60

CODES: Final = (
    errno.ENOSPC,
    errno.EIO,
    errno.EACCES,
    errno.EMFILE,
    errno.ESTALE,
    errno.EINTR,
    errno.EDQUOT,
)
LASTING: Final = 0.4
"""Seconds for which a condition lasts, if it does."""

PATIENCE: Final = 20.0
"""Seconds after which what has not happened never will."""

WORKERS: Final = 2
_STOPS: Final = {EXIT_FAILED, EXIT_SETTINGS}
"""What a daemon may end with that cannot go on: it has said why."""

BURSTS: Final = 40

AT_LEAST: Final = 3
"""Rounds that are done on the slowest machine, too."""


class Control(ctypes.Structure):
    """What is shared with ``calls.c``, in the same order."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("first", ctypes.c_int64),
        ("last", ctypes.c_int64),
        ("kinds", ctypes.c_int32),
        ("mode", ctypes.c_int32),
        ("code", ctypes.c_int32),
        ("all", ctypes.c_int32),
        ("session", ctypes.c_int32),
        ("hits", ctypes.c_int32),
        ("dead", ctypes.c_int32),
        ("pid", ctypes.c_int32),
        ("pids_count", ctypes.c_int32),
        ("pids", ctypes.c_int32 * PIDS),
        ("what", ctypes.c_char * 256),
    )


@dataclass(frozen=True, slots=True)
class Point:
    """What is to happen.

    Attributes:
        first: To which call, from 1; 0 for none.
        count: To how many from there on; ``FOREVER`` for a while.
        everything: Everything is killed at once.
    """

    mode: int = 0
    first: int = 0
    count: int = 1
    code: int = 0
    everything: bool = False

    @property
    def kills(self) -> bool:
        """Whether somebody is killed."""
        return self.mode in (BEFORE, AFTER)

    def __str__(self) -> str:
        if self.kills:
            how = "before" if self.mode == BEFORE else "after"
            return f"{'all' if self.everything else 'one'} killed {how} {self.first}"
        what = errno.errorcode[self.code] if self.mode == FAIL else "short"
        long = "for a while" if self.count == FOREVER else f"{self.count} times"
        return f"{what} from {self.first} on, {long}"


class Broken(Exception):  # noqa: N818 (it is a finding)
    """A promise was broken; the text says which."""


# Most run once. With one, `shaky`, that is two attempts.
ONCE: Final = (0, 1, 3, 4, 5, 7, 8, 9, 10, 11, 12, 20, 21, 70, 71, 72, 73, 103, 104)
LINES: Final = (70, 71, 72, 73)
SHAKY: Final = 2
KEYED: Final = 6
HOPELESS: Final = 3
KEPT: Final = 5
WORDS: Final = ("refused", "maybe", "put")
"""What is said of a put; of two with the same number the last of these."""


class Round:
    """One spool, from its making to its last check.

    Args:
        root: Where all is that is counted.
        log: What the daemon logs.
    """

    def __init__(
        self, root: Path, log: Path, state: Path, library: ctypes.CDLL
    ) -> None:
        self.root = root
        self.spool = root / "spool"
        self.log = log
        self.ids: dict[int, str] = {}
        self._state = state
        self._library = library
        self._children: dict[int, str] = {}
        self.status: dict[str, int] = {}
        self.plant = ""
        """What is wrong on purpose with the daemon."""
        self.below = f"{root}/"
        """Where calls are counted: with the ledgers, for who is killed between."""
        with state.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.control = Control.from_buffer(self._map)

    # -- before -------------------------------------------------------------------

    def prepare(self) -> None:
        """Make a spool in which somebody has died, and somebody has dropped a file."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        self.log.write_bytes(b"")
        spool = SpoolDir(self.spool)
        spool.create()
        spooler = Spooler(self.spool, durability="fast")
        self.ids[20] = spooler.put("plain", {"n": 20}).id
        (path,) = [f"{folder}/{name}" for folder, name in spool.waiting()]
        held = Claims(spool, "worker-x", {os.getuid()})
        assert held.claim(path)
        os.close(held._fd)
        (self.spool / "workers/worker-x.lock").touch()
        (self.spool / "5/dropped").write_text("task=plain\nn:=21\n")
        spool.close()

    def arm(self, point: Point, *, kinds: int) -> None:
        """Count calls from now on, and have it happen."""
        control = self.control
        ctypes.memset(ctypes.addressof(control), 0, ctypes.sizeof(control))
        control.session = os.getsid(0)
        control.first, control.last = point.first, point.first + point.count - 1
        control.mode, control.code = point.mode, point.code
        control.all = point.everything
        control.kinds = kinds

    def disarm(self) -> None:
        """Have nothing happen from now on."""
        self.control.kinds = 0

    # -- processes ----------------------------------------------------------------

    def fork(self, name: str, act: Callable[[], int], *, counted: bool = True) -> None:
        """Do something in a process, with the log as its standard error."""
        pid = os.fork()
        if pid:
            self._children[pid] = name
            return
        code = 70
        try:
            with self.log.open("ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            if counted:
                state, below = os.fsencode(self._state), os.fsencode(self.below)
                assert self._library.calls_enable(state, below) == 0
            code = act()
        except BaseException:  # noqa: BLE001 (nothing may leave this process)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def serve(self, *options: str) -> Callable[[], int]:
        """Return what a daemon does."""

        def act() -> int:
            PLANTS[self.plant]()
            os.chdir(self.root)
            command = ["--dir", str(self.spool), "--import", "called"]
            command += ["--workers", str(WORKERS), "--frequency", "0.5", *options]
            try:
                spoold.main(command)
            except SystemExit as end:
                return end.code if isinstance(end.code, int) else 1
            return 0

        return act

    def reap(self) -> None:
        """Take those that have ended."""
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            name = self._children.pop(pid, "")
            self.status[name] = os.waitstatus_to_exitcode(status)

    def runs(self, name: str) -> bool:
        """Tell whether one of them lives."""
        self.reap()
        return name in self._children.values()

    def tell(self, name: str, number: int) -> None:
        """Send a signal."""
        for pid, each in self._children.items():
            if each == name:
                os.kill(pid, number)

    def living(self) -> list[int]:
        """Return those who took part, but for this process and those it has forked."""
        own = os.getsid(0)
        found = []
        for pid in self.control.pids[: self.control.pids_count]:
            with suppress(OSError):
                if os.getsid(pid) == own and _is_alive(pid):
                    found.append(pid)
        return found

    def end(self) -> None:
        """Kill what is left of it."""
        for pid in (*self._children, *self.living()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = monotonic() + 5
        while (self._children or self.living()) and monotonic() < deadline:
            self.reap()
            _pause()

    # -- the producer -------------------------------------------------------------

    def produce(self) -> int:
        """Put one task of each kind; note what was put and what was refused."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        acks = os.open(self.root / "acks", flags, 0o600)
        spooler = Spooler(self.spool)

        def put(n: int, task: str = "plain", **options: object) -> Callable[[], object]:
            return lambda: spooler.put(task, {"n": n}, **options)  # type: ignore[arg-type] # of many kinds

        follow = {n: spooler.call("plain", {"n": n}) for n in (103, 104)}
        lines = [spooler.call("plain", {"n": n}) for n in LINES]
        moves: tuple[tuple[int, Callable[[], object]], ...] = (
            (0, put(0)),
            (1, put(1, durability="fast")),
            (2, put(2, "shaky")),
            (3, put(3, "hopeless", on_failure=follow[103])),
            (4, put(4, then=follow[104], priority=4711)),
            (5, put(5, "kept")),
            (6, put(6, key="k")),
            (6, put(6, key="k", if_exists="replace")),
            (7, put(7, body=b"x" * 300_000)),
            (LINES[0], lambda: spooler.spool_many(lines)),
            (8, put(8, "limited")),
            (9, put(9, "limited", key="l")),
            (10, lambda: self._hurry(spooler)),
            (11, self._drop),
            (12, lambda: self._hold(spooler)),
        )
        for n, move in moves:
            try:
                move()
            except SpoolUncertain:
                word = "maybe"
            except (OSError, SpoolerError) as error:
                word = "refused" if n not in (10, 12) else "maybe"
                print(f"put {n}: {error!r}", file=sys.stderr, flush=True)
            else:
                word = "put"
            _say(acks, f"{n} {word}\n")
        _say(acks, "end\n")
        return 0

    def _hurry(self, spooler: Spooler) -> None:
        handle = spooler.put("plain", {"n": 10}, at="+1h")
        spool = SpoolDir(self.spool)
        control.now(spool, repair.find(spool, handle.id))

    def _hold(self, spooler: Spooler) -> None:
        handle = spooler.put("plain", {"n": 12}, at="+1h")
        spool = SpoolDir(self.spool)
        control.hold(spool, repair.find(spool, handle.id))
        control.now(spool, repair.find(spool, handle.id))
        control.release(spool, repair.find(spool, handle.id))

    def _drop(self) -> None:
        path = self.spool / "tmp/mine"
        path.write_text("task=plain\nn:=11\n")
        path.rename(self.spool / "3/mine")

    # -- what was seen ------------------------------------------------------------

    def ran(self) -> Counter[int]:
        """Return how often each has run."""
        try:
            text = (self.root / "ran").read_text()
        except FileNotFoundError:
            return Counter()
        return Counter(int(line.split()[0]) for line in text.splitlines() if line)

    def said(self) -> dict[int, str]:
        """Return what was said of each put."""
        try:
            lines = (self.root / "acks").read_text().splitlines()
        except FileNotFoundError:
            return {}
        found: dict[int, str] = {}
        for line in lines:
            n, _, word = line.partition(" ")
            if word and WORDS.index(word) >= WORDS.index(found.get(int(n), word)):
                found[int(n)] = word
        return found

    def is_empty(self) -> bool:
        """Tell whether nothing waits that is due soon, and nothing runs."""
        for _ in range(2):  # since a retry goes from the one to the other
            for folder in (self.spool / "running").iterdir():
                with suppress(FileNotFoundError):
                    if any(Name.parse(each.name) for each in folder.iterdir()):
                        return False
            if self._waits():
                return False
        return True

    def _waits(self) -> bool:
        now_us = real_clock().now_us()
        for priority in self.spool.iterdir():
            if not priority.name.isdigit():
                continue
            with suppress(FileNotFoundError):
                for each in priority.iterdir():
                    if not each.is_dir():
                        return True
                    for task in os.listdir(each):
                        name = Name.parse(task)
                        if name and name.due_us < now_us + 60_000_000:
                            return True
        return False

    def wait(self, fact: Callable[[], object], what: str) -> None:
        """Wait for a fact."""
        began = monotonic()
        while not fact():
            if monotonic() - began > (patience := PATIENCE * min(3.0, slowness())):
                raise Broken(f"after {patience:.0f} s: {what}")
            _pause()

    # -- the whole of it ----------------------------------------------------------

    def run(self, point: Point) -> str:
        """Do a round; return which call was hit, or an empty string.

        Raises:
            Broken: A promise was broken.
        """
        self.prepare()
        self.status.clear()
        self.below = f"{self.root if point.kills else self.spool}/"
        if self.plant:
            self.below = f"{self.root}/ran"  # where it is found at once
        kinds = CHANGES if point.kills or point.mode == SHORT else CHANGES | READS
        self.arm(point, kinds=kinds)
        try:
            self.fork("daemon", self.serve())
            self.fork("producer", self.produce)
            self._let_it_happen(point)
            crashed = self._bring_to_an_end(point)
            what = (
                self.control.what.decode(errors="replace") if self.control.hits else ""
            )
            self._check(point, crashed=crashed)
        finally:
            self.disarm()
            self.end()
        return what.replace(f"{self.root}/", "")

    def _let_it_happen(self, point: Point) -> None:
        if point.count == FOREVER:
            self.wait(
                lambda: self.control.hits or not self.runs("daemon") or self._rests(),
                "nothing happens",
            )
            until = monotonic() + LASTING
            self.wait(lambda: monotonic() > until, "time stands still")
            self.disarm()
        self.wait(
            lambda: (
                self.control.dead
                or not self.runs("producer")
                or not self.runs("daemon")
            ),
            "a put hangs",
        )

    def _rests(self) -> bool:
        return not self.runs("producer") and self.is_empty()

    def _bring_to_an_end(self, point: Point) -> bool:
        """Wait until all is done; return whether anybody died of it."""
        if not self.control.dead:
            self.wait(lambda: not self.runs("producer"), "a put hangs")
            try:
                self.wait(lambda: not self.runs("daemon") or self.is_empty(), "")
            except Broken as late:
                left = [each.path for each in repair.ls(SpoolDir(self.spool), *State)]
                raise Broken(f"{late}it does not go on: {left}") from None
        if self.runs("daemon") and not self.control.dead:
            self.tell("daemon", signal.SIGTERM)
        self.wait(lambda: not self.runs("daemon"), "the daemon does not end")
        self.wait(lambda: not self.runs("producer"), "the producer does not end")
        self.wait(lambda: not self.living(), "a process outlives its daemon")
        self.reap()
        self._check_log(point)
        self.disarm()
        for _ in range(BURSTS):
            if self.is_empty() and not os.listdir(self.spool / "workers"):
                break
            self.fork("burst", self.serve("--burst"), counted=False)
            self.wait(lambda: not self.runs("burst"), "a burst does not end")
            if self.status["burst"] != 0:
                raise Broken(f"the next spoold ended with {self.status['burst']}")
        return point.kills and bool(self.control.hits)

    def _check_log(self, point: Point) -> None:
        code = self.status.get("daemon", 0)
        text = self.log.read_text(errors="replace")
        if "Traceback" in text:
            raise Broken(f"a traceback, and the daemon ended with {code}")
        good = {0}
        if self.control.hits:
            good |= {-signal.SIGKILL, EXIT_FAILED} if point.kills else _STOPS
        if code not in good:
            raise Broken(f"the daemon ended with {code}")

    def _check(self, point: Point, *, crashed: bool) -> None:
        ran, said = self.ran(), self.said()
        self._check_runs(ran, said, most=self._most(point) if crashed else 0)
        spool = SpoolDir(self.spool)
        left = [each.path for each in repair.ls(spool, *State)]
        hopeless = [path for path in left if path.endswith(".hopeless")]
        far = [p for p in left if p[0].isdigit() and p.endswith((".plain", ".hourly"))]
        allowed = set(hopeless)
        if said.get(10) != "put" or said.get(12) != "put":
            allowed |= {*far, *(path for path in left if path.startswith("held/"))}
        if others := set(left) - allowed:
            raise Broken(f"left: {sorted(others)}")
        if ran[HOPELESS] and len(hopeless) != 1:
            raise Broken(f"given up, and not in failed/: {left}")
        if any(not path.startswith("failed/") for path in hopeless):
            raise Broken(f"not in failed/: {hopeless}")
        if ran[KEPT]:
            (done,) = spool.names("done")
            record = results.read(spool, done)
            if record is None or record.value() != KEPT:
                raise Broken(f"no result: {record}")
        clock = real_clock()
        clock.advance(100 * 24 * 3600)
        recovery.sweep(spool, clock)
        recovery.sweep(spool, clock)
        spool.close()
        ours = ["failed/", "done/", "timers/", ".reserve/", "keys/", ".room"]
        ours += [f"logs/{path.split('.')[-2]}." for path in hopeless]
        half = [
            path
            for path in tree(spool)
            if not path.startswith(tuple(ours)) and path not in allowed
        ]
        if half := [path for path in half if not _in_minute(path)]:
            raise Broken(f"left over for ever: {half}")

    def _most(self, point: Point) -> int:
        """Return how many runs a kill may repeat at most: one for each worker."""
        return WORKERS

    def _check_runs(
        self, ran: Counter[int], said: dict[int, str], *, most: int
    ) -> None:
        put = {n for n, word in said.items() if word == "put"}
        if LINES[0] in put:
            put.update(LINES)
        lost = [n for n in (*sorted(put), 20, 21) if not ran[n]]
        if lost:
            raise Broken(f"acknowledged and never run: {lost}")
        for parent, child in ((3, 103), (4, 104)):
            if bool(ran[parent]) != bool(ran[child]):
                raise Broken(f"{parent} ran {ran[parent]} times, {child} {ran[child]}")
        refused = {n for n, word in said.items() if word == "refused"}
        if ghosts := [n for n in refused if ran[n]]:
            raise Broken(f"refused, and yet run: {ghosts}")
        expected = Counter(dict.fromkeys(ONCE, 1)) + Counter({SHAKY: 2, KEYED: 2})
        extra = ran - expected
        if not most:  # a line whose end could not be noted runs once more
            extra -= Counter(dict.fromkeys(LINES, 1))
        if extra.total() > most:
            raise Broken(f"run too often, at most {most} may be: {dict(extra)}")
        if ran[SHAKY] == 1:
            raise Broken("a retry is lost")


def _in_minute(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 3 and parts[0].isdigit() and parts[2].startswith(".")


def _say(fd: int, text: str) -> None:
    """Write a whole line to a ledger, which may be hit like all else."""
    deadline = monotonic() + PATIENCE
    data = text.encode()
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError:
            if monotonic() > deadline:
                raise
            _pause()


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _pause() -> None:
    signal.sigtimedwait([], 0.003)


# -- wrong on purpose ---------------------------------------------------------------


def _ack_first() -> None:
    """Have workers remove a task before they run it."""
    real = Execution.call

    def call(self: Execution, run: Run, *args: Any, **kwargs: Any) -> Outcome:
        os.unlink(run.claim.file, dir_fd=self.claims._fd)
        return real(self, run, *args, **kwargs)

    Execution.call = call  # type: ignore[method-assign] # on purpose


PLANTS: Final[dict[str, Callable[[], None]]] = {
    "": lambda: None,
    "ack first": _ack_first,
}


# -- many rounds --------------------------------------------------------------------


def points(chance: random.Random, calls: int, more: int) -> list[Point]:
    """Return all that can happen, in a random order.

    Args:
        calls: How many calls change something.
        more: How many there are with those that only read.
    """
    found = []
    for first in range(1, calls + 1):
        for mode in (BEFORE, AFTER):
            for everything in (False, True):
                found.append(Point(mode, first, everything=everything))
        found.append(Point(SHORT, first, chance.choice((1, 5))))
    for first in range(1, more + 1):
        for code in CODES:
            found.append(Point(FAIL, first, chance.choice((1, 1, 5)), code))
        found.append(Point(FAIL, first, FOREVER, chance.choice(CODES)))
    chance.shuffle(found)
    return found


def main(budget: float, seed: int, work: Path, only: str, plant: str) -> NoReturn:
    """Do rounds for so many seconds; print what was found as JSON."""
    began = monotonic()
    importlib.import_module("spooler.daemon")
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    library.calls_enable.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
    state = work / "state"
    state.write_bytes(b"\0" * (ctypes.sizeof(Control) + 64))
    root = work / "counted"
    os.environ["OUT"] = str(root)
    chance = random.Random(seed)
    each = Round(root, work / "log", state, library)
    most = 1 if plant else 20
    broken: list[str] = []
    hit: Counter[str] = Counter()
    each.run(Point(BEFORE))
    calls = each.control.count
    each.run(Point(FAIL))
    more = each.control.count
    each.plant = plant
    planned = [p for p in points(chance, calls, more) if not only or only in str(p)]
    done = 0
    for point in planned:
        late = done >= AT_LEAST and monotonic() - began > budget
        if late or len(broken) >= most:
            break
        done += 1
        kind = "kills" if point.kills else "faults"
        try:
            what = each.run(point)
            hit["stopped"] += each.status.get("daemon") in _STOPS
            hit[kind if what else "missed"] += 1
        except (Broken, OSError, AssertionError, ValueError) as error:
            what = each.control.what.decode(errors="replace")
            tail = each.log.read_text(errors="replace")[-1500:]
            said = " ".join(f"{n}:{word}" for n, word in each.said().items())
            broken.append(f"{point} ({what}): {error!r}\nacks {said}\n{tail}")
            hit[kind] += 1
    shutil.rmtree(root, ignore_errors=True)
    figures = {"calls": calls, "points": len(planned), "rounds": done, **hit}
    print(json.dumps({"figures": figures, "broken": broken}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
