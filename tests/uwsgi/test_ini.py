"""What stands in a configuration is read as the real uWSGI reads it."""

import os
import random
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from spooler.errors import UsageError
from spooler.ext.uwsgi.ini import Reader
from spooler.ext.uwsgi.ini_settings import read_ini

from ..helpers import FACTOR
from .conftest import TIMEOUT, UWSGI, need_uwsgi

pytestmark = pytest.mark.timeout(TIMEOUT)

LETTERS = "".join(
    f"%{letter}|" for letter in "dnpsecxo0123456789DNPSECXOJIijvVhkuUgG%z "
)
LOGIC = """\
[uwsgi]
nn = yes
if-env = HOME
home1 = %(_)
endif=
if-env = NOPE
no1 = 1
endif =
if-env = SHOP=set
h5 = %(_)!
endif=
ifenv = SHOP=other
no2 = 1
end =
if-not-env = NOPE
nope = %(_)
endif=
if-not-env = SHOP=other
h6 = %(_)
endif=
if-opt = nn
opt= %(_)
endif=
if-opt = nn=x
no3 = 1
endif=
if-not-opt = nn=x
o2 = %(_)
endif=
if-not-opt = zz
zn = 1
endif=
if-not-opt = nn
no4 = 1
endif=
if-exists = app.ini
e = %(_)
endif=
if-not-exists = q
ne = %(_)
endif=
if-dir=.
dd=%(_)
endif=
if-not-dir=app.ini
nd=%(_)
endif=
if-file=app.ini
ff=1
end-if=
if-not-file=.
nf=1
end-if=
if-reload=
no5=1
endif=
if-not-reload=
nr=1
endif=
if-hostname=no such host
no7=1
endif=
if-not-hostname=no such host
nh=%(_)
endif=
if-plugin=python
pp=%(_)
endif=
if-not-plugin=nosuch
np=1
endif=
"""
LOOPS = """\
[uwsgi]
for = a b  c
x-%(_) = v_%(_)
y = %(_)
endfor =
for-times = 3
t = %(_)
end =
for-glob = sub/*
g = %(_)
endfor=
for-glob=none*
n=%(_)
endfor=
for-readline = sub/a.txt
l = %(_)
endfor=
for-readline = sub/none.txt
l = %(_)
endfor=
for=c d
ini = %(_).ini
endfor=
"""


@dataclass(frozen=True)
class Case:
    """A configuration: files by name, variables, and what is asked for."""

    files: Mapping[str, str]
    name: str = "app.ini"
    links: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)


def one(text: str, **environ: str) -> Case:
    return Case({"app.ini": f"[uwsgi]\n{text}"}, environ=environ)


CASES = {
    "letters": one(f"a = {LETTERS}%é\nb = é%"),
    "letters: two dots": Case({"app.v1.ini": f"[uwsgi]\na = {LETTERS}"}, "app.v1.ini"),
    "letters: no dot": Case({"app": f"[uwsgi]\na = {LETTERS}"}, "app"),
    "letters: folder": Case({"é/b/app.ini": f"[uwsgi]\na = {LETTERS}"}, "é/b/app.ini"),
    "letters: link": Case(
        {"b/app.ini": f"[uwsgi]\na = {LETTERS}"},
        "c/x.ini",
        {"c": "b", "b/x.ini": "app.ini"},
    ),
    "letters: section": Case({"app.ini": f"[x]\na = {LETTERS}"}, "app.ini:x"),
    "percent at a line's end": one("a = 5%\nb = 1\nc = 5% \nd = %"),
    "spaces and comments": one(
        "  key  =  a = b ; not a comment \n;c\n # c\nflag\nempty=\n\r\n\tb = 1\r\n= x\n"
    ),
    "sections": Case({"app.ini": "[a]\nx=1\n [ b ] \nz=1\n[uwsgi]\nb=2\n[a]\ny=3"}),
    "no new line at the end": one("a = 1"),
    "no file mark": Case({"app.ini": "[uwsgi]\na = 1\n"}, "app.ini:"),
    "values": one(
        "base = /srv\nname = %(base)/x\nlast = %(later)/%(base)\nlater = L%(base)\n"
        "none = %(no) %() %( ) %(no no)\nfirst = %(deep)\ndeep = %(base)\n"
        "in = a%(deeper)\ndeeper = %(deep)\n"
    ),
    "counting": one(
        "two = 2\nsix = 6\na = %(two + 3)\nb = %(two two + 3) %(two ++) %(two --)\n"
        "c = %(two - 5) %(two * six) %(7 / two) %(1 / 0) %(six - 13 / two)\n"
        "d = %(+ 3) %(++) %(++ two) %(-- ++) %(x two  y) %(two six) %(two + x)\n"
    ),
    "brackets": one(
        "n = b\nb = B\na = %(b\nc = %(b(d)) %%(b) %(%(n)) %(a%(b)) x%(b)\ne = %%\n"
    ),
    "variables and contents": Case(
        {
            "app.ini": "[uwsgi]\na = $(SHOP) $(NO) $(SHOP)$(SHOP)\nb = @(data.txt)!\n"
            "env = Z=1\nc = $(Z) %(d)\nd = $(IN)\ne = $(IN)x\n",
            "data.txt": "hello\n",
        },
        environ={"SHOP": "set", "IN": "$(SHOP)"},
    ),
    "set": one(
        "set = foo=bar\nset-placeholder = p=%(foo)/q\nset-ph = r=1\nx = %(p)\n"
        "y = a%(p)\nn = 4\nspooler-processes = %(n)\nlisten = %(n)\numask = 022\n"
    ),
    "own options": one(
        "declare-option = mine=env=X=$1;env=Y=$2\nmine = one two\n"
        "declare-option2 = late=env=Z=$1\nlate = %(mine)\n"
    ),
    "included": Case(
        {
            "app.ini": "[uwsgi]\nini = sub/b.ini\nd = %d %n %N\nini = :two\n"
            "include = c.ini\n[two]\nx = from two\n",
            "sub/b.ini": "[uwsgi]\nb = %d %n %N\n[two]\nx = in b %x %n\n",
            "c.ini": "[uwsgi]\nc = %n %D\n[two]\nnever = 1\n",
        }
    ),
    "inherited": Case(
        {
            "app.ini": "[uwsgi]\nbase=/b\ninherit = c.ini\nafter=%(c)\n",
            "c.ini": "[uwsgi]\nc = %(base) %n %N\nini = d.ini\n",
            "d.ini": "[uwsgi]\nd = %n\ninherit = e.ini\n",
            "e.ini": "[uwsgi]\ne = %n\n",
        }
    ),
    "conditions": Case({"app.ini": LOGIC}, environ={"SHOP": "set"}),
    "loops": Case(
        {
            "app.ini": LOOPS,
            "sub/a.txt": "1\n2\r\n\n3\n\n",
            "sub/b/c": "",
            "c.ini": "[uwsgi]\nic=%n %N\n",
            "d.ini": "[uwsgi]\nid=%n %N\n",
        }
    ),
}


