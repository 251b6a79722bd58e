"""What uWSGI's documentation describes of its spooler and its decorators."""

import os
import time

from told import OUT, is_first, say
from uwsgidecorators import *  # noqa: F403
from uwsgidecorators import (
    cron,
    erlang,
    farm,
    filemon,
    get_free_signal,
    harakiri,
    lock,
    mule,
    mulefunc,
    postfork,
    rbtimer,
    rpc,
    signal,
    spool,
    spoolforever,
    spoolraw,
    thread,
    timer,
)

import uwsgi

# -- after a fork -------------------------------------------------------------------


@postfork
def connect():
    (OUT / f"forked-{os.getpid()}").touch()


@postfork
@thread
def in_the_background():
    (OUT / f"thread-{os.getpid()}").touch()


# -- tasks --------------------------------------------------------------------------


@spool
def with_a_dict(arguments):
    name = arguments.pop("spooler_task_name")
    say("dict", type(name).__name__, *sorted(arguments.items()))


@spool(pass_arguments=True)
def with_arguments(*args, **kwargs):
    say("arguments", *args, *sorted(kwargs.items(), key=lambda pair: pair[0]))


@spool
def whose_answer_does_not_count(arguments):
    say("answer")
    return uwsgi.SPOOL_RETRY


@spoolraw
def controlled(arguments):
    say("controlled", arguments["foo"])
    if arguments["foo"] == "bar" or not is_first("controlled"):
        return uwsgi.SPOOL_OK
    return uwsgi.SPOOL_RETRY


@spoolraw(pass_arguments=True)
def controlled_with_arguments(**kwargs):
    say("controlled too", kwargs["age"])
    return uwsgi.SPOOL_OK


@spoolforever
def for_ever(arguments):
    say("for ever", arguments["pippo"])


@spoolforever(pass_arguments=True)
def for_ever_with_arguments(*args):
    say("for ever too", *args)


@spool
def with_a_body(arguments):
    say("body", len(arguments["body"]), arguments["small"])


@spool
def at_its_time(arguments):
    whole = int(float(arguments["at"]))  # uWSGI knows no parts of a second
    say("at", whole <= time.time())


@spool
def fails_once(arguments):
    if is_first("fails"):
        say("fails")
        raise OSError("once")
    say("fails no more")


@spool
def says_where_it_is(arguments):
    say("spooler", uwsgi.i_am_the_spooler() is not None, uwsgi.worker_id())
    pids = [uwsgi.spooler_pid(), *uwsgi.spooler_pids()]
    say("pids", all(pid > 0 for pid in pids), uwsgi.mule_id(), uwsgi.masterpid() > 0)


# -- signals ------------------------------------------------------------------------


@signal(17, target="spooler")
def by_hand(number):
    say("signal", number)


@spool
def sends_a_signal(arguments):
    uwsgi.signal(17)


@timer(1, target="spooler")
def each_second(number):
    say("each second")


@rbtimer(1, target="spooler")
def each_second_too(number):
    say("each second too")


@cron(-1, -1, -1, -1, -1, target="spooler")
def each_minute(number):
    say("each minute")


OTHER_MONTH = (time.localtime().tm_mon + 5) % 12 + 1


@cron(40, 2, 1, OTHER_MONTH, 0, target="spooler")
def seldom(number):
    say("seldom")


(OUT / "watched").touch()


@filemon(str(OUT / "watched"), target="spooler")
def modified(number):
    say("modified")


# -- the rest -----------------------------------------------------------------------


@lock
def dangerous():
    say("dangerous")
    return 1


@harakiri(30)
def slow(left, right):
    return left + right


@thread
def in_a_thread(name):
    (OUT / f"thread-{name}").touch()


@spool
def calls_them(arguments):
    say("lock", dangerous())
    say("harakiri", slow(1, 2))
    say("thread", in_a_thread("mine").__name__)
    uwsgi.set_user_harakiri(30)
    uwsgi.set_user_harakiri(0)
    say("free", 0 <= get_free_signal() < 256, uwsgi.signal_registered(17) is not None)


# For web workers: they must not keep the tasks of the same module from being found.


@rpc("hello")
def hello():
    return b"hello"


@mulefunc
def offloaded(argument):
    say("offloaded", argument)


@mulefunc(3)
def offloaded_to_the_third(argument):
    say("offloaded", argument)


@mule(1)
def of_a_mule():
    say("mule")


@farm("old")
def of_a_farm(message):
    say("farm")


if hasattr(uwsgi, "erlang_register_process"):

    @erlang("foobar")
    def of_erlang():
        return "hello"
