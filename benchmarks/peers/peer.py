"""What can be measured of a peer: the same for all."""

from pathlib import Path
from typing import Protocol


class Peer(Protocol):
    """Another way to run a function later.

    A measure begins with a new queue in a folder of its own in ``place`` and leaves
    nothing there. The ledger says what was run: a peer that loses a task or runs one
    twice raises ``FailedError`` with its name, and the others can still be measured.
    The last task of the ledger is for warming up.

    Attributes:
        name: For the table, with the version.
        synced: Whether a task has reached the disk when the put returns.
        share: How much of the usual number of tasks it takes in a measure.
    """

    name: str
    synced: bool
    share: float

    def why_not(self) -> str | None:
        """Return why it cannot be measured here, in words, or nothing."""

    def enqueue(self, place: Path, count: int, producers: int) -> float:
        """Return the tasks put in a second by so many processes together.

        A slow peer puts more than asked for, for a rate that means something.
        """

    def drain(self, place: Path, count: int, workers: int) -> float:
        """Return the tasks run in a second of a backlog that waited.

        Counted from the beginning of the first run to that of the last one.
        """

    def latency(self, place: Path, count: int) -> list[int]:
        """Return how long each took to begin, in ns, one after the other.

        From before the put to the first line of the function. A slow peer does fewer
        than asked for.
        """
