"""The commands ``spool kick``, ``spool fail`` and ``spool rm``: repair a spool.

A command on many tasks takes ``[ID | -]...`` and goes on after an error. What such
commands share is here, for other modules too: ``ids_argument`` takes the ids,
``find_tasks`` finds the tasks, ``apply`` moves them and tells.
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import click

from ..errors import EXIT_FAILED, NotFoundError, SpoolerError
from ..spooldir import SpoolDir, repair
from ..spooldir.repair import Found
from ..task import State
from . import output
from .facts import fits
from .group import Call, dir_and_json, stdin

ids_argument = click.argument("ids", nargs=-1, metavar="[ID | -]...")
"""Adds the argument ``ids``, which is for ``find_tasks``."""

_CUT: Final = ("…", r"\u2026")
"""How the line begins that says that a list is not whole."""

_KICK_EXAMPLES: Final = """\b
Examples:
  spool kick 8c1f42d09ab3e617
  spool kick --all --task send_mail
  spool ls failed --limit 0 | grep Timeout | spool kick -
"""


@click.command(epilog=_KICK_EXAMPLES)
@ids_argument
@click.option("--all", "every", is_flag=True, help="All failed tasks.")
@click.option("--task", metavar="NAME", help="With --all: only those of this name.")
@dir_and_json
def kick(call: Call, ids: Sequence[str], every: bool, task: str | None) -> None:
    """Make failed tasks ready again: due now, attempt 0.

    Ids may be shortened; - reads them from stdin, the first word of each line.
    """
    if every == bool(ids) or (task is not None and not every):
        raise click.UsageError("give ids, or --all (and with it --task)")
    spool = call.open()
    chosen: Sequence[Found | NotFoundError]
    if every:
        failed = repair.ls(spool, State.FAILED)
        chosen = [each for each in failed if fits(each.name, task, None)]
    else:
        chosen = find_tasks(spool, ids)

    def move(found: Found) -> str:
        name = repair.kick(spool, found, durable=False)
        return f"{name.folder}/{name}"

    apply(call, spool, chosen, move, "kicked")


_FAIL_EXAMPLES: Final = """\b
Examples:
  spool fail 8c1f42d09ab3e617
  spool ls waiting --task resize --limit 0 | spool fail -
"""


@click.command(epilog=_FAIL_EXAMPLES)
@ids_argument
@dir_and_json
def fail(call: Call, ids: Sequence[str]) -> None:
    """Give waiting tasks up.

    They go to failed, and stay there until kicked.

    Ids may be shortened; - reads them from stdin, the first word of each line.
    """
    spool = call.open()

    def move(found: Found) -> str:
        repair.fail(spool, found)
        return found.path

    apply(call, spool, find_tasks(spool, ids), move, "failed")


_RM_EXAMPLES: Final = """\b
Examples:
  spool rm 8c1f42d09ab3e617
  spool ls corrupt --limit 0 | spool rm -
"""


@click.command(epilog=_RM_EXAMPLES)
@ids_argument
@dir_and_json
def rm(call: Call, ids: Sequence[str]) -> None:
    """Remove tasks that wait or failed, and corrupt files, for good.

    A running task is refused: let it end, or stop its daemon first.

    Ids may be shortened; - reads them from stdin, the first word of each line.
    """
    spool = call.open()

    def move(found: Found) -> str:
        repair.remove(spool, found, durable=False)
        return found.path

    apply(call, spool, find_tasks(spool, ids), move, "removed")


def find_tasks(spool: SpoolDir, ids: Sequence[str]) -> Sequence[Found | NotFoundError]:
    """Return the task that each id names, in the order of the ids, each id once.

    Where an id names none, or several, stands a ``NotFoundError``: ``apply`` tells it.

    Args:
        spool: The spool, open.
        ids: What ``ids_argument`` took: ids, shortened or not, and - for stdin.

    Raises:
        click.UsageError: There is none.
        UsageError: - is given, and standard input is closed.
    """
    if not ids:
        raise click.UsageError("missing argument 'ID'")
    return repair.find_all(spool, _ids(ids))


def _ids(given: Sequence[str]) -> list[str]:
    ids: list[str] = []
    for each in given:
        ids += _ids_from_stdin() if each == "-" else [each]
    return list(dict.fromkeys(ids))


def _ids_from_stdin() -> list[str]:
    ids = []
    for line in stdin():
        words = os.fsdecode(line).split()
        if not words or words[:2] == list(output.LS_HEADER[:2]):
            continue
        if words[0] in _CUT:
            output.error(f"{' '.join(words[1:])} were not listed: use ls --limit 0")
            continue
        ids.append(words[0])
    return ids


def apply(
    call: Call,
    spool: SpoolDir,
    chosen: Iterable[Found | NotFoundError],
    move: Callable[[Found], str],
    done: str,
) -> None:
    """Move each, go on after an error, sync what was touched, then tell.

    Exits with 1 if one was not found or could not be moved.

    Args:
        call: Says whether to print JSON.
        spool: The spool, open.
        chosen: The tasks, as ``find_tasks`` returns them.
        move: Makes the move; returns a path whose folder is to be synced too.
        done: The word printed behind the id of each that was moved.
    """
    touched: list[str] = []
    told: list[dict[str, object]] = []
    for found in chosen:
        if isinstance(found, NotFoundError):
            told.append({"id": found.task_id, "task": None, "error": str(found)})
            continue
        task = found.name.task if found.name else None
        problem = None
        try:
            touched += [move(found), found.path]
        except (SpoolerError, OSError) as caught:
            problem = output.text_of(caught)
        told.append({"id": found.id, "task": task, "error": problem})
    repair.sync(spool, touched)
    if call.json:
        output.say_json({**each, "done": each["error"] is None} for each in told)
    else:
        fine = [each for each in told if each["error"] is None]
        output.say(
            f"{each['id']}  {done}  {each['task'] or ''}".rstrip() for each in fine
        )
        for each in told:
            if each["error"] is not None:
                output.error(each["error"])
    if any(each["error"] is not None for each in told):
        sys.exit(EXIT_FAILED)
