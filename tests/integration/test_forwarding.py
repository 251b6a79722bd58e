"""The outbox's own task: when it is tried again, and when it is given up."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from spooler import forwarding
from spooler.codec import decode
from spooler.current import CURRENT, CurrentTask
from spooler.errors import CorruptError, Fail, Retry
from spooler.forwarding import (
    FORWARD_ENTRY,
    PAUSE_MAX,
    REFUSALS_MAX,
    SPACING,
    Down,
    forward,
)
from spooler.lines import decode_line
from spooler.packet import encode_packet
from spooler.spooldir import SpoolDir
from spooler.spooldir.claims import Claims
from spooler.spooldir.owner import mark
from spooler.spooldir.reading import TaskFile
from spooler.spooldir.reports import append_attempt
from spooler.task import FORWARD, Claim

from ..helpers import make_name, path_of, put

ID = "0123456789abcdef"
BODY = encode_packet({b"task": b"t"})


@pytest.fixture(autouse=True)
def nobody_down() -> Iterator[None]:
    forwarding._DOWN.clear()
    token = CURRENT.set(None)
    yield
    CURRENT.reset(token)
    forwarding._DOWN.clear()


def test_pauses_grow_and_tasks_are_kept_apart() -> None:
    down = Down()
    pauses = []
    for _ in range(8):
        down.begin(100.0)
        pauses.append(down.until - 100)
    assert pauses == [1, 2, 4, 8, 16, PAUSE_MAX, PAUSE_MAX, PAUSE_MAX]
    found = [down.pause_for(100.0) for _ in range(3)]
    assert found == [PAUSE_MAX + SPACING * n for n in (1, 2, 3)]


def test_one_task_looks_again_and_the_others_do_not(tmp_path: Path) -> None:
    to = str(tmp_path / "s.sock")
    with pytest.raises(Retry, match="no answer from unix") as first:
        forward(to, body=BODY)
    assert first.value.after is not None
    assert 0 < first.value.after < 2
    assert forwarding._DOWN[to].pause == 1.0
    forwarding._DOWN[to].until += 1000.0
    with pytest.raises(Retry, match=f"nobody was at {to} just now") as second:
        forward(to, body=BODY)
    assert second.value.after is not None
    forwarding._DOWN[to].until = 0.0
    with pytest.raises(Retry, match="no answer from unix"):
        forward(to, body=BODY)
    assert forwarding._DOWN[to].pause == 2.0


class Other:
    """Somebody who gives one answer."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.answer = answer
        self.thread = Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        with self.listener, self.listener.accept()[0] as line:
            assert line.recv(1000) == BODY
            line.sendall(self.answer)


def test_what_was_sent_is_done_and_the_address_is_up_again(tmp_path: Path) -> None:
    to = tmp_path / "s.sock"
    down = forwarding._DOWN[str(to)] = Down()
    other = Other(to, b"\xff\0\0\1")
    forward(str(to), body=BODY)
    other.thread.join()
    assert down is not forwarding._DOWN.get(str(to))


def test_refusals_are_counted_and_end_in_failed(tmp_path: Path) -> None:
    spool = SpoolDir(tmp_path / "spool")
    spool.create()
    CURRENT.set(lambda: CurrentTask(ID, "spooler.forward", 99, 5, spool.path, 0))
    pauses = []
    for number in range(REFUSALS_MAX):
        for _ in range(2):  # what is not a refusal does not count
            append_attempt(spool, ID, {"error": "Retry: no answer from a:1"})
        to = tmp_path / f"{number}.sock"
        other = Other(to, b"\xff\0\0\0")
        with pytest.raises((Retry, Fail), match="has refused the task") as found:
            forward(str(to), body=BODY)
        other.thread.join()
        pauses.append(getattr(found.value, "after", None))
        append_attempt(spool, ID, {"error": f"Retry: {found.value}"})
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 1280, None]


