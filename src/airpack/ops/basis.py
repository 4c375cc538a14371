"""Releases that a package builds on, as the workspace has them: their documents, and their bytes where they lie."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from airpack import fsops
from airpack.errors import AirpackError, InputError, IntegrityError, NotFoundError
from airpack.facts.tensors import FORMATS
from airpack.facts.wheel import Wheel, read_wheel
from airpack.formats.names import Ref, parse_ref
from airpack.formats.package import BASES, FileInfo
from airpack.formats.packspec import SITE
from airpack.formats.release import Release, ReleaseFile, read_release
from airpack.ops.acknowledge import open_site
from airpack.ops.inputs import Inputs, bounded
from airpack.ops.places import Place, Placed
from airpack.ops.workspace import Built, Workspace
from airpack.transport.delta import BRING_BACK, Library, New, Old, OldRelease, scan
from airpack.types import Digest, Reporter, Source, Tensor

_PIECE: Final = 1 << 20  # bytes


def find_bases(workspace: Workspace, names: Sequence[str], *, product: str, version: str) -> list[Built]:
    """Return the releases that `names` mean, each once.

    Args:
        workspace: Where they were built.
        names: REFs, or `site:NAME` for the release of the product that a site has acknowledged last and still holds.
        product: The product to be built.
        version: The version to be built.

    Raises:
        InputError: A name is none, or means the release that is to be built, or there are too many.
        NotFoundError: No such release was built here, or a site holds none.
    """
    found: dict[Digest, Built] = {}
    for name in names:
        built = _find(workspace, name, product, version)
        if (built.product, built.version) == (product, version):
            raise InputError(f"{built.name} is what is to be built; it cannot be its own base")
        found.setdefault(built.release, built)
    if len(found) > BASES:
        raise InputError(f"{len(found)} bases; a package builds on at most {BASES}")
    return list(found.values())


def _find(workspace: Workspace, name: str, product: str, version: str) -> Built:
    releases = workspace.releases()
    if name.startswith(SITE):
        wanted: Ref | Digest = _acknowledged(workspace, name.removeprefix(SITE), product)
    else:
        wanted = parse_ref(name)
    for built in reversed(releases):  # the newest of a product comes last
        if isinstance(wanted, Digest):
            is_meant = built.release == wanted
        elif wanted.version is None:
            is_meant = built.product == wanted.product and (built.product, built.version) != (product, version)
        else:
            is_meant = (built.product, built.version) == (wanted.product, wanted.version)
        if is_meant:
            return built
    raise NotFoundError(
        f"{name}: {wanted} was not built in this workspace", hint="airpack releases lists what was", base=name
    )


def _acknowledged(workspace: Workspace, site: str, product: str) -> Digest:
    holding = open_site(workspace, site).newest(product)
    if holding is None:
        raise NotFoundError(
            f"site {site} has not acknowledged any release of {product} that it still holds",
            hint="airpack receipt add EXPORT, with a newer evidence export of that site; or build without --base",
            site=site,
        )
    return holding.release


@contextmanager
def compare(
    workspace: Workspace, builts: Sequence[Built], inputs: Inputs, reporter: Reporter
) -> Iterator[tuple[list[New], Library]]:
    """Hold what is to be packed against what bases have; what of their bytes may be needed is hashed where it lies.

    Args:
        workspace: Where the bases were built.
        builts: The bases.
        inputs: What is to be packed.
        reporter: Receives progress.

    Raises:
        NotFoundError: Documents or bytes of a base are not there any more.
        IntegrityError: They have changed.
        StorageError: Disk.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="base-", dir=workspace.root / ".airpack"))
        bases = [_Basis(workspace, built, Path(folder), stack) for built in builts]
        sizes = {file.size for basis in bases for file in basis.release.files}
        news = scan(inputs.sources, inputs.paths, sizes, reporter)
        places = zip(news, inputs.places, strict=True)
        same = {new.marks.digest: new for new, place in places if new.marks is not None and not place.member}
        has_tensors = any(new.source.tensors for new in news)
        library = Library([basis.old_release(same, has_tensors=has_tensors) for basis in bases], news, reporter)
        stack.callback(library.close)
        yield news, library


