"""Two moves on one task at the same time: as one after the other, in some order."""

import random

import pytest

from .pairs import MOVES, pairs, problems

EVERY = 24
"""One pair in so many is tried here, stopped at some calls; all are in the torture."""


def sample(*, keyed: bool, fatal: bool) -> list[tuple[str, str, str]]:
    """Return some pairs of each state: the same each time."""
    chance, some = random.Random(f"{keyed} {fatal}"), []
    for state in MOVES:
        found = [pair for pair in pairs() if pair[0] == state]
        if not keyed:
            found = [pair for pair in found if not {"put", "replace"} & {*pair}]
        some += chance.sample(found, max(2, len(found) // EVERY))
    return some


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("pair", sample(keyed=True, fatal=False), ids=" ".join)
def test_a_move_is_stopped_while_another_is_made(pair: tuple[str, str, str]) -> None:
    chance = random.Random(1)
    assert not list(problems(*pair, keyed=True, fatal=False, chance=chance))


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("pair", sample(keyed=False, fatal=False), ids=" ".join)
def test_a_move_without_a_key_is_stopped(pair: tuple[str, str, str]) -> None:
    chance = random.Random(2)
    assert not list(problems(*pair, keyed=False, fatal=False, chance=chance))


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("pair", sample(keyed=True, fatal=True), ids=" ".join)
def test_who_is_stopped_dies_and_another_move_is_made(
    pair: tuple[str, str, str],
) -> None:
    chance = random.Random(3)
    assert not list(problems(*pair, keyed=True, fatal=True, chance=chance))
