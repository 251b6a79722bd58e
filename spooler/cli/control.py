"""The commands that keep tasks from running, for a while or until somebody says so.

``hold``, ``release``, ``now``, ``priority`` and ``kill`` are for single tasks, found by
id; ``pause`` and ``resume`` for all tasks, a priority, or a task's name.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event
from typing import Final

import click

from ..clock import CLOCK
from ..errors import EXIT_FAILED, NotFoundError, SpoolerError, UsageError
from ..moments import positive
from ..spooldir import SpoolDir, control, kills, pauses, repair
from ..spooldir.repair import Found
from ..spooldir.reports import read_json
from ..spooldir.tracking import Track, state_at
from ..task import MAX_PRIORITY, State, iso
from . import output
from .group import Call, dir_and_json
from .repair import apply, find_tasks, ids_argument

KILL_TIMEOUT: Final = 5.0
"""Seconds that ``kill`` waits, where nothing else is said."""

_LOOK_AGAIN: Final = 0.02

_Move = Callable[[SpoolDir, Found], str]


def _on_each(call: Call, ids: Sequence[str], move: _Move, done: str) -> None:
    spool = call.open()
    apply(call, spool, find_tasks(spool, ids), lambda found: move(spool, found), done)


_HOLD_EXAMPLES: Final = """\b
Examples:
  spool hold 8c1f42d09ab3e617
  spool ls waiting --task resize --limit 0 | spool hold -
"""


@click.command(epilog=_HOLD_EXAMPLES)
@ids_argument
@dir_and_json
def hold(call: Call, ids: Sequence[str]) -> None:
    """Keep waiting tasks from being run, until they are released.

    Ids may be shortened; - reads them from stdin, the first word of each line.
    """

    def move(spool: SpoolDir, found: Found) -> str:
        return control.hold(spool, found, durable=False)

    _on_each(call, ids, move, "held")


_RELEASE_EXAMPLES: Final = """\b
Examples:
  spool release 8c1f42d09ab3e617
  spool ls held --limit 0 | spool release -
"""


@click.command(epilog=_RELEASE_EXAMPLES)
@ids_argument
@dir_and_json
def release(call: Call, ids: Sequence[str]) -> None:
    """Let held tasks go on, due as they were.

    Ids may be shortened; - reads them from stdin, the first word of each line.
    """

    def move(spool: SpoolDir, found: Found) -> str:
        return control.release(spool, found, durable=False)

    _on_each(call, ids, move, "released")


_NOW_EXAMPLES: Final = """\b
Examples:
  spool now 8c1f42d09ab3e617
  spool ls later --task send_mail --limit 0 | spool now -
"""


@click.command(epilog=_NOW_EXAMPLES)
@ids_argument
@dir_and_json
def now(call: Call, ids: Sequence[str]) -> None:
    """Make tasks due now that are due later, or wait for their next attempt.

    The attempt stays. A held task stays held.

    Ids may be shortened; - reads them from stdin, the first word of each line.
    """

    def move(spool: SpoolDir, found: Found) -> str:
        return control.now(spool, found, durable=False)

    _on_each(call, ids, move, "due now")


_PRIORITY_EXAMPLES: Final = """\b
Examples:
  spool priority 8c1f42d09ab3e617 0
  spool ls waiting --task resize --limit 0 | spool priority - 9
"""


@click.command(epilog=_PRIORITY_EXAMPLES)
@click.argument("ids", nargs=-1, required=True, metavar="[ID | -]...")
@click.argument("number", type=click.IntRange(0, MAX_PRIORITY), metavar="N")
@dir_and_json
def priority(call: Call, ids: Sequence[str], number: int) -> None:
    """Give tasks another priority; they stay due as they were.

    A smaller number is more urgent. A held task stays held.

    Ids may be shortened; - reads them from stdin, the first word of each line.
    """

    def move(spool: SpoolDir, found: Found) -> str:
        return control.reprioritise(spool, found, number, durable=False)

    _on_each(call, ids, move, f"priority {number}")


# -- kill -------------------------------------------------------------------------

_KILL_EXAMPLES: Final = """\b
Examples:
  spool kill 8c1f42d09ab3e617
  spool ls running --task resize --limit 0 | spool kill -
