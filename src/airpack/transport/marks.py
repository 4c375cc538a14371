"""What the bytes of a file are known by: its digest, and those of the tensors in it, read once."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from airpack.errors import StorageError
from airpack.transport.feed import changed
from airpack.types import Digest, Reporter, Source, Tensor

LEAST: Final = 64 << 10  # bytes of a tensor that is looked for by digest, or of a file that is patched
BLOCK: Final = 1 << 20  # bytes read at once


@dataclass(frozen=True, slots=True)
class Marks:
    """What the bytes of a file are known by.

    Attributes:
        digest: Of the whole file.
        tensors: The SHA-256 of each tensor that was looked at, by its place among the file's tensors.
    """

    digest: Digest
    tensors: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class New:
    """A file of the release to be packed.

    Attributes:
        path: Its path in a generation.
        source: Its bytes.
        marks: What they are known by; None where no other file, new or old, has its size, and there are no tensors to
            look for.
    """

    path: str
    source: Source
    marks: Marks | None


def scan(sources: Sequence[Source], paths: Sequence[str], sizes: Collection[int], reporter: Reporter) -> list[New]:
    """Read the new files that may be in a base, or equal another new one, or whose tensors may be in a base.

    Args:
        sources: The files of the new release.
        paths: Their paths in a generation.
        sizes: The sizes in bytes of all files that bases have.
        reporter: Receives progress in bytes.

    Raises:
        IntegrityError: A file is not of its size.
        StorageError: A file cannot be read.
    """
    counts = Counter(source.size for source in sources)
    alike = {size for size, count in counts.items() if count > 1} | set(sizes)
    is_read = [_is_looked_at(source, alike) for source in sources]
    reporter.start("compare", sum(source.size for source, wanted in zip(sources, is_read, strict=True) if wanted))
    try:
        return [
            New(path, source, _new_marks(source, wanted=wanted, reporter=reporter))
            for path, source, wanted in zip(paths, sources, is_read, strict=True)
        ]
    finally:
        reporter.finish()


def _is_looked_at(source: Source, sizes: Collection[int]) -> bool:
    if any(length(tensor) >= LEAST for tensor in source.tensors):
        return True
    return source.size in sizes  # also where a RECORD gives its digest: what is left out is held against it too


def _new_marks(source: Source, *, wanted: bool, reporter: Reporter) -> Marks | None:
    if not wanted:
        return Marks(source.digest) if source.digest is not None else None
    large = [number for number, tensor in enumerate(source.tensors) if length(tensor) >= LEAST]
    marks = mark(_blocks(source, reporter), source.tensors, large)
    if source.digest not in {None, marks.digest}:
        raise changed(source, f"expected {source.digest}, found {marks.digest}")
    return marks


def _blocks(source: Source, reporter: Reporter) -> Iterator[bytes]:
    done = 0
    try:
        with source.open() as stream:
            while block := stream.read(BLOCK):
                done += len(block)
                yield block
                reporter.advance(len(block), source.path)
    except OSError as error:
        raise StorageError(f"cannot read {source.path}: {error.strerror or error}", path=source.path) from error
    if done != source.size:
        raise changed(source, f"expected {source.size} bytes, found {done}")


def length(tensor: Tensor) -> int:
    """Return the bytes of a tensor."""
    return tensor.stop - tensor.start


def mark(blocks: Iterable[bytes | bytearray], tensors: Sequence[Tensor], wanted: Sequence[int]) -> Marks:
    """Return the digests of a file and of some of its tensors; two threads share the work.

    Args:
        blocks: The file's bytes, of any lengths.
        tensors: The tensors in it.
        wanted: Places of those among them that are looked at.
    """
    whole, parts = hashlib.sha256(), _Parts([(number, tensors[number]) for number in wanted])
    if not wanted:
        for block in blocks:
            whole.update(block)
        return Marks(Digest.from_raw(whole.digest()))
    with ThreadPoolExecutor(1) as helper:
        pending: Future[None] | None = None
        for block in blocks:
            if pending is not None:
                pending.result()
            pending = helper.submit(whole.update, block)
            parts.update(block)
    return Marks(Digest.from_raw(whole.digest()), parts.digests)


class _Parts:
    """Digests of ranges of a file whose bytes pass by."""

    def __init__(self, ranges: Sequence[tuple[int, Tensor]]) -> None:
        self.digests: dict[int, bytes] = {}
        self._ranges = iter(ranges)
        self._at = 0
        self._current = next(self._ranges, None)
        self._digest = hashlib.sha256()

    def update(self, block: bytes | bytearray) -> None:
        view, end = memoryview(block), self._at + len(block)
        while self._current is not None and self._current[1].start < end:
            number, tensor = self._current
            self._digest.update(view[max(0, tensor.start - self._at) : tensor.stop - self._at])
            if tensor.stop > end:
                break
            self.digests[number] = self._digest.digest()
            self._current, self._digest = next(self._ranges, None), hashlib.sha256()
        self._at = end
