"""What a configuration of uWSGI makes of a process."""

import grp
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spooler import hooks
from spooler.config import Application, UwsgiIni
from spooler.current import CurrentTask
from spooler.errors import UsageError
from spooler.ext.uwsgi.handler import handle
from spooler.ext.uwsgi.module import UWSGI
from spooler.ext.uwsgi.surroundings import enter, opt_of, prepare
from spooler.task import Outcome, Verdict


@pytest.fixture
def as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Give back what the process had: directory, environment, umask, hooks, paths."""
    monkeypatch.chdir(tmp_path)
    environ, umask, argv = dict(os.environ), os.umask(0o022), list(sys.argv)
    path, finders, modules = list(sys.path), list(sys.meta_path), set(sys.modules)
    yield
    os.environ.clear()
    os.environ.update(environ)
    os.umask(umask)
    hooks.BEFORE.clear()
    hooks.CHECKS.clear()
    sys.argv[:], sys.path[:], sys.meta_path[:] = argv, path, finders
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def an_ini(folder: Path, **more: object) -> UwsgiIni:
    return UwsgiIni("app.ini", {}, Application(), str(folder), **more)  # type: ignore[arg-type]  # any of its fields


@pytest.mark.usefixtures("as_it_was")
def test_directory_environment_and_umask(tmp_path: Path) -> None:
    os.environ["GONE"] = "1"
    (tmp_path / "app").mkdir()
    environ = (("A", "1"), ("GONE", None), ("NONE", None), ("A", "2"))
    enter(an_ini(tmp_path / "app", environ=environ, umask=0o027), [])
    assert Path.cwd() == tmp_path / "app"
    assert os.environ["A"] == "2"
    assert "GONE" not in os.environ
    assert os.umask(0) == 0o027


Calls = list[tuple[str, object]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Note how the process would become another user; it is root, and does not."""
    made: Calls = []

    def noted(name: str) -> Callable[..., None]:
        return lambda *args: made.append((name, args if len(args) > 1 else args[0]))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("setuid", "setgid", "setgroups", "initgroups", "chown"):
        monkeypatch.setattr(os, name, noted(name))
    return made


@pytest.mark.usefixtures("as_it_was")
def test_the_group_goes_before_the_user_and_spools_are_given(
    calls: Calls, tmp_path: Path
) -> None:
    user, group = pwd.getpwall()[1], grp.getgrall()[1]
    spool = f"{tmp_path}/new"
    enter(an_ini(tmp_path, uid=user.pw_name, gid=group.gr_name), [spool, spool])
    assert calls == [
        ("chown", (spool, user.pw_uid, group.gr_gid)),
        ("setgid", group.gr_gid),
        ("setgroups", []),
        ("initgroups", (user.pw_name, os.getgid())),
        ("setuid", user.pw_uid),
    ]
    assert os.stat(spool).st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("as_it_was")
def test_numbers_need_no_name(calls: Calls, tmp_path: Path) -> None:
    enter(an_ini(tmp_path, uid="54321"), [])
    enter(an_ini(tmp_path, uid="54321", groups=False), [])
    enter(an_ini(tmp_path, gid="54322"), [])
    assert calls == [
        ("setuid", 54321),
        ("setuid", 54321),
        ("setgid", 54322),
        ("setgroups", []),
    ]


@pytest.mark.usefixtures("as_it_was")
def test_root_may_stay_root(calls: Calls, tmp_path: Path) -> None:
    enter(an_ini(tmp_path, uid="0", gid="0"), [f"{tmp_path}/new"])
    assert calls == [("chown", (f"{tmp_path}/new", -1, -1))]


@pytest.mark.usefixtures("as_it_was")
def test_others_stay_who_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("geteuid", "getuid"):
        monkeypatch.setattr(os, name, lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 1001)
    enter(an_ini(tmp_path, uid="1000", gid="1001"), [f"{tmp_path}/new"])
    assert (tmp_path / "new").is_dir()
    for more in ({"uid": "1001"}, {"gid": "1000"}):
        with pytest.raises(UsageError, match="only root"):
            enter(an_ini(tmp_path, **more), [])
    with pytest.raises(UsageError, match="no such user"):
        enter(an_ini(tmp_path, uid="nobody of this name"), [])
    with pytest.raises(UsageError, match="no such group"):
        enter(an_ini(tmp_path, gid="nobody of this name"), [])


