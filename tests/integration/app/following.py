"""Tasks that follow others, hooks, and tasks that leak; seen in ``$OUT``."""

import os
from pathlib import Path
from threading import Event

from spooler import (
    CurrentTask,
    Fail,
    after_task,
    before_task,
    current_task,
    on_task_failure,
    on_worker_start,
    on_worker_stop,
    spool,
    spoolraw,
)

OUT = Path(os.environ["OUT"])
HOOKS = os.environ.get("HOOKS", "")
LEAK: list[bytearray] = []


def write(text: str, name: str) -> None:
    """Add a line in one system call, so that no two processes mix theirs."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    fd = os.open(OUT / name, flags, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


@spool
def last(number: int = 0) -> None:
    task = current_task()
    write(f"{task.id} {task.parent} {task.attempt} {number}", "last")


@spool(then=last.call(7))
def decorated() -> None:
    write(current_task().id, "parents")


@spool(retries=0, on_failure=["last", last.call(8)])
def fails() -> None:
    write(current_task().id, "parents")
    raise Fail("as asked")


@spool(max_attempts=1, on_failure=last)
def dies() -> None:
    write(current_task().id, "parents")
    os.kill(os.getpid(), 9)


@spool(retries=0, on_failure=last)
def hangs() -> None:
    write(current_task().id, "parents")
    while True:
        Event().wait(60)


@spool
def ends(seconds: float = 0.0) -> None:
    Event().wait(seconds)
    write(current_task().id, "parents")


@spool(max_attempts=2, backoff=0.05, jitter=0.0)
def second_time() -> None:
    if current_task().attempt == 1:
        raise ValueError("not yet")
    write(current_task().id, "parents")


@spoolraw
def ignores() -> int:
    write(current_task().id, "parents")
    return 0


@spool
async def waits_for_nothing() -> None:
    write(current_task().id, "parents")


@spool
def leaks(megabytes: int) -> None:
    LEAK.append(bytearray(os.urandom(1 << 20) * megabytes))
    write(str(os.getpid()), "pids")


@spool
def pid() -> None:
    write(str(os.getpid()), "pids")


if "life" in HOOKS:

    @on_worker_start
    def started() -> None:
        write(f"start {os.getpid()}", "hooks")

    @on_worker_stop
    def stopped() -> None:
        write(f"stop {os.getpid()}", "hooks")


if "runs" in HOOKS:

    @before_task
    def before(task: CurrentTask) -> None:
        assert current_task() is task
        write(f"before {task.name} {task.attempt}", "hooks")

    @after_task
    def after(task: CurrentTask) -> None:
        assert current_task() is task
        write(f"after {task.name} {task.attempt}", "hooks")

    @on_task_failure
    def failed(task: CurrentTask, error: str) -> None:
        write(f"failure {task.name} {task.attempt} {error}", "hooks")


if "broken" in HOOKS:

    @on_worker_start
    @on_worker_stop
    def broken() -> None:
        raise SystemExit("broken")

    @before_task
    @after_task
    def broken_too(task: CurrentTask) -> None:
        raise ValueError("broken too")
