"""The names that wait in a folder, in order: many of them in little memory.

They lie in blocks, as in the leaves of a B-tree. The first block is a sorted list, from
which names are taken; each of the others is one string of bytes in no order, which is
sorted when its turn comes or when it grows too long. So a name costs its own length.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from random import random as _random
from typing import Final

BLOCK: Final = 1 << 16
"""Bytes of names in one block."""

FEW: Final = 16
"""Names that are faster added one by one."""

SIZE_MAX: Final = 32 << 20
"""Bytes of names that are held; beyond that the last ones are forgotten."""


class Names:
    """Sorted names, each of them once.

    Attributes:
        is_cut: Whether names were forgotten, since they were too many or by ``jump``.
    """

    def __init__(self) -> None:
        self._first: list[str] = []
        self._at = 0
        self._bounds: list[str] = []
        self._blocks: list[bytearray] = []
        self._size = 0
        self._end: str | None = None
        self.is_cut = False

    @property
    def is_long(self) -> bool:
        """Whether they are more than one block."""
        return bool(self._blocks)

    # -- adding -----------------------------------------------------------------

    def add(self, names: list[str]) -> None:
        """Add names, in ascending order."""
        if self._end is not None:
            names = names[: bisect_left(names, self._end)]
        begin = 0
        while begin < len(names):
            index = bisect_right(self._bounds, names[begin])
            end = len(names)
            if index < len(self._bounds):
                end = bisect_left(names, self._bounds[index], begin)
            if index:
                self._append(index - 1, names[begin:end])
            else:
                self._insert(names[begin:end])
            begin = end
        while self._size > SIZE_MAX:
            self._end = self._bounds.pop()
            self._size -= len(self._blocks.pop())
            self.is_cut = True

    def _insert(self, names: list[str]) -> None:
        """Add names to the first block; move its end to the next if it is too long."""
        first = self._first
        del first[: self._at]
        self._at = 0
        if len(names) > FEW:
            both = sorted(first + names)  # two runs, that are merged
            first[:] = dict.fromkeys(both)
        for name in names[:FEW]:
            at = bisect_left(first, name)
            if at == len(first) or first[at] != name:
                first.insert(at, name)
        length = max(1, BLOCK // (len(names[0]) + 1))
        for begin in range((len(first) - 1) // length * length, 0, -length):
            self._put(0, first[begin:])
            del first[begin:]

    def _append(self, index: int, names: list[str]) -> None:
        """Add names to another block; divide it if it is too long."""
        block = self._blocks[index]
        before = len(block)
        block += _packed(names)
        self._size += len(block) - before
        if len(block) > BLOCK:
            names = _unpacked(block)
            half = len(names) // 2
            self._take_out(index)
            self._put(index, names[half:])
            if half:
                self._put(index, names[:half])

    def _put(self, index: int, names: list[str]) -> None:
        self._bounds.insert(index, names[0])
        self._blocks.insert(index, _packed(names))
        self._size += len(self._blocks[index])

    def _take_out(self, index: int) -> bytearray:
        del self._bounds[index]
        block = self._blocks.pop(index)
        self._size -= len(block)
        return block

    # -- taking -----------------------------------------------------------------

    def peek(self) -> str | None:
        """Return the next name without taking it."""
        if self._at == len(self._first):
            if not self._blocks:
                return None
            self._open(0)
        return self._first[self._at]

    def pop(self) -> str:
        """Take the next name: call it after ``peek``."""
        name = self._first[self._at]
        self._at += 1
        return name

    def take(self, below: str, most: int) -> list[str]:
        """Take the next names that are smaller than ``below``, of one block at most."""
        if self.peek() is None:
            return []
        at = self._at
        self._at = bisect_left(self._first, below, at, min(at + most, len(self._first)))
        return self._first[at : self._at]

    def _open(self, index: int) -> None:
        self._first, self._at = _unpacked(self._take_out(index)), 0

    def jump(self, before: str, random: Callable[[], float] = _random) -> None:
        """Go on from a name anywhere among those below ``before``.

        The rest of the first block is forgotten; so are those that are jumped over in
        the block where it goes on.

        Args:
            random: Returns a number from 0 to 1.
        """
        self.is_cut = True
        index = int(random() * (bisect_left(self._bounds, before) + 1))
        if index:
            self._open(index - 1)
            end = bisect_left(self._first, before)
            if later := self._first[end:]:  # which must not hide what is due in others
                self._put(bisect_left(self._bounds, later[0]), later)
                del self._first[end:]
        end = bisect_left(self._first, before, self._at)
        self._at += int(random() * (end - self._at))


def _packed(names: list[str]) -> bytearray:
    return bytearray("\0".join([*names, ""]).encode())


def _unpacked(block: bytearray) -> list[str]:
    return sorted(set(block[:-1].decode().split("\0")))
