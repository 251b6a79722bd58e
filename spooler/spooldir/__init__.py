"""The spool on disk: every path, every rename, every lock.

Nothing else in spooler touches the spool. The modules here call ``os`` only,
never ``Path`` or ``open``, and take every file relative to one descriptor of the
spool's root, so that tests can put their own ``os`` in its place (tests/crash)
and nobody can swap the directory under a running process.

* ``files``: write small files, sync directories
* ``root``: open a spool, put, list what waits (all that a producer needs);
  ``marking``: what makes a directory a spool
* ``reading``: a task file, opened safely and parsed; its body as a file
* ``keys``: put tasks with a uniqueness key; ``keyed``: adopt them; ``owner``: who has
  one
* ``reports``: the ``.why`` files and the list of attempts
* ``results``: what tasks have returned; ``tracking``: where one task is, at any time
* ``runlogs``: what runs print; ``progress``: how far they say they are
* ``batches``: how far a batch has come; cut it, take lines out of it
* ``claims``: what one worker holds: claim, read, settle
* ``dropped``: adopt what other programs left
* ``recovery``: locks of processes, recovery of the dead, sweeping
* ``timers``: which slots were put
* ``room``: how much may wait; ``reserve``: space kept back, to end work on a full disk
* ``repair``: find, kick, fail and remove, for operators
* ``control``: hold, release, hurry and cancel; ``editing``: another header
* ``pauses``: what is not run for a while

Specification: docs/format.md.
"""

from .root import SpoolDir

__all__ = ["SpoolDir"]
