"""When a worker is replaced: after its runs, or when it has grown."""

from collections import Counter

import pytest
from tests.helpers import FakeClock

from spooler import recycling
from spooler.config import parse_rss
from spooler.errors import UsageError
from spooler.recycling import CHECK_EVERY, Recycling, less, resident


@pytest.mark.parametrize("limit", [0, 1, 2, 9])
def test_small_limits_are_exact(limit: int) -> None:
    assert {less(limit) for _ in range(100)} == {limit}


def test_other_limits_are_up_to_a_tenth_less_by_chance() -> None:
    found = Counter(less(1000) for _ in range(2000))
    assert min(found) >= 900
    assert max(found) <= 1000
    assert len(found) > 80


def test_a_worker_goes_on_for_ever_without_limits(clock: FakeClock) -> None:
    recycled = Recycling(0, 0, clock)
    assert not recycled.is_due(10**9)
    assert recycled.why is None
    assert recycled.look_in(10**9) is None


def test_a_worker_ends_after_its_runs(clock: FakeClock) -> None:
    recycled = Recycling(3, 0, clock)
    assert not recycled.is_due(2)
    assert recycled.is_due(3)
    assert recycled.is_due(4)
    assert recycled.why == "3 runs"


def test_the_memory_of_this_process_is_known() -> None:
    before = resident()
    data = bytearray(b"x" * (64 << 20))
    assert resident() - before > 60 << 20
    assert len(data) == 64 << 20


def test_a_worker_ends_when_it_is_larger(clock: FakeClock) -> None:
    recycled = Recycling(0, 1 << 20, clock)
    assert not recycled.is_due(0), "nothing has run"
    assert recycled.is_due(1)
    assert recycled.why is not None
    assert recycled.why.endswith("MiB of memory")
    assert recycled.is_due(2)


def test_a_worker_that_is_smaller_goes_on(clock: FakeClock) -> None:
    assert not Recycling(0, 1 << 40, clock).is_due(1)


def test_memory_is_looked_at_now_and_then_after_a_run(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def seen() -> int:
        sizes.append(1)
        return 1

    monkeypatch.setattr(recycling, "resident", seen)
    recycled = Recycling(0, 1 << 30, clock)
    assert recycled.look_in(0) is None
    recycled.is_due(1)
    recycled.is_due(1)
    recycled.is_due(2)
    assert len(sizes) == 1
    assert recycled.look_in(1) is None
    assert recycled.look_in(2) == pytest.approx(CHECK_EVERY)
    clock.advance(CHECK_EVERY + 0.01)
    assert recycled.look_in(2) == 0
    recycled.is_due(2)
    assert len(sizes) == 2
    clock.advance(CHECK_EVERY + 0.01)
    recycled.is_due(3, running=1)
    assert len(sizes) == 2, "it runs still"
    recycled.is_due(3)
    assert len(sizes) == 3


def test_a_worker_that_cannot_look_goes_on(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise OSError("too many open files")

    monkeypatch.setattr(recycling, "resident", refuse)
    assert not Recycling(0, 1 << 20, clock).is_due(1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("2048K", 2 << 20),
        ("200M", 200 << 20),
        ("1G", 1 << 30),
    ],
)
def test_a_size_is_digits_and_a_letter(text: str, size: int) -> None:
    assert parse_rss(text) == size


@pytest.mark.parametrize("text", ["", "200", "1023K", "1.5G", "200MB", "-1M", "x", "M"])
def test_another_text_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="it takes a size such as 200M"):
        parse_rss(text)


def test_a_batch_that_runs_is_no_run_that_has_ended(clock: FakeClock) -> None:
    recycling = Recycling(0, 1, clock)
    assert recycling.look_in(0, 1) is None
    assert not recycling.is_due(0, 1)
    assert recycling.is_due(2, 1)
