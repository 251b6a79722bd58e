"""Tasks that must not run beside themselves."""

import os
from pathlib import Path
from threading import Event

from spooler import spool


def _say(text: str) -> None:
    with Path(os.environ["OUT"], "out").open("a") as file:
        file.write(f"{text}\n")


@spool(key="alone-{number}", retries=0)
def alone(number: int, seconds: float = 0.0) -> None:
    """Tell if another run with this number goes on."""
    mark = Path(os.environ["OUT"], f"runs-{number}")
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        _say(f"{number} overlaps")
        return
    Event().wait(seconds)
    _say(str(number))
    mark.unlink()


@spool(key="{number}", retries=0)
def broken(number: int) -> None:
    """Fail."""
    _say(f"broken {number}")
    raise ValueError(number)


@spool(key="{number}", retries=1, backoff=0.2, jitter=0)
def broken_once(number: int) -> None:
    """Fail the first time; end the second time when a file is there."""
    mark = Path(os.environ["OUT"], f"once-{number}")
    if not mark.exists():
        mark.touch()
        raise ValueError(number)
    while not Path(os.environ["OUT"], "gate").exists():
        Event().wait(0.01)
    _say(f"mended {number}")


@spool(key="gate")
def at_gate(text: str = "through") -> None:
    """Wait until a file is there."""
    _say("at the gate")
    while not Path(os.environ["OUT"], "gate").exists():
        Event().wait(0.01)
    _say(text)
