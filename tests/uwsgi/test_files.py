"""A directory of uWSGI's: drained, and shared with a real uWSGI."""

import hashlib
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from time import time
from typing import Any

import pytest

from spooler.beside import AHEAD
from spooler.spooldir.uwsgi_files import locked

from ..integration.conftest import stays, wait_until
from .conftest import TIMEOUT
from .directory import Directory, Producer, directory, kill

__all__ = ["directory"]

pytestmark = pytest.mark.timeout(2 * TIMEOUT)

ROOT = Path(__file__).parents[2]
BODY = b"\x11\0{\n\xff=0123"
"""Ten bytes, some of which begin other kinds of files."""

SIZES = (0, 1, 100_000, 524_288)
"""How often these stand in a body: up to 5 MB."""


PRIORITIES = ("0", "5", "17", "05", "1234567")


def specs(priorities: tuple[str, ...] = PRIORITIES) -> Iterator[dict[str, Any]]:
    """Yield tasks of every kind, all of them due."""
    n = 0
    for priority in (None, *priorities):
        for times in SIZES:
            for at in (None, 1, time() - 3600.5):
                n += 1
                task: dict[str, Any] = {"n": f"{n}", "times": max(1, times)}
                task |= {"body": BODY.hex()} if times else {}
                task |= {} if priority is None else {"priority": priority}
                yield task | ({} if at is None else {"at": at})


def body_of(task: dict[str, Any]) -> bytes:
    """Return the body of a task."""
    return bytes.fromhex(task.get("body", "")) * int(task.get("times", 1))


# -- taken over as it lies ----------------------------------------------------------


def test_a_directory_that_uwsgi_wrote_is_drained_as_uwsgi_would(
    directory: Directory,
) -> None:
    tasks = list(specs())
    directory.written(tasks)
    assert len(directory.uwsgi_files()) == len(tasks)
    daemon = directory.spoold()
    daemon.wait_for("take over spool=")
    directory.wait_ran(len(tasks))
    by_spoold = directory.ran()
    assert directory.uwsgi_files() == []
    assert daemon.end() == 0
    assert directory.is_empty()
    assert directory.names("corrupt") == []
    assert {line.n: line.md5 for line in by_spoold} == {
        task["n"]: hashlib.md5(body_of(task)).hexdigest() for task in tasks
    }
    # The numbered folders come first, as numbers.
    order = [int(line.priority) for line in by_spoold if line.priority != "-"]
    assert order == sorted(order)
    first = {line.priority for line in by_spoold[: len(order)]}
    assert first == set(PRIORITIES)
    # The real one, with the same: the application has seen the same.
    (directory.out / "out").unlink()
    directory.written(tasks)
    uwsgi = directory.uwsgi()
    directory.wait_ran(len(tasks))
    assert uwsgi.end() == 0
    by_uwsgi = {line.n: line._replace(who="") for line in directory.ran()}
    assert by_uwsgi == {line.n: line._replace(who="") for line in by_spoold}


def test_at_is_kept_to_whether_in_the_key_or_in_the_time_of_the_file(
    directory: Directory,
) -> None:
    soon = time() + 5
    directory.written(
        [
            {"n": "key", "at": soon},
            {"n": "time"},
            {"n": "never", "at": 4_000_000_000},
            {"n": "put off", "at": 1},
        ]
    )
    for file in directory.spool.iterdir():
        if b"time" in file.read_bytes():
            os.utime(file, (soon, soon))
        if b"put off" in file.read_bytes():
            os.utime(file, (4_000_000_000, 4_000_000_000))
    directory.spoold()
    wait_until(lambda: len(directory.ran()) == 2)
    assert time() >= soon
    assert {line.n for line in directory.ran()} == {"key", "time"}
    later = [name for name in directory.waiting() if name.startswith("40000000")]
    assert len(later) == len(directory.waiting()) == 2


