"""The process that workers are forked from.

It imports the user's modules once and has one thread, so a fork is cheap, shares
memory and is safe. The daemon starts it (``forker``), at a reload as ``python -m
spooler.template``, with one end of a socket, and asks it to fork and to kill.

The standard library's forkserver is not used: it hides errors of the imported
modules, cannot be replaced for a reload, and does not report how a worker died.

Lines of JSON go both ways. To the template: ``{"fork": {...}}``, with the worker's
socket attached, ``{"freeze": pid}`` and ``{"kill": pid}``. From it:
``{"ready": [...], "others": [...], "rest": {...}, "files": {...}}`` or
``{"error": text}``, ``{"forked": pid}`` (null if that failed) and ``{"exit": pid,
"status": n}``.
"""

import contextlib
import ctypes
import gc
import importlib
import io
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, NoReturn

import msgspec

from . import logs, worker
from .channel import WorkerSettings
from .errors import EXIT_FAILED, UsageError
from .forwarding import FORWARD_ENTRY
from .known import Start, known_of
from .loop import STOPPING, take_signals
from .options import RunOptions
from .registry import REGISTRY
from .sources import source_files

_UWSGIS: Final = ("uwsgi", "uwsgidecorators")
_PR_SET_PDEATHSIG: Final = 1
_prctl: Final[Callable[..., int]] = ctypes.CDLL(None, use_errno=True).prctl

log = logging.getLogger(__name__)


def load(
    modules: list[str],
    paths: Sequence[str] = (),
    calls: Mapping[str, str] | None = None,
) -> None:
    """Import the user's modules, given by name or as a path that ends in .py.

    Args:
        paths: What goes into Python's path before the current directory.
        calls: By module: the function in it that is called then.

    Raises:
        UsageError: One cannot be imported; one line, with the place.
    """
    sys.path[:0] = [*paths, os.getcwd()]
    for module in modules:
        name = module
        if module.endswith(".py"):
            folder, file = os.path.split(os.path.abspath(module))
            sys.path.insert(0, folder)
            name = file[:-3]
        try:
            imported = importlib.import_module(name)
            if calls and name in calls:
                getattr(imported, calls[name])()
        except BaseException as error:
            raise UsageError(_explain(module, error)) from error
    REGISTRY.add(FORWARD_ENTRY)
    for entry in REGISTRY:
        _check_followers(entry.name, entry.run)
        if entry.schedule is not None:
            from .slots import check  # noqa: PLC0415 (it loads cronsim)

            try:
                check(entry.schedule)
            except UsageError as error:
                raise UsageError(f"task {entry.name}: {error}") from None


def _check_followers(task: str, options: RunOptions) -> None:
    for word in ("then", "on_failure"):
        for follower in getattr(options, word) or ():
            if REGISTRY.get(follower.task) is None:
                raise UsageError(
                    f"task {task}: {word}= names {follower.task!r}, and there is no"
                    " task of that name in the imported modules"
                )
            if follower.options is not None:
                _check_followers(follower.task, follower.options)


def _explain(module: str, error: BaseException) -> str:
    if isinstance(error, UsageError):
        what = str(error)
    else:
        what = " ".join(traceback.format_exception_only(error)[-1].split())
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(os.path.abspath(__file__)) + os.sep
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith((ours, "<"))
        and "importlib" not in frame.filename
    ]
    places = [(frame.filename, frame.lineno) for frame in own]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    where = f" ({places[-1][0]}, line {places[-1][1]})" if places else ""
    hint = ""
    if isinstance(error, ModuleNotFoundError) and error.name in _UWSGIS:
        hint = "; use --uwsgi"  # with it both are there
    elif isinstance(error, ModuleNotFoundError) and error.name in (
        module,
        module.partition(".")[0],
    ):
        hint = f"; looked in {os.getcwd()} and in Python's path"
    return f"cannot import {module}: {what}{where}{hint}"


