"""Kill, or have fail, every system call of what operators do to tasks and pauses."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from spooler.errors import SpoolerError
from spooler.spooldir import (
    SpoolDir,
    control,
    editing,
    keys,
    kills,
    pauses,
    repair,
    timers,
)
from spooler.spooldir.pauses import Pause
from spooler.spooldir.recovery import sweep
from spooler.task import Name, State
from tests.helpers import NOW_US, open_files, tasks, tree

from .fatal import (
    ID,
    LATER_US,
    a_name,
    late_clock,
    waits,
)
from .faults import (
    FAULTS,
    FatalOS,
    Fault,
    die,
    every_fault,
    every_kill,
    patched,
    points,
)

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]


# -- edit -------------------------------------------------------------------------

BODY: Final = b"body" * 100
OLD: Final = b'{"task":"t","args":{"a":1},"id":"%s","key":"k"}\n' % ID.encode() + BODY
HEAD: Final = b'{"task":"t","args":{"a":22},"id":"%s","key":"k"}\n' % ID.encode()


@dataclass(frozen=True, slots=True)
class Edit:
    """What is edited: how it stands, and what else is a link to it."""

    state: State
    link: str = ""

    def prepare(self, path: Path) -> SpoolDir:
        spool = SpoolDir(path)
        spool.create()
        if self.link == "key":
            assert keys.put(spool, a_name(), [OLD], "k", durable=False) is None
        elif self.link == "slot":
            with timers.lock(spool):
                timers.put_slot(spool, a_name(), OLD)
        else:
            spool.put(a_name(), [OLD], durable=False)
        if self.state is State.HELD:
            control.hold(spool, repair.find(spool, ID))
        return spool

    def begin(self, spool: SpoolDir) -> Callable[[], object]:
        found = repair.find(spool, ID)
        name = a_name().but(due_us=LATER_US, priority=7)

        def act() -> str:
            task = repair.read(spool, found)
            try:
                return editing.replace(spool, found, task, HEAD, name)
            finally:
                with suppress(OSError):
                    task.close()

        return act

    def calls(self, path: Path) -> list[str]:
        spool = self.prepare(path)
        fatal = FatalOS()
        act = self.begin(spool)
        with patched(fatal):
            act()
        name = a_name().but(due_us=LATER_US, priority=7)
        place = f"held/{name}" if self.state is State.HELD else f"{name.folder}/{name}"
        assert tasks(spool) == {place: HEAD + BODY}
        spool.close()
        return fatal.calls

    def is_linked(self, spool: SpoolDir) -> bool:
        """Tell whether what was a link to the task's file is one now."""
        if not self.link:
            return True
        (path,) = tasks(spool)
        other = timers._record(NOW_US, "t")
        if self.link == "key":
            other = keys.key_path("t", "k")
        return Path(spool.path, path).samefile(Path(spool.path, other))


EDITS: Final = [
    Edit(State.WAITING),
    Edit(State.HELD),
    Edit(State.WAITING, "key"),
    Edit(State.HELD, "slot"),
]


def edit_name(each: Edit) -> str:
    return f"{each.state}{each.link and f', {each.link}'}"


@every_kill
@pytest.mark.parametrize("each", EDITS, ids=edit_name)
def test_an_edited_task_is_there_once_old_or_new_after_a_kill(
    each: Edit, how: str, tmp_path: Path
) -> None:
    calls = each.calls(tmp_path / "dry")
    unlinked = 0
    for fatal in range(1, len(calls) + 1):
        spool = each.prepare(tmp_path / str(fatal))
        die(lambda spool=spool: each.begin(spool), fatal, how)  # type: ignore[misc] # a default binds it
        found = tasks(spool)
        note = f"killed {how} call {fatal} of {calls}: {found}"
        assert len(found) == 1, note
        ((path, data),) = found.items()
        assert data in (OLD, HEAD + BODY), note
        assert path.partition("/")[0] in ("5", "7", "held"), note
        unlinked += not each.is_linked(spool)
        sweep(spool, late_clock())
        assert not [p for p in tree(spool) if "/." in p and p != "timers/.lock"], note
        (left,) = repair.ls(spool, State.WAITING, State.HELD)
        if left.state is State.HELD:
            control.release(spool, left)
        spool.close()
        shutil.rmtree(spool.path)
    # Only between two renames, with a look at the old file between them.
    assert unlinked <= 2 if each.link else unlinked == 0


