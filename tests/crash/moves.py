"""More that is to be interrupted: what operators do, and what is done seldom."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from spooler import Spooler
from spooler.handle import spool_dir
from spooler.putting import Prepared, PutOptions, put
from spooler.spooldir import (
    SpoolDir,
    claims,
    control,
    kills,
    repair,
    timers,
    uwsgi_files,
)
from spooler.spooldir.claims import Claims
from spooler.spooldir.recovery import recover, sweep
from spooler.spooldir.repair import Found
from spooler.task import BATCH, MINUTE_US, Claim, Name, Outcome, State, Verdict
from tests.helpers import NOW_US, place

from .fatal import (
    DATA,
    FAILED,
    ID,
    LATER_US,
    Case,
    a_name,
    adopting,
    dead,
    drop,
    failed,
    keep,
    late_clock,
    operating,
    path_of,
    recovering,
    waits,
    working,
)

NOBODY: Final = 65534
PACKET: Final = b"\x11\x09\x00\x00\x04\x00task\x01\x00t" + DATA


def held(spool: SpoolDir) -> None:
    waits(1)(spool)
    control.hold(spool, repair.find(spool, ID))


def hurry(spool: SpoolDir, found: Found) -> None:
    control.now(spool, found)


def urgent(spool: SpoolDir, found: Found) -> None:
    control.reprioritise(spool, found, 4711)


ONE = frozenset({1})
CONTROL: Final = [
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


# -- puts -------------------------------------------------------------------------


def nothing(spool: SpoolDir) -> None:
    """Prepare nothing."""


def applying(
    act: Callable[[SpoolDir, str], object],
) -> Callable[[SpoolDir], Callable[[], object]]:
    """Be an application, which has opened the spool before."""

    def begin(spool: SpoolDir) -> Callable[[], object]:
        own = spool_dir(spool.path)
        own.open()
        keep.append(own)
        return lambda: act(own, spool.path)

    return begin


def prepared(own: SpoolDir, path: str) -> None:
    Prepared("t", PutOptions(spool=path)).put(b"{}")


def quick(own: SpoolDir, path: str) -> None:
    Prepared("t", PutOptions(spool=path, durability="fast")).put(b"{}")


def with_body(own: SpoolDir, path: str) -> None:
    put("t", b"{}", PutOptions(spool=path, body=__file__))


def many(own: SpoolDir, path: str) -> None:
    spooler = Spooler(path)
    spooler.spool_many(spooler.call("t", {"n": n}) for n in range(3))


def anothers(spool: SpoolDir) -> None:
    """Prepare a spool that another user has: what root makes in it is for him."""
    os.chown(spool.path, NOBODY, NOBODY)
    spool.open()


def given_away(spool: SpoolDir) -> Callable[[], object]:
    names = (a_name(0, 4711).but(due_us=NOW_US + n) for n in range(10))
    return lambda: spool.put(next(names), [DATA])


PUT: Final = {
    "counts": frozenset({0, 1}),
    "left": frozenset({0}),
    "data": None,
}
PUTS: Final = [
    Case("put a prepared task", nothing, applying(prepared), **PUT),  # type: ignore[arg-type] # of many kinds
    Case("put a prepared task, fast", nothing, applying(quick), **PUT),  # type: ignore[arg-type]
    Case("put with a body", nothing, applying(with_body), **PUT),  # type: ignore[arg-type]
    Case("put a batch", nothing, applying(many), **PUT),  # type: ignore[arg-type]
]
if os.geteuid() == 0:
    PUTS.append(Case("put in another's spool", anothers, given_away, **PUT))  # type: ignore[arg-type]


# -- the rest ---------------------------------------------------------------------


def misplaced(spool: SpoolDir) -> None:
    place(spool, f"7/{a_name(2)}", DATA)


def adopting_native(spool: SpoolDir) -> Callable[[], object]:
    return adopting("7", str(a_name(2)))(spool)


def later(held: Claims, claim: Claim) -> None:
    held.release(claim, due_us=LATER_US)


def not_run(held: Claims, claim: Claim) -> None:
    held.fail(claim, FAILED, started_us=None)


def dead_with_batch(spool: SpoolDir) -> None:
    name = Name(NOW_US, 5, 1, ID, BATCH)
    spool.put(name, [DATA], durable=False)
    Path(spool.path, "workers/w1.lock").touch()
    held = Claims(spool, "w1", {os.getuid()})
    held.claim(path_of(name))
    os.close(held._fd)


def dead_without_lock(spool: SpoolDir) -> None:
    dead(spool)
    Path(spool.path, "workers/w1.lock").unlink()


def stray(spool: SpoolDir) -> None:
    """Prepare a file where the folders of workers are."""
    place(spool, "running/w1", DATA)


STOPPED: Final = Outcome(Verdict.RELEASE, "the daemon stopped")


def giving_back(spool: SpoolDir) -> Callable[[], object]:
    return lambda: recover(spool, "w1", lambda name: NOW_US, STOPPED)


def kick_many(spool: SpoolDir, found: Found) -> None:
    name = repair.kick(spool, found, durable=False)
    repair.sync(spool, [found.path, path_of(name)])


def slot_name() -> Name:
    return Name(NOW_US, 5, 0, timers.slot_id("t", NOW_US), "t")


def cut_slot(spool: SpoolDir) -> None:
    """Prepare what a power cut leaves that has kept a slot's task alone."""
    spool.put(slot_name(), [DATA], durable=False)


