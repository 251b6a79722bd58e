"""Be told of files."""

import errno
import io
import logging
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyEvent, InotifyFD, Mask, WatchDescriptor

from spooler import wakeup
from spooler.wakeup import Watch, file_system


class Log:
    """What a watch has told."""

    def __init__(self) -> None:
        self.names: list[tuple[str, bool]] = []
        self.lost = 0

    def name(self, file: str, whole: bool) -> None:
        self.names.append((file, whole))

    def lose(self) -> None:
        self.lost += 1


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def watch(tmp_path: Path, no_leaks: None) -> Iterator[Watch]:
    watch = Watch(str(tmp_path))
    yield watch
    watch.close()


def read(watch: Watch) -> None:
    """Read all there is."""
    fd = watch.fileno()
    assert fd is not None
    while select.select([fd], [], [], 0)[0]:
        watch.read()


# -- Watch ------------------------------------------------------------------------


def test_a_new_file_is_told_and_whether_it_is_whole(
    watch: Watch, log: Log, tmp_path: Path
) -> None:
    assert watch.mode == "inotify"
    assert watch.add(".", log.name, log.lose)
    assert watch.add(".", log.name, log.lose)
    with (tmp_path / "written").open("w"):
        read(watch)
        assert log.names == [("written", False)]
    read(watch)
    assert log.names.pop() == ("written", True)
    log.names.clear()
    (tmp_path / "written").rename(tmp_path / "renamed")
    os.link(tmp_path / "renamed", tmp_path / "linked")
    (tmp_path / "folder").mkdir()
    read(watch)
    assert log.names == [("renamed", True), ("linked", False), ("folder", False)]
    assert log.lost == 0


@pytest.mark.parametrize("file", [".hidden", "x.tmp"])
def test_hidden_and_temporary_files_are_not_told(
    watch: Watch, log: Log, tmp_path: Path, file: str
) -> None:
    watch.add(".", log.name, log.lose)
    (tmp_path / file).touch()
    read(watch)
    assert log.names == []


def test_a_name_that_is_not_utf_8_is_told(
    watch: Watch, log: Log, tmp_path: Path
) -> None:
    watch.add(".", log.name, log.lose)
    (tmp_path / "\udcff").mkdir()
    read(watch)
    assert log.names == [("\udcff", False)]


def test_nothing_is_told_after_remove(watch: Watch, log: Log, tmp_path: Path) -> None:
    watch.add(".", log.name, log.lose)
    watch.remove(".")
    watch.remove(".")
    (tmp_path / "x").touch()
    read(watch)
    assert log.names == []
    assert log.lost == 0
    assert watch.add(".", log.name, log.lose)
    (tmp_path / "y").mkdir()
    read(watch)
    assert log.names == [("y", False)]


def test_a_directory_that_vanishes_is_lost_and_can_be_watched_anew(
    watch: Watch, log: Log, tmp_path: Path
) -> None:
    for _ in range(3):
        (tmp_path / "a").mkdir()
        assert watch.add("a", log.name, log.lose)
        (tmp_path / "a").rmdir()
        read(watch)
    assert log.lost == 3
    (tmp_path / "a").mkdir()
    watch.add("a", log.name, log.lose)
    (tmp_path / "a/x").mkdir()
    read(watch)
    assert log.names == [("x", False)]


def test_a_directory_that_was_let_go_before_it_vanished_is_not_lost(
    watch: Watch, log: Log, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    watch.add("a", log.name, log.lose)
    (tmp_path / "a").rmdir()
    watch.remove("a")
    read(watch)
    assert log.lost == 0


@pytest.mark.parametrize("make", ["missing", "file"])
def test_what_is_no_directory_is_not_watched(
    watch: Watch, log: Log, tmp_path: Path, make: str, caplog: pytest.LogCaptureFixture
) -> None:
    if make == "file":
        (tmp_path / "x").touch()
    assert not watch.add("x", log.name, log.lose)
    assert caplog.text == ""
    assert watch.mode == "inotify"


def test_where_no_watches_are_left_one_must_scan(
    watch: Watch,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(InotifyFD, "add_callback", refuse)
    for _ in range(3):
        assert not watch.add(".", log.name, log.lose)
    assert watch.mode == "scan"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "inotify watch limit reached" in caplog.text


def test_a_directory_that_may_not_be_read_is_not_watched(
    watch: Watch, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        return -1

    monkeypatch.setattr("watchdog.observers.inotify_c.inotify_add_watch", refuse)
    monkeypatch.setattr(InotifyFD, "_raise_error", lambda **kwargs: None)
    assert not watch.add(".", log.name, log.lose)
    assert not watch.add(".", log.name, log.lose)
    assert watch.mode == "scan"


def test_an_overflow_loses_everything(watch: Watch, log: Log) -> None:
    watch.add(".", log.name, log.lose)
    event = InotifyEvent(WatchDescriptor(-1), Mask(0x4000), 0, b"")
    inotify = watch._inotify
    assert inotify is not None
    inotify.handle_event(event)
    assert log.lost == 1


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_a_file_system_of_others_is_scanned(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(wakeup, "file_system", lambda path: kind)
    watch = Watch(str(tmp_path))
    assert watch.mode == "scan"
    assert watch.fileno() is None
    assert not watch.add(".", log.name, log.lose)
    watch.remove(".")
    watch.read()
    watch.close()


def test_where_there_is_no_inotify_one_must_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(cls: object) -> int:
        raise OSError(errno.EMFILE, "inotify instance limit reached")

    monkeypatch.setattr(InotifyFD, "_create_inotify_fd", refuse)
    assert Watch(str(tmp_path)).mode == "scan"
    assert "scanning instead" in caplog.text


@pytest.mark.parametrize("used", [True, False])
def test_close_leaves_no_descriptor(
    tmp_path: Path, log: Log, used: bool, no_leaks: None
) -> None:
    watch = Watch(str(tmp_path))
    watch.add(".", log.name, log.lose)
    if used:
        (tmp_path / "x").touch()
        read(watch)
    watch.close()


# -- file_system ------------------------------------------------------------------

MOUNTS = r"""
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 0:20 / /proc rw shared:1 - proc proc rw
30 21 0:40 / /srv rw - xfs /dev/vdb rw
31 30 0:41 / /srv/our\040spools rw - nfs4 server:/x rw
32 30 0:42 / /srv/two rw - tmpfs tmpfs rw
33 30 0:43 / /srv/two rw - btrfs /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/nowhere", "ext4"),
        ("/srv", "xfs"),
        ("/srv/x", "xfs"),
        ("/srvx", "ext4"),
        ("/srv/our spools/a", "nfs4"),
        ("/srv/two/a", "btrfs"),
    ],
)
def test_the_file_system_is_that_of_the_deepest_and_last_mount(
    path: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MOUNTS.strip()
    monkeypatch.setattr("builtins.open", lambda *a, **k: io.StringIO(text))
    assert file_system(path) == kind


def test_without_proc_the_file_system_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", refuse)
    assert file_system("/") == "unknown"


def test_this_machine_has_a_file_system(tmp_path: Path) -> None:
    assert file_system(str(tmp_path)) not in ("", "unknown")
