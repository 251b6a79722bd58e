"""An application finds around it what its configuration says, as under a real uWSGI."""

import json
import os
import signal
import subprocess
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from spooler.packet import encode_packet
from spooler.spooldir import SpoolDir

from ..helpers import FACTOR
from ..integration.conftest import SPOOLD, Spoold, wait_until
from ..users import some_users
from .conftest import TIMEOUT, UWSGI, wait_until_it_obeys, whole_lines
from .test_ini import uwsgi, write

__all__ = ["uwsgi"]

pytestmark = pytest.mark.timeout(TIMEOUT)

TOLD = """\
import json, os, sys

def tell(name, **more):
    path = os.path.join(os.environ["OUT"], name)
    new = f"{path}.{os.getpid()}.new"  # several processes tell the same
    with open(new, "w") as file:
        json.dump({
            "module": name,
            "cwd": os.getcwd(),
            "argv": sys.argv,
            "umask": os.umask(0o027),
            "environ": {k: v for k, v in os.environ.items() if k.startswith("H5")},
            **more,
        }, file)
    os.rename(new, path)
"""
MODULE = """\
import sys
from told import tell
tell(__name__)
"""
TASKS = """\
import os, sys
import uwsgi
from told import tell
import inlib, inother

def run(env):
    last = next(i for i, p in enumerate(sys.path) if p.endswith(".zip"))
    spoolers = dict.fromkeys(uwsgi.spoolers)  # uWSGI names it once for each process
    tell("task", opt={k: repr(v) for k, v in uwsgi.opt.items()}, path=sys.path[:last],
         lib=inlib.NAME, other=inother.NAME, spoolers=[repr(p) for p in spoolers])
    return uwsgi.SPOOL_OK

uwsgi.spooler = run
"""
INI = """\
[uwsgi]
base = app
chdir = %d%(base)
; relative to where uWSGI is started
spooler = spool
spooler = ./spool/../spool
spooler-external = outside
spooler-chdir = %d%(base)/work
spooler-processes = 1
; relative to chdir
pythonpath = lib
pp = %dother*
import = tasks.py
shared-import = shared
pyimport = sub/by_path.py
spooler-import = late
wsgi-file = web.wsgi
mount = /more=mounted.py
callable = app
pyargv = one --two
umask = 027
env = H5_A=1
env = H5_B=%(base)
env = H5_GONE=2
unenv = H5_GONE
env = H5_C=$(HOME)
processes = 1
master = true
single-interpreter = true
[unused]
chdir = /none
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    app = "conf/app"
    write(
        tmp_path,
        {
            "conf/app.ini": INI,
            "told.py": TOLD,
            f"{app}/tasks.py": TASKS,
            f"{app}/shared.py": MODULE,
            f"{app}/sub/by_path.py": MODULE,
            f"{app}/late.py": MODULE,
            f"{app}/web.wsgi": MODULE + "\ndef app(e, s): pass\n",
            f"{app}/mounted.py": MODULE + "\ndef app(e, s): pass\n",
            f"{app}/lib/inlib.py": "NAME = 'lib'\n",
            f"{app}/inlib.py": "NAME = 'not this one'\n",
            "conf/other1/inother.py": "NAME = 'other1'\n",
            "conf/other2/inother.py": "NAME = 'other2'\n",
            f"{app}/work/here": "",
            f"{app}/told.py": TOLD,
        },
    )
    (tmp_path / "outside").mkdir()
    return tmp_path


NUMBERS = count()


def put(spool: Path, owner: int = -1) -> None:
    """Put a task as uWSGI does."""
    (spool / "new.tmp").write_bytes(encode_packet({b"name": b"value"}))
    os.chown(spool / "new.tmp", owner, -1)
    name = f"uwsgi_spoolfile_on_here_1_1_1_1_{next(NUMBERS)}"
    (spool / "new.tmp").rename(spool / name)


@contextmanager
def served(
    command: Sequence[str | Path], cwd: Path, out: Path, **environ: str
) -> Iterator[Spoold]:
    out.mkdir(exist_ok=True)
    keep = {k: v for k, v in os.environ.items() if not k.startswith("SPOOL")}
    daemon = Spoold(
        [str(word) for word in command],
        cwd,
        out.with_name(f"{out.name}.log"),
        env={**keep, "OUT": str(out), **environ},
    )
    try:
        yield daemon
    finally:
        if UWSGI in command:
            wait_until_it_obeys(daemon)
        if daemon.process.poll() is None:
            daemon.send(signal.SIGINT)
        try:
            daemon.wait()
        except subprocess.TimeoutExpired:
            daemon.process.kill()
            raise


def command_of(kind: str, uwsgi: Path) -> list[str | Path]:
    """Return how a server is started that reads a configuration, but for its name."""
    return [uwsgi, "--ini"] if kind == "uwsgi" else [SPOOLD, "--uwsgi-ini"]


def told(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / name).read_text())
    return found


def tellers(out: Path) -> list[str]:
    """Return who has told; one that is killed while it tells leaves a part."""
    return sorted(path.name for path in out.iterdir() if path.suffix != ".new")


def test_modules_and_tasks_find_what_they_find_in_uwsgi(
    uwsgi: Path, home: Path
) -> None:
    results = {}
    for kind in ("uwsgi", "spoold"):
        spool = home / "spool"
        spool.mkdir()
        out = home / f"out-{kind}"
        put(spool)
        command = command_of(kind, uwsgi)
        with served([*command, "conf/app.ini"], home, out) as daemon:
            wait_until((out / "task").exists)
            wait_until((out / "late").exists)
            text = daemon.text()
        modules = {name: told(out, name) for name in tellers(out)}
        results[kind] = modules, text
        spool.rename(home / f"spool-{kind}")
    (theirs, _), (ours, log) = results["uwsgi"], results["spoold"]
    assert sorted(ours) == sorted(theirs)
    for name, module in theirs.items():
        mine = ours[name]
        path, my_path = module.pop("path", []), mine.pop("path", [])
        assert mine == module, name
        base = home / "conf/app"
        first = [os.path.realpath(base / p) for p in path[:-1]]  # the last is empty
        assert [os.path.realpath(p) for p in my_path][: len(first)] == first
    assert ": ignored: processes, master, single-interpreter\n" in log


KINDS = ("uwsgi", "spoold")

SMALL = """\
import json, os, pwd
import uwsgi

