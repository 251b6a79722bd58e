"""The reference is complete: options, names, decisions, links."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import spooler
from spooler.cli import spool, spoold
from spooler.errors import ArgumentsError, SpoolerError
from spooler.retry import RetryPolicy
from spooler.tasks import ForeverOptions

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
PAGES = [
    page
    for page in sorted(ROOT.rglob("*.md"))
    if not any(part[0] in "._" for part in page.relative_to(ROOT).parts)
    and not {"build", "node_modules"} & set(page.relative_to(ROOT).parts)
]
HEADINGS = ["Question", "Choices", "Decision", "Price", "What would change our mind"]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands() -> Iterator[tuple[str, click.Command]]:
    yield "spoold", spoold.main
    yield "spool", spool.main
    for command in spool.main.commands.values():
        yield "spool", command


def options() -> Iterator[tuple[str, click.Option]]:
    for page, command in commands():
        context = click.Context(command)
        for parameter in command.get_params(context):
            if isinstance(parameter, click.Option):
                yield page, parameter


@pytest.mark.parametrize(
    ("page", "option"), list(options()), ids=lambda each: getattr(each, "name", each)
)
def test_option_has_help_and_is_in_the_reference(
    page: str, option: click.Option
) -> None:
    assert option.help
    text = read(REFERENCE / f"{page}.md")
    for spelling in option.opts:
        assert re.search(rf"(?<![\w-]){re.escape(spelling)}(?![\w-])", text), spelling


@pytest.mark.parametrize(("page", "command"), list(commands()), ids=str)
def test_command_has_help_and_is_in_the_reference(
    page: str, command: click.Command
) -> None:
    assert command.help
    if command.name != "main":
        assert f"spool {command.name}" in read(REFERENCE / f"{page}.md")


def settings_rows() -> dict[str, list[str]]:
    """Return the rows of the table in spoold.md by option."""
    rows = {}
    for line in read(REFERENCE / "spoold.md").splitlines():
        if line.startswith("| `-"):
            cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
            rows[cells[0].split()[0].strip("`,")] = cells
    return rows


def test_settings_of_spoold_are_those_of_the_table() -> None:
    rows = settings_rows()
    context = click.Context(spoold.main)
    for option in spoold.main.get_params(context):
        assert isinstance(option, click.Option)
        _, environment, setting, default, _ = rows.pop(option.opts[0])
        if {"--help", "--version"} & set(option.opts):
            continue
        plain = option.opts[0][2:].replace("-", "_")
        assert environment == f"SPOOLER_{plain.upper()}"
        assert setting == ("none" if plain == "config" else plain)
        if option.multiple:
            assert default in ("required", "none")
        elif option.is_flag:
            assert default == "no"
        elif isinstance(option.default, int | float):
            assert float(default) == option.default
        elif isinstance(option.default, str):
            assert default == option.default
        else:  # click 8.3 has a value of its own for no default
            assert default == "none"
    assert not rows


def log_messages() -> Iterator[str]:
    """Yield the texts that are given to a logger anywhere in spooler."""
    for module in sorted(Path(spooler.__path__[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(read(module))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
            ):
                texts = [a for a in node.args if isinstance(a, ast.Constant)]
                yield from (a.value for a in texts[:1] if isinstance(a.value, str))


def test_what_is_logged_is_in_the_reference() -> None:
    text = read(REFERENCE / "log.md")
    messages = set(log_messages())
    assert len(messages) > 20
    for message in messages:
        words = re.split(r"%\S+", message)[0].split()[:2]
        if words and not message.startswith(("import", "template %d", "worker %s")):
            assert " ".join(words).rstrip(":;,") in text, message


def test_every_public_name_is_in_the_reference() -> None:
    text = read(REFERENCE / "api.md")
    missing = [n for n in spooler.__all__ if not re.search(rf"`?\b{n}\b", text)]
    assert not missing


def test_every_option_of_a_decorator_is_in_the_reference() -> None:
    text = read(REFERENCE / "api.md")
    for option in (*ForeverOptions.__annotations__, "overlap", "tz"):
        assert f"\n| `{option}` | " in text, option


def test_every_error_is_in_the_tree_of_the_reference() -> None:
    text = read(REFERENCE / "api.md")
    for public in spooler.__all__:
        value = getattr(spooler, public)
        if isinstance(value, type) and issubclass(value, SpoolerError):
            assert re.search(rf"^[├└│─ ]*{public}\b", text, re.MULTILINE), public
    assert issubclass(ArgumentsError, spooler.UsageError)


def test_the_retry_table_is_what_the_defaults_come_to() -> None:
    policy = RetryPolicy()
    text = read(REFERENCE / "api.md")
    for attempt in range(1, policy.max_attempts):
        middle, low, high = (
            round(policy.delay(attempt, lambda part=part: part))  # type: ignore[misc] # a default binds it
            for part in (0.5, 0.0, 1.0)
        )
        assert f"| {attempt} | {middle} ({low} to {high}) |" in text
    assert f"| {policy.max_attempts} | none: it is given up |" in text
    assert policy.exhausted(policy.max_attempts)


@pytest.mark.parametrize("page", DECISIONS, ids=name)
def test_decision_has_its_headings_and_fits_on_a_page(page: Path) -> None:
    text = read(page)
    assert re.match(rf"# {page.name[:4]}\. \S", text)
    assert re.search(r"^\*\*Status:\*\* \w+, \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert len(text.split()) <= 600


def test_decisions_are_numbered_and_in_the_index() -> None:
    numbers = [int(page.name[:4]) for page in DECISIONS]
    assert numbers == list(range(1, len(numbers) + 1))
    index = read(DOCS / "README.md")
    assert all(f"decisions/{page.name}" in index for page in DECISIONS)


def test_every_page_is_in_the_index() -> None:
    index = read(DOCS / "README.md")
    for folder in ("", "howto/", "reference/"):
        for page in (DOCS / folder).glob("*.md"):
            if page.name != "README.md":
                assert f"({folder}{page.name})" in index, page


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", read(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    return {title.replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.findall(text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert ROOT in target.parents, link
        if anchor:
            assert anchor in anchors(target), link
