"""Faults that the torture must find: a sync is left out, and a loss follows.

They are put into the product for the life of a process that is told to by its
environment, as those of the torture are; nothing else imports this.
"""

import os
from collections.abc import Callable
from typing import Any, Final

from spooler.spooldir import SpoolDir
from spooler.spooldir.claims import Claims

MUTANT: Final = "POWER_MUTANT"
"""The variable that names the fault."""


def _no_file_sync() -> None:
    write = SpoolDir.write

    def without(self: SpoolDir, *args: Any, **options: Any) -> Any:
        return write(self, *args, **{**options, "durable": False})

    SpoolDir.write = without  # type: ignore[method-assign] # a fault


def _no_folder_sync() -> None:
    SpoolDir.sync_folder = _nothing  # type: ignore[assignment,method-assign] # a fault


def _no_ack_sync() -> None:
    Claims.sync_due = _nothing  # type: ignore[assignment,method-assign] # a fault


def _early_ack() -> None:
    opened = Claims.open

    def removed(self: Claims, claim: Any, **rest: Any) -> Any:
        task = opened(self, claim, **rest)
        os.unlink(f"{self.folder}/{claim.file}", dir_fd=self.spool.fd)
        self.spool.sync(self.folder)
        return task

    Claims.open = removed  # type: ignore[method-assign] # a fault


def _nothing(*_: object) -> None:
    pass


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "no-file-sync": _no_file_sync,
    "no-folder-sync": _no_folder_sync,
    "no-ack-sync": _no_ack_sync,
    "early-ack": _early_ack,
}


def apply() -> None:
    """Put the fault in that the environment asks for."""
    wanted = os.environ.get(MUTANT)
    if wanted:
        MUTANTS[wanted]()
