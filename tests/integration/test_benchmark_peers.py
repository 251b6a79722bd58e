"""The peers can be measured: each puts, runs and answers. Never a timing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.ledger import LEDGER, make_ledger, open_ledger
from benchmarks.peers import Peer
from benchmarks.peers.every import SETUPS
from benchmarks.peers.measured import Measured
from benchmarks.peers.setup import BIN, Setup, python
from benchmarks.processes import FailedError, Processes

pytestmark = pytest.mark.timeout(120)

COUNT = 20

CONSUMER = """
import json
from benchmarks.peers.apps.dirq_simple import noop, queue
for name in queue:
    queue.lock(name)
    given = json.loads(queue.get(name))
    for _ in range({often} if given["n"] == 7 else 1):
        noop(**given)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Give a ledger for the tasks of a test, and the one that warms up."""
    path = tmp_path / "ledger"
    make_ledger(path, COUNT + 1)
    return path


@pytest.fixture
def processes(tmp_path: Path, ledger: Path) -> Iterator[Processes]:
    """Give what starts the peers, and end them."""
    processes = Processes({LEDGER: str(ledger)}, tmp_path / "log")
    yield processes
    processes.close()


def needs(peer: Peer) -> None:
    """Skip if a peer is not installed; CI has them all."""
    why = peer.why_not()
    if why is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_a_peer_puts_and_runs_each_task_once_and_leaves_nothing(
    setup: Setup, processes: Processes, ledger: Path, tmp_path: Path
) -> None:
    peer = Measured(setup, processes, open_ledger(str(ledger)))
    needs(peer)
    place = tmp_path / "place"
    place.mkdir()

    enqueue = peer.enqueue(place, COUNT, 2)
    drain = peer.drain(place, COUNT, 2)
    took = peer.latency(place, 3)

    print(f"{enqueue:.0f} put/s, {drain:.0f} run/s, {took} ns")  # noqa: T201  with -rP
    assert enqueue > 0
    assert drain > 0
    assert len(took) in (1, 2, 3)
    assert min(took) > 0
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("often", "says"), [(0, "a consumer ended with 1 of 20 left"), (2, "1 ran twice")]
)
def test_a_peer_that_loses_or_doubles_a_task_is_told_by_name(
    often: int, says: str, processes: Processes, ledger: Path, tmp_path: Path
) -> None:
    code = CONSUMER.format(often=often)
    setup = Setup(
        package="dirq",
        label="broken",
        producer=python("dirq_simple"),
        consumers=lambda folder, port, workers: [(str(BIN / "python"), "-c", code)],
    )
    peer = Measured(setup, processes, open_ledger(str(ledger)))
    needs(peer)

    with pytest.raises(FailedError, match=f"broken.*: .*{says}"):
        peer.drain(tmp_path, COUNT, 1)
