"""Test an application's tasks: in this process, at once, at any time of day.

``LocalSpool`` is a spool of the test's own; for pytest there is the fixture ``spool``.
"""

from .local import FakeClock, LocalSpool, Ran, Waiting

__all__ = ["FakeClock", "LocalSpool", "Ran", "Waiting"]
