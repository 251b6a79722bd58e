"""Whether work makes progress."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import FakeClock, make_name, path_of, place, put, real_clock

from spooler.health import Bounds, health
from spooler.spooldir import SpoolDir, pauses
from spooler.spooldir.claims import Claims
from spooler.spooldir.recovery import ProcessLock
from spooler.task import MINUTE_US, Name

DAEMON = "daemon-here-1-aaaaaa"


@pytest.fixture
def clock() -> FakeClock:
    return real_clock()


@pytest.fixture(autouse=True)
def daemon(spool: SpoolDir) -> Iterator[ProcessLock]:
    """A daemon that lives: it holds its lock."""
    lock = ProcessLock(spool, DAEMON)
    assert lock.acquire()
    lock.describe({"kind": "daemon", "pid": os.getpid()})
    yield lock
    lock.release()


def problems(
    spool: SpoolDir, clock: FakeClock, bounds: Bounds | None = None
) -> list[str]:
    facts = health(spool, bounds or Bounds(), clock)
    assert facts["healthy"] is not bool(facts["problems"])
    return facts["problems"]


@pytest.fixture
def worker(spool: SpoolDir) -> Iterator[Claims]:
    """What a worker claims with, that has its folder."""
    claims = Claims(spool, "w1", {os.geteuid()})
    yield claims
    os.close(claims._fd)


def put_now(spool: SpoolDir, clock: FakeClock, name: Name | None = None) -> Name:
    """Put a task at the moment at which the clock stands then, however slowly."""
    name = put(spool, name or make_name(clock.now_us()))
    stand_at(clock, Path(spool.path, path_of(name)))
    return name


def stand_at(clock: FakeClock, file: Path) -> None:
    """Set the clock to when a file was made."""
    clock.set(max(clock.now_us(), file.stat().st_ctime_ns // 1000))


def test_an_idle_spool_with_a_daemon_is_healthy(
    spool: SpoolDir, clock: FakeClock
) -> None:
    facts = health(spool, Bounds(), clock)
    assert facts["healthy"]
    assert facts["daemons"] == 1
    assert facts["oldest"] is facts["moved"] is None


def test_without_a_daemon_it_is_not(
    spool: SpoolDir, clock: FakeClock, daemon: ProcessLock
) -> None:
    daemon.release()
    assert problems(spool, clock) == ["no daemon serves it: start spoold"]


def test_a_task_may_have_waited_so_long(spool: SpoolDir, clock: FakeClock) -> None:
    name = put_now(spool, clock, make_name(clock.now_us(), task="mail"))
    busy = Bounds(max_age=300, max_idle=10_000)
    clock.advance(299)
    assert problems(spool, clock, busy) == []
    clock.advance(2)
    (problem,) = problems(spool, clock, busy)
    text = f"task {name.id} (mail) has been due for 301 s, and was not begun"
    assert (
        problem == f"{text}: no daemon has a function of that name, see spoold --import"
    )


def test_a_task_that_a_daemon_knows_waits_for_something_else(
    spool: SpoolDir, clock: FakeClock, daemon: ProcessLock
) -> None:
    put_now(spool, clock, make_name(clock.now_us(), task="mail"))
    clock.advance(301)
    for tasks in (["mail"], ["*"]):
        daemon.describe({"kind": "daemon", "pid": os.getpid(), "tasks": tasks})
        (problem,) = problems(spool, clock, Bounds(max_idle=10_000))
        assert problem.endswith("and was not begun: see `spool status`")


def test_the_oldest_of_all_priorities_counts(spool: SpoolDir, clock: FakeClock) -> None:
    put(spool, make_name(clock.now_us(), priority=1))
    clock.advance(100)
    oldest = health(spool, Bounds(), clock)["oldest"]
    put(spool, make_name(clock.now_us(), priority=0))
    assert oldest is not None
    assert health(spool, Bounds(), clock)["oldest"] == oldest


def test_a_task_due_later_has_not_waited(spool: SpoolDir, clock: FakeClock) -> None:
    put(spool, make_name(clock.now_us() + 10 * MINUTE_US))
    put(spool, make_name(clock.now_us() + 1_000_000))
    facts = health(spool, Bounds(), clock)
    assert facts["healthy"]
    assert facts["oldest"] is None


def test_a_task_put_for_the_past_has_waited_since_it_was_put(
    spool: SpoolDir, clock: FakeClock
) -> None:
    put_now(spool, clock, make_name(clock.now_us() - 600 * MINUTE_US))
    assert problems(spool, clock) == []
    clock.advance(301)
    assert problems(spool, clock, Bounds(max_idle=10_000))


def test_what_is_paused_does_not_wait(spool: SpoolDir, clock: FakeClock) -> None:
    put(spool, make_name(clock.now_us(), task="mail", priority=1))
    clock.advance(1000)
    assert problems(spool, clock)
    for what in ("all", "priority.1", "task.mail"):
        pauses.write(spool, what, None)
        assert problems(spool, clock) == []
        pauses.remove(spool, what)
        assert problems(spool, clock)
    pauses.write(spool, "task.other", None)
    assert problems(spool, clock)


def test_nothing_may_stand_still_for_long_while_a_worker_is_free(
    spool: SpoolDir, clock: FakeClock, worker: Claims
) -> None:
    held = put_now(spool, clock)
    waiting = put(spool, make_name(clock.now_us()))
    clock.advance(61)
    (problem,) = problems(spool, clock)
    assert problem.startswith("nothing was begun or finished for 61 s")
    assert waiting.id in problem or held.id in problem
    worker.claim(path_of(held))  # now: by the real clock, a minute ago
    assert problems(spool, clock) == []  # the only worker is busy


def test_a_move_of_a_worker_is_progress(
    spool: SpoolDir, clock: FakeClock, worker: Claims
) -> None:
    put_now(spool, clock)
    clock.advance(61)
    assert problems(spool, clock)
    moved = clock.now_us() * 1000
    os.utime(Path(spool.path, "running", worker.worker), ns=(moved, moved))
    assert problems(spool, clock) == []


@pytest.mark.parametrize("state", ["failed", "corrupt"])
def test_what_failed_and_what_is_corrupt_is_bounded(
    spool: SpoolDir, clock: FakeClock, state: str
) -> None:
    for number in range(3):
        name = str(make_name())
        place(spool, f"{state}/{name}")
        if number:
            place(spool, f"{state}/{name}.why")
    (problem,) = problems(spool, clock)
    assert problem == f"3 {state}: see `spool ls {state}`"
    two = Bounds(max_failed=2, max_corrupt=2)
    assert problems(spool, clock, two) == [
        f"3 {state}, more than 2: see `spool ls {state}`"
    ]
    assert problems(spool, clock, Bounds(max_failed=3, max_corrupt=3)) == []
    assert problems(spool, clock, Bounds(max_failed=None, max_corrupt=None)) == []


def retrying(spool: SpoolDir, clock: FakeClock, *attempts: int) -> None:
    """Put tasks that wait for another attempt, two minutes apart."""
    for number, attempt in enumerate(attempts, 1):
        due_us = clock.now_us() + 2 * number * MINUTE_US
        put(spool, make_name(due_us, attempt=attempt, priority=number))


def test_what_is_tried_again_and_again_is_bounded_where_that_is_wanted(
    spool: SpoolDir, clock: FakeClock
) -> None:
    retrying(spool, clock, 0, 1, 9, 10)
    facts = health(spool, Bounds(), clock)
    assert (facts["healthy"], facts["retrying"]) == (True, None)
    facts = health(spool, Bounds(max_retrying=3), clock)
    assert (facts["healthy"], facts["retrying"]) == (True, 3)
    assert problems(spool, clock, Bounds(max_retrying=2)) == [
        "3 retrying, more than 2: see `spool ls retrying`"
    ]
    assert problems(spool, clock, Bounds(max_retrying=0)) == [
        "3 retrying: see `spool ls retrying`"
    ]


def test_only_what_has_failed_often_enough_counts(
    spool: SpoolDir, clock: FakeClock
) -> None:
    retrying(spool, clock, 0, 1, 9, 10, 347)
    after = "after 10 attempts or more"
    hint = "see `spool ls retrying --min-attempts 10`"
    assert problems(spool, clock, Bounds(max_retrying=0, min_attempts=10)) == [
        f"2 retrying {after}: {hint}"
    ]
    assert problems(spool, clock, Bounds(max_retrying=1, min_attempts=10)) == [
        f"2 retrying {after}, more than 1: {hint}"
    ]
    assert problems(spool, clock, Bounds(max_retrying=0, min_attempts=348)) == []


def test_what_no_daemon_knows_is_bounded_where_that_is_wanted(
    spool: SpoolDir, clock: FakeClock, daemon: ProcessLock
) -> None:
    daemon.describe({"kind": "daemon", "pid": os.getpid(), "tasks": ["known"]})
    for task in ("known", "strange", "stranger"):
        put(spool, make_name(clock.now_us() + MINUTE_US, task=task))
    facts = health(spool, Bounds(), clock)
    assert (facts["healthy"], facts["unknown"]) == (True, None)
    facts = health(spool, Bounds(max_unknown=2), clock)
    assert (facts["healthy"], facts["unknown"]) == (True, 2)
    why = "no daemon has a function of their name: see `spool status`"
    assert problems(spool, clock, Bounds(max_unknown=0)) == [f"2 wait, and {why}"]
    assert problems(spool, clock, Bounds(max_unknown=1)) == [
        f"2 wait, more than 1, and {why}"
    ]
    daemon.describe({"kind": "daemon", "pid": os.getpid(), "tasks": ["*"]})
    assert problems(spool, clock, Bounds(max_unknown=0)) == []


def test_a_file_of_uwsgi_may_wait_until_it_is_due(
    spool: SpoolDir, clock: FakeClock
) -> None:
    file = place(spool, "uwsgi_spoolfile_on_host_1_1_1_1_1")
    seconds = clock.now_us() // 1_000_000 + 3600
    os.utime(file, (seconds, seconds))
    clock.advance(3600 + 298)
    assert problems(spool, clock) == []
    clock.advance(3)
    assert len(problems(spool, clock)) == 1


@pytest.mark.parametrize("path", ["5/dropped", "dropped"])
def test_a_dropped_file_must_be_adopted(
    spool: SpoolDir, clock: FakeClock, path: str
) -> None:
    stand_at(clock, place(spool, path))
    place(spool, "5/.hidden")
    place(spool, "5/some.tmp")
    assert problems(spool, clock) == []
    clock.advance(301)
    (problem,) = problems(spool, clock)
    assert problem.startswith("1 dropped more than 300 s ago and not adopted")


def test_names_are_escaped(spool: SpoolDir, clock: FakeClock) -> None:
    put(spool, make_name(clock.now_us(), task="größe"))
    clock.advance(1000)
    assert all("größe" in each for each in problems(spool, clock))
    place(spool, f"5/{make_name(clock.now_us()).folder.partition('/')[2]}/\x1b[2J")
    assert all("\x1b" not in each for each in problems(spool, clock))
