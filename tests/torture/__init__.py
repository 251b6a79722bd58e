"""What takes long: ``python -m tests.torture`` tries to break the promises.

Each torture is a module here with ``ABOUT``, a line that says what it does, and
``run(budget, seed)``: it works for so many seconds, at random by that seed, and
returns a ``Report``. What this machine cannot do raises ``Skip``.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """What a torture has found.

    Attributes:
        figures: How much was done, in words and numbers, for one line.
        broken: Promises that were broken, each with what was seen. None may be.
    """

    figures: dict[str, object] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.figures.items())


class Skip(Exception):  # noqa: N818 (no error)
    """This torture cannot be done here; the text says why."""
