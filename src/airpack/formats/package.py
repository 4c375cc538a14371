"""The package manifest: which files a package carries, in which volumes (docs/spec/package.md section 3).

It is the payload of a DSSE envelope in the head and is parsed only after a packer's signature over it held. It lists
files and volumes only: each volume carries its own chunk table, whose digest stands here, so that the head stays small
whatever the package's size.

The *stream* is the concatenation of all files in the order of `files`; the volumes' frames cover it exactly.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Self

from airpack.formats import canonical, volume
from airpack.formats.fields import Fields
from airpack.types import Digest, Limits

PAYLOAD_TYPE: Final = "application/vnd.airpack.package.v1+json"
SCHEMA: Final = "airpack.package/1"

_WHAT = "package manifest"
_PRODUCT = re.compile(r"(?=.{2,63}\Z)[a-z0-9]+(?:[._-][a-z0-9]+)*\Z")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}\Z")
_VOLUME = re.compile(r"[a-z0-9._-]{1,100}\.airvol\Z")
_NUMBERS = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of the stream.

    Attributes:
        digest: SHA-256 of its raw bytes; each digest stands once.
        size: Length in bytes.
    """

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """One volume file.

    Attributes:
        name: File name, `[a-z0-9._-]{1,100}.airvol`.
        size: Length of the whole file in bytes.
        entries: Used entries of its chunk table.
        slots: All entries of its chunk table.
        table: SHA-256 over all slots.
    """

    name: str
    size: int
    entries: int
    slots: int
    table: Digest

    @property
    def data(self) -> int:
        """Bytes of chunks behind the table."""
        return self.size - volume.HEADER - self.slots * volume.ENTRY


