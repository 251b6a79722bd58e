"""A guest book: a WSGI application for uWSGI whose slow work is done by its spooler."""

import html
import os
import sqlite3
import time
from email.message import EmailMessage
from urllib.parse import parse_qs, quote

import uwsgi
from uwsgidecorators import cron, spool, spoolraw, timer

DATA = os.environ["GUESTBOOK_DATA"]
OWNER = "owner@example.org"


def database():
    connection = sqlite3.connect(os.path.join(DATA, "guestbook.db"), timeout=20)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS entry"
        " (id INTEGER PRIMARY KEY, name TEXT, text TEXT, signed REAL)"
    )
    return connection


def write(path, text):
    """Replace a file at once, so that a reader never sees half of it."""
    path = os.path.join(DATA, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


# -- tasks


@spool
def accept(args):
    """Keep an entry; have its owner told, and a name plate made."""
    name, text = args["name"], args["body"].strip()
    if not text:
        uwsgi.log(f"nothing was written by {name}")
        return uwsgi.SPOOL_OK
    with database() as connection:
        found = connection.execute(
            "SELECT 1 FROM entry WHERE name = ? AND text = ?", (name, text)
        ).fetchone()
        if found:  # a task may run twice
            return uwsgi.SPOOL_OK
        connection.execute(
            "INSERT INTO entry (name, text, signed) VALUES (?, ?, ?)",
            (name, text, time.time()),
        )
    tell_owner.spool(name=name.encode(), priority=b"1", body=text.encode())
    name_plate.spool(name, width=8 * len(name))
    return uwsgi.SPOOL_OK


@spoolraw
def tell_owner(args):
    """Write a mail; again later, for as long as there is no outbox."""
    outbox = os.path.join(DATA, "outbox")
    if not os.path.isdir(outbox):
        return uwsgi.SPOOL_RETRY
    mail = EmailMessage()
    mail["To"] = OWNER
    mail["Subject"] = "{} has signed your guest book".format(args["name"])
    mail.set_content(args["body"])
    write("outbox/{}.eml".format(quote(args["name"], safe="")), mail.as_string())
    return uwsgi.SPOOL_OK


@spool(pass_arguments=True)
def name_plate(name, width, height=24):
    """Draw a name."""
    write(
        f"plates/{quote(name, safe='')}.svg",
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<text y="{height - 6}">{html.escape(name)}</text></svg>\n',
    )


@timer(1, target="spooler")
def page(signum):
    """Write the page that visitors see."""
    with database() as connection:
        entries = connection.execute("SELECT name, text FROM entry ORDER BY name")
        lines = [
            f"<dt>{html.escape(name)}<dd>{html.escape(text)}\n"
            for name, text in entries
        ]
    write("page.html", "<h1>Guests</h1>\n<dl>\n" + "".join(lines) + "</dl>\n")


@cron(30, 3, -1, -1, -1, target="spooler")
def forget(signum):
    """Forget entries after a year, in the night."""
    with database() as connection:
        connection.execute(
            "DELETE FROM entry WHERE signed < ?", (time.time() - 365 * 86400,)
        )


# -- the web


def application(environ, start_response):
    """GET the page, or POST ``name=…&text=…`` to sign."""
    if environ["REQUEST_METHOD"] == "POST":
        size = int(environ.get("CONTENT_LENGTH") or 0)
        form = parse_qs(environ["wsgi.input"].read(size).decode("utf-8"))
        accept.spool(
            name=form["name"][0].encode("utf-8"),
            body=form.get("text", [""])[0].encode("utf-8"),
        )
        start_response("202 Accepted", [("Content-Type", "text/plain")])
        return [b"Thank you. It will be seen in a moment.\n"]
    try:
        with open(os.path.join(DATA, "page.html"), "rb") as file:
            content = file.read()
    except FileNotFoundError:
        content = b"<h1>Guests</h1>\n"
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    return [content]
