"""Following a task that moves while it is looked for."""

import os
from pathlib import Path

import pytest

from spooler.cli.following import follow_log
from spooler.cli.logs import Printer
from spooler.errors import NotFoundError
from spooler.spooldir import SpoolDir, repair
from spooler.spooldir.repair import Found
from spooler.task import Name

from ..helpers import NOW_US, TASK

NAME = Name(NOW_US, 5, 0, "00000000000000aa", "t")


def found_before(spool: SpoolDir) -> tuple[Found, Path]:
    """Put a task; return it as it was found, and its file."""
    spool.put(NAME, (TASK,))
    (found,) = repair.find_all(spool, [NAME.id])
    assert isinstance(found, Found)
    return found, Path(spool.path, found.path)


def test_a_task_that_has_just_moved_is_followed(tmp_path: Path) -> None:
    spool = SpoolDir(tmp_path / "spool")
    spool.create()
    found, file = found_before(spool)
    os.rename(file, Path(spool.path, "failed", file.name))
    follow_log(spool, found, Printer(raw=False))  # it has failed: nothing more comes
    assert not file.exists()


def test_a_task_that_has_just_ended_is_told(tmp_path: Path) -> None:
    spool = SpoolDir(tmp_path / "spool")
    spool.create()
    found, file = found_before(spool)
    file.unlink()
    with pytest.raises(NotFoundError, match="it has just ended"):
        follow_log(spool, found, Printer(raw=False))
