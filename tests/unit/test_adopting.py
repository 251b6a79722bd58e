"""When dropped files are looked at, of which there may be very many."""

import errno
import os
from collections.abc import Callable
from typing import cast

import pytest
from tests.helpers import FakeClock

from spooler import adopting as module
from spooler.adopting import LOOK_AGAIN, LOOK_AGAIN_MAX, REFUSED_EVERY, Adopting
from spooler.spooldir.dropped import Dropped

Answer = Callable[[str], str | bool]


class Answers:
    """In the place of ``Dropped``, whose files this is not about."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.may_reject: list[bool] = []
        self.answer: Answer = lambda file: False

    def adopt(
        self, folder: str, file: str, *, finished: bool, may_reject: bool
    ) -> str | bool:
        self.looks.append(file)
        self.may_reject.append(may_reject)
        return self.answer(file)

    def look(self) -> None:
        """Do nothing."""


def refused(file: str) -> bool:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), file)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def adopting(answers: Answers, clock: FakeClock) -> Adopting:
    return Adopting(cast(Dropped, answers), clock)


def find(adopting: Adopting, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        adopting.find("5", str(number))


def test_of_many_the_oldest_and_the_newest_take_turns(
    adopting: Adopting, answers: Answers
) -> None:
    find(adopting, module.MANY + 4)
    adopting.adopt_some()
    last = module.MANY + 3
    newest, oldest = answers.looks[:4:2], answers.looks[1:4:2]
    assert newest == [str(last), str(last - 1)]
    assert [*oldest, *answers.looks[4:]] == [str(n) for n in range(last - 1)]


def test_few_are_taken_in_order(adopting: Adopting, answers: Answers) -> None:
    find(adopting, 5)
    adopting.adopt_some()
    assert answers.looks == ["0", "1", "2", "3", "4"]


def test_nothing_is_put_aside_while_others_wait_for_their_first_look(
    adopting: Adopting, answers: Answers, clock: FakeClock
) -> None:
    answers.answer = lambda file: True
    find(adopting, 3)
    adopting.adopt_some()
    assert answers.may_reject == [False, False, True]
    clock.advance(LOOK_AGAIN)
    find(adopting, 2, first=3)
    adopting.adopt_some()
    assert answers.looks[3:] == ["3", "4", "0", "1", "2"]  # what is new comes first
    assert answers.may_reject[3:] == [False, True, True, True, True]


def test_what_was_looked_at_before_has_its_part_of_the_time(
    adopting: Adopting, answers: Answers, clock: FakeClock
) -> None:
    answers.answer = lambda file: True
    find(adopting, 2)
    adopting.adopt_some()
    clock.advance(LOOK_AGAIN)

    def slow(file: str) -> bool:
        clock.advance(module.ADOPT_FOR * 0.6)
        return True

    answers.answer = slow
    find(adopting, 50, first=2)
    adopting.adopt_some()
    assert answers.looks[2:] == ["2", "3", "0"]


def test_a_look_takes_only_so_long(
    adopting: Adopting, answers: Answers, clock: FakeClock
) -> None:
    def slow(file: str) -> bool:
        clock.advance(module.ADOPT_FOR * 0.6)
        return False

    answers.answer = slow
    find(adopting, 5)
    adopting.adopt_some()
    assert len(answers.looks) == 2
    assert adopting.next_look == 0.0


def test_what_is_not_ready_is_looked_at_ever_more_seldom(
    adopting: Adopting, answers: Answers, clock: FakeClock
) -> None:
    answers.answer = lambda file: True
    find(adopting, 1)
    waits = []
    for _ in range(9):
        adopting.adopt_some()
        wait = adopting.next_look
        assert wait is not None
        waits.append(wait)
        find(adopting, 1)  # a scan does not make it sooner
        assert adopting.next_look == pytest.approx(wait)
        clock.advance(wait)
    assert waits[:4] == pytest.approx([LOOK_AGAIN * 2**n for n in range(4)])
    assert waits[-1] == pytest.approx(LOOK_AGAIN_MAX)


def test_news_of_a_file_have_it_looked_at_at_once(
    adopting: Adopting, answers: Answers
) -> None:
    answers.answer = lambda file: True
    find(adopting, 1)
    adopting.adopt_some()
    adopting.tell("5", "0", whole=True)
    assert adopting.next_look == 0.0
    answers.answer = lambda file: False
    adopting.adopt_some()
    assert adopting.next_look is None


def test_what_is_refused_is_told_of_once_and_takes_little_however_much_there_is(
    adopting: Adopting,
    answers: Answers,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers.answer = refused
    find(adopting, 2000)
    adopting.adopt_some()
    assert caplog.text.count("cannot adopt 5/") == 20
    clock.advance(LOOK_AGAIN)
    adopting.adopt_some()
    assert "cannot adopt 1980 files more now" in caplog.text
    answers.looks.clear()
    for _ in range(100):
        clock.advance(1.0)
        adopting.adopt_some()
    assert len(answers.looks) <= 100 / REFUSED_EVERY + 50
    assert caplog.text.count("cannot adopt 5/") == 20
    assert not adopting.waits


def test_when_one_is_no_longer_refused_all_are_looked_at(
    adopting: Adopting, answers: Answers, clock: FakeClock
) -> None:
    answers.answer = refused
    find(adopting, 100)
    adopting.adopt_some()
    answers.answer = lambda file: False
    answers.looks.clear()
    clock.advance(LOOK_AGAIN)
    adopting.adopt_some()
    assert len(set(answers.looks)) == 100
    assert adopting.next_look is None


@pytest.mark.parametrize("answer", [refused, lambda file: False])
def test_only_so_many_are_remembered_and_a_scan_finds_the_others(
    adopting: Adopting,
    answers: Answers,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer,
) -> None:
    monkeypatch.setattr(module, "KNOWN_MAX", 10)
    answers.answer = answer
    seen: set[str] = set()
    for number_of_scan in range(7):
        for number in range(55):
            if answer is refused or str(number) not in seen:
                adopting.find("5", str(number))
        adopting.adopt_some()
        clock.advance(1.0)
        adopting.adopt_some()
        seen |= set(answers.looks)
        # At once where that leads on; else when it is time for it anyway.
        more = answer is not refused and number_of_scan < 5
        assert adopting.wants_scan is more
        adopting.wants_scan = False
    assert len(seen) == 55


def test_refused_files_for_which_there_was_no_room_are_found_again_later(
    adopting: Adopting,
    answers: Answers,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KNOWN_MAX", 1)
    answers.answer = refused
    for number in range(3):
        find(adopting, 1, number)
        adopting.adopt_some()
    answers.looks.clear()
    find(adopting, 1, 2)
    adopting.adopt_some()
    assert answers.looks == []
    clock.advance(module.FORGET_AFTER)
    adopting.adopt_some()
    find(adopting, 1, 2)
    adopting.adopt_some()
    assert "2" in answers.looks
