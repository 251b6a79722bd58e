"""What applications do all the same."""

import os
import signal
import sys
import threading

from told import is_first, say
from uwsgidecorators import spool, spoolraw

import uwsgi

unnamed = spool(lambda env: say("unnamed", env["x"]))


def made():
    @spool
    def nested(env):
        say("nested", env["x"])

    return nested


nested = made()


class Namespace:
    @staticmethod
    @spool
    def static(env):
        say("static", env["x"])


@spool
def puts_from_elsewhere(env):
    thread = threading.Thread(target=nested, kwargs={"x": "of a thread"})
    thread.start()
    thread.join()
    pid = os.fork()
    if pid == 0:
        nested(x="of a child")
        os._exit(0)
    os.waitpid(pid, 0)


@spool
def exits(env):
    say("exits")
    if is_first("exits"):
        sys.exit(3)


@spool
def dies(env):
    say("dies")
    if is_first("dies"):
        os.kill(os.getpid(), signal.SIGKILL)


@spoolraw
def answers_true(env):
    say("true")
    return True if is_first("true") else uwsgi.SPOOL_OK


@spoolraw
def answers_text(env):
    say("text")
    return str(uwsgi.SPOOL_OK)


@spool
def changes_directory(env):
    os.chdir("/")
    say("directory")


@spool
def größe(env):
    say("größe", env["ü"])


@spool
def tmp(env):
    say("tmp")


@spool
def with_magic_keys(env):
    say("magic", *sorted(env))


@spool
def looks(env):
    say("jobs", all(os.path.isabs(path) for path in uwsgi.spooler_jobs()))
    say("none", uwsgi.spooler_get_task("/none"), uwsgi.parsefile("/none"))
    say("done", uwsgi.log("a line"), uwsgi.set_spooler_frequency(1))
