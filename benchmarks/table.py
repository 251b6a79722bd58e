"""The figures: collected in rounds, shown side by side, judged by their targets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

BARE: Final = "bare loop"

Beside = tuple[str, float]
"""What a figure is compared with, and that one's figure of the same round."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One condition of a target.

    Attributes:
        sign: ``>=`` or ``<=``.
        figure: In the row's unit; with ``of``, a multiple of that one's figure.
        of: What the row is compared with, or how the name of a peer begins.
    """

    sign: str
    figure: float
    of: str | None = None

    def text(self, unit: str) -> str:
        """Return it in words."""
        sign = {">=": "≥", "<=": "≤"}[self.sign]
        if self.of is None:
            return f"{sign} {number(self.figure)} {unit}"
        much = "" if self.figure == 1 else f"{self.figure:g} of "
        return f"{sign} {much}{self.of}"

    def holds(self, figure: float) -> bool:
        """Tell whether a figure keeps to it."""
        return figure >= self.figure if self.sign == ">=" else figure <= self.figure


def at_least(figure: float, of: str | None = None) -> Limit:
    """Return the condition that something is not less."""
    return Limit(">=", figure, of)


def at_most(figure: float, of: str | None = None) -> Limit:
    """Return the condition that something is not more."""
    return Limit("<=", figure, of)


@dataclass(slots=True)
class Row:
    """One thing that is measured, with a figure from each round.

    Attributes:
        other: What ``beside`` is.
        beside: What spooler is compared with in each round.
        peers: Their figures, by name.
        failed: Why a peer has none.
        limits: The target; empty if nobody set one.
    """

    place: str
    what: str
    unit: str
    spooler: list[float] = field(default_factory=list)
    other: str = ""
    beside: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()

    @property
    def ratios(self) -> list[float]:
        """Spooler's figure by that beside it of the same round."""
        return _ratios(self.spooler, self.beside)

    def target(self) -> str:
        """Return the target in words."""
        return ", ".join(limit.text(self.unit) for limit in self.limits)

    def result(self) -> str:
        """Return whether the medians meet the target; what they miss; what is open."""
        missed, unknown = [], []
        for limit in self.limits:
            figures = self._judged(limit)
            if not figures:
                unknown.append(f"{limit.of} not measured")
            elif not limit.holds(median(figures)):
                missed.append(limit.text(self.unit))
        if missed:
            return f"missed: {', '.join(missed)}"
        return f"open: {', '.join(unknown)}" if unknown else "met" * bool(self.limits)

    def _judged(self, limit: Limit) -> list[float]:
        if limit.of is None:
            return self.spooler
        if limit.of == self.other:
            return self.ratios
        for name, figures in self.peers.items():
            if name.startswith(limit.of):
                return _ratios(self.spooler, figures)
        return []

    def as_json(self) -> dict[str, Any]:
        """Return all there is to know, for a program."""
        return {
            "place": self.place,
            "what": self.what,
            "unit": self.unit,
            "spooler": _summary(self.spooler),
            "compared_with": self.other or None,
            "beside": _summary(self.beside),
            "ratio": _summary(self.ratios),
            "peers": {name: _summary(each) for name, each in self.peers.items()},
            "failed": self.failed,
            "target": self.target() or None,
            "result": self.result() or None,
        }


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    # Those of a peer that failed in some round are fewer.
    return [a / b for a, b in zip(ours, theirs, strict=False)]


def _summary(values: list[float]) -> dict[str, Any] | None:
    if not values:
        return None
    return {
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "rounds": values,
    }


class Table:
    """All rows, in the order in which they were first measured."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}

    def row(self, place: str, what: str, unit: str) -> Row:
        """Return a row, a new one if need be."""
        return self._rows.setdefault((place, what), Row(place, what, unit))

    def add(
        self,
        place: str,
        what: str,
        unit: str,
        figure: float,
        beside: Beside | None = None,
        limits: Sequence[Limit] = (),
    ) -> None:
        """Add the figure of one round."""
        row = self.row(place, what, unit)
        row.spooler.append(figure)
        row.limits = tuple(limits)
        if beside is not None:
            row.other = beside[0]
            row.beside.append(beside[1])

    @property
    def rows(self) -> Sequence[Row]:
        """The rows, place by place."""
        return sorted(self._rows.values(), key=lambda row: row.place)

    def text(self) -> str:
        """Return what spooler takes, in Markdown: median (min..max)."""
        lines = [
            [
                row.place,
                row.what,
                row.unit,
                show(row.spooler),
                f"{row.other}: {show(row.beside)}" if row.beside else "",
                show(row.ratios),
                row.target(),
                row.result(),
            ]
            for row in self.rows
        ]
        head = ["on", "what", "unit", "spooler", "compared with", "ratio"]
        return markdown([*head, "target", "result"], lines)

    def peers(self) -> str:
        """Return the rows in which others were measured too, one for each of them."""
        lines = [
            [row.place, row.what, row.unit, name, figure, ratio]
            for row in self.rows
            if row.peers or row.failed
            for name, figure, ratio in _contenders(row)
        ]
        if not lines:
            return ""
        return markdown(["on", "what", "unit", "who", "figure", "spooler's"], lines)


def _contenders(row: Row) -> list[tuple[str, str, str]]:
    """Return who, figure, and how many times that spooler's is."""
    found = [("spooler", show(row.spooler), "")]
    if row.beside:
        found.append((row.other, show(row.beside), show(row.ratios)))
    for name, figures in row.peers.items():
        found.append((name, show(figures), show(_ratios(row.spooler, figures))))
    found += [(name, f"failed: {why}", "") for name, why in row.failed.items()]
    return found


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """Return a table, its columns aligned."""
    safe = [head, *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    widths = [max(len(line[i]) for line in safe) for i in range(len(head))]
    safe.insert(1, ["-" * width for width in widths])
    return "\n".join(_line(line, widths) for line in safe)


def _line(cells: list[str], widths: list[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |"


def show(values: Sequence[float]) -> str:
    """Return the median, and the smallest and the largest."""
    if not values:
        return ""
    middle, low, high = median(values), min(values), max(values)
    if len(values) == 1:
        return number(middle)
    return f"{number(middle)} ({number(low)}..{number(high)})"


def number(value: float) -> str:
    """Return a figure with as many digits as mean something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
