"""What a spool should hold, in memory: the model that the real one is compared with."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from spooler.options import IfExists, RunOptions
from spooler.spooldir.keys import key_path
from spooler.task import MAX_DUE_US, Name

NOT_BEGUN = ("waiting", "held")


@dataclass
class Task:
    """A file that is a task, or is to be one.

    Attributes:
        folder: Where it is, from the spool's root; ``.`` is the root.
        file: What it is called there.
        name: What it is called as a task; None for what was dropped.
        data: Its bytes.
        good: It can be read as a task.
    """

    folder: str
    file: str
    name: Name | None
    data: bytes
    good: bool = True
    key: str | None = None
    options: RunOptions = field(default_factory=RunOptions)

    @property
    def path(self) -> str:
        return self.file if self.folder == "." else f"{self.folder}/{self.file}"

    @property
    def state(self) -> str:
        """One word for where it is; ``waiting`` means in a minute folder."""
        first, _, second = self.folder.partition("/")
        if first == "." or (first.isdigit() and not second):
            return "dropped"
        return "waiting" if first.isdigit() else first

    @property
    def known(self) -> Name:
        """Its name as a task, with the priority of the folder in which it waits."""
        assert self.name is not None
        if self.state == "waiting":
            return self.name.but(priority=int(self.folder.partition("/")[0]))
        return self.name


@dataclass(frozen=True)
class Key:
    """What ``keys/<hash>`` is a link to."""

    task: Task
    until_us: int
    """When its ``unique_for`` is over."""


class World:
    """All that is in a spool.

    Attributes:
        attempts: By id, how many lines are in the list of its attempts.
        results: By id, whether it succeeded and until when that is kept.
        slots: By timer, its newest slot and the task that was put for it.
        orphans: Reports whose task an operator has moved away by hand.
        locks: Workers whose lock file is there.
    """

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.attempts: dict[str, int] = {}
        self.results: dict[str, tuple[bool, int]] = {}
        self.keys: dict[str, Key] = {}
        self.slots: dict[str, tuple[int, Task]] = {}
        self.paused: dict[str, int | None] = {}
        self.orphans: set[str] = set()
        self.locks: set[str] = set()

    # -- looking ----------------------------------------------------------------

    def all(self, *states: str) -> list[Task]:
        """Return the tasks in some states, in the order of their paths."""
        found = [task for task in self.tasks if task.state in states]
        return sorted(found, key=lambda task: task.path)

    def at(self, path: str) -> Task | None:
        """Return what is at a path."""
        return next((task for task in self.tasks if task.path == path), None)

    def files(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield every file that there should be; with its bytes, if they matter."""
        for task in self.tasks:
            yield task.path, task.data
            if task.state in ("failed", "corrupt"):
                yield f"{task.path}.why", None
        for path in self.orphans:
            yield path, None
        for task_id in self.attempts:
            yield f"logs/{task_id}.attempts", None
        for task_id in self.results:
            yield f"done/{task_id}", None
        for path, key in self.keys.items():
            yield path, key.task.data
        for timer, (slot_us, task) in self.slots.items():
            yield f"timers/{slot_us:016d}.{timer}", task.data
        for what in self.paused:
            yield f"paused/{what}", None
        for worker in self.locks:
            yield f"workers/{worker}.lock", None

    def is_there(self, task: Task) -> bool:
        """Tell whether a task is anywhere in the spool."""
        return any(task is each for each in self.tasks)

    def is_taken(self, path: str, now_us: int) -> bool:
        """Tell whether a key is taken (docs/format.md, section 8)."""
        key = self.keys.get(path)
        if key is None:
            return False
        alive = self.is_there(key.task)
        over = key.task.state in ("failed", "corrupt")
        return now_us < key.until_us or (alive and not over)

    # -- moving -----------------------------------------------------------------

    def free(self, name: Name, folder: str | None = None) -> Name:
        """Return the name that is given to what goes where such a name may be."""
        while self.at(f"{folder or name.folder}/{name}") is not None:
            name = name.but(due_us=(name.due_us + 1) % (MAX_DUE_US + 1))
        return name

    def put(self, task: Task) -> Task:
        """Add a task under the name that it has."""
        assert self.at(task.path) is None, f"{task.path} would be overwritten"
        self.tasks.append(task)
        return task

    def move(self, task: Task, name: Name, folder: str | None = None) -> None:
        """Move a task to a native name: into its minute folder, or another one."""
        name = self.free(name, folder)
        task.name, task.file = name, str(name)
        task.folder = folder or name.folder

    def gone(self, task: Task) -> None:
        """Remove a task. What else is a link to its file stays."""
        self.tasks = [each for each in self.tasks if each is not task]

    def new(self, name: Name, data: bytes, **more: object) -> Task:
        """Add a task that waits."""
        return self.put(Task(name.folder, str(name), name, data, **more))  # type: ignore[arg-type]

    # -- keys -------------------------------------------------------------------

    def take(
        self, task: Task, if_exists: IfExists, until_us: int, now_us: int
    ) -> tuple[bool, Task | None]:
        """Give a task its key, if it can have it.

        Returns:
            Whether it has it now, and the task that was removed for it.
        """
        assert task.key is not None
        path = key_path("t", task.key)
        removed = None
        if self.is_taken(path, now_us):
            if if_exists != "replace":
                return False, None
            old = self.keys[path].task
            if self.is_there(old) and old.state in (*NOT_BEGUN, "dropped"):
                removed = old
        self.keys[path] = Key(task, until_us)
        return True, removed

    def sweep_keys(self, now_us: int) -> None:
        """Forget the keys whose task has ended."""
        for path, key in list(self.keys.items()):
            if not self.is_there(key.task) and not self.is_taken(path, now_us):
                del self.keys[path]

    # -- counting ---------------------------------------------------------------

    def counts(self, now_us: int) -> dict[str, int]:
        """Return what ``spooler.status`` should count."""
        found = dict.fromkeys(
            ("waiting", "later", "running", "held", "failed", "corrupt", "dropped"), 0
        )
        for task in self.tasks:
            state = task.state
            if state == "waiting" and task.name and task.name.due_us > now_us:
                state = "later"
            found[state] += 1
        return found


def pick(found: Iterable[Task], number: int) -> Task | None:
    """Return one of some tasks; None if there is none."""
    some = list(found)
    return some[number % len(some)] if some else None
