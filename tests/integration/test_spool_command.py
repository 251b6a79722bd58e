"""The command ``spool``, on real spools."""

import errno
import fcntl
import json
import os
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from spooler.cli.facts import row
from spooler.cli.group import exit_code
from spooler.cli.spool import main
from spooler.clock import CLOCK
from spooler.spooldir import SpoolDir, repair
from spooler.spooldir.claims import Claims
from spooler.spooldir.recovery import ProcessLock, process_name
from spooler.spooldir.repair import Found
from spooler.task import Name, Outcome, State, Verdict

from ..helpers import FACTOR, wait_until
from .conftest import Cli, thread_states
from .terminal import all_that_was_shown

SPOOL = str(Path(sys.executable).parent / "spool")
ID = "8c1f42d09ab3e617"
OTHER = "8c1f42d09ab3e618"
HOSTILE = "evil\x1b[2J\nfailed \u202e.12345678"


@pytest.fixture
def claims(spool: SpoolDir) -> Claims:
    return Claims(spool, "worker-test-1-aaaaaa", {os.geteuid()})


def process(
    *args: str | bytes, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    clean = {k: v for k, v in os.environ.items() if k != "SPOOL_DIR"}
    return subprocess.run(
        [SPOOL, *args],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=20 * FACTOR,
        env={**clean, **environment},
    )


def put(
    spool: SpoolDir, task_id: str = ID, task: str = "resize", *, age: float = 10.0
) -> Name:
    due_us = CLOCK.now_us() - int(age * 1e6)
    name = Name(due_us, 5, 0, task_id, task)
    spool.put(name, [b'{"task":"%s","args":{"width":200}}\n' % task.encode()])
    return name


def put_failed(
    spool: SpoolDir, claims: Claims, task_id: str = ID, task: str = "resize"
) -> None:
    name = put(spool, task_id, task)
    claim = claims.claim(f"{name.folder}/{name}")
    assert claim is not None
    error = "ValueError: no \x1b[31m\nline"
    outcome = Outcome(Verdict.FAIL, error, "exception", "Traceback\n  \x1b[2Jhere")
    claims.fail(claim, outcome, started_us=CLOCK.now_us())


def corrupt(spool: SpoolDir, name: str = HOSTILE, data: bytes = b"\x1b\xff") -> Path:
    path = Path(spool.path, "corrupt", name)
    path.write_bytes(data)
    path.with_name(f"{name}.why").write_text(json.dumps({"reason": "bad \x1b]0;x\x07"}))
    return path


def lines(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.stderr
    assert result.stdout.isascii()
    return [json.loads(line) for line in result.stdout.splitlines()]


def objects(value: object) -> list[dict[str, Any]]:
    assert isinstance(value, list)
    return value


def states(spool: SpoolDir) -> dict[str, State]:
    return {found.id: found.state for found in repair.ls(spool, *State)}


def is_harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


# -- the command as a whole -----------------------------------------------------


def test_put_prints_an_id_and_the_task_is_there(spool: SpoolDir) -> None:
    done = process("put", "resize", "photo=1.png", "width:=200", SPOOL_DIR=spool.path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert states(spool) == {done.stdout.decode().strip(): State.WAITING}


def test_a_missing_spool_is_one_line_and_78(tmp_path: Path) -> None:
    done = process("ls", "--dir", str(tmp_path / "no\x1b[2J\nthing"))
    assert done.returncode == 78
    assert done.stderr.startswith(b"spool: ")
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr


@pytest.mark.parametrize("command", ["", "status", "ls", "put x", "show 1", "rm 1"])
def test_a_directory_that_is_no_spool_is_left_alone(
    tmp_path: Path, cli: Cli, command: str
) -> None:
    Path(tmp_path, "mine").write_text("")
    result = cli("--dir", str(tmp_path), *command.split())
    assert result.exit_code == 78
    assert "not a spool" in result.stderr
    assert {each.name for each in tmp_path.iterdir()} == {"mine", "spool"}


def test_no_permission_is_78(spool: SpoolDir, cli: Cli) -> None:
    user = os.geteuid()
    os.chmod(spool.path, 0)
    if user == 0:  # root may read anything, so be nobody
        os.seteuid(65534)
    try:
        result = cli("ls")
    finally:
        os.seteuid(user)
        os.chmod(spool.path, 0o700)
    assert result.exit_code == 78
    assert result.stderr == f"spool: {spool.path}: Permission denied\n"


@pytest.mark.parametrize(
    "command",
    [
        "nonsense",
        "ls --nonsense",
        "ls nowhere",
        "ls --limit -1",
        "put",
        "put resize photo",
        "put resize =x",
        "put resize :=1",
        "put resize a:=nonsense",
        "put resize a:=[NaN]",
        "put resize a=1 a:=2",
        "put resize --at yesterday",
        "put resize --priority -1",
        "put resize --id 12",
        "put -- -resize",
        "put resize --body /nowhere/at/all",
        "show",
        "kick",
        "kick --task resize",
        "kick --all 8c1f",
        "fail",
        "rm",
    ],
)
def test_wrong_usage_is_one_line_and_2(spool: SpoolDir, cli: Cli, command: str) -> None:
    result = cli(*command.split())
    assert result.exit_code == 2
    assert result.stderr.startswith("spool: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert states(spool) == {}


@pytest.mark.parametrize("option", ["at", "priority", "body"])
def test_an_option_given_as_an_argument_is_refused_with_a_hint(
    cli: Cli, option: str
) -> None:
    for argument in (f"{option}=1", f"{option}:=1"):
        result = cli("put", "resize", argument)
        assert result.exit_code == 2
        assert f"use --{option}" in result.stderr


def test_dir_and_json_stand_before_or_after_the_command(
    spool: SpoolDir, tmp_path: Path
) -> None:
    runner = CliRunner(env={"SPOOL_DIR": str(tmp_path / "nowhere")})
    put(spool)
    before = runner.invoke(main, ["--dir", spool.path, "--json", "ls"])
    after = runner.invoke(
        main, ["--dir", "/nowhere", "ls", "--json", "--dir", spool.path]
    )
    assert lines(before) == lines(after)
    assert lines(before)[0]["id"] == ID


def test_without_dir_it_is_the_folder_spool(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPOOL_DIR", raising=False)
    monkeypatch.chdir(Path(spool.path).parent)
    result = CliRunner().invoke(main, ["--json"])
    assert lines(result)[0]["spool"] == spool.path


def test_a_closed_pipe_is_silent(spool: SpoolDir) -> None:
    for number in range(3):
        put(spool, f"{number:016x}")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [SPOOL, "--dir", spool.path, "ls"],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        timeout=20 * FACTOR,
    )
    os.close(write)
    assert done.stderr == b""


def test_an_interrupt_is_silent_and_130(spool: SpoolDir) -> None:
    command = [SPOOL, "--dir", spool.path, "put", "resize", "--body", "-"]
    folder = Path(spool.path, "5")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        wait_until(lambda: any(folder.iterdir()), timeout=10)
        # It reads the body now. Python would heed a signal that comes just before it
        # waits only when something has come.
        wait_until(lambda: thread_states(running.pid) == {"S"})
        running.send_signal(signal.SIGINT)
        assert running.wait(10 * FACTOR) == 130
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read() + running.stderr.read() == b""
    assert states(spool) == {}


def test_a_terminal_that_does_not_know_a_letter_is_no_error(spool: SpoolDir) -> None:
    put(spool, task="größe-大")
    done = process("ls", SPOOL_DIR=spool.path, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0
    assert b"gr\xf6\xdfe-\\u5927" in done.stdout


def test_it_loads_neither_daemon_nor_locks() -> None:
    code = "import sys, spooler.cli.spool; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"spooler.daemon", "spooler.worker", "spooler.supervisor", "filelock"}
    assert not heavy & set(loaded)


@pytest.mark.parametrize("command", ["", *main.commands])
def test_every_command_has_help_with_an_example(cli: Cli, command: str) -> None:
    result = cli(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"  spool {command}".rstrip() in result.stdout
    assert "Example" in result.stdout
    assert all(len(line) <= 90 for line in result.stdout.splitlines())


def test_help_tells_exit_codes_and_completion(cli: Cli) -> None:
    result = cli("--help")
    assert "Exit codes: 0 done, 1 failed" in result.stdout
    assert "_SPOOL_COMPLETE=bash_source spool" in result.stdout


def test_the_shell_is_told_how_to_complete() -> None:
    done = process(_SPOOL_COMPLETE="bash_source")
    assert done.returncode == 0
    assert b"complete" in done.stdout


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, 75), (errno.EROFS, 78), (errno.EIO, 1), (errno.ENOENT, 1)],
)
def test_errors_of_the_system_have_their_exit_codes(number: int, code: int) -> None:
    assert exit_code(OSError(number, os.strerror(number))) == code


def test_lines_are_cut_to_the_width_of_a_terminal(spool: SpoolDir) -> None:
    put(spool, task="a" * 100)
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    subprocess.run([SPOOL, "--dir", spool.path, "ls"], stdout=theirs, check=True)
    os.close(theirs)
    shown = all_that_was_shown(ours).decode().splitlines()
    assert max(map(len, shown)) == 60
    assert shown[1].endswith("a…")


# -- init -----------------------------------------------------------------------


def test_init_makes_a_spool_and_says_so(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "deep" / "new"
    first, second = cli("init", str(path)), cli("init", str(path))
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout == f"{path}: is a spool now\n"
    assert second.stdout == f"{path}: is a spool already\n"
    assert (path / ".spool").exists()


def test_init_tells_json_what_it_did(tmp_path: Path, cli: Cli) -> None:
    path = str(tmp_path / "new")
    assert lines(cli("init", "--dir", path, "--json")) == [
        {"spool": path, "made": True}
    ]


def test_init_refuses_a_directory_with_something_in_it(
    tmp_path: Path, cli: Cli
) -> None:
    assert cli("init", str(tmp_path)).exit_code == 78


# -- put ------------------------------------------------------------------------


def test_put_follows_the_rules_of_key_value_lines(spool: SpoolDir, cli: Cli) -> None:
    given = ["a= x=#1 ", "b:=[1,\n 2]", "c:=1" + "0" * 40, "d=", "id=7", "two=1\n2"]
    (told,) = lines(cli("put", "resize", *given, "--json"))
    (shown,) = lines(cli("show", str(told["id"]), "--json"))
    assert shown["args"] == {
        "a": " x=#1 ",
        "b": [1, 2],
        "c": 10**40,
        "d": "",
        "id": "7",
        "two": "1\n2",
    }


def test_put_takes_time_priority_and_id(spool: SpoolDir, cli: Cli) -> None:
    options = ["--at", "2026-11-20T21:01Z", "--priority", "12", "--id", ID, "--fast"]
    (told,) = lines(cli("put", "resize", *options, "--json"))
    assert told == {
        "id": ID,
        "task": "resize",
        "priority": 12,
        "due": "2026-11-20T21:01:00.000Z",
        "spool": spool.path,
    }
    name = f"1795208460000000.12.0.{ID}.resize"
    assert Path(spool.path, "12", "20261120T2101", name).exists()


def test_put_takes_a_body_from_a_file_or_stdin(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "letter.txt").write_bytes(b"dear\x1b all\n")
    monkeypatch.chdir(tmp_path)
    by_file = cli("put", "send", "--body", "letter.txt").stdout.strip()
    by_pipe = cli("put", "send", "--body", "-", stdin=b"\x00\xff").stdout.strip()
    assert lines(cli("show", by_file, "--json"))[0]["body_size"] == 10
    assert lines(cli("show", by_pipe, "--json"))[0]["body_size"] == 2


def test_put_of_text_that_is_no_text_is_wrong_usage(spool: SpoolDir) -> None:
    done = process("put", "resize", b"photo=\xff", SPOOL_DIR=spool.path)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


# -- ls -------------------------------------------------------------------------


def fill(spool: SpoolDir, claims: Claims) -> None:
    """Put one task into each state: ids 1 to 4, and a corrupt file."""
    put(spool, "1" * 16)
    put(spool, "2" * 16, "mail", age=-3600)
    running = put(spool, "3" * 16)
    assert claims.claim(f"{running.folder}/{running}")
    put_failed(spool, claims, "4" * 16)
    corrupt(spool)


def test_ls_shows_all_but_corrupt_files(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    fill(spool, claims)
    rows = lines(cli("ls", "--json"))
    assert [row["state"] for row in rows] == ["running", "waiting", "later", "failed"]
    assert rows[0]["worker"] == claims.worker
    assert rows[0]["since"] is not None
    assert rows[2]["task"] == "mail"
    assert rows[3]["reason"] == "ValueError: no \x1b[31m\nline"
    assert rows[3]["attempt"] == 1


def test_ls_is_an_aligned_table_for_people(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    fill(spool, claims)
    head, *rows = cli("ls").stdout.splitlines()
    assert head.split() == ["ID", "STATE", "PRIORITY", "ATTEMPT", "DUE", "TASK", "NOTE"]
    assert {row.index("resize" if "resize" in row else "mail") for row in rows} == {
        head.index("TASK")
    }
    assert "in 1h" in rows[2] or "in 59m" in rows[2]
    assert rows[3].endswith(r"ValueError: no \x1b[31m\x0aline")


def test_ls_takes_states_in_the_order_given(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    fill(spool, claims)
    rows = lines(cli("ls", "failed", "later", "--json"))
    assert [row["state"] for row in rows] == ["failed", "later"]


def test_ls_filters_by_task_and_priority(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    fill(spool, claims)
    every = [row["id"] for row in lines(cli("ls", "--task", "mail", "--json"))]
    assert every == ["2" * 16]
    assert lines(cli("ls", "corrupt", "--priority", "5", "--json")) == []
    assert lines(cli("ls", "--priority", "4", "--json")) == []


def test_ls_says_how_many_more_there_are(spool: SpoolDir, cli: Cli) -> None:
    for number in range(55):
        put(spool, f"{number:016x}")
    assert cli("ls").stdout.splitlines()[-1] == "… 5 more"
    assert len(cli("ls", "--limit", "0").stdout.splitlines()) == 56
    assert cli("ls", "--limit", "3").stdout.splitlines()[-1] == "… 52 more"
    assert len(lines(cli("ls", "--json"))) == 55


def test_ls_of_nothing_prints_nothing(cli: Cli) -> None:
    result = cli("ls")
    assert (result.exit_code, result.stdout) == (0, "")


def put_tried(
    spool: SpoolDir,
    claims: Claims,
    task_id: str,
    attempts: int,
    *,
    in_seconds: float = 900,
    error: str = "OSError: away",
) -> None:
    """Put a task that waits for another attempt after so many that have failed."""
    name = put(spool, task_id, "mail")
    for attempt in range(1, attempts + 1):
        claim = claims.claim(f"{name.folder}/{name}")
        assert claim is not None
        due_us = CLOCK.now_us() + int(in_seconds * 1e6)
        outcome = Outcome(Verdict.RETRY, f"{error} {attempt}")
        claims.retry(claim, outcome, due_us=due_us, started_us=CLOCK.now_us())
        name = name.but(due_us=due_us, attempt=attempt)


def test_ls_lists_what_waits_for_another_attempt_and_why(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    fill(spool, claims)
    put_tried(spool, claims, "5" * 16, 2, error="OSError: \x1b[31m")
    put_tried(spool, claims, "6" * 16, 1, in_seconds=-1)
    put_tried(spool, claims, "7" * 16, 1)
    cli("hold", "7" * 16)
    rows = lines(cli("ls", "retrying", "--json"))
    assert [
        (row["id"], row["state"], row["attempt"], row["reason"]) for row in rows
    ] == [
        ("6" * 16, "waiting", 1, "OSError: away 1"),
        ("5" * 16, "later", 2, "OSError: \x1b[31m 2"),
    ]
    shown = cli("ls", "retrying").stdout
    assert is_harmless(shown)
    assert shown.endswith("mail  OSError: \\x1b[31m 2\n")
    # It is no state of its own: nothing is listed twice, and nothing is missing.
    every = [row["id"] for row in lines(cli("ls", "--json"))]
    assert sorted(map(str, every)) == [f"{number}" * 16 for number in range(1, 8)]
    both = [row["id"] for row in lines(cli("ls", "retrying", "later", "--json"))]
    assert both == ["6" * 16, "5" * 16, "2" * 16]
    others = lines(cli("ls", "retrying", "failed", "held", "--json"))
    assert [str(row["id"])[0] for row in others] == ["6", "5", "4", "7"]
    both = [row["id"] for row in lines(cli("ls", "later", "retrying", "--json"))]
    assert both == ["5" * 16, "2" * 16, "6" * 16]


def test_ls_takes_those_that_have_failed_so_often_whatever_their_state(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    fill(spool, claims)
    for number in (1, 2, 3):
        put_tried(spool, claims, f"a{number}".ljust(16, "0"), number)
    cli("hold", "a3")
    for least, expected in (("0", 7), ("1", 4), ("2", 2), ("3", 1), ("4", 0)):
        rows = lines(cli("ls", "--min-attempts", least, "--json"))
        assert len(rows) == expected
    rows = lines(cli("ls", "retrying", "--min-attempts", "2", "--json"))
    assert [row["attempt"] for row in rows] == [2]
    assert lines(cli("ls", "corrupt", "--min-attempts", "1", "--json")) == []
    assert len(lines(cli("ls", "corrupt", "--json"))) == 1


def test_a_list_of_what_is_retried_can_be_piped_into_now(
    spool: SpoolDir, claims: Claims
) -> None:
    put_tried(spool, claims, ID, 3)
    put(spool, OTHER, age=-3600)
    listed = process("ls", "retrying", SPOOL_DIR=spool.path).stdout
    done = process("now", "-", stdin=listed, SPOOL_DIR=spool.path)
    assert (done.returncode, done.stderr) == (0, b"")
    now_us = CLOCK.now_us()
    left = [found.name for found in repair.ls(spool, State.WAITING) if found.name]
    assert [(name.id, name.attempt, name.due_us <= now_us) for name in left] == [
        (ID, 3, True),
        (OTHER, 0, False),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", None),
        (b'{"attempt": 1, "error": "a"}\n{"attempt": 2, "er', "a"),
        (b"[]\n1\n\xff\n", None),
        (b'{"error": "a"}\n{"error": ["b"]}\n', "['b']"),
        (b'{"error": "' + b"a" * 70_000 + b'"}\n', None),
        (b'{"error": "%s"}\n{"error": "b"}\n' % (b"a" * 70_000), "b"),
    ],
)
def test_a_damaged_list_of_attempts_hides_no_task(
    spool: SpoolDir, cli: Cli, claims: Claims, data: bytes, reason: str | None
) -> None:
    put_tried(spool, claims, ID, 1)
    Path(spool.path, "logs", f"{ID}.attempts").write_bytes(data)
    (row,) = lines(cli("ls", "--json"))
    assert row["reason"] == reason
    assert cli("show", ID).exit_code == 0


@pytest.mark.parametrize("command", ["ls corrupt", "show evil", "rm evil", "status"])
def test_a_hostile_name_does_nothing_to_a_terminal(
    spool: SpoolDir, cli: Cli, command: str
) -> None:
    corrupt(spool)
    result = cli(*command.split())
    assert result.exit_code == 0
    assert is_harmless(result.stdout)


def test_a_damaged_report_hides_no_task(spool: SpoolDir, cli: Cli) -> None:
    for name in ("a", "b" * 254):
        Path(spool.path, "corrupt", name).write_bytes(b"")
    Path(spool.path, "corrupt", "a.why").symlink_to("/dev/zero")
    assert [row["reason"] for row in lines(cli("ls", "corrupt", "--json"))] == ["", ""]
    assert cli("rm", "a", "b").exit_code == 0


# -- show -----------------------------------------------------------------------


def test_show_tells_all_about_a_failed_task(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    put_failed(spool, claims)
    (facts,) = lines(cli("show", "8c1f", "--json"))
    assert facts["state"] == "failed"
    assert facts["args"] == {"width": 200}
    assert facts["reason"] == "exception"
    assert facts["traceback"] == "Traceback\n  \x1b[2Jhere"
    assert objects(facts["attempts"])[0]["attempt"] == 1
    result = cli("show", ID)
    assert is_harmless(result.stdout)
    assert '"width": 200' in result.stdout
    assert r"  \x1b[2Jhere" in result.stdout


def test_show_tells_of_the_attempts_of_a_waiting_task(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    name = put(spool)
    claim = claims.claim(f"{name.folder}/{name}")
    assert claim is not None
    outcome = Outcome(Verdict.RETRY, "OSError: away")
    now_us = CLOCK.now_us()
    claims.retry(claim, outcome, due_us=now_us + 10**9, started_us=now_us)
    result = cli("show", ID)
    assert "state     later" in result.stdout
    assert "OSError: away" in result.stdout


def test_show_tells_of_the_last_attempts_and_of_what_they_printed(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    put_tried(spool, claims, ID, 12)
    (facts,) = lines(cli("show", ID, "--json"))
    assert len(objects(facts["attempts"])) == 12
    assert facts["log"] is None
    Path(spool.path, "logs", f"{ID}.12").write_bytes(b"Traceback")
    shown = cli("show", ID).stdout.splitlines()
    at = shown.index("attempts")
    assert shown[at + 1] == "  … 2 before these: see --json"
    assert [line.split(":")[0].strip() for line in shown[at + 2 : -1]] == [
        str(number) for number in range(3, 13)
    ]
    assert shown[-1] == f"log       logs/{ID}.12 (see `spool log {ID}`)"


def test_show_cuts_a_body_between_characters(cli: Cli) -> None:
    body = "ä" * 300
    task_id = cli("put", "send", "--body", "-", stdin=f"x{body}").stdout.strip()
    (facts,) = lines(cli("show", task_id, "--json"))
    assert facts["body_size"] == 601
    assert facts["body_text"] == "x" + "ä" * 99


def test_show_works_for_what_is_no_task(spool: SpoolDir, cli: Cli) -> None:
    corrupt(spool)
    Path(spool.path, "corrupt", "link.1").symlink_to("/etc/passwd")
    (facts,) = lines(cli("show", "evil", "--json"))
    assert facts["reason"] == "bad \x1b]0;x\x07"
    assert facts["first"] == r"b'\x1b\xff'"
    (facts,) = lines(cli("show", "link", "--json"))
    assert facts["reason"] == "is not a regular file"
    assert facts["first"] is None


def test_show_of_no_task_is_1(cli: Cli) -> None:
    result = cli("show", "ffff")
    assert result.exit_code == 1
    assert "no such task" in result.stderr


def test_an_id_that_begins_two_tasks_is_refused(spool: SpoolDir, cli: Cli) -> None:
    put(spool, ID)
    put(spool, OTHER)
    result = cli("show", "8c1f")
    assert result.exit_code == 1
    assert f"2 tasks begin so: {ID}, {OTHER}" in result.stderr
    assert cli("show", OTHER).exit_code == 0


def test_two_tasks_with_one_id_are_told_apart_by_name(
    spool: SpoolDir, cli: Cli
) -> None:
    first, second = put(spool, ID), put(spool, ID, "mail")
    result = cli("rm", ID)
    assert result.exit_code == 1
    assert "2 files have this id" in result.stderr
    assert cli("rm", str(first)).exit_code == 0
    assert cli("rm", f"{second.folder}/{second}").exit_code == 0
    assert states(spool) == {}


def test_show_keeps_a_binary_body_to_itself(cli: Cli) -> None:
    for body in (b"\xff\xfe", b"\x1b[2J"):
        task_id = cli("put", "send", "--body", "-", stdin=body).stdout.strip()
        shown = cli("show", task_id).stdout
        assert f"body      {len(body)} bytes, not text\n" in shown
    task_id = cli("put", "send", "--body", "-", stdin="dear\n\tall\n").stdout.strip()
    assert "body      10 bytes\n  dear\n  \\x09all\n" in cli("show", task_id).stdout


def test_show_does_without_the_moment_in_a_damaged_report(
    spool: SpoolDir, cli: Cli
) -> None:
    path = corrupt(spool)
    report = json.dumps({"reason": "x", "time": "nonsense"})
    path.with_name(f"{path.name}.why").write_text(report)
    assert "failed    nonsense\n" in cli("show", "evil").stdout


def test_a_task_that_has_just_ended_has_no_moment_of_its_claim(
    spool: SpoolDir, claims: Claims
) -> None:
    name = Name(0, 5, 0, ID, "resize")
    found = Found(State.RUNNING, f"running/{claims.worker}/{name}", name)
    assert row(spool, found, 0)["since"] is None


# -- kick, fail, rm ---------------------------------------------------------------


def test_kick_makes_a_failed_task_ready_again(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    put_failed(spool, claims)
    result = cli("kick", "8c1f")
    assert (result.exit_code, result.stdout) == (0, f"{ID}  kicked  resize\n")
    (found,) = repair.ls(spool, *State)
    assert found.state is State.WAITING
    assert found.name is not None
    assert found.name.attempt == 0
    assert os.listdir(Path(spool.path, "failed")) == []


def test_kick_all_takes_those_of_one_name(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    put_failed(spool, claims, ID, "resize")
    put_failed(spool, claims, OTHER, "mail")
    assert cli("kick", "--all", "--task", "mail").exit_code == 0
    assert states(spool) == {ID: State.FAILED, OTHER: State.WAITING}
    assert cli("kick", "--all").exit_code == 0
    assert states(spool)[ID] is State.WAITING
    nothing = cli("kick", "--all")
    assert (nothing.exit_code, nothing.stdout) == (0, "")


def test_a_list_can_be_piped_into_kick(spool: SpoolDir, claims: Claims) -> None:
    put_failed(spool, claims, ID)
    put_failed(spool, claims, OTHER)
    listed = process("ls", "failed", SPOOL_DIR=spool.path).stdout
    done = process("kick", "-", stdin=listed, SPOOL_DIR=spool.path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert set(states(spool).values()) == {State.WAITING}


def test_a_list_that_was_cut_is_said_to_be(spool: SpoolDir, cli: Cli) -> None:
    put(spool, ID)
    put(spool, OTHER)
    result = cli("rm", "-", stdin=cli("ls", "--limit", "1").stdout)
    assert result.exit_code == 0
    assert result.stderr == "spool: 1 more were not listed: use ls --limit 0\n"
    assert len(states(spool)) == 1


def test_the_others_are_done_after_an_error(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    put_failed(spool, claims, ID)
    put(spool, OTHER)
    result = cli("kick", "dead", "", OTHER, ID, ID)
    assert result.exit_code == 1
    assert result.stdout == f"{ID}  kicked  resize\n"
    assert result.stderr.splitlines() == [
        f"spool: dead: no such task in {spool.path}",
        "spool: '': an id has at least one character",
        f"spool: {OTHER}: is waiting, and only a failed task can be kicked",
    ]


def test_moves_tell_json_what_became_of_each(spool: SpoolDir, cli: Cli) -> None:
    put(spool)
    result = cli("rm", "--json", ID, "dead")
    assert result.exit_code == 1
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"id": ID, "task": "resize", "error": None, "done": True},
        {
            "id": "dead",
            "task": None,
            "error": f"dead: no such task in {spool.path}",
            "done": False,
        },
    ]


def test_fail_gives_a_waiting_task_up(spool: SpoolDir, cli: Cli) -> None:
    put(spool)
    result = cli("fail", ID)
    assert (result.exit_code, result.stdout) == (0, f"{ID}  failed  resize\n")
    (facts,) = lines(cli("show", ID, "--json"))
    assert facts["reason"] == "operator"
    assert cli("fail", ID).exit_code == 1


def test_rm_removes_what_waits_failed_or_is_corrupt(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    fill(spool, claims)
    result = cli("rm", "1", "2", "4", r"evil\x1b[2J")
    assert result.exit_code == 0, result.stderr
    assert states(spool) == {"3" * 16: State.RUNNING}
    assert os.listdir(Path(spool.path, "failed")) == []
    assert os.listdir(Path(spool.path, "corrupt")) == []


def test_rm_of_a_running_task_says_what_to_do_instead(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    fill(spool, claims)
    result = cli("rm", "3")
    assert result.exit_code == 1
    assert "let it end, or `spool kill` it first" in result.stderr
    assert states(spool)["3" * 16] is State.RUNNING


# -- status ---------------------------------------------------------------------


@pytest.fixture
def daemon(spool: SpoolDir) -> Iterator[ProcessLock]:
    lock = ProcessLock(spool, process_name("daemon"))
    assert lock.acquire()
    facts = {
        "kind": "daemon",
        "pid": 7,
        "host": "h\x1b",
        "started": "2026-11-20T21:01Z",
    }
    lock.describe({**facts, "tasks": ["mail"]})
    yield lock
    lock.remove()


def test_status_of_an_empty_spool_is_short(spool: SpoolDir, cli: Cli) -> None:
    assert cli().stdout == cli("status").stdout
    assert "no daemon is running\n" in cli().stdout


def test_status_counts_everything(spool: SpoolDir, cli: Cli, claims: Claims) -> None:
    fill(spool, claims)
    for path in ("dropped", "3/dropped", "5/20261120T2101/dropped"):
        Path(spool.path, path).parent.mkdir(exist_ok=True)
        Path(spool.path, path).write_bytes(b"")
    Path(spool.path, "lost+found").mkdir()
    (facts,) = lines(cli("--json"))
    total = {key: facts[key] for key in ("waiting", "later", "running", "failed")}
    assert total == {"waiting": 1, "later": 1, "running": 1, "failed": 1}
    assert (facts["corrupt"], facts["dropped"], facts["lost"]) == (1, 3, 1)
    (priority,) = objects(facts["priorities"])
    assert priority["priority"] == 5
    assert priority["oldest"] < priority["next"]
    assert (facts["daemons"], facts["workers"], facts["unknown"]) == ([], [], {})
    (failure,) = objects(facts["failures"])
    assert failure["error"] == "ValueError: no \x1b[31m\nline"


def test_status_fits_on_a_screen_and_does_nothing_to_it(
    spool: SpoolDir, cli: Cli, claims: Claims, daemon: ProcessLock
) -> None:
    fill(spool, claims)
    for number in range(5, 8):
        put_failed(spool, claims, f"{number}" * 16)
    shown = cli().stdout
    assert is_harmless(shown)
    assert len(shown.splitlines()) <= 24
    assert max(map(len, shown.splitlines())) <= 80 + len(spool.path)
    assert r"daemon 7 on h\x1b, up " in shown
    assert "1 held by dead workers: a daemon gives it back" in shown


def test_status_names_tasks_that_no_daemon_knows(
    spool: SpoolDir, cli: Cli, claims: Claims, daemon: ProcessLock
) -> None:
    fill(spool, claims)
    assert lines(cli("--json"))[0]["unknown"] == {"resize": 1}
    text = "unknown to every daemon (see spoold --import): resize (1)"
    assert text in cli().stdout


def test_status_without_a_daemon_says_that_nothing_will_run(
    spool: SpoolDir, cli: Cli
) -> None:
    put(spool)
    assert "no daemon is running, so nothing will run: start spoold" in cli().stdout


def test_status_shows_what_each_worker_runs(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    fill(spool, claims)
    lock = ProcessLock(spool, claims.worker)
    assert lock.acquire()
    lock.describe({"kind": "worker", "pid": 8, "host": "h", "started": "nonsense"})
    shown = cli().stdout
    (facts,) = lines(cli("--json"))
    lock.remove()
    assert f"worker 8 on h, up ?: runs resize {'3' * 16} for " in shown
    assert facts["lost"] == 0
    (worker,) = objects(facts["workers"])
    assert worker["running"][0]["id"] == "3" * 16


def test_status_shows_the_three_newest_failures(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    for number in range(5):
        put_failed(spool, claims, f"{number}" * 16)
    for path in Path(spool.path, "failed").glob("*.why"):
        number = int(path.name.split(".")[3][0])
        os.utime(path, (1000 - number, 1000 - number))
    (facts,) = lines(cli("--json"))
    failures = objects(facts["failures"])
    assert [each["id"][0] for each in failures] == ["0", "1", "2"]


def test_status_opens_no_task_file(spool: SpoolDir, cli: Cli, claims: Claims) -> None:
    fill(spool, claims)
    before = {}
    for path in Path(spool.path).rglob("*.resize"):
        os.utime(path, ns=(1, path.stat().st_mtime_ns))  # any read would update it
        before[path] = path.stat().st_atime_ns
    assert cli().exit_code == 0
    assert before == {path: path.stat().st_atime_ns for path in before}


def test_status_tells_what_is_tried_again_and_again(
    spool: SpoolDir, cli: Cli, claims: Claims
) -> None:
    assert "retrying" not in cli().stdout
    for number, text in ((1, "1 attempt"), (2, "2 attempts")):
        put_tried(spool, claims, f"{number}" * 16, number)
        assert f"1 retrying, after {text} (see `spool ls retrying`)\n" in cli().stdout
        cli("hold", f"{number}" * 16)
    cli("release", "1", "2")
    text = "2 retrying, after up to 2 attempts (see `spool ls retrying`)\n"
    assert text in cli().stdout


def test_status_of_a_busy_spool_fits_on_a_screen_too(
    spool: SpoolDir, cli: Cli, daemon: ProcessLock
) -> None:
    locks = [ProcessLock(spool, process_name("worker")) for _ in range(6)]
    for lock in locks:
        assert lock.acquire()
        lock.describe({"kind": "worker", "pid": 8, "host": "h"})
    for number in range(9):
        cli("put", f"task{number}", "--priority", str(number), "--fast")
    shown = cli().stdout
    for lock in locks:
        lock.remove()
    assert len(shown.splitlines()) <= 24
    assert "\n4 more          …" in shown
    assert "… and 2 more workers" in shown
    assert "task2 (1), 6 more\n" in shown


@pytest.mark.parametrize("where", ["&-", "/dev/full"])
def test_put_does_not_fail_after_the_task_was_put(spool: SpoolDir, where: str) -> None:
    command = f"{shlex.quote(str(SPOOL))} put t a=1 --dir {shlex.quote(spool.path)}"
    done = subprocess.run(
        ["sh", "-c", f"{command} >{where}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(spool.waiting())) == 1


def test_closed_standard_input_is_an_error_of_one_line(spool: SpoolDir) -> None:
    command = f"{shlex.quote(str(SPOOL))} kick - --dir {shlex.quote(spool.path)}"
    done = subprocess.run(
        ["sh", "-c", f"{command} <&-"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "spool: - is standard input, which is closed\n"


def test_status_bears_what_it_may_not_read(spool: SpoolDir) -> None:
    workers = Path(spool.path, "workers")
    (workers / "j.json").symlink_to("/nowhere")
    (workers / "k.json").mkdir()
    (workers / "l.lock").symlink_to("/nowhere")
    done = subprocess.run(
        [SPOOL, "--dir", spool.path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_directory_that_was_put_aside_can_be_removed(spool: SpoolDir) -> None:
    Path(spool.path, "corrupt", "dir.0123abcd").mkdir()
    done = subprocess.run(
        [SPOOL, "rm", "dir.0123abcd", "--dir", spool.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not Path(spool.path, "corrupt", "dir.0123abcd").exists()
