"""The documents of a package of 1 TB, made by the code that makes them of real files."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from scripts.benching.scale import SHARD, SIZE, STORED, TENSOR, VOLUME

import airpack
from airpack.crypto import signing
from airpack.formats import dsse, packspec
from airpack.formats.package import PAYLOAD_TYPE, FileInfo, PackageManifest, VolumeInfo
from airpack.formats.volume import ENTRY, HEADER, Codec, Entry, emit_table, parse_table
from airpack.ops import build
from airpack.ops.inputs import Component, Inputs
from airpack.ops.places import Place
from airpack.ops.verify import fresh_refresh
from airpack.ops.workspace import Workspace
from airpack.policy.admission import Steps, admit
from airpack.transport import plan
from airpack.types import Digest, Silent, Source, Tensor

SPEC: Final = b"""\
[release]
product = "terabyte"
version = "1.0"

[[model]]
name = "weights"
path = "model"
license = "CC0-1.0"
"""


@dataclass(frozen=True, slots=True)
class Package:
    """A package whose chunks are nowhere.

    Attributes:
        head: The head file's bytes.
        manifest: The package manifest.
        tables: Folder of the chunk tables, by the names of their volumes.
        root: The channel's root.
        now: When it was made.
    """

    head: bytes
    manifest: PackageManifest
    tables: Path
    root: bytes
    now: datetime


def plan_package(folder: Path) -> Package:
    """Plan the frames of all files, fill volumes with what they would be stored as, sign, and return the documents."""
    now = datetime.now(UTC).replace(microsecond=0)
    workspace = Workspace.create(folder / "workspace", channel="terabyte", passphrase=None, now=now)
    sources = [_shard(number) for number in range(SIZE // SHARD)]
    tables = folder / "tables"
    tables.mkdir()
    volumes = tuple(_volumes(sources, tables))
    keys = workspace.private_keys(build._SIGNERS, lambda: None)  # noqa: SLF001, a build without its bytes
    spec = packspec.parse(SPEC, "spec.toml")
    places = tuple(Place(folder / source.path) for source in sources)
    inputs = Inputs([Component(spec.models[0], tuple(sources), ("safetensors",) * len(sources), places=places)])
    run = build._Build(workspace, spec, Digest.of(SPEC), inputs, keys, now, Silent())  # noqa: SLF001, likewise
    run.digests = digests = [_digest(number) for number in range(len(sources))]
    docs = run._documents(digests)  # noqa: SLF001, likewise
    files = tuple(FileInfo(digest, source.size) for digest, source in zip(digests, sources, strict=True))
    manifest = PackageManifest(docs.digest, spec.product, spec.version, build.NEEDS_AIRPACK, files, volumes)
    _, blobs, _ = run._release(docs)  # noqa: SLF001, likewise
    envelope = signing.sign(keys["packer"], PAYLOAD_TYPE, manifest.emit())
    head = run._head(dsse.emit(envelope), blobs)  # noqa: SLF001, likewise
    return Package(head, manifest, tables, workspace.pinned_root.read_bytes(), now)


def admit_package(package: Package) -> None:
    """Admit the head as a site does, then check each chunk table and find the files of each frame."""
    admitted = admit(
        package.head, refresh=fresh_refresh(package.root, package.now), have=airpack.__version__, steps=Steps()
    )
    manifest = admitted.manifest
    stream = plan.Stream(manifest.files, {file.digest for file in manifest.files})
    end = 0
    for info in manifest.volumes:
        data = (package.tables / info.name).read_bytes()
        if Digest.of(data) != info.table:
            raise RuntimeError(f"the table of {info.name} has changed")
        table = parse_table(data, entries=info.entries, stored=info.data, what=info.name)
        if table.start != end:
            raise RuntimeError(f"{info.name} does not go on where the last one ended")
        end = table.end
        for frame in table.frames():
            stream.pieces(frame.offset, frame.size)
    if end != stream.total:
        raise RuntimeError(f"the tables cover {end} bytes of {stream.total}")


def _shard(number: int) -> Source:
    tensors = tuple(
        Tensor(f"layers.{number}.{at}.weight", start, min(start + TENSOR, SHARD), "bf16")
        for at, start in enumerate(range(8 + 4096, SHARD, TENSOR))
    )
    return Source(f"model-{number:05d}.safetensors", SHARD, _nothing, tensors=tensors)


def _nothing() -> NoReturn:
    raise RuntimeError("these bytes are nowhere")


def _digest(number: int) -> Digest:
    return Digest.of(number.to_bytes(8))


def _volumes(sources: list[Source], tables: Path) -> Iterator[VolumeInfo]:
    """Fill volumes with frames that are stored in `STORED` of their length, and keep their tables."""
    left = sum(-(-source.size // plan.FRAME) + 3 * len(source.tensors) for source in sources)
    bytes_left = sum(source.size for source in sources)
    entries, slots, size, offset, number = bytearray(), 0, 0, 0, 0
    for cut in plan.cuts(span for source in sources for span in plan.spans(source)):
        stored = max(1, int(cut.size * STORED))
        if not entries or len(entries) == slots * ENTRY or size + stored > VOLUME:
            if entries:
                yield _finish(tables, number, entries, slots, size)
            number += 1
            slots = plan.count_slots(left, bytes_left, VOLUME)
            entries, size = bytearray(), HEADER + slots * ENTRY
        kind = Codec.BF16 if cut.size % 2 == 0 else Codec.ZSTD
        entries += Entry(_digest(offset).raw, offset, stored, cut.size, kind).emit()
        size, offset, left, bytes_left = size + stored, offset + cut.size, left - 1, bytes_left - cut.size
    yield _finish(tables, number, entries, slots, size)


def _finish(tables: Path, number: int, entries: bytearray, slots: int, size: int) -> VolumeInfo:
    table = emit_table(entries, slots)
    name = f"terabyte-1.0.{number:04d}.airvol"
    (tables / name).write_bytes(table)
    return VolumeInfo(name, size, len(entries) // ENTRY, slots, Digest.of(table))
