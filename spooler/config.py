"""Settings of the daemon: checked once, then frozen.

Options, environment and file are read by the command (``cli.spoold``); this is
what they come to.
"""

import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from .errors import UsageError
from .retry import RetryPolicy

WORKERS_MAX: Final = 1000
"""Worker processes for each spool: each takes some descriptors of the daemon's."""


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
        soft_timeout: Seconds after which a run is interrupted; None for no limit.
        hard_timeout: Seconds after which its worker is killed; None for no limit.
        burst: End when nothing is left to run now.
        allow_uids: Owners of files that count as tasks, besides root and this user.
    """

    dirs: tuple[str, ...]
    imports: tuple[str, ...]
    workers: int = 1
    frequency: float = 30.0
    grace: float = 30.0
    max_tasks: int = 0
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    burst: bool = False
    allow_uids: tuple[int, ...] = ()
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
        for name, low in (("workers", 1), ("max_tasks", 0), ("grace", 0)):
            value = getattr(self, name)
            if not value >= low:
                raise UsageError(f"{name}={value} cannot be: it takes {low} or more")
        if self.workers > WORKERS_MAX:
            raise UsageError(
                f"workers={self.workers} cannot be: it takes {WORKERS_MAX} at most"
            )
        for name in ("frequency", "soft_timeout", "hard_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name}={value} cannot be: it takes more than 0")


_WORDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


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
