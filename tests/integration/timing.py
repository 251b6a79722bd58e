"""Upper limits of time, on a machine that does other things too."""

from collections.abc import Callable

from .conftest import cpu_seconds, stays, wait_until

TRIES = 5


def check_in_time(limit: float, measure: Callable[[], float]) -> list[float]:
    """Check that something takes no longer than a limit; return how long it took.

    Others can only make it slower: so one try of a few that is fast enough tells.

    Args:
        measure: Does it once, and returns the seconds that it took.
    """
    took: list[float] = []
    while not took or took[-1] > limit:
        assert len(took) < TRIES, f"never within {limit} s: {took}"
        took.append(measure())
    return took


def wait_for_rest(pids: list[int], *, seconds: float, share: float) -> None:
    """Wait until processes need, for so long, at most a share of one processor.

    Those that go on and on with something never do.
    """

    def is_at_rest() -> bool:
        before = sum(map(cpu_seconds, pids))
        assert stays(lambda: True, seconds=seconds)
        return sum(map(cpu_seconds, pids)) - before <= seconds * share

    wait_until(is_at_rest)
