"""The command ``spool health``: does work make progress?"""

import sys
from typing import Final

import click

from ..clock import CLOCK
from ..errors import EXIT_FAILED, UsageError
from . import output
from .group import Call, dir_and_json

_EXAMPLES: Final = """\b
Examples:
  spool health
  spool health --progress --max-age 900
  spool health --max-failed 100 --json | jq .problems
  spool health --max-retrying 0 --min-attempts 10

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
    "--max-retrying",
    type=click.IntRange(min=0),
    metavar="N",
    help="How many tasks may wait for another attempt.  [default: any number]",
)
@click.option(
    "--min-attempts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of those only count what has failed N times or more.  [default: 1]",
)
@click.option(
    "--max-unknown",
    type=click.IntRange(min=0),
    metavar="N",
    help="How many tasks may wait though no daemon has a function of their name."
    "  [default: any number]",
)
@click.option(
    "--progress",
    is_flag=True,
    help="Whatever is retried, unknown, has failed or is corrupt: for a probe that"
    " restarts the daemon.",
)
@dir_and_json
def health(
    call: Call,
    max_age: float,
    max_idle: float,
    max_failed: int,
    max_corrupt: int,
    max_retrying: int | None,
    min_attempts: int | None,
    max_unknown: int | None,
    progress: bool,
) -> None:
    """Tell whether work makes progress: exit code 0 if it does, 1 if not.

    For the probe of a container, a load balancer or a monitor. It opens no task.
    """
    from ..health import Bounds, health as look  # noqa: PLC0415 (slow to load)

    if min_attempts is not None and max_retrying is None:
        raise UsageError("--min-attempts needs --max-retrying")
    bounds = Bounds(max_age, max_idle, None, None)
    if not progress:
        bounds = Bounds(
            max_age,
            max_idle,
            max_failed,
            max_corrupt,
            max_retrying,
            min_attempts or 1,
            max_unknown,
        )
    facts = look(call.open(), bounds)
    if call.json:
        output.say_json([facts])
    elif facts["healthy"]:
        now_us = CLOCK.now_us()
        counted = {word: facts[word] for word in ("retrying", "unknown")}
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
                + "".join(f", {n} {w}" for w, n in counted.items() if n is not None)
            ]
        )
    else:
        output.say(f"unhealthy: {problem}" for problem in facts["problems"])
    if not facts["healthy"]:
        sys.exit(EXIT_FAILED)
