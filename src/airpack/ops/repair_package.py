"""Repair: what a site asks for is copied once more from the package as it was built, byte for byte.

Nothing is built, encoded or signed here, and no key is needed: the site takes only bytes whose digests the packer has
signed. A repair report comes back from a site: it decides which bytes are copied, and nothing else.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airpack import fsops
from airpack.errors import InputError, NotFoundError, StorageError
from airpack.formats import dsse, head
from airpack.formats.package import PackageManifest
from airpack.formats.repair import Needed, RepairReport
from airpack.formats.repair_volume import repair_name
from airpack.ops.medium import find_head, read_head
from airpack.transport.copying import Copier, Wanted
from airpack.transport.reader import open_media
from airpack.transport.volumes import Media
from airpack.types import Digest, Limits, Reporter, Silent

_MOST = 99_999  # repair volumes of one volume in one folder


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a repair.

    Attributes:
        name: Its file name.
        volume: The volume whose bytes it brings.
        size: Its length in bytes.
        chunks: How many chunks it brings; None for a whole volume.
    """

    name: str
    volume: str
    size: int
    chunks: int | None = None


@dataclass(frozen=True, slots=True)
class Repair:
    """What was copied, or would be.

    Attributes:
        product: The product's name.
        version: Its version.
        package: Digest of the package manifest's signed bytes.
        out: The folder.
        head: The head in it; None after a dry run.
        parts: The files beside the head.
    """

    product: str
    version: str
    package: Digest
    out: Path
    head: Path | None
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    def document(self) -> dict[str, Any]:
        """Return the JSON keys that scripts rely on."""
        return {
            "product": self.product,
            "version": self.version,
            "package": str(self.package),
            "head": str(self.head) if self.head else None,
            "out": str(self.out),
            "bytes_packed": self.size,
            "repair": [
                {"path": str(self.out / part.name), "volume": part.volume, "size": part.size, "chunks": part.chunks}
                for part in self.parts
            ],
        }


@dataclass(frozen=True, slots=True)
class _Task:
    """A part, and where it comes from: chunks of the data volume at `position`, all of it, or a parity volume."""

    part: Part
    position: int
    wanted: Wanted | None = None
    is_parity: bool = False


def repair_package(
    report_path: Path, package: Path, out: Path, *, dry_run: bool = False, reporter: Reporter | None = None
) -> Repair:
    """Copy what a repair report asks for into `out`, the head beside it.

    Args:
        report_path: The report that a site wrote.
        package: The package as it was built: its folder, or its head.
        out: Folder for the repair; what is in it is left alone.
        dry_run: Say what would be copied, write nothing.
        reporter: Receives progress.

    Raises:
        NotFoundError: No report, or no head.
        InputError: The report is of another package, or asks for what that package does not have; or a file
            that would be written exists.
        IntegrityError: The report is no such document; or the package itself is damaged where it is needed.
        PartialError: It lacks a volume that is needed.
        StorageError: Disk.
    """
    reporter = reporter or Silent()
    report = _read_report(report_path)
    head_path = find_head(package)
    data = read_head(head_path)
    envelope = dsse.parse(head.parse(data).package, "package envelope", limit=Limits.HEAD)
    manifest, payload = PackageManifest.parse(envelope.payload), Digest.of(envelope.payload)
    if report.package != payload:
        raise InputError(
            f"{report_path} asks for another package than {head_path} is the head of: manifest {report.package.short}, "
            f"not {payload.short}",
            hint=f"--from takes the folder that {report.product}@{report.version} was built into",
        )
    with open_media(manifest, payload, [head_path.parent]) as media:
        copier = Copier(media, payload, reporter)
        tasks = _plan(report, media, copier, out)
        result = Repair(
            manifest.product, manifest.version, payload, out.resolve(), None, tuple(task.part for task in tasks)
        )
        if dry_run:
            return result
        _check_room(out, result.size + len(data), data, head_path.name, tasks)
        fsops.make_dir(out)
        reporter.start("repair", result.size)
        try:
            for task in tasks:
                _copy(task, copier, out)
        finally:
            reporter.finish()
    fsops.write_durable(out / head_path.name, data)
    return Repair(result.product, result.version, payload, result.out, result.out / head_path.name, result.parts)


def _read_report(path: Path) -> RepairReport:
    try:
        return RepairReport.parse(fsops.read_regular(path, Limits.DOCUMENT), what=path.name)
    except NotFoundError as error:
        raise NotFoundError(
            f"no repair report {path}",
            hint="an import that lacks bytes writes one, and names it",
            path=str(path),
        ) from error


def _plan(report: RepairReport, media: Media, copier: Copier, out: Path) -> list[_Task]:
    """Return what to copy, in the report's order; a volume is copied whole where that is no longer than its parts."""
    places = {info.name: position for position, info in enumerate(media.manifest.volumes)}
    spare = {file.name: number for number, file in enumerate(media.parity)}
    tasks = []
    for needed in report.volumes:
        if needed.name in spare:
            number = spare[needed.name]
            size = media.parity[number].size
            _check_ranges(needed, size)
            tasks.append(_Task(Part(needed.name, needed.name, size), number, is_parity=True))
        elif needed.name in places:
            tasks.append(_plan_volume(needed, places[needed.name], media, copier, out))
        else:
            raise InputError(f"the report asks for volume {needed.name}, which this package does not have")
    return tasks


def _plan_volume(needed: Needed, position: int, media: Media, copier: Copier, out: Path) -> _Task:
    size = media.manifest.volumes[position].size
    _check_ranges(needed, size)
    whole = _Task(Part(needed.name, needed.name, size), position)
    if needed.ranges == ((0, size),):
        return whole
    wanted = copier.find(position, needed.ranges)
    length = copier.repair_size(position, wanted)
    if length >= size:
        return whole
    name = next(
        name for number in range(1, _MOST) if not os.path.lexists(out / (name := repair_name(needed.name, number)))
    )
    return _Task(Part(name, needed.name, length, len(wanted.numbers)), position, wanted)


def _check_ranges(needed: Needed, size: int) -> None:
    end = sum(needed.ranges[-1])
    if end > size:
        raise InputError(f"the report asks for bytes of volume {needed.name} up to {end}; it has {size}")


def _check_room(out: Path, wanted: int, data: bytes, head_name: str, tasks: Sequence[_Task]) -> None:
    """Refuse to replace anything, and a disk that is too small, before anything is written."""
    for task in tasks:
        if os.path.lexists(out / task.part.name):
            raise InputError(
                f"{out / task.part.name} exists already; volumes are never replaced",
                hint="give another output folder",
                path=str(out / task.part.name),
            )
    try:
        if fsops.read_regular(out / head_name, Limits.HEAD) != data:
            raise InputError(
                f"{out / head_name} is another head than the one to put there", hint="give another output folder"
            )
    except NotFoundError:
        pass
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    free = fsops.free_bytes(place)
    if wanted > free:
        raise StorageError(
            f"not enough space: the repair needs {wanted} bytes in {out}, {free} are free", needed=wanted, free=free
        )


def _copy(task: _Task, copier: Copier, out: Path) -> None:
    path = out / task.part.name
    if task.is_parity:
        copier.copy_spare(task.position, path)
    elif task.wanted is None:
        copier.copy_volume(task.position, path)
    else:
        copier.copy_chunks(task.position, task.wanted, path)
