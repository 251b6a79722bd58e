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

from .addresses import parse_address
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


UWSGI_RETRY: Final = RetryPolicy(max_attempts=10_000, backoff=1.0, backoff_max=300.0)
"""uWSGI tries again each half minute, for ever: late enough that an application which
relies on it keeps working, and yet with an end."""


@dataclass(frozen=True, slots=True)
class Application:
    """What an application for uWSGI finds around it, as its configuration says.

    Attributes:
        paths: Folders that come first in Python's path, absolute.
        home: The virtual environment whose packages count too; None for none.
        files: Modules that have a name of their own, and the absolute path of each.
        calls: Functions that are called when their module was imported: the module,
            the name.
        argv: The ``sys.argv`` of the modules.
        task_dir: Where each task begins, relative to its spool; None to leave it.
        spools: All that tasks may be put into, served or not, absolute; the first is
            the default.
        options: All lines of the configuration, for ``uwsgi.opt``.
    """

    paths: tuple[str, ...] = ()
    home: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    argv: tuple[str, ...] = ("uwsgi",)
    task_dir: str | None = None
    spools: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Listening:
    """At which sockets tasks are taken, and how many.

    Attributes:
        addresses: ``HOST:PORT``, or the path of a UNIX socket.
        secret_file: The file with what senders must know, absolute; None for nothing.
        mode: Of UNIX sockets.
        connections: At a time.
        max_body: Bytes of a body.
        rate: Tasks in a second, for all together; 0 for any number.
        timeout: Seconds in which a packet must be there.
    """

    addresses: tuple[str, ...]
    secret_file: str | None = None
    mode: int = 0o600
    connections: int = 100
    max_body: int = 64 << 20
    rate: float = 0.0
    timeout: float = 10.0

    def __post_init__(self) -> None:
        for text in self.addresses:
            parse_address(text)
        if not 1 <= self.connections <= CONCURRENCY_MAX:
            raise UsageError(
                f"socket_connections={self.connections} cannot be: it takes 1 to"
                f" {CONCURRENCY_MAX}"
            )
        if not self.rate >= 0:
            raise UsageError(f"socket_rate={self.rate} cannot be: it takes 0 or more")
        if not 0 < self.timeout <= 86_400:
            raise UsageError(
                f"socket_timeout={self.timeout} cannot be: it takes more than 0, and"
                " 86400 at most"
            )


Environment = tuple[str, str | None]
"""A variable and its value; None to unset it."""


@dataclass(frozen=True, slots=True)
class UwsgiIni:
    """What a configuration of uWSGI comes to.

    Attributes:
        name: The file, and the section if one was named.
        settings: Options of ``spoold``, by the names that its ``--config`` has.
        application: What the modules and tasks find around them.
        chdir: Where they run; absolute.
        environ: The environment's changes, in order.
        umask: Of the processes; None for no change.
        uid: The user as whom root runs them; None for no change. So ``gid``.
        groups: With the user's other groups.
        touch: Files whose change has the code imported anew.
        ignored: Options without a meaning here.
        warnings: Options that should have one, each with what to do.
    """

    name: str
    settings: Mapping[str, object]
    application: Application
    chdir: str
    environ: tuple[Environment, ...] = ()
    umask: int | None = None
    uid: str | None = None
    gid: str | None = None
    groups: bool = True
    touch: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


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
        uwsgi: Provide the modules ``uwsgi`` and ``uwsgidecorators``, and run the tasks
            of applications that use them.
        uwsgi_files: Leave and write uWSGI's own files, for a uWSGI that runs beside.
        uwsgi_retry: The policy for those tasks.
        application: What uWSGI's configuration says of the application's surroundings.
        touch: Files whose change has the modules imported anew, absolute.
        sockets: Where tasks are taken from others; None for nowhere.
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
    uwsgi: bool = False
    uwsgi_files: bool = False
    uwsgi_retry: RetryPolicy = UWSGI_RETRY
    application: Application | None = None
    touch: tuple[str, ...] = ()
    sockets: Listening | None = None
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
        if self.uwsgi_files and not self.uwsgi:
            raise UsageError("uwsgi_files needs uwsgi: use --uwsgi")
        if self.uwsgi and self.threads > 1:
            raise UsageError(
                f"threads={self.threads} cannot be with uwsgi: its applications expect"
                " one thread; use workers"
            )
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
    return None if text is None else parse_size("min_free", text)


def parse_size(name: str, text: str) -> int:
    """Return the bytes of a setting: ``500M``, ``1G``.

    Raises:
        UsageError: It is no size.
    """
    size = _size(text)
    if size < 0:
        raise UsageError(
            f"{name}={text!r:.80} cannot be: it takes a size such as 500M or 1G, or 0"
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
