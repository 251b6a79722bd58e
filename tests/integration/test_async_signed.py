"""Async tasks beside a large signed one, which takes a while to be verified."""

import os
import signal
from pathlib import Path

import pytest

from spooler import Handle

from .conftest import Box, stays, wait_until

ID = "8c1f42d09ab3e617"

TASKS = """\
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import anyio
from spooler import spool

OUT = Path(os.environ["OUT"])
SIZES = []

def opened():
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{fd}")

@spool(retries=0)
async def beat(task_id: str) -> None:
    (OUT / "out").write_text("beating\\n")
    beats = 0
    while not SIZES:
        # Its own file is open only while it is verified: what is run is a copy.
        beats += any(task_id in path for path in opened())
        await anyio.sleep(0)
    (OUT / "out").write_text(f"{min(beats, 5)} beats, {SIZES[0]}\\n")

@spool(retries=0)
async def large(body: BinaryIO) -> None:
    SIZES.append(len(body.read()))
"""


HELD = """\
import gc
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import anyio
from spooler import spool
from spooler.verification import Verifier

OUT = Path(os.environ["OUT"])

def tell(name: str) -> None:
    with (OUT / name).open("a") as file:
        file.write(f"{name}\\n")

@spool(retries=0)
async def hold() -> None:
    # Keep the only thread that verifies busy, until the test or a drain ends that.
    [verifier] = [each for each in gc.get_objects() if isinstance(each, Verifier)]
    verifier._limiter.acquire_on_behalf_of_nowait(verifier)
    tell("held")
    while not (OUT / "gate").exists() and not verifier._ends():
        await anyio.sleep(0.01)
    verifier._limiter.release_on_behalf_of(verifier)
    tell("ended")

@spool(retries=0)
async def large(body: BinaryIO) -> None:
    tell("large")

@spool(retries=0)
async def small() -> None:
    tell("small")

@spool(retries=0)
async def starve() -> None:
    # No memory for as much as is read at a time, but for the rest.
    hog = []

    def fill() -> None:
        with suppress(MemoryError):
            while True:
                hog.append(bytes(1 << 19))
        hog.pop()

    await anyio.to_thread.run_sync(int)  # so that no thread need be made
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 20), before[1]))
    fill()
    await anyio.to_thread.run_sync(fill)  # a thread has memory of its own
    tell("starved")
    while not (OUT / "gate").exists():
        await anyio.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_AS, before)
"""


@pytest.fixture
def required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Sign what is put; return the options of a daemon that requires it."""
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text(os.urandom(32).hex())
    monkeypatch.setenv("SPOOLER_KEY_FILE", str(key))
    return ("--key-file", str(key), "--require-signature")


def put_while_held(box: Box) -> Handle:
    """Put a large task while none can be verified; wait until it is claimed."""
    box.put("hold")
    wait_until(lambda: box.lines("held"))
    handle = box.spooler.put("large", {}, body=bytes(2 << 20))
    wait_until(lambda: any(handle.id in path for path in box.running()))
    return handle


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_others_go_on_while_a_large_body_is_verified(
    box: Box, required: tuple[str, ...], backend: str
) -> None:
    box.module(TASKS)
    daemon = box.start(*required, "--async-backend", backend, imports="mine")
    box.put("beat", task_id=ID)
    wait_until(lambda: box.lines() == ["beating"])
    size = 64 << 20
    box.later("large", {"body": bytes(size), "id": ID})
    wait_until(lambda: box.lines() == [f"5 beats, {size}"])
    wait_until(box.is_empty)
    assert daemon.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_verified_when_the_daemon_ends_waits_as_before(
    box: Box, required: tuple[str, ...], number: int
) -> None:
    box.module(HELD)
    daemon = box.start(*required, "--workers", "1", imports="mine")
    handle = put_while_held(box)
    assert daemon.end(number) == 0
    assert box.lines("ended") == ["ended"]
    assert box.waiting() == [str(handle._name)]
    assert box.lines("large") == []
    box.burst(*required, imports="mine")
    assert box.lines("large") == ["large"]


def test_a_kill_of_what_is_verified_ends_nothing_else(
    box: Box, required: tuple[str, ...]
) -> None:
    box.module(HELD)
    daemon = box.start(*required, "--workers", "1", imports="mine")
    handle = put_while_held(box)
    worker = box.worker()
    assert handle.kill()
    assert stays(lambda: box.workers() == [worker], seconds=2.0)
    box.open()
    why = box.why()
    assert (why["id"], why["reason"], why["attempts"]) == (handle.id, "killed", [])
    wait_until(lambda: box.lines("ended"))
    assert (box.lines("held"), box.lines("large")) == (["held"], [])
    wait_until(lambda: box.names("kill") == [])
    assert daemon.end() == 0


def test_large_tasks_that_wait_to_be_verified_leave_room_for_others(
    box: Box, required: tuple[str, ...]
) -> None:
    box.module(HELD)
    places = ("--workers", "1", "--async-concurrency", "3")
    daemon = box.start(*required, *places, imports="mine")
    put_while_held(box)
    for _ in range(5):
        box.spooler.put("large", {}, body=bytes(2 << 20))
    box.put("small")
    wait_until(lambda: box.lines("small"))
    assert len(box.running()) <= 3
    box.open()
    wait_until(box.is_empty)
    assert box.lines("large") == ["large"] * 6
    assert daemon.end() == 0


def test_a_large_task_that_memory_does_not_suffice_for_is_read_later(
    box: Box, required: tuple[str, ...]
) -> None:
    box.module(HELD)
    daemon = box.start(*required, "--workers", "1", imports="mine")
    box.put("starve")
    wait_until(lambda: box.lines("starved"))
    worker = box.worker()
    box.spooler.put("large", {}, body=bytes(2 << 20))
    daemon.wait_for("cannot be read now: [Errno 12] Cannot allocate memory")
    assert box.workers() == [worker]
    box.open()
    wait_until(box.is_empty)
    assert box.lines("large") == ["large"]
    assert box.failed() == []
    assert daemon.end() == 0
