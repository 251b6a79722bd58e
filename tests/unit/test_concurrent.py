"""A worker that runs many tasks at a time, with a supervisor that is the test."""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import anyio
import pytest

from spooler import Spooler, concurrent, spool as decorate
from spooler.channel import Channel, WorkerSettings
from spooler.concurrent import ConcurrentWorker
from spooler.handle import _DIRS
from spooler.registry import REGISTRY
from spooler.spooldir import SpoolDir
from spooler.spooldir.claims import Claims
from spooler.spooldir.signing import LARGE
from spooler.verification import LIMIT

from ..helpers import FakeClock, open_files, wait_until

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture
def spool(tmp_path: Path, no_sync: None) -> Iterator[SpoolDir]:
    """Give a new spool; what a worker leaves open ends with its process."""
    before = open_files()
    spool = SpoolDir(tmp_path / "spool")
    spool.create()
    yield spool
    spool.close()
    for fd in open_files().keys() - before.keys():
        os.close(fd)
    _DIRS.clear()


@pytest.fixture
def go() -> Event:
    """Until it is set, tasks of the name ``long`` run."""
    return Event()


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Have a run last as long as the test says, however slow the machine is."""
    clock = FakeClock()
    monkeypatch.setattr(concurrent, "CLOCK", clock)
    return clock


@pytest.fixture
def registered(go: Event) -> Iterator[list[str]]:
    before = dict(REGISTRY._entries)
    done: list[str] = []

    @decorate(name="later", keep_result=60)
    async def later(text: str, seconds: float = 0.0) -> str:
        await anyio.sleep(seconds)
        done.append(text)
        return text

    @decorate(name="long")
    async def long(text: str) -> None:
        while not go.is_set():
            await anyio.sleep(0.001)
        done.append(text)

    @decorate(name="now")
    def now(text: str) -> None:
        done.append(text)

    yield done
    REGISTRY._entries.clear()
    REGISTRY._entries.update(before)


class Play:
    """What the supervisor says, in a thread, while the worker works here."""

    def __init__(self, spool: SpoolDir, go: Event, **settings: Any) -> None:
        self.go = go
        ours, theirs = socket.socketpair()
        self.sockets = ours, theirs
        self.channel = Channel(ours)
        self.lines: list[str] = []
        claims = Claims(spool, "w", [])
        claims._owners = None  # type: ignore[assignment] # anybody's
        told = WorkerSettings("w", "d", spool.path, [], **settings)
        self.worker = ConcurrentWorker(Channel(theirs), claims, told)

    def run(self, script: Callable[["Play"], None]) -> list[str]:
        """Work while a script goes on; drain after it; return all that was told.

        What is ``long`` ends after the script.
        """

        def supervise() -> None:
            try:
                script(self)
            finally:
                self.channel.send(["!drain"])
                self.go.set()

        thread = Thread(target=supervise)
        thread.start()
        self.worker.work()
        thread.join()
        self.hear()
        for each in self.sockets:
            each.close()
        return self.lines

    def wait_for_loop(self) -> None:
        """Wait until the loop runs."""
        wait_until(lambda: hasattr(self.worker, "_verifier"))

    def hear(self) -> list[str]:
        """Take what the worker says."""
        self.lines += self.channel.receive()
        return self.lines

    def wait(self, *lines: str) -> None:
        """Wait until the worker has said these."""
        wait_until(lambda: set(lines) <= set(self.hear()), timeout=10)

    def serve(self, *paths: str, until: str | None = None) -> None:
        """Hand tasks out, again when there is room for them, until they are done.

        Args:
            until: A line that is waited for instead.
        """
        awaited = set(paths) if until is None else {until}
        parked: list[str] = []
        self.channel.send(list(paths))

        def are_done() -> bool:
            known = len(self.lines)
            for line in self.hear()[known:]:
                if line.startswith(f"!park {LIMIT} - "):
                    parked.append(line.rpartition(" ")[2])
                elif line == f"!free {LIMIT}" and parked:
                    self.channel.send([parked.pop(0)])
            return awaited <= set(self.lines)

        wait_until(are_done, timeout=10)


@pytest.fixture
def play(spool: SpoolDir, go: Event) -> Iterator[Callable[..., Play]]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    files = tasks_open(spool)
    yield lambda **settings: Play(spool, go, **settings)
    assert tasks_open(spool) == files
    signal.set_wakeup_fd(-1)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def tasks_open(spool: SpoolDir) -> list[str]:
    """Return the descriptors of tasks, and of files that have no name any more."""
    below = f"{spool.path}/running/w/", f"{spool.path}/5/"
    files = open_files().values()
    return [each for each in files if each.startswith(below) or "/#" in each]


def put(spool: SpoolDir, task: str, /, **args: Any) -> str:
    handle = Spooler(spool.path, durability="fast").put(task, args)
    assert handle._name is not None
    return f"{handle._name.folder}/{handle._name}"


@BACKENDS
def test_what_is_done_is_told(
    spool: SpoolDir, play: Callable[..., Play], registered: list[str], backend: str
) -> None:
    paths = [put(spool, "later", text="a"), put(spool, "now", text="b")]

    def script(play: Play) -> None:
        play.channel.send(paths)
        play.wait(*paths)

    lines = play(async_backend=backend).run(script)
    assert lines[-1] == "!leave"
    assert sorted(registered) == ["a", "b"]
    assert spool.names("running") == []


def test_a_run_that_lasts_is_told_and_a_short_one_is_not(
    spool: SpoolDir,
    play: Callable[..., Play],
    registered: list[str],
    still: FakeClock,
) -> None:
    long, short = (put(spool, task, text="") for task in ("long", "later"))

    def script(play: Play) -> None:
        play.channel.send([long, short])
        play.wait(short)
        still.advance(2 * concurrent.LONG)
        play.wait(f"!run {long}")
        play.go.set()
        play.wait(long)

    lines = play().run(script)
    assert lines == [short, f"!run {long}", long, "!leave"]


def test_what_cannot_begin_is_not_claimed_and_is_given_back(
    spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    first, second = (put(spool, "long", text="") for _ in range(2))

    def script(play: Play) -> None:
        play.channel.send([first, second])
        play.wait(f"!run {first}")
        assert spool.has(second)
        play.channel.send(["!drain"])
        play.wait("!leave")

    lines = play(async_concurrency=1).run(script)
    assert lines == [f"!run {first}", f"!back {second}", "!leave", first]
    assert spool.has(second)


def test_a_name_that_comes_too_late_is_given_back(
    spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    long, late = (put(spool, "long", text="") for _ in range(2))

    def script(play: Play) -> None:
        play.channel.send([long])
        play.wait(f"!run {long}")
        play.channel.send(["!drain"])
        play.wait("!leave")
        play.channel.send([late])
        play.wait(f"!back {late}")

    play().run(script)
    assert spool.has(late)


@pytest.mark.usefixtures("still")
def test_a_limit_is_told_before_the_run(
    spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    path = put(spool, "later", text="")

    def script(play: Play) -> None:
        play.channel.send([path])
        play.wait(path)

    lines = play(hard_timeout=7.0).run(script)
    assert lines == [f"!limit 7.0 {path}", path, "!leave"]


@BACKENDS
def test_a_run_that_is_cancelled_has_failed(
    spool: SpoolDir, play: Callable[..., Play], registered: list[str], backend: str
) -> None:
    path = put(spool, "later", text="never", seconds=100)

    def script(play: Play) -> None:
        play.channel.send(["!cancel " + path])  # it has not begun: nothing happens
        play.channel.send([path])
        play.wait(f"!run {path}")
        play.channel.send([f"!cancel {path}"])
        play.wait(path)

    play(async_backend=backend).run(script)
    assert len([n for n in spool.names("failed") if not n.endswith(".why")]) == 1
    assert registered == []


def test_a_worker_without_a_supervisor_finishes_what_it_runs(
    spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    path = put(spool, "long", text="done")

    def script(play: Play) -> None:
        play.channel.send([path])
        play.wait(f"!run {path}")
        play.sockets[0].shutdown(socket.SHUT_RDWR)

    play().run(script)
    assert registered == ["done"]


@BACKENDS
def test_a_put_is_awaited_in_any_loop(
    spool: SpoolDir, registered: list[str], backend: str
) -> None:
    call = Spooler(spool.path).call("later", {"text": "x"})
    handle = anyio.run(call.aspool, backend=backend)
    assert handle.task == "later"
    assert len(list(spool.waiting())) == 1


def test_the_limit_of_a_run_that_has_ended_is_over_when_the_next_begins(
    spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    first, second = (put(spool, "now", text=text) for text in "ab")

    def script(play: Play) -> None:
        for path in (first, second):
            play.channel.send([path])
            play.wait(path)

    lines = play(hard_timeout=60.0).run(script)
    at = lines.index(f"!limit 0 {first}")
    assert lines[at + 1] == f"!limit 60.0 {second}"


def test_a_name_that_is_handed_out_twice_is_told_once(
    spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    path, last = put(spool, "long", text=""), put(spool, "later", text="")

    def script(play: Play) -> None:
        play.channel.send([path, path])
        play.wait(f"!run {path}")
        play.channel.send([path, last])
        play.wait(last)  # so it has heard of the other one while that ran

    lines = play().run(script)
    assert lines.count(path) == 1
    assert lines.index(path) > lines.index(f"!run {path}")
    assert f"!back {path}" not in lines


def test_a_worker_that_has_done_enough_asks_before_it_leaves(
    spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    long = put(spool, "long", text="long")
    short = put(spool, "later", text="short")

    def script(play: Play) -> None:
        play.channel.send([long])
        play.wait("!recycle")
        play.channel.send([short])
        assert registered == []
        play.channel.send(["!stay"])
        play.wait(short)
        assert registered == ["short"]
        assert "!leave" not in play.lines

    lines = play(max_tasks=1).run(script)
    assert registered == ["short", "long"]
    assert lines.count("!recycle") == 1


# -- large signed tasks -----------------------------------------------------------


@pytest.fixture
def signing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is put be signed, and what is run be verified."""
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("SPOOLER_KEY_FILE", str(key))
    _DIRS.clear()


