"""What the daemon logs."""

import json
import os
import re
import sys

from spooler import __version__

from .conftest import Box, wait_until

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    r" (DEBUG|INFO|WARNING|ERROR) spoold\[\d+\] \S.*"
)


def test_the_banner_tells_what_is_served(box: Box) -> None:
    box.later("note", {"at": "+1h"})
    box.put("nobody_knows")
    box.drop("5/bad", b"{")
    box.burst()
    box.later("note", {"at": "+1h"})
    daemon = box.start("--workers", "2")
    first, *more = daemon.text().splitlines()
    [second] = [line for line in more if " serve spool=" in line]
    version = sys.version.split()[0]
    assert f"spoold {__version__} (Python {version}) pid={daemon.pid}" in first
    assert "imports=tasks" in first
    assert "note" in first
    assert f"spool={box.spool} filesystem=" in second
    for fact in ("wakeup=inotify", "workers=2", "timers=0", "failed=0", "corrupt=1"):
        assert f" {fact}" in second
    assert re.search(r"later=[23]\b", second)


def test_every_line_has_one_form(box: Box) -> None:
    box.put("note")
    box.put("broken", text="x\ny")
    box.put("poison")
    daemon = box.start("--log-level", "debug")
    wait_until(lambda: len(box.failed()) == 2)
    assert daemon.end() == 0
    assert all(LINE.fullmatch(line) for line in daemon.text().splitlines())


def test_json_lines_parse(box: Box) -> None:
    box.put("note")
    box.put("broken", text='"\\\n\x1b[0m\u2028é')
    box.drop('5/"\x1b[0m\n', b"no task")
    daemon = box.start("--log-json", "--log-level", "debug")
    wait_until(box.failed)
    wait_until(lambda: len(box.names("corrupt")) == 2)
    assert daemon.end() == 0
    records = [json.loads(line) for line in daemon.text().split("\n")[:-1]]
    assert {"time", "level", "logger", "pid", "message"} <= set(records[0])
    assert {r["pid"] for r in records} >= {daemon.pid}
    assert all("\x1b" not in record["message"] for record in records)


def test_escape_sequences_never_come_out_raw(box: Box) -> None:
    evil = "\x1b]0;evil\x07\x9b2J\u202e\r2026-11-20T21:01:00.123Z ERROR"
    box.drop(f"5/{evil}", b"no task")
    box.drop(f"5/{evil}2", f"task=note\ntext={evil}".encode())
    (box.spool / "5" / f"{evil}3").mkdir()
    (box.spool / "5" / f"{evil}4").symlink_to("x")
    (box.spool / evil).mkdir()
    box.put("broken", text=evil)
    daemon = box.start("--log-level", "debug")
    wait_until(box.failed)
    wait_until(lambda: len(box.names("corrupt")) == 4)
    box.wait_lines("1", "2", "3", *evil.replace("\r", "\n").split("\n"))
    assert daemon.end() == 0
    raw = daemon.log.read_bytes()
    for part in (b"\x1b", b"\x07", b"\r", b"\xc2\x9b", "\u202e".encode()):
        assert part not in raw
    assert all(LINE.fullmatch(line) for line in daemon.text().splitlines())


def test_a_name_that_is_not_utf_8_does_no_harm(box: Box) -> None:
    folder = str(box.spool / "5").encode()
    with open(folder + b"/\xff\xfe", "wb") as file:
        file.write(b"task=note\n")
    with open(folder + b"/\xff\xfd", "wb") as file:
        file.write(b"no task")
    daemon = box.start()
    box.wait_lines("done")
    wait_until(lambda: len(box.names("corrupt")) == 2)
    assert daemon.end() == 0


def test_arguments_and_bodies_are_not_logged(box: Box) -> None:
    box.later("size_of_bytes", {"body": b"secret"})
    box.put("note", text="secret")
    box.put("anything", password="secret")
    daemon = box.burst("--log-level", "debug")
    assert not daemon.says("secret")


def test_a_log_that_nobody_reads_any_more_does_no_harm(box: Box) -> None:
    reader, writer = os.pipe()
    command = ["sh", "-c", f'exec "$0" "$@" 2>/dev/fd/{writer}', *box.command()]
    daemon = box.launch(command, pass_fds=[writer])
    os.close(writer)
    os.close(reader)
    for number in range(20):
        box.put("note", text=str(number))
    box.wait_lines(*map(str, range(20)))
    assert daemon.end() == 0
    assert box.is_left_clean()
