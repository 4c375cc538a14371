"""Unpack: the plain files of a package as they will lie at the site, verified, without a site: for scanning stations.

    head → admission, as `verify` → base files, for a delta → space → every volume → files, each hashed and synced
         → all of them get their names

1. Everything that `verify` checks is checked. What it refuses leaves no file.
2. Nothing has its final name before its bytes had their signed digest, and nothing at all before every byte of the
   package had: files are gathered in a folder that only this user can enter, and moved out of it at the end.
3. Files of a delta's base come from folders that the user names. They are found by their digests, and must not be
   written to while they are used.
4. The output folder is new, or empty. Names are those of the signed release (docs/spec/release.md, "File names"), modes
   0644 and 0755, and no link is made or followed.
"""

import hashlib
import os
import stat
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

import airpack
from airpack import fsops
from airpack.errors import AirpackError, InputError, IntegrityError, NotFoundError, PartialError, StorageError
from airpack.formats.package import FileInfo, PackageManifest
from airpack.formats.release import Release, ReleaseFile
from airpack.formats.volume import Frame
from airpack.fsops import PartFile
from airpack.ops.medium import say_mended
from airpack.ops.naming import ByPath
from airpack.ops.verify import admitted_document, check_compatibility, fresh_refresh, present
from airpack.policy.admission import Admitted, Steps, admit, documents
from airpack.store.blobs import hash_file
from airpack.transport import reader
from airpack.transport.bases import Bases
from airpack.transport.damage import Range
from airpack.transport.outcome import Outcome, places
from airpack.types import Check, Digest, Reporter, Silent

