"""What a pass has found, for people and for programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .places import Place
from .plot import plot
from .table import Table

HEAD: Final = """\
# The figures

Made by `make bench`. What each row measures: [What it costs](../performance.md).

![The rates and the latency of all that was measured](figures.svg)

"""


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a pass, and what they were measured with.

    Attributes:
        absent: What could not be measured, and why.
    """

    machine: str
    places: list[Place]
    rounds: int
    absent: dict[str, str]
    table: Table

    def about(self) -> str:
        """Return where and with what this was measured, as a list."""
        lines = [self.machine]
        lines += [f"{place.name}: {place.what}" for place in self.places]
        lines += [f"not measured: {name}, {why}" for name, why in self.absent.items()]
        return "\n".join(f"* {line}" for line in lines)

    def tables(self) -> str:
        """Return all the figures, in Markdown."""
        text = (
            f"Median (smallest..largest) of {self.rounds} rounds, of a million tasks"
            f" fewer. The median is what is judged.\n\n{self.table.text()}"
        )
        if peers := self.table.peers():
            text += (
                "\n\nBeside others. The last column says how many times their figure"
                f" spooler's is.\n\n{peers}"
            )
        return text

    def as_json(self) -> dict[str, Any]:
        """Return all there is to know, for a program."""
        return {
            "machine": self.machine,
            "places": {place.name: place.what for place in self.places},
            "rounds": self.rounds,
            "absent": self.absent,
            "rows": [row.as_json() for row in self.table.rows],
        }


def write(report: Report, folder: Path) -> None:
    """Write the page and the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    page = f"{HEAD}{report.about()}\n\n{report.tables()}\n"
    (folder / "figures.md").write_text(page, encoding="utf-8")
    (folder / "figures.svg").write_text(plot(report.table), encoding="utf-8")
