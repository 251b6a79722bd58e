"""Timers and cron lines, with real daemons."""

from datetime import UTC, datetime

from spooler.clock import CLOCK

from .conftest import Box, stays, wait_until

TICK = """
from spooler import current_task, timer
from tasks import note, write
@timer(0.2)
def tick(): write(current_task().id)
"""

SLOW = """
from spooler import timer
from tasks import Event, write
@timer(0.2)
def slow():
    write("begin")
    Event().wait(1.0)
    write("end")
"""

CRON = """
from spooler import cron
from tasks import note, write
@cron("* * * * *")
def minutely(): write("minute")
"""


def test_two_daemons_run_a_timer_once_per_slot(box: Box) -> None:
    box.module(TICK)
    first = box.start(imports="mine")
    second = box.start(imports="mine")
    wait_until(lambda: len(box.lines()) >= 8)
    assert first.end() == 0
    assert second.end() == 0
    assert len(set(box.lines())) == len(box.lines())
    puts = sum(each.text().count(" put task=") for each in (first, second))
    assert puts == len(box.lines()) + len(box.waiting())


def test_a_restart_does_not_repeat_a_slot(box: Box) -> None:
    box.module(TICK)
    for count in (3, 6, 9):
        daemon = box.start(imports="mine")
        wait_until(lambda count=count: len(box.lines()) >= count)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        assert daemon.end() == 0
    assert len(set(box.lines())) == len(box.lines())
    assert len(box.names("timers")) == 1


def test_a_timer_never_overlaps_itself(box: Box) -> None:
    box.module(SLOW)
    box.start("--workers", "2", imports="mine")
    box.start("--workers", "2", imports="mine")
    wait_until(lambda: len(box.lines()) >= 5)
    assert box.lines()[:5] == ["begin", "end", "begin", "end", "begin"]


def test_a_missed_slot_of_a_cron_line_is_caught_up_once(box: Box) -> None:
    box.module(CRON)
    slot_us = (CLOCK.now_us() // 60_000_000 - 5) * 60_000_000
    (box.spool / "timers" / f"{slot_us:016d}.minutely").touch()
    box.start(imports="mine")
    wait_until(box.lines)
    box.put("note")
    wait_until(lambda: "done" in box.lines())
    # One more only if a minute has just begun.
    assert box.lines().count("minute") <= 2
    [record] = box.names("timers")
    assert int(record[:16]) > slot_us


def test_a_timer_that_is_new_waits_for_its_next_slot(box: Box) -> None:
    month = (datetime.now(UTC).month + 5) % 12 + 1  # far from now, whenever that is
    box.module(CRON.replace("* * * * *", f"0 0 1 {month} *"))
    box.start(imports="mine")
    wait_until(lambda: box.names("timers"))
    assert stays(lambda: not box.lines(), seconds=0.3)


def test_a_failing_timer_goes_on_with_its_next_slot(box: Box) -> None:
    box.module(TICK.replace("write(current_task().id)", "write('x'); 1/0"))
    box.start(imports="mine")
    wait_until(lambda: len(box.lines()) >= 3)
    assert len(box.failed()) >= 2


def test_a_timer_gone_from_the_code_is_put_no_more(box: Box) -> None:
    box.module(TICK)
    daemon = box.start(imports="mine")
    wait_until(lambda: len(box.lines()) >= 2)
    box.module("from tasks import note\n# a longer text, so that Python sees it\n")
    daemon.send(1)
    daemon.wait_for("reload: done")
    assert daemon.end() == 0
    assert daemon.text().rpartition("reload: done")[2].count(" put ") == 0


def test_a_timer_of_a_spool_that_is_not_served_is_reported(box: Box) -> None:
    box.module(
        "from spooler import Spooler\n"
        "@Spooler('elsewhere').timer(1)\n"
        "def tick(): pass\n"
    )
    daemon = box.start(imports="mine")
    daemon.wait_for("timer tick is for")
    assert daemon.end() == 0
