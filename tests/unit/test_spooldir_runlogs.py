"""What runs print and how far they say they are, on disk."""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import ToldOS, make_name, path_of, place, put, real_clock

from spooler.spooldir import SpoolDir, progress, repair, runlogs
from spooler.spooldir.claims import Claims
from spooler.spooldir.recovery import sweep
from spooler.spooldir.runlogs import HEAD, LIVE_MAX, TAIL, TRIMMED
from spooler.task import Name, Outcome, State, Verdict

ID = "8c1f42d09ab3e617"
WORKER = "worker-test-1-aaaaaa"
DAY = 24 * 3600.0


@pytest.fixture
def live(spool: SpoolDir) -> Iterator[int]:
    fd = runlogs.open_new(spool, runlogs.live_path(WORKER))
    yield fd
    os.close(fd)


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield fd
    os.close(fd)


def printed(tmp_path: Path) -> bytes:
    return (tmp_path / "output").read_bytes()


def logs(spool: SpoolDir) -> dict[str, bytes]:
    folder = Path(spool.path, "logs")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def numbered(size: int) -> bytes:
    return b"".join(b"%015d\n" % number for number in range(size // 16))


def test_what_was_printed_is_kept_and_passed_on(
    spool: SpoolDir, live: int, output: int, tmp_path: Path
) -> None:
    runlogs.append(live, b"hello\n")
    assert runlogs.take(spool, live, output, (ID, 1)) == (6, None)
    assert logs(spool) == {f"{ID}.1": b"hello\n", f"{WORKER}.live": b""}
    assert printed(tmp_path) == b"hello\n"


def test_what_is_not_wanted_is_passed_on_only(
    spool: SpoolDir, live: int, output: int, tmp_path: Path
) -> None:
    runlogs.append(live, b"hello\n")
    assert runlogs.take(spool, live, output, None) == (0, None)
    assert logs(spool) == {f"{WORKER}.live": b""}
    assert printed(tmp_path) == b"hello\n"


def test_of_a_large_log_the_beginning_and_the_end_are_kept(
    spool: SpoolDir, live: int, output: int, tmp_path: Path
) -> None:
    data = numbered(3 * 1024 * 1024)
    runlogs.append(live, data)
    runlogs.take(spool, live, output, (ID, 1))
    note = f"… {len(data) - HEAD - TAIL} bytes left out …\n".encode()
    assert logs(spool)[f"{ID}.1"] == data[:HEAD] + note + data[-TAIL:]
    assert printed(tmp_path) == data


def test_of_a_log_as_large_as_allowed_nothing_is_left_out(
    spool: SpoolDir, live: int, output: int
) -> None:
    data = numbered(HEAD + TAIL)
    runlogs.append(live, data)
    runlogs.take(spool, live, output, (ID, 1))
    assert logs(spool)[f"{ID}.1"] == data


def test_a_run_that_is_repeated_replaces_its_log(
    spool: SpoolDir, live: int, output: int
) -> None:
    for data in (b"first\n", b"second\n"):
        runlogs.append(live, data)
        runlogs.take(spool, live, output, (ID, 1))
    assert logs(spool)[f"{ID}.1"] == b"second\n"


def test_what_cannot_be_kept_is_passed_on_all_the_same(
    spool: SpoolDir,
    live: int,
    output: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runlogs.append(live, b"hello\n")
    told = ToldOS()
    told.fail("rename", errno.ENOSPC)
    monkeypatch.setattr(runlogs, "os", told)
    kept, problem = runlogs.take(spool, live, output, (ID, 1))
    assert kept == 0
    assert problem is not None
    assert problem.errno == errno.ENOSPC
    assert logs(spool) == {f"{WORKER}.live": b""}
    assert printed(tmp_path) == b"hello\n"


def test_an_output_that_nobody_reads_any_more_does_no_harm(
    spool: SpoolDir, live: int
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    runlogs.append(live, b"hello\n")
    assert runlogs.take(spool, live, writer, (ID, 1)) == (6, None)
    os.close(writer)


def test_a_slow_output_is_waited_for(spool: SpoolDir, live: int) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    data = numbered(256 * 1024)
    runlogs.append(live, data)
    pid = os.fork()
    if pid == 0:
        runlogs.take(spool, live, writer, None)
        os._exit(0)
    os.close(writer)
    os.set_blocking(reader, True)
    got = b""
    while part := os.read(reader, 65536):
        got += part
    os.waitpid(pid, 0)
    os.close(reader)
    assert got == data


def test_a_supervisor_never_waits_for_an_output(spool: SpoolDir, live: int) -> None:
    reader, writer = os.pipe()
    data = numbered(256 * 1024)
    runlogs.append(live, data)
    runlogs.forward_now(live, len(data), writer)
    assert len(os.read(reader, 1 << 20)) >= 4096
    runlogs.forward_now(live, 4096, writer)
    assert os.read(reader, 1 << 20) == data[:4096]
    os.close(reader)
    os.close(writer)


def test_only_the_last_hundred_attempts_are_kept(
    spool: SpoolDir, live: int, output: int
) -> None:
    for attempt in (1, 2, 100, 101):
        runlogs.append(live, b"x")
        runlogs.take(spool, live, output, (ID, attempt))
    assert runlogs.kept(spool, ID) == {ID: [2, 100, 101]}


# -- trimming -----------------------------------------------------------------------


def test_a_small_log_is_not_trimmed(spool: SpoolDir, live: int) -> None:
    runlogs.append(live, numbered(LIVE_MAX))
    assert not runlogs.trim(spool, WORKER)
    assert os.fstat(live).st_size == LIVE_MAX


def test_of_a_log_that_grows_too_large_the_end_is_left(
    spool: SpoolDir, live: int
) -> None:
    data = numbered(LIVE_MAX + 1024)
    runlogs.append(live, data)
    assert runlogs.trim(spool, WORKER)
    note = f"… {len(data) - TRIMMED} bytes left out …\n".encode()
    assert logs(spool)[f"{WORKER}.live"] == note + data[-TRIMMED:]
    runlogs.append(live, b"more\n")
    assert logs(spool)[f"{WORKER}.live"].endswith(b"\nmore\n")


def test_what_is_left_out_is_added_up(spool: SpoolDir, live: int) -> None:
    data = numbered(LIVE_MAX + 1024)
    for _ in range(3):
        runlogs.append(live, data)
        assert runlogs.trim(spool, WORKER)
    left_out = 3 * len(data) - TRIMMED
    found = logs(spool)[f"{WORKER}.live"]
    assert found.startswith(f"… {left_out} bytes left out …\n".encode())


def test_a_log_that_is_being_kept_is_not_trimmed(spool: SpoolDir, live: int) -> None:
    runlogs.append(live, numbered(LIVE_MAX + 1024))
    fcntl.flock(live, fcntl.LOCK_EX)
    assert not runlogs.trim(spool, WORKER)
    fcntl.flock(live, fcntl.LOCK_UN)
    assert runlogs.trim(spool, WORKER)


def test_a_worker_without_a_log_is_not_trimmed(spool: SpoolDir) -> None:
    assert not runlogs.trim(spool, WORKER)


# -- a worker that died -------------------------------------------------------------


def hold(spool: SpoolDir, *names: Name) -> None:
    for name in names:
        place(spool, f"running/{WORKER}/{name}")


def test_the_log_of_a_dead_worker_is_that_of_its_task(
    spool: SpoolDir, live: int, output: int, tmp_path: Path
) -> None:
    hold(spool, make_name(id=ID, attempt=2))
    runlogs.append(live, b"last words\n")
    progress.write_progress(spool, ID, {"done": 1})
    runlogs.rescue(spool, WORKER, output)
    assert logs(spool) == {f"{ID}.3": b"last words\n"}
    assert printed(tmp_path) == b"last words\n"


def test_of_a_dead_workers_large_log_the_ends_are_kept(
    spool: SpoolDir, live: int
) -> None:
    hold(spool, make_name(id=ID))
    data = numbered(2 * 1024 * 1024)
    runlogs.append(live, data)
    runlogs.rescue(spool, WORKER)
    found = logs(spool)
    assert list(found) == [f"{ID}.1"]
    assert found[f"{ID}.1"][:HEAD] == data[:HEAD]
    assert found[f"{ID}.1"][-TAIL:] == data[-TAIL:]


@pytest.mark.parametrize("number", [0, 2])
def test_a_log_of_nobody_knows_whom_is_passed_on_only(
    spool: SpoolDir, live: int, output: int, tmp_path: Path, number: int
) -> None:
    hold(spool, *(make_name() for _ in range(number)))
    runlogs.append(live, b"last words\n")
    runlogs.rescue(spool, WORKER, output)
    assert logs(spool) == {}
    assert printed(tmp_path) == b"last words\n"


def test_a_dead_worker_that_printed_nothing_leaves_nothing(
    spool: SpoolDir, live: int
) -> None:
    hold(spool, make_name(id=ID))
    runlogs.rescue(spool, WORKER)
    assert logs(spool) == {}


def test_a_link_in_the_place_of_a_log_is_not_followed(
    spool: SpoolDir, output: int, tmp_path: Path
) -> None:
    hold(spool, make_name(id=ID))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    Path(spool.path, runlogs.live_path(WORKER)).symlink_to(secret)
    runlogs.rescue(spool, WORKER, output)
    assert printed(tmp_path) == b""
    assert secret.read_text() == "secret"
    with pytest.raises(OSError, match="symbolic links"):
        os.close(runlogs.open_new(spool, runlogs.live_path(WORKER)))


# -- kept ---------------------------------------------------------------------------


def test_kept_logs_are_found_by_the_beginning_of_an_id(spool: SpoolDir) -> None:
    for file in (
        f"{ID}.10",
        f"{ID}.9",
        f"{ID}.attempts",
        f"{ID}.progress",
        f"{ID}.0",
        f"{ID}.01",
        "8c1f42d09ab3e618.1",
        "worker.live",
    ):
        place(spool, f"logs/{file}", b"x")
    assert runlogs.kept(spool, ID) == {ID: [9, 10]}
    assert set(runlogs.kept(spool, "8c1f")) == {ID, "8c1f42d09ab3e618"}
    assert runlogs.kept(spool, "9") == {}


@pytest.mark.parametrize("known", [0, 1, HEAD - 1, HEAD, HEAD + 10, 2 * 1024 * 1024])
def test_the_rest_of_a_kept_log_follows_what_is_known(
    spool: SpoolDir, live: int, output: int, known: int
) -> None:
    data = numbered(2 * 1024 * 1024 + 160)
    runlogs.append(live, data)
    runlogs.take(spool, live, output, (ID, 1))
    kept = logs(spool)[f"{ID}.1"]
    rest = runlogs.rest(kept, known)
    if known <= HEAD:
        assert data[:known] + rest == kept
    elif known < len(data) - TAIL:
        assert rest == kept[HEAD:]
    else:
        assert rest == data[known:]


def test_the_rest_of_a_whole_log_is_what_is_not_known() -> None:
    assert runlogs.rest(b"0123456789", 4) == b"456789"


def test_a_log_is_read_from_a_place_on(spool: SpoolDir) -> None:
    place(spool, f"logs/{ID}.1", b"0123456789")
    data, size, time_us = runlogs.read(spool, f"logs/{ID}.1", 4)
    assert (data, size) == (b"456789", 10)
    assert abs(time_us - real_clock().now_us()) < 60e6


def test_remove_removes_the_logs_of_a_task(spool: SpoolDir) -> None:
    name = put(spool, make_name(attempt=2, id=ID))
    for file in ("1", "2", "3", "progress"):
        place(spool, f"logs/{ID}.{file}", b"x")
    place(spool, "logs/8c1f42d09ab3e618.1", b"x")
    repair.remove(spool, repair.Found(State.WAITING, path_of(name), name))
    assert list(logs(spool)) == ["8c1f42d09ab3e618.1"]


# -- sweeping -----------------------------------------------------------------------


def failed(spool: SpoolDir, claims: Claims) -> None:
    name = put(spool, make_name(id=ID))
    claim = claims.claim(path_of(name))
    assert claim is not None
    claims.fail(claim, Outcome(Verdict.FAIL, "E", "fail"), started_us=0)


def test_old_logs_are_swept_and_those_of_failed_tasks_are_not(spool: SpoolDir) -> None:
    claims = Claims(spool, WORKER, {os.geteuid()})
    failed(spool, claims)
    claims.close()
    place(spool, f"logs/{ID}.1", b"x")
    place(spool, "logs/8c1f42d09ab3e618.1", b"x")
    place(spool, "logs/8c1f42d09ab3e619.progress", b"x")
    place(spool, "logs/somebody's own file", b"x")
    clock = real_clock()
    clock.advance(7 * DAY - 60)
    assert sweep(spool, clock) == 0
    assert sweep(spool, clock, keep_logs_for=6 * DAY) == 1
    clock.advance(120)
    assert sweep(spool, clock) == 1
    assert set(logs(spool)) == {f"{ID}.1", "somebody's own file"}
    (found,) = repair.ls(spool, State.FAILED)
    repair.remove(spool, found)
    assert set(logs(spool)) == {"somebody's own file"}


def test_a_living_workers_log_is_not_swept(spool: SpoolDir) -> None:
    place(spool, "logs/w1.live", b"x")
    place(spool, "logs/w2.live", b"x")
    place(spool, "workers/w1.lock", b"")
    clock = real_clock()
    clock.advance(30 * DAY)
    sweep(spool, clock)
    assert set(logs(spool)) == {"w1.live"}


def test_a_sweep_looks_at_so_many_files_and_in_the_end_at_all(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlogs, "SWEEP_MAX", 5)
    for number in range(12):
        place(spool, f"logs/{number:016x}.1", b"x")
    clock = real_clock()
    clock.advance(30 * DAY)
    assert runlogs.sweep(spool, 7 * DAY, clock) in (2, 5)
    for _ in range(100):
        assert runlogs.sweep(spool, 7 * DAY, clock) <= 5
    assert logs(spool) == {}


def test_what_is_no_file_of_ours_to_remove_is_left(spool: SpoolDir) -> None:
    Path(spool.path, "logs", f"{ID}.1").mkdir()
    clock = real_clock()
    clock.advance(30 * DAY)
    assert runlogs.sweep(spool, 7 * DAY, clock) == 0


# -- many runs at a time ------------------------------------------------------------


def test_a_log_under_its_own_name_is_left_if_wanted(
    spool: SpoolDir, output: int, tmp_path: Path
) -> None:
    for wanted in (True, False):
        fd = runlogs.open_new(spool, runlogs.log_path(ID, 1))
        runlogs.append(fd, b"hello\n")
        kept = runlogs.finish(spool, fd, output, (ID, 1), wanted=wanted)
        assert kept == (6 if wanted else 0)
        assert (f"{ID}.1" in logs(spool)) is wanted
    assert printed(tmp_path) == b"hello\nhello\n"


def test_a_large_log_under_its_own_name_is_cut(spool: SpoolDir, output: int) -> None:
    fd = runlogs.open_new(spool, runlogs.log_path(ID, 1))
    runlogs.append(fd, numbered(2 * 1024 * 1024))
    kept = runlogs.finish(spool, fd, output, (ID, 1), wanted=True)
    assert kept == len(logs(spool)[f"{ID}.1"]) < HEAD + TAIL + 100


# -- progress -----------------------------------------------------------------------


def test_progress_is_read_as_it_was_written(spool: SpoolDir) -> None:
    record = {"done": 1, "total": 2.5, "message": "é", "time": "t", "attempt": 3}
    progress.write_progress(spool, ID, record)
    said = progress.read_progress(spool, ID)
    assert said == progress.Progress(1, 2.5, "é", "t", 3)
    assert progress.progress_of(spool, make_name(id=ID, attempt=2)) == said
    assert progress.progress_of(spool, make_name(id=ID, attempt=3)) is None
    progress.forget_progress(spool, ID)
    assert progress.read_progress(spool, ID) is None
    assert logs(spool) == {}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"done":"x"}', b"\xff", b"{}", b"[" * 60000]
)
def test_a_damaged_progress_is_none(spool: SpoolDir, data: bytes) -> None:
    place(spool, f"logs/{ID}.progress", data)
    assert progress.read_progress(spool, ID) is None


def test_a_progress_that_cannot_be_put_in_place_leaves_nothing(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    told.fail("rename", errno.ENOSPC)
    monkeypatch.setattr(progress, "os", told)
    with pytest.raises(OSError, match="No space"):
        progress.write_progress(spool, ID, {"done": 1})
    assert logs(spool) == {}
