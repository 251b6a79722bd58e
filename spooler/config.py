"""Settings of the daemon: checked once, then frozen.

Options, environment and file are read by the command (``cli.spoold``); this is
what they come to.
"""

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Final, Literal

from .errors import UsageError
from .retry import RetryPolicy

CONCURRENCY_MAX: Final = 1000
"""Runs of a worker at a time: each takes a descriptor or two of the worker's."""

AsyncBackend = Literal["asyncio", "trio"]
"""The event loop in which async functions run."""

KeepLog = Literal["failed", "always", "never"]
"""Which runs' logs are kept, where a task does not say."""

WORKERS_MAX: Final = 1000
"""Worker processes for each spool: each takes some descriptors of the daemon's."""


_LEAST: Final[Mapping[str, int]] = {
    "workers": 1,
    "max_tasks": 0,
    "keep_results": 0,
    "grace": 0,
    "threads": 1,
    "async_concurrency": 1,
}
_MOST: Final[Mapping[str, int]] = {
    "workers": WORKERS_MAX,
    "threads": CONCURRENCY_MAX,
    "async_concurrency": CONCURRENCY_MAX,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``spoold`` was asked to do.

    Attributes:
        dirs: The spools to serve; timers without a spool of their own go to the
            first.
        imports: The user's modules.
        workers: Worker processes for each spool.
        frequency: Seconds between two scans of a spool that nothing else caused.
        grace: Seconds that running tasks are given when the daemon stops.
        max_tasks: Runs after which a worker is replaced; 0 for never.
        max_rss: Bytes of memory above which a worker is replaced; 0 for any size.
        soft_timeout: Seconds after which a run is interrupted; None for no limit.
        hard_timeout: Seconds after which its worker is killed; None for no limit.
        keep_log: Whose logs are kept, where a task does not say.
        keep_logs_for: Seconds for which they are kept once the task is finished.
        threads: Plain functions that a worker runs at a time.
        async_concurrency: Async functions that a worker runs at a time.
        async_backend: The event loop for them, ``asyncio`` or ``trio``.
        keep_results: How many results of tasks a spool keeps; the oldest go first.
        burst: End when nothing is left to run now.
        reload: Import the modules anew when their files change.
        allow_uids: Owners of files that count as tasks, besides root and this user.
        allow_groups: Groups whose users are such owners too, by name or number.
        insecure: Serve spools that others could have their hands on.
        key_file: The file with the keys for signing, absolute; None for no signing.
        require_signature: Put tasks aside that are not signed with one of them.
        max_waiting: How many tasks may wait when one is put; 0 for any number, None
            for what the spool says.
        min_free: Bytes that must be free then on its file system; as above.
        min_free_inodes: Inodes that must be free then; as above.
    """

    dirs: tuple[str, ...]
    imports: tuple[str, ...]
    workers: int = 1
    frequency: float = 30.0
    grace: float = 30.0
    max_tasks: int = 0
    max_rss: int = 0
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    keep_log: KeepLog = "failed"
    keep_logs_for: float = 7 * 86_400.0
    keep_results: int = 100_000
    threads: int = 1
    async_concurrency: int = 100
    async_backend: AsyncBackend = "asyncio"
    burst: bool = False
    reload: bool = False
    allow_uids: tuple[int, ...] = ()
    allow_groups: tuple[str, ...] = ()
    insecure: bool = False
    key_file: str | None = None
    require_signature: bool = False
    max_waiting: int | None = None
    min_free: int | None = None
    min_free_inodes: int | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    log_level: str = "info"
    log_json: bool = False

    def __post_init__(self) -> None:
        if not self.dirs:
            raise UsageError("no spool was named: use --dir DIR, or SPOOLER_DIR")
        if len({os.path.realpath(path) for path in self.dirs}) != len(self.dirs):
            raise UsageError("the same spool is named twice")
        if not self.imports:
            raise UsageError("no module with tasks was named: use --import MODULE")
        if self.require_signature and self.key_file is None:
            raise UsageError("require_signature needs the keys: use --key-file FILE")
        self._check_numbers()
        if find_spec(self.async_backend) is None:
            raise UsageError(
                f"async_backend={self.async_backend} cannot be: it is not installed"
                f" here (pip install {self.async_backend})"
            )

    def _check_numbers(self) -> None:
        for name, low in _LEAST.items():
            value = getattr(self, name)
            if not value >= low:
                raise UsageError(f"{name}={value} cannot be: it takes {low} or more")
        check_room(self.max_waiting, self.min_free, self.min_free_inodes)
        for name, high in _MOST.items():
            value = getattr(self, name)
            if value > high:
                raise UsageError(f"{name}={value} cannot be: it takes {high} at most")
        for name in ("frequency", "soft_timeout", "hard_timeout", "keep_logs_for"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name}={value} cannot be: it takes more than 0")


_WORDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


_SIZE = re.compile(r"(\d{1,20})([KMGT]?)", re.ASCII)
_SHIFTS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}

ROOM_MAX: Final = 2**63 - 1
"""The largest limit of what waits or must be free."""

RSS_MIN: Final = 1 << 20
"""Bytes. A limit below is a mistake: no process of Python's is that small."""


def parse_rss(text: str) -> int:
    """Return the bytes of a limit of memory: ``200M``, ``1G``, digits alone for bytes.

    Raises:
        UsageError: It is none, or too small for any worker. ``0`` is for no limit.
    """
    size = _size(text)
    if size < 0 or 0 < size < RSS_MIN:
        raise UsageError(
            f"max_rss={text!r:.80} cannot be: it takes a size such as 200M or 1G,"
            " 1M or more, or 0 for any"
        )
    return size


def parse_free(text: str | None) -> int | None:
    """Return the bytes that are to be free: ``500M``, ``1G``; None if nothing is said.

    Raises:
        UsageError: It is no size.
    """
    if text is None:
        return None
    size = _size(text)
    if size < 0:
        raise UsageError(
            f"min_free={text!r:.80} cannot be: it takes a size such as 500M or 1G,"
            " or 0 for any"
        )
    return size


def _size(text: str) -> int:
    """Return a size in bytes; -1 if it is none."""
    match = _SIZE.fullmatch(text)
    return int(match[1]) << _SHIFTS[match[2]] if match else -1


def check_room(
    max_waiting: int | None, min_free: int | None, min_free_inodes: int | None
) -> None:
    """Check what was said of the room in a spool.

    Raises:
        UsageError: A number is negative, or beyond what any disk has.
    """
    for name, value in (
        ("max_waiting", max_waiting),
        ("min_free", min_free),
        ("min_free_inodes", min_free_inodes),
    ):
        if value is not None and not 0 <= value <= ROOM_MAX:
            raise UsageError(f"{name}={value:.3g} cannot be: it takes 0 to {ROOM_MAX}")


def parse_file(
    text: str, known: Mapping[str, type], lists: Collection[str] = ()
) -> dict[str, object]:
    """Return the settings in a TOML file, by option name with ``_`` for ``-``.

    Args:
        known: The names that may occur, and the type of each: bool, int, float or
            str. A whole number does for a float.
        lists: Those that may have several values; they are always lists here.

    Raises:
        UsageError: It is not TOML, has a name that is no setting, or a value of
            another type.
    """
    import tomllib  # noqa: PLC0415 (most have no such file)

    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not TOML: {error}") from None
    settings = {name.replace("-", "_"): value for name, value in values.items()}
    for name in settings:
        if name not in known:
            names = ", ".join(sorted(known))
            raise UsageError(f"there is no setting {name!r}; there are: {names}")
    for name in lists:
        if name in settings and not isinstance(settings[name], list):
            settings[name] = [settings[name]]
    for name, value in settings.items():
        for each in value if name in lists else [value]:
            _check_type(name, each, known[name])
    return settings


def _check_type(name: str, value: object, kind: type) -> None:
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits:
        takes = _WORDS[kind]
        raise UsageError(f"{name}={value!r:.80} cannot be: it takes {takes}")
