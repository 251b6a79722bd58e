"""What the views of the application put."""

import os

import conf_runtime as app
from told import say

app.plain(1, b="d")
app.urgent(2)
app.again()
app.raising()
app.guarded()
app.sends()
app.locked()
app.facts()
try:
    app.later(3)
except ValueError as error:
    say(error)
path = app.Spooler.send_message_raw("mine", payload={"a": 1})
say("raw", type(path).__name__, os.path.isabs(path), os.path.exists(path))
os.unlink(path)
