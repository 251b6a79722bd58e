"""The command: ``python -m tests.torture``."""

import argparse
import faulthandler
import importlib
import random
import signal
import sys
import traceback
from collections.abc import Sequence
from time import monotonic
from types import ModuleType
from typing import Final

from . import Report, Skip

TORTURES: Final = ("power", "calls", "fuzz", "model", "storms", "flood", "soak")

PATIENCE: Final = 600.0
"""Seconds above its time after which a torture hangs: all ends, and says where."""


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture",
        description="Try to break what is promised, for as long as you like.",
    )
    parser.add_argument("--list", action="store_true", help="name the tortures")
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        metavar="M",
        help="time for all of them together (default: %(default)g)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=TORTURES,
        metavar="NAME",
        default=TORTURES,
        help="only these",
    )
    parser.add_argument(
        "--seed", type=int, help="what chance begins with (default: by chance)"
    )
    return parser.parse_args(argv)


def _run(name: str, torture: ModuleType, budget: float, seed: int) -> bool:
    """Run one and tell of it; return whether all promises were kept."""
    began = monotonic()
    faulthandler.dump_traceback_later(budget + PATIENCE, exit=True)
    try:
        report: Report = torture.run(budget, seed)
    except Skip as why:
        print(f"{name}: skipped: {why}", flush=True)
        return True
    except Exception:  # noqa: BLE001 (whatever it is, the others go on)
        report = Report(broken=[traceback.format_exc()])
    finally:
        faulthandler.cancel_dump_traceback_later()
    result = "BROKEN" if report.broken else "ok"
    print(f"{name}: {result} {report} seconds={monotonic() - began:.0f}", flush=True)
    for number, what in enumerate(report.broken, 1):
        print(f"{name}: BROKEN {number}: {what}", flush=True)
    if report.broken:
        print(f"{name}: again: --only {name} --seed {seed}", flush=True)
    return not report.broken


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)  # so that nothing that was started is left


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tortures; return 1 if a promise was broken."""
    args = _parse(argv)
    chosen = {n: importlib.import_module(f"{__package__}.{n}") for n in args.only}
    if args.list:
        for name, torture in chosen.items():
            print(f"{name:8}{torture.ABOUT}")
        return 0
    signal.signal(signal.SIGTERM, _stop)
    seed = random.randrange(1 << 32) if args.seed is None else args.seed
    print(f"torture: minutes={args.minutes:g} seed={seed}", flush=True)
    end = monotonic() + args.minutes * 60
    kept = True
    for done, (name, torture) in enumerate(chosen.items()):
        # What one does not use is for those after it.
        budget = max(1.0, (end - monotonic()) / (len(chosen) - done))
        kept = _run(name, torture, budget, seed) and kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
