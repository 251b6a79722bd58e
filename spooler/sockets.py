"""The sockets of a daemon, if it has any: opened, started and closed with it.

What serves them is loaded only then.
"""

from collections.abc import Callable

from .config import Settings
from .task import DEFAULT_PRIORITY, MAX_PRIORITY


class Sockets:
    """The sockets of a daemon."""

    def __init__(self) -> None:
        self._start: Callable[[], None] | None = None
        self._close: Callable[[], None] | None = None

    def open(self, settings: Settings) -> None:
        """Listen where it was asked for. What connects waits until ``start``.

        Raises:
            UsageError: An address, or the file with the secret, cannot be used.
        """
        if settings.sockets is None or not settings.sockets.addresses:
            return
        from .ext.uwsgi.receiving import Rules  # noqa: PLC0415 (few need them)
        from .ext.uwsgi.server import Server  # noqa: PLC0415

        rules = Rules(
            priority=MAX_PRIORITY if settings.uwsgi else DEFAULT_PRIORITY,
            signed=settings.require_signature,
        )
        server = Server(settings.sockets, settings.dirs, rules)
        self._start, self._close = server.start, server.close

    def start(self) -> None:
        """Begin to take tasks."""
        if self._start is not None:
            self._start()

    def close(self) -> None:
        """Take no more."""
        if self._close is not None:
            self._close()
