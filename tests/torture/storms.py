"""Kill storms: producers, workers and daemons die at random; nothing is lost.

In each round tasks are put and something is killed, stopped or told to end. Two
ledgers tell what became of it: what was acknowledged to producers, and what began and
ended. Now and then all rests, and the two are compared; then nothing is killed for a
moment, and each task must run exactly once.
"""

import os
import random
import signal
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Final

from spooler.spooldir import SpoolDir
from spooler.spooldir.recovery import is_alive, processes

from ..integration.conftest import marked
from . import Report
from .daemons import (
    PATIENCE,
    Broken,
    Daemon,
    environ,
    evidence,
    slowness,
    spoold,
    wait_until,
    what_it_does,
)
from .ledger import Ledger, Lived, who
from .producers import Producer

ABOUT: Final = "kill producers, workers and daemons at random: nothing lost, no repeats"

DAEMONS: Final = 2
WORKERS: Final = (1, 2, 2, 8)
"""One of these is how many workers a daemon has."""

ORPHAN: Final = 2.0
"""Seconds after which a task has begun again at the latest whose worker was killed."""

ROUNDS: Final = 100
"""Rounds between two moments in which all rests and is compared."""

AHEAD: Final = 60
"""Tasks that may wait, so that a storm does not drown in them."""


