"""Tasks through sockets, both ways between spoold and a real uWSGI.

What needs no uWSGI is in tests/integration/test_network.py.
"""

import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spooler import Spooler, SpoolRefused, SpoolUnreachable
from spooler.packet import encode_packet
from spooler.sending import STORED, send

from ..helpers import connect, everything
from ..integration.conftest import wait_until
from .conftest import TIMEOUT, UWSGI, Both, need_uwsgi

pytestmark = pytest.mark.timeout(TIMEOUT)

PATIENT = ("--socket-timeout", "100")
"""For a machine on which a thread may have to wait for its turn."""

APP = """
import uwsgi

def run(task):
    pairs = sorted((str(key), str(value)) for key, value in task.items()
                   if key not in ("spooler_task_name", b"spooler.task"))
    tell(pairs)
    return uwsgi.SPOOL_OK

uwsgi.spooler = run
"""

HELLO = """
import uwsgi, uwsgidecorators

@uwsgidecorators.spool
def hello(arguments):
    tell(arguments["name"], len(arguments.get("body", b"")), sorted(arguments))

@uwsgidecorators.spool(pass_arguments=True)
def add(a, b):
    tell(a + b)
"""

PRODUCER = """
import mine, uwsgi

for name in (b"one", b"two" * 30_000):
    task = {b"ud_spool_func": b"hello", b"ud_spool_ret": b"-2", b"name": name}
    answer = "it took too long"  # for this machine, maybe
    while "it took too long" in str(answer):
        try:
            answer = uwsgi.spool({**task, b"spooler": b"%(to)s", b"body": b"body"})
        except ValueError as error:
            answer = error
    print(answer)
"""

LATER = """
import mine
to = {"spooler": "%(to)s", "outbox": True}
print(mine.hello.spool(name="three", **to))
print(mine.add.spool(3, 4, **to))
"""


def patient(call: Callable[..., object], *args: Any, **rest: Any) -> None:
    """Call what gives the other side 4 s, until this machine was fast enough."""
    while True:
        try:
            call(*args, **rest)
        except SpoolUnreachable as error:
            if "it took too long" not in str(error):
                raise
        else:
            return


def say(address: str, data: bytes) -> bytes:
    """Send bytes, and return all that is answered until the other side closes."""
    with connect(address) as line:
        line.sendall(data)
        return everything(line)


@pytest.fixture
def addresses(both: Both, free_port: Callable[[], int]) -> tuple[str, str]:
    """Start both servers, each with a socket and the application; return those."""
    need_uwsgi()
    both.application(APP)
    real, ours = (f"127.0.0.1:{free_port()}" for _ in range(2))
    both.start_uwsgi("--socket", real, "--spooler-ordered")
    both.start_spoold("--socket", ours, *PATIENT)
    wait_until(lambda: listens(real) and listens(ours))
    return real, ours


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


def test_a_packet_has_the_same_answer_and_runs_the_same(
    both: Both, addresses: tuple[str, str]
) -> None:
    packets = [
        encode_packet({b"a": b"1", b"priority": b"3"}),
        encode_packet({b"at": b"1000000000.5", b"b": b""}),
        encode_packet({b"ud_spool_func": b"f", b"c": b"\xff" * 3000}),
        b"\x11" + encode_packet({b"modifier 2": b"7"})[1:3] + b"\x07"
        b"\x0a\0modifier 2\1\x007",
    ]
    for packet in packets:
        answers = [say(address, packet) for address in addresses]
        assert answers == [STORED, STORED]
    sides = both.uwsgi, both.spoold
    for side in sides:
        side.wait_lines(len(packets))
    assert sorted(both.uwsgi.lines()) == sorted(both.spoold.lines())
    for side in sides:
        side.wait_done()


def test_a_spool_that_is_not_there_is_refused_by_both(
    both: Both, addresses: tuple[str, str]
) -> None:
    packet = encode_packet({b"a": b"1", b"spooler": b"/nowhere"})
    for address in addresses:
        assert say(address, packet) == b"\xff\0\0\0"
        with pytest.raises(SpoolRefused):
            patient(send, address, {b"a": b"1", b"spooler": b"/nowhere"})
    both.spoold.daemon.wait_for("spooler: '/nowhere' is not served here")


def test_a_ping_of_uwsgi_is_answered(both: Both, addresses: tuple[str, str]) -> None:
    for address in addresses:
        done = subprocess.run([UWSGI, "--ping", address], capture_output=True)
        assert done.returncode == 0, done.stderr


