"""Reads a file at any offset, within bounds: what every reader of models and of native code stands on.

    reader = Reader(stream, size)
    reader.exactly(0, 4)  ->  b"GGUF"

Rules held here:

1. Nothing outside the file is read, and only so many bytes of it, in blocks that are remembered for a while:
   headers are read, tensors are not.
2. `step` counts what is looked at, so that a small file cannot ask for endless work.
3. Whatever is wrong with the file is one exception, which says what and where; a disk that fails is another.
4. A file is never mapped into memory: a medium that is pulled, or a file that is cut, ends in an error, not a signal.
"""

import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from airpack.errors import StorageError
from airpack.fsops.files import open_regular

_READ: Final = 256 << 20  # bytes read of one file: an ONNX file costs a block for each tensor
_STEPS: Final = 1 << 21  # fields, keys, tables, opcodes or symbols that are looked at in one file
_BLOCK: Final = 16 << 10  # bytes read at once: headers of tensors lie far apart
_BLOCKS: Final = 64  # blocks remembered: tables of a flatbuffer refer to each other
_PIECE: Final = 1 << 20  # bytes of one piece of a long range
_TEXT: Final = 4096  # bytes of one name
_LARGEST: Final = 2**53 - 1


class MalformedError(Exception):
    """A file cannot be what it says, or asks for more work than any real one.

    Attributes:
        reason: What is wrong, for people.
        at: Where, as an offset in bytes.
    """

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at = min(max(at, 0), _LARGEST)  # what a file says may lie anywhere


class Reader:
    """One file, or one piece of memory.

    Args:
        stream: It, which can be read at any offset.
        size: Its length in bytes.
        what: Its name, for messages.
        read: Bytes that may be read of it, those read twice counted twice.
    """

    __slots__ = ("_blocks", "_left", "_read_most", "_steps", "_stream", "size", "what")

    def __init__(self, stream: BinaryIO, size: int, *, what: str = "a file", read: int = _READ) -> None:
        self.size = size
        self.what = what
        self._stream = stream
        self._steps, self._left, self._read_most = _STEPS, read, read
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def step(self, at: int, count: int = 1) -> None:
        """Count `count` things looked at near the offset `at`.

        Raises:
            MalformedError: They are more than any real file has.
        """
        self._steps -= count
        if self._steps < 0:
            raise MalformedError(f"it holds more than {_STEPS} things to look at", at)

    def exactly(self, at: int, count: int) -> bytes:
        """Return the `count` bytes at `at`, all of them in the file.

        Raises:
            MalformedError: They are not.
            StorageError: The file cannot be read.
        """
        if not 0 <= at <= at + count <= self.size:
            raise MalformedError(f"it ends at byte {self.size}, within what begins here", at)
        data = self.most(at, count)
        if len(data) != count:
            raise MalformedError(f"the file ends {count - len(data)} bytes early", at + len(data))
        return data

    def most(self, at: int, count: int) -> bytes:
        """Return the `count` bytes at `at`, fewer at the end of the file.

        Raises:
            MalformedError: So much is read of no real file.
            StorageError: The file cannot be read.
        """
        number, start = divmod(at, _BLOCK)
        if start + count <= _BLOCK:
            return self._block(number)[start : start + count]
        return self._read(at, count)

    def window(self, at: int, least: int) -> tuple[bytes, int]:
        """Return bytes around `at`, and the offset at which they begin.

        At least `least` bytes (of at most a block) follow `at` there, or the file ends.

        Raises:
            MalformedError: As `most`.
            StorageError: As `most`.
        """
        number, start = divmod(at, _BLOCK)
        if start + least <= _BLOCK:
            return self._block(number), number * _BLOCK
        return self._read(at, _BLOCK), at

    def unpack(self, form: struct.Struct, at: int) -> tuple[Any, ...]:
        """Return the values that `form` describes at `at`.

        Raises:
            MalformedError: They are not all in the file.
            StorageError: As `most`.
        """
        return form.unpack(self.exactly(at, form.size))

    def text(self, at: int, stop: int) -> str:
        """Return the UTF-8 text at `at` up to its NUL, which comes before `stop`; raises as `exactly`."""
        raw = self.name(at, stop)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise MalformedError("a name is not UTF-8", at) from error

    def name(self, at: int, stop: int) -> bytes:
        """Return the bytes at `at` up to their NUL, which comes before `stop`; raises as `exactly`."""
        stop = min(stop, self.size, at + _TEXT)
        found = b""
        while at + len(found) < stop:
            here = at + len(found)
            piece = self.exactly(here, min(stop, here - here % _BLOCK + _BLOCK) - here)
            end = piece.find(b"\0")
            if end >= 0:
                return found + piece[:end]
            found += piece
        raise MalformedError(f"a name does not end within {max(0, stop - at)} bytes", at)

    def pieces(self, start: int, stop: int, *, overlap: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of a range from its start to its end; each piece begins with the last's `overlap`."""
        while start < stop:
            count = min(_PIECE + overlap, stop - start)
            yield start, self.exactly(start, count)
            start += _PIECE

    def within(self, start: int, stop: int, what: str) -> int:
        """Return `stop`, once `start` to `stop` lie in the file.

        Raises:
            MalformedError: They do not.
        """
        if not 0 <= start <= stop <= self.size:
            raise MalformedError(f"{what} ends at byte {stop}; the file has {self.size}", start)
        return stop

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is not None:
            self._blocks.move_to_end(number)
            return block
        block = self._read(number * _BLOCK, _BLOCK)
        if len(self._blocks) == _BLOCKS:
            self._blocks.popitem(last=False)
        self._blocks[number] = block
        return block

    def _read(self, at: int, count: int) -> bytes:
        count = min(count, self.size - at)
        if count <= 0:
            return b""
        self._left -= count
        if self._left < 0:
            raise MalformedError(f"more than {self._read_most} bytes of it would have to be read", at)
        try:
            self._stream.seek(at, os.SEEK_SET)
            data = self._stream.read(count)
            if len(data) == count:
                return data
            pieces = bytearray(data)
            while len(pieces) < count and (data := self._stream.read(count - len(pieces))):
                pieces += data
        except OSError as error:
            raise StorageError(f"cannot read {self.what}: {error.strerror}") from error
        return bytes(pieces)


@contextmanager
def open_reader(path: Path, *, what: str = "", read: int = _READ) -> Iterator[Reader]:
    """Open a regular file, which no link leads to.

    Args:
        path: The file.
        what: Its name in messages; its path when left out.
        read: Bytes that may be read of it.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is a link, a folder, a device or a pipe.
        StorageError: It cannot be opened.
    """
    with os.fdopen(open_regular(path), "rb", buffering=0) as stream:
        yield Reader(stream, os.fstat(stream.fileno()).st_size, what=what or str(path), read=read)
