"""The loop of ``spoold``: serve the spools, mind the signals and the template, wait.

It imports no user code. One thread, one epoll; each spool has its backlog, its
supervisor and its scheduler, and all share the template process.
"""

import gc
import logging
import os
import platform
import signal
import socket
from typing import Final

from ._version import __version__
from .backlog import Backlog
from .channel import SupervisorSettings
from .clock import CLOCK
from .config import Settings
from .errors import (
    EXIT_DONE,
    EXIT_FAILED,
    KeyFileError,
    NotASpoolError,
    UsageError,
)
from .forker import Forker, start_template
from .groups import accepted_owners
from .known import Known
from .logs import escape
from .loop import STOPPING, Loop, Signals
from .reload import CodeWatch
from .scheduler import Scheduler
from .served import SWEEP_EVERY, Served, explain
from .sockets import Sockets
from .space import Space
from .spooldir import SpoolDir
from .spooldir.dropped import Dropped
from .spooldir.recovery import ProcessLock, process_name
from .spooldir.results import Sweeper
from .spooldir.room import set_limits
from .spooldir.taking_over import take_over
from .spooldir.trust import weaknesses
from .supervisor import Supervisor
from .task import FORWARD, iso
from .wakeup import Watch, file_system

RESTART_PAUSE: Final = 1.0
"""Seconds between two starts of a template process that dies."""

KILL_TIMEOUT: Final = 2.0
"""Seconds that a template is given to kill its workers."""

SAME_SIGNAL: Final = 0.2
"""Seconds in which a second TERM is the first one once more: timeout(1) and some
service managers signal a process and then its whole group."""

log = logging.getLogger(__name__)


