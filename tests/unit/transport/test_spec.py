"""The example in docs/spec/package.md is what the code writes and reads."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airpack.formats import head
from airpack.formats.package import PackageManifest
from airpack.transport.reader import unpack_all
from airpack.transport.writer import PackWriter
from airpack.types import Digest, Source

SPEC = (Path(__file__).parents[3] / "docs/spec/package.md").read_text()
HELLO = b"hello, site\n"
INDEX = b'{"schemaVersion":2}'


def block(title: str) -> str:
    """Return the text of the fenced block under `title`."""
    match = re.search(re.escape(title) + r"\n\n```[a-z]*\n(.*?)```", SPEC, re.DOTALL)
    assert match is not None, title
    return match.group(1)


def dumped(title: str) -> bytes:
    """Return the bytes of the hex dump under `title`, `OFFSET  HEX...  comment` a line."""
    lines = [re.match(r"[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)", line) for line in block(title).splitlines()]
    return b"".join(bytes.fromhex(line.group(1)) for line in lines if line)


@pytest.fixture
def manifest(tmp_path: Path, source: Callable[..., Source]) -> PackageManifest:
    """Pack the example's one file into `tmp_path`."""
    with PackWriter(tmp_path, "hello-1.0") as writer:
        writer.pack([source("hello.txt", HELLO)])
        found = PackageManifest(Digest.of(INDEX), "hello", "1.0", "0.1.0", *writer.close())
        writer.seal(found.emit())
    return found


def test_the_manifest_of_the_example_is_what_is_written(manifest: PackageManifest) -> None:
    assert block("`package manifest`:").strip().encode() == manifest.emit()


def test_the_volume_of_the_example_is_what_is_written_and_read(
    manifest: PackageManifest, tmp_path: Path, collector: Any
) -> None:
    volume = dumped("`hello-1.0.0001.airvol`, 204 bytes:")
    sink = collector()

    assert volume == (tmp_path / "hello-1.0.0001.airvol").read_bytes()
    unpack_all(manifest, Digest.of(manifest.emit()), [tmp_path], wanted={Digest.of(HELLO)}, sink=sink)
    assert sink.files == {Digest.of(HELLO): HELLO}


def test_the_head_of_the_example_is_what_is_written_and_read() -> None:
    data = block("`hello-1.0.airpack`:").encode()

    assert head.emit(head.parse(data)) == data
    assert head.parse(data).blobs == {Digest.of(INDEX): INDEX}
