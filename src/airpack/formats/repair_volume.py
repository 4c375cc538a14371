"""Repair volumes: bytes of a volume brought again, as they were stored (docs/spec/package.md section 8).

    header | the volume's whole table | bitmap of chunks | these chunks, in order, to the exact end of the file

A repair volume is believed as little as a volume is. Rules held here:

1. Its header must be the one that the manifest implies; only how many bytes of chunks follow is its own to say.
2. The table is parsed only after its digest matched the signed one; then bitmap and length must fit it exactly.
3. Each chunk still has to have the digest that the table says.
"""

import re
from array import array
from bisect import bisect_left
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from typing import Final

from airpack.errors import IntegrityError
from airpack.formats.package import PackageManifest
from airpack.formats.volume import ENTRY, HEADER, REPAIR_MAGIC, Header, read_places
from airpack.types import Digest

SUFFIX: Final = ".airfix"

_NAME: Final = re.compile(r"([a-z0-9._-]{1,100})\.[0-9]{2,5}\.airfix\Z")
_VOLUME_SUFFIX: Final = ".airvol"


def repair_name(volume: str, number: int) -> str:
    """Return the file name of repair volume `number` (from 1) of the volume file `volume`."""
    return f"{volume.removesuffix(_VOLUME_SUFFIX)}.{number:02d}{SUFFIX}"


def stems_of(manifest: PackageManifest) -> frozenset[str]:
    """Return what the names of a package's repair volumes may begin with."""
    return frozenset(info.name.removesuffix(_VOLUME_SUFFIX) for info in manifest.volumes)


def is_repair_name(name: str, stems: Container[str]) -> bool:
    """Return whether a file of this name is looked at beside a head that does not list it.

    Args:
        name: The file's name.
        stems: What `stems_of` says of the package.
    """
    match = _NAME.match(name)
    return match is not None and match[1] in stems


def repair_header(header: Header, data: int) -> Header:
    """Return the header of a repair volume.

    Args:
        header: The header of the volume whose chunks it brings.
        data: Bytes of these chunks.
    """
    return replace(header, data=data, magic=REPAIR_MAGIC)


def parse_repair_header(data: bytes, manifest: PackageManifest, payload: Digest, *, what: str) -> Header:
    """Return the header of a repair volume of this package.

    Args:
        data: The file's first 128 bytes.
        manifest: The signed package manifest.
        payload: Digest of the manifest's signed bytes.
        what: The file's name, for messages.

    Raises:
        IntegrityError: It is no repair volume, or one of another package, or of no volume of this one.
    """
    header = Header.parse(data, what=what)
    if header.magic != REPAIR_MAGIC:
        raise IntegrityError(f"{what} is a volume, not a repair volume")
    if header.package != payload:
        raise IntegrityError(
            f"{what} belongs to another package: it names manifest {header.package.short}, this head signs "
            f"{payload.short}"
        )
    if header.index > len(manifest.volumes):
        raise IntegrityError(f"{what} says volume {header.index} of {header.count}; there are {len(manifest.volumes)}")
    whole = manifest.header(payload, header.index - 1)
    if header != repair_header(whole, header.data) or header.data > whole.data:
        raise IntegrityError(f"{what} does not say of volume {header.index} what the manifest says")
    return header


def repair_size(header: Header) -> int:
    """Return the length in bytes of a repair volume with this header."""
    return _first_chunk(header) + header.data


def _first_chunk(header: Header) -> int:
    return HEADER + header.slots * ENTRY + bitmap_size(header.entries)


def bitmap_size(entries: int) -> int:
    """Return the length in bytes of the bitmap over `entries` chunks."""
    return -(-entries // 8)


def emit_bitmap(numbers: Iterable[int], entries: int) -> bytes:
    """Return the bitmap in which the chunks of these numbers (from 1) are marked, of `entries` chunks in all."""
    bitmap = bytearray(bitmap_size(entries))
    for number in numbers:
        bitmap[(number - 1) // 8] |= 1 << (number - 1) % 8
    return bytes(bitmap)


@dataclass(frozen=True, slots=True)
class RepairContents:
    """Which chunks a repair volume brings, and where; 12 bytes for each, as there may be a million.

    Attributes:
        numbers: The chunks, ascending, from 1.
        offsets: Where each begins in the file, in bytes.
    """

    numbers: "array[int]"
    offsets: "array[int]"

    def find(self, number: int) -> int | None:
        """Return where chunk `number` begins in the file, in bytes; None where it is not brought."""
        at = bisect_left(self.numbers, number)
        return self.offsets[at] if at < len(self.numbers) and self.numbers[at] == number else None


def parse_contents(table: bytes, bitmap: bytes, header: Header, *, what: str) -> RepairContents:
    """Return what a repair volume brings.

    Args:
        table: All slots of the volume's table, whose digest is the signed one.
        bitmap: The bytes behind the table, as many as `bitmap_size` says.
        header: The repair volume's header.
        what: The file's name, for messages.

    Raises:
        IntegrityError: Bits beyond the entries, or of chunks of which nothing is stored; or chunks of another length
            together than the header says.
    """
    marks = int.from_bytes(bitmap, "little")
    if len(bitmap) != bitmap_size(header.entries) or marks >> header.entries:
        raise IntegrityError(f"{what}: the bitmap marks more than the {header.entries} chunks that there are")
    contents = RepairContents(array("I"), array("Q"))
    at = _first_chunk(header)
    for number, (_, stored) in enumerate(read_places(memoryview(table)[: header.entries * ENTRY]), 1):
        if bitmap[(number - 1) // 8] >> (number - 1) % 8 & 1:
            if not stored:
                raise IntegrityError(f"{what}: the bitmap marks chunk {number}, of which nothing is stored")
            contents.numbers.append(number)
            contents.offsets.append(at)
            at += stored
    if at != repair_size(header):
        raise IntegrityError(
            f"{what}: the marked chunks have {at - _first_chunk(header)} bytes; the header says {header.data}"
        )
    return contents