def test_the_python_api_puts_tasks_into_a_real_uwsgi(
    both: Both, addresses: tuple[str, str]
) -> None:
    real = Spooler(addresses[0])
    patient(real.put, "resize", {"photo": "1.png", "width": 200, "tags": ["a"]})
    [line] = set(both.uwsgi.wait_lines(1))
    pairs = {"photo": "1.png", "width": "200", "tags": '["a"]'}
    for key, value in {**pairs, "ud_spool_func": "resize"}.items():
        assert str((str(key.encode()), str(value.encode()))) in line
    with pytest.raises(SpoolRefused, match="it keeps no bodies"):
        patient(real.put, "resize", body=b"body")
    with pytest.raises(SpoolRefused, match="it keeps no bodies"):
        patient(real.put, "resize", {"photo": "x" * 70_000})
    with pytest.raises(SpoolUnreachable):  # more than its --buffer-size
        patient(real.put, "resize", {"photo": "x" * 5000})
    both.uwsgi.wait_done()
    assert set(both.uwsgi.lines()) == {line}


def test_an_outbox_waits_for_a_real_uwsgi(
    both: Both, free_port: Callable[[], int]
) -> None:
    need_uwsgi()
    both.application(APP)
    real = f"127.0.0.1:{free_port()}"
    for number in range(3):
        Spooler(both.spool).put("f", {"n": number}, spooler=real, outbox=True)
    both.start_spoold().daemon.wait_for("retry task=")
    both.start_uwsgi("--socket", real)
    for number in range(3):
        text = f"b'{number}'"
        wait_until(lambda text=text: any(text in x for x in both.uwsgi.lines()))  # type: ignore[misc]  # bound
    wait_until(both.is_empty)
    assert not both.failed()


def test_a_real_uwsgi_sends_requests_with_their_bodies(
    both: Both, free_port: Callable[[], int]
) -> None:
    need_uwsgi()
    both.application(APP)
    web, ours = (f"127.0.0.1:{free_port()}" for _ in range(2))
    both.start_spoold("--socket", ours, *PATIENT)
    router = ["--master", "--die-on-term", "--http", web, "--http-to", ours]
    both.launch([str(UWSGI), *router, "--http-modifier1", "17"])
    wait_until(lambda: listens(web) and listens(ours))
    body = bytes(range(256)) * 500
    head = b"POST /x?y=1 HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert say(web, head + body) == STORED
    assert say(web, b"GET /z HTTP/1.0\r\n\r\n") == STORED
    lines = both.spoold.wait_lines(2)
    [posted] = [line for line in lines if "b'POST'" in line]
    assert str(("body", str(body))) in posted
    assert "CONTENT_LENGTH" not in posted
    [asked] = [line for line in lines if "b'GET'" in line]
    assert "'body'" not in asked


# -- the module uwsgi -----------------------------------------------------------------


def test_uwsgi_spool_sends_to_the_socket_that_is_its_spooler(
    both: Both, tmp_path: Path
) -> None:
    both.application(HELLO)
    to = {"to": str(tmp_path / "s.sock")}
    errors = both.produce(PRODUCER % to).splitlines()
    assert [line.partition(":")[0] for line in errors] == ["unable to spool job"] * 2
    assert "no answer from unix:" in errors[0]
    both.start_spoold("--socket", to["to"], *PATIENT)
    assert both.produce(PRODUCER % to).splitlines() == [f"b'unix:{to['to']}'"] * 2
    wait_until(lambda: len(set(both.spoold.lines())) == 2)
    lines = sorted(set(both.spoold.lines()))
    keys = ["body", "name", "spooler_task_name", "ud_spool_func", "ud_spool_ret"]
    assert lines == [f"{name} 4 {keys}" for name in ("one", "two" * 30_000)]


def test_uwsgi_spool_with_an_outbox_waits_for_the_socket(
    both: Both, tmp_path: Path
) -> None:
    both.application(HELLO)
    to = {"to": str(tmp_path / "s.sock")}
    printed = both.produce(LATER % to, "--dir", str(both.spool))
    assert printed.count(".spooler.forward") == len(both.waiting()) == 2
    both.start_spoold("--socket", to["to"])
    wait_until(lambda: len(set(both.spoold.lines())) == 2)
    summed, named = sorted(set(both.spoold.lines()))
    assert summed == "7"
    assert named.startswith("three 0 [")
    assert "outbox" not in named
    wait_until(both.is_empty)


def test_send_message_sends_a_task(both: Both, tmp_path: Path) -> None:
    both.application(HELLO)
    path = tmp_path / "s.sock"
    both.start_spoold("--socket", str(path), *PATIENT)
    message = {"ud_spool_func": "hello", "ud_spool_ret": "-2", "name": "four"}
    script = (
        "import mine, uwsgi\n"
        f"answer = uwsgi.send_message({str(path)!r}, 17, 0, {message!r}, 100)\n"
        "print(answer == bytes((255, 0, 0, 1)), list(answer))\n"
        f"print(uwsgi.send_message({str(path)!r}, 100, 0, {{}}, 100))\n"
    )
    told = both.produce(script).splitlines()
    assert told == ["True [b'\\xff\\x00\\x00\\x01']", "b'd\\x00\\x00\\x01'"]
    assert both.spoold.wait_lines(1)[0].startswith("four 0 [")
