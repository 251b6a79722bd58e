"""A minute folder and a priority as the backlog remembers them: values in memory.

A folder is made when its time has come; until then only its name is known.
"""

import heapq
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from .task import MINUTE_US, Name, minute_start_us


@dataclass(slots=True)
class Folder:
    """A minute folder whose time has come."""

    path: str
    native: re.Pattern[str]
    first: str
    last: str
    names: list[str] = field(default_factory=list)  # descending: the next is last
    arrived: list[str] = field(default_factory=list)  # a heap
    unread: bool = True
    keep_until: float = 0.0
    in_flight: set[str] = field(default_factory=set)
    returned: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)  # paused tasks with names here

    def is_native(self, name: str) -> bool:
        """Tell whether a name is native and belongs here."""
        if not self.first <= name[:16] <= self.last:
            return False
        if name.isascii():
            return self.native.fullmatch(name) is not None
        parsed = Name.parse(name)
        return parsed is not None and self.path == parsed.folder

    def peek(self) -> str | None:
        """Return the next name without taking it."""
        if self.arrived and (not self.names or self.arrived[0] < self.names[-1]):
            return self.arrived[0]
        return self.names[-1] if self.names else None

    def pop(self) -> str:
        """Take the next name."""
        if self.arrived and (not self.names or self.arrived[0] < self.names[-1]):
            return heapq.heappop(self.arrived)
        return self.names.pop()

    def next_of(self, paused: Collection[str]) -> str | None:
        """Return the next name whose task is not paused, without taking it.

        Names of paused tasks that come before it are forgotten: the folder is to be
        read again when one of ``skipped`` goes on.
        """
        name = self.peek()
        while name is not None and paused and (task := task_of(name)) in paused:
            self.pop()
            self.skipped.add(task)
            name = self.peek()
        return name


@dataclass(slots=True)
class Priority:
    """A priority's minutes, by name; a folder is made when its time has come."""

    number: int
    minutes: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    folders: dict[str, Folder] = field(default_factory=dict)
    closing: dict[str, Folder] = field(default_factory=dict)


def make_folder(priority: int, minute: str, keep_until: float) -> Folder:
    """Return a folder that has not been read.

    Args:
        keep_until: In seconds of the monotonic clock: it is not removed before.
    """
    start_us = minute_start_us(minute) or 0
    return Folder(
        path=f"{priority}/{minute}",
        native=_native(priority),
        keep_until=keep_until,
        first=f"{start_us:016d}",
        last=f"{start_us + MINUTE_US - 1:016d}",
    )


def task_of(name: str) -> str:
    """Return the task's name in the name of a native file."""
    return name.split(".", 4)[4]


def _native(priority: int) -> re.Pattern[str]:
    """Return what the native names of one priority look like, if they are ASCII."""
    return re.compile(
        rf"[0-9]{{16}}\.{priority}\.(?:0|[1-9][0-9]{{0,5}})\.[0-9a-f]{{16}}"
        r"\.[0-9A-Za-z_][!-.0-~]{0,127}(?<!\.tmp)(?<!\.why)"
    )
