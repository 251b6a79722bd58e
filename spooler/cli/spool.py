"""The command ``spool``: put tasks, look at a spool, repair it.

It loads neither the daemon nor the worker, and works without them.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Final

import click
import msgspec

from .. import __version__
from ..clock import CLOCK
from ..codec import parse_at
from ..errors import EXIT_FAILED, NotFoundError, SpoolerError, UsageError
from ..putting import PutOptions, put as put_task
from ..spooldir import SpoolDir, repair
from ..spooldir.body import Body
from ..spooldir.repair import Found
from ..spooldir.root import MARKER
from ..task import DEFAULT_PRIORITY, MAX_PRIORITY, Name, State, check_task_name, iso
from . import output
from .facts import everything, row, state_of
from .group import Call, Commands, dir_and_json

ALL_STATES: Final = ("running", "waiting", "later", "failed", "corrupt")
LIMIT: Final = 50
"""Lines of ``ls``, where nothing else is said."""

_ELSEWHERE: Final = {
    "at": "--at",
    "priority": "--priority",
    "body": "--body",
    "spooler": "--dir",
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

EPILOG = """\b
Examples:
  spool                              what is in ./spool, on one screen
  spool put resize photo=1.png width:=200
  spool --dir /srv/mail/spool ls failed
  spool kick --all --task send_mail

\b
The spool is --dir, else $SPOOL_DIR, else ./spool. --dir and --json may stand before
or after the command. JSON is ASCII, one object a line.

\b
Exit codes: 0 done, 1 failed (no such task, for one), 2 wrong usage, 75 try later
(no space left), 78 something must be put right first (no such spool, not a spool,
no permission), 130 interrupted.

\b
Shell completion, for bash (or zsh_source, fish_source):
  eval "$(_SPOOL_COMPLETE=bash_source spool)"
"""


@click.group(
    cls=Commands,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 90,
    },
)
@click.option(
    "--dir",
    "dir_",
    type=click.Path(readable=False),
    metavar="DIR",
    help="The spool.  [default: $SPOOL_DIR, else ./spool]",
)
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.version_option(__version__, prog_name="spool")
@click.pass_context
def main(context: click.Context, /, **_: Any) -> None:
    """Put tasks into a spool, look at it, repair it.

    Without a command: show its state on one screen. No daemon is needed.
    """
    if context.invoked_subcommand is None:
        context.invoke(status, dir_=None, json_=False)


_STATUS_EXAMPLES: Final = """\b
Example:
  spool status --json | jq .waiting
"""


@main.command(epilog=_STATUS_EXAMPLES)
@dir_and_json
def status(call: Call) -> None:
    """Show on one screen what is in the spool and who works on it."""
    # The locks that tell who is alive are slow to load, and only needed here.
    from ..status import overview  # noqa: PLC0415
    from .screen import screen  # noqa: PLC0415

    facts = overview(call.open(), failures=3)
    if call.json:
        output.say_json([facts])
    else:
        output.say(screen(facts, CLOCK.now_us()))


_INIT_EXAMPLES: Final = """\b
Examples:
  spool init
  spool init /srv/mail/spool
"""


@main.command(epilog=_INIT_EXAMPLES)
@click.argument(
    "directory", type=click.Path(readable=False), metavar="[DIR]", required=False
)
@dir_and_json
def init(call: Call, directory: str | None) -> None:
    """Make a spool. One that is there already is left as it is."""
    spool = SpoolDir(directory or call.path)
    made = not os.path.lexists(os.path.join(spool.path, MARKER))
    spool.create()
    click.get_current_context().call_on_close(spool.close)
    if call.json:
        output.say_json([{"spool": spool.path, "made": made}])
    else:
        output.say(
            [f"{spool.path}: {'is a spool now' if made else 'is a spool already'}"]
        )


# -- put ------------------------------------------------------------------------


_PUT_EXAMPLES: Final = """\b
Examples:
  spool put resize photo=1.png width:=200
  spool put send_mail to=a@example.org --body letter.txt --at +5m
  mysqldump shop | spool put store name=shop --body - --priority 8
