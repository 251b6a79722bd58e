"""A minute folder and a priority as the backlog remembers them: values in memory.

A folder is made when its time has come; until then only its name is known.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from .names import Names
from .task import MINUTE_US, Name, minute_start_us


@dataclass(slots=True)
class Folder:
    """A minute folder whose time has come."""

    path: str
    native: re.Pattern[str]
    first: str
    last: str
    names: Names = field(default_factory=Names)
    unread: bool = True  # it is to be read, from the beginning
    is_listed: bool = False  # it is being read
    has_jumped: bool = False  # names were passed over that may be due
    found: int = 0  # names that may be handed out, in this reading
    keep_until: float = 0.0
    in_flight: set[str] = field(default_factory=set)
    returned: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)  # names that may well be gone
    lost: int = 0  # claims that others were first to make, lately
    skipped: set[str] = field(default_factory=set)  # paused tasks with names here

    @property
    def is_known(self) -> bool:
        """Whether all that waits in it is known, or was handed out."""
        return not self.unread and not self.is_listed

    def is_native(self, name: str) -> bool:
        """Tell whether a name is native and belongs here."""
        if not self.first <= name[:16] <= self.last:
            return False
        if name.isascii():
            return self.native.fullmatch(f"{name}/") is not None
        parsed = Name.parse(name)
        return parsed is not None and self.path == parsed.folder

    def are_native(self, names: list[str]) -> bool:
        """Tell, quickly, whether ascending names are native, ASCII and belong here.

        If not all of them are, look at each.
        """
        if not names:
            return True
        within = self.first <= names[0][:16] and names[-1][:16] <= self.last
        return within and self.native.fullmatch("/".join([*names, ""])) is not None

    def must_be_read(self, name: str | None) -> bool:
        """Tell whether it must be read before anything is taken.

        Args:
            name: The next name that is known, and not due; None if there is none.
        """
        missing = self.unread if name is None else self.has_jumped
        return missing and not self.is_listed

    def add(self, names: list[str]) -> None:
        """Add names that wait, in ascending order."""
        self.names.add(names)
        if self.names.is_cut:
            self.unread = True

    def take(self, now: str, most: int, paused: Collection[str]) -> list[str]:
        """Take the next names that are due, so many at most: none only if none is.

        Args:
            now: The moment, as names have it.
            paused: See ``next_of``.
        """
        if paused:
            name = self.next_of(paused)
            if name is None or name[:16] > now:
                return []
            most = 1
        names = self.names.take(f"{now}/", most)  # "/" is what follows the "."
        self.in_flight.update(names)
        return names

    def next_of(self, paused: Collection[str]) -> str | None:
        """Return the next name whose task is not paused, without taking it.

        Names of paused tasks that come before it are forgotten: the folder is to be
        read again when one of ``skipped`` goes on.
        """
        name = self.names.peek()
        while name is not None and paused and (task := task_of(name)) in paused:
            self.names.pop()
            self.skipped.add(task)
            name = self.names.peek()
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
    """Return what the native names of one priority look like, if they are ASCII.

    For any number of them, each with a slash after it, which no name can have in it.
    """
    return re.compile(
        rf"(?:[0-9]{{16}}\.{priority}\.(?:0|[1-9][0-9]{{0,5}})\.[0-9a-f]{{16}}"
        r"\.[0-9A-Za-z_][!-.0-~]{0,127}(?<!\.tmp)(?<!\.why)/)*"
    )
