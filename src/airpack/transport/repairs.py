"""Repair volumes that lie beside a head: another source of the bytes of volumes (docs/spec/package.md section 8).

They are the only files that are opened although the head does not list them, and only where they are regular files with
a name of theirs. One that is not of this package, or does not hold together, is left alone, and it is said why.
"""

import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from airpack.errors import AirpackError, IntegrityError
from airpack.formats.package import PackageManifest
from airpack.formats.repair_volume import (
    RepairContents,
    bitmap_size,
    is_repair_name,
    parse_contents,
    parse_repair_header,
    repair_size,
)
from airpack.formats.volume import ENTRY, HEADER, Chunk, Header
from airpack.fsops import interruptible
from airpack.transport.files import OpenFiles, read_into
from airpack.types import Digest

_MOST: Final = 10_000  # repair volumes in one folder


@dataclass(slots=True)
class _File:
    """One repair volume; what it brings is read when it is first asked for.

    Attributes:
        path: Where it lies.
        header: Its header, which fits the manifest.
        contents: What it brings, None while that is not known.
    """

    path: Path
    header: Header
    contents: RepairContents | None = None


class Repairs:
    """A `Rescue`: the repair volumes of a package.

    Args:
        manifest: The signed package manifest.
        payload: Digest of the manifest's signed bytes.
        folders: Where repair volumes are looked for.

    Attributes:
        refused: Why files with such a name are not used, in words.
    """

    def __init__(self, manifest: PackageManifest, payload: Digest, folders: Iterable[Path]) -> None:
        self.refused: list[str] = []
        self._manifest, self._payload, self._folders = manifest, payload, tuple(folders)
        self._by_position: dict[int, list[_File]] = {}
        self._files = OpenFiles()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close what is open."""
        self._files.close()

    def survey(self) -> None:
        """Look for repair volumes in the folders, and at their headers; nothing is raised for what cannot serve."""
        interruptible(self._survey)

    def _survey(self) -> None:
        for folder in self._folders:
            try:
                names = sorted(name for name in os.listdir(folder) if is_repair_name(name))  # noqa: PTH208, names only
            except OSError:
                continue  # whoever looks for volumes there says so
            for name in names[:_MOST]:
                self._look(folder / name)

    def _look(self, path: Path) -> None:
        try:
            header = parse_repair_header(
                self._read(path, 0, HEADER), self._manifest, self._payload, what=f"repair volume {path}"
            )
            with self._files.use(path) as descriptor:
                size = os.fstat(descriptor).st_size
            if size != repair_size(header):
                raise IntegrityError(f"repair volume {path} has {size} bytes, expected {repair_size(header)}")
        except (AirpackError, OSError) as error:
            self._refuse(path, error)
        else:
            self._by_position.setdefault(header.index - 1, []).append(_File(path, header))

    def _refuse(self, path: Path, error: AirpackError | OSError) -> None:
        reason = error.message if isinstance(error, AirpackError) else f"{path} cannot be read: {error.strerror}"
        self.refused.append(reason)

    def _read(self, path: Path, offset: int, length: int) -> bytes:
        data = bytearray(length)
        with self._files.use(path) as descriptor:
            if read_into(descriptor, memoryview(data), offset) < length:
                raise IntegrityError(f"repair volume {path} ends before byte {offset + length}")
        return bytes(data)

    def header(self, position: int) -> bool:
        """Return whether there is a repair volume of the volume at `position`: it has the same header again."""
        return bool(self._by_position.get(position))

    def table(self, position: int) -> bytes | None:
        """Return all slots of the table of the volume at `position`, None where no repair volume has them."""
        for file in self._usable(position):
            data = self._try(file, HEADER, file.header.slots * ENTRY)
            if data is not None and Digest.of(data) == self._manifest.volumes[position].table:
                return data
        return None

    def chunk(self, position: int, chunk: Chunk) -> bytes | None:
        """Return the stored bytes of `chunk` of the volume at `position`, None where no repair volume has them."""
        for file in self._usable(position):
            offset = file.contents.find(chunk.number) if file.contents is not None else None
            if offset is None:
                continue
            data = self._try(file, offset, chunk.stored)
            if data is not None and hashlib.sha256(data).digest() == chunk.digest:
                return data
        return None

    def _usable(self, position: int) -> Sequence[_File]:
        """Return the repair volumes of a volume whose contents fit the signed table."""
        with self._lock:
            found = self._by_position.get(position, [])
            for file in [file for file in found if file.contents is None]:
                try:
                    file.contents = self._contents(file, position)
                except (AirpackError, OSError) as error:
                    self._refuse(file.path, error)
                    found.remove(file)
            return tuple(found)

    def _contents(self, file: _File, position: int) -> RepairContents:
        what, header = f"repair volume {file.path}", file.header
        table = self._read(file.path, HEADER, header.slots * ENTRY)
        if Digest.of(table) != self._manifest.volumes[position].table:
            raise IntegrityError(f"{what} has another chunk table than the manifest signs for volume {header.index}")
        bitmap = self._read(file.path, HEADER + len(table), bitmap_size(header.entries))
        return parse_contents(table, bitmap, header, what=what)

    def _try(self, file: _File, offset: int, length: int) -> bytes | None:
        try:
            return self._read(file.path, offset, length)
        except (AirpackError, OSError):
            return None
