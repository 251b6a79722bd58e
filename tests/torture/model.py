"""Random moves against a model in memory, and pairs of moves at the same time."""

import random
import traceback
from collections import Counter
from time import monotonic
from typing import Final

from hypothesis import HealthCheck, Phase, seed as seeded, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.model.pairs import pairs, problems

from . import Report
from .fuzz import quick

ABOUT: Final = "random moves of many against a model; two moves at the same time"

EXAMPLES: Final = 10
"""Walks in a go, of ``STEPS`` moves each."""

STEPS: Final = 60
SHARE: Final = 0.5
"""Part of the time that is for walks; the rest is for pairs."""

_SETTINGS: Final = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    report_multiple_bugs=False,
)


def run(budget: float, seed: int) -> Report:
    """Walk and pair for so many seconds."""
    report, began = Report(), monotonic()
    with quick():
        walks = _walk(report, began + budget * SHARE, seed)
        tried = _pair(report, began + budget, seed)
    report.figures["walks"] = walks
    report.figures["moves"] = walks * STEPS
    report.figures.update(tried)
    return report


def _walk(report: Report, end: float, seed: int) -> int:
    walks = 0
    while monotonic() < end and not report.broken:
        try:
            machine = seeded(seed + walks)(Machine)
            run_state_machine_as_test(machine, settings=_SETTINGS)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
            report.broken.append("".join(traceback.format_exception(error))[-6000:])
        walks += EXAMPLES
    return walks


def _pair(report: Report, end: float, seed: int) -> Counter[str]:
    chance, tried = random.Random(seed), Counter[str]()
    todo = [(pair, keyed) for pair in pairs() for keyed in (True, False)]
    while not tried or (monotonic() < end and len(report.broken) < EXAMPLES):
        (state, first, second), keyed = chance.choice(todo)
        if not keyed and {first, second} & {"put", "replace"}:
            continue
        fatal = chance.random() < 0.3
        tried["pairs"] += 1
        tried["killed" if fatal else "stopped"] += 1
        found = problems(state, first, second, keyed=keyed, fatal=fatal, chance=chance)
        for at, problem in found:
            how = "killed" if fatal else "stopped"
            what = f"{state}: {first} {how} at call {at}, then {second} (keyed={keyed})"
            report.broken.append(f"{what}: {problem}")
    return tried
