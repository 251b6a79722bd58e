"""Files whose change has a task put."""

import os
from pathlib import Path

import pytest
from tests.helpers import FakeClock, place, real_clock, tasks

from spooler.known import Known
from spooler.monitors import Monitors, look
from spooler.retry import RetryOptions
from spooler.scheduler import Scheduler
from spooler.spooldir import SpoolDir, timers

SECOND_US = 1_000_000


@pytest.fixture
def clock() -> FakeClock:
    clock = real_clock()
    clock.advance(60)  # later than the files that a test makes
    return clock


def known(path: Path | None, name: str = "m", priority: int | None = None) -> Known:
    watched = None if path is None else str(path)
    return Known(
        name, RetryOptions(), None, priority, None, None, overlap=False, watches=watched
    )


def monitors(spool: SpoolDir, clock: FakeClock, *each: Known) -> Monitors:
    found = Monitors(spool, clock)
    found.use(list(each))
    found.put_due(clock.now_us())
    return found


def again(found: Monitors, clock: FakeClock) -> None:
    clock.advance(1)
    found.put_due(clock.now_us())


def finish(spool: SpoolDir) -> int:
    """Remove what waits; return how many that were."""
    waiting = tasks(spool)
    for path in waiting:
        Path(spool.path, path).unlink()
    return len(waiting)


def touch(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


def test_a_change_is_put_once(
    spool: SpoolDir, clock: FakeClock, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    found = monitors(spool, clock, known(file, priority=3), known(None))
    assert len(found) == 1
    again(found, clock)
    assert tasks(spool) == {}
    touch(file, 1)
    again(found, clock)
    (path,) = tasks(spool)
    assert path.startswith("3/")
    assert path.endswith(".m")
    finish(spool)
    again(found, clock)
    assert tasks(spool) == {}


def test_nothing_is_looked_at_before_its_time(
    spool: SpoolDir, clock: FakeClock, tmp_path: Path
) -> None:
    found = monitors(spool, clock, known(tmp_path / "file"))
    assert found.next_us == clock.now_us() + SECOND_US
    (tmp_path / "file").write_text("1")
    clock.advance(0.5)
    found.put_due(clock.now_us())
    assert tasks(spool) == {}
    clock.set(clock.now_us() - 2 * 24 * 3600 * SECOND_US)  # it was set back
    found.put_due(clock.now_us())
    assert finish(spool) == 1


def test_what_changes_while_its_task_waits_is_put_after_it(
    spool: SpoolDir, clock: FakeClock, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    found = monitors(spool, clock, known(file))
    for seconds in (1, 2, 3):
        touch(file, seconds)
        again(found, clock)
    assert finish(spool) == 1
    again(found, clock)
    assert finish(spool) == 1
    again(found, clock)
    assert finish(spool) == 0


def test_a_file_that_comes_and_goes_is_watched(
    spool: SpoolDir, clock: FakeClock, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    found = monitors(spool, clock, known(file))
    file.write_text("1")
    again(found, clock)
    assert finish(spool) == 1
    file.unlink()
    again(found, clock)
    assert finish(spool) == 1
    again(found, clock)
    assert finish(spool) == 0


def test_a_change_that_another_daemon_has_put_is_not_put_again(
    spool: SpoolDir, clock: FakeClock, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    first = monitors(spool, clock, known(file))
    last_us = timers.latest_slot(spool, "m")
    second = monitors(spool, clock, known(file))
    assert timers.latest_slot(spool, "m") == last_us
    # Its time of change is later than when they began: so both see the same moment.
    clock.set(clock.now_us() + 3600 * SECOND_US)
    for name in list(spool.all_names("timers")):
        Path(spool.path, "timers", name).unlink()
    with timers.lock(spool):
        timers.begin(spool, "m", 1)
    touch(file, 1)
    again(first, clock)
    assert finish(spool) == 1
    again(second, clock)
    assert finish(spool) == 0
    touch(file, 2)
    again(first, clock)
    again(second, clock)
    assert finish(spool) == 1


def test_a_change_while_nobody_has_looked_is_caught_up(
    spool: SpoolDir, tmp_path: Path
) -> None:
    clock = real_clock()
    clock.advance(-3600)
    file = tmp_path / "file"
    file.write_text("1")
    monitors(spool, clock, known(file))
    assert tasks(spool) == {}
    clock.advance(7200)
    monitors(spool, clock, known(file))
    assert finish(spool) == 1
    monitors(spool, clock, known(file))
    assert finish(spool) == 0
    file.unlink()  # of which nothing tells when it was
    monitors(spool, clock, known(file))
    assert finish(spool) == 0


def test_a_reload_goes_on_from_what_was_seen(
    spool: SpoolDir, clock: FakeClock, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    found = monitors(spool, clock, known(file))
    touch(file, 1)
    found.use([known(file)])
    found.put_due(clock.now_us())
    assert finish(spool) == 1


def test_what_cannot_be_looked_at_is_told_once(
    spool: SpoolDir,
    clock: FakeClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    file = tmp_path / "file"
    file.write_text("1")
    found = monitors(spool, clock, known(loop), known(file, "other"))
    again(found, clock)
    assert caplog.text.count("cannot tell if") == 1
    touch(file, 1)
    again(found, clock)  # the other one is looked at all the same
    assert finish(spool) == 1
    loop.unlink()
    again(found, clock)
    assert timers.latest_slot(spool, "m") is not None


def test_a_folder_tells_of_what_is_in_it_and_of_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_text("1")
    (folder / "gone").symlink_to("nowhere")
    touch(
        folder / "sub", 1
    )  # lest what comes be of the same tick of the kernel's clock
    before, newest_us = look(str(folder))
    assert len(before) == 4
    assert newest_us > 0
    (folder / "sub" / "deep").mkdir()
    (folder / "sub" / "deep" / "file").write_text("1")
    first, _ = look(str(folder))
    (folder / "sub" / "deep" / "file").write_text("2")
    assert look(str(folder))[0] == first != before
    (folder / "file").write_text("22")
    assert look(str(folder))[0] != first


def test_a_file_in_a_folder_may_vanish_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone:
        name = "gone"

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            raise FileNotFoundError

    class Listing(list[Gone]):
        def __enter__(self) -> "Listing":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", lambda path: Listing([Gone()]))
    assert len(look(str(tmp_path))[0]) == 1


def test_what_is_nowhere_has_no_moment(tmp_path: Path) -> None:
    assert look(str(tmp_path / "no" / "file"))[1] == 0
    (tmp_path / "file").write_text("1")
    assert look(str(tmp_path / "file" / "below"))[1] > 0
    assert look(str(tmp_path / "missing"))[1] > 0


def test_the_scheduler_has_the_monitors_too(
    spool: SpoolDir, clock: FakeClock, tmp_path: Path
) -> None:
    found = Scheduler(spool, clock)
    found.use([known(tmp_path / "file")])
    assert len(found) == 1
    found.put_due()
    assert found.next_us == clock.now_us() + SECOND_US
    place(spool, "corrupt/x")
    (tmp_path / "file").write_text("1")
    clock.advance(1)
    found.put_due()
    assert any(path.endswith(".m") for path in tasks(spool))
