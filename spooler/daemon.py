"""The loop of ``spoold``: recover, supervise, schedule, wait.

It imports no user code. One thread, one selector; each spool has its backlog, its
supervisor and its scheduler, and all share the template process.
"""

import errno
import logging
import os
import platform
import signal
import socket
from dataclasses import dataclass
from typing import Final

from ._version import __version__
from .backlog import Backlog
from .clock import CLOCK
from .config import Settings
from .errors import EXIT_DONE, EXIT_FAILED, NotASpoolError, UsageError
from .forker import Forker, template_start
from .logs import escape
from .reload import CodeWatch
from .scheduler import Scheduler
from .spooldir import SpoolDir
from .spooldir.dropped import Dropped
from .spooldir.recovery import ProcessLock, process_name, sweep
from .spooldir.results import Sweeper
from .status import count
from .supervisor import Supervisor, SupervisorSettings, accepted_owners
from .task import iso
from .template import Known
from .wakeup import Loop, Signals, Watch, file_system

LOOK_FOR_DEAD: Final = 1.0
"""Seconds between two looks for processes of other daemons that have died."""

LOOK_FOR_KILLS: Final = 1.0
"""Seconds between two looks for tasks that somebody wants killed."""

SWEEP_EVERY: Final = 600.0
"""Seconds between two sweeps of left-overs."""

BLIND_SCAN: Final = 1.0
"""Seconds between two scans where there is no inotify."""

FULL_AGAIN: Final = 1.0
"""Seconds to wait after an error of the file system."""

RESTART_PAUSE: Final = 1.0
"""Seconds between two starts of a template process that dies."""

