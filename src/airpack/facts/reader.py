"""Reads a file at any offset, within bounds: what every reader of model files stands on.

    reader = Reader(stream, size)
    reader.exactly(0, 4)  ->  b"GGUF"

Rules held here:

1. Nothing outside the file is read, and at most `_READ` bytes of it, in blocks that are remembered for a while:
   headers are read, tensors are not.
2. `step` counts what is looked at, so that a small file cannot ask for endless work.
3. Whatever is wrong is one exception, which says what and where.
"""

import os
import struct
from typing import Any, BinaryIO, Final

_READ: Final = 256 << 20  # bytes read of one file: an ONNX file costs a block for each tensor
_STEPS: Final = 1 << 21  # fields, keys, tables or opcodes that are looked at in one file
_BLOCK: Final = 16 << 10  # bytes read at once: headers of tensors lie far apart
_BLOCKS: Final = 64  # blocks remembered: tables of a flatbuffer refer to each other


class MalformedError(Exception):
    """A file cannot be what it says, or asks for more work than any real one.

    Attributes:
        reason: What is wrong, for people.
        at: Where, as an offset in bytes.
    """

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at = at


class Reader:
    """One file, or one piece of memory.

    Args:
        stream: It, which can be read at any offset.
        size: Its length in bytes.
    """

    __slots__ = ("_blocks", "_left", "_steps", "_stream", "size")

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size = size
        self._stream = stream
        self._steps, self._left = _STEPS, _READ
        self._blocks: dict[int, bytes] = {}

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
            OSError: The file cannot be read.
        """
        data = self.most(at, count)
        if len(data) != count:
            raise MalformedError(f"it ends at byte {self.size}, within what begins here", at)
        return data

    def most(self, at: int, count: int) -> bytes:
        """Return the `count` bytes at `at`, fewer at the end of the file.

        Raises:
            MalformedError: So much is read of no real file.
            OSError: The file cannot be read.
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
            OSError: As `most`.
        """
        number, start = divmod(at, _BLOCK)
        if start + least <= _BLOCK:
            return self._block(number), number * _BLOCK
        return self._read(at, _BLOCK), at

    def unpack(self, form: struct.Struct, at: int) -> tuple[Any, ...]:
        """Return the values that `form` describes at `at`.

        Raises:
            MalformedError: They are not all in the file.
            OSError: As `most`.
        """
        return form.unpack(self.exactly(at, form.size))

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
        if block is None:
            block = self._read(number * _BLOCK, _BLOCK)
            if len(self._blocks) == _BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = block
        return block

    def _read(self, at: int, count: int) -> bytes:
        self._left -= count
        if self._left < 0:
            raise MalformedError(f"more than {_READ} bytes of it would have to be read", at)
        count = min(count, self.size - at)
        if count <= 0:
            return b""
        self._stream.seek(at, os.SEEK_SET)
        data = self._stream.read(count)
        if len(data) == count:
            return data
        pieces = bytearray(data)
        while len(pieces) < count and (data := self._stream.read(count - len(pieces))):
            pieces += data
        return bytes(pieces)
