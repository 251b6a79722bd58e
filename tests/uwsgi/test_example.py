"""examples/uwsgi_app does the same under uWSGI and under spoold, as it lies."""

import http.client
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlencode

import pytest

from ..helpers import FACTOR, matching
from ..integration.conftest import SPOOLD, Spoold, wait_until
from .conftest import ROOT, TIMEOUT, wait_until_it_obeys
from .test_ini import uwsgi

__all__ = ["uwsgi"]

pytestmark = pytest.mark.timeout(TIMEOUT)

EXAMPLE = ROOT / "examples/uwsgi_app"
INI = EXAMPLE / "guestbook.ini"
GUESTS = {"Ann": "Hello there", "Zoë/..": "<b>bold</b>", "Bob": "  ünicode \n"}


class Guestbook:
    """The application's data, and how a visitor reaches it."""

    def __init__(self, data: Path, port: int) -> None:
        data.mkdir(exist_ok=True)
        self.data = data
        self.spool = data / "spool"
        self.port = port

    @contextmanager
    def served(self, *command: str | Path) -> Iterator[Spoold]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith("SPOOL")}
        own = {
            "GUESTBOOK_DATA": str(self.data),
            "PORT": str(self.port),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        number = len(list(self.data.parent.glob("log*")))
        log = self.data.parent / f"log{number}"
        words = [str(word) for word in command]
        daemon = Spoold(words, self.data.parent, log, env=keep | own)
        try:
            yield daemon
        finally:
            daemon.send(signal.SIGTERM)
            try:
                daemon.wait()
            except subprocess.TimeoutExpired:
                daemon.process.kill()
                raise

    @contextmanager
    def by(self, kind: str, uwsgi: Path) -> Iterator[None]:
        """Serve it, tasks and web, until the end."""
        with ExitStack() as stack:
            if kind == "uwsgi":
                daemon = stack.enter_context(self.served(uwsgi, "--ini", INI))
                daemon.wait_for("spawned uWSGI worker")
                wait_until_it_obeys(daemon)
            else:
                daemon = stack.enter_context(self.served(SPOOLD, "--uwsgi-ini", INI))
                daemon.wait_for("serve spool=")
                module = (sys.executable, "-m", "spooler.ext.uwsgi")
                web = (*module, "--dir", self.spool, EXAMPLE / "serve.py")
                stack.enter_context(self.served(*web))
            wait_until(lambda: self.ask("GET").startswith("200 <h1>Guests"))
            yield

    def ask(self, method: str, **form: str) -> str:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=20 * FACTOR
        )
        body = urlencode(form) if method == "POST" else None
        with closing(connection), suppress(ConnectionError):
            connection.request(method, "/", body)
            answer = connection.getresponse()
            return f"{answer.status} {answer.read().decode()}"
        return ""

    def files(self, folder: str) -> Mapping[str, str]:
        found = (self.data / folder).glob("*")
        return {p.name: p.read_text() for p in found if p.suffix != ".new"}

    def entries(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(self.data / "guestbook.db")) as connection:
            order = "SELECT name, text FROM entry ORDER BY name"
            return connection.execute(order).fetchall()


def test_visitors_and_the_owner_see_the_same(
    uwsgi: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    seen = {}
    for kind in ("uwsgi", "spoold"):
        (tmp_path / kind).mkdir()
        book = Guestbook(tmp_path / kind / "data", free_port())
        with book.by(kind, uwsgi):
            for name, text in GUESTS.items():
                answer = book.ask("POST", name=name, text=text)
                assert answer.startswith("202 Thank you")
            book.ask("POST", name="Nobody", text=" ")
            wait_until(lambda: len(book.files("plates")) == len(GUESTS))  # noqa: B023
            wait_until(lambda: book.ask("GET").count("<dt>") == len(GUESTS))  # noqa: B023
            (book.data / "outbox").mkdir()  # until now each mail has been tried again
            wait_until(lambda: len(book.files("outbox")) == len(GUESTS))  # noqa: B023
            page = book.ask("GET")
        seen[kind] = (
            page,
            book.entries(),
            book.files("plates"),
            book.files("outbox"),
        )
    assert seen["spoold"] == seen["uwsgi"]
    assert [name for name, _ in seen["uwsgi"][1]] == sorted(GUESTS)


def test_what_waits_when_uwsgi_is_stopped_is_done_by_spoold(
    uwsgi: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    book = Guestbook(tmp_path / "data", free_port())
    with book.by("uwsgi", uwsgi):
        for name, text in GUESTS.items():
            book.ask("POST", name=name, text=text)
        wait_until(lambda: len(book.files("plates")) == len(GUESTS))
    assert len(matching(book.spool, "1/uwsgi_spoolfile_on_*")) == len(GUESTS)
    (book.data / "outbox").mkdir()
    with book.by("spoold", uwsgi):
        wait_until(lambda: len(book.files("outbox")) == len(GUESTS))
    assert not matching(book.spool, "**/uwsgi_spoolfile_on_*")
    assert not list((book.spool / "failed").iterdir())


def test_the_application_does_not_know_of_spooler() -> None:
    for name in ("guestbook.py", "guestbook.ini"):
        text = (EXAMPLE / name).read_text()
        assert "spoold" not in text
        assert "import spooler" not in text
        assert "from spooler" not in text
