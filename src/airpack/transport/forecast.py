"""What a package would come to, from frames that are coded and thrown away: nothing is written.

Frames of runtimes are all coded, since they are few, large and unlike each other. Of all others at most `_SAMPLES` are
coded, evenly spread over each kind, and the rest is taken to be like them; `is_exact` says where none were left out.
"""

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO, Final, TypeAlias

from airpack.errors import StorageError
from airpack.formats.volume import ENTRY, HEADER, PREFIX
from airpack.transport import plan, planes
from airpack.transport.codec import Kind
from airpack.transport.feed import Bases, Feed, Frame, changed, distinct
from airpack.transport.plan import Span
from airpack.transport.writer import smallest
from airpack.types import Limits, Reporter, Source

_SAMPLES: Final = 512  # frames, some seconds of work

_Class: TypeAlias = tuple[Kind, bool, bool]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the volumes of a package would come to.

    Attributes:
        bytes: Their length together.
        frames: How many frames there are.
        coded: How many of them were coded to know it.
    """

    bytes: int
    frames: int
    coded: int

    @property
    def is_exact(self) -> bool:
        """Whether every frame was coded."""
        return self.coded == self.frames


def forecast(sources: Sequence[Source], bases: Bases | None, *, volume_size: int, reporter: Reporter) -> Forecast:
    """Return what the volumes of a package of `sources` would come to.

    Args:
        sources: The files.
        bases: What the sites hold already; None for nothing.
        volume_size: Largest length of a volume in bytes.
        reporter: Receives progress in bytes.

    Raises:
        IntegrityError: A file is not of its size.
        StorageError: A file cannot be read.
    """
    files, _ = distinct(sources, reporter)
    solid = [file for file in files if file.source.solid]
    sizes = list(coded(Feed(solid, 0, plan.solid_size(volume_size), bases), reporter))
    found = _sampled([file.source for file in files if not file.source.solid], bases)
    total = sum(sizes) + found.bytes
    return Forecast(total + HEADER * -(-total // volume_size), len(sizes) + found.frames, len(sizes) + found.coded)


def coded(feed: Feed, reporter: Reporter) -> Generator[int, None, None]:
    """Yield what each frame of `feed` takes in a volume, its entries in the table included."""
    reporter.start("try", feed.size)
    try:
        with closing(feed.plans()) as spans:
            for span in spans:
                yield _coded(feed, span, reporter)
    finally:
        reporter.finish()


def _coded(feed: Feed, span: Span, reporter: Reporter) -> int:
    """Return what one frame takes; nothing of it stays in memory while the next one is read."""
    frame = feed.read(span)
    reporter.advance(frame.span.size, frame.path)
    return _size(frame)


def _size(frame: Frame) -> int:
    _, stored, _ = smallest(frame)
    return len(stored) + ENTRY * max(1, -(-len(stored) // Limits.CHUNK))


@dataclass(slots=True)
class _Sum:
    """What frames of one class have in all, and what those that were coded came to."""

    raw: int = 0
    read: int = 0
    coded: int = 0

    @property
    def bytes(self) -> int:
        return -(-self.coded * self.raw // self.read) if self.read else 0


def _sampled(sources: Sequence[Source], bases: Bases | None) -> Forecast:
    frames = sum(1 for _ in _cuts(sources, bases))
    step = max(1, -(-frames // _SAMPLES))
    sums: defaultdict[_Class, _Sum] = defaultdict(_Sum)
    stream, at, done = _Stream(sources), 0, 0
    for number, cut in enumerate(_cuts(sources, bases)):
        found = sums[cut.kind, cut.base is not None, cut.is_patch]
        if number % step == 0 or not found.read:
            found.read, found.coded, done = found.read + cut.size, found.coded + stream.code(at, cut, bases), done + 1
        found.raw += cut.size
        at += cut.size
    return Forecast(sum(found.bytes for found in sums.values()), frames, done)


def _cuts(sources: Sequence[Source], bases: Bases | None) -> Iterator[Span]:
    spans = bases.spans if bases else plan.spans
    return plan.cuts(span for source in sources for span in spans(source))


class _Stream:
    """Files end to end, read at any offset."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._ends = list(itertools.accumulate(source.size for source in sources))

    def code(self, offset: int, span: Span, bases: Bases | None) -> int:
        """Return what the frame at `offset` takes in a volume."""
        base = (
            b"" if span.base is None or bases is None else bases.read(span.base, PREFIX if span.is_patch else span.size)
        )
        return _size(Frame(offset, span, self._read(offset, span.size), base, ""))

    def _read(self, offset: int, size: int) -> memoryview:
        data, done = planes.room(size), 0
        number = bisect_right(self._ends, offset)
        while done < size:
            source, end = self._sources[number], self._ends[number]
            count = min(size - done, end - offset - done)
            if count:
                self._fill(source, offset + done - (end - source.size), data[done : done + count])
            done, number = done + count, number + 1
        return data

    @staticmethod
    def _fill(source: Source, start: int, view: memoryview) -> None:
        try:
            with source.open() as stream:
                stream.seek(start)
                found = _exactly(stream, len(view))
        except OSError as error:
            raise StorageError(f"cannot read {source.path}: {error.strerror or error}", path=source.path) from error
        if len(found) < len(view):
            raise changed(source, f"expected {source.size} bytes, found {start + len(found)}")
        view[:] = found


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (piece := stream.read(count - len(data))):
        data += piece
    return bytes(data)
