"""Files that other programs drop: shells, slow writers, uWSGI."""

import os
import struct
import subprocess
from pathlib import Path

from .conftest import Box, stays, wait_until


def shell(box: Box, script: str) -> None:
    subprocess.run(["sh", "-ec", script], cwd=box.spool, check=True)


def uwsgi(**pairs: bytes) -> bytes:
    block = b"".join(
        struct.pack("<H", len(part)) + part
        for key, value in pairs.items()
        for part in (key.encode(), value)
    )
    return struct.pack("<BHB", 17, len(block), 0) + block


def test_a_shell_puts_a_task_with_printf_and_mv(box: Box) -> None:
    box.start()
    shell(box, "printf 'task=note\\ntext=from sh\\n' > tmp/x; mv tmp/x 5/x")
    box.wait_lines("from sh")


def test_a_shell_that_writes_in_place_is_understood(box: Box) -> None:
    box.start()
    shell(box, "echo 'task=note' > 5/x; echo '{\"task\":\"note\"}' > y")
    box.wait_lines("done", "done")


def test_a_slow_writer_is_run_once_and_whole(box: Box) -> None:
    daemon = box.start()
    with (box.spool / "5" / "slow").open("wb") as file:
        file.write(b'{"task":"size_of_bytes"}\nhalf')
        file.flush()
        box.put("note", text="meanwhile")
        box.wait_lines("meanwhile")
        assert stays(lambda: box.names("5").count("slow"), seconds=1.5)
        file.write(b"+half")
    box.wait_lines("meanwhile", "9 b'half+'")
    assert not box.names("corrupt")
    assert daemon.text().count("adopt") == 1


def test_key_value_text_is_converted_by_type_hints(box: Box) -> None:
    text = "task=typed\ncount=41\nratio=0.5\nwhen=2026-11-20T21:01:00Z\npath=a/b.txt\n"
    box.drop("5/typed", text.encode() + b"flag=true\n")
    box.burst()
    assert box.lines() == ["42 1.0 2026-11-20T21:01:00+00:00 .txt True"]


def test_a_uwsgi_packet_runs(box: Box) -> None:
    pairs = {"ud_spool_func": b"anything", "photo": b"1.png", "priority": b"3"}
    box.drop("uwsgi_spoolfile_on_host_1_1_1_1", uwsgi(**pairs) + b"binary\0")
    box.burst()
    assert "('photo', '1.png')" in box.lines()[0]
    assert "('body', b'binary\\x00')" in box.lines()[0]


def test_magic_keys_of_dropped_files_are_obeyed(box: Box) -> None:
    args = "id=00112233445566ff\npriority=3\nat=+0\ntraceparent=abc\nspooler=x\nkey=y\n"
    box.drop("x", f"task=about\n{args}".encode())
    box.burst()
    assert box.lines()[0] == "00112233445566ff"
    assert box.lines()[3] == "3"
    assert box.lines()[5] == "abc"


def test_a_time_that_no_calendar_has_does_not_kill_the_worker(box: Box) -> None:
    path = box.spool / "tmp" / "x"
    path.write_bytes(b"task=about\n")
    os.utime(path, ns=(0, -(2**31) * 1_000_000_000))
    path.rename(box.spool / "5" / "x")
    box.burst()
    assert box.lines()[6] in ("True", "False")


def test_what_is_no_task_goes_to_corrupt_with_the_reason(box: Box) -> None:
    box.drop("5/bad", b'{"task":')
    box.put("note")
    daemon = box.burst()
    assert box.lines() == ["done"]
    assert "not JSON" in box.why("corrupt")["reason"]
    assert daemon.text().count("reject") == 1


def test_a_fifo_a_link_and_a_folder_do_no_harm(box: Box, tmp_path: Path) -> None:
    os.mkfifo(box.spool / "5" / "fifo")
    (box.spool / "5" / "link").symlink_to("/etc/passwd")
    (box.spool / "5" / "folder").mkdir()
    daemon = box.start()
    box.put("note")
    box.wait_lines("done")
    wait_until(lambda: len(box.names("corrupt")) == 4)
    assert (box.spool / "5" / "folder").is_dir()
    daemon.wait_for("is a directory")
    assert daemon.text().count("is a directory") == 1
    assert Path("/etc/passwd").exists()


def test_a_failed_task_moved_back_by_hand_runs(box: Box) -> None:
    daemon = box.start("--max-attempts", "1")
    box.later("again_after", {}, seconds=0)
    wait_until(box.failed)
    [name] = box.failed()
    os.replace(box.spool / "failed" / name, box.spool / "5" / name)
    box.wait_lines("1", "2")
    assert daemon.says("adopt")
