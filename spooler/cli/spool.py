"""The command ``spool``: its group, ``status`` and ``init``; the rest is registered.

The other commands are in ``put``, ``look`` and ``repair``, and are listed in the order
in which they are added here. None loads the daemon or the worker, or needs them.
"""

import os
from typing import Any, Final

import click

from .. import __version__
from ..clock import CLOCK
from ..config import check_room, parse_free
from ..groups import gid_of
from ..spooldir import SpoolDir
from ..spooldir.key_file import KEY_FILE
from ..spooldir.marking import MARKER
from ..spooldir.room import set_limits
from ..spooldir.sharing import share
from . import output
from .check import check
from .control import hold, kill, now, pause, priority, release, resume
from .edit import edit
from .group import Call, Commands, dir_and_json
from .health import health
from .logs import log, watch
from .look import ls, show
from .put import put
from .repair import fail, kick, rm
from .room import room_options
from .wait import result, wait

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
@click.option(
    "--key-file",
    type=click.Path(readable=False),
    metavar="FILE",
    help="Sign what is put with the key in it.  [default: $SPOOLER_KEY_FILE]",
)
@click.version_option(__version__, prog_name="spool")
@click.pass_context
def main(context: click.Context, /, key_file: str | None, **_: Any) -> None:
    """Put tasks into a spool, look at it, repair it.

    Without a command: show its state on one screen. No daemon is needed.
    """
    if key_file is not None:
        os.environ[KEY_FILE] = key_file
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
  spool init /srv/mail/spool --max-waiting 100000 --min-free 1G
  spool init --group web /srv/mail/spool
"""


@main.command(epilog=_INIT_EXAMPLES)
@click.argument(
    "directory", type=click.Path(readable=False), metavar="[DIR]", required=False
)
@click.option(
    "--group",
    metavar="GROUP",
    help="Let the users of this group put tasks, and do and see nothing else.",
)
@room_options
@dir_and_json
def init(
    call: Call,
    directory: str | None,
    group: str | None,
    max_waiting: int | None,
    min_free: str | None,
    min_free_inodes: int | None,
) -> None:
    """Make a spool. One that is there already is left as it is, but for its options.

    With --group the users of a group may put tasks with the priorities 0 to 9, and see,
    change and remove nothing. Repeat it to mend the modes. See docs/threats.md.

    With --max-waiting, --min-free and --min-free-inodes puts are refused, with the exit
    code 75, while the spool is full. They can be changed at any time.
    """
    limits = (max_waiting, parse_free(min_free), min_free_inodes)
    check_room(*limits)
    gid = None if group is None else gid_of(group)
    spool = SpoolDir(directory or call.path)
    made = not os.path.lexists(os.path.join(spool.path, MARKER))
    spool.create()
    click.get_current_context().call_on_close(spool.close)
    if gid is not None:
        share(spool, gid)
    set_limits(spool, *limits)
    if call.json:
        output.say_json([{"spool": spool.path, "made": made}])
    else:
        output.say(
            [f"{spool.path}: {'is a spool now' if made else 'is a spool already'}"]
        )


for command in (
    put,
    ls,
    show,
    log,
    watch,
    hold,
    release,
    now,
    priority,
    edit,
    pause,
    resume,
    kill,
    kick,
    fail,
    rm,
    wait,
    result,
    health,
    check,
):
    main.add_command(command)
