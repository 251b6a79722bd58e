"""Put what the documentation puts."""

import time

import documented as app
from told import say

app.with_a_dict.spool(foo="bar", hello="world")
app.with_a_dict.spool({"pippo": "pluto"})
app.with_a_dict({b"as": b"bytes"}, more="é")
app.with_arguments.spool(1, "two", id=42, foo=["bar", "baz"], func=min)
app.with_arguments(at=str(int(time.time()) + 1).encode(), priority=b"3", body=b"x")
app.whose_answer_does_not_count.spool()
app.controlled.spool(foo="bar")
app.controlled.spool(foo="other")
app.controlled_with_arguments.spool(foo="bar", age=42)
app.with_a_body.spool(body=b"x" * 300_000, small="yes")
app.at_its_time.spool(at=str(time.time() + 1))
app.fails_once.spool()
app.says_where_it_is.spool()
app.sends_a_signal.spool()
app.calls_them.spool()

for wrong in ({"number": 5}, {b"number": 5}, {"text": "x"}, ["list"], 7):
    try:
        app.uwsgi.spool(wrong)
    except ValueError as error:
        say(error)
