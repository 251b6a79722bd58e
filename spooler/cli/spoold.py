"""The command ``spoold``: serve spools."""

import os
import sys
from dataclasses import replace
from typing import Any, NoReturn, get_args

import click

from .. import __version__, logs
from ..config import (
    UWSGI_RETRY,
    AsyncBackend,
    KeepLog,
    Settings,
    parse_file,
    parse_free,
    parse_rss,
)
from ..errors import EXIT_FAILED, EXIT_SETTINGS, EXIT_USAGE, UsageError
from ..forker import start_template
from ..logs import LEVELS, escape
from ..loop import hold_signals
from ..retry import RetryPolicy
from .room import room_options
from .sockets import socket_options, take_sockets
from .uwsgi_ini import enter_ini, put_ini, uwsgi_ini_option

EPILOG = """\b
Examples:
  spool init ./spool
  spoold --dir ./spool --import tasks
  spoold --dir ./mail --dir ./photos --import shop.tasks --workers 4
  spoold --dir ./spool --import tasks --burst
  spoold --uwsgi-ini app.ini

\b
Signals: TERM and INT finish what runs (at most --grace seconds) and stop; a second
one stops now. HUP imports the code anew without losing a task.

\b
Every option can also be given as an environment variable (SPOOLER_WORKERS=4) or in
the file named by --config (workers = 4). The command line wins, then the environment.

\b
Exit codes: 0 stopped as asked, 1 could not go on (the spool was removed, no more
processes or files), 2 wrong usage, 78 something must be put right first
(no such spool, no permission, modules that cannot be imported, a bad file).
"""


