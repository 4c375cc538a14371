"""Which bytes of which files make up each frame. Pure arithmetic: no disk, no codec at work.

The stream is all files end to end. How a file becomes frames (docs/spec/package.md section 5):

1. it falls into *spans*: its tensors, what lies between them, or all of it where no tensors are known;
2. a span is cut into frames of `FRAME` bytes from its own start; the last may be shorter;
3. small spans of one kind that follow each other, also across files, share a frame of at most `FRAME` bytes;
4. files of a runtime are *solid*: end to end, cut every `SOLID` bytes, wherever a file ends.

Readers rely on none of this, only on frames that cover the stream in order: a later writer may plan otherwise.
"""

import itertools
from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from airpack.formats.package import FileInfo
from airpack.formats.volume import ENTRY, HEADER
from airpack.transport.codec import Kind
from airpack.types import Digest, Limits, Source

FRAME: Final = Limits.CHUNK  # bytes before coding
SOLID: Final = Limits.FRAME  # bytes before coding
PATCH: Final = 8 << 20  # bytes before coding; longer frames are not smaller, and a site holds the prefix beside them
SMALLEST_VOLUME: Final = 2 << 20  # bytes: the smallest table and one chunk always fit

_SMALL = 64 << 10  # bytes of a span that shares its frame
_CRUMB = 1 << 10  # bytes between tensors that any frame takes along
_FEWEST_SLOTS = 64
_SPARE_SLOTS = 4  # times the slots that a volume needs without compression: frames that come to a quarter still fill it
_MOST_SLOTS = 1 << 18  # a table of 16 MiB, so that memory stays bounded whatever the size of a volume
_KINDS: Final = {"bf16": Kind.BF16, "fp16": Kind.FP16, "fp32": Kind.FP32}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a range of a base file begins.

    Attributes:
        file: Number of the base file, from 1.
        offset: First byte.
    """

    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring bytes of the stream that are of one kind; cut, one frame of it.

    Attributes:
        size: How many, at least 1.
        kind: What they hold.
        base: The range of a base file, as long, that they are like; or the prefix of a patch.
        is_patch: Whether `base` is a prefix.
    """

    size: int
    kind: Kind
    base: Place | None = None
    is_patch: bool = False

    @property
    def is_small(self) -> bool:
        """Whether it shares a frame with its neighbours."""
        return self.size < _SMALL and not self.is_patch and self.kind is not Kind.SOLID


def spans(source: Source) -> Iterator[Span]:
    """Yield the spans of a file, in order; together they are as long as it is."""
    if source.solid:
        yield from _span(source.size, Kind.SOLID)
        return
    at = 0
    for tensor in source.tensors:
        start = min(max(at, tensor.start), source.size)
        stop = min(max(start, tensor.stop), source.size)
        yield from _span(start - at, Kind.PLAIN)
        yield from _span(stop - start, _KINDS.get(tensor.dtype, Kind.PLAIN))
        at = stop
    yield from _span(source.size - at, Kind.PLAIN)


def _span(size: int, kind: Kind) -> Iterator[Span]:
    if size:
        yield Span(size, kind)


def cuts(found: Iterable[Span], patch: int = PATCH) -> Iterator[Span]:
    """Yield the frames that these spans are cut into or share; of solid ones, all that follow each other as one.

    Those are cut while they are read: how far a frame may reach depends on what becomes of it.

    Args:
        found: All spans of a part of the stream, in order.
        patch: Largest length of a frame with a prefix in bytes.
    """
    run = _Run()
    for span in found:
        if not run.takes(span):
            yield from run.cut(patch)
            run = _Run()
        run.add(span)
    yield from run.cut(patch)


