"""Results with real daemons: kept, waited for, gone."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from spooler import (
    Handle,
    ResultError,
    ResultGoneError,
    Spooler,
    State,
    TaskFailed,
)

from ..helpers import FACTOR
from .conftest import LIMIT, Box, wait_until

APP = "returning"
SPOOL = Path(sys.executable).with_name("spool")
WITHIN = LIMIT * FACTOR


def put(box: Box, task: str, /, **args: Any) -> Handle:
    """Put a task of which this process knows that a result is kept."""
    return box.spooler.put(task, args, keep_result=60)


def command(box: Box, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SPOOL, "--dir", box.spool, *words],
        capture_output=True,
        text=True,
        timeout=WITHIN,
        env=box.environ(),
    )


def test_a_result_comes_back(box: Box) -> None:
    box.start(imports=APP)
    assert put(box, "add", a=1, b=2).result(WITHIN) == {"total": 3, "where": "/x"}
    assert box.put("add", a=1, b=2).result(WITHIN) == {"total": 3, "where": "/x"}
    assert put(box, "later", number=5).result(WITHIN) == 5
    assert put(box, "forget", a=1).result(WITHIN) == 1
    assert box.put("forget", a=1).result(WITHIN) is None


def test_a_result_is_there_after_the_daemon_has_ended(box: Box) -> None:
    handle = put(box, "add", a=1, b=2)
    box.burst(imports=APP)
    assert handle.wait() is None
    assert handle.result()["total"] == 3
    assert box.spooler.handle(handle.id).result()["total"] == 3


def test_retries_are_waited_for(box: Box) -> None:
    handle = put(box, "third_time")
    box.start(imports=APP)
    assert handle.result(WITHIN) == 3
    kept = json.loads((box.spool / "done" / handle.id).read_text())
    assert (kept["attempt"], kept["ok"], kept["task"]) == (3, True, "third_time")


def test_a_failure_comes_back_with_its_traceback(box: Box) -> None:
    box.start(imports=APP)
    handle = put(box, "divide", a=1, b=0)
    with pytest.raises(TaskFailed, match=r"Fail: b is 0") as e:
        handle.result(WITHIN)
    assert e.value.reason == "fail"
    assert 'raise Fail("b is 0")' in "\n".join(e.value.__notes__)
    handle = put(box, "always_wrong", secret="s3cret")
    with pytest.raises(TaskFailed, match="ValueError: always") as e:
        handle.result(WITHIN)
    assert e.value.reason == "exception"
    assert handle.state() is State.FAILED
    assert handle.wait() is State.FAILED
    kept = (box.spool / "done" / handle.id).read_text()
    assert '"attempt":2' in kept
    assert "s3cret" not in kept


def test_a_task_that_is_killed_fails_for_those_who_wait(box: Box) -> None:
    box.start("--workers", "2", imports=APP)
    dies, endless = put(box, "dies"), put(box, "endless")
    with pytest.raises(TaskFailed, match="its worker died") as e:
        dies.result(WITHIN)
    assert e.value.reason == "crash"
    with pytest.raises(TaskFailed, match="time limit") as e:
        endless.result(WITHIN)
    assert e.value.reason == "timeout"
    assert put(box, "dies_once").result(WITHIN) == 2


def test_a_daemon_that_is_killed_does_not_end_the_wait(box: Box) -> None:
    handle = put(box, "gated", number=1)
    daemon = box.start(imports=APP)
    wait_until(box.running)
    daemon.end(signal.SIGKILL)
    with pytest.raises(TimeoutError):
        handle.wait(0.1)
    box.open()
    box.start(imports=APP)
    assert handle.result(WITHIN) == 1


def test_what_json_cannot_say_is_an_error_and_the_task_has_succeeded(box: Box) -> None:
    daemon = box.start(imports=APP)
    for kind, why in (("object", "cannot be written in JSON"), ("large", "takes 2000")):
        handle = put(box, "odd", kind=kind)
        with pytest.raises(
            ResultError, match=f"it has succeeded, but its result {why}"
        ):
            handle.result(WITHIN)
        assert handle.wait() is None
        daemon.wait_for(f"result of task={handle.id} name=odd is not kept: its result")
    assert box.failed() == []


def test_a_kicked_task_is_waited_for_anew(box: Box) -> None:
    box.start(imports=APP)
    handle = put(box, "divide", a=1, b=0)
    with pytest.raises(TaskFailed):
        handle.result(WITHIN)
    assert command(box, "kick", handle.id).returncode == 0
    assert handle.wait(WITHIN) is State.FAILED
    wait_until(lambda: (box.spool / "done" / handle.id).exists())
    assert command(box, "rm", handle.id).returncode == 0
    assert box.names("done") == []
    with pytest.raises(ResultGoneError):
        handle.result(WITHIN)


def test_results_go_when_their_time_is_over(box: Box) -> None:
    handle = box.put("soon_gone")
    box.burst(imports=APP)
    assert box.spooler.handle(handle.id).result() == 1
    os.utime(box.spool / "done" / handle.id, (1, 1))
    box.start(imports=APP)
    wait_until(lambda: not box.names("done"))


def ticked(box: Box, before_ns: int) -> bool:
    """Tell whether a change has a later time by now: the kernel's are coarse."""
    file = box.out / "tick"
    file.write_text("")
    return file.stat().st_ctime_ns > before_ns


