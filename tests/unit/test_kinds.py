"""Who is handed what, where workers run async and plain functions."""

import socket
from collections.abc import Iterator
from typing import cast

import pytest

from spooler import kinds
from spooler.forker import Child, Forker
from spooler.kinds import Kinds
from spooler.watched import Places, WatchedWorker

PLACES = Places(plain=1, coroutines=3, names=frozenset({"a"}))


def path(task: str, number: int, priority: int = 5) -> str:
    return f"{priority}/20261120T2101/{number:016d}.{priority}.0.{number:016x}.{task}"


class Waiting:
    """A backlog in memory."""

    def __init__(self, *paths: str) -> None:
        self.paths = list(paths)

    def take(self, limit: int) -> list[str]:
        taken, self.paths = self.paths[:limit], self.paths[limit:]
        return taken

    def give_back(self, path: str) -> None:
        self.paths.append(path)
        self.paths.sort(key=lambda each: (int(each.partition("/")[0]), each))


@pytest.fixture
def workers() -> Iterator[list[WatchedWorker]]:
    pairs = [socket.socketpair() for _ in range(2)]
    nobody = cast("Forker", None)
    yield [
        WatchedWorker(f"w{n}", Child(print), pair[0], nobody, PLACES)
        for n, pair in enumerate(pairs)
    ]
    for pair in pairs:
        for each in pair:
            each.close()


def held(worker: WatchedWorker) -> str:
    return "".join(each.rpartition(".")[2] for each in worker.in_flight)


def test_a_kind_without_a_place_is_set_aside(workers: list[WatchedWorker]) -> None:
    waiting = Waiting(*(path("p", n) for n in range(5)), path("a", 9))
    kinds = Kinds(waiting.give_back)
    assert kinds.feed(workers[:1], waiting.take)
    assert held(workers[0]) == "pa"
    assert len(kinds) == 4
    workers[0].forget(path("p", 0))
    kinds.feed(workers[:1], waiting.take)
    assert list(workers[0].in_flight) == [path("a", 9), path("p", 1)]


def test_what_is_more_urgent_goes_before_what_was_set_aside(
    workers: list[WatchedWorker],
) -> None:
    waiting = Waiting(path("p", 1), path("p", 2))
    kinds = Kinds(waiting.give_back)
    kinds.feed(workers[:1], waiting.take)
    waiting.give_back(path("p", 3, priority=0))
    workers[0].forget(path("p", 1))
    kinds.feed(workers[:1], waiting.take)
    assert list(workers[0].in_flight) == [path("p", 3, priority=0)]


def test_all_workers_get_some(workers: list[WatchedWorker]) -> None:
    waiting = Waiting(*(path("a", n) for n in range(4)))
    Kinds(waiting.give_back).feed(workers, waiting.take)
    assert [held(worker) for worker in workers] == ["aa", "aa"]


def test_nothing_is_lost_when_nothing_is_set_aside_any_more(
    workers: list[WatchedWorker],
) -> None:
    paths = [path("p", n) for n in range(5)]
    waiting = Waiting(*paths)
    kinds = Kinds(waiting.give_back)
    kinds.feed(workers[:1], waiting.take)
    kinds.give_all_back()
    assert len(kinds) == 0
    assert waiting.paths == paths[1:]


def test_no_more_are_set_aside_than_may_be(
    workers: list[WatchedWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "ASIDE_MAX", 3)
    waiting = Waiting(*(path("p", n) for n in range(50)))
    some = Kinds(waiting.give_back)
    for number in range(20):
        some.feed(workers[:1], waiting.take)
        workers[0].forget(path("p", number))
    assert len(some) <= 8
    assert len(some) + len(waiting.paths) == 30


def test_a_long_look_is_made_in_pieces(
    workers: list[WatchedWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "LOOK_MAX", 10)
    waiting = Waiting(*(path("p", n) for n in range(50)), path("a", 60))
    some = Kinds(waiting.give_back)
    assert not some.feed(workers[:1], waiting.take)
    assert some.again
    for _ in range(10):
        some.feed(workers[:1], waiting.take)
    assert held(workers[0]) == "pa"


def test_a_worker_that_holds_plain_tasks_up_has_room_for_async_ones(
    workers: list[WatchedWorker],
) -> None:
    worker = workers[0]
    worker.offer([path("p", 1), path("p", 2)])
    worker.stalled = True
    assert worker.room_for(is_async=False) == 0
    assert worker.room_for(is_async=True) == 3
    worker.offer([path("a", 3)])
    assert worker.room_for(is_async=True) == 0  # it may not run at all
    worker.runs(path("a", 3))
    assert worker.room_for(is_async=True) == 2
