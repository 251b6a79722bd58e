"""Limits: what may be said of them, and who may run."""

import hashlib
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from tests.helpers import FakeClock, open_files, real_clock

from spooler import Spooler
from spooler.errors import UsageError
from spooler.limits import Limits, Rate, hash_of, parse_rate, rate_file
from spooler.registry import REGISTRY
from spooler.spooldir import SpoolDir, limits as limits_module
from spooler.spooldir.limits import (
    UNUSED_MAX_AGE,
    Busy,
    Permit,
    Permits,
    sweep_limits,
)

ONE = Limits(concurrency=1)
TWO = Limits(concurrency=2)
MINUTE = Limits(rate="3/m")


def permitted(found: Permit | Busy) -> Permit:
    assert isinstance(found, Permit), found
    return found


def refused(found: Permit | Busy) -> Busy:
    assert isinstance(found, Busy)
    return found


@pytest.fixture
def permits(spool: SpoolDir, clock: FakeClock) -> Permits:
    return Permits(spool, clock)


@contextmanager
def other_process(act: Callable[[], object]) -> Iterator[int]:
    """Do something in another process, which lives until the block ends."""
    reader, writer = os.pipe()
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        try:
            act()
            os.write(told, b"x")
            os.read(reader, 1)
        finally:
            os._exit(0)
    os.close(reader)
    os.close(told)
    try:
        assert os.read(ready, 1) == b"x"
        yield pid
    finally:
        os.close(writer)
        os.close(ready)
        os.waitpid(pid, 0)


# -- what may be said -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1/s", Rate(1, 1_000_000)),
        ("10/m", Rate(10, 60_000_000)),
        ("500/h", Rate(500, 3_600_000_000)),
        ("100000/d", Rate(100_000, 86_400_000_000)),
    ],
)
def test_a_rate_is_a_number_and_a_period(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "value",
    [
        *("", "10", "10/", "/m", "0/m", "-1/m", "10/w", "10/2m", "1.5/s", " 1/s"),
        *("\u0661/s", "100001/s", "9" * 5000 + "/s", 10, 1.0, None, True, ["1/s"]),
    ],
)
def test_other_rates_are_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="such as '10/m'"):
        parse_rate(value)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": -1},
        {"concurrency": True},
        {"concurrency": 1.0},
        {"concurrency": "2"},
        {"concurrency": 10_001},
        {"rate": "10"},
        {"rate": 10},
        {"concurrency_key": "{host}"},
        {"rate_key": "{host}"},
        {"rate": "1/s", "concurrency_key": "{host}"},
        {"concurrency": 1, "concurrency_key": "host"},
        {"concurrency": 1, "concurrency_key": ""},
        {"concurrency": 1, "concurrency_key": "{host"},
        {"concurrency": 1, "concurrency_key": "{}"},
        {"concurrency": 1, "concurrency_key": "{0}"},
        {"concurrency": 1, "concurrency_key": "{hots}"},
        {"concurrency": 1, "concurrency_key": "{body}"},
        {"concurrency": 1, "concurrency_key": 7},
        {"rate": "1/s", "rate_key": "{hots.name}"},
        {"rate": "1/s", "rate_key": "{host:{widht}}"},
    ],
    ids=str,
)
def test_bad_limits_are_refused_when_the_function_is_registered(
    options: dict[str, Any],
) -> None:
    def function(host: str, body: bytes = b"") -> None: ...

    function.__name__ = "bad_limits"
    with pytest.raises(UsageError, match=r"concurrency|rate"):
        Spooler("unused").spool(**options)(function)
    assert REGISTRY.get("bad_limits") is None


def test_keys_may_name_any_argument_of_a_dict() -> None:
    @Spooler("unused").spool(concurrency=1, concurrency_key="{host}", name="any1")
    def one(args: dict[str, Any]) -> None: ...

    @Spooler("unused").spool(concurrency=1, concurrency_key="{host}", name="any2")
    def two(**rest: str) -> None: ...

    entries = [REGISTRY.get("any1"), REGISTRY.get("any2")]
    assert all(entry is not None and entry.limits is not None for entry in entries)


def test_a_key_is_made_of_the_arguments_and_their_defaults(permits: Permits) -> None:
    @Spooler("unused").spool(
        concurrency=1, concurrency_key="{host}:{port} {day:%Y}", name="with_default"
    )
    def function(host: str, day: datetime, port: int = 80) -> None: ...

    entry = REGISTRY.get("with_default")
    assert entry is not None
    assert entry.limits is not None
    arguments = {"host": "a", "day": datetime(2026, 1, 2, tzinfo=UTC)}
    permit = permitted(permits.acquire(entry.limits, entry.name, arguments))
    assert permit.limits == (hash_of("with_default", "a:80 2026"),)
    permit.release()


