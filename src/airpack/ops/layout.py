"""A release as a plain OCI image layout, which skopeo, oras and cosign read with no airpack there."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from airpack import fsops
from airpack.errors import IntegrityError, StorageError
from airpack.formats import oci
from airpack.fsops import NewFile
from airpack.types import Descriptor, Digest, Reporter, Source

LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
REF_NAME: Final = "org.opencontainers.image.ref.name"
_COSIGN_KIND: Final = {"kind": "dev.cosignproject.cosign/image"}  # what `cosign verify --local-image` looks for
_BUFFER: Final = 1 << 20  # bytes


class LayoutWriter:
    """Writes one layout.

    Args:
        root: Its folder; made when missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = root / "blobs/sha256"
        fsops.make_dir(self._blobs)

    def put(self, data: bytes) -> Digest:
        """Write a small blob."""
        digest = Digest.of(data)
        fsops.write_durable(self._blobs / digest.hex, data)
        return digest

    def add(self, sources: Iterable[Source], reporter: Reporter) -> list[Digest]:
        """Copy files in as blobs, each read once, and return their digests in order.

        Raises:
            IntegrityError: A file is not of its size or of its digest.
            StorageError: A file cannot be read, or the disk is full.
        """
        wanted = list(sources)
        reporter.start("copy", sum(source.size for source in wanted))
        try:
            return [self._copy(source, reporter) for source in wanted]
        finally:
            reporter.finish()

    def _copy(self, source: Source, reporter: Reporter) -> Digest:
        part = self._blobs / "incoming"
        hasher, size = hashlib.sha256(), 0
        with NewFile(part) as new:
            try:
                with source.open() as stream:
                    while data := stream.read(_BUFFER):
                        hasher.update(data)
                        size += len(data)
                        new.write(data)
                        reporter.advance(len(data), source.path)
            except OSError as error:
                raise StorageError(f"cannot read {source.path}: {error.strerror}", path=source.path) from error
            digest = Digest("sha256:" + hasher.hexdigest())
            if size != source.size or source.digest not in {None, digest}:
                raise IntegrityError(
                    f"{source.path} changed while it was read, or is not what its RECORD says: expected "
                    f"{source.size} bytes with {source.digest or 'any digest'}, found {size} with {digest}",
                    path=source.path,
                )
            new.commit()
        fsops.rename_durable(part, self._blobs / digest.hex)
        return digest

    def finish(self, name: str, index: Descriptor, referrers: Mapping[Digest, bytes]) -> None:
        """Write `oci-layout` and `index.json`, which makes the layout complete.

        Args:
            name: `product@version`; the tag is the version.
            index: The release's index.
            referrers: Its attestation manifests.
        """
        tag = name.partition("@")[2]
        top = Descriptor(index.media_type, index.digest, index.size, {REF_NAME: tag, **_COSIGN_KIND})
        children = [Descriptor(oci.MANIFEST, digest, len(data)) for digest, data in sorted(referrers.items())]
        fsops.write_durable(self._root / "oci-layout", LAYOUT)
        fsops.write_durable(self._root / "index.json", oci.emit_index(oci.Index((top, *children))))
