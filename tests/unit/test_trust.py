"""Whether others could have their hands on a spool."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spooler.errors import UsageError
from spooler.groups import accepted_owners, gid_of, uids_of
from spooler.spooldir import SpoolDir
from spooler.spooldir.trust import Weakness, weaknesses

STRANGER = 65_432
"""A uid and a gid that nobody has."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs other users")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that everybody can pass, below ``/tmp``, with a spool."""
    made = Path(tempfile.mkdtemp(prefix="spooler-"))
    try:
        made.chmod(0o755)
        (made / "above").mkdir(0o755)
        spool = SpoolDir(made / "above/spool")
        spool.create()
        spool.close()
        yield made
    finally:
        shutil.rmtree(made)


@contextmanager
def become(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def own(path: Path, uid: int) -> None:
    for each in (path, *path.rglob("*")):
        os.chown(each, uid, uid, follow_symlinks=False)


def found(home: Path, path: str = "above/spool") -> list[Weakness]:
    return list(weaknesses(str(home / path)))


def test_a_new_spool_below_tmp_is_nobody_elses(home: Path) -> None:
    assert found(home) == []


def test_a_spool_that_is_not_there_is_nobodys(home: Path) -> None:
    assert found(home, "none") == []
    assert found(home, "above/spool/.spool/x") == []


@pytest.mark.parametrize(
    ("where", "mode"),
    [
        ("above", 0o777),
        ("above", 0o757),
        ("above/spool", 0o777),
        ("above/spool", 0o1777),
        ("above/spool/5", 0o777),
        ("above/spool/5", 0o2733),
        ("above/spool/failed", 0o777),
        ("above/spool/running", 0o1777),
        ("above/spool/tmp", 0o733),
    ],
)
def test_what_everybody_may_write_is_grave(home: Path, where: str, mode: int) -> None:
    (home / where).chmod(mode)
    text = f"everybody may write there (mode {mode:04o}): chmod o-w {home / where}"
    assert found(home) == [Weakness(f"{home / where}: {text}", True)]


@pytest.mark.parametrize("where", ["above", "above/spool/5", "above/spool/0"])
def test_where_one_may_only_add_it_is_not(home: Path, where: str) -> None:
    (home / where).chmod(0o3733)
    assert found(home) == []


@pytest.mark.parametrize("where", ["above", "above/spool", "above/spool/held"])
def test_what_a_group_may_write_is_told(home: Path, where: str) -> None:
    os.chown(home / where, 0, STRANGER)
    (home / where).chmod(0o770)
    text = f"group {STRANGER} may write there (mode 0770): chmod g-w {home / where}"
    assert found(home) == [Weakness(f"{home / where}: {text}", False)]


@pytest.mark.parametrize("where", ["above", "above/spool", "above/spool/held"])
def test_what_roots_group_may_write_is_not(home: Path, where: str) -> None:
    (home / where).chmod(0o770)
    assert found(home) == []


@pytest.mark.parametrize("where", ["above", "above/spool/5", "above/spool/failed"])
def test_what_is_somebody_elses_is_grave(home: Path, where: str) -> None:
    os.chown(home / where, STRANGER, 0)
    text = (
        f"{home / where}: belongs to uid {STRANGER}, who is neither root nor the user"
        " of spoold (uid 0): chown it"
    )
    assert found(home) == [Weakness(text, True)]


def test_a_link_on_the_way_must_be_nobody_elses(home: Path) -> None:
    (home / "link").symlink_to("above")
    assert found(home, "link/spool") == []
    os.chown(home / "link", STRANGER, STRANGER, follow_symlinks=False)
    [weakness] = found(home, "link/spool")
    assert weakness.text.startswith(f"{home / 'link'}: belongs to uid {STRANGER}")
    os.chown(home / "link", 0, 0, follow_symlinks=False)
    (home / "above").chmod(0o777)  # where it leads
    assert found(home, "link/spool")[0].grave


def test_a_spool_that_is_named_by_a_link_must_be_nobody_elses(home: Path) -> None:
    (home / "link").symlink_to("above/spool")
    assert found(home, "link") == []
    os.chown(home / "link", STRANGER, STRANGER, follow_symlinks=False)
    [weakness] = found(home, "link")
    assert weakness.text.startswith(f"{home / 'link'}: belongs to uid {STRANGER}")


def test_root_is_told_that_another_user_owns_it(home: Path) -> None:
    own(home / "above", STRANGER)
    [weakness] = found(home)
    assert not weakness.grave
    assert weakness.text == (
        f"{home}/above/spool: belongs to uid {STRANGER}, whose tasks (with --allow-uid)"
        " run as root: run spoold as that user"
    )


def test_a_user_trusts_root_and_himself(home: Path) -> None:
    own(home / "above/spool", STRANGER)
    with become(STRANGER):
        assert found(home) == []
    (home / "above/spool").chmod(0o755)
    with become(STRANGER + 1):
        [weakness, *_] = found(home)
    assert weakness.grave
    assert f"(uid {STRANGER + 1})" in weakness.text


def test_groups_are_found_by_name_and_number() -> None:
    assert gid_of("root") == gid_of("0") == 0
    assert 0 in uids_of("root")


@pytest.mark.parametrize("group", ["no such group", "99999999999", "-1", "", "²"])
def test_a_group_that_is_not_there_is_refused(group: str) -> None:
    with pytest.raises(UsageError, match="there is no group"):
        gid_of(group)


def test_files_of_root_of_this_user_and_of_those_named_count() -> None:
    with become(STRANGER):
        owners = accepted_owners((7, 8), ("root",))
    assert owners == {0, STRANGER, 7, 8, *uids_of("root")}
