"""Put tasks by the dict."""

import os
import time

import documented_raw  # noqa: F401
from told import say

import uwsgi

uwsgi.spool({b"what": b"hello", b"name": b"Kratos", b"surname": "Zeús".encode()})
uwsgi.send_to_spooler({b"what": b"sent"})
for what in (b"again", b"ignored", b"other", b"nothing", b"raised"):
    uwsgi.spool({b"what": what})
given = {b"what": b"large", b"body": b"\0\xff" * 500_000}
uwsgi.spool(given)
say("given", *given)
uwsgi.spool({b"what": b"later", b"at": str(int(time.time()) + 2).encode()})
uwsgi.spool({b"what": b"urgent", b"priority": b"3"})
uwsgi.spool({b"what": b"directory", b"spooler": uwsgi.spoolers[0]})
uwsgi.spool({b"what": b"cast", b"list": [65, 66], b"array": bytearray(b"x")})
uwsgi.spool({b"what": b"long", b"value": b"v" * 60_000})

path = uwsgi.spool({b"what": b"cancelled"})
say("path", type(path).__name__, os.path.isabs(path), os.path.isfile(path))
read = uwsgi.spooler_get_task(path.decode())
say("read", *sorted(map(str, read)))
say("name", read["spooler_task_name"] in (path, os.path.basename(path)))
say("parsed", sorted(uwsgi.parsefile(path.decode()).items()))
os.unlink(path)

for wrong in (
    {b"what": b"x", b"spooler": b"/nowhere"},
    {b"what": "text"},
    {"what": b"text"},
    {b"what": b"x", "body": b"text"},
    {b"what": b"x", b"body": "text"},
    {b"what": 5},
    {b"what": None},
    "text",
):
    try:
        uwsgi.spool(wrong)
        say("no error")
    except ValueError as error:
        say(str(error).partition(":")[0])
try:
    uwsgi.spool(what=b"x")
except ValueError as error:
    say(str(error).partition(":")[0])
say("here", uwsgi.spoolers[0] == os.fsencode(os.path.realpath(uwsgi.opt["spooler"])))
