"""What the options of a configuration of uWSGI mean for ``spoold``.

Those of the spooler and of Python are kept; those of the web server are ignored, and
named in one line; for those that change what tasks see, and cannot be kept, there is a
warning each. The page for users is docs/reference/uwsgi.md.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from glob import iglob
from typing import Final

from ...config import Application, Environment, UwsgiIni
from ...errors import UsageError
from .ini import Reader
from .placeholders import is_true, number

_SERVICE = "give it to what starts spoold, such as systemd"
_OTHER = "start it by itself"
_CRON = "run it from cron(8), or as @cron in the application"
_CACHE = "there is none here: the functions of uwsgi for it raise"
_CODE = "import the module that has the tasks: import = MODULE"
_HOOK = "it is not run here"
_TOUCH = "nothing watches it here"

INSTEAD: Final[Mapping[str, str]] = {
    **dict.fromkeys(("attach-daemon", "attach-daemon2", "smart-attach-daemon"), _OTHER),
    **dict.fromkeys(("smart-attach-daemon2", "legion-attach-daemon"), _OTHER),
    **dict.fromkeys(("cron", "cron2", "unique-cron", "legion-cron"), _CRON),
    **dict.fromkeys(("chroot", "cap", "unshare", "setns", "pivot-root"), _SERVICE),
    **dict.fromkeys(("cgroup", "prio", "limit-as", "add-gid"), _SERVICE),
    **dict.fromkeys(("cache", "cache2", "queue", "sharedarea"), _CACHE),
    **dict.fromkeys(("eval", "pecan", "paste", "ini-paste", "web3", "pump"), _CODE),
    **dict.fromkeys(("ini-paste-logged", "pyrun", "python", "py"), _CODE),
    **dict.fromkeys(("pymodule-alias", "post-pymodule-alias"), _CODE),
    **dict.fromkeys(("touch-exec", "touch-signal"), _TOUCH),
    **dict.fromkeys(("mule", "mules", "farm"), "put tasks for what it does"),
    **dict.fromkeys(
        ("logto", "logto2", "daemonize", "daemonize2"),
        "spoold logs to stderr and stays in the foreground",
    ),
    **dict.fromkeys(("pidfile", "pidfile2", "safe-pidfile"), "it is not written"),
    **dict.fromkeys(("emperor",), "start one spoold for each of its vassals"),
}
"""Options that cannot be kept, and what to do instead."""

_KEPT = frozenset(
    {
        "spooler-ordered",  # always
        "env",
        "unenv",
        "envdir",
        "early-envdir",
    }
)

_HOME = ("home", "virtualenv", "venv", "pyhome")
_SAME: Final[Mapping[str, str]] = {
    **dict.fromkeys(_HOME, "home"),
    **dict.fromkeys(("pythonpath", "python-path", "pp"), "pythonpath"),
    **dict.fromkeys(("spooler-frequency", "spooler-freq"), "spooler-frequency"),
    **dict.fromkeys(("module", "wsgi"), "module"),
    **dict.fromkeys(("wsgi-file", "file"), "wsgi-file"),
    **dict.fromkeys(("mount", "worker-mount"), "mount"),
    **{
        f"{when}{how}import": f"{when}import"
        for when in ("", "shared-", "spooler-")
        for how in ("", "py", "py-", "python-")
    },
    **dict.fromkeys(
        (
            "py-auto-reload",
            "py-autoreload",
            "python-auto-reload",
            "python-autoreload",
        ),
        "py-auto-reload",
    ),
    **dict.fromkeys(
        ("touch-spoolers-reload", "touch-reload", "fs-reload"), "touch-reload"
    ),
    **dict.fromkeys(("uid", "immediate-uid"), "uid"),
    **dict.fromkeys(("gid", "immediate-gid"), "gid"),
}
"""Names of one option."""

_LAST = frozenset(
    {
        "callable",
        "chdir",
        "gid",
        "home",
        "module",
        "no-initgroups",
        "py-auto-reload",
        "pyargv",
        "spooler-chdir",
        "spooler-frequency",
        "spooler-harakiri",
        "spooler-max-tasks",
        "spooler-processes",
        "spooler-quiet",
        "uid",
        "umask",
        "wsgi-file",
    }
)
"""Options of which the last one counts."""

_ALL = frozenset(
    {
        "import",
        "mount",
        "pythonpath",
        "shared-import",
        "spooler-import",
        "touch-reload",
    }
)
"""Options that may have several values."""


@dataclass(slots=True)
class _Options:
    """The options that took place."""

    last: dict[str, str] = field(default_factory=dict)
    all: dict[str, list[str]] = field(default_factory=dict)
    spools: dict[str, int] = field(default_factory=dict)
    """All, in order, and how often each is to be served."""
    environ: list[Environment] = field(default_factory=list)
    ignored: dict[str, None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def every(self, name: str) -> list[str]:
        return self.all.get(name, [])

    def count(self, name: str) -> int:
        """Return the number that an option has; 0 if there is none.

        Raises:
            UsageError: It is negative.
        """
        text = self.last.get(name, "0")
        value = number(text)
        if value < 0:
            raise UsageError(f"{name} = {text}: it takes 0 or more")
        if text.strip() != str(value):
            self.warnings.append(f"{name} = {text}: taken as {value}, as uWSGI does")
        return value


def read_ini(name: str, environ: Mapping[str, str]) -> UwsgiIni:
    """Read a configuration of uWSGI.

    Args:
        name: ``file.ini``, or ``file.ini:section`` for another one than ``uwsgi``.
        environ: Its variables ``UWSGI_…`` are options too, as for uWSGI.

    Raises:
        UsageError: It cannot be read, or asks for what cannot be.
    """
    reader = Reader(environ)
    for variable, value in environ.items():
        key = variable.removeprefix("UWSGI_").lower().replace("_", "-")
        if variable.startswith("UWSGI_") and key not in _NOT_OPTIONS:
            reader.add(key, value)
    reader.add("ini", name)
    if reader.missing:
        raise UsageError(reader.missing[0])
    reader.resolve()
    options = _Options()
    for key, value in reader.applied:
        _take(options, key, value, reader.used)
    return _ini(name, options, [(each.key, each.value) for each in reader.options])


_NOT_OPTIONS = frozenset(
    {
        "broodlord-num",
        "emperor-fd",
        "emperor-fd-config",
        "emperor-proxy",
        "jail-pid",
        "original-proc-name",
        "reloads",
        "vassals-dir",
        # files to read: the one that was named is read
        "include",
        "inherit",
        "ini",
    }
)


def _take(options: _Options, key: str, value: str, used: set[str]) -> None:
    name = _SAME.get(key, key)
    if name in _LAST:
        options.last[name] = value
    elif name in _ALL:
        options.all.setdefault(name, []).append(value)
    elif name in ("spooler", "spooler-external"):
        path = os.path.realpath(value)
        served = options.spools.get(path, 0)
        options.spools[path] = served + (name == "spooler")
    elif name in ("env", "unenv"):
        variable, equals, text = value.partition("=")
        options.environ.append((variable, text if equals and name == "env" else None))
    elif name in ("envdir", "early-envdir"):
        options.environ += _environment_in(value)
    elif name in INSTEAD:
        options.warnings.append(f"{key} = {value}: {INSTEAD[name]}")
    elif name.startswith(("hook-", "exec-", "call-")):
        options.warnings.append(f"{key} = {value}: {_HOOK}")
    elif name not in _KEPT and key not in used:
        options.ignored[key] = None


def _environment_in(folder: str) -> list[Environment]:
    """Return the variables in a folder: a file each, unset where one is empty."""
    found: list[Environment] = []
    try:
        for entry in sorted(os.listdir(folder)):  # noqa: TID251 (not the spool)
            path = f"{folder}/{entry}"
            if not entry.startswith(".") and os.path.isfile(path):
                with open(path, encoding="utf-8", errors="surrogateescape") as file:
                    text = file.read()
                value = text.rstrip("\r\n").partition("\0")[0]
                found.append((entry, value if text else None))
    except OSError as error:
        raise UsageError(f"envdir = {folder}: {error.strerror}") from None
    return found


# -- what they come to --------------------------------------------------------------


def _ini(name: str, options: _Options, listed: list[tuple[str, str]]) -> UwsgiIni:
    last, chdir = options.last, os.path.abspath(options.last.get("chdir", ""))

    def beside(path: str) -> str:
        return os.path.normpath(os.path.join(chdir, path))

    modules = _imports(options, beside)
    application = Application(
        paths=tuple(beside(path) for path in _paths(options.every("pythonpath"))),
        home=_home(beside(last["home"])) if "home" in last else None,
        files=tuple(modules.files.items()),
        calls=tuple(modules.calls),
        argv=("uwsgi", *last.get("pyargv", "").split()),
        task_dir=last.get("spooler-chdir"),
        spools=tuple(options.spools),
        options=tuple(listed),
    )
    settings = _settings(options, list(modules.names))
    return UwsgiIni(
        name=name,
        settings=settings,
        application=application,
        chdir=chdir,
        environ=tuple(options.environ),
        umask=_umask(last["umask"]) if "umask" in last else None,
        uid=last.get("uid"),
        gid=last.get("gid"),
        groups=not is_true(last.get("no-initgroups", "0")),
        touch=tuple(beside(path) for path in options.every("touch-reload")),
        ignored=tuple(options.ignored),
        warnings=tuple(options.warnings),
    )


def _settings(options: _Options, imports: list[str]) -> dict[str, object]:
    """Return the options of spoold that the configuration names."""
    dirs = {path: times for path, times in options.spools.items() if times}
    settings: dict[str, object] = {"uwsgi": True}
    if dirs:
        settings["dirs"] = list(dirs)
        each = max(options.count("spooler-processes"), 1)
        settings["workers"] = each * max(dirs.values())
    if imports:
        settings["imports"] = imports
    if "spooler-frequency" in options.last:
        settings["frequency"] = float(max(options.count("spooler-frequency"), 1))
    if "spooler-max-tasks" in options.last:
        settings["max_tasks"] = options.count("spooler-max-tasks")
    if limit := options.count("spooler-harakiri"):
        settings["hard_timeout"] = float(limit)
    if is_true(options.last.get("spooler-quiet", "0")):
        settings["log_level"] = "warning"
    if options.count("py-auto-reload"):
        settings["reload"] = True
    return settings


def _paths(patterns: list[str]) -> list[str]:
    """Return what goes before Python's path, the first of it first."""
    found: list[str] = []
    for pattern in patterns:
        found += sorted(iglob(pattern)) or [pattern]
    return found[::-1]


