"""Volumes: the 128-byte header, the chunk table, and the frames that the table describes.

    header | slots x 64 bytes of table | stored chunks back to back, to the exact end of the file

Everything is little-endian (docs/spec/package.md section 4). Rules held here:

1. The header holds nothing that the signed manifest does not say: a reader compares it byte for byte.
2. A table is parsed only after its digest matched the signed one, and every number in it is bounded.
3. Frames cover the stream without gap or overlap, in order; the chunks of one frame are consecutive.
4. A frame that builds on a base file stays within that file, whose size is signed.
5. Slots beyond the entries are zero. What is reserved is zero.

Chunks are numbered from 1 in each volume, as volumes are in their package.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from airpack.errors import IntegrityError
from airpack.types import Digest, Limits

MAGIC: Final = b"airvol\x00\x01"
PARITY_MAGIC: Final = b"airpar\x00\x01"
REPAIR_MAGIC: Final = b"airfix\x00\x01"
HEADER: Final = 128  # bytes
ENTRY: Final = 64  # bytes
PARTS: Final = 255  # chunks in one frame
ROW: Final = 1 << 20  # bytes of one row of a parity volume; the last may be shorter
ROW_DIGEST: Final = 32  # bytes
PREFIX: Final = 32 << 20  # bytes of a base file that a patch may refer to: twice as many made none smaller


class Codec(IntEnum):
    """How a frame is stored (docs/spec/package.md section 4.3)."""

    RAW = 1  # the stored bytes are the frame
    ZSTD = 2  # one zstd frame (RFC 8878), as all below but BASE
    BF16 = 3  # of the frame in planes of exponents and of the rest
    FP16 = 4  # of the frame in planes of high and low bytes
    FP32 = 5  # of the frame in three planes
    BASE = 6  # nothing is stored: the frame is a range of a base file
    XOR = 7  # of the frame XOR a range of a base file
    XOR_BF16 = 8  # likewise, in planes
    XOR_FP16 = 9
    XOR_FP32 = 10
    PATCH = 11  # whose prefix is a range of a base file

    @property
    def has_base(self) -> bool:
        """Whether a frame of this codec needs bytes of a base file."""
        return self >= Codec.BASE

    @property
    def width(self) -> int:
        """Bytes that the length of a frame of this codec is a multiple of."""
        return _WIDTHS.get(self, 1)


_WIDTHS = {
    Codec.BF16: 2,
    Codec.FP16: 2,
    Codec.FP32: 4,
    Codec.XOR_BF16: 2,
    Codec.XOR_FP16: 2,
    Codec.XOR_FP32: 4,
}

_HEADER = struct.Struct("<8s32sIIIIQ")
_ENTRY = struct.Struct("<32sQQIIIBBBB")


@dataclass(frozen=True, slots=True)
class Header:
    """The first 128 bytes of a volume; derivable from the package manifest (docs/spec/package.md section 4.1).

    Attributes:
        package: SHA-256 of the package manifest's payload.
        index: Number of this volume, from 1.
        count: Volumes of its kind in the package.
        entries: Used entries of the table; rows of a parity volume.
        slots: All entries of the table, used or zero.
        data: Bytes of chunks behind the table; of parity in a parity volume.
        magic: What kind of volume it is: `MAGIC`, `PARITY_MAGIC` or `REPAIR_MAGIC`.
    """

    package: Digest
    index: int
    count: int
    entries: int
    slots: int
    data: int
    magic: bytes = MAGIC

    def emit(self) -> bytes:
        """Return the 128 bytes."""
        packed = _HEADER.pack(self.magic, self.package.raw, self.index, self.count, self.entries, self.slots, self.data)
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
        magic, package, index, count, entries, slots, filled = _HEADER.unpack_from(data)
        if magic not in {MAGIC, PARITY_MAGIC, REPAIR_MAGIC}:
            raise IntegrityError(f"{what} is not an airpack volume of version 1: it begins with {magic.hex()}")
        header = cls(Digest.from_raw(package), index, count, entries, slots, filled, magic)
        if header.emit() != data:
            raise IntegrityError(f"{what}: header padding is not zero")
        bounds = (
            ("index", header.index, 1, header.count),
            ("count", header.count, 1, Limits.VOLUMES),
            ("entries", header.entries, 1, header.slots),
            ("slots", header.slots, 1, Limits.TABLE_ENTRIES),
            ("data", header.data, 0, header.entries * Limits.CHUNK),
        )
        for name, value, low, high in bounds:
            _within(what, f"header {name}", value, low, high)
        return header


@dataclass(frozen=True, slots=True)
class Entry:
    """One chunk as the table describes it (docs/spec/package.md section 4.2).

    Attributes:
        digest: The 32 bytes of the SHA-256 of the stored chunk; of the frame itself where nothing is stored.
        raw_offset: Where the chunk's frame begins in the stream, in bytes.
        stored: Bytes of the chunk as stored.
        frame: Bytes of the chunk's frame once decoded.
        codec: How the frame is stored.
        part: Which chunk of its frame this is, from 0.
        parts: How many chunks its frame has.
        base: Number of the base file that the frame builds on, from 1; 0 for none.
        base_offset: Where the range of that file begins, in bytes.
    """

    digest: bytes
    raw_offset: int
    stored: int
    frame: int
    codec: Codec
    part: int = 0
    parts: int = 1
    base: int = 0
    base_offset: int = 0

    def emit(self) -> bytes:
        """Return the 64 bytes."""
        return _ENTRY.pack(
            self.digest,
            self.raw_offset,
            self.base_offset,
            self.stored,
            self.frame,
            self.base,
            self.codec,
            self.part,
            self.parts,
            0,
        )

    @classmethod
    def parse(cls, data: bytes | memoryview, *, bases: Sequence[int] = (), what: str) -> Self:
        """Return the entry in the 64 bytes `data`.

        Args:
            data: The entry.
            bases: Length of each base file in bytes, as signed.
            what: The chunk's name, for messages.

        Raises:
            IntegrityError: A number is out of bounds, the codec is unknown, a range is not within its base file, or a
                reserved field is not zero.
        """
        digest, raw_offset, base_offset, stored, frame, base, number, part, parts, reserved = _ENTRY.unpack(data)
        _within(what, "frame size", frame, 1, Limits.FRAME)
        codec = _codec(what, number)
        _within(what, "stored size", stored, *((0, 0) if codec is Codec.BASE else (1, Limits.CHUNK)))
        _within(what, "parts", parts, 1, 1 if codec is Codec.BASE else PARTS)
        _within(what, "part", part, 0, parts - 1)
        if frame % codec.width:
            raise IntegrityError(f"{what}: a frame of codec {number} has {frame} bytes, no multiple of {codec.width}")
        if reserved or not (codec.has_base or base == base_offset == 0):
            raise IntegrityError(f"{what}: base and base offset of codec {number}, and the reserved byte, must be zero")
        if codec.has_base:
            _check_range(what, bases, base, base_offset, 1 if codec is Codec.PATCH else frame)
        return cls(digest, raw_offset, stored, frame, codec, part, parts, base, base_offset)


def _codec(what: str, number: int) -> Codec:
    try:
        return Codec(number)
    except ValueError as error:
        raise IntegrityError(
            f"{what}: codec is {number}; this airpack reads 1 to {max(Codec)}",
            hint="a newer airpack may read it: see `airpack --version`",
        ) from error


def _check_range(what: str, bases: Sequence[int], base: int, offset: int, length: int) -> None:
    """Refuse a range of `length` bytes that is not within its base file."""
    _within(what, "base", base, 1, len(bases))
    _within(what, "base offset", offset, 0, bases[base - 1] - length)


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
        codec: How it is stored.
        chunks: Its stored chunks, back to back in one volume; one of no bytes for `Codec.BASE`.
        base: Number of the base file that it builds on, from 1; 0 for none.
        base_offset: Where the range of that file begins, in bytes.
    """

    offset: int
    size: int
    codec: Codec
    chunks: tuple[Chunk, ...]
    base: int = 0
    base_offset: int = 0

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
        bases: Length of each base file in bytes.
        start: Where the first frame begins in the stream, in bytes.
        end: Where the last frame ends in the stream, in bytes.
    """

    data: bytes
    entries: int
    bases: tuple[int, ...]
    start: int
    end: int

    def frames(self) -> Iterator[Frame]:
        """Return the frames in stream order."""
        return _walk(self.data, self.entries, self.bases, "table")


def read_places(entries: bytes | bytearray | memoryview) -> Iterator[tuple[bytes, int]]:
    """Yield the digest and the stored length in bytes of each of `entries` (64 bytes each); nothing else is looked at.

    Unused slots have a length of 0, as frames have of which nothing is stored.
    """
    return ((fields[0], fields[3]) for fields in _ENTRY.iter_unpack(entries))


def emit_table(entries: bytes | bytearray, slots: int) -> bytes:
    """Return the table whose used entries are `entries` (64 bytes each), filled up to `slots` entries with zeros."""
    return bytes(entries).ljust(slots * ENTRY, b"\x00")


def parse_table(data: bytes, *, entries: int, stored: int, bases: Sequence[int] = (), what: str) -> Table:
    """Return the table in `data`, checked whole (docs/spec/package.md section 4.2).

    Where its frames must begin and end in the stream is for those who know the tables beside it.

    Args:
        data: All slots; their digest has been compared with the signed one.
        entries: Used entries, as signed, at least 1.
        stored: Bytes of chunks in the volume, as signed.
        bases: Length of each base file in bytes, as signed.
        what: The volume's name, for messages.

    Raises:
        IntegrityError: Any entry out of bounds, a gap or overlap in the stream, an incomplete frame, slots that are
            not zero, or chunks that do not fill the volume exactly.
    """
    slots, rest = divmod(len(data), ENTRY)
    if rest or not 0 < entries <= slots:
        raise IntegrityError(f"{what}: a table of {len(data)} bytes does not hold {entries} entries of {ENTRY}")
    if any(memoryview(data)[entries * ENTRY :]):
        raise IntegrityError(f"{what}: the table's unused slots are not zero")
    start, end, filled = _start(data), 0, 0
    sizes = tuple(bases)
    for frame in _walk(data, entries, sizes, what):
        end, filled = frame.offset + frame.size, filled + frame.stored
    if filled != stored:
        raise IntegrityError(f"{what}: the table lists {filled} bytes of chunks; the signed size leaves {stored}")
    return Table(data, entries, sizes, start, end)


def _start(data: bytes) -> int:
    """Return where the first frame of a table says that it begins in the stream."""
    offset: int = _ENTRY.unpack_from(data)[1]
    return offset


def _walk(data: bytes, entries: int, bases: Sequence[int], what: str) -> Iterator[Frame]:
    """Yield the frames of a table, each checked against the one before."""
    view, place, expected = memoryview(data), HEADER + len(data), _start(data)
    first: Entry | None = None
    chunks: list[Chunk] = []
    for number in range(1, entries + 1):
        where = f"{what}: chunk {number}"
        entry = Entry.parse(view[(number - 1) * ENTRY : number * ENTRY], bases=bases, what=where)
        first = first or entry
        if (entry.raw_offset, entry.part) != (expected, len(chunks)):
            raise IntegrityError(
                f"{where}: part {entry.part} of the frame at byte {entry.raw_offset} of the stream stands where "
                f"part {len(chunks)} of the frame at byte {expected} must stand"
            )
        if _shared(entry) != _shared(first):
            raise IntegrityError(f"{where}: parts of one frame disagree about its size, codec, base or number of parts")
        chunks.append(Chunk(number, entry.digest, place, entry.stored))
        place += entry.stored
        if len(chunks) == entry.parts:
            yield _frame(first, tuple(chunks), where)
            expected += entry.frame
            first, chunks = None, []
    if chunks:
        raise IntegrityError(f"{what}: the table ends inside a frame")


def _shared(entry: Entry) -> tuple[int, ...]:
    """Return what all parts of a frame say alike."""
    return entry.frame, entry.codec, entry.parts, entry.base, entry.base_offset


def _frame(first: Entry, chunks: tuple[Chunk, ...], where: str) -> Frame:
    frame = Frame(first.raw_offset, first.frame, first.codec, chunks, first.base, first.base_offset)
    if frame.codec is Codec.RAW and frame.stored != frame.size:
        raise IntegrityError(f"{where}: a raw frame of {frame.size} bytes is stored in {frame.stored}")
    if frame.stored > frame.size + Limits.CHUNK:
        raise IntegrityError(
            f"{where}: a frame of {frame.size} bytes is stored in {frame.stored}, far more than it needs"
        )
    return frame


def _within(what: str, name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise IntegrityError(f"{what}: {name} must be from {low} to {high}, found {value}")
