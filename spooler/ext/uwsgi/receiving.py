"""What a packet from a socket is to become: read, checked, refused. No sockets here.

Nothing in it is trusted. Specification: docs/reference/network.md.
"""

import os
import re
from collections.abc import Iterable, Mapping
from hmac import HMAC, compare_digest
from math import ceil
from typing import Final

import msgspec

from ...clock import CLOCK, Clock
from ...codec import Header, decode
from ...errors import CorruptError, KeyFileError
from ...moments import parse_at
from ...options import RunOptions
from ...packet import HEAD, decode_pairs, encode_packet
from ...remote import AUTH_KEY, LENGTH_KEY, TASK_KEY
from ...sending import auth_value
from ...spooldir.key_file import load, stamp_of
from ...task import BATCH, FORWARD, Name

CLOCKS_APART: Final = 60
"""Seconds that the clocks of both sides may differ, where there is a secret."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks whether the file with the secret has changed."""

HEADER_MAX: Final = 1 << 18
"""Bytes of a header from a socket: less than of one in a file, since each connection
keeps its own."""

_LENGTH = re.compile(rb"0*([1-9][0-9]{0,17})")
_PROOF = re.compile(rb"([0-9]{1,12})\.([0-9a-f]{64})")
_SIGNED: Final = b'{"sig":"'
_DIGITS: Final = 64
_PICKLES: Final = ("args", "kwargs")


class Refused(Exception):  # noqa: N818 (what happened)
    """A task is not taken: the text says why, for the log."""


class Proof(msgspec.Struct, frozen=True):
    """What a packet says to prove that its sender knows the secret.

    Attributes:
        covered: The pairs before it.
    """

    seconds: bytes
    digest: bytes
    covered: bytes


class Packet(msgspec.Struct, frozen=True):
    """A packet with a task, as it has come.

    Attributes:
        pairs: Without those that only the network needs.
        length: Bytes of the body that is announced.
        file: The header of the task's file; empty if the body begins with it; None if
            the packet itself is the task.
    """

    pairs: dict[bytes, bytes]
    length: int
    file: bytes | None
    proof: Proof | None


def read_packet(data: bytes) -> Packet:
    """Read the head and the block of a packet.

    Raises:
        Refused: They are not well formed.
    """
    try:
        pairs, _ = decode_pairs(data)
    except CorruptError as error:
        raise Refused(error.reason) from None
    proof = None
    if (value := pairs.pop(AUTH_KEY, None)) is not None:
        proof = _read_proof(data, value)
    length = 0
    if match := _LENGTH.fullmatch(pairs.get(LENGTH_KEY, b"")):
        length = int(match[1])
        del pairs[LENGTH_KEY]
    return Packet(pairs, length, pairs.pop(TASK_KEY, None), proof)


def _read_proof(data: bytes, value: bytes) -> Proof:
    match = _PROOF.fullmatch(value)
    last = encode_packet({AUTH_KEY: value})[HEAD:]
    if match is None or not data.endswith(last):
        raise Refused(f"{AUTH_KEY.decode()}: is of no form that is known, or not last")
    return Proof(match[1], match[2], data[HEAD : -len(last)])


# -- the secret -----------------------------------------------------------------


