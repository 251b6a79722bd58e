"""Put tasks as files that a real uWSGI runs, too: for ``--uwsgi-files``."""

import os
from collections.abc import Mapping

from ...clock import CLOCK
from ...handle import spool_dir
from ...packet import encode_packet
from ...spooldir.marking import MARKER
from ...spooldir.room import check_room
from ...spooldir.uwsgi_files import write


def write_file(
    dir: str,
    pairs: Mapping[bytes, bytes],
    body: bytes,
    *,
    priority: str | None,
    at: float | None,
) -> str:
    """Put a task as uWSGI does: with its file names and modification times.

    Unlike uWSGI's, the file appears when it is whole; it is synced, with its folder.

    Args:
        dir: The directory, served by a uWSGI, by ``spoold --uwsgi`` or by both.
        pairs: What the packet holds, ``at`` and ``priority`` as well if it is to.
        body: What comes after it, of any size.
        priority: Digits: the folder of that number. None or empty for the directory.
        at: When it is due, in seconds since the epoch; None or 0 for at once.

    Returns:
        The file's absolute path. Whoever unlinks it cancels the task.

    Raises:
        PacketTooLargeError: The pairs take more than 64 KiB: uWSGI cannot run them.
        UsageError: The priority is no number, or ``at`` no moment.
        SpoolFull: A limit of the spool is reached.
        SpoolUncertain: It is in place, but the last sync failed.
        OSError: From the file system; there is no task then.
    """
    packet = encode_packet(pairs)
    chunks = (packet, body) if body else (packet,)
    if os.path.exists(os.path.join(dir, MARKER)):  # else nobody but uWSGI serves it
        check_room(spool_dir(dir), CLOCK.now_us())
    return write(dir, chunks, priority=priority, at=at)
