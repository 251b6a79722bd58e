"""The pages run: README.md, docs/tutorial.md and docs/howto/*.md.

One convention, by what stands after the three backticks:

* ``python NAME``, ``sh NAME``, ``c NAME``, ``toml NAME`` …: a file. It is written, with
  this name, into the page's directory, which is new and empty.
* ``python``: run by ``python`` in that directory.
* ``sh``: run by the page's shell. All such blocks of a page are given to one shell, in
  order, so that variables and background processes go on; one that fails ends the page.
* ``text``: what is printed. Each of its lines must come, in any order, after the first
  block was begun since the last such text; ``…`` stands for any text, spaces for any
  spaces. So a page waits for a fact by showing it.
* anything else (``ini``, ``console``, ``toml``, nothing): only shown.

The port 10017 of a page is another one, which nobody else is given meanwhile.

The installed commands are on the PATH. When a page is over its daemons get SIGTERM, and
no process may be left.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ..helpers import FACTOR, wait_until
from ..integration.conftest import parent_of
from ..users import some_users
from ..uwsgi.conftest import obeys

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "docs/tutorial.md",
    *sorted((ROOT / "docs/howto").glob("*.md")),
    ROOT / "docs/reference/uwsgi.md",
]
NEEDS = {
    "leave-uwsgi.md": ("curl", "uwsgi"),
    "put-from-another-language.md": ("cc", "perl"),
    "share-a-spool.md": ("runuser",),
}
MAKES_USERS = {"share-a-spool.md"}
"""Pages for root, who makes users: in a copy of /etc that only the page sees."""
PATH = ":".join(
    str(folder)
    for folder in (
        Path(sys.executable).parent,
        os.environ["PATH"],
        ROOT / ".venv-bench/bin",
    )
)
"""The installed commands first; last those of others that we are compared with."""
PORT = "10017"
SHELL = ("sh", "-eu")
LIMIT = 10.0
FENCE = re.compile(r"^```([a-z]*)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    file: str | None
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], found[3], text[: found.start()].count("\n") + 1)
        for found in FENCE.finditer(text)
    ]


def missing_lines(expected: str, output: str) -> list[str]:
    """Return the expected lines that are not in the output."""
    lines = {" ".join(line.split()) for line in output.splitlines()}
    missing = []
    for line in expected.splitlines():
        parts = [re.escape(part) for part in " ".join(line.split()).split("…")]
        if not any(re.fullmatch(".*".join(parts), found) for found in lines):
            missing.append(line)
    return missing


class Page:
    """One page's directory and shell."""

    def __init__(
        self, page: Path, folder: Path, shell: Sequence[str | Path] = SHELL
    ) -> None:
        self.page = page
        self.home = folder / "page"
        self.home.mkdir()
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.output = self.scratch / "output"
        self.ended = self.scratch / "ended"
        self.ended.touch()
        self.mark = f"SPOOLER_PAGE={folder}"
        # It does not listen: a server that sets SO_REUSEADDR can have the port, too.
        self.holder = socket.socket()
        self.holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.holder.bind(("127.0.0.1", 0))
        keep = {k: v for k, v in os.environ.items() if not k.startswith("SPOOL")}
        name, _, value = self.mark.partition("=")
        environment = {
            **keep,
            name: value,
            "PATH": PATH,
            "PYTHONPATH": str(self.home),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.home),
            "TMPDIR": str(self.scratch),
            "LC_ALL": "C.UTF-8",
        }
        with self.output.open("ab") as output:
            self.shell = subprocess.Popen(
                shell,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self.home,
                env=environment,
                start_new_session=True,
            )

    def run(self, number: int, block: Block) -> int:
        """Run a block; return where its output begins."""
        self.wait(self.all_obey, "for a uWSGI that takes signals", block)
        begin = self.output.stat().st_size
        file = self.scratch / f"block-{number}.{block.language}"
        file.write_text(block.text, encoding="utf-8")
        how = f". {file}" if block.language == "sh" else f"python {file}"
        stdin = self.shell.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):
            stdin.write(f"{how} </dev/null\necho {number} >>{self.ended}\n".encode())
            stdin.flush()

        def over() -> bool:
            return str(number) in self.ended.read_text().split() or self.is_dead()

        self.wait(over, "to end", block)
        if self.is_dead():
            pytest.fail(f"{self.place(block)} failed:\n{self.tail(begin)}")
        return begin

    def is_dead(self) -> bool:
        return self.shell.poll() is not None

    def place(self, block: Block) -> str:
        return f"{self.page.relative_to(ROOT)}, line {block.line}"

    def tail(self, begin: int) -> str:
        return self.output.read_bytes()[begin:].decode(errors="replace")

    def wait(self, fact: object, what: str, block: Block) -> None:
        assert callable(fact)
        try:
            wait_until(fact, timeout=LIMIT)
        except AssertionError:
            text = self.output.read_text(errors="replace")
            pytest.fail(f"{self.place(block)}: waited in vain {what}, after:\n{text}")

    def expect(self, block: Block, begin: int) -> None:
        def shown() -> bool:
            return not missing_lines(block.text, self.tail(begin))

        self.wait(shown, f"for {block.text!r}", block)

    def blocks(self) -> Iterator[Block]:
        port = str(self.holder.getsockname()[1])
        for block in blocks(self.page):
            yield replace(block, text=block.text.replace(PORT, port))

    def play(self) -> None:
        begin, is_told = 0, True
        for number, block in enumerate(self.blocks()):
            if block.file is not None:
                path = self.home / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
                path.chmod(0o755)
            elif block.language in ("sh", "python"):
                begun = self.run(number, block)
                begin, is_told = begun if is_told else begin, False
            elif block.language == "text":
                self.expect(block, begin)
                is_told = True

    def processes(self) -> list[int]:
        """Return the processes that this page has started and that live."""
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if self.mark.encode() in file.read_bytes().split(b"\0"):
                    found.append(int(file.parent.name))
        return found

    def all_obey(self) -> bool:
        """Tell whether no uWSGI of the page's shell ignores a ``kill``, as at first."""
        for pid in self.processes():
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
                is_master = parent_of(pid) == self.shell.pid
                if is_master and command.endswith(b"uwsgi") and not obeys(pid):
                    return False
        return True

    def stop(self) -> None:
        """End the page's shell and daemons; make sure that no process is left."""
        self.holder.close()
        try:
            self.shell.communicate(timeout=LIMIT * FACTOR)
            for pid in self.processes():
                with suppress(OSError):
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    if any(part.endswith(b"/spoold") for part in command):
                        os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not self.processes(), timeout=LIMIT)
        finally:
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def opened(
    page: Path, folder: Path, shell: Sequence[str | Path] = SHELL
) -> Iterator[Page]:
    played = Page(page, folder, shell)
    try:
        yield played
    finally:
        played.stop()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page: Path, tmp_path: Path) -> None:
    for command in NEEDS.get(page.name, ()):
        if shutil.which(command, path=PATH) is None:
            must = command == "uwsgi" and os.environ.get("CI")
            (pytest.fail if must else pytest.skip)(f"there is no {command} here")
    if page.name not in MAKES_USERS:
        with opened(page, tmp_path) as played:
            played.play()
        return
    with (
        some_users("true") as users,
        opened(page, users.home, users.enter(*SHELL)) as played,
    ):
        played.play()


def test_every_block_is_of_a_kind_that_the_convention_knows() -> None:
    known = {"", "c", "console", "ini", "json", "perl", "python", "sh", "text", "toml"}
    for page in PAGES:
        found = {block.language for block in blocks(page)}
        assert found <= known, page
        fences = page.read_text(encoding="utf-8").count("\n```")
        assert fences == 2 * len(blocks(page)), f"{page}: a fence that is not closed"
