"""Locks for applications."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.helpers import wait_until

from spooler.spooldir import SpoolDir
from spooler.spooldir.limits import sweep_limits
from spooler.spooldir.user_locks import UserLock

HOLD = """
import sys
from spooler.spooldir import SpoolDir
from spooler.spooldir.user_locks import UserLock
lock = UserLock(SpoolDir(sys.argv[1]), sys.argv[2])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
lock.release()
print("let go", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(spool: SpoolDir) -> UserLock:
    return UserLock(spool, "a")


def hold(spool: SpoolDir, name: str = "a") -> "subprocess.Popen[str]":
    """Have another process hold a lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, spool.path, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def is_waited_for(file: Path) -> bool:
    """Tell whether somebody waits for a lock of a file."""
    inode = f":{file.stat().st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and inode in line for line in lines)


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def test_a_lock_is_held_until_it_is_let_go(lock: UserLock) -> None:
    assert not lock.is_held()
    lock.acquire()
    assert lock.is_held()
    lock.release()
    assert not lock.is_held()
    lock.release()  # which does nothing


def test_another_process_has_it_until_it_dies(spool: SpoolDir, lock: UserLock) -> None:
    process = hold(spool)
    try:
        assert lock.is_held()
        got = threading.Event()

        def take() -> None:
            lock.acquire()
            got.set()

        thread = threading.Thread(target=take)
        thread.start()
        assert lock.is_held()
        end(process)
        thread.join(20)
        assert got.is_set()
    finally:
        end(process)
        lock.release()


def test_threads_of_a_process_wait_for_each_other(lock: UserLock) -> None:
    lock.acquire()
    order: list[str] = []

    def take() -> None:
        lock.acquire()
        order.append("second")
        lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    order.append("first")
    lock.release()
    thread.join(20)
    assert order == ["first", "second"]
    assert not lock.is_held()


def test_a_child_has_nothing_of_its_parents(lock: UserLock) -> None:
    lock.acquire()
    child = os.fork()
    if child == 0:
        held = lock.is_held()
        lock.release()  # not the child's to let go of
        os._exit(0 if held and lock.is_held() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lock.is_held()
    lock.release()


def test_a_child_of_who_holds_nothing_begins_anew(lock: UserLock) -> None:
    child = os.fork()
    if child == 0:
        lock.acquire()
        os._exit(0 if lock.is_held() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not lock.is_held()


def test_a_file_that_is_removed_meanwhile_is_made_again(
    spool: SpoolDir, lock: UserLock
) -> None:
    process = hold(spool)
    file = Path(spool.path, "limits", "a")
    try:
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        wait_until(lambda: is_waited_for(file))
        file.unlink()
        end(process)
        thread.join(20)
        assert file.exists()
        assert lock.is_held()
    finally:
        end(process)
        lock.release()


def test_who_meets_a_file_that_was_removed_has_no_lock(
    lock: UserLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    assert not lock.is_held()
    monkeypatch.undo()
    lock.acquire()
    lock.release()


def test_a_lock_that_is_held_is_not_swept(spool: SpoolDir) -> None:
    file = Path(spool.path, "limits", "a")
    process = hold(spool)
    old = UserLock(spool, "old")
    old.acquire()
    old.release()
    try:
        for each in (file, file.with_name("old")):
            os.utime(each, (1, 1))
        later = type("Later", (), {"now_us": lambda self: 2**60})()
        assert sweep_limits(spool, later) == 1
        assert file.exists()
    finally:
        end(process)


def test_errors_of_the_file_system_are_told(spool: SpoolDir, lock: UserLock) -> None:
    folder = Path(spool.path, "limits")
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        lock.acquire()
    with pytest.raises(FileNotFoundError):
        lock.is_held()
    folder.mkdir()
    (folder / "a").symlink_to("b")
    with pytest.raises(OSError, match="symbolic links") as raised:
        lock.acquire()
    assert raised.value.errno == errno.ELOOP
    (folder / "a").unlink()
    lock.acquire()
    lock.release()
