"""Wait for a task: whatever happens to its file meanwhile."""

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread, enumerate as all_threads
from time import monotonic
from typing import Any

import anyio
import pytest
import trio
from tests.helpers import make_name, open_files, path_of, put, wait_until

from spooler import (
    Handle,
    ResultError,
    ResultGoneError,
    State,
    TaskFailed,
    UsageError,
    handle as handles,
    waiting,
)
from spooler.errors import NotFoundError
from spooler.spooldir import SpoolDir, repair, results, tracking
from spooler.spooldir.claims import Claims
from spooler.task import Claim, Name, Outcome, Verdict
from spooler.wakeup import Watchpost, _hub

FAILED = Outcome(Verdict.FAIL, "E: it broke", "exception", "Traceback: it broke")
WITHIN = 20.0
"""Seconds that a wait may take here; none takes a thousandth of it."""


@pytest.fixture(autouse=True)
def dirs(monkeypatch: pytest.MonkeyPatch, no_leaks: None) -> Iterator[None]:
    """Let go of the spools that a test has used."""
    found: dict[str, SpoolDir] = {}
    monkeypatch.setattr(handles, "_DIRS", found)
    yield
    for each in found.values():
        each.close()


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no inotify."""
    monkeypatch.setattr(waiting, "Watchpost", refuse)
    monkeypatch.setattr(waiting, "POLL", 0.01)


def refuse(*_: object) -> None:
    raise OSError(errno.EMFILE, "inotify instance limit reached")


class Worker:
    """A worker that does what it is told."""

    def __init__(self, spool: SpoolDir) -> None:
        self.spool = spool
        self.claims = Claims(spool, "w1", {os.getuid()})

    def claim(self, name: Name) -> Claim:
        claim = self.claims.claim(path_of(name))
        assert claim is not None
        return claim

    def keep(self, name: Name, value: object = None, **given: Any) -> None:
        base = {"ok": True, "attempt": 1, "started_us": 0, "seconds": 60.0}
        results.keep(self.spool, name, value=value, **(base | given))

    def close(self) -> None:
        os.close(self.claims._fd)


@pytest.fixture
def worker(spool: SpoolDir) -> Iterator[Worker]:
    made = Worker(spool)
    yield made
    made.close()


def handle_of(spool: SpoolDir, name: Name, *, keeps: bool = False) -> Handle:
    return Handle(name.id, name.task, spool.path, name, _keeps=keeps)


def by_id(spool: SpoolDir, task_id: str) -> Handle:
    return Handle(task_id, "", spool.path, None)


class Waiter(Thread):
    """Waits for a task in a thread, with ``result``."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._act = act
        self.value: object = "nothing yet"
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self._act()
        except BaseException as error:  # noqa: BLE001 (told to the test)
            self.error = error

    def end(self) -> object:
        """Return what it has waited for."""
        self.join(WITHIN)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.value


@contextmanager
def waits(act: Callable[[], object]) -> Iterator[Waiter]:
    """Begin to wait, and go on when the watching has begun."""
    before = watched()
    waiter = Waiter(act)
    wait_until(lambda: watched() > before)
    yield waiter
    waiter.join(WITHIN)


def watched() -> int:
    """Return how many files this process knows by their place only."""
    count = 0
    for info in Path("/proc/self/fdinfo").iterdir():
        try:
            flags = int(info.read_text().split()[3], 8)
        except FileNotFoundError:
            continue
        count += flags & os.O_PATH != 0
    return count


# -- moves --------------------------------------------------------------------------


def acked(worker: Worker, name: Name) -> None:
    worker.claims.ack(worker.claim(name))


def retried(worker: Worker, name: Name) -> None:
    later = name.due_us + 61_000_000
    claim = worker.claim(name)
    worker.claims.retry(claim, FAILED, due_us=later, started_us=0)
    acked(worker, name.but(due_us=later, attempt=1))


def held(worker: Worker, name: Name) -> None:
    spool = worker.spool
    os.rename(f"{spool.path}/{path_of(name)}", f"{spool.path}/held/{name}")
    os.rename(f"{spool.path}/held/{name}", f"{spool.path}/{path_of(name)}")
    acked(worker, name)


