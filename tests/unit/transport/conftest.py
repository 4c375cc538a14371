"""Packages for the tests: written by the writer, or forged by hand with right digests over wrong content."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from airpack.formats.package import FileInfo, PackageManifest, ParityGroup, VolumeInfo
from airpack.formats.volume import ENTRY, HEADER, Codec, Entry, Frame, emit_table
from airpack.transport.writer import PackWriter
from airpack.types import Digest, Source

RELEASE = Digest.of(b"release")
Package = tuple[PackageManifest, Digest, Path]


def _source(
    path: str, data: bytes, size: int | None = None, digest: Digest | None = None, *, solid: bool = False
) -> Source:
    return Source(path, len(data) if size is None else size, lambda: io.BytesIO(data), digest=digest, solid=solid)


def _manifest(
    files: tuple[FileInfo, ...], volumes: tuple[VolumeInfo, ...], parity: tuple[ParityGroup, ...] = ()
) -> PackageManifest:
    return PackageManifest(RELEASE, "encoder", "1.0.0", "0.1.0", files, volumes, parity=parity)


@pytest.fixture
def source() -> Callable[..., Source]:
    """Return what makes a source of bytes: `source(path, data, size=None, digest=None, solid=False)`."""
    return _source


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Package]:
    """Return what writes a package of files: `pack(*files, volume_size=..., name="pack", parity=0, solid=False)`."""

    def make(
        *files: bytes, volume_size: int = 2 << 20, name: str = "pack", parity: int = 0, solid: bool = False
    ) -> Package:
        folder = tmp_path / "out"
        with PackWriter(folder, name, volume_size=volume_size, parity_volumes=parity) as writer:
            writer.pack([_source(f"file{number}", data, solid=solid) for number, data in enumerate(files)])
            payload = _manifest(*writer.close(), writer.groups).emit()
            writer.seal(payload)
        return PackageManifest.parse(payload), Digest.of(payload), folder

    return make


@pytest.fixture
def forge(tmp_path: Path) -> Callable[..., Package]:
    """Return what signs any volumes: `forge(files, volumes)`, a volume being a list of (entry, stored bytes).

    Digests, sizes and headers are right, as a packer with a key could make them; entries are what the test says.
    """

    def make(files: list[bytes], volumes: list[list[tuple[Entry, bytes]]], slots: int = 4) -> Package:
        infos, bodies = [], []
        for number, chunks in enumerate(volumes, 1):
            table = emit_table(b"".join(entry.emit() for entry, _ in chunks), slots)
            data = b"".join(stored for _, stored in chunks)
            size = HEADER + slots * ENTRY + len(data)
            infos.append(VolumeInfo(f"forged.{number:04d}.airvol", size, len(chunks), slots, Digest.of(table)))
            bodies.append(table + data)
        manifest = _manifest(tuple(FileInfo(Digest.of(data), len(data)) for data in files), tuple(infos))
        payload = Digest.of(manifest.emit())
        for position, (info, body) in enumerate(zip(infos, bodies, strict=True)):
            (tmp_path / info.name).write_bytes(manifest.header(payload, position).emit() + body)
        return manifest, payload, tmp_path

    return make


@pytest.fixture
def chunk() -> Callable[..., tuple[Entry, bytes]]:
    """Return what makes one chunk: `chunk(stored, offset, frame, codec, part=0, parts=1)`."""

    def make(
        stored: bytes, offset: int, frame: int, codec: Codec, *, part: int = 0, parts: int = 1
    ) -> tuple[Entry, bytes]:
        digest = hashlib.sha256(stored).digest()
        return Entry(digest, offset, len(stored), frame, codec, part, parts), stored

    return make


class _Collector:
    """A sink that keeps what it is given; `files` has what was committed, `settled` the first chunk of each frame."""

    def __init__(self) -> None:
        self.files: dict[Digest, bytes] = {}
        self.order: list[Digest] = []
        self.parts: dict[Digest, bytearray] = {}
        self.settled: list[tuple[int, int]] = []

    def write(self, file: FileInfo, at: int, data: memoryview) -> None:
        self.parts.setdefault(file.digest, bytearray(file.size))[at : at + len(data)] = data

    def settle(self, position: int, frame: Frame) -> None:
        self.settled.append((position, frame.chunks[0].number))

    def hash(self, file: FileInfo) -> Digest:
        return Digest.of(self.parts[file.digest])

    def commit(self, file: FileInfo) -> None:
        assert file.digest not in self.files
        self.files[file.digest] = bytes(self.parts.pop(file.digest, b""))
        self.order.append(file.digest)


@pytest.fixture
def collector() -> Callable[[], _Collector]:
    """Return what makes a sink that collects."""
    return _Collector


class _Recorder:
    """A reporter that adds up."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int]] = []
        self.done = 0
        self.finished = 0

    def start(self, task: str, total: int) -> None:
        self.tasks.append((task, total))
        self.done = 0

    def advance(self, done: int, item: str = "", volume: str = "") -> None:
        self.done += done
        self.item, self.volume = item, volume

    def finish(self) -> None:
        self.finished += 1

    def note(self, text: str) -> None:
        raise AssertionError(text)


@pytest.fixture
def recorder() -> _Recorder:
    """Return a reporter that adds up."""
    return _Recorder()
