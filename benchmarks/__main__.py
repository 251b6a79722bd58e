"""The command: ``python -m benchmarks``."""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from spooler import __version__

from .ledger import LEDGER, make_ledger, open_ledger
from .measures import Measures, Sizes, one_round
from .places import Place, in_memory, on_disk
from .processes import FailedError, Processes
from .table import Table


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure spooler beside the same loop written by hand.",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        help="measure on this file system instead of a fresh ext4 with a journal"
        " (which takes root); tmpfs is measured besides",
    )
    parser.add_argument("--rounds", type=int, help="how often (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--scale", type=float, default=1.0, help="size of all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    return parser.parse_args(argv)


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"
        f" {platform.release()}, Python {platform.python_version()},"
        f" spooler {__version__}, load {os.getloadavg()[0]:.1f}"
    )


def _measure(args: argparse.Namespace, stack: ExitStack) -> dict[str, Any]:
    sizes = Sizes().scaled(args.scale)
    rounds = args.rounds or (1 if args.quick else 5)
    disk = on_disk(stack, args.dir)
    memory = in_memory(stack)
    places = [disk] if memory is None else [memory, disk]
    # After the places: its processes must be gone before a mount can be undone.
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_fast(memory))))
    make_ledger(home / "ledger", sizes.cells)
    processes = Processes({LEDGER: str(home / "ledger")}, home / "spoold.log")
    stack.callback(processes.close)
    machine = _machine()
    print(machine)
    for place in places:
        print(f"{place.name}: {place.what}")
    if memory is None:
        print("no tmpfs here: measuring on disk only")
    table = Table()
    cells = open_ledger(str(home / "ledger"))
    all_measures = [
        (place, Measures(place, sizes, processes, cells, table)) for place in places
    ]
    for number in range(rounds):
        for place, measures in all_measures:
            for what in one_round(measures, place):
                _tell(f"round {number + 1} of {rounds}, {place.name}: {what}")
    _tell("")
    print(f"\nmedian (smallest..largest) of {rounds} rounds\n")
    print(table.text())
    return {
        "machine": machine,
        "places": {place.name: place.what for place in places},
        "rounds": rounds,
        "rows": [row.as_json() for row in table.rows],
    }


def _fast(memory: Place | None) -> Path | None:
    return None if memory is None else memory.path


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, clean up; return the exit code."""
    args = _parse(argv)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            result = _measure(args, stack)
    except FailedError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    print(f"\n{time.monotonic() - began:.0f} s in all")
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
