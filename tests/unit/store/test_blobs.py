import errno
import os
import stat
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airpack import fsops
from airpack.errors import IntegrityError, NotFoundError, StorageError
from airpack.store.blobs import BlobStore, hash_file
from airpack.types import Digest

DATA = b"some bytes"
ONE = Digest.of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    made = BlobStore(tmp_path / "store")
    made.create()
    return made


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that were made durable, in order."""
    made: list[str] = []
    real = fsops.sync_dir

    def sync(folder: Path) -> None:
        made.append(folder.name)
        real(folder)

    monkeypatch.setattr(fsops, "sync_dir", sync)
    return made


def damaged(store: BlobStore, digest: Digest, data: bytes) -> None:
    store.path(digest).unlink()
    store.path(digest).write_bytes(data)


def quarantined(folder: Path, data: bytes) -> tuple[Digest, Path]:
    digest = Digest.of(data)
    fsops.make_dir(folder)
    fsops.write_durable(folder / digest.hex, data, mode=0o400)
    return digest, folder / digest.hex


class TestHashFile:
    @pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
    def test_is_digest_and_size_of_all_bytes(self, tmp_path: Path, size: int) -> None:
        data = os.urandom(size)
        (tmp_path / "file").write_bytes(data)
        assert hash_file(tmp_path / "file") == (Digest.of(data), size)

    def test_follows_no_link_and_finds_nothing_that_is_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("/dev/zero")
        with pytest.raises(IntegrityError):
            hash_file(tmp_path / "link")
        with pytest.raises(NotFoundError):
            hash_file(tmp_path / "no")

    def test_a_file_that_cannot_be_read_was_not_checked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Broken:
            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_error: object) -> None:
                return None

            def readinto(self, _buffer: bytearray) -> int:
                raise OSError(errno.EIO, "I/O error")

        (tmp_path / "file").write_bytes(DATA)
        monkeypatch.setattr(os, "fdopen", lambda *_arguments, **_options: Broken())
        with pytest.raises(StorageError, match="cannot read"):
            hash_file(tmp_path / "file")


class TestPut:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
    @given(st.binary(max_size=100))
    def test_what_was_put_is_read(self, store: BlobStore, data: bytes) -> None:
        digest = store.put(data)
        assert digest == Digest.of(data)
        assert store.read(digest, 100) == data
        store.verify(digest, len(data))
        assert store.missing([(digest, len(data))]) == []

    def test_lies_under_its_digest_read_only(self, store: BlobStore, tmp_path: Path) -> None:
        store.put(DATA)
        path = tmp_path / "store/blobs/sha256" / ONE.hex[:2] / ONE.hex
        assert path == store.path(ONE)
        assert stat.S_IMODE(path.stat().st_mode) == 0o444

    def test_a_second_put_keeps_the_file(self, store: BlobStore) -> None:
        store.put(DATA)
        before = store.path(ONE).stat().st_ino
        store.put(DATA)
        assert store.path(ONE).stat().st_ino == before

    @pytest.mark.parametrize("rest", [b"", b"some BYTES", b"some bytes and more"])
    def test_a_damaged_blob_is_replaced(self, store: BlobStore, rest: bytes) -> None:
        store.put(DATA)
        damaged(store, ONE, rest)
        store.put(DATA)
        assert store.read(ONE, 100) == DATA

    def test_a_link_in_its_place_is_replaced_and_not_followed(self, store: BlobStore, tmp_path: Path) -> None:
        (tmp_path / "outside").write_bytes(DATA)
        store.put(DATA)
        store.path(ONE).unlink()
        store.path(ONE).symlink_to(tmp_path / "outside")
        store.put(DATA)
        assert not store.path(ONE).is_symlink()

    def test_is_durable_also_where_a_killed_process_had_written_it(self, store: BlobStore, syncs: list[str]) -> None:
        store.put(DATA)
        syncs.clear()
        store.put(DATA)
        assert syncs == [ONE.hex[:2], "sha256"]


class TestRead:
    def test_changed_bytes_are_never_handed_out(self, store: BlobStore) -> None:
        store.put(DATA)
        damaged(store, ONE, b"some bytez")
        with pytest.raises(IntegrityError, match=f"has changed: expected {ONE}") as caught:
            store.read(ONE, 100)
        assert "airpack fsck" in caught.value.hint
        with pytest.raises(IntegrityError, match="has changed"):
            store.verify(ONE, len(DATA))

    def test_a_missing_blob_is_damage(self, store: BlobStore) -> None:
        """The catalog says that it is here: this is not the user's mistyped name."""
        with pytest.raises(IntegrityError, match=f"is missing: {ONE}"):
            store.read(ONE, 100)
        with pytest.raises(IntegrityError, match=f"is missing: {ONE}"):
            store.verify(ONE, len(DATA))

    def test_is_bounded(self, store: BlobStore) -> None:
        store.put(DATA)
        assert store.read(ONE, len(DATA)) == DATA
        with pytest.raises(IntegrityError, match="longer than"):
            store.read(ONE, len(DATA) - 1)

    def test_another_size_than_expected_is_damage(self, store: BlobStore) -> None:
        store.put(DATA)
        with pytest.raises(IntegrityError, match="has changed: expected 9 bytes"):
            store.verify(ONE, 9)


