"""When an interval or a cron line is next due."""

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings, strategies as st

from spooler.errors import UsageError
from spooler.schedule import MAX_INTERVAL, MIN_INTERVAL, CronLine, Interval, Schedule
from spooler.slots import check, latest_slot_us, next_slot_us
from spooler.task import MAX_DUE_US

PARIS = ZoneInfo("Europe/Paris")
NIGHTLY = CronLine("30 2 * * *", "Europe/Paris")
NEVER = CronLine("0 0 */28 2 MON#2")
"""The 1st and the 29th are never a second Monday; cronsim does not see it."""


def us(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp()) * 1_000_000


def slots(schedule: Schedule, after: str, until: str) -> Iterator[str]:
    """Yield each slot of a period, as the clocks of Paris show it."""
    slot = next_slot_us(schedule, us(after))
    while slot is not None and slot <= us(until):
        yield datetime.fromtimestamp(slot // 1_000_000, PARIS).isoformat()
        slot = next_slot_us(schedule, slot)


def test_the_slots_of_an_interval_are_its_multiples_since_1970() -> None:
    assert next_slot_us(Interval(10), 1_795_208_463_000_001) == 1_795_208_470_000_000
    assert latest_slot_us(Interval(10), 1_795_208_463_000_001) == 1_795_208_460_000_000


def test_a_slot_of_an_interval_is_the_latest_at_its_own_moment() -> None:
    assert latest_slot_us(Interval(10), 1_795_208_460_000_000) == 1_795_208_460_000_000
    assert next_slot_us(Interval(10), 1_795_208_460_000_000) == 1_795_208_470_000_000


def test_an_interval_may_be_a_fraction_of_a_second() -> None:
    assert next_slot_us(Interval(0.1), 1_000_000) == 1_100_000


def test_an_interval_has_no_slot_that_does_not_fit_in_a_name() -> None:
    assert next_slot_us(Interval(1), MAX_DUE_US) is None
    assert next_slot_us(Interval(1), 10**30) is None


@pytest.mark.parametrize("schedule", [Interval(10), CronLine("0 0 1 * *")])
def test_the_first_slot_of_all_is_in_1970(schedule: Schedule) -> None:
    assert next_slot_us(schedule, -(10**30)) == 0
    assert latest_slot_us(schedule, 0) == 0


@pytest.mark.parametrize("schedule", [Interval(10), CronLine("0 0 1 * *")])
def test_there_is_no_slot_before_1970(schedule: Schedule) -> None:
    assert latest_slot_us(schedule, -1) is None
    assert latest_slot_us(schedule, -(10**30)) is None


def test_a_cron_line_has_no_slot_before_its_first_in_1970() -> None:
    assert latest_slot_us(CronLine("0 0 1 6 *"), us("1970-02-01T00:00Z")) is None


def test_a_cron_line_has_no_slot_that_does_not_fit_in_a_name() -> None:
    assert next_slot_us(CronLine("* * * * *"), MAX_DUE_US) is None
    assert next_slot_us(CronLine("* * * * *"), 10**30) is None


def test_the_latest_slot_of_a_far_future_is_the_last_that_fits_in_a_name() -> None:
    for schedule in Interval(60), CronLine("* * * * *"):
        assert latest_slot_us(schedule, 10**30) == MAX_DUE_US // 60_000_000 * 60_000_000


def test_a_cron_line_is_next_due_after_the_moment_and_not_at_it() -> None:
    hourly = CronLine("0 * * * *")
    noon = us("2026-11-20T12:00Z")
    assert next_slot_us(hourly, noon - 1) == noon
    assert next_slot_us(hourly, noon) == us("2026-11-20T13:00Z")


def test_a_cron_line_was_last_due_at_the_moment_or_before() -> None:
    hourly = CronLine("0 * * * *")
    noon = us("2026-11-20T12:00Z")
    assert latest_slot_us(hourly, noon) == noon
    assert latest_slot_us(hourly, noon - 1) == us("2026-11-20T11:00Z")


def test_a_cron_line_follows_the_clock_of_its_zone() -> None:
    line = CronLine("0 9 * * MON", "America/New_York")
    assert next_slot_us(line, us("2026-11-20T12:00Z")) == us("2026-11-23T14:00Z")


def test_a_leap_day_is_found_eight_years_away() -> None:
    line = CronLine("0 0 29 2 *")
    assert next_slot_us(line, us("2096-03-01T00:00Z")) == us("2104-02-29T00:00Z")
    assert latest_slot_us(line, us("2104-02-28T00:00Z")) == us("2096-02-29T00:00Z")


def test_a_line_without_a_match_has_neither_slot() -> None:
    assert next_slot_us(NEVER, us("2026-11-20T12:00Z")) is None
    assert latest_slot_us(NEVER, us("2026-11-20T12:00Z")) is None


def test_a_nightly_task_runs_once_right_after_the_hour_skipped_in_spring() -> None:
    assert [*slots(NIGHTLY, "2026-03-28T00:00Z", "2026-03-31T00:00Z")] == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]


