"""What is wrong with the volumes at hand, place by place: for messages, for reports, and for a repair.

Memory stays bounded whatever a medium holds: the first findings are kept in words, the others as byte ranges, and where
there are too many ranges, neighbouring ones of a volume become one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from airpack.errors import AirpackError, IntegrityError, PartialError, StorageError

SPOKEN: Final = 20  # findings kept in words
_RANGES: Final = 50_000  # ranges of all volumes together

Range = tuple[int, int]
"""Offset and length in bytes, in a volume file."""


class Kind(StrEnum):
    """What is wrong with a place on a medium."""

    DAMAGED = "damaged"  # it was read, and is not what was signed
    UNREADABLE = "unreadable"  # it could not be read
    GONE = "gone"  # its medium was taken away
    MISSING = "missing"  # no file serves as its volume


@dataclass(frozen=True, slots=True)
class Finding:
    """One place of one volume that no source gave as it was signed, or a file that cannot serve as a volume.

    Attributes:
        position: The volume's place in the manifest, from 0.
        offset: First byte in the volume file.
        length: How many bytes from there.
        kind: What is wrong.
        line: What was found, for people: file, place and reason.
        path: The file that was looked at.
        volume: The volume's name in the manifest.
        chunk: Number of the chunk, from 1; 0 for header, table or a whole file.
        hint: What would help.
    """

    position: int
    offset: int
    length: int
    kind: Kind
    line: str
    path: Path
    volume: str
    chunk: int = 0
    hint: str = ""

    def error(self) -> AirpackError:
        """Return it as the error of whoever takes nothing less than what was signed."""
        kind = _ERRORS.get(self.kind, StorageError)
        return kind(
            self.line,
            hint=self.hint,
            path=str(self.path),
            volume=self.volume,
            chunk=self.chunk,
            offset=self.offset,
            length=self.length,
        )


_ERRORS: Final[Mapping[Kind, type[AirpackError]]] = {Kind.DAMAGED: IntegrityError, Kind.MISSING: PartialError}


class Damage:
    """Gathers findings.

    Attributes:
        first: The first findings, in the order in which they were made.
        count: How many there were.
        kinds: Every kind that was met.
    """

    def __init__(self) -> None:
        self.first: list[Finding] = []
        self.count = 0
        self.kinds: set[Kind] = set()
        self._ranges: dict[int, list[Range]] = {}
        self._total = 0

    def __bool__(self) -> bool:
        return self.count > 0

    def add(self, finding: Finding) -> None:
        """Take one finding."""
        self.count += 1
        self.kinds.add(finding.kind)
        if len(self.first) < SPOKEN:
            self.first.append(finding)
        ranges = self._ranges.setdefault(finding.position, [])
        if ranges and sum(ranges[-1]) == finding.offset:
            ranges[-1] = ranges[-1][0], ranges[-1][1] + finding.length
            return
        ranges.append((finding.offset, finding.length))
        self._total += 1
        if self._total > _RANGES:
            self._coarsen()

    def _coarsen(self) -> None:
        """Make one range of all ranges of each volume."""
        for position, ranges in self._ranges.items():
            start, stop = min(offset for offset, _ in ranges), max(sum(place) for place in ranges)
            self._ranges[position] = [(start, stop - start)]
        self._total = len(self._ranges)

    @property
    def ranges(self) -> Mapping[int, list[Range]]:
        """Damaged ranges of each volume, by its position; in order, none touching another."""
        return {position: _merged(ranges) for position, ranges in sorted(self._ranges.items())}


def _merged(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for offset, length in sorted(ranges):
        if merged and offset <= sum(merged[-1]):
            merged[-1] = merged[-1][0], max(sum(merged[-1]), offset + length) - merged[-1][0]
        else:
            merged.append((offset, length))
    return merged
