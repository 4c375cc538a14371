"""From volumes to the quarantine of a site: whole, hashed and synced files under their digests, nothing else.

    DIGEST.part     a file that is coming: written at offsets, whatever the order
    journal         which frames are in them (ADR 16)
    DIGEST          a whole file, hashed and synced

Several runs fill it, one medium after the other, killed or not: what one has verified, the next does not read again.
What is durable is brought to the disk while the rest is read, so that little is left to wait for at the end.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from airpack import fsops
from airpack.formats.package import FileInfo, PackageManifest
from airpack.formats.volume import Frame
from airpack.ops.journal import NAME, Journal, merge, read_progress, touches
from airpack.ops.site import Site
from airpack.store.blobs import hash_file
from airpack.transport.outcome import Outcome
from airpack.transport.progress import Progress
from airpack.transport.reader import Bases, unpack
from airpack.transport.volumes import Media
from airpack.types import Digest, Reporter

_CHECKPOINT: Final = 64 << 20  # bytes written between two of them
_FINISHED: Final = 256  # whole files that wait for one
_OPEN: Final = 64  # files that are coming, kept open
_SEALS: Final = 8  # files that are synced side by side


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came into a quarantine.

    Attributes:
        folder: The quarantine.
        files: The wanted files that are whole there.
        outcome: What the media lacked.
    """

    folder: Path
    files: frozenset[Digest]
    outcome: Outcome


def quarantine_of(site: Site, manifest_digest: Digest) -> Path:
    """Return the quarantine folder of a package: the same for each try, so that a later one goes on."""
    return site.root / "ingest" / manifest_digest.hex[:32]


def size_of(folder: Path) -> int:
    """Return the bytes on disk of the files in `folder`, 0 where there is none."""
    return sum(path.lstat().st_blocks * 512 for path in folder.iterdir()) if folder.is_dir() else 0


def kept_bytes(site: Site, manifest: PackageManifest, manifest_digest: Digest, wanted: set[Digest]) -> int:
    """Return how many bytes of the wanted files earlier runs left in the quarantine, as far as their journal tells."""
    covered = merge(list(read_progress(quarantine_of(site, manifest_digest), manifest, manifest_digest).spans()))
    spans = _spans(manifest, wanted).values()
    return sum(max(0, min(stop, last) - max(start, first)) for first, last in spans for start, stop in covered)


def fetch(
    site: Site,
    media: Media,
    manifest_digest: Digest,
    *,
    wanted: set[Digest],
    bases: Bases | None = None,
    reporter: Reporter,
) -> Fetched:
    """Bring the wanted files of a package into its quarantine, as far as the media have them.

    What an earlier run left is kept: whole files are hashed, and verified frames are not read again.

    Args:
        site: The site.
        media: The package's volumes, surveyed.
        manifest_digest: Digest of the manifest's signed bytes.
        wanted: Digests of files of the package.
        bases: Gives bytes of base files.
        reporter: Receives progress.

    Raises:
        IntegrityError: Something is signed, but wrong.
        StorageError: The disk is full or fails.
    """
    folder = quarantine_of(site, manifest_digest)
    fsops.make_dir(folder, 0o700)
    with _Quarantine(folder, media.manifest, manifest_digest, wanted) as quarantine:
        while True:
            outcome = unpack(
                media,
                wanted=wanted - quarantine.whole,
                sink=quarantine,
                progress=quarantine.progress,
                bases=bases,
                reporter=reporter,
            )
            quarantine.flush()
            if not outcome.dropped:
                return Fetched(folder, frozenset(quarantine.whole), outcome)
            # A power cut, or a disk that was pulled, took bytes that the journal had: they are read once more.
            quarantine.drop(outcome.dropped)


