"""The option ``--uwsgi-ini`` of ``spoold``: settings from a configuration of uWSGI."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

from ..config import UwsgiIni
from ..errors import UsageError
from ..logs import escape

F = TypeVar("F", bound=Callable[..., None])

log = logging.getLogger(__name__)


def _read(
    context: click.Context, _: click.Parameter, name: str | None
) -> UwsgiIni | None:
    if name is None:
        return None
    from ..ext.uwsgi.ini_settings import read_ini  # noqa: PLC0415 (seldom)

    try:
        ini = read_ini(name, os.environ)
    except UsageError as error:
        raise click.BadParameter(escape(str(error))) from None
    context.default_map = {**ini.settings, **(context.default_map or {})}
    return ini


def uwsgi_ini_option(function: F) -> F:
    """Add the option; the command gets ``uwsgi_ini``, a ``UwsgiIni`` or None."""
    return click.option(
        "--uwsgi-ini",
        metavar="FILE",
        default=None,
        is_eager=True,
        callback=_read,
        help="Take settings, modules and environment from a configuration of uWSGI.",
    )(function)


def put_ini(ini: UwsgiIni | None, options: dict[str, Any]) -> None:
    """Put what a configuration says besides settings among the options of ``spoold``.

    Relative paths of the command line become absolute: they are meant from the
    directory in which it was given.

    Raises:
        UsageError: No spool was named, there or here.
    """
    if ini is None:
        return
    if not options["dirs"]:
        raise UsageError(f"{ini.name} names no spooler = DIR")
    dirs = tuple(os.path.realpath(path) for path in options["dirs"])
    spools = ini.application.spools
    more = [("spooler", path) for path in dirs if path not in spools]
    if more:  # which the command line has named
        spools = tuple(dict.fromkeys((*dirs, *spools)))
    lines = (*ini.application.options, *more)
    options["application"] = replace(ini.application, spools=spools, options=lines)
    options["touch"] = ini.touch
    options["dirs"] = dirs
    options["imports"] = tuple(
        os.path.abspath(name) if name.endswith(".py") else name
        for name in options["imports"]
    )


def enter_ini(ini: UwsgiIni | None, dirs: tuple[str, ...]) -> None:
    """Log what a configuration says in vain, and become what it says else.

    Raises:
        UsageError: It names a user that this one cannot become, or a directory that
            cannot be used.
    """
    if ini is None:
        return
    from ..ext.uwsgi.surroundings import enter  # noqa: PLC0415 (seldom)

    for warning in ini.warnings:
        log.warning("uwsgi-ini %s: %s", escape(ini.name), escape(warning))
    if ini.ignored:
        words = escape(", ".join(ini.ignored))
        log.info("uwsgi-ini %s: ignored: %s", escape(ini.name), words)
    enter(ini, dirs)
