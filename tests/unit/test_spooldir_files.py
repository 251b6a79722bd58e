"""Some of many names."""

import os
from collections import Counter
from pathlib import Path

import pytest

from spooler.spooldir.files import each_name, some_of


@pytest.mark.parametrize("count", [0, 1, 9, 10])
def test_of_few_names_all_are_taken(count: int) -> None:
    names = [str(number) for number in range(count)]
    assert some_of(names, 10) == names


def test_of_many_names_each_is_taken_about_as_often() -> None:
    names = [str(number) for number in range(40)]
    taken: Counter[str] = Counter()
    for _ in range(4_000):
        some = some_of(iter(names), 10)
        assert len(set(some)) == 10
        taken.update(some)
    # 1000 of each are expected; ten times the deviation is never passed by chance.
    assert set(taken) == set(names)
    assert 700 < min(taken.values()) <= max(taken.values()) < 1300


def test_each_name_of_a_directory_comes_once(tmp_path: Path) -> None:
    names = {".hidden", "a.tmp", *(str(number) for number in range(300))}
    for name in names:
        (tmp_path / name).touch()
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        found = list(each_name(root, "."))
        assert sorted(found) == sorted(names)
        assert list(each_name(root, "gone")) == []
    finally:
        os.close(root)
