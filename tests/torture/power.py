"""Power cuts: record a disk on which spooler works, cut the power, look.

``python -m tests.torture.power --cuts 500`` does so many on each file system;
``--prove`` leaves syncs out of the product and sees that the losses are found.
"""

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Event as Pause
from time import monotonic, monotonic_ns
from typing import Final

from spooler.clock import CLOCK
from spooler.spooldir import SpoolDir

from ..helpers import FACTOR
from . import Report
from .power_check import Found, Judge, Result, look
from .power_daemon import run_forked
from .power_disk import (
    FILE_SYSTEMS,
    Cut,
    FileSystem,
    Log,
    check_machine,
    choose,
    copy,
    mounted,
    place,
    recorded,
    replay,
)
from .power_ledger import LEDGER, NAP, TIMER, World
from .power_mutants import MUTANT, MUTANTS

ABOUT: Final = "records what ext4, xfs and btrfs write, cuts the power, looks"

ROOT: Final = Path(__file__).parents[2]
SPOOLD: Final = Path(sys.executable).with_name("spoold")
PRODUCERS: Final = ("puts", "puts", "batches", "keys", "shell", "operator")

BUSY: Final = 3.0
"""Seconds for which producers put."""

QUIET: Final = 2.5
"""Seconds that workers then have for themselves: nobody else has the disk synced."""

CUTS: Final = 40
"""Cuts of one recording."""

LEAST: Final = 4
"""Cuts that are made even if there is no time."""

PROOF_CUTS: Final = 10
"""Cuts of one recording where a fault is looked for."""

PROOF_LENGTH: Final = 2.0
"""How much longer that takes: acks that nobody syncs come back late."""

CHAIN: Final = 3
"""Recordings in a row at most, each on what a cut of the one before has left."""

BURSTS: Final = 5
"""How often a daemon is started at most until nothing is left that is due."""

FORKED: Final = 0.9
"""Part of the daemons that are forked, and not started anew: see ``power_daemon``."""

LIMIT: Final = 100.0 * max(1.0, FACTOR / 2)
"""Seconds that a daemon may take for what a cut has left, or a producer to its end."""


@dataclass(slots=True)
class Recording:
    """A disk's log, from the image it began with, and what happened meanwhile."""

    log: Log
    world: World
    since: int
    until: int
    environment: dict[str, str]


