"""The daemon runs what is put: order, moments, bodies, several spools."""

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spooler import Spooler
from spooler.clock import CLOCK
from spooler.spooldir import SpoolDir

from .conftest import Box, wait_until


def now() -> float:
    return CLOCK.now_us() / 1e6


def test_a_put_task_runs(box: Box) -> None:
    box.start()
    box.put("note", text="hello")
    box.wait_lines("hello")
    wait_until(box.is_empty)


def test_what_was_put_before_the_start_runs(box: Box) -> None:
    box.put("note", text="hello")
    box.start()
    box.wait_lines("hello")


def test_burst_drains_200_tasks_and_ends(box: Box) -> None:
    for number in range(200):
        box.put("note", text=str(number))
    box.burst()
    assert sorted(box.lines()) == sorted(map(str, range(200)))
    assert box.is_empty()
    assert box.is_left_clean()


def test_burst_on_an_empty_spool_ends(box: Box) -> None:
    box.burst()
    assert box.is_left_clean()


def test_burst_runs_what_its_tasks_put(box: Box) -> None:
    box.put("chain", left=20)
    box.burst()
    assert box.lines() == [str(n) for n in range(20, -1, -1)]


def test_burst_leaves_what_is_due_later(box: Box) -> None:
    box.later("note", {"at": "+1h"})
    box.put("note", text="now")
    box.burst()
    assert box.lines() == ["now"]
    assert len(box.waiting()) == 1


def test_burst_waits_for_a_file_that_is_being_written(box: Box) -> None:
    with (box.spool / "5" / "slow").open("wb") as file:
        file.write(b"task=note\ntext=sl")
        file.flush()
        daemon = box.launch(box.command("--burst"))
        daemon.wait_for("serve spool=")
        box.put("note", text="other")
        box.wait_lines("other")
        assert daemon.process.poll() is None
        file.write(b"ow\n")
    assert daemon.wait() == 0
    assert box.lines() == ["other", "slow"]


def test_several_spools_are_served(box: Box, tmp_path: Path) -> None:
    others = [tmp_path / "mail", tmp_path / "photos"]
    options = []
    for other in others:
        SpoolDir(other).create()
        options += ["--dir", str(other)]
    box.start(*options)
    box.put("note", text="first")
    for other in others:
        Spooler(other).put("note", {"text": other.name})
    box.wait_lines("first", "mail", "photos")


