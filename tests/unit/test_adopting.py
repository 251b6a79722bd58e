"""When dropped files are looked at, of which there may be very many."""

import errno
import os
from collections.abc import Callable
from typing import cast

import pytest
from tests.helpers import FakeClock

from spooler import adopting as module, beside
from spooler.adopting import LOOK_AGAIN, LOOK_AGAIN_MAX, REFUSED_EVERY, Adopting
from spooler.spooldir import uwsgi_files
from spooler.spooldir.dropped import Dropped, NotDue

Answer = Callable[[str], str | bool | NotDue]


class Answers:
    """In the place of ``Dropped``, whose files this is not about."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.may_reject: list[bool] = []
        self.answer: Answer = lambda file: False
        self.gone: set[str] = set()

    def adopt(
        self, folder: str, file: str, *, finished: bool, may_reject: bool
    ) -> str | bool | NotDue:
        self.looks.append(file)
        self.may_reject.append(may_reject)
        return self.answer(file)

    def look(self) -> None:
        """Do nothing."""

    def has(self, path: str) -> bool:
        """Tell whether an adopted task is where it was."""
        return path not in self.gone


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


# -- what is left to uWSGI until it is due ------------------------------------------


def due_in_order(clock: FakeClock) -> Answer:
    """Return answers by which file N is due N + 1 seconds from now."""
    begin_us = clock.now_us()

    def answer(file: str) -> str | NotDue:
        due_us = begin_us + (int(file) + 1) * 1_000_000
        return f"5/m/{file}" if due_us <= clock.now_us() else NotDue(due_us)

    return answer


def test_what_is_not_due_is_looked_at_when_it_is(
    adopting: Adopting, answers: Answers, clock: FakeClock
) -> None:
    answers.answer = due_in_order(clock)
    find(adopting, 3)
    assert adopting.adopt_some() == []
    assert not adopting.waits
    assert adopting.next_look == 1.0
    answers.looks.clear()
    find(adopting, 3)  # by a scan
    assert adopting.adopt_some() == []
    assert answers.looks == []
    clock.advance(2.5)
    assert adopting.next_look == 0.0
    assert adopting.adopt_some() == ["5/m/0", "5/m/1"]
    assert adopting.next_look == 0.5


def test_a_file_whose_time_was_changed_is_due_at_the_new_one(
    adopting: Adopting, answers: Answers, clock: FakeClock
) -> None:
    answers.answer = lambda file: NotDue(clock.now_us() + 5_000_000)
    find(adopting, 1)
    adopting.adopt_some()
    answers.answer = lambda file: NotDue(clock.now_us() + 1_000_000)
    adopting.tell("5", "0", whole=True)
    adopting.adopt_some()
    assert adopting.next_look == 1.0
    clock.advance(1.0)
    answers.answer = lambda file: "5/m/0"
    assert adopting.adopt_some() == ["5/m/0"]
    answers.looks.clear()
    clock.advance(10)
    adopting.adopt_some()
    assert answers.looks == []


def test_what_is_touched_again_and_again_is_remembered_once(
    adopting: Adopting,
    answers: Answers,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(beside, "KNOWN_MAX", 10)
    for second in range(100):
        due = NotDue(clock.now_us() + 1_000_000 * (200 - second))
        answers.answer = lambda file, due=due: due  # type: ignore[misc]  # bound now
        adopting.tell("5", "0", whole=True)
        adopting.adopt_some()
    assert len(adopting._due_later._order) <= 21
    assert adopting.next_look == 101.0
    assert not adopting.wants_scan


def test_a_clock_that_is_set_does_not_matter(
    adopting: Adopting, answers: Answers, clock: FakeClock
) -> None:
    answers.answer = due_in_order(clock)
    find(adopting, 1)
    adopting.adopt_some()
    clock.set(clock.now_us() + 3_600_000_000)
    assert adopting.adopt_some() == ["5/m/0"]


def test_of_very_many_only_the_first_are_remembered_and_none_is_late(
    adopting: Adopting,
    answers: Answers,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(beside, "KNOWN_MAX", 10)
    answers.answer = due_in_order(clock)
    left = [*range(0, 100, 2), *reversed(range(1, 100, 2))]
    scans = 0
    for second in range(1, 101):
        for turn in range(30):
            found = adopting.adopt_some()
            for path in found:
                assert path == f"5/m/{second - 2}"
                left.remove(second - 2)
            if not (adopting.wants_scan or turn == 0):
                break
            adopting.wants_scan = False
            scans += 1
            for number in left:
                adopting.find("5", str(number))
        assert not adopting.wants_scan
        assert len(adopting._due_later._due_us) <= 20
        clock.advance(1.0)
    assert left == [99]
    looks_by_scans = len(answers.looks) - 100
    assert looks_by_scans < 100 * 100 / 5  # not all of them each second


# -- what is due, and left to whoever has time --------------------------------------

PREFIX = uwsgi_files.PREFIX


@pytest.fixture
def sharing(answers: Answers, clock: FakeClock) -> Adopting:
    answers.answer = lambda file: f"5/m/{file}"
    return Adopting(cast(Dropped, answers), clock, shares=True)


def find_files(adopting: Adopting, count: int, folder: str = "5") -> list[str]:
    """Tell of files of uWSGI's; return where they are when they were adopted."""
    files = [f"{PREFIX}{folder}_{number:04}" for number in range(count)]
    for file in files:
        adopting.find(folder, file)
    return [f"5/m/{file}" for file in files]


