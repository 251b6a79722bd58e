"""Again? and when?"""

import random
import re
from math import inf, nan

import pytest
from hypothesis import given, strategies as st

from spooler import retry
from spooler.errors import UsageError
from spooler.retry import (
    MAX_BACKOFF,
    RetryOptions,
    RetryPolicy,
    ignore_delay,
    merge,
)
from spooler.task import MAX_ATTEMPT

PLAIN = RetryPolicy(jitter=0.0)
BAD_FIELDS = [
    ("max_attempts", -1, "0 to 999999"),
    ("max_attempts", MAX_ATTEMPT + 1, "0 to 999999"),
    ("backoff", -0.1, "0 to 31622400"),
    ("backoff", nan, "0 to 31622400"),
    ("backoff", inf, "0 to 31622400"),
    ("backoff_max", -1.0, "0 to 31622400"),
    ("backoff_max", nan, "0 to 31622400"),
    ("backoff_max", MAX_BACKOFF + 1.0, "0 to 31622400"),
    ("jitter", -0.1, "0 to 1"),
    ("jitter", 1.1, "0 to 1"),
    ("jitter", nan, "0 to 1"),
]


def test_the_table_in_the_module_is_what_the_defaults_give() -> None:
    rows = re.findall(
        r"^(\d+) +(\d+) \((\d+) to (\d+)\) +(?:(\d+) min )?(\d+) s$",
        retry.__doc__ or "",
        re.MULTILINE,
    )
    total = 0
    for index, row in enumerate(rows, 1):
        attempt, delay, least, most, minutes, seconds = (int(n or 0) for n in row)
        total += delay
        policy = RetryPolicy()
        assert attempt == index
        assert policy.delay(attempt, lambda: 0.5) == delay
        assert policy.delay(attempt, lambda: 0.0) == pytest.approx(least)
        assert policy.delay(attempt, lambda: 1.0) == pytest.approx(most)
        assert minutes * 60 + seconds == total
    assert len(rows) == RetryPolicy().max_attempts - 1


def test_the_delay_doubles_up_to_the_maximum() -> None:
    policy = RetryPolicy(backoff=3.0, backoff_max=20.0, jitter=0.0)
    assert [policy.delay(attempt) for attempt in range(1, 6)] == [3, 6, 12, 20, 20]


def test_a_backoff_above_the_maximum_is_cut() -> None:
    assert RetryPolicy(backoff=50.0, backoff_max=20.0, jitter=0.0).delay(1) == 20


def test_a_backoff_of_zero_is_always_at_once() -> None:
    assert RetryPolicy(backoff=0.0).delay(MAX_ATTEMPT) == 0


def test_a_million_attempts_do_not_overflow() -> None:
    assert PLAIN.delay(10**6) == 3600
    assert RetryPolicy(backoff=MAX_BACKOFF, jitter=0.0).delay(10**6) == 3600


def test_the_delay_before_any_attempt_is_the_first() -> None:
    assert PLAIN.delay(0) == PLAIN.delay(1) == 5


def test_jitter_applies_at_the_maximum_too() -> None:
    assert RetryPolicy().delay(100, lambda: 1.0) == pytest.approx(3600 * 1.2)


def test_the_delay_is_random_unless_told_otherwise() -> None:
    policy = RetryPolicy()
    assert len({policy.delay(1) for _ in range(20)}) > 1


@given(
    st.builds(
        RetryPolicy,
        backoff=st.floats(0, MAX_BACKOFF),
        backoff_max=st.floats(0, MAX_BACKOFF),
        jitter=st.floats(0, 1),
    ),
    st.integers(0, 10**6),
    st.integers(),
)
def test_the_delay_stays_inside_the_jitter_of_the_maximum(
    policy: RetryPolicy, attempt: int, seed: int
) -> None:
    delay = policy.delay(attempt, random.Random(seed).random)
    assert 0 <= delay <= policy.backoff_max * (1 + policy.jitter)


def test_a_task_is_exhausted_when_it_ran_as_often_as_it_may() -> None:
    policy = RetryPolicy(max_attempts=3)
    assert [policy.exhausted(attempt) for attempt in range(1, 5)] == [
        False,
        False,
        True,
        True,
    ]