def test_a_key_that_cannot_be_made_says_so(permits: Permits) -> None:
    limits = Limits(concurrency=1, concurrency_key="{host.name}")
    for arguments in ({}, {"host": "a"}):
        with pytest.raises(UsageError, match="the limit"):
            permits.acquire(limits, "t", arguments)


def test_those_without_a_key_are_known_beforehand() -> None:
    assert ONE.shared("t") == (hash_of("t", ""),)
    assert MINUTE.shared("t") == (rate_file(hash_of("t", "")),)
    keyed = Limits(concurrency=1, concurrency_key="{a}", rate="1/s", rate_key="{a}")
    assert keyed.shared("t") == ()


def test_the_hash_is_the_one_of_the_specification() -> None:
    found = hashlib.blake2b(b"resize\0a.example").hexdigest()[:32]
    assert hash_of("resize", "a.example") == found


# -- slots ------------------------------------------------------------------------


def test_there_are_so_many_slots_and_no_more(permits: Permits) -> None:
    first = permitted(permits.acquire(TWO, "t", {}))
    second = permitted(permits.acquire(TWO, "t", {}))
    busy = refused(permits.acquire(TWO, "t", {}))
    assert busy == Busy(hash_of("t", ""), None)
    assert first.slot == busy.limit
    first.release()
    third = permitted(permits.acquire(TWO, "t", {}))
    refused(permits.acquire(TWO, "t", {}))
    for permit in (second, third):
        permit.release()


def test_a_second_release_does_nothing(permits: Permits) -> None:
    first = permitted(permits.acquire(ONE, "t", {}))
    first.release()
    second = permitted(permits.acquire(ONE, "t", {}))
    first.release()
    refused(permits.acquire(ONE, "t", {}))
    second.release()


def test_tasks_and_keys_have_limits_of_their_own(permits: Permits) -> None:
    keyed = Limits(concurrency=1, concurrency_key="{host}")
    held = [
        permitted(permits.acquire(ONE, "t", {})),
        permitted(permits.acquire(ONE, "u", {})),
        permitted(permits.acquire(keyed, "v", {"host": "a"})),
        permitted(permits.acquire(keyed, "v", {"host": "b"})),
    ]
    refused(permits.acquire(keyed, "v", {"host": "a"}))
    for permit in held:
        permit.release()


def test_another_process_counts(spool: SpoolDir) -> None:
    permits = Permits(spool)
    with other_process(lambda: Permits(spool).acquire(TWO, "t", {})):
        permit = permitted(permits.acquire(TWO, "t", {}))
        refused(permits.acquire(TWO, "t", {}))
        permit.release()
        again = permitted(permits.acquire(TWO, "t", {}))
    other = permitted(permits.acquire(TWO, "t", {}))
    refused(permits.acquire(TWO, "t", {}))
    again.release()
    other.release()


def test_a_killed_process_keeps_no_slot(spool: SpoolDir) -> None:
    permits = Permits(spool)
    with other_process(lambda: Permits(spool).acquire(ONE, "t", {})) as pid:
        refused(permits.acquire(ONE, "t", {}))
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        permitted(permits.acquire(ONE, "t", {})).release()


def test_a_forked_child_keeps_no_slot(spool: SpoolDir) -> None:
    permits = Permits(spool)
    permit = permitted(permits.acquire(ONE, "t", {}))
    with other_process(lambda: None):
        assert isinstance(permits.acquire(ONE, "t", {}), Busy)
        permit.release()
        permitted(permits.acquire(ONE, "t", {})).release()


def test_a_child_that_closes_its_files_frees_no_slot(spool: SpoolDir) -> None:
    permits = Permits(spool)
    permit = permitted(permits.acquire(ONE, "t", {}))

    def close() -> None:
        [fd] = [fd for fd, what in open_files().items() if "/limits/" in what]
        os.close(fd)

    with (
        other_process(close),
        other_process(lambda: refused(Permits(spool).acquire(ONE, "t", {}))),
    ):
        permit.release()


def test_threads_share_the_slots_of_their_process(spool: SpoolDir) -> None:
    permits = Permits(spool)
    limits = Limits(concurrency=3)
    inside, most, done = [], [0], [0]
    guard = threading.Lock()

    def work() -> None:
        for _ in range(100):
            found = permits.acquire(limits, "t", {})
            if isinstance(found, Busy):
                continue
            with guard:
                inside.append(1)
                most[0] = max(most[0], len(inside))
                done[0] += 1
            os.sched_yield()
            with guard:
                inside.pop()
            found.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most[0] <= 3
    assert done[0] >= 100


