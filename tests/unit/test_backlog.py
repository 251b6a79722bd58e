"""What waits in one spool, in the order in which it is to run."""

import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path
from time import thread_time

import pytest
from tests.helpers import (
    FACTOR,
    NOW_US,
    FakeClock,
    ToldOS,
    make_name,
    path_of,
    place,
    put,
    real_clock,
    tasks,
)

from spooler import (
    adopting as adopting_module,
    backlog as module,
    names,
    slices,
    wakeup,
)
from spooler.adopting import LOOK_AGAIN
from spooler.backlog import KEEP_EMPTY, KEEP_US, Backlog
from spooler.spooldir import SpoolDir, files, listing as listing_module, recovery, root
from spooler.spooldir.claims import Claims
from spooler.spooldir.dropped import Dropped
from spooler.spooldir.listing import Listing
from spooler.task import MINUTE_US, Name
from spooler.wakeup import Watch


class Server:
    """A backlog with its watch, and what a daemon does between takes."""

    def __init__(self, spool: SpoolDir, clock: FakeClock) -> None:
        self.spool = spool
        self.watch = Watch(spool.path)
        dropped = Dropped(spool, {os.getuid()}, clock)
        self.backlog = Backlog(spool, self.watch, dropped, clock)
        self.backlog.scan()

    def events(self) -> None:
        """Read all the news there is."""
        fd = self.watch.fileno()
        while fd is not None and select.select([fd], [], [], 0)[0]:
            self.watch.read()

    def take(self, limit: int = 1000, more_urgent_than: int | None = None) -> list[str]:
        self.events()
        if self.backlog.stale:
            self.backlog.scan()
        self.backlog.adopt_some()
        taken = self.backlog.take(limit, more_urgent_than)
        while not taken and self.backlog.is_reading:
            self.backlog.read_on()
            taken = self.backlog.take(limit, more_urgent_than)
        return taken

    def close(self) -> None:
        self.watch.close()
        self.read_all()

    def read_all(self) -> None:
        """Read large folders to their end."""
        while self.backlog.is_reading:
            self.backlog.read_on()

    def put(self, count: int, task: str = "t") -> list[str]:
        """Put tasks, due one after the other and all before now; return their paths."""
        first = NOW_US - 1_000_000
        made = [make_name(first + k, task=task) for k in range(count)]
        for name in made:
            put(self.spool, name)
        return [path_of(name) for name in made]

    def run(self, limit: int = 1000) -> list[str]:
        """Take tasks, remove them and settle them."""
        taken = self.take(limit)
        for path in taken:
            Path(self.spool.path, path).unlink(missing_ok=True)
            self.backlog.settle(path)
        return taken


@pytest.fixture(params=["inotify", "scan"])
def server(
    spool: SpoolDir,
    clock: FakeClock,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Server]:
    if request.param == "scan":
        monkeypatch.setattr(wakeup, "file_system", lambda path: "nfs4")
    server = Server(spool, clock)
    assert server.backlog.is_blind == (request.param == "scan")
    yield server
    server.close()


@pytest.fixture
def watching(spool: SpoolDir, clock: FakeClock) -> Iterator[Server]:
    server = Server(spool, clock)
    yield server
    server.close()