@pytest.mark.usefixtures("as_it_was")
def test_modules_are_found_at_their_paths(tmp_path: Path) -> None:
    (tmp_path / "web.wsgi").write_text("NAME = __name__\n")
    (tmp_path / "web.py").write_text("NAME = 'not this one'\n")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("from . import part\n")
    (tmp_path / "pkg/part.py").write_text("NAME = __name__\n")
    files = (
        ("uwsgi_file_web", f"{tmp_path}/web.wsgi"),
        ("a_pkg", f"{tmp_path}/pkg"),
    )
    prepare(Application(files=files, argv=("uwsgi", "more")))
    assert import_module("uwsgi_file_web").NAME == "uwsgi_file_web"
    assert import_module("a_pkg").part.NAME == "a_pkg.part"
    with pytest.raises(ModuleNotFoundError):
        import_module("a_pkg.none")
    assert sys.argv == ["uwsgi", "more"]


@pytest.mark.usefixtures("as_it_was")
def test_tasks_begin_in_their_folder(tmp_path: Path) -> None:
    for name in ("spool", "beside"):
        (tmp_path / name).mkdir()
    prepare(Application(task_dir="../beside"))
    task = CurrentTask("0" * 16, "a", 1, 5, f"{tmp_path}/spool", 0)
    assert hooks.before(task) is None
    assert Path.cwd() == tmp_path / "beside"
    os.chdir(tmp_path)
    (tmp_path / "beside").rmdir()
    seen: list[CurrentTask] = []
    hooks.before_task(seen.append)
    why = "spooler-chdir = ../beside: No such file or directory"
    assert hooks.before(task) == Outcome(Verdict.RETRY, why, "exception")
    assert seen == []


@pytest.mark.usefixtures("as_it_was")
def test_directories_that_cannot_be_are_refused_by_option_and_value(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "spool").mkdir()
    spools = [f"{tmp_path}/spool"]

    def refused(ini: UwsgiIni, dirs: list[str]) -> str:
        with pytest.raises(UsageError) as caught:
            enter(ini, dirs)
        return str(caught.value)

    gone = "No such file or directory"
    where = Application(task_dir="/nope")
    ini = UwsgiIni("app.ini", {}, where, str(tmp_path))
    assert refused(ini, spools) == f"spooler-chdir = /nope: {gone}"
    assert refused(an_ini(tmp_path / "no"), spools) == f"chdir = {tmp_path}/no: {gone}"
    assert refused(an_ini(tmp_path / "file"), []).endswith("/file: Not a directory")
    file = f"{tmp_path}/file"
    assert refused(an_ini(tmp_path), [file]) == f"--dir {file}: not a directory"
    named = UwsgiIni("app.ini", {}, Application(spools=(file,)), str(tmp_path))
    assert refused(named, [file]) == f"spooler = {file}: not a directory"
    assert refused(an_ini(tmp_path), [f"{file}/a"]).endswith("/a: Not a directory")
    enter(UwsgiIni("app.ini", {}, Application(task_dir="../"), str(tmp_path)), spools)
    assert Path.cwd() == tmp_path


@pytest.mark.usefixtures("as_it_was")
def test_packages_of_a_home_go_before_those_here(tmp_path: Path) -> None:
    before = list(sys.path)
    prepare(Application(home=sys.prefix))
    assert sys.path == before
    version = "{}.{}".format(*sys.version_info)
    packages = tmp_path / f"lib/python{version}/site-packages"
    packages.mkdir(parents=True)
    prepare(Application(home=str(tmp_path)))
    ours = next(i for i, path in enumerate(sys.path) if path.endswith("-packages"))
    assert sys.path[ours] == str(packages)
    assert [path for path in sys.path if path != str(packages)] == before


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "uwsgi.spooler is not set, and the task names no ud_spool_func"),
        (b"\x0d\0ud_spool_func\x01\0a", "uwsgi.spooler is not set here"),
        (None, "uwsgi.spooler is not set here"),  # pairs that are cut short
    ],
)
def test_a_task_that_nobody_can_take_says_what_is_missing(
    data: bytes | None, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UWSGI, "spooler", None, raising=False)
    packet = b"\0" + len(data or b"").to_bytes(2, "little") + b"\0" + (data or b"")
    pairs = 5 if data is None else None
    header = SimpleNamespace(uwsgi=data is not None, pairs=pairs, body=packet)
    task: Any = SimpleNamespace(header=header, data=packet, body=lambda: b"")
    claim: Any = None
    assert handle(claim, task) == Outcome(Verdict.RELEASE, problem)


def test_of_lines_with_the_same_name_the_last_counts() -> None:
    assert opt_of([("env", "A=1"), ("master", ""), ("env", "B=2")]) == {
        "env": "B=2",
        "master": "",
    }