def put_large(
    spool: SpoolDir, task: str, text: str, size: int = LARGE + 1, /, **options: Any
) -> str:
    spooler = Spooler(spool.path, durability="fast")
    handle = spooler.put(task, {"text": text}, body=bytes(size), **options)
    assert handle._name is not None
    return f"{handle._name.folder}/{handle._name}"


def spoil(spool: SpoolDir, path: str) -> None:
    """Change a task, so that its signature is wrong."""
    with open(Path(spool.path, path), "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")


def hold_verification(play: Play) -> None:
    """Have the thread that verifies be busy until ``go``. For the loop's thread."""
    limiter, group = play.worker._verifier._limiter, play.worker._group
    limiter.acquire_on_behalf_of_nowait(play)

    async def let_go() -> None:
        while not play.go.is_set():
            await anyio.sleep(0.001)
        limiter.release_on_behalf_of(play)

    group.start_soon(let_go)


def begin_to_verify(play: Play, path: str) -> None:
    """Hand out a large task, and wait until it is claimed; it is not verified yet."""
    anyio.from_thread.run_sync(hold_verification, play, token=play.worker._token)
    play.channel.send([path])
    play.wait(f"!go {LIMIT}", f"!run {path}")


@BACKENDS
@pytest.mark.parametrize("task", ["now", "later"])
def test_a_large_signed_task_is_run_when_it_is_verified(
    signing: None,
    spool: SpoolDir,
    play: Callable[..., Play],
    registered: list[str],
    backend: str,
    task: str,
) -> None:
    paths = [put_large(spool, task, text) for text in "ab"]
    bad = put_large(spool, task, "c")
    spoil(spool, bad)
    made = play(async_backend=backend)
    made.worker._claims._requires = True
    made.run(lambda play: play.serve(*paths, bad))
    assert sorted(registered) == ["a", "b"]
    assert Path(spool.path, "corrupt", Path(bad).name).exists()


