"""Lines that may come by the thousand: the first are told, the others counted."""

import logging

import pytest
from tests.helpers import FakeClock

from spooler.alarm import LINES, SOON, WINDOW, Alarm

LOG = logging.getLogger("spooler.test")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def alarm(clock: FakeClock) -> Alarm:
    return Alarm(LOG, "%d more", clock)


def tell(alarm: Alarm, count: int) -> None:
    for number in range(count):
        alarm.tell(logging.WARNING, "number %d", number)


def test_a_few_lines_are_told_and_nothing_else(
    alarm: Alarm, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    tell(alarm, LINES)
    clock.advance(10 * WINDOW)
    alarm.look()
    assert caplog.messages == [f"number {number}" for number in range(LINES)]


def test_of_many_the_first_are_told_soon_their_number_and_later_the_rest(
    alarm: Alarm, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    tell(alarm, LINES + 5000)
    alarm.look()
    assert len(caplog.messages) == LINES
    clock.advance(SOON)
    alarm.look()
    assert caplog.messages[LINES:] == ["5000 more"]
    tell(alarm, 7)
    clock.advance(SOON)
    alarm.look()
    assert len(caplog.messages) == LINES + 1
    clock.advance(WINDOW)
    alarm.look()
    assert caplog.messages[LINES + 1 :] == ["7 more"]


def test_after_a_minute_lines_are_told_again(
    alarm: Alarm, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    tell(alarm, LINES + 3)
    clock.advance(WINDOW)
    tell(alarm, 2)
    assert caplog.messages[LINES:] == ["3 more", "number 0", "number 1"]


def test_what_is_not_to_be_logged_is_not(
    alarm: Alarm, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    alarm.tell(logging.DEBUG, "number %d", 1)
    assert caplog.messages == []
