"""What the runs of a worker print is caught."""

# ruff: noqa: T201 (printing is what is tested)

import ctypes
import faulthandler
import logging
import os
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.helpers import FACTOR

from spooler import CurrentTask, logs
from spooler.capture import Capture, FileCapture, RoutedCapture, capture
from spooler.config import KeepLog
from spooler.current import CURRENT
from spooler.spooldir import SpoolDir
from spooler.task import Claim, Name

ID = "8c1f42d09ab3e617"
OTHER = "8c1f42d09ab3e618"
WORKER = "w1"

log = logging.getLogger("shop")


@pytest.fixture
def plain(
    capfd: pytest.CaptureFixture[str],
) -> Iterator[pytest.CaptureFixture[str]]:
    """Leave logging and the fault handler as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    was_enabled = faulthandler.is_enabled()
    faulthandler.disable()
    yield capfd
    faulthandler.disable()
    if was_enabled:
        faulthandler.enable()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def be_a_worker() -> None:
    """Have Python's own streams and one handler; pytest takes them back by itself."""
    if sys.__stdout__ is None or sys.__stdout__.fileno() != 1:
        pytest.skip("the standard output is not descriptor 1 here")
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    logs.configure("info", json=False)


def start(spool: SpoolDir, mode: KeepLog = "failed", *, many: bool = False) -> Capture:
    be_a_worker()
    made = capture(spool, WORKER, mode, many=many)
    assert made is not None
    return made


def claim(task_id: str, attempt: int) -> Claim:
    """Return a claim whose run is the so manieth."""
    name = Name(0, 5, attempt - 1, task_id, "t")
    return Claim(name, WORKER, str(name))


def told(task: CurrentTask) -> Callable[[], CurrentTask]:
    """Return what tells of a task that runs."""
    return lambda: task


def files(spool: SpoolDir) -> dict[str, str]:
    folder = Path(spool.path, "logs")
    return {p.name: p.read_text() for p in folder.iterdir() if p.suffix != ".live"}


def run(
    caught: Capture, *, succeeded: bool = False, keep: bool | None = None, text: str
) -> int:
    caught.begin(claim(ID, 1))
    print(text)
    return caught.end(claim(ID, 1), succeeded=succeeded, keep=keep)


