"""Celery on kombu's file-system transport (kombu.transport.filesystem).

Producer and consumer have the two folders crossed, or one folder for both, as here.
"""

import os
from collections.abc import Iterable

from celery import Celery

from ..work import NOTE, folder, noop

options = {
    "data_folder_in": f"{folder()}/data",
    "data_folder_out": f"{folder()}/data",
    "control_folder": f"{folder()}/control",
}
for path in options.values():
    os.makedirs(path, exist_ok=True)

app = Celery("bench", broker="filesystem://")
app.conf.broker_transport_options = options
task = app.task(noop)


def put(numbers: Iterable[int]) -> None:
    """Put a task for each number."""
    for n in numbers:
        task.delay(n, NOTE)
