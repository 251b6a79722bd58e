"""The peers that are measured, each set up as its own documentation says."""

from pathlib import Path
from typing import Final

from ..ledger import Cells
from ..processes import Processes
from .measured import Measured
from .peer import Peer
from .servers import BEANSTALKD, BEANSTALKD_SYNCED, REDIS, REDIS_SYNCED, Server
from .setup import BIN, Command, Setup, python

APPS: Final = "benchmarks.peers.apps"


def _program(name: str) -> str:
    return str(BIN / name)


def _loop(app: str) -> Command:
    return (_program("python"), "-m", f"{APPS}.{app}")


# -- uWSGI ------------------------------------------------------------------------


def _uwsgi(*options: str) -> Command:
    return (
        *(_program("uwsgi"), "--master", "--virtualenv", str(BIN.parent)),
        *("--spooler-quiet", *options),
    )


def _uwsgi_spooler(folder: Path, processes: int) -> Command:
    """Return the options of a spooler, in the order in which tasks were put.

    Its processes are never recycled: ``spooler-max-tasks`` is 0, its default. New
    tasks wake it if they are put in its own instance; else it looks every second
    (The uWSGI Spooler, Options).
    """
    return (
        *("--spooler-processes", str(processes), "--spooler", f"{folder}/spool"),
        *("--spooler-ordered", "--spooler-frequency", "1"),
        *("--spooler-python-import", f"{APPS}.uwsgi_spooler"),
    )


def _uwsgi_run(folder: Path, given: str, *options: str) -> Command:
    """Return an instance of which a worker is a child, which speaks on descriptor 3."""
    script = Path(__file__).parent / "apps" / "uwsgi_run.py"
    return (
        *("sh", "-c", f'exec "$@" 3>&1 >>"{folder}/consumer.log" 2>&1', "sh"),
        *_uwsgi("--honour-stdin", *options),
        *("--pyrun", str(script), "--pyargv", f"uwsgi_spooler {given}"),
    )


def _uwsgi_producer(folder: Path, given: str) -> Command:
    """Return an instance that puts into the spooler of another one.

    (The uWSGI Spooler, External spoolers.) The decorators insist on a spooler of its
    own, which has nothing to do.
    """
    external = ("--spooler-external", f"{folder}/spool")
    return _uwsgi_run(folder, given, "--spooler", f"{folder}/idle", *external)


UWSGI: Final = Setup(
    package="uwsgi",
    label="uWSGI",
    producer=_uwsgi_producer,
    consumers=lambda folder, port, workers: [_uwsgi(*_uwsgi_spooler(folder, workers))],
    both=lambda folder, given: _uwsgi_run(folder, given, *_uwsgi_spooler(folder, 1)),
)

# -- Huey -------------------------------------------------------------------------


def _huey(kind: str, app: str, *, synced: bool, share: float) -> Setup:
    """Return Huey with one thread, its default, or with several processes.

    (Consuming Tasks, Options and Examples.) It polls: 0.1 s after a task, then ever
    later, up to 10 s.
    """

    def consumers(folder: Path, port: int, workers: int) -> list[Command]:
        kind = ("--worker-type", "process") if workers > 1 else ()
        program = (_program("huey_consumer"), f"{APPS}.{app}.huey", "--quiet")
        return [(*program, "--workers", str(workers), *kind)]

    return Setup(
        package="huey",
        label="Huey",
        kind=kind,
        producer=python(app),
        consumers=consumers,
        synced=synced,
        share=share,
    )


# -- dirq and Celery --------------------------------------------------------------

DIRQ: Final = Setup(
    package="dirq",
    label="dirq",
    producer=python("dirq_simple"),
    consumers=lambda folder, port, workers: workers * [_loop("dirq_simple")],
    share=0.5,
)

CELERY: Final = Setup(
    package="celery",
    label="Celery",
    kind="files",
    producer=python("celery_files"),
    consumers=lambda folder, port, workers: [
        (
            *(_program("celery"), "--app", f"{APPS}.celery_files", "worker"),
            *("--concurrency", str(workers), "--loglevel", "WARNING"),
        )
    ],
    share=0.03,
)
"""One or more processes (Workers Guide, Concurrency: prefork, the default)."""

# -- on Redis ---------------------------------------------------------------------


def _rq(folder: Path, port: int, workers: int) -> list[Command]:
    """Return a worker that forks for each job, the default, or a pool of them.

    (RQ: Workers, and Running multiple workers with a pool.)
    """
    url = ("--url", f"redis://127.0.0.1:{port}", "--quiet")
    if workers == 1:
        return [(_program("rq"), "worker", *url)]
    return [(_program("rq"), "worker-pool", "--num-workers", str(workers), *url)]


def _dramatiq(folder: Path, port: int, workers: int) -> list[Command]:
    """Return processes of eight threads each, the default (User Guide, Workers)."""
    app = f"{APPS}.dramatiq_redis"
    return [(_program("dramatiq"), app, "--processes", str(workers))]


def _saq(folder: Path, port: int, workers: int) -> list[Command]:
    """Return processes that run ten tasks each at once, the default (README, Usage)."""
    settings = f"{APPS}.saq_redis.settings"
    return [(_program("saq"), settings, "--quiet", "--workers", str(workers))]


def _on_redis(server: Server) -> list[Setup]:
    synced = server is REDIS_SYNCED
    return [
        Setup(
            package="rq",
            label="RQ",
            producer=python("rq_redis"),
            consumers=_rq,
            server=server,
            synced=synced,
            share=0.0025 if synced else 0.005,
        ),
        Setup(
            package="dramatiq",
            label="Dramatiq",
            producer=python("dramatiq_redis"),
            consumers=_dramatiq,
            server=server,
            synced=synced,
            share=0.02 if synced else 0.1,
        ),
        Setup(
            package="saq",
            label="SAQ",
            producer=python("saq_redis"),
            consumers=_saq,
            server=server,
            synced=synced,
            share=0.02 if synced else 0.1,
        ),
    ]


# -- beanstalkd -------------------------------------------------------------------


def _beanstalkd(server: Server) -> Setup:
    synced = server is BEANSTALKD_SYNCED
    return Setup(
        package="greenstalk",
        label="greenstalk",
        producer=python("beanstalk"),
        consumers=lambda folder, port, workers: workers * [_loop("beanstalk")],
        server=server,
        synced=synced,
        share=0.02 if synced else 1.0,
    )


SETUPS: Final = (
    UWSGI,
    _huey("FileHuey", "huey_file", synced=False, share=0.05),
    _huey("SqliteHuey", "huey_sqlite", synced=True, share=0.02),
    DIRQ,
    CELERY,
    *_on_redis(REDIS),
    *_on_redis(REDIS_SYNCED),
    _beanstalkd(BEANSTALKD),
    _beanstalkd(BEANSTALKD_SYNCED),
)


def all_peers(processes: Processes, cells: Cells) -> list[Peer]:
    """Return the peers, those without a server first.

    Args:
        processes: What starts them; closed after each measure.
        cells: The ledger, opened, which the environment of ``processes`` names.
    """
    return [Measured(setup, processes, cells) for setup in SETUPS]
