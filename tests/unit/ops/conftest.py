"""A site that holds small releases, put there without a package."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airpack.catalog.catalog import ReleaseRow
from airpack.formats.release import ModelPart, PackedFile, Release, RuntimePart, assemble, read_release
from airpack.ops.site import Site
from airpack.ops.workspace import Workspace
from airpack.types import Digest, State

NOW = datetime(2031, 1, 1, tzinfo=UTC)


@dataclass
class Held:
    """A release at the site: its row in the catalog and what it says."""

    row: ReleaseRow
    release: Release


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The root of a starter channel."""
    folder = tmp_path_factory.mktemp("desk")
    return Workspace.create(folder, channel="main", passphrase=None, now=NOW).pinned_root.read_bytes()


@pytest.fixture
def site(tmp_path: Path, root: bytes) -> Site:
    made = Site.create(tmp_path / "site", root=root, minimum={})
    made.now = lambda: NOW
    return made


@pytest.fixture
def hold(site: Site) -> Callable[..., Held]:
    """Let the site hold release NUMBER: two model files, an empty one twice, and an executable."""

    def add(number: int = 1, state: State = State.IMPORTED) -> Held:
        contents = {"model.onnx": b"weights %d" % number, "a/empty": b"", "b/empty": b""}
        program = b"#!/bin/sh\n"
        files = {path: site.store.put(data) for path, data in contents.items()}
        docs = assemble(
            "encoder",
            f"1.{number}.0",
            models=[
                ModelPart(
                    "minilm",
                    tuple(PackedFile(path, files[path], len(data), format="onnx") for path, data in contents.items()),
                )
            ],
            runtimes=[
                RuntimePart("tool", "files", "", (PackedFile("bin/run", site.store.put(program), len(program), True),))
            ],
        )
        release = read_release(docs.index, docs.blobs.__getitem__)
        sizes = {site.store.put(data): len(data) for data in docs.blobs.values()}
        sizes |= {file.digest: file.size for file in release.files}
        row = ReleaseRow(
            digest=docs.digest,
            product="encoder",
            version=f"1.{number}.0",
            sequence=number,
            state=state,
            proven=state is State.KNOWN_GOOD,
            tries=0,
            imported="2031-01-01T00:00:00Z",
            receipt=b"receipt of %b" % Digest.of(docs.index).raw,
        )
        site.catalog.add_release(row, sizes)
        return Held(row, release)

    return add
