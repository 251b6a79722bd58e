"""Async tasks beside a large signed one, which takes a while to be verified."""

import os
from pathlib import Path

import pytest

from .conftest import Box, wait_until

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


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_others_go_on_while_a_large_body_is_verified(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text(os.urandom(32).hex())
    monkeypatch.setenv("SPOOLER_KEY_FILE", str(key))
    box.module(TASKS)
    required = ("--key-file", str(key), "--require-signature")
    daemon = box.start(*required, "--async-backend", backend, imports="mine")
    box.put("beat", task_id=ID)
    wait_until(lambda: box.lines() == ["beating"])
    size = 64 << 20
    box.later("large", {"body": bytes(size), "id": ID})
    wait_until(lambda: box.lines() == [f"5 beats, {size}"])
    wait_until(box.is_empty)
    assert daemon.end() == 0
