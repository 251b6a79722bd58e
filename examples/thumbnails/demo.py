"""The demo: previews of some photos, asked for in three ways, made by ``spoold``.

Run it with ``make demo``. All it makes is in ``.demo/``. It exits with 0 only if
everything went as it should, and says what did not otherwise.
"""

import json
import os
import shutil  # noqa: TID251 - to remove .demo
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic, time  # noqa: TID251 - no fake clock in a demo

import tasks

HERE = Path(__file__).resolve().parent
PHOTOS = HERE / "photos"
WORK = Path.cwd() / ".demo"
SPOOL = WORK / "spool"
PREVIEWS = WORK / "previews"
SHEET = WORK / "contact-sheet.jpg"
LOG = WORK / "spoold.log"
BIN = Path(sys.executable).parent
LIMIT = 180.0
"""Seconds to wait for anything."""

MARK = f"SPOOLER_DEMO={os.getpid()}"
"""Stands in the environment of the daemon and of every process that it starts."""


class DemoError(Exception):
    """Something did not go as it should."""


@dataclass
class Job:
    """A preview that was asked for."""

    photo: str
    way: str
    priority: int
    at: str | None = None
    due: float = field(default=0.0, init=False)

    @property
    def source(self) -> Path:
        """The photo."""
        return PHOTOS / self.photo

    @property
    def out(self) -> Path:
        """Where its preview is to be."""
        return PREVIEWS / f"{self.source.stem}.jpg"

    def put(self) -> None:
        """Ask for the preview; note when it is due."""
        self.due = time() + float(self.at.strip("+s") if self.at else 0)
        WAYS[self.way](self)


BROKEN = "broken.jpg"

BEFORE = [  # put while no daemon runs: then priorities alone decide the order
    Job("stream.jpg", "python", 9),
    Job("drum.jpg", "command", 8),
    Job("brushes.jpg", "shell", 7),
    Job("fig.jpg", "python", 5),
    Job(BROKEN, "command", 4),
    Job("Aitzgorri.jpg", "shell", 3),
    Job("pagoda.jpg", "python", 0, at="+2s"),
    Job("Picos de Europa.jpg", "command", 2),
    Job("cat.png", "shell", 1),
]
WHILE = [  # put while the daemon runs
    Job("coffee.webp", "python", 5),
    Job("dogs.jpg", "command", 1, at="+2s"),
    Job("dandelion.jpg", "shell", 5, at="+2s"),
    Job("sunset.jpg", "shell", 0),
]
JOBS = BEFORE + WHILE


# Three ways to put a task.


def put_from_python(job: Job) -> None:
    """Put as a Python program does: call the function's ``.spool()``."""
    options = {"at": job.at} if job.at else {}
    tasks.preview.spool(
        photo=job.source,
        out=job.out,
        priority=job.priority,
        spooler=str(SPOOL),
        **options,
    )


def put_from_command(job: Job) -> None:
    """Put with the command ``spool put``."""
    at = ["--at", job.at] if job.at else []
    task = ["preview", f"photo={job.source}", f"out={job.out}"]
    spool("put", *task, "--priority", str(job.priority), *at)


def put_from_shell(job: Job) -> None:
    """Put with a shell script that writes a file and renames it."""
    script = str(HERE / "put_from_shell.sh")
    at = [job.at] if job.at else []
    run(script, str(SPOOL), str(job.source), str(job.out), str(job.priority), *at)


WAYS: dict[str, Callable[[Job], None]] = {
    "python": put_from_python,
    "command": put_from_command,
    "shell": put_from_shell,
}


# The commands.


def run(*command: str) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=LIMIT
    )
    if done.returncode:
        what = f"exit status {done.returncode} of {' '.join(command)}"
        raise DemoError(f"{what}\n{done.stdout}{done.stderr}")
    return done.stdout


def spool(*arguments: str) -> str:
    """Run ``spool`` on the demo's spool."""
    return run(str(BIN / "spool"), *arguments, "--dir", str(SPOOL))


def environment() -> dict[str, str]:
    """Return the environment of all commands, in which ``tasks`` can be imported."""
    name, _, value = MARK.partition("=")
    return os.environ | {"PYTHONPATH": str(HERE), name: value}


def counts() -> dict[str, int]:
    """Return how many tasks are in which state."""
    status = json.loads(run(str(BIN / "spool"), "--dir", str(SPOOL), "--json"))
    return {state: status[state] for state in ("waiting", "later", "running", "failed")}


