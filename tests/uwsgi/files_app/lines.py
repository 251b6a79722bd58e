"""An application for uWSGI that writes a line for each of its tasks."""

import hashlib
import os
from typing import Any

import uwsgi  # type: ignore[import-untyped]  # who runs this has it

OUT = os.environ["OUT"]


def handle(env: dict[Any, Any]) -> Any:
    body = env.get("body", b"")
    facts = (
        env[b"n"],
        os.environ["WHO"].encode(),
        str(len(body)).encode(),
        hashlib.md5(body).hexdigest().encode(),
        env.get(b"priority", b"-"),
        env.get(b"at", b"-"),
    )
    fd = os.open(f"{OUT}/out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(fd, b" ".join(facts) + b"\n")
    finally:
        os.close(fd)
    return uwsgi.SPOOL_OK


uwsgi.spooler = handle