class TestAdopt:
    def test_takes_the_file_itself_read_only(self, store: BlobStore, tmp_path: Path) -> None:
        digest, path = quarantined(tmp_path / "ingest", DATA)
        before = path.stat().st_ino
        store.adopt([(digest, path)])
        assert not path.exists()
        assert store.path(digest).stat().st_ino == before
        assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o444

    def test_syncs_each_shard_once_and_theirs(self, store: BlobStore, tmp_path: Path, syncs: list[str]) -> None:
        files = [quarantined(tmp_path / "ingest", bytes([number])) for number in range(40)]
        syncs.clear()
        store.adopt(files)
        shards = sorted({digest.hex[:2] for digest, _ in files})
        assert [name for name in syncs if name != "sha256"] == shards
        assert syncs[-1] == "sha256"

    def test_a_damaged_blob_is_replaced(self, store: BlobStore, tmp_path: Path) -> None:
        store.put(DATA)
        damaged(store, ONE, b"bad")
        store.adopt([quarantined(tmp_path / "ingest", DATA)])
        assert store.read(ONE, 100) == DATA

    def test_a_failure_is_no_success(self, store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_source: Any, _target: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        files = [quarantined(tmp_path / "ingest", DATA)]
        monkeypatch.setattr(os, "rename", full)
        with pytest.raises(StorageError) as caught:
            store.adopt(files)
        assert "free some space" in caught.value.hint


class TestMissing:
    def test_names_what_is_absent_or_damaged_in_order(self, store: BlobStore) -> None:
        good, bad, absent = (bytes([number]) for number in range(3))
        store.put(good)
        damaged(store, store.put(bad), b"x")
        wanted = [(Digest.of(data), 1) for data in (absent, good, bad)]
        assert store.missing(wanted) == [Digest.of(absent), Digest.of(bad)]

    def test_what_is_held_is_durable_on_return(self, store: BlobStore, syncs: list[str]) -> None:
        """An import that was killed after a rename leaves a name that a power cut still takes away."""
        store.put(DATA)
        syncs.clear()
        store.missing([(ONE, len(DATA)), (Digest.of(b"absent"), 6)])
        assert syncs == [ONE.hex[:2], "sha256"]


class TestRemove:
    def test_is_gone(self, store: BlobStore) -> None:
        store.put(DATA)
        store.remove(ONE)
        assert not store.path(ONE).exists()
        assert list(store.digests()) == []

    def test_what_is_not_there_is_no_failure(self, store: BlobStore) -> None:
        store.remove(ONE)
        store.put(DATA)
        store.remove(ONE)
        store.remove(ONE)
        assert not store.path(ONE).exists()


class TestListing:
    def test_every_blob_once_in_order(self, store: BlobStore) -> None:
        digests = sorted(store.put(bytes([number])) for number in range(50))
        assert list(store.digests()) == digests
        assert list(store.strays()) == []

    def test_whatever_else_lies_there_is_a_stray_and_no_blob(self, store: BlobStore) -> None:
        store.put(DATA)
        root = store.path(ONE).parent.parent
        (root / "file").write_bytes(b"")
        misplaced = root / "00" / ONE.hex
        misplaced.write_bytes(DATA)
        (root / "00" / "name").write_bytes(b"")
        linked = Digest.from_raw(bytes(32))
        (root / "00" / linked.hex).symlink_to(store.path(ONE))
        (root / "ff").rmdir()
        (root / "ff").symlink_to(root / "00")
        assert list(store.digests()) == [ONE]
        strays = [root / "00" / linked.hex, misplaced, root / "00" / "name", root / "ff", root / "file"]
        assert sorted(store.strays()) == sorted(strays)

    def test_what_a_killed_write_left_is_no_stray_and_is_cleared(self, store: BlobStore) -> None:
        store.put(DATA)
        left = store.path(ONE).with_name(f".{ONE.hex}.12.part")
        left.write_bytes(b"half")
        assert list(store.strays()) == []
        assert list(store.digests()) == [ONE]
        store.clear_temporary()
        assert not left.exists()
        assert list(store.digests()) == [ONE]

    def test_a_store_that_cannot_be_read_is_a_failure(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="cannot read"):
            list(BlobStore(tmp_path / "no").digests())
