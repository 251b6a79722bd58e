"""Priorities of uwsgi-tasks: put here, and run in order."""

from told import say
from uwsgi_tasks import TaskExecutor, set_uwsgi_callbacks, task

set_uwsgi_callbacks()


@task(executor=TaskExecutor.SPOOLER)
def rest():
    say("rest")


@task(executor=TaskExecutor.SPOOLER, priority="10")
def ten():
    say("10")


@task(executor=TaskExecutor.SPOOLER, priority="2")
def two():
    say("2")