class _Run:
    """Neighbouring spans that are cut as one: small ones of one kind, solid ones, or a single other one."""

    def __init__(self) -> None:
        self._first: Span | None = None
        self._size, self._kind, self._is_aligned = 0, Kind.PLAIN, True

    def takes(self, span: Span) -> bool:
        first = self._first
        if first is None:
            return True
        if span.base != _moved(first.base, self._size) or first.is_patch or span.is_patch:
            return False
        if first.kind is span.kind is Kind.SOLID:
            return True
        is_alike = span.kind is self._kind or _is_crumb(span) or self._size < _CRUMB
        return first.is_small and span.is_small and is_alike and self._size + span.size <= FRAME

    def add(self, span: Span) -> None:
        if self._first is None or not _is_crumb(span):
            self._kind = span.kind
            self._is_aligned = self._is_aligned and self._size % span.kind.width == 0
        self._first = self._first or span
        self._size += span.size

    def cut(self, patch: int) -> Iterator[Span]:
        if self._first is None:
            return
        base, is_patch = self._first.base, self._first.is_patch
        is_whole = self._is_aligned and self._size % self._kind.width == 0
        kind = self._kind if is_whole else Kind.PLAIN
        step = patch if is_patch else self._size if kind is Kind.SOLID and base is None else FRAME
        for start in range(0, self._size, step):
            yield Span(min(step, self._size - start), kind, base if is_patch else _moved(base, start), is_patch)


def _is_crumb(span: Span) -> bool:
    """Return whether a span is so short that it may be coded as whatever stands beside it."""
    return span.size < _CRUMB


def _moved(base: Place | None, size: int) -> Place | None:
    return base and Place(base.file, base.offset + size)


def count_chunks(cut: Span) -> int:
    """Return the most chunks that a frame, or all frames of solid spans, can have."""
    return -(-cut.size // Limits.CHUNK)


def solid_size(volume_size: int) -> int:
    """Return the largest length in bytes of a frame of many chunks: four fit into a volume, so that it can be filled.

    Args:
        volume_size: Largest length of a volume file in bytes.
    """
    return min(SOLID, max(FRAME, volume_size // 4 // FRAME * FRAME))


def count_slots(chunks_left: int, bytes_left: int, volume_size: int) -> int:
    """Return how many table entries to reserve in a new volume.

    Args:
        chunks_left: Upper bound of the chunks still to be written.
        bytes_left: Bytes of the stream in them.
        volume_size: Largest length of the volume file in bytes, at least `SMALLEST_VOLUME`.
    """
    likely = _SPARE_SLOTS * chunks_left * volume_size // bytes_left
    most = min(volume_size // (4 * ENTRY), _MOST_SLOTS)
    return min(max(likely, _FEWEST_SLOTS), most, chunks_left)


def first_chunk(slots: int) -> int:
    """Return where chunks begin in a volume of `slots` table entries, in bytes."""
    return HEADER + slots * ENTRY


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of one file inside one frame.

    Attributes:
        file: Position of the file in the manifest.
        start: First byte, counted in the frame.
        stop: End, counted in the frame.
    """

    file: int
    start: int
    stop: int


class Stream:
    """Where the files of a package lie in its stream, and which of them are wanted.

    Args:
        files: The manifest's files, in stream order.
        wanted: Digests of the files to deliver.
    """

    def __init__(self, files: tuple[FileInfo, ...], wanted: Container[Digest]) -> None:
        ends = itertools.accumulate(file.size for file in files)
        self._ends = list(ends)
        self._wanted = [file.digest in wanted for file in files]
        self.wanted = [number for number, is_wanted in enumerate(self._wanted) if is_wanted]

    @property
    def total(self) -> int:
        """Length of the stream in bytes."""
        return self._ends[-1] if self._ends else 0

    def pieces(self, offset: int, size: int) -> list[Piece]:
        """Return the parts of wanted files in the frame of `size` bytes at `offset` of the stream, in order."""
        found: list[Piece] = []
        stop = offset + size
        file = bisect_right(self._ends, offset)  # the first file that ends beyond `offset`
        while offset < stop:
            end = min(self._ends[file], stop)
            if self._wanted[file] and end > offset:
                found.append(Piece(file, offset - stop + size, end - stop + size))
            offset, file = end, file + 1
        return found
