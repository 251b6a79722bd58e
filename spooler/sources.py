"""Which files the code of the application was imported from."""

import os
import sys
import sysconfig
from collections.abc import Collection
from typing import Final

_OWN: Final = os.path.dirname(os.path.abspath(__file__))
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})

Stamp = tuple[int, int]
"""When a file was changed, in ns since the epoch, and its size."""


def stamp(path: str) -> Stamp | None:
    """Return what tells whether a file was changed; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def source_files(names: Collection[str]) -> dict[str, Stamp]:
    """Return the imported files that are the application's own, by absolute path.

    Those below the current directory and those beside the modules that were asked
    for, whatever imported them; no installed packages, nothing of Python's.

    Args:
        names: The modules that were asked for, as for ``template.load``.
    """
    roots = {os.getcwd()}
    for name in names:
        module = sys.modules.get(name.partition(".")[0])
        path = name if name.endswith(".py") else getattr(module, "__file__", None)
        if path:
            roots.add(os.path.dirname(os.path.abspath(path)))
    found = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path.endswith(".py"):
            path = os.path.abspath(path)
            if _is_below(path, roots) and not _is_foreign(path):
                seen = stamp(path)
                if seen is not None:
                    found[path] = seen
    return found


def _is_below(path: str, roots: Collection[str]) -> bool:
    return any(path.startswith(root.rstrip("/") + "/") for root in roots)


def _is_foreign(path: str) -> bool:
    """Tell whether a file belongs to Python, to a package or to spooler."""
    if not _INSTALLED.isdisjoint(path.split("/")):
        return True
    paths = sysconfig.get_paths()
    return _is_below(path, (_OWN, paths["stdlib"], paths["platstdlib"]))
