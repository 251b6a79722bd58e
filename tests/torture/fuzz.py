"""Rubbish for minutes: for the codec, names, moments, damaged spools, the commands.

Nothing may crash, hang or be lost, and what is read must agree with ``reference``, a
second reader that was written from the specification.
"""

import logging
import os
import random
import resource
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from time import monotonic, process_time
from typing import Final

from . import Report
from .damage import Damaged
from .mutate import Mutator, samples, shown
from .readers import TARGETS as READERS
from .spools import TARGETS as SPOOLS, registered

ABOUT: Final = "rubbish for the codec, the names, damaged spools and the commands"

SLICE: Final = 1.0
"""Seconds for which one target is tried before it is the next one's turn."""

CPU_MAX: Final = 1.0
"""Seconds of the processor that no input of a reader may cost."""

LINE_MAX: Final = 20_000
"""Characters of a line of the log."""

RSS_MAX: Final = 400
"""MiB that this process may grow to."""

FINDINGS_MAX: Final = 20
"""After so many different findings it is enough."""

SHARES: Final[Mapping[str, int]] = {"codec": 5, "damage": 3, "serve": 3}
"""Slices in a row; of others it is one."""


class _Lines(logging.Handler):
    """Counts what is logged, and measures the longest line."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if len(text) > self.longest:
            self.longest, self.text = len(text), text[:200]


@contextmanager
def quick() -> Iterator[_Lines]:
    """Let nothing be synced, since nobody cuts the power, and watch what is logged."""
    root, lines, sync = logging.getLogger(), _Lines(), os.fsync
    before, level = root.handlers[:], root.level
    root.handlers[:] = [lines]
    root.setLevel(logging.INFO)
    vars(os)["fsync"] = os.fstat
    try:
        yield lines
    finally:
        vars(os)["fsync"] = sync
        root.handlers[:] = before
        root.setLevel(level)


class Fuzz:
    """The targets, each with its own corpus and chance, and what was found.

    Use it as a context manager.
    """

    def __init__(self, seed: int, names: list[str] | None = None) -> None:
        self.report = Report()
        self.runs: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.slowest = 0.0
        self._seen: set[object] = set()
        self._seed = seed
        self._names = names or [*READERS, *SPOOLS]
        self._stack = ExitStack()
        self._targets: dict[str, Callable[[], object]] = {}
        self._mutators: dict[str, Mutator] = {}

    def __enter__(self) -> "Fuzz":
        self._lines = self._stack.enter_context(quick())
        self._stack.enter_context(registered())
        for name in self._names:
            chance = random.Random(f"{self._seed} {name}")
            self._mutators[name] = mutator = Mutator(chance, samples())
            if name in READERS:
                self._targets[name] = partial(READERS[name], mutator)
            else:
                damaged = self._stack.enter_context(Damaged(chance))
                self._targets[name] = partial(SPOOLS[name], damaged, mutator)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def slices(self, end: float) -> None:
        """Try all targets in turn until a moment; each once, however late it is."""
        order = [name for name in self._targets for _ in range(SHARES.get(name, 1))]
        is_over = False
        while not is_over:
            for name in order:
                until = min(end, monotonic() + SLICE)
                began = monotonic()
                self.once(name)
                while monotonic() < until:
                    self.once(name)
                self.seconds[name] += monotonic() - began  # type: ignore[assignment]
            is_over = monotonic() >= end or len(self._seen) >= FINDINGS_MAX

    def once(self, name: str) -> None:
        """Try a target once, and note what breaks."""
        self.runs[name] += 1
        began = process_time()
        try:
            self._targets[name]()
        except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
            self._note(name, error)
        took = process_time() - began
        self.slowest = max(self.slowest, took)
        if took > CPU_MAX and name in READERS:
            self._tell((name, "slow"), f"takes {took:.2f} s of the processor")
        if self._lines.longest > LINE_MAX:
            self._tell((name, "line"), f"logs a long line: {self._lines.text}…")
            self._lines.longest = 0

    def _note(self, name: str, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)[-2:]
        where = tuple((frame.filename, frame.lineno) for frame in frames)
        text = "".join(traceback.format_exception(error, limit=-5))
        self._tell((name, type(error), where), text[-3000:])

    def _tell(self, sign: object, text: str) -> None:
        if sign in self._seen:
            return
        self._seen.add(sign)
        name = sign[0] if isinstance(sign, tuple) else ""
        data = shown(self._mutators[name].last)
        self.report.broken.append(f"{name}: {text}\n  rubbish: {data}")

    def figures(self) -> Report:
        """Return what was done and found."""
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if rss > RSS_MAX:
            self.report.broken.append(f"this process has grown to {rss} MiB")
        figures = self.report.figures
        figures["inputs"] = self.runs.total()
        for name, count in self.runs.items():
            rate = count / max(0.001, self.seconds[name])
            figures[name] = f"{count}({rate:.0f}/s)"
        figures["corpus"] = sum(len(each.corpus) for each in self._mutators.values())
        figures["slowest_cpu_s"] = f"{self.slowest:.2f}"
        figures["rss_mib"] = rss
        return self.report


def run(budget: float, seed: int) -> Report:
    """Try for so many seconds."""
    end = monotonic() + budget
    with Fuzz(seed) as fuzz:
        fuzz.slices(end)
        return fuzz.figures()
