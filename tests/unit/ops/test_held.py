from dataclasses import replace
from pathlib import Path

import pytest

from airpack.errors import PartialError
from airpack.formats.package import Base, FileInfo, PackageManifest
from airpack.ops.held import held_bases
from airpack.store.blobs import BlobStore
from airpack.types import Digest, Silent

OLD, SHARED, OTHER = b"old weights", b"shared runtime", b"of another release"


def info(data: bytes) -> FileInfo:
    return FileInfo(Digest.of(data), len(data))


MANIFEST = PackageManifest(
    release=Digest.of(b"release"),
    product="tool",
    version="1.1",
    needs_airpack="0.1.0",
    files=(),
    volumes=(),
    bases=(
        Base(Digest.of(b"1.0"), "tool", "1.0", (info(OLD), info(SHARED))),
        Base(Digest.of(b"other"), "other", "2", (info(OTHER),)),
    ),
)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path)
    store.create()
    for data in (OLD, SHARED, OTHER):
        store.put(data)
    return store


def spoil(store: BlobStore, data: bytes, new: bytes) -> None:
    path = store.path(Digest.of(data))
    path.chmod(0o644)
    path.write_bytes(new)


def test_base_files_that_are_held_are_read_by_their_number(store: BlobStore) -> None:
    with held_bases(store, MANIFEST) as bases:
        assert [bases.read(number, 0, 3) for number in (1, 2, 3)] == [b"old", b"sha", b"of "]


def test_a_site_without_the_base_is_told_which_release_it_is(store: BlobStore) -> None:
    store.remove(Digest.of(SHARED))
    with pytest.raises(PartialError, match=r"tool@1\.1 builds on tool@1\.0 \(sha256:.*does not hold 1 files") as caught:
        held_bases(store, MANIFEST)
    assert caught.value.exit_code == 30
    assert "full package" in caught.value.hint
    assert caught.value.context["release"] == str(Digest.of(b"1.0"))
    assert caught.value.context["files"] == [str(Digest.of(SHARED))]


@pytest.mark.parametrize("new", [b"old weightS", b"old", b"old weights and more"])
def test_a_base_file_that_is_not_as_it_was_verified_is_not_held(store: BlobStore, new: bytes) -> None:
    spoil(store, OLD, new)
    with pytest.raises(PartialError, match=r"tool@1\.0"):
        held_bases(store, MANIFEST)


def test_each_base_is_checked(store: BlobStore) -> None:
    store.remove(Digest.of(OTHER))
    with pytest.raises(PartialError, match=r"builds on other@2"):
        held_bases(store, MANIFEST)


def test_a_size_that_is_not_the_signed_one_is_not_held(store: BlobStore) -> None:
    wrong = replace(MANIFEST.bases[1], files=(FileInfo(Digest.of(OTHER), 5),))
    with pytest.raises(PartialError):
        held_bases(store, replace(MANIFEST, bases=(wrong,)))


class Counting(Silent):
    total = done = 0

    def start(self, task: str, total: int) -> None:
        assert task == "check base"
        self.total += total

    def advance(self, done: int, item: str = "", volume: str = "") -> None:
        assert (item, volume) == ("", "")
        self.done += done


def test_what_was_hashed_just_now_is_not_hashed_again(store: BlobStore) -> None:
    reporter = Counting()
    held_bases(store, MANIFEST, checked={Digest.of(SHARED)}, reporter=reporter).close()
    assert reporter.total == reporter.done == len(OLD) + len(OTHER)
    spoil(store, SHARED, b"x")
    held_bases(store, MANIFEST, checked={Digest.of(SHARED)}).close()