def test_one_descriptor_per_file_and_none_when_nothing_is_held(
    permits: Permits,
) -> None:
    before = len(open_files())
    held = [permitted(permits.acquire(TWO, "t", {})) for _ in range(2)]
    assert len(open_files()) == before + 1
    refused(permits.acquire(TWO, "t", {}))
    assert len(open_files()) == before + 1
    for permit in held:
        permit.release()
    assert len(open_files()) == before


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_removed_is_made_anew(
    permits: Permits, spool: SpoolDir, replaced: bool
) -> None:
    first = permitted(permits.acquire(TWO, "t", {}))
    path = Path(spool.path, "limits", hash_of("t", ""))
    path.unlink()
    if replaced:
        path.touch()
    second = permitted(permits.acquire(TWO, "t", {}))
    third = permitted(permits.acquire(TWO, "t", {}))
    refused(permits.acquire(TWO, "t", {}))
    first.release()  # of the file that is gone
    refused(permits.acquire(TWO, "t", {}))
    second.release()
    third.release()
    permitted(permits.acquire(TWO, "t", {})).release()


def test_a_smaller_limit_counts_from_now_on(permits: Permits) -> None:
    held = [permitted(permits.acquire(TWO, "t", {})) for _ in range(2)]
    refused(permits.acquire(ONE, "t", {}))
    held[0].release()
    one = permitted(permits.acquire(ONE, "t", {}))
    refused(permits.acquire(ONE, "t", {}))
    one.release()
    held[1].release()


# -- rates ------------------------------------------------------------------------


def test_a_rate_lets_so_many_begin_in_a_period(
    permits: Permits, clock: FakeClock
) -> None:
    for _ in range(3):
        permitted(permits.acquire(MINUTE, "t", {})).release()
        clock.advance(10)
    busy = refused(permits.acquire(MINUTE, "t", {}))
    assert busy == Busy(rate_file(hash_of("t", "")), 30.0)
    clock.advance(29.999)
    refused(permits.acquire(MINUTE, "t", {}))
    clock.advance(0.001)
    permitted(permits.acquire(MINUTE, "t", {}))
    assert refused(permits.acquire(MINUTE, "t", {})).seconds == 10.0


def test_a_refused_rate_gives_its_slot_back(permits: Permits) -> None:
    limits = Limits(concurrency=1, rate="1/h")
    permit = permitted(permits.acquire(limits, "t", {}))
    assert permit.limits == (hash_of("t", ""), rate_file(hash_of("t", "")))
    assert refused(permits.acquire(limits, "t", {})).seconds is None
    permit.release()
    assert refused(permits.acquire(limits, "t", {})).seconds == 3600.0
    permitted(permits.acquire(ONE, "t", {})).release()


def test_a_taken_slot_uses_up_no_rate(permits: Permits, clock: FakeClock) -> None:
    limits = Limits(concurrency=1, rate="2/h")
    permit = permitted(permits.acquire(limits, "t", {}))
    for _ in range(5):
        assert refused(permits.acquire(limits, "t", {})).seconds is None
    permit.release()
    permitted(permits.acquire(limits, "t", {})).release()


@given(
    count=st.integers(1, 7),
    steps=st.lists(st.floats(0, 0.9), min_size=1, max_size=60),
)
@settings(deadline=None, max_examples=60)
def test_a_rate_is_exceeded_in_no_window(
    tmp_path_factory: pytest.TempPathFactory, count: int, steps: list[float]
) -> None:
    spool = SpoolDir(tmp_path_factory.mktemp("spool"))
    spool.create()
    clock = FakeClock()
    permits, limits = Permits(spool, clock), Limits(rate=f"{count}/s")
    begun: list[int] = []
    for step in steps:
        clock.advance(step)
        found = permits.acquire(limits, "t", {})
        recent = [each for each in begun if each > clock.now_us() - 1_000_000]
        # Exact: neither too many, nor refused where there is room.
        assert isinstance(found, Permit) is (len(recent) < count)
        if isinstance(found, Permit):
            begun.append(clock.now_us())
        else:
            assert found.seconds is not None
            assert found.seconds == pytest.approx(
                1 - (clock.now_us() - recent[0]) / 1e6
            )
    spool.close()


