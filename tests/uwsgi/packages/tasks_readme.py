"""An application of uwsgi-tasks, with all that its README describes."""

import os
from datetime import timedelta
from functools import wraps

from told import say
from uwsgi_tasks import (
    SPOOL_OK,
    SPOOL_RETRY,
    RetryTaskException,
    TaskExecutor,
    cron,
    get_current_task,
    set_uwsgi_callbacks,
    task,
    timer,
    timer_lazy,
)

set_uwsgi_callbacks()


@task(executor=TaskExecutor.SPOOLER)
def send_mail(subject, body, to=()):
    say("mail", subject, len(body), *to)


@task
def of_any_executor(number):
    say("auto", number)


def returning(function):
    @wraps(function)
    def inner(*args, **kwargs):
        try:
            function(*args, **kwargs)
        except ValueError as error:
            say("failed", error)
            return SPOOL_RETRY
        return SPOOL_OK

    return inner


@task(executor=TaskExecutor.SPOOLER, retry_count=3, retry_timeout=1)
@returning
def three_times(text):
    raise ValueError(text)


@task(executor=TaskExecutor.SPOOLER, retry_count=2)
def purchase(order):
    say("purchase", order)
    raise RetryTaskException(timeout=1)


@task(executor=TaskExecutor.SPOOLER, spooler_return=True)
def own_code():
    first = not os.path.exists(os.path.join(os.environ["OUT"], "own"))
    with open(os.path.join(os.environ["OUT"], "own"), "w"):
        say("own code", first)
    return SPOOL_RETRY if first else SPOOL_OK


@task(executor=TaskExecutor.SPOOLER, at=timedelta(seconds=1))
def step_by_step(number=0):
    current = get_current_task()
    seen = current.buffer.setdefault("seen", [])
    seen.append(number)
    if number == 2:
        say("steps", *seen)
        return None
    current.at = timedelta(seconds=1)
    return current(number + 1)


@task(executor=TaskExecutor.SPOOLER, retry_count=3, retry_timeout=1)
def remembers():
    current = get_current_task()
    current.buffer["runs"] = current.buffer.get("runs", 0) + 1
    say("remembers", current.retry_count, current.buffer["runs"])
    return SPOOL_RETRY


@task(executor=TaskExecutor.SPOOLER)
def not_caught():
    say("not caught")
    raise RuntimeError("not caught")


@task(executor=TaskExecutor.SPOOLER)
def where():
    say("where", os.getcwd())


@task(executor=TaskExecutor.SPOOLER, working_dir=None)
def elsewhere():
    say("elsewhere")


@timer(seconds=1, iterations=2)
def twice(number):
    say("twice")


@timer(seconds=1, target="spooler")
def each_second(number):
    say("each second")


@timer_lazy(target="spooler")
def lazily(number):
    say("lazily")


@task(executor=TaskExecutor.SPOOLER)
def begin_lazily():
    lazily.add_setup(seconds=1, iterations=2)
    lazily()


@cron(minute=-1, target="spooler")
def each_minute(number):
    say("each minute")
