"""An application of uwsgiconf's runtime."""

from datetime import timedelta

from told import is_first, say
from uwsgiconf.runtime.control import harakiri_imposed
from uwsgiconf.runtime.locking import lock
from uwsgiconf.runtime.platform import uwsgi
from uwsgiconf.runtime.scheduling import (
    register_cron,
    register_timer,
    register_timer_rb,
)
from uwsgiconf.runtime.signals import Signal
from uwsgiconf.runtime.spooler import ResultProcessed, ResultRescheduled, Spooler


@Spooler.task()
def plain(a, b="c"):
    say("plain", a, b)
    return True


@Spooler.task(priority=3)
def urgent(a):
    say("urgent", a)
    return ResultProcessed(a)


@Spooler.task(postpone=timedelta(seconds=1))
def later(a):
    say("later", a)
    return True


@Spooler.task()
def again():
    if is_first("again"):
        say("again")
        return ResultRescheduled()
    say("once more")
    return True


@Spooler.task()
def raising():
    if is_first("raising"):
        say("raising")
        raise RuntimeError("once")
    say("raising no more")
    return True


@Spooler.task()
@harakiri_imposed(timeout=30)
def guarded():
    say("guarded")
    return True


@register_timer(1, target="spooler")
def tick():
    say("tick")


@register_timer_rb(1, repeat=2, target="spooler")
def twice():
    say("twice")


@register_cron(hour=-2, minute="10-50/5", target="spooler")
def seldom():
    say("seldom")


by_hand = Signal()


@by_hand.register_handler(target="spooler")
def on_signal(number):
    say("signal", number == int(by_hand), by_hand.registered)


@Spooler.task()
def sends():
    by_hand.send()
    return True


@Spooler.task()
def locked():
    try:
        with lock():
            say("locked")
    except ValueError:
        say("the spooler takes no locks")
    return True


@Spooler.task()
def facts():
    say(
        "facts",
        uwsgi.worker_id,
        uwsgi.master_pid > 0,
        *uwsgi.get_version(as_tuple=True)[:2],
    )
    say("names", type(uwsgi.hostname).__name__, type(uwsgi.get_version()).__name__)
    say("pids", all(pid > 0 for pid in Spooler.get_pids()), "spooler" in uwsgi.config)
    return True
