"""The package manifest: which files a package carries, in which volumes (docs/spec/package.md section 3).

It is the payload of a DSSE envelope in the head and is parsed only after a packer's signature over it held. It lists
files and volumes only: each volume carries its own chunk table, whose digest stands here, so that the head stays small
whatever the package's size.

The *stream* is the concatenation of all files in the order of `files`; the volumes' frames cover it exactly.

A package may build on releases that the site holds already, its *bases*: files of theirs that the release has too are
not in the stream, and frames may refer to bytes of others. It may come with *parity volumes*, which rebuild what was
lost of the others on the way and say nothing that the others do not.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Self

from airpack.formats import canonical, volume
from airpack.formats.fields import Fields
from airpack.types import Digest, Limits

PAYLOAD_TYPE: Final = "application/vnd.airpack.package.v1+json"
SCHEMA: Final = "airpack.package/1"
GROUP: Final = 256  # volumes in one group, parity volumes too: what Reed-Solomon over bytes allows

_WHAT = "package manifest"
_PRODUCT = re.compile(r"(?=.{2,63}\Z)[a-z0-9]+(?:[._-][a-z0-9]+)*\Z")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}\Z")
_VOLUME = re.compile(r"[a-z0-9._-]{1,100}\.airvol\Z")
_MOST_BASES = 16
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
class Base:
    """A release that the site must hold, and what of it the package builds on.

    Attributes:
        release: Digest of its OCI index.
        product: Its product, for people.
        version: Its version, likewise.
        files: The files of it that are left out of the stream, or that frames refer to.
    """

    release: Digest
    product: str
    version: str
    files: tuple[FileInfo, ...]

    @property
    def name(self) -> str:
        """`product@version`."""
        return f"{self.product}@{self.version}"


@dataclass(frozen=True, slots=True)
class ParityInfo:
    """One parity volume file.

    Attributes:
        name: File name, `[a-z0-9._-]{1,100}.airvol`.
        size: Length of the whole file in bytes.
        table: SHA-256 over the digests of its rows.
    """

    name: str
    size: int
    table: Digest


@dataclass(frozen=True, slots=True)
class ParityGroup:
    """Neighbouring volumes, and the parity volumes over them (docs/spec/package.md section 7).

    Attributes:
        first: Position of the first of the volumes, from 0.
        count: How many volumes there are.
        length: Bytes that each parity volume covers: those of the longest volume behind its header.
        volumes: The parity volumes; any `count` of all these volumes rebuild the others.
    """

    first: int
    count: int
    length: int
    volumes: tuple[ParityInfo, ...]

    @property
    def rows(self) -> int:
        """Rows of at most `volume.ROW` bytes."""
        return -(-self.length // volume.ROW)


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
        bases: Releases that it builds on; none for a package that stands alone.
        parity: Groups of volumes with parity, in order; none where there is no parity.
    """

    release: Digest
    product: str
    version: str
    needs_airpack: str
    files: tuple[FileInfo, ...]
    volumes: tuple[VolumeInfo, ...]
    bases: tuple[Base, ...] = ()
    parity: tuple[ParityGroup, ...] = ()

    @property
    def base_files(self) -> tuple[FileInfo, ...]:
        """The files of all bases; tables number them from 1."""
        return tuple(file for base in self.bases for file in base.files)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all volumes, parity volumes last."""
        parity = (info.name for group in self.parity for info in group.volumes)
        return (*(info.name for info in self.volumes), *parity)

    @property
    def total(self) -> int:
        """Length of the stream in bytes."""
        return sum(file.size for file in self.files)

    @property
    def stored(self) -> int:
        """Length of all volume files together in bytes, those of parity too."""
        return sum(info.size for info in self.volumes) + sum(
            info.size for group in self.parity for info in group.volumes
        )

    def header(self, payload: Digest, position: int) -> volume.Header:
        """Return the header that the volume at `position` (from 0) must begin with.

        Args:
            payload: Digest of the manifest's signed bytes.
            position: Place in `volumes`.
        """
        return header_of(self.volumes, payload, position)

    def parity_header(self, payload: Digest, position: int) -> volume.Header:
        """Return the header that the parity volume at `position` (from 0, over all groups) must begin with.

        Args:
            payload: Digest of the manifest's signed bytes.
            position: Place among all parity volumes.
        """
        return parity_headers_of(self.parity, payload)[position]

    def emit(self) -> bytes:
        """Return the canonical bytes, to be signed as `PAYLOAD_TYPE`."""
        document = {
            "schema": SCHEMA,
            "release": str(self.release),
            "product": self.product,
            "version": self.version,
            "needs_airpack": self.needs_airpack,
            "files": [_emit_file(file) for file in self.files],
            "volumes": [_emit_volume(info) for info in self.volumes],
            "bases": [_emit_base(base) for base in self.bases],
        }
        if self.parity:
            document["parity"] = [_emit_group(group) for group in self.parity]
        return canonical.emit(document)

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
        volumes = tuple(_parse_volume(item) for item in fields.tables("volumes", most=Limits.VOLUMES))
        manifest = cls(
            release=fields.digest("release"),
            product=_matching(fields, "product", _PRODUCT),
            version=_matching(fields, "version", _VERSION),
            needs_airpack=_matching(fields, "needs_airpack", _NUMBERS),
            files=tuple(_parse_file(item) for item in fields.tables("files", most=Limits.FILES)),
            volumes=volumes,
            bases=tuple(_parse_base(item) for item in fields.tables("bases", most=_MOST_BASES)),
            parity=_parse_parity(fields, volumes),
        )
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


def parity_headers_of(parity: tuple[ParityGroup, ...], payload: Digest) -> list[volume.Header]:
    """Return the headers of all parity volumes in order, as `header_of` does for one of the others."""
    groups = [group for group in parity for _ in group.volumes]
    return [
        volume.Header(payload, number, len(groups), group.rows, group.rows, group.length, magic=volume.PARITY_MAGIC)
        for number, group in enumerate(groups, 1)
    ]


def is_newer(needs: str, have: str) -> bool:
    """Return whether a package that needs airpack `needs` is too new for airpack `have`.

    Args:
        needs: `X.Y.Z` from a parsed manifest.
        have: The running version; what follows its first three numbers (`.dev1`, `rc2`) is not looked at.

    Raises:
        ValueError: One of them does not begin with three dotted numbers (a caller's bug).
    """
    return _numbers(needs) > _numbers(have)


def is_volume_name(text: str) -> bool:
    """Return whether a volume may have the name `text`."""
    return _VOLUME.fullmatch(text) is not None


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


def _emit_file(file: FileInfo) -> dict[str, Any]:
    return {"digest": str(file.digest), "size": file.size}


def _emit_base(base: Base) -> dict[str, Any]:
    return {
        "release": str(base.release),
        "product": base.product,
        "version": base.version,
        "files": [_emit_file(file) for file in base.files],
    }


def _emit_group(group: ParityGroup) -> dict[str, Any]:
    return {
        "data": group.count,
        "volumes": [{"name": info.name, "size": info.size, "table": str(info.table)} for info in group.volumes],
    }


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
    if not 0 <= info.data <= info.entries * Limits.CHUNK:
        raise fields.fail(f"{info.size} bytes leave {info.data} for {info.entries} chunks of at most {Limits.CHUNK}")
    return info


def _parse_base(fields: Fields) -> Base:
    base = Base(
        release=fields.digest("release"),
        product=_matching(fields, "product", _PRODUCT),
        version=_matching(fields, "version", _VERSION),
        files=tuple(_parse_file(item) for item in fields.tables("files", most=Limits.FILES)),
    )
    fields.done()
    if not base.files:
        raise fields.fail("a base of which nothing is needed")
    return base


def _parse_parity(fields: Fields, volumes: tuple[VolumeInfo, ...]) -> tuple[ParityGroup, ...]:
    """Return the groups; they cover `volumes` in order, each volume once."""
    if "parity" not in fields:
        return ()
    groups: list[ParityGroup] = []
    first = 0
    for item in fields.tables("parity", most=Limits.VOLUMES):
        group = _parse_group(item, volumes, first)
        groups.append(group)
        first += group.count
    if first != len(volumes) or not groups:
        raise fields.fail(f"parity is over {first} volumes of {len(volumes)}")
    return tuple(groups)


def _parse_group(fields: Fields, volumes: tuple[VolumeInfo, ...], first: int) -> ParityGroup:
    count = fields.integer("data", low=1, high=GROUP - 1)
    infos = tuple(_parse_parity_volume(item) for item in fields.tables("volumes", most=GROUP - 1))
    fields.done()
    covered = volumes[first : first + count]
    if len(covered) != count or not infos or count + len(infos) > GROUP:
        raise fields.fail(f"{len(infos)} parity volumes over {count} volumes from the {first + 1}th of {len(volumes)}")
    group = ParityGroup(first, count, max(info.size for info in covered) - volume.HEADER, infos)
    size = parity_size(group.length)
    if any(info.size != size for info in infos):
        raise fields.fail(f"a parity volume over {group.length} bytes must have {size}")
    return group


def _parse_parity_volume(fields: Fields) -> ParityInfo:
    info = ParityInfo(
        name=_matching(fields, "name", _VOLUME),
        size=fields.integer("size", low=1, high=2 * Limits.VOLUME),
        table=fields.digest("table"),
    )
    fields.done()
    return info


def parity_size(length: int) -> int:
    """Return the length in bytes of a parity volume over `length` bytes of its longest volume."""
    rows = -(-length // volume.ROW)
    return volume.HEADER + 2 * rows * volume.ROW_DIGEST + length


def _check_whole(manifest: PackageManifest, fields: Fields) -> None:
    """Refuse what each part allows but the whole does not."""
    listed = (*manifest.files, *manifest.base_files)
    if len(listed) > 2 * Limits.FILES or len({file.digest for file in listed}) != len(listed):
        raise fields.fail("a file is listed twice")
    if len({base.release for base in manifest.bases} | {manifest.release}) != len(manifest.bases) + 1:
        raise fields.fail("a release is a base twice, or its own base")
    if len(set(manifest.names)) != len(manifest.names):
        raise fields.fail("two volumes have the same name")
    if not manifest.bases and any(info.data < info.entries for info in manifest.volumes):
        raise fields.fail("a volume has less than a byte for each chunk, and no base to take it from")
    if manifest.total >= 1 << 53:
        raise fields.fail(f"the files have {manifest.total} bytes together; less than 2**53 are read")
    frames = sum(info.entries for info in manifest.volumes)
    if not frames <= manifest.total <= frames * Limits.FRAME:
        raise fields.fail(f"{frames} chunks cannot hold exactly {manifest.total} bytes of files")
