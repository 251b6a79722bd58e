"""A machine that makes random moves in a spool and looks whether it is as it should be.

Several producers, adopters, workers and an operator, one move after the other. After
each move the real spool is compared with the model, file by file.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from spooler.clock import CLOCK
from spooler.codec import encode
from spooler.ending import Ending, Endings
from spooler.errors import NotFoundError, UsageError
from spooler.options import Follower, IfExists, RunOptions
from spooler.retry import RetryPolicy
from spooler.spooldir import (
    SpoolDir,
    control,
    editing,
    keys,
    pauses,
    repair,
    results,
    timers,
)
from spooler.spooldir.claims import Claims
from spooler.spooldir.dropped import Dropped
from spooler.spooldir.followers import follower_bytes, follower_name
from spooler.spooldir.quick import put_quickly
from spooler.spooldir.recovery import ProcessLock, recover, remove_folder, sweep
from spooler.spooldir.repair import Found
from spooler.status import count
from spooler.task import Claim, Name, Outcome, State, Verdict
from tests.helpers import FakeClock, open_files, real_clock, tree

from .world import NOT_BEGUN, Key, Task, World, pick

DAY_US: Final = 86_400 * 10**6
OWNERS: Final = frozenset({os.getuid()})
LOST: Final = Outcome(Verdict.FAIL, "its worker died", "crash")
TIMERS: Final = ("tick", "tock")

PICK: Final = st.integers(0, 30)
TWO: Final = st.integers(0, 1)
WORKERS: Final = st.sampled_from(["w1", "w2", "w3"])
PRIORITIES: Final = st.sampled_from([0, 5, 5, 12])
DELAYS: Final = st.sampled_from([-(10**9), 0, 1, 10**8, 90 * DAY_US])
DROPS: Final = st.sampled_from([".", "0", "5"])
KEYS: Final = st.sampled_from(["k1", "k2"])
POLICIES: Final = st.sampled_from(["skip", "raise", "replace"])
VERDICTS: Final = st.sampled_from(list(Verdict))
PAUSES: Final = st.sampled_from(["all", "priority.5", "task.t"])


class Machine(RuleBasedStateMachine):
    """A spool, the model of it, and those who make moves."""

    def __init__(self) -> None:
        super().__init__()
        self.before = open_files()
        self.root = Path(tempfile.mkdtemp(prefix="spool-model-"))
        self.clock = real_clock()
        self.clock.advance(7200)  # so that files are old enough to be swept
        vars(CLOCK)["now_us"] = self.clock.now_us
        self.producers = [SpoolDir(self.root), SpoolDir(self.root)]
        self.spool = SpoolDir(self.root)
        self.spool.create()
        self.producers[1]._tmpfile = False
        self.adopters = [
            Dropped(SpoolDir(self.root), OWNERS, self.clock) for _ in TIMERS
        ]
        self.world = World()
        self.workers: dict[str, tuple[ProcessLock, Endings]] = {}
        self.held: dict[str, list[tuple[Claim, Task]]] = {}
        self.number = 0
        self.used_timers = False

    def teardown(self) -> None:
        vars(CLOCK).pop("now_us")
        for worker in list(self.workers):
            self._kill(worker)
        for spool in (self.spool, *self.producers, *(a._spool for a in self.adopters)):
            spool.close()
        shutil.rmtree(self.root)
        left = {fd: what for fd, what in open_files().items() if fd not in self.before}
        assert not left, f"left open: {left}"

    # -- tasks ------------------------------------------------------------------

    def _name(self, delay_us: int, priority: int) -> Name:
        due_us = self.clock.now_us() + delay_us
        return Name(due_us, priority, 0, f"{self.number:016x}", "t")

    def _data(
        self, name: Name | None, options: RunOptions | None, key: str | None = None
    ) -> bytes:
        head = encode(
            "t",
            b'{"n":%d}' % self.number,
            at=None if key is None or name is None else _at(name.due_us),
            priority=None if name is None else name.priority,
            id=None if name is None else name.id,
            key=key,
            options=options,
        )
        return head + b"body %d" % self.number

    def _begin(self) -> None:
        """Let a moment pass, so that no two moves happen in the same one."""
        self.clock.advance(0.000_001)
        self.number += 1

    @rule(seconds=st.sampled_from([0.5, 61.0, 90_000.0, 35 * 86_400.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # -- producers --------------------------------------------------------------

    @initialize(number=st.integers(2, 6))
    def some_are_there(self, number: int) -> None:
        for each in range(number):
            self.put(each % 2, -(10**6), 5, quick=True, followers=True, keep=False)

    @rule(
        who=TWO,
        delay=DELAYS,
        priority=PRIORITIES,
        quick=st.booleans(),
        followers=st.booleans(),
        keep=st.booleans(),
    )
    def put(
        self,
        who: int,
        delay: int,
        priority: int,
        quick: bool,
        followers: bool,
        keep: bool,
    ) -> None:
        self._begin()
        options = RunOptions(keep_result=1000.0 if keep else None)
        if followers:
            after = Follower("f", {"n": self.number}, at="+5m", priority=0)
            sad = (Follower("f", {"sad": self.number}), after)
            options = RunOptions(
                keep_result=options.keep_result, then=(after,), on_failure=sad
            )
        name = self._name(delay, priority)
        data = self._data(None, options)
        if quick:
            put_quickly(self.producers[who], name, data)
        else:
            self.producers[who].put(name, [data[:9], data[9:]], durable=who == 0)
        self.world.new(name, data, options=options)

    @precondition(lambda self: self.world.all("waiting"))
    @rule(who=TWO, number=PICK)
    def put_the_same_name(self, who: int, number: int) -> None:
        task = pick(self.world.all("waiting"), number)
        if task is None or task.folder != task.known.folder or task.known != task.name:
            return
        try:
            self.producers[who].put(task.known, [b"{}"], durable=False)
        except FileExistsError:
            return
        raise AssertionError(f"{task.path} was overwritten")

    @rule(
        who=TWO,
        key=KEYS,
        policy=POLICIES,
        delay=DELAYS,
        unique_for=st.sampled_from([None, 30 * 86_400.0]),
    )
    def put_with_key(
        self,
        who: int,
        key: str,
        policy: IfExists,
        delay: int,
        unique_for: float | None,
    ) -> None:
        self._begin()
        name = self._name(delay, 5)
        options = RunOptions(unique_for=unique_for)
        data = self._data(name, options, key)
        real_us = real_clock().now_us()
        there = keys.put(self.producers[who], name, [data], key, policy, durable=False)
        until_us = real_us + int((unique_for or 0) * 1e6)
        task = Task(name.folder, str(name), name, data, key=key, options=options)
        self._took(task, policy, until_us, took=there is None)
        if there is None:
            self.world.put(task)
        else:
            owner = self.world.keys[keys.key_path("t", key)].task
            assert owner.name is None or there.id == owner.name.id

    def _took(self, task: Task, policy: IfExists, until_us: int, *, took: bool) -> None:
        now_us = self.clock.now_us()
        taken, removed = self.world.take(task, policy, until_us, now_us)
        assert taken is took, f"key {task.key}: {took}, and should be {taken}"
        if removed is not None:
            self.world.gone(removed)
            if removed.name is not None and removed.name.attempt:
                self.world.attempts.pop(removed.name.id, None)

    # -- adopters ---------------------------------------------------------------

    @rule(folder=DROPS, kind=st.sampled_from(["json", "lines", "key", "bad", "empty"]))
    def drop(self, folder: str, kind: str) -> None:
        self._begin()
        key = "k1" if kind == "key" else None
        data = {
            "json": self._data(None, None),
            "lines": b"task=t\nn=%d\nid=%016x\n\nbody" % (self.number, self.number),
            "key": b"task=t\nkey=k1\nid=%016x\n" % self.number,
            "bad": b"rubbish %d" % self.number,
            "empty": b"",
        }[kind]
        file = f"dropped {self.number}"
        Path(self.root, folder, file).write_bytes(data)
        good = kind not in ("bad", "empty")
        self.world.put(Task(folder, file, None, data, good=good, key=key))

    @precondition(lambda self: self.world.all("dropped"))
    @rule(who=TWO, number=PICK)
    def adopt(self, who: int, number: int) -> None:
        self._begin()
        task = pick(self.world.all("dropped"), number)
        if task is not None:
            self._adopt(who, task)

    def _adopt(self, who: int, task: Task) -> None:
        found = self.adopters[who].adopt(task.folder, task.file, finished=True)
        if not task.good:
            assert found is False
            self._rejected(task, task.file)
            return
        if task.name is None and task.key is not None:
            real_us = (
                Path(self.root, str(found)).stat().st_mtime_ns // 1000 if found else 0
            )
            self._took(task, "skip", real_us, took=found is not False)
            if found is False:
                self.world.gone(task)
                return
        assert isinstance(found, str), f"{task.path} was not adopted: {found}"
        name = Name.parse(found.rpartition("/")[2])
        assert name is not None
        folder, priority = task.folder.partition("/")[0], name.priority
        if task.name is None:
            assert (name.attempt, name.task) == (0, "t")
            assert priority == (5 if folder == "." else int(folder))
            task.name = name
        elif folder != ".":
            task.name = task.name.but(priority=int(folder))
        self.world.move(task, task.name)
        assert task.path == found

    def _rejected(self, task: Task, file: str) -> None:
        """Note that something is in ``corrupt/`` now."""
        known = {each.path for each in self.world.all("corrupt")}
        known |= {path.removesuffix(".why") for path in self.world.orphans}
        native = Name.parse(file)
        if native is not None and f"corrupt/{file}" not in known:
            task.folder, task.file = "corrupt", file
            return
        names = [n for n in os.listdir(self.root / "corrupt") if not n.endswith(".why")]
        (new,) = (n for n in names if f"corrupt/{n}" not in known)
        assert new.startswith(f"{file}.")
        task.folder, task.file = "corrupt", new

    @precondition(lambda self: self.world.tasks)
    @rule(number=PICK, folder=st.sampled_from([".", "0", "5", "minute"]))
    def move_by_hand(self, number: int, folder: str) -> None:
        self._begin()
        states = ("waiting", "held", "failed", "corrupt", "running", "dropped")
        task = pick(self.world.all(*states), number)
        if task is None:
            return
        if folder == "minute":
            if task.name is None or task.file != str(task.name) or not task.good:
                return
            folder = task.name.but(priority=7).folder
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        target = self.root / folder / task.file
        if target.exists():  # as `mv -n`
            return
        os.rename(self.root / task.path, target)
        if task.state in ("failed", "corrupt"):
            self.world.orphans.add(f"{task.path}.why")
        task.folder = folder
        self.world.orphans -= {f"{task.path}.why"}

    # -- workers ----------------------------------------------------------------

    @precondition(lambda self: self.world.all("waiting"))
    @rule(worker=WORKERS, number=PICK)
    def claim(self, worker: str, number: int) -> None:
        self._begin()
        task = pick(self.world.all("waiting"), number)
        if task is None or worker in self._dead():
            return
        if worker not in self.workers:
            lock = ProcessLock(SpoolDir(self.root), worker)
            assert lock.acquire()
            claims = Claims(self.spool, worker, OWNERS, self.clock)
            policy = RetryPolicy(max_attempts=0, jitter=0.0)
            self.workers[worker] = (lock, Endings(claims, policy))
            self.held[worker] = []
            self.world.locks.add(worker)
        if any(claim.file == task.file for claim, _ in self.held[worker]):
            return  # it has lost that one, and does not know it yet
        path = task.path
        claims = self.workers[worker][1].claims
        claim = claims.claim(path)
        assert claim is not None
        assert claims.claim(path) is None
        task.folder = f"running/{worker}"
        self.held[worker].append((claim, task))

    def _dead(self) -> list[str]:
        return sorted(self.world.locks - set(self.workers))

    @precondition(lambda self: any(self.held.values()))
    @rule(worker=WORKERS, number=PICK, verdict=VERDICTS, delay=DELAYS)
    def settle(self, worker: str, number: int, verdict: Verdict, delay: int) -> None:
        self._begin()
        if not self.held.get(worker):  # then another one that has something
            worker = min(name for name, found in self.held.items() if found)
        claim, task = self.held[worker].pop(number % len(self.held[worker]))
        endings = self.workers[worker][1]
        lost = task.path != f"running/{worker}/{claim.file}"
        after = max(0, delay) / 1e6 if verdict is not Verdict.ACK else None
        outcome = Outcome(verdict, "E: it broke", "exception", after=after, value=1)
        started_us = self.clock.now_us() - 10
        endings.conclude(Ending(None, claim, outcome, None, task.options, started_us))
        assert not endings.refused
        self._settled(task, claim, verdict, max(0, delay), lost=lost)

    def _settled(
        self, task: Task, claim: Claim, verdict: Verdict, delay: int, *, lost: bool
    ) -> None:
        world, name, now_us = self.world, claim.name, self.clock.now_us()
        if verdict in (Verdict.ACK, Verdict.FAIL) and task.options.keep_result:
            until_us = now_us + int(task.options.keep_result * 1e6)
            world.results[name.id] = (verdict is Verdict.ACK, until_us)
        if verdict is Verdict.RETRY:
            world.attempts[name.id] = world.attempts.get(name.id, 0) + 1
        if lost:
            return
        if verdict is Verdict.REJECT:
            self._rejected(task, claim.file)
            return
        if verdict is Verdict.ACK:
            world.gone(task)
        else:
            self._moved(task, name, verdict, now_us + delay)
        ended = verdict in (Verdict.ACK, Verdict.FAIL)
        if ended or verdict is Verdict.AGAIN:
            self._forget(name, fully=verdict is Verdict.FAIL)
        if ended:
            self._followed(
                task, name, "then" if verdict is Verdict.ACK else "on_failure"
            )

    def _moved(self, task: Task, name: Name, verdict: Verdict, due_us: int) -> None:
        match verdict:
            case Verdict.RETRY:
                name = name.but(due_us=due_us, attempt=name.attempt + 1)
            case Verdict.AGAIN:
                name = name.but(due_us=due_us, attempt=0)
            case Verdict.RELEASE:
                name = name.but(due_us=due_us)
            case Verdict.FAIL:
                name = name.but(attempt=name.attempt + 1)
        self.world.move(task, name, "failed" if verdict is Verdict.FAIL else None)

    def _forget(self, name: Name, *, fully: bool) -> None:
        """Note that the list of a task's attempts is removed, where it has one."""
        if name.attempt or fully:
            self.world.attempts.pop(name.id, None)

    def _followed(self, task: Task, name: Name, kind: str) -> None:
        followers = task.options.then if kind == "then" else task.options.on_failure
        for number, each in enumerate(followers or ()):
            now_us = self.clock.now_us()
            new = follower_name(name, each, number, kind, now_us)  # type: ignore[arg-type]
            if self.world.at(f"{new.folder}/{new}") is None:
                self.world.new(new, follower_bytes(each, name.id))

    @precondition(lambda self: self.workers)
    @rule(worker=WORKERS)
    def die(self, worker: str) -> None:
        if worker in self.workers:
            self._kill(worker)

    def _kill(self, worker: str) -> None:
        lock, endings = self.workers.pop(worker)
        os.close(endings.claims._fd)
        lock.release()
        lock._spool.close()
        del self.held[worker]

    @precondition(lambda self: self.workers)
    @rule(worker=WORKERS)
    def stop(self, worker: str) -> None:
        """End as a worker that was told to: it has nothing left."""
        if worker not in self.workers or self.held[worker]:
            return
        if any(task.folder == f"running/{worker}" for task in self.world.tasks):
            return
        lock, endings = self.workers.pop(worker)
        endings.claims.close()
        lock.remove()
        lock._spool.close()
        del self.held[worker]
        self.world.locks.discard(worker)

    @precondition(lambda self: self.world.locks)
    @rule(who=TWO, worker=WORKERS, give_up=st.booleans(), drained=st.booleans())
    def recover(self, who: int, worker: str, give_up: bool, drained: bool) -> None:
        self._begin()
        spool, outcome = self.adopters[who]._spool, LOST
        if drained:
            outcome = Outcome(Verdict.RELEASE)
        found = recover(
            spool,
            worker,
            lambda name: None if give_up else name.due_us + 7,
            outcome,
            owners=OWNERS,
            clock=self.clock,
        )
        if worker in self.workers:
            assert found is None, "a living worker was recovered"
            return
        assert found is not None
        for task in [t for t in self.world.tasks if t.folder == f"running/{worker}"]:
            self._recovered(task, give_up=give_up, drained=drained)
        self.world.locks.discard(worker)

    def _recovered(self, task: Task, *, give_up: bool, drained: bool) -> None:
        world, name = self.world, task.name
        if name is None:
            raise AssertionError(f"{task.path} was claimed")
        if drained:
            world.move(task, name)
            return
        name = name.but(attempt=name.attempt + 1)
        if not give_up:
            world.attempts[name.id] = world.attempts.get(name.id, 0) + 1
            world.move(task, name.but(due_us=name.due_us + 7))
            return
        world.move(task, name, "failed")
        world.attempts.pop(name.id, None)
        self._followed(task, name, "on_failure")

    # -- an operator ------------------------------------------------------------

    def _found(self, task: Task) -> Found:
        return Found(State(task.state), task.path, Name.parse(task.file))

    def _one(self, number: int, *states: str) -> Task | None:
        self._begin()
        return pick((t for t in self.world.all(*states) if t.name), number)

    @precondition(lambda self: self.world.all("waiting"))
    @rule(number=PICK)
    def hold(self, number: int) -> None:
        if task := self._one(number, "waiting"):
            path = control.hold(self.spool, self._found(task))
            self.world.move(task, task.known, "held")
            assert path == task.path

    @precondition(lambda self: self.world.all("held"))
    @rule(number=PICK)
    def release(self, number: int) -> None:
        if task := self._one(number, "held"):
            path = control.release(self.spool, self._found(task))
            self.world.move(task, task.known)
            assert path == task.path

    @precondition(lambda self: self.world.all(*NOT_BEGUN))
    @rule(number=PICK, priority=st.none() | PRIORITIES)
    def hurry(self, number: int, priority: int | None) -> None:
        task = self._one(number, *NOT_BEGUN)
        if task is None:
            return
        name, found = task.known, self._found(task)
        if priority is None:
            path = control.now(self.spool, found, self.clock)
            name = name.but(due_us=self.clock.now_us())
        else:
            path = control.reprioritise(self.spool, found, priority)
            name = name.but(priority=priority)
        self._renamed(task, name)
        assert path == task.path

    def _renamed(self, task: Task, name: Name) -> None:
        folder = "held" if task.state == "held" else None
        if task.path != f"{folder or name.folder}/{name}":
            self.world.move(task, name, folder)

    @precondition(lambda self: self.world.all(*NOT_BEGUN))
    @rule(number=PICK, delay=DELAYS)
    def edit(self, number: int, delay: int) -> None:
        task = self._one(number, *NOT_BEGUN)
        if task is None:
            return
        found = self._found(task)
        name = task.known.but(due_us=self.clock.now_us() + delay)
        head = encode("t", b'{"edited":%d}' % self.number, id=name.id, key=task.key)
        file = repair.read(self.spool, found)
        try:
            path = editing.replace(self.spool, found, file, head, name)
            data = head + file.body()
        finally:
            file.close()
        # By way of held/, where the name may be taken.
        if task.state == "waiting":
            self.world.move(task, task.known, "held")
            self.world.move(task, name)
        else:
            self._renamed(task, name)
        task.data, task.options = data, RunOptions()
        for key_path, key in self.world.keys.items():
            if key.task is task:
                self.world.keys[key_path] = Key(task, 0)
        assert path == task.path

    @precondition(lambda self: self.world.all("failed"))
    @rule(number=PICK)
    def kick(self, number: int) -> None:
        if task := self._one(number, "failed"):
            assert task.name is not None
            repair.kick(self.spool, self._found(task), self.clock)
            self.world.move(task, task.name.but(due_us=self.clock.now_us(), attempt=0))
            self.world.results.pop(task.name.id, None)

    @precondition(lambda self: self.world.all(*NOT_BEGUN))
    @rule(number=PICK)
    def fail(self, number: int) -> None:
        if task := self._one(number, *NOT_BEGUN):
            assert task.name is not None
            repair.fail(self.spool, self._found(task), self.clock)
            self.world.move(task, task.name, "failed")
            self.world.attempts.pop(task.name.id, None)

    @precondition(lambda self: self.world.all(*NOT_BEGUN, "failed", "corrupt"))
    @rule(number=PICK, by_id=st.booleans())
    def remove(self, number: int, by_id: bool) -> None:
        self._begin()
        task = pick(self.world.all(*NOT_BEGUN, "failed", "corrupt"), number)
        if task is None:
            return
        found = self._found(task)
        if by_id and self._is_only(task):
            found = repair.find(self.spool, found.id)
            assert found.path == task.path
        repair.remove(self.spool, found)
        self.world.gone(task)
        if found.name is not None:
            self.world.attempts.pop(found.name.id, None)
            self.world.results.pop(found.name.id, None)

    def _is_only(self, task: Task) -> bool:
        names = [each.name.id for each in self.world.tasks if each.name]
        return task.name is None or names.count(task.name.id) == 1

    @precondition(lambda self: self.world.all("running"))
    @rule(number=PICK)
    def refuse_to_remove_what_runs(self, number: int) -> None:
        task = self._one(number, "running")
        if task is not None and self._is_only(task):
            assert task.name is not None
            try:
                repair.remove(self.spool, repair.find(self.spool, task.name.id))
            except UsageError:
                return
            raise AssertionError("a running task was removed")

    @precondition(lambda self: self.world.all(*NOT_BEGUN, "failed"))
    @rule(number=PICK)
    def be_late(self, number: int) -> None:
        """Do something about a task that has just been moved."""
        task = self._one(number, *NOT_BEGUN, "failed")
        if task is None:
            return
        found = self._found(task)
        gone = Found(
            found.state, f"{task.folder}/{task.known.but(attempt=99)}", found.name
        )
        for move in (
            repair.remove,
            repair.fail,
            control.hold,
            control.release,
            repair.kick,
        ):
            try:
                move(self.spool, gone)
            except (NotFoundError, UsageError):
                continue
            raise AssertionError(f"{move} has moved what is not there")
        self.world.results.pop(found.id, None)  # kick removes it first
        if found.state is not State.FAILED:  # fail has taken its report back
            self.world.orphans.discard(f"failed/{found.name}.why")

    @rule(what=PAUSES, seconds=st.none() | st.sampled_from([60, 10**6]))
    def pause(self, what: str, seconds: int | None) -> None:
        until_us = None
        if seconds is not None:
            until_us = (self.clock.now_us() // 1000 + seconds * 1000) * 1000
        pauses.write(self.spool, what, until_us)
        self.world.paused[what] = until_us

    @precondition(lambda self: self.world.paused)
    @rule(what=PAUSES)
    def resume(self, what: str) -> None:
        there = self.world.paused.pop(what, "none")
        assert pauses.remove(self.spool, what) is (there != "none")

    # -- supervisors ------------------------------------------------------------

    @rule(timer=st.sampled_from(TIMERS), later=st.sampled_from([0, 60 * 10**6]))
    def tick(self, timer: str, later: int) -> None:
        self._begin()
        slot_us = (self.clock.now_us() + later) // 60_000_000 * 60_000_000
        self.used_timers = True
        name = Name(slot_us, 5, 0, timers.slot_id(timer, slot_us), timer)
        data = b'{"task":"%b","args":{"slot":%d}}\n' % (timer.encode(), slot_us)
        with timers.lock(self.spool):
            latest = timers.latest_slot(self.spool, timer)
            known = self.world.slots.get(timer)
            assert latest == (None if known is None else known[0])
            if latest is not None and latest >= slot_us:
                return
            timers.put_slot(self.spool, name, data)
        self.world.slots[timer] = (slot_us, self.world.new(name, data))

    @rule(late=st.sampled_from([0, 2 * 3600 * 10**6, 40 * DAY_US]))
    def sweep(self, late: int) -> None:
        """Remove what is left over, as if some time had passed."""
        now_us = self.clock.now_us() + late
        clock = FakeClock(now_us)
        sweep(self.spool, clock)
        for priority in self.spool.priorities():
            for minute in self.spool.minutes(priority):
                remove_folder(self.spool, f"{priority}/{minute}", clock)
        for what, until_us in list(self.world.paused.items()):
            pauses.remove_over(self.spool, what, self.clock.now_us())
            if until_us is not None and until_us <= self.clock.now_us():
                del self.world.paused[what]
        self.world.sweep_keys(now_us)
        age_us = now_us - real_clock().now_us()
        if age_us > 30 * DAY_US:
            self.world.attempts.clear()
        if age_us > 3600 * 10**6:
            self.world.orphans.clear()

    @precondition(lambda self: self.world.results)
    @rule()
    def sweep_results(self) -> None:
        sweeper = results.Sweeper(self.spool, keep=1000, every=0.0, clock=self.clock)
        sweeper.work()
        now_us = self.clock.now_us()
        kept = {i: r for i, r in self.world.results.items() if r[1] > now_us}
        self.world.results = kept

    # -- what must be so ----------------------------------------------------------

    @invariant()
    def spool_is_as_the_model_says(self) -> None:
        self._every_file_is_where_it_should_be()
        self._it_counts_as_it_should()
        self._keys_belong_to_their_tasks()
        self._timers_know_whether_they_have_finished()
        self._pauses_are_as_they_were_made()
        self._results_say_how_it_ended()

    def _every_file_is_where_it_should_be(self) -> None:
        there = tree(self.spool)
        there |= {f"workers/{n}": b"" for n in os.listdir(self.root / "workers")}
        expected = dict(self.world.files())
        if self.used_timers:
            expected["timers/.lock"] = None
        assert sorted(there) == sorted(expected), _differences(there, expected)
        for path, data in expected.items():
            assert data is None or there[path] == data, f"{path} has changed"

    def _it_counts_as_it_should(self) -> None:
        found = count(self.spool, self.clock)
        expected = self.world.counts(self.clock.now_us())
        assert {name: getattr(found, name) for name in expected} == expected

    def _keys_belong_to_their_tasks(self) -> None:
        for path, key in self.world.keys.items():
            link = os.stat(self.root / path)
            there = self.world.is_there(key.task)
            if there:
                assert os.path.samestat(link, os.stat(self.root / key.task.path))
            assert link.st_nlink == 1 + there + self._is_slot(key.task)

    def _is_slot(self, task: Task) -> bool:
        return any(task is each for _, each in self.world.slots.values())

    def _timers_know_whether_they_have_finished(self) -> None:
        for timer, (slot_us, task) in self.world.slots.items():
            over = task.state in ("failed", "corrupt")
            finished = not self.world.is_there(task) or over
            assert timers.is_finished(self.spool, timer, slot_us) is finished

    def _pauses_are_as_they_were_made(self) -> None:
        found = {each.what: each.until_us for each in pauses.read(self.spool)}
        assert found == self.world.paused

    def _results_say_how_it_ended(self) -> None:
        for task_id, (ok, _) in self.world.results.items():
            record = results.read(self.spool, task_id)
            assert record is not None
            assert record.ok is ok


def _at(due_us: int) -> str:
    return f"{due_us // 10**6}.{due_us % 10**6:06d}"


def _differences(there: object, expected: object) -> str:
    assert isinstance(there, dict)
    assert isinstance(expected, dict)
    more, less = sorted(set(there) - set(expected)), sorted(set(expected) - set(there))
    return f"not expected: {more}; missing: {less}"