@dataclass(frozen=True, slots=True)
class PackageManifest:
    """What is on the media.

    Law: `parse(manifest.emit()) == manifest`, and `emit` of what `parse` returned is what it was given.

    Attributes:
        release: Digest of the release's OCI index.
        product: The product's name, for people; the release's own name is what counts.
        version: The product's version, likewise.
        needs_airpack: Oldest airpack that reads this package, `X.Y.Z`.
        files: The files in stream order.
        volumes: The volumes in stream order.
    """

    release: Digest
    product: str
    version: str
    needs_airpack: str
    files: tuple[FileInfo, ...]
    volumes: tuple[VolumeInfo, ...]

    @property
    def total(self) -> int:
        """Length of the stream in bytes."""
        return sum(file.size for file in self.files)

    @property
    def stored(self) -> int:
        """Length of all volume files together in bytes."""
        return sum(info.size for info in self.volumes)

    def header(self, payload: Digest, position: int) -> volume.Header:
        """Return the header that the volume at `position` (from 0) must begin with.

        Args:
            payload: Digest of the manifest's signed bytes.
            position: Place in `volumes`.
        """
        return header_of(self.volumes, payload, position)

    def emit(self) -> bytes:
        """Return the canonical bytes, to be signed as `PAYLOAD_TYPE`."""
        return canonical.emit(
            {
                "schema": SCHEMA,
                "release": str(self.release),
                "product": self.product,
                "version": self.version,
                "needs_airpack": self.needs_airpack,
                "files": [{"digest": str(file.digest), "size": file.size} for file in self.files],
                "volumes": [_emit_volume(info) for info in self.volumes],
                "bases": [],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the manifest in `data`, whose signature has been checked.

        A `needs_airpack` newer than this airpack is no error here: the caller asks `read_needs` first.

        Raises:
            IntegrityError: Not canonical JSON, a wrong, missing or unknown field, or numbers that contradict each
                other.
        """
        fields = Fields(canonical.parse_canonical(data, what=_WHAT, limit=Limits.HEAD), what=_WHAT)
        fields.schema(SCHEMA)
        manifest = cls(
            release=fields.digest("release"),
            product=_matching(fields, "product", _PRODUCT),
            version=_matching(fields, "version", _VERSION),
            needs_airpack=_matching(fields, "needs_airpack", _NUMBERS),
            files=tuple(_parse_file(item) for item in fields.tables("files", most=Limits.FILES)),
            volumes=tuple(_parse_volume(item) for item in fields.tables("volumes", most=Limits.VOLUMES)),
        )
        fields.items("bases", most=0)
        fields.done()
        _check_whole(manifest, fields)
        return manifest


def read_needs(data: bytes) -> str:
    """Return the `needs_airpack` of a manifest of any schema, whose signature has been checked.

    It stands at the same place in every schema to come, so that a reader that is too old can name the version that it
    should be (docs/spec/package.md section 3). Compare it with `is_newer` before `parse`.

    Raises:
        IntegrityError: Not canonical JSON, or without a `needs_airpack` that is well formed.
    """
    fields = Fields(canonical.parse_canonical(data, what=_WHAT, limit=Limits.HEAD), what=_WHAT)
    return _matching(fields, "needs_airpack", _NUMBERS)


def header_of(volumes: tuple[VolumeInfo, ...], payload: Digest, position: int) -> volume.Header:
    """Return the header of the volume at `position` (from 0) of a package whose manifest payload is `payload`."""
    info = volumes[position]
    return volume.Header(payload, position + 1, len(volumes), info.entries, info.slots, info.data)


def is_newer(needs: str, have: str) -> bool:
    """Return whether a package that needs airpack `needs` is too new for airpack `have`.

    Args:
        needs: `X.Y.Z` from a parsed manifest.
        have: The running version; what follows its first three numbers (`.dev1`, `rc2`) is not looked at.

    Raises:
        ValueError: One of them does not begin with three dotted numbers (a caller's bug).
    """
    return _numbers(needs) > _numbers(have)


def _numbers(version: str) -> tuple[int, ...]:
    match = _NUMBERS.match(version)
    if match is None:
        raise ValueError(f"not a version of three dotted numbers: {version!r}")
    return tuple(int(number) for number in match.groups())


def _matching(fields: Fields, key: str, pattern: re.Pattern[str]) -> str:
    text = fields.text(key)
    if not pattern.fullmatch(text):
        raise fields.fail(f"'{key}' is not well formed: {text[:80]!r}")
    return text


def _emit_volume(info: VolumeInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "size": info.size,
        "entries": info.entries,
        "slots": info.slots,
        "table": str(info.table),
    }


def _parse_file(fields: Fields) -> FileInfo:
    file = FileInfo(fields.digest("digest"), fields.integer("size", high=Limits.FILE))
    fields.done()
    return file


def _parse_volume(fields: Fields) -> VolumeInfo:
    info = VolumeInfo(
        name=_matching(fields, "name", _VOLUME),
        size=fields.integer("size", low=1, high=Limits.VOLUME),
        slots=fields.integer("slots", low=1, high=Limits.TABLE_ENTRIES),
        entries=fields.integer("entries", low=1, high=Limits.TABLE_ENTRIES),
        table=fields.digest("table"),
    )
    fields.done()
    if info.entries > info.slots:
        raise fields.fail(f"{info.entries} entries do not fit into {info.slots} slots")
    if not info.entries <= info.data <= info.entries * Limits.CHUNK:
        raise fields.fail(f"{info.size} bytes leave {info.data} for {info.entries} chunks of 1 to {Limits.CHUNK}")
    return info


def _check_whole(manifest: PackageManifest, fields: Fields) -> None:
    """Refuse what each part allows but the whole does not."""
    if len({file.digest for file in manifest.files}) != len(manifest.files):
        raise fields.fail("a file is listed twice")
    if len({info.name for info in manifest.volumes}) != len(manifest.volumes):
        raise fields.fail("two volumes have the same name")
    if manifest.total >= 1 << 53:
        raise fields.fail(f"the files have {manifest.total} bytes together; less than 2**53 are read")
    frames = sum(info.entries for info in manifest.volumes)
    if not frames <= manifest.total <= frames * Limits.FRAME:
        raise fields.fail(f"{frames} chunks cannot hold exactly {manifest.total} bytes of files")