class _Basis:
    """One base: its documents, and how its bytes are reached."""

    def __init__(self, workspace: Workspace, built: Built, folder: Path, stack: ExitStack) -> None:
        self._built, self._folder, self._stack = built, folder, stack
        self.release: Release = read_release(workspace.blob(built.release), workspace.blob)
        try:
            self._placed: Mapping[Digest, Placed] = workspace.places.recall(built.release)
        except NotFoundError:  # it was built by an airpack that did not remember
            self._placed = {}
        self._wheels: dict[Path, Wheel] = {}

    def old_release(self, same: Mapping[Digest, New], *, has_tensors: bool) -> OldRelease:
        """Return the release for comparing.

        Args:
            same: New files by digest, but those in wheels: bytes of the base that are there as new ones are read there.
            has_tensors: Whether there are new tensors, so that those of the base are asked for.
        """
        tensors = self._tensors(same) if has_tensors else {}
        paths: dict[Digest, list[str]] = {}
        for file in self.release.files:
            paths.setdefault(file.digest, []).append(file.path)
        files = []
        for file in {file.digest: file for file in self.release.files}.values():
            new = same.get(file.digest)
            files.append(
                Old(
                    tuple(paths[file.digest]),
                    FileInfo(file.digest, file.size),
                    partial(_descriptor, new.source) if new else partial(self._open, file),
                    new.source.tensors if new else tensors.get(file.path, ()),
                    new.marks if new else None,
                )
            )
        return OldRelease(self.release.digest, self.release.product, self.release.version, tuple(files))

    def _tensors(self, same: Mapping[Digest, New]) -> dict[str, tuple[Tensor, ...]]:
        """Return where tensors lie in the files of models, by path; only files that say so themselves are opened."""
        formats = {file.path: file.format for file in self.release.compat.files}
        found: dict[str, tuple[Tensor, ...]] = {}
        for model in self.release.models:
            prefix = f"model/{model.name}/"
            files = [file for file in self.release.files if file.path.startswith(prefix)]
            sources = tuple(self._source(file, file.path.removeprefix(prefix), same) for file in files)
            names = tuple(formats[file.path] if formats[file.path] in FORMATS else "" for file in files)
            for file, source in zip(files, bounded(sources, names), strict=True):
                found[file.path] = source.tensors
        return found

    def _source(self, file: ReleaseFile, path: str, same: Mapping[Digest, New]) -> Source:
        new = same.get(file.digest)
        return Source(path, file.size, new.source.open if new else partial(self._stream, file))

    def _stream(self, file: ReleaseFile) -> BinaryIO:
        return os.fdopen(self._open(file), "rb", buffering=0)

    def _open(self, file: ReleaseFile) -> int:
        """Return a descriptor of a file of the base, where it lies; nothing is said of its bytes yet."""
        placed = self._placed.get(file.digest)
        if placed is None:
            raise NotFoundError(
                f"{file.path} of {self._built.name}: this workspace does not know where its bytes lie", hint=BRING_BACK
            )
        try:
            return fsops.open_regular(self._extracted(placed) if placed.place.member else placed.place.path)
        except (NotFoundError, InputError, IntegrityError) as error:
            raise self._gone(file, placed.place, error) from error

    def _gone(self, file: ReleaseFile, place: Place, error: AirpackError) -> AirpackError:
        kind = NotFoundError if isinstance(error, NotFoundError | InputError) else IntegrityError
        return kind(
            f"{file.path} of {self._built.name} is not where its bytes lay when it was built: {error.message}",
            hint=BRING_BACK,
            path=str(place.path),
            base=self._built.name,
        )

    def _extracted(self, placed: Placed) -> Path:
        """Return a copy of a file in a wheel, which is taken out once."""
        target = self._folder / placed.file.digest.hex
        if not target.exists():
            with self._member(placed.place) as stream, target.open("xb") as out:
                while piece := stream.read(_PIECE):
                    out.write(piece)
        return target

    def _member(self, place: Place) -> BinaryIO:
        wheel = self._wheels.get(place.path)
        if wheel is None:
            wheel = self._wheels[place.path] = self._stack.enter_context(read_wheel(place.path))
        for source in wheel.sources:
            if source.path == place.member:
                return source.open()
        raise NotFoundError(f"there is no {place.member} in {place.path}")


def _descriptor(source: Source) -> int:
    """Return a descriptor of a new file, for reading at any offset."""
    with source.open() as stream:
        return os.dup(stream.fileno())
