"""An error of the file system: what it refused is done when it does not refuse."""

import subprocess
from pathlib import Path

import pytest

from ..helpers import matching
from .conftest import Box, stays, wait_until


def freeze(path: Path, *, on: bool = True) -> bool:
    """Have the file system refuse to move a file; tell whether it can do that."""
    change = ["chattr", "+i" if on else "-i", str(path)]
    return subprocess.run(change, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("imports", ["tasks", "concurrently"])
def test_a_claim_that_was_refused_is_tried_again_soon(box: Box, imports: str) -> None:
    daemon = box.start(imports=imports)
    spare = box.app / "spare"
    spare.touch()
    if not freeze(spare):
        pytest.skip("needs files that cannot be moved")
    freeze(spare, on=False)
    paused = box.spool / "paused" / "all"
    paused.touch()
    daemon.wait_for("pause what=all")
    handle = box.put("note", text="late")
    (path,) = matching(box.spool, f"5/*/*.{handle.id}.note")
    freeze(path)
    paused.unlink()
    try:
        daemon.wait_for("cannot claim")
        box.put("note", text="other")
        box.wait_lines("other")
        assert stays(lambda: daemon.text().count("cannot claim") == 1, seconds=1.5)
    finally:
        freeze(path, on=False)
    wait_until(lambda: "late" in box.lines())
    assert daemon.end() == 0
