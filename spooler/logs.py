"""How log lines look, and how text from elsewhere becomes safe to show.

Plain, and as JSON::

    2026-11-20T21:01:00.123Z INFO spoold[1234] ack task=8c1f42d09ab3e617 attempt=1
    {"time":"2026-11-20T21:01:00.123Z","level":"INFO","logger":"spooler.worker",
     "pid":1234,"message":"ack task=8c1f42d09ab3e617 attempt=1"}

(JSON on one line.) A record is one line in both, whatever its message holds, but
for a traceback: in plain mode its lines follow, indented, so that every line
which does not begin with a space begins a record and none can be forged. In JSON it is
the key ``exception``.
"""

import logging
import sys
from json import JSONEncoder
from typing import Final, TextIO

from .errors import UsageError
from .task import iso

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# Made once: json.dumps would make one for each line.
_ENCODER: Final = JSONEncoder(separators=(",", ":"))


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    number = ord(char)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def escape(text: str) -> str:
    r"""Return any text as one line that does nothing to a terminal.

    What Unicode does not call printable becomes ``\xNN``, ``\uNNNN`` or
    ``\UNNNNNNNN``: control characters, line ends, marks that turn the direction,
    joiners, unassigned and lone surrogates (bytes of a name that are not UTF-8),
    and every space but the usual one. For people, not for programs: a backslash
    stays as it is.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


class _Format(logging.Formatter):
    """What the two formats have in common."""

    def time(self, record: logging.LogRecord) -> str:
        return iso(int(record.created * 1_000_000))

    def exception(self, record: logging.LogRecord) -> list[str]:
        """Return the lines of the traceback and of the stack, if there are any."""
        lines = []
        if record.exc_info and not record.exc_text:
            # Kept in the record as logging's own formatter does, for the next one.
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            lines += record.exc_text.split("\n")
        if record.stack_info:
            lines += record.stack_info.split("\n")
        return [escape(line) for line in lines]


class _Plain(_Format):
    def format(self, record: logging.LogRecord) -> str:
        line = (
            f"{self.time(record)} {record.levelname} spoold[{record.process}]"
            f" {escape(record.getMessage())}"
        )
        return "\n  ".join([line, *self.exception(record)])


class RunLines(_Format):
    """What a task logs, in the log of its run: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line, with those of its traceback after it."""
        message = escape(record.getMessage())
        line = f"{self.time(record)} {record.levelname} {escape(record.name)} {message}"
        return "\n  ".join([line, *self.exception(record)])


class _Json(_Format):
    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, str | int | None] = {
            "time": self.time(record),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": escape(record.getMessage()),
        }
        if exception := self.exception(record):
            facts["exception"] = "\n".join(exception)
        # ASCII only, so that a stream of any encoding leaves it valid.
        return _ENCODER.encode(facts)


def configure(level: str, *, json: bool, stream: TextIO | None = None) -> None:
    """Let this process log in spoold's format, and in no other way.

    For the command line and for workers, once. It replaces every handler of the
    root logger, so that what the user's own modules log looks the same.

    Args:
        level: A key of ``LEVELS``; what is less than that is not logged.
        json: One JSON object a line instead of plain text.
        stream: Where to; standard error as it is now if None.

    Raises:
        UsageError: There is no such level; nothing was changed.
    """
    if level not in LEVELS:
        raise UsageError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(_Json() if json else _Plain())
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    for library in ("filelock", "watchdog", "asyncio"):
        logging.getLogger(library).setLevel(max(LEVELS[level], logging.INFO))
