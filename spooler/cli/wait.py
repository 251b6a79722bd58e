"""The commands ``spool wait`` and ``spool result``: what became of a task."""

import sys
from collections.abc import Iterator, Sequence
from typing import Final

import click
import msgspec

from ..clock import CLOCK
from ..errors import (
    EXIT_FAILED,
    EXIT_TRY_LATER,
    NotFoundError,
    ResultError,
    ResultGoneError,
)
from ..moments import duration
from ..spooldir import SpoolDir, repair, results
from ..spooldir.repair import Found
from ..spooldir.results import Record
from ..spooldir.tracking import Wanted
from ..task import State, is_id
from . import output
from .group import Call, dir_and_json
from .repair import find_tasks, ids_argument

_WAIT_EXAMPLES: Final = """\b
Examples:
  spool wait $(spool put resize photo=1.png)
  spool wait 8c1f42d09ab3e617 05b2d92dcbf5666b --timeout 10m
  spool ls running --limit 0 | spool wait -
"""


@click.command(epilog=_WAIT_EXAMPLES)
@ids_argument
@click.option(
    "--timeout",
    metavar="TIME",
    help="Wait at most so long for all of them: 90, 90s, 10m, 1h.",
)
@dir_and_json
def wait(call: Call, ids: Sequence[str], timeout: str | None) -> None:
    """Wait until tasks have ended, and tell how, in the order of the ids.

    Exits with 1 if one failed, with 75 if the time is over first. A task that is
    nowhere has ended.

    Ids may be shortened while the tasks are there; - reads them from stdin, the first
    word of each line.
    """
    spool, seconds = call.open(), _seconds(timeout)
    chosen = find_tasks(spool, ids)
    deadline = None if seconds is None else CLOCK.monotonic() + seconds
    code = 0
    for facts in _ends(spool, chosen, deadline):
        if call.json:
            output.say_json([facts])
        elif facts["error"] is None:
            line = f"{facts['id']}  {facts['state']}  {facts['task'] or ''}"
            output.say([line.rstrip()])
        else:
            error = str(facts["error"]).removeprefix(f"{facts['id']}: ")
            output.error(f"{facts['id']}: {facts['state'] or '?'}: {error}")
        if facts["state"] == "unfinished":
            code = EXIT_TRY_LATER
        elif facts["state"] != "finished":
            code = code or EXIT_FAILED
    sys.exit(code)


def _seconds(timeout: str | None) -> float | None:
    try:
        return duration("--timeout", float(timeout) if timeout else None)
    except ValueError:
        return duration("--timeout", timeout)


def _ends(
    spool: SpoolDir, chosen: Sequence[Found | NotFoundError], deadline: float | None
) -> Iterator[dict[str, object]]:
    """Yield how each task has ended, once it has."""
    # The watching is slow to load, and only needed here.
    from .. import waiting  # noqa: PLC0415

    for found in chosen:
        task = None
        if isinstance(found, NotFoundError):
            if not is_id(found.task_id):
                yield _facts(found.task_id, "unknown", None, str(found))
                continue
            wanted = Wanted(found.task_id)
        elif found.name is None:
            yield _facts(found.id, "corrupt", None, _why(spool, found))
            continue
        else:
            wanted, task = Wanted(found.id, found.name), found.name.task
        left = None if deadline is None else max(0.0, deadline - CLOCK.monotonic())
        try:
            end = waiting.wait(spool, wanted, left)
        except TimeoutError:
            yield _facts(wanted.id, "unfinished", task, "the time is over")
            continue
        error = None
        if end.state is not None:
            error = waiting.failure(spool, wanted.id, end).error
        elif end.removed:
            error = "it was removed"
        state = "removed" if end.removed else end.state or "finished"
        yield _facts(wanted.id, str(state), task, error)


def _facts(
    task_id: str, state: str, task: str | None, error: str | None
) -> dict[str, object]:
    return {"id": task_id, "state": state, "task": task, "error": error}


def _why(spool: SpoolDir, found: Found) -> str:
    return str(repair.why(spool, found).get("reason") or "it is corrupt")


_RESULT_EXAMPLES: Final = """\b
Examples:
  spool result 8c1f42d09ab3e617
  spool wait 8c1f42d09ab3e617 && spool result 8c1f42d09ab3e617 --json | jq .result
"""


@click.command(epilog=_RESULT_EXAMPLES)
@click.argument("task_id", metavar="ID")
@dir_and_json
def result(call: Call, task_id: str) -> None:
    """Print what a task returned, as JSON, if that was kept.

    With --json: all that is kept of it. Exits with 1 if the task failed or nothing is
    kept, and with 75 if it has not ended yet.
    """
    spool = call.open()
    record = _record(spool, task_id)
    if call.json:
        output.say_json([_plain(record)])
        if not record.ok:
            sys.exit(EXIT_FAILED)
    elif record.ok:
        output.say_json([record.value()])
    else:
        output.error(f"task {record.id} failed: {record.error}")
        sys.exit(EXIT_FAILED)


def _record(spool: SpoolDir, task_id: str) -> Record:
    """Return what is kept of a task.

    Raises:
        ResultError: Nothing is.
        NotFoundError: Several ids begin so.
    """
    if is_id(task_id):
        record = results.read(spool, task_id)
        if record is not None:
            return record
    found = repair.find_all(spool, [task_id])[0]
    if isinstance(found, NotFoundError):
        record = results.read(spool, _whole(spool, found))
        if record is None:
            raise ResultGoneError(found.task_id, "there is no result of it")
        return record
    if found.state in (State.FAILED, State.CORRUPT):
        why = repair.why(spool, found)
        raise ResultError(
            found.id, f"is {found.state}: {why.get('error') or why.get('reason')}"
        )
    output.error(f"task {found.id}: is {found.state}, and has no result yet")
    sys.exit(EXIT_TRY_LATER)


def _whole(spool: SpoolDir, problem: NotFoundError) -> str:
    """Return the one id of a kept result that begins so."""
    begin = problem.task_id
    kept = [name for name in spool.names("done") if begin and name.startswith(begin)]
    if not kept:
        raise ResultGoneError(begin, "there is no such task, and no result of one")
    if len(kept) > 1:
        raise NotFoundError(begin, f"{len(kept)} results begin so")
    return kept[0]


def _plain(record: Record) -> dict[str, object]:
    facts = msgspec.structs.asdict(record)
    return {**facts, "result": None if record.problem else record.value()}