class _Quarantine:
    """The sink that fills a quarantine.

    Attributes:
        whole: Files that are whole and hashed; after `flush` they are durable under their names.
    """

    def __init__(self, folder: Path, manifest: PackageManifest, package: Digest, wanted: set[Digest]) -> None:
        self._folder = folder
        self._spans = _spans(manifest, wanted)
        self._parts: dict[Digest, fsops.PartFile] = {}
        self._finished: list[fsops.PartFile] = []
        self._unsynced = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._seals = ThreadPoolExecutor(_SEALS, thread_name_prefix="seal")
        self._syncing: Future[None] | None = None
        self.whole = self._sift({file.digest: file.size for file in manifest.files if file.digest in wanted})
        self._journal = Journal(folder, manifest, package)
        self._forget_lost()

    @property
    def progress(self) -> Progress:
        """The frames that need not be read again."""
        return self._journal.progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._seals.shutdown(cancel_futures=True)
        for part in (*self._parts.values(), *self._finished):
            part.close()
        self._journal.close()

    # -- what an earlier run left

    def _sift(self, sizes: Mapping[Digest, int]) -> set[Digest]:
        """Return the files that are whole, hashed again; what is neither wanted nor ours is dropped."""
        names = {digest.hex: digest for digest in sizes}
        whole = set()
        for path in self._folder.iterdir():
            digest = names.get(path.name)
            if digest is not None and hash_file(path) == (digest, sizes[digest]):
                whole.add(digest)
            elif digest is not None or (path.name != NAME and path.name.removesuffix(fsops.PART) not in names):
                fsops.remove_file(path)
        return whole

    def _forget_lost(self) -> None:
        """Let go of frames of files that are not there: they were not wanted then, or somebody removed them."""
        covered = merge(list(self.progress.spans()))
        lost = [
            digest
            for digest, (start, stop) in self._spans.items()
            if digest not in self.whole and touches(covered, start, stop) and not self._part(digest).exists()
        ]
        if lost:
            self.drop(lost)

    def drop(self, digests: Iterable[Digest]) -> None:
        """Drop files and all frames that touch them: they are to be read again."""
        dropped = set(digests)
        for digest in dropped:
            if digest in self._parts:
                self._parts.pop(digest).close()
            fsops.remove_file(self._part(digest))
        self._journal.forget([self._spans[digest] for digest in dropped])

    def _part(self, digest: Digest) -> Path:
        return self._folder / (digest.hex + fsops.PART)

    # -- what comes now

    def write(self, file: FileInfo, at: int, data: memoryview) -> None:
        """Write bytes of a file at their place."""
        self._open(file).write_at(data, at)
        self._unsynced += len(data)

    def settle(self, position: int, frame: Frame) -> None:
        """Note a frame in the journal."""
        self._journal.add(position, frame)
        self._relieve()

    def hash(self, file: FileInfo) -> Digest:
        """Hash a file as it lies here."""
        return hash_file(self._part(file.digest))[0]

    def commit(self, file: FileInfo) -> None:
        """Take a whole file; it has its name once it is synced."""
        self._open(file)
        self._finished.append(self._parts.pop(file.digest))
        self.whole.add(file.digest)
        self._relieve()

    def flush(self) -> None:
        """Make all that came durable, and give whole files their names."""
        self._wait()
        self._checkpoint()()
        fsops.sync_dir(self._folder)

    def _open(self, file: FileInfo) -> fsops.PartFile:
        part = self._parts.get(file.digest)
        if part is None:
            part = self._parts[file.digest] = fsops.PartFile(self._folder / file.digest.hex, file.size)
        return part

    def _relieve(self) -> None:
        """Let a thread sync what was written, once there is enough of it; wait where the disk does not keep up."""
        if self._unsynced < _CHECKPOINT and len(self._finished) < _FINISHED and len(self._parts) <= _OPEN:
            return
        self._wait()
        self._syncing = self._pool.submit(self._checkpoint())
        if len(self._parts) > _OPEN:  # they are opened again when more of them comes
            self._wait()
            for part in self._parts.values():
                part.close()
            self._parts.clear()

    def _checkpoint(self) -> Callable[[], None]:
        """Return what syncs all that was written up to now, in whichever thread, and notes it."""
        finished, self._finished = self._finished, []
        coming, records = tuple(self._parts.values()), self._journal.count
        self._unsynced = 0

        def run() -> None:
            # Side by side: the file system then makes many of them durable in one turn of the disk.
            for sealed in [self._seals.submit(part.seal, 0o444) for part in finished]:
                sealed.result()
            for part in coming:
                part.sync()
            fsops.sync_dir(self._folder)
            self._journal.mark(records)
            for part in finished:
                part.publish()

        return run

    def _wait(self) -> None:
        """Wait for the sync that is under way, and raise what it failed with."""
        syncing, self._syncing = self._syncing, None
        if syncing is not None:
            syncing.result()


def _spans(manifest: PackageManifest, wanted: set[Digest]) -> dict[Digest, tuple[int, int]]:
    """Return start and stop of each wanted file in the stream."""
    spans, start = {}, 0
    for file in manifest.files:
        if file.digest in wanted:
            spans[file.digest] = start, start + file.size
        start += file.size
    return spans
