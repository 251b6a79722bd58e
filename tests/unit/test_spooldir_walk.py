"""A random walk over all moves of a real spool against a dict."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.helpers import NOW_US, FakeClock, real_clock, tasks

from spooler.spooldir import SpoolDir, control, editing, repair
from spooler.spooldir.claims import Claims
from spooler.spooldir.dropped import Dropped
from spooler.spooldir.recovery import ProcessLock, recover, sweep
from spooler.spooldir.repair import Found
from spooler.task import Claim, Name, Outcome, State, Verdict

FAILED = Outcome(Verdict.FAIL, "E: it broke", "exception")
DUES = st.sampled_from([NOW_US - 10**9, NOW_US, NOW_US + 1, NOW_US + 10**9])
KEPT = ("held", "failed", "corrupt")
WORKERS = st.sampled_from(["w1", "w2"])


class Walk(RuleBasedStateMachine):
    """Every task is in one place, with its bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp()
        self.spool = SpoolDir(self.root)
        self.spool.create()
        self.clock = real_clock()
        self.clock.advance(3600)
        self.dropped = Dropped(self.spool, {os.getuid()}, self.clock)
        self.model: dict[str, bytes] = {}
        self.locks: dict[str, ProcessLock] = {}
        self.claims: dict[str, Claims] = {}
        self.held: dict[str, list[Claim]] = {"w1": [], "w2": []}
        self.count = 0

    def teardown(self) -> None:
        for worker in list(self.claims):
            self.kill(worker)
        self.spool.close()
        shutil.rmtree(self.root)

    def kill(self, worker: str) -> None:
        os.close(self.claims.pop(worker)._fd)
        self.locks.pop(worker).release()

    def data(self) -> bytes:
        self.count += 1
        return b'{"task":"t","args":{"n":%d}}\nbody' % self.count

    def moved(self, source: str, target: Name | str | None) -> None:
        data = self.model.pop(source)
        if target is not None:
            path = f"{target.folder}/{target}" if isinstance(target, Name) else target
            assert path not in self.model
            self.model[path] = data

    def states(self, *states: str) -> list[str]:
        return sorted(p for p in self.model if p.partition("/")[0] in states)

    def waiting(self) -> list[str]:
        return sorted(p for p in self.model if p.partition("/")[0].isdigit())

    # -- producers ----------------------------------------------------------------

    @rule(
        due=DUES,
        priority=st.sampled_from([0, 5, 12]),
        id=st.sampled_from(["f" * 16, None]),
        unnamed=st.booleans(),
    )
    def put(self, due: int, priority: int, id: str | None, unnamed: bool) -> None:
        data = self.data()
        name = Name(due, priority, 0, id or f"{self.count:016x}", "t")
        path = f"{name.folder}/{name}"
        self.spool._tmpfile = unnamed
        if path in self.model:
            try:
                self.spool.put(name, [data], durable=False)
            except FileExistsError:
                return
            raise AssertionError("put over a task")
        self.spool.put(name, [data], durable=False)
        self.model[path] = data

    @rule(folder=st.sampled_from([".", "0", "5"]), good=st.booleans(), at=DUES)
    def adopt(self, folder: str, good: bool, at: int) -> None:
        self.count += 1
        data = b"task=t\nn=%d\nid=%s\nat=%d.%06d\n" % (
            self.count,
            b"e" * 16,
            at // 10**6,
            at % 10**6,
        )
        data = data if good else b"rubbish %d" % self.count
        Path(self.root, folder, "dropped").write_bytes(data)
        result = self.dropped.adopt(folder, "dropped", finished=True)
        if good:
            assert isinstance(result, str)
            assert result not in self.model
            self.model[result] = data
        else:
            assert result is False
            new = set(tasks(self.spool)) - set(self.model)
            (path,) = new
            assert path.startswith("corrupt/dropped.")
            self.model[path] = data

    @precondition(lambda self: self.states("failed"))
    @rule(which=st.randoms(use_true_random=False), priority=st.sampled_from([0, 5]))
    def kick_by_hand(self, which: object, priority: int) -> None:
        path = self.states("failed")[0]
        file = path.partition("/")[2]
        os.rename(Path(self.root, path), Path(self.root, str(priority), file))
        result = self.dropped.adopt(str(priority), file, finished=True)
        assert isinstance(result, str)
        self.moved(path, result)

    # -- workers ------------------------------------------------------------------

    @rule(worker=WORKERS, pick=st.integers(0, 9))
    def claim(self, worker: str, pick: int) -> None:
        if worker not in self.claims:
            lock = self.locks[worker] = ProcessLock(self.spool, worker)
            assert lock.acquire()
            self.claims[worker] = Claims(self.spool, worker, {os.getuid()}, self.clock)
        found = self.waiting()
        if not found:
            return
        path = found[pick % len(found)]
        if any(c.file == path.rpartition("/")[2] for c in self.held[worker]):
            return  # a worker settles before it claims again
        claim = self.claims[worker].claim(path)
        assert claim is not None
        assert self.claims[worker].claim(path) is None
        self.held[worker].append(claim)
        self.moved(path, f"running/{worker}/{claim.file}")

    def settle(self, worker: str) -> tuple[Claims, Claim, str] | None:
        if not self.held[worker]:
            return None
        claim = self.held[worker].pop(0)
        return self.claims[worker], claim, f"running/{worker}/{claim.file}"

    def arrived(self, source: str) -> None:
        """The model learns the new path; there is exactly one."""
        (path,) = set(tasks(self.spool)) - set(self.model)
        self.moved(source, path)
        self.latest = path

    @rule(worker=WORKERS)
    def ack(self, worker: str) -> None:
        if found := self.settle(worker):
            claims, claim, path = found
            claims.ack(claim)
            self.moved(path, None)

    @rule(worker=WORKERS, due=DUES)
    def retry(self, worker: str, due: int) -> None:
        if found := self.settle(worker):
            claims, claim, path = found
            claims.retry(claim, FAILED, due_us=due, started_us=NOW_US)
            self.arrived(path)
            assert f".{claim.name.attempt + 1}.{claim.name.id}." in self.latest

    @rule(worker=WORKERS, due=DUES)
    def again(self, worker: str, due: int) -> None:
        if found := self.settle(worker):
            claims, claim, path = found
            claims.again(claim, due_us=due)
            self.arrived(path)
            assert f".0.{claim.name.id}." in self.latest

    @rule(worker=WORKERS, due=st.none() | DUES)
    def release(self, worker: str, due: int | None) -> None:
        if found := self.settle(worker):
            claims, claim, path = found
            claims.release(claim, due_us=due)
            self.arrived(path)
            assert f".{claim.name.attempt}.{claim.name.id}." in self.latest

    @rule(worker=WORKERS)
    def fail(self, worker: str) -> None:
        if found := self.settle(worker):
            claims, claim, path = found
            claims.fail(claim, FAILED, started_us=NOW_US)
            self.arrived(path)
            assert self.latest.startswith("failed/")

    @rule(worker=WORKERS)
    def reject(self, worker: str) -> None:
        if found := self.settle(worker):
            claims, claim, path = found
            claims.reject(claim, "reason")
            self.arrived(path)
            assert self.latest.startswith("corrupt/")

    @rule(worker=WORKERS, give_up=st.booleans(), drain=st.booleans())
    def die_and_recover(self, worker: str, give_up: bool, drain: bool) -> None:
        if worker not in self.claims:
            return
        assert recover(self.spool, worker, lambda name: NOW_US, FAILED) is None
        self.kill(worker)
        outcome = Outcome(Verdict.RELEASE) if drain else FAILED
        done = recover(
            self.spool,
            worker,
            lambda name: None if give_up else name.due_us,
            outcome,
            clock=self.clock,
        )
        assert done is not None
        assert len(done) == len(self.held[worker])
        before = [self.model.pop(p) for p in self.states_of(worker)]
        new = {p: d for p, d in tasks(self.spool).items() if p not in self.model}
        assert sorted(new.values()) == sorted(before)
        self.model.update(new)
        self.held[worker] = []

    def states_of(self, worker: str) -> list[str]:
        return [p for p in self.model if p.startswith(f"running/{worker}/")]

    # -- operators ----------------------------------------------------------------

    def found(self, path: str) -> Found:
        state = State(path.partition("/")[0] if path[0].isalpha() else "waiting")
        return Found(state, path, Name.parse(path.rpartition("/")[2]))

    @precondition(lambda self: self.states("failed"))
    @rule(pick=st.integers(0, 9))
    def kick(self, pick: int) -> None:
        paths = self.states("failed")
        path = paths[pick % len(paths)]
        self.moved(path, repair.kick(self.spool, self.found(path), self.clock))

    def not_begun(self) -> list[str]:
        return self.waiting() + self.states("held")

    @precondition(lambda self: self.waiting())
    @rule(pick=st.integers(0, 9))
    def hold(self, pick: int) -> None:
        paths = self.waiting()
        path = paths[pick % len(paths)]
        self.moved(path, control.hold(self.spool, self.found(path)))

    @precondition(lambda self: self.states("held"))
    @rule(pick=st.integers(0, 9))
    def release_by_operator(self, pick: int) -> None:
        paths = self.states("held")
        path = paths[pick % len(paths)]
        self.moved(path, control.release(self.spool, self.found(path)))

    @precondition(lambda self: self.not_begun())
    @rule(pick=st.integers(0, 9), priority=st.none() | st.sampled_from([0, 5, 12]))
    def hurry(self, pick: int, priority: int | None) -> None:
        path = self.not_begun()[pick % len(self.not_begun())]
        found = self.found(path)
        if priority is None:
            self.moved(path, control.now(self.spool, found, self.clock))
        else:
            self.moved(path, control.reprioritise(self.spool, found, priority))

    @precondition(lambda self: self.not_begun())
    @rule(pick=st.integers(0, 9), due=DUES)
    def edit(self, pick: int, due: int) -> None:
        path = self.not_begun()[pick % len(self.not_begun())]
        found = self.found(path)
        assert found.name is not None
        task = repair.read(self.spool, found)
        name = found.name.but(due_us=due)
        head = b'{"task":"t","args":{"edited":%d}}\n' % self.count
        try:
            new = editing.replace(self.spool, found, task, head, name)
            body = task.body()
        finally:
            task.close()
        self.moved(path, new)
        self.model[new] = head + body

    @precondition(lambda self: self.not_begun())
    @rule(pick=st.integers(0, 9))
    def fail_by_operator(self, pick: int) -> None:
        paths = self.not_begun()
        path = paths[pick % len(paths)]
        repair.fail(self.spool, self.found(path), self.clock)
        self.arrived(path)

    @precondition(lambda self: self.waiting() or self.states(*KEPT))
    @rule(pick=st.integers(0, 9))
    def remove(self, pick: int) -> None:
        paths = self.waiting() + self.states(*KEPT)
        path = paths[pick % len(paths)]
        repair.remove(self.spool, self.found(path))
        self.moved(path, None)

    @rule()
    def sweep(self) -> None:
        late = FakeClock(self.clock.now_us() + 40 * 24 * 3600 * 10**6)
        sweep(self.spool, late)

    # -- promises -----------------------------------------------------------------

    @invariant()
    def every_task_is_in_one_place_with_its_bytes(self) -> None:
        assert tasks(self.spool) == self.model

    @invariant()
    def everything_given_up_says_why(self) -> None:
        for path in self.states("failed", "corrupt"):
            assert Path(self.root, f"{path}.why").exists()


@pytest.mark.usefixtures("no_sync")
def test_every_walk_keeps_every_task() -> None:
    some = settings(
        max_examples=25,
        stateful_step_count=40,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Walk, settings=some)
