"""The pytest plugin: the fixture ``spool``.

Installed with spooler; pytest finds it by itself.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .local import LocalSpool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[LocalSpool]:
    """Return a spool of the test's own, in ``tmp_path``.

    All that the test puts goes there. ``spool.waiting`` shows it, ``spool.run()`` runs
    it, ``spool.advance("1h")`` moves the clock; ``spool.immediate = True`` runs each
    task as it is put.
    """
    with LocalSpool(tmp_path / "spool") as made:
        yield made
