"""Async tasks run at the same time, beside plain ones and in threads."""

import pytest

from spooler.clock import CLOCK

from ..helpers import FACTOR
from .conftest import Box, wait_until

APP = "concurrently"
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@BACKENDS
def test_a_hundred_naps_take_hardly_longer_than_one(box: Box, backend: str) -> None:
    daemon = box.start("--async-backend", backend, imports=APP)
    began = CLOCK.monotonic()
    for number in range(100):
        box.put("nap", text=str(number))
    box.wait_lines(*map(str, range(100)))
    assert CLOCK.monotonic() - began < 2 * FACTOR
    assert daemon.end() == 0
    assert box.is_left_clean()
