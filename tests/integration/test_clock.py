"""The clock of a running daemon is set forward and back, or its machine is suspended.

Only the wall clock is shifted, as NTP, an operator and a suspended machine do; the
monotonic clock goes on, and file times are the kernel's.
"""

import mmap
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import time

import pytest

from .conftest import Box, Spoold, cpu_seconds, stays, wait_until

HOUR = 3600.0

SOURCE = Path(__file__).with_name("clock_shift.c")

APP = """
from spooler import Retry, current_task, spool
from tasks import gate, note, now, wait_for, write

@spool(backoff=600, jitter=0)
def fails_once() -> None:
    write(f"attempt {current_task().attempt}")
    if current_task().attempt == 1:
        raise ValueError("once")

@spool(rate="1/m")
def rated(text: str) -> None:
    write(text)

@spool(soft_timeout=100, hard_timeout=120)
def limited() -> None:
    write("began")
    wait_for("gate")
    write("ended")
"""

TIMER = """
from spooler import current_task, timer
from tasks import write
@timer(0.2)
def tick(): write(current_task().id)
"""

CRON = """
from spooler import cron
from tasks import write
@cron({line!r}, tz={zone!r})
def job(): write("ran")
"""


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library that shifts the clock."""
    path = tmp_path_factory.mktemp("clock") / "shift.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(path)]
    try:
        subprocess.run([*command, str(SOURCE), "-ldl"], check=True)
    except FileNotFoundError:
        pytest.skip("needs gcc")
    return path


class Clock:
    """The wall clock of the processes that run with ``env``."""

    def __init__(self, path: Path, shim: Path) -> None:
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)
        self.env = {"LD_PRELOAD": str(shim), "CLOCK_SHIFT": str(path)}

    def shift(self, seconds: float) -> None:
        """Have it show so many seconds more than the right time."""
        struct.pack_into("q", self._map, 0, round(seconds * 1e6))

    def set(self, moment: str) -> None:
        """Have it show a moment."""
        self.shift(datetime.fromisoformat(moment).timestamp() - time())

    def close(self) -> None:
        self._map.close()


@pytest.fixture
def clock(shim: Path, tmp_path: Path) -> Iterator[Clock]:
    """A clock that is right at first."""
    made = Clock(tmp_path / "shift", shim)
    yield made
    made.close()


def start(box: Box, clock: Clock, text: str, *options: str) -> Spoold:
    box.module(text)
    return box.start(*options, imports="mine", env=clock.env)


def test_the_clock_is_shifted_as_told(box: Box, clock: Clock) -> None:
    start(box, clock, APP)
    clock.shift(-HOUR)
    box.later("now", {"at": "2020-01-01T00:00:00Z"})
    wait_until(box.lines)
    assert abs(float(box.lines()[0]) - (time() - HOUR)) < HOUR / 2


# -- tasks ------------------------------------------------------------------------


def test_set_forward_what_has_become_due_starts_at_once(box: Box, clock: Clock) -> None:
    daemon = start(box, clock, APP)
    for number, at in enumerate(("+5m", "+30m", "+59m")):
        box.later("note", {"at": at}, text=str(number))
    box.later("note", {"at": "+2h"}, text="later")
    daemon.wait_for("serve spool=")
    clock.shift(HOUR)
    wait_until(lambda: len(box.lines()) >= 3)
    assert sorted(box.lines()) == ["0", "1", "2"]
    assert len(box.waiting()) == 1
    assert daemon.end() == 0


def test_set_back_what_is_due_later_now_waits_without_a_busy_loop(
    box: Box, clock: Clock
) -> None:
    daemon = start(box, clock, APP)
    clock.shift(-HOUR)
    box.put("note", text="put before")
    wait_until(box.waiting)
    before = cpu_seconds(daemon.pid)
    assert stays(lambda: not box.lines(), seconds=2.0)
    assert cpu_seconds(daemon.pid) - before < 0.5
    clock.shift(0)
    box.wait_lines("put before")


def test_set_back_what_is_put_by_the_new_clock_runs_at_once(
    box: Box, clock: Clock
) -> None:
    start(box, clock, APP)
    box.put("note", text="0")
    box.wait_lines("0")
    clock.shift(-HOUR)
    moment = datetime.fromtimestamp(time() - HOUR, UTC)
    box.later("note", {"at": moment}, text="1")
    box.wait_lines("0", "1")


def test_set_back_a_dropped_file_runs_at_once(box: Box, clock: Clock) -> None:
    start(box, clock, APP)
    clock.shift(-HOUR)
    box.drop("5/mine", b"task=note\ntext=dropped\n")
    box.wait_lines("dropped")


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_limits_of_a_run_do_not_follow_the_clock(
    box: Box, clock: Clock, seconds: float
) -> None:
    start(box, clock, APP)
    box.put("limited")
    box.wait_lines("began")
    clock.shift(seconds)
    assert stays(lambda: box.running(), seconds=1.5)
    box.open()
    box.wait_lines("began", "ended")
    wait_until(box.is_empty)
    assert not box.failed()


def test_a_suspended_machine_goes_on_where_it_was(box: Box, clock: Clock) -> None:
    daemon = start(box, clock, APP)
    box.put("limited")
    box.later("note", {"at": "+30m"}, text="due meanwhile")
    box.wait_lines("began")
    processes = box.processes()
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    clock.shift(8 * HOUR)
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
    box.open()
    box.wait_lines("began", "ended", "due meanwhile")
    wait_until(box.is_empty)
    assert daemon.end() == 0
    assert not box.failed()


def test_a_retry_is_due_by_the_clock(box: Box, clock: Clock) -> None:
    start(box, clock, APP)
    box.put("fails_once")
    box.wait_lines("attempt 1")
    wait_until(box.waiting)
    clock.shift(-HOUR)
    assert stays(lambda: len(box.lines()) == 1, seconds=1.2)
    clock.shift(700)
    box.wait_lines("attempt 1", "attempt 2")


def test_a_task_expires_by_the_clock(box: Box, clock: Clock) -> None:
    start(box, clock, APP)
    (box.spool / "paused" / "all").touch()
    wait_until(lambda: "pause what=all" in box.daemons[0].text())
    box.later("note", {"expires": "+30m"})
    clock.shift(HOUR)
    (box.spool / "paused" / "all").unlink()
    assert box.why()["reason"] == "expired"


def test_a_pause_ends_by_the_clock(box: Box, clock: Clock) -> None:
    daemon = start(box, clock, APP)
    (box.spool / "paused" / "all").write_text("+30m")
    daemon.wait_for("pause what=all")
    box.put("note")
    assert stays(lambda: not box.lines(), seconds=0.5)
    clock.shift(HOUR)
    box.wait_lines("done")


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_a_rate_goes_on_when_the_clock_jumps(
    box: Box, clock: Clock, seconds: float
) -> None:
    start(box, clock, APP)
    box.put("rated", text="0")
    box.wait_lines("0")
    clock.shift(seconds)
    moment = datetime.fromtimestamp(time() - 2 * HOUR, UTC)
    box.later("rated", {"at": moment}, text="1")
    box.wait_lines("0", "1")
    box.later("rated", {"at": moment}, text="2")
    assert stays(lambda: len(box.lines()) == 2, seconds=1.0)


# -- timers -----------------------------------------------------------------------


def no_slot_ran_twice(box: Box) -> bool:
    """Tell whether no tick was told again."""
    lines = box.lines()
    return len(set(lines)) == len(lines)


def ticks(box: Box, more: int) -> None:
    """Wait for so many ticks more."""
    there = len(box.lines())
    wait_until(lambda: len(box.lines()) >= there + more)


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, 25 * HOUR, -25 * HOUR])
def test_a_timer_goes_on_when_the_clock_jumps(
    box: Box, clock: Clock, seconds: float
) -> None:
    daemon = start(box, clock, TIMER)
    ticks(box, 3)
    clock.shift(seconds)
    ticks(box, 5)
    assert daemon.end() == 0
    assert no_slot_ran_twice(box)
    assert len(box.names("timers")) == 1


def test_a_timer_waits_after_a_small_step_back(box: Box, clock: Clock) -> None:
    daemon = start(box, clock, TIMER)
    ticks(box, 3)
    clock.shift(-4.0)
    ticks(box, 5)
    assert daemon.end() == 0
    assert no_slot_ran_twice(box)
    [record] = box.names("timers")
    assert int(record[:16]) / 1e6 <= time() - 4.0  # none before its time


def test_a_leap_second_runs_no_slot_twice(box: Box, clock: Clock) -> None:
    start(box, clock, TIMER)
    ticks(box, 3)
    clock.shift(-1.0)
    ticks(box, 5)
    assert no_slot_ran_twice(box)


def test_a_cron_line_that_names_a_time_runs_once_though_it_comes_again(
    box: Box, clock: Clock
) -> None:
    clock.set("2027-05-05T02:00:00+00:00")
    start(box, clock, CRON.format(line="30 2 * * *", zone="UTC"))
    wait_until(lambda: box.names("timers"))
    clock.set("2027-05-05T02:29:59+00:00")
    box.wait_lines("ran")
    clock.set("2027-05-05T01:30:00+00:00")
    assert stays(lambda: len(box.lines()) == 1, seconds=1.2)
    clock.set("2027-05-05T02:29:59+00:00")
    assert stays(lambda: len(box.lines()) == 1, seconds=2.5)
    clock.set("2027-05-06T02:29:59+00:00")
    box.wait_lines("ran", "ran")


def test_a_slot_that_was_jumped_over_is_caught_up_once(box: Box, clock: Clock) -> None:
    clock.set("2027-05-05T02:00:00+00:00")
    daemon = start(box, clock, CRON.format(line="*/5 * * * *", zone="UTC"))
    wait_until(lambda: box.names("timers"))
    clock.set("2027-05-05T03:02:00+00:00")
    box.wait_lines("ran")
    assert stays(lambda: len(box.lines()) == 1, seconds=1.2)
    assert daemon.text().count(" put task=") == 1


def test_in_spring_a_time_that_is_skipped_runs_right_after_the_gap(
    box: Box, clock: Clock
) -> None:
    clock.set("2027-03-28T00:30:00+00:00")
    start(box, clock, CRON.format(line="30 2 * * *", zone="Europe/Paris"))
    wait_until(lambda: box.names("timers"))
    clock.set("2027-03-28T00:59:59+00:00")  # 01:59:59 in Paris; then it is 03:00
    box.wait_lines("ran")
    clock.set("2027-03-28T01:30:01+00:00")
    assert stays(lambda: len(box.lines()) == 1, seconds=1.2)


def test_in_autumn_a_time_that_comes_twice_runs_once(box: Box, clock: Clock) -> None:
    clock.set("2027-10-31T00:00:00+00:00")
    start(box, clock, CRON.format(line="30 2 * * *", zone="Europe/Paris"))
    wait_until(lambda: box.names("timers"))
    clock.set("2027-10-31T00:29:59+00:00")  # 02:29:59 in Paris, for the first time
    box.wait_lines("ran")
    clock.set("2027-10-31T01:29:59+00:00")
    assert stays(lambda: len(box.lines()) == 1, seconds=2.5)
