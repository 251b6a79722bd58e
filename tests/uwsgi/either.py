"""One application, run by a real uWSGI or by spoold: the test need not know which."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from ..helpers import FACTOR
from ..integration.conftest import LIMIT, SPOOLD, Spoold, wait_until
from .conftest import ROOT, UWSGI, Side, need_uwsgi

PACKAGES: Final = ROOT / ".venv-bench" / "packages"
"""What the applications import: for either server the same files."""

APPS: Final = Path(__file__).with_name("packages")

SERVERS: Final = ("uwsgi", "spoold")


def need_packages() -> None:
    """Skip if they are not installed; CI has them."""
    if not (PACKAGES / "ready").exists():
        why = "packages that use uWSGI are missing: make .venv-bench/packages/ready"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


class Either(Side):
    """A spool, what the application has told, and the server that runs it.

    Attributes:
        environ: More of the environment of all processes.
    """

    def __init__(self, kind: str, root: Path) -> None:
        need_packages()
        if kind == "uwsgi":
            need_uwsgi()
        super().__init__(kind, root / "spool", root / "out")
        self.spool.mkdir()
        self.out.mkdir()
        self.environ: dict[str, str] = {}

    def _environ(self) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith("SPOOL")}
        path = os.pathsep.join((str(PACKAGES), str(APPS)))
        return {**own, "OUT": str(self.out), "PYTHONPATH": path, **self.environ}

    def _command(self, modules: Sequence[str]) -> list[str]:
        imports = [part for name in modules for part in ("--import", name)]
        if self.kind == "spoold":
            command = [str(SPOOLD), "--uwsgi", "--dir", str(self.spool)]
            return [*command, "--frequency", "1", *imports]
        command = [str(UWSGI), "--master", "--need-app=false", "--spooler-ordered"]
        command += ["--spooler", str(self.spool), "--spooler-frequency", "1"]
        return [*command, *imports]

    @contextmanager
    def serve(self, *modules: str) -> Iterator[Spoold]:
        """Run the server with these modules imported, and stop it at the end."""
        with self._run(self._command(modules)) as daemon:
            yield daemon

    @contextmanager
    def serve_ini(self, text: str) -> Iterator[Spoold]:
        """Run the server with uWSGI's configuration, and stop it at the end."""
        path = self.out / "uwsgi.ini"
        path.write_text(text)
        spoold = (str(SPOOLD), "--uwsgi-ini")
        start = spoold if self.kind == "spoold" else (str(UWSGI), "--ini")
        with self._run([*start, str(path)]) as daemon:
            yield daemon

    @contextmanager
    def _run(self, command: list[str]) -> Iterator[Spoold]:
        log = self.out.parent / f"{self.kind}.log"
        self.daemon = Spoold(command, self.out, log, env=self._environ())
        try:
            yield self.daemon
        finally:
            self.stop()

    def put_by(self, module: str) -> None:
        """Run a module by itself, with uWSGI's names from spooler."""
        command = [sys.executable, "-m", "spooler.ext.uwsgi", "--dir", str(self.spool)]
        done = subprocess.run(
            [*command, str(APPS / f"{module}.py")],
            cwd=self.out,
            env=self._environ(),
            capture_output=True,
            text=True,
            timeout=30 * FACTOR,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def files(self) -> list[str]:
        """Return the tasks that wait, run or failed: paths in the spool.

        Timers of ``spoold`` are tasks too; they do not count.
        """
        found = [file for file in super().files() if ".uwsgi." not in file]
        for folder in ("failed", "corrupt"):
            with suppress(FileNotFoundError):
                names = os.listdir(self.spool / folder)
                found += [f"{folder}/{n}" for n in names if not n.endswith(".why")]
        return found

    def wait_until(self, fact: Callable[[], object], *, timeout: float = LIMIT) -> None:
        """Wait for a fact while the server runs."""
        ended = self.daemon.process.poll
        wait_until(lambda: fact() or ended() is not None, timeout=timeout)
        assert ended() is None, self.daemon.text()

    def wait_told(self, *lines: str, apart: Sequence[str] = ()) -> None:
        """Wait until exactly these lines are told, in any order, and nothing is left.

        Args:
            apart: Lines that do not count, since they are told again and again.
        """

        def told() -> Counter[str]:
            return Counter(line for line in self.lines() if line not in apart)

        wanted = Counter(lines)
        with suppress(AssertionError):  # the next line says more
            self.wait_until(lambda: not wanted - told() and not self.files())
        found = told()
        assert found == wanted, f"missing {wanted - found}, more {found - wanted}"
        assert not self.files(), self.files()

    def wait_often(self, line: str, times: int = 3) -> None:
        """Wait until a line was told so often."""
        self.wait_until(lambda: self.lines().count(line) >= times)
