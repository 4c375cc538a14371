"""Files of releases that sites hold already, hashed where they lie before anything is made of them."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from airpack.errors import IntegrityError
from airpack.formats.package import FileInfo
from airpack.transport.bases import Bases
from airpack.transport.marks import BLOCK, LEAST, Marks, New, length, mark
from airpack.types import Digest, Reporter, Tensor

BRING_BACK: Final = (
    "bring its bytes back where they lay, or build without --base; `airpack build --keep` keeps copies from then on"
)
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class Old:
    """A file of a base.

    Attributes:
        paths: Its paths in a generation; a release may have the same bytes several times.
        file: Its digest and size.
        open: Opens it and returns a descriptor; raises an error of airpack where it is gone. None for a file that no
            frame can build on.
        tensors: Where tensors lie in it.
        marks: What its bytes are known by, where they were hashed just now.
    """

    paths: tuple[str, ...]
    file: FileInfo
    open: Callable[[], int] | None = None
    tensors: tuple[Tensor, ...] = ()
    marks: Marks | None = None


@dataclass(frozen=True, slots=True)
class OldRelease:
    """A release that sites hold: its digest, its product and version, and its files, each digest once."""

    release: Digest
    product: str
    version: str
    files: tuple[Old, ...]

    @property
    def name(self) -> str:
        """`product@version`."""
        return f"{self.product}@{self.version}"


class Library:
    """Old files that frames may build on, each hashed before anything is made of it.

    Args:
        releases: The bases, the most likely one first.
        news: The files of the new release.
        reporter: Receives progress in bytes.

    Raises:
        AirpackError: A file that is needed is gone (what its `open` raises), or has changed: `IntegrityError`.
    """

    def __init__(self, releases: Sequence[OldRelease], news: Sequence[New], reporter: Reporter) -> None:
        self.releases = releases
        held = digests_of(releases)
        others = [new for new in news if new.marks is None or new.marks.digest not in held]
        self.files = _needed(releases, others, {new.marks.digest for new in news if new.marks is not None})
        self.bases = Bases([old.open for old in self.files if old.open is not None])
        self.numbers = {old.file.digest: number for number, old in enumerate(self.files, 1)}
        lengths = {length(tensor) for new in others for tensor in new.source.tensors if length(tensor) >= LEAST}
        self.marks: dict[int, Marks] = {}
        self._hash(lengths, reporter)

    def close(self) -> None:
        """Close what is open."""
        self.bases.close()

    def _hash(self, lengths: Collection[int], reporter: Reporter) -> None:
        reporter.start("check base", sum(old.file.size for old in self.files if old.marks is None))
        try:
            for number, old in enumerate(self.files, 1):
                self.marks[number] = old.marks or self._hashed(number, old, lengths, reporter)
        finally:
            reporter.finish()

    def _hashed(self, number: int, old: Old, lengths: Collection[int], reporter: Reporter) -> Marks:
        wanted = [place for place, tensor in enumerate(old.tensors) if length(tensor) in lengths]
        marks = mark(self._blocks(number, old, reporter), old.tensors, wanted)
        if marks.digest != old.file.digest:
            raise _changed(old, f"expected {old.file.digest}, found {marks.digest}")
        return marks

    def _blocks(self, number: int, old: Old, reporter: Reporter) -> Iterator[bytearray]:
        for start in range(0, old.file.size, BLOCK):
            try:
                block = self.bases.read(number, start, min(BLOCK, old.file.size - start))
            except IntegrityError as error:
                raise _changed(old, error.message) from error
            yield block
            reporter.advance(len(block), old.paths[0])


def digests_of(releases: Iterable[OldRelease]) -> frozenset[Digest]:
    """Return the digests of all files of `releases`."""
    return frozenset(old.file.digest for release in releases for old in release.files)


def _changed(old: Old, what: str) -> IntegrityError:
    return IntegrityError(
        f"{old.paths[0]} of the base is not what was packed any more: {what}",
        hint=BRING_BACK,
        path=old.paths[0],
    )


def _needed(releases: Sequence[OldRelease], changed: Sequence[New], reused: Collection[Digest]) -> list[Old]:
    """Return the files that frames of the new release may build on, each digest once.

    These are all files with tensors, where a new file has tensors, and those that a new file without tensors replaces.
    """
    has_tensors = any(new.source.tensors for new in changed)
    replaced = Counterparts(releases)
    wanted = {
        old.file.digest
        for new in changed
        if can_be_patched(new) and (old := replaced.of(new.path)) is not None and is_prefix(old)
    }
    found: dict[Digest, Old] = {}
    for release in releases:
        for old in release.files:
            is_wanted = old.file.digest in wanted or (has_tensors and bool(old.tensors))
            if old.open is not None and old.file.size and is_wanted:
                known = old if old.file.digest in reused else replace(old, marks=None)
                found.setdefault(old.file.digest, known)
    return list(found.values())


def can_be_patched(new: New) -> bool:
    """Return whether a new file may become a patch."""
    return not new.source.tensors and new.source.size >= LEAST


def is_prefix(old: Old) -> bool:
    """Return whether a new file may be a patch to `old`."""
    return not old.tensors and old.file.size >= LEAST


class Counterparts:
    """Finds the file that a new one replaces: that of its path, or else the only one whose path has other numbers."""

    def __init__(self, releases: Iterable[OldRelease]) -> None:
        self._exact: dict[str, Old] = {}
        self._loose: dict[str, list[Old]] = {}
        for release in releases:
            for old in release.files:
                for path in old.paths:
                    self._exact.setdefault(path, old)
                    self._loose.setdefault(_NUMBER.sub("0", path), []).append(old)

    def of(self, path: str) -> Old | None:
        """Return the file that the one at `path` replaces, if any."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        loose = self._loose.get(_NUMBER.sub("0", path), [])
        return loose[0] if len(loose) == 1 else None
