"""What spoold says when it cannot start; options, environment and file."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from spooler.cli.spoold import main

from .conftest import SPOOLD, Box, wait_until

ROOT = os.geteuid() == 0
OPTIONS = [
    str(option.name)
    for option in main.params
    if isinstance(option, click.Option) and option.name not in ("version", "config")
]
"""The names of all options, as click knows them."""

ENV = {"dirs": "DIR", "imports": "IMPORT"}
FILE = {"dirs": "dir", "imports": "import"}


def without_power(command: list[str]) -> list[str]:
    """Return the command as root without the right to pass by permissions."""
    if not ROOT:
        return command
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (util-linux) when run as root")
    powers = "-dac_override,-dac_read_search"
    return ["setpriv", "--bounding-set", powers, "--inh-caps", powers, *command]


@pytest.fixture
def read_only(tmp_path: Path, box: Box) -> Iterator[Path]:
    """A spool on a file system that is mounted read-only."""
    path = tmp_path / "readonly"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        (path / "spool").mkdir()
        again = ["mount", "-o", "remount,ro", str(path)]
        (path / "made").mkdir()
        box.spooler.__class__(path / "made").put("note")
        subprocess.run(again, check=True)
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


# -- the spool ----------------------------------------------------------------------


def test_a_missing_directory(box: Box) -> None:
    command = [str(SPOOLD), "--dir", "nowhere", "--import", "tasks"]
    line = box.refused(command, 78)
    assert "nowhere" in line
    assert "spool init" in line


def test_a_file_instead_of_a_directory(box: Box) -> None:
    (box.app / "file").touch()
    command = [str(SPOOLD), "--dir", "file", "--import", "tasks"]
    assert "is not a directory" in box.refused(command, 78)


def test_a_directory_of_somebody_else(box: Box) -> None:
    (box.app / "letters").mkdir()
    (box.app / "letters" / "love").touch()
    command = [str(SPOOLD), "--dir", "letters", "--import", "tasks"]
    assert "not a spool" in box.refused(command, 78)
    assert os.listdir(box.app / "letters") == ["love"]


def test_a_spool_of_a_newer_format(box: Box) -> None:
    (box.spool / ".spool").write_text('{"format": 2}\n')
    assert "newer" in box.refused(box.command(), 78)


def test_an_empty_directory_becomes_a_spool(box: Box, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    box.spool = tmp_path / "empty"
    box.burst()
    assert (box.spool / ".spool").exists()


@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_directory_without_permission(box: Box, mode: int) -> None:
    box.spool.chmod(mode)
    (box.spool / "workers").chmod(0o500) if mode else None
    try:
        line = box.refused(without_power(box.command()), 78)
    finally:
        box.spool.chmod(0o700)
        (box.spool / "workers").chmod(0o700)
    assert "permission" in line
    assert str(box.spool) in line


@pytest.mark.parametrize("spool", ["spool", "made"])
def test_a_read_only_file_system(box: Box, read_only: Path, spool: str) -> None:
    command = [str(SPOOLD), "--dir", str(read_only / spool), "--import", "tasks"]
    line = box.refused(command, 78)
    assert "ead-only" in line
    assert str(read_only) in line


def test_the_first_spool_is_left_clean_when_the_second_is_missing(box: Box) -> None:
    assert "nowhere" in box.refused(box.command("--dir", "nowhere"), 78)
    assert box.is_left_clean()


def test_an_escape_sequence_in_a_path_is_not_printed(box: Box) -> None:
    command = [str(SPOOLD), "--dir", "a\x1b[2Jb\nc", "--import", "tasks"]
    assert "\x1b" not in box.refused(command, 78)


# -- the modules --------------------------------------------------------------------

BAD = {
    "import mine_too": "No module named 'mine_too'",
    "def (": "SyntaxError",
    "x = 1\n\x00": "null bytes",
    "raise ValueError('two\\nlines')": "ValueError: two lines",
    "1/0": "ZeroDivisionError: division by zero",
    "raise SystemExit(0)": "SystemExit",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "import os; os._exit(0)": "has died",
    "from spooler import cron\n@cron('61 * * * *')\ndef f(): 1": "61 * * * *",
    "from spooler import cron\n@cron('* * * * *', tz='X')\ndef f(): 1": "'X'",
    "from spooler import timer\n@timer(0)\ndef f(): 1": "interval",
    "from spooler import timer\n@timer(1)\ndef f(x): 1": "'x'",
    "from spooler import spool\n@spool\ndef f(*a): 1": "f",
    "from spooler import spool\n@spool\ndef f(): yield 1": "is a generator",
    "from spooler import spool\n@spool(retrys=1)\ndef f(): 1": "retrys",
    "from spooler import spool\n@spool\ndef f(): 1\n"
    "@spool(name='f')\ndef g(): 1": "two functions want to be task 'f'",
}


@pytest.mark.parametrize("text", list(BAD), ids=list(BAD.values()))
def test_a_module_that_cannot_be_imported(box: Box, text: str) -> None:
    box.module(text)
    line = box.refused(box.command(imports="mine"), 78)
    assert BAD[text] in line
    assert "has died" in line or "mine" in line or "task f" in line
    assert box.is_left_clean()
    wait_until(box.no_process_is_left)


def test_a_module_that_does_not_exist(box: Box) -> None:
    line = box.refused(box.command(imports="nowhere"), 78)
    assert "No module named 'nowhere'" in line
    assert f"looked in {box.app}" in line


def test_a_module_given_as_a_path(box: Box) -> None:
    box.module("from tasks import note", "by_path")
    box.put("note")
    box.burst(imports=str(box.app / "by_path.py"))
    assert box.lines() == ["done"]


def test_a_module_with_the_name_of_one_of_pythons_own_does_no_harm(box: Box) -> None:
    for name in ("json", "select", "socket", "logging", "click"):
        box.module("raise ValueError('the wrong one')", name)
    box.put("note")
    environ = box.environ()
    environ["PYTHONPATH"] = environ["PYTHONPATH"].split(os.pathsep)[1]
    daemon = box.launch(box.command("--burst"), env=environ)
    assert daemon.wait() == 0, daemon.text()
    assert box.lines() == ["done"]


# -- options, environment, file -----------------------------------------------------


def usage_error(box: Box, command: list[str], env: dict[str, str]) -> str:
    daemon = box.launch(command, env=env)
    assert daemon.wait() in (2, 78), daemon.text()
    assert "Traceback" not in daemon.text()
    return daemon.text().splitlines()[-1]


def test_without_a_directory_the_usage_is_told(box: Box) -> None:
    command = [str(SPOOLD), "--import", "tasks"]
    assert "--dir" in usage_error(box, command, {})


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_is_read_from_the_environment(box: Box, name: str) -> None:
    variable = f"SPOOLER_{ENV.get(name, name.upper())}"
    complete = {"SPOOLER_DIR": str(box.spool), "SPOOLER_IMPORT": "tasks"}
    line = usage_error(box, [str(SPOOLD)], {**complete, variable: "/nosuch/there"})
    assert "/nosuch" in line


def test_the_environment_does_what_the_options_do(box: Box) -> None:
    box.put("about")
    key = box.out / "key"
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    ini = box.out / "app.ini"
    ini.write_text("[uwsgi]\nspooler-quiet = true\n")
    env = {
        "SPOOLER_DIR": str(box.spool),
        "SPOOLER_IMPORT": "tasks",
        "SPOOLER_WORKERS": "3",
        "SPOOLER_FREQUENCY": "5",
        "SPOOLER_GRACE": "5",
        "SPOOLER_MAX_TASKS": "7",
        "SPOOLER_MAX_RSS": "1G",
        "SPOOLER_RELOAD": "1",
        "SPOOLER_SOFT_TIMEOUT": "40",
        "SPOOLER_HARD_TIMEOUT": "50",
        "SPOOLER_THREADS": "1",
        "SPOOLER_ASYNC_CONCURRENCY": "20",
        "SPOOLER_ASYNC_BACKEND": "asyncio",
        "SPOOLER_KEEP_LOG": "always",
        "SPOOLER_KEEP_LOGS_FOR": "60",
        "SPOOLER_KEEP_RESULTS": "10",
        "SPOOLER_BURST": "1",
        "SPOOLER_ALLOW_UID": "1 2",
        "SPOOLER_MAX_ATTEMPTS": "3",
        "SPOOLER_BACKOFF": "1.5",
        "SPOOLER_BACKOFF_MAX": "2",
        "SPOOLER_JITTER": "0",
        "SPOOLER_ALLOW_GROUP": "root",
        "SPOOLER_INSECURE": "1",
        "SPOOLER_KEY_FILE": str(key),
        "SPOOLER_REQUIRE_SIGNATURE": "0",
        "SPOOLER_MAX_WAITING": "1000",
        "SPOOLER_MIN_FREE": "1M",
        "SPOOLER_MIN_FREE_INODES": "10",
        "SPOOLER_SOCKET": str(box.out / "socket"),
        "SPOOLER_SOCKET_SECRET_FILE": str(key),
        "SPOOLER_SOCKET_MODE": "600",
        "SPOOLER_SOCKET_CONNECTIONS": "10",
        "SPOOLER_SOCKET_MAX_BODY": "1M",
        "SPOOLER_SOCKET_RATE": "100",
        "SPOOLER_SOCKET_TIMEOUT": "5",
        "SPOOLER_UWSGI": "1",
        "SPOOLER_UWSGI_FILES": "1",
        "SPOOLER_UWSGI_INI": str(ini),
        "SPOOLER_LOG_LEVEL": "debug",
        "SPOOLER_LOG_JSON": "1",
    }
    daemon = box.launch([str(SPOOLD)], env=env)
    assert daemon.wait() == 0
    records = [json.loads(line) for line in daemon.text().splitlines()]
    assert any("workers=3" in record["message"] for record in records)
    assert any(record["level"] == "DEBUG" for record in records)
    assert box.lines()[-1] != "None"
    assert {f"SPOOLER_{ENV.get(n, n.upper())}" for n in OPTIONS} == set(env)


FULL = """
dir = "{spool}"
import = ["tasks"]
workers = 2
frequency = 5
grace = 5.5
max-tasks = 7
max_rss = "1G"
reload = true
soft-timeout = 40
hard_timeout = 50
threads = 2
async-concurrency = 20
async_backend = "trio"
keep-log = "never"
keep-logs-for = 60
keep-results = 10
burst = true
allow-uid = [1, 2]
max-attempts = 3
backoff = 1.5
backoff-max = 2
jitter = 0
log-level = "debug"
log-json = true
"""


def test_the_file_does_what_the_options_do(box: Box) -> None:
    box.put("about")
    (box.app / "spoold.toml").write_text(FULL.format(spool=box.spool))
    daemon = box.launch([str(SPOOLD), "--config", "spoold.toml"])
    assert daemon.wait() == 0, daemon.text()
    assert '"message":"serve spool=' in daemon.text()
    assert "workers=2" in daemon.text()
    assert box.lines()[-1] != "None"


def test_the_command_line_wins_then_the_environment(box: Box) -> None:
    (box.app / "spoold.toml").write_text("workers = 2\nmax-tasks = -1\nburst = true")
    env = {"SPOOLER_WORKERS": "3", "SPOOLER_MAX_TASKS": "0"}
    config = ("--config", "spoold.toml")
    daemon = box.launch(box.command(*config, "--workers", "4"), env=env)
    assert daemon.wait() == 0
    assert daemon.says("workers=4")
    daemon = box.launch(box.command(*config), env=env)
    assert daemon.wait() == 0
    assert daemon.says("workers=3")


@pytest.mark.parametrize(
    "text",
    [
        "worker = 2",
        "config = 'x'",
        "workers = 'many'",
        "workers = 1.5",
        "workers = true",
        "workers = [1]",
        "workers = {a = 1}",
        "workers = 2026-11-20",
        "workers = 0",
        "frequency = 'often'",
        "frequency = 0",
        "frequency = nan",
        "frequency = true",
        "burst = 'maybe'",
        "burst = 3",
        "log-level = 'loud'",
        "log-level = 3",
        "log-json = []",
        "dir = 5",
        "dir = [['a']]",
        "import = 5",
        "import = {a = 1}",
        "allow-uid = 'root'",
        "allow-uid = ['root']",
        "jitter = 2",
        "max-attempts = -1",
        "[retry]\nbackoff = 1",
        "workers 2",
        "workers = 1\nworkers = 2",
        "\ud800",
    ],
)
def test_a_wrong_file_is_refused_in_one_line(box: Box, text: str) -> None:
    path = box.app / "spoold.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    command = [str(SPOOLD), "--config", "spoold.toml"]
    command += [] if text.startswith("dir") else ["--dir", str(box.spool)]
    command += [] if text.startswith("import") else ["--import", "tasks"]
    line = usage_error(box, [*command, "--burst"], {})
    assert line.startswith(("Error: ", "spoold: "))
    key = text.partition(" ")[0].strip("[]\n").replace("-", "_")
    found = line.replace("-", "_")
    assert "spoold.toml" in line or key in found


def test_a_missing_file_is_told(box: Box) -> None:
    command = box.command("--config", "nowhere.toml")
    assert "nowhere.toml" in usage_error(box, command, {})


@pytest.mark.parametrize(
    "options",
    [
        ("--workers", "0"),
        ("--workers", "x"),
        ("--frequency", "nan"),
        ("--grace", "-1"),
        ("--hard-timeout", "0"),
        ("--max-attempts", "-1"),
        ("--jitter", "1.1"),
        ("--backoff", "inf"),
        ("--log-level", "loud"),
        ("--nonsense",),
        ("argument",),
    ],
)
def test_a_wrong_option_is_refused(box: Box, options: tuple[str, ...]) -> None:
    daemon = box.launch(box.command(*options))
    assert daemon.wait() == 2
    assert options[0].lstrip("-").replace("-", "_") in daemon.text().replace("-", "_")
    assert "Traceback" not in daemon.text()


def test_many_workers_start_and_stop(box: Box) -> None:
    daemon = box.start("--workers", "40")
    wait_until(lambda: len(box.workers()) == 40)
    assert daemon.end() == 0
    assert box.is_left_clean()


def test_a_syntax_error_is_named_with_its_place(box: Box) -> None:
    box.module("x = 1\ndef (:\n")
    line = box.refused(box.command(imports="mine"), 78)
    assert "mine.py, line 2" in line


def test_an_option_of_the_wrong_type_is_named_with_its_place(box: Box) -> None:
    box.module("from spooler import spool\n@spool(retries='x')\ndef f(): 1\n")
    line = box.refused(box.command(imports="mine"), 78)
    assert "retries='x' cannot be: it takes a number" in line
    assert "mine.py, line 2" in line


def test_a_stop_does_not_wait_for_an_import(box: Box) -> None:
    box.module("from tasks import OUT, wait_for\n(OUT / 'in').touch()\nwait_for('x')\n")
    daemon = box.launch(box.command(imports="mine"))
    wait_until(lambda: (box.out / "in").exists())
    daemon.process.terminate()
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.text()