SAME_SIGNAL: Final = 0.2
"""Seconds in which a second TERM is the first one once more: timeout(1) and some
service managers signal a process and then its whole group."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Spool:
    """One spool and what serves it."""

    dir: SpoolDir
    lock: ProcessLock
    watch: Watch
    backlog: Backlog
    supervisor: Supervisor
    scheduler: Scheduler
    results: Sweeper
    scan_at: float = 0.0
    look_at: float = 0.0
    kill_at: float = 0.0
    sweep_at: float = 0.0
    pause_until: float = 0.0
    scanned_at: float = 0.0
    busy_at: float = 0.0


class Daemon:
    """``spoold``.

    Args:
        settings: What it is to do.

    Raises:
        NotASpoolError: One of the directories is not a spool.
        OSError: One of them cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = Loop()
        self._signals = Signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        self._loop.add(self._signals.fileno(), self._on_signals)
        self._spools: list[_Spool] = []
        self._changes: CodeWatch | None = None
        if settings.reload:
            self._changes = CodeWatch(self._loop.add, Watch(os.sep))
        try:
            for path in settings.dirs:
                self._spools.append(self._open(SpoolDir(path)))
            self._forker = self._fork_template()
        except BaseException:
            self._let_go()
            raise
        self._coming: Forker | None = None
        self._old: list[Forker] = []
        self._reload_again = False
        self._restart_at = 0.0
        self._stop_at: float | None = None
        self._drained_at = 0.0
        self._code = EXIT_DONE
        self._started = iso(CLOCK.now_us())
        self._killed = False

    def _open(self, spool: SpoolDir) -> _Spool:
        settings = self._settings
        name = process_name("daemon")
        lock = ProcessLock(spool, name)
        try:
            spool.open()
            if not lock.acquire(timeout=5.0):
                raise UsageError(f"{spool.path}: cannot take the lock of {name}")
        except OSError as error:
            raise UsageError(f"{spool.path}: {_explain(spool, error)}") from None
        owners = accepted_owners(settings.allow_uids)
        watch = Watch(spool.path)
        backlog = Backlog(spool, watch, Dropped(spool, owners))
        supervisor = Supervisor(
            spool,
            backlog,
            SupervisorSettings(
                workers=settings.workers,
                owners=owners,
                retry=settings.retry,
                max_tasks=settings.max_tasks,
                max_rss=settings.max_rss,
                soft_timeout=settings.soft_timeout,
                keep_log=settings.keep_log,
                threads=settings.threads,
                async_concurrency=settings.async_concurrency,
                async_backend=settings.async_backend,
                hard_timeout=settings.hard_timeout,
            ),
            name,
            self._loop.add,
            self._loop.remove,
        )
        fd = watch.fileno()
        if fd is not None:
            self._loop.add(fd, watch.read)
        results = Sweeper(spool, keep=settings.keep_results, every=SWEEP_EVERY)
        return _Spool(
            spool, lock, watch, backlog, supervisor, Scheduler(spool), results
        )

    def _fork_template(self) -> Forker:
        settings = self._settings
        start = template_start(
            list(settings.imports),
            settings.log_level,
            log_json=settings.log_json,
            reload=settings.reload,
        )
        forker = Forker(start)
        self._loop.add(forker.fileno(), lambda: self._listen(forker))
        return forker

    def _try_to_fork_template(self) -> Forker | None:
        try:
            return self._fork_template()
        except OSError as error:  # too many processes, or open files
            log.error("reload: the old code goes on: %s", error)
            return None

    def _listen(self, forker: Forker) -> None:
        forker.read()
        if forker.gone:  # its end would be readable for ever
            self._loop.remove(forker.fileno())

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
                    self._try_to_serve(spool)
                self._say_what_is_there()
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
                "tasks": sorted(each.name for each in known),
            }
            try:
                spool.lock.describe(facts)
            except OSError as error:  # a full disk must not stop a reload
                path = escape(spool.dir.path)
                log.warning("cannot say in %s who serves it: %s", path, error)

    def _say_what_is_known(self) -> None:
        names = sorted(known.name for known in self._forker.known or ())
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
            self._try_to_serve(spool)
            wait = min(wait, self._idle_for(spool))
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

    def _try_to_serve(self, spool: _Spool) -> None:
        try:
            self._serve(spool)
        except NotASpoolError as error:
            log.error("drain: %s", escape(str(error)))
            self._code = EXIT_FAILED
            self._stop()
        except OSError as error:
            log.error("spool=%s: %s", spool.dir.path, error)
            spool.pause_until = CLOCK.monotonic() + FULL_AGAIN

    def _serve(self, spool: _Spool) -> None:
        now = CLOCK.monotonic()
        if now < spool.pause_until:
            return
        spool.supervisor.recover_dead()
        if now >= spool.kill_at:
            spool.kill_at = now + LOOK_FOR_KILLS
            look = spool.supervisor.look_for_kills
            spool.watch.add("kill", lambda file, whole: look(), look)
            look()
        spool.supervisor.enforce()
        if self._stop_at is not None:
            return
        if now >= spool.look_at:
            spool.look_at = now + LOOK_FOR_DEAD
            if not spool.dir.is_in_place():
                raise NotASpoolError(spool.dir.path, "was removed or replaced")
            spool.supervisor.recover_strangers()
            spool.supervisor.trim_logs()
        if now >= spool.sweep_at:
            spool.sweep_at = now + SWEEP_EVERY
            sweep(spool.dir, keep_logs_for=self._settings.keep_logs_for)
        spool.results.work()
        if spool.backlog.stale or now >= spool.scan_at:
            frequency = self._settings.frequency
            if spool.backlog.is_blind:
                frequency = min(frequency, BLIND_SCAN)
            spool.scan_at = now + frequency
            spool.backlog.scan()
            spool.scanned_at = CLOCK.monotonic()
        spool.scheduler.put_due()
        spool.backlog.adopt_some()
        spool.supervisor.spawn(self._forker)
        spool.supervisor.feed()

    def _idle_for(self, spool: _Spool) -> float:
        """Return for how many seconds the spool needs no attention."""
        now = CLOCK.monotonic()
        if now < spool.pause_until:
            return spool.pause_until - now
        waits = [spool.supervisor.next_moment(), spool.kill_at - now]
        if self._stop_at is None:
            if spool.backlog.stale:
                return 0.0
            waits += [spool.scan_at - now, spool.look_at - now, spool.sweep_at - now]
            waits += [spool.results.due - now, spool.backlog.next_look]
            # With all workers busy nobody looks, so it may have passed long ago.
            due_us = spool.backlog.next_due_us if spool.supervisor.takes_more else None
            for moment_us in (due_us, spool.scheduler.next_us):
                if moment_us is not None:
                    waits.append((moment_us - CLOCK.now_us()) / 1e6)
        return max(0.0, min((wait for wait in waits if wait is not None), default=60.0))

    def _is_over(self) -> bool:
        if self._stop_at is not None:
            return all(spool.supervisor.empty for spool in self._spools)
        if self._settings.burst and all(self._is_done(s) for s in self._spools):
            # What the last run has put may be told of only now.
            self._loop.wait(0.0)
            if all(self._is_done(s) for s in self._spools):
                self._stop()
        return False

    def _is_done(self, spool: _Spool) -> bool:
        backlog = spool.backlog
        is_waiting = backlog.has_due or backlog.next_look is not None
        if spool.supervisor.busy or is_waiting:
            spool.busy_at = CLOCK.monotonic()
            return False
        if backlog.is_blind and spool.scanned_at <= spool.busy_at:
            backlog.stale = True  # nobody told what the last task has put
        return spool.scanned_at > 0 and not backlog.stale

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
        if not self._killed and CLOCK.monotonic() >= (self._stop_at or 0.0):
            self._killed = True
            self._stop_at = CLOCK.monotonic() + 3600.0
            for spool in self._spools:
                spool.supervisor.kill()

    def _reload(self) -> None:
        if self._coming is not None:
            self._reload_again = True  # it may have imported the old code already
        elif self._stop_at is None:
            log.info("reload: importing anew")
            self._coming = self._try_to_fork_template()

    def _look_after_templates(self) -> None:
        coming = self._coming
        if coming is not None:
            if coming.known is not None:
                self._coming = None
                self._old.append(self._forker)
                self._forker = coming
                self._use(coming)
                log.info("reload: done, tasks=%d", len(coming.known))
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
            self._coming = self._try_to_fork_template()

    def _drop(self, forker: Forker) -> None:
        if not forker.gone:
            self._loop.remove(forker.fileno())
        forker.close()

    def _close(self) -> None:
        coming = [self._coming] if self._coming is not None else []
        for forker in (self._forker, *coming, *self._old):
            self._drop(forker)
        self._let_go()
        self._signals.ignore()

    def _let_go(self) -> None:
        if self._changes is not None:
            self._changes.close()
        for spool in self._spools:
            spool.watch.close()
            spool.lock.remove()
        self._loop.close()


def _explain(spool: SpoolDir, error: OSError) -> str:
    """Say why a spool cannot be served, and what would help."""
    match error.errno:
        case errno.ENOSYS | errno.ENOLCK | errno.EOPNOTSUPP:
            kind = file_system(spool.path)
            return f"its file system ({kind}) has no locks, which spoold needs (flock)"
        case errno.EROFS:
            return "its file system is read-only: remount it, or name another spool"
        case errno.EACCES | errno.EPERM:
            return f"user {os.geteuid()} has no permission: run spoold as its owner"
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror}{where}"


def _belongs(known: Known, spool: SpoolDir, index: int) -> bool:
    """Tell whether a function's timers are for this spool."""
    if known.spool is None:
        return index == 0
    return os.path.realpath(known.spool) == os.path.realpath(spool.path)
