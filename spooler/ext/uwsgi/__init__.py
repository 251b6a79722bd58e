"""The modules ``uwsgi`` and ``uwsgidecorators``, for applications written for uWSGI.

``install`` provides them, so that such an application runs unmodified: in ``spoold
--uwsgi``, and anywhere else that it puts tasks from.
Reference: docs/reference/uwsgi.md.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.machinery import PathFinder

from ... import hooks
from ...config import UWSGI_RETRY
from ...errors import UsageError
from ...known import Uwsgi
from ...registry import REGISTRY
from ...retry import RetryPolicy
from .finder import FINDER
from .handler import entry, others, started, translate
from .module import UWSGI, fill
from .state import DEFAULT_FREQUENCY, STATE
from .surroundings import opt_of, prepare

__all__ = ["begin", "install"]


def install(
    dirs: Sequence[str | os.PathLike[str]] | str | os.PathLike[str] = (),
    *,
    files: bool = False,
    daemon: int = 0,
    frequency: float = DEFAULT_FREQUENCY,
    policy: RetryPolicy | None = None,
    opt: Mapping[str, object] | None = None,
) -> None:
    """Have ``import uwsgi`` and ``import uwsgidecorators`` give ours.

    Whatever is installed under these names, or was imported before. Call it before
    the modules that import them. It may be called again, with other spools.

    Args:
        dirs: The spools, or one, whether they are served here or not; the first is the
            default one. Without any, ``$SPOOL_DIR``, else ``./spool``, at each put.
        files: ``uwsgi.spool`` writes uWSGI's own files, for a uWSGI that runs on the
            same directory.
        daemon: The pid of the ``spoold`` that this process belongs to; 0 for none.
        frequency: Seconds until a task runs again that has asked for it.
        policy: How often a task runs and how long it waits in between.
        opt: What ``uwsgi.opt`` holds; None for what follows from all this.
    """
    several = [dirs] if isinstance(dirs, str | os.PathLike) else dirs
    STATE.dirs = tuple(dict.fromkeys(os.path.realpath(path) for path in several))
    STATE.files = files
    STATE.daemon = daemon
    STATE.frequency = frequency
    STATE.policy = policy or UWSGI_RETRY
    STATE.opt = opt
    STATE.manage = partial(getattr, UWSGI, "spooler", None)
    fill(UWSGI)
    REGISTRY.rest = entry(STATE.policy)
    REGISTRY.others = others
    REGISTRY.translate = translate
    hooks.on_worker_start(started)
    sys.modules["uwsgi"] = UWSGI
    sys.modules.pop("uwsgidecorators", None)
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)


def begin(start: Uwsgi, daemon: int) -> None:
    """Do the same for a daemon, before it imports the application's modules.

    Args:
        daemon: Its pid.

    Raises:
        UsageError: The application cannot run here.
    """
    application = start.application
    if application is not None:
        prepare(application)
    _check_paths((*(application.paths if application else ()), os.getcwd()))
    install(
        start.dirs if application is None else (application.spools or start.dirs),
        files=start.files,
        daemon=daemon,
        frequency=start.frequency,
        policy=start.retry,
        opt=None if application is None else opt_of(application.options),
    )


def _check_paths(paths: Sequence[str]) -> None:
    """Check that no module of the application's has this package's name.

    Raises:
        UsageError: One has: it would not be imported, and nobody would notice.
    """
    name = __name__.partition(".")[0]
    found = PathFinder.find_spec(name, paths)
    ours = getattr(sys.modules[name], "__file__", None)
    if found is None or not found.origin or os.path.samefile(found.origin, str(ours)):
        return
    raise UsageError(
        f"{found.origin}: the application's module has the name of the package"
        f" {name!r}, and cannot be imported beside it: give it another name"
    )