def adopt_all(adopting: Adopting) -> list[str]:
    adopted = adopting.adopt_some()
    while adopting.next_look == 0.0:
        adopted += adopting.adopt_some()
    return adopted


def test_beside_uwsgi_only_so_many_are_adopted_ahead(sharing: Adopting) -> None:
    paths = find_files(sharing, 90)
    first = adopt_all(sharing)
    assert first == paths[: beside.AHEAD]
    assert sharing.waits
    assert adopt_all(sharing) == []
    sharing.taken([*first[:5], "5/m/native"])
    assert adopt_all(sharing) == paths[beside.AHEAD :][:5]
    sharing.taken(first[:5])  # which is nothing new
    assert adopt_all(sharing) == []


def test_each_folder_has_its_own(sharing: Adopting) -> None:
    find_files(sharing, 90)
    find_files(sharing, 90, "0")
    assert len(adopt_all(sharing)) == 2 * beside.AHEAD


def test_other_files_are_not_held_back(
    sharing: Adopting, adopting: Adopting, answers: Answers
) -> None:
    for number in range(90):
        sharing.find("5", f"{number}")
    assert len(adopt_all(sharing)) == 90
    find_files(adopting, 90)
    assert len(adopt_all(adopting)) == 90  # nor uWSGI's, where it is gone


def test_what_uwsgi_has_run_makes_room(sharing: Adopting, answers: Answers) -> None:
    paths = find_files(sharing, 90)
    first = adopt_all(sharing)
    answers.answer = lambda file: False if file.endswith("2") else f"5/m/{file}"
    sharing.taken(first[:10])
    wanted = [path for path in paths[beside.AHEAD :] if not path.endswith("2")]
    assert adopt_all(sharing) == wanted[:10]


def test_tasks_that_somebody_else_took_are_not_waited_for(
    sharing: Adopting, answers: Answers, clock: FakeClock
) -> None:
    paths = find_files(sharing, 90)
    first = adopt_all(sharing)
    answers.gone.update(first[:3])
    assert adopt_all(sharing) == []
    assert sharing.next_look == beside.LOOK_FOR_LOST
    clock.advance(beside.LOOK_FOR_LOST)
    assert adopt_all(sharing) == paths[beside.AHEAD :][:3]


def test_of_very_many_that_are_held_back_none_is_forgotten(
    sharing: Adopting, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "KNOWN_MAX", 10)
    paths = find_files(sharing, 90)
    left = set(paths)
    scans = 0
    while True:
        for path in (adopted := adopt_all(sharing)):
            left.remove(path)
        sharing.taken(adopted)
        if sharing.wants_scan:
            sharing.wants_scan = False
            scans += 1
            for path in sorted(left):
                sharing.find("5", path.rpartition("/")[2])
        elif not adopted:
            break
    assert left == set()
    assert scans < 10