class Keys:
    """The keys in a file, which is read again when it has changed.

    For one thread at a time.

    Args:
        path: The file: each line is good.

    Attributes:
        found: The keys.

    Raises:
        KeyFileError: It cannot be used.
    """

    def __init__(self, path: str, clock: Clock = CLOCK) -> None:
        self._path = path
        self._clock = clock
        self._stamp = stamp_of(path)
        self.found = load(path)
        self._look_at = clock.monotonic() + LOOK_EVERY

    def look(self) -> str | None:
        """Read the file again if it has changed; return what is wrong with it."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return None
        self._look_at = now + LOOK_EVERY
        stamp = stamp_of(self._path)
        if stamp == self._stamp:
            return None
        try:
            self.found = load(self._path)
        except KeyFileError as error:
            return str(error)
        self._stamp = stamp
        return None


class Secrets:
    """The shared secrets.

    Remembers what it has seen, so that nothing can be sent twice by somebody who does
    not know the secret. For one thread at a time.

    Args:
        path: The file, as for signing.
        patience: Seconds that a packet may take to come, at most.

    Raises:
        KeyFileError: It cannot be used.
    """

    def __init__(self, path: str, clock: Clock = CLOCK, patience: float = 0.0) -> None:
        self._clock = clock
        self._keys = Keys(path, clock)
        self._good_for = CLOCKS_APART + ceil(patience)
        self._seen: dict[bytes, int] = {}

    def look(self) -> str | None:
        """Read the file again if it has changed; return what is wrong with it."""
        return self._keys.look()

    def begin(self, packet: Packet) -> list[HMAC]:
        """Return the sums to which the body is to be added.

        Raises:
            Refused: There is no proof, or it is too old.
        """
        proof = packet.proof
        if proof is None:
            raise Refused("it does not know the secret")
        now = self._clock.now_us() // 1_000_000
        if abs(int(proof.seconds) - now) > CLOCKS_APART:
            raise Refused("its clock is another one than ours, or it was sent before")
        return [
            auth_value(key, proof.seconds, proof.covered, packet.length)
            for key in self._keys.found
        ]

    def end(self, proof: Proof | None, sums: list[HMAC]) -> None:
        """Check the sums, with the body.

        Raises:
            Refused: They are wrong, or were seen before.
        """
        if proof is None or not _is_one_of(sums, proof.digest):
            raise Refused("it does not know the secret, or was changed on its way")
        digest, good_until = proof.digest, int(proof.seconds) + self._good_for
        now = self._clock.now_us() // 1_000_000
        if now > good_until:  # so that what was seen can be forgotten
            raise Refused("it took too long to come")
        if len(self._seen) % 1024 == 0:
            self._seen = {key: at for key, at in self._seen.items() if at >= now}
        if digest in self._seen:
            raise Refused("it was sent before")
        self._seen[digest] = good_until


def _is_one_of(sums: list[HMAC], digest: bytes) -> bool:
    found = [compare_digest(each.hexdigest().encode(), digest) for each in sums]
    return any(found)


# -- signatures -------------------------------------------------------------------


def begin_signature(keys: Iterable[bytes], begin: bytes) -> list[HMAC]:
    """Return the sums to which the rest of a signed file is to be added.

    Args:
        begin: Its beginning, with the whole signature.
    """
    rest = _SIGNED + b"0" * _DIGITS + begin[len(_SIGNED) + _DIGITS :]
    return [HMAC(key, rest, digestmod="sha256") for key in keys]


def end_signature(begin: bytes, sums: list[HMAC]) -> None:
    """Check the sums, with all of the file (docs/format.md, section 14).

    Raises:
        Refused: They are wrong.
    """
    if not _is_one_of(sums, begin[len(_SIGNED) : len(_SIGNED) + _DIGITS]):
        raise Refused("its signature is wrong: changed, or made with another key")


# -- the task -------------------------------------------------------------------


class Rules(msgspec.Struct, frozen=True):
    """What is asked of tasks.

    Attributes:
        priority: That of a task that names none.
        signed: Each must be signed.
    """

    priority: int
    signed: bool = False


class Plan(msgspec.Struct, frozen=True):
    """What a packet becomes: a file with this name, beginning and header."""

    name: Name
    begin: bytes
    header: Header


def plan(
    packet: Packet, first: bytes, rules: Rules, *, trusted: bool, clock: Clock = CLOCK
) -> Plan:
    """Return what a packet becomes.

    Args:
        first: The beginning of the body, if the header is there.
        trusted: Whoever sent it is the daemon's user, or knows the secret.

    Raises:
        Refused: It is no task, or none that is taken.
    """
    begin, whole = encode_packet(packet.pairs), not packet.length
    if packet.file is not None:
        begin, whole = packet.file or first, len(first) == packet.length
        if not begin.startswith(b"{"):
            raise Refused(f"{TASK_KEY.decode()}: not JSON")
    try:
        header = decode(begin, whole=whole)
    except CorruptError as error:
        raise Refused(error.reason) from None
    if len(begin) > HEADER_MAX and (header is None or header.body_offset > HEADER_MAX):
        raise Refused(f"its header is larger than {HEADER_MAX} bytes")
    if header is None or (packet.file and header.body_offset != len(begin)):
        raise Refused(f"{TASK_KEY.decode()}: not a header and nothing else")
    _check(packet, header, begin, rules, trusted=trusted)
    now_us = clock.now_us()
    try:
        due_us = now_us if header.at is None else parse_at(header.at, now_us)
    except ValueError as error:  # +N may be too late
        raise Refused(str(error)) from None
    priority = rules.priority if header.priority is None else header.priority
    task_id = header.id or os.urandom(8).hex()
    return Plan(Name(due_us, priority, 0, task_id, header.task), begin, header)


def _check(
    packet: Packet, header: Header, begin: bytes, rules: Rules, *, trusted: bool
) -> None:
    """Refuse what is a task, but none that may come from a socket."""
    if header.task in (BATCH, FORWARD):  # its file would be the daemon's own
        raise Refused(f"{header.task} is not taken from a socket")
    if rules.signed and not begin.startswith(_SIGNED):
        raise Refused("it is not signed, and signatures are required")
    if trusted:
        return
    if packet.file is None:
        pickled = any(key.encode() in packet.pairs for key in _PICKLES)
    else:
        args = msgspec.json.decode(bytes(header.args or b"{}"))  # type: ignore[arg-type]  # of JSON: bytes
        pickled = header.pairs is not None or _may_be_pickled(args, header.options)
    if pickled:
        raise Refused("pickled arguments are taken only from those who know the secret")


def _may_be_pickled(args: Mapping[str, object], options: RunOptions | None) -> bool:
    """Tell whether a task, or what follows it, could be one with pickled arguments.

    Under ``--uwsgi``, now or later: text under these names becomes bytes then.
    """
    if any(isinstance(args.get(key), str) for key in _PICKLES):
        return True
    if options is None:
        return False
    followers = (*(options.then or ()), *(options.on_failure or ()))
    return any(_may_be_pickled(each.args, each.options) for each in followers)
