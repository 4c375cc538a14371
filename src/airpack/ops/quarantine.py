"""From volumes to the quarantine of a site: whole, hashed and synced files under their digests, nothing else."""

from collections.abc import Mapping
from pathlib import Path

from airpack import fsops
from airpack.formats.package import FileInfo, PackageManifest
from airpack.fsops import NewFile
from airpack.ops.site import Site
from airpack.store.blobs import hash_file
from airpack.transport import reader
from airpack.types import Digest, Reporter


def quarantine_of(site: Site, manifest_digest: Digest) -> Path:
    """Return the quarantine folder of a package: the same for each try, so that a later one goes on."""
    return site.root / "ingest" / manifest_digest.hex[:32]


def fetch(
    site: Site,
    manifest: PackageManifest,
    manifest_digest: Digest,
    medium: Path,
    *,
    wanted: set[Digest],
    reporter: Reporter,
) -> Path:
    """Bring the wanted files of a package into its quarantine and return that folder.

    What an earlier, interrupted try left whole is hashed and kept; the rest is read from the medium.

    Args:
        site: The site.
        manifest: The signed package manifest.
        manifest_digest: Digest of its signed bytes.
        medium: Folder of the volumes.
        wanted: Digests of files of the package.
        reporter: Receives progress.

    Raises:
        IntegrityError: Anything in a volume is not what was signed.
        PartialError: Volumes are missing.
        StorageError: Medium or disk.
    """
    quarantine = quarantine_of(site, manifest_digest)
    fsops.make_dir(quarantine, 0o700)
    there = _verified(quarantine, wanted, {file.digest: file.size for file in manifest.files})
    reader.unpack(
        manifest, manifest_digest, medium, wanted=wanted - there, sink=_Quarantine(quarantine), reporter=reporter
    )
    fsops.sync_dir(quarantine)
    return quarantine


def size_of(folder: Path) -> int:
    """Return the bytes of the files in `folder`, 0 where there is none."""
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0


def _verified(quarantine: Path, wanted: set[Digest], sizes: Mapping[Digest, int]) -> set[Digest]:
    """Return what an earlier, interrupted import left whole; it is hashed again, and all else is dropped."""
    names = {digest.hex: digest for digest in wanted}
    there = set()
    for path in quarantine.iterdir():
        digest = names.get(path.name)
        if digest is not None and hash_file(path) == (digest, sizes[digest]):
            there.add(digest)
        else:
            fsops.remove_file(path)
    return there


class _Quarantine:
    """Writes files under their digest into the quarantine; each is synced before it has its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, file: FileInfo) -> "_QuarantineFile":
        """Start one file."""
        return _QuarantineFile(self._folder / file.digest.hex, file.size)


class _QuarantineFile:
    """One file of the quarantine."""

    def __init__(self, path: Path, size: int) -> None:
        self._file = NewFile(path, mode=0o444)
        self._file.reserve(size)

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        self._file.write(data)

    def commit(self) -> None:
        """Keep the file: its digest was right."""
        self._file.commit(sync_folder=False)

    def abort(self) -> None:
        """Drop the file."""
        self._file.discard()