def test_a_nightly_task_runs_once_in_the_hour_repeated_in_autumn() -> None:
    assert [*slots(NIGHTLY, "2026-10-24T00:00Z", "2026-10-27T00:00Z")] == [
        "2026-10-24T02:30:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]


@pytest.mark.parametrize("now", ["02:10", "02:30", "02:50"])
def test_a_nightly_task_is_not_due_again_in_the_second_of_two_hours(now: str) -> None:
    second_pass = us(f"2026-10-25T{now}+01:00")
    assert next_slot_us(NIGHTLY, second_pass) == us("2026-10-26T02:30+01:00")
    assert latest_slot_us(NIGHTLY, second_pass) == us("2026-10-25T02:30+02:00")


def test_times_in_the_hour_skipped_share_one_slot() -> None:
    line = CronLine("15,45 2 * * *", "Europe/Paris")
    assert [*slots(line, "2026-03-29T00:00Z", "2026-03-29T23:00+02:00")] == [
        "2026-03-29T03:00:00+02:00"
    ]


def test_an_hourly_line_runs_in_every_hour_there_is() -> None:
    line = CronLine("30 * * * *", "Europe/Paris")
    assert [*slots(line, "2026-03-29T01:00+01:00", "2026-03-29T04:00+02:00")] == [
        "2026-03-29T01:30:00+01:00",
        "2026-03-29T03:30:00+02:00",
    ]
    assert [*slots(line, "2026-10-25T02:00+02:00", "2026-10-25T03:00+01:00")] == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:30:00+01:00",
    ]


def test_a_line_with_a_star_for_minutes_follows_what_the_clock_shows() -> None:
    line = CronLine("*/30 2 * * *", "Europe/Paris")
    assert [*slots(line, "2026-03-29T00:00Z", "2026-03-29T23:00+02:00")] == []
    assert [*slots(line, "2026-10-25T00:00+02:00", "2026-10-25T23:00+01:00")] == [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T02:30:00+01:00",
    ]


def test_a_line_of_minutes_is_followed_through_an_hour_repeated_at_midnight() -> None:
    # cronsim's way back misses the first of these two hours altogether.
    line = CronLine("* * */14 * *", "Africa/Cairo")
    for now in us("2026-10-29T23:59:00+02:00"), us("2026-10-29T23:59:59+02:00"):
        assert latest_slot_us(line, now) == us("2026-10-29T23:59+02:00")


def test_a_day_and_a_weekday_mean_either_unless_one_begins_with_a_star() -> None:
    either = CronLine("0 0 13 * FRI")
    both = CronLine("0 0 */2 * FRI")
    after = us("2026-11-07T00:00Z")
    assert next_slot_us(either, after) == us("2026-11-13T00:00Z")
    assert next_slot_us(CronLine("0 0 10 * FRI"), after) == us("2026-11-10T00:00Z")
    assert next_slot_us(both, after) == us("2026-11-13T00:00Z")
    assert next_slot_us(both, us("2026-11-13T00:00Z")) == us("2026-11-27T00:00Z")


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    return st.one_of(
        st.just("*"),
        st.integers(2, 30).map(lambda step: f"*/{step}"),
        number.map(str),
        st.lists(number, min_size=2, max_size=3).map(
            lambda numbers: ",".join(map(str, numbers))
        ),
        st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"),
    )


LINES = st.builds(
    lambda *parts: CronLine(" ".join(parts[:5]), parts[5]),
    fields(0, 59),
    fields(0, 5) | fields(0, 23),
    fields(1, 28),
    fields(1, 12) | st.just("*"),
    fields(0, 7),
    st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Africa/Cairo"]),
)
INTERVALS = st.floats(MIN_INTERVAL, MAX_INTERVAL / 100).map(Interval)
NEAR_A_CHANGE = st.builds(
    lambda change, offset: change + offset,
    st.sampled_from([us("2026-03-29T01:00Z"), us("2026-10-25T01:00Z")]),
    st.integers(-(5 * 3600 * 10**6), 5 * 3600 * 10**6),
)
MOMENTS = NEAR_A_CHANGE | st.integers(us("1980-01-01T00:00Z"), us("2200-01-01T00:00Z"))


@settings(deadline=None)
@given(LINES | INTERVALS, MOMENTS)
def test_a_moment_lies_between_its_latest_and_its_next_slot(
    schedule: Schedule, now_us: int
) -> None:
    latest, later = latest_slot_us(schedule, now_us), next_slot_us(schedule, now_us)
    # None: some of the random lines match less than once in ten years.
    assert latest is None or latest <= now_us
    assert later is None or later > now_us
    if latest is not None:
        assert next_slot_us(schedule, latest) == later
        assert next_slot_us(schedule, latest - 1) == latest
        assert latest_slot_us(schedule, latest) == latest
    if later is not None:
        assert latest_slot_us(schedule, later) == later
        assert latest_slot_us(schedule, later - 1) == latest


