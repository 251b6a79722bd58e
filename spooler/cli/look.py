"""The commands ``spool ls`` and ``spool show``: look at tasks, and change nothing.

Both take a task as they find it: it may move on, or be gone, while they print.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import click

from ..clock import CLOCK
from ..spooldir import repair
from ..spooldir.repair import Found
from ..task import State
from . import output
from .facts import everything, fits, row, state_of
from .group import Call, dir_and_json

ALL_STATES: Final = ("running", "waiting", "later", "held", "failed", "corrupt")
RETRYING: Final = "retrying"
"""What waits, due or later, after an attempt that has failed: no state of its own."""

LIMIT: Final = 50
"""Lines of ``ls``, where nothing else is said."""

_LS_EXAMPLES: Final = """\b
Examples:
  spool ls
  spool ls failed --task send_mail --limit 0
  spool ls failed --limit 0 | grep Timeout | spool kick -
  spool ls retrying --min-attempts 10
  spool ls retrying --limit 0 | grep Timeout | spool now -
"""


@click.command(epilog=_LS_EXAMPLES)
@click.argument(
    "states",
    nargs=-1,
    type=click.Choice((*ALL_STATES, RETRYING)),
    metavar="[STATE]...",
)
@click.option("--task", metavar="NAME", help="Only tasks of this name.")
@click.option("--priority", type=int, metavar="N", help="Only this priority.")
@click.option(
    "--min-attempts",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Only tasks that have failed N times or more, whatever their state.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help=f"At most so many lines; 0 for all.  [default: {LIMIT}; all with --json]",
)
@dir_and_json
def ls(
    call: Call,
    states: Sequence[str],
    task: str | None,
    priority: int | None,
    min_attempts: int,
    limit: int | None,
) -> None:
    """List tasks.

    States: running, waiting, later, held, failed, corrupt; all but corrupt by default.
    Those that are waiting or later after an attempt that has failed are retrying, too.
    """
    spool, now_us = call.open(), CLOCK.now_us()
    wanted = tuple(dict.fromkeys(states)) or ALL_STATES[:-1]
    most = (0 if call.json else LIMIT) if limit is None else limit
    counts: Counter[str] = Counter()
    kept: dict[str, list[Found]] = {state: [] for state in wanted}
    places = {_place(each) for each in wanted}
    for found in repair.ls(spool, *(each for each in State if each in places)):
        words = (state_of(found, now_us), RETRYING if _retries(found) else "")
        state = next((each for each in wanted if each in words), None)
        if state is None or _attempts(found) < min_attempts:
            continue
        if fits(found.name, task, priority):
            counts[state] += 1
            if not most or len(kept[state]) < most:
                kept[state].append(found)
    listed = [found for state in wanted for found in kept[state]]
    listed = listed[: most or None]
    rows = [row(spool, found, now_us) for found in listed]
    if call.json:
        output.say_json(rows)
        return
    output.say(output.listing(rows, now_us))
    if hidden := counts.total() - len(listed):
        output.say([f"… {hidden} more"])


def _place(word: str) -> State:
    return State.WAITING if word in ("later", RETRYING) else State(word)


def _attempts(found: Found) -> int:
    return found.name.attempt if found.name else 0


def _retries(found: Found) -> bool:
    return found.state is State.WAITING and _attempts(found) > 0


_SHOW_EXAMPLES: Final = """\b
Examples:
  spool show 8c1f
  spool show 8c1f42d09ab3e617 --json | jq .args
"""


@click.command(epilog=_SHOW_EXAMPLES)
@click.argument("task_id", metavar="ID")
@dir_and_json
def show(call: Call, task_id: str) -> None:
    """Show everything about one task, or one corrupt file.

    An id may be shortened. The name of the file is taken as well.
    """
    spool = call.open()
    facts = everything(spool, repair.find(spool, task_id))
    if call.json:
        output.say_json([facts])
    else:
        output.say(output.page(facts, CLOCK.now_us()))
