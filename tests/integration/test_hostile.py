"""What an enemy, or an accident, leaves where tasks are dropped: each is run rightly,
or kept and told of with a reason, and good tasks beside it run meanwhile."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import time_ns

import pytest

from spooler.spooldir import SpoolDir

from ..helpers import make_name, path_of, put
from .conftest import Box, Spoold, stays, wait_until

MODULE = """
import os
from pathlib import Path
from typing import BinaryIO

from spooler import spool


def write(text):
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    fd = os.open(Path(os.environ["OUT"], "out"), flags, 0o600)
    os.write(fd, f"{text}\\n".encode())
    os.close(fd)


@spool
def note(text: str = "done"):
    write(text)


@spool
def length(body: BinaryIO):
    write(body.seek(0, os.SEEK_END))
"""

ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="only root may do this")
NOBODY = 65534
SPOOL = Path(sys.executable).with_name("spool")
GIB = 1 << 30
SECRET = b"password=xyzzy\n"


def start(box: Box, *options: str) -> Spoold:
    box.module(MODULE)
    return box.start(*options, imports="mine")


def native(box: Box, data: bytes = b'{"task":"note"}', task: str = "note") -> Path:
    """Put any bytes under a name as a task has it."""
    name = make_name(time_ns() // 1000, task=task)
    return box.spool / path_of(put(SpoolDir(box.spool), name, data))


def reasons(box: Box) -> dict[str, str]:
    """Return why each thing in corrupt/ is there, by where it was found."""
    found = {}
    for name in box.names("corrupt"):
        if name.endswith(".why"):
            why = json.loads((box.spool / "corrupt" / name).read_bytes())
            assert os.path.lexists(box.spool / "corrupt" / name[:-4])
            found[why["found"]] = why["reason"]
    return found


def kept(box: Box) -> list[str]:
    """Return the names of what is in corrupt/, without the reports."""
    return [n for n in box.names("corrupt") if not n.endswith(".why")]


def spool_says(box: Box, *args: str) -> bytes:
    """Return what the command prints; it must end well."""
    command = [str(SPOOL), "--dir", str(box.spool), *args]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    return done.stdout


def is_plain(text: bytes) -> bool:
    """Tell whether text does nothing to a terminal."""
    return text.decode().replace("\n", "").isprintable()


def assert_nothing_raw(box: Box, daemon: Spoold) -> None:
    """Check that neither the log nor the command prints what is not text."""
    assert is_plain(daemon.log.read_bytes())
    listings: list[tuple[str, ...]] = [(), ("ls",), ("ls", "corrupt")]
    for args in listings:
        assert is_plain(spool_says(box, *args)), args
    for command in ("status", "ls"):
        for line in spool_says(box, command, "--json").splitlines():
            json.loads(line)
            assert line.isascii()
    for name in kept(box)[:5]:
        assert is_plain(spool_says(box, "show", "--", name))


# -- what is no file -----------------------------------------------------------------


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # its name may be longer than a socket's path
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def to_itself(path: Path) -> None:
    path.symlink_to(path.name)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "to-a-file": (lambda path: path.symlink_to("/etc/passwd"), "is a symbolic link"),
    "to-a-folder": (lambda path: path.symlink_to("/etc"), "is a symbolic link"),
    "dangling": (lambda path: path.symlink_to("nothing"), "is a symbolic link"),
    "loop": (to_itself, "is a symbolic link"),
    "fifo": (os.mkfifo, "is a FIFO"),
    "socket": (a_socket, "is a socket"),
}
DEVICES: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero": (lambda p: os.mknod(p, 0o20666, os.makedev(1, 5)), "is a device"),
    "disk": (lambda p: os.mknod(p, 0o60600, os.makedev(7, 99)), "is a device"),
}


@pytest.mark.parametrize("folder", ["5", ".", "minute"])
def test_what_is_no_file_is_put_aside_and_good_tasks_run(box: Box, folder: str) -> None:
    there = NO_FILES | (DEVICES if os.getuid() == 0 else {})
    if folder == "minute":
        folder = f"5/{native(box).parent.name}"
    for name, (make, _) in there.items():
        make(box.spool / folder / name)
    # A name as tasks have it: it is handed out, claimed, and found out by the worker.
    claimed = native(box)
    claimed.unlink()
    claimed.symlink_to("/etc/passwd")
    daemon = start(box)
    box.put("note", text="good")
    wait_until(lambda: "good" in box.lines())
    wait_until(lambda: len(kept(box)) == len(there) + 1)
    expected = {
        os.path.normpath(f"{folder}/{name}"): reason
        for name, (_, reason) in there.items()
    }
    found = reasons(box)
    assert found.items() >= expected.items()
    assert found[next(iter(found.keys() - expected.keys()))] == "is not a regular file"
    assert Path("/etc/passwd").is_file()
    assert_nothing_raw(box, daemon)


def test_a_folder_named_like_a_task_is_told_of_and_does_no_harm(box: Box) -> None:
    box.put("note")
    handed_out, dropped = native(box), native(box)
    handed_out.unlink()
    handed_out.mkdir()
    dropped.unlink()
    (box.spool / "5" / dropped.name).mkdir()
    (box.spool / "5" / "folder").mkdir()
    (box.spool / "folder").mkdir()
    daemon = start(box)
    box.wait_lines("done")
    wait_until(lambda: len(kept(box)) == 1)
    assert list(reasons(box).values()) == ["is not a regular file"]
    wait_until(lambda: daemon.text().count("left where it is") >= 3)
    for folder in ("5/folder", "./folder", f"5/{dropped.name}"):
        assert daemon.says(f"cannot adopt {folder} now: is a directory; left where")
    assert daemon.text().count("left where it is") == 3
    assert_nothing_raw(box, daemon)


def test_a_second_link_to_a_task_is_a_task(box: Box) -> None:
    file = box.app / "mine too"
    file.write_text("task=note\ntext=linked\n")
    os.link(file, box.spool / "5" / "x")
    start(box)
    box.wait_lines("linked")
    assert file.read_text() == "task=note\ntext=linked\n"


@ROOT_ONLY
def test_a_link_to_a_secret_tells_nothing_of_it(box: Box) -> None:
    own, foreign = box.app / "own", box.app / "foreign"
    for file in (own, foreign):
        file.write_bytes(SECRET)
        file.chmod(0o600)
        os.link(file, box.spool / "5" / file.name)
    os.chown(foreign, NOBODY, NOBODY)
    daemon = start(box)
    wait_until(lambda: len(kept(box)) == 2)
    assert "may not put tasks here" in reasons(box)["5/foreign"]
    assert reasons(box)["5/own"]
    for name in box.names("corrupt"):
        if name.endswith(".why"):
            assert b"xyzzy" not in (box.spool / "corrupt" / name).read_bytes()
    assert not daemon.says("xyzzy")
    assert foreign.stat().st_mode & 0o777 == 0o600


# -- what is no task -----------------------------------------------------------------


def json_task(**more: object) -> bytes:
    return json.dumps({"task": "note", **more}).encode()


NO_TASKS: dict[str, bytes] = {
    "empty": b"",
    "rubbish": os.urandom(1000).replace(b"\n", b"") + b"\n",
    "terminal": b"\x1b]0;owned\x07\x1b[2J=\n",
    "half": b'{"task":"note"',
    "deep": b'{"task":"note","args":' + b'{"a":' * 9999 + b"1" + b"}" * 9999 + b"}",
    "deep-list": b'{"task":"note","args":{"a":' + b"[" * 100_000,
    "large": b'{"task":"note","args":{"a":"' + b"x" * (3 << 20) + b'"}}',
    "infinite": b'{"task":"note","args":{"a":1e999}}',
    "nan": b'{"task":"note","args":{"a":NaN}}',
    "digits": b'{"task":"note","args":{"a":' + b"9" * 5000 + b"}}",
    "at-2446": json_task(at="2446-05-10T22:38:55Z"),
    "at-1e999": b'{"task":"note","at":1e999}',
    "at-digits": b'{"task":"note","at":' + b"9" * 5000 + b"}",
    "at-text": json_task(at="tomorrow\x1b[31m"),
    "at-object": json_task(at={}),
    "at-plus": b"task=note\nat=+1e9d\n",
    "priority": json_task(priority=10**30),
    "priority-minus": json_task(priority=-1),
    "priority-text": json_task(priority="5"),
    "name": json_task(task="../../etc/passwd"),
    "name-long": json_task(task="x" * 5000),
    "name-escape": json_task(task="\x1b[31m"),
    "id": json_task(id="../../../../etc/p"),
    "key-long": json_task(key="x" * 100_000),
    "packet": struct.pack("<BHB", 17, 65535, 0) + b"\xff" * 100,
    "bom": b"\xef\xbb\xbf" + json_task(),
    "utf-16": json_task().decode().encode("utf-16"),
    "surrogate": b'{"task":"note","args":{"a":"\\ud800"}}',
    "pickle": b"\x80\x04\x95cos\nsystem\n.",
    "zip": b"PK\x03\x04" + bytes(100),
}
TASKS: dict[str, tuple[bytes, str]] = {
    "twice": (b'{"task":"note","args":{"text":"1"},"args":{"text":"2"}}', "2"),
    "at-minus": (json_task(at=-1e15, args={"text": "before 1970"}), "before 1970"),
    "at-iso": (json_task(at="1999-01-01T00:00Z", args={"text": "late"}), "late"),
    "unknown": (json_task(spooler="/etc", x=[{}], args={"text": "more"}), "more"),
    "terminal": (json_task(args={"text": "\x1b[31mred"}), "\x1b[31mred"),
}


def test_what_is_no_task_is_put_aside_with_a_reason_and_good_tasks_run(
    box: Box,
) -> None:
    daemon = start(box)
    for name, data in NO_TASKS.items():
        box.drop(f"5/{name}", data)
    for name, (data, _) in TASKS.items():
        box.drop(f"5/good-{name}", data)
    box.put("note", text="put")
    box.wait_lines("put", *(line for _, line in TASKS.values()))
    wait_until(lambda: len(kept(box)) == len(NO_TASKS))
    found = reasons(box)
    assert found.keys() == {f"5/{name}" for name in NO_TASKS}
    assert all(reason and len(reason) < 500 for reason in found.values()), found
    for name in kept(box):
        data = NO_TASKS[name.rpartition(".")[0]]
        assert (box.spool / "corrupt" / name).read_bytes() == data
    assert_nothing_raw(box, daemon)


def test_a_worker_that_meets_what_is_no_task_puts_it_aside(box: Box) -> None:
    """Under a name as a task has it nobody but the worker looks into a file."""
    for data in NO_TASKS.values():
        native(box, data)
    box.put("note", text="good")
    daemon = start(box)
    wait_until(lambda: "good" in box.lines() and box.is_empty())
    # What is wrong about when and how urgently says nothing: the name is right.
    assert len(box.lines()) - 1 + len(kept(box)) == len(NO_TASKS)
    assert len(reasons(box)) == len(kept(box)) > 20
    assert_nothing_raw(box, daemon)


def sparse(path: Path, data: bytes, size: int) -> None:
    path.write_bytes(data)
    os.truncate(path, size)


def test_four_gigabytes_of_nothing_cost_nothing(box: Box) -> None:
    daemon = start(box)
    sparse(box.spool / "tmp" / "zeros", b"", 4 * GIB)
    sparse(box.spool / "tmp" / "json", b'{"task":"note","args":"', 4 * GIB)
    sparse(box.spool / "tmp" / "body", b'{"task":"length"}\n', 4 * GIB + 18)
    for name in ("zeros", "json", "body"):
        (box.spool / "tmp" / name).rename(box.spool / "5" / name)
    box.wait_lines(str(4 * GIB))
    wait_until(lambda: len(kept(box)) == 2)
    assert peak_mib(daemon.pid) < 100
    assert peak_mib(box.worker()) < 100


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has ever used."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


# -- names ---------------------------------------------------------------------------

NAMES = [
    b"two\nlines",
    b"\x1b[2J\x1b]0;owned\x07",
    b"-rf",
    b"--help",
    b"x" * 255,
    b"\xff" * 255,
    b"\xff\xfe not UTF-8",
    b"$(touch owned)`id`;|&",
    b"\\..\\..\\x",
    "\u202egnp.exe".encode(),
    b" ",
    b"%s%n%d",
    b"..\xc0\xaf"[2:],
    b"0000000000000000.5.0.zzzzzzzzzzzzzzzz.note",
    b"20011121T2101",
    b"5",
    b"x.why",
]


@pytest.mark.parametrize("good", [True, False])
def test_any_name_is_taken_as_it_is(box: Box, good: bool) -> None:
    daemon = start(box)
    data = b"task=note\n" if good else b"rubbish"
    root = os.fsencode(box.spool)
    for name in NAMES:
        hidden = box.spool / "tmp" / "x"
        hidden.write_bytes(data)
        os.rename(hidden, root + b"/5/" + name)
    if good:
        box.wait_lines(*["done"] * len(NAMES))
        assert not kept(box)
    else:
        wait_until(lambda: len(kept(box)) == len(NAMES))
        assert len(reasons(box)) == len(NAMES)
    assert_nothing_raw(box, daemon)
    assert not list(box.app.glob("owned")), "somebody has run a name"


def test_names_that_are_not_looked_at_stay(box: Box) -> None:
    names = [".hidden", "..x", "...", "x.tmp"]
    for name in names:
        (box.spool / "5" / name).write_bytes(b"task=note\ntext=bad\n")
    start(box)
    box.put("note")
    box.wait_lines("done")
    assert {*names} <= {*os.listdir(box.spool / "5")}


# -- files that change, and whose ----------------------------------------------------


def test_a_file_that_grows_is_taken_when_it_is_whole(box: Box) -> None:
    daemon = start(box)
    with (box.spool / "5" / "x").open("wb", buffering=0) as file:
        file.write(b'{"task":"length"}\n')
        for _ in range(20):
            file.write(b"x" * 50_000)
        box.put("note", text="meanwhile")
        box.wait_lines("meanwhile")
        assert (box.spool / "5" / "x").exists()
    box.wait_lines("meanwhile", "1000000")
    assert not kept(box)
    assert daemon.text().count("adopt") == 1


def test_a_file_that_is_cut_short_after_it_was_taken_does_no_harm(box: Box) -> None:
    """A producer that keeps the file open, and breaks the rule of the format."""
    head = b'{"task":"length"}\n'
    waiting = [native(box, head + bytes(1 << 20), "length") for _ in range(8)]
    handles = [path.open("r+b") for path in waiting]
    daemon = start(box)
    for number, handle in enumerate(handles):
        handle.truncate(number * 5)
        handle.close()
    box.put("note", text="good")
    wait_until(lambda: "good" in box.lines() and not box.running())
    assert len(box.lines()) + len(kept(box)) == len(waiting) + 1
    assert not daemon.says("Traceback")


@ROOT_ONLY
def test_a_daemon_without_rights_leaves_what_it_cannot_read_and_goes_on(
    box: Box,
) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (util-linux)")
    box.module(MODULE)
    for number in range(3):
        file = box.spool / "5" / f"locked{number}"
        file.write_bytes(b"task=note\ntext=locked\n")
        file.chmod(0)
    foreign = box.spool / "5" / "foreign"
    foreign.write_bytes(b"task=note\ntext=foreign\n")
    os.chown(foreign, 12345, 12345)
    foreign.chmod(0o644)
    powers = "-dac_override,-dac_read_search"
    limited = ["setpriv", "--bounding-set", powers, "--inh-caps", powers]
    daemon = box.launch([*limited, *box.command(imports="mine")])
    box.drop("5/good", b"task=note\ntext=good\n")
    wait_until(lambda: "good" in box.lines())
    wait_until(lambda: len(kept(box)) == 1)
    assert "uid 12345" in reasons(box)["5/foreign"]
    for number in range(3):
        daemon.wait_for(f"cannot adopt 5/locked{number} now: Permission denied")
    assert stays(lambda: daemon.text().count("cannot adopt") == 3, seconds=2.5)
    for number in range(3):
        (box.spool / "5" / f"locked{number}").chmod(0o600)
    wait_until(lambda: box.lines().count("locked") == 3)


def can_be_made_immutable(path: Path) -> bool:
    path.touch()
    done = subprocess.run(["chattr", "+i", path], check=False, capture_output=True)
    subprocess.run(["chattr", "-i", path], check=False, capture_output=True)
    path.unlink()
    return done.returncode == 0


@ROOT_ONLY
def test_what_cannot_be_moved_is_left_told_of_once_and_costs_nothing(
    box: Box,
) -> None:
    if not can_be_made_immutable(box.app / "x"):
        pytest.skip("this file system has no immutable files")
    files = [box.spool / "5" / name for name in ("task", "junk")]
    files[0].write_bytes(b"task=note\ntext=free\n")
    files[1].write_bytes(b"rubbish")
    text = b'{"task":"note","args":{"text":"native"}}'
    files.append(native(box, text))
    subprocess.run(["chattr", "+i", *files], check=True)
    try:
        daemon = start(box, "--frequency", "1")
        box.put("note", text="good")
        box.wait_lines("good")
        daemon.wait_for("cannot adopt 5/junk now: Operation not permitted")
        daemon.wait_for("cannot adopt 5/task now: Operation not permitted")
        daemon.wait_for("cannot claim")
        assert stays(lambda: daemon.text().count("cannot adopt") == 2, seconds=4)
        assert daemon.text().count("cannot claim") <= 8
    finally:
        subprocess.run(["chattr", "-i", *files], check=False)
    box.wait_lines("good", "free", "native")
    wait_until(lambda: len(kept(box)) == 1)
