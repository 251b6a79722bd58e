"""An application with one function for all of its tasks, and no decorators."""

from told import is_first, say

import uwsgi


def of_all_tasks(env):
    name = env.pop("spooler_task_name")
    kinds = {(type(k).__name__, type(v).__name__) for k, v in env.items()}
    body = env.pop("body", b"")
    what = env[b"what"]
    say(what.decode(), type(name).__name__, b"/" in name, *sorted(kinds), len(body))
    if what == b"again":
        return uwsgi.SPOOL_RETRY if is_first("again") else uwsgi.SPOOL_OK
    if what == b"ignored":
        return uwsgi.SPOOL_IGNORE if is_first("ignored") else uwsgi.SPOOL_OK
    if what == b"other":
        return 5 if is_first("other") else uwsgi.SPOOL_OK
    if what == b"nothing":
        return None if is_first("nothing") else uwsgi.SPOOL_OK
    if what == b"raised":
        if is_first("raised"):
            raise KeyError("once")
        return uwsgi.SPOOL_OK
    return uwsgi.SPOOL_OK


uwsgi.spooler = of_all_tasks
