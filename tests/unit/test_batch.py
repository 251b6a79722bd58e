"""Tests of the loop over the lines of a batch, with a worker without a daemon."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.batches import BATCH_ID, LATER_US, PlainWorker, a_batch
from tests.helpers import tasks

from spooler import batch, current_task
from spooler.batch import Attention
from spooler.entries import make_entry
from spooler.errors import Retry
from spooler.registry import REGISTRY, Kind
from spooler.runner import READ_AGAIN
from spooler.spooldir import SpoolDir, batches, reports
from spooler.spooldir.reports import append_attempt
from spooler.task import Name, Verdict, derived_id

Register = Callable[..., None]


@pytest.fixture
def register() -> Iterator[Register]:
    before = dict(REGISTRY._entries)

    def add(function: Callable[..., Any], **given: Any) -> None:
        kind = given.pop("kind", Kind.TASK)
        REGISTRY.add(
            make_entry(kind, function, given, spool=None, schedule=None, overlap=False)
        )

    yield add
    REGISTRY._entries.clear()
    REGISTRY._entries.update(before)


@pytest.fixture
def worker(spool: SpoolDir) -> Iterator[PlainWorker]:
    found = PlainWorker(spool)
    yield found
    found.close()


@pytest.fixture
def seen(register: Register) -> list[int]:
    numbers: list[int] = []

    def note(n: int = -1) -> None:
        numbers.append(n)

    register(note)
    return numbers


def line(n: int, task: str = "note", more: str = "") -> bytes:
    return b'{"task":"%b","args":{"n":%d}%b}' % (task.encode(), n, more.encode())


def line_id(number: int) -> str:
    return derived_id(BATCH_ID, number)


def left(spool: SpoolDir) -> list[str]:
    return [path for path in sorted(tasks(spool)) if not path.startswith("logs/")]


def test_a_batch_runs_its_lines_in_order_and_leaves_nothing(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    worker.take(a_batch(spool, *[line(n) for n in range(100)]))
    claim = batch_claim(worker)
    assert worker.handle(claim).verdict is Verdict.ACK
    assert seen == list(range(100))
    assert left(spool) == []
    assert worker.claimed == []


def batch_claim(worker: PlainWorker) -> Any:
    from spooler.task import Claim  # noqa: PLC0415

    (file,) = os.listdir(f"{worker.claims.spool.path}/{worker.claims.folder}")
    name = Name.parse(file)
    assert name is not None
    return Claim(name, "w1", file)


def test_a_line_knows_its_own_id_and_body(
    spool: SpoolDir, worker: PlainWorker, register: Register
) -> None:
    found = []

    def tell(body: bytes) -> None:
        task = current_task()
        found.append((task.id, task.name, task.attempt, task.traceparent, body))

    register(tell)
    a_batch(spool, b'{"task":"tell","body":"gr\xc3\xbcn","traceparent":"00"}')
    worker.run_all()
    assert found == [(line_id(0), "tell", 1, "00", "grün".encode())]


def test_a_line_that_fails_is_retried_by_itself(
    spool: SpoolDir, worker: PlainWorker, register: Register, seen: list[int]
) -> None:
    def fail(n: int) -> None:
        raise Retry(f"not {n}")

    register(fail)
    a_batch(spool, line(0), line(1, "fail"), line(2))
    worker.run_all()
    assert seen == [0, 2]
    (path,) = left(spool)
    name = Name.parse(path.rpartition("/")[2])
    assert name == Name(LATER_US, 5, 1, line_id(1), "fail")
    assert tasks(spool)[path] == line(1, "fail") + b"\n"
    (record,) = reports.attempts(spool, line_id(1))
    assert record["error"] == "Retry: not 1"


def test_wrong_arguments_fail_by_themselves(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    a_batch(spool, line(0), b'{"task":"note","args":{"m":1}}', line(2))
    worker.run_all()
    assert seen == [0, 2]
    assert [path.partition("/")[0] for path in left(spool)] == ["failed"]


@pytest.mark.parametrize(
    "more",
    [
        ',"options":{"keep_result":5}',
        ',"options":{"then":[{"task":"note"}]}',
        ',"options":{}',
    ],
)
def test_a_line_with_options_runs_as_a_task_of_its_own(
    spool: SpoolDir, worker: PlainWorker, seen: list[int], more: str
) -> None:
    a_batch(spool, line(0), line(1, more=more), line(2))
    worker.run_all()
    assert seen == [0, 1, 2]
    assert worker.claimed == [line_id(1)]
    assert left(spool) == []


def test_a_line_that_became_a_task_is_as_old_as_its_batch(
    spool: SpoolDir, worker: PlainWorker, register: Register
) -> None:
    def fail() -> None:
        raise Retry("no")

    register(fail)
    name = a_batch(spool, b'{"task":"fail","options":{"expires":"+60"}}')
    os.utime(f"{spool.path}/{name.folder}/{name}", (1_700_000_000, 1_700_000_000))
    worker.run_all()
    (path,) = left(spool)
    assert os.stat(f"{spool.path}/{path}").st_mtime == 1_700_000_000


@pytest.mark.parametrize(
    "given",
    [
        {"keep_result": 5},
        {"concurrency": 1},
        {"then": ()},
        {"keep_log": True},
        {"kind": Kind.FOREVER},
    ],
)
def test_a_function_that_asks_for_a_file_gets_one(
    spool: SpoolDir, worker: PlainWorker, register: Register, given: dict[str, Any]
) -> None:
    def special() -> None: ...

    register(special, **given)
    a_batch(spool, b'{"task":"special"}', b'{"task":"special"}', count=1)
    worker.handle(worker.take(Name(*names(spool))))
    assert worker.claimed == [line_id(0)]


def names(spool: SpoolDir) -> tuple[Any, ...]:
    ((_, file),) = spool.waiting()
    name = Name.parse(file)
    assert name is not None
    return (name.due_us, name.priority, name.attempt, name.id, name.task)


def test_time_limits_alone_need_no_file(
    spool: SpoolDir, worker: PlainWorker, register: Register
) -> None:
    def slow() -> None: ...

    register(slow, hard_timeout=5, soft_timeout=3)
    a_batch(spool, b'{"task":"slow"}')
    worker.run_all()
    assert worker.claimed == []
    assert worker.ran == {line_id(0): 1}


def test_a_line_for_later_waits_by_itself(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    a_batch(
        spool,
        line(0, more=',"at":4102444800'),
        line(1, more=',"at":5'),
        line(2, more=',"at":"+1000d"'),
    )
    worker.run_all()
    assert seen == [1]
    first, second = (Name.parse(path.rpartition("/")[2]) for path in left(spool))
    assert first is not None
    assert second is not None
    assert {first.id, second.id} == {line_id(0), line_id(2)}
    assert max(first, second, key=str).due_us == 4102444800_000_000


def test_a_moment_that_cannot_be_is_put_aside(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    a_batch(spool, line(0, more=',"at":"+99999d"'), line(1))
    worker.run_all()
    assert seen == [1]
    assert [path.partition("/")[0] for path in left(spool)] == ["corrupt"]


def test_a_line_that_is_no_task_is_put_aside_and_the_rest_runs(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    a_batch(spool, line(0), b"nonsense", line(2))
    worker.run_all()
    assert seen == [0, 2]
    (path,) = left(spool)
    assert path.startswith("corrupt/")
    assert path.endswith(f"{line_id(1)}._batch.1")
    assert Path(spool.path, path).read_bytes() == b"nonsense\n"
    why = reports.read_why(spool, path)
    assert why["reason"] == f"line 2 of batch {BATCH_ID}: not a JSON object"


@pytest.mark.parametrize(
    ("count", "reason"),
    [(5, "its body ends after 3 of 5 lines"), (2, "there is more in its body than 2")],
)
def test_a_batch_with_another_count_runs_what_it_has_and_is_put_aside(
    spool: SpoolDir, worker: PlainWorker, seen: list[int], count: int, reason: str
) -> None:
    a_batch(spool, line(0), line(1), line(2), count=count)
    worker.run_all()
    assert seen == list(range(min(count, 3)))
    (path,) = (path for path in left(spool) if not path.startswith("batches/"))
    assert path.startswith("corrupt/")
    assert reason in str(reports.read_why(spool, path)["reason"])


@pytest.mark.parametrize(("size", "there"), [(999, 2), (1000, 1)])
def test_a_line_that_would_fill_the_memory_ends_the_batch(
    spool: SpoolDir,
    worker: PlainWorker,
    seen: list[int],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    there: int,
) -> None:
    monkeypatch.setattr(batch, "LINE_MAX", 1000)
    a_batch(spool, line(0), b"x" * size, line(2))
    worker.run_all()
    assert seen == [0, 2][:there]
    (path,) = (path for path in left(spool) if not path.startswith("batches/"))
    reason = str(reports.read_why(spool, path)["reason"])
    assert (
        reason
        == [
            "line 2 takes 1000 bytes or more",
            f"line 2 of batch {BATCH_ID}: not a JSON object",
        ][there - 1]
    )


@pytest.mark.parametrize("args", ["{}", '{"count":"x"}', '{"count":true}'])
def test_a_batch_without_a_count_is_put_aside(
    spool: SpoolDir, worker: PlainWorker, args: str
) -> None:
    name = a_batch(spool, line(0))
    path = Path(spool.path, name.folder, str(name))
    path.write_text(f'{{"task":"_batch","args":{args}}}\n')
    worker.run_all()
    assert [path.partition("/")[0] for path in left(spool)] == ["corrupt"]


def test_a_damaged_range_puts_the_batch_aside(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    a_batch(spool, line(0))
    Path(spool.path, "batches", BATCH_ID).write_bytes(b"x" * 60)
    worker.run_all()
    assert seen == []
    assert any(path.startswith("corrupt/") for path in left(spool))


def test_a_function_nobody_here_knows_is_left_to_others(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    lines = [line(n, "stranger") for n in range(30)]
    name = a_batch(spool, line(0), lines[0], line(2), *lines)
    outcome = worker.handle(worker.take(name))
    assert outcome.verdict is Verdict.RELEASE
    assert "stranger" in outcome.error
    assert seen == [0, 2]
    assert len(worker.claimed) == 1 + batch.UNKNOWN_MAX
    found = batches.read(spool, BATCH_ID)
    assert found is not None
    assert found.next == 3 + batch.UNKNOWN_MAX


# -- attention ----------------------------------------------------------------------


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "ATTEND_EVERY", 0.0)


@pytest.mark.usefixtures("busy")
def test_a_batch_that_is_stopped_keeps_its_place(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    name = a_batch(spool, *[line(n) for n in range(10)])
    worker.told = [Attention.GO_ON] * 4 + [Attention.STOP]
    outcome = worker.handle(worker.take(name))
    assert (outcome.verdict, outcome.after) == (Verdict.RELEASE, None)
    assert seen == [0, 1, 2, 3]
    assert names(spool)[2] == 0
    worker.run_all()
    assert seen == list(range(10))
    assert left(spool) == []


@pytest.mark.usefixtures("busy")
def test_a_batch_that_is_shared_is_cut(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    name = a_batch(spool, *[line(n) for n in range(10)])
    worker.told = [Attention.GO_ON, Attention.GO_ON, Attention.SHARE, Attention.SHARE]
    worker.handle(worker.take(name))
    assert seen == [0, 1, 2, 3, 4, 5]
    worker.run_all()
    assert seen == list(range(10))
    assert set(worker.ran.values()) == {1}
    assert set(worker.ran) == {line_id(n) for n in range(10)}
    assert left(spool) == []


@pytest.mark.usefixtures("busy")
def test_a_cut_that_fails_is_told_and_made_later(
    spool: SpoolDir,
    worker: PlainWorker,
    seen: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    name = a_batch(spool, *[line(n) for n in range(10)])
    worker.told = [Attention.SHARE]
    monkeypatch.setattr(batches, "write_new", refuse)
    worker.handle(worker.take(name))
    assert seen == list(range(10))
    assert "cannot cut batch" in caplog.text


def test_an_error_of_the_system_gives_the_batch_back(
    spool: SpoolDir,
    worker: PlainWorker,
    seen: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    name = a_batch(spool, *[line(n) for n in range(3)])
    claim = worker.take(name)
    with monkeypatch.context() as patch:
        patch.setattr(batches, "write_all", refuse)
        task = worker.claims.open(claim)
        _, outcome = batch.run(worker, worker.claims, claim, task)
    assert (outcome.verdict, outcome.after) == (Verdict.RELEASE, READ_AGAIN)
    with monkeypatch.context() as patch:
        patch.setattr(batches.Progress, "advance", refuse)
        _, outcome = batch.run(worker, worker.claims, claim, task)
    assert (outcome.verdict, outcome.after) == (Verdict.RELEASE, READ_AGAIN)
    task.close()


# -- crashes ------------------------------------------------------------------------


def crash(spool: SpoolDir, done: int, *, between: bool, attempt: int = 1) -> Name:
    name = a_batch(spool, *[line(n) for n in range(6)], attempt=attempt)
    found = batches.Range(done, 6, BATCH_ID, between=between)
    Path(spool.path, "batches", BATCH_ID).write_bytes(found.encode())
    append_attempt(spool, BATCH_ID, {"error": "its worker died: signal 9"})
    return name


def test_the_line_that_was_running_bears_the_crash(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    outcome = worker.handle(worker.take(crash(spool, 2, between=False, attempt=3)))
    assert outcome.verdict is Verdict.ACK
    assert seen == [3, 4, 5]
    assert names(spool)[2:] == (3, line_id(2), "note")
    settled = worker.settled[line_id(2)]
    assert (settled.verdict, settled.reason) == (Verdict.RETRY, "crash")
    assert settled.error == "its worker died: signal 9"
    assert reports.attempts(spool, BATCH_ID) == []


def test_nobody_bears_a_crash_between_two_lines(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    worker.handle(worker.take(crash(spool, 2, between=True)))
    assert seen == [2, 3, 4, 5]
    assert left(spool) == []


def test_a_crash_after_the_last_line_is_nobodys(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    worker.handle(worker.take(crash(spool, 6, between=False)))
    assert seen == []
    assert left(spool) == []


def test_a_crash_in_a_line_that_is_no_task_puts_it_aside(
    spool: SpoolDir, worker: PlainWorker, seen: list[int]
) -> None:
    a_batch(spool, b"x", line(1), attempt=1)
    found = batches.Range(0, 2, BATCH_ID)
    Path(spool.path, "batches", BATCH_ID).write_bytes(found.encode())
    worker.run_all()
    assert seen == [1]
    assert [path.partition("/")[0] for path in left(spool)] == ["corrupt"]


def test_the_attempt_is_not_lost_if_the_line_cannot_be_taken_out(
    spool: SpoolDir,
    worker: PlainWorker,
    seen: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    claim = worker.take(crash(spool, 2, between=False, attempt=4))
    monkeypatch.setattr(batches, "_write_whole", refuse)
    task = worker.claims.open(claim)
    again, outcome = batch.run(worker, worker.claims, claim, task)
    task.close()
    assert outcome.verdict is Verdict.RELEASE
    assert again.file == claim.file
    assert seen == []


@pytest.mark.parametrize("lines", [1, 50_000, 100_000])
def test_skipping_finds_the_line_where_it_stands(
    spool: SpoolDir, worker: PlainWorker, seen: list[int], lines: int
) -> None:
    more = f',"traceparent":"{"0" * 30}"'
    name = a_batch(spool, *[line(n, more=more) for n in range(lines + 1)])
    found = batches.Range(lines, lines + 1, BATCH_ID, between=True)
    Path(spool.path, "batches", BATCH_ID).write_bytes(found.encode())
    worker.handle(worker.take(name))
    assert seen == [lines]
