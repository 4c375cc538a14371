"""Volumes of a package copied once more, as they were stored: whole, or the chunks that somebody needs.

Every byte that is written was compared with its signed digest on the way. Headers are written as the manifest implies
them; tables and chunks are never made anew.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from airpack.errors import AirpackError, IntegrityError, PartialError
from airpack.formats.repair_volume import emit_bitmap, repair_header, repair_size
from airpack.formats.volume import Chunk, Header, Table, parse_table
from airpack.fsops import NewFile
from airpack.transport.damage import Range
from airpack.transport.spare import read_digests, read_rows
from airpack.transport.volumes import Media
from airpack.types import Digest, Reporter


@dataclass(frozen=True, slots=True)
class Wanted:
    """Some chunks of one volume; 4 bytes for each, as there may be a million.

    Attributes:
        numbers: The chunks, ascending, from 1.
        stored: Their bytes together.
    """

    numbers: "array[int]"
    stored: int


class Copier:
    """Copies from the media of one package.

    Args:
        media: The package, surveyed.
        payload: Digest of the manifest's signed bytes.
        reporter: Receives progress in bytes written.
    """

    def __init__(self, media: Media, payload: Digest, reporter: Reporter) -> None:
        self._media, self._payload, self._reporter = media, payload, reporter

    def find(self, position: int, ranges: Sequence[Range]) -> Wanted:
        """Return the stored chunks of the volume at `position` that `ranges` touch; its table is read for it.

        Args:
            position: The volume's place in the manifest, from 0.
            ranges: Offset and length of each, in order, in bytes of the volume file.

        Raises:
            IntegrityError: The table is damaged.
            PartialError: The volume is not there.
        """
        numbers, stored, places = array("I"), 0, iter(ranges)
        place = next(places, None)
        for chunk in _chunks(self._table(position)):
            while place is not None and sum(place) <= chunk.offset:
                place = next(places, None)
            if place is not None and place[0] < chunk.offset + chunk.stored:
                numbers.append(chunk.number)
                stored += chunk.stored
        return Wanted(numbers, stored)

    def repair_size(self, position: int, wanted: Wanted) -> int:
        """Return the length in bytes of a repair volume with some chunks of the volume at `position`."""
        return repair_size(repair_header(self._header(position), wanted.stored))

    def copy_chunks(self, position: int, wanted: Wanted, path: Path) -> None:
        """Write a repair volume with some chunks of the volume at `position`, durably.

        Raises:
            IntegrityError: The volume is damaged there.
            PartialError: It is not there.
            StorageError: It cannot be read, or `path` not be written.
        """
        header, table = repair_header(self._header(position), wanted.stored), self._table(position)
        bitmap = emit_bitmap(wanted.numbers, header.entries)
        chunks = _only(_chunks(table), wanted.numbers)
        self._write(path, position, [header.emit(), table.data, bitmap], chunks)

    def copy_volume(self, position: int, path: Path) -> None:
        """Write the whole volume at `position`, durably. Raises as `copy_chunks` does."""
        table = self._table(position)
        self._write(path, position, [self._header(position).emit(), table.data], _chunks(table))

    def copy_spare(self, number: int, path: Path) -> None:
        """Write the parity volume `number` (from 0), durably. Raises as `copy_chunks` does."""
        digests = read_digests(self._media, number)
        if digests is None:
            raise self._lost_spare(number)
        header = self._media.manifest.parity_header(self._payload, number)
        with NewFile(path) as new:
            new.write(header.emit() + digests)
            for row in read_rows(self._media, number, digests):
                if row.data is None:
                    raise self._lost_spare(number)
                new.write(row.data)
                self._reporter.advance(row.length, volume=path.name)
            new.write(digests)
            new.commit()

    def _write(self, path: Path, position: int, start: Sequence[bytes], chunks: Iterator[Chunk]) -> None:
        with NewFile(path) as new:
            for part in start:
                new.write(part)
                self._reporter.advance(len(part), volume=path.name)
            for chunk in chunks:
                data = self._media.chunk(position, chunk)
                if data is None:
                    raise self._lost(position)
                new.write(data)
                self._reporter.advance(len(data), volume=path.name)
            new.commit()

    def _header(self, position: int) -> Header:
        return self._media.manifest.header(self._payload, position)

    def _table(self, position: int) -> Table:
        manifest = self._media.manifest
        info, data = manifest.volumes[position], self._media.table(position)
        if data is None:
            raise self._lost(position)
        bases = [file.size for file in manifest.base_files]
        return parse_table(data, entries=info.entries, stored=info.data, bases=bases, what=info.name)

    def _lost(self, position: int) -> AirpackError:
        """Return the error that the package copied from is no better than the one to repair."""
        found = [finding for finding in self._media.damage.first if finding.position == position]
        if found or position in self._media.refused:
            return (found or [self._media.refused[position]])[-1].error()
        name = self._media.volumes[position].name
        return PartialError(f"volume {name} is missing in {self._media.folders[0]}", missing=[name])

    def _lost_spare(self, number: int) -> AirpackError:
        file = self._media.parity[number]
        if not file.is_there:
            return PartialError(f"volume {file.name} is missing in {self._media.folders[0]}", missing=[file.name])
        return IntegrityError(f"parity volume {file.copies[0].path} is damaged", path=str(file.copies[0].path))


def _chunks(table: Table) -> Iterator[Chunk]:
    """Yield the chunks of a volume of which something is stored."""
    return (chunk for frame in table.frames() for chunk in frame.chunks if chunk.stored)


def _only(chunks: Iterator[Chunk], numbers: Iterable[int]) -> Iterator[Chunk]:
    """Yield those of `chunks` that have one of `numbers`, both ascending."""
    left = iter(numbers)
    number = next(left, 0)
    for chunk in chunks:
        if chunk.number == number:
            yield chunk
            number = next(left, 0)
