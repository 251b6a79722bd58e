"""``spool put --from``: a task for each line."""

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from spooler.codec import decode
from spooler.spooldir import SpoolDir
from spooler.task import BATCH, MAX_HEADER, Name

from ..helpers import FACTOR
from .conftest import Cli
from .terminal import all_that_was_shown

SPOOL = str(Path(sys.executable).parent / "spool")
ID = "8c1f42d09ab3e617"
LINE = b'{"task":"resize","args":{"width":200}}\n'


def body_of(spool: SpoolDir) -> tuple[Name, bytes, bytes]:
    """Return the only task that waits: its name, its arguments, its body."""
    ((folder, file),) = spool.waiting()
    name = Name.parse(file)
    data = Path(spool.path, folder, file).read_bytes()
    header = decode(data, whole=True)
    assert name is not None
    assert header is not None
    assert isinstance(header.args, bytes)
    return name, header.args, data[header.body_offset :]


def test_each_line_is_a_task_of_one_batch(cli: Cli, spool: SpoolDir) -> None:
    more = b'{"task":"mail","at":"+5m","body":"hi","options":{"keep_result":5}}\n'
    result = cli("put", "--from", "-", stdin=LINE + more)
    assert result.exit_code == 0, result.stderr
    name, args, body = body_of(spool)
    assert (name.task, name.id) == (BATCH, result.stdout.strip())
    assert (args, body) == (b'{"count":2}', LINE + more)


def test_with_a_name_a_line_holds_only_the_arguments(
    cli: Cli, spool: SpoolDir, tmp_path: Path
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b'{"width":200}\r\n\n  {"width":300}')
    result = cli("put", "resize", "--from", str(path), "--json", "--id", ID)
    assert json.loads(result.stdout)["count"] == 2
    name, args, body = body_of(spool)
    assert (name.id, args) == (ID, b'{"count":2}')
    assert body == LINE + LINE.replace(b"200", b"300")


def test_options_are_those_of_the_batch(cli: Cli, spool: SpoolDir) -> None:
    at = "2100-01-01T00:00Z"
    given = ("--at", at, "--priority", "2", "--fast")
    assert cli("put", "--from", "-", *given, stdin=LINE).exit_code == 0
    name, _, _ = body_of(spool)
    assert (name.due_us, name.priority) == (4102444800_000_000, 2)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"nonsense", "not a JSON object"),
        (b'{"task":"t",}', "column 13: not JSON"),
        (b'{"args":{}}', "task"),
        (b'{"task":"t","id":"8c1f42d09ab3e617"}', "id: has no place in a batch"),
        (b'{"task":"t","at":"soon"}', "at: 'soon' is not a moment"),
        (b'{"task":"t","options":{"if_exists":1}}', "if_exists"),
        (b'{"task":"_batch","args":{"count":1}}', "a batch has no place in a batch"),
        (b'{"task":"t","args":{"x":"%b"}}' % (b"x" * MAX_HEADER), "is longer than"),
        (b'{"task":"t","args":{"x":"\xff"}}', "UTF-8"),
        (b'{"task":"t","arg":{"x":1}}', "a task has no key 'arg' (it has: args, at,"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_put(
    cli: Cli, spool: SpoolDir, line: bytes, problem: str
) -> None:
    result = cli("put", "--from", "-", stdin=LINE + b"\n" + line + b"\n" + LINE)
    assert result.exit_code == 2
    assert result.stderr.startswith("spool: standard input, line 3: ")
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(spool.waiting()) == []


@pytest.mark.parametrize("line", [b"[1]", b'{"x":1},"at":5,"options":{}', b"5"])
def test_a_line_that_is_no_object_of_arguments_is_refused(
    cli: Cli, spool: SpoolDir, line: bytes
) -> None:
    result = cli("put", "resize", "--from", "-", stdin=line)
    assert result.exit_code == 2
    assert "line 1: with TASK given, a line is a JSON object" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("t", "x=1"),
        ("--body", "/etc/hostname"),
        ("--then", "t"),
        ("--key", "k"),
    ],
)
def test_what_is_for_one_task_cannot_stand_beside_it(
    cli: Cli, spool: SpoolDir, args: tuple[str, ...]
) -> None:
    result = cli("put", "--from", "-", *args, stdin=LINE)
    assert (result.exit_code, list(spool.waiting())) == (2, [])
    assert "--from cannot be used with" in result.stderr


def test_without_a_task_and_without_a_file_it_is_wrong_usage(cli: Cli) -> None:
    result = cli("put")
    assert result.exit_code == 2
    assert "missing argument 'TASK', or --from" in result.stderr
    result = cli("put", "--from", "/nowhere")
    assert result.exit_code == 2
    assert "--from /nowhere: No such file or directory" in result.stderr
    result = cli("put", "bad name", "--from", "-", stdin="{}")
    assert result.exit_code == 2


def test_an_input_without_tasks_puts_nothing(cli: Cli, spool: SpoolDir) -> None:
    result = cli("put", "--from", "-", stdin="\n  \n")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "holds no tasks: nothing was put" in result.stderr
    assert list(spool.waiting()) == []


def test_show_tells_how_many_lines_are_left(cli: Cli, spool: SpoolDir) -> None:
    cli("put", "--from", "-", "--id", ID, stdin=LINE * 10)
    assert "\nlines     10, 10 left\n" in cli("show", ID).stdout
    place = f"0000000000000003 0000000000000007 {ID}\n"
    Path(spool.path, "batches", ID).write_text(place)
    assert json.loads(cli("show", ID, "--json").stdout)["lines"] == {
        "count": 10,
        "left": 4,
    }
    Path(spool.path, "batches", ID).write_text("x" * 60)
    assert "lines     10, 10 left" in cli("show", ID).stdout
    assert "_batch" in cli("ls").stdout


def test_memory_does_not_grow_with_the_file(spool: SpoolDir, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(LINE * 500_000)  # 20 MB
    code = (
        "import resource, sys, os\n"
        "from spooler.cli.spool import main\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: main(['put', '--from', sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "SPOOL_DIR": spool.path},
        capture_output=True,
        check=True,
        timeout=30 * FACTOR,
    )
    assert int(done.stdout.split()[-1]) < 16 * 1024, done.stdout
    assert body_of(spool)[1] == b'{"count":500000}'


def test_a_bar_is_shown_on_a_terminal(spool: SpoolDir, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(LINE * 2500)
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run(
        [SPOOL, "put", "--from", str(path)],
        env={**os.environ, "SPOOL_DIR": spool.path, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=True,
        timeout=20 * FACTOR,
    )
    os.close(theirs)
    shown = all_that_was_shown(ours).decode()
    assert "reading" in shown
    assert "100%" in shown
    assert done.stdout.decode().strip() == body_of(spool)[0].id