def putting_slot(spool: SpoolDir) -> Callable[[], object]:
    def act() -> None:
        with timers.lock(spool):
            if timers.latest_slot(spool, "t") is None:
                timers.put_slot(spool, slot_name(), DATA)

    return act


def beginning(spool: SpoolDir) -> Callable[[], object]:
    return lambda: timers.begin(spool, "t", NOW_US)


def slot_of_the_future(spool: SpoolDir) -> None:
    waits()(spool)
    timers.begin(spool, "t", NOW_US + MINUTE_US)


def forgetting_slot(spool: SpoolDir) -> Callable[[], object]:
    return lambda: timers.forget(spool, "t", after_us=NOW_US)


def asked(spool: SpoolDir) -> None:
    waits()(spool)
    kills.ask(spool, ID)


def forgetting_kill(spool: SpoolDir) -> Callable[[], object]:
    return lambda: kills.forget(spool, ID)


def more_left_overs(spool: SpoolDir) -> None:
    waits()(spool)
    paths = (
        *("held/.a", "paused/.b", "workers/.c", "keys/.d", "corrupt/.e", "batches/.f"),
        *("corrupt/x.why", f"kill/{ID}", f"batches/{ID}", "logs/.g"),
        *(f"logs/{ID}.attempts", f"logs/{ID}.1", f"logs/{ID}.progress", "logs/w.live"),
        *(f"limits/{'0' * 32}", f"limits/{'0' * 32}.rate", f"keys/{'0' * 32}"),
    )
    for path in paths:
        place(spool, path, b"x")


def sweeping(spool: SpoolDir) -> Callable[[], object]:
    return lambda: sweep(spool, late_clock())


def put_aside(spool: SpoolDir) -> Callable[[], object]:
    return lambda: claims.put_aside(spool, path_of(a_name()), "reason", NOW_US)


UWSGI_FILE: Final = f"{uwsgi_files.PREFIX}host_1_1_1_1_1"


def uwsgi_file(folder: str) -> Callable[[SpoolDir], None]:
    def prepare(spool: SpoolDir) -> None:
        place(spool, f"{folder}/{UWSGI_FILE}", PACKET)

    return prepare


def bringing_over(spool: SpoolDir) -> Callable[[], object]:
    return lambda: uwsgi_files.bring_over(spool.fd, "05", "5")


def bring_over_all(spool: SpoolDir) -> None:
    bringing_over(spool)()
    adopting("5", UWSGI_FILE)(spool)()


REST: Final = [
    Case(
        "adopt a native name elsewhere",
        misplaced,
        adopting_native,
        lambda spool: adopting_native(spool)(),
        attempts=frozenset({2}),
    ),
    Case(
        "adopt a packet",
        drop(PACKET),
        adopting(),
        lambda spool: adopting()(spool)(),
        data=PACKET,
    ),
    Case(
        "adopt uWSGI's file",
        uwsgi_file("."),
        adopting(".", UWSGI_FILE),
        lambda spool: adopting(".", UWSGI_FILE)(spool)(),
        data=PACKET,
    ),
    Case("bring over", uwsgi_file("05"), bringing_over, bring_over_all, data=PACKET),
    Case("release to later", waits(1), working(later, 1), attempts=frozenset({1, 2})),
    Case(
        "park",
        waits(1),
        working(lambda held, claim: held.park(claim), 1),
        attempts=frozenset({1, 2}),
    ),
    Case(
        "fail what was not run",
        waits(1),
        working(not_run, 1),
        attempts=frozenset({1, 2}),
        final=State.FAILED,
    ),
    Case("put aside", waits(), put_aside, final=State.CORRUPT),
    Case("recover, not counted", dead, giving_back, attempts=frozenset({1, 2})),
    Case(
        "recover a batch", dead_with_batch, recovering(NOW_US), attempts=frozenset({2})
    ),
    Case(
        "recover without a lock",
        dead_without_lock,
        recovering(NOW_US),
        attempts=frozenset({2}),
    ),
    Case("recover a stray file", stray, recovering(NOW_US), final=State.CORRUPT),
    Case(
        "kick many",
        failed,
        operating(State.FAILED, kick_many),
        attempts=frozenset({0, 3}),
        faults=False,  # the sync is by itself: by then all is kicked
    ),
    Case("put a slot after a power cut", cut_slot, putting_slot),
    Case("begin a timer", waits(), beginning),
    Case("forget a slot", slot_of_the_future, forgetting_slot),
    Case("forget a request to kill", asked, forgetting_kill),
    Case("sweep all", more_left_overs, sweeping),
]

MORE: Final = [*CONTROL, *PUTS, *REST]