@settings(deadline=None)
@given(LINES, MOMENTS)
def test_a_slot_shows_the_minute_and_hour_of_its_line(
    line: CronLine, now_us: int
) -> None:
    minute, hour, *_ = line.line.split()
    if not minute.isdigit() or not hour.isdigit():
        return
    slot = next_slot_us(line, now_us)
    if slot is None:
        return
    shown = datetime.fromtimestamp(slot // 1_000_000, ZoneInfo(line.tz))
    before = datetime.fromtimestamp(slot // 1_000_000 - 1, ZoneInfo(line.tz))
    skipped = shown.utcoffset() != before.utcoffset()
    assert skipped or (shown.minute, shown.hour) == (int(minute), int(hour))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 59), st.integers(0, 23), st.sampled_from([2026, 2027, 2031]))
def test_a_daily_line_has_one_slot_on_every_day_of_the_year(
    minute: int, hour: int, year: int
) -> None:
    line = CronLine(f"{minute} {hour} * * *", "Europe/Paris")
    found = [*slots(line, f"{year}-01-01T00:00+01:00", f"{year}-12-31T23:59+01:00")]
    days = [datetime.fromisoformat(slot).toordinal() for slot in found]
    assert all(later - day == 1 for day, later in pairwise(days))
    assert len(days) in (364, 365)  # 364: the first is the moment itself, at 00:00


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (CronLine("60 * * * *"), "cron line '60 * * * *': bad minute"),
        (CronLine("0 24 * * *"), "cron line '0 24 * * *': bad hour"),
        (CronLine("0 0 30 2 *"), "cron line '0 0 30 2 *': bad day-of-month"),
        (CronLine("0 0 * 13 *"), "cron line '0 0 * 13 *': bad month"),
        (CronLine("0 0 * * 8"), "cron line '0 0 * * 8': bad day-of-week"),
        (CronLine("*/0 * * * *"), "cron line '*/0 * * * *': bad minute"),
        (CronLine("@daily"), "cron line '@daily' takes five fields and has 1"),
        (CronLine(""), "cron line '' takes five fields and has 0"),
        (
            CronLine("0 0 3 * * *"),
            "cron line '0 0 3 * * *' takes five fields and has 6",
        ),
        (NEVER, "cron line '0 0 */28 2 MON#2' is never due"),
        (CronLine("* * * * *", "Mars/Olympus"), "there is no time zone 'Mars/Olympus'"),
        (CronLine("* * * * *", "../../etc"), "there is no time zone '../../etc'"),
        (CronLine("* * * * *", "Europe"), "there is no time zone 'Europe'"),
        (CronLine("* * * * *", ""), "there is no time zone ''"),
        (CronLine("* * * * *", "\0"), r"there is no time zone '\x00'"),
    ],
)
def test_check_says_what_is_wrong_with_which_line_or_zone(
    schedule: Schedule, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check(schedule)
    assert str(caught.value) == message


def test_check_refuses_a_number_of_thousands_of_digits() -> None:
    with pytest.raises(UsageError, match=r": bad number$"):
        check(CronLine("1" * 5000 + " * * * *"))


@pytest.mark.parametrize(
    "schedule",
    [Interval(0.1), NIGHTLY, CronLine("0 0 29 2 *"), CronLine("0 0 L * MON#5")],
)
def test_check_accepts_what_will_be_due(schedule: Schedule) -> None:
    check(schedule)


@settings(deadline=None, max_examples=50)
@given(st.text("0123456789*/,-#LWMONJAN \n\0¹é", max_size=20), st.text(max_size=8))
def test_check_has_no_other_answer_than_accepting_or_refusing(
    line: str, tz: str
) -> None:
    for schedule in CronLine(line), CronLine("* * * * *", tz):
        problem = ""
        try:
            check(schedule)
        except UsageError as error:
            problem = str(error)
        assert problem.isprintable()


@settings(deadline=None)
@given(st.lists(st.text("0123456789*/,-#LWMON¹", max_size=6), min_size=5, max_size=5))
def test_check_has_no_other_answer_for_five_fields(parts: list[str]) -> None:
    line = CronLine(" ".join(parts))
    try:
        check(line)
    except UsageError:
        return
    assert next_slot_us(line, us("2026-11-20T12:00Z")) is not None


def test_a_line_that_check_refuses_is_refused_when_it_is_used_too() -> None:
    bad = CronLine("nonsense")
    for use in next_slot_us, latest_slot_us:
        with pytest.raises(
            UsageError, match=r"^cron line 'nonsense' takes five fields"
        ):
            use(bad, 0)