@contextmanager
def daemon() -> Iterator[subprocess.Popen[bytes]]:
    """Run ``spoold``; whatever happens, leave no process behind."""
    command = [BIN / "spoold", "--dir", SPOOL, "--import", "tasks", "--workers", "2"]
    with LOG.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(), start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pid in left_over():
            os.kill(pid, signal.SIGKILL)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the daemon to finish, and see that it does and leaves no process."""
    process.send_signal(signal.SIGTERM)
    status = process.wait(LIMIT)
    if status:
        raise DemoError(f"spoold ended with status {status}")
    wait_until(lambda: not left_over(), "all processes of spoold have ended")


def left_over() -> list[int]:
    """Return the processes that the daemon started, whatever group they are in."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            environ = file.read_bytes()
        except OSError:  # ended meanwhile, or not ours
            continue
        if MARK.encode() in environ.split(b"\0"):
            found.append(int(file.parent.name))
    return found


# What became of a task: a preview, or a file in failed/.


def failed_file(job: Job) -> Path | None:
    """Return the file of the job's task in ``failed/``: its bytes are as they were."""
    for file in (SPOOL / "failed").glob("[!.]*"):  # a hidden one is being written
        if file.suffix != ".why" and job.photo.encode() in file.read_bytes():
            return file
    return None


def ended(job: Job) -> float | None:
    """Return when the job was done or given up, in seconds since the epoch."""
    if job.out.exists():
        return job.out.stat().st_mtime
    if file := failed_file(job):
        return file.with_name(f"{file.name}.why").stat().st_mtime
    return None


def all_settled() -> bool:
    """Tell whether nothing waits and nothing runs."""
    if any(ended(job) is None for job in JOBS):
        return False
    now = counts()
    return not (now["waiting"] or now["later"] or now["running"])


def wait_until(
    fact: Callable[[], bool],
    what: str,
    process: subprocess.Popen[bytes] | None = None,
) -> None:
    """Wait for a fact while the process lives, at most ``LIMIT`` seconds."""
    deadline = monotonic() + LIMIT
    while not fact():
        if process and process.poll() is not None:
            raise DemoError(f"spoold ended with status {process.returncode}")
        if monotonic() > deadline:
            raise DemoError(f"not after {LIMIT:.0f} s: {what}")
        Event().wait(0.05)


def check() -> None:
    """See that the right task failed and no other."""
    failed = [job.photo for job in JOBS if not job.out.exists()]
    if failed != [BROKEN] or counts()["failed"] != 1:
        raise DemoError(f"failed: {failed}, but only {BROKEN} should have")
    for job in JOBS:
        if job.at and job.out.stat().st_mtime < job.due:
            raise DemoError(f"{job.photo} was done before it was due")


# What is shown.


def print_table() -> None:
    """Print what was done, in the order in which it was done."""
    row = "{:<20} {:<7} {:>8}  {:<3} {:<6} {:>7} {:>7} {:>6}"
    head = ["photo", "from", "priority", "at", "state", "seconds", "in", "out"]
    print(row.format(*head))
    for job in sorted(JOBS, key=lambda job: ended(job) or 0.0):
        done = job.out.exists()
        print(
            row.format(
                job.photo,
                job.way,
                job.priority,
                job.at or "",
                "done" if done else "failed",
                f"{(ended(job) or 0.0) - job.due:.2f}",
                job.source.stat().st_size,
                job.out.stat().st_size if done else "",
            )
        )


def play() -> None:
    """Play the demo from the beginning to the end."""
    if WORK.exists():
        shutil.rmtree(WORK)
    PREVIEWS.mkdir(parents=True)
    run(str(BIN / "spool"), "init", str(SPOOL))
    for job in BEFORE:
        job.put()
    print(f"{len(BEFORE)} tasks put, no daemon yet; now start spoold with 2 workers")

    with daemon() as process:
        for job in WHILE:
            job.put()
        print(f"{len(WHILE)} more put while it runs; wait for all of them\n")
        wait_until(all_settled, "all tasks done or failed", process)
        check()
        tasks.contact_sheet.spool(previews=PREVIEWS, out=SHEET, spooler=str(SPOOL))
        wait_until(SHEET.exists, f"{SHEET} is there", process)
        stop(process)

    print("In the order in which they were done (seconds from due to done, bytes):\n")
    print_table()
    print("\nGiven up (spool ls failed):\n")
    print(spool("ls", "failed"))
    print(f"The contact sheet: {SHEET.relative_to(Path.cwd())}")
    print("The daemon has ended and left no process.")


def main() -> int:
    """Play the demo; return the exit status."""
    try:
        play()
    except (
        DemoError,
        OSError,
        subprocess.SubprocessError,
        LookupError,
        ValueError,
    ) as error:
        print(f"\ndemo: {error!r}" if not str(error) else f"\ndemo: {error}")
        if LOG.exists():
            print(f"\nThe end of {LOG}:\n")
            print("\n".join(LOG.read_text(errors="replace").splitlines()[-30:]))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
