"""Noticing that the application's code has changed."""

import os
import select
import sys
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import pytest
from tests.helpers import FakeClock

from spooler import reload
from spooler.reload import LOOK_EVERY, SETTLE, CodeWatch
from spooler.sources import source_files, stamp
from spooler.wakeup import Watch


class Blind(Watch):
    """A watch where there is no inotify."""

    def _open(self) -> None:
        return None


@pytest.fixture
def folder(tmp_path: Path, no_leaks: None) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/mine.py").write_text("X = 1\n")
    return tmp_path / "app"


Make = Callable[[type[Watch]], CodeWatch]


@pytest.fixture
def make(clock: FakeClock, no_leaks: None) -> Iterator[Make]:
    made = []

    def make(kind: type[Watch]) -> CodeWatch:
        watch = CodeWatch(lambda fd, ready: None, kind(os.sep), clock)
        made.append(watch)
        return watch

    yield make
    for each in made:
        each.close()


def stamps(*paths: Path) -> dict[str, tuple[int, int]]:
    return {str(path): seen for path in paths if (seen := stamp(str(path)))}


def read(watch: CodeWatch) -> None:
    """Take the events that have come."""
    fd = watch._watch.fileno()
    if fd is not None and select.select([fd], [], [], 0)[0]:
        watch._watch.read()


def is_noticed(watch: CodeWatch, clock: FakeClock) -> bool:
    """Let events come and time pass; tell whether there was a change."""
    read(watch)
    at_once = watch.is_due()
    assert not at_once, "files may still be changing"
    clock.advance(LOOK_EVERY)
    at_once = watch.is_due()
    clock.advance(SETTLE)
    return at_once or watch.is_due()


def write(path: Path) -> None:
    path.write_text("X = 22\n")


def rename_over(path: Path) -> None:
    """Change a file as most editors do."""
    path.with_name("4913").write_text("X = 333\n")
    path.with_name("4913").rename(path)


@pytest.mark.parametrize("kind", [Watch, Blind])
@pytest.mark.parametrize("change", [write, rename_over])
def test_a_change_is_noticed_once(
    make: Make,
    folder: Path,
    clock: FakeClock,
    kind: type[Watch],
    change: Callable[[Path], None],
) -> None:
    watch = make(kind)
    watch.use(stamps(folder / "mine.py"))
    change(folder / "mine.py")
    assert is_noticed(watch, clock)
    clock.advance(60)
    assert not watch.is_due()


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_stands_for_the_code_is_looked_at(
    there: bool, folder: Path, clock: FakeClock
) -> None:
    path = folder / "touched"
    if there:
        path.touch()
    watch = CodeWatch(lambda fd, ready: None, Watch(os.sep), clock, touch=[str(path)])
    try:
        watch.use({})
        assert not is_noticed(watch, clock)
        assert watch.next_moment() <= LOOK_EVERY
        path.touch()
        os.utime(path, (1, 1))
        assert is_noticed(watch, clock)
        assert not is_noticed(watch, clock)
        path.unlink()
        assert is_noticed(watch, clock)
    finally:
        watch.close()


def test_several_changes_are_one(make: Make, folder: Path, clock: FakeClock) -> None:
    watch = make(Watch)
    watch.use(stamps(folder / "mine.py"))
    for _ in range(5):
        write(folder / "mine.py")
        read(watch)
        clock.advance(SETTLE / 2)
        assert not watch.is_due()
        assert watch.next_moment() == pytest.approx(SETTLE / 2)
    clock.advance(SETTLE)
    assert watch.next_moment() == 0
    assert watch.is_due()
    assert watch.next_moment() == inf


def test_a_new_module_counts_and_other_files_do_not(
    make: Make, folder: Path, clock: FakeClock
) -> None:
    watch = make(Watch)
    watch.use(stamps(folder / "mine.py"))
    for name in ("notes.txt", "mine.pyc", ".#mine.py", "mine.py~", "mine.py.tmp"):
        (folder / name).write_text("x")
    assert not is_noticed(watch, clock)
    (folder / "missing.py").write_text("x = 1\n")
    assert is_noticed(watch, clock)


def test_a_file_that_changed_while_it_was_imported_counts(
    make: Make, folder: Path, clock: FakeClock
) -> None:
    watch = make(Watch)
    before = stamps(folder / "mine.py")
    write(folder / "mine.py")
    watch.use(before)
    assert is_noticed(watch, clock)


def test_a_linked_module_is_watched_where_it_is(
    make: Make, folder: Path, clock: FakeClock, tmp_path: Path
) -> None:
    real = tmp_path / "elsewhere.py"
    real.write_text("X = 1\n")
    (folder / "link.py").symlink_to(real)
    watch = make(Watch)
    watch.use(stamps(folder / "link.py"))
    write(real)
    assert is_noticed(watch, clock)


def test_what_is_no_longer_imported_is_not_watched(
    make: Make, folder: Path, clock: FakeClock, tmp_path: Path
) -> None:
    other = tmp_path / "other.py"
    other.write_text("X = 1\n")
    watch = make(Watch)
    watch.use(stamps(other))
    watch.use(stamps(folder / "mine.py"))
    write(other)
    assert not is_noticed(watch, clock)


def test_a_folder_that_is_made_anew_is_watched_again(
    make: Make, folder: Path, clock: FakeClock
) -> None:
    watch = make(Watch)
    watch.use(stamps(folder / "mine.py"))
    (folder / "mine.py").unlink()
    folder.rmdir()
    assert is_noticed(watch, clock)
    folder.mkdir()
    write(folder / "mine.py")
    assert is_noticed(watch, clock)
    clock.advance(60)
    assert not watch.is_due()
    rename_over(folder / "mine.py")
    assert is_noticed(watch, clock)
    assert watch.next_moment() == inf


def test_a_change_is_told(
    make: Make,
    folder: Path,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = make(Watch)
    watch.use(stamps(folder / "mine.py"))
    write(folder / "mine.py")
    with caplog.at_level("INFO"):
        assert is_noticed(watch, clock)
    assert caplog.messages == [f"code changed: {folder}/mine.py"]
    assert reload.__doc__


# -- which files ------------------------------------------------------------------


def test_source_files_are_the_applications_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = folder / "venv/lib/site-packages"
    installed.mkdir(parents=True)
    (installed / "foreign_one.py").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/own_two.py").write_text("")
    (tmp_path / "elsewhere/own_three.py").write_text("import own_two")
    (folder / "own_one.py").write_text("import foreign_one, json, spooler")
    for place in (folder, installed, tmp_path / "elsewhere"):
        monkeypatch.syspath_prepend(str(place))
    monkeypatch.chdir(folder)
    before = set(sys.modules)
    try:
        __import__("own_one")
        __import__("own_three")
        path = str(tmp_path / "elsewhere/own_three.py")
        assert set(source_files(["own_one"])) == {str(folder / "own_one.py")}
        assert set(source_files(["none"])) == {str(folder / "own_one.py")}
        found = source_files(["own_one", path])
        assert set(found) == {
            str(folder / "own_one.py"),
            str(tmp_path / "elsewhere/own_two.py"),
            path,
        }
        assert found[path] == stamp(path)
        (folder / "own_one.py").unlink()
        assert source_files(["own_one"]) == {}
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]
