"""The command ``spool put``: a task from words, with a body from a file.

Words become the JSON of the arguments, numbers with all their digits; the body is
streamed. The application is not loaded, so only the form of a task is checked.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

import click
import msgspec

from ..addresses import parse_address
from ..clock import CLOCK
from ..errors import UsageError
from ..moments import parse_at
from ..options import NO_OPTIONS, IfExists, RunOptions, run_options
from ..putting import PutOptions, expires_for_file, put as put_task
from ..spooldir.body import Body
from ..task import DEFAULT_PRIORITY, MAX_PRIORITY, check_task_name, iso
from ..tasks import followers
from . import output
from .group import Call, dir_and_json, stdin
from .many import put_lines

_ELSEWHERE: Final = {
    "at": "--at",
    "priority": "--priority",
    "body": "--body",
    "spooler": "--dir or --spooler",
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_PUT_EXAMPLES: Final = """\b
Examples:
  spool put resize photo=1.png width:=200
  spool put send_mail to=a@example.org --body letter.txt --at +5m
  mysqldump shop | spool put store name=shop --body - --priority 8
  spool put rebuild shop=7 --key shop-7 --unique-for 1h
  spool put --from tasks.jsonl
  spool put resize --from widths.jsonl --at +1h
  spool put import_rows file=rows.csv --then build_index --on-failure tell_somebody
  spool put resize photo=1.png --spooler photos.example.org:10001 --outbox
"""


@click.command(epilog=_PUT_EXAMPLES)
@click.argument("task", metavar="TASK", required=False)
@click.argument("arguments", nargs=-1, metavar="[NAME=TEXT | NAME:=JSON]...")
@click.option("--at", metavar="MOMENT", help="When it is due: +5m, 2026-11-20T21:01Z.")
@click.option(
    "--priority",
    type=click.IntRange(0, MAX_PRIORITY),
    default=DEFAULT_PRIORITY,
    show_default=True,
    help="Smaller is more urgent.",
)
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="Put a task for each line of JSON in it; - is stdin.",
)
@click.option("--body", metavar="FILE", help="Its content is the body; - is stdin.")
@click.option("--id", "task_id", metavar="HEX", help="Choose the id: 16 hex digits.")
@click.option("--key", metavar="KEY", help="One task with this key at a time.")
@click.option(
    "--if-exists",
    type=click.Choice(get_args(IfExists)),
    help="If the key is taken: put none, fail, or replace.  [default: skip]",
)
@click.option(
    "--unique-for",
    metavar="TIME",
    help="The key is taken for so long, even if the task has ended: 90s, 10m, 1h.",
)
@click.option(
    "--expires",
    metavar="MOMENT",
    help="If it was not begun by then it fails: +10m, 2026-11-20T21:01Z.",
)
@click.option(
    "--soft-timeout", metavar="TIME", help="Interrupt it after so long: 90s, 10m."
)
@click.option("--hard-timeout", metavar="TIME", help="Kill its worker after so long.")
@click.option("--keep-result", metavar="TIME", help="Keep what it returns for so long.")
@click.option(
    "--keep-log/--no-keep-log", default=None, help="Keep what it prints, or never."
)
@click.option(
    "--spooler",
    metavar="ADDRESS",
    help="Send it to the spoold that listens at HOST:PORT, or at this socket's path.",
)
@click.option(
    "--outbox",
    is_flag=True,
    help="With --spooler: put it here; spoold sends it as soon as it can.",
)
@click.option("--fast", is_flag=True, help="Do not sync: a power cut may lose it.")
@click.option(
    "--then",
    multiple=True,
    metavar="TASK",
    help="Put this task when it has succeeded; may be given several times.",
)
@click.option(
    "--on-failure",
    multiple=True,
    metavar="TASK",
    help="Put this task when it is given up; may be given several times.",
)
@dir_and_json
def put(
    call: Call,
    task: str | None,
    arguments: Sequence[str],
    at: str | None,
    priority: int,
    source: str | None,
    body: str | None,
    task_id: str | None,
    fast: bool,
    then: Sequence[str],
    on_failure: Sequence[str],
    key: str | None,
    spooler: str | None,
    outbox: bool,
    **run: Any,
) -> None:
    """Put a task, and print its id.

    No code of yours is loaded: neither the name nor the arguments are checked before
    the task runs. name=text gives text, which the type hints of the function turn into
    numbers, dates or paths when it runs; name:=json gives a value as it is.

    With --key the id is that of the task that has the key, if there is one already.

    With --from each line is a task: {"task": "resize", "args": {"width": 200}}, or only
    its arguments if TASK is given. They are put in one file, all or none.
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
        id=task_id or os.urandom(8).hex(),
        key=key,
        run=_run_options(run, then, on_failure),
        remote=None if spooler is None else _address(spooler),
        outbox=outbox,
    )
    due = {"priority": priority, "due": iso(due_us)}
    if source is not None:
        _check_alone(arguments, options)
        batch = put_lines(source, task, options)
        if batch.count:
            facts = {"id": batch.id, "count": batch.count, **due, "spool": batch.spool}
            _tell(call, batch.id, facts)
        return
    if task is None:
        raise click.UsageError("missing argument 'TASK', or --from")
    handle = put_task(check_task_name(task), _arguments(arguments), options)
    facts = {"id": handle.id, "task": task, **due, "spool": handle.spool}
    if key is not None:
        facts |= {"key": key, "put": handle.id == options.id}
    _tell(call, handle.id, facts)


def _check_alone(arguments: Sequence[str], options: PutOptions) -> None:
    """Check that nothing is said beside ``--from`` that is for one task."""
    given = {
        "NAME=TEXT": arguments,
        "--body": options.body,
        "--key": options.key,
        "options of one task's run": options.run is not NO_OPTIONS,
        "--spooler": options.remote or options.outbox,
    }
    for name, value in given.items():
        if value:
            raise click.UsageError(f"--from cannot be used with {name}")


def _tell(call: Call, task_id: str, facts: dict[str, object]) -> None:
    try:
        if call.json:
            output.say_json([facts])
        else:
            output.say([task_id])
    except OSError as problem:  # it was put all the same: do not have it put again
        output.error(f"task {task_id} was put, but that cannot be printed: {problem}")
        output.give_up()


def _run_options(
    given: dict[str, Any], then: Sequence[str], on_failure: Sequence[str]
) -> RunOptions:
    if given["expires"] is not None:
        given["expires"] = expires_for_file(given["expires"])
    given["then"] = followers(then, None) if then else None
    given["on_failure"] = followers(on_failure, None) if on_failure else None
    return run_options(given)


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


def _address(text: str) -> str:
    return str(parse_address(text, "--spooler", "; a directory goes to --dir"))


def _open_body(path: str) -> Body:
    if path == "-":
        return stdin()
    try:
        return click.get_current_context().with_resource(open(path, "rb"))
    except OSError as problem:
        raise UsageError(f"--body {output.text_of(problem)}") from None