def test_what_uwsgi_left_broken_is_kept(directory: Directory) -> None:
    directory.written([{"n": "1"}, {"n": "2"}])
    first, second = directory.spool.iterdir()
    os.truncate(first, 6)  # uWSGI deletes it
    os.truncate(second, 0)  # and leaves this for ever
    directory.spoold()
    wait_until(lambda: len(directory.names("corrupt")) == 4)


def test_another_directory_is_refused_with_the_names(directory: Directory) -> None:
    directory.written([{"n": "1"}])
    (directory.spool / "photos").mkdir()
    line = directory.refused(directory.command("--uwsgi", imports="lines"), code=78)
    assert "there is photos; move that away" in line


def test_without_uwsgi_it_is_refused(directory: Directory) -> None:
    directory.written([{"n": "1"}])
    line = directory.refused(directory.command(imports="lines"), code=78)
    assert "is not empty and is not a spool" in line


# -- shared -------------------------------------------------------------------------


def test_neither_runs_what_the_other_one_runs(directory: Directory) -> None:
    uwsgi = directory.uwsgi(module="slow")
    producer = directory.uwsgi_producer([{"n": "1"}])
    wait_until(lambda: directory.lines("begun") == ["1 uwsgi"])
    daemon = directory.spoold("--uwsgi-files", module="slow")
    producer.wait()
    assert stays(lambda: directory.lines("begun") == ["1 uwsgi"], seconds=2)
    directory.open("gate")
    wait_until(lambda: directory.lines("ended") == ["1 uwsgi"])
    wait_until(lambda: directory.uwsgi_files() == [])
    assert "no longer" not in uwsgi.text()
    # and the other way round
    assert uwsgi.end() == 0
    (directory.out / "gate").unlink()
    directory.written([{"n": "2"}])
    wait_until(lambda: directory.lines("begun")[1:] == ["2 spoold"])
    uwsgi = directory.uwsgi(module="slow")
    assert stays(lambda: directory.lines("begun")[1:] == ["2 spoold"], seconds=3)
    directory.open("gate")
    wait_until(lambda: directory.lines("ended")[1:] == ["2 spoold"])
    assert uwsgi.end() == 0
    assert daemon.end() == 0


def test_the_lock_alone_keeps_the_real_uwsgi_off(directory: Directory) -> None:
    directory.written([{"n": "1"}, {"n": "2"}])
    held, free = sorted(directory.uwsgi_files())
    path = directory.spool / held
    with locked(str(path), dir_fd=0) as is_held:  # an absolute path needs none
        assert is_held
        uwsgi = directory.uwsgi()
        wait_until(lambda: len(directory.ran()) == 1)
        assert stays(lambda: len(directory.ran()) == 1, seconds=3)
        # It has opened the file, and waits for nothing: a move is safe.
        path.rename(directory.spool / "taken")
        # One at a time: what it had opened by then it has found locked.
        directory.written([{"n": "3"}])
        wait_until(lambda: len(directory.ran()) == 2)
    assert stays(lambda: len(directory.ran()) == 2, seconds=2)
    wait_until(lambda: not (directory.spool / free).exists())
    (directory.spool / "taken").rename(path)
    wait_until(lambda: len(directory.ran()) == 3)
    assert uwsgi.end() == 0


def test_a_task_that_uwsgi_was_killed_with_is_run_by_spoold(
    directory: Directory,
) -> None:
    uwsgi = directory.uwsgi(module="slow")
    directory.uwsgi_producer([{"n": "1"}]).wait()
    wait_until(lambda: directory.lines("begun") == ["1 uwsgi"])
    directory.spoold("--uwsgi-files", module="slow")
    assert kill(uwsgi) == -signal.SIGKILL
    directory.open("gate")
    wait_until(lambda: directory.lines("ended") == ["1 spoold"])


