"""What makes one peer differ from another: data, and the commands that start it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from ..processes import ROOT
from .servers import Server

BIN: Final = ROOT / ".venv-bench" / "bin"
"""Where the peers are installed: ``make .venv-bench/ready``."""

Command = Sequence[str]
Producer = Callable[[Path, str], Command]
"""Return a command from the folder and what ``child`` is given, in JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One way to run tasks, as its documentation recommends it.

    Attributes:
        package: What is installed from PyPI.
        label: For the table; the version follows.
        kind: For the table, after the version.
        producer: The command of a producer.
        consumers: The commands of consumers, from the folder, the port of the server
            and the number of workers.
        both: The command of a producer that has a consumer in it, if only such a
            one wakes a consumer.
        server: What it needs besides.
    """

    package: str
    label: str
    kind: str = ""
    producer: Producer
    consumers: Callable[[Path, int, int], Sequence[Command]]
    both: Producer | None = None
    server: Server | None = None
    synced: bool = False
    share: float = 1.0

    @property
    def name(self) -> str:
        """Return the label, the kind, and the versions."""
        what = " ".join(filter(None, (self.label, version(self.package))))
        server = "" if self.server is None else str(self.server)
        synced = "synced" if self.synced else ""
        return ", ".join(filter(None, (what, self.kind, server, synced)))


def version(package: str) -> str | None:
    """Return the version of a package where the peers are installed."""
    sites = map(str, BIN.parent.glob("lib/python3*/site-packages"))
    found = distributions(name=package, path=list(sites))
    return next((each.version for each in found), None)


def python(app: str) -> Producer:
    """Return the command of a producer in Python."""
    child = (str(BIN / "python"), "-m", "benchmarks.peers.child", app)
    return lambda folder, given: (*child, given)
