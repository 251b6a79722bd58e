"""The commands ``spoold`` and ``spool``: parse, call, print."""
