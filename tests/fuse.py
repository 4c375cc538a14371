"""A file system of one flat, read-only folder, served by this process over /dev/fuse: media that no folder can be.

    with Medium(folder, {"a.airvol": Answers(lambda offset, size, count: ...)}) as medium:
        ...                                       # folder/a.airvol is read through `Answers`

The protocol is the kernel's own (`linux/fuse.h`, 7.31), without any library. Mounting needs root.
"""

import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_DEVICE: Final = Path("/dev/fuse")
_READ_ONLY: Final = 1 | 2 | 4  # MS_RDONLY, MS_NOSUID, MS_NODEV
_FORCE: Final = 1  # MNT_FORCE: requests that are under way fail
_DETACH: Final = 2  # MNT_DETACH
_REQUEST: Final = struct.Struct("<IIQQIIII")
_ANSWER: Final = struct.Struct("<IiQ")
_INIT: Final = struct.pack("<IIIIHHIIHHII24x", 7, 31, 1 << 17, 1, 16, 12, 1 << 16, 1, 0, 0, 0, 0)
"""Version 7.31, readahead, FUSE_ASYNC_READ (who waits for a cached read can be killed, as with a disk), limits."""
_BUFFER: Final = 1 << 18  # bytes: more than the largest request
_ROOT: Final = 1
_DIRECT: Final = 1  # FOPEN_DIRECT_IO: each read reaches the server
(LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR) = (
    (1, 2, 3, 14, 15, 17, 18, 25, 26, 27, 28, 29)
)  # fmt: skip
_UNANSWERED: Final = frozenset({FORGET, 36, 42})  # FORGET, INTERRUPT, BATCH_FORGET

Read = Callable[[int, int, int], bytes | None]


def why_not() -> str:
    """Return why this machine mounts nothing; empty where it does."""
    if os.geteuid() != 0:
        return "mounting over /dev/fuse needs root"
    try:
        os.close(os.open(_DEVICE, os.O_RDWR))
    except OSError as error:
        return f"{_DEVICE} cannot be opened: {error.strerror}; load the kernel's module `fuse`, or give the device"
    return ""


@dataclass
class Answers:
    """A file that answers as it likes.

    Attributes:
        size: Its length in bytes, as it says.
        read: Called with offset, length and how many reads there were before; returns bytes, None to never answer, or
            raises `OSError` with the `errno` to answer with.
        reads: Offset and length of each read so far.
    """

    size: int
    read: Read
    direct: bool = True
    reads: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, data: bytes, *, direct: bool = True) -> "Answers":
        """Return a file that is simply `data`."""
        return cls(len(data), lambda offset, size, _count: data[offset : offset + size], direct)


class Medium:
    """The mounted folder. Leaving the context unmounts it, whoever still reads.

    Attributes:
        stalled: Set once a read was left without an answer.
    """

    def __init__(self, folder: Path, files: Mapping[str, Answers]) -> None:
        self._folder = folder
        self._files = list(files.items())
        self.stalled = threading.Event()
        self._mounted = False

    def __enter__(self) -> Self:
        self._device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        words = (b"airpack-test", os.fsencode(self._folder), b"fuse")
        if _LIBC.mount(*words, ctypes.c_ulong(_READ_ONLY), options.encode()) != 0:
            code = ctypes.get_errno()
            os.close(self._device)
            raise OSError(code, os.strerror(code))
        self._mounted = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unplug()
        self._thread.join(10)
        os.close(self._device)

    def unplug(self) -> None:
        """Take the medium away: whoever still waits for an answer gets an error."""
        if self._mounted:
            self._mounted = False
            _LIBC.umount2(os.fsencode(self._folder), _FORCE | _DETACH)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, _BUFFER)
            except OSError as error:
                if error.errno in {errno.EINTR, errno.EAGAIN, errno.ENOENT}:
                    continue
                return  # ENODEV: unmounted
            _, opcode, unique, node, *_ = _REQUEST.unpack_from(request)
            if opcode in _UNANSWERED:
                continue
            try:
                answer = self._do(opcode, node, request[_REQUEST.size :])
            except OSError as error:
                self._answer(unique, error=error.errno or errno.EIO)
                continue
            if answer is None:
                self.stalled.set()
            else:
                self._answer(unique, answer)

    def _answer(self, unique: int, data: bytes = b"", *, error: int = 0) -> None:
        try:
            os.write(self._device, _ANSWER.pack(_ANSWER.size + len(data), -error, unique) + data)
        except OSError as failed:
            if failed.errno not in {errno.ENOENT, errno.ENODEV}:  # nobody waits for it any more
                raise

    def _do(self, opcode: int, node: int, body: bytes) -> bytes | None:
        """Return the answer to one request; None for no answer, ever."""
        offset, size = struct.unpack_from("<QI", body, 8) if opcode in {READ, READDIR} else (0, 0)
        answers: dict[int, Callable[[], bytes | None]] = {
            INIT: lambda: _INIT,
            LOOKUP: lambda: self._entry(os.fsdecode(body.rstrip(b"\0"))),
            GETATTR: lambda: struct.pack("<QII", 0, 0, 0) + self._attributes(node),
            OPEN: lambda: struct.pack("<QIi", 0, _DIRECT if self._file(node).direct else 0, 0),
            OPENDIR: lambda: bytes(16),
            READ: lambda: self._read(self._file(node), offset, size),
            READDIR: lambda: self._names(offset, size),
            STATFS: lambda: struct.pack("<QQQQQIIII24x", 1 << 20, 0, 0, len(self._files), 0, 4096, 255, 4096, 0),
        }
        if opcode in {RELEASE, RELEASEDIR, FLUSH}:
            return b""
        if opcode not in answers:
            raise OSError(errno.ENOSYS, "not served")
        return answers[opcode]()

    def _file(self, node: int) -> Answers:
        return self._files[node - _ROOT - 1][1]

    def _entry(self, name: str) -> bytes:
        for number, (known, _) in enumerate(self._files):
            if known == name:
                node = _ROOT + 1 + number
                return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + self._attributes(node)
        raise OSError(errno.ENOENT, name)

    def _attributes(self, node: int) -> bytes:
        size = 0 if node == _ROOT else self._file(node).size
        mode = stat.S_IFDIR | 0o555 if node == _ROOT else stat.S_IFREG | 0o444
        return struct.pack(
            "<QQQQQQIIIIIIIIII", node, size, -(-size // 512), 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
        )

    @staticmethod
    def _read(file: Answers, offset: int, size: int) -> bytes | None:
        count = len(file.reads)
        file.reads.append((offset, size))
        return file.read(offset, size, count)

    def _names(self, offset: int, size: int) -> bytes:
        out = b""
        for number, (name, _) in enumerate(self._files[offset:], offset):
            raw = os.fsencode(name)
            entry = struct.pack("<QQII", _ROOT + 1 + number, number + 1, len(raw), stat.S_IFREG >> 12) + raw
            entry += bytes(-len(entry) % 8)
            if len(out) + len(entry) > size:
                break
            out += entry
        return out
