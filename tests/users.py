"""Other users for tests: real ones, in a copy of /etc that only their processes see."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ENTER = """\
mask=$(umask)
umask 022
mount --bind "$1" /etc
if [ -n "$2" ]; then                    # the interpreter is out of others' reach
    there=$(mktemp -d)
    mount --bind "$3" "$there"
    mount -t tmpfs -o mode=755 none "$2"
    mkdir -p "$3"
    mount --move "$there" "$3"
    rmdir "$there"
fi
shift 3
umask "$mask"
exec "$@"
"""

_USERS = """\
groupadd web
for user in shop alice bob carol; do useradd --user-group "$user"; done
usermod -a -G web alice
usermod -a -G web bob
"""


class Users:
    """The users shop, alice, bob and carol; alice and bob are in the group web.

    Attributes:
        home: A directory that all can pass.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.etc = home / ".etc"
        shutil.copytree("/etc", self.etc, symlinks=True)

    def enter(self, *command: str | Path) -> list[str | Path]:
        """Return a command line by which root runs a command among these users."""
        closed: str | Path = ""
        for folder in Path(sys.base_prefix).parents:
            if not folder.stat().st_mode & 0o001:
                closed = folder
        there = (self.etc, closed, sys.base_prefix)
        return ["unshare", "--mount", "sh", "-eu", "-c", _ENTER, "sh", *there, *command]

    def by(self, user: str, *command: str | Path) -> list[str | Path]:
        """Return a command line by which a user runs a command."""
        switch = ("setpriv", "--reuid", user, "--regid", user, "--init-groups")
        return self.enter(*switch, *command)

    def run(
        self, user: str, *command: str | Path, stdin: str = "", umask: int = -1
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command as a user, with the commands of spooler on the PATH."""
        return subprocess.run(
            self.by(user, *command),
            input=stdin,
            text=True,
            capture_output=True,
            check=False,
            timeout=50,
            env=self.environ(),
            cwd=self.home,
            umask=umask,
        )

    def environ(self) -> dict[str, str]:
        """Return the environment of commands."""
        keep = {k: v for k, v in os.environ.items() if not k.startswith("SPOOL")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return keep | {"PATH": path, "HOME": str(self.home), "LC_ALL": "C.UTF-8"}


@contextmanager
def some_users(script: str = _USERS) -> Iterator[Users]:
    """Give these users; skip the test where they cannot be.

    Args:
        script: Makes them.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, to become other users")
    for command in ("unshare", "setpriv", "useradd", "groupadd", "usermod"):
        if shutil.which(command) is None:
            pytest.skip(f"there is no {command} here")
    home = Path(tempfile.mkdtemp(prefix="spooler-"))
    try:
        home.chmod(0o755)
        users = Users(home)
        make = users.enter("sh", "-eu", "-c", script)
        done = subprocess.run(make, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot make users here: {done.stderr}")
        yield users
    finally:
        shutil.rmtree(home)
