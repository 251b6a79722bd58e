"""The command ``spool check``: look a spool over, and mend it."""

import os
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from ..errors import EXIT_FAILED, SpoolerError
from ..groups import accepted_owners
from . import output
from .group import Call, dir_and_json

_EXAMPLES: Final = """\b
Examples:
  spool check
  spool check --repair
  spool check --json | jq -r 'select(.mended | not) | .path'

\b
Exit codes: 0 nothing is left to be mended, 1 something is, 78 no such spool, or no
permission.
"""


@click.command(epilog=_EXAMPLES)
@click.option("--repair", is_flag=True, help="Mend what can be mended.")
@click.option(
    "--allow-uid",
    type=click.IntRange(min=0),
    multiple=True,
    help="Take files of this owner for tasks too, as spoold does.",
)
@click.option(
    "--allow-group",
    metavar="GROUP",
    multiple=True,
    help="The same for all users of this group.",
)
@dir_and_json
def check(
    call: Call, repair: bool, allow_uid: tuple[int, ...], allow_group: tuple[str, ...]
) -> None:
    """Find what should not be in a spool, or should not be as it is.

    Dead processes and what they held, files in the wrong place, left-overs of crashes,
    wrong modes and owners. A daemon may run meanwhile.
    """
    from ..spooldir.checks import Check  # noqa: PLC0415 (locks are slow to load)

    spool = call.open()
    whose = os.fstat(spool.fd).st_uid
    owners = accepted_owners((whose, *allow_uid), allow_group)
    look = Check(spool, owners)
    found = [_told(each, repair=repair) for each in look.run()]
    left = sum(not each["mended"] for each in found)
    if call.json:
        output.say_json(found)
    else:
        output.say(_lines(found))
        text = f"{output.some(look.files, 'file')}, {len(found) or 'nothing'} found"
        if repair and found:
            text += f", {len(found) - left} mended"
        elif mends := sum(bool(each["mends"]) for each in found):
            text += f": `spool check --repair` mends {mends}"
        output.say([text])
    if left:
        sys.exit(EXIT_FAILED)


def _told(finding: Any, *, repair: bool) -> dict[str, object]:
    """Return what there is to say of a ``Finding``; mend it, if that is wanted."""
    done, mended = None, False
    if repair and finding.mend is not None:
        try:
            done, mended = finding.mend(), True
        except FileNotFoundError:  # a daemon was first
            done, mended = "gone already", True
        except (SpoolerError, OSError) as problem:
            done = f"cannot be mended: {output.text_of(problem)}"
    return {
        "kind": finding.kind,
        "path": finding.path,
        "text": finding.text,
        "mends": finding.mend is not None,
        "mended": mended,
        "done": done,
    }


def _lines(found: list[dict[str, object]]) -> Iterator[str]:
    for each in found:
        done = "" if each["done"] is None else f": {each['done']}"
        yield f"{each['kind']}  {each['path']} {each['text']}{done}"