VERSION = 1

def run(env):
    with open(os.path.join(os.environ["OUT"], "out"), "a") as file:
        text = env.get(b"text", b"").decode()
        uid, gid, groups = os.getuid(), os.getgid(), sorted(os.getgroups())
        print(VERSION, text, uid, gid, groups, file=file)
    return uwsgi.SPOOL_OK

uwsgi.spooler = run
"""


SERVES = {"uwsgi": "spawned the uWSGI spooler on dir", "spoold": "serve spool="}
"""What each logs when its spool is there, whole."""


def lines(out: Path) -> list[str]:
    return whole_lines(out / "out")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("option", "code"),
    [
        ("touch-spoolers-reload", "spooler-import = small"),
        ("touch-reload", "import = small.py"),
    ],
)
def test_the_code_is_imported_anew_when_a_file_is_touched(
    option: str, code: str, kind: str, uwsgi: Path, tmp_path: Path
) -> None:
    write(
        tmp_path,
        {
            "app.ini": "[uwsgi]\nspooler = spool\nspooler-frequency = 1\n"
            f"{code}\n{option} = %d.touched\nmaster = true\n",
            "small.py": SMALL,
        },
    )
    out = tmp_path / "out"
    with served([*command_of(kind, uwsgi), "app.ini"], tmp_path, out) as daemon:
        daemon.wait_for(SERVES[kind])
        put(tmp_path / "spool")
        wait_until(lambda: len(lines(out)) == 1)
        (tmp_path / "small.py").write_text(SMALL.replace("VERSION = 1", "VERSION = 22"))
        # Not before uWSGI has looked at it once: it does each second.
        if kind == "uwsgi":
            wait_until(lambda: daemon.says("unable to stat()"))
        (tmp_path / ".touched").touch()
        if kind == "uwsgi":
            wait_until(lambda: daemon.says("touched..."))
        else:
            daemon.wait_for("reload: done")

        def is_new() -> bool:
            put(tmp_path / "spool")
            return lines(out)[-1].startswith("22 ")

        wait_until(is_new)


@pytest.mark.parametrize("kind", KINDS)
def test_the_packages_of_a_virtual_environment_are_there(
    kind: str, uwsgi: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "app/env", with_pip=False)
    [packages] = (tmp_path / "app/env/lib").glob("python3.*/site-packages")
    write(
        tmp_path,
        {
            "app.ini": "[uwsgi]\nspooler = spool\nchdir = app\nhome = env\n"
            "import = inside\nmaster = true\n",
            f"{packages.relative_to(tmp_path)}/inside.py": MODULE,
            f"{packages.relative_to(tmp_path)}/more.pth": f"{tmp_path}/more\n",
            "more/told.py": TOLD,
        },
    )
    out = tmp_path / "out"
    with served([*command_of(kind, uwsgi), "app.ini"], tmp_path, out) as daemon:
        wait_until((out / "inside").exists)
        daemon.wait_for(SERVES[kind])
    assert told(out, "inside")["cwd"] == str(tmp_path / "app")


@pytest.mark.parametrize("kind", KINDS)
def test_root_becomes_another_user(kind: str, uwsgi: Path) -> None:
    with some_users() as users:
        write(
            users.home,
            {
                "app.ini": "[uwsgi]\nspooler = spool\nuid = alice\ngid = alice\n"
                "import = small\nmaster = true\nspooler-frequency = 1\n",
                "small.py": SMALL,
            },
        )
        spool, out = users.home / "spool", users.home / "out"
        out.mkdir(mode=0o777)
        out.chmod(0o777)
        if kind == "uwsgi":  # which makes it, but as root
            users.run("shop", "true")
            make = ["sh", "-c", "mkdir -m 700 spool && chown alice spool"]
            subprocess.run(users.enter(*make), cwd=users.home, check=True)
        command = [*command_of(kind, uwsgi), users.home / "app.ini"]
        with served(users.enter(*command), users.home, out) as daemon:
            daemon.wait_for(SERVES[kind])
            put(spool, owner=spool.stat().st_uid)
            wait_until(lambda: lines(out))
        uid = spool.stat().st_uid
        assert uid not in (0, os.getuid())
        found = lines(out)[0].split(maxsplit=3)
        groups = json.loads(found[3])
        assert found[:3] == ["1", str(uid), str((out / "out").stat().st_gid)]
        assert len(groups) == 2  # her own and web
        assert 0 not in groups


def test_the_command_line_goes_before_the_file(home: Path) -> None:
    (home / "outside").rmdir()
    ini = home / "conf/app.ini"
    text = INI.replace("spooler = ", "spooler-external = ")
    ini.write_text(text + "[uwsgi]\ncron = 1 1 1 1 1 ls\n")
    SpoolDir(home / "mine").create()
    out = home / "out"
    put(home / "mine")
    more = ["--dir", "mine", "--workers", "2", "--import", str(home / "late.py")]
    (home / "late.py").write_text(MODULE + TASKS)
    command = [str(SPOOLD), "--uwsgi-ini", str(ini), *more]
    with served(command, home, out) as daemon:
        wait_until((out / "task").exists)
        daemon.wait_for(f"serve spool={home}/mine ")
    log = daemon.text()
    assert f"uwsgi-ini {ini}: cron = 1 1 1 1 1 ls: run it from cron(8)" in log
    assert "workers=2" in log
    assert tellers(out) == ["late", "task"]
    spoolers = [f"{home}/mine", f"{home}/spool", f"{home}/outside"]
    assert told(out, "task")["spoolers"] == [repr(os.fsencode(p)) for p in spoolers]
    assert not (home / "spool").exists()


def test_the_file_may_be_named_by_the_environment_or_by_the_settings(
    home: Path,
) -> None:
    out = home / "out"
    (home / "spoold.toml").write_text('uwsgi-ini = "conf/app.ini"\nworkers = 3\n')
    with served([SPOOLD, "--config", "spoold.toml"], home, out) as daemon:
        daemon.wait_for("serve spool=")
        assert "workers=3" in daemon.text()
    ini = "conf/app.ini"
    with served([SPOOLD], home, out, SPOOLER_UWSGI_INI=ini) as daemon:
        daemon.wait_for("serve spool=")
        assert "workers=2" in daemon.text()


@pytest.mark.parametrize(
    ("text", "code", "problem"),
    [
        ("[other]\n", 2, "app.ini: no section [uwsgi]"),
        ("[uwsgi]\numask = 9\n", 2, "umask = 9: it takes three octal digits"),
        ("[uwsgi]\nimport = a\n", 2, "app.ini names no spooler = DIR"),
        ("[uwsgi]\nspooler = a\n", 2, "no module with tasks was named"),
        (
            "[uwsgi]\nspooler = a\nimport = a\nuid = nobody-of-this-name\n",
            78,
            "uid = nobody-of-this-name: there is no such user",
        ),
        (
            "[uwsgi]\nspooler = a\nimport = a\ngid = nobody-of-this-name\n",
            78,
            "gid = nobody-of-this-name: there is no such group",
        ),
        (
            "[uwsgi]\nspooler = a\nimport = a\nchdir = none\n",
            78,
            "chdir = {}/none: No such file or directory",
        ),
        (
            "[uwsgi]\nspooler = a\nimport = a\nspooler-chdir = /nope\n",
            78,
            "spooler-chdir = /nope: No such file or directory",
        ),
        (
            "[uwsgi]\nspooler = app.ini\nimport = a\n",
            78,
            "spooler = {}/app.ini: not a directory",
        ),
        (
            "[uwsgi]\nspooler = a\nimport = web/none.py\n",
            78,
            "cannot import web_none: FileNotFoundError",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    text: str, code: int, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "app.ini").write_text(text)
    done = subprocess.run(
        [SPOOLD, "--uwsgi-ini", "app.ini"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=30 * FACTOR,
    )
    assert done.returncode == code, done.stderr
    assert problem.format(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_who_is_not_root_cannot_become_another(tmp_path: Path) -> None:
    with some_users() as users:
        text = "[uwsgi]\nspooler = spool\nuid = root\nimport = a\n"
        (users.home / "app.ini").write_text(text.replace("root", "bob"))
        (users.home / "spool").mkdir()
        done = users.run("alice", SPOOLD, "--uwsgi-ini", "app.ini")
        assert done.returncode == 78, done.stderr
        assert "only root can become another user" in done.stderr
