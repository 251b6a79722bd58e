"""What the options of a configuration of uWSGI mean for ``spoold``."""

import os
import pwd
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from spooler.config import UwsgiIni
from spooler.errors import UsageError
from spooler.ext.uwsgi.ini import Reader
from spooler.ext.uwsgi.ini_settings import read_ini
from spooler.ext.uwsgi.placeholders import calculate, number, put_values

Read = Callable[..., UwsgiIni]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Read lines as a configuration, in a new directory."""
    monkeypatch.chdir(tmp_path)

    def read(*lines: str, **environ: str) -> UwsgiIni:
        (tmp_path / "app.ini").write_text("\n".join(["[uwsgi]", *lines]))
        return read_ini("app.ini", environ)

    return read


def test_options_of_the_spooler_are_settings(read: Read, tmp_path: Path) -> None:
    ini = read(
        "spooler = a",
        "spooler = b",
        "spooler-processes = 3",
        "spooler-frequency = 7",
        "spooler-max-tasks = 100",
        "spooler-harakiri = 60",
        "spooler-quiet = true",
        "spooler-ordered = true",
        "spooler-chdir = work",
        "import = tasks",
    )
    assert ini.settings == {
        "uwsgi": True,
        "dirs": [f"{tmp_path}/a", f"{tmp_path}/b"],
        "workers": 3,
        "frequency": 7.0,
        "max_tasks": 100,
        "hard_timeout": 60.0,
        "log_level": "warning",
        "imports": ["tasks"],
    }
    assert ini.application.task_dir == "work"
    assert ini.application.spools == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert ini.chdir == str(tmp_path)
    assert ini.ignored == ini.warnings == ()


def test_what_is_not_said_is_left_to_spoold(read: Read) -> None:
    ini = read("spooler-harakiri = 0", "spooler-quiet = off", "py-autoreload = 0")
    assert ini.settings == {"uwsgi": True}


def test_a_spool_that_is_named_twice_has_twice_the_processes(
    read: Read, tmp_path: Path
) -> None:
    ini = read("spooler = a", "spooler = ./a", "spooler-processes = 2")
    assert ini.settings["dirs"] == [f"{tmp_path}/a"]
    assert ini.settings["workers"] == 4


def test_spools_of_others_are_not_served_and_may_come_first(
    read: Read, tmp_path: Path
) -> None:
    ini = read("spooler-external = far", "spooler = near", "spooler-external = near")
    assert ini.settings["dirs"] == [f"{tmp_path}/near"]
    assert ini.application.spools == (f"{tmp_path}/far", f"{tmp_path}/near")


@pytest.mark.parametrize(
    ("text", "seconds", "warnings"),
    [
        ("2", 2.0, 0),
        ("0", 1.0, 0),
        ("5 s", 5.0, 1),
        ("soon", 1.0, 1),
        ("%(n)", 9.0, 0),
    ],
)
def test_numbers_are_read_as_uwsgi_reads_them(
    text: str, seconds: float, warnings: int, read: Read
) -> None:
    ini = read("n = 9", f"spooler-freq = {text}")
    assert ini.settings["frequency"] == seconds
    assert len(ini.warnings) == warnings


def test_processes_do_not_know_placeholders_and_the_log_says_so(read: Read) -> None:
    ini = read("n = 9", "spooler = a", "spooler-processes = %(n)")
    assert ini.settings["workers"] == 1
    assert ini.warnings == ("spooler-processes = %(n): taken as 0, as uWSGI does",)
    assert ini.ignored == ("n",)


def test_all_modules_are_imported_in_the_order_of_uwsgi(
    read: Read, tmp_path: Path
) -> None:
    ini = read(
        "spooler-import = last",
        "mount = /a=pkg.web:app",
        "mount = /b=other.py",
        "wsgi-file = web/app.wsgi",
        "module = site.main:application",
        "wsgi = shop.wsgi",
        "pyimport = one",
        "import = lib/two.py",
        "import = one",
        "shared-py-import = first",
        "chdir = app",
    )
    assert ini.settings["imports"] == [
        "first",
        "one",
        "lib_two",
        "shop.wsgi",
        "uwsgi_file_web_app_wsgi",
        "pkg.web",
        "uwsgi_file_other",
        "last",
    ]
    assert ini.application.files == (
        ("lib_two", f"{tmp_path}/app/lib/two.py"),
        ("uwsgi_file_web_app_wsgi", f"{tmp_path}/app/web/app.wsgi"),
        ("uwsgi_file_other", f"{tmp_path}/app/other.py"),
    )


def test_a_mount_without_python_is_not_imported(read: Read) -> None:
    ini = read("mount = /x=app.pl", "import = a")
    assert ini.settings["imports"] == ["a"]
    assert "mount = /x=app.pl" in ini.warnings[0]


def test_surroundings(read: Read, tmp_path: Path) -> None:
    (tmp_path / "lib-a").mkdir()
    (tmp_path / "lib-b").mkdir()
    ini = read(
        "chdir = app",
        "pythonpath = one",
        "pp = %v/lib-*",
        "pyargv = a  b",
        "umask = 027",
        "uid = www-data",
        "gid = 33",
        "no-initgroups = true",
        "touch-spoolers-reload = touched",
        "touch-reload = /abs",
        "py-autoreload = 1",
    )
    assert ini.application.paths == (
        f"{tmp_path}/lib-b",
        f"{tmp_path}/lib-a",
        f"{tmp_path}/app/one",
    )
    assert ini.application.argv == ("uwsgi", "a", "b")
    assert (ini.umask, ini.uid, ini.gid, ini.groups) == (0o27, "www-data", "33", False)
    assert ini.touch == (f"{tmp_path}/app/touched", "/abs")
    assert ini.settings["reload"] is True


def test_the_environment(read: Read, tmp_path: Path) -> None:
    folder = tmp_path / "vars"
    (folder / "sub").mkdir(parents=True)
    (folder / "A").write_text("1\n2\n")
    (folder / "B").write_text("")
    (folder / ".C").write_text("3")
    ini = read("env = X=$(OWN)=1", "env = GONE", "unenv = Y", "envdir = vars", OWN="o")
    assert ini.environ == (
        ("X", "o=1"),
        ("GONE", None),
        ("Y", None),
        ("A", "1\n2"),
        ("B", None),
    )


def test_variables_of_uwsgi_are_options(read: Read, tmp_path: Path) -> None:
    ini = read(
        "import = a",
        UWSGI_SPOOLER=str(tmp_path / "s"),
        UWSGI_SPOOLER_PROCESSES="2",
        UWSGI_INI="app.ini",
        UWSGI_RELOADS="1",
    )
    assert ini.settings["dirs"] == [f"{tmp_path}/s"]
    assert ini.settings["workers"] == 2
    assert ini.settings["imports"] == ["a"]
    assert ini.ignored == ()


def test_what_means_nothing_here_is_named_once(read: Read) -> None:
    ini = read(
        "master = true",
        "http = :%(port)",
        "port = 80",
        "http = :81",
        "set-ph = x=1",
        "logger = a",
    )
    assert ini.ignored == ("master", "http", "logger")
    assert ini.warnings == ()


@pytest.mark.parametrize(
    "line",
    [
        "chroot = /jail",
        "cron2 = minute=-2 ls",
        "attach-daemon = memcached",
        "mule = mule.py",
        "hook-pre-app = exec:ls",
        "exec-asap = ls",
        "eval = import x",
        "daemonize = /var/log/x",
        "cache2 = name=x",
        "emperor = /etc/vassals",
    ],
)
def test_what_cannot_be_kept_has_a_warning(line: str, read: Read) -> None:
    ini = read(line)
    assert len(ini.warnings) == 1
    assert ini.warnings[0].startswith(f"{line}: ")
    assert ini.ignored == ()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("home = none", "install spoold in that environment"),
        ("umask = 9", "three octal digits"),
        ("umask = 1777", "three octal digits"),
        ("spooler-max-tasks = -1", "0 or more"),
        ("envdir = none", "No such file"),
        ("ini = http://host/x.ini", "only files are read"),
        ("ini = app.ini", "includes itself"),
        ("include = x.yaml", r"end in \.ini"),
        ("a = x%(a)", "has itself in its value"),
        ("ini = none.ini", "none.ini: No such file"),
        ("if-hostname-match = (\nx = 1", "unterminated"),
    ],
)
def test_what_cannot_be_done_is_refused(line: str, problem: str, read: Read) -> None:
    with pytest.raises(UsageError, match=problem):
        read(line)


def test_a_section_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "app.ini"
    path.write_text("[uwsgi]\na = 1\n[b]\n")
    assert read_ini(str(path), {}).ignored == ("a",)
    with pytest.raises(UsageError, match=r"app\.ini: no section \[c\]"):
        read_ini(f"{path}:c", {})


def test_a_home_of_this_version_is_used(read: Read, tmp_path: Path) -> None:
    version = "{}.{}".format(*sys.version_info)
    (tmp_path / f"env/lib/python{version}/site-packages").mkdir(parents=True)
    assert read("venv = env").application.home == f"{tmp_path}/env"


@pytest.mark.parametrize(
    ("line", "there"),
    [
        ("if-hostname-match = .", True),
        ("if-hostname-match = no such host", False),
        ("if-not-hostname-match = .", False),
        ("if-not-hostname-match = no such host", True),
    ],
)
def test_conditions_on_the_name_of_the_host(line: str, there: bool, read: Read) -> None:
    # Not compared with the real one: PyPI's has no regular expressions.
    ini = read(line, "x = %(_)", "endif =")
    assert (("x", "%(_)") in ini.application.options) is there


def test_a_link_is_not_followed_for_its_letters(read: Read, tmp_path: Path) -> None:
    read("a = %n %d")
    (tmp_path / "link.ini").symlink_to("app.ini")
    ini = read_ini(f"{tmp_path}/link.ini", {})
    assert ini.application.options[-1] == ("a", f"link {tmp_path}/")


def test_own_options_are_their_templates(read: Read) -> None:
    ini = read(
        "declare-option = mine=env=A=$1;env=B=$2-$1;no more;env=C=1",
        "declare-option = flag=env=D=d",
        "mine = x  y",
        "flag = true",
    )
    assert ini.environ == (("A", "x"), ("B", "y-x"), ("D", "d"))
    assert ini.ignored == ()


def test_who_has_no_name_is_a_number(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    ini = read("a = %U %u")
    uid = os.getuid()
    assert ini.application.options[-1] == ("a", f"{uid} {uid}")


def test_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_text("[uwsgi]\na = 1\n")
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        reader = Reader(os.environ)
        reader.add("ini", "-")
    assert [each.key for each in reader.options] == ["ini", "a"]


def test_numbers_are_as_in_c() -> None:
    assert [number(text) for text in ("", "x", " 12x", "-3", "+4", "\u0661")] == [
        *(0, 0, 12),
        *(-3, 4, 0),
    ]


def test_counting_is_as_in_c() -> None:
    options = {"a": "7", "b": "-7", "x": "x"}
    for expression, result in {
        "a / b": "-1",
        "b / 2": "-3",
        "b / b": "1",
        "a / x": "0",
        "a + + a": "14",
        "x a": "x7",
        "a": "7",
        "c": None,
        "+ ": None,
    }.items():
        assert calculate(expression, options.get) == result, expression


def test_values_within_values_end_somewhere() -> None:
    assert put_values("%(a)%(b)", "%", {"a": "1", "b": "2"}.get) == "12"
    with pytest.raises(UsageError, match="itself"):
        put_values("%(a)", "%", {"a": "x%(b)", "b": "y%(a)"}.get)


def test_what_makes_the_web_application_is_called(read: Read) -> None:
    ini = read("mount = /a=a.b:make()", "mount = /b=c:ready", "module = d:e()")
    assert ini.settings["imports"] == ["d", "a.b", "c"]
    assert ini.application.calls == (("d", "e"), ("a.b", "make"))
    ini = read("module = d", "callable = e()")
    assert ini.application.calls == (("d", "e"),)
    assert read("module = d", "callable = e").application.calls == ()


WORDS = st.sampled_from(
    [
        *(
            b"[uwsgi]",
            b"\n",
            b"=",
            b" ",
            b"%",
            b"(",
            b")",
            b"$(",
            b"@(",
            b"for",
            b"end",
        ),
        *(b"if-env", b"set", b"ini", b":", b"spooler", b"1", b"declare-option", b"a"),
        *(b"mount", b"env", b"umask", b"import", b";", b"$1", b"\0", b"\xff", b"%(a)"),
    ]
)


@given(st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=60).map(b"".join)))
def test_no_file_breaks_it(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/app.ini"
        with open(path, "wb") as file:
            file.write(b"[uwsgi]\n" + data)
        with suppress(UsageError):
            read_ini(path, {"a": "1"})
