"""Have system calls of commands go wrong: one clear line, and it can be repeated."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from spooler.cli.spool import main
from spooler.handle import spool_dir
from spooler.spooldir import SpoolDir, control, pauses, repair
from tests.helpers import tasks

from .fatal import ID, failed, waits
from .faults import SHORT, FatalOS, Fault, calls_of, patched, points

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]

LINES = b'{"task":"t"}\n{"task":"t","args":{"a":1}}\n'
CODES = (0, 1, 75, 78)
SOME = [
    Fault(errno.ENOSPC),
    Fault(errno.EIO),
    Fault(errno.EMFILE),
    Fault(errno.EIO, lasts=True),
    SHORT[1],
]


def nothing(spool: SpoolDir) -> None:
    """Prepare nothing."""


def is_held(spool: SpoolDir) -> None:
    waits()(spool)
    control.hold(spool, repair.find(spool, ID))


def is_paused(spool: SpoolDir) -> None:
    waits()(spool)
    pauses.write(spool, "all", None)


@dataclass(frozen=True, slots=True)
class Command:
    """A command line.

    Attributes:
        prepare: What must be there.
        left: How many tasks there may be in the end.
    """

    words: str
    prepare: Callable[[SpoolDir], object]
    stdin: bytes = b""
    left: tuple[int, ...] = (1,)

    def run(self, path: str) -> Result:
        """Run it in this process."""
        words = [*self.words.split(), "--dir", path]
        return CliRunner().invoke(main, words, input=self.stdin)


WAITS = waits()
COMMANDS = [
    Command("put t a=1", nothing),
    Command("put t --body -", nothing, b"x" * 10_000),
    Command("put --from -", nothing, LINES),
    Command("put t --key k --if-exists replace", nothing),
    Command(f"hold {ID}", WAITS),
    Command(f"release {ID}", is_held),
    Command(f"now {ID}", WAITS),
    Command(f"priority {ID} 3", WAITS),
    Command(f"fail {ID}", WAITS),
    Command(f"kick {ID}", failed),
    Command(f"rm {ID}", WAITS, left=(0,)),
    Command("pause", WAITS),
    Command("resume", is_paused),
]


def fresh(command: Command, path: Path) -> SpoolDir:
    spool = SpoolDir(path)
    spool.create()
    command.prepare(spool)
    return spool


@pytest.mark.parametrize("fault", SOME, ids=str)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.words)
def test_an_error_is_one_line_and_the_command_can_be_repeated(
    command: Command, fault: Fault, tmp_path: Path
) -> None:
    spool = fresh(command, tmp_path / "dry")
    calls = calls_of(lambda: command.run(spool.path))
    spool_dir(spool.path).close()
    spool.close()
    for fatal in points(calls, fault):
        spool = fresh(command, tmp_path / str(fatal))
        with patched(FatalOS(fatal, fault)):
            result = command.run(spool.path)
        note = f"{fault} at call {fatal} of {calls}: {result.output}"
        assert result.exit_code in CODES, note
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.output, note
        if result.exit_code:
            assert fault.code, note
            assert result.stderr.startswith("spool: "), note
            assert "may run" in result.stderr or command.run(spool.path).exit_code in (
                0,
                1,  # since it was done already
            ), note
        assert len(tasks(spool)) in command.left, note
        spool_dir(spool.path).close()
        spool.close()
