"""Who may do what with the files of a spool; spools that others could use."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Box, wait_until

STRANGER = 65_432

APP = """\
import os, time
from pathlib import Path
from spooler import progress, spool, timer

def wait():
    while not (Path(os.environ["OUT"]) / "gate").exists():
        time.sleep(0.01)

@spool(keep_result=600, keep_log=True, concurrency=5, rate="100/s")
def all_kinds(text: str) -> str:
    print("printed")
    progress(1, 2, "half")
    wait()
    return text

@spool(keep_log=True)
async def alone(text: str) -> None:
    print("printed")

@spool(max_attempts=2, backoff=3600)
def fails(text: str) -> None:
    print("printed")
    raise RuntimeError(text)

@spool(max_attempts=1)
def fails_at_once(text: str) -> None:
    raise RuntimeError(text)

@timer(3600)
def hourly() -> None:
    pass
"""

PUTS = """\
import sys
sys.path.insert(0, sys.argv[1])
from mine import all_kinds, alone, fails, fails_at_once
all_kinds.spool(text="safe")
all_kinds.using(durability="fast").spool(text="fast")
all_kinds.using(key="k").spool(text="key")
all_kinds.map([{"text": str(n)} for n in range(100)])
all_kinds.using(at="+1h", priority=4711).spool(text="later")
alone.spool(text="x")
fails.spool(text="x")
fails_at_once.spool(text="x")
"""


KINDS = {"drwx------", "-rw-------"}
"""What everything in a spool is."""


def modes(spool: Path) -> dict[str, str]:
    """Return what everything in a spool is and who may use it, by path."""
    found = {".": stat.filemode(spool.stat().st_mode)}
    for folder, folders, files in os.walk(spool):
        for name in (*folders, *files):
            path = Path(folder, name)
            try:
                mode = stat.filemode(path.lstat().st_mode)
            except FileNotFoundError:
                continue  # it was moved just now
            found[str(path.relative_to(spool))] = mode
    return found


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_all_is_the_owners_alone_whatever_the_umask(box: Box, umask: int) -> None:
    box.module(APP)
    box.spool = box.spool.parent / "new/above/spool"
    bin_ = Path(sys.executable).parent

    def run(*command: str | Path) -> None:
        env = box.environ({"SPOOL_DIR": str(box.spool)})
        subprocess.run(command, check=True, env=env, umask=umask, cwd=box.app)

    run(bin_ / "spool", "init", "--max-waiting", "100000", box.spool)
    for parent in list(box.spool.parents)[:2]:
        assert not parent.stat().st_mode & 0o022, parent
    run(sys.executable, "-c", PUTS, box.app)
    seen = modes(box.spool)
    options = ("--threads", "4", "--workers", "2", "--max-waiting", "100000")
    box.start(*options, imports="mine", umask=umask)

    def is_all_there() -> bool:
        seen.update(modes(box.spool))
        kinds = {path.split("/")[0] for path in seen if "/" in path}
        return kinds >= {"limits", "logs", "keys", "batches", "failed", "workers"}

    wait_until(is_all_there)
    later = ("put", "all_kinds", "text=held", "--at", "+1h")
    run(bin_ / "spool", "pause", "--task", "nothing")
    run(bin_ / "spool", *later, "--id", "1" * 16)
    run(bin_ / "spool", "hold", "1" * 16)
    run(bin_ / "spool", *later, "--id", "2" * 16)
    env = {"VISUAL": "sed -i s/held/edited/"}
    subprocess.run(
        [bin_ / "spool", "edit", "2" * 16],
        check=True,
        env=box.environ({"SPOOL_DIR": str(box.spool), **env}),
        umask=umask,
    )
    seen.update(modes(box.spool))
    box.open()

    def is_over() -> bool:
        seen.update(modes(box.spool))
        return not box.running()

    wait_until(is_over)
    seen.update(modes(box.spool))
    kinds = {path.split("/")[0] for path in seen if "/" in path}
    assert kinds >= {"done", "held", "paused", "timers", "running", "5", "4711"}
    wrong = {path: mode for path, mode in seen.items() if mode not in KINDS}
    assert not wrong


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_spool_that_root_makes_in_anothers_directory_is_the_others(box: Box) -> None:
    path = box.spool.parent / "theirs"
    path.mkdir(0o700)
    os.chown(path, STRANGER, STRANGER)
    command = Path(sys.executable).parent / "spool"
    subprocess.run([command, "init", path], check=True, env=box.environ())
    for each in (path, *path.iterdir()):
        assert (each.stat().st_uid, each.stat().st_gid) == (STRANGER, STRANGER), each


def test_a_spool_that_everybody_may_write_is_refused(box: Box) -> None:
    box.spool.chmod(0o777)
    line = box.refused(box.command(), 78)
    assert line == (
        f"spoold: {box.spool}: everybody may write there (mode 0777):"
        f" chmod o-w {box.spool}. Or use --insecure"
    )
    assert box.is_left_clean()


def test_with_insecure_it_is_served_with_a_warning(box: Box) -> None:
    box.spool.chmod(0o777)
    (box.spool / "5").chmod(0o777)
    box.put("note", text="x")
    daemon = box.burst("--insecure")
    box.wait_lines("x")
    text = f"insecure {box.spool}: everybody may write there (mode 0777)"
    assert daemon.text().count(text) == 1
    assert daemon.says(f"insecure {box.spool}/5: everybody may write there")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_spool_of_a_third_user_is_refused(box: Box) -> None:
    os.chown(box.spool / "5", STRANGER, 0)
    line = box.refused(box.command(), 78)
    assert f"{box.spool}/5: belongs to uid {STRANGER}, who is neither root nor" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_root_is_warned_of_a_spool_of_another_user(box: Box) -> None:
    for path in (box.spool, *box.spool.iterdir()):
        os.chown(path, STRANGER, STRANGER)
    box.put("note", text="x")
    daemon = box.burst("--allow-uid", str(STRANGER))
    box.wait_lines("x")
    assert daemon.says(f"insecure {box.spool}: belongs to uid {STRANGER}, whose tasks")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_root_does_not_serve_a_spool_of_another_user_unasked(box: Box) -> None:
    os.chown(box.spool, STRANGER, STRANGER)
    daemon = box.launch(box.command())
    assert daemon.wait() == 78
    assert daemon.says(f"{box.spool}: belongs to uid {STRANGER}: run spoold as that")
    assert "Traceback" not in daemon.text()
