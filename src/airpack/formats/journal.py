"""The journal of a quarantine: which frames were verified, so that no import reads them twice (docs/spec/journal.md).

    header (64) | records of 32 bytes each

It is the site's own file and never leaves it. A record counts when its checksum holds and so do those of all before it:
what a kill left half-written ends the journal. Whether a record outlived a power cut is another question: it did where
a later record says that all up to it were synced, or where the machine has not started anew since.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from airpack.types import Digest

MAGIC: Final = b"airjnl\x00\x01"
HEADER: Final = 64  # bytes
RECORD: Final = 32  # bytes
BOOT: Final = 16  # bytes that tell one start of the machine from another

_HEADER = struct.Struct("<8s32s20xI")
_RECORD = struct.Struct("<BBHIQQ4xI")
_BOOT = struct.Struct("<BxH4x16s4xI")


class Kind(IntEnum):
    """What a record says."""

    FRAME = 1  # a frame was verified, and its wanted bytes written
    START = 2  # a run began, on a machine started as BOOT says; records up to the next one are of that run
    SYNCED = 3  # all frames among the first `offset` records are durable


class Record(NamedTuple):
    """One record; what it does not use is 0.

    Attributes:
        kind: What it says.
        parts: Chunks of the frame.
        volume: Number of the frame's volume, from 1.
        chunk: Number of its first chunk in the volume, from 1.
        offset: Where it begins in the stream, in bytes; of `SYNCED`, a number of records.
        size: Its length once decoded, in bytes.
        boot: Of `START`: which start of the machine.
    """

    kind: Kind
    parts: int = 0
    volume: int = 0
    chunk: int = 0
    offset: int = 0
    size: int = 0
    boot: bytes = b""

    def emit(self, seed: int) -> bytes:
        """Return the 32 bytes.

        Args:
            seed: The checksum of the header of the journal that they go into.
        """
        if self.kind is Kind.START:
            data = _BOOT.pack(self.kind, 0, self.boot, 0)
        else:
            data = _RECORD.pack(self.kind, self.parts, self.volume, self.chunk, self.offset, self.size, 0)
        return data[:-4] + zlib.crc32(data[:-4], seed).to_bytes(4, "little")


def emit_header(package: Digest) -> bytes:
    """Return the 64 bytes that begin the journal of the package whose manifest has the digest `package`."""
    data = _HEADER.pack(MAGIC, package.raw, 0)
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def seed_of(header: bytes) -> int:
    """Return the checksum of a header, from which those of its records go on."""
    return int.from_bytes(header[-4:], "little")


def parse_records(blocks: Iterable[bytes], seed: int) -> Iterator[Record]:
    """Yield the records up to the first that does not hold.

    Args:
        blocks: What follows the header; each but the last has a multiple of 32 bytes.
        seed: The checksum of the header.
    """
    for block in blocks:
        for at in range(0, len(block) - RECORD + 1, RECORD):
            data = block[at : at + RECORD]
            if zlib.crc32(data[:-4], seed) != int.from_bytes(data[-4:], "little") or data[0] not in _KINDS:
                return
            if data[0] == Kind.START:
                yield Record(Kind.START, boot=_BOOT.unpack(data)[2])
            else:
                kind, *numbers, _ = _RECORD.unpack(data)
                yield Record(Kind(kind), *numbers)
        if len(block) % RECORD:
            return


_KINDS: Final = frozenset(Kind)
