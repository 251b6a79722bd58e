"""Write a comment, as a browser does."""

import json

from isso.run import application
from told import say
from werkzeug.test import Client

answer = Client(application).post(
    "/new?uri=%2Fpath%2F",
    data=json.dumps({"text": "A comment.", "title": "A page", "author": "Me"}),
    headers={"Content-Type": "application/json", "Origin": "http://localhost:1"},
    environ_overrides={"REMOTE_ADDR": "127.0.0.1"},
)
say("posted", answer.status_code)