class Storm:
    """The spool, those that work on it, and what has happened."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.spool = root / "spool"
        self.out = root / "out"
        self.out.mkdir()
        SpoolDir(self.spool).create()
        self._env = environ(self.out)
        self.chance = chance
        self.acknowledged = self.out / "acknowledged"
        self.acknowledged.touch()
        self.ledger = Ledger(self.out / "ran")
        self._producer = Producer(self.spool, self.acknowledged, self._env, "step")
        self.daemons: list[Daemon] = []
        self._started = 0
        self._producing: dict[int, float] = {}
        self.killed: set[str] = set()
        self.kills: Counter[str] = Counter()
        self.latencies: dict[str, list[float]] = defaultdict(list)
        self.late: list[str] = []
        self.calm_tasks = 0

    # -- those that work ----------------------------------------------------------

    def start_daemons(self) -> None:
        """Start those that are missing."""
        while len(self.daemons) < DAEMONS:
            workers = str(self.chance.choice(WORKERS))
            options = ("--workers", workers, "--max-attempts", "0")
            command = spoold(self.spool, "stormy", *options)
            self._started += 1
            log = self.out / f"log{self._started}"
            self.daemons.append(Daemon(command, self._env, log))

    def living(self) -> list[tuple[str, Lived]]:
        """Return the workers that live."""
        return [
            (name, worker)
            for name, worker in self.ledger.workers.items()
            if not worker.stopped and worker.lives
        ]

    def produce(self) -> int:
        """Have a producer put something, meanwhile; return its pid."""
        pid = self._producer.fork(self.chance)
        self._producing[pid] = monotonic()
        return pid

    def reap(self, *, all_of_them: bool = False) -> None:
        """Take the producers that have ended."""
        for pid, since in list(self._producing.items()):
            if os.waitpid(pid, 0 if all_of_them else os.WNOHANG)[0]:
                del self._producing[pid]
            elif monotonic() - since > PATIENCE * slowness():
                raise Broken(f"a put hangs: {what_it_does(pid)}")

    # -- what is done to them -----------------------------------------------------

    def _kill(self, kind: str, pids: list[int], *, group: bool = False) -> None:
        """Kill processes, and wait until their tasks begin again."""
        began = monotonic()
        for pid in pids:
            victim = who(pid)
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(pid, signal.SIGKILL)
                self.killed.add(victim)
                self.kills[kind] += 1
        self._mourn()
        wait_until(
            lambda: any(daemon.serves for daemon in self.daemons),
            "no daemon begins to serve",
            seconds=PATIENCE,
        )
        if self.daemons[0].began > began:  # until now nobody was there to notice
            began = monotonic()
        self._await_orphans(kind, began)

    def _mourn(self) -> None:
        """Replace daemons that were killed, at once."""
        for daemon in [each for each in self.daemons if each.who in self.killed]:
            daemon.process.wait()
            self.daemons.remove(daemon)
            self.start_daemons()
            daemon.check_all_gone()

    def _doomed(self, worker: Lived) -> bool:
        return not self.killed.isdisjoint(worker.family)

    def _await_orphans(self, kind: str, since: float) -> None:
        doomed = [w for w in self.ledger.workers.values() if self._doomed(w)]
        wait_until(
            lambda: not any(worker.lives for worker in doomed),
            "a worker outlives its template or its daemon",
            seconds=5,
        )
        self.ledger.read()
        for worker in doomed:
            run = worker.open
            if run is None or self.ledger.runs[run.task][-1][1] is not run:
                continue
            task = run.task
            known = len(self.ledger.runs[task])

            def again(task: str = task, known: int = known) -> bool:
                self.ledger.read()
                return len(self.ledger.runs[task]) > known

            wait_until(again, f"orphaned task {task} was lost", seconds=PATIENCE)
            took = self.ledger.runs[task][known][1].began - since
            self.latencies[kind].append(took)
            if took > ORPHAN * slowness():
                self.late.append(f"{took:.2f} s ({kind})")

    def kill_worker(self) -> None:
        """Kill one worker."""
        if living := self.living():
            self._kill("worker", [self.chance.choice(living)[1].pids[0]])

    def kill_group(self) -> None:
        """Kill a worker with its process group."""
        if living := self.living():
            pids = [self.chance.choice(living)[1].pids[0]]
            self._kill("group", pids, group=True)

    def kill_workers(self) -> None:
        """Kill all workers of a daemon at once."""
        if living := self.living():
            daemon = self.chance.choice(living)[1].pids[2]
            own = [each.pids[0] for _, each in living if each.pids[2] == daemon]
            self._kill("worker", own)

    def kill_template(self) -> None:
        """Kill the process from which a daemon's workers are forked."""
        if living := self.living():
            self._kill("template", [self.chance.choice(living)[1].pids[1]])

    def kill_daemon(self) -> None:
        """Kill a daemon; start another."""
        daemon = self.chance.choice(self.daemons)
        self._kill("daemon", [daemon.pid], group=self.chance.random() < 0.5)

    def kill_unseen(self) -> None:
        """Kill a worker while one of those who should notice is stopped."""
        if not (living := self.living()):
            return
        victim = self.chance.choice(living)[1]
        pid, *above = victim.pids
        with suppress(ProcessLookupError):
            with self._stopped(self.chance.choice(above)):
                os.kill(pid, signal.SIGKILL)
                self.killed.add(victim.family[0])
                self.kills["unseen"] += 1
                self.rest(self.chance.random() * 0.3)
            self._await_orphans("unseen", monotonic())

    @contextmanager
    def _stopped(self, pid: int) -> Iterator[None]:
        if who(pid) in self.killed:
            raise ProcessLookupError
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def kill_everything(self) -> None:
        """Kill all there is, producers too, in any order."""
        pids = [pid for daemon in self.daemons for pid in marked(daemon.mark)]
        pids += self._producing
        self.chance.shuffle(pids)
        self._kill("everything", pids)

    def kill_producer(self) -> None:
        """Kill a producer somewhere in a put."""
        pid = self.produce()
        self.rest(self.chance.random() * 0.008)
        with suppress(ProcessLookupError):
            (os.killpg if self.chance.random() < 0.5 else os.kill)(pid, signal.SIGKILL)
            self.kills["producer"] += 1

    def stop_for_a_while(self) -> None:
        """Stop a process, and let it go on."""
        if not (living := self.living()):
            return
        pid = self.chance.choice(self.chance.choice(living)[1].pids)
        with suppress(ProcessLookupError), self._stopped(pid):
            self.kills["stop"] += 1
            self.rest(self.chance.choice((0.02, 0.1, 0.3, 1.3)))

    def hang_up(self) -> None:
        """Have a daemon import its code anew: one that has begun to serve."""
        if living := self.living():
            daemon = self.chance.choice(living)[1].pids[2]
            with suppress(ProcessLookupError):
                os.kill(daemon, signal.SIGHUP)
                self.kills["reload"] += 1

    def end_daemon(self) -> None:
        """Tell a daemon to end; it leaves nothing behind."""
        daemon = self.chance.choice(self.daemons)
        self.daemons.remove(daemon)
        self._end(daemon)
        self.start_daemons()

    def _end(self, daemon: Daemon) -> None:
        self.kills["term"] += 1
        # That is what a signal does that comes before Python has begun.
        daemon.end(also=-signal.SIGTERM)

    def rest(self, seconds: float) -> None:
        """Let so many seconds go by."""
        signal.sigtimedwait([], seconds)

    # -- rounds -------------------------------------------------------------------

    def round(self) -> None:
        """Put something, do something bad, see that all goes on."""
        self.produce()
        self.ledger.read()
        self.rest(self.chance.random() * 0.04)
        self.ledger.read()
        [action] = self.chance.choices([*ACTIONS], [*ACTIONS.values()])
        action(self)
        self.reap()
        for daemon in self.daemons:
            if daemon.process.poll() is not None:
                raise Broken(f"spoold has ended by itself: {daemon.last_words}")
        self._hold_back()

    def _hold_back(self) -> None:
        """Wait while too much waits."""
        waiting = SpoolDir(self.spool)
        try:
            wait_until(
                lambda: sum(1 for _ in waiting.waiting()) < AHEAD,
                "tasks wait and nobody runs them",
                seconds=PATIENCE,
            )
        finally:
            waiting.close()

    def _promised(self) -> list[str]:
        return self.acknowledged.read_text().split()

    def _is_at_rest(self) -> bool:
        self.ledger.read()
        spool = SpoolDir(self.spool)
        try:
            held = any(spool.names(f"running/{w}") for w in spool.names("running"))
            return not held and not any(True for _ in spool.waiting())
        finally:
            spool.close()

    def settle(self) -> None:
        """Wait until all is done; compare the ledgers.

        Raises:
            Broken: They do not fit, or something is not where it belongs.
        """
        self.reap(all_of_them=True)
        self._wait_for_adoption()
        # Twice, since a recovered task goes from the one to the other.
        wait_until(
            lambda: self._is_at_rest() and self._is_at_rest(),
            "tasks do not end",
            seconds=PATIENCE,
        )
        self.ledger.read()
        lost = [n for n in self._promised() if not self.ledger.has_run(n)]
        if lost:
            raise Broken(f"{len(lost)} acknowledged tasks were lost: {lost[:5]}")
        for folder in ("failed", "corrupt", "held"):
            if found := os.listdir(self.spool / folder):
                raise Broken(f"{folder}/ holds {found[:5]}")
        if wrong := self.ledger.wrong():
            raise Broken(f"{len(wrong)} runs too many: {wrong[:5]}")
        # In this order, since a worker that has ended may just have said so.
        dead = [w for w in self.ledger.workers.values() if not w.lives]
        self.ledger.read()
        for worker in dead:
            if not worker.stopped and not self._doomed(worker):
                raise Broken(f"worker {worker.pids} died, and nobody killed it")

    def _wait_for_adoption(self) -> None:
        dropped = self.spool / "5"
        wait_until(
            lambda: not any(path.is_file() for path in dropped.iterdir()),
            "dropped files are not adopted",
            seconds=PATIENCE,
        )

    def be_calm(self) -> None:
        """Kill nothing for a moment: each task runs exactly once."""
        before, repeats = len(self._promised()), self.ledger.repeats
        for _ in range(5):
            self.produce()
        self.settle()
        if self.ledger.repeats != repeats:
            raise Broken("a task ran twice, and nothing was killed")
        self.calm_tasks += len(self._promised()) - before

    def _all_live(self) -> bool:
        """Tell whether no process has left its traces in the spool."""
        spool = SpoolDir(self.spool)
        try:
            return all(is_alive(spool, name) for name in processes(spool))
        finally:
            spool.close()

    def end(self) -> None:
        """End all daemons in order; see that nothing is left."""
        if self.daemons:  # they look each second for processes that have died
            wait_until(self._all_live, "the dead are not recovered", seconds=PATIENCE)
        while self.daemons:
            self._end(self.daemons.pop())
        for folder in ("running", "workers"):
            # Hidden files of those who were killed while writing are swept by age.
            left = [n for n in os.listdir(self.spool / folder) if n[0] != "."]
            if left:
                raise Broken(f"{folder}/ holds {left} after all daemons have ended")

    def abandon(self) -> None:
        """Kill what is left, whatever has happened."""
        for daemon in self.daemons:
            for pid in marked(daemon.mark):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, signal.SIGKILL)
            daemon.process.wait()
        for pid in self._producing:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def figures(self, rounds: int) -> dict[str, object]:
        """Return what was done, for one line."""
        times = {}
        for kind, found in sorted(self.latencies.items()):
            found = sorted(found)
            middle, most = statistics.median(found), found[int(len(found) * 0.99)]
            times[f"{kind}_again"] = (
                f"{len(found)}:{middle:.3f}/{most:.3f}/{found[-1]:.3f}s"
            )
        return {
            "rounds": rounds,
            "kills": sum(self.kills[k] for k in self.kills if k not in _NO_KILLS),
            **{f"{kind}s": count for kind, count in sorted(self.kills.items())},
            "acknowledged": len(self._promised()),
            "ran": len(self.ledger.runs),
            "repeats": self.ledger.repeats,
            "calm": self.calm_tasks,
            **times,
        }