"""


@main.command(epilog=_PUT_EXAMPLES)
@click.argument("task", metavar="TASK")
@click.argument("arguments", nargs=-1, metavar="[NAME=TEXT | NAME:=JSON]...")
@click.option("--at", metavar="MOMENT", help="When it is due: +5m, 2026-11-20T21:01Z.")
@click.option(
    "--priority",
    type=click.IntRange(0, MAX_PRIORITY),
    default=DEFAULT_PRIORITY,
    show_default=True,
    help="Smaller is more urgent.",
)
@click.option("--body", metavar="FILE", help="Its content is the body; - is stdin.")
@click.option("--id", "task_id", metavar="HEX", help="Choose the id: 16 hex digits.")
@click.option("--fast", is_flag=True, help="Do not sync: a power cut may lose it.")
@dir_and_json
def put(
    call: Call,
    task: str,
    arguments: Sequence[str],
    at: str | None,
    priority: int,
    body: str | None,
    task_id: str | None,
    fast: bool,
) -> None:
    """Put a task, and print its id.

    No code of yours is loaded: neither the name nor the arguments are checked before
    the task runs. name=text gives text, which the type hints of the function turn into
    numbers, dates or paths when it runs; name:=json gives a value as it is.
    """
    now_us = CLOCK.now_us()
    try:
        due_us = now_us if at is None else parse_at(at, now_us)
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    options = PutOptions(
        at=_EPOCH + timedelta(microseconds=due_us),
        priority=priority,
        body=None if body is None else _open_body(body),
        spool=call.path,
        durability="fast" if fast else "safe",
        id=task_id,
    )
    handle = put_task(check_task_name(task), _arguments(arguments), options)
    try:
        if call.json:
            due = {"priority": priority, "due": iso(due_us)}
            facts = {"id": handle.id, "task": task, **due, "spool": handle.spool}
            output.say_json([facts])
        else:
            output.say([handle.id])
    except OSError as problem:  # it was put all the same: do not have it put again
        output.error(f"task {handle.id} was put, but that cannot be printed: {problem}")
        output.give_up()


def _arguments(given: Sequence[str]) -> bytes:
    """Return the arguments as a JSON object."""
    args: dict[str, str | msgspec.Raw] = {}
    for each in given:
        key, equals, text = each.partition("=")
        if not equals or key in ("", ":"):
            raise UsageError(f"{each!a}: an argument is NAME=TEXT or NAME:=JSON")
        value: str | msgspec.Raw = text
        if key.endswith(":"):
            key = key[:-1]
            value = _raw_json(each, text)
        if key in _ELSEWHERE:
            raise UsageError(f"{key}= is not an argument here: use {_ELSEWHERE[key]}")
        if key in args:
            raise UsageError(f"the argument {key!a} is given twice")
        args[key] = value
    try:
        return msgspec.json.encode(args)
    except UnicodeEncodeError:
        raise UsageError("the arguments are not UTF-8: give them as the body") from None


def _raw_json(argument: str, text: str) -> msgspec.Raw:
    """Return JSON as it was written, on one line: numbers keep all their digits."""
    try:
        msgspec.json.decode(text)
        return msgspec.Raw(msgspec.json.format(text.encode(), indent=-1))
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as problem:
        raise UsageError(f"{argument!a}: not JSON: {problem}") from None


def _open_body(path: str) -> Body:
    if path == "-":
        return _stdin()
    try:
        return click.get_current_context().with_resource(open(path, "rb"))
    except OSError as problem:
        raise UsageError(f"--body {output.text_of(problem)}") from None


# -- ls -------------------------------------------------------------------------


_LS_EXAMPLES: Final = """\b
Examples:
  spool ls
  spool ls failed --task send_mail --limit 0
  spool ls failed --limit 0 | grep Timeout | spool kick -
