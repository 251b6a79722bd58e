"""Rules of the house that no linter knows."""

import ast
from pathlib import Path

import pytest

import spooler

ROOT = Path(spooler.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
OUTSIDE = [p for p in MODULES if p.parent.name != "spooldir"]
DISK = {
    "chmod",
    "glob",
    "hardlink_to",
    "iterdir",
    "mkdir",
    "read_bytes",
    "read_text",
    "rename",
    "rglob",
    "rmdir",
    "touch",
    "unlink",
    "write_bytes",
    "write_text",
}


def calls(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                names.add(function.attr)
            elif isinstance(function, ast.Name):
                names.add(function.id)
    return names


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_fits_in_500_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", OUTSIDE, ids=name)
def test_only_spooldir_touches_the_spool(path: Path) -> None:
    assert calls(path) & DISK == set()
