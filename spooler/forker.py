"""The daemon's side of the template process: start it, have it fork and kill.

The first one is forked from ``spoold`` before that has done anything: so it need not
import again what both need. Those of a reload are processes anew, since by then the
daemon holds much that a template must not have. See ``template`` for the protocol.
"""

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import Any, Final

import msgspec

from .channel import WorkerSettings
from .clock import CLOCK
from .config import Settings
from .errors import EXIT_FAILED, EXIT_TRY_LATER
from .known import Known, Start, Uwsgi
from .retry import RetryOptions
from .sources import Stamp
from .task import FORWARD

STOP_TIMEOUT: Final = 5.0
"""Seconds that a template is given to end once its socket is closed."""

WAIT_STEP: Final = 0.002
"""Seconds between two looks whether it has ended."""

log = logging.getLogger(__name__)

OnExit = Callable[[int], None]
"""Called when a worker has ended, with its exit code or minus its signal."""


class Child:
    """A worker process, from its fork on.

    Attributes:
        pid: None until the template has answered.
    """

    def __init__(self, on_exit: OnExit) -> None:
        self.pid: int | None = None
        self.on_exit = on_exit


class Forker:
    """One template process and the workers that were forked from it.

    Args:
        start: What it is to import.
        anew: In a process that begins anew; else as a fork of this one.

    Raises:
        OSError: There are too many processes, or open files.
    """

    def __init__(self, start: Start, *, anew: bool) -> None:
        self.known: list[Known] | None = None
        self.rest: RetryOptions | None = None
        """For the tasks that nobody has registered a function for, if they are run."""
        self._others: list[str] = []
        self.files: dict[str, Stamp] = {}
        self.error: str | None = None
        self.gone = False
        self._socket, theirs = socket.socketpair()
        try:
            self._pid = _spawn(theirs) if anew else _fork(theirs, self._socket)
        except BaseException:
            self._socket.close()
            theirs.close()
            raise
        theirs.close()
        self._rest = b""
        self._asked: list[Child] = []
        self._children: dict[int, Child] = {}
        self._send(msgspec.json.encode(start))

    @property
    def names(self) -> list[str]:
        """The tasks that the user's modules know; ``*`` if any name is one."""
        known = [each.name for each in self.known or () if each.name != FORWARD]
        return sorted({*known, *self._others})

    def fileno(self) -> int:
        """Return the descriptor that is readable when it has something to say."""
        return self._socket.fileno()

    @property
    def asked(self) -> int:
        """How many workers are asked for that have not been forked yet."""
        return len(self._asked)

    @property
    def workers(self) -> int:
        """How many workers are alive or asked for."""
        return len(self._asked) + len(self._children)

    def _send(self, line: bytes, fds: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self._socket, [line + b"\n"], fds)
        except OSError as error:
            log.debug("template %d: %s", self._pid, error)

    def fork(
        self, settings: WorkerSettings, on_exit: OnExit
    ) -> tuple[Child, socket.socket]:
        """Ask for a worker; return it and this end of the line to it."""
        ours, theirs = socket.socketpair()
        # Room for WINDOW_MAX names one by one: the daemon must never wait for it.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        child = Child(on_exit)
        self._asked.append(child)
        message = {"fork": msgspec.to_builtins(settings)}
        self._send(json.dumps(message).encode(), (theirs.fileno(),))
        theirs.close()
        return child, ours

    def kill(self, child: Child) -> None:
        """Kill a worker and all of its process group at once."""
        if child.pid is not None:
            self._send(json.dumps({"kill": child.pid}).encode())

    def kill_all(self) -> None:
        """Kill the template, if it lives; the kernel kills its workers with it."""
        if not self.gone:
            os.kill(self._pid, signal.SIGKILL)

    def freeze(self, child: Child) -> None:
        """Stop a worker and have what it has started end in order."""
        if child.pid is not None:
            self._send(json.dumps({"freeze": child.pid}).encode())

    def read(self) -> None:
        """Take what the template says. Call it when readable."""
        try:
            data = self._socket.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if "forked" in message:
            child = self._asked.pop(0)
            if message["forked"] is None:
                child.on_exit(EXIT_TRY_LATER)
                return
            child.pid = message["forked"]
            self._children[message["forked"]] = child
        elif "exit" in message:
            child = self._children.pop(message["exit"])
            child.on_exit(message["status"])
        elif "ready" in message:
            self.known = msgspec.convert(message["ready"], list[Known])
            self.files = msgspec.convert(message["files"], dict[str, Stamp])
            self._others = message["others"]
            if message["rest"] is not None:
                self.rest = msgspec.convert(message["rest"], RetryOptions)
        else:
            self.error = message["error"]

    def _lost(self) -> None:
        """Note that the template is dead; the kernel kills its workers with it."""
        self.gone = True
        children = [*self._asked, *self._children.values()]
        self._asked, self._children = [], {}
        for child in children:
            if child.pid is not None:  # what its task has started lives on
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
            child.on_exit(-9)

    def close(self) -> None:
        """End the template: it goes when its socket is closed."""
        self._socket.close()
        # As long as it imports nobody waits for it.
        if self.known is None or not self._has_ended(STOP_TIMEOUT):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _has_ended(self, timeout: float) -> bool:
        """Wait so many seconds for the process to end; tell whether it has."""
        until = CLOCK.monotonic() + timeout
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            if CLOCK.monotonic() >= until:
                return False
            Event().wait(WAIT_STEP)
        return True


def _spawn(control: socket.socket) -> int:
    """Start a template as a new program; return its pid."""
    # -P: a json.py in the current directory must not be taken for the real one.
    module = ("-P", "-m", "spooler.template")
    os.set_inheritable(control.fileno(), True)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, *module, str(control.fileno())],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        # In a group of its own, so that Ctrl-C in a terminal reaches only the daemon.
        setpgroup=0,
    )


def _fork(control: socket.socket, ours: socket.socket) -> int:
    """Start a template as a fork of this process; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        ours.close()
        null = os.open(os.devnull, os.O_RDONLY)  # noqa: TID251 (not in the spool)
        os.dup2(null, 0)
        os.close(null)
        from . import template  # noqa: PLC0415 (the daemon need not load it)

        sys.argv[:] = [template.__file__, str(control.fileno())]
        if not sys.flags.safe_path:
            del sys.path[0]  # where the command is
        template.be(control)
    except BaseException:
        log.exception("the template cannot begin")
    finally:
        os._exit(EXIT_FAILED)


def start_template(settings: Settings, *, anew: bool = True) -> Forker:
    """Start a template of this process.

    Args:
        anew: As for ``Forker``.

    Raises:
        OSError: There are too many processes, or open files.
    """
    modules, parent = list(settings.imports), os.getpid()
    level, as_json = settings.log_level, settings.log_json
    uwsgi = _uwsgi(settings) if settings.uwsgi else None
    start = Start(modules, parent, level, as_json, settings.reload, uwsgi)
    return Forker(start, anew=anew)


def _uwsgi(settings: Settings) -> Uwsgi:
    dirs = tuple(os.path.abspath(path) for path in settings.dirs)
    files, frequency = settings.uwsgi_files, settings.frequency
    retry, application = settings.uwsgi_retry, settings.application
    return Uwsgi(dirs, files, frequency, retry, application)
