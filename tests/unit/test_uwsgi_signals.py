"""The signals of the module ``uwsgi``: what is registered, put and run."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st
from tests.helpers import TASK, tasks

from spooler import handle
from spooler.clock import CLOCK
from spooler.current import CURRENT
from spooler.errors import (
    Fail,
    OnlyInUwsgiError,
    Retry,
    SoftTimeout,
    UsageError,
)
from spooler.ext.uwsgi import handlers, later, missing, process, signals
from spooler.ext.uwsgi.later import Later
from spooler.ext.uwsgi.signals import (
    add_cron,
    add_file_monitor,
    add_ms_timer,
    add_rb_timer,
    add_timer,
    is_locked,
    lock,
    register_signal,
    set_user_harakiri,
    signal,
    signal_registered,
    unlock,
)
from spooler.ext.uwsgi.state import STATE
from spooler.known import Known, known_of
from spooler.registry import REGISTRY
from spooler.run import Run, running
from spooler.schedule import CronLine, Interval
from spooler.slots import next_slot_us
from spooler.spooldir import SpoolDir
from spooler.spooldir.claims import Claims
from spooler.spooldir.reading import TaskFile
from spooler.task import MAX_DUE_US, Claim, Name, Verdict

Log = pytest.LogCaptureFixture


@pytest.fixture(autouse=True)
def clean(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """Have nothing registered, and a template's state on one spool."""
    monkeypatch.setattr(REGISTRY, "_entries", {})
    monkeypatch.setattr(handle, "_DIRS", {spool.path: spool})
    monkeypatch.setattr(signals, "_SAID", set())
    monkeypatch.setattr(signals, "_LOCKS", {})
    for module in (signals, later, handlers):
        monkeypatch.setattr(module, "HANDLERS", handlers.HANDLERS)
    monkeypatch.setattr(STATE, "dirs", (spool.path,))
    monkeypatch.setattr(STATE, "daemon", os.getpid())
    monkeypatch.setattr(STATE, "is_worker", False)
    monkeypatch.setattr(STATE, "files", False)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)
    handlers.HANDLERS.clear()
    yield
    handlers.HANDLERS.clear()


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have the clock stand still; return where."""
    now_us = CLOCK.now_us()
    monkeypatch.setattr(CLOCK, "now_us", lambda: now_us, raising=False)
    return now_us


CALLED: list[int] = []


def handler(number: int) -> None:
    CALLED.append(number)


def broken(number: int) -> None:
    raise ValueError("no")


def known() -> dict[str, Known]:
    return {each.name: known_of(each) for each in REGISTRY}


def in_worker() -> None:
    STATE.is_worker = True


# -- signals ----------------------------------------------------------------------


def test_a_signal_is_a_task(caplog: Log) -> None:
    assert signal_registered(5) is None
    register_signal(5, "spooler", handler)
    register_signal(5, "spooler", handler)  # as a reload does
    assert signal_registered(5 + 256) is True
    entry = REGISTRY.get("uwsgi.signal.5")
    assert entry is not None
    assert entry.retry.retries == 0
    CALLED.clear()
    entry.function()
    entry.function(f"{__name__}.handler")
    assert CALLED == [5, 5]
    with pytest.raises(Fail, match=r"signal 5 was for other.handler: now it is "):
        entry.function("other.handler")
    handlers.HANDLERS.clear()
    with pytest.raises(Fail, match="signal 5: no function is registered for it"):
        entry.function(f"{__name__}.handler")
    entry.function()
    assert "signal 5: no function is registered for it" in caplog.text


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), SoftTimeout(1.0)])
def test_what_a_function_raises_is_logged(error: BaseException, caplog: Log) -> None:
    def raises(number: int) -> None:
        raise error

    register_signal(5, "", raises)
    handlers.run(5)
    assert f"raised {error!r}" in caplog.text
    assert caplog.records[-1].exc_info is not None


@pytest.mark.parametrize("error", [Retry("later"), Fail("never")])
def test_a_function_may_ask_for_a_retry_or_a_failure(error: Exception) -> None:
    def raises(number: int) -> None:
        raise error

    register_signal(5, "", raises)
    with pytest.raises(type(error)):
        handlers.run(5)


def test_a_signal_has_one_function() -> None:
    register_signal(5, "", handler)
    with pytest.raises(
        ValueError, match=r"unable to register signal: 5 is that of .*\."
    ):
        register_signal(5, "", broken)
    with pytest.raises(
        ValueError, match=r"unable to register signal: target x+ is too"
    ):
        register_signal(6, "x" * 64, handler)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: register_signal("5", "", handler), "'str' object cannot be interp"),  # type: ignore[arg-type]  # meant
        (lambda: register_signal(5, b"", handler), "argument 2 must be str, not bytes"),  # type: ignore[arg-type]  # meant
        (lambda: signal(5, b""), "argument 2 must be str"),  # type: ignore[arg-type]  # meant
        (lambda: add_timer(5, 1.5), "'float' object cannot be interp"),  # type: ignore[arg-type]  # meant
        (lambda: add_file_monitor(5, b"x"), "argument 2 must be str"),  # type: ignore[arg-type]  # meant
    ],
)
def test_other_types_are_refused_as_there(call: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        call()


def test_targets_are_a_worker_or_a_spool(spool: SpoolDir, caplog: Log) -> None:
    for number, target in enumerate(
        ("mule1", "mule1", "farm_a", "worker2", "nonsense")
    ):
        register_signal(number, target, handler)
    assert [record.getMessage() for record in caplog.records] == [
        "signals for mule1 run in one worker of spoold, and once",
        "signals for farm_a run in one worker of spoold, and once",
    ]
    register_signal(7, spool.path, handler)
    register_signal(8, "/somewhere/else", handler)
    add_timer(7, 1)
    found = known()
    assert found["uwsgi.signal.7"].spool == spool.path
    assert found["uwsgi.timer.7.1"].spool == spool.path
    assert found["uwsgi.signal.8"].spool is None


def test_raising_a_signal_puts_a_task(spool: SpoolDir, caplog: Log) -> None:
    register_signal(5, spool.path, handler)
    signal(5)
    signal(6)  # which another process may know
    found = sorted((path.split(".", 4)[4], data) for path, data in tasks(spool).items())
    assert found == [
        (
            "uwsgi.signal.5",
            b'{"task":"uwsgi.signal.5","args":{"to":"%b.handler"}}\n'
            % __name__.encode(),
        ),
        ("uwsgi.signal.6", b'{"task":"uwsgi.signal.6","args":{"to":null}}\n'),
    ]
    in_worker()
    signal(6)
    assert "signal 6: no function is registered for it" in caplog.text
    assert len(tasks(spool)) == 2


def test_a_spool_that_refuses_says_why(spool: SpoolDir, tmp_path: Path) -> None:
    STATE.dirs = (str(tmp_path / "nowhere"),)
    with pytest.raises(
        ValueError, match=r"unable to raise signal 5: .*no such directory"
    ):
        signal(5)
    in_worker()
    with pytest.raises(ValueError, match=r"unable to add timer: .*no such directory"):
        add_timer(5, 1)


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"n\0\0\1", None), (b"n\0\0\0", ValueError), (b"n", OSError)],
)
def test_a_signal_is_raised_elsewhere(
    tmp_path: Path, answer: bytes, error: type[Exception] | None
) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.settimeout(10)
    server.bind(str(tmp_path / "s"))
    server.listen()
    heard: list[bytes] = []

    def serve() -> None:
        line, _ = server.accept()
        with line:
            heard.append(line.recv(100))
            line.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    with nullcontext() if error is None else pytest.raises(error):
        signal(5, str(tmp_path / "s"))
    thread.join()
    server.close()
    assert heard == [b"n\0\0\5"]


# -- timers -----------------------------------------------------------------------


def test_timers_are_the_daemons(caplog: Log) -> None:
    register_signal(5, "", handler)
    add_timer(5, 2)
    add_timer(5, 2)
    add_timer(5, 1_234_567)
    add_rb_timer(5, 2)
    add_rb_timer(5, 2, 3)
    add_ms_timer(5, 500)
    add_ms_timer(5, 20)
    add_timer(5, 0)
    add_timer(5, -1)
    found = {name: each.interval for name, each in known().items() if each.interval}
    assert found == {
        "uwsgi.timer.5.2": Interval(2.0),
        "uwsgi.timer.5.1234567": Interval(1234567.0),
        "uwsgi.timer.5.2.times3": Interval(2.0, 3),
        "uwsgi.timer.5.0.5": Interval(0.5),
        "uwsgi.timer.5.0.1": Interval(0.1),
    }
    assert "signal 5: a timer of -1 seconds never runs" in caplog.text
    assert "timers of less than 0.1 seconds run as often as that" in caplog.text
    with pytest.raises(ValueError, match="unable to add timer: an interval of"):
        add_timer(5, 10**10)


def test_beside_a_uwsgi_timers_are_its(caplog: Log) -> None:
    STATE.files = True
    register_signal(5, "", handler)
    add_timer(5, 2)
    assert add_cron(5, -1, -1, -1, -1, -1)
    add_file_monitor(5, "x")
    assert set(known()) == {"uwsgi.signal.5", "uwsgi.timer", "uwsgi.times"}
    assert caplog.text.count("are left to uWSGI") == 1


def real_match(moment: datetime, fields: tuple[int, ...]) -> bool:
    """Tell whether uWSGI runs a line in this minute: the rule of its reference."""
    now = (
        moment.minute,
        moment.hour,
        moment.day,
        moment.month,
        moment.isoweekday() % 7,
    )
    minute, hour, day, month, week = (
        value % 7 == is_now
        if index == 4 and value == 7
        else value == is_now
        if value >= 0
        else is_now % -value == 0
        for index, (value, is_now) in enumerate(zip(fields, now, strict=True))
    )
    days = day or week if fields[2] >= 0 and fields[4] >= 0 else day and week
    return minute and hour and month and days


FIELDS = st.tuples(
    st.integers(-62, 60),
    st.integers(-26, 24),
    st.integers(-33, 32) | st.just(-1),
    st.integers(-14, 13) | st.just(-1),
    st.integers(-9, 7) | st.just(-1),
)


@settings(max_examples=150, deadline=None)
@given(FIELDS, st.integers(0, 500_000))
@example((0, 0, 0, -1, 0), 3 * 24 * 60)  # a day that never comes, or a Sunday
@example((0, 0, 4, -1, 8), 3 * 24 * 60)  # and the other way round
@example((0, 0, 0, -1, 8), 3 * 24 * 60)
def test_cron_lines_match_when_uwsgis_do(
    fields: tuple[int, int, int, int, int], minutes: int
) -> None:
    REGISTRY._entries.clear()
    assert add_cron(5, *fields)
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    moment = moment.replace(
        minute=max(0, fields[0]) % 60, hour=max(0, fields[1]) % 24
    )  # or it would hardly ever match
    now_us = int(moment.timestamp()) * 1_000_000
    entries = [each for each in REGISTRY if each.schedule is not None]
    matches = False
    for entry in entries:
        assert isinstance(entry.schedule, CronLine)
        matches = next_slot_us(entry.schedule, now_us - 1) == now_us
    weekday = fields[4] % 7 if fields[2] < -1 and fields[4] >= 0 else None
    if weekday is not None:  # which its function looks at when it runs
        matches = matches and moment.isoweekday() % 7 == weekday
    assert matches == real_match(moment, fields)


def test_cron_lines_are_in_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    add_cron(5, 30, 2, -1, -1, -1)
    add_cron(5, 30, 3, -1, -1, -1)
    found = known()
    assert found["uwsgi.cron.5.30_2_-1_-1_-1"].cron == CronLine(
        "30 2 * * *", "Asia/Tokyo"
    )
    assert len(found) == 2


def test_a_day_and_a_weekday_that_must_both_match_are_looked_at(
    still: int,
) -> None:
    register_signal(5, "", handler)
    CALLED.clear()
    today = datetime.fromtimestamp(still / 1e6, UTC).isoweekday() % 7
    for weekday in range(7):
        add_cron(5, 0, 0, -2, -1, weekday)
        entry = REGISTRY.get(f"uwsgi.cron.5.0_0_-2_-1_{weekday}")
        assert entry is not None
        entry.function()
        assert [5] * (weekday >= today) == CALLED
    in_worker()
    with pytest.raises(ValueError, match="unable to add cron: day and weekday"):
        add_cron(5, 0, 0, -2, -1, 3)


def test_file_monitors_are_watched_by_the_daemon(tmp_path: Path) -> None:
    register_signal(5, "", handler)
    add_file_monitor(5, "a")
    add_file_monitor(5, "a")
    add_file_monitor(6, "a")
    add_file_monitor(5, "/b")
    found = {name: each.watches for name, each in known().items() if each.watches}
    assert found == {
        "uwsgi.filemon.5.0": f"{tmp_path}/a",
        "uwsgi.filemon.6.1": f"{tmp_path}/a",
        "uwsgi.filemon.5.2": "/b",
    }
    with pytest.raises(ValueError, match=r"unable to add file monitor: x+ is too long"):
        add_file_monitor(5, "x" * 255)
    in_worker()
    with pytest.raises(ValueError, match="only while modules are imported"):
        add_file_monitor(5, "a")


# -- later ------------------------------------------------------------------------


def claim_of(spool: SpoolDir) -> Iterator[tuple[Claim, TaskFile]]:
    """Claim and open what waits, one after the other."""
    claims = Claims(spool, "w1", {os.getuid()})
    try:
        for path in list(tasks(spool)):
            claim = claims.claim(path)
            assert claim is not None
            task = claims.open(claim)
            yield claim, task
            task.close()
            claims.ack(claim)
    finally:
        os.close(claims._fd)


def runs(spool: SpoolDir) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for claim, task in claim_of(spool):
        entry = REGISTRY.get(claim.name.task)
        assert entry is not None
        assert entry.handler is not None
        try:
            found.append((claim.name.task, entry.handler(claim, task)))
        except (Retry, Fail) as error:
            found.append((claim.name.task, error))
    return found


def test_a_timer_that_a_task_adds_comes_again(spool: SpoolDir, still: int) -> None:
    register_signal(5, "", handler)
    in_worker()
    CALLED.clear()
    for _ in range(2):
        add_timer(5, 100)
        add_rb_timer(5, 100)
    (path,) = tasks(spool)
    name = Name.parse(path.rpartition("/")[2])
    assert name is not None
    assert name.due_us - still == 100_000_000
    ((task, outcome),) = runs(spool)
    assert task == "uwsgi.timer"
    assert outcome.verdict is Verdict.AGAIN
    assert outcome.after == 100
    assert CALLED == [5]


def test_a_timer_with_iterations_puts_the_next_one_first(spool: SpoolDir) -> None:
    register_signal(5, spool.path, handler)
    in_worker()
    CALLED.clear()
    add_rb_timer(5, 1, 2)
    add_rb_timer(5, 1, 2)  # which is another one
    assert len(tasks(spool)) == 2
    for left in (2, 0):
        outcomes = runs(spool)
        assert {task for task, _ in outcomes} == {"uwsgi.times"}
        assert {outcome.verdict for _, outcome in outcomes} == {Verdict.ACK}
        assert len(tasks(spool)) == left
    assert len(CALLED) == 4


def test_a_cron_line_can_be_added_by_a_task(spool: SpoolDir) -> None:
    register_signal(5, "", handler)
    in_worker()
    assert add_cron(5, -1, -1, -1, -1, -1)
    assert add_cron(5, -1, -1, -1, -1, -1)
    assert add_cron(5, 0, 0, 30, 2, -1)  # a day that never comes
    ((_, outcome),) = runs(spool)
    assert 0 < outcome.after <= 60
    ended = Later(5, cron=CronLine("0 0 1 1 *"))
    assert later._next_us(ended, MAX_DUE_US) > MAX_DUE_US


def test_one_whose_function_raises_goes_on(spool: SpoolDir, caplog: Log) -> None:
    register_signal(5, "", broken)
    in_worker()
    add_timer(5, 100)
    ((_, outcome),) = runs(spool)
    assert outcome.verdict is Verdict.AGAIN
    assert 90 <= outcome.after <= 100
    assert "raised ValueError('no')" in caplog.text


def test_one_for_another_function_by_now_fails(spool: SpoolDir) -> None:
    register_signal(5, "", handler)
    in_worker()
    add_timer(5, 100)
    handlers.HANDLERS.clear()
    register_signal(5, "", broken)
    ((_, error),) = runs(spool)
    assert isinstance(error, Fail)
    add_timer(6, 100)
    ((_, outcome),) = runs(spool)
    assert outcome.verdict is Verdict.FAIL
    assert "no function is registered for signal 6" in outcome.error


@pytest.mark.parametrize(
    "args",
    [
        b"{}",
        b'{"signum":"x"}',
        b'{"signum":1,"left":[]}',
        b'{"signum":1,"interval":{"seconds":0}}',
        b'{"signum":1,"cron":{"line":"nonsense"}}',
        b'{"signum":1,"cron":{"line":"* * * * *","tz":"/dev/tty"}}',
    ],
)
def test_one_that_nobody_here_has_put_fails(spool: SpoolDir, args: bytes) -> None:
    register_signal(1, "", handler)
    now_us = CLOCK.now_us()
    name = Name(now_us, 5, 0, "1" * 16, "uwsgi.timer")
    spool.put(name, [TASK[:-2] + b',"args":' + args + b"}\n"])
    ((_, outcome),) = runs(spool)
    assert outcome.verdict is Verdict.FAIL


def test_one_as_lines_of_text_is_read_too(spool: SpoolDir) -> None:
    register_signal(5, "", handler)
    name = Name(CLOCK.now_us(), 5, 0, "1" * 16, "uwsgi.timer")
    spool.put(name, [b"task=uwsgi.timer\nsignum:=5\n"])
    ((_, outcome),) = runs(spool)
    assert outcome.verdict is Verdict.AGAIN
    assert Later(5).schedule == Interval(1.0)


def test_one_that_is_given_back_has_put_the_next_one(
    spool: SpoolDir, still: int
) -> None:
    register_signal(5, "", handler)
    add = Later(5, left=2, interval=Interval(100.0))
    later._put(add, still, "2" * 16)
    for claim, task in claim_of(spool):
        later._run(claim, task)
        later._run(claim, task)
    assert len(tasks(spool)) == 1


# -- where a timer is declared ----------------------------------------------------


def test_in_other_processes_importing_starts_nothing(
    spool: SpoolDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    STATE.daemon = 0
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "declares.py").write_text(
        "from spooler.ext.uwsgi.signals import *\n"
        "from spooler.ext.uwsgi import signals as s\n"
        "s.register_signal(5, '', print)\n"
        "s.add_timer(5, 10)\n"
        "def start():\n    s.add_cron(5, -1, -1, -1, -1, -1)\n"
        "start()\n"
    )
    __import__("declares")
    assert tasks(spool) == {}
    add_timer(5, 10)
    assert len(tasks(spool)) == 1
    exec(  # a script, that is no import
        "from spooler.ext.uwsgi.signals import add_timer\nadd_timer(5, 11)",
        {"__name__": "__main__"},
    )
    assert len(tasks(spool)) == 1


# -- locks and limits -------------------------------------------------------------


def test_locks_are_the_spools(spool: SpoolDir) -> None:
    assert is_locked() is False
    lock()
    lock(3)
    assert (is_locked(), is_locked(1), is_locked(3)) == (True, False, True)
    unlock()
    unlock(3)
    assert is_locked() is False
    assert {"uwsgi.lock.0", "uwsgi.lock.3"} <= set(spool.all_names("limits"))
    with pytest.raises(ValueError, match="Invalid lock number"):
        lock(-1)
    in_worker()
    for call in (lock, unlock, is_locked):
        with pytest.raises(
            ValueError, match="The spooler cannot lock/unlock resources"
        ):
            call()


def test_a_limit_is_that_of_the_run(spool: SpoolDir, caplog: Log) -> None:
    caplog.set_level("DEBUG", logger="spooler.ext.uwsgi.signals")
    set_user_harakiri(0)
    assert caplog.text == ""
    set_user_harakiri(5)
    assert "no task runs" in caplog.text
    assert running() is None


def test_a_run_tells_its_limits(still: int) -> None:
    told: list[str] = []
    assert running() is None
    nothing: Any = None
    five = (nothing, nothing, nothing, nothing, still)
    run = Run("5/m/n", *five, None, None, nothing)
    run.tell = told.extend
    run.limit(0.0)
    run.limit(2.0)
    assert run.is_limited
    run.hard_timeout = 10.0
    run.limit(2.0)
    run.limit(20.0)
    run.hard_timeout = 0.0001
    run.started_us -= 1_000_000
    run.limit(2.0)
    token = CURRENT.set(run.current)
    try:
        set_user_harakiri(0)
    finally:
        CURRENT.reset(token)
    run.tell = None
    run.limit(2.0)
    seconds = [float(line.split()[1]) for line in told]
    assert [line.split()[0] for line in told] == ["!limit"] * 6
    assert seconds[0] == 0
    assert seconds[1:3] == [2, 2]
    assert seconds[3] == 10
    assert seconds[4:] == [0.001, 0.001]


# -- the rest ---------------------------------------------------------------------


def test_what_is_missing_says_what_to_use(caplog: Log) -> None:
    with pytest.raises(
        OnlyInUwsgiError, match=r"uwsgi.cache_set is not there under"
    ) as e:
        missing.NAMES["cache_set"]("a", b"b", expires=3)
    assert isinstance(e.value, NotImplementedError)
    assert isinstance(e.value, UsageError)
    assert e.value.name == "cache_set"
    assert missing.NAMES["cache_set"].__name__ == "cache_set"
    assert missing.NAMES["register_rpc"]("f", print) is True
    assert "uwsgi.register_rpc 'f': nobody can call it here" in caplog.text
    assert not set(missing.NAMES) & set(signals.FUNCTIONS)


def test_processes_are_told(caplog: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    assert process.reload() is None  # this is the process that would be told
    monkeypatch.setattr(os, "kill", lambda *args: sent.append(args))
    STATE.daemon = 4
    assert process.reload() is True
    assert process.stop() is True
    assert sent == [(4, 1), (4, 15)]
    monkeypatch.undo()
    STATE.daemon = 2**22 + 1  # more than there can be
    assert process.stop() is None
    assert "cannot send signal 15 to spoold" in caplog.text
    STATE.daemon = 0
    assert process.ready() is None
    in_worker()
    assert process.ready() is True


def test_small_things_are_as_there(caplog: Log, tmp_path: Path) -> None:
    rss, vsz = process.mem()
    assert 0 < rss < vsz
    before_us = CLOCK.now_us()
    assert before_us <= process.micros() <= CLOCK.now_us()
    (tmp_path / "f").write_bytes(b"x")
    assert process.extract(f"file://{tmp_path}/f") == b"x"
    assert process.extract(str(tmp_path / "g")) is None
    with pytest.raises(ValueError, match="unable to find symbol x"):
        process.embedded_data("x")
    process.alarm("a", "hot")
    assert process.set_warning_message("careful") is True
    assert "alarm a: hot" in caplog.text
    assert "careful" in caplog.text
    process.accepting(0)
    assert process.total_requests() == process.logsize() == 0
    assert process.workers() == ()
    assert process.rpc_list() == ()
    assert process.in_farm("a") is None
    name = Path("/proc/self/comm").read_text().strip()
    process.setprocname("other")
    assert Path("/proc/self/comm").read_text().strip() == "other"
    process.setprocname(name)
