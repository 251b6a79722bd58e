"""The command ``spool health``: does work make progress?"""

import sys
from typing import Final

import click

from ..clock import CLOCK
from ..errors import EXIT_FAILED
from . import output
from .group import Call, dir_and_json

_EXAMPLES: Final = """\b
Examples:
  spool health
  spool health --progress --max-age 900
  spool health --max-failed 100 --json | jq .problems

\b
Exit codes: 0 healthy, 1 not, 78 no such spool, or no permission.
"""


@click.command(epilog=_EXAMPLES)
@click.option(
    "--max-age",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a due task, or a dropped file, may have waited.",
)
@click.option(
    "--max-idle",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long nothing may have been begun or finished, though a task is due and"
    " a worker is free.",
)
@click.option(
    "--max-failed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="How many tasks may have failed.",
)
@click.option(
    "--max-corrupt",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="How many files may be corrupt.",
)
@click.option(
    "--progress",
    is_flag=True,
    help="Whatever has failed or is corrupt: for a probe that restarts the daemon.",
)
@dir_and_json
def health(
    call: Call,
    max_age: float,
    max_idle: float,
    max_failed: int,
    max_corrupt: int,
    progress: bool,
) -> None:
    """Tell whether work makes progress: exit code 0 if it does, 1 if not.

    For the probe of a container, a load balancer or a monitor. It opens no task.
    """
    from ..health import Bounds, health as look  # noqa: PLC0415 (slow to load)

    most = (None, None) if progress else (max_failed, max_corrupt)
    facts = look(call.open(), Bounds(max_age, max_idle, *most))
    if call.json:
        output.say_json([facts])
    elif facts["healthy"]:
        now_us = CLOCK.now_us()
        moved, oldest = (
            "none" if each is None else f"{output.since(each, now_us)} ago"
            for each in (facts["moved"], facts["oldest"])
        )
        output.say(
            [
                f"healthy: {output.some(facts['daemons'], 'daemon')},"
                f" {output.some(facts['workers'], 'worker')},"
                f" {facts['running']} running, last move {moved}, oldest due {oldest},"
                f" {facts['failed']} failed, {facts['corrupt']} corrupt"
            ]
        )
    else:
        output.say(f"unhealthy: {problem}" for problem in facts["problems"])
    if not facts["healthy"]:
        sys.exit(EXIT_FAILED)