@pytest.fixture
def blind(
    spool: SpoolDir, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    monkeypatch.setattr(wakeup, "file_system", lambda path: "nfs4")
    server = Server(spool, clock)
    yield server
    server.close()


def is_due(server: Server) -> bool:
    return server.backlog.has_due


def reads(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what directories are read from now on."""
    read: list[str] = []
    real = server.spool.names

    def names(folder: str) -> list[str]:
        read.append(folder)
        return real(folder)

    def listing(spool: SpoolDir, folder: str, most: int) -> Listing:
        read.append(folder)
        return Listing(spool, folder, most)

    monkeypatch.setattr(server.spool, "names", names)
    monkeypatch.setattr(slices, "Listing", listing)
    return read


def news(server: Server) -> None:
    """Make sure that the server learns of what was put just now."""
    if server.backlog.is_blind:
        server.backlog.scan()


# -- order ------------------------------------------------------------------------


def test_an_empty_spool_has_nothing(server: Server) -> None:
    assert server.take() == []
    assert server.backlog.next_due_us is None
    assert server.backlog.next_look is None
    assert not server.backlog.has_due


def test_tasks_come_by_priority_as_a_number_and_then_by_due_time(
    server: Server,
) -> None:
    names = [
        put(server.spool, make_name(NOW_US - age, priority))
        for priority in (0, 2, 10)
        for age in (10 * MINUTE_US, MINUTE_US + 1, 1, 0)
    ]
    news(server)
    assert server.take() == [path_of(name) for name in names]


def test_a_limit_leaves_the_rest(server: Server) -> None:
    names = [put(server.spool, make_name(NOW_US - 9 + k)) for k in range(5)]
    news(server)
    assert server.take(2) == [path_of(name) for name in names[:2]]
    assert server.backlog.has_due
    assert server.take(2) == [path_of(name) for name in names[2:4]]
    assert server.take(2) == [path_of(name) for name in names[4:]]
    assert not server.backlog.has_due


def test_more_urgent_tasks_can_be_asked_for(server: Server) -> None:
    names = {p: put(server.spool, make_name(priority=p)) for p in (0, 3, 5)}
    news(server)
    assert server.take(9, more_urgent_than=3) == [path_of(names[0])]
    assert server.take(9, more_urgent_than=3) == []
    assert server.take() == [path_of(names[3]), path_of(names[5])]


def test_asking_for_more_urgent_tasks_forgets_no_later_one(server: Server) -> None:
    later = put(server.spool, make_name(NOW_US + 500_000))
    put(server.spool, make_name(NOW_US + 700_000, priority=0))
    news(server)
    assert server.take() == []
    assert server.backlog.next_due_us == later.due_us
    assert server.take(more_urgent_than=5) == []
    assert server.backlog.next_due_us == later.due_us


def test_a_task_for_later_waits_until_it_is_due(
    server: Server, clock: FakeClock
) -> None:
    soon = put(server.spool, make_name(NOW_US + 500_000))
    later = put(server.spool, make_name(NOW_US + MINUTE_US + 7))
    news(server)
    assert server.take() == []
    assert server.backlog.next_due_us == soon.due_us
    assert not is_due(server)
    clock.advance(0.5)
    assert is_due(server)
    assert server.take() == [path_of(soon)]
    assert server.backlog.next_due_us == NOW_US + MINUTE_US
    clock.advance(59.5)
    assert server.take() == []
    assert server.backlog.next_due_us == later.due_us
    clock.advance(0.000_007)
    assert server.take() == [path_of(later)]


def test_folders_of_later_minutes_are_not_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(server.spool, make_name(NOW_US + MINUTE_US))
    news(server)
    read = reads(server, monkeypatch)
    assert server.take() == []
    assert [folder for folder in read if "/" in folder] == []


def test_a_folder_is_read_once_while_it_is_worked_off(
    watching: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [put(watching.spool, make_name(NOW_US - 9 + k)) for k in range(5)]
    read = reads(watching, monkeypatch)
    for name in names:
        assert watching.take(1) == [path_of(name)]
    assert watching.take() == []
    assert read == [names[0].folder]


# -- news -------------------------------------------------------------------------


def test_a_task_put_into_a_known_folder_is_seen(server: Server) -> None:
    for _ in range(3):
        name = put(server.spool)
        news(server)
        assert server.run() == [path_of(name)]


def test_a_new_minute_and_a_new_priority_are_seen(server: Server) -> None:
    name = put(server.spool, make_name(priority=77))
    news(server)
    assert server.run() == [path_of(name)]


def test_an_earlier_arrival_comes_first(watching: Server) -> None:
    second = put(watching.spool, make_name(NOW_US - 5))
    third = put(watching.spool, make_name(NOW_US - 4))
    fourth = put(watching.spool, make_name(NOW_US - 3))
    assert watching.take(1) == [path_of(second)]
    watching.backlog.settle(path_of(second))
    first = put(watching.spool, make_name(NOW_US - 9))
    last = put(watching.spool, make_name(NOW_US - 1))
    expected = [path_of(name) for name in (first, third, fourth, last)]
    assert [watching.take(1)[0] for _ in range(4)] == expected


def test_a_lost_event_is_made_good_by_a_scan(watching: Server) -> None:
    put(watching.spool)
    watching.run()
    name = put(watching.spool)
    watching.events = lambda: None  # type: ignore[method-assign] # lose them
    assert watching.take() == []
    watching.backlog.stale = True
    assert watching.take() == [path_of(name)]


def test_a_scan_that_failed_is_still_due(
    watching: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching.backlog.stale = True
    told = ToldOS()
    told.fail("open", errno.EIO)
    with monkeypatch.context() as patch:
        patch.setattr(listing_module, "os", told)
        with pytest.raises(OSError, match="Input/output"):
            watching.backlog.scan()
    assert watching.backlog.stale
    name = put(watching.spool)
    assert watching.take() == [path_of(name)]


def test_a_folder_that_somebody_removed_and_made_anew_is_seen(
    watching: Server,
) -> None:
    name = put(watching.spool)
    assert watching.run() == [path_of(name)]
    Path(watching.spool.path, name.folder).rmdir()
    again = put(watching.spool, name.but(id="f" * 16))
    watching.events()
    assert watching.backlog.stale
    assert watching.take() == [path_of(again)]
    watching.backlog.settle(path_of(again))
    third = put(watching.spool, name.but(id="e" * 16))
    assert watching.take() == [path_of(third)]


def test_a_folder_that_was_missed_and_then_made_anew_is_seen(
    watching: Server,
) -> None:
    name = put(watching.spool)
    assert watching.run() == [path_of(name)]
    Path(watching.spool.path, name.folder).rmdir()
    assert watching.take() == []
    for id in ("f" * 16, "e" * 16):
        again = put(watching.spool, name.but(id=id))
        assert watching.run() == [path_of(again)]


def test_a_priority_that_was_removed_and_made_anew_is_seen(watching: Server) -> None:
    Path(watching.spool.path, "7").rmdir()
    assert watching.take() == []
    name = put(watching.spool, make_name(priority=7))
    assert watching.take() == [path_of(name)]


def test_a_priority_that_is_gone_is_no_error(server: Server) -> None:
    Path(server.spool.path, "9").rmdir()
    server.backlog.scan()
    assert server.take() == []


def test_events_of_our_own_folders_are_not_for_tasks(watching: Server) -> None:
    for folder in ("running", "done"):
        Path(watching.spool.path, folder).rmdir()
        Path(watching.spool.path, folder).mkdir()
    assert watching.take() == []
    assert watching.backlog.next_look is None


# -- settling ---------------------------------------------------------------------


def test_what_is_in_flight_is_not_handed_out_twice(server: Server) -> None:
    name = put(server.spool)
    news(server)
    assert server.take() == [path_of(name)]
    server.backlog.scan()
    assert server.take() == []


def test_what_is_given_back_is_handed_out_again(server: Server) -> None:
    name = put(server.spool)
    news(server)
    for _ in range(3):
        assert server.take() == [path_of(name)]
        server.backlog.give_back(path_of(name))
    server.backlog.give_back("5/20300101T0000/nothing")
    assert server.run() == [path_of(name)]
    server.backlog.give_back(path_of(name))
    server.backlog.settle("5/20300101T0000/nothing")
    assert server.take() == []


def test_a_task_released_under_its_name_while_in_flight_comes_again(
    server: Server,
) -> None:
    name = put(server.spool)
    news(server)
    assert server.take() == [path_of(name)]
    claims = Claims(server.spool, "w1", {os.getuid()})
    claim = claims.claim(path_of(name))
    assert claim is not None
    claims.release(claim)
    server.backlog.scan() if server.backlog.is_blind else server.events()
    server.take()
    server.backlog.settle(path_of(name))
    assert server.run() == [path_of(name)]
    claims.close()


def test_a_release_that_nobody_told_of_is_found_when_the_folder_is_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "WATCH_MAX", 1)
    names = [put(server.spool, make_name(NOW_US - 9 + k)) for k in range(3)]
    news(server)
    assert len(server.take(3)) == 3
    assert server.take() == []  # reads again, and meets all three
    for name in names[1:]:
        Path(server.spool.path, path_of(name)).unlink()
    for name in names:
        server.backlog.settle(path_of(name))
    taken = server.take()
    assert path_of(names[0]) in taken


# -- large folders ----------------------------------------------------------------


def test_a_large_folder_is_not_watched_until_it_is_small(
    watching: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "WATCH_MAX", 3)
    names = [put(watching.spool, make_name(NOW_US - 9 + k)) for k in range(5)]
    folder = names[0].folder
    assert watching.take(1) == [path_of(names[0])]
    assert folder not in watching.watch._watched
    late = put(watching.spool, make_name(NOW_US - 1))
    for name in names:
        Path(watching.spool.path, path_of(name)).unlink()
    assert watching.take(4) == [path_of(name) for name in names[1:]]
    assert watching.backlog.has_due  # nobody knows: the folder must be read
    assert watching.take() == [path_of(late)]
    assert folder in watching.watch._watched
    assert not watching.backlog.has_due


@pytest.fixture
def sliced(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return a server that reads 4 names at a time and watches folders of up to 3."""
    monkeypatch.setattr(slices, "SLICE", 4)
    monkeypatch.setattr(slices, "WATCH_MAX", 3)
    return server


def test_a_large_folder_is_read_in_slices(sliced: Server) -> None:
    paths = sliced.put(11)
    news(sliced)
    first = sliced.take(3)
    assert len(first) == 3
    assert first == sorted(first)
    assert len(sliced.take()) == 1  # of what was read so far
    assert sliced.backlog.is_reading
    assert sliced.backlog.has_due
    assert len(sliced.take()) == 4
    assert len(sliced.take()) == 3
    for path in paths:
        Path(sliced.spool.path, path).unlink()
        sliced.backlog.settle(path)
    while sliced.run():
        pass  # names that were met again while they were in flight
    assert not sliced.backlog.has_due


def test_a_folder_that_has_been_read_is_handed_out_in_order(sliced: Server) -> None:
    paths = sliced.put(30)
    news(sliced)
    first = sliced.take(1)
    sliced.read_all()
    assert sliced.take() == [path for path in paths if path not in first]


def test_other_folders_go_on_while_nothing_of_a_large_one_is_known(
    sliced: Server,
) -> None:
    paths = sliced.put(9, task="paused")
    other = put(sliced.spool, make_name(priority=7))
    pause(sliced, "task.paused")
    sliced.events()
    assert sliced.backlog.take(9) == [path_of(other)]
    assert sliced.backlog.is_reading
    sliced.read_all()
    assert sliced.take() == []
    assert not sliced.backlog.has_due
    file = Path(sliced.spool.path, "paused/task.paused")
    resume(sliced, file)
    taken = [path for _ in range(9) for path in sliced.take(1)]
    assert sorted(taken) == paths


def test_what_comes_while_a_folder_is_read_is_found(sliced: Server) -> None:
    paths = sliced.put(9)
    news(sliced)
    found = sliced.run(2)
    late = path_of(put(sliced.spool, make_name(NOW_US - 2_000_000)))
    later = path_of(put(sliced.spool, make_name(NOW_US)))
    news(sliced)
    while taken := sliced.run(2):
        found += taken
    assert set(found) == {*paths, late, later}
    assert tasks(sliced.spool) == {}


def test_what_goes_while_a_folder_is_read_does_no_harm(sliced: Server) -> None:
    paths = sliced.put(20)
    news(sliced)
    found = set(sliced.run(2))
    for path in paths[::2]:
        Path(sliced.spool.path, path).unlink(missing_ok=True)
    while taken := sliced.run(2):
        found.update(taken)
    assert found >= set(paths[1::2])
    assert tasks(sliced.spool) == {}
    assert not sliced.backlog.has_due


def test_a_folder_that_is_gone_while_it_is_read_is_no_error(sliced: Server) -> None:
    paths = sliced.put(20)
    news(sliced)
    sliced.run(2)
    for path in paths:
        Path(sliced.spool.path, path).unlink(missing_ok=True)
    Path(sliced.spool.path, paths[0]).parent.rmdir()
    while sliced.run(2):
        pass
    (path,) = sliced.put(1)
    news(sliced)
    assert sliced.run() == [path]


def test_an_error_while_a_folder_is_read_has_it_read_again(
    sliced: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sliced.put(9)
    news(sliced)
    found = set(sliced.run(4))

    def read(listing: Listing) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Listing, "read", read)
        with pytest.raises(OSError, match="Input/output"):
            sliced.take()
    assert sliced.backlog.has_due
    while taken := sliced.run(4):
        found.update(taken)
    assert found == set(paths)


def test_a_folder_that_cannot_be_opened_now_is_read_later(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = server.put(3)
    news(server)
    server.events()
    told = ToldOS()
    told.fail("open", errno.EMFILE)
    with monkeypatch.context() as patch:
        patch.setattr(listing_module, "os", told)
        with pytest.raises(OSError, match="Too many open files"):
            server.backlog.take(9)
    assert server.take() == paths


def test_an_error_further_on_forgets_nothing_of_what_was_taken_before(
    watching: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = path_of(put(watching.spool, make_name(priority=1)))
    news(watching)
    watching.events()
    assert watching.take() == [first]
    again = path_of(put(watching.spool, make_name(priority=1)))
    beyond = path_of(put(watching.spool, make_name(priority=7)))
    news(watching)
    watching.events()
    told = ToldOS()
    told.fail("open", errno.EIO, errno.EIO)
    with monkeypatch.context() as patch:
        patch.setattr(listing_module, "os", told)
        assert watching.backlog.take(9) == [again]
        with pytest.raises(OSError, match="Input/output"):
            watching.backlog.take(9)
    assert watching.take() == [beyond]


def test_a_pause_while_a_folder_is_read_holds_for_all_of_it(sliced: Server) -> None:
    paths = sliced.put(9)
    news(sliced)
    first = sliced.run(2)
    file = pause(sliced, "task.t")
    assert sliced.take() == []
    sliced.read_all()
    assert sliced.take() == []
    assert not sliced.backlog.has_due
    resume(sliced, file)
    found = [*first, *sliced.run(1)]
    sliced.read_all()
    while taken := sliced.run():
        found += taken
    assert sorted(set(found)) == paths


def test_more_names_than_a_block_that_are_paused_are_forgotten_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "BLOCK", 200)
    paths = server.put(30)
    news(server)
    assert server.run(1) == paths[:1]
    file = pause(server, "task.t")
    assert server.take() == []
    assert not is_due(server)
    resume(server, file)
    assert server.run() == paths[1:]


def test_names_beyond_what_memory_may_hold_come_later(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "BLOCK", 200)
    monkeypatch.setattr(names, "SIZE_MAX", 400)
    monkeypatch.setattr(slices, "WATCH_MAX", 2)
    paths = server.put(50)
    news(server)
    found: dict[str, None] = {}  # a name may come twice
    while taken := server.run(3):
        found.update(dict.fromkeys(taken))
    assert list(found) == paths
    assert tasks(server.spool) == {}


def test_names_that_come_faster_than_they_are_taken_do_not_fill_memory(
    watching: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "BLOCK", 200)
    monkeypatch.setattr(names, "SIZE_MAX", 400)
    put(watching.spool)
    watching.run()
    paths = watching.put(50)
    watching.events()
    [folder] = watching.backlog._priorities[5].folders.values()
    assert sum(map(len, folder.names._blocks)) <= 400
    found = watching.run(4)
    assert found == paths[:4]
    while taken := watching.run(3):
        found += taken  # a name may come twice
    assert set(found) == set(paths)
    assert tasks(watching.spool) == {}


# -- other daemons ----------------------------------------------------------------


def lose(server: Server, paths: list[str]) -> None:
    """Have others claim what was handed out."""
    for path in paths:
        Path(server.spool.path, path).unlink(missing_ok=True)
        server.backlog.lose(path)


def test_where_others_are_first_names_are_taken_from_elsewhere(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "BLOCK", 200)
    paths = server.put(300)
    news(server)
    lose(server, server.take(20))
    taken = server.run(1)
    assert taken != paths[20:21]  # once in 280 times
    found = {*paths[:20], *taken}
    while taken := server.run(20):
        found.update(taken)
    assert found == set(paths)  # what was jumped over comes later
    assert tasks(server.spool) == {}


def test_a_few_lost_claims_change_nothing(server: Server) -> None:
    paths = server.put(300)
    news(server)
    for _ in range(20):
        lose(server, server.take(1))
        server.run(3)
    assert server.take(1) == paths[80:81]


def test_a_claim_that_was_lost_for_a_name_that_came_twice_counts_for_nothing(
    watching: Server,
) -> None:
    paths = watching.put(40)
    taken = watching.take(20)
    watching.backlog.scan()
    watching.events()
    for path in taken:
        Path(watching.spool.path, path).rename(Path(watching.spool.path, "held/x"))
        Path(watching.spool.path, "held/x").rename(Path(watching.spool.path, path))
    watching.events()  # they are back: so they are handed out again
    for path in taken:
        watching.backlog.settle(path)
    again = watching.take(20)
    assert again == taken
    lose(watching, again)
    assert watching.take() == paths[20:]


def test_a_jump_goes_to_no_task_that_is_due_later(
    server: Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "BLOCK", 200)
    paths = [path_of(put(server.spool, make_name(NOW_US + k))) for k in range(100)]
    clock.advance(0.000_030)
    news(server)
    lose(server, server.take(20))
    found = set(paths[:20])
    while taken := server.run(3):
        found.update(taken)
    assert found == set(paths[:31])
    clock.advance(1)
    while taken := server.run(3):
        found.update(taken)
    assert found == set(paths)


def test_a_folder_that_may_not_be_read_does_not_hold_up_the_others(
    server: Server,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed = put(server.spool, make_name(priority=3))
    name = put(server.spool)
    news(server)
    server.events()
    told = ToldOS()
    told.fail("open", errno.EACCES)
    with monkeypatch.context() as patch:
        patch.setattr(listing_module, "os", told)
        assert server.backlog.take(9) == [path_of(name)]
        server.backlog.settle(path_of(name))
    assert caplog.text.count("cannot read folder 3/") == 1
    clock.advance(KEEP_US / 1e6)
    server.backlog.scan()
    assert path_of(closed) in server.take()


# -- folders that are over --------------------------------------------------------


def over(server: Server, clock: FakeClock) -> Name:
    """Put a task into a minute that will be over, take it, let that be so."""
    name = put(server.spool)
    news(server)
    assert server.take() == [path_of(name)]
    clock.advance(KEEP_US / 1e6)
    return name


def test_an_empty_folder_is_removed_when_its_minute_is_over(
    server: Server, clock: FakeClock
) -> None:
    name = put(server.spool)
    news(server)
    server.run()
    clock.advance(KEEP_US / 1e6 - 1)
    server.take()
    assert server.spool.has(name.folder)
    clock.advance(1)
    server.take()
    assert not server.spool.has(name.folder)
    assert name.folder not in server.watch._watched
    again = put(server.spool, name.but(id="f" * 16))
    news(server)
    assert server.run() == [path_of(again)]


def test_an_old_folder_that_was_found_empty_is_left_to_its_maker_for_a_while(
    server: Server, clock: FakeClock
) -> None:
    name = make_name(due_us=NOW_US - 10 * KEEP_US)
    server.spool.make_folder(name.folder)
    news(server)
    server.take()
    assert server.spool.has(name.folder)
    clock.advance(KEEP_EMPTY)
    server.take()
    assert not server.spool.has(name.folder)


def test_a_folder_of_what_is_in_flight_is_kept_until_that_is_settled(
    server: Server, clock: FakeClock
) -> None:
    name = over(server, clock)
    assert server.take() == []
    assert server.spool.has(name.folder)
    Path(server.spool.path, path_of(name)).unlink()
    server.backlog.settle(path_of(name))
    assert not server.spool.has(name.folder)


def test_a_task_given_back_to_a_folder_that_is_over_is_handed_out(
    server: Server, clock: FakeClock
) -> None:
    name = over(server, clock)
    assert server.take() == []
    server.backlog.give_back(path_of(name))
    assert server.run() == [path_of(name)]
    server.take()
    assert not server.spool.has(name.folder)


def test_a_late_task_need_not_wait_for_what_is_in_flight(
    server: Server, clock: FakeClock
) -> None:
    name = over(server, clock)
    assert server.take() == []
    late = put(server.spool, name.but(id="f" * 16))
    news(server)
    assert server.take() == [path_of(late)]
    for each in (name, late):
        Path(server.spool.path, path_of(each)).unlink()
        server.backlog.settle(path_of(each))
    server.run()
    server.take()
    assert not server.spool.has(name.folder)


def test_a_task_that_comes_while_its_folder_is_removed_is_taken(
    server: Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(server.spool)
    news(server)
    server.run()
    clock.advance(KEEP_US / 1e6)
    late = name.but(id="f" * 16)
    real = recovery.remove_folder

    def remove_folder(spool: SpoolDir, folder: str, given: object) -> bool:
        if folder == name.folder and not spool.has(path_of(late)):
            put(spool, late)
        return real(spool, folder, clock)

    monkeypatch.setattr(module, "remove_folder", remove_folder)
    assert server.take() == [path_of(late)]


def test_a_folder_that_cannot_be_removed_is_tried_again(
    server: Server,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = put(server.spool)
    news(server)
    server.run()
    clock.advance(KEEP_US / 1e6)
    told = ToldOS()
    told.fail("rmdir", errno.EIO)
    monkeypatch.setattr(recovery, "os", told)
    assert server.take() == []
    assert "cannot remove folder" in caplog.text
    server.backlog.scan()
    assert server.take() == []
    assert not server.spool.has(name.folder)


def test_junk_in_a_minute_folder_is_adopted_or_put_aside(
    spool: SpoolDir, tmp_path: Path
) -> None:
    clock = real_clock()
    name = put(spool, make_name(clock.now_us()))
    place(spool, f"{name.folder}/rubbish", b"rubbish")
    place(spool, f"{name.folder}/good")
    Path(spool.path, name.folder, "folder").mkdir()
    clock.advance(KEEP_US / 1e6 + 60)
    server = Server(spool, clock)
    found = server.take() + server.take()
    assert found[0] == path_of(name)
    assert len(found) == 2
    for path in found:
        Path(spool.path, path).unlink()
        server.backlog.settle(path)
    server.take()
    assert [p.partition("/")[0] for p in tasks(spool)] == ["corrupt"]
    assert os.listdir(Path(spool.path, name.folder)) == ["folder"]
    late = put(spool, name.but(id="f" * 16))
    assert server.take() == [path_of(late)]
    server.close()


def test_a_name_that_only_looks_native_is_not_handed_out(
    server: Server, clock: FakeClock
) -> None:
    """What a worker could claim, but nobody could parse later."""
    name = make_name()
    for task in ("a\u200bb", "x" * 129, "\udcff", "a\x7f", "ü" * 65):
        place(server.spool, f"{name.folder}/{name}"[:-1] + task)
    good = put(server.spool, make_name(task="grüße"))
    news(server)
    assert server.take() == [path_of(good)]
    assert server.backlog.has_due is False


def test_a_name_of_another_priority_is_put_right(server: Server) -> None:
    name = make_name(priority=3, task="grüße")
    place(server.spool, f"5/{path_of(name).partition('/')[2]}")
    other = make_name(priority=3)
    place(server.spool, f"5/{path_of(other).partition('/')[2]}")
    news(server)
    server.take()
    server.take()
    assert set(tasks(server.spool)) == {
        path_of(each.but(priority=5)) for each in (name, other)
    }


# -- dropped files ----------------------------------------------------------------


@pytest.fixture
def adopting(
    spool: SpoolDir, request: pytest.FixtureRequest
) -> Iterator[tuple[Server, FakeClock]]:
    clock = real_clock()
    clock.advance(100)  # later than the files that a test makes, however slowly
    server = Server(spool, clock)
    yield server, clock
    server.close()


@pytest.mark.parametrize("folder", [".", "5", "0", "77"])
def test_a_dropped_file_is_adopted_and_taken(
    adopting: tuple[Server, FakeClock], folder: str
) -> None:
    server, _ = adopting
    place(server.spool, f"{folder}/any name")
    server.events()
    if folder == "77":
        server.backlog.scan()
    (path,) = server.take()
    assert list(tasks(server.spool)) == [path]


@pytest.mark.parametrize("file", ["123", "0000", "5/20261120T2101", "5/7"])
def test_a_dropped_file_may_be_called_like_a_folder(
    adopting: tuple[Server, FakeClock], file: str
) -> None:
    server, _ = adopting
    place(server.spool, file)
    (path,) = server.take()
    assert list(tasks(server.spool)) == [path]
    name = make_name(priority=123)
    put(server.spool, name)
    server.backlog.scan()
    assert path_of(name) in server.take()


def test_dropped_files_are_found_by_a_scan(spool: SpoolDir) -> None:
    clock = real_clock()
    clock.advance(100)  # later than the files that a test makes, however slowly
    place(spool, "x")
    place(spool, "5/y")
    server = Server(spool, clock)
    assert len(server.take()) == 2
    server.close()


def test_a_file_that_is_not_ready_is_looked_at_again(
    adopting: tuple[Server, FakeClock],
) -> None:
    server, clock = adopting
    with place(server.spool, "5/x", b"task=").open("ab", buffering=0) as writer:
        assert server.take() == []
        assert server.backlog.next_look == LOOK_AGAIN
        clock.advance(LOOK_AGAIN / 2)
        assert server.take() == []
        assert server.backlog.next_look == LOOK_AGAIN / 2
        writer.write(b"t\n")
    clock.advance(LOOK_AGAIN / 2)
    server.watch.read = lambda: None  # type: ignore[method-assign] # no help
    server.events = lambda: None  # type: ignore[method-assign]
    assert len(server.take()) == 1
    assert server.backlog.next_look is None


def test_a_file_that_is_closed_is_looked_at_at_once(
    adopting: tuple[Server, FakeClock],
) -> None:
    server, _ = adopting
    with place(server.spool, "5/x", b"task=").open("ab", buffering=0) as writer:
        assert server.take() == []
        writer.write(b"t\n")
    assert len(server.take()) == 1
    assert server.backlog.next_look is None


def test_some_dropped_files_are_adopted_in_one_go(
    adopting: tuple[Server, FakeClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopting_module, "ADOPT_FOR", 0.0)
    server, _ = adopting
    for number in range(4):
        place(server.spool, f"5/{number}")
    assert [len(server.take()) for _ in range(5)] == [1, 1, 1, 1, 0]


def test_an_error_while_adopting_is_told_and_tried_again(
    adopting: tuple[Server, FakeClock],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, clock = adopting
    place(server.spool, "5/x\ny")
    told = ToldOS()
    told.fail("rename", errno.EACCES)
    monkeypatch.setattr(root, "os", told)
    monkeypatch.setattr(files, "os", told)
    assert server.take() == []
    assert r"cannot adopt 5/x\x0ay now" in caplog.text
    clock.advance(LOOK_AGAIN)
    assert len(server.take()) == 1


def test_an_adopted_task_of_a_closing_folder_is_taken(
    spool: SpoolDir,
) -> None:
    clock = real_clock()
    server = Server(spool, clock)
    name = put(spool, make_name(clock.now_us()))
    assert server.take() == [path_of(name)]
    clock.advance(KEEP_US / 1e6 + 60)
    assert server.take() == []
    other = name.but(id="f" * 16)
    place(spool, f"5/{other}")
    assert server.take() == [path_of(other)]
    server.close()


def test_events_of_files_without_a_name_are_no_news(
    adopting: tuple[Server, FakeClock],
) -> None:
    server, clock = adopting
    name = put(server.spool, make_name(clock.now_us()))
    assert server.take() == [path_of(name)]
    place(server.spool, f"{name.folder}/#12345")
    assert server.take() == []
    assert server.backlog.next_look is None


def test_an_adopted_task_of_a_minute_that_was_not_read_yet_is_taken(
    adopting: tuple[Server, FakeClock],
) -> None:
    server, clock = adopting
    later = put(server.spool, make_name(clock.now_us() + 10 * MINUTE_US))
    server.events()
    place(server.spool, f"5/{later.but(id='f' * 16)}")
    assert server.take() == []
    clock.advance(601)
    assert len(server.take()) == 2


def test_due_tasks_of_later_priorities_count(server: Server) -> None:
    put(server.spool, make_name(NOW_US + MINUTE_US, 0))
    put(server.spool, make_name(NOW_US, 9))
    news(server)
    server.events()
    assert server.backlog.has_due


# -- pauses -----------------------------------------------------------------------


def pause(server: Server, what: str, text: str = "") -> Path:
    """Pause as a shell does."""
    file = Path(server.spool.path, "paused", what)
    file.write_text(text)
    news(server)
    return file


def resume(server: Server, file: Path) -> None:
    file.unlink()
    news(server)


def test_nothing_is_handed_out_while_all_is_paused(server: Server) -> None:
    name = put(server.spool)
    news(server)
    file = pause(server, "all")
    assert server.take() == []
    assert not is_due(server)
    assert server.backlog.next_due_us is None
    later = put(server.spool, make_name(priority=0))
    news(server)
    assert server.take() == []
    resume(server, file)
    assert server.take() == [path_of(later), path_of(name)]


def test_a_paused_priority_is_passed_over(server: Server) -> None:
    name = put(server.spool)
    put(server.spool, make_name(priority=3))
    news(server)
    file = pause(server, "priority.3")
    assert server.take() == [path_of(name)]
    assert not is_due(server)
    resume(server, file)
    assert len(server.take()) == 1


def test_a_pause_that_is_there_before_the_first_scan_counts(
    spool: SpoolDir, clock: FakeClock
) -> None:
    Path(spool.path, "paused/task.t").touch()
    put(spool)
    server = Server(spool, clock)
    assert server.take() == []
    assert not is_due(server)
    server.close()


def test_a_paused_task_is_passed_over_and_the_others_are_not(server: Server) -> None:
    names = [
        put(server.spool, make_name(NOW_US - 9 + k, task="ab"[k % 2])) for k in range(6)
    ]
    news(server)
    file = pause(server, "task.a")
    assert server.take(1) == [path_of(names[1])]
    assert server.take() == [path_of(names[3]), path_of(names[5])]
    assert not is_due(server)
    assert server.take() == []
    resume(server, file)
    assert server.take() == [path_of(each) for each in names[::2]]


def test_names_that_were_read_before_are_passed_over_and_come_again(
    server: Server,
) -> None:
    names = [
        put(server.spool, make_name(NOW_US - 9 + k, task="abb"[k % 3]))
        for k in range(6)
    ]
    news(server)
    assert server.take(1) == [path_of(names[0])]
    file = pause(server, "task.b")
    arrived = put(server.spool, make_name(NOW_US - 1, task="b"))
    news(server)
    assert server.take() == [path_of(names[3])]
    assert not is_due(server)
    resume(server, file)
    rest = [*names[1:3], *names[4:], arrived]
    assert server.take() == [path_of(each) for each in rest]
    assert server.take() == []


def test_a_paused_task_that_is_given_back_waits(server: Server) -> None:
    name = put(server.spool)
    news(server)
    assert server.take() == [path_of(name)]
    file = pause(server, "task.t")
    server.backlog.give_back(path_of(name))
    assert server.take() == []
    resume(server, file)
    assert server.take() == [path_of(name)]


def test_a_pause_ends_by_itself_and_its_file_goes(
    spool: SpoolDir, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    clock = real_clock()
    server = Server(spool, clock)
    name = put(spool, make_name(clock.now_us()))
    file = pause(server, "all", "+10m\n")
    assert server.take() == []
    until_us = server.backlog.next_due_us
    assert until_us is not None
    assert abs(until_us - clock.now_us() - 600_000_000) < 100_000_000
    assert server.take() == []
    clock.advance(700)
    assert server.take() == [path_of(name)]
    assert not file.exists()
    assert [r.message.split()[:2] for r in caplog.records] == [
        ["pause", "what=all"],
        ["resume", "what=all"],
    ]
    server.close()


def test_a_pause_is_longer_when_it_is_written_anew(
    watching: Server, clock: FakeClock
) -> None:
    put(watching.spool)
    pause(watching, "all", "2026-11-20T21:02:00Z")
    assert watching.take() == []
    assert watching.backlog.next_due_us == NOW_US + MINUTE_US
    pause(watching, "all", "2026-11-20T21:03:00Z")
    assert watching.take() == []
    assert watching.backlog.next_due_us == NOW_US + 2 * MINUTE_US
    clock.advance(119)
    assert watching.take() == []
    clock.advance(1)
    assert len(watching.take()) == 1


def test_a_pause_that_is_over_wakes_nobody_else(
    watching: Server, clock: FakeClock
) -> None:
    pause(watching, "task.other", "2026-11-20T21:02:00Z")
    later = put(watching.spool, make_name(NOW_US + 30_000_000))
    assert watching.take() == []
    assert watching.backlog.next_due_us == later.due_us
    assert watching.take(more_urgent_than=3) == []
    assert watching.backlog.next_due_us == later.due_us
    clock.advance(30)
    assert watching.take() == [path_of(later)]
    assert watching.backlog.next_due_us == NOW_US + MINUTE_US


@pytest.mark.parametrize("text", ["soon", "+10x", "\0", "x" * 5000])
def test_a_pause_that_cannot_be_read_counts_and_is_told_once(
    watching: Server, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(watching.spool)
    file = pause(watching, "all", text)
    for _ in range(3):
        watching.backlog.scan()
        assert watching.take() == []
    assert caplog.text.count("cannot read pause all") == 1
    assert "it counts, and has no end" in caplog.text
    resume(watching, file)
    assert len(watching.take()) == 1


def test_a_directory_pauses_too(watching: Server) -> None:
    put(watching.spool)
    folder = Path(watching.spool.path, "paused/priority.5")
    folder.mkdir()
    assert watching.take() == []
    folder.rmdir()
    assert len(watching.take()) == 1


@pytest.mark.parametrize("what", ["al", "priority.05", "priority.x", "task. x", "x\ny"])
def test_a_name_that_pauses_nothing_is_told_once(
    watching: Server, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(watching.spool)
    pause(watching, what)
    watching.backlog.scan()
    assert len(watching.take()) == 1
    assert caplog.text.count("so it pauses nothing") == 1


def test_a_lost_event_of_a_pause_is_made_good_by_a_scan(watching: Server) -> None:
    put(watching.spool)
    watching.events = lambda: None  # type: ignore[method-assign] # lose them
    pause(watching, "all")
    watching.backlog.scan()
    assert watching.take() == []


def test_an_error_of_the_pauses_hands_out_nothing(
    watching: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(watching.spool)
    file = pause(watching, "task.x")
    told = ToldOS()
    told.fail("open", errno.EMFILE)
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", told)
        with pytest.raises(OSError, match="Too many"):
            watching.take()
    resume(watching, file)
    assert len(watching.take()) == 1


def test_what_is_paused_anew_is_told_once(watching: Server) -> None:
    backlog = watching.backlog
    name = make_name(priority=3)
    assert not backlog.more_is_paused()
    file = pause(watching, "task.t")
    watching.events()
    assert backlog.more_is_paused()
    assert not backlog.more_is_paused()
    assert backlog.pausing.is_paused(path_of(name))
    assert not backlog.pausing.is_paused(path_of(make_name(task="u")))
    pause(watching, "priority.3")
    watching.events()
    assert backlog.more_is_paused()
    assert backlog.pausing.is_paused(path_of(make_name(priority=3, task="u")))
    resume(watching, file)
    watching.events()
    assert not backlog.more_is_paused()
    every = pause(watching, "all")
    watching.events()
    assert backlog.more_is_paused()
    assert backlog.pausing.is_paused(path_of(make_name(task="u")))
    pause(watching, "task.u")
    watching.events()
    assert not backlog.more_is_paused()
    resume(watching, every)
    watching.events()
    assert not backlog.more_is_paused()


def test_a_folder_of_paused_names_is_read_once_and_kept(
    watching: Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(watching.spool)
    file = pause(watching, "task.t")
    assert watching.take() == []
    clock.advance(KEEP_US / 1e6 + 60)
    read = reads(watching, monkeypatch)
    for _ in range(5):
        assert watching.take() == []
        clock.advance(10)
    assert name.folder not in read
    priority = watching.backlog._priorities[5]
    assert priority.minutes == []  # a take passes it by
    other = put(watching.spool, name.but(id="f" * 16))
    assert watching.take() == []
    free = put(watching.spool, make_name(NOW_US, task="free"))
    assert watching.take() == [path_of(free)]
    Path(watching.spool.path, path_of(free)).unlink()
    watching.backlog.settle(path_of(free))
    resume(watching, file)
    assert watching.run() == [path_of(each) for each in (name, other)]
    watching.take()
    assert not watching.spool.has(name.folder)


def test_a_folder_whose_paused_names_were_removed_goes(
    server: Server, clock: FakeClock
) -> None:
    name = put(server.spool)
    news(server)
    pause(server, "task.t")
    assert server.take() == []
    clock.advance(KEEP_US / 1e6 + 60)
    assert server.take() == []
    Path(server.spool.path, path_of(name)).unlink()
    server.backlog.scan()
    server.take()
    clock.advance(KEEP_EMPTY)
    server.take()
    assert not server.spool.has(name.folder)


def test_many_paused_names_in_front_do_not_slow_down_the_others(
    watching: Server,
) -> None:
    first = make_name(NOW_US - 1_000_000, task="paused")
    watching.spool.make_folder(first.folder)
    fd = os.open(Path(watching.spool.path, first.folder), os.O_RDONLY)
    for k in range(10_000):
        each = first.but(due_us=first.due_us + k, id=f"{k:016x}")
        os.close(os.open(str(each), os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    put(watching.spool, make_name(NOW_US - 2_000_000))
    pause(watching, "task.paused")
    watching.watch.close()  # its news of so many files is not what is looked at here
    watching = Server(watching.spool, FakeClock())
    assert len(watching.take()) == 1
    watching.read_all()
    began = thread_time()  # in which nobody else's work counts
    for k in range(1000):
        name = put(watching.spool, make_name(NOW_US - 1000 + k))
        assert watching.run(1) == [path_of(name)]
    assert thread_time() - began < 2.0 * FACTOR
    assert not is_due(watching)
    watching.watch.close()


def test_nobody_wakes_up_for_a_task_that_nobody_had_room_for(
    server: Server, clock: FakeClock
) -> None:
    due_us = NOW_US + 5_000_000
    put(server.spool, make_name(due_us))
    server.backlog.stale = True
    assert server.take() == []
    server.backlog.forget_past()
    assert (server.backlog.next_due_us or 0) == due_us
    clock.advance(6)
    server.backlog.forget_past()
    assert not server.backlog.next_due_us
    assert len(server.take()) == 1
