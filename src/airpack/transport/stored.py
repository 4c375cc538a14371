"""Stored files checked while they stream by: for whoever copies volumes, in one pass, without decoding anything.

    check = Check(data_volume(manifest, payload, 0), "encoder-1.2.0.0001.airvol")
    for block in blocks:
        check.feed(block)
    check.done()

A *layout* says of what parts a file must consist, one after the other, and what digest each has: of a volume the
header that the manifest implies, the table that it signs, then every chunk that the table lists (docs/spec/package.md
sections 4, 7 and 8). So every byte of a volume is compared with what the manifest says, and two files that pass as the
same volume are equal. Whether the manifest itself is signed is not asked here.
"""

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from airpack.errors import IntegrityError
from airpack.formats.package import PackageManifest, ParityGroup, ParityInfo
from airpack.formats.repair_volume import bitmap_size, parse_contents, parse_repair_header, repair_size
from airpack.formats.volume import ENTRY, HEADER, ROW, ROW_DIGEST, Table, parse_table, read_places
from airpack.types import Digest

_DAMAGED: Final = "bring this file again from where it was built"


@dataclass(frozen=True, slots=True)
class Part:
    """What comes next in a file.

    Attributes:
        name: As messages call it.
        size: Length in bytes, at least 1.
        digest: The 32 bytes of its SHA-256; None where nothing is signed, and the layout looks at the bytes.
        kept: Whether the layout wants the bytes.
    """

    name: str
    size: int
    digest: bytes | None
    kept: bool = False


Layout = Generator[Part, bytes, None]
"""Yields the parts in order; is sent the bytes of those that it wants, verified, and no bytes for the others."""


def known(data: bytes, name: str = "file") -> Layout:
    """Return the layout of a file whose bytes must be `data`, at least one."""
    yield _exactly(data, name)


def data_volume(manifest: PackageManifest, payload: Digest, position: int) -> Layout:
    """Return the layout of a data volume.

    Args:
        manifest: The package manifest.
        payload: Digest of its signed bytes.
        position: Place of the volume, from 0.
    """
    info = manifest.volumes[position]
    yield _exactly(manifest.header(payload, position).emit(), "header")
    data = yield Part("chunk table", info.slots * ENTRY, info.table.raw, kept=True)
    table = _table(manifest, position, data, stored=info.data)
    for frame in table.frames():
        for chunk in frame.chunks:
            if chunk.stored:
                yield Part(f"chunk {chunk.number} of {info.entries}", chunk.stored, chunk.digest)


def parity_volume(manifest: PackageManifest, payload: Digest, position: int) -> Layout:
    """Return the layout of a parity volume.

    Args:
        manifest: The package manifest.
        payload: Digest of its signed bytes.
        position: Place among all parity volumes, from 0.
    """
    group, info = parity_volumes(manifest)[position]
    yield _exactly(manifest.parity_header(payload, position).emit(), "header")
    digests = yield Part("digests", group.rows * ROW_DIGEST, info.table.raw, kept=True)
    for row in range(group.rows):
        size = min(ROW, group.length - row * ROW)
        digest = digests[row * ROW_DIGEST : (row + 1) * ROW_DIGEST]
        yield Part(f"row {row + 1} of {group.rows}", size, digest)
    yield Part("second digests", group.rows * ROW_DIGEST, info.table.raw)


def parity_volumes(manifest: PackageManifest) -> list[tuple[ParityGroup, ParityInfo]]:
    """Return all parity volumes in order, each with its group."""
    return [(group, info) for group in manifest.parity for info in group.volumes]


def repair_volume(manifest: PackageManifest, payload: Digest, size: int) -> Layout:
    """Return the layout of a repair volume of any volume of the package.

    Args:
        manifest: The package manifest.
        payload: Digest of its signed bytes.
        size: Length of the file in bytes.
    """
    found = yield Part("header", HEADER, None, kept=True)
    header = parse_repair_header(found, manifest, payload, what="it")
    if repair_size(header) != size:
        raise IntegrityError(f"it has {size} bytes; its header says {repair_size(header)}")
    info = manifest.volumes[header.index - 1]
    data = yield Part("chunk table", info.slots * ENTRY, info.table.raw, kept=True)
    bitmap = yield Part("bitmap", bitmap_size(info.entries), None, kept=True)
    for number in parse_contents(data, bitmap, header, what="it").numbers:
        ((digest, length),) = read_places(data[(number - 1) * ENTRY : number * ENTRY])
        yield Part(f"chunk {number} of {info.entries}", length, digest)


def _exactly(data: bytes, name: str) -> Part:
    return Part(name, len(data), hashlib.sha256(data).digest())


def _table(manifest: PackageManifest, position: int, data: bytes, *, stored: int) -> Table:
    info = manifest.volumes[position]
    bases = [file.size for file in manifest.base_files]
    try:
        return parse_table(data, entries=info.entries, stored=stored, bases=bases, what="its chunk table")
    except IntegrityError as error:
        raise IntegrityError(f"is as its package says, and wrong: {error}", hint=error.hint) from error


class Check:
    """Compares a file with its layout, in blocks of any size.

    Args:
        layout: What the file must be.
        what: The file's name, for messages.
    """

    def __init__(self, layout: Layout, what: str) -> None:
        self._layout, self._what = layout, what
        self._whole = hashlib.sha256()
        self._offset = 0  # where the part in hand began
        self._part: Part | None = None
        self._next(None)

    def feed(self, block: memoryview) -> None:
        """Take the next bytes of the file.

        Raises:
            IntegrityError: A part that ends in them is not what it must be, or the file goes on behind its end.
        """
        self._whole.update(block)
        while block:
            if self._part is None:
                raise self._wrong(f"the file goes on behind its end at byte {self._offset}", self._offset, 0)
            piece = block[: self._part.size - self._done]
            block = block[len(piece) :]
            self._digest.update(piece)
            self._done += len(piece)
            if self._part.kept:
                self._bytes += piece
            if self._done == self._part.size:
                self._complete(self._part)

    def done(self) -> Digest:
        """Return the SHA-256 of the whole file, now that it has ended.

        Raises:
            IntegrityError: It ended too early.
        """
        if self._part is not None:
            at = self._offset + self._done
            raise self._wrong(f"the file ends at byte {at}, inside its {self._part.name}", at, 0)
        return Digest.from_raw(self._whole.digest())

    def _complete(self, part: Part) -> None:
        if part.digest is not None and self._digest.digest() != part.digest:
            end = self._offset + part.size
            raise self._wrong(
                f"{part.name}, bytes {self._offset} to {end}, is not what its package says", self._offset, part.size
            )
        self._offset += part.size
        self._next(bytes(self._bytes))

    def _next(self, sent: bytes | None) -> None:
        self._digest, self._done, self._bytes = hashlib.sha256(), 0, bytearray()
        try:
            self._part = next(self._layout) if sent is None else self._layout.send(sent)
        except StopIteration:
            self._part = None
        except IntegrityError as error:
            raise self._wrong(error.message, 0, self._offset, hint=error.hint) from error

    def _wrong(self, reason: str, offset: int, length: int, *, hint: str = _DAMAGED) -> IntegrityError:
        return IntegrityError(f"{self._what}: {reason}", hint=hint, path=self._what, offset=offset, length=length)