@every_fault
@pytest.mark.parametrize("each", EDITS, ids=edit_name)
def test_an_error_leaves_the_old_task_and_the_edit_can_be_repeated(
    each: Edit, fault: Fault, tmp_path: Path, no_leaks: None
) -> None:
    calls = each.calls(tmp_path / "dry")
    for fatal in points(calls, fault):
        spool = each.prepare(tmp_path / str(fatal))
        act = each.begin(spool)
        before, files = tasks(spool), open_files()
        raised = None
        with patched(FatalOS(fatal, fault)):
            try:
                act()
            except (OSError, SpoolerError) as error:
                raised = error
        note = f"call {fatal} of {calls}: {raised!r}"
        if raised is not None:
            assert isinstance(raised, OSError), note
            if fault.lasts:  # nothing can be undone, but it is there, and whole
                assert list(tasks(spool).values()) == [OLD], note
                act = each.begin(spool)
            else:
                assert tasks(spool) == before, note
                assert each.is_linked(spool), note
            act()
        assert list(tasks(spool).values()) == [HEAD + BODY], note
        assert fault.lasts or each.is_linked(spool), note
        assert {fd: p for fd, p in open_files().items() if fd not in files} == {}, note
        spool.close()
        shutil.rmtree(spool.path)


# -- pauses and requests ----------------------------------------------------------


def pausing(spool: SpoolDir) -> Callable[[], object]:
    return lambda: pauses.write(spool, "all", LATER_US)


def resuming(spool: SpoolDir) -> Callable[[], object]:
    return lambda: pauses.remove(spool, "all")


def over(spool: SpoolDir) -> Callable[[], object]:
    return lambda: pauses.remove_over(spool, "all", NOW_US)


def asking(spool: SpoolDir) -> Callable[[], object]:
    return lambda: kills.ask(spool, ID)


@pytest.mark.parametrize("how", ["before", "after", *FAULTS], ids=str)
@pytest.mark.parametrize("begin", [pausing, resuming, over, asking])
def test_a_pause_is_whole_and_no_task_is_touched(
    begin: Callable[[SpoolDir], Callable[[], object]], how: str | Fault, tmp_path: Path
) -> None:
    def fresh(name: str) -> SpoolDir:
        spool = SpoolDir(tmp_path / name)
        spool.create()
        waits()(spool)
        pauses.write(spool, "all", NOW_US if begin is over else None)
        return spool

    dry, act = FatalOS(), begin(fresh("dry"))
    with patched(dry):
        act()
    for fatal in range(1, len(dry.calls) + 1):
        spool = fresh(str(fatal))
        if isinstance(how, str):
            die(lambda spool=spool: begin(spool), fatal, how)  # type: ignore[misc]
        else:
            with patched(FatalOS(fatal, how)), suppress(OSError):
                begin(spool)()
        assert pauses.read(spool) in (
            [],
            [Pause("all")],
            [Pause("all", NOW_US)],
            [Pause("all", LATER_US)],
        )
        if begin in (pausing, asking):
            assert pauses.read(spool) != []
        assert kills.requests(spool) in ([], [ID])
        sweep(spool, late_clock())
        assert all(Name.parse(os.path.basename(p)) for p in tasks(spool) if p[0] == "5")
        assert not [p for p in tree(spool) if "/." in p]
        begin(spool)()
        spool.close()
