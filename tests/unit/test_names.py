"""Many names in order, in little memory."""

import random
from bisect import insort
from collections.abc import Iterable

import pytest

from spooler import names as module
from spooler.names import Names


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 60)


def numbered(numbers: Iterable[int]) -> list[str]:
    return [f"{number:05d}" for number in numbers]


def rest(names: Names) -> list[str]:
    found = []
    while names.peek() is not None:
        found.append(names.pop())
    return found


def test_there_are_none_at_first() -> None:
    assert Names().peek() is None
    assert not Names().is_long


def test_names_come_in_order_however_they_were_added() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        names, model = Names(), list[str]()
        for _ in range(60):
            some = sorted(numbered({chance.randrange(2000) for _ in range(15)}))
            names.add(some)
            for each in some:
                if each not in model:
                    insort(model, each)
            for _ in range(chance.randrange(12)):
                assert names.peek() == (model[0] if model else None)
                if model:
                    assert names.pop() == model.pop(0)
        assert rest(names) == model
        assert not names.is_cut


@pytest.mark.parametrize(("count", "is_long"), [(5, False), (50, True)])
def test_more_than_one_block_is_long(count: int, is_long: bool) -> None:
    names = Names()
    names.add(numbered(range(count)))
    assert names.is_long == is_long
    assert rest(names) == numbered(range(count))


def test_one_name_many_times_takes_the_room_of_one() -> None:
    names = Names()
    names.add(numbered(range(50)))
    for _ in range(100):
        names.add(numbered([40]))
    assert sum(map(len, names._blocks)) < 6 * 50 + 60
    assert rest(names) == numbered(range(50))


def test_the_last_names_are_forgotten_if_they_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SIZE_MAX", 300)
    for numbers in (range(200), range(199, -1, -1)):
        names = Names()
        for number in numbers:
            names.add(numbered([number]))
        assert names.is_cut
        assert sum(map(len, names._blocks)) <= 300
        found = rest(names)
        assert 30 <= len(found) <= 70
        assert found == numbered(range(len(found)))


def test_a_jump_goes_anywhere_below_a_name() -> None:
    begins = set()
    for part in range(100):
        names = Names()
        names.add(numbered(range(100)))
        names.jump("00050", lambda part=part: part / 100)  # type: ignore[misc]
        assert names.is_cut
        begins.add(names.peek())
        found = rest(names)
        assert set(numbered(range(50, 100))) <= set(found)
        assert len(found) == len(set(found))
    assert begins <= set(numbered(range(50)))
    assert len(begins) >= 10


def test_a_jump_within_one_block_or_of_none_is_no_error() -> None:
    names = Names()
    names.jump("9")
    assert names.peek() is None
    names.add(numbered(range(8)))
    names.jump("00004", lambda: 0.99)
    assert rest(names) == numbered(range(3, 8))


def test_after_a_jump_what_is_due_is_not_hidden_by_what_is_not() -> None:
    names = Names()
    names.add(numbered(range(100)))
    names.jump("00055", lambda: 0.99)
    found = rest(names)
    later = [name for name in found if name >= "00055"]
    assert found[-len(later) :] == later == numbered(range(55, 100))


def test_names_that_are_not_ascii_come_back_as_they_were() -> None:
    names = Names()
    given = sorted(f"{number:05d}.grüße" for number in range(50))
    names.add(given)
    assert rest(names) == given