def test_a_task_goes_to_the_spool_its_producer_came_from(
    box: Box, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    SpoolDir(other).create()
    Spooler(other).put("chain", {"left": 2})
    box.start("--dir", str(other), "--workers", "2")
    box.wait_lines("2", "1", "0")
    assert not list((box.spool / "5").iterdir())
    assert len(list((other / "5").iterdir())) > 0


def test_smaller_priorities_run_first_and_then_the_earlier_due(box: Box) -> None:
    for number in (10, 2, 1, 0):
        box.later("note", {"priority": number}, text=f"{number} b")
        at = now() - 60
        box.later("note", {"priority": number, "at": at}, text=f"{number} a")
    box.burst()
    expected = [f"{number} {letter}" for number in (0, 1, 2, 10) for letter in "ab"]
    assert box.lines() == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_more_urgent_overtakes_a_backlog(box: Box, workers: int) -> None:
    box.module(
        "from tasks import *\n"
        "@spool\n"
        "def slow_note(text: str) -> None:\n"
        "    if not (OUT / 'gate').exists():\n"
        "        Event().wait(0.02)\n"
        "    write(text)\n"
    )
    for number in range(1000):
        box.put("slow_note", text=str(number))
    box.start("--workers", str(workers), imports="mine")
    wait_until(lambda: len(box.lines()) > 20)

    def is_soon(text: str) -> bool:
        """Tell whether few are run between a put and its run."""
        box.later("note", {"priority": 0}, text=text)
        put_after = len(box.lines())
        wait_until(lambda: text in box.lines())
        return box.lines().index(text) < put_after + 20 * workers

    # On a busy machine the daemon may hear late of the first ones.
    urgent = (f"urgent {number}" for number in range(20))
    assert any(map(is_soon, urgent))
    assert len(box.lines()) < 1000
    box.open()
    wait_until(box.is_empty)
    assert len(box.lines()) == 1000 + 20 - len(list(urgent))


def test_a_stuck_worker_and_a_stream_of_urgent_tasks_do_not_block_it(box: Box) -> None:
    for number in range(100):
        box.put("note", text=str(number))
    box.later("gate", {"at": now()})
    for number in range(100):
        box.put("note", text=str(number))
    daemon = box.start()
    wait_until(lambda: box.lines("pid"))
    for number in range(1500):
        box.later("note", {"priority": 1}, text=f"urgent {number}")
    daemon.send(signal.SIGHUP)
    daemon.wait_for("reload: done")
    box.open()
    wait_until(lambda: len(box.lines()) == 1701)
    assert len(set(box.lines())) == 1601
    wait_until(box.is_empty)


def test_a_task_for_later_runs_then_and_not_before(box: Box) -> None:
    box.start("--frequency", "1000")  # so that it is the moment that wakes it up
    put = now()
    box.later("now", {"at": put + 0.5})
    wait_until(lambda: box.lines())
    assert float(box.lines()[0]) - put >= 0.5


@pytest.mark.parametrize(
    "at",
    [
        "+1s",
        timedelta(seconds=0.2),
        datetime.fromtimestamp(now() + 0.2, UTC),
        datetime.fromtimestamp(now() - 90, UTC).isoformat(),
    ],
    ids=["text", "timedelta", "datetime", "the past"],
)
def test_at_takes_moments_of_many_kinds(box: Box, at: object) -> None:
    box.start()
    box.later("note", {"at": at})
    box.wait_lines("done")


def test_many_tasks_put_into_minutes_that_are_over_all_arrive(box: Box) -> None:
    box.start()
    for number in range(300):
        at = now() - 3600 - 60 * (number % 7)
        box.later("note", {"at": at}, text=str(number))
    box.wait_lines(*map(str, range(300)))


def test_a_body_of_bytes_arrives(box: Box) -> None:
    box.later("size_of_bytes", {"body": b"\x00\xff{}\n" * 200_000})
    box.burst()
    assert box.lines() == ["1000000 b'\\x00\\xff{}\\n'"]


def test_a_body_of_50_mb_takes_no_memory(box: Box, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(50_000_000)
    with large.open("rb") as body:
        box.later("size_of_file", {"body": body})
    box.burst()
    size, kilobytes = map(int, box.lines()[0].split())
    assert size == 50_000_000
    assert kilobytes < 2000


def test_coroutines_run_to_their_end(box: Box) -> None:
    box.put("later", text="async")
    box.later("later_with_file", {"body": b"12345"})
    box.burst()
    assert box.lines() == ["async", "5"]


def test_parameters_by_position_only_take_names_too(box: Box) -> None:
    box.put("by_position", first=1)
    box.put("by_position", first=1, second=2, third=3)
    box.burst()
    assert box.lines() == ["1 7 8", "1 2 3"]


def test_a_function_of_one_dict_gets_everything(box: Box) -> None:
    box.later("anything", {"body": b"xyz"}, a=1, b=[2])
    box.burst()
    expected = [
        ("a", 1),
        ("b", [2]),
        ("body", b"xyz"),
        ("spooler_task_name", "anything"),
    ]
    assert box.lines() == [repr(expected)]


def test_current_task_tells_about_the_run(box: Box) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    options = {"priority": 3, "traceparent": parent, "id": "00112233445566ff"}
    box.later("about", options)
    box.burst()
    assert box.lines() == [
        "00112233445566ff",
        "about",
        "1",
        "3",
        str(box.spool),
        parent,
        "True",
        "None",
    ]


def test_the_deadline_is_told_where_there_is_a_limit(box: Box) -> None:
    box.put("about")
    box.burst("--hard-timeout", "100")
    year = datetime.now(UTC).year
    assert str(year) in box.lines()[-1] or str(year + 1) in box.lines()[-1]


@pytest.mark.parametrize("limit", ["inf", "1e300", "1e11"])
def test_a_limit_beyond_all_time_is_none(box: Box, limit: str) -> None:
    box.put("about")
    box.burst("--hard-timeout", limit)
    assert box.lines()[-1] == "None"


def test_what_tasks_print_comes_out_once_and_soon(box: Box, tmp_path: Path) -> None:
    box.module("print('imported', end='')\nfrom tasks import say")
    with (tmp_path / "stdout").open("wb") as stdout:
        daemon = box.start("--workers", "2", imports="mine", stdout=stdout)
    box.put("say", text="one")

    def printed() -> str:
        return (tmp_path / "stdout").read_text()

    wait_until(lambda: "one too\n" in printed())
    box.put("say", text="two")
    wait_until(lambda: "two too\n" in printed())
    assert daemon.end() == 0
    assert printed() == "importedone\none too\ntwo\ntwo too\n"


def test_a_closed_standard_output_does_not_hurt(box: Box) -> None:
    script = 'exec "$0" "$@" >&- <&-'
    command = ["sh", "-c", script, *box.command("--burst")]
    box.put("say", text="one")
    box.put("note")
    daemon = box.launch(command)
    assert daemon.wait() == 0
    assert "note" in box.lines() or box.lines() == ["done"]


def test_workers_are_recycled_after_max_tasks(box: Box) -> None:
    for _ in range(20):
        box.put("gate", name="out")
    box.put("note")
    box.out.joinpath("out").touch()
    box.burst("--max-tasks", "5")
    assert len(box.lines("pid")) == 20
    assert 4 <= len(set(box.lines("pid"))) <= 5


def test_tasks_put_by_many_producers_at_once_run_once(box: Box) -> None:
    box.start("--workers", "2")

    async def put(number: int) -> None:
        await asyncio.to_thread(box.put, "note", text=str(number))

    async def put_all() -> None:
        await asyncio.gather(*(put(number) for number in range(200)))

    asyncio.run(put_all())
    box.wait_lines(*map(str, range(200)))


def test_a_directory_named_with_a_space_and_a_newline_is_served(tmp_path: Path) -> None:
    folder = tmp_path / "a b\nc"
    folder.mkdir()
    box = Box(folder)
    try:
        box.put("note")
        box.burst()
        assert box.lines() == ["done"]
    finally:
        box.close()
