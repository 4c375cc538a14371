"""Blobs under the digest of their raw bytes: `blobs/sha256/ab/<64 hex digits>`, mode 0444.

A name appears here only after its bytes were hashed and made durable; a blob that is already there is compared before
it is relied on. Nothing is ever written in place.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from airpack import fsops
from airpack.errors import IntegrityError, NotFoundError, StorageError
from airpack.types import Digest

_BUFFER = 1 << 20  # bytes


def hash_file(path: Path) -> tuple[Digest, int]:
    """Return digest and size in bytes of a regular file.

    Raises:
        NotFoundError: It is not there.
        IntegrityError: It is not a regular file.
        StorageError: It cannot be read.
    """
    descriptor = fsops.open_regular(path)
    hasher, size, buffer = hashlib.sha256(), 0, bytearray(_BUFFER)
    try:
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                hasher.update(memoryview(buffer)[:count])
                size += count
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    return Digest("sha256:" + hasher.hexdigest()), size


class BlobStore:
    """The site's store.

    Args:
        root: Folder that holds `blobs/`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / "blobs" / "sha256"

    def create(self) -> None:
        """Make the store's folder durably."""
        fsops.make_dir(self._root)

    def path(self, digest: Digest) -> Path:
        """Return where the blob lies or would lie."""
        return self._root / digest.hex[:2] / digest.hex

    def holds(self, digest: Digest) -> bool:
        """Return whether a file of that name is there; its bytes are not looked at."""
        return self.path(digest).is_file()

    def verify(self, digest: Digest, size: int) -> None:
        """Hash the stored blob again.

        Raises:
            NotFoundError: It is missing.
            IntegrityError: Its bytes or its size are not those of its name.
            StorageError: It cannot be read.
        """
        path = self.path(digest)
        found, length = hash_file(path)
        if found != digest or length != size:
            raise IntegrityError(
                f"stored blob {digest.short} has changed: expected {size} bytes with {digest}, "
                f"found {length} bytes with {found}",
                hint="import its package again after `airpack fsck` has named all that is damaged",
                path=str(path),
            )

    def read(self, digest: Digest, limit: int) -> bytes:
        """Return the bytes of a small blob, hashed before they are handed out.

        Raises:
            NotFoundError: It is missing.
            IntegrityError: It is not what its name says, or longer than `limit` bytes.
        """
        data = fsops.read_regular(self.path(digest), limit)
        if Digest.of(data) != digest:
            raise IntegrityError(f"stored blob {digest.short} has changed", path=str(self.path(digest)))
        return data

    def put(self, data: bytes) -> Digest:
        """Store a small blob durably and return its digest."""
        digest = Digest.of(data)
        path = self.path(digest)
        if not self._is_good(digest, len(data)):
            fsops.make_dir(path.parent)
            fsops.write_durable(path, data, mode=0o444)
        return digest

    def adopt(self, files: Iterable[tuple[Digest, Path]]) -> None:
        """Take over verified, synced files from the quarantine of the same file system; durable on return.

        Args:
            files: Digest and path of each; the path is renamed away.
        """
        shards = set()
        for digest, source in files:
            target = self.path(digest)
            fsops.make_dir(target.parent)
            fsops.publish(source, target, mode=0o444)
            shards.add(target.parent)
        for shard in sorted(shards):
            fsops.sync_dir(shard)

    def remove(self, digest: Digest) -> None:
        """Remove a blob durably; nothing happens when it is not there."""
        if self.holds(digest):
            fsops.remove_file(self.path(digest))

    def digests(self) -> Iterator[Digest]:
        """Yield the digest of every blob that is there, in order."""
        for shard in sorted(self._root.iterdir()):
            for path in sorted(shard.iterdir()):
                try:
                    yield Digest("sha256:" + path.name)
                except IntegrityError:
                    continue  # a temporary name of a write that did not end; fsck reports strays

    def strays(self) -> Iterator[Path]:
        """Yield every path that is no blob by its name and place."""
        for shard in sorted(self._root.iterdir()):
            for path in sorted(shard.iterdir()) if shard.is_dir() else [shard]:
                try:
                    right = self.path(Digest("sha256:" + path.name)) == path and not path.is_symlink()
                except IntegrityError:
                    right = False
                if not right:
                    yield path

    def _is_good(self, digest: Digest, size: int) -> bool:
        try:
            self.verify(digest, size)
        except (NotFoundError, IntegrityError):
            return False
        return True

    def missing(self, wanted: Iterable[tuple[Digest, int]]) -> list[Digest]:
        """Return which blobs are not held with the right bytes; what is held is hashed again."""
        return [digest for digest, size in wanted if not self._is_good(digest, size)]
