"""Packages from PyPI that use uWSGI's spooler: by uWSGI and by spoold, unmodified.

The applications are in packages/. Each is run by both, and must do the same.
"""

import socket
import socketserver
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from email import message_from_bytes
from pathlib import Path
from typing import Any, Final

import pytest

from ..helpers import FACTOR
from ..integration.conftest import wait_until
from .conftest import TIMEOUT
from .either import APPS, SERVERS, Either

pytestmark = pytest.mark.timeout(TIMEOUT)


@pytest.fixture(params=SERVERS)
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Either:
    """Give the real uWSGI, then spoold."""
    return Either(request.param, tmp_path)


@pytest.fixture
def spoold(tmp_path: Path) -> Either:
    """Give spoold alone, for what uWSGI cannot do."""
    return Either("spoold", tmp_path)


# -- uwsgi-tasks --------------------------------------------------------------------

TASKS: Final = [
    "mail hi 4 a@b.c d@e.f",
    "mail large 200000",
    "auto 1",
    *["failed no"] * 3,
    *["purchase 7"] * 2,
    "own code True",
    "own code False",
    "steps 0 1 2",
    "remembers 3 1",
    "remembers 2 2",
    "remembers 1 3",
    "not caught",
    "elsewhere",
    *["lazily"] * 2,
]
"""What the tasks of ``tasks_readme`` tell."""

TIMED: Final = ("twice", "each second", "each minute")
"""What its timers tell."""


def test_uwsgi_tasks_does_what_its_readme_describes(either: Either) -> None:
    with either.serve("tasks_readme", "tasks_readme_put"):
        either.wait_told(*TASKS, f"where {either.out}", apart=TIMED)
        either.wait_often("twice", 2)
        either.wait_often("each second", either.lines().count("each second") + 3)
        assert either.lines().count("twice") == 2
        assert either.lines().count("lazily") == 2


def test_uwsgi_tasks_puts_from_a_process_of_its_own(spoold: Either) -> None:
    with spoold.serve("tasks_readme"):
        spoold.put_by("tasks_readme_put")
        spoold.wait_told(*TASKS, f"where {spoold.out}", apart=TIMED)


def test_uwsgi_tasks_runs_its_cron_lines(either: Either) -> None:
    with either.serve("tasks_readme"):
        either.wait_until(lambda: "each minute" in either.lines(), timeout=160)


def test_priorities_of_uwsgi_tasks_are_kept_and_the_rest_runs_last(
    either: Either,
) -> None:
    with either.serve("tasks_order", "tasks_order_put"):
        either.wait_told("2", "10", "rest")
    assert either.lines() == ["2", "10", "rest"]


PROJECT: Final = """[uwsgi]
http-socket = {out}/http
master = true
processes = 1
module = django.core.wsgi:get_wsgi_application()
pythonpath = {apps}
env = DJANGO_SETTINGS_MODULE=my_project.settings
spooler = {spool}
spooler-processes = 2
spooler-frequency = 1
"""


def get(path: Path) -> bytes:
    """Ask for a page at the UNIX socket of a web server; return the answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10 * FACTOR)
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        with client.makefile("rb") as file:
            return file.read()


def test_the_django_project_of_the_readme_runs_with_its_ini(either: Either) -> None:
    names = {"out": either.out, "apps": APPS, "spool": either.spool}
    mails = either.out / "mails"
    with either.serve_ini(PROJECT.format(**names)) as daemon:
        if either.kind == "uwsgi":
            daemon.wait_for("spawned uWSGI worker 1")
            assert get(either.out / "http").endswith(b"put")
        else:
            either.put_by("my_project_put")
        either.wait_until(lambda: mails.exists() and not either.files())
    [mail] = mails.iterdir()
    assert "To: user@example.org" in mail.read_text()


# -- uwsgiconf ----------------------------------------------------------------------

RUNTIME: Final = [
    "plain 1 d",
    "urgent 2",
    "again",
    "once more",
    "raising",
    "raising no more",
    "guarded",
    "signal True True",
    "the spooler takes no locks",
    "facts 0 True 2 0",
    "names str str",
    "pids True True",
    # Its postpone= is an error of its own, with uWSGI as well.
    "spooler callable dictionary must contains only bytes",
    "raw bytes True True",
]


def test_the_runtime_of_uwsgiconf_works(either: Either) -> None:
    with either.serve("conf_runtime", "conf_runtime_put"):
        either.wait_told(*RUNTIME, apart=("tick", "twice", "seldom"))
        either.wait_often("twice", 2)
        either.wait_often("tick", either.lines().count("tick") + 3)
        assert either.lines().count("twice") == 2


# -- Django -------------------------------------------------------------------------


def rows(either: Either, query: str) -> list[tuple[Any, ...]]:
    """Return what a query finds in the project's database."""
    with closing(sqlite3.connect(either.out / "db", timeout=10 * FACTOR)) as db:
        return db.execute(query).fetchall()


