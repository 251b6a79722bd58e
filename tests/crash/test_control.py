"""Kill, or have fail, every system call of what operators do to tasks and pauses."""

import errno
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
from spooler.spooldir.repair import Found
from spooler.task import Name, State
from tests.helpers import NOW_US, open_files, tasks, tree

from .fatal import (
    ID,
    LATER_US,
    Case,
    FatalOS,
    a_name,
    count_calls,
    die,
    fail_at,
    kill_at,
    late_clock,
    operating,
    patched,
    waits,
)

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]

CODES = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE]


def held(spool: SpoolDir) -> None:
    waits(1)(spool)
    control.hold(spool, repair.find(spool, ID))


def hurry(spool: SpoolDir, found: Found) -> None:
    control.now(spool, found)


def urgent(spool: SpoolDir, found: Found) -> None:
    control.reprioritise(spool, found, 4711)


ONE = frozenset({1})
CASES: Final = [
    Case(
        "hold",
        waits(1),
        operating(State.WAITING, control.hold),
        attempts=ONE,
        final=State.HELD,
    ),
    Case("release", held, operating(State.HELD, control.release), attempts=ONE),
    Case("now", waits(1), operating(State.WAITING, hurry), attempts=ONE),
    Case(
        "now, held",
        held,
        operating(State.HELD, hurry),
        attempts=ONE,
        final=State.HELD,
    ),
    Case("priority", waits(1), operating(State.WAITING, urgent), attempts=ONE),
    Case(
        "priority, held",
        held,
        operating(State.HELD, urgent),
        attempts=ONE,
        final=State.HELD,
    ),
    Case(
        "fail, held",
        held,
        operating(State.HELD, repair.fail),
        attempts=ONE,
        final=State.FAILED,
    ),
    Case(
        "remove, held",
        held,
        operating(State.HELD, repair.remove),
        counts=frozenset({0, 1}),
        attempts=ONE,
        final=None,
    ),
    Case(
        "cancel",
        waits(1),
        lambda spool: lambda: control.cancel(spool, ID),
        counts=frozenset({0, 1}),
        attempts=ONE,
        final=None,
    ),
]


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_task_is_lost_or_doubled_by_a_kill(
    case: Case, how: str, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    calls = count_calls(case, tmp_path / "dry")
    for fatal, call in enumerate(calls, 1):
        try:
            kill_at(case, tmp_path / str(fatal), fatal, how)
        except AssertionError as error:
            error.add_note(f"killed {how} call {fatal}, {call}, of {calls}")
            raise
    record_property("kill points", len(calls))


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_error_leaves_the_task_in_one_place_and_can_be_repeated(
    case: Case, code: int, tmp_path: Path, no_leaks: None
) -> None:
    calls = count_calls(case, tmp_path / "dry")
    for fatal, call in enumerate(calls, 1):
        try:
            fail_at(case, tmp_path / str(fatal), fatal, code)
        except Exception as error:
            error.add_note(f"call {fatal}, {call}, of {calls}")
            raise


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
        fatal = FatalOS(0, "before")
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


@pytest.mark.parametrize("how", ["before", "after"])
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
    # Only between two renames that follow each other.
    assert unlinked <= 1 if each.link else unlinked == 0


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("each", EDITS, ids=edit_name)
def test_an_error_leaves_the_old_task_and_the_edit_can_be_repeated(
    each: Edit, code: int, tmp_path: Path, no_leaks: None
) -> None:
    calls = each.calls(tmp_path / "dry")
    for fatal in range(1, len(calls) + 1):
        spool = each.prepare(tmp_path / str(fatal))
        act = each.begin(spool)
        before, files = tasks(spool), open_files()
        raised = None
        with patched(FatalOS(fatal, code)):
            try:
                act()
            except (OSError, SpoolerError) as error:
                raised = error
        note = f"call {fatal} of {calls}: {raised!r}"
        if raised is not None:
            assert isinstance(raised, OSError), note
            assert tasks(spool) == before, note
            assert each.is_linked(spool), note
            act()
        assert list(tasks(spool).values()) == [HEAD + BODY], note
        assert each.is_linked(spool), note
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


@pytest.mark.parametrize("how", ["before", "after", *CODES], ids=str)
@pytest.mark.parametrize("begin", [pausing, resuming, over, asking])
def test_a_pause_is_whole_and_no_task_is_touched(
    begin: Callable[[SpoolDir], Callable[[], object]], how: str | int, tmp_path: Path
) -> None:
    def fresh(name: str) -> SpoolDir:
        spool = SpoolDir(tmp_path / name)
        spool.create()
        waits()(spool)
        pauses.write(spool, "all", NOW_US if begin is over else None)
        return spool

    dry, act = FatalOS(0, "before"), begin(fresh("dry"))
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
