"""A disk that writes down what it is told: ``python -m … IMAGE LOG POINT``.

Speaks the kernel's FUSE protocol itself, so that nothing need be installed: the file
POINT becomes IMAGE, and each write and flush of it is added to LOG. One thread, so
that the order in the log is that in which they were done. Ends when POINT is
unmounted, or by SIGTERM. A loop device on POINT has no write cache besides the
kernel's own, so a flush makes durable what was written before it, and nothing else
does.
"""

import ctypes
import errno
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from time import monotonic_ns
from typing import BinaryIO, Final

ENTRY: Final = Struct("<QQI")
"""Of the log: monotonic ns, offset, length of the data that follow."""

FLUSH: Final = 2**64 - 1
"""In the place of an offset."""

READY: Final = "ready"

MAX_WRITE: Final = 1 << 20
_IN: Final = Struct("<IIQQIIIHH")
_OUT: Final = Struct("<IiQ")
_INIT_IN: Final = Struct("<IIII")
_INIT_OUT: Final = Struct("<IIIIHHIIHHI28x")
_ATTR_OUT: Final = Struct("<QII6Q10I")
_OPEN_OUT: Final = Struct("<QII")
_IO_IN: Final = Struct("<QQIIQII")
_WRITE_OUT: Final = Struct("<II")
_STATFS_OUT: Final = Struct("<5QIIII24x")
_VERSION: Final = (7, 31)
_FLAGS: Final = 1 | 1 << 5 | 1 << 22  # several reads at a time, large writes
_FOREVER: Final = 1 << 30
_NO_ANSWER: Final = frozenset({2, 36, 42})  # FORGET, INTERRUPT, BATCH_FORGET


class Recorder:
    """Answers the kernel's requests.

    Args:
        image: The disk, open for reading and writing.
        log: Where writes and flushes go.
    """

    def __init__(self, image: int, log: BinaryIO) -> None:
        self._image = image
        self._log = log
        self._operations: dict[int, Callable[[memoryview], bytes]] = {
            3: self._attributes,
            4: self._attributes,  # SETATTR: its times do not matter
            14: lambda _: _OPEN_OUT.pack(1, 0, 0),
            15: self._read,
            16: self._write,
            17: lambda _: _STATFS_OUT.pack(0, 0, 0, 0, 0, 4096, 255, 4096, 0),
            18: lambda _: b"",  # RELEASE
            20: self._flush,
            25: lambda _: b"",  # FLUSH: what close() does, and no disk hears of
            26: self._begin,
            34: lambda _: b"",  # ACCESS
        }

    def serve(self, fuse: int) -> None:
        """Answer until the file is unmounted."""
        buffer = bytearray(MAX_WRITE + 65536)
        view = memoryview(buffer)
        while True:
            try:
                size = os.readv(fuse, [buffer])
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                raise
            _, operation, unique, *_ = _IN.unpack_from(buffer)
            if operation not in _NO_ANSWER:
                self._answer(fuse, operation, unique, view[_IN.size : size])

    def _answer(self, fuse: int, operation: int, unique: int, what: memoryview) -> None:
        act, data, problem = self._operations.get(operation), b"", 0
        if act is None:
            problem = errno.ENOSYS
        else:
            try:
                data = act(what)
            except OSError as error:
                problem = error.errno or errno.EIO
        os.writev(fuse, [_OUT.pack(_OUT.size + len(data), -problem, unique), data])

    def _begin(self, what: memoryview) -> bytes:
        readahead = _INIT_IN.unpack_from(what)[2]
        pages = MAX_WRITE // 4096
        return _INIT_OUT.pack(
            *_VERSION, readahead, _FLAGS, 64, 48, MAX_WRITE, 1, pages, 0, 0
        )

    def _attributes(self, _: memoryview) -> bytes:
        size = os.fstat(self._image).st_size
        mode = stat.S_IFREG | 0o600
        times = (0, 0, 0), (0, 0, 0)
        return _ATTR_OUT.pack(
            *(_FOREVER, 0, 0, 1, size, size // 512),
            *(*times[0], *times[1], mode, 1, 0, 0, 0, 4096, 0),
        )

    def _read(self, what: memoryview) -> bytes:
        _, offset, size, *_ = _IO_IN.unpack_from(what)
        return os.pread(self._image, size, offset)

    def _write(self, what: memoryview) -> bytes:
        _, offset, size, *_ = _IO_IN.unpack_from(what)
        data = what[_IO_IN.size : _IO_IN.size + size]
        self._log.write(ENTRY.pack(monotonic_ns(), offset, size))
        self._log.write(data)
        os.pwrite(self._image, data, offset)
        return _WRITE_OUT.pack(size, 0)

    def _flush(self, _: memoryview) -> bytes:
        self._log.write(ENTRY.pack(monotonic_ns(), FLUSH, 0))
        return b""


def main(image: str, log: str, point: str) -> None:
    """Record until ``point`` is unmounted."""
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fuse},rootmode=100600,user_id=0,group_id=0,allow_other"
    if libc.mount(b"power", os.fsencode(point), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), point)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which closes the log
    with Path(image).open("r+b", buffering=0) as disk, Path(log).open("wb") as file:
        print(READY, flush=True)
        Recorder(disk.fileno(), file).serve(fuse)


if __name__ == "__main__":
    main(*sys.argv[1:])