def test_django_uwsgi_taskmanager_runs_stops_and_repeats_commands(
    either: Either,
) -> None:
    reports = """SELECT name, invocation_result FROM taskmanager_report
        JOIN taskmanager_task ON task_id = taskmanager_task.id ORDER BY name"""
    states = "SELECT name, status FROM taskmanager_task ORDER BY name"
    ended = [
        ("now", "idle"),
        ("often", "spooled"),
        ("stopped", "idle"),
        ("wrong", "idle"),
    ]
    with either.serve("dj_tasks", "dj_tasks_put"):
        either.wait_until(lambda: len(either.lines()) == 3)
        either.wait_until(lambda: rows(either, states) == ended)
        either.wait_until(lambda: len(either.files()) == 1)  # the last has ended
    assert either.lines() == [
        "now spooled True",
        "stopped scheduled True",
        "stopped idle False",
    ]
    assert rows(either, reports) == [
        ("now", "ok"),
        ("often", "ok"),
        ("wrong", "failed"),
    ]
    paths = "SELECT spooler_id FROM taskmanager_task WHERE spooler_id != ''"
    [(path,)] = rows(either, paths)
    assert either.files() == [str(Path(path).relative_to(either.spool))]


def test_django_uwsgi_cannot_read_its_own_mail_with_python_3_and_keeps_it(
    either: Either,
) -> None:
    with either.serve("dj_mail", "dj_mail_put") as daemon:
        daemon.wait_for("UnicodeDecodeError")
        assert either.lines() == ["sent 1"]
    assert len(either.files()) == 1


# -- isso ---------------------------------------------------------------------------


class Mails(socketserver.ThreadingTCPServer):
    """A mail server that keeps what it is sent.

    Attributes:
        mails: What has arrived, whole.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Mail)
        self.mails: list[bytes] = []


class Mail(socketserver.StreamRequestHandler):
    """One conversation with it."""

    server: Mails

    def handle(self) -> None:
        """Answer each command, and take each mail."""
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            command = line[:4].upper()
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(b"".join(lines))
            self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 fine\r\n")


@pytest.fixture
def mails() -> Iterator[Mails]:
    """Give a mail server."""
    with Mails() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def configure_isso(either: Either, mails: Mails) -> None:
    """Have isso send its notifications there."""
    path = either.out / "isso.cfg"
    path.write_text(
        f"""[general]
dbpath = {either.out}/comments
host = http://localhost:1/
notify = smtp
[smtp]
host = 127.0.0.1
port = {mails.server_address[1]}
to = admin@example.org
from = isso@example.org
security = none
"""
    )
    either.environ["ISSO_SETTINGS"] = str(path)


def check_mail(either: Either, mails: Mails) -> None:
    """Check that the one mail about the one comment has arrived."""
    wait_until(lambda: mails.mails and not either.files())
    [mail] = map(message_from_bytes, mails.mails)
    assert mail["Subject"] == "New comment posted on A page"
    assert mail["To"] == "admin@example.org"
    assert b"A comment." in mail.get_payload(decode=True)
    assert either.lines() == ["posted 201"]


def test_isso_sends_its_notifications(either: Either, mails: Mails) -> None:
    configure_isso(either, mails)
    with either.serve("isso.run", "isso_put"):
        check_mail(either, mails)


def test_isso_is_served_by_another_server_and_sends_through_spoold(
    spoold: Either, mails: Mails
) -> None:
    configure_isso(spoold, mails)
    with spoold.serve("isso.run"):
        spoold.put_by("isso_put")
        check_mail(spoold, mails)