# -- whose it is to ask for -----------------------------------------------------------


def held(
    spool: SpoolDir, data: bytes, uid: int | None = None
) -> tuple[Claim, TaskFile]:
    """Claim a task that is in a file of these bytes."""
    path = path_of(put(spool, make_name(task=FORWARD), data))
    if uid is not None:
        os.chown(f"{spool.path}/{path}", uid, -1)
    claims = Claims(spool, "w1", {os.getuid(), uid or 0})
    claim = claims.claim(path)
    assert claim is not None
    return claim, claims.open(claim)


def run(claim: Claim, task: TaskFile) -> None:
    handler = FORWARD_ENTRY.handler
    assert handler is not None
    try:
        handler(claim, task)
    finally:
        task.close()


HEADER = b'{"task":"spooler.forward","args":{"to":"/nowhere"}%s}\n'


def test_the_daemons_own_files_are_sent_on(spool: SpoolDir) -> None:
    claim, task = held(spool, HEADER % b"" + BODY)
    with pytest.raises(Retry, match="no answer from unix"):
        run(claim, task)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_nobody_else_may_have_tasks_sent_on(spool: SpoolDir) -> None:
    claim, task = held(spool, HEADER % b"" + BODY, uid=65534)
    with pytest.raises(Fail, match="uid 65534 may not"):
        run(claim, task)


def test_a_file_that_says_it_is_of_another_is_not_the_daemons_own(
    spool: SpoolDir,
) -> None:
    claim, task = held(spool, HEADER % b"" + BODY)
    assert mark(task.fd, 65534)
    with pytest.raises(Fail, match="uid 65534 may not"):
        run(claim, task)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_another_cannot_say_that_it_is_the_daemons_own(
    spool: SpoolDir,
) -> None:
    claim, task = held(spool, HEADER % b"" + BODY, uid=65534)
    assert mark(task.fd, os.geteuid())
    with pytest.raises(Fail, match="uid 65534 may not"):
        run(claim, task)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_what_is_signed_is_sent_on_whoever_has_put_it(spool: SpoolDir) -> None:
    claim, task = held(spool, HEADER % b"" + BODY, uid=65534)
    claim.signed = True
    with pytest.raises(Retry, match="no answer from unix"):
        run(claim, task)


def test_a_key_could_make_it_the_daemons_own(spool: SpoolDir) -> None:
    claim, task = held(spool, HEADER % b',"key":"k"' + BODY)
    with pytest.raises(Fail, match="with a key"):
        run(claim, task)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (HEADER % b"", "no packet"),
        (HEADER % b"" + b"rubbish", "no packet"),
        (HEADER % b"" + BODY[:-1], "cut short"),
        (b'{"task":"spooler.forward"}\n' + BODY, "missing"),
        (b'{"task":"spooler.forward","args":{"to":":no"}}\n' + BODY, ":no"),
        (encode_packet({b"ud_spool_func": FORWARD.encode(), b"to": b"/x"}), "uWSGI"),
    ],
)
def test_what_cannot_be_sent_is_given_up_at_once(
    spool: SpoolDir, data: bytes, problem: str
) -> None:
    claim, task = held(spool, data)
    with pytest.raises(Fail, match=problem):
        run(claim, task)


def test_it_follows_nothing_and_stands_in_no_batch() -> None:
    follower = b'{"task":"t","options":{"then":[{"task":"spooler.forward"}]}}'
    with pytest.raises(CorruptError, match="follows nothing"):
        decode(follower, whole=True)
    deep = b'{"task":"t","options":{"on_failure":[{"task":"u","options":{"then":'
    deep += b'[{"task":"spooler.forward"}]}}]}}'
    with pytest.raises(CorruptError, match="follows nothing"):
        decode(deep, whole=True)
    with pytest.raises(CorruptError, match="no place in a batch"):
        decode_line(b'{"task":"spooler.forward","args":{"to":"/x"}}')
