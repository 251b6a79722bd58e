"""``python -m spooler.ext.uwsgi [--dir DIR]… SCRIPT [ARGUMENT]…``.

Runs a script in which ``import uwsgi`` and ``import uwsgidecorators`` work: to put
tasks from outside of the daemon.
"""

import argparse
import os
import runpy
import sys

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
    parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    install(options.dir, files=options.uwsgi_files)
    sys.argv[:] = [options.script, *options.arguments]
    if options.module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(options.script, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(options.script)))
        runpy.run_path(options.script, run_name="__main__")


if __name__ == "__main__":
    main()
