"""Have ``import uwsgidecorators`` give ours, made when it is first imported.

Not before: importing it sets ``uwsgi.spooler``, and an application that does its own
dispatch never imports it.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

NAME: Final = "uwsgidecorators"


class _Finder(MetaPathFinder, Loader):
    """Finds and makes the one module."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return how the module is made, if it is this one."""
        return ModuleSpec(NAME, self) if fullname == NAME else None

    def exec_module(self, module: ModuleType) -> None:
        """Fill it, and have ``uwsgi`` call what is in it."""
        decorators = import_module(f"{__package__}.decorators")
        for name in decorators.NAMES.split():
            setattr(module, name, getattr(decorators, name))
        decorators.activate()


FINDER: Final = _Finder()
