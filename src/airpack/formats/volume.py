"""Volumes: the 128-byte header, the chunk table, and the frames that the table describes.

    header | slots x 64 bytes of table | stored chunks back to back, to the exact end of the file

Everything is little-endian (docs/spec/package.md section 4). Rules held here:

1. The header holds nothing that the signed manifest does not say: a reader compares it byte for byte.
2. A table is parsed only after its digest matched the signed one, and every number in it is bounded.
3. Frames cover the stream without gap or overlap, in order; the chunks of one frame are consecutive.
4. Slots beyond the entries are zero. What is reserved is zero.

Chunks are numbered from 1 in each volume, as volumes are in their package.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from airpack.errors import IntegrityError
from airpack.types import Digest, Limits

MAGIC: Final = b"airvol\x00\x01"
HEADER: Final = 128  # bytes
ENTRY: Final = 64  # bytes
RAW: Final = 1  # codec: the stored bytes are the frame
ZSTD: Final = 2  # codec: one zstd frame (RFC 8878)
CODECS: Final = frozenset({RAW, ZSTD})
PARTS: Final = 255  # chunks in one frame

_HEADER = struct.Struct("<8s32sIIIIQ")
_ENTRY = struct.Struct("<32sQQIIIBBBB")


@dataclass(frozen=True, slots=True)
class Header:
    """The first 128 bytes of a volume; derivable from the package manifest (docs/spec/package.md section 4.1).

    Attributes:
        package: SHA-256 of the package manifest's payload.
        index: Number of this volume, from 1.
        count: Volumes in the package.
        entries: Used entries of the table.
        slots: All entries of the table, used or zero.
        data: Bytes of chunks behind the table.
    """

    package: Digest
    index: int
    count: int
    entries: int
    slots: int
    data: int

    def emit(self) -> bytes:
        """Return the 128 bytes."""
        packed = _HEADER.pack(MAGIC, self.package.raw, self.index, self.count, self.entries, self.slots, self.data)
        return packed.ljust(HEADER, b"\x00")

    @classmethod
    def parse(cls, data: bytes, *, what: str) -> Self:
        """Return the header whose bytes are exactly `data`.

        Readers compare bytes with `emit` instead; this serves to say what a foreign volume is.

        Raises:
            IntegrityError: Wrong length, magic, numbers or padding.
        """
        if len(data) != HEADER:
            raise IntegrityError(f"{what}: header has {len(data)} bytes, expected {HEADER}")
        magic, package, *numbers = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise IntegrityError(f"{what} is not an airpack volume of version 1: it begins with {magic.hex()}")
        header = cls(Digest.from_raw(package), *numbers)
        if header.emit() != data:
            raise IntegrityError(f"{what}: header padding is not zero")
        bounds = (
            ("index", header.index, 1, header.count),
            ("count", header.count, 1, Limits.VOLUMES),
            ("entries", header.entries, 1, header.slots),
            ("slots", header.slots, 1, Limits.TABLE_ENTRIES),
            ("data", header.data, header.entries, header.entries * Limits.CHUNK),
        )
        for name, value, low, high in bounds:
            _within(what, f"header {name}", value, low, high)
        return header


@dataclass(frozen=True, slots=True)
class Entry:
    """One chunk as the table describes it (docs/spec/package.md section 4.2).

    Attributes:
        digest: The 32 bytes of the SHA-256 of the stored chunk.
        raw_offset: Where the chunk's frame begins in the stream, in bytes.
        stored: Bytes of the chunk as stored.
        frame: Bytes of the chunk's frame once decoded.
        codec: `RAW` or `ZSTD`.
        part: Which chunk of its frame this is, from 0.
        parts: How many chunks its frame has.
    """

    digest: bytes
    raw_offset: int
    stored: int
    frame: int
    codec: int
    part: int = 0
    parts: int = 1

    def emit(self) -> bytes:
        """Return the 64 bytes."""
        return _ENTRY.pack(
            self.digest, self.raw_offset, 0, self.stored, self.frame, 0, self.codec, self.part, self.parts, 0
        )

    @classmethod
    def parse(cls, data: bytes | memoryview, *, what: str) -> Self:
        """Return the entry in the 64 bytes `data`.

        Raises:
            IntegrityError: A number is out of bounds, the codec is unknown, or a reserved field is not zero.
        """
        digest, raw_offset, base_offset, stored, frame, base, codec, part, parts, reserved = _ENTRY.unpack(data)
        _within(what, "stored size", stored, 1, Limits.CHUNK)
        _within(what, "frame size", frame, 1, Limits.FRAME)
        _within(what, "parts", parts, 1, PARTS)
        _within(what, "part", part, 0, parts - 1)
        if codec not in CODECS:
            raise IntegrityError(
                f"{what}: codec is {codec}; this airpack reads 1 (raw) and 2 (zstd)",
                hint="a newer airpack may read it: see `airpack --version`",
            )
        if base or base_offset or reserved:
            raise IntegrityError(f"{what}: base, base offset and the reserved byte must be zero in this version")
        return cls(digest, raw_offset, stored, frame, codec, part, parts)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One stored chunk and its place.

    Attributes:
        number: Number in its volume, from 1.
        digest: The 32 bytes of the SHA-256 of the stored bytes.
        offset: Where it begins in the volume file, in bytes.
        stored: Length in bytes.
    """

    number: int
    digest: bytes
    offset: int
    stored: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One independently coded piece of the stream.

    Attributes:
        offset: Where it begins in the stream, in bytes.
        size: Length once decoded, in bytes.
        codec: `RAW` or `ZSTD`.
        chunks: Its stored chunks, back to back in one volume.
    """

    offset: int
    size: int
    codec: int
    chunks: tuple[Chunk, ...]

    @property
    def stored(self) -> int:
        """Length as stored, in bytes."""
        return sum(chunk.stored for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Table:
    """A checked table; only `parse_table` makes one. Frames are made anew on each walk, so that a table stays small.

    Attributes:
        data: All slots.
        entries: Used entries.
        start: Where the first frame begins in the stream, in bytes.
        end: Where the last frame ends in the stream, in bytes.
    """

    data: bytes
    entries: int
    start: int
    end: int

    def frames(self) -> Iterator[Frame]:
        """Return the frames in stream order."""
        return _walk(self.data, self.entries, self.start, "table")


def emit_table(entries: bytes | bytearray, slots: int) -> bytes:
    """Return the table whose used entries are `entries` (64 bytes each), filled up to `slots` entries with zeros."""
    return bytes(entries).ljust(slots * ENTRY, b"\x00")


def parse_table(data: bytes, *, entries: int, start: int, stored: int, what: str) -> Table:
    """Return the table in `data`, checked whole (docs/spec/package.md section 4.2).

    Args:
        data: All slots; their digest has been compared with the signed one.
        entries: Used entries, as signed.
        start: Where the volume's first frame must begin in the stream, in bytes.
        stored: Bytes of chunks in the volume, as signed.
        what: The volume's name, for messages.

    Raises:
        IntegrityError: Any entry out of bounds, a gap or overlap in the stream, an incomplete frame, slots that are
            not zero, or chunks that do not fill the volume exactly.
    """
    slots, rest = divmod(len(data), ENTRY)
    if rest or entries > slots:
        raise IntegrityError(f"{what}: a table of {len(data)} bytes does not hold {entries} entries of {ENTRY}")
    if any(memoryview(data)[entries * ENTRY :]):
        raise IntegrityError(f"{what}: the table's unused slots are not zero")
    end, filled = start, 0
    for frame in _walk(data, entries, start, what):
        end, filled = frame.offset + frame.size, filled + frame.stored
    if filled != stored:
        raise IntegrityError(f"{what}: the table lists {filled} bytes of chunks; the signed size leaves {stored}")
    return Table(data, entries, start, end)


def _walk(data: bytes, entries: int, start: int, what: str) -> Iterator[Frame]:
    """Yield the frames of a table, each checked against the one before."""
    view, place, expected = memoryview(data), HEADER + len(data), start
    first: Entry | None = None
    chunks: list[Chunk] = []
    for number in range(1, entries + 1):
        where = f"{what}: chunk {number}"
        entry = Entry.parse(view[(number - 1) * ENTRY : number * ENTRY], what=where)
        first = first or entry
        if (entry.raw_offset, entry.part) != (expected, len(chunks)):
            raise IntegrityError(
                f"{where}: part {entry.part} of the frame at byte {entry.raw_offset} of the stream stands where "
                f"part {len(chunks)} of the frame at byte {expected} must stand"
            )
        if (entry.frame, entry.codec, entry.parts) != (first.frame, first.codec, first.parts):
            raise IntegrityError(f"{where}: parts of one frame disagree about its size, codec or number of parts")
        chunks.append(Chunk(number, entry.digest, place, entry.stored))
        place += entry.stored
        if len(chunks) == entry.parts:
            yield _frame(first, tuple(chunks), where)
            expected += entry.frame
            first, chunks = None, []
    if chunks:
        raise IntegrityError(f"{what}: the table ends inside a frame")


def _frame(first: Entry, chunks: tuple[Chunk, ...], where: str) -> Frame:
    frame = Frame(first.raw_offset, first.frame, first.codec, chunks)
    if frame.codec == RAW and frame.stored != frame.size:
        raise IntegrityError(f"{where}: a raw frame of {frame.size} bytes is stored in {frame.stored}")
    return frame


def _within(what: str, name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise IntegrityError(f"{what}: {name} must be from {low} to {high}, found {value}")
