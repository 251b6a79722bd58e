"""What the tasks of ``app/stormy.py`` have written down, and what it proves."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from ..integration.conftest import is_alive


def who(pid: int) -> str:
    """Return a process's number and when it began: numbers are given out again."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return f"{pid}:{stat.rpartition(')')[2].split()[19]}"


@dataclass(slots=True)
class Run:
    """One run of a task. Moments are monotonic seconds."""

    task: str
    began: float
    ended: float | None = None


@dataclass(slots=True)
class Lived:
    """The life of one worker.

    Attributes:
        family: Who it is, who its template, and who its daemon.
        stopped: Whether it has ended in order.
    """

    family: tuple[str, ...]
    runs: list[Run] = field(default_factory=list)
    stopped: bool = False
    _is_gone: bool = False

    @property
    def pids(self) -> list[int]:
        """The numbers of the family."""
        return [int(one.partition(":")[0]) for one in self.family]

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        if not self._is_gone:
            pid = self.pids[0]
            self._is_gone = not is_alive(pid) or who(pid) != self.family[0]
        return not self._is_gone

    @property
    def open(self) -> Run | None:
        """The run that it has begun and not ended."""
        last = self.runs[-1] if self.runs else None
        return last if last is not None and last.ended is None else None


class Ledger:
    """What ran, as far as it was read.

    Attributes:
        workers: By the name that each gave itself.
        runs: By task, each with the worker's name, in the order in which they began.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self.workers: dict[str, Lived] = {}
        self.runs: dict[str, list[tuple[str, Run]]] = defaultdict(list)

    def read(self) -> None:
        """Take what was written since the last time."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.decode().splitlines():
            worker, moment, word, *rest = line.split()
            self._take(worker, float(moment), word, *rest)

    def _take(self, worker: str, moment: float, word: str, *rest: str) -> None:
        if word == "start":
            self.workers[worker] = Lived(tuple(rest))
            return
        lived = self.workers[worker]
        if word == "stop":
            lived.stopped = True
        elif word == "begin":
            run = Run(rest[0], moment)
            lived.runs.append(run)
            self.runs[run.task].append((worker, run))
        elif word == "end":
            # Nearly always the last, unless the worker runs many at a time.
            ended = (run for run in reversed(lived.runs) if run.task == rest[0])
            next(ended).ended = moment

    def has_run(self, task: str) -> bool:
        """Tell whether a task has run to its end."""
        return any(run.ended is not None for _, run in self.runs.get(task, ()))

    @property
    def repeats(self) -> int:
        """How many runs there were beyond the first of each task."""
        return sum(len(runs) - 1 for runs in self.runs.values())

    def wrong(self) -> list[str]:
        """Return what no kill excuses; ask when all workers have ended or rest."""
        found = []
        for task, runs in self.runs.items():
            for (worker, run), (other, again) in pairwise(runs):
                if run.ended is not None and run.ended > again.began:
                    late = run.ended - again.began
                    found.append(
                        f"task {task} was begun by {other} {late:.3f} s before"
                        f" {worker} had ended it"
                    )
                lived = self.workers[worker]
                if lived.stopped or lived.runs[-1] is not run:
                    found.append(
                        f"task {task} was run by {other} again, though {worker} had"
                        " not died in it"
                    )
        return found
