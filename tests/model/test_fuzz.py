"""Some rubbish for every reader: the same each time, and more in the torture."""

import pytest

from tests.torture.fuzz import Fuzz

TIMES = {
    "codec": 3000,
    "names": 3000,
    "moments": 2000,
    "written": 300,
    "lines": 1500,
    "ranges": 3000,
    "damage": 60,
    "serve": 100,
    "spool": 100,
    "spoold": 100,
    "process": 2,
}


@pytest.mark.parametrize("name", TIMES)
def test_rubbish_gives_a_documented_result(name: str) -> None:
    with Fuzz(1, [name]) as fuzz:
        for _ in range(TIMES[name]):
            fuzz.once(name)
        assert fuzz.report.broken == []