@dataclass(slots=True)
class Tally:
    """What was found on one file system."""

    cuts: int = 0
    failed: int = 0
    recordings: int = 0
    tasks: int = 0
    modes: Counter[str] = field(default_factory=Counter)
    repeats: list[int] = field(default_factory=list)
    oldest: float = 0.0
    unsafe: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, cut: Cut, result: Result) -> None:
        """Count a cut."""
        self.cuts += 1
        self.failed += bool(result.broken)
        self.modes[cut.mode] += 1
        self.repeats.append(len(result.repeats))
        self.oldest = max(self.oldest, result.oldest)
        self.unsafe += result.unsafe

    def __str__(self) -> str:
        repeats = sorted(self.repeats) or [0]
        middle, most = repeats[len(repeats) // 2], repeats[-1]
        return (
            f"{self.cuts} cuts of {self.recordings} recordings of {self.tasks} tasks,"
            f" repeats {middle}..{most} a cut, oldest {self.oldest:.2f} s,"
            f" {self.failed} broken, {self.unsafe} fast tasks run damaged"
        )


class Bench:
    """Where one file system is recorded and cut.

    Args:
        folder: For images, logs and ledgers; not on the disk that is recorded.
        keep: Where to copy the images that break a promise.
        mutant: A fault of the product, by name.
        tells: Print what is found as it is found.
    """

    def __init__(
        self,
        system: FileSystem,
        folder: Path,
        rng: Random,
        keep: Path | None = None,
        mutant: str = "",
        *,
        tells: bool = False,
    ) -> None:
        self.name = system.name
        self._system = system
        self._folder = folder
        self._rng = rng
        self._keep = keep
        self._environment = {MUTANT: mutant} if mutant else {}
        self._point = folder / "mount"
        self._point.mkdir()
        self._tells = tells
        self._next: World | None = None
        self._chain = 0
        self.tally = Tally()

    # -- recording ---------------------------------------------------------------

    def record(self, length: float) -> Recording:
        """Have producers and a daemon work on a disk: a new one, or one that was cut.

        Args:
            length: A part of the usual time.
        """
        disk, base = self._folder / "disk", self._folder / "base"
        world, self._next = self._next, None
        if world is None or self._chain >= CHAIN:
            world, self._chain = World(), 0
            self._system.format(base)
        else:
            copy(self._folder / "next", base)
        self._chain += 1
        copy(base, disk)
        environment = {
            **self._environment,
            NAP: str(self._rng.choice((0.0, 0.002, 0.01))),
            TIMER: str(self._rng.randrange(2)),
        }
        log, loop = self._folder / "log", self._folder / "disk.recorded"
        with recorded(disk, log, loop), mounted(loop, self._point):
            spool = SpoolDir(self._point / "spool")
            spool.create()
            spool.close()
            since = monotonic_ns()
            ledgers = self._work(environment, length)
            until = monotonic_ns()
        world.read(ledgers, [self._folder / "runs"])
        self.tally.recordings += 1
        self.tally.tasks += sum(len(e.ids) for e in world.of("put") if e.t > since)
        return Recording(Log(log), world, since, until, environment)

    def _work(self, environment: dict[str, str], length: float) -> list[Path]:
        """Let them work; return the ledgers of the producers."""
        (self._folder / "runs").unlink(missing_ok=True)
        workers = self._rng.choice(("1", "2", "3"))
        daemon = self._daemon("runs", environment, "--workers", workers)
        ledgers, producers = [], []
        for number, what in enumerate(PRODUCERS):
            ledgers.append(self._folder / f"events.{number}")
            ledgers[-1].unlink(missing_ok=True)
            seed = self._rng.randrange(1 << 32)
            arguments = [str(ledgers[-1]), str(BUSY * length), str(seed)]
            module = f"{__package__}.power_load"
            producers.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, what, *arguments],
                    cwd=ROOT,
                    env=self._env("unused", environment),
                )
            )
        try:
            for producer in producers:
                if producer.wait(LIMIT):
                    raise RuntimeError(f"a producer has failed: {producer.args!r}")
            Pause().wait(QUIET * length)
        finally:
            for process in (*producers, daemon):
                process.kill()
                process.wait()
        return ledgers

    def _env(self, runs: str, environment: dict[str, str]) -> dict[str, str]:
        own = {
            LEDGER: str(self._folder / runs),
            "SPOOL_DIR": str(self._point / "spool"),
        }
        return {**os.environ, **environment, **own}

    def _daemon(
        self, runs: str, environment: dict[str, str], *options: str
    ) -> subprocess.Popen[bytes]:
        with (self._folder / f"{runs}.log").open("ab") as log:
            return subprocess.Popen(
                [str(SPOOLD), *self._arguments(*options)],
                cwd=ROOT,
                env=self._env(runs, environment),
                stderr=log,
            )

    def _arguments(self, *options: str) -> list[str]:
        given = ["--dir", str(self._point / "spool"), *options]
        given += ["--import", f"{__package__}.power_tasks"]
        return [*given, "--backoff", "0.01", "--log-level", "warning"]

    def _burst(self, environment: dict[str, str]) -> int:
        """Have a daemon run what is due; return its exit code."""
        options = ("--workers", "2", "--burst")
        if self._rng.random() >= FORKED:
            daemon = self._daemon("again", environment, *options)
            try:
                return daemon.wait(LIMIT)
            finally:
                daemon.kill()
                daemon.wait()
        log, env = self._folder / "again.log", self._env("again", environment)
        return run_forked(self._arguments(*options), env, log, LIMIT)

    # -- cutting -----------------------------------------------------------------

    def cut(self, recording: Recording) -> bool:
        """Try a cut of a recording; tell whether there was anything to be cut."""
        cut = choose(recording.log, recording.since, recording.until, self._rng)
        if cut is None:
            return False
        base, image = self._folder / "base", self._folder / "cut"
        replay(base, recording.log, cut, image)
        world = recording.world.until(cut.moment)
        judge = Judge(world, cut.moment)
        try:
            with mounted(image, self._point):
                self._examine(judge, recording.environment)
        except (OSError, subprocess.SubprocessError) as error:
            judge.result.broken.append(repr(error))
        self.tally.add(cut, judge.result)
        if judge.result.broken:
            self._tell(cut, judge.result, recording.log)
        elif self._next is None or self._rng.random() < 0.1:
            replay(base, recording.log, cut, self._folder / "next")
            self._next = world.without(judge.result.repeats)
        return True

    def _examine(self, judge: Judge, environment: dict[str, str]) -> None:
        spool = self._point / "spool"
        judge.as_left(look(spool))
        runs = self._folder / "again"
        runs.unlink(missing_ok=True)
        (self._folder / "again.log").unlink(missing_ok=True)
        environment = {**environment, MUTANT: "", NAP: "0"}
        found: list[Found] = []
        for _ in range(BURSTS):
            code = self._burst(environment)
            if code:
                judge.result.broken.append(f"spoold has ended with {code}")
            found = look(spool)
            if not any(map(_is_due, found)):
                break
        after = World()
        after.read([], [runs])
        judge.as_run(spool, after, found)
        log = (self._folder / "again.log").read_text()
        if "Traceback" in log.replace("RuntimeError: the first time", ""):
            judge.result.broken.append(f"spoold has logged: {log[-2000:]}")

    def tell(self) -> None:
        """Say how it stands, to who waits for it."""
        if self._tells:
            print(f"{self.name}: {self.tally}", flush=True)

    def _tell(self, cut: Cut, result: Result, log: Log) -> None:
        kept = ""
        if self._keep is not None:
            image = self._keep / f"{self.name}.{self.tally.cuts}"
            replay(self._folder / "base", log, cut, image)
            kept = f" (image: {image})"
        for text in result.broken[:3]:
            self.tally.broken.append(f"{self.name}, {cut}: {text}{kept}")
            if self._tells:
                print(f"BROKEN {self.tally.broken[-1]}", flush=True)