"""


@click.command(epilog=_KILL_EXAMPLES)
@ids_argument
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.0),
    default=KILL_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for the daemon to do it.",
)
@dir_and_json
def kill(call: Call, ids: Sequence[str], timeout: float) -> None:
    """Kill running tasks, and wait until they run no more.

    They go to failed, with the reason "killed". Other tasks are not touched.

    Ids may be shortened; - reads them from stdin, the first word of each line.
    """
    spool = call.open()
    chosen = find_tasks(spool, ids)
    victims: dict[str, _Victim] = {}
    for each in chosen:
        if isinstance(each, Found):
            victims[each.path] = _Victim(spool, each)
    deadline = CLOCK.monotonic() + timeout

    def move(found: Found) -> str:
        return victims[found.path].wait(deadline)

    try:
        apply(call, spool, chosen, move, "killed")
    finally:
        for victim in victims.values():
            victim.close()


class _Victim:
    """A task that somebody wants killed; its daemon is asked at once."""

    def __init__(self, spool: SpoolDir, found: Found) -> None:
        self._spool = spool
        self._found = found
        self._track: Track | None = None
        self._problem: SpoolerError | OSError | None = None
        try:
            self._ask()
        except (SpoolerError, OSError) as problem:
            self._problem = problem

    def _ask(self) -> None:
        found = self._found
        if found.state is State.RUNNING:
            self._track = repair.unless_moved(
                lambda: Track(self._spool, found.path), found
            )
            self._check_who_runs_it()
            kills.ask(self._spool, found.id)
            return
        hint = "is not running: `spool rm` removes it"
        if found.state is State.FAILED:
            hint = "has failed, and does not run"
        elif found.state is State.CORRUPT:
            hint = "is corrupt, and does not run"
        raise UsageError(f"{found.id}: {hint}")

    def _check_who_runs_it(self) -> None:
        # The locks that tell who is alive are slow to load, and only needed here.
        from ..spooldir.recovery import is_alive  # noqa: PLC0415

        worker = self._found.path.split("/")[1]
        facts = read_json(self._spool, f"workers/{worker}.json")
        for kind, name in (("worker", worker), ("daemon", facts.get("daemon"))):
            with suppress(PermissionError):  # another user's: then nobody knows
                if isinstance(name, str) and not is_alive(self._spool, name):
                    raise SpoolerError(
                        f"{self._found.id}: its {kind} is dead, so it does not run: the"
                        " next spoold gives it back"
                    )

    def wait(self, deadline: float) -> str:
        """Wait until it runs no more; return where it is.

        Raises:
            SpoolerError: It was not killed; says what became of it.
            OSError: From the file system.
        """
        if self._problem is not None:
            raise self._problem
        if self._track is None:
            raise AssertionError("there is no problem, and no file")
        while True:
            path, there = self._track.place()
            if not there:
                self._forget()
                raise NotFoundError(self._found.id, "had ended before it was killed")
            if state_at(path) is not State.RUNNING:
                self._forget()
                return self._ended(path)
            if CLOCK.monotonic() >= deadline:
                break
            Event().wait(_LOOK_AGAIN)
        self._forget()
        raise SpoolerError(
            f"{self._found.id}: still runs: its daemon did not answer, maybe it was"
            " stopped; it is not asked any more"
        )

    def _ended(self, path: str) -> str:
        if state_at(path) is not State.FAILED:
            text = "had ended before it was killed, and is to run again"
            raise NotFoundError(self._found.id, f"{text}: `spool rm` removes it")
        reason = read_json(self._spool, f"{path}.why").get("reason")
        if reason != kills.KILLED:
            text = f"had failed before it was killed: {reason or 'nobody says why'}"
            raise NotFoundError(self._found.id, text)
        return path

    def _forget(self) -> None:
        with suppress(OSError):  # then it is void in an hour
            kills.forget(self._spool, self._found.id)

    def close(self) -> None:
        """Let go of the file."""
        if self._track is not None:
            self._track.close()


# -- pauses -----------------------------------------------------------------------

_PAUSE_EXAMPLES: Final = """\b
Examples:
  spool pause
  spool pause --for 10m
  spool pause --task send_mail --for 1h

\b
A script may do it without this command:
  echo +10m > spool/paused/task.send_mail
  touch spool/paused/all
"""

_priority_option = click.option(
    "--priority",
    "number",
    type=click.IntRange(0, MAX_PRIORITY),
    metavar="N",
    help="Only tasks of this priority.",
)
_task_option = click.option("--task", metavar="NAME", help="Only tasks of this name.")


@click.command(epilog=_PAUSE_EXAMPLES)
@click.option("--for", "length", metavar="TIME", help="For so long: 90s, 10m, 1h, 7d.")
@_priority_option
@_task_option
@dir_and_json
def pause(call: Call, length: str | None, number: int | None, task: str | None) -> None:
    """Begin no more tasks, until they are resumed or the time is over.

    What runs goes on, and tasks can be put as always.
    """
    what = _what(number, task)
    seconds = positive("--for", length)
    spool = call.open()
    until_us = None if seconds is None else CLOCK.now_us() + int(seconds * 1e6)
    pauses.write(spool, what, until_us)
    if call.json:
        until = None if until_us is None else iso(until_us)
        output.say_json([{"what": what, "until": until}])
    else:
        end = "until resumed" if until_us is None else f"until {iso(until_us)}"
        output.say([f"{what}  paused  {end}"])


_RESUME_EXAMPLES: Final = """\b
Examples:
  spool resume
  spool resume --task send_mail
  spool resume --all
"""


@click.command(epilog=_RESUME_EXAMPLES)
@_priority_option
@_task_option
@click.option("--all", "every", is_flag=True, help="End all pauses there are.")
@dir_and_json
def resume(call: Call, number: int | None, task: str | None, every: bool) -> None:
    """End a pause: that of everything, where nothing else is said.

    Pauses of priorities and of single tasks are not ended by it; --all ends them too.
    """
    if every and (number is not None or task is not None):
        raise click.UsageError("give --all, --priority or --task")
    spool = call.open()
    found = [each.what for each in pauses.read(spool)]
    told: list[tuple[str, bool, str | None]] = []
    for what in found if every else [_what(number, task)]:
        problem = None
        gone = False
        try:
            gone = pauses.remove(spool, what)
        except OSError as error:
            problem = f"{spool.path}/{pauses.FOLDER}/{what}: {error.strerror}"
        told.append((what, gone, problem))
    left = [each.what for each in pauses.read(spool)]
    if call.json:
        output.say_json({"what": w, "done": g, "error": p} for w, g, p in told)
    else:
        fine = [(what, gone) for what, gone, problem in told if problem is None]
        lines = [
            f"{what}  {'resumed' if gone else 'not paused'}" for what, gone in fine
        ]
        output.say(lines or ([] if told else ["nothing is paused"]))
        for problem in (problem for _, _, problem in told if problem is not None):
            output.error(problem)
        if left:
            output.say([f"still paused: {', '.join(left)}"])
    if any(problem is not None for _, _, problem in told):
        sys.exit(EXIT_FAILED)


def _what(number: int | None, task: str | None) -> str:
    if number is not None and task is not None:
        raise click.UsageError("give --priority or --task, not both")
    return pauses.name_of(number, task)
