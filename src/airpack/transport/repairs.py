"""Repair volumes that lie beside a head: another source of the bytes of volumes (docs/spec/package.md section 8).

They are the only files that are opened although the head does not list them, and only where they are regular files with
a name of theirs. One that is not of this package, or does not hold together, is left alone, and media note why.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from airpack.errors import AirpackError, IntegrityError
from airpack.formats.repair_volume import (
    RepairContents,
    bitmap_size,
    is_repair_name,
    parse_contents,
    parse_repair_header,
    repair_size,
    stems_of,
)
from airpack.formats.volume import ENTRY, HEADER, Chunk, Header
from airpack.fsops import close_read, interruptible, open_regular
from airpack.transport.files import read_into
from airpack.transport.volumes import Copy, Listed, Media
from airpack.types import Digest

_MOST: Final = 10_000  # repair volumes in one folder


@dataclass(slots=True)
class _RepairVolume:
    """One repair volume; what it brings is read when it is first asked for.

    Attributes:
        file: The file, as media read it.
        header: Its header, which fits the manifest.
        contents: What it brings, None while that is not known.
    """

    file: Listed
    header: Header
    contents: RepairContents | None = None


class Repairs:
    """A `Rescue`: the repair volumes of a package that lie in the folders of its media.

    Args:
        media: The media.
        payload: Digest of the manifest's signed bytes.
    """

    def __init__(self, media: Media, payload: Digest) -> None:
        self._media, self._payload = media, payload
        self._by_position: dict[int, list[_RepairVolume]] = {}
        self._lock = threading.Lock()

    @property
    def is_any(self) -> bool:
        """Whether there are repair volumes of this package."""
        return bool(self._by_position)

    def survey(self) -> None:
        """Look for repair volumes in the folders, and at their headers; what cannot serve is noted with the media."""
        interruptible(self._survey)

    def _survey(self) -> None:
        stems = stems_of(self._media.manifest)
        for folder in self._media.folders:
            try:
                found = os.listdir(folder)  # noqa: PTH208, names only
            except OSError:
                continue  # whoever looks for volumes there says so
            for name in sorted(name for name in found if is_repair_name(name, stems))[:_MOST]:
                try:
                    self._look(folder / name)
                except (AirpackError, OSError) as error:
                    reason = error.message if isinstance(error, AirpackError) else f"cannot be read: {error.strerror}"
                    self._refuse(folder / name, reason)

    def _look(self, path: Path) -> None:
        """Take a repair volume whose header and size are right."""
        descriptor = open_regular(path)
        try:
            size, data = os.fstat(descriptor).st_size, bytearray(HEADER)
            read_into(descriptor, memoryview(data), 0)
        finally:
            close_read(descriptor)
        header = parse_repair_header(bytes(data), self._media.manifest, self._payload, what="it")
        if size != repair_size(header):
            raise IntegrityError(f"it has {size} bytes, expected {repair_size(header)}")
        file = Listed(path.name, size, bytes(data), copies=[Copy(path, size, size)])
        self._by_position.setdefault(header.index - 1, []).append(_RepairVolume(file, header))

    def _refuse(self, path: Path, reason: str) -> None:
        self._media.notes.append(f"repair volume {path} is not used: {reason}")

    def covers(self, position: int) -> bool:
        """Return whether there is a repair volume of the volume at `position`."""
        return bool(self._by_position.get(position))

    def header(self, position: int) -> bool:
        """Return whether there is a repair volume of the volume at `position`: it says all that the header says."""
        return self.covers(position)

    def table(self, position: int) -> bytes | None:
        """Return all slots of the table of the volume at `position`, None where no repair volume has them."""
        found = (self._read_table(volume, position) for volume in self._usable(position))
        return next((table for table in found if table is not None), None)

    def chunk(self, position: int, chunk: Chunk) -> bytes | None:
        """Return the bytes that repair volumes bring as `chunk` of the volume at `position`, None where none does."""
        for volume in self._usable(position):
            assert volume.contents is not None, "what is not known is not usable"
            offset = volume.contents.find(chunk.number)
            data = self._read(volume, offset, chunk.stored) if offset is not None else None
            if data is not None and Digest.of(data).raw == chunk.digest:
                return data
        return None

    def _usable(self, position: int) -> Sequence[_RepairVolume]:
        """Return the repair volumes of a volume whose contents fit the signed table."""
        with self._lock:
            found = self._by_position.get(position, [])
            for volume in [volume for volume in found if volume.contents is None]:
                try:
                    volume.contents = self._contents(volume, position)
                except IntegrityError as error:
                    self._refuse(volume.file.copies[0].path, error.message)
                    found.remove(volume)
            return tuple(found)

    def _contents(self, volume: _RepairVolume, position: int) -> RepairContents:
        table = self._read_table(volume, position)
        if table is None:
            raise IntegrityError("its chunk table is not the one that the manifest signs")
        bitmap = self._read(volume, HEADER + len(table), bitmap_size(volume.header.entries))
        if bitmap is None:
            raise IntegrityError("it does not tell what it brings: that place cannot be read")
        return parse_contents(table, bitmap, volume.header, what="it")

    def _read_table(self, volume: _RepairVolume, position: int) -> bytes | None:
        table = self._read(volume, HEADER, volume.header.slots * ENTRY)
        return table if table is not None and Digest.of(table) == self._media.manifest.volumes[position].table else None

    def _read(self, volume: _RepairVolume, offset: int, length: int) -> bytes | None:
        return next(self._media.readings(volume.file, offset, length), None)
