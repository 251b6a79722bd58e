"""Task name → function and its options."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .arguments import Arguments
from .errors import UsageError
from .limits import Limits
from .options import NO_OPTIONS, RunOptions
from .retry import RetryOptions
from .schedule import Schedule
from .spooldir.reading import TaskFile
from .task import Claim, Outcome

Handler = Callable[[Claim, TaskFile], Outcome]
"""Runs a task that its worker holds; what it raises is an outcome too."""


class Kind(Enum):
    """What a function's return means."""

    TASK = "task"
    RAW = "raw"
    FOREVER = "forever"


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered function.

    Attributes:
        spool: The directory it was registered with; None for the default one.
        run: What its runs keep to, where the put does not say otherwise.
        key: The uniqueness key of a put, with ``{argument}`` for arguments.
        pause: Seconds between two runs of a function that runs for ever.
        schedule: When the daemon puts it by itself; None for never.
        overlap: A slot's task is put although the last one has not finished.
        is_async: It is an ``async def`` function.
        watches: The file or folder whose change has the daemon put it, absolute.
        handler: Runs the task instead of the function.
        is_plain: Its runs need nothing but their arguments.
    """

    name: str
    function: Callable[..., Any]
    kind: Kind
    arguments: Arguments
    retry: RetryOptions = field(default_factory=RetryOptions)
    spool: str | None = None
    priority: int | None = None
    run: RunOptions = NO_OPTIONS
    key: str | None = None
    limits: Limits | None = None
    pause: float = 0.0
    schedule: Schedule | None = None
    overlap: bool = False
    is_async: bool = False
    watches: str | None = None
    handler: Handler | None = None
    is_plain: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        plain = self.run is NO_OPTIONS and self.limits is None and not self.handler
        object.__setattr__(self, "is_plain", plain)

    def check_run(self, run: RunOptions) -> None:
        """Check options against what the function is.

        Raises:
            UsageError: Something is to follow a function that runs for ever.
        """
        if run.then and self.kind is Kind.FOREVER:
            raise UsageError(
                f"{self.name}: then= cannot be, since it runs for ever and never ends"
            )


Translate = Callable[[Entry, Claim, TaskFile], Mapping[str, object]]
"""Makes the arguments of a function from what a uWSGI task holds."""


class Registry:
    """The functions of this process, by task name.

    Attributes:
        rest: Runs the tasks of all other names; None for nobody.
        others: Returns those of them that it knows; ``*`` if any name may be one.
        translate: Makes the arguments of functions from uWSGI's tasks; None to take
            pairs as they are.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self.rest: Entry | None = None
        self.others: Callable[[], list[str]] = list
        self.translate: Translate | None = None

    def add(self, entry: Entry) -> None:
        """Register a function.

        Registering the same function again, as a reload does, replaces it.

        Raises:
            UsageError: Another function has that name.
        """
        known = self._entries.get(entry.name)
        if known is not None and _place(known) != _place(entry):
            raise UsageError(
                f"two functions want to be task {entry.name!r}: {_place(known)} and"
                f" {_place(entry)}; give one of them another name="
            )
        self._entries[entry.name] = entry

    def get(self, name: str) -> Entry | None:
        """Return the entry of that name, if there is one."""
        return self._entries.get(name)

    def find(self, name: str) -> Entry | None:
        """Return what runs the tasks of that name, if anything does."""
        return self._entries.get(name, self.rest)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())


def _place(entry: Entry) -> str:
    function = entry.function
    module = getattr(function, "__module__", "?")
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"


REGISTRY = Registry()
"""The registry of this process."""
