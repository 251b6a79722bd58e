"""The figures: collected in rounds, shown side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(slots=True)
class Row:
    """One thing that is measured, with a figure from each round."""

    place: str
    what: str
    unit: str
    spooler: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Spooler's figure by that of the bare loop of the same round."""
        if not self.bare:
            return []
        return [a / b for a, b in zip(self.spooler, self.bare, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """Return all there is to know, for a program."""
        whole: dict[str, Any] = {
            "place": self.place,
            "what": self.what,
            "unit": self.unit,
        }
        series = {"spooler": self.spooler, "bare": self.bare, "ratio": self.ratios}
        for name, values in series.items():
            whole[name] = _summary(values) if values else None
        return whole


def _summary(values: list[float]) -> dict[str, Any]:
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

    def add(
        self,
        place: str,
        what: str,
        unit: str,
        spooler: float,
        bare: float | None = None,
    ) -> None:
        """Add the figure of one round."""
        row = self._rows.setdefault((place, what), Row(place, what, unit))
        row.spooler.append(spooler)
        if bare is not None:
            row.bare.append(bare)

    @property
    def rows(self) -> Sequence[Row]:
        """The rows."""
        return list(self._rows.values())

    def text(self) -> str:
        """Return the table in Markdown: median (min..max)."""
        head = ["on", "what", "unit", "bare loop", "spooler", "ratio"]
        lines = [head]
        for row in sorted(self.rows, key=lambda row: row.place):
            series = (row.bare, row.spooler, row.ratios)
            lines.append([row.place, row.what, row.unit, *map(_show, series)])
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        lines.insert(1, ["-" * width for width in widths])
        return "\n".join(_line(line, widths) for line in lines)


def _line(cells: list[str], widths: list[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |"


def _show(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle, low, high = median(values), min(values), max(values)
    if len(values) == 1:
        return _number(middle)
    return f"{_number(middle)} ({_number(low)}..{_number(high)})"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
