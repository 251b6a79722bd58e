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
from typing import Final

from spooler import __version__

from .bench import Bench, Sizes, tell
from .every import MEASURES, Measure
from .figures import Report, write
from .ledger import LEDGER, make_ledger, open_ledger
from .peers import Peer, all_peers
from .places import Place, in_memory, on_disk
from .processes import FailedError, Processes
from .table import Table

ROUNDS: Final = 5
ROUNDS_OF_MANY: Final = 3
"""At most so many of the rounds measure a million tasks too."""


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure spooler beside the same loop written by hand, and beside"
        " other ways to run a function later.",
    )
    parser.add_argument(
        "--only",
        metavar="TEXT",
        action="append",
        help="only the measures with this in their name; may be given several times",
    )
    parser.add_argument("--list", action="store_true", help="name the measures")
    parser.add_argument(
        "--place", choices=("tmpfs", "ext4"), help="only in memory, or only on disk"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        help="measure on this file system instead of a fresh ext4 with a journal"
        " (which takes root)",
    )
    parser.add_argument("--no-peers", action="store_true", help="spooler alone")
    parser.add_argument("--rounds", type=int, help=f"how often (default: {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--scale", type=float, default=1.0, help="size of all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="DIR",
        help="put the table and a plot there: figures.md, figures.svg",
    )
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


def _places(args: argparse.Namespace, stack: ExitStack) -> list[Place]:
    places = []
    if args.place != "ext4":
        memory = in_memory(stack)
        if memory is None:
            print("no tmpfs here")
        else:
            places.append(memory)
    if args.place != "tmpfs":
        places.append(on_disk(stack, args.dir))
    if not places:
        raise FailedError("no place to measure in")
    return places


def _chosen(only: list[str] | None) -> list[Measure]:
    chosen = [
        each
        for each in MEASURES
        if only is None or any(text in each.name for text in only)
    ]
    if not chosen:
        raise FailedError(f"no measure has {only} in its name: see --list")
    return chosen


def _those_there(peers: Sequence[Peer]) -> tuple[list[Peer], dict[str, str]]:
    there, absent = [], {}
    for peer in peers:
        why = peer.why_not()
        if why is None:
            there.append(peer)
        else:
            absent[peer.name] = why
    return there, absent


def _prepare(args: argparse.Namespace, stack: ExitStack) -> tuple[Report, list[Bench]]:
    sizes = Sizes().scaled(args.scale)
    places = _places(args, stack)
    # After the places: its processes must be gone before a mount can be undone.
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_fast(places))))
    ledger = home / "ledger"
    make_ledger(ledger, sizes.cells)
    cells = open_ledger(str(ledger))
    processes = Processes({LEDGER: str(ledger)}, home / "spoold.log")
    stack.callback(processes.close)
    found = [] if args.no_peers else all_peers(processes, cells)
    peers, absent = _those_there(found)
    rounds = args.rounds or (1 if args.quick else ROUNDS)
    report = Report(_machine(), places, rounds, absent, Table())
    benches = []
    for place in places:
        beside = peers if place.is_disk else []
        bench = Bench(place, sizes, processes, cells, ledger, report.table, beside)
        benches.append(bench)
        if not bench.has_room:
            report.absent[f"a million tasks on {place.name}"] = "no room for them"
    return report, benches


def _measure(
    report: Report, benches: Sequence[Bench], chosen: Sequence[Measure]
) -> None:
    for bench in benches:
        bench.warm_up()
    for number in range(report.rounds):
        for bench in benches:
            bench.begin_round()
            for measure in chosen:
                if _is_wanted(measure, bench, number, report.rounds):
                    where = f"{measure.name}, {bench.place.name}"
                    tell(f"round {number + 1} of {report.rounds}: {where}")
                    _run(measure, bench, where)


def _is_wanted(measure: Measure, bench: Bench, number: int, rounds: int) -> bool:
    of_many = min(rounds, ROUNDS_OF_MANY)
    if measure.many and (number >= of_many or not bench.has_room):
        return False
    if measure.last and number < of_many - 1:
        return False
    return bench.place.is_disk or not measure.on_disk


def _run(measure: Measure, bench: Bench, where: str) -> None:
    try:
        measure.run(bench)
    except FailedError as error:
        said = bench.processes.said()
        raise FailedError(f"{where}: {error}\n{said}") from error


def _fast(places: list[Place]) -> Path | None:
    return next((place.path for place in places if not place.is_disk), None)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, clean up; return the exit code."""
    args = _parse(argv)
    if args.list:
        print("\n".join(measure.name for measure in MEASURES))
        return 0
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            chosen = _chosen(args.only)
            report, benches = _prepare(args, stack)
            print(report.about(), flush=True)
            try:
                _measure(report, benches, chosen)
            finally:  # what was measured until then is not lost
                print(f"\n{report.tables()}\n", flush=True)
    except FailedError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    print(f"{time.monotonic() - began:.0f} s in all")
    if args.json is not None:
        args.json.write_text(
            json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8"
        )
    if args.write is not None:
        write(report, args.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
