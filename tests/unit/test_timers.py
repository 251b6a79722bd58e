"""Timers: which slots were put, and the scheduler that puts them."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest
from tests.helpers import (
    NOW_US,
    TASK,
    FakeClock,
    ToldOS,
    path_of,
    place,
    tasks,
    tree,
)

from spooler.known import Known
from spooler.retry import RetryOptions
from spooler.schedule import CronLine, Interval
from spooler.scheduler import LOOK_AGAIN_US, Scheduler
from spooler.spooldir import SpoolDir, files, root, timers as module
from spooler.spooldir.claims import Claims, give_up, put_aside
from spooler.spooldir.timers import (
    begin,
    is_finished,
    latest_slot,
    lock,
    put_slot,
    slot_id,
)
from spooler.task import MINUTE_US, Claim, Name, Outcome, Verdict

MINUTELY = Interval(60.0)


def slot_name(slot_us: int = NOW_US, task: str = "t") -> Name:
    return Name(slot_us, 5, 0, slot_id(task, slot_us), task)


def records(spool: SpoolDir) -> list[str]:
    return sorted(spool.all_names("timers"))


@pytest.fixture
def claims(spool: SpoolDir) -> Iterator[Claims]:
    claims = Claims(spool, "w1", {os.getuid()})
    yield claims
    os.close(claims._fd)


def take(claims: Claims, path: str) -> Claim:
    claim = claims.claim(path)
    assert claim is not None
    return claim


# -- slots ------------------------------------------------------------------------


def test_the_id_of_a_slot_is_the_same_everywhere() -> None:
    assert slot_id("t", 1795208460000000) == "2b46e6110c89316a"
    assert len({slot_id("t", 1), slot_id("t", 2), slot_id("u", 1)}) == 3
    assert len(slot_id("t", 1)) == 16


def test_a_slot_is_put_and_noted(spool: SpoolDir) -> None:
    name = slot_name()
    put_slot(spool, name, TASK)
    assert tasks(spool) == {path_of(name): TASK}
    assert records(spool) == [f"{NOW_US}.t"]
    assert latest_slot(spool, "t") == NOW_US
    assert latest_slot(spool, "u") is None
    assert Path(spool.path, path_of(name)).stat().st_nlink == 2


def test_a_newer_slot_replaces_the_older_ones_of_its_task(spool: SpoolDir) -> None:
    for step, task in ((0, "t"), (0, "u"), (1, "t"), (2, "t")):
        put_slot(spool, slot_name(NOW_US + step, task), TASK)
    assert records(spool) == [f"{NOW_US}.u", f"{NOW_US + 2}.t"]


def test_put_slot_makes_these_calls(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    for each in (module, root, files):
        monkeypatch.setattr(each, "os", told)
    name = slot_name()
    spool.make_folder(name.folder)
    put_slot(spool, name, TASK)
    order = [c for c in told.calls if c in ("write", "link", "rename")]
    assert order == ["write", "link", "rename"]
    assert told.syncs(spool.path) == [
        f"timers/.{NOW_US}.t",
        name.folder,
        "5",
        "timers",
    ]


@pytest.mark.parametrize(
    "junk", ["²" * 16 + ".t", "1.t", "99999999999999999999.t", "x", "x.t", "t"]
)
def test_junk_in_timers_is_no_slot(spool: SpoolDir, junk: str) -> None:
    place(spool, f"timers/{junk}")
    assert latest_slot(spool, "t") is None


def test_a_slot_begun_is_noted_and_finished(spool: SpoolDir) -> None:
    begin(spool, "t", NOW_US)
    begin(spool, "t", NOW_US)
    assert latest_slot(spool, "t") == NOW_US
    assert is_finished(spool, "t", NOW_US)
    assert tasks(spool) == {}


def test_a_slot_without_a_record_is_finished(spool: SpoolDir) -> None:
    assert is_finished(spool, "t", NOW_US)


def test_a_slot_is_finished_when_its_task_is_gone(
    spool: SpoolDir, claims: Claims
) -> None:
    name = slot_name()
    put_slot(spool, name, TASK)
    assert not is_finished(spool, "t", NOW_US)
    claim = take(claims, path_of(name))
    assert not is_finished(spool, "t", NOW_US)
    claims.retry(
        claim, Outcome(Verdict.RETRY), due_us=NOW_US + 5 * MINUTE_US, started_us=NOW_US
    )
    assert not is_finished(spool, "t", NOW_US)
    (path,) = tasks(spool)
    claims.ack(take(claims, path))
    assert is_finished(spool, "t", NOW_US)


def test_a_slot_is_finished_when_its_task_has_failed(spool: SpoolDir) -> None:
    name = slot_name()
    put_slot(spool, name, TASK)
    place(spool, "failed/other")
    assert not is_finished(spool, "t", NOW_US)
    give_up(spool, path_of(name), name, {})
    assert is_finished(spool, "t", NOW_US)


def test_a_slot_is_finished_when_its_task_is_corrupt(spool: SpoolDir) -> None:
    name = slot_name()
    put_slot(spool, name, TASK)
    put_aside(spool, path_of(name), "reason", NOW_US)
    assert is_finished(spool, "t", NOW_US)


def test_a_crash_while_writing_is_written_again(spool: SpoolDir) -> None:
    place(spool, f"timers/.{NOW_US}.t", TASK[:5])
    put_slot(spool, slot_name(), TASK)
    assert tasks(spool) == {path_of(slot_name()): TASK}
    assert records(spool) == [f"{NOW_US}.t"]


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_a_crash_before_the_note_puts_no_second_task(
    spool: SpoolDir, claims: Claims, state: str
) -> None:
    name = slot_name()
    hidden = place(spool, f"timers/.{NOW_US}.t")
    spool.make_folder(name.folder)
    os.link(hidden, Path(spool.path, path_of(name)))
    if state == "running":
        take(claims, path_of(name))
    put_slot(spool, name, TASK)
    assert len(tasks(spool)) == 1
    assert records(spool) == [f"{NOW_US}.t"]
    assert not is_finished(spool, "t", NOW_US)


def test_a_record_lost_in_a_power_cut_is_linked_to_the_task_that_is_there(
    spool: SpoolDir,
) -> None:
    name = slot_name()
    put_slot(spool, name, TASK)
    Path(spool.path, f"timers/{NOW_US}.t").unlink()
    put_slot(spool, name, TASK)
    assert tasks(spool) == {path_of(name): TASK}
    assert records(spool) == [f"{NOW_US}.t"]
    assert not is_finished(spool, "t", NOW_US)


@pytest.mark.parametrize("call", ["open", "fsync", "link", "rename", "stat"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_slot_that_could_not_be_put_can_be_put_again(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    name = slot_name()
    told = ToldOS()
    told.fail(call, code)
    with monkeypatch.context() as patch:
        patch.setattr(module, "os", told)
        with pytest.raises(OSError, match=rf"\[Errno {code}\]"):
            put_slot(spool, name, TASK)
    assert latest_slot(spool, "t") is None
    put_slot(spool, name, TASK)
    assert tasks(spool) == {path_of(name): TASK}
    assert records(spool) == [f"{NOW_US}.t"]


def test_the_lock_is_held_by_one(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = filelock.FileLock
    monkeypatch.setattr(
        filelock, "FileLock", lambda *a, **k: real(*a, **{**k, "timeout": 0.01})
    )
    failed: list[BaseException] = []

    def other() -> None:
        try:
            with lock(spool):
                raise AssertionError("held by two")
        except TimeoutError as error:
            failed.append(error)

    with lock(spool):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "is held by another daemon" in str(failed[0])
    with lock(spool):
        pass


# -- scheduler --------------------------------------------------------------------


def known(
    name: str = "t",
    *,
    interval: Interval | None = MINUTELY,
    cron: CronLine | None = None,
    overlap: bool = False,
    priority: int | None = None,
) -> Known:
    return Known(name, RetryOptions(), None, priority, interval, cron, overlap)


def scheduler(spool: SpoolDir, clock: FakeClock, *each: Known) -> Scheduler:
    scheduler = Scheduler(spool, clock)
    scheduler.use(list(each or (known(),)))
    return scheduler


def due(spool: SpoolDir) -> list[int]:
    """Return the due times of what waits."""
    return sorted(int(path.rpartition("/")[2][:16]) for path in tasks(spool))


def finish(spool: SpoolDir) -> None:
    for path in tasks(spool):
        Path(spool.path, path).unlink()


def test_a_timer_of_so_many_times_counts_from_when_it_is_known(
    spool: SpoolDir, clock: FakeClock
) -> None:
    three = known(interval=Interval(1.0, times=3))
    for _ in range(2):  # a daemon, and the next one
        timer = scheduler(spool, clock, three)
        timer.put_due()
        assert due(spool) == []  # what was missed meanwhile does not count
        runs = 0
        for _ in range(6):
            clock.advance(1)
            timer.put_due()
            timer.put_due()
            runs += len(due(spool))
            finish(spool)
        assert runs == 3
        assert timer.next_us is not None
        assert timer.next_us > clock.now_us() + 3600 * 1_000_000


def test_a_timer_of_so_many_times_counts_what_other_daemons_put(
    spool: SpoolDir, clock: FakeClock
) -> None:
    two = known(interval=Interval(1.0, times=2))
    timers = [scheduler(spool, clock, two) for _ in range(2)]
    runs = 0
    for _ in range(5):
        for timer in timers:
            timer.put_due()
        runs += len(due(spool))
        finish(spool)
        clock.advance(1)
    assert runs == 2


def test_a_scheduler_without_timers_has_nothing_to_do(
    spool: SpoolDir, clock: FakeClock
) -> None:
    empty = scheduler(spool, clock, known(interval=None))
    empty.put_due()
    assert len(empty) == 0
    assert empty.next_us is None


def test_a_timer_seen_for_the_first_time_waits_for_its_next_slot(
    spool: SpoolDir, clock: FakeClock
) -> None:
    clock.advance(20)
    first = scheduler(spool, clock)
    assert len(first) == 1
    assert first.next_us == 0
    first.put_due()
    assert due(spool) == []
    assert first.next_us == NOW_US + MINUTE_US
    clock.advance(39)
    first.put_due()
    assert due(spool) == []
    clock.advance(1)
    first.put_due()
    assert due(spool) == [NOW_US + MINUTE_US]
    assert first.next_us == NOW_US + 2 * MINUTE_US


def test_the_task_of_a_slot_is_as_its_function_wants_it(
    spool: SpoolDir, clock: FakeClock
) -> None:
    timer = scheduler(spool, clock, known("a.b", priority=0), known("c"))
    timer.put_due()
    clock.advance(60)
    timer.put_due()
    assert sorted(tasks(spool).items()) == [
        (
            f"0/20261120T2102/{NOW_US + MINUTE_US}.0.0."
            f"{slot_id('a.b', NOW_US + MINUTE_US)}.a.b",
            b'{"task":"a.b","args":{}}\n',
        ),
        (
            f"5/20261120T2102/{NOW_US + MINUTE_US}.5.0."
            f"{slot_id('c', NOW_US + MINUTE_US)}.c",
            b'{"task":"c","args":{}}\n',
        ),
    ]


def test_two_schedulers_put_each_slot_once(spool: SpoolDir, clock: FakeClock) -> None:
    both = [scheduler(spool, clock) for _ in range(2)]
    for slot in range(5):
        for each in both:
            each.put_due()
        expected = [] if slot == 0 else [NOW_US + slot * MINUTE_US]
        assert due(spool) == expected
        finish(spool)
        clock.advance(60)


def test_a_new_scheduler_goes_on_where_the_last_one_stopped(
    spool: SpoolDir, clock: FakeClock
) -> None:
    scheduler(spool, clock).put_due()
    clock.advance(60)
    scheduler(spool, clock).put_due()
    scheduler(spool, clock).put_due()
    assert due(spool) == [NOW_US + MINUTE_US]


def test_of_many_missed_slots_the_last_is_caught_up(
    spool: SpoolDir, clock: FakeClock
) -> None:
    scheduler(spool, clock).put_due()
    clock.advance(10 * 60 + 30)
    scheduler(spool, clock).put_due()
    assert due(spool) == [NOW_US + 10 * MINUTE_US]


def test_a_slot_waits_until_the_last_one_has_finished(
    spool: SpoolDir, clock: FakeClock
) -> None:
    timer = scheduler(spool, clock)
    timer.put_due()
    clock.advance(60)
    timer.put_due()
    clock.advance(60)
    timer.put_due()
    assert due(spool) == [NOW_US + MINUTE_US]
    assert timer.next_us == clock.now_us() + LOOK_AGAIN_US
    finish(spool)
    clock.advance(1)
    timer.put_due()
    assert due(spool) == [NOW_US + 2 * MINUTE_US]


def test_a_look_again_is_no_later_than_the_next_slot(
    spool: SpoolDir, clock: FakeClock
) -> None:
    timer = scheduler(spool, clock, known(interval=Interval(0.5)))
    timer.put_due()
    clock.advance(0.5)
    timer.put_due()
    clock.advance(0.5)
    timer.put_due()
    assert timer.next_us == clock.now_us() + 500_000


def test_a_timer_may_overlap(spool: SpoolDir, clock: FakeClock) -> None:
    timer = scheduler(spool, clock, known(overlap=True))
    for _ in range(3):
        timer.put_due()
        clock.advance(60)
    assert due(spool) == [NOW_US + MINUTE_US, NOW_US + 2 * MINUTE_US]


def test_a_clock_that_was_set_back_puts_no_slot_twice(
    spool: SpoolDir, clock: FakeClock
) -> None:
    timer = scheduler(spool, clock)
    timer.put_due()
    clock.advance(60)
    timer.put_due()
    finish(spool)
    clock.set(NOW_US + 30_000_000)
    timer.put_due()
    assert due(spool) == []
    assert timer.next_us == NOW_US + MINUTE_US
    clock.set(NOW_US + MINUTE_US)
    timer.put_due()
    assert due(spool) == []
    clock.set(NOW_US + 2 * MINUTE_US)
    timer.put_due()
    assert due(spool) == [NOW_US + 2 * MINUTE_US]


def set_back(timer: Scheduler, clock: FakeClock, spool: SpoolDir) -> list[int]:
    """Put and finish a slot, set the clock back by an hour, put what is due then."""
    timer.put_due()
    clock.advance(60)
    timer.put_due()
    finish(spool)
    clock.set(clock.now_us() - 3600 * 1_000_000)
    timer.put_due()
    clock.advance(60)
    timer.put_due()
    return due(spool)


@pytest.mark.parametrize("line", [None, "* * * * *", "*/1 * * * *"])
def test_a_timer_with_a_pace_goes_on_when_the_clock_was_set_back(
    spool: SpoolDir, clock: FakeClock, line: str | None
) -> None:
    one = known() if line is None else known(interval=None, cron=CronLine(line))
    found = set_back(scheduler(spool, clock, one), clock, spool)
    assert found == [NOW_US - 58 * MINUTE_US]


def test_a_timer_that_names_times_waits_when_the_clock_was_set_back(
    spool: SpoolDir, clock: FakeClock
) -> None:
    line = ",".join(str(minute) for minute in range(60)) + " 0-23 * * *"
    one = known(interval=None, cron=CronLine(line))
    assert set_back(scheduler(spool, clock, one), clock, spool) == []
    clock.set(NOW_US + 2 * MINUTE_US)
    scheduler(spool, clock, one).put_due()
    assert due(spool) == [NOW_US + 2 * MINUTE_US]


def test_a_timer_whose_task_runs_waits_though_the_clock_was_set_back(
    spool: SpoolDir, clock: FakeClock
) -> None:
    timer = scheduler(spool, clock)
    timer.put_due()
    clock.advance(60)
    timer.put_due()
    [(folder, file)] = spool.waiting()
    running = Path(spool.path, folder, file).rename(Path(spool.path).parent / file)
    for _ in range(3):
        clock.set(clock.now_us() - 3600 * 1_000_000)
        timer.put_due()
        assert due(spool) == []
    running.unlink()
    clock.advance(60)
    timer.put_due()  # it begins anew
    clock.advance(60)
    timer.put_due()
    assert len(due(spool)) == 1


def test_a_cron_line_is_put_like_an_interval(spool: SpoolDir, clock: FakeClock) -> None:
    timer = scheduler(spool, clock, known(interval=None, cron=CronLine("5 * * * *")))
    timer.put_due()
    assert timer.next_us == NOW_US + 4 * MINUTE_US
    clock.advance(4 * 60)
    timer.put_due()
    assert due(spool) == [NOW_US + 4 * MINUTE_US]


def test_a_timer_without_slots_is_looked_at_daily(
    spool: SpoolDir, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for function in ("latest_slot_us", "next_slot_us"):
        monkeypatch.setattr(f"spooler.slots.{function}", lambda *args: None)
    timer = scheduler(spool, clock)
    timer.put_due()
    assert timer.next_us == NOW_US + 24 * 60 * MINUTE_US
    assert tree(spool) == {}


def test_an_error_of_the_system_is_tried_again(
    spool: SpoolDir,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    timer = scheduler(spool, clock)
    timer.put_due()
    clock.advance(60)
    told = ToldOS()
    told.fail("link", errno.ENOSPC)
    monkeypatch.setattr(module, "os", told)
    timer.put_due()
    assert due(spool) == []
    assert "cannot put the task of timer t now" in caplog.text
    assert timer.next_us == clock.now_us() + LOOK_AGAIN_US
    clock.advance(1)
    timer.put_due()
    assert due(spool) == [NOW_US + MINUTE_US]


def test_somebody_who_was_faster_while_we_waited_for_the_lock_wins(
    spool: SpoolDir, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = scheduler(spool, clock)
    timer.put_due()
    clock.advance(60)
    monkeypatch.setattr(timer, "_is_put", lambda *args: False)
    put_slot(spool, slot_name(NOW_US + MINUTE_US), TASK)
    finish(spool)
    timer.put_due()
    assert due(spool) == []


def test_a_clock_that_ran_far_ahead_stops_no_timer(
    spool: SpoolDir, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = FakeClock(NOW_US + 365 * 24 * 3600 * 1_000_000)
    early = scheduler(spool, ahead)
    early.put_due()
    ahead.advance(60)
    early.put_due()
    finish(spool)

    timer = scheduler(spool, clock)
    timer.put_due()
    assert due(spool) == []
    assert "in the future" in caplog.text
    clock.advance(60)
    timer.put_due()
    assert len(due(spool)) == 1
    assert due(spool)[0] <= clock.now_us()