def _is_due(found: Found) -> bool:
    waits = found.state == "waiting" and found.problem is None
    return waits and found.name.due_us < CLOCK.now_us() + 10_000_000


# -- campaigns -----------------------------------------------------------------------


def campaign(bench: Bench, cuts: int, until: float, length: float = 1.0) -> None:
    """Record and cut until there were so many cuts, or until a monotonic moment.

    Args:
        length: A part of the usual time of a recording.
    """
    least = min(cuts, bench.tally.cuts + LEAST)
    while bench.tally.cuts < (cuts if monotonic() < until else least):
        recording = bench.record(length)
        try:
            for _ in range(min(CUTS, cuts - bench.tally.cuts)):
                over = monotonic() > until and bench.tally.cuts >= least
                if over or not bench.cut(recording):
                    break
        finally:
            recording.log.close()
        bench.tell()


@contextmanager
def benches(
    names: Iterable[str],
    seed: int,
    keep: Path | None = None,
    mutant: str = "",
    *,
    tells: bool = False,
) -> Iterator[list[Bench]]:
    """Have a bench for each file system; the arguments are those of ``Bench``."""
    check_machine()
    with TemporaryDirectory(prefix="power-", dir=place()) as folder:
        found = []
        for name in names:
            (own := Path(folder, name)).mkdir()
            rng = Random(f"{seed} {name}")
            system = FILE_SYSTEMS[name]
            found.append(Bench(system, own, rng, keep, mutant, tells=tells))
        yield found


def run(budget: float, seed: int) -> Report:
    """Cut the power on all file systems for so many seconds."""
    report = Report()
    with benches(FILE_SYSTEMS, seed) as all_of_them:
        end = monotonic() + budget
        for done, bench in enumerate(all_of_them):
            share = (end - monotonic()) / (len(all_of_them) - done)
            length = min(1.0, max(share, 6.0) / 30)
            campaign(bench, sys.maxsize, monotonic() + share, length)
            report.figures[bench.name] = str(bench.tally)
            report.broken += bench.tally.broken
    return report


def prove(names: Iterable[str], seed: int, cuts: int) -> bool:
    """Tell whether each fault of the product is found on each file system."""
    found_all = True
    for mutant in MUTANTS:
        with benches(names, seed, mutant=mutant) as all_of_them:
            for bench in all_of_them:
                while bench.tally.cuts < cuts and not bench.tally.broken:
                    campaign(bench, bench.tally.cuts + PROOF_CUTS, inf, PROOF_LENGTH)
                broken, tally = bench.tally.broken, bench.tally
                found_all = found_all and bool(broken)
                verdict = "found" if broken else "NOT FOUND"
                print(f"{mutant} on {bench.name}: {verdict} in {tally.failed} of")
                print(f"  {tally}; such as: {broken[0] if broken else '-'}", flush=True)
    return found_all


def main(argv: Sequence[str] | None = None) -> int:
    """Do as many cuts as are asked for; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}.power")
    parser.add_argument("--fs", nargs="+", choices=FILE_SYSTEMS, default=FILE_SYSTEMS)
    parser.add_argument("--cuts", type=int, default=40, help="on each file system")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where to copy images that broke")
    parser.add_argument("--prove", action="store_true", help="that faults are found")
    args = parser.parse_args(argv)
    if args.prove:
        return 0 if prove(args.fs, args.seed, args.cuts) else 1
    broken = 0
    with benches(args.fs, args.seed, args.keep, tells=True) as all_of_them:
        for bench in all_of_them:
            campaign(bench, args.cuts, inf)
            broken += len(bench.tally.broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
