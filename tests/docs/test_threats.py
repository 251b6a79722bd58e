"""What the page on threats claims is tested: each test that it names is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/threats.md"


def test_every_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 15
    text = "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py"))
    there = set(re.findall(r"^def (test_\w+)\(", text, re.MULTILINE))
    assert named <= there


def test_every_row_names_a_test_or_says_why_there_is_none() -> None:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith(("| he tries", "|---")):
            assert re.search(r"`test_\w+` \|$|none \([^)]+\) \|$", line), line