"""


@main.command(epilog=_LS_EXAMPLES)
@click.argument("states", nargs=-1, type=click.Choice(ALL_STATES), metavar="[STATE]...")
@click.option("--task", metavar="NAME", help="Only tasks of this name.")
@click.option("--priority", type=int, metavar="N", help="Only this priority.")
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
    limit: int | None,
) -> None:
    """List tasks.

    States: running, waiting, later, failed, corrupt; all but corrupt by default.
    """
    spool, now_us = call.open(), CLOCK.now_us()
    wanted = tuple(dict.fromkeys(states)) or ALL_STATES[:-1]
    most = (0 if call.json else LIMIT) if limit is None else limit
    counts: Counter[str] = Counter()
    kept: dict[str, list[Found]] = {state: [] for state in wanted}
    places = {State.WAITING if each == "later" else State(each) for each in wanted}
    for found in repair.ls(spool, *(each for each in State if each in places)):
        state = state_of(found, now_us)
        if state in kept and _fits(found.name, task, priority):
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


def _fits(name: Name | None, task: str | None, priority: int | None) -> bool:
    if name is None:
        return task is None and priority is None
    return task in (None, name.task) and priority in (None, name.priority)


# -- show -----------------------------------------------------------------------


_SHOW_EXAMPLES: Final = """\b
Examples:
  spool show 8c1f
  spool show 8c1f42d09ab3e617 --json | jq .args
"""


@main.command(epilog=_SHOW_EXAMPLES)
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


# -- kick, fail, rm ---------------------------------------------------------------

_IDS = click.argument("ids", nargs=-1, metavar="[ID | -]...")


_KICK_EXAMPLES: Final = """\b
Examples:
  spool kick 8c1f42d09ab3e617
  spool kick --all --task send_mail
  spool ls failed --limit 0 | grep Timeout | spool kick -
"""


@main.command(epilog=_KICK_EXAMPLES)
@_IDS
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
        chosen = [each for each in failed if _fits(each.name, task, None)]
    else:
        chosen = repair.find_all(spool, _ids(ids))

    def move(found: Found) -> str:
        name = repair.kick(spool, found, durable=False)
        return f"{name.folder}/{name}"

    _apply(call, spool, chosen, move, "kicked")


_FAIL_EXAMPLES: Final = """\b
Examples:
  spool fail 8c1f42d09ab3e617
  spool ls waiting --task resize --limit 0 | spool fail -
"""


@main.command(epilog=_FAIL_EXAMPLES)
@_IDS
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

    _apply(call, spool, _find(spool, ids), move, "failed")


_RM_EXAMPLES: Final = """\b
Examples:
  spool rm 8c1f42d09ab3e617
  spool ls corrupt --limit 0 | spool rm -
"""


@main.command(epilog=_RM_EXAMPLES)
@_IDS
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

    _apply(call, spool, _find(spool, ids), move, "removed")


def _find(spool: SpoolDir, ids: Sequence[str]) -> Sequence[Found | NotFoundError]:
    if not ids:
        raise click.UsageError("missing argument 'ID'")
    return repair.find_all(spool, _ids(ids))


def _ids(given: Sequence[str]) -> list[str]:
    ids: list[str] = []
    for each in given:
        ids += _ids_from_stdin() if each == "-" else [each]
    return list(dict.fromkeys(ids))


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise UsageError("- is standard input, which is closed")
    return sys.stdin.buffer


def _ids_from_stdin() -> list[str]:
    ids = []
    for line in _stdin():
        words = os.fsdecode(line).split()
        if not words or words[:2] == list(output.LS_HEADER[:2]):
            continue
        if words[0] in _CUT:
            output.error(f"{' '.join(words[1:])} were not listed: use ls --limit 0")
            continue
        ids.append(words[0])
    return ids


_CUT: Final = ("…", r"\u2026")
"""How the line begins that says that a list is not whole."""


def _apply(
    call: Call,
    spool: SpoolDir,
    chosen: Iterable[Found | NotFoundError],
    move: Callable[[Found], str],
    done: str,
) -> None:
    """Move each, go on after an error, sync what was touched, then tell.

    Args:
        move: Makes the move; returns a path whose folder is to be synced too.
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
