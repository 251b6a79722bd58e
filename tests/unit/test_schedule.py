"""When a timer runs: the values and uWSGI's five numbers."""

from datetime import date, timedelta
from math import inf, nan

import pytest
from hypothesis import given, settings, strategies as st

from spooler.errors import UsageError
from spooler.schedule import (
    MAX_INTERVAL,
    MIN_INTERVAL,
    CronLine,
    Interval,
    from_uwsgi,
    interval,
)
from spooler.slots import next_slot_us

JANUARY_2024 = 1_704_067_200_000_000
DAY_US = 86_400_000_000


@pytest.mark.parametrize("value", [90, 90.0, timedelta(minutes=1, seconds=30)])
def test_an_interval_is_made_from_seconds_or_a_timedelta(
    value: float | timedelta,
) -> None:
    assert interval(value) == Interval(90)


@pytest.mark.parametrize("value", [MIN_INTERVAL, MAX_INTERVAL])
def test_an_interval_may_have_the_limits_themselves(value: float) -> None:
    assert interval(value).seconds == value


@pytest.mark.parametrize(
    "value", [0, -1, 0.0999, nan, inf, -inf, 10**400, MAX_INTERVAL + 1, timedelta(0)]
)
def test_an_interval_outside_the_limits_is_refused(value: float | timedelta) -> None:
    with pytest.raises(UsageError, match=r"^an interval of .* seconds cannot be"):
        interval(value)


def test_an_interval_that_is_refused_says_which_and_what_would_do() -> None:
    with pytest.raises(UsageError) as caught:
        Interval(0.05)
    assert str(caught.value) == (
        "an interval of 0.05 seconds cannot be: it takes 0.1 to 3162240000"
    )


def test_a_cron_line_is_in_utc_unless_it_names_a_zone() -> None:
    assert CronLine("0 0 * * *").tz == "UTC"


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        ((-1, -1, -1, -1, -1), "* * * * *"),
        ((0, 0, 1, 1, 0), "0 0 1 1 0"),
        ((59, 23, 31, 12, 7), "59 23 31 12 7"),
        ((-5, -2, -1, -1, -3), "*/5 */2 * * */3"),
        ((-60, -24, -31, -12, -7), "*/60 */24 31-31/31 12-12/12 */7"),
        ((0, 0, -2, -3, -1), "0 0 2-31/2 3-12/3 *"),
    ],
)
def test_the_five_numbers_of_uwsgi_become_a_cron_line(
    numbers: tuple[int, int, int, int, int], line: str
) -> None:
    assert from_uwsgi(*numbers) == CronLine(line)


def test_a_line_from_uwsgi_keeps_the_zone_it_was_given() -> None:
    line = from_uwsgi(0, 3, -1, -1, -1, tz="Europe/Paris")
    assert line == CronLine("0 3 * * *", "Europe/Paris")


def uwsgi_matches(number: int, shown: int) -> bool:
    return shown % -number == 0 if number < 0 else shown == number


def uwsgi_takes(index: int, day: int, month: int, weekday: int) -> bool:
    """Tell whether uWSGI would take a day of 2024, by its own rule."""
    shown = date(2024, 1, 1) + timedelta(index)
    weekday_shown = shown.isoweekday() % 7
    days = (
        uwsgi_matches(day, shown.day),
        uwsgi_matches(0 if weekday == 7 else weekday, weekday_shown),
    )
    either = day >= 0 and weekday >= 0
    return uwsgi_matches(month, shown.month) and (any if either else all)(days)


@settings(deadline=None)
@given(
    st.integers(-31, 31).filter(bool),
    st.integers(-12, 12).filter(bool),
    st.integers(-7, 7),
)
def test_a_line_from_uwsgi_names_the_days_that_uwsgi_would_take(
    day: int, month: int, weekday: int
) -> None:
    expected = [i for i in range(366) if uwsgi_takes(i, day, month, weekday)]
    if (day < -1 and weekday >= 0) or not expected:
        return
    line = from_uwsgi(0, 0, day, month, weekday)
    found = []
    slot = next_slot_us(line, JANUARY_2024 - 1)
    while slot is not None and (index := (slot - JANUARY_2024) // DAY_US) < 366:
        found.append(index)
        slot = next_slot_us(line, slot)
    assert found == expected


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, 60, "minute=60 cannot be: it takes 0 to 59"),
        (0, -61, "minute=-61 cannot be: it takes 0 to 59"),
        (1, 24, "hour=24 cannot be: it takes 0 to 23"),
        (1, -25, "hour=-25 cannot be: it takes 0 to 23"),
        (2, 0, "day=0 cannot be: it takes 1 to 31"),
        (2, 32, "day=32 cannot be: it takes 1 to 31"),
        (2, -32, "day=-32 cannot be: it takes 1 to 31"),
        (3, 0, "month=0 cannot be: it takes 1 to 12"),
        (3, 13, "month=13 cannot be: it takes 1 to 12"),
        (3, -13, "month=-13 cannot be: it takes 1 to 12"),
        (4, 8, "weekday=8 cannot be: it takes 0 to 7"),
        (4, -8, "weekday=-8 cannot be: it takes 0 to 7"),
    ],
)
def test_a_number_of_uwsgi_that_is_out_of_range_is_refused_by_name(
    position: int, value: int, message: str
) -> None:
    numbers = [-1] * 5
    numbers[position] = value
    with pytest.raises(UsageError) as caught:
        from_uwsgi(*numbers)
    assert str(caught.value).startswith(message)


def test_days_that_cron_would_join_with_or_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^day=-2 together with weekday=1 "):
        from_uwsgi(0, 0, -2, -1, 1)
