"""Packages made by hand, by somebody who holds every key: frames, tables and headers of any form, rightly signed.

    bench = Bench.make(folder)                  # a workspace with the keys of `keys/`, at a fixed time
    package = bench.build("1.0.0")              # head and volumes in memory
    package.repacked([[Frame.raw(b"...")]])     # the same release in other volumes, signed by the packer

Nothing of it is used by airpack itself; `make.py` writes the vectors with it and `mutate.py` starts from them.
"""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import zstandard
from tests.integration.conftest import Forger, safetensors

from airpack.crypto.keys import PrivateKey
from airpack.formats import dsse
from airpack.formats import head as heads
from airpack.formats.head import Head
from airpack.formats.package import FileInfo, PackageManifest, VolumeInfo
from airpack.formats.volume import ENTRY, HEADER, Codec, Entry, Header, emit_table
from airpack.ops import build, workspace
from airpack.transport import reader
from airpack.types import Digest

KEYS = Path(__file__).parent / "keys"
ROLES = (*workspace.CHANNEL_ROLES, *workspace.ATTESTATION_ROLES)
MADE = datetime(2026, 6, 1, tzinfo=UTC)
"""When everything is built and signed."""

CHECK = "#!/bin/sh\nexit 0\n"


@dataclass(frozen=True)
class Frame:
    """A frame to be stored: codec, stored chunks, and what the table says that it decodes to."""

    codec: Codec
    chunks: tuple[bytes, ...]
    size: int

    @classmethod
    def raw(cls, data: bytes) -> "Frame":
        return cls(Codec.RAW, (data,), len(data))

    @classmethod
    def zstd(cls, data: bytes, size: int | None = None) -> "Frame":
        """Store `data` as zstd; the table says `size`, by default the truth."""
        return cls(Codec.ZSTD, (zstandard.ZstdCompressor().compress(data),), len(data) if size is None else size)

    @classmethod
    def parts(cls, data: bytes, count: int) -> "Frame":
        """Store `data` as one zstd frame in `count` chunks."""
        stored = zstandard.ZstdCompressor().compress(data)
        step = -(-len(stored) // count)
        return cls(Codec.ZSTD, tuple(stored[at : at + step] for at in range(0, len(stored), step)), len(data))

    def entries(self, offset: int) -> list[Entry]:
        """Return the table's entries of this frame, which begins at `offset` of the stream."""
        return [
            Entry(hashlib.sha256(chunk).digest(), offset, len(chunk), self.size, self.codec, part, len(self.chunks))
            for part, chunk in enumerate(self.chunks)
        ]


@dataclass(frozen=True)
class Package:
    """A package in memory: its head, and its volumes by name."""

    forger: "KeyHolder"
    name: str
    head: Head
    volumes: Mapping[str, bytes]

    @property
    def head_name(self) -> str:
        return f"{self.name}.airpack"

    @property
    def manifest(self) -> PackageManifest:
        return Forger.manifest(self.head)

    def files(self) -> dict[str, bytes]:
        """Return every file of the medium."""
        return {self.head_name: heads.emit(self.head), **self.volumes}

    def with_head(self, head: Head) -> "Package":
        return replace(self, head=head)

    def stream(self) -> bytes:
        """Return the raw bytes of all files, in the order of the manifest."""
        sink = _Memory()
        manifest = self.manifest
        with tempfile.TemporaryDirectory() as folder:
            for name, data in self.volumes.items():
                (Path(folder) / name).write_bytes(data)
            payload = Digest.of(dsse.parse(self.head.package).payload)
            wanted = {file.digest for file in manifest.files}
            reader.unpack_all(manifest, payload, [Path(folder)], wanted=wanted, sink=sink)
        return bytes(sink.data)

    def repacked(
        self,
        layout: Sequence[Sequence[Frame]],
        *,
        slots: int = 0,
        files: Sequence[FileInfo] | None = None,
        table: Callable[[bytes], bytes] = bytes,
        header: Callable[[Header], bytes] = Header.emit,
    ) -> "Package":
        """Return the same release in other volumes; table and manifest are signed whatever they say.

        Args:
            layout: The frames of each volume.
            slots: Slots of each table; 0 for as many as entries.
            files: Files that the manifest lists, those of the release by default.
            table: Given the table's bytes, returns what is written and signed.
            header: Given the right header, returns the 128 bytes that are written.
        """
        infos, bodies = in_volumes(self.name, layout, slots=slots, table=table)
        manifest = replace(self.manifest, volumes=infos, files=self.manifest.files if files is None else tuple(files))
        return self.resigned(manifest, bodies, header)

    def resigned(
        self, manifest: PackageManifest, bodies: Sequence[bytes], header: Callable[[Header], bytes] = Header.emit
    ) -> "Package":
        """Return the package with `manifest` signed by the packer and its volumes' headers as it implies."""
        payload = manifest.emit()
        volumes = {
            info.name: header(manifest.header(Digest.of(payload), position)) + body
            for position, (info, body) in enumerate(zip(manifest.volumes, bodies, strict=True))
        }
        return replace(self, head=self.forger.packed(self.head, payload), volumes=volumes)


def in_volumes(
    name: str, layout: Sequence[Sequence[Frame]], *, slots: int = 0, table: Callable[[bytes], bytes] = bytes
) -> tuple[tuple[VolumeInfo, ...], list[bytes]]:
    """Return what a manifest says of the volumes of `layout`, and each one's bytes behind its header."""
    infos, bodies, offset = [], [], 0
    for number, frames in enumerate(layout, 1):
        entries = b""
        for frame in frames:
            entries += b"".join(entry.emit() for entry in frame.entries(offset))
            offset += frame.size
        used = len(entries) // ENTRY
        text = table(emit_table(entries, slots or used))
        chunks = b"".join(chunk for frame in frames for chunk in frame.chunks)
        size = HEADER + len(text) + len(chunks)
        infos.append(VolumeInfo(f"{name}.{number:04d}.airvol", size, used, len(text) // ENTRY, Digest.of(text)))
        bodies.append(text + chunks)
    return tuple(infos), bodies


class _Memory(reader.NullSink):
    """A sink that keeps everything, one file after the other."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, file: FileInfo, at: int, data: memoryview) -> None:
        del file, at  # they come in order
        self.data += data


def key(name: str) -> PrivateKey:
    """Return the fixed test key `name`."""
    return PrivateKey.from_pem((KEYS / f"{name}.pem").read_bytes(), None)


@dataclass
class KeyHolder(Forger):
    """A forger with the fixed keys, which need no workspace."""

    workspace: Path = field(default=KEYS)

    def __post_init__(self) -> None:
        self.keys = {role: key(role) for role in ROLES}


@dataclass
class Bench:
    """A workspace with the fixed keys, whose releases are built at a fixed time."""

    folder: Path
    forger: KeyHolder = field(default_factory=KeyHolder)

    @classmethod
    def make(cls, folder: Path, *, channel: str = "main", keys: Mapping[str, PrivateKey] | None = None) -> "Bench":
        made = [(keys or {}).get(role) or key(role) for role in ROLES]
        with patch.object(PrivateKey, "generate", side_effect=made):
            workspace.Workspace.create(folder / "workspace", channel=channel, passphrase=None, now=MADE)
        return cls(folder)

    @property
    def workspace(self) -> workspace.Workspace:
        return workspace.Workspace.find(self.folder / "workspace", self.folder)

    def build(
        self,
        version: str,
        product: str = "tool",
        *,
        models: Mapping[str, bytes] | None = None,
        runtime: Mapping[str, str] | None = None,
        require: str = "",
        platform: str = "",
        now: datetime = MADE,
    ) -> Package:
        """Build a small release: one folder as model, one as runtime, a probe that runs `check`."""
        place = self.folder / "specs" / f"{product}-{version}"
        for folder, files in (
            ("model", models or {"weights.safetensors": safetensors(product + version)}),
            ("tool", {name: text.encode() for name, text in (runtime or {"check": CHECK}).items()}),
        ):
            for name, data in files.items():
                path = place / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                path.chmod(0o755 if data.startswith(b"#!") else 0o644)
        spec = f'[release]\nproduct = "{product}"\nversion = "{version}"\n'
        spec += '[[model]]\nname = "m"\npath = "model"\nlicense = "MIT"\n'
        spec += f'[[runtime]]\nname = "tool"\nkind = "{"binary" if platform else "files"}"\npath = "tool"\n'
        spec += f'platform = "{platform}"\n' if platform else ""
        spec += '[probe]\nkind = "command"\ncommand = ["runtime/tool/check"]\n' + require
        (place / "pack.toml").write_text(spec)
        out = place / "out"
        result = build.build(self.workspace, place / "pack.toml", out, passphrase=lambda: None, now=now)
        assert result.head is not None
        volumes = {path.name: path.read_bytes() for path in result.volumes}
        return Package(self.forger, result.head.stem, heads.parse(result.head.read_bytes()), volumes)
