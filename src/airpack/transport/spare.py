"""Parity volumes as files: their digests, their rows, and whether they are as they were made.

A parity volume that is damaged or not there keeps nothing from being imported, as long as the others are whole: it is
no error, only something to know.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from airpack.formats.package import ParityGroup
from airpack.formats.volume import HEADER, ROW, ROW_DIGEST
from airpack.transport.damage import Damage, Finding, Kind, Range
from airpack.transport.volumes import Media
from airpack.types import Reporter


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a parity volume.

    Attributes:
        offset: Where it begins in the file, in bytes.
        length: How many bytes it has.
        data: These bytes, with their digest; None where no copy has them.
    """

    offset: int
    length: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class SpareState:
    """How the parity volumes of a package are.

    Attributes:
        missing: Those that are not there, by name.
        damaged: Those of which bytes are not as they were made, and these bytes.
    """

    missing: tuple[str, ...] = ()
    damaged: Mapping[str, Sequence[Range]] = field(default_factory=dict)


def group_of(media: Media, number: int) -> ParityGroup:
    """Return the group of the parity volume `number` (from 0, over all groups)."""
    return [group for group in media.manifest.parity for _ in group.volumes][number]


def read_digests(media: Media, number: int) -> bytes | None:
    """Return the digests of the rows of parity volume `number`, as signed, from whichever place has them."""
    group = group_of(media, number)
    length = group.rows * ROW_DIGEST
    expected = [info.table for group in media.manifest.parity for info in group.volumes][number].raw
    for offset in (HEADER, HEADER + length + group.length):
        for data in media.readings(media.parity[number], offset, length):
            if hashlib.sha256(data).digest() == expected:
                return data
    return None


def read_rows(media: Media, number: int, digests: bytes) -> Iterator[Row]:
    """Yield the rows of parity volume `number`, whose digests are `digests`."""
    group = group_of(media, number)
    for at in range(0, group.length, ROW):
        place, offset, length = at // ROW * ROW_DIGEST, HEADER + len(digests) + at, min(ROW, group.length - at)
        expected = digests[place : place + ROW_DIGEST]
        readings = media.readings(media.parity[number], offset, length)
        yield Row(offset, length, next((data for data in readings if hashlib.sha256(data).digest() == expected), None))


def check_spare(media: Media, reporter: Reporter) -> SpareState:
    """Read every parity volume that is there, and compare it.

    Args:
        media: The volumes, surveyed.
        reporter: Receives progress in bytes of parity.
    """
    there = [number for number, file in enumerate(media.parity) if file.is_there]
    missing = tuple(file.name for file in media.parity if not file.is_there)
    damaged: dict[str, Sequence[Range]] = {}
    reporter.start("parity", sum(group_of(media, number).length for number in there))
    try:
        for number in there:
            if ranges := _check(media, number, reporter):
                damaged[media.parity[number].name] = ranges
    finally:
        reporter.finish()
    return SpareState(missing, damaged)


def _check(media: Media, number: int, reporter: Reporter) -> Sequence[Range]:
    """Return the bytes of a parity volume that are not as they were made."""
    file, damage = media.parity[number], Damage()
    digests = read_digests(media, number)
    if digests is None:
        return [(0, file.size)]

    def blame(offset: int, length: int) -> None:
        damage.add(Finding(number, offset, length, Kind.DAMAGED, "", file.copies[0].path, file.name))

    if not file.has_header:
        blame(0, HEADER)
    for offset in (HEADER, file.size - len(digests)):
        if digests not in media.readings(file, offset, len(digests)):
            blame(offset, len(digests))
    for row in read_rows(media, number, digests):
        if row.data is None:
            blame(row.offset, row.length)
        reporter.advance(row.length, volume=file.name)
    return damage.ranges.get(number, [])
