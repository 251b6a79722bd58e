"""What is wrong on purpose is found: else the other tests here prove nothing."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from spooler.spooldir import SpoolDir, claims, files, reports
from spooler.spooldir.claims import give_up
from spooler.task import Name

from .fatal import CASES, Case, count_calls, fail_at, kill_at
from .faults import ONCE, SHORT, Fault, points

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("no_sync")]

Plant = Callable[[pytest.MonkeyPatch], object]
Report = dict[str, object]


def visible_too_early(patch: pytest.MonkeyPatch) -> None:
    """Write a task under the name under which it is to be found."""

    def put(
        self: SpoolDir, name: Name, chunks: Iterable[bytes], *, durable: bool = True
    ) -> None:
        self.make_folder(name.folder)
        path = f"{name.folder}/{name}"
        fd = vars(files)["os"].open(path, files.NEW_FLAGS, 0o600, dir_fd=self.fd)
        try:
            for chunk in chunks:
                files.write_all(fd, chunk)
        finally:
            vars(files)["os"].close(fd)

    patch.setattr(SpoolDir, "put", put)


def copied(*, first: str) -> Plant:
    """Return what moves a task in two steps."""

    def move(self: SpoolDir, source: str, name: Name, *, durable: bool = True) -> Name:
        self.make_folder(name.folder)
        data = Path(self.path, source).read_bytes()
        target = f"{name.folder}/{name}"
        if first == "remove":
            vars(files)["os"].unlink(source, dir_fd=self.fd)
        files.write_new(self.fd, f"tmp/{name}", target, data)
        if first == "write":
            vars(files)["os"].unlink(source, dir_fd=self.fd)
        return name

    return lambda patch: patch.setattr(SpoolDir, "move", move)


def reason_last(patch: pytest.MonkeyPatch) -> None:
    """Move a task to failed/ before its reason is there."""

    def late(
        spool: SpoolDir, source: str, name: Name, report: dict[str, object]
    ) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(reports, "write_why", lambda *_: None)
            give_up(spool, source, name, report)
        reports.write_why(spool, f"failed/{name}", report)

    patch.setattr(claims, "give_up", late)


def leaking(patch: pytest.MonkeyPatch) -> None:
    """Forget a file after an error."""

    def let_go(self: SpoolDir, fd: int, hidden: str | None) -> None:
        """Do nothing."""

    patch.setattr(SpoolDir, "let_go", let_go)


def hasty(patch: pytest.MonkeyPatch) -> None:
    """Believe that a write writes all."""

    def put(
        self: SpoolDir, name: Name, chunks: Iterable[bytes], *, durable: bool = True
    ) -> None:
        fd, hidden = self.write(name, [], durable=False)
        for chunk in chunks:
            vars(files)["os"].write(fd, chunk)
        self.place(fd, hidden, name)
        self.let_go(fd, hidden)

    patch.setattr(SpoolDir, "put", put)


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def found_by_kills(case: Case, folder: Path) -> bool:
    for how in ("before", "after"):
        for fatal in range(1, len(count_calls(case, folder / f"dry {how}")) + 1):
            try:
                kill_at(case, folder / f"{fatal} {how}", fatal, how)
            except AssertionError:
                return True
    return False


def found_by_faults(case: Case, folder: Path, faults: list[Fault]) -> bool:
    for fault in faults:
        calls = count_calls(case, folder / f"dry {fault}")
        for fatal in points(calls, fault):
            try:
                fail_at(case, folder / f"{fatal} {fault}", fatal, fault)
            except (AssertionError, OSError):
                return True
    return False


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("put hidden", visible_too_early),
        ("retry", copied(first="remove")),
        ("retry", copied(first="write")),
        ("fail", reason_last),
    ],
)
def test_a_wrong_order_of_calls_is_found_by_kills(
    name: str, plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert found_by_kills(case_of(name), tmp_path)


@pytest.mark.parametrize(
    ("plant", "fault"),
    [(leaking, ONCE[0]), (hasty, SHORT[0]), (visible_too_early, ONCE[1])],
)
def test_what_does_not_mind_errors_is_found(
    plant: Plant, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    before = set(os.listdir("/proc/self/fd"))
    assert found_by_faults(case_of("put unnamed"), tmp_path, [fault])
    for fd in set(os.listdir("/proc/self/fd")) - before:
        try:
            os.close(int(fd))
        except OSError:
            continue  # of the listing itself
