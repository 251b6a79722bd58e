"""The local time zone: beside the C library's."""

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from spooler import local_zone as module
from spooler.errors import UsageError
from spooler.local_zone import local_zone, zone_of
from spooler.schedule import CronLine
from spooler.slots import check, next_slot_us

WINTER, SUMMER = 1_795_296_379, 1_782_000_000


@pytest.fixture(autouse=True)
def tz(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the C library forget what a test has set."""
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        "",
        ":",
        "UTC",
        "Europe/Paris",
        ":Europe/Paris",
        "/usr/share/zoneinfo/Asia/Tokyo",
        "CET-1CEST",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "EST5EDT",
        "JST-9",
        "<+0330>-3:30",
        "UTC+3",
        "nonsense",
        "Foo/Bar",
        "/nowhere/at/all",
        "123",
    ],
)
def test_the_hour_is_that_of_the_c_library(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TZ", value)
    time.tzset()
    zone = zone_of(local_zone())
    for moment in (WINTER, SUMMER):
        there = datetime.fromtimestamp(moment, zone)
        assert there.timetuple()[:6] == time.localtime(moment)[:6]


def test_without_a_variable_it_is_the_machines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TZ", raising=False)
    time.tzset()
    there = datetime.fromtimestamp(WINTER, zone_of(local_zone()))
    assert there.hour == time.localtime(WINTER).tm_hour
    link = tmp_path / "localtime"
    monkeypatch.setattr(module, "LOCALTIME", str(link))
    assert local_zone() == "UTC"  # there is none
    link.symlink_to("/usr/share/zoneinfo/Asia/Tokyo")
    assert local_zone() == "Asia/Tokyo"
    link.unlink()
    link.write_bytes(Path("/usr/share/zoneinfo/Asia/Kolkata").read_bytes())
    assert local_zone() == str(link)
    assert zone_of(str(link)).utcoffset(datetime(2026, 1, 1)).seconds == 19800  # type: ignore[union-attr]  # noqa: DTZ001


def test_cron_lines_take_all_of_these() -> None:
    line = CronLine("0 12 * * *", "CET-1CEST,M3.5.0,M10.5.0/3")
    assert next_slot_us(line, SUMMER * 1_000_000) == 1_782_036_000_000_000
    with pytest.raises(UsageError, match="no time zone 'Foo3,Bar'"):
        check(CronLine("0 12 * * *", "Foo3,Bar"))
    with pytest.raises(UsageError, match="no time zone '/etc/passwd'"):
        check(CronLine("0 12 * * *", "/etc/passwd"))
    assert os.environ.get("TZ") != "Foo3,Bar"
