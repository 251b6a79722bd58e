"""``python -m spooler.ext.uwsgi [--dir DIR]… SCRIPT [ARGUMENT]…``.

Runs a script in which ``import uwsgi`` and ``import uwsgidecorators`` work: to put
tasks from outside of the daemon.
"""

import argparse
import errno
import os
import runpy
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec

from ...errors import EXIT_SETTINGS, EXIT_USAGE
from . import install


def main() -> None:
    """Run a script, or a module with ``-m``, as ``python`` does."""
    parser = argparse.ArgumentParser(
        prog="python -m spooler.ext.uwsgi",
        description="Run a script in which `import uwsgi` works, to put tasks.",
    )
    parser.add_argument(
        "--dir",
        action="append",
        default=[],
        help="a spool; may be given several times (else $SPOOL_DIR, else ./spool)",
    )
    parser.add_argument(
        "--uwsgi-files",
        action="store_true",
        help="write uWSGI's own files, for a uWSGI that runs on the same directory",
    )
    parser.add_argument(
        "-m", dest="module", action="store_true", help="SCRIPT is a module's name"
    )
    parser.add_argument("script", metavar="SCRIPT")
    rest = parser.add_argument(
        "arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER
    )
    rest.required = False  # or the error for no SCRIPT would name it too
    options = parser.parse_args()
    for path in options.dir:
        if not os.path.isdir(path):
            why = f"there is no such directory: make it with `spool init {path}`"
            if os.path.exists(path):
                why = "not a directory"
            parser.exit(EXIT_SETTINGS, f"{parser.prog}: --dir {path}: {why}\n")
    install(options.dir, files=options.uwsgi_files)
    sys.argv[:] = [options.script, *(options.arguments or ())]
    folder = os.path.dirname(os.path.abspath(options.script))
    sys.path.insert(0, os.getcwd() if options.module else folder)
    look = _why_no_module if options.module else _why_no_script
    problem = look(options.script)
    if problem:
        parser.exit(EXIT_USAGE, f"{parser.prog}: {problem}\n")
    if options.module:
        runpy.run_module(options.script, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(options.script, run_name="__main__")


def _why_no_script(path: str) -> str:
    """Return why a script cannot be run, as Python says it; empty if it can."""
    where = os.path.abspath(path)
    if os.path.isdir(path):
        found = PathFinder.find_spec("__main__", [path])
        return "" if found else f"can't find '__main__' module in {where!r}"
    try:
        os.stat(path)
        if os.access(path, os.R_OK):  # not opened: what is read may be read only once
            return ""
        number = errno.EACCES
    except OSError as error:
        number = error.errno or 0
    return f"can't open file {where!r}: [Errno {number}] {os.strerror(number)}"


def _why_no_module(name: str) -> str:
    """Return why a module cannot be run, as Python says it; empty if it can.

    Imports the packages that it is in, as running it does.
    """
    if name.startswith("."):
        return "Relative module names not supported"
    try:
        found = find_spec(name)
        if found is not None and found.submodule_search_locations is not None:
            if find_spec(f"{name}.__main__") is not None:
                return ""
            what = f"{name!r} is a package and cannot be directly executed"
            return f"No module named {name}.__main__; {what}"
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # something else that a package imports
        found = None
    return "" if found else f"No module named {name}"


if __name__ == "__main__":
    main()