_STAGING: Final = ".airpack-unpack"
_SYNCING: Final = 64  # whole files that wait for their sync
_THREADS: Final = 4  # that sync
_NAMED: Final = 5  # in one message


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What was unpacked.

    Attributes:
        admitted: The release, as admitted.
        folder: Where its files lie.
        checks: Each check, in order.
        ignored: Names on the media that the package does not list.
        mended: What was not as signed, and had from elsewhere or rebuilt, by volume.
    """

    admitted: Admitted
    folder: Path
    checks: tuple[Check, ...]
    ignored: tuple[str, ...]
    mended: Mapping[str, Sequence[Range]]

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.admitted.release.files)

    def document(self) -> dict[str, Any]:
        """Return the JSON keys that scripts rely on."""
        return {
            **admitted_document(self.admitted),
            "folder": str(self.folder),
            "files": len(self.admitted.release.files),
            "bytes": self.total,
            "checks": documents(self.checks),
            "ignored": list(self.ignored),
            "mended": places(self.mended),
        }


def unpack_package(
    paths: Sequence[Path],
    out: Path,
    *,
    root: bytes,
    now: datetime,
    bases: Sequence[Path] = (),
    reporter: Reporter | None = None,
) -> Unpacked:
    """Verify the package that `paths` present together, and write the files of its release to `out`.

    Args:
        paths: Folders that hold its volumes, and head files; at least one head among them.
        out: A folder that is empty, or not there.
        root: Bytes of the root to trust.
        now: The time to judge freshness by.
        bases: Folders with plain files of the releases that a delta builds on; files are found by their digests.
        reporter: Receives progress.

    Raises:
        InputError: `out` is something else than an empty folder.
        NotFoundError: No head, or no such folder of `bases`.
        PartialError: Volumes are missing, or base files.
        StorageError: The disk is short or fails.
        BusyError: Another unpack works there.
        AirpackError: As `verify`; `document` holds the checks so far, with `ok` false.
    """
    out, steps, report = out.absolute(), Steps(), reporter or Silent()
    _check_free(out)
    release: str | None = None
    try:
        presented, data = present(paths, steps)
        admitted = admit(data, refresh=fresh_refresh(root, now), have=airpack.__version__, steps=steps)
        release = str(admitted.release.digest)
        check_compatibility(admitted.release, steps)
        held = _find_bases(admitted.manifest, bases, steps, report)
        with steps.step("space") as found:
            found(_check_space(out, admitted.release))
        with steps.step("volumes") as found:
            outcome = _unpack(admitted, presented.folders, out, held, report)
            found(f"{len(admitted.release.files)} files written, each with its signed digest")
    except AirpackError as error:
        error.document = {"ok": False, "release": release, "checks": documents(steps.checks)}
        raise
    ignored = tuple(presented.unlisted(admitted.manifest))
    return Unpacked(admitted, out, tuple(steps.checks), ignored, outcome.mended)


def _check_free(out: Path) -> None:
    """Refuse an output folder that holds anything but what a killed run left."""
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise InputError(f"{out} is no folder", hint="name a new folder", path=str(out))
    try:
        there = [path for path in out.iterdir() if not _is_staging(path)]
    except OSError as error:
        raise StorageError(f"cannot read {out}: {error.strerror}", path=str(out)) from error
    if there:
        raise InputError(
            f"{out} is not empty: it holds {there[0].name}",
            hint="name a new folder: what is unpacked must not mix with other files",
            path=str(out),
        )


def _is_staging(path: Path) -> bool:
    return path.name == _STAGING and stat.S_ISDIR(path.lstat().st_mode)


def _check_space(out: Path, release: Release) -> str:
    size = sum(file.size for file in release.files)
    largest = max((file.size for file in release.files), default=0)  # a copy is whole before its original moves
    wanted = size + largest + fsops.spare_bytes(size)
    place = next(folder for folder in (out, *out.parents) if folder.is_dir())
    free = fsops.free_bytes(place)
    if wanted > free:
        raise StorageError(
            f"not enough space: {release.name} needs {wanted} bytes in {place}, {free} are free",
            hint="name a folder on another disk",
            needed=wanted,
            free=free,
        )
    return f"{size} bytes to write, {free} are free"


# -- base files


def _find_bases(
    manifest: PackageManifest, folders: Sequence[Path], steps: Steps, reporter: Reporter
) -> dict[Digest, Path]:
    """Return where the base files of a delta lie, each hashed; nothing for a package that stands alone."""
    if not manifest.bases:
        return {}
    with steps.step("bases") as found:
        wanted = {file.digest: file.size for file in manifest.base_files}
        held = _search(folders, wanted, reporter)
        missing = sorted(wanted.keys() - held.keys())
        if missing:
            names = ", ".join(base.name for base in manifest.bases)
            raise PartialError(
                f"the package is a delta on {names}: {len(missing)} of {len(wanted)} files of that are not at hand",
                hint="give --base FOLDER with the plain files of that release (unpack its package first), or unpack a "
                "full package",
                bases=[str(base.release) for base in manifest.bases],
                missing=[str(digest) for digest in missing[:_NAMED]],
            )
        found(f"{len(held)} files of {len(manifest.bases)} releases are at hand, hashed")
    return held


def _search(folders: Sequence[Path], wanted: Mapping[Digest, int], reporter: Reporter) -> dict[Digest, Path]:
    sizes = set(wanted.values())
    candidates = [(path, size) for folder in folders for path, size in _regular(folder) if size in sizes]
    held: dict[Digest, Path] = {}
    reporter.start("bases", sum(size for _, size in candidates))
    try:
        for path, size in candidates:
            digest, length = hash_file(path)
            if wanted.get(digest) == length:
                held.setdefault(digest, path)
            reporter.advance(size, str(path))
    finally:
        reporter.finish()
    return held


def _regular(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the regular files below `folder` with their sizes; links are not followed."""
    if not folder.is_dir():
        raise NotFoundError(f"no folder {folder}", path=str(folder))

    def fail(error: OSError) -> None:
        raise StorageError(f"cannot read {error.filename}: {error.strerror}", path=str(folder)) from error

    for parent, _, names in os.walk(folder.absolute(), onerror=fail):
        for name in names:
            path = Path(parent, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield path, status.st_size


# -- writing


def _unpack(
    admitted: Admitted, folders: Sequence[Path], out: Path, held: Mapping[Digest, Path], reporter: Reporter
) -> Outcome:
    is_new = not out.exists()
    fsops.make_dir(out)
    staging = out / _STAGING
    try:
        with fsops.writing_to(out):
            fsops.remove_tree(staging)
            fsops.make_dir(staging, 0o700)
            try:
                outcome = _fill(admitted, folders, staging, held, reporter)
                _publish(staging, out)
            finally:
                fsops.remove_tree(staging)
    except BaseException:
        if is_new:
            with suppress(OSError):
                out.rmdir()
        raise
    return outcome


def _fill(
    admitted: Admitted, folders: Sequence[Path], staging: Path, held: Mapping[Digest, Path], reporter: Reporter
) -> Outcome:
    """Gather all files in `staging`, whole and durable, under their paths in its folder `tree`."""
    manifest = admitted.manifest
    wanted, by_path = {file.digest for file in manifest.files}, ByPath(reporter, admitted.release)
    with (
        reader.open_media(manifest, admitted.manifest_digest, folders) as media,
        Bases([held[file.digest] for file in manifest.base_files]) as bases,
        _Files(staging) as files,
    ):
        outcome = reader.unpack_whole(media, wanted=wanted, sink=files, bases=bases.read, reporter=by_path)
        bases.check()
        say_mended(media, reporter)
    tree = staging / "tree"
    _make_folders(tree, [file.path for file in admitted.release.files])
    alike: defaultdict[Digest, list[ReleaseFile]] = defaultdict(list)
    for file in admitted.release.files:
        alike[file.digest].append(file)
    for digest, (first, *more) in alike.items():
        origin = held.get(digest)
        if origin is not None:
            _copy(origin, staging, tree, first)
        else:
            fsops.publish(staging / digest.hex, tree / first.path, mode=_mode(first))
        for file in more:
            _copy(tree / first.path, staging, tree, file)
    return outcome


class _Files:
    """The sink: files under their digests, each synced in a thread of its own once it is whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: dict[Digest, PartFile] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="sync")
        self._syncing: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._syncing and kind is None:
                self._syncing.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
            for part in self._parts.values():
                part.close()

    def write(self, file: FileInfo, at: int, data: memoryview) -> None:
        """Write bytes of a file at their place."""
        self._part(file).write_at(data, at)

    def settle(self, position: int, frame: Frame) -> None:
        """Keep no account of frames: what is cut short is begun anew."""

    def hash(self, file: FileInfo) -> Digest:
        """Hash a file as it lies here: its bytes did not come in order."""
        return hash_file(self._part(file).part)[0]

    def commit(self, file: FileInfo) -> None:
        """Take a whole file."""
        part = self._part(file)
        del self._parts[file.digest]
        self._syncing.append(self._pool.submit(_seal, part))
        if len(self._syncing) > _SYNCING:
            self._syncing.popleft().result()

    def _part(self, file: FileInfo) -> PartFile:
        if file.digest not in self._parts:
            self._parts[file.digest] = PartFile(self._folder / file.digest.hex, file.size)
        return self._parts[file.digest]


def _seal(part: PartFile) -> None:
    try:
        part.seal(0o644)
        part.publish()
    finally:
        part.close()


def _copy(source: Path, staging: Path, tree: Path, file: ReleaseFile) -> None:
    """Copy a file that is whole to another of its paths; the bytes that are written are the bytes that are hashed."""
    part, found, at = PartFile(staging / f"copy-{file.digest.hex}", file.size), hashlib.sha256(), 0
    try:
        for block in fsops.read_blocks(source):
            found.update(block)
            part.write_at(block, at)
            at += len(block)
        if Digest.from_raw(found.digest()) != file.digest:
            raise IntegrityError(f"{source} was changed while it was copied", path=str(source))
        part.seal(_mode(file))
        part.publish()
    finally:
        part.close()
    fsops.publish(part.path, tree / file.path, mode=_mode(file))


def _mode(file: ReleaseFile) -> int:
    return 0o755 if file.executable else 0o644


def _make_folders(tree: Path, paths: Iterable[str]) -> None:
    """Make the folders of all `paths` below `tree`."""
    fsops.make_dir(tree)
    children: defaultdict[PurePosixPath, set[str]] = defaultdict(set)
    for path in paths:
        for folder in PurePosixPath(path).parents[:-1]:
            children[folder.parent].add(folder.name)
    for folder in sorted(children):  # a folder before what lies in it
        fsops.make_dirs(tree / folder, sorted(children[folder]))


def _publish(staging: Path, out: Path) -> None:
    """Make the tree's names durable, and give it its place."""
    tree = staging / "tree"
    for parent, _, _ in os.walk(tree):
        fsops.sync_dir(Path(parent))
    for entry in sorted(tree.iterdir()):
        fsops.rename_durable(entry, out / entry.name)