def test_prints_c_code_and_child_processes_are_caught(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    caught = start(spool)
    caught.begin(claim(ID, 1))
    print("print")
    print("error", file=sys.stderr)
    os.write(1, b"write\n")
    ctypes.CDLL(None).printf(b"printf\n")
    subprocess.run(["echo", "child"], check=True)
    print("the end", end="")
    assert caught.end(claim(ID, 1), succeeded=False, keep=None) > 0
    caught.close()
    text = "print\nerror\nwrite\nprintf\nchild\nthe end"
    assert files(spool) == {f"{ID}.1": text}
    assert plain.readouterr() == (text, "")
    assert os.listdir(f"{spool.path}/logs") == [f"{ID}.1"]


def test_after_it_is_closed_all_is_as_before(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    be_a_worker()
    before = sys.stdout, sys.stderr
    start(spool).close()
    assert (sys.stdout, sys.stderr) == before
    print("out")
    print("err", file=sys.stderr)
    log.warning("logged")
    sys.stdout.flush()
    out, err = plain.readouterr()
    assert out == "out\n"
    assert err.startswith("err\n")
    assert err.endswith("logged\n")
    assert os.listdir(f"{spool.path}/logs") == []


KEPT = [
    ("failed", False, None, True),
    ("failed", True, None, False),
    ("failed", True, True, True),
    ("failed", False, False, False),
    ("always", True, None, True),
    ("always", True, False, False),
]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(("mode", "succeeded", "keep", "is_kept"), KEPT)
def test_what_is_kept(
    spool: SpoolDir,
    plain: pytest.CaptureFixture[str],
    mode: KeepLog,
    succeeded: bool,
    keep: bool | None,
    is_kept: bool,
    many: bool,
) -> None:
    caught = start(spool, mode, many=many)
    token = CURRENT.set(told(CurrentTask(ID, "t", 1, 5, spool.path, 0)))
    try:
        kept = run(caught, succeeded=succeeded, keep=keep, text="hello")
    finally:
        CURRENT.reset(token)
    caught.close()
    assert kept == (6 if is_kept else 0)
    assert files(spool) == ({f"{ID}.1": "hello\n"} if is_kept else {})
    assert plain.readouterr().out == "hello\n"


def test_with_never_nothing_is_caught(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    assert capture(spool, WORKER, "never") is None
    assert os.listdir(f"{spool.path}/logs") == []


def test_each_run_has_its_own(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    caught = start(spool)
    run(caught, text="one")
    caught.begin(claim(OTHER, 3))
    assert caught.end(claim(OTHER, 3), succeeded=False, keep=True) == 0
    caught.begin(claim(OTHER, 4))
    print("two")
    caught.end(claim(OTHER, 4), succeeded=False, keep=None)
    caught.close()
    assert files(spool) == {f"{ID}.1": "one\n", f"{OTHER}.4": "two\n"}


def test_what_modules_log_is_in_both_and_spoolers_own_is_not(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    caught = start(spool)
    log.warning("between the runs")
    caught.begin(claim(ID, 1))
    log.warning("in \x1b the run")
    log.warning("bad %d %d", "format")
    logging.getLogger("spooler.worker").warning("of ours")
    try:
        raise ValueError("x")
    except ValueError:
        log.exception("with a traceback")
    caught.end(claim(ID, 1), succeeded=False, keep=None)
    logging.getLogger("spooler.worker").warning("ack task")
    caught.close()
    kept = files(spool)[f"{ID}.1"]
    assert " WARNING shop in \\x1b the run\n" in kept
    assert "\n  ValueError: x\n" in kept
    for text in ("between", "of ours", "ack task"):
        assert text not in kept
    out, err = plain.readouterr()
    assert out == kept
    assert "WARNING spoold[" in err
    for text in ("between the runs", "in \\x1b the run", "of ours", "ack task"):
        assert text in err


def test_a_stack_is_caught_when_the_interpreter_dies(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    caught = start(spool)
    assert faulthandler.is_enabled()
    pid = os.fork()
    if pid == 0:
        os.abort()
    os.waitpid(pid, 0)
    live = Path(spool.path, f"logs/{WORKER}.live").read_text()
    assert "Fatal Python error: Aborted" in live
    assert "test_a_stack_is_caught" in live
    caught.close()


def test_nothing_printed_costs_nothing(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    caught = start(spool)

    def nothing() -> None:
        caught.begin(claim(ID, 1))
        caught.end(claim(ID, 1), succeeded=True, keep=None)

    took = min(timeit.repeat(nothing, number=300, repeat=500)) / 300
    caught.close()
    assert took < 3e-6 * FACTOR  # it is 0.8 µs where nothing else disturbs


def test_a_full_disk_does_not_make_print_fail(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    be_a_worker()
    caught = FileCapture(spool, WORKER, keep_all=False)
    assert caught.start()
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    caught.begin(claim(ID, 1))
    print("hello")
    print("x", end="")
    assert caught.end(claim(ID, 1), succeeded=False, keep=None) == 0
    caught.close()
    os.close(full)
    assert plain.readouterr().out == "hello\nx"


def test_a_file_that_somebody_has_closed_ends_the_catching(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    be_a_worker()
    caught = FileCapture(spool, WORKER, keep_all=True)
    assert caught.start()
    other = os.open("/dev/null", os.O_RDONLY)
    os.close(caught._fd)
    run(caught, text="lost")
    run(caught, text="hello")
    os.close(other)
    out, err = plain.readouterr()
    assert "hello\n" in out
    assert err.count("cannot catch what tasks print any more") == 1


def test_without_a_place_for_it_runs_go_on_uncaught(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    Path(spool.path, "logs").rmdir()
    be_a_worker()
    assert capture(spool, WORKER, "failed") is None
    Path(spool.path, "logs").mkdir()
    print("hello")
    sys.stdout.flush()
    out, err = plain.readouterr()
    assert out == "hello\n"
    assert err.count("cannot catch what tasks print: ") == 1


@pytest.mark.parametrize("many", [False, True])
def test_without_standard_streams_nothing_is_caught(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    monkeypatch.setattr(sys, "__stdout__", None)
    monkeypatch.setattr(sys, "stdout", None)
    assert capture(spool, WORKER, "failed", many=many) is None


def test_streams_that_user_code_has_put_in_place_are_left(
    spool: SpoolDir,
    plain: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Odd:
        """Has nothing of a stream but ``write``."""

        def write(self, text: str) -> int:
            return os.write(1, text.encode())

    odd = Odd()
    be_a_worker()
    monkeypatch.setattr(sys, "stdout", odd)
    caught = capture(spool, WORKER, "failed")
    assert caught is not None
    assert sys.stdout is odd
    caught.begin(claim(ID, 1))
    print("hello")
    caught.end(claim(ID, 1), succeeded=False, keep=None)
    caught.close()
    assert files(spool) == {f"{ID}.1": "hello\n"}


# -- many runs at a time ------------------------------------------------------------


def test_each_of_many_runs_has_its_own(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    be_a_worker()
    caught = RoutedCapture(spool, keep_all=True)
    assert caught.start()
    first = CurrentTask(ID, "t", 1, 5, spool.path, 0)
    second = CurrentTask(OTHER, "t", 2, 5, spool.path, 0)
    caught.begin(claim(ID, 1))
    caught.begin(claim(OTHER, 2))
    print("nobody's")
    log.warning("nobody's")
    for number in range(2):
        for current in (first, second):
            token = CURRENT.set(told(current))
            print(current.id, number)
            log.warning("logged %d", number)
            CURRENT.reset(token)
    assert caught.end(claim(ID, 1), succeeded=True, keep=None) > 0
    caught.close()
    token = CURRENT.set(told(first))
    print("too late")
    CURRENT.reset(token)
    sys.stdout.flush()
    kept = files(spool)
    assert set(kept) == {f"{ID}.1", f"{OTHER}.2"}
    for task_id, text in ((ID, kept[f"{ID}.1"]), (OTHER, kept[f"{OTHER}.2"])):
        assert [x for x in text.splitlines() if "logged" not in x] == [
            f"{task_id} 0",
            f"{task_id} 1",
        ]
        assert text.count(" WARNING shop logged ") == 2
    out, err = plain.readouterr()
    assert kept[f"{ID}.1"] in out
    assert kept[f"{OTHER}.2"] in out
    assert "nobody's\n" in out
    assert "too late\n" in out
    assert err.count("logged") == 4


def test_the_stand_in_is_enough_of_a_stream(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    be_a_worker()
    caught = RoutedCapture(spool, keep_all=True)
    assert caught.start()
    stream = sys.stdout
    assert stream.fileno() == 1
    assert not stream.isatty()
    assert stream.writable()
    assert stream.encoding == "utf-8"
    assert stream.errors == "backslashreplace"
    stream.buffer.write(b"bytes\n")
    stream.writelines(["a\n", "b\n"])
    stream.flush()
    caught.close()
    assert "bytes\n" in plain.readouterr().out


def test_many_runs_print_elsewhere_on_a_full_disk(
    spool: SpoolDir, plain: pytest.CaptureFixture[str]
) -> None:
    be_a_worker()
    caught = RoutedCapture(spool, keep_all=True)
    assert caught.start()
    Path(spool.path, "logs").rmdir()
    token = CURRENT.set(told(CurrentTask(ID, "t", 1, 5, spool.path, 0)))
    assert run(caught, text="hello") == 0
    CURRENT.reset(token)
    caught.close()
    sys.stdout.flush()
    assert plain.readouterr().out == "hello\n"
    Path(spool.path, "logs").mkdir()
