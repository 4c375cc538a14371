"""Base files at a site: held, and as they were verified, before any volume is read."""

from collections.abc import Collection, Iterator
from typing import Final

from airpack.errors import PartialError
from airpack.formats.package import Base, FileInfo, PackageManifest
from airpack.store.blobs import BlobStore
from airpack.transport.bases import Bases
from airpack.types import Digest, Reporter, Silent

_NAMED: Final = 20  # digests in one context
_SILENT: Final = Silent()


def held_bases(
    store: BlobStore, manifest: PackageManifest, *, checked: Collection[Digest] = (), reporter: Reporter = _SILENT
) -> Bases:
    """Return the base files of a package, for its frames to build on; each is hashed where it lies.

    Args:
        store: The site's store.
        manifest: The signed package manifest.
        checked: Base files that were hashed just now, so that they need not be again.
        reporter: Receives progress in bytes.

    Raises:
        PartialError: Not all of them are held as they were verified; the message names the release to import first.
        StorageError: The store cannot be read.
    """
    files = [file for file in manifest.base_files if file.digest not in checked]
    if files:
        reporter.start("check base", sum(file.size for file in files))
        try:
            missing = set(store.missing(_told(files, reporter)))
        finally:
            reporter.finish()
        for base in manifest.bases:
            if lacking := [file for file in base.files if file.digest in missing]:
                raise _lacking(manifest, base, lacking)
    return Bases([store.path(file.digest) for file in manifest.base_files])


def _told(files: list[FileInfo], reporter: Reporter) -> Iterator[tuple[Digest, int]]:
    """Yield what is to be hashed; once the next is asked for, the last was."""
    for file in files:
        yield file.digest, file.size
        reporter.advance(file.size)


def _lacking(manifest: PackageManifest, base: Base, files: list[FileInfo]) -> PartialError:
    return PartialError(
        f"{manifest.product}@{manifest.version} builds on {base.name} ({base.release}), of which this site does not "
        f"hold {len(files)} files as they were verified",
        hint=f"import {base.name} (again) first, or ask the build side for a full package: `airpack build` without "
        "--base",
        base=base.name,
        release=str(base.release),
        files=[str(file.digest) for file in files[:_NAMED]],
        bytes=sum(file.size for file in files),
    )
