"""Blobs under the digest of their raw bytes: `blobs/sha256/ab/<64 hex digits>`, mode 0444.

A name appears here only after its bytes were hashed and made durable; a blob that is already there is hashed before it
is relied on, and its name made durable: an import that was killed may have left it otherwise. Nothing is ever written
in place.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from airpack import fsops
from airpack.errors import IntegrityError, NotFoundError, StorageError
from airpack.types import Digest

_BUFFER = 1 << 20  # bytes
_AGAIN = "`airpack fsck` names all that is damaged; importing the package again replaces it"


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
        fsops.make_dirs(self._root, (f"{first:02x}" for first in range(256)))  # one sync now, none at each import

    def path(self, digest: Digest) -> Path:
        """Return where the blob lies or would lie."""
        return self._root / digest.hex[:2] / digest.hex

    def verify(self, digest: Digest, size: int) -> None:
        """Hash the stored blob again.

        Raises:
            IntegrityError: It is missing, or its bytes or its size are not those of its name.
            StorageError: It cannot be read.
        """
        path = self.path(digest)
        try:
            found, length = hash_file(path)
        except NotFoundError as error:
            raise _missing(digest, path) from error
        if found != digest or length != size:
            raise IntegrityError(
                f"stored blob {digest.short} has changed: expected {size} bytes with {digest}, "
                f"found {length} bytes with {found}",
                hint=_AGAIN,
                path=str(path),
            )

    def read(self, digest: Digest, limit: int) -> bytes:
        """Return the bytes of a small blob, hashed before they are handed out.

        Raises:
            IntegrityError: It is missing, not what its name says, or longer than `limit` bytes.
            StorageError: It cannot be read.
        """
        path = self.path(digest)
        try:
            data = fsops.read_regular(path, limit)
        except NotFoundError as error:
            raise _missing(digest, path) from error
        found = Digest.of(data)
        if found != digest:
            raise IntegrityError(
                f"stored blob {digest.short} has changed: expected {digest}, found {found}", hint=_AGAIN, path=str(path)
            )
        return data

    def put(self, data: bytes) -> Digest:
        """Store a small blob durably and return its digest."""
        digest = Digest.of(data)
        path = self.path(digest)
        if not self._is_good(digest, len(data)):
            fsops.make_dir(path.parent)
            fsops.write_durable(path, data, mode=0o444)
        self._settle({path.parent})
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
        self._settle(shards)

    def remove(self, digest: Digest) -> None:
        """Remove a blob durably; nothing happens when it is not there."""
        fsops.remove_file(self.path(digest))

    def digests(self) -> Iterator[Digest]:
        """Yield the digest of every blob that is there, in order.

        Raises:
            StorageError: The store cannot be read.
        """
        return (digest for _, digest in self._entries() if digest is not None)

    def strays(self) -> Iterator[Path]:
        """Yield every path that is no blob by its name, place and kind; what the next command clears away is none.

        Raises:
            StorageError: The store cannot be read.
        """
        return (path for path, digest in self._entries() if digest is None and not fsops.is_temporary(path))

    def clear_temporary(self) -> None:
        """Remove what a killed process left half-written; the caller holds the lock of the site."""
        for shard in _listed(self._root):
            fsops.clear_temporary(shard)

    def _entries(self) -> Iterator[tuple[Path, Digest | None]]:
        """Yield every path of the store with the digest that it stands for, None for a stray."""
        for shard in _listed(self._root):
            for path in _listed(shard) if shard.is_dir() and not shard.is_symlink() else [shard]:
                try:
                    digest = Digest("sha256:" + path.name)
                except IntegrityError:
                    yield path, None
                    continue
                right = path == self.path(digest) and path.is_file() and not path.is_symlink()
                yield path, digest if right else None

    def _settle(self, shards: Iterable[Path]) -> None:
        """Make the names in `shards`, and theirs, durable, whoever made them."""
        for shard in sorted(shards):
            fsops.sync_dir(shard)
        fsops.sync_dir(self._root)

    def _is_good(self, digest: Digest, size: int) -> bool:
        try:
            self.verify(digest, size)
        except IntegrityError:
            return False
        return True

    def missing(self, wanted: Iterable[tuple[Digest, int]]) -> list[Digest]:
        """Return which blobs are not held with the right bytes; what is held is hashed again and durable on return."""
        missing, shards = [], set()
        for digest, size in wanted:
            if self._is_good(digest, size):
                shards.add(self.path(digest).parent)
            else:
                missing.append(digest)
        self._settle(shards)
        return missing


def _missing(digest: Digest, path: Path) -> IntegrityError:
    return IntegrityError(f"stored blob {digest.short} is missing: {digest}", hint=_AGAIN, path=str(path))


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror}", path=str(folder)) from error
