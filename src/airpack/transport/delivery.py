"""The files of a stream as their bytes come, in whatever order: each is committed once all of it has its digest."""

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from airpack.errors import IntegrityError
from airpack.formats.package import FileInfo
from airpack.formats.volume import Frame
from airpack.transport.plan import Piece, Stream
from airpack.transport.progress import Progress
from airpack.types import Digest


class Sink(Protocol):
    """Takes the bytes of files, verified chunk by chunk, at their offsets."""

    def write(self, file: FileInfo, at: int, data: memoryview) -> None:
        """Take bytes of `file` that begin at its byte `at`; `data` is only valid during the call."""

    def settle(self, position: int, frame: Frame) -> None:
        """Every wanted byte of `frame`, of the volume at `position`, was written."""

    def hash(self, file: FileInfo) -> Digest:
        """Return the digest of the bytes that `file` has now: all were written, by this run or an earlier one."""

    def commit(self, file: FileInfo) -> None:
        """All bytes of `file` were written, and have the signed digest."""


class NullSink:
    """A `Sink` that keeps nothing: `unpack` into it verifies."""

    def write(self, file: FileInfo, at: int, data: memoryview) -> None:
        """Drop `data`."""

    def settle(self, position: int, frame: Frame) -> None:
        """Keep nothing."""

    def hash(self, file: FileInfo) -> Digest:
        """Never called: with nothing kept, there is nothing to go on with."""
        raise RuntimeError(f"nothing of {file.digest} was kept")

    def commit(self, file: FileInfo) -> None:
        """Keep nothing."""


@dataclass(slots=True)
class _File:
    """A file whose bytes are coming.

    Attributes:
        filled: Bytes that are written.
        earlier: Of these, bytes that an earlier run wrote.
        streamed: Bytes that came in order from the start, and are in `digest`.
        digest: SHA-256 so far.
    """

    filled: int = 0
    earlier: int = 0
    streamed: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


class Delivery:
    """Hands bytes to a sink, and commits each file whose digest holds.

    A file whose bytes come in order is hashed on the way; any other is read back when it is full.

    Args:
        files: The manifest's files, in stream order.
        stream: Which of them are wanted.
        sink: Takes the bytes.
        progress: What earlier runs wrote.

    Attributes:
        dropped: Files that are full, but not what was signed, though their chunks were: what an earlier run wrote of
            them got lost.
    """

    def __init__(self, files: tuple[FileInfo, ...], stream: Stream, sink: Sink, progress: Progress) -> None:
        self._files, self._sink = files, sink
        self._starts: Final = [0, *itertools.accumulate(file.size for file in files)]
        self._open: dict[int, _File] = {}
        self._left = set(stream.wanted)
        self.dropped: list[FileInfo] = []
        for start, stop in progress.spans():
            for piece in stream.pieces(start, stop - start):
                state = self._open.setdefault(piece.file, _File())
                state.filled = state.earlier = state.filled + piece.stop - piece.start

    @property
    def is_whole(self) -> bool:
        """Whether every wanted file was committed."""
        return not self._left

    def begin(self) -> None:
        """Commit what needs no further byte: empty files, and those that earlier runs filled."""
        for number in sorted(self._left):
            state = self._open.get(number)
            if self._files[number].size == (state.filled if state else 0):
                self._complete(number, state or _File())

    def take(self, piece: Piece, offset: int, data: memoryview) -> None:
        """Deliver the bytes of `piece` of the frame that begins at `offset` of the stream.

        Raises:
            IntegrityError: The file is full and all of it came now, but its digest is not the signed one.
        """
        file, at = self._files[piece.file], offset + piece.start - self._starts[piece.file]
        state = self._open.setdefault(piece.file, _File())
        if state.streamed == at:
            state.digest.update(data)
            state.streamed += len(data)
        self._sink.write(file, at, data)
        state.filled += len(data)
        if state.filled >= file.size:
            self._complete(piece.file, state)

    def _complete(self, number: int, state: _File) -> None:
        file = self._files[number]
        self._open.pop(number, None)
        streamed = state.streamed == file.size
        found = Digest.from_raw(state.digest.digest()) if streamed else self._sink.hash(file)
        if found == file.digest:
            self._sink.commit(file)
            self._left.discard(number)
        elif state.earlier:
            self.dropped.append(file)
        else:
            raise IntegrityError(
                f"a file of the package has digest {found}, expected {file.digest}: its chunks are as signed, so the "
                "package itself is wrong",
                hint="ask the builder for a new package",
                digest=str(file.digest),
                found=str(found),
            )
