"""Tests of how far batches are: ranges, lines that leave, cuts, sweeping."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.helpers import FakeClock, ToldOS, make_name, path_of, put, real_clock, tree

from spooler.errors import CorruptError
from spooler.spooldir import SpoolDir, batches, files
from spooler.spooldir.batches import Progress, Range
from spooler.spooldir.claims import Claims
from spooler.spooldir.recovery import sweep
from spooler.task import BATCH, Claim, Name, derived_id

ID = "8c1f42d09ab3e617"
OTHER = "0123456789abcdef"
MTIME_NS = 1_700_000_000_123_456_000
BODY = b'{"task":"_batch","args":{"count":10}}\n' + b'{"task":"t"}\n' * 10


@pytest.fixture
def claims(spool: SpoolDir) -> Iterator[Claims]:
    held = Claims(spool, "w1", {os.getuid()})
    yield held
    os.close(held._fd)


@pytest.fixture
def claim(claims: Claims) -> Claim:
    name = put(claims.spool, make_name(id=ID, task=BATCH), BODY)
    found = claims.claim(path_of(name))
    assert found is not None
    return found


@pytest.fixture
def progress(claims: Claims, claim: Claim, clock: FakeClock) -> Iterator[Progress]:
    found = Progress(claims.spool, claim, 10, clock)
    yield found
    found.close()


def text(spool: SpoolDir, batch_id: str = ID) -> str:
    return Path(spool.path, "batches", batch_id).read_text()


def again(progress: Progress) -> Progress:
    return Progress(progress._spool, progress.claim, 10)


# -- the range ----------------------------------------------------------------------


def test_a_range_is_three_fields_of_sixteen_characters(spool: SpoolDir) -> None:
    found = Range(3, 10, ID)
    assert found.encode() == b"0000000000000003 0000000000000010 " + ID.encode() + b"\n"
    assert batches.parse_range(found.encode()) == found


def test_a_range_tells_of_the_part_and_of_who_is_to_blame() -> None:
    found = Range(3, 10, ID, make_name(task=BATCH), between=True)
    assert found.encode().startswith(b"-000000000000003 ")
    assert batches.parse_range(found.encode()) == found


@pytest.mark.parametrize("data", [b"", b"0000", Range(3, 10, ID).encode()[:50], b"\0"])
def test_the_rest_of_a_first_write_counts_as_none(data: bytes) -> None:
    assert batches.parse_range(data) is None


@pytest.mark.parametrize(
    "data",
    [
        Range(11, 10, ID).encode(),
        Range(3, 10, "nobody-nobody-16").encode(),
        b"x" * 60,
        b"\xff" * 60,
        Range(3, 10, ID).encode().replace(b"3 ", b"x "),
        Range(3, 10, ID).encode()[:-1] + b" no.name\n",
        Range(3, 10, ID).encode() * 2,
    ],
)
def test_a_damaged_range_says_what_to_do(spool: SpoolDir, data: bytes) -> None:
    Path(spool.path, "batches", ID).write_bytes(data)
    with pytest.raises(CorruptError, match=f"batches/{ID} is damaged: remove it"):
        batches.read(spool, ID)


def test_a_batch_without_a_range_has_begun_nothing(spool: SpoolDir) -> None:
    assert batches.read(spool, ID) is None


def test_a_new_progress_makes_the_range(spool: SpoolDir, progress: Progress) -> None:
    assert (progress.next, progress.end, len(progress)) == (0, 10, 10)
    assert text(spool) == f"-000000000000000 0000000000000010 {ID}\n"


def test_a_progress_goes_on_where_the_last_one_ended(progress: Progress) -> None:
    progress.advance()
    progress.advance()
    second = again(progress)
    assert (second.next, second.end) == (2, 10)
    second.close()


def test_a_range_of_a_longer_batch_is_refused(
    spool: SpoolDir, claim: Claim, no_leaks: None
) -> None:
    Path(spool.path, "batches", ID).write_bytes(Range(3, 11, ID).encode())
    with pytest.raises(CorruptError, match="not the range of this file"):
        Progress(spool, claim, 10)


def test_advance_is_one_call(
    progress: Progress, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress.mark(between=False)
    told = ToldOS()
    monkeypatch.setattr(batches, "os", told)
    progress.mark(between=False)
    progress.advance()
    progress.sync()
    assert told.calls == ["pwrite"]
    assert text(spool).startswith("0000000000000001 0000000000000010 ")


def test_sync_is_done_once_a_second_and_only_after_a_change(
    progress: Progress, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    monkeypatch.setattr(batches, "os", told)
    clock.advance(5)
    progress.sync()
    assert told.calls == []
    progress.advance()
    clock.advance(0.9)
    progress.sync()
    assert told.calls == ["pwrite"]
    clock.advance(0.2)
    progress.sync()
    progress.sync(now=True)
    assert len(told.calls) == 2
    progress.advance()
    progress.sync(now=True)
    assert len(told.calls) == 4


def test_mark_says_that_a_crash_is_not_the_fault_of_the_line(
    progress: Progress,
) -> None:
    assert again_between(progress)
    progress.mark(between=False)
    assert not again_between(progress)
    progress.mark(between=True)
    assert again_between(progress)


def again_between(progress: Progress) -> bool:
    second = again(progress)
    second.close()
    return second.between


def test_a_failed_advance_leaves_the_line(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    told.fail("pwrite", 5)
    monkeypatch.setattr(batches, "os", told)
    with pytest.raises(OSError, match="Input/output"):
        progress.advance()
    assert progress.next == 0


# -- lines that leave ---------------------------------------------------------------


def test_a_line_has_the_batchs_place_and_a_derived_id(progress: Progress) -> None:
    progress.advance()
    name, batch = progress.line_name("t"), progress.claim.name
    expected = Name(batch.due_us, batch.priority, 0, derived_id(ID, 1), "t")
    assert name == expected
    assert progress.line_name("t", 3).attempt == 3


@pytest.mark.parametrize("tmpfile", [True, False])
def test_spin_off_makes_a_whole_synced_file_that_the_worker_holds(
    progress: Progress,
    claims: Claims,
    monkeypatch: pytest.MonkeyPatch,
    tmpfile: bool,
) -> None:
    if not tmpfile:
        monkeypatch.setattr(batches, "_TMPFILE", os.O_WRONLY | os.O_DIRECTORY)
    told = ToldOS()
    monkeypatch.setattr(batches, "os", told)
    name = progress.line_name("t")
    made = progress.spin_off(name, b'{"task":"t"}\n', MTIME_NS)
    assert (made.name, made.worker, made.file) == (name, "w1", str(name))
    task = claims.open(made)
    task.close()
    assert task.mtime_ns == MTIME_NS
    assert (progress.next, progress.between) == (1, True)
    assert text(claims.spool).startswith("-000000000000001 ")
    if tmpfile:
        assert [c.split()[0] for c in told.calls if c != "link"] == [
            *("open", "utime", "fsync", "close", "pwrite", "fsync")
        ]
    left = [path for path in tree(claims.spool) if path.startswith("tmp/")]
    assert left == []


def test_spin_off_that_fails_leaves_the_line_in_the_batch(
    progress: Progress, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ToldOS()
    told.fail("pwrite", 5)
    monkeypatch.setattr(batches, "os", told)
    with pytest.raises(OSError, match="Input/output"):
        progress.spin_off(progress.line_name("t"), b"{}", MTIME_NS)
    assert progress.next == 0
    assert os.listdir(f"{spool.path}/running/w1") == [progress.claim.file]
    made = progress.spin_off(progress.line_name("t"), b"{}", MTIME_NS)
    assert made.file in os.listdir(f"{spool.path}/running/w1")


def test_calm_takes_the_attempt_from_the_batch_and_blame_gives_it_back(
    spool: SpoolDir, claims: Claims
) -> None:
    name = put(spool, make_name(id=ID, task=BATCH, attempt=2), BODY)
    claim = claims.claim(path_of(name))
    assert claim is not None
    progress = Progress(spool, claim, 10)
    progress.calm()
    assert progress.claim.name == name.but(attempt=0)
    assert progress.claim.file == str(name.but(attempt=0))
    assert os.listdir(f"{spool.path}/running/w1") == [progress.claim.file]
    progress.blame(2)
    assert os.listdir(f"{spool.path}/running/w1") == [str(name)]
    os.unlink(f"{spool.path}/running/w1/{name}")
    with pytest.raises(FileNotFoundError):
        progress.calm()
    progress.blame(3)
    progress.close()


# -- cuts ---------------------------------------------------------------------------


def waiting(spool: SpoolDir) -> list[Name]:
    found = [Name.parse(file) for _, file in spool.waiting()]
    return [name for name in found if name is not None]


def test_cut_makes_the_second_half_a_batch_that_waits(
    progress: Progress, spool: SpoolDir
) -> None:
    for _ in range(3):
        progress.advance()
    part = progress.cut()
    assert part is not None
    assert part == progress.claim.name.but(id=derived_id(ID, "from", 7))
    assert (progress.next, progress.end) == (3, 7)
    assert waiting(spool) == [part]
    assert batches.read(spool, part.id) == Range(7, 10, ID, between=True)
    assert batches.read(spool, ID) == Range(3, 7, ID, part, between=True)
    progress.advance()
    assert text(spool).startswith("0000000000000004 ")
    assert sorted(os.listdir(f"{spool.path}/batches")) == sorted([ID, part.id])
    assert Path(spool.path, path_of(part)).read_bytes() == BODY


def test_lines_of_a_part_have_the_ids_they_would_have_had(
    progress: Progress, claims: Claims
) -> None:
    part = progress.cut()
    assert part is not None
    claim = claims.claim(path_of(part))
    assert claim is not None
    other = Progress(claims.spool, claim, 10)
    assert other.line_name("t").id == derived_id(ID, 5)
    third = other.cut()
    assert third is not None
    assert third.id == derived_id(part.id, "from", 8)
    found = batches.read(claims.spool, third.id)
    assert found is not None
    assert found.origin == ID
    other.close()
    parts = {part_id for part_id, _ in batches.find(claims.spool, ID)}
    assert parts == {ID, part.id, third.id}


def test_one_line_is_not_cut(progress: Progress, spool: SpoolDir) -> None:
    for _ in range(8):
        progress.advance()
    part = progress.cut()
    assert part is not None
    os.unlink(f"{spool.path}/{path_of(part)}")
    assert (progress.next, progress.end) == (8, 9)
    assert progress.cut() is None


def test_nothing_is_cut_while_nobody_takes_the_last_part(
    progress: Progress, spool: SpoolDir, claims: Claims
) -> None:
    part = progress.cut()
    assert part is not None
    assert progress.cut() is None
    assert progress.end == 5
    claims.claim(path_of(part))
    assert progress.cut() is not None
    assert progress.end == 3


def test_who_goes_on_puts_the_part_into_place(
    progress: Progress, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> Name:
        raise OSError(5, "no")

    with monkeypatch.context() as patch:
        patch.setattr(spool, "move", refuse)
        with pytest.raises(OSError, match="no"):
            progress.cut()
    assert (progress.end, waiting(spool)) == (5, [])
    second = again(progress)
    second.publish()
    second.close()
    assert len(waiting(spool)) == 1
    progress.publish()
    progress.publish()
    assert len(waiting(spool)) == 1


def test_cut_begins_again_after_an_error(
    progress: Progress, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files.write_new
    errors = iter([OSError(28, "full")])

    def write_new(*args: object) -> None:
        for error in errors:
            raise error
        real(*args)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(batches, "write_new", write_new)
    with pytest.raises(OSError, match="full"):
        progress.cut()
    assert progress.end == 10
    assert progress.cut() is not None


# -- the end ------------------------------------------------------------------------


def test_ack_of_a_batch_removes_its_range_after_it_is_durably_gone(
    claims: Claims, claim: Claim, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spooler.spooldir import claims as module, files  # noqa: PLC0415

    told = ToldOS()
    monkeypatch.setattr(module, "os", told)
    monkeypatch.setattr(files, "os", told)
    monkeypatch.setattr(batches, "os", told)
    claims.ack(claim)
    calls = [call.split()[0] for call in told.calls]
    assert (calls[0], calls[-1]) == ("unlink", "unlink")
    assert told.syncs(claims.spool.path) == [claim.name.folder, "running/w1"]
    assert os.listdir(f"{claims.spool.path}/batches") == []
    batches.remove(claims.spool, ID)


def old(spool: SpoolDir, *names: str) -> Callable[[], FakeClock]:
    for name in names:
        Path(spool.path, "batches", name).write_bytes(Range(1, 2, OTHER).encode())

    def later() -> FakeClock:
        clock = real_clock()
        clock.advance(batches.LEFT_OVER_AGE + 10)
        return clock

    return later


def test_sweep_removes_the_ranges_of_batches_that_are_nowhere(
    spool: SpoolDir,
) -> None:
    later = old(spool, OTHER, f".{OTHER}.12345678")
    assert batches.sweep(spool) == 0
    assert batches.sweep(spool, later()) == 2
    assert os.listdir(f"{spool.path}/batches") == []


@pytest.mark.parametrize("folder", ["running/w9", "failed", "held", "corrupt", "5/x"])
def test_sweep_keeps_the_range_of_a_batch_that_is_somewhere(
    spool: SpoolDir, folder: str
) -> None:
    later = old(spool, OTHER)
    name = make_name(id=OTHER, task=BATCH)
    folder = name.folder if folder == "5/x" else folder
    os.makedirs(f"{spool.path}/{folder}", exist_ok=True)
    Path(spool.path, folder, str(name)).write_bytes(BODY)
    assert sweep(spool, later()) == 0
    assert os.listdir(f"{spool.path}/batches") == [OTHER]


def test_sweep_leaves_what_is_no_range(spool: SpoolDir) -> None:
    os.mkdir(f"{spool.path}/batches/mine")
    os.symlink("nowhere", f"{spool.path}/batches/link")
    later = old(spool)
    assert batches.sweep(spool, later()) == 1
    assert os.listdir(f"{spool.path}/batches") == ["mine"]


def test_sweep_puts_a_part_into_place_whose_batch_is_gone(
    spool: SpoolDir, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "publish", lambda self: None)
        part = progress.cut()
    assert part is not None
    os.unlink(f"{spool.path}/running/w1/{progress.claim.file}")
    later = old(spool)
    assert batches.sweep(spool, later()) == 1
    assert waiting(spool) == [part]
    assert os.listdir(f"{spool.path}/batches") == [part.id]


def test_find_leaves_out_what_is_no_range(spool: SpoolDir) -> None:
    later = old(spool, OTHER, "readme")
    Path(spool.path, "batches", ID).write_bytes(b"x" * 60)
    assert [part for part, _ in batches.find(spool, OTHER)] == [OTHER]
    assert batches.sweep(spool, later()) == 3


def test_sweep_looks_once_an_hour_for_a_batch_that_waits(spool: SpoolDir) -> None:
    later = old(spool, OTHER)
    put(spool, make_name(id=OTHER, task=BATCH), BODY)
    path = Path(spool.path, "batches", OTHER)
    os.utime(path, ns=(MTIME_NS, MTIME_NS))
    assert batches.sweep(spool, later()) == 0
    assert path.stat().st_mtime_ns > MTIME_NS
