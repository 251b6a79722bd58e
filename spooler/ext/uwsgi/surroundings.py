"""Have processes find what a configuration of uWSGI promises its application.

``enter`` is for the daemon, before anything else is started: directory, environment,
user. ``prepare`` is for each process that imports the application's modules.
"""

import grp
import importlib.machinery
import importlib.util
import os
import pwd
import site
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Final

from ... import hooks
from ...config import Application, UwsgiIni
from ...current import CurrentTask
from ...errors import UsageError

SPOOL_MODE: Final = 0o700
"""Of a spool's directory that is made here."""


def enter(ini: UwsgiIni, dirs: Sequence[str]) -> None:
    """Become what the configuration says: for the whole process, and those it starts.

    Args:
        dirs: The spools; those that are missing are made, as uWSGI does.

    Raises:
        UsageError: There is no such user, or this one cannot become it; or a directory
            cannot be made or entered.
    """
    uid, gid = _user(ini.uid), _group(ini.gid)
    for path in dirs:
        option = "spooler =" if path in ini.application.spools else "--dir"
        try:
            _make_spool(path, uid, gid)
        except OSError as error:
            reason = "not a directory" if os.path.exists(path) else error.strerror
            raise UsageError(f"{option} {path}: {reason}") from None
    if ini.umask is not None:
        os.umask(ini.umask)
    _become(uid, gid, with_groups=ini.groups)
    for name, value in ini.environ:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    folder = ini.application.task_dir
    if folder is not None:
        for path in dirs:
            _go("spooler-chdir", os.path.join(path, folder), folder)
    _go("chdir", ini.chdir)


def _go(option: str, path: str, said: str = "") -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise UsageError(f"{option} = {said or path}: {error.strerror}") from None


def _make_spool(path: str, uid: int | None, gid: int | None) -> None:
    if not os.path.isdir(path):
        os.makedirs(path, SPOOL_MODE)
        if os.geteuid() == 0:
            os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)


def _user(name: str | None) -> int | None:
    """Return a user's number; None for no change."""
    if not name or name == "0":
        return None
    try:
        return int(name) if name.isascii() and name.isdigit() else pwd.getpwnam(name)[2]
    except KeyError:
        raise UsageError(f"uid = {name}: there is no such user") from None


def _group(name: str | None) -> int | None:
    """Return a group's number; None for no change."""
    if not name or name == "0":
        return None
    try:
        return int(name) if name.isascii() and name.isdigit() else grp.getgrnam(name)[2]
    except KeyError:
        raise UsageError(f"gid = {name}: there is no such group") from None


def _become(uid: int | None, gid: int | None, *, with_groups: bool) -> None:
    """Give up root, as far as that was asked for.

    Raises:
        UsageError: This is not root, and another user or group is wanted.
    """
    if os.geteuid() != 0:
        if uid not in (None, os.getuid()) or gid not in (None, os.getgid()):
            raise UsageError(
                f"uid = {uid}, gid = {gid}: only root can become another user:"
                " start spoold as that user"
            )
        return
    if gid is not None:
        os.setgid(gid)
        os.setgroups([])
    if uid is not None:
        if with_groups:
            _take_groups(uid)
        os.setuid(uid)


def _take_groups(uid: int) -> None:
    """Become a member of all groups that a user is in, if the user has a name."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return
    os.initgroups(name, os.getgid())


# -- for the modules ----------------------------------------------------------------


class _ByPath(MetaPathFinder):
    """Finds the modules that uWSGI imports from a path under a name of their own.

    Arguments that were pickled name these modules: so they must be the same here.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where a module is, if it is one of these."""
        file = self._files.get(fullname)
        if file is None:
            return None
        folder = file if os.path.isdir(file) else None
        source = f"{file}/__init__.py" if folder else file
        return importlib.util.spec_from_file_location(
            fullname,
            source,
            loader=_Loader(fullname, source),
            submodule_search_locations=[folder] if folder else None,
        )


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads a module's source, whatever the ending of its name; keeps no bytecode."""

    def path_stats(self, path: str) -> Mapping[str, float]:
        """Say that nothing is known of the file, so that its text is read."""
        raise OSError(path)


def prepare(application: Application) -> None:
    """Have this process find the application's modules: before they are imported.

    ``paths`` is not looked at here: it goes before the current directory, which is
    put into Python's path later.
    """
    if application.home is not None:
        _use_packages_of(application.home)
    sys.argv[:] = application.argv
    if application.files:
        sys.meta_path.insert(0, _ByPath(dict(application.files)))
    if application.task_dir is not None:
        hooks.CHECKS.append(_going_to(application.task_dir))


def _going_to(folder: str) -> hooks.Check:
    """Return what has each task begin in a folder, relative to its spool.

    Where that is not there, the task must not run in another one.
    """

    def go(task: CurrentTask) -> str:
        try:
            os.chdir(os.path.join(task.spool, folder))
        except OSError as error:
            return f"spooler-chdir = {folder}: {error.strerror}"
        return ""

    return go


def _use_packages_of(home: str) -> None:
    """Put a virtual environment's packages before those that are installed here."""
    if os.path.realpath(home) == os.path.realpath(sys.prefix):
        return
    version = "{}.{}".format(*sys.version_info)
    before = list(sys.path)
    site.addsitedir(f"{home}/lib/python{version}/site-packages")
    added = [path for path in sys.path if path not in before]
    ours = set(site.getsitepackages())
    at = next((i for i, path in enumerate(before) if path in ours), len(before))
    sys.path[:] = [*before[:at], *added, *before[at:]]


def opt_of(options: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the lines of a configuration for ``uwsgi.opt``: of each key the last."""
    return dict(options)
