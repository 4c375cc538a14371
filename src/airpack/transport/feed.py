"""Sources to frames: each file is read once, in order, hashed on the way, and held to what it was announced as.

Only sources of equal size and unknown digest are looked at before, so that equal ones are stored once: the large ones
whole only if they begin alike.
"""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Protocol, Self, cast

from airpack.errors import IntegrityError, StorageError
from airpack.formats.package import FileInfo
from airpack.formats.volume import PREFIX
from airpack.transport import codec, plan, planes
from airpack.transport.codec import Kind
from airpack.transport.plan import FRAME, Place, Span
from airpack.transport.planes import Buffer
from airpack.types import Digest, Reporter, Source

SOLID_ROOM: Final = 92 << 20  # bytes of a solid frame and of what is expected to remain of it


class Bases(Protocol):
    """What the sites that a package is made for hold already."""

    def spans(self, source: Source) -> Iterable[Span]:
        """Return the spans of a file, those like a range of a base file with its place; the same at each call."""

    def read(self, place: Place, size: int) -> Buffer:
        """Return the `size` bytes from `place` on, fewer only at the end of the base file."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the stream: where it comes from, and its digest where that is known before it is packed."""

    source: Source
    known: Digest | None


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as read.

    Attributes:
        offset: Where it begins in the stream, in bytes.
        span: What it is.
        data: Its bytes.
        base: The bytes of the base file that it is coded with; empty for none.
        path: The file to name in progress.
    """

    offset: int
    span: Span
    data: memoryview
    base: Buffer
    path: str


def distinct(sources: Sequence[Source], reporter: Reporter) -> tuple[list[File], list[int]]:
    """Return the files that equal none before them, those of runtimes last, and the place of each source among them.

    Args:
        sources: All files.
        reporter: Receives the bytes that are read to compare files.

    Raises:
        IntegrityError: A source's bytes are not of its size.
        StorageError: A source cannot be read.
    """
    digests = _digests(sources, reporter)
    names = [position if digest is None else digest for position, digest in enumerate(digests)]
    firsts: dict[Digest | int, int] = {}
    for position, name in enumerate(names):
        firsts.setdefault(name, position)
    order = sorted(firsts.values(), key=lambda position: sources[position].solid)
    places = {position: place for place, position in enumerate(order)}
    return [File(sources[position], digests[position]) for position in order], [places[firsts[name]] for name in names]


def _digests(sources: Sequence[Source], reporter: Reporter) -> list[Digest | None]:
    """Return the digest of each source where it is known, or another source may have the same."""
    digests = [source.digest for source in sources]
    suspects = [position for group in _by_size(sources) for position in _suspects(sources, group)]
    if suspects:
        reporter.start("compare", sum(sources[position].size for position in suspects))
        try:
            for position in suspects:
                digests[position] = _hash(sources[position], reporter)
        finally:
            reporter.finish()
    return digests


def _by_size(sources: Sequence[Source]) -> Iterable[list[int]]:
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for position, source in enumerate(sources):
        groups[source.size].append(position)
    return groups.values()


def _suspects(sources: Sequence[Source], group: list[int]) -> list[int]:
    """Return which files of one size must be read whole to know whether they equal another one."""
    if len(group) == 1:
        return []
    unknown = [position for position in group if sources[position].digest is None]
    if len(unknown) < len(group) or sources[group[0]].size <= FRAME:
        return unknown
    starts = [_start(sources[position]) for position in unknown]
    counts = Counter(starts)
    return [position for position, start in zip(unknown, starts, strict=True) if counts[start] > 1]


def _start(source: Source) -> bytes:
    """Return the digest of the first bytes of a source."""
    room = planes.room(FRAME)
    with _Reading(source) as reading:
        return hashlib.sha256(room[: reading.fill(room)]).digest()


def _hash(source: Source, reporter: Reporter) -> Digest:
    room = planes.room(FRAME)
    with _Reading(source) as reading:
        while count := reading.fill(room):
            reporter.advance(count, source.path)
        return reading.end()


class Feed:
    """Reads files one after the other and cuts them into frames; knows afterwards what they were.

    Args:
        files: The files of one part of the stream.
        offset: Where that part begins in the stream, in bytes.
        largest: Length of the largest frame in bytes.
        bases: What the sites hold already; None for nothing.
    """

    def __init__(self, files: Sequence[File], offset: int, largest: int, bases: Bases | None) -> None:
        self.infos: list[FileInfo] = []
        self.size = sum(file.source.size for file in files)
        self._files, self._largest, self._bases = files, largest, bases
        self._offset = offset
        self._waiting = iter(files)
        self._current: tuple[File, _Reading] | None = None

    def count_chunks(self) -> int:
        """Return the most chunks that the frames can have."""
        return sum(map(plan.count_chunks, self._cuts()))

    def plans(self) -> Generator[Span, None, None]:
        """Yield what the next frame may hold at most; the caller calls `read` before it asks again."""
        try:
            self._next()
            for cut in self._cuts():
                end = self._offset + cut.size
                while self._offset < end:
                    yield replace(cut, size=min(end - self._offset, self._largest))
            if self._current is not None:
                raise RuntimeError(f"{self._current[0].source.path} is longer than its spans")
        finally:
            if self._current is not None:
                self._current[1].close()

    def _cuts(self) -> Iterator[Span]:
        spans = self._bases.spans if self._bases else plan.spans
        found = (span for file in self._files for span in spans(file.source))
        return plan.cuts(found, min(self._largest, plan.PATCH))

    def read(self, span: Span) -> Frame:
        """Return the next frame: all that `span` may hold; of solid files, what there is room for.

        Raises:
            IntegrityError: A file is not of its size or digest.
            StorageError: A file cannot be read.
        """
        offset, data = self._offset, planes.room(span.size)
        is_open = span.kind is Kind.SOLID and span.base is None
        done = expected = 0
        while done < span.size and done + expected < SOLID_ROOM:
            piece = data[done : done + FRAME]
            path = self._fill(piece)
            done += len(piece)
            expected += codec.estimate(piece) if is_open else 0
        self._offset += done
        return Frame(offset, replace(span, size=done), data[:done], self._base(span), path)

    def cost(self, span: Span) -> int:
        """Return how many bytes a frame takes in memory, about, until it is written."""
        if span.is_patch:
            return 2 * span.size + 3 * PREFIX
        if span.base:
            return 4 * span.size
        return min(2 * span.size, SOLID_ROOM)

    def _base(self, span: Span) -> Buffer:
        if span.base is None or self._bases is None:
            return b""
        return self._bases.read(span.base, PREFIX if span.is_patch else span.size)

    def _fill(self, view: memoryview) -> str:
        """Fill `view` with what comes next and return the name of the file that it ends with."""
        path = ""
        while view and self._current is not None:
            file, reading = self._current
            count = reading.fill(view)
            view, path = view[count:], file.source.path
            if not reading.left:
                self._finish(file, reading)
                self._next()
        if view:
            raise RuntimeError(f"spans are longer than their files by {len(view)} bytes")
        return path

    def _next(self) -> None:
        """Open the next file that holds bytes; empty ones are done with at once."""
        self._current = None
        for file in self._waiting:
            reading = _Reading(file.source)
            self._current = file, reading
            if reading.left:
                return
            self._finish(file, reading)
            self._current = None

    def _finish(self, file: File, reading: "_Reading") -> None:
        found = reading.end()
        if file.known is not None and file.known != found:
            raise changed(file.source, f"expected {file.known}, found {found}")
        self.infos.append(FileInfo(found, file.source.size))


class _Reading:
    """One source while it is read: counts what is left, and hashes what was read.

    Raises:
        StorageError: It cannot be read.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self.left = source.size
        with _translated(source):
            self._stream = cast("io.BufferedIOBase", source.open())  # typing.BinaryIO lacks `readinto`

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fill(self, view: memoryview) -> int:
        """Read the next bytes into `view` and return how many: all that fit, or all that are left.

        Raises:
            IntegrityError: The source is shorter than announced.
        """
        view = view[: self.left]
        done = 0
        while done < len(view):
            with _translated(self._source):
                count = self._stream.readinto(view[done:])
            if not count:
                found = self._source.size - self.left + done
                raise changed(self._source, f"expected {self._source.size} bytes, found {found}")
            done += count
        self._digest.update(view)
        self.left -= done
        return done

    def end(self) -> Digest:
        """Close the source, all of which was read, and return its digest.

        Raises:
            IntegrityError: The source is longer than announced.
        """
        with self, _translated(self._source):
            if self._stream.read(1):
                raise changed(self._source, f"expected {self._source.size} bytes, found more")
        return Digest.from_raw(self._digest.digest())

    def close(self) -> None:
        """Close the source."""
        with _translated(self._source):
            self._stream.close()


@contextmanager
def _translated(source: Source) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot read {source.path}: {error.strerror or error}", path=source.path) from error


def changed(source: Source, what: str) -> IntegrityError:
    """Return the error for a source that is not what it was announced as."""
    return IntegrityError(
        f"{source.path} is not what it was announced as, or changed while it was packed: {what}",
        hint="leave the files alone while they are packed, and run the same command again",
        path=source.path,
    )