def test_what_spoold_is_not_about_to_run_is_left_to_uwsgi(
    directory: Directory,
) -> None:
    daemon = directory.spoold("--uwsgi-files", module="slow")
    tasks = [{"n": f"{number}"} for number in range(300)]
    directory.producer(tasks).wait()
    wait_until(lambda: directory.lines("begun"))
    left = 300 - AHEAD - 1
    wait_until(lambda: len(directory.uwsgi_files()) == left)
    assert stays(lambda: len(directory.uwsgi_files()) == left, seconds=1.5)
    uwsgi = directory.uwsgi()
    directory.wait_ran(left)
    assert len(directory.ran()) == left
    wait_until(lambda: directory.uwsgi_files() == [])
    directory.open("gate")
    wait_until(lambda: len(directory.lines("ended")) == AHEAD + 1)
    names = {line.n for line in directory.ran()}
    names |= {line.split()[0] for line in directory.lines("ended")}
    assert names == {task["n"] for task in tasks}
    assert daemon.end() == 0
    assert uwsgi.end() == 0


def test_files_that_are_not_due_stay_for_both(directory: Directory) -> None:
    daemon = directory.spoold("--uwsgi-files")
    directory.uwsgi_producer([{"n": "never", "at": 4_000_000_000}]).wait()
    tomorrow = int(time()) + 86_400
    directory.producer([{"n": "too", "at": tomorrow + 0.5, "priority": 7}]).wait()
    files = directory.uwsgi_files()
    assert len(files) == 2
    assert stays(lambda: directory.uwsgi_files() == files, seconds=1.5)
    soon = int(time()) + 4
    directory.uwsgi_producer([{"n": "key", "at": soon}]).wait()
    directory.producer([{"n": "ours", "at": soon + 0.5, "priority": 7}]).wait()
    wait_until(lambda: len(directory.ran()) == 2)
    assert time() >= soon
    assert {line[:2] for line in directory.ran()} == {
        ("key", "spoold"),
        ("ours", "spoold"),
    }
    assert directory.uwsgi_files() == files
    assert directory.waiting() == []
    assert daemon.end() == 0
    # What spoold has left, uWSGI runs.
    [path] = [file for file in files if "/" not in file]
    os.utime(directory.spool / path)
    directory.uwsgi()
    wait_until(lambda: len(directory.ran()) == 3)
    assert directory.ran()[2][:2] == ("never", "uwsgi")


@pytest.mark.parametrize("server", ["uwsgi", "spoold"])
def test_both_run_what_either_has_written(directory: Directory, server: str) -> None:
    tasks = list(specs(PRIORITIES[:4]))
    producer = directory.producer(tasks)
    producer.wait()
    assert producer.server.wait() == 0
    assert len(directory.uwsgi_files()) == len(tasks)
    if server == "uwsgi":
        directory.uwsgi()
    else:
        directory.spoold()
    directory.wait_ran(len(tasks))
    assert {line.n: line.md5 for line in directory.ran()} == {
        task["n"]: hashlib.md5(body_of(task)).hexdigest() for task in tasks
    }
    assert {line.who for line in directory.ran()} == {server}


def load(name: str, count: int) -> Iterator[dict[str, Any]]:
    """Yield many tasks, in the root and in folders; some are due a bit later."""
    now = time()
    for number in range(count):
        task: dict[str, Any] = {"n": f"{name}{number}", "pause": 0.003}
        if number % 3:
            task["priority"] = ("0", "1", "17", "05")[number % 4]
        if number % 7 == 0:
            task["at"] = now + number * 0.003 + 2
        if number % 5 == 0:
            task |= {"body": BODY.hex(), "times": 1 + number * 37 % 5000}
        yield task


def put_load(
    directory: Directory, count: int, number: int = 0
) -> tuple[list[Producer], set[str]]:
    """Have two of each kind put tasks; return them and what the tasks are called."""
    producers, names = [], set()
    for name in "abcd":
        tasks = list(load(f"{number}{name}", count))
        names |= {task["n"] for task in tasks}
        by_uwsgi = name in "ab"
        put = directory.uwsgi_producer if by_uwsgi else directory.producer
        producers.append(put(tasks))
    return producers, names


