"""Producers and an operator: ``python -m … WHAT LEDGER SECONDS SEED``.

The spool is ``$SPOOL_DIR``.

Each writes down, outside of the disk that is recorded, what it is about to do and
what it was told that it has done; a line is one event.
"""

import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Event as Pause
from time import monotonic, monotonic_ns
from typing import Final

import msgspec

from spooler import DuplicateError, Spooler
from spooler.clock import CLOCK
from spooler.codec import encode
from spooler.putting import default_path
from spooler.spooldir import SpoolDir, control, members, repair
from spooler.spooldir.files import write_all
from spooler.task import Name, derived_id

from . import power_tasks as tasks
from .power_ledger import KEYS, Event

BACKLOG: Final = 100
"""Tasks that are put in the end, for workers that then have no producer beside them."""

BACKLOG_TIME: Final = 5.0
"""Seconds that this may take."""

LINES: Final = 40
"""Lines of a batch at most; the last one has ``BACKLOG`` times ten."""

SPOOL: Final = Path(sys.executable).with_name("spool")


class Load:
    """One producer.

    Args:
        ledger: The file for its events.
        seed: Of what it does by chance.
    """

    def __init__(self, ledger: str, seed: int) -> None:
        self.path = default_path()
        self.rng = Random(seed)
        self.spooler = Spooler()
        self._ledger = Path(ledger).open("ab", buffering=0)  # noqa: SIM115

    def say(
        self, say: str, kind: str, *ids: str, state: str = "", safe: bool = True,
        key: str = "",
    ) -> None:  # fmt: skip
        """Write an event down."""
        event = Event(monotonic_ns(), say, kind, list(ids), safe, state, key)
        self._ledger.write(msgspec.json.encode(event) + b"\n")

    def id(self) -> str:
        """Return a new id."""
        return os.urandom(8).hex()

    def note(self) -> tuple[dict[str, object], bytes]:
        """Return the arguments and the body of a ``note``."""
        n = self.rng.randrange(1 << 30)
        size = self.rng.choice((0, 10, 600, 5000, 20_000))
        body = self.rng.randbytes(size)
        return {"n": n, "crc": zlib.crc32(body, n)}, body

    # -- what they do, once each -------------------------------------------------

    def put(self) -> None:
        """Put a task of any kind."""
        kinds = (tasks.slow, tasks.flaky, tasks.bad, tasks.kept, tasks.wave)
        task_id, n = self.id(), self.rng.randrange(1000)
        chance = self.rng.random()
        if chance < 0.4:
            self.put_note(task_id)
        elif chance < 0.5:
            self.put_as_member(task_id)
        elif chance < 0.6:
            self.say("try", "parent", task_id)
            then = tasks.child.call(n)
            tasks.parent.using(id=task_id, then=then).spool(n)
            self.say("put", "parent", task_id)
        else:
            task = self.rng.choice(kinds)
            self.say("try", task.name, task_id)
            task.using(id=task_id).spool(n)
            self.say("put", task.name, task_id)

    def put_note(self, task_id: str) -> None:
        """Put a ``note``, at times a fast one, or one with another priority."""
        args, body = self.note()
        safe = self.rng.random() < 0.9
        self.say("try", "note", task_id, safe=safe)
        self.spooler.put(
            "note", args, body=body, id=task_id,
            durability="safe" if safe else "fast",
            priority=self.rng.choice((5, 5, 5, 0, 12)),
        )  # fmt: skip
        self.say("put", "note", task_id, safe=safe)

    def put_as_member(self, task_id: str) -> None:
        """Put a ``note`` as a member of a group spool does."""
        args, body = self.note()
        name = Name(CLOCK.now_us(), 5, 0, task_id, "note")
        data = encode("note", msgspec.json.encode(args)) + body

        def fill(fd: int) -> None:
            write_all(fd, data)
            os.fsync(fd)

        spool, door = SpoolDir(self.path), members.enter(self.path)
        if door is None:
            raise FileNotFoundError(self.path)
        self.say("try", "note", task_id)
        try:
            members.put(
                door, self.path, name, fill, spool.open, durable=True, unnamed=True
            )
        finally:
            os.close(door)
            spool.close()
        self.say("put", "note", task_id)

    def backlog(self) -> None:
        """Put many that take a moment; fewer where the disk is slow."""
        until = monotonic() + BACKLOG_TIME
        for _ in range(BACKLOG):
            if monotonic() > until:
                return
            task_id = self.id()
            self.say("try", "slow", task_id)
            tasks.slow.using(id=task_id).spool(1)
            self.say("put", "slow", task_id)

    def batch(self, lines: int | None = None) -> None:
        """Put a batch."""
        batch_id = self.id()
        count = lines or self.rng.randint(1, LINES)
        ids = [derived_id(batch_id, number) for number in range(count)]
        kind = "slow" if lines else self.rng.choice(("slow", "flaky", "child"))
        task = {"slow": tasks.slow, "flaky": tasks.flaky, "child": tasks.child}[kind]
        self.say("try", kind, *ids)
        self.spooler.spool_many([task.call(1)] * count, id=batch_id)
        self.say("put", kind, *ids)

    def last_batch(self) -> None:
        """Put a long batch."""
        self.batch(BACKLOG * 10)

    def keyed(self) -> None:
        """Put a task with a key that another may have."""
        args, body = self.note()
        key = f"key {self.rng.randrange(KEYS)}"
        task_id, policy = self.id(), self.rng.choice(("skip", "raise"))
        self.say("try", "note", task_id, key=key)
        with suppress(DuplicateError):
            done = self.spooler.put(
                "note", args, body=body, id=task_id, key=key,
                if_exists="skip" if policy == "skip" else "raise",
            )  # fmt: skip
            # Of the task that has the key, if there is one: that one is promised.
            self.say("put", "note", done.id, key=key)
        Pause().wait(self.rng.random() * 0.01)

    def shell(self) -> None:
        """Use the command, or drop a file as a script does."""
        args, body = self.note()
        task_id = self.id()
        if self.rng.random() < 0.5:
            self.say("try", "note", task_id)
            words = [f"{name}:={value}" for name, value in args.items()]
            command = [str(SPOOL), "put", "note", *words]
            command += ["--id", task_id, "--body", "-"]
            subprocess.run(command, input=body, check=True, stdout=subprocess.DEVNULL)
            self.say("put", "note", task_id)
            return
        self.say("try", "note", task_id, safe=False)
        head = {"task": "note", "args": args, "id": task_id}
        script = f"cat > tmp/{task_id} && mv tmp/{task_id} 5/drop-{task_id}"
        subprocess.run(
            ["sh", "-c", script], cwd=self.path, check=True,
            input=msgspec.json.encode(head) + b"\n" + body,
        )  # fmt: skip

    def operate(self) -> None:
        """Bring a task that is due in an hour from one state to the next."""
        args, body = self.note()
        task_id = self.id()
        self.say("op-try", "later", task_id, state="waiting")
        self.spooler.put("note", args, body=body, id=task_id, at="+1h")
        self.say("op", "later", task_id, state="waiting")
        spool = SpoolDir(self.path)
        state = "waiting"
        while self.rng.random() < 0.7:
            state = self.rng.choice(_NEXT[state])
            self.say("op-try", "later", task_id, state=state)
            found = repair.find(spool, task_id)
            if state == "held":
                control.hold(spool, found)
            elif state == "waiting":
                control.release(spool, found)
            elif state == "failed":
                repair.fail(spool, found)
            else:
                repair.remove(spool, found)
            self.say("op", "later", task_id, state=state)
            if state == "gone":
                return
        if state == "failed":  # then it runs
            self.say("op-try", "later", task_id, state="kicked")
            repair.kick(spool, repair.find(spool, task_id))
            self.say("op", "later", task_id, state="kicked")


_NEXT: Final = {
    "waiting": ("held", "failed", "gone"),
    "held": ("waiting", "failed", "gone"),
    "failed": ("gone",),
}

PRODUCERS: Final[dict[str, tuple[Callable[[Load], None], Callable[[Load], None]]]] = {
    "puts": (Load.put, Load.backlog),
    "batches": (Load.batch, Load.last_batch),
    "keys": (Load.keyed, lambda load: None),
    "shell": (Load.shell, lambda load: None),
    "operator": (Load.operate, lambda load: None),
}
"""What each does again and again, and what in the end."""


def main(what: str, ledger: str, seconds: str, seed: str) -> None:
    """Be a producer for so many seconds."""
    load = Load(ledger, int(seed))
    act, end = PRODUCERS[what]
    until = monotonic() + float(seconds)
    while monotonic() < until:
        act(load)
    end(load)


if __name__ == "__main__":
    main(*sys.argv[1:])
