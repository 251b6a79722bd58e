"""Put tasks as a file of JSON says, within uWSGI (as a mule) or outside of it."""

import json
import os
import signal
from threading import Event

import uwsgi  # type: ignore[import-untyped]  # who runs this has it

with open(os.environ["TASKS"]) as file:
    tasks = json.load(file)
for task in tasks:
    Event().wait(task.pop("pause", 0))
    body = bytes.fromhex(task.pop("body", "")) * task.pop("times", 1)
    env = {key.encode(): str(value).encode() for key, value in task.items()}
    if body:
        env[b"body"] = body
    path = uwsgi.spool(env)
    assert type(path) is bytes, path
with open(os.environ["TASKS"] + ".done", "w"):
    pass
if uwsgi.mule_id():
    signal.pause()  # a mule that ends is begun anew
