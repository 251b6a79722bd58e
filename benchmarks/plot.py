"""The plot: all contenders beside each other, as SVG, on a logarithmic scale."""

import math
from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Final

from .latency import PUT
from .table import Row, Table, number

PANELS: Final = (
    ("enqueue, fast, 1 producer", "more is better"),
    ("enqueue, safe, 1 producer", "more is better"),
    ("drain, 1 worker", "more is better"),
    ("drain, 2 workers", "more is better"),
    (f"{PUT}, p50", "less is better"),
)
WIDTH: Final = 860
MARGIN: Final = 12
LEFT: Final = 290
RIGHT: Final = 80
BAR: Final = 22
TITLE: Final = 44
AXIS: Final = 34

STYLE: Final = """\
text { font: 12px system-ui, sans-serif; fill: #24292f }
.paper { fill: #ffffff }
.title { font-weight: 600; font-size: 13px }
.faint { fill: #57606a }
.grid { stroke: #d0d7de; stroke-width: 1 }
.spread { stroke: #24292f; stroke-width: 1.5 }
.spooler { fill: #2f6fdb } .bare { fill: #8c959f } .peer { fill: #d18616 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .paper { fill: #0d1117 }
  .faint { fill: #9198a1 }
  .grid { stroke: #3d444d }
  .spread { stroke: #e6edf3 }
  .spooler { fill: #5b9bff } .bare { fill: #7d8590 } .peer { fill: #e3a13a }
}
"""

Contender = tuple[str, str, Sequence[float]]
"""Its name, its class in the style, its figures."""


def plot(table: Table) -> str:
    """Return a panel for each of the rows that were measured on the disk."""
    rows = {row.what: row for row in table.rows if row.place == _place(table)}
    parts, top, width = [], 0, WIDTH + 2 * MARGIN
    for what, better in PANELS:
        if what in rows:
            panel, height = _panel(rows[what], better, top)
            parts += panel
            top += height
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}"'
            f' viewBox="{-MARGIN} 0 {width} {top}" role="img">',
            "<title>Rates and latency of spooler and of others</title>",
            f"<style>\n{STYLE}</style>",
            f'<rect class="paper" x="{-MARGIN}" width="{width}" height="{top}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _place(table: Table) -> str:
    """Return where the peers are measured, else what there is."""
    places = [row.place for row in table.rows]
    return next((place for place in places if place != "tmpfs"), "tmpfs")


def _panel(row: Row, better: str, top: int) -> tuple[list[str], int]:
    contenders = _contenders(row)
    figures = [figure for _, _, each in contenders for figure in each]
    low = math.floor(math.log10(min(figures)))
    high = max(low + 1, math.ceil(math.log10(max(figures))))
    bottom = top + TITLE + BAR * len(contenders)

    def x(figure: float) -> float:
        share = (math.log10(figure) - low) / (high - low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    parts = [
        _text(0, top + 24, f"{row.what}, {row.place}", "title"),
        _text(WIDTH, top + 24, f"{row.unit}, {better}", "faint", "end"),
    ]
    for exponent in range(low, high + 1):
        at = x(10.0**exponent)
        parts.append(_line(at, top + TITLE - 6, at, bottom, "grid"))
        label = f"{10.0**exponent:,.{max(0, -exponent)}f}"
        parts.append(_text(at, bottom + 16, label, "faint", "middle"))
    for n, (name, kind, each) in enumerate(contenders):
        y = top + TITLE + n * BAR
        middle = x(median(each))
        parts += [
            _text(LEFT - 8, y + 13, name, "", "end"),
            f'<rect class="{kind}" x="{LEFT}" y="{y + 1}" height="{BAR - 6}"'
            f' width="{max(1, round(middle - LEFT, 1))}"/>',
            _line(x(min(each)), y + 9, x(max(each)), y + 9, "spread"),
            _text(x(max(each)) + 6, y + 13, number(median(each)), ""),
        ]
    return parts, TITLE + BAR * len(contenders) + AXIS


def _contenders(row: Row) -> list[Contender]:
    """Return who was measured, the best first."""
    found: list[Contender] = [("spooler", "spooler", row.spooler)]
    if row.beside:
        found.append((row.other, "bare", row.beside))
    found += [(name, "peer", figures) for name, figures in row.peers.items()]
    rising = row.unit.startswith("tasks")
    return sorted(found, key=lambda each: median(each[2]), reverse=rising)


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
