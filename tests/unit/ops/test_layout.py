import io
import json
from pathlib import Path
from typing import BinaryIO

import pytest

from airpack.errors import IntegrityError, StorageError
from airpack.formats import oci
from airpack.ops.layout import LayoutWriter
from airpack.types import Descriptor, Digest, Silent, Source


def source(data: bytes, *, size: int | None = None, digest: Digest | None = None) -> Source:
    return Source("a/file", len(data) if size is None else size, lambda: io.BytesIO(data), digest=digest)


@pytest.fixture
def writer(tmp_path: Path) -> LayoutWriter:
    return LayoutWriter(tmp_path / "layout")


def blobs(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "layout/blobs/sha256").iterdir()}


def test_files_lie_under_their_digests_equal_ones_once(writer: LayoutWriter, tmp_path: Path) -> None:
    contents = [b"one", b"", b"one", bytes(3 << 20)]
    digests = writer.add([source(data) for data in contents], Silent())
    assert digests == [Digest.of(data) for data in contents]
    assert blobs(tmp_path) == {Digest.of(data).hex: data for data in contents}


def test_small_blobs_lie_beside_them(writer: LayoutWriter, tmp_path: Path) -> None:
    assert writer.put(b"document") == Digest.of(b"document")
    assert blobs(tmp_path) == {Digest.of(b"document").hex: b"document"}


@pytest.mark.parametrize(
    "wrong", [source(b"abc", size=2), source(b"abc", size=4), source(b"abc", digest=Digest.of(b"abd"))]
)
def test_a_file_that_is_not_as_announced_is_refused_and_leaves_nothing(
    writer: LayoutWriter, tmp_path: Path, wrong: Source
) -> None:
    with pytest.raises(IntegrityError, match=f"a/file changed .* found 3 with {Digest.of(b'abc')}"):
        writer.add([wrong], Silent())
    assert blobs(tmp_path) == {}


class Unreadable(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: object) -> int:
        raise OSError(5, "Input/output error")


def test_a_file_that_cannot_be_read_is_a_failure(writer: LayoutWriter, tmp_path: Path) -> None:
    def opened() -> BinaryIO:
        return io.BufferedReader(Unreadable())

    with pytest.raises(StorageError, match="cannot read a/file: Input/output error"):
        writer.add([Source("a/file", 3, opened)], Silent())
    assert blobs(tmp_path) == {}


class Counting(Silent):
    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []

    def start(self, task: str, total: int) -> None:
        self.said.append((task, total))

    def advance(self, done: int, item: str = "", volume: str = "") -> None:
        self.said.append((item or volume, done))

    def finish(self) -> None:
        self.said.append(("finish", 0))


def test_progress_is_told_to_its_end(writer: LayoutWriter) -> None:
    reporter = Counting()
    writer.add([source(b"abc")], reporter)
    assert reporter.said == [("copy", 3), ("a/file", 3), ("finish", 0)]


def test_progress_ends_also_when_it_fails(writer: LayoutWriter) -> None:
    reporter = Counting()
    with pytest.raises(IntegrityError):
        writer.add([source(b"abc", digest=Digest.of(b""))], reporter)
    assert reporter.said == [("copy", 3), ("a/file", 3), ("finish", 0)]


def test_index_and_marker_make_it_complete(writer: LayoutWriter, tmp_path: Path) -> None:
    index, referrer = b"index", b"referrer"
    writer.finish("encoder@1.0.0", Descriptor(oci.INDEX, Digest.of(index), 5), {Digest.of(referrer): referrer})
    assert json.loads((tmp_path / "layout/oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    top, attached = json.loads((tmp_path / "layout/index.json").read_bytes())["manifests"]
    assert (top["mediaType"], top["digest"], top["size"]) == (oci.INDEX, str(Digest.of(index)), 5)
    assert top["annotations"] == {
        "org.opencontainers.image.ref.name": "1.0.0",
        "kind": "dev.cosignproject.cosign/image",
    }
    assert attached == {"mediaType": oci.MANIFEST, "digest": str(Digest.of(referrer)), "size": 8}
    assert "artifactType" not in top
