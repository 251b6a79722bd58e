"""Names that wait for a limit."""

import pytest
from tests.helpers import FakeClock

from spooler.parking import FREED_MAX, LOOK_AGAIN, Parking

LIMIT = "a" * 32
OTHER = "b" * 32


def path(number: int, priority: int = 5, task: str = "t") -> str:
    return f"{priority}/20261120T2101/{number:016d}.{priority}.0.{number:016x}.{task}"


class Lot:
    """A parking lot and the backlog that it gives back to."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.given: list[str] = []
        self.gone: set[str] = set()
        self.parking = Parking(self.give_back, self.clock)

    def give_back(self, path: str) -> bool:
        if path in self.gone:
            return False
        self.given.append(path)
        return True

    def take(self) -> list[str]:
        """Return what was given back since the last time."""
        given, self.given = self.given, []
        return given

    def park(self, *numbers: int, seconds: float | None = None) -> None:
        for number in numbers:
            self.parking.park(LIMIT, path(number), seconds)

    def wait(self, seconds: float) -> list[str]:
        self.clock.advance(seconds)
        self.parking.look()
        return self.take()


@pytest.fixture
def lot() -> Lot:
    return Lot()


def test_the_first_name_goes_first(lot: Lot) -> None:
    lot.park(3, 1, 2)
    assert len(lot.parking) == 3
    lot.parking.ended(LIMIT)
    assert lot.take() == [path(1)]
    assert len(lot.parking) == 2


def test_a_more_urgent_name_goes_before_all(lot: Lot) -> None:
    lot.park(1, 2)
    lot.parking.park(LIMIT, path(9, priority=2), None)
    lot.parking.park(LIMIT, path(8, priority=10), None)
    lot.parking.ended(LIMIT)
    assert lot.take() == [path(9, priority=2)]


def test_one_is_tried_at_a_time(lot: Lot) -> None:
    lot.park(1, 2, 3)
    lot.parking.ended(LIMIT)
    assert lot.take() == [path(1)]
    lot.parking.ended(LIMIT)
    assert lot.take() == []


def test_each_that_begins_lets_the_next_one_try(lot: Lot) -> None:
    lot.park(1, 2, 3)
    lot.parking.ended(LIMIT)
    for number in (1, 2, 3):
        assert lot.take() == [path(number)]
        lot.parking.begun(LIMIT)
    assert lot.take() == []
    assert len(lot.parking) == 0
    assert lot.parking.next_moment() is None


def test_one_that_is_refused_stops_it(lot: Lot) -> None:
    lot.park(1, 2)
    lot.parking.ended(LIMIT)
    lot.take()
    lot.park(1)
    lot.parking.look()
    assert lot.take() == []
    assert lot.wait(LOOK_AGAIN) == [path(1)]


def test_a_slot_that_was_freed_meanwhile_is_tried_at_once(lot: Lot) -> None:
    lot.park(1, 2)
    lot.parking.ended(LIMIT)
    lot.take()
    lot.parking.ended(LIMIT)  # before the answer comes
    lot.park(1)
    lot.parking.look()
    assert lot.take() == [path(1)]


def test_one_that_was_refused_just_before_a_slot_was_freed_is_tried(lot: Lot) -> None:
    lot.parking.ended(LIMIT)
    lot.park(1)
    lot.parking.look()
    assert lot.take() == [path(1)]


def test_that_is_forgotten_soon(lot: Lot) -> None:
    for number in range(2 * FREED_MAX):
        lot.parking.ended(f"{number:032x}")
    lot.parking.ended(LIMIT)
    assert len(lot.parking._freed) <= FREED_MAX
    lot.clock.advance(0.2)
    lot.park(1)
    lot.parking.look()
    assert lot.take() == []


def test_after_its_seconds_it_is_tried(lot: Lot) -> None:
    lot.park(1, 2, seconds=30.0)
    assert lot.parking.next_moment() == lot.clock.monotonic() + 30
    assert lot.wait(29.9) == []
    assert lot.wait(0.1) == [path(1)]


def test_the_earliest_moment_counts(lot: Lot) -> None:
    lot.park(1, seconds=30.0)
    lot.park(2, seconds=10.0)
    lot.park(3, seconds=20.0)
    assert lot.wait(10.0) == [path(1)]


def test_a_limit_of_which_nothing_is_heard_is_tried_once_a_second(lot: Lot) -> None:
    lot.park(1, 2)
    assert lot.wait(LOOK_AGAIN) == [path(1)]
    lot.park(1)
    assert lot.wait(LOOK_AGAIN / 2) == []
    assert lot.wait(LOOK_AGAIN / 2) == [path(1)]


def test_one_that_is_not_answered_does_not_stop_the_others(lot: Lot) -> None:
    lot.park(1, 2, 3)
    assert lot.wait(LOOK_AGAIN) == [path(1)]
    assert lot.wait(LOOK_AGAIN) == [path(2)]
    lot.parking.settled(path(1))  # at last: it is not waited for any more
    assert lot.take() == []


def test_one_that_somebody_else_has_run_is_passed_over(lot: Lot) -> None:
    lot.park(1, 2, 3)
    lot.parking.ended(LIMIT)
    assert lot.take() == [path(1)]
    lot.parking.settled(path(1))  # it could not be claimed
    assert lot.take() == [path(2)]


def test_those_that_the_backlog_does_not_know_are_passed_over(lot: Lot) -> None:
    lot.park(1, 2, 3)
    lot.gone = {path(1), path(2)}
    lot.parking.ended(LIMIT)
    assert lot.take() == [path(3)]
    assert len(lot.parking) == 0
    lot.parking.settled(path(3))
    assert lot.parking.next_moment() is None


def test_settling_what_is_not_tried_changes_nothing(lot: Lot) -> None:
    lot.park(1)
    lot.parking.settled(path(7))
    lot.parking.settled(path(1))
    assert lot.take() == []
    assert len(lot.parking) == 1


def test_limits_do_not_mix(lot: Lot) -> None:
    lot.park(1)
    lot.parking.park(OTHER, path(2), None)
    lot.parking.ended(OTHER)
    lot.parking.begun("c" * 32)
    assert lot.take() == [path(2)]


def test_a_name_is_parked_once(lot: Lot) -> None:
    lot.park(1, 1)
    lot.parking.ended(LIMIT)
    lot.parking.begun(LIMIT)
    assert lot.take() == [path(1)]


def test_a_name_that_another_limit_refuses_moves_there(lot: Lot) -> None:
    lot.park(1)
    lot.parking.park(OTHER, path(1), 5.0)
    assert len(lot.parking) == 1
    lot.parking.ended(LIMIT)
    assert lot.take() == []
    assert lot.wait(5.0) == [path(1)]


def test_those_of_a_limit_that_all_share_need_not_be_tried(lot: Lot) -> None:
    lot.parking.use({"t": (LIMIT,)})
    lot.take()
    names = [path(1), path(2, task="u"), path(3)]
    assert lot.parking.divert(names) == names
    lot.park(1)
    assert lot.parking.divert([path(2, task="u"), path(3), path(4)]) == [
        path(2, task="u")
    ]
    assert len(lot.parking) == 3
    lot.parking.ended(LIMIT)
    [probe] = lot.take()
    assert lot.parking.divert([probe]) == [probe]
    assert lot.parking.divert([path(5)]) == []


def test_a_reload_gives_all_back(lot: Lot) -> None:
    lot.park(1, 2)
    lot.parking.park(OTHER, path(3), 9.0)
    lot.parking.use({})
    assert sorted(lot.take()) == [path(1), path(2), path(3)]
    assert not lot.parking
    assert lot.parking.next_moment() is None
    assert lot.wait(100) == []


def test_a_long_queue_costs_no_more_than_a_short_one(lot: Lot) -> None:
    lot.park(*range(10_000))
    for _ in range(100):
        assert len(lot.wait(LOOK_AGAIN)) == 1
        lot.park(0)
    assert len(lot.parking._moments) < 30_000