@pytest.mark.parametrize("back", [1.0, 59.0, 61.0, 3600.0, 10 * 365 * 86_400.0])
def test_a_clock_that_is_set_back_does_not_block_for_ever(
    permits: Permits, clock: FakeClock, back: float
) -> None:
    for _ in range(3):
        permitted(permits.acquire(MINUTE, "t", {}))
    clock.set(clock.now_us() - int(back * 1e6))
    found = permits.acquire(MINUTE, "t", {})
    assert isinstance(found, Permit) is (back > 60)
    if isinstance(found, Busy):
        assert found.seconds is not None
        assert found.seconds <= 120
        clock.advance(found.seconds)
        permitted(permits.acquire(MINUTE, "t", {}))


@pytest.mark.parametrize("other", ["1/m", "2/m", "5/m", "200/m"])
def test_another_rate_keeps_the_newest_moments(
    permits: Permits, clock: FakeClock, other: str
) -> None:
    for _ in range(5):  # the ring has turned
        permitted(permits.acquire(MINUTE, "t", {}))
        clock.advance(25)
    changed = Limits(rate=other)
    count = parse_rate(other).count
    recent = 2  # 25 and 50 s ago
    for _ in range(count - recent):
        permitted(permits.acquire(changed, "t", {}))
    busy = refused(permits.acquire(changed, "t", {}))
    assert busy.seconds == (35.0 if count == 1 else 10.0)


@pytest.mark.parametrize(
    "data",
    [b"x", b"\xff" * 32, struct.pack("<4Q", 7, 0, 0, 0), b"\0" * 31, b"\0" * 4000],
    ids=["short", "rubbish", "index", "cut", "long"],
)
def test_a_damaged_ring_lets_runs_begin(
    permits: Permits, spool: SpoolDir, data: bytes
) -> None:
    path = Path(spool.path, "limits", rate_file(hash_of("t", "")))
    path.write_bytes(data)
    for _ in range(3):
        permitted(permits.acquire(MINUTE, "t", {}))
    refused(permits.acquire(MINUTE, "t", {}))


def test_a_rate_is_asked_for_again_if_somebody_sits_in_it(
    spool: SpoolDir, clock: FakeClock
) -> None:
    permits = Permits(spool, clock)
    permitted(permits.acquire(MINUTE, "t", {}))
    path = Path(spool.path, "limits", rate_file(hash_of("t", "")))

    def sit() -> None:
        fd = os.open(path, os.O_RDWR)
        assert limits_module._lock_all(fd)

    with other_process(sit):
        assert refused(permits.acquire(MINUTE, "t", {})).seconds == 0.010
    permitted(permits.acquire(MINUTE, "t", {}))


def test_a_rate_holds_no_descriptor(permits: Permits) -> None:
    before = open_files()
    for _ in range(4):
        permits.acquire(MINUTE, "t", {})
    assert open_files() == before


# -- sweeping ---------------------------------------------------------------------


def test_files_that_are_not_used_are_swept(spool: SpoolDir) -> None:
    permits = Permits(spool)
    both = Limits(concurrency=1, rate="9/s")
    permitted(permits.acquire(both, "t", {})).release()
    clock = real_clock()
    clock.advance(UNUSED_MAX_AGE - 100)
    assert sweep_limits(spool, clock) == 0
    clock.advance(200)
    assert sweep_limits(spool, clock) == 2
    assert spool.all_names("limits") == []
    permitted(permits.acquire(both, "t", {})).release()


def test_a_file_in_use_is_not_swept(spool: SpoolDir) -> None:
    clock = real_clock()
    clock.advance(UNUSED_MAX_AGE + 100)
    with other_process(lambda: Permits(spool).acquire(ONE, "t", {})):
        assert sweep_limits(spool, clock) == 0
        assert isinstance(Permits(spool).acquire(ONE, "t", {}), Busy)
    assert sweep_limits(spool, clock) == 1


def test_what_is_used_often_is_not_swept(spool: SpoolDir) -> None:
    clock = real_clock()
    permits = Permits(spool, clock)
    permitted(permits.acquire(ONE, "t", {})).release()
    path = Path(spool.path, "limits", hash_of("t", ""))
    os.utime(path, (1, 1))
    permitted(permits.acquire(ONE, "t", {})).release()
    assert path.stat().st_mtime > 1_000_000


def test_foreign_things_in_limits_do_not_stop_a_sweep(spool: SpoolDir) -> None:
    clock = real_clock()
    clock.advance(UNUSED_MAX_AGE + 5)
    (Path(spool.path) / "limits" / "folder").mkdir()
    (Path(spool.path) / "limits" / "link").symlink_to("/etc/passwd")
    os.mkfifo(Path(spool.path) / "limits" / "fifo")
    sweep_limits(spool, clock)
    assert Path("/etc/passwd").exists()