def test_the_oldest_results_go_first(box: Box) -> None:
    handles = []
    daemon = box.start(imports=APP)
    for number in range(4):
        handles.append(put(box, "add", a=number, b=0))
        assert handles[-1].wait(WITHIN) is None
        kept = (box.spool / "done" / handles[-1].id).stat().st_ctime_ns
        wait_until(partial(ticked, box, kept))
    assert daemon.end() == 0
    assert len(box.names("done")) == 4
    box.start("--keep-results", "2", imports=APP)
    wait_until(lambda: len(box.names("done")) == 2)
    assert handles[3].result()["total"] == 3
    with pytest.raises(ResultGoneError):
        handles[0].result()


def test_fifty_wait_at_once(box: Box) -> None:
    handles = [put(box, "gated", number=number) for number in range(50)]
    found: list[Any] = [None] * 50

    def wait(number: int) -> None:
        found[number] = handles[number].result(WITHIN)

    waiters = [threading.Thread(target=wait, args=(number,)) for number in range(50)]
    for waiter in waiters:
        waiter.start()
    box.start("--workers", "3", imports=APP)
    box.open()
    for waiter in waiters:
        waiter.join(WITHIN)
    assert found == list(range(50))


async def gather(handles: list[Handle]) -> list[Any]:
    """Await all, in whichever loop this is."""
    found: list[Any] = [None] * len(handles)

    async def one(number: int) -> None:
        found[number] = await handles[number]

    with anyio.fail_after(WITHIN):
        async with anyio.create_task_group() as group:
            for number in range(len(handles)):
                group.start_soon(one, number)
    return found


def in_asyncio(work: Callable[..., Any], *args: Any) -> Any:
    return asyncio.run(work(*args))


@pytest.mark.parametrize("run", [in_asyncio, trio.run])
def test_a_hundred_are_awaited_in_one_loop(box: Box, run: Callable[..., Any]) -> None:
    box.start("--workers", "2", imports=APP)
    handles = [put(box, "later", number=number) for number in range(100)]
    assert run(gather, handles) == list(range(100))
    failed = put(box, "divide", a=1, b=0)

    async def fail() -> object:
        return await failed

    with pytest.raises(TaskFailed, match="b is 0"):
        run(fail)


def test_a_task_waits_for_another(box: Box) -> None:
    box.module(
        "from spooler import spool\n"
        "from returning import add\n"
        "@spool(keep_result=60)\n"
        "async def outer(a: int) -> int:\n"
        "    return (await add.spool(a=a, b=1))['total'] * 10\n"
    )
    box.start("--workers", "2", imports="mine")
    assert put(box, "outer", a=1).result(WITHIN) == 20


def test_a_program_that_waits_and_awaits_runs(box: Box) -> None:
    box.start(imports=APP)
    program = (
        "import asyncio, returning\n"
        "handle = returning.add.using(at='+0.2').spool(a=1, b=2)\n"
        "print(handle.wait(), handle.result())\n"
        "async def main():\n"
        "    return await returning.divide.spool(a=1, b=2)\n"
        "print(asyncio.run(main()))\n"
        "returning.divide.spool(a=1, b=0).result()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        env=box.environ({"SPOOL_DIR": str(box.spool)}),
        timeout=WITHIN,
    )
    assert done.stdout == "None {'total': 3, 'where': '/x'}\n0.5\n"
    assert "spooler.errors.TaskFailed: task " in done.stderr
    assert "In the worker:" in done.stderr
    assert done.stderr.rstrip().endswith("b is 0")