_NO_KILLS: Final = ("stop", "reload", "term")


ACTIONS: Final[dict[Callable[[Storm], None], int]] = {
    Storm.kill_worker: 50,
    Storm.kill_group: 15,
    Storm.kill_workers: 4,
    Storm.kill_producer: 30,
    Storm.stop_for_a_while: 8,
    Storm.kill_unseen: 6,
    Storm.kill_template: 4,
    Storm.kill_daemon: 6,
    Storm.kill_everything: 3,
    Storm.end_daemon: 2,
    Storm.hang_up: 2,
}


def run(budget: float, seed: int) -> Report:
    """Kill for so many seconds."""
    end = monotonic() + budget - min(10.0, budget / 4)
    report = Report()
    with evidence("storms", report) as folder:
        storm = Storm(folder, random.Random(seed))
        rounds = 0
        try:
            while monotonic() < end:
                storm.start_daemons()
                for _ in range(ROUNDS):
                    storm.round()
                    rounds += 1
                    if monotonic() >= end:
                        break
                storm.settle()
                storm.be_calm()
                storm.end()
        except Broken as what:
            report.broken.append(str(what))
        finally:
            storm.abandon()
            report.figures = storm.figures(rounds)
        measured = sum(map(len, storm.latencies.values()))
        if len(storm.late) > 1 + measured // 100:
            report.broken.append(
                f"{len(storm.late)} of {measured} orphans began too late: {storm.late}"
            )
    return report