class _Modules:
    """Collects the modules to import, in order.

    Args:
        beside: Gives the absolute path of one.

    Attributes:
        names: Their names.
        files: Of those that have a name of their own: what file it is.
        calls: What uWSGI calls to have the web application, which may define tasks
            or load what does: the module, the name.
    """

    def __init__(self, beside: Callable[[str], str]) -> None:
        self.names: dict[str, None] = {}
        self.files: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []
        self._beside = beside

    def add(self, text: str) -> None:
        """Add a module: ``name``, ``name:callable`` or a path."""
        if "/" in text or text.endswith(".py"):
            self.add_file(text)
        else:
            self.names[text.partition(":")[0]] = None

    def add_app(self, text: str, known: str | None = None) -> None:
        """Add the module of a web application: ``name``, or ``name:callable``.

        Args:
            known: The name of the callable, if the text has none.
        """
        self.add(text)
        name, _, attribute = text.partition(":")
        attribute = attribute or known or ""
        if attribute.endswith("()"):
            self.calls.append((name, attribute.removesuffix("()")))

    def add_file(self, path: str, prefix: str = "") -> None:
        """Add a file, whatever the ending of its name."""
        name = prefix + _as_name(path)
        self.names[name] = None
        self.files[name] = self._beside(path)


def _imports(options: _Options, beside: Callable[[str], str]) -> _Modules:
    """Return all modules that uWSGI imports in some process: tasks may be in any."""
    modules = _Modules(beside)
    for when in ("shared-import", "import"):
        for text in options.every(when):
            modules.add(text)
    if "module" in options.last:
        modules.add_app(options.last["module"], options.last.get("callable"))
    if "wsgi-file" in options.last:
        modules.add_file(options.last["wsgi-file"], "uwsgi_file_")
    for mount in options.every("mount"):
        what = mount.partition("=")[2]
        if what.endswith((".py", ".wsgi")):
            modules.add_file(what, "uwsgi_file_")
        elif ":" in what:
            modules.add_app(what)
        else:
            options.warnings.append(f"mount = {mount}: {_CODE}")
    for text in options.every("spooler-import"):
        modules.add(text)
    return modules


def _as_name(path: str) -> str:
    """Return the name that uWSGI gives to a module that it imports from a path."""
    return path.replace(".", "_").replace("/", "_").removesuffix("_py")


def _home(folder: str) -> str:
    """Check that a virtual environment can be used by this Python.

    Raises:
        UsageError: It is none, or one of another version.
    """
    if not os.path.isdir(_site_packages(folder)):
        raise UsageError(
            f"home = {folder}: there is no {_site_packages(folder)}: install spoold in"
            " that environment and start it from there"
        )
    return folder


def _site_packages(folder: str) -> str:
    version = "{}.{}".format(*sys.version_info)
    return f"{folder}/lib/python{version}/site-packages"


def _umask(text: str) -> int:
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise UsageError(f"umask = {text}: it takes three octal digits")
    return value
