"""Settings: checked once, then frozen."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from spooler.config import Settings, parse_file
from spooler.errors import UsageError

KNOWN = {"workers": int, "grace": float, "burst": bool, "dir": str, "allow_uid": int}
LISTS = ("dir", "allow_uid")


def settings(**values: object) -> Settings:
    return Settings(**{"dirs": ("a",), "imports": ("b",), **values})  # type: ignore[arg-type]  # wrong ones too


def test_the_defaults_are_one_worker_and_half_a_minute_of_grace() -> None:
    made = settings()
    assert (made.workers, made.grace, made.frequency) == (1, 30.0, 30.0)
    assert made.hard_timeout is None
    assert not made.burst


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        settings().workers = 2  # type: ignore[misc]  # what is tested


def test_a_spool_is_needed() -> None:
    with pytest.raises(UsageError, match="--dir"):
        settings(dirs=())


def test_what_is_for_uwsgi_is_checked() -> None:
    with pytest.raises(UsageError, match="use --uwsgi"):
        settings(uwsgi_files=True)
    with pytest.raises(UsageError, match="use workers"):
        settings(uwsgi=True, threads=2)
    assert settings(uwsgi=True, uwsgi_files=True).uwsgi_retry.max_attempts == 10_000


def test_a_module_is_needed() -> None:
    with pytest.raises(UsageError, match="--import"):
        settings(imports=())


@pytest.mark.parametrize("other", ["a", "./a", "a/../a"])
def test_a_spool_may_not_be_named_twice(other: str) -> None:
    with pytest.raises(UsageError, match="twice"):
        settings(dirs=("a", other))


def test_a_link_to_a_spool_is_the_same_spool(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "link").symlink_to("spool")
    with pytest.raises(UsageError, match="twice"):
        settings(dirs=(str(tmp_path / "spool"), str(tmp_path / "link")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", 0),
        ("workers", -1),
        ("max_tasks", -1),
        ("grace", -0.1),
        ("grace", float("nan")),
        ("frequency", 0),
        ("frequency", -1),
        ("frequency", float("nan")),
        ("hard_timeout", 0),
        ("hard_timeout", float("nan")),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name}={value} cannot be"):
        settings(**{name: value})


def test_the_smallest_values_can_be() -> None:
    settings(workers=1, max_tasks=0, grace=0, frequency=1e-9, hard_timeout=1e-9)


def test_a_file_is_read() -> None:
    text = 'workers = 4\ngrace = 5\nburst = true\ndir = ["a", "b"]\nallow-uid = [1]\n'
    assert parse_file(text, KNOWN, LISTS) == {
        "workers": 4,
        "grace": 5,
        "burst": True,
        "dir": ["a", "b"],
        "allow_uid": [1],
    }


def test_an_empty_file_says_nothing() -> None:
    assert parse_file("", KNOWN, LISTS) == {}


def test_one_value_does_for_a_list() -> None:
    assert parse_file("dir = 'a'\nallow_uid = 1", KNOWN, LISTS) == {
        "dir": ["a"],
        "allow_uid": [1],
    }


def test_an_unknown_name_is_refused_and_the_known_are_told() -> None:
    with pytest.raises(UsageError, match=r"no setting 'worker'; .* grace, workers$"):
        parse_file("worker = 1", KNOWN, LISTS)


def test_what_is_not_toml_is_refused_with_its_place() -> None:
    with pytest.raises(UsageError, match=r"not TOML: .*line 2"):
        parse_file("workers = 1\nworkers\ndir = 1", KNOWN, LISTS)


@pytest.mark.parametrize(
    ("text", "takes"),
    [
        ("workers = '1'", "a whole number"),
        ("workers = 1.0", "a whole number"),
        ("workers = true", "a whole number"),
        ("workers = [1]", "a whole number"),
        ("workers = {a = 1}", "a whole number"),
        ("grace = 'x'", "a number"),
        ("grace = false", "a number"),
        ("burst = 1", "true or false"),
        ("burst = 'true'", "true or false"),
        ("dir = 1", "text"),
        ("dir = [['a']]", "text"),
        ("allow_uid = ['root']", "a whole number"),
        ("workers = 2026-11-20", "a whole number"),
    ],
)
def test_a_value_of_another_type_is_refused(text: str, takes: str) -> None:
    with pytest.raises(UsageError, match=f"cannot be: it takes {takes}$"):
        parse_file(text, KNOWN, LISTS)


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(UsageError) as caught:
        parse_file(f"workers = '{'x' * 1000}'", KNOWN, LISTS)
    assert len(str(caught.value)) < 200


def test_more_workers_than_a_machine_bears_are_refused() -> None:
    with pytest.raises(UsageError, match="1000 at most"):
        Settings(dirs=("a",), imports=("b",), workers=1001)
