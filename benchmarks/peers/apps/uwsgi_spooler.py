"""uWSGI's spooler, with its decorators (uWSGI API - Python decorators)."""

from collections.abc import Iterable

import uwsgidecorators

from ..work import NOTE, folder, noop

task = uwsgidecorators.spool(noop, pass_arguments=True)


def put(numbers: Iterable[int]) -> None:
    """Put a task for each number, into the spooler that another instance may run."""
    spooler = f"{folder()}/spool"
    for n in numbers:
        task(n, NOTE, spooler=spooler)
