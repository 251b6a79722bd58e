"""How much may wait in a spool: limits, counts, and every way to put."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from spooler import Spooler, SpoolFull, handle, spool_many
from spooler.clock import CLOCK
from spooler.errors import SpoolerError
from spooler.spooldir import SpoolDir, room
from spooler.spooldir.room import (
    NO_LIMITS,
    Count,
    Limits,
    Room,
    read_limits,
    set_limits,
)

from ..helpers import NOW_US, make_name, place, put, tasks, wait_until

pytestmark = pytest.mark.usefixtures("no_sync")


@pytest.fixture
def spooler(spool: SpoolDir, monkeypatch: pytest.MonkeyPatch) -> Spooler:
    monkeypatch.setitem(handle._DIRS, spool.path, spool)
    return Spooler(spool.path, durability="fast")


def count_says(spool: SpoolDir, count: int, time_us: int, took_us: int = 0) -> None:
    text = f'{{"count":{count},"time_us":{time_us},"took_us":{took_us}}}'
    Path(spool.path, room.COUNT_FILE).write_text(text)


# -- the limits -----------------------------------------------------------------


def test_a_spool_has_no_limits_at_first(spool: SpoolDir) -> None:
    assert read_limits(spool) == NO_LIMITS
    assert not Path(spool.path, room.FILE).exists()


def test_limits_that_are_not_given_are_left(spool: SpoolDir) -> None:
    set_limits(spool, max_waiting=5, min_free=100)
    assert set_limits(spool, min_free=200) == Limits(5, 200)
    assert set_limits(spool) == read_limits(spool) == Limits(5, 200)


def test_zero_takes_a_limit_off(spool: SpoolDir) -> None:
    set_limits(spool, max_waiting=5, min_free=100, min_free_inodes=7)
    assert set_limits(spool, max_waiting=0) == Limits(None, 100, 7)
    set_limits(spool, min_free=0, min_free_inodes=0)
    assert not Path(spool.path, room.FILE).exists()


def test_limits_that_stay_as_they_are_are_not_written(spool: SpoolDir) -> None:
    set_limits(spool, max_waiting=5)
    before = os.stat(f"{spool.path}/{room.FILE}")
    set_limits(spool, max_waiting=5)
    assert os.stat(f"{spool.path}/{room.FILE}").st_ino == before.st_ino


def test_whoever_may_read_the_marker_may_read_the_limits(spool: SpoolDir) -> None:
    marker = Path(spool.path, ".spool")
    marker.chmod(0o640)
    set_limits(spool, max_waiting=5)
    assert Path(spool.path, room.FILE).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", ["", "[]", '{"max_waiting":0}', '{"min_free":"x"}'])
def test_damaged_limits_are_told_and_replaced(spool: SpoolDir, text: str) -> None:
    Path(spool.path, room.FILE).write_text(text)
    with pytest.raises(ValueError, match=r"\.room cannot be read: "):
        read_limits(spool)
    assert set_limits(spool, max_waiting=5) == read_limits(spool) == Limits(5)


def test_damaged_limits_leave_what_held_before(
    spool: SpoolDir, caplog: pytest.LogCaptureFixture
) -> None:
    set_limits(spool, max_waiting=5)
    known = Room(spool)
    assert known.look(NOW_US) == Limits(5)
    Path(spool.path, room.FILE).write_text("{")
    assert known.look(NOW_US + 2_000_000) == Limits(5)
    assert known.look(NOW_US + 4_000_000) == Limits(5)
    assert caplog.text.count("what it had said before still holds") == 1


def test_unknown_limits_are_ignored(spool: SpoolDir) -> None:
    Path(spool.path, room.FILE).write_text('{"max_waiting":5,"more":1}')
    assert read_limits(spool) == Limits(5)


def test_limits_are_looked_at_once_a_second(spool: SpoolDir) -> None:
    known = Room(spool)
    assert known.look(NOW_US) == NO_LIMITS
    set_limits(spool, max_waiting=5)
    assert known.look(NOW_US + 999_999) == NO_LIMITS
    assert known.look(NOW_US + 1_000_000) == Limits(5)


def test_a_clock_that_was_set_back_does_not_hide_limits(spool: SpoolDir) -> None:
    known = Room(spool)
    known.look(NOW_US)
    set_limits(spool, max_waiting=5)
    assert known.look(NOW_US - 1) == Limits(5)


# -- counting ---------------------------------------------------------------------


def test_due_and_later_tasks_and_dropped_files_wait(spool: SpoolDir) -> None:
    put(spool, make_name(NOW_US))
    put(spool, make_name(NOW_US + 10**12, priority=77))
    place(spool, "3/dropped")
    place(spool, "dropped")
    assert room.count_waiting(spool) == 4


def test_nothing_else_waits(spool: SpoolDir) -> None:
    name = make_name()
    for path in (
        f"held/{name}",
        f"failed/{name}",
        f"running/w/{name}",
        f"done/{name.id}",
    ):
        place(spool, path)
    place(spool, "5/.hidden")
    place(spool, "tmp/x")
    assert room.count_waiting(spool) == 0


@pytest.mark.parametrize(
    ("age_us", "took_us", "good"),
    [
        (0, 0, True),
        (999_999, 0, True),
        (1_000_000, 0, False),
        (1_000_000, 100_000, True),
        (2_000_000, 100_000, False),
        (-1, 0, False),
    ],
)
def test_how_long_a_count_is_good(age_us: int, took_us: int, good: bool) -> None:
    assert Count(1, NOW_US, took_us).is_good(NOW_US + age_us) is good


# -- every way to put -----------------------------------------------------------------


def nothing(n: int = 0) -> None:
    pass


WAYS: dict[str, Callable[[Spooler], object]] = {
    "by name": lambda to: to.put("nothing", {}),
    "with a key": lambda to: to.put("nothing", {}, key="k"),
    "a function": lambda to: to.spool(nothing).spool(),
    "safe": lambda to: to.spool(nothing).using(durability="safe").spool(),
    "later": lambda to: to.spool(nothing).using(at="+5m").spool(n=1),
    "with a long argument": lambda to: to.call("nothing", {"x": "y" * 9999}).spool(),
    "a call": lambda to: to.spool(nothing).call().spool(),
    "a batch of calls": lambda to: spool_many([to.call("nothing", {})]),
    "a batch of rows": lambda to: to.spool(nothing).map([1, 2, 3]),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_put_is_refused_when_too_many_wait(
    spool: SpoolDir, spooler: Spooler, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOOL_DIR", spool.path)
    set_limits(spool, max_waiting=1)
    WAYS[way](spooler)
    before = tasks(spool)
    assert len(before) == 1
    with pytest.raises(SpoolFull) as caught:
        WAYS[way](spooler)
    assert tasks(spool) == before
    error = caught.value
    assert isinstance(error, SpoolerError)
    assert (error.path, error.what) == (spool.path, "max_waiting")
    assert (error.limit, error.found) == (1, 1)
    assert str(error) == (
        f"{spool.path} is full: 1 tasks wait, and max_waiting is 1; put it again later,"
        " see that workers keep up, or change the limit with `spool init --max-waiting`"
    )


@pytest.mark.parametrize("what", ["min_free", "min_free_inodes"])
@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_put_is_refused_when_the_disk_is_too_full(
    spool: SpoolDir,
    spooler: Spooler,
    way: str,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPOOL_DIR", spool.path)
    set_limits(spool, **{what: 2**62})
    with pytest.raises(SpoolFull, match=f" are free on its file system, and {what} is"):
        WAYS[way](spooler)
    assert not tasks(spool)
    set_limits(spool, **{what: 1})
    wait_until(lambda: takes_again(lambda: WAYS[way](spooler)), timeout=10.0)


def takes_again(act: Callable[[], object]) -> bool:
    try:
        act()
    except SpoolFull:
        return False
    return True


def test_a_producer_that_is_alone_is_held_to_the_limit_exactly(
    spool: SpoolDir, spooler: Spooler
) -> None:
    set_limits(spool, max_waiting=50)
    for _ in range(50):
        spooler.put("t", {})
    for _ in range(5):
        with pytest.raises(SpoolFull):
            spooler.put("t", {})
    assert len(tasks(spool)) == 50


def test_when_tasks_are_gone_more_are_taken(spool: SpoolDir, spooler: Spooler) -> None:
    set_limits(spool, max_waiting=2)
    for _ in range(2):
        spooler.put("t", {})
    with pytest.raises(SpoolFull):
        spooler.put("t", {})
    path = next(iter(tasks(spool)))
    Path(spool.path, path).unlink()
    wait_until(lambda: takes_again(lambda: spooler.put("t", {})), timeout=10.0)
    with pytest.raises(SpoolFull):
        spooler.put("t", {})


def test_limits_that_come_later_are_seen_within_a_second(
    spool: SpoolDir, spooler: Spooler
) -> None:
    spooler.put("t", {})
    set_limits(spool, max_waiting=1)
    wait_until(lambda: not takes_again(lambda: spooler.put("t", {})), timeout=10.0)


def test_what_others_counted_is_used_and_own_puts_are_added(
    spool: SpoolDir, spooler: Spooler
) -> None:
    set_limits(spool, max_waiting=5)
    # It takes very long to count here, so nobody does.
    count_says(spool, 3, CLOCK.now_us(), took_us=60_000_000)
    spooler.put("t", {})
    spooler.put("t", {})
    with pytest.raises(SpoolFull) as caught:
        spooler.put("t", {})
    assert caught.value.found == 5


@pytest.mark.parametrize("ahead_us", [-3_600_000_000, 3_600_000_000])
def test_an_old_count_and_one_from_the_future_are_not_used(
    spool: SpoolDir, spooler: Spooler, ahead_us: int
) -> None:
    set_limits(spool, max_waiting=5)
    count_says(spool, 1000, CLOCK.now_us() + ahead_us)
    spooler.put("t", {})


def test_a_damaged_count_is_not_used(spool: SpoolDir, spooler: Spooler) -> None:
    set_limits(spool, max_waiting=5)
    Path(spool.path, room.COUNT_FILE).write_bytes(b"\xff{")
    spooler.put("t", {})


def test_what_one_has_counted_is_shared(spool: SpoolDir, spooler: Spooler) -> None:
    set_limits(spool, max_waiting=5)
    place(spool, "3/dropped")
    spooler.put("t", {})
    assert room.shared_count(spool).count == 1


def test_a_put_without_limits_looks_for_them_once_a_second(
    spool: SpoolDir, spooler: Spooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    look = Room.look

    def told(self: Room, now_us: int) -> Limits:
        looks.append(now_us)
        return look(self, now_us)

    monkeypatch.setattr(Room, "look", told)
    function = spooler.spool(nothing)
    begun = CLOCK.monotonic()
    for number in range(100):
        function.spool(number)
    assert 1 <= len(looks) <= 1 + CLOCK.monotonic() - begun
