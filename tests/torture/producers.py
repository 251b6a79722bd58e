"""Producers that may be killed at any moment: what they were promised is written down.

A line of ``acknowledged`` is written, and synced, after the put has returned.
"""

import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from spooler import Spooler

SPOOL: Final = Path(sys.executable).with_name("spool")


class Producer:
    """Puts tasks in one of several ways, in a process of its own.

    Args:
        acknowledged: Where a line is written for each task.
    """

    def __init__(
        self, spool: Path, acknowledged: Path, env: Mapping[str, str], task: str
    ) -> None:
        self._spool = spool
        self._acknowledged = acknowledged
        self._env = env
        self._task = task
        self._ways: dict[Callable[[int], None], int] = {
            self._one_by_one: 6,
            self._many: 3,
            self._dropped: 3,
            self._command: 1,
        }

    def fork(self, chance: random.Random) -> int:
        """Put some tasks in a new process; return its pid, that of a group too."""
        [way] = chance.choices([*self._ways], [*self._ways.values()])
        count = chance.randint(1, 4)
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            os.setpgid(0, 0)
            way(count)
            status = 0
        finally:
            os._exit(status)

    def _acknowledge(self, *numbers: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self._acknowledged, flags, 0o600)
        os.write(fd, "".join(f"{number}\n" for number in numbers).encode())
        os.fsync(fd)
        os.close(fd)

    def _one_by_one(self, count: int) -> None:
        spooler = Spooler(self._spool)
        for _ in range(count):
            number = uuid.uuid4().hex
            spooler.put(self._task, {"n": number})
            self._acknowledge(number)

    def _many(self, count: int) -> None:
        spooler = Spooler(self._spool)
        numbers = [uuid.uuid4().hex for _ in range(count * 2)]
        spooler.spool_many([spooler.call(self._task, {"n": n}) for n in numbers])
        self._acknowledge(*numbers)

    def _dropped(self, count: int) -> None:
        for _ in range(count):
            number = uuid.uuid4().hex
            path = self._spool / "tmp" / number
            path.write_text(f"task={self._task}\nn={number}\n")
            path.rename(self._spool / "5" / number)
            self._acknowledge(number)

    def _command(self, count: int) -> None:
        number = uuid.uuid4().hex
        command = [str(SPOOL), "--dir", str(self._spool), "put", self._task]
        command.append(f"n={number}")
        null = subprocess.DEVNULL
        done = subprocess.run(command, env=self._env, stdout=null, check=False)
        if done.returncode == 0:
            self._acknowledge(number)