@pytest.fixture
def uwsgi() -> Path:
    """The real one."""
    need_uwsgi()
    return UWSGI


def write(
    folder: Path, files: Mapping[str, str], links: Mapping[str, str] | None = None
) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    for name, target in (links or {}).items():
        (folder / name).symlink_to(target)


def real(uwsgi: Path, case: Case, folder: Path) -> list[str]:
    """Return what uWSGI lists; it ends since there is no clock of that name."""
    done = subprocess.run(
        [uwsgi, "--ini", case.name, "--show-config", "--clock", "none"],
        cwd=folder,
        env={**os.environ, **case.environ},
        capture_output=True,
        timeout=30 * FACTOR,
    )
    text = os.fsdecode(done.stdout + done.stderr)
    assert ";end of configuration" in text, text
    listed = text.partition("\n[uwsgi]\n")[2].partition(";end of")[0].splitlines()
    own = ["show-config = true", "clock = none"]
    assert [line for line in listed if line in own] == own
    return [line for line in listed if line not in own]


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_configuration_comes_to_what_uwsgi_makes_of_it(
    case: Case, uwsgi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, case.files, case.links)
    monkeypatch.chdir(tmp_path)
    reader = Reader({**os.environ, **case.environ})
    reader.add("ini", case.name)
    reader.resolve()
    ours = [f"{option.key} = {option.value}" for option in reader.options]
    assert ours == real(uwsgi, case, tmp_path)


REFUSED = {
    "no file": Case({}),
    "nested": one("for = a\nif-env = HOME\nx = 1\n"),
    "section of an included file": Case(
        {"app.ini": "[uwsgi]\ninclude = b.ini:x\n", "b.ini": "[x]\na=1\n"}
    ),
    "no placeholder": one("set = a\n"),
    "no template": one("declare-option = a\n"),
    "included from nowhere": one("include = none.ini\n"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=list(REFUSED))
def test_what_uwsgi_refuses_is_refused(
    case: Case, uwsgi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, case.files)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        Reader(os.environ).add("ini", case.name)
    done = subprocess.run(
        [uwsgi, "--ini", case.name, "--clock", "none", "--show-config"],
        cwd=tmp_path,
        capture_output=True,
        timeout=30 * FACTOR,
    )
    assert done.returncode == 1
    assert b"end of configuration" not in done.stdout + done.stderr


def test_variables_are_options_before_those_of_the_file(
    uwsgi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = one(
        "a = %(h5-one)\nh5-one = 2", UWSGI_H5_ONE="$(HOME)%(b)", UWSGI_RELOADS="1"
    )
    write(tmp_path, case.files)
    monkeypatch.chdir(tmp_path)
    ini = read_ini(case.name, {**os.environ, **case.environ})
    ours = [f"{key} = {value}" for key, value in ini.application.options]
    assert ours == real(uwsgi, case, tmp_path)


PIECES = (
    *("%(", "%%(", "$(", ")", "(", "a", "b", "two ", " + ", "1", " ", "%%", "$"),
    *("%n", "%", "x", "é", " ++", " - ", "=", "[", "]", ";", "#", "%(a)", "$(SHOP)"),
    *("%(two + 2)", "%(b two)"),
)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_stands_in_a_value_comes_to_the_same(
    seed: int, uwsgi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    lines = ["a = A", "b = %(a)B$(SHOP)", "two = 2"]
    for number in range(100):
        value = "".join(chance.choices(PIECES, k=chance.randrange(12)))
        # Of a file's letters only one, since %b is the program.
        lines.append(f"k{number} = {value.replace('%b', '%n')}")
    chance.shuffle(lines)
    case = one("\n".join(lines), SHOP="%(two)$")
    write(tmp_path, case.files)
    monkeypatch.chdir(tmp_path)
    reader = Reader({**os.environ, **case.environ})
    reader.add("ini", case.name)
    reader.resolve()
    ours = [f"{option.key} = {option.value}" for option in reader.options]
    assert ours == real(uwsgi, case, tmp_path)