def test_a_task_without_a_limit_is_never_exhausted() -> None:
    assert not RetryPolicy(max_attempts=0).exhausted(MAX_ATTEMPT)


def test_a_task_whose_worker_died_once_runs_at_once() -> None:
    assert RetryPolicy().crash_delay(1) == 0
    assert RetryPolicy().crash_delay(0) == 0


def test_a_task_whose_worker_died_again_waits_a_second() -> None:
    assert RetryPolicy().crash_delay(2) == 1
    assert RetryPolicy().crash_delay(MAX_ATTEMPT) == 1


def test_a_task_whose_worker_died_waits_no_longer_than_its_backoff() -> None:
    assert RetryPolicy(backoff=0.25).crash_delay(2) == 0.25


@pytest.mark.parametrize(("field", "value", "takes"), BAD_FIELDS)
def test_a_policy_out_of_range_is_refused_by_field_and_value(
    field: str, value: float, takes: str
) -> None:
    with pytest.raises(UsageError) as caught:
        RetryPolicy(**{field: value})  # type: ignore[arg-type] # any of the fields
    assert str(caught.value) == f"{field}={value} cannot be: it takes {takes}"


@pytest.mark.parametrize(
    ("field", "value", "takes"),
    [
        *BAD_FIELDS,
        ("retries", -1, "0 to 999998"),
        ("retries", MAX_ATTEMPT, "0 to 999998"),
    ],
)
def test_options_out_of_range_are_refused_by_field_and_value(
    field: str, value: float, takes: str
) -> None:
    with pytest.raises(UsageError) as caught:
        RetryOptions(**{field: value})  # type: ignore[arg-type] # any of the fields
    assert str(caught.value) == f"{field}={value} cannot be: it takes {takes}"


def test_a_policy_may_have_the_limits_themselves() -> None:
    RetryPolicy(max_attempts=0, backoff=0, backoff_max=0, jitter=0)
    RetryPolicy(MAX_ATTEMPT, MAX_BACKOFF, MAX_BACKOFF, 1)


def test_retries_and_max_attempts_together_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        RetryOptions(retries=0, max_attempts=0)
    assert str(caught.value) == (
        "retries=0 and max_attempts=0 cannot both be given: max_attempts is retries + 1"
    )


def test_a_task_without_options_takes_the_defaults() -> None:
    defaults = RetryPolicy(7, 1.0, 2.0, 0.5)
    assert merge(defaults, RetryOptions()) == defaults


def test_a_task_overrides_what_it_names_and_nothing_else() -> None:
    defaults = RetryPolicy(7, 1.0, 2.0, 0.5)
    assert merge(defaults, RetryOptions(max_attempts=0)) == RetryPolicy(
        0, 1.0, 2.0, 0.5
    )
    assert merge(defaults, RetryOptions(backoff=0.0)) == RetryPolicy(7, 0.0, 2.0, 0.5)
    assert merge(defaults, RetryOptions(backoff_max=9.0)) == RetryPolicy(
        7, 1.0, 9.0, 0.5
    )
    assert merge(defaults, RetryOptions(jitter=0.0)) == RetryPolicy(7, 1.0, 2.0, 0.0)


def test_retries_are_the_runs_after_the_first() -> None:
    assert merge(PLAIN, RetryOptions(retries=5)).max_attempts == 6
    assert merge(PLAIN, RetryOptions(retries=0)).max_attempts == 1


@pytest.mark.parametrize(
    ("age", "delay"),
    [(-5.0, 1), (0.0, 1), (0.5, 1), (7.0, 7), (300.0, 300), (1e9, 300), (nan, 1)],
)
def test_an_unknown_task_waits_as_long_as_it_has_waited_within_limits(
    age: float, delay: float
) -> None:
    assert ignore_delay(age) == delay


def test_the_waits_of_an_unknown_task_double() -> None:
    age, waits = 0.0, []
    for _ in range(6):
        waits.append(ignore_delay(age))
        age += waits[-1]
    assert waits == [1, 1, 2, 4, 8, 16]
