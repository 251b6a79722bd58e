"""What a power cut leaves, on real file systems: one cut at a time, where it hurts.

``tests.torture.power`` makes many at random.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic_ns

import pytest

from spooler.clock import CLOCK
from spooler.options import Follower
from spooler.spooldir import SpoolDir, batches, control, repair
from spooler.spooldir.batches import Progress
from spooler.spooldir.claims import Claims
from spooler.spooldir.followers import Settling
from spooler.task import BATCH, Claim, Name, Outcome, State, Verdict

from ..helpers import TASK
from ..torture import Skip
from ..torture.power_disk import (
    FILE_SYSTEMS,
    Cut,
    Log,
    check_machine,
    copy,
    mounted,
    recorded,
    replay,
)

BROKE = Outcome(Verdict.RETRY, "it broke", "exception")
LINE = b'{"task":"t"}\n'


class Disk:
    """A spool on a file system whose writes are recorded."""

    def __init__(self, folder: Path, system: str) -> None:
        self._folder = folder
        self._point = folder / "mount"
        self._point.mkdir()
        self._since = self._until = 0
        try:
            check_machine()
            FILE_SYSTEMS[system].format(folder / "base")
        except Skip as why:
            pytest.skip(str(why))
        copy(folder / "base", folder / "disk")

    @contextmanager
    def spool(self) -> Iterator[SpoolDir]:
        """Have a spool on it."""
        log = self._folder / "log"
        try:
            with (
                recorded(self._folder / "disk", log, self._folder / "loop") as loop,
                mounted(loop, self._point),
            ):
                yield from self._opened()
        except Skip as why:
            pytest.skip(str(why))

    def _opened(self) -> Iterator[SpoolDir]:
        spool = SpoolDir(self._point / "spool")
        spool.create()
        try:
            yield spool
        finally:
            spool.close()

    @contextmanager
    def cuts(self) -> Iterator[None]:
        """Let the power be cut at any flush from here to the end, and there."""
        self._since = monotonic_ns()
        yield
        self._until = monotonic_ns()

    def lefts(self) -> Iterator[SpoolDir]:
        """Yield the spools that the cuts have left, in their order.

        Nothing lasts that was not flushed.
        """
        log, image = Log(self._folder / "log"), self._folder / "cut.image"
        for number in log.flushes:
            moment = log.writes[number].moment
            if self._since <= moment < self._until:
                cut = Cut(number + 1, number + 1, "none", moment, 0)
                replay(self._folder / "base", log, cut, image)
                with mounted(image, self._point):
                    yield from self._opened()
        log.close()


@pytest.fixture(params=["btrfs"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Disk:
    """Return a disk. Of renames btrfs alone may keep both names, or bring one back."""
    return Disk(tmp_path, request.param)


on_each = pytest.mark.parametrize("disk", FILE_SYSTEMS, indirect=True)


def put(spool: SpoolDir, number: int) -> Name:
    name = Name(CLOCK.now_us(), 5, 0, f"{number:016x}", "t")
    spool.put(name, [TASK])
    return name


@contextmanager
def worker(spool: SpoolDir) -> Iterator[Claims]:
    """Have a worker.

    All that was put before has its place for good: what is only in their journal is
    another matter for file systems.
    """
    claims = Claims(spool, "w1", {os.geteuid()})
    os.sync()
    try:
        yield claims
    finally:
        os.close(claims._fd)


def take(claims: Claims, name: Name) -> Claim:
    claim = claims.claim(f"{name.folder}/{name}")
    assert claim is not None
    return claim


def states(spool: SpoolDir) -> list[State]:
    every = (State.WAITING, State.RUNNING, State.HELD, State.FAILED, State.CORRUPT)
    return [found.state for found in repair.ls(spool, *every)]


@on_each
def test_what_was_acked_and_synced_does_not_come_back(disk: Disk) -> None:
    with disk.spool() as spool:
        names = [put(spool, number) for number in range(3)]
        with worker(spool) as claims:
            first, second, _ = [take(claims, name) for name in names]
            claims.ack(first)
            claims.ack(second)
            with disk.cuts():
                claims.sync()
    found = [states(spool) for spool in disk.lefts()]
    assert found[-1] == [State.RUNNING]


@pytest.mark.parametrize("move", ["retry", "release", "fail", "follow"])
def test_a_worker_moves_a_task_to_one_place(disk: Disk, move: str) -> None:
    with disk.spool() as spool:
        names = [put(spool, number) for number in range(2)]
        with worker(spool) as claims:
            taken = [take(claims, name) for name in names]
            with disk.cuts():
                for claim in taken:
                    settle(claims, claim, move)
    where = State.FAILED if move == "fail" else State.WAITING
    found = [states(spool) for spool in disk.lefts()]
    assert max(map(len, found)) == 2
    assert found[-1] == [where] * 2


def settle(claims: Claims, claim: Claim, move: str) -> None:
    now_us = CLOCK.now_us()
    if move == "retry":
        claims.retry(claim, BROKE, due_us=now_us, started_us=now_us)
    elif move == "release":
        claims.release(claim, due_us=now_us)
    elif move == "fail":
        claims.fail(claim, BROKE, started_us=now_us)
    else:
        args = claims.spool, claims.folder, claim.name, [Follower("t")]
        settling = Settling(*args, "then", now_us)
        settling.settle(lambda: claims.ack(claim))


def test_an_operator_moves_a_task_to_one_place(disk: Disk) -> None:
    with disk.spool() as spool:
        for number in range(2):
            put(spool, number)
        os.sync()
        with disk.cuts():
            for found in list(repair.ls(spool, State.WAITING)):
                control.hold(spool, found)
    left = [states(spool) for spool in disk.lefts()]
    assert {len(each) for each in left} == {2}
    assert left[-1] == [State.HELD] * 2


@on_each
def test_a_line_that_has_become_a_task_is_not_run_again(disk: Disk) -> None:
    name = Name(CLOCK.now_us(), 5, 0, "8c1f42d09ab3e617", BATCH)
    with disk.spool() as spool:
        spool.put(name, [b'{"task":"_batch","args":{"count":2}}\n', LINE, LINE])
        with worker(spool) as claims:
            progress = Progress(spool, take(claims, name), 2)
            try:
                progress.advance()
                progress.sync(now=True)
                os.sync()
                with disk.cuts():
                    progress.spin_off(progress.line_name("t"), LINE, 0)
            finally:
                progress.close()
    ranges = []
    for spool in disk.lefts():
        ranges.append(batches.read(spool, name.id))
        assert set(states(spool)) == {State.RUNNING}
    assert ranges[-1] is not None
    assert ranges[-1].next == 2