def _read_config(context: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    own = ("config", "version", "help")
    options = [p for p in context.command.params if p.name not in own]
    kinds = {_setting(p): _KINDS.get(p.type.name, str) for p in options}
    lists = [_setting(p) for p in options if p.multiple]
    try:
        with open(path, encoding="utf-8") as file:
            settings = parse_file(file.read(), kinds, lists)
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from None
    except UsageError as error:
        raise click.BadParameter(f"{path}: {error}") from None
    for name, option in (("import", "imports"), ("dir", "dirs")):
        if name in settings:
            settings[option] = settings.pop(name)
    context.default_map = {**(context.default_map or {}), **settings}


def _setting(option: click.Parameter) -> str:
    """Return what an option is called in the file."""
    return {"dirs": "dir", "imports": "import"}.get(str(option.name), str(option.name))


_KINDS = {"integer": int, "float": float, "boolean": bool}
_DEFAULTS = RetryPolicy()


@click.command(
    epilog=EPILOG,
    context_settings={
        "auto_envvar_prefix": "SPOOLER",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 90,
        "show_default": True,
    },
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="A TOML file with settings.",
)
@uwsgi_ini_option
@click.option(
    "--dir",
    "dirs",
    multiple=True,
    type=click.Path(readable=False),
    envvar="SPOOLER_DIR",
    metavar="DIR",
    help="The spool to serve; may be given several times.",
)
@click.option(
    "--import",
    "imports",
    multiple=True,
    envvar="SPOOLER_IMPORT",
    metavar="MODULE",
    help="A module with tasks, or a path that ends in .py; may be given several times.",
)
@click.option("--workers", type=int, default=1, help="Worker processes for each spool.")
@click.option(
    "--threads",
    type=int,
    default=1,
    help="Plain functions that a worker runs at a time, in threads.",
)
@click.option(
    "--async-concurrency",
    type=int,
    default=100,
    help="Async functions that a worker runs at a time, in one event loop.",
)
@click.option(
    "--async-backend",
    type=click.Choice(get_args(AsyncBackend)),
    default="asyncio",
    help="The event loop for async functions.",
)
@click.option(
    "--frequency",
    type=float,
    default=30.0,
    metavar="SECONDS",
    help="Time between two scans that no event caused.",
)
@click.option(
    "--grace",
    type=float,
    default=30.0,
    metavar="SECONDS",
    help="Time that running tasks are given when spoold stops.",
)
@click.option(
    "--max-tasks",
    type=int,
    default=0,
    help="Replace a worker after so many runs; 0 for never.",
)
@click.option(
    "--max-rss",
    default=None,
    metavar="BYTES",
    help="Replace a worker that has more memory in use when a task ends: 200M, 1G.",
)
@click.option(
    "--soft-timeout",
    type=float,
    default=None,
    metavar="SECONDS",
    help="Interrupt a task that runs longer, with SoftTimeout.",
)
@click.option(
    "--hard-timeout",
    type=float,
    default=None,
    metavar="SECONDS",
    help="Kill a worker whose task runs longer.",
)
@click.option(
    "--keep-log",
    type=click.Choice(get_args(KeepLog)),
    default="failed",
    help="Whose output is kept in the spool; with never it is not caught at all.",
)
@click.option(
    "--keep-logs-for",
    type=float,
    default=7 * 86_400.0,
    metavar="SECONDS",
    help="Time for which it is kept once the task is finished.",
)
@click.option(
    "--keep-results",
    type=int,
    default=100_000,
    help="How many results of tasks a spool keeps; the oldest go first.",
)
@click.option("--burst", is_flag=True, help="Stop when nothing is left to run now.")
@click.option(
    "--reload", is_flag=True, help="For development: HUP when the code has changed."
)
@click.option(
    "--allow-uid",
    "allow_uid",
    multiple=True,
    type=int,
    envvar="SPOOLER_ALLOW_UID",
    help="Take files of this owner too, besides root's and your own.",
)
@click.option(
    "--allow-group",
    "allow_group",
    multiple=True,
    envvar="SPOOLER_ALLOW_GROUP",
    metavar="GROUP",
    help="The same for all users of this group; looked up again at HUP.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Serve a spool that others could have their hands on, and warn.",
)
@room_options
@socket_options
@click.option(
    "--key-file",
    type=click.Path(readable=False),
    default=None,
    metavar="FILE",
    help="Sign what is put here with the key in this file.",
)
@click.option(
    "--require-signature",
    is_flag=True,
    help="Put tasks aside that are not signed with a key in that file.",
)
@click.option(
    "--max-attempts",
    type=int,
    default=_DEFAULTS.max_attempts,
    help="Runs of a task in all, where it does not say; 0 for no limit.",
)
@click.option(
    "--backoff",
    type=float,
    default=_DEFAULTS.backoff,
    metavar="SECONDS",
    help="Time before the second attempt; doubles each time.",
)
@click.option(
    "--backoff-max",
    type=float,
    default=_DEFAULTS.backoff_max,
    metavar="SECONDS",
    help="Where the doubling ends.",
)
@click.option(
    "--jitter",
    type=float,
    default=_DEFAULTS.jitter,
    help="Part of that time, 0 to 1, that is left to chance.",
)
@click.option(
    "--uwsgi",
    is_flag=True,
    help="Run an application that was written for uWSGI's spooler, as it is.",
)
@click.option(
    "--uwsgi-files",
    is_flag=True,
    help="Share the directory with a uWSGI: write and lock its own files.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    help="What is logged, to stderr.",
)
@click.option("--log-json", is_flag=True, help="Log one JSON object a line.")
@click.version_option(__version__)
def main(**options: Any) -> None:
    """Run the tasks in spool directories."""
    ini = options.pop("uwsgi_ini")
    try:
        put_ini(ini, options)
        settings = _settings(options)
    except UsageError as error:
        click.echo(f"spoold: {escape(str(error))}", err=True)
        sys.exit(EXIT_USAGE)
    logs.configure(settings.log_level, json=settings.log_json)
    try:
        enter_ini(ini, settings.dirs)
        if settings.key_file is not None:
            from ..spooldir.key_file import KEY_FILE, load  # noqa: PLC0415 (seldom)

            load(settings.key_file)
            os.environ[KEY_FILE] = settings.key_file  # what tasks put is signed too
        if settings.sockets is not None and settings.sockets.secret_file is not None:
            from ..sending import SECRET_FILE  # noqa: PLC0415 (seldom)
            from ..spooldir.key_file import load  # noqa: PLC0415

            load(settings.sockets.secret_file)
            os.environ[SECRET_FILE] = settings.sockets.secret_file  # tasks may send
        hold_signals()
        forker = start_template(settings, anew=False)
        # Not before: the two processes import at the same time.
        from ..daemon import Daemon  # noqa: PLC0415

        code = Daemon(settings, forker).run()
    except UsageError as error:
        _stop(error)
    except OSError as error:
        click.echo(f"spoold: {escape(str(error))}", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(code)


def _settings(options: dict[str, Any]) -> Settings:
    policy = ("max_attempts", "backoff", "backoff_max", "jitter")
    given = {name: options.pop(name) for name in policy}
    retry = RetryPolicy(**given)
    options["uwsgi_retry"] = replace(UWSGI_RETRY, **_only_given(given))
    options["max_rss"] = parse_rss(options["max_rss"] or "0")
    options["min_free"] = parse_free(options["min_free"])
    options["sockets"] = take_sockets(options)
    options["allow_uids"] = options.pop("allow_uid")
    options["allow_groups"] = options.pop("allow_group")
    if options["key_file"] is not None:
        options["key_file"] = os.path.abspath(options["key_file"])
    return Settings(**options, retry=retry)


def _only_given(options: dict[str, Any]) -> dict[str, Any]:
    """Return those options that were not left at their defaults."""
    source = click.get_current_context().get_parameter_source
    default = click.core.ParameterSource.DEFAULT
    return {key: value for key, value in options.items() if source(key) != default}


def _stop(error: Exception) -> NoReturn:
    click.echo(f"spoold: {escape(str(error))}", err=True)
    sys.exit(EXIT_SETTINGS)