@BACKENDS
@pytest.mark.parametrize("task", ["now", "later"])
@pytest.mark.parametrize("how", ["drain", "alone"])
def test_a_worker_that_ends_gives_back_what_it_verifies(
    signing: None,
    spool: SpoolDir,
    play: Callable[..., Play],
    registered: list[str],
    backend: str,
    task: str,
    how: str,
) -> None:
    path = put_large(spool, task, "large")

    def script(play: Play) -> None:
        play.wait_for_loop()
        begin_to_verify(play, path)
        if how == "drain":
            play.channel.send(["!drain"])
            play.wait("!leave")
        else:
            play.sockets[0].shutdown(socket.SHUT_RDWR)
            wait_until(lambda: play.worker._left)

    play(async_backend=backend).run(script)
    assert registered == []
    assert spool.has(path)


def test_a_worker_that_has_done_enough_gives_back_what_it_verifies(
    signing: None, spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    large, small = put_large(spool, "later", "large"), put(spool, "later", text="small")

    def script(play: Play) -> None:
        play.wait_for_loop()
        begin_to_verify(play, large)
        assert "!recycle" not in play.hear()
        play.channel.send([small])
        play.wait(small, "!recycle")
        play.channel.send(["!drain"])
        play.wait("!leave")

    play(max_tasks=1).run(script)
    assert registered == ["small"]
    assert spool.has(large)


@pytest.mark.parametrize("task", ["later", "now", "unknown"])
def test_a_task_that_is_killed_while_it_is_verified_is_not_run(
    signing: None,
    spool: SpoolDir,
    play: Callable[..., Play],
    registered: list[str],
    task: str,
) -> None:
    follower = Spooler(spool.path).call("later", {"text": "follower"})
    path = put_large(spool, task, "large", on_failure=follower)
    other = put(spool, "later", text="other")
    file = Path(path).name

    def script(play: Play) -> None:
        play.wait_for_loop()
        begin_to_verify(play, path)
        play.channel.send([f"!cancel {path}"])
        play.wait(path)
        assert spool.names("running/w") == [file]  # it was told before its end
        play.channel.send([other])
        play.wait(other)
        play.go.set()
        wait_until(lambda: spool.has(f"failed/{file}"))

    play().run(script)
    assert registered == ["other"]
    why = json.loads(Path(spool.path, "failed", f"{file}.why").read_text())
    assert (why["reason"], why["attempts"]) == ("killed", [])
    (then,) = ("/".join(each) for each in spool.waiting())
    assert Path(spool.path, then).read_bytes().startswith(b'{"sig":"')


def test_a_task_that_is_killed_and_whose_signature_is_wrong_is_put_aside(
    signing: None, spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    path = put_large(spool, "later", "large")
    spoil(spool, path)

    def script(play: Play) -> None:
        play.wait_for_loop()
        begin_to_verify(play, path)
        play.channel.send([f"!cancel {path}"])
        play.wait(path)

    made = play()
    made.worker._claims._requires = True
    made.run(script)
    assert registered == []
    assert spool.has(f"corrupt/{Path(path).name}")


def test_a_second_large_task_waits_and_takes_no_place(
    signing: None, spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    first, second = (put_large(spool, "later", text) for text in "ab")
    small = put(spool, "later", text="small")

    def script(play: Play) -> None:
        play.wait_for_loop()
        begin_to_verify(play, first)
        play.channel.send([second, small])
        play.wait(f"!park {LIMIT} - {second}", small)
        assert spool.has(second)
        assert registered == ["small"]
        play.go.set()
        play.wait(first, f"!free {LIMIT}")
        play.channel.send([second])
        play.wait(second)

    play(async_concurrency=2).run(script)
    assert registered == ["small", "a", "b"]


def test_a_large_task_that_cannot_be_opened_is_told_of(
    signing: None, spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    path = put_large(spool, "later", "a")
    Path(spool.path, path).unlink()
    Path(spool.path, path).symlink_to("nowhere")

    def script(play: Play) -> None:
        play.channel.send([path])
        play.wait(path)

    play().run(script)
    assert registered == []
    assert Path(spool.path, "corrupt", Path(path).name).is_symlink()


def test_what_is_verified_and_refused_is_no_run(
    signing: None, spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    bad = put_large(spool, "later", "bad")
    spoil(spool, bad)
    small = put(spool, "later", text="small")
    made = play(max_tasks=1)
    made.worker._claims._requires = True

    def script(play: Play) -> None:
        for path in (bad, small):
            play.serve(path)

    made.run(script)
    assert registered == ["small"]


def test_more_large_tasks_are_not_begun_than_a_worker_may_run(
    signing: None, spool: SpoolDir, play: Callable[..., Play], registered: list[str]
) -> None:
    paths = [put_large(spool, "later", str(n)) for n in range(5)]
    play(max_tasks=3).run(lambda play: play.serve(*paths, until="!leave"))
    assert sorted(registered) == ["0", "1", "2"]
    assert all(map(spool.has, paths[3:]))
