"""What happened on a disk that is recorded, written down on another one."""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

LEDGER: Final = "POWER_LEDGER"
"""The variable that says where runs are written down."""

NAP: Final = "POWER_NAP"
"""The variable that says how many seconds ``slow`` takes."""

TIMER: Final = "POWER_TIMER"
"""The variable that turns timers on, if it is 1."""

DAMAGED: Final = "damaged"
"""What a run is that has found its task not whole."""

KEYS: Final = 6
"""How many uniqueness keys are in use."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a producer did.

    Attributes:
        t: When it was written down, in monotonic ns.
        say: ``try``: it is about to. ``put``: it was told that they are there. ``op``:
            an operator was told that the task is in that state; ``op-try``: is about
            to bring it there.
        kind: Of tasks: the name of the function.
        ids: Of the tasks, all that are put together.
        safe: Whether a power cut must not lose them.
        state: Where an operator has brought it: ``gone`` if it was removed.
        key: The uniqueness key.
    """

    t: int
    say: str
    kind: str
    ids: list[str]
    safe: bool = True
    state: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that came to its end. ``t`` is in monotonic ns."""

    t: int
    id: str
    what: str


@dataclass(slots=True)
class World:
    """All that happened, as those say who did it."""

    events: list[Event] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def read(self, events: Iterable[Path], runs: Iterable[Path]) -> None:
        """Add what was written down."""
        for path in events:
            lines = path.read_bytes().splitlines() if path.exists() else []
            self.events += [msgspec.json.decode(each, type=Event) for each in lines]
        for path in runs:
            for line in path.read_text().splitlines() if path.exists() else []:
                moment, task, what = line.split()
                self.runs.append(Run(int(moment), task, what))

    def until(self, moment: int) -> "World":
        """Return what of it happened before a moment."""
        return World(
            [event for event in self.events if event.t < moment],
            [run for run in self.runs if run.t < moment],
        )

    def without(self, repeats: Container[str]) -> "World":
        """Return the same without the runs of tasks that a cut has undone."""
        kept = [run for run in self.runs if run.id not in repeats]
        return World(self.events, kept)

    def of(self, *say: str) -> Iterator[Event]:
        """Yield the events that say this."""
        return (event for event in self.events if event.say in say)
