"""How the command ``spool`` prints: tables, durations, JSON, a task at full length.

All text that comes from a spool is escaped before it reaches a terminal, and JSON is
ASCII, so that nobody's file name can do anything to it.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import click

from ..logs import escape
from ..moments import parse_at

_PLAIN_KEYS: Final = (
    "id",
    "state",
    "task",
    "key",
    "path",
    "priority",
    "attempt",
    "due",
    "put",
    "size",
    "worker",
    "since",
    "reason",
    "error",
    "failed",
    "found",
    "first",
    "signed",
)
_MOMENTS: Final = frozenset({"due", "put", "since", "failed"})
ATTEMPTS_SHOWN: Final = 10
"""How many attempts of a task are told of: by default it has no more."""

LS_HEADER: Final = ("ID", "STATE", "PRIORITY", "ATTEMPT", "DUE", "TASK", "NOTE")
_UNITS: Final = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def error(problem: object) -> None:
    """Print one line on standard error."""
    click.echo(f"spool: {escape(text_of(problem))}", err=True)


def text_of(problem: object) -> str:
    """Return what went wrong, without the number that ``OSError`` shows."""
    if isinstance(problem, OSError) and problem.strerror:
        name = problem.filename
        where = os.fsdecode(name) if isinstance(name, str | bytes) else ""
        return f"{where}: {problem.strerror}" if where else problem.strerror
    return str(problem)


def say(lines: Iterable[str]) -> None:
    """Print lines, escaped; cut to the width of the terminal if it is one."""
    shown = [escape(line) for line in lines]
    if sys.stdout is not None and sys.stdout.isatty():
        with suppress(OSError):
            width = os.get_terminal_size(sys.stdout.fileno()).columns
            shown = [
                line if len(line) <= width else f"{line[: width - 1]}…"
                for line in shown
            ]
    if shown:
        click.echo("\n".join(shown))


def give_up() -> None:
    """Forget what could not be printed, so that nothing fails at the exit."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def say_json(values: Iterable[object]) -> None:
    """Print one JSON object a line."""
    lines = [json.dumps(_plain(value), ensure_ascii=True) for value in values]
    if lines:
        click.echo("\n".join(lines))


def _plain(value: object) -> object:
    """Return ``value`` without half surrogate pairs, which strict readers refuse."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def some(number: int, what: str) -> str:
    """Return ``1 file`` or ``2 files``."""
    return f"{number} {what}{'s' * (number != 1)}"


def span(length_us: int) -> str:
    """Return a duration in at most two units: ``3s``, ``4m59s``, ``2d``."""
    left = round(abs(length_us) / 1_000_000)
    for number, (unit, seconds) in enumerate(_UNITS[:-1]):
        if left >= seconds:
            smaller, size = _UNITS[number + 1]
            whole, rest = divmod(left, seconds)
            return f"{whole}{unit}" + (
                f"{rest // size}{smaller}" if rest >= size else ""
            )
    return f"{left}s"


def size_text(size: int) -> str:
    """Return a number of bytes as it is given: ``512``, ``480M``, ``1.5G``."""
    for unit, bits in (("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if size >= 1 << bits:
            return f"{size / (1 << bits):.1f}".removesuffix(".0") + unit
    return str(size)


def relative(moment_us: int, now_us: int) -> str:
    """Return ``in 5m``, ``now`` or ``3s ago``."""
    text = span(moment_us - now_us)
    if text == "0s":
        return "now"
    return f"in {text}" if moment_us > now_us else f"{text} ago"


def since(moment: object, now_us: int) -> str:
    """Return how long ago an ISO 8601 moment was; ``?`` if it is none."""
    with suppress(ValueError):
        return span(now_us - parse_at(str(moment), 0))
    return "?"


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Return rows as lines with aligned columns; the first row is the header.

    Args:
        right: The columns that hold numbers.
    """
    shown = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]


def listing(rows: Sequence[Mapping[str, object]], now_us: int) -> list[str]:
    """Return tasks as the table of ``ls``; no lines if there are none."""
    cells = [_cells(row, now_us) for row in rows]
    return table([LS_HEADER, *cells], right=(2, 3)) if cells else []


def _cells(row: Mapping[str, object], now_us: int) -> list[str]:
    due, claimed = row["due"], row["since"]
    note = str(row["reason"] or row["worker"] or "")
    if claimed is not None:
        note += f", for {since(claimed, now_us)}"
    cells = [row[key] for key in ("id", "state", "priority", "attempt")]
    shown = ["-" if each is None else str(each) for each in cells]
    when = "-" if due is None else relative(parse_at(str(due), 0), now_us)
    return [*shown, when, str(row["task"] or "-"), note]


def page(facts: Mapping[str, object], now_us: int) -> list[str]:
    """Return everything about one task as lines; ``facts`` as ``show --json``."""
    lines = []
    for key in _PLAIN_KEYS:
        if (value := facts[key]) is not None:
            moment = key in _MOMENTS and isinstance(value, str)
            lines.append(f"{key:<9} {value}{_aside(value, now_us) if moment else ''}")
    batch = facts["lines"]
    if isinstance(batch, Mapping):
        lines.append(f"lines     {batch['count']}, {batch['left']} left")
    if said := progress_text(facts["progress"]):
        lines.append(f"progress  {said}")
    if facts["args"] is not None:
        pretty = json.dumps(facts["args"], indent=2, ensure_ascii=False)
        lines += ["args", *_indented(pretty)]
    size, text = facts["body_size"], facts["body_text"]
    if size:
        lines.append(f"body      {size} bytes" + ("" if text else ", not text"))
        lines += _indented(str(text)) if text else []
    lines += _attempts(facts["attempts"])
    if facts["log"] is not None:
        lines.append(f"log       {facts['log']} (see `spool log {facts['id']}`)")
    if facts["traceback"]:
        lines += ["traceback", *_indented(str(facts["traceback"]))]
    return lines


def progress_text(said: object) -> str:
    """Return ``40/120  33%  message``; nothing where nothing was said.

    Args:
        said: A ``spooldir.progress.Progress`` as JSON has it; None for none.
    """
    if not isinstance(said, Mapping):
        return ""
    done, total, text = said["done"], said["total"], _number(said["done"])
    if total is not None:
        text += f"/{_number(total)}"
        text += f"  {done / total:.0%}" if total else ""
    return f"{text}  {said['message']}".rstrip()


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _aside(value: object, now_us: int) -> str:
    with suppress(ValueError):
        return f" ({relative(parse_at(str(value), 0), now_us)})"
    return ""


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.rstrip("\n").split("\n")]


def _attempts(attempts: object) -> list[str]:
    if not isinstance(attempts, list) or not attempts:
        return []
    before = len(attempts) - ATTEMPTS_SHOWN
    earlier = [f"  … {before} before these: see --json"] if before > 0 else []
    last = attempts[-ATTEMPTS_SHOWN:]
    return ["attempts", *earlier, *(f"  {_attempt(each)}" for each in last)]


def _attempt(record: Mapping[str, object]) -> str:
    took, seconds = "", record.get("seconds")
    if isinstance(seconds, int | float):
        with suppress(OverflowError):  # no run took so long: the record is damaged
            took = f" after {round(seconds, 3):.6g} s"
    error = record.get("error") or "no error"
    return (
        f"{record.get('attempt', '?')}: {record.get('started') or record.get('ended')}"
        f" {record.get('worker') or '-'}{took}: {error}"
    )
