"""Where spools are that are interrupted thousands of times."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, which takes a quarter of the time.

    ``SPOOLER_TEST_SYNC=1`` has it on the disk, as all other tests have it.
    """
    if os.environ.get("SPOOLER_TEST_SYNC") or not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="spooler-crash-", dir=MEMORY))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
