"""Rubbish in a spool and on the command line.

Reading it gives a documented result: never a traceback, never a lost file, never a
command that hangs, and nothing that a terminal would obey.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from types import FrameType
from typing import Any, Final

from click.testing import CliRunner, Result

from spooler import RETRY, Retry, spool as spool_task, spoolraw
from spooler.channel import WorkerSettings
from spooler.cli import spoold
from spooler.cli.spool import main as spool_command
from spooler.codec import decode
from spooler.errors import CorruptError, ResultError, UsageError
from spooler.execution import Execution
from spooler.limits import Limits
from spooler.registry import REGISTRY
from spooler.retry import RetryPolicy
from spooler.spooldir import (
    SpoolDir,
    batches,
    pauses,
    repair,
    reports,
    results,
    timers,
)
from spooler.spooldir.claims import Claims
from spooler.spooldir.dropped import Dropped
from spooler.spooldir.limits import Permits
from spooler.spooldir.progress import read_progress
from spooler.spooldir.recovery import ProcessLock, recover, sweep
from spooler.status import overview
from spooler.task import Name, Outcome, State, Verdict
from tests.helpers import FakeClock, real_clock, tasks

from .daemons import slowness
from .damage import Damaged
from .mutate import MOMENTS, Mutator
from .readers import Broken, expect

_ID: Final = re.compile("[0-9a-f]{16}(?=[.]|$)")

EXIT_CODES: Final = frozenset({0, 1, 2, 75, 78})

HANG: Final = 20.0
"""Seconds after which something hangs."""

ADOPT_CPU: Final = 0.25
"""Seconds of the processor that one file may cost whoever adopts it."""

FAILED: Final = Outcome(Verdict.FAIL, "E: it broke", "exception", "Traceback")
OWNERS: Final = frozenset({0, os.getuid()})


# -- the application ------------------------------------------------------------------


@contextmanager
def registered() -> Iterator[None]:
    """Have tasks of the names that the samples have, and no others."""
    before = dict(REGISTRY._entries)
    REGISTRY._entries.clear()
    try:
        _register()
        yield
    finally:
        REGISTRY._entries.clear()
        REGISTRY._entries.update(before)


def _register() -> None:
    spool_task(name="t", retries=1)(_fine)
    spool_task(name="say", retries=0)(_break)
    spoolraw(name="import_csv")(_again)
    spool_task(name="remind", concurrency=1, rate="1/h")(_fine)
    spool_task(name="resize", keep_result=60)(_resize)
    spool_task(name="uwsgi")(_take)


def _fine(n: int = 0, body: bytes = b"", **rest: object) -> None:
    """Succeed."""


def _break(n: int = 0, **rest: object) -> None:
    raise ValueError("\x1b[31mred\n\udcff")


def _again(args: dict[str, Any]) -> object:
    if args.get("b"):
        raise Retry(after=1)
    return RETRY


def _resize(photo: Path, width: int = 1, body: bytes = b"") -> dict[str, object]:
    return {"photo": photo, "width": width, "size": len(body)}


def _take(args: dict[str, Any]) -> None:
    """Take a packet."""


@contextmanager
def no_hang(seconds: float = HANG) -> Iterator[None]:
    """Raise ``Broken`` in here after so many seconds, more on a busy machine."""
    seconds *= slowness()

    def stop(number: int, frame: FrameType | None) -> None:
        raise Broken(f"hangs for {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- what reads a damaged spool -------------------------------------------------------


def read_all(damaged: Damaged) -> None:
    """Read everything there is, as the library does."""
    spool, clock = damaged.spool, damaged.clock
    for task_id in damaged.ids.values():
        expect(isinstance(reports.attempts(spool, task_id), list), "attempts")
        with suppress(ResultError, OSError):
            record = results.read(spool, task_id)
            if record is not None:
                record.value()
        with suppress(CorruptError, OSError):
            batches.read(spool, task_id)
        read_progress(spool, task_id)
    for found in repair.ls(spool, State.FAILED, State.CORRUPT):
        expect(isinstance(repair.why(spool, found), dict), "why")
    for pause in pauses.read(spool):
        pause.is_over(clock.now_us())
        expect(pause.is_known or pause.problem, "a pause", pause)
    slot_us = timers.latest_slot(spool, "t")
    if slot_us is not None:
        timers.is_finished(spool, "t", slot_us)
    overview(spool, 3, clock)


def tidy(damaged: Damaged) -> None:
    """Sweep and recover, as a supervisor does; no task may be lost by it."""
    spool, clock = damaged.spool, damaged.clock
    before = _tasks(damaged)
    for late_us in (0, 40 * 86_400 * 10**6):
        sweep(spool, FakeClock(clock.now_us() + late_us))
        sweeper = results.Sweeper(spool, keep=1, every=0.0, pause=0.0, clock=clock)
        sweeper.work()
    for lock in damaged.locks:
        lock.release()
    recover(spool, "worker-1", lambda name: clock.now_us(), FAILED, clock=clock)
    after = _tasks(damaged)
    expect(sorted(before.values()) == sorted(after.values()), "lost", before, after)
    damaged.renew()


def _tasks(damaged: Damaged) -> dict[str, bytes]:
    others = ("batches/", "paused/", "kill/", "limits/")
    found = tasks(damaged.spool).items()
    return {path: data for path, data in found if not path.startswith(others)}


def permits(damaged: Damaged) -> None:
    """Ask for leave where the ring of a rate is damaged."""
    asked = Permits(damaged.spool, damaged.clock)
    with suppress(OSError):  # it is a directory, or a link
        asked.acquire(Limits(rate="4/m"), "t", {})


# -- adopting and running -----------------------------------------------------------


def serve(damaged: Damaged, mutator: Mutator) -> bytes:
    """Drop rubbish, adopt it and run it: it is a task, or corrupt with a reason."""
    chance, spool = damaged.chance, damaged.spool
    data = mutator.data()
    folder = chance.choice(("5", ".", "0"))
    file = chance.choice(
        ("dropped", "\x1b[2J", "a" * 255, "x\n", "é", os.fsdecode(b"\xff"))
    )
    path = Path(spool.path, folder, file)
    path.write_bytes(data)
    clock = real_clock()
    clock.advance(10.0)
    began = process_time()
    found = Dropped(spool, OWNERS, clock).adopt(folder, file, finished=True)
    took = process_time() - began
    # Once more, since a virtual machine that stands still counts as at work.
    is_quick = took < ADOPT_CPU or _cost(data) < ADOPT_CPU
    expect(is_quick, "adopting takes long", took, len(data))
    expect(not os.path.lexists(path), "it was neither adopted nor put aside", found)
    if isinstance(found, str):
        expect(Path(spool.path, found).read_bytes() == data, "changed bytes", found)
        _run(damaged, found, data)
    elif not _has_key(data):  # another task may have it
        _check_corrupt(spool.path, data)
    return data


def _cost(data: bytes) -> float:
    """Return the seconds of the processor that adopting takes, in a new spool."""
    with TemporaryDirectory(prefix="spool-fuzz-") as folder:
        spool = SpoolDir(Path(folder, "s"))
        spool.create()
        Path(spool.path, "5", "dropped").write_bytes(data)
        clock = real_clock()
        clock.advance(10.0)
        began = process_time()
        Dropped(spool, OWNERS, clock).adopt("5", "dropped", finished=True)
        took = process_time() - began
        spool.close()
    return took


def _has_key(data: bytes) -> bool:
    with suppress(CorruptError):
        header = decode(data, whole=True)
        return header is not None and header.key is not None
    return False


def _check_corrupt(root: str, data: bytes) -> None:
    kept = [
        each
        for each in Path(root, "corrupt").iterdir()
        if not each.name.endswith(".why") and each.read_bytes() == data
    ]
    expect(kept, "a dropped file is nowhere")
    for each in kept:
        why = reports_of(each)
        expect(why.get("reason"), "corrupt without a reason", each.name)
        each.unlink()
        each.with_name(f"{each.name}.why").unlink()


def reports_of(path: Path) -> dict[str, object]:
    """Return what is written beside a file."""
    why = path.with_name(f"{path.name}.why")
    found: dict[str, object] = json.loads(why.read_text())
    return found


def _run(damaged: Damaged, path: str, data: bytes) -> None:
    """Run a task; whatever happens, it is gone or somewhere."""
    spool = damaged.spool
    name = Name.parse(path.rpartition("/")[2])
    if name is None:
        raise Broken(f"adopted as {path}")
    lock = ProcessLock(spool, "worker-2")
    lock.acquire()
    settings = WorkerSettings(
        "worker-2", "test", spool.path, sorted(OWNERS), RetryPolicy()
    )
    claims = Claims(spool, "worker-2", OWNERS)
    execution = Execution(claims, settings, lambda lines: None)
    try:
        execution.handle(path)
        expect(not execution.endings.refused, "cannot be settled", path)
    finally:
        os.close(execution._home)
        claims.close()
        lock.remove()
    there = [p for p, d in tasks(spool).items() if f".{name.id}." in p]
    expect(len(there) <= 1, "in several places", there)
    for each in there:
        file = Path(spool.path, each)
        expect(file.read_bytes() == data, "changed by running", each)
        file.unlink()
        file.with_name(f"{file.name}.why").unlink(missing_ok=True)


# -- the commands -------------------------------------------------------------------

_WORDS: Final = (
    *(
        "-",
        "--",
        "",
        "=",
        ":=",
        "a",
        "a=b",
        "a:=1",
        "a:={",
        "a:=1e999",
        "body=x",
        ":=x",
    ),
    *("\x1b[31m", "\udcff", "é", "\n", "a" * 3000, "../..", "999999", "-1", "1e9"),
    *("--json", "--all", "--task", "t", "--priority", "--limit", "0", "5", "--help"),
    *(
        "--at",
        "--body",
        "nothing",
        "--from",
        "lines",
        "--key",
        "--id",
        "--fast",
        "--json",
    ),
    *("--then", "--on-failure", "--expires", "--unique-for", "--if-exists", "replace"),
    *(
        "--keep-result",
        "--soft-timeout",
        "--hard-timeout",
        "--no-keep-log",
        "--attempt",
    ),
    *("--raw", "--until", "--for", "--timeout", "0.01", "held", "failed", "corrupt"),
    *("8c1f42d09ab3e617", "0" * 16, "worker-1", "--bogus", "-x", "--dir", "elsewhere"),
)
_COMMANDS: Final = (
    *("status", "ls", "show", "log", "put", "hold", "release", "now", "priority"),
    *("edit", "pause", "resume", "kick", "fail", "rm", "result", "init", "bogus"),
)
_SPOOLD: Final = (
    *(
        "--dir",
        "--import",
        "--workers",
        "--threads",
        "--frequency",
        "--grace",
        "--burst",
    ),
    *(
        "--max-tasks",
        "--max-rss",
        "--soft-timeout",
        "--keep-log",
        "--allow-uid",
        "--jitter",
    ),
    *("--max-attempts", "--backoff", "--log-level", "--log-json", "--config", "config"),
    *(
        "--async-backend",
        "--keep-results",
        "nan",
        "inf",
        "-1",
        "0",
        "1e999",
        "200M",
        "x",
    ),
    *(
        "debug",
        "trio",
        "tasks",
        "elsewhere",
        "\udcff",
        "\x1b[31m",
        "",
        "9" * 5000,
        "--version",
    ),
)


_LOOKS: Final = (
    *("status", "ls", "ls corrupt failed running held", "show ID", "show ID"),
    *("log ID", "log ID --attempt 1", "result ID", "wait ID --timeout 0"),
    *("kill ID --timeout 0", "show failed", "result 1"),
)


def look(damaged: Damaged, path: str) -> list[str]:
    """Look at a damaged spool, at one path most of all; change nothing."""
    hurt = _ID.search(path)
    task_id = hurt[0] if hurt else damaged.ids["running"]
    words = damaged.chance.choice(_LOOKS).replace("ID", task_id)
    line = words.split()
    if damaged.chance.random() < 0.5:
        line = [*line, "--json"]
    call_spool(damaged, line)
    return line


def any_command(damaged: Damaged, mutator: Mutator) -> list[str]:
    """Call a command with rubbish."""
    chance = damaged.chance
    words = [*_WORDS, *MOMENTS, *damaged.ids.values()]
    line = [chance.choice(words) for _ in range(chance.randrange(5))]
    line.insert(chance.randrange(len(line) + 1), chance.choice(_COMMANDS))
    Path("lines").write_bytes(mutator.data())
    call_spool(damaged, line, mutator.data())
    if chance.random() < 0.01:
        damaged.renew()
    return line


def call_spool(damaged: Damaged, line: Sequence[str], data: bytes = b"") -> Result:
    """Call ``spool`` in this process, and check how it ends."""
    env = {"SPOOL_DIR": str(damaged.root), "EDITOR": "true", "VISUAL": ""}
    with no_hang():
        found = CliRunner(env=env).invoke(spool_command, line, input=data)
    _check(found, raw="--raw" in line)
    return found


def daemon_command(damaged: Damaged, mutator: Mutator) -> list[str]:
    """Call ``spoold`` with rubbish, as far as to where it would begin to serve."""
    chance = damaged.chance
    line = [chance.choice(_SPOOLD) for _ in range(chance.randrange(7))]
    if chance.random() < 0.7:
        line = ["--dir", str(damaged.root), "--import", "tasks", *line]
    Path("config").write_bytes(
        chance.choice(
            (mutator.data(), b'workers = "x"\n', b"grace = nan\n", b"dir = [[]]\n")
        )
    )
    name = chance.choice(("WORKERS", "GRACE", "DIR", "LOG_JSON", "CONFIG", "ALLOW_UID"))
    env = {f"SPOOLER_{name}": chance.choice(_SPOOLD).replace("\udcff", "\xff")}
    before = vars(spoold)["start_template"]

    def stop(*_: object, **__: object) -> object:
        raise UsageError("far enough")

    vars(spoold)["start_template"] = stop
    try:
        with no_hang():
            found = CliRunner(env=env).invoke(spoold.main, line)
    finally:
        vars(spoold)["start_template"] = before
    _check(found, raw=False)
    return line


def _check(found: Result, *, raw: bool) -> None:
    error = found.exception
    if error is not None and not isinstance(error, SystemExit):
        raise error
    expect(found.exit_code in EXIT_CODES, "exit code", found.exit_code, found.output)
    if not raw:
        check_output(found.stdout_bytes)
    check_output(found.stderr_bytes)


def check_output(data: bytes) -> None:
    """Check that a terminal does nothing about it but begin lines and columns."""
    text = data.decode()
    bad = [c for c in text if not c.isprintable() and c not in "\n\t"]
    expect(not bad, "control characters", bad, text[:300])
    expect("Traceback (most recent" not in text, "a traceback", text)


def process(damaged: Damaged, mutator: Mutator) -> list[bytes]:
    """Call a command with rubbish in a process of its own; no module can be found."""
    chance = damaged.chance
    words = [chance.choice((*_WORDS, *_SPOOLD)) for _ in range(chance.randrange(5))]
    line = [os.fsencode(word)[:100_000] for word in words]
    if chance.random() < 0.5:
        line = [b"spooler.cli.spool", chance.choice(_COMMANDS).encode(), *line]
    else:
        line = [b"spooler.cli.spoold", b"--import", b"no_such_module", *line]
        line += [b"--dir", os.fsencode(damaged.root)]
    line.insert(0, _CALL)
    found = subprocess.run(
        [sys.executable, "-c", *line],
        input=mutator.data(),
        capture_output=True,
        timeout=60 * slowness(),
        env={**os.environ, "SPOOL_DIR": str(damaged.root), "EDITOR": "true"},
    )
    expect(found.returncode in EXIT_CODES, "exit code", found, line)
    if b"--raw" not in line:
        check_output(found.stdout)
    check_output(found.stderr)
    return line


_CALL: Final = (
    b"import sys, importlib; sys.argv[0] = 'x';"
    b" importlib.import_module(sys.argv.pop(1)).main()"
)

Spoil = Callable[[Damaged, Mutator], object]


def _look_at_damage(damaged: Damaged, mutator: Mutator) -> object:
    done = [damaged.hurt(mutator) for _ in range(damaged.chance.choice((1, 1, 2, 5)))]
    try:
        with no_hang():
            read_all(damaged)
            permits(damaged)
            line = look(damaged, done[-1][0])
            if damaged.chance.random() < 0.02:
                tidy(damaged)
    except Exception as error:
        error.add_note(f"damaged: {done!r:.2000}")
        damaged.renew()
        raise
    if damaged.chance.random() < 0.02:
        damaged.renew()
    return line


def _serve(damaged: Damaged, mutator: Mutator) -> object:
    with no_hang():
        return serve(damaged, mutator)


TARGETS: Final[dict[str, Spoil]] = {
    "damage": _look_at_damage,
    "serve": _serve,
    "spool": any_command,
    "spoold": daemon_command,
    "process": process,
}
"""Each does something once, and returns what it did."""
