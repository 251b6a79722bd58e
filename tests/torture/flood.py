"""Floods of junk: how long good tasks wait, what it costs, and that nothing is lost."""

import os
import random
import shutil
import tempfile
from pathlib import Path
from time import monotonic
from typing import Final

from ..integration.conftest import Box
from ..integration.flood import Figures, Flood
from ..integration.test_hostile import can_be_made_immutable
from . import Report

ABOUT: Final = "thousands of junk files: good tasks run, nothing spins or is lost"

COUNTS: Final = (5_000, 20_000, 100_000)
"""Junk of the rounds, while there is time; then again from the beginning."""


def run(budget: float, seed: int) -> Report:
    """Flood spools for so many seconds."""
    end, report, chance = monotonic() + budget, Report(), random.Random(seed)
    worst = Figures(0)
    rounds = 0
    while rounds == 0 or monotonic() < end - 60:
        count = COUNTS[rounds % len(COUNTS)]
        if count > COUNTS[0] and budget < 300:
            count = COUNTS[0]
        root = Path(tempfile.mkdtemp(prefix="flood"))
        try:
            how, found = _round(root, count, chance)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        rounds += 1
        report.broken += [f"{how} {count}: {each}" for each in found.broken()]
        if how != "immovable" and found.kept != count:
            report.broken.append(f"{how} {count}: only {found.kept} are in corrupt/")
        for name in Figures.__slots__:
            most = max(getattr(worst, name), getattr(found, name))
            setattr(worst, name, most)
    report.figures = {"rounds": rounds}
    for name in Figures.__slots__:
        value = getattr(worst, name)
        report.figures[name] = round(value, 2) if isinstance(value, float) else value
    return report


def _round(root: Path, count: int, chance: random.Random) -> tuple[str, Figures]:
    box = Box(root)
    try:
        ways = ["live", "before"]
        if os.geteuid() == 0 and can_be_made_immutable(root / "x"):
            ways.append("immovable")
        how = chance.choice(ways)
        if how == "immovable":
            return how, Flood(box, min(count, 20_000)).run_immovable()
        return how, Flood(box, count).run(before=how == "before")
    finally:
        box.close()
