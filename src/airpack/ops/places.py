"""Where the large bytes of releases lie, so that later ones can be built on them (docs/spec/workspace.md section 2).

The workspace keeps no copies unless it is told to (`airpack build --keep`). So what is remembered is a hint: bytes are
hashed where they lie each time before they are used, and whoever moved or changed them is told what to do.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from airpack import fsops
from airpack.errors import IntegrityError, StorageError
from airpack.formats import canonical
from airpack.formats.fields import Fields
from airpack.formats.package import FileInfo
from airpack.types import Digest, Limits, Reporter, Source

SCHEMA: Final = "airpack.places/1"
LEAST: Final = 64 << 10  # bytes of a file that is built on, where it is none of a model
_DOCUMENT: Final = 32 << 20  # bytes
_MOST: Final = 60_000  # files, the largest first: as many values as strict JSON may hold
_PATH: Final = 4096  # bytes
_PIECE: Final = 1 << 20  # bytes read at once


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of one file lie.

    Attributes:
        path: A file on this machine.
        member: For a file in a wheel, its path at the site below the runtime's folder; empty for the file itself.
    """

    path: Path
    member: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """One file of a release and where its bytes lay when it was built."""

    file: FileInfo
    place: Place


@dataclass(frozen=True, slots=True)
class Places:
    """Where the large files of one release lie.

    Law: `parse(places.emit(root), root) == places`, where paths are absolute and hold no `..`.

    Attributes:
        release: Digest of the release.
        files: The files, by digest ascending, each once.
    """

    release: Digest
    files: tuple[Placed, ...]

    @classmethod
    def of(cls, release: Digest, found: Iterable[Placed]) -> Self:
        """Return the places among `found` that can be remembered: those whose path is text."""
        unique = {each.file.digest: each for each in found if _is_text(each.place.path)}
        largest = sorted(unique.values(), key=lambda each: (-each.file.size, each.file.digest))[:_MOST]
        return cls(release, tuple(sorted(largest, key=lambda each: each.file.digest)))

    def emit(self, root: Path) -> bytes:
        """Return the canonical bytes; paths below the folder `root` are relative to it, so that it can be moved."""
        return canonical.emit(
            {
                "schema": SCHEMA,
                "release": str(self.release),
                "files": [
                    {
                        "digest": str(each.file.digest),
                        "size": each.file.size,
                        "path": _relative(each.place.path, root),
                        **({"member": each.place.member} if each.place.member else {}),
                    }
                    for each in self.files
                ],
            }
        )

    @classmethod
    def parse(cls, data: bytes, root: Path) -> Self:
        """Read what `emit` wrote.

        Raises:
            IntegrityError: It is not such a document.
        """
        what = "places of a release"
        fields = Fields(canonical.parse_canonical(data, what=what, limit=_DOCUMENT), what=what)
        fields.schema(SCHEMA)
        places = cls(fields.digest("release"), tuple(_parse(each, root) for each in fields.tables("files", most=_MOST)))
        fields.done()
        digests = [each.file.digest for each in places.files]
        if digests != sorted(set(digests)):
            raise fields.fail("'files' must name each digest once, in ascending order")
        return places


def _is_text(path: Path) -> bool:
    try:
        return len(str(path).encode()) <= _PATH
    except UnicodeEncodeError:
        return False


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _parse(fields: Fields, root: Path) -> Placed:
    file = FileInfo(fields.digest("digest"), fields.integer("size", high=Limits.FILE))
    path = fields.text("path")
    place = Place(root / path, fields.text("member", ""))
    fields.done()
    if not path or "\0" in path or ".." in place.path.parts:
        raise fields.fail(f"'path' is no path: {path[:80]!r}")
    return Placed(file, place)


class PlacesFolder:
    """What a workspace remembers of places, and the copies that it keeps.

    Args:
        root: The workspace's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "registry/places"
        self._blobs = root / "registry/blobs/sha256"

    def remember(self, places: Places) -> None:
        """Keep `places`, durably, instead of what is known of that release."""
        fsops.make_dir(self._folder)
        fsops.write_durable(self._path(places.release), places.emit(self._root))

    def recall(self, release: Digest) -> Mapping[Digest, Placed]:
        """Return where the large files of `release` lie, by digest; kept copies instead of what they were copied from.

        Raises:
            NotFoundError: Nothing is known of it.
            IntegrityError: What is known of it cannot be read.
        """
        places = Places.parse(fsops.read_regular(self._path(release), _DOCUMENT), self._root)
        if places.release != release:
            raise IntegrityError(f"{self._path(release)} is about {places.release}")
        return {each.file.digest: self._best(each) for each in places.files}

    def _best(self, placed: Placed) -> Placed:
        kept = self._kept(placed.file.digest)
        return Placed(placed.file, Place(kept)) if kept.is_file() else placed

    def keep(self, sources: Iterable[tuple[Source, Digest]], reporter: Reporter) -> None:
        """Copy files into the workspace, durably; those that it has already are left alone.

        Args:
            sources: The files, and the digest that each has.
            reporter: Receives progress.

        Raises:
            IntegrityError: A file was changed since it was packed.
            StorageError: It cannot be read, or the disk is full.
        """
        wanted = {digest: source for source, digest in sources if not self._kept(digest).is_file()}
        reporter.start("keep", sum(source.size for source in wanted.values()))
        try:
            for digest, source in wanted.items():
                self._copy(source, digest, reporter)
        finally:
            reporter.finish()

    def _copy(self, source: Source, digest: Digest, reporter: Reporter) -> None:
        hashed = hashlib.sha256()
        with fsops.NewFile(self._kept(digest)) as new:
            try:
                with source.open() as stream:
                    while piece := stream.read(_PIECE):
                        hashed.update(piece)
                        new.write(piece)
                        reporter.advance(len(piece), source.path)
            except OSError as error:
                raise StorageError(f"cannot read {source.path}: {error.strerror or error}") from error
            if hashed.digest() != digest.raw:
                raise IntegrityError(
                    f"{source.path} was changed after it was packed, so no copy of it is kept",
                    hint="leave the files alone while they are packed, and run the same command again",
                    path=source.path,
                )
            new.commit()

    def _kept(self, digest: Digest) -> Path:
        return self._blobs / digest.hex

    def _path(self, release: Digest) -> Path:
        return self._folder / f"{release.hex}.json"