# -- the commands -------------------------------------------------------------------


def test_spool_wait_tells_how_each_has_ended(box: Box) -> None:
    good, bad = put(box, "add", a=1, b=2), put(box, "divide", a=1, b=0)
    box.start(imports=APP)
    done = command(box, "wait", good.id)
    assert (done.returncode, done.stdout) == (0, f"{good.id}  finished  add\n") or (
        done.stdout == f"{good.id}  finished\n"  # it was before we asked
    )
    done = command(box, "wait", bad.id, good.id)
    assert done.returncode == 1
    assert done.stdout == f"{good.id}  finished\n"
    assert done.stderr == f"spool: {bad.id}: failed: Fail: b is 0\n"
    done = command(box, "wait", "--json", bad.id)
    assert json.loads(done.stdout) == {
        "id": bad.id,
        "state": "failed",
        "task": "divide",
        "error": "Fail: b is 0",
    }


def test_spool_wait_gives_up_in_time(box: Box) -> None:
    handle = put(box, "add", a=1, b=2)
    done = command(box, "wait", handle.id[:8], "--timeout", "0.05")
    assert done.returncode == 75
    assert done.stderr == f"spool: {handle.id}: unfinished: the time is over\n"
    assert command(box, "wait", handle.id, "--timeout", "soon").returncode == 2
    assert command(box, "wait").returncode == 2
    done = command(box, "wait", "zz")
    assert (done.returncode, done.stderr[:18]) == (1, "spool: zz: unknown")
    box.drop("5/x", b"rubbish")
    box.burst(imports=APP)
    [corrupt] = [name for name in box.names("corrupt") if not name.endswith(".why")]
    done = command(box, "wait", corrupt)
    assert done.returncode == 1
    assert "corrupt: line 1" in done.stderr


def test_spool_wait_tells_of_a_task_that_is_removed(box: Box) -> None:
    handle = put(box, "add", a=1, b=2)
    waiter = subprocess.Popen(
        [SPOOL, "--dir", box.spool, "wait", handle.id],
        stderr=subprocess.PIPE,
        text=True,
        env=box.environ(),
    )
    fds = Path(f"/proc/{waiter.pid}/fd")
    wait_until(lambda: any("spool/5/" in target for target in targets(fds)))
    assert command(box, "rm", handle.id).returncode == 0
    _, stderr = waiter.communicate(timeout=WITHIN)
    assert waiter.returncode == 1
    assert stderr == f"spool: {handle.id}: removed: it was removed\n"


def targets(folder: Path) -> list[str]:
    """Return what the links in a folder point to; some may go meanwhile."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(path))
    return found


def test_spool_result_prints_what_was_kept(box: Box) -> None:
    handle = box.later("add", {"id": "ab00000000000001"}, a=1, b=2)
    assert command(box, "result", handle.id).returncode == 75
    box.later("add", {"id": "ab00000000000002"}, a=1, b=2)
    box.later("add", {"id": "cd00000000000001"}, a=2, b=2)
    box.burst(imports=APP)
    done = command(box, "result", handle.id)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"total": 3, "where": "/x"}
    assert command(box, "result", "cd").stdout == '{"total": 4, "where": "/x"}\n'
    assert "2 results begin so" in command(box, "result", "ab").stderr
    assert command(box, "result", "").returncode == 1
    facts = json.loads(command(box, "result", handle.id, "--json").stdout)
    assert facts["task"] == "add"
    assert facts["result"] == {"total": 3, "where": "/x"}


def test_spool_result_says_why_there_is_none(box: Box) -> None:
    bad, odd, other = (
        put(box, "divide", a=1, b=0),
        put(box, "odd", kind="object"),
        Spooler(box.spool).put("forget", {"a": "x"}),
    )
    box.burst(imports=APP)
    done = command(box, "result", bad.id)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"spool: task {bad.id} failed: Fail: b is 0\n"
    done = command(box, "result", bad.id, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    done = command(box, "result", odd.id)
    assert done.returncode == 1
    assert "it has succeeded, but its result cannot be written" in done.stderr
    done = command(box, "result", other.id)
    assert done.returncode == 1
    assert "is failed: ArgumentsError" in done.stderr
    done = command(box, "result", "0000000000000000")
    assert done.returncode == 1
    assert "no such task, and no result of one" in done.stderr