class Daemon:
    """``spoold``.

    Args:
        settings: What it is to do.
        forker: The template, which has been started for these settings: it imports
            while the daemon does. The daemon closes it.

    Raises:
        NotASpoolError: One of the directories is not a spool.
        OSError: One of them cannot be used.
    """

    def __init__(self, settings: Settings, forker: Forker) -> None:
        self._settings = settings
        self._forker = forker
        self._owners: set[int] = set()
        self._loop = Loop()
        self._signals = Signals(STOPPING)
        self._loop.add(self._signals.fileno(), self._on_signals)
        self._spools: list[Served] = []
        self._sockets = Sockets()
        self._changes: CodeWatch | None = None
        if settings.reload or settings.touch:
            touch = settings.touch
            self._changes = CodeWatch(self._loop.add, Watch(os.sep), touch=touch)
        try:
            self._learn_owners()
            for path in settings.dirs:
                self._spools.append(self._open(SpoolDir(path)))
            self._sockets.open(settings)
        except BaseException:
            forker.close()
            self._let_go()
            raise
        self._hear(forker)
        self._coming: Forker | None = None
        self._old: list[Forker] = []
        self._reload_again = False
        self._restart_at = 0.0
        self._stop_at: float | None = None
        self._drained_at = 0.0
        self._code = EXIT_DONE
        self._started = iso(CLOCK.now_us())
        self._killed = False

    def _open(self, spool: SpoolDir) -> Served:
        settings = self._settings
        name = process_name("daemon")
        lock = ProcessLock(spool, name)
        try:
            if spool.signer is not None:
                spool.signer.look()
            if settings.uwsgi:
                take_over(spool.path)
            self._look_who_could_use(spool)
            spool.open()
            self._look_whose(spool)
            if not lock.acquire(timeout=5.0):
                raise UsageError(f"{spool.path}: cannot take the lock of {name}")
            set_limits(
                spool, settings.max_waiting, settings.min_free, settings.min_free_inodes
            )
        except OSError as error:
            raise UsageError(f"{spool.path}: {explain(spool, error)}") from None
        watch = Watch(spool.path)
        dropped = Dropped(
            spool,
            self._owners,
            require_signature=settings.require_signature,
            uwsgi=settings.uwsgi,
            uwsgi_files=settings.uwsgi_files,
        )
        backlog = Backlog(spool, watch, dropped)
        supervisor = Supervisor(
            spool,
            backlog,
            SupervisorSettings(
                workers=settings.workers,
                owners=self._owners,
                retry=settings.retry,
                max_tasks=settings.max_tasks,
                max_rss=settings.max_rss,
                soft_timeout=settings.soft_timeout,
                keep_log=settings.keep_log,
                threads=settings.threads,
                async_concurrency=settings.async_concurrency,
                async_backend=settings.async_backend,
                hard_timeout=settings.hard_timeout,
                require_signature=settings.require_signature,
            ),
            name,
            self._loop.add,
            self._loop.remove,
        )
        fd = watch.fileno()
        if fd is not None:
            self._loop.add(fd, watch.read)
        results = Sweeper(spool, keep=settings.keep_results, every=SWEEP_EVERY)
        return Served(
            spool,
            lock,
            watch,
            backlog,
            supervisor,
            Scheduler(spool),
            results,
            Space(spool),
            settings.frequency,
            settings.keep_logs_for,
        )

    def _learn_owners(self) -> None:
        """Find whose files are tasks: all who ask have the same set.

        Raises:
            UsageError: There is no such group.
        """
        settings = self._settings
        owners = accepted_owners(settings.allow_uids, settings.allow_groups)
        self._owners.clear()
        self._owners.update(owners)

    def _look_who_could_use(self, spool: SpoolDir) -> None:
        """Refuse a spool, or warn, if others could have their hands on it.

        Raises:
            UsageError: It is not to be served.
            OSError: From the file system.
        """
        for found in weaknesses(spool.path):
            if found.grave and not self._settings.insecure:
                raise UsageError(f"{found.text}. Or use --insecure")
            log.warning("insecure %s", escape(found.text))

    def _look_whose(self, spool: SpoolDir) -> None:
        """Refuse to be root on another user's spool, unless his tasks are accepted.

        What root puts there is given to that user: so would be what its tasks put.

        Raises:
            UsageError: They are not.
        """
        uid = None if spool.owner is None else spool.owner[0]
        if uid is not None and uid not in self._owners:
            raise UsageError(
                f"{spool.path}: belongs to uid {uid}: run spoold as that user, or with"
                f" --allow-uid {uid}, and his tasks run as root"
            )

    def _try_to_start_template(self) -> Forker | None:
        try:
            forker = start_template(self._settings)
        except OSError as error:  # too many processes, or open files
            gone = self._forker.gone
            what = "cannot start it now" if gone else "reload: the old code goes on"
            log.error("%s: %s", what, error)
            return None
        self._hear(forker)
        return forker

    def _hear(self, forker: Forker) -> None:
        """Take what a template says, from now on."""

        def listen() -> None:
            forker.read()
            if forker.gone:  # its end would be readable for ever
                self._loop.remove(forker.fileno())
            for spool in self._spools:  # it may fork more now
                spool.tend_at = 0.0

        self._loop.add(forker.fileno(), listen)

    # -- beginning --------------------------------------------------------------

    def run(self) -> int:
        """Serve the spools until told to stop; return the exit code.

        Raises:
            UsageError: The user's modules cannot be imported.
        """
        try:
            self._wait_for_template()
            if self._stop_at is None:
                self._use(self._forker)
                self._say_what_is_known()
                for spool in self._spools:
                    self._serve(spool)
                self._say_what_is_there()
                self._sockets.start()
            gc.freeze()  # what is here now stays; not to be looked at again and again
            while not self._is_over():
                self._turn()
        finally:
            self._close()
        log.info("stopped")
        return self._code

    def _wait_for_template(self) -> None:
        while self._forker.known is None and self._stop_at is None:
            self._loop.wait(None)
            if self._forker.error is not None:
                raise UsageError(self._forker.error)
            if self._forker.gone:
                raise UsageError("the process that imports the modules has died")

    def _use(self, forker: Forker) -> None:
        if self._changes is not None:
            self._changes.use(forker.files)
        known = forker.known or []
        served = {os.path.realpath(spool.dir.path) for spool in self._spools}
        for each in known:
            own = each.spool if each.interval or each.cron else None
            if own is not None and os.path.realpath(own) not in served:
                text = "timer %s is for %s, which is not served here"
                log.warning(text, escape(each.name), escape(own))
        for index, spool in enumerate(self._spools):
            spool.supervisor.use(forker)
            spool.scheduler.use([k for k in known if _belongs(k, spool.dir, index)])
            facts = {
                "kind": "daemon",
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "started": self._started,
                "version": __version__,
                "workers": self._settings.workers,
                "tasks": sorted({FORWARD, *forker.names}),
            }
            try:
                spool.lock.describe(facts)
            except OSError as error:  # a full disk must not stop a reload
                path = escape(spool.dir.path)
                log.warning("cannot say in %s who serves it: %s", path, error)

    def _say_what_is_known(self) -> None:
        names = self._forker.names
        log.info(
            "spoold %s (Python %s) pid=%d imports=%s tasks=%d: %s",
            __version__,
            platform.python_version(),
            os.getpid(),
            ",".join(self._settings.imports) or "-",
            len(names),
            escape(", ".join(names)) or "-",
        )

    def _say_what_is_there(self) -> None:
        """Count what is in the spools: after the first tasks were handed out."""
        from .status import count  # noqa: PLC0415 (not before, too)

        for spool in self._spools if log.isEnabledFor(logging.INFO) else ():
            try:
                counts = count(spool.dir)
            except OSError as error:
                path = escape(spool.dir.path)
                log.warning("cannot count what is in %s: %s", path, error)
                continue
            log.info(
                "serve spool=%s filesystem=%s wakeup=%s workers=%d timers=%d"
                " waiting=%d later=%d failed=%d corrupt=%d",
                escape(spool.dir.path),
                file_system(spool.dir.path),
                spool.watch.mode,
                self._settings.workers,
                len(spool.scheduler),
                counts.waiting,
                counts.later,
                counts.failed,
                counts.corrupt,
            )
        if os.geteuid() == 0:
            log.warning("running as root: tasks run as root too")

    # -- one turn of the loop ---------------------------------------------------

    def _turn(self) -> None:
        wait = 3600.0
        for spool in self._spools:
            wait = min(wait, self._serve(spool))
        if self._stop_at is not None:
            if self._is_over():
                return
            self._enforce_grace()
            wait = min(wait, max(0.0, self._stop_at - CLOCK.monotonic()))
        elif self._forker.gone and self._coming is None:
            wait = min(wait, max(0.0, self._restart_at - CLOCK.monotonic()))
        if self._changes is not None:
            wait = min(wait, self._changes.next_moment())
        self._loop.wait(wait)
        if self._changes is not None and self._changes.is_due():
            self._reload()
        self._look_after_templates()

    def _serve(self, spool: Served) -> float:
        """Do what is due in a spool; return for how many seconds nothing will be."""
        try:
            return spool.serve(self._forker)
        except NotASpoolError as error:
            log.error("drain: %s", escape(str(error)))
            self._code = EXIT_FAILED
            self._stop()
            return 0.0
        except OSError as error:
            log.error("spool=%s: %s", spool.dir.path, error)
            return spool.pause()

    def _is_over(self) -> bool:
        if self._stop_at is not None:
            return all(spool.supervisor.empty for spool in self._spools)
        if self._settings.burst and all(spool.is_done() for spool in self._spools):
            # What the last run has put may be told of only now.
            self._loop.wait(0.0)
            if all(spool.is_done() for spool in self._spools):
                self._stop()
        return False

    # -- signals ----------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGHUP:
                self._reload()
            elif self._stop_at is None:
                self._drained_at = CLOCK.monotonic()
                self._stop()
                log.info("drain: signal %d", number)
            elif CLOCK.monotonic() - self._drained_at > SAME_SIGNAL:
                log.warning("stop now: signal %d again", number)
                self._stop_at = CLOCK.monotonic()

    def _stop(self) -> None:
        self._stop_at = CLOCK.monotonic() + self._settings.grace
        for spool in self._spools:
            spool.supervisor.drain()

    def _enforce_grace(self) -> None:
        if CLOCK.monotonic() < (self._stop_at or 0.0):
            return
        self._stop_at = CLOCK.monotonic() + KILL_TIMEOUT
        if self._killed:  # the templates do not: they are stopped, say
            for forker in self._forkers():
                forker.kill_all()
        self._killed = True
        for spool in self._spools:
            spool.supervisor.kill()

    def _reload(self) -> None:
        if self._coming is not None:
            self._reload_again = True  # it may have imported the old code already
        elif self._stop_at is None and self._can_sign():
            try:
                self._learn_owners()
            except UsageError as error:
                log.error("reload: owners of files are who they were: %s", error)
            log.info("reload: importing anew")
            self._coming = self._try_to_start_template()

    def _can_sign(self) -> bool:
        """Read the key file anew, if there is one; tell whether workers can."""
        try:
            for spool in self._spools:
                if spool.dir.signer is not None:
                    spool.dir.signer.look()
        except KeyFileError as error:
            log.error("reload: the old code and the old keys go on: %s", error)
            return False
        return True

    def _look_after_templates(self) -> None:
        coming = self._coming
        if coming is not None:
            if coming.known is not None:
                self._coming = None
                self._old.append(self._forker)
                self._forker = coming
                self._use(coming)
                log.info("reload: done, tasks=%d", len(coming.names))
            elif coming.error is not None or coming.gone:
                self._coming = None
                self._drop(coming)
                why = coming.error or "the process died"
                log.error("reload: the old code goes on: %s", escape(why))
        if self._reload_again and self._coming is None:
            self._reload_again = False
            self._reload()
        self._replace_dead_template()
        for old in [each for each in self._old if each.gone or not each.workers]:
            self._old.remove(old)
            self._drop(old)

    def _replace_dead_template(self) -> None:
        now = CLOCK.monotonic()
        if (
            self._forker.gone
            and self._coming is None
            and self._stop_at is None
            and now >= self._restart_at
        ):
            log.error("the template process died: starting another")
            self._restart_at = now + RESTART_PAUSE
            self._coming = self._try_to_start_template()

    def _drop(self, forker: Forker) -> None:
        if not forker.gone:
            self._loop.remove(forker.fileno())
        forker.close()

    def _forkers(self) -> list[Forker]:
        coming = [self._coming] if self._coming is not None else []
        return [self._forker, *coming, *self._old]

    def _close(self) -> None:
        for forker in self._forkers():
            self._drop(forker)
        self._let_go()
        self._signals.ignore()

    def _let_go(self) -> None:
        self._sockets.close()
        if self._changes is not None:
            self._changes.close()
        for spool in self._spools:
            spool.watch.close()
            spool.lock.remove()
        self._loop.close()


def _belongs(known: Known, spool: SpoolDir, index: int) -> bool:
    """Tell whether a function's timers are for this spool."""
    if known.spool is None:
        return index == 0
    return os.path.realpath(known.spool) == os.path.realpath(spool.path)