class Template:
    """The template process itself.

    Args:
        control: The line to the daemon.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._rest = b""
        self._fds: list[int] = []
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._writer = writer
        self._pid = os.getpid()
        self._children: set[int] = set()

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the daemon is gone; it will be seen
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def _lines(self) -> list[bytes] | None:
        """Return what the daemon says; None if it is gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 1 << 16, 64)
        except ConnectionResetError:  # it has not heard all that was told
            return None
        self._fds += fds
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def run(self) -> None:
        """Import, report, then fork and reap until the daemon is gone."""
        lines: list[bytes] | None = []
        while not lines:
            lines = self._lines()
            if lines is None:
                return
        start = msgspec.json.decode(lines[0], type=Start)
        die_with(start.parent)
        # It ends with the daemon. A service manager's TERM for the whole group must
        # not take the workers away from under a daemon that drains them.
        for number in STOPPING:
            signal.signal(number, _nothing)
        take_signals()
        logs.configure(start.log_level, json=start.log_json)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # to be read now, not at exit
        if start.reload:
            # Python takes compiled code for fresh by whole seconds and the size: a
            # second change in the same second would not be seen.
            sys.dont_write_bytecode = True
        try:
            if start.uwsgi is not None:
                from .ext.uwsgi import begin  # noqa: PLC0415 (few have need of it)

                begin(start.uwsgi, daemon=start.parent)
            load(start.modules, start.paths, start.calls)
        except UsageError as error:
            log.debug("import", exc_info=error.__cause__)
            self._tell({"error": str(error)})
            raise
        self._warn_of_threads()
        if any(entry.is_async for entry in REGISTRY):
            importlib.import_module("spooler.concurrent")  # once, for all workers
        gc.collect()
        gc.freeze()
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        known = [known_of(entry) for entry in REGISTRY]
        files = source_files(start.modules) if start.reload else {}
        rest = None if REGISTRY.rest is None else asdict(REGISTRY.rest.retry)
        ready = msgspec.to_builtins(known)
        others = REGISTRY.others()
        self._tell({"ready": ready, "files": files, "rest": rest, "others": others})
        # From here on the end of its socket tells that the daemon has died, so that
        # what the tasks have started can be killed too.
        _prctl(_PR_SET_PDEATHSIG, 0)
        self._serve(lines[1:])
        for pid in self._children:
            self._kill(pid)

    def _warn_of_threads(self) -> None:
        others = [t.name for t in threading.enumerate()[1:]]
        if others:
            log.warning(
                "the imported modules have started threads (%s): workers are forked"
                " without them; start threads in the task or when it first runs",
                ", ".join(others),
            )

    def _serve(self, lines: list[bytes]) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._reader, select.POLLIN)
        while True:
            for line in lines:
                self._obey(json.loads(line))
            lines = []
            for fd, _ in poll.poll():
                if fd == self._reader:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._reader, 4096)
                else:
                    received = self._lines()
                    if received is None:
                        return
                    lines = received
            self._reap()

    def _obey(self, message: dict[str, Any]) -> None:
        if "fork" in message:
            settings = msgspec.convert(message["fork"], WorkerSettings)
            self._fork(settings, self._fds.pop(0))
        elif message.get("freeze") in self._children:
            os.kill(message["freeze"], signal.SIGSTOP)
            self._kill(message["freeze"], signal.SIGTERM)
        elif message.get("kill") in self._children:
            self._kill(message["kill"])

    def _kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process and the group it leads, if it leads one."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)

    def _fork(self, settings: WorkerSettings, fd: int) -> None:
        _flush()  # or each worker would print what is buffered here
        try:
            pid = os.fork()
        except OSError as error:  # which must not take the other workers with it
            os.close(fd)
            log.error("cannot fork a worker: %s", error)
            self._tell({"forked": None})
            return
        if pid == 0:
            self._be_worker(settings, fd)
        with contextlib.suppress(OSError):  # here too: a kill may come at once
            os.setpgid(pid, pid)
        os.close(fd)
        self._children.add(pid)
        self._tell({"forked": pid})

    def _be_worker(self, settings: WorkerSettings, fd: int) -> None:
        """Be a worker; never return."""
        status = EXIT_FAILED
        try:
            os.setpgid(0, 0)
            die_with(self._pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for mine in (self._reader, self._writer, *self._fds):
                os.close(mine)
            self._control.close()
            worker.main(socket.socket(fileno=fd), settings)
            status = 0
        except OSError as error:  # from the file system: it says where
            log.error("worker %s ends: %s", settings.name, error)
        except BaseException:
            log.exception("worker %s ends", settings.name)
        finally:
            _flush()
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            # Before its number can be given to another process: end what its task
            # left running, so that the task's next attempt is alone.
            self._kill(found.si_pid)
            _, status = os.waitpid(found.si_pid, 0)
            if found.si_pid not in self._children:  # started by an imported module
                continue
            self._children.discard(found.si_pid)
            code = os.waitstatus_to_exitcode(status)
            self._tell({"exit": found.si_pid, "status": code})


def _nothing(number: int, frame: object) -> None:
    """Handle a signal by doing nothing but waking up."""


def _flush() -> None:
    """Print what is buffered, wherever user code has left the streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was faster
        os._exit(EXIT_FAILED)


def be(control: socket.socket) -> NoReturn:
    """Be a template until the daemon is gone; never return."""
    status = EXIT_FAILED
    try:
        Template(control).run()
        status = 0
    except UsageError:
        pass  # the daemon was told
    except BaseException:
        log.exception("the template ends")
    finally:
        _flush()
        os._exit(status)  # without waiting for threads of the imported modules


if __name__ == "__main__":
    be(socket.socket(fileno=int(sys.argv[1])))