def made_urgent(worker: Worker, name: Name) -> None:
    urgent = name.but(priority=0)
    os.rename(f"{worker.spool.path}/{path_of(name)}", f"{worker.spool.path}/0/{name}")
    worker.spool.move(f"0/{name}", urgent)
    acked(worker, urgent)


def edited(worker: Worker, name: Name) -> None:
    spool = worker.spool
    Path(spool.path, "tmp/new").write_bytes(b'{"task":"t","args":{"a":2}}\n')
    os.rename(f"{spool.path}/tmp/new", f"{spool.path}/{path_of(name)}")
    acked(worker, name)


def edited_elsewhere(worker: Worker, name: Name) -> None:
    later = name.but(due_us=name.due_us + 1)
    put(worker.spool, later)
    os.unlink(f"{worker.spool.path}/{path_of(name)}")
    acked(worker, later)


ENDS = [acked, retried, held, made_urgent, edited, edited_elsewhere]


@pytest.mark.parametrize("how", ENDS)
def test_wait_ends_with_the_task(
    spool: SpoolDir, worker: Worker, how: Callable[[Worker, Name], None]
) -> None:
    name = put(spool)
    with waits(lambda: handle_of(spool, name).wait()) as waiter:
        how(worker, name)
    assert waiter.end() is None


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("how", ENDS)
def test_wait_ends_without_inotify_too(
    spool: SpoolDir, worker: Worker, how: Callable[[Worker, Name], None]
) -> None:
    name = put(spool)
    with waits(lambda: handle_of(spool, name).wait()) as waiter:
        how(worker, name)
    assert waiter.end() is None


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.usefixtures("blind")
def test_wait_ends_where_other_hosts_move_files(
    spool: SpoolDir, worker: Worker, remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(track: tracking.Track) -> tuple[str, bool]:
        return stale, True  # the kernel of this host has heard of nothing

    monkeypatch.setattr(waiting, "_is_remote", lambda path: remote)
    name = put(spool)
    stale = path_of(name)
    monkeypatch.setattr(tracking.Track, "place", place)
    with waits(lambda: handle_of(spool, name).result()) as waiter:
        claim = worker.claim(name)
        worker.claims.retry(claim, FAILED, due_us=name.due_us + 1, started_us=0)
        stale = path_of(name.but(due_us=name.due_us + 1, attempt=1))
        claim = worker.claim(name.but(due_us=name.due_us + 1, attempt=1))
        worker.claims.ack(claim)
    if remote:
        assert waiter.end() is None
    else:  # here it would have known who removed it
        with pytest.raises(ResultGoneError):
            waiter.end()


def test_wait_does_not_end_before_the_task_does(
    spool: SpoolDir, worker: Worker
) -> None:
    name = put(spool)
    handle = handle_of(spool, name)
    with waits(lambda: handle.wait()) as waiter:
        claim = worker.claim(name)
        worker.claims.retry(claim, FAILED, due_us=name.due_us + 1, started_us=0)
        os.utime(f"{spool.path}/{name.folder}")
        waiter.join(0.05)
        assert waiter.is_alive()
        acked(worker, name.but(due_us=name.due_us + 1, attempt=1))
    assert waiter.end() is None


@pytest.mark.parametrize("other", [None, "keys/0123", "timers/0123.t"])
def test_wait_hears_of_the_unlink_whatever_other_links_there_are(
    spool: SpoolDir, worker: Worker, other: str | None
) -> None:
    name = put(spool)
    if other is not None:
        os.link(f"{spool.path}/{path_of(name)}", f"{spool.path}/{other}")
    with waits(lambda: handle_of(spool, name).wait()) as waiter:
        claim = worker.claim(name)
        waiter.join(0.05)
        assert waiter.is_alive()  # it has heard of the claim, and waits for more
        worker.claims.ack(claim)
    assert waiter.end() is None


def test_a_failed_task_ends_the_wait(spool: SpoolDir, worker: Worker) -> None:
    name = put(spool)
    handle = handle_of(spool, name)
    with waits(lambda: handle.wait()) as waiter:
        worker.claims.fail(worker.claim(name), FAILED, started_us=0)
    assert waiter.end() is State.FAILED
    assert handle.wait() is State.FAILED
    with pytest.raises(TaskFailed, match=f"task {name.id} failed: E: it broke") as e:
        handle.result()
    assert (e.value.task_id, e.value.error) == (name.id, "E: it broke")
    assert (e.value.reason, e.value.traceback) == ("exception", "Traceback: it broke")
    assert e.value.__notes__ == ["In the worker:\nTraceback: it broke"]


def test_a_failure_that_was_kept_tells_more_than_the_report(
    spool: SpoolDir, worker: Worker
) -> None:
    name = put(spool)
    worker.keep(name, ok=False, error="E: kept", reason="fail")
    worker.claims.fail(worker.claim(name), FAILED, started_us=0)
    with pytest.raises(TaskFailed, match="E: kept") as e:
        handle_of(spool, name).result()
    assert e.value.traceback is None
    assert not hasattr(e.value, "__notes__")


def test_a_failure_without_a_report_is_one_too(spool: SpoolDir, worker: Worker) -> None:
    name = put(spool)
    os.rename(f"{spool.path}/{path_of(name)}", f"{spool.path}/failed/{name}")
    with pytest.raises(TaskFailed, match="failed: unknown"):
        handle_of(spool, name).result()


def test_a_corrupt_task_ends_the_wait(spool: SpoolDir, worker: Worker) -> None:
    name = put(spool)
    handle = handle_of(spool, name)
    with waits(lambda: handle.wait()) as waiter:
        worker.claims.reject(worker.claim(name), "no brace")
    assert waiter.end() is State.CORRUPT
    with pytest.raises(TaskFailed, match="it is corrupt: no brace") as e:
        handle.result()
    assert e.value.reason == "corrupt"


def test_wait_gives_up_in_time(spool: SpoolDir) -> None:
    name = put(spool)
    for handle in (handle_of(spool, name), by_id(spool, name.id)):
        begin = monotonic()
        with pytest.raises(TimeoutError, match=f"{name.id} has not ended in 0.05 s"):
            handle.wait(0.05)
        assert 0.05 <= monotonic() - begin < WITHIN
        with pytest.raises(TimeoutError):
            handle.wait("0s")
        with pytest.raises(TimeoutError):
            handle.result(0)


@pytest.mark.usefixtures("blind")
def test_wait_gives_up_in_time_without_inotify(spool: SpoolDir) -> None:
    with pytest.raises(TimeoutError):
        handle_of(spool, put(spool)).wait(0.03)


@pytest.mark.parametrize("timeout", ["soon", -1, True, float("nan")])
def test_a_timeout_is_a_duration(spool: SpoolDir, timeout: Any) -> None:
    with pytest.raises(UsageError, match="timeout="):
        handle_of(spool, put(spool)).wait(timeout)


# -- results ------------------------------------------------------------------------


def test_result_is_what_was_kept(spool: SpoolDir, worker: Worker) -> None:
    name = put(spool)
    for handle in (handle_of(spool, name, keeps=True), by_id(spool, name.id)):
        with waits(lambda handle=handle: handle.result()) as waiter:  # type: ignore[misc] # a default binds it
            worker.keep(name, {"a": [1]})
            acked(worker, name)
        assert waiter.end() == {"a": [1]}
        assert handle.result() == {"a": [1]}
        assert handle.state() is None
        results.remove(spool, name.id)
        put(spool, name)


def test_result_is_none_where_nothing_was_to_be_kept(
    spool: SpoolDir, worker: Worker
) -> None:
    name = put(spool)
    acked(worker, name)
    assert handle_of(spool, name).result() is None


def test_a_result_that_is_gone_is_an_error(spool: SpoolDir, worker: Worker) -> None:
    name = put(spool)
    acked(worker, name)
    with pytest.raises(ResultGoneError, match="not kept any more"):
        handle_of(spool, name, keeps=True).result()


@pytest.mark.parametrize("keeps", [False, True])
def test_a_task_that_is_removed_has_no_result(spool: SpoolDir, keeps: bool) -> None:
    name = put(spool)
    with waits(lambda: handle_of(spool, name, keeps=keeps).result()) as waiter:
        repair.remove(spool, repair.find(spool, name.id))
    with pytest.raises(ResultGoneError, match="removed before it had ended"):
        waiter.end()


def test_a_task_that_is_moved_out_of_the_spool_is_removed(
    spool: SpoolDir, tmp_path: Path
) -> None:
    name = put(spool)
    with waits(lambda: handle_of(spool, name).result()) as waiter:
        os.rename(f"{spool.path}/{path_of(name)}", tmp_path / "elsewhere")
    with pytest.raises(ResultGoneError, match="removed before it had ended"):
        waiter.end()


def test_a_spool_that_is_moved_takes_its_waits_along(
    spool: SpoolDir, worker: Worker, tmp_path: Path
) -> None:
    name = put(spool)
    with waits(lambda: handle_of(spool, name).result()) as waiter:
        os.rename(spool.path, tmp_path / "elsewhere")
        acked(worker, name)
    assert waiter.end() is None


def test_a_result_that_could_not_be_kept_is_an_error(
    spool: SpoolDir, worker: Worker
) -> None:
    name = put(spool)
    worker.keep(name, object())
    acked(worker, name)
    with pytest.raises(ResultError, match="succeeded, but its result cannot be writ"):
        handle_of(spool, name, keeps=True).result()


def test_a_damaged_result_is_an_error(spool: SpoolDir, worker: Worker) -> None:
    name = put(spool)
    Path(spool.path, "done", name.id).write_text("{")
    acked(worker, name)
    for handle in (handle_of(spool, name, keeps=True), by_id(spool, name.id)):
        assert handle.wait() is None
        with pytest.raises(ResultError, match="cannot be read"):
            handle.result()


def test_an_old_failure_is_not_that_of_a_task_that_waits_again(
    spool: SpoolDir, worker: Worker
) -> None:
    name = put(spool)
    worker.keep(name, ok=False, error="E: the first time")
    again = name.but(due_us=name.due_us + 1)
    spool.move(path_of(name), again)  # as an operator's mv does
    handle = handle_of(spool, name, keeps=True)
    with pytest.raises(TimeoutError):
        handle.wait(0.02)
    acked(worker, again)
    assert handle.wait() is State.FAILED  # all that is left says so
    with pytest.raises(TaskFailed, match="the first time"):
        handle.result()


def test_an_id_that_nothing_answers_to(spool: SpoolDir) -> None:
    handle = by_id(spool, "0" * 16)
    assert handle.wait() is None
    assert handle.state() is None
    with pytest.raises(NotFoundError, match="no such task, and no result of one"):
        handle.result()


def test_an_id_is_enough_to_wait(spool: SpoolDir, worker: Worker) -> None:
    name = put(spool)
    with waits(lambda: by_id(spool, name.id).result()) as waiter:
        acked(worker, name)
    assert waiter.end() is None


# -- lines of batches -----------------------------------------------------------------


def line_of(
    spool: SpoolDir, batch: Name, task_id: str, *, keeps: bool = False
) -> Handle:
    return Handle(task_id, "t", spool.path, None, batch, keeps)


LINE = "00000000000000aa"


def test_a_line_ends_with_its_batch(spool: SpoolDir, worker: Worker) -> None:
    batch = put(spool)
    handle = line_of(spool, batch, LINE)
    assert handle.state() is State.WAITING
    with waits(lambda: handle.result()) as waiter:
        claim = worker.claim(batch)
        assert handle.state() is State.RUNNING
        worker.claims.ack(claim)
    assert waiter.end() is None
    assert handle.result() is None
    assert handle.state() is None


def test_a_line_ends_when_its_result_is_kept(spool: SpoolDir, worker: Worker) -> None:
    batch, other = put(spool), make_name()
    with waits(lambda: line_of(spool, batch, LINE, keeps=True).result()) as one:
        claim = worker.claim(batch)
        worker.keep(other, 1)
        worker.keep(make_name(id=LINE), 2)
        assert one.end() == 2
        worker.claims.ack(claim)


def test_a_line_that_failed_is_known_before_its_batch_is_over(
    spool: SpoolDir, worker: Worker
) -> None:
    batch = put(spool)
    with waits(lambda: line_of(spool, batch, LINE, keeps=True).wait()) as one:
        worker.keep(make_name(id=LINE), ok=False, error="E")
        assert one.end() is State.FAILED


def test_a_line_that_has_left_its_batch_is_waited_for(
    spool: SpoolDir, worker: Worker
) -> None:
    batch = put(spool)
    handle = line_of(spool, batch, LINE)
    with waits(lambda: handle.result()) as waiter:
        own = put(spool, make_name(id=LINE))
        acked(worker, batch)
        waiter.join(0.05)
        assert waiter.is_alive()
        assert handle.state() is State.WAITING
        worker.claims.fail(worker.claim(own), FAILED, started_us=0)
    with pytest.raises(TaskFailed, match="it broke"):
        waiter.end()


def test_a_line_in_a_part_that_was_cut_off_is_waited_for(
    spool: SpoolDir, worker: Worker
) -> None:
    batch, part = put(spool), make_name()
    handle = line_of(spool, batch, LINE)
    root = spool.path
    with waits(lambda: handle.result()) as waiter:
        os.link(f"{root}/{path_of(batch)}", f"{root}/{path_of(part)}")
        record = f"{3:016d} {6:016d} {batch.id}\n"
        Path(root, "batches", part.id).write_text(record)
        acked(worker, batch)
        waiter.join(0.05)
        assert waiter.is_alive()
        assert handle.state() is State.WAITING
        os.unlink(f"{root}/batches/{part.id}")
        acked(worker, part)
    assert waiter.end() is None


def test_a_line_of_a_batch_that_failed(spool: SpoolDir, worker: Worker) -> None:
    batch = put(spool)
    with waits(lambda: line_of(spool, batch, LINE).wait()) as waiter:
        worker.claims.fail(worker.claim(batch), FAILED, started_us=0)
    assert waiter.end() is State.FAILED


@pytest.mark.usefixtures("blind")
def test_a_line_ends_without_inotify_too(spool: SpoolDir, worker: Worker) -> None:
    batch = put(spool)
    with waits(lambda: line_of(spool, batch, LINE).wait()) as waiter:
        acked(worker, batch)
    assert waiter.end() is None


# -- no inotify ---------------------------------------------------------------------


def test_all_who_wait_share_one_inotify_and_one_thread(
    spool: SpoolDir, worker: Worker
) -> None:
    names = [put(spool) for _ in range(5)]
    waiters = [
        Waiter(lambda name=name: handle_of(spool, name).wait())  # type: ignore[misc] # a default binds it
        for name in names
    ]
    wait_until(lambda: _hub()._posts == 5)  # they have all come to wait
    assert watched() == 5
    assert sum("inotify" in what for what in open_files().values()) == 1
    wait_until(lambda: len(readers()) == 1)  # that of an earlier test may be ending
    for name in names:
        acked(worker, name)
    assert [waiter.end() for waiter in waiters] == [None] * 5
    wait_until(lambda: not readers())


def readers() -> list[Thread]:
    return [each for each in all_threads() if each.name == "spooler-waiting"]


def test_several_wait_for_one_task(spool: SpoolDir, worker: Worker) -> None:
    name = put(spool)
    waiters = [Waiter(handle_of(spool, name).wait) for _ in range(5)]
    wait_until(lambda: watched() == 5)
    with pytest.raises(TimeoutError):
        handle_of(spool, name).wait(0.01)  # who gives up does not end it for others
    retried(worker, name)
    assert [waiter.end() for waiter in waiters] == [None] * 5


def test_a_child_of_a_fork_waits_on_its_own(spool: SpoolDir, worker: Worker) -> None:
    name = put(spool)
    with waits(handle_of(spool, name).wait) as waiter:
        pid = os.fork()
        if pid == 0:
            try:
                handle_of(spool, name).wait()
                os._exit(0)
            finally:
                os._exit(1)
        acked(worker, name)
    assert waiter.end() is None
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("what", ["Watchpost", "add_file"])
def test_a_watch_that_is_refused_means_looking(
    spool: SpoolDir, worker: Worker, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "Watchpost":
        monkeypatch.setattr(waiting, what, refuse)
    else:
        monkeypatch.setattr(Watchpost, what, refuse)
    monkeypatch.setattr(waiting, "POLL", 0.01)
    name = put(spool)
    with waits(lambda: handle_of(spool, name).wait()) as waiter:
        acked(worker, name)
    assert waiter.end() is None


# -- await --------------------------------------------------------------------------


async def get(handle: Handle) -> Any:
    return await handle


def in_asyncio(work: Callable[..., Any], *args: Any) -> Any:
    return asyncio.run(work(*args))


LOOPS = [in_asyncio, trio.run]


@pytest.mark.parametrize("run", LOOPS)
def test_a_handle_can_be_awaited(
    spool: SpoolDir, worker: Worker, run: Callable[..., Any]
) -> None:
    name = put(spool)
    with waits(lambda: run(get, handle_of(spool, name, keeps=True))) as waiter:
        worker.keep(name, 7)
        acked(worker, name)
    assert waiter.end() == 7
    assert run(get, by_id(spool, name.id)) == 7
    results.remove(spool, name.id)
    with pytest.raises(ResultGoneError):
        run(get, handle_of(spool, name, keeps=True))


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("run", LOOPS)
def test_a_handle_can_be_awaited_without_inotify(
    spool: SpoolDir, worker: Worker, run: Callable[..., Any]
) -> None:
    name = put(spool)
    with waits(lambda: run(get, by_id(spool, name.id))) as waiter:
        worker.claims.fail(worker.claim(name), FAILED, started_us=0)
    with pytest.raises(TaskFailed, match="it broke"):
        waiter.end()


async def get_with_others(handles: list[Handle], go: Callable[[], None]) -> list[Any]:
    """Await several while the loop does something else."""
    found: list[Any] = []
    ticks = 0

    async def one(handle: Handle) -> None:
        found.append(await handle)

    async with anyio.create_task_group() as group:
        for handle in handles:
            group.start_soon(one, handle)
        while ticks < 5:
            await anyio.sleep(0.001)
            ticks += 1
        assert found == []
        go()
    return found


@pytest.mark.parametrize("run", LOOPS)
def test_many_are_awaited_in_one_loop(
    spool: SpoolDir, worker: Worker, run: Callable[..., Any]
) -> None:
    names = [put(spool) for _ in range(20)]

    def go() -> None:
        for number, name in enumerate(names):
            worker.keep(name, number)
            acked(worker, name)

    found = run(get_with_others, [handle_of(spool, name) for name in names], go)
    assert sorted(found) == list(range(20))


async def give_up(handle: Handle) -> None:
    with anyio.move_on_after(0.05) as scope:
        await handle
    assert scope.cancelled_caught


@pytest.mark.parametrize("run", LOOPS)
def test_an_await_can_be_cancelled(spool: SpoolDir, run: Callable[..., Any]) -> None:
    run(give_up, handle_of(spool, put(spool)))
    assert watched() == 0


def test_an_await_that_is_cancelled_in_its_search_leaves_nothing_open(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    searching, go_on, done = Event(), Event(), Event()
    name = put(spool)
    real = tracking.track_anywhere

    def slow(*args: Any) -> Any:
        searching.set()
        go_on.wait(WITHIN)
        try:
            return real(*args)
        finally:
            done.set()

    async def one() -> None:
        task = asyncio.ensure_future(get(Handle(name.id, "t", spool.path, None)))
        while not searching.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    monkeypatch.setattr(waiting, "track_anywhere", slow)
    asyncio.run(one())
    assert done.wait(WITHIN)
    wait_until(lambda: str(name) not in str(open_files()))


# -- what it costs ------------------------------------------------------------------


def test_a_wait_opens_one_file_however_many_tasks_wait(
    spool: SpoolDir, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locate(*_: object) -> None:
        raise AssertionError("looked through the spool")

    for _ in range(100):
        put(spool)
    name = put(spool)
    monkeypatch.setattr(waiting, "locate", locate)
    with waits(lambda: handle_of(spool, name).wait()) as waiter:
        retried(worker, name)
    assert waiter.end() is None


def test_a_task_that_always_slips_by_is_given_up_looking_for(spool: SpoolDir) -> None:
    assert tracking.track_anywhere(spool, lambda: "5/nowhere") is None
