"""One untrusted file, read by offset: every read lies within the file, and all of them together have a bound.

    window = Window(stream, size, what="libggml.so")
    magic, version = window.unpack(_HEAD, 0)

Never mapped into memory: a medium that is pulled, or a file that is cut, ends in an error and not in a signal.
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

_BLOCK: Final = 16 << 10  # bytes read at once
_BLOCKS: Final = 64  # blocks kept
_PIECE: Final = 1 << 20  # bytes of one piece of a long range
_READ: Final = 1 << 30  # bytes read of one file
_STEPS: Final = 1 << 20  # entries looked at in one file
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


class Window:
    """A file that can be read at any offset.

    Args:
        stream: The open file; it must be seekable.
        size: Its length in bytes.
        what: Its name, for messages.
        read: Bytes that may be read of it, those read twice counted twice.
    """

    def __init__(self, stream: BinaryIO, size: int, *, what: str, read: int = _READ) -> None:
        self.size = size
        self.what = what
        self._stream = stream
        self._left, self._steps = read, _STEPS
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def step(self, at: int, count: int = 1) -> None:
        """Count `count` entries looked at near the offset `at`.

        Raises:
            MalformedError: They are more than any real file has.
        """
        self._steps -= count
        if self._steps < 0:
            raise MalformedError(f"it holds more than {_STEPS} things to look at", at)

    def exactly(self, at: int, count: int) -> bytes:
        """Return exactly the `count` bytes at `at`.

        Raises:
            MalformedError: They do not all lie in the file, or too much was read of it.
            StorageError: They cannot be read.
        """
        if not 0 <= at <= at + count <= self.size:
            raise MalformedError(f"{count} bytes would end beyond the file's {self.size}", at)
        first, start = divmod(at, _BLOCK)
        if start + count <= _BLOCK:
            return self._block(first)[start : start + count]
        return self._read(at, count)

    def unpack(self, form: struct.Struct, at: int) -> tuple[Any, ...]:
        """Return the fields of `form` at `at`; raises as `exactly`."""
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

    def _block(self, number: int) -> bytes:
        found = self._blocks.get(number)
        if found is not None:
            self._blocks.move_to_end(number)
            return found
        at = number * _BLOCK
        found = self._read(at, min(_BLOCK, self.size - at))
        self._blocks[number] = found
        if len(self._blocks) > _BLOCKS:
            self._blocks.popitem(last=False)
        return found

    def _read(self, at: int, count: int) -> bytes:
        self._left -= count
        if self._left < 0:
            raise MalformedError("asks for more bytes to be read than any real one", at)
        data = bytearray()
        try:
            self._stream.seek(at)
            while len(data) < count and (piece := self._stream.read(count - len(data))):
                data += piece
        except OSError as error:
            raise StorageError(f"cannot read {self.what}: {error.strerror}") from error
        if len(data) != count:
            raise MalformedError(f"the file ends {count - len(data)} bytes early", at + len(data))
        return bytes(data)


@contextmanager
def open_window(path: Path, *, what: str = "") -> Iterator[Window]:
    """Open a regular file, which no link leads to.

    Args:
        path: The file.
        what: Its name in messages; its path when left out.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is a link, a folder, a device or a pipe.
        StorageError: It cannot be opened.
    """
    with os.fdopen(open_regular(path), "rb", buffering=0) as stream:
        yield Window(stream, os.fstat(stream.fileno()).st_size, what=what or str(path))