def has_run_just(directory: Directory, count: int) -> bool:
    return len(directory.lines()) == count


def test_under_load_every_task_runs_once(directory: Directory) -> None:
    uwsgi = directory.uwsgi("--spooler-processes", "2", "--spooler-quiet")
    daemon = directory.spoold("--uwsgi-files", "--workers", "2")
    names: set[str] = set()
    for number in count():
        producers, more = put_load(directory, 400, number)
        names |= more
        for producer in producers:
            producer.wait()
        directory.wait_ran(len(names))
        if {line.who for line in directory.ran()} == {"uwsgi", "spoold"}:
            break  # nearly always after the first load
    assert stays(partial(has_run_just, directory, len(names)), seconds=1)
    runs = Counter(line.n for line in directory.ran())
    assert set(runs) == names
    assert set(runs.values()) == {1}
    wait_until(lambda: directory.uwsgi_files() == [])
    assert directory.names("corrupt") == directory.names("failed") == []
    assert "horrible" not in uwsgi.text()
    assert daemon.end() == 0
    assert uwsgi.end() == 0


def test_whoever_is_killed_no_task_is_lost(directory: Directory) -> None:
    uwsgi = directory.uwsgi("--spooler-processes", "2", "--spooler-quiet")
    daemon = directory.spoold("--uwsgi-files", "--workers", "2")
    producers, names = put_load(directory, 400)
    for done in (0.2, 0.4, 0.6, 0.8):
        wanted = int(done * len(names))
        directory.wait_ran(wanted)
        assert kill(daemon) == -signal.SIGKILL
        daemon = directory.spoold("--uwsgi-files", "--workers", "2")
        assert kill(uwsgi) == -signal.SIGKILL
        uwsgi = directory.uwsgi("--spooler-processes", "2", "--spooler-quiet")
    for producer in producers:
        producer.wait()
    directory.wait_ran(len(names))
    wait_until(lambda: {line.n for line in directory.ran()} == names)
    wait_until(lambda: directory.uwsgi_files() == [] and directory.is_empty())
    again = len(directory.ran()) - len(names)
    assert again <= 4 * 4  # one for each process that was killed
    assert directory.names("corrupt") == directory.names("failed") == []


# -- back to uWSGI ------------------------------------------------------------------


def way_back() -> str:
    """Return the shell commands of the documentation."""
    page = (ROOT / "docs/howto/leave-uwsgi.md").read_text()
    found = re.search(r"```sh to-uwsgi.sh\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


def test_what_waits_goes_back_to_uwsgi(directory: Directory) -> None:
    assert directory.spoold().end() == 0  # which makes a spool of it
    (directory.spool / "paused" / "all").touch()
    daemon = directory.spoold()
    soon = int(time()) + 6  # uWSGI knows whole seconds
    tasks = list(specs(PRIORITIES[:4]))
    tasks += [{"n": "key", "at": soon}, {"n": "never", "at": 4_000_000_000}]
    directory.producer(tasks, files=False).wait()
    directory.drop("5/shell", b"task=uwsgi\nn=shell\n")
    wait_until(lambda: len(directory.waiting()) == len(tasks) + 1)
    assert daemon.end() == 0
    command = ["sh", "-euc", way_back(), "to-uwsgi.sh", str(directory.spool)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(directory.uwsgi_files()) == len(tasks)
    assert len(directory.waiting()) == 1
    assert done.stdout.startswith("left: 5/")
    assert done.stdout.count("\n") == 1
    directory.uwsgi()
    directory.wait_ran(len(tasks) - 1)
    assert time() >= soon
    assert {line.n: line.md5 for line in directory.ran()} == {
        task["n"]: hashlib.md5(body_of(task)).hexdigest()
        for task in tasks
        if task["n"] != "never"
    }
