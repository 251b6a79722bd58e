"""The time zone that this process lives in, as the C library sees it.

uWSGI's cron lines follow ``localtime(3)``, so this reads ``$TZ`` and ``/etc/localtime``
by the C library's rules: POSIX, section 8.3, and tzset(3).
"""

import io
import os
import re
import struct
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

LOCALTIME: Final = "/etc/localtime"

_FOLDER: Final = "/zoneinfo/"
_NAMED_US_RULES: Final = ",M3.2.0,M11.1.0"
"""What the C library takes for a zone with summer time of which no rule is given."""

_NAME: Final = r"(?:<[^>]+>|[A-Za-z]{3,})"
_SUMMER: Final = re.compile(rf"{_NAME}[-+]?[\d:]+{_NAME}")


def local_zone() -> str:
    """Return the local zone: a name for ``zone_of``, or of the tz database."""
    given = os.environ.get("TZ")
    if given is None:
        return _of_the_machine()
    name = given.removeprefix(":")
    for found in (name, f"{name}{_NAMED_US_RULES}" if _SUMMER.fullmatch(name) else ""):
        if found and _is_zone(found):
            return found
    return "UTC"


def _of_the_machine() -> str:
    name = os.path.realpath(LOCALTIME).partition(_FOLDER)[2]
    if name and _is_zone(name):
        return name
    return LOCALTIME if _is_zone(LOCALTIME) else "UTC"


def _is_zone(name: str) -> bool:
    try:
        zone_of(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


@lru_cache(maxsize=64)
def zone_of(name: str) -> ZoneInfo:
    """Return a zone by its name in the tz database, a file's path, or a POSIX rule.

    Raises:
        KeyError, ValueError, OSError: There is none.
    """
    if name.startswith("/"):
        with open(name, "rb") as file:
            return ZoneInfo.from_file(file, key=name)
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        if not any(each.isdigit() for each in name):
            raise
        return ZoneInfo.from_file(io.BytesIO(_rule_file(name)), key=name)


def _rule_file(rule: str) -> bytes:
    """Return a file of the tz database that holds nothing but a rule (RFC 8536)."""
    head = struct.pack(">4sc15x6l", b"TZif", b"2", 0, 0, 0, 0, 1, 4)
    kind = struct.pack(">lbB", 0, 0, 0) + b"UTC\0"
    return head + kind + head + kind + b"\n" + rule.encode("ascii") + b"\n"
