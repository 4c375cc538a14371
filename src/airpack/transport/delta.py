"""What sites hold already, and so what a package for them can leave out or build on.

    new = scan(sources, sizes, reporter)                # digests of new files, and of the tensors in them
    old = Olds(releases)                                # what bases hold, hashed where it lies
    delta = Delta(news, old, ...)                       # what `PackWriter.pack` packs, and with which ranges of bases

In this order, for each new file:

1. a file whose digest a base has is not in the stream at all;
2. a tensor whose digest a tensor of a base has, in whatever file and by whatever name, becomes frames of nothing;
3. a tensor with name, type and length of one in a base is coded as the difference to it;
4. a file without tensors, with the path of one in a base, is coded as a patch to that, where a trial shows that it
   becomes smaller so;
5. everything else is coded as in a package that stands alone.

Except for the first, all of it is advice: for each frame the smallest way is taken (`writer`), and of equal bytes
nothing is stored. A wrong guess costs time and no bytes. Frames are cut as without bases, so that a delta is no larger.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from airpack.errors import IntegrityError, StorageError
from airpack.formats.package import Base, FileInfo
from airpack.formats.volume import PREFIX
from airpack.transport import plan
from airpack.transport.bases import Bases
from airpack.transport.feed import Feed, File, changed
from airpack.transport.forecast import coded
from airpack.transport.plan import Place, Span
from airpack.transport.planes import Buffer
from airpack.types import Digest, Reporter, Silent, Source, Tensor

BRING_BACK: Final = (
    "bring its bytes back where they lay, or build without --base; `airpack build --keep` keeps copies from then on"
)
LEAST: Final = 64 << 10  # bytes of a tensor that is looked for by digest, or of a file that is patched

_BLOCK: Final = 1 << 20  # bytes read at once
_STEP: Final = 16 << 20  # bytes of a large file that share a prefix
_BEFORE: Final = 8 << 20  # bytes of the base file before them that the prefix begins with
_LEFT: Final = 100  # bytes of a file of which one would remain, coded well
_NAMED: Final = 400  # bytes of the head that name a base
_LISTED: Final = 160  # bytes of the head that list a file of it
_FRAME: Final = 128  # bytes of a frame beside its content: its entry, and what zstd writes around it
_NUMBER = re.compile(r"[0-9]+")

_SILENT: Final = Silent()

_Where: TypeAlias = tuple[int, int]  # number of an old file, and an offset in it
_Key: TypeAlias = tuple[str, str, int]  # name, type and length of a tensor


# --- what is new ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Marks:
    """What the bytes of a file are known by.

    Attributes:
        digest: Of the whole file.
        tensors: The SHA-256 of each tensor that was looked at, by its place among the file's tensors.
    """

    digest: Digest
    tensors: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class New:
    """A file of the release to be packed.

    Attributes:
        path: Its path in a generation.
        source: Its bytes.
        marks: What they are known by; None where no other file, new or old, has its size, and there are no tensors to
            look for.
    """

    path: str
    source: Source
    marks: Marks | None


def scan(sources: Sequence[Source], paths: Sequence[str], sizes: Collection[int], reporter: Reporter) -> list[New]:
    """Read the new files that may be in a base, or equal another new one, or whose tensors may be in a base.

    Args:
        sources: The files of the new release.
        paths: Their paths in a generation.
        sizes: The sizes in bytes of all files that bases have.
        reporter: Receives progress in bytes.

    Raises:
        IntegrityError: A file is not of its size.
        StorageError: A file cannot be read.
    """
    counts = Counter(source.size for source in sources)
    alike = {size for size, count in counts.items() if count > 1} | set(sizes)
    is_read = [_is_looked_at(source, alike) for source in sources]
    reporter.start("compare", sum(source.size for source, wanted in zip(sources, is_read, strict=True) if wanted))
    try:
        return [
            New(path, source, _new_marks(source, wanted=wanted, reporter=reporter))
            for path, source, wanted in zip(paths, sources, is_read, strict=True)
        ]
    finally:
        reporter.finish()


def _is_looked_at(source: Source, sizes: Collection[int]) -> bool:
    if any(_length(tensor) >= LEAST for tensor in source.tensors):
        return True
    return source.size in sizes  # also where a RECORD gives its digest: what is left out is held against it too


def _new_marks(source: Source, *, wanted: bool, reporter: Reporter) -> Marks | None:
    if not wanted:
        return Marks(source.digest) if source.digest is not None else None
    large = [number for number, tensor in enumerate(source.tensors) if _length(tensor) >= LEAST]
    marks = _mark(_blocks(source, reporter), source.tensors, large)
    if source.digest not in {None, marks.digest}:
        raise changed(source, f"expected {source.digest}, found {marks.digest}")
    return marks


def _blocks(source: Source, reporter: Reporter) -> Iterator[bytes]:
    done = 0
    try:
        with source.open() as stream:
            while block := stream.read(_BLOCK):
                done += len(block)
                yield block
                reporter.advance(len(block), source.path)
    except OSError as error:
        raise StorageError(f"cannot read {source.path}: {error.strerror or error}", path=source.path) from error
    if done != source.size:
        raise changed(source, f"expected {source.size} bytes, found {done}")


def _length(tensor: Tensor) -> int:
    return tensor.stop - tensor.start


def _mark(blocks: Iterable[bytes | bytearray], tensors: Sequence[Tensor], wanted: Sequence[int]) -> Marks:
    """Return the digests of a file and of some of its tensors, read once; two threads share the work."""
    whole, parts = hashlib.sha256(), _Parts([(number, tensors[number]) for number in wanted])
    if not wanted:
        for block in blocks:
            whole.update(block)
        return Marks(Digest.from_raw(whole.digest()))
    with ThreadPoolExecutor(1) as helper:
        pending: Future[None] | None = None
        for block in blocks:
            if pending is not None:
                pending.result()
            pending = helper.submit(whole.update, block)
            parts.update(block)
    return Marks(Digest.from_raw(whole.digest()), parts.digests)


class _Parts:
    """Digests of ranges of a file whose bytes pass by."""

    def __init__(self, ranges: Sequence[tuple[int, Tensor]]) -> None:
        self.digests: dict[int, bytes] = {}
        self._ranges = iter(ranges)
        self._at = 0
        self._current = next(self._ranges, None)
        self._digest = hashlib.sha256()

    def update(self, block: bytes | bytearray) -> None:
        view, end = memoryview(block), self._at + len(block)
        while self._current is not None and self._current[1].start < end:
            number, tensor = self._current
            self._digest.update(view[max(0, tensor.start - self._at) : tensor.stop - self._at])
            if tensor.stop > end:
                break
            self.digests[number] = self._digest.digest()
            self._current, self._digest = next(self._ranges, None), hashlib.sha256()
        self._at = end


# --- what there is ----------------------------------------------------------------------------------------------------


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
        held = _digests(releases)
        others = [new for new in news if new.marks is None or new.marks.digest not in held]
        self.files = _needed(releases, others, {new.marks.digest for new in news if new.marks is not None})
        self.bases = Bases([old.open for old in self.files if old.open is not None])
        self.numbers = {old.file.digest: number for number, old in enumerate(self.files, 1)}
        lengths = {_length(tensor) for new in others for tensor in new.source.tensors if _length(tensor) >= LEAST}
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
        wanted = [place for place, tensor in enumerate(old.tensors) if _length(tensor) in lengths]
        marks = _mark(self._blocks(number, old, reporter), old.tensors, wanted)
        if marks.digest != old.file.digest:
            raise _changed(old, f"expected {old.file.digest}, found {marks.digest}")
        return marks

    def _blocks(self, number: int, old: Old, reporter: Reporter) -> Iterator[bytearray]:
        for start in range(0, old.file.size, _BLOCK):
            try:
                block = self.bases.read(number, start, min(_BLOCK, old.file.size - start))
            except IntegrityError as error:
                raise _changed(old, error.message) from error
            yield block
            reporter.advance(len(block), old.paths[0])


def _digests(releases: Iterable[OldRelease]) -> frozenset[Digest]:
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
        if _can_be_patched(new) and (old := replaced.of(new.path)) is not None and _is_prefix(old)
    }
    found: dict[Digest, Old] = {}
    for release in releases:
        for old in release.files:
            is_wanted = old.file.digest in wanted or (has_tensors and bool(old.tensors))
            if old.open is not None and old.file.size and is_wanted:
                known = old if old.file.digest in reused else replace(old, marks=None)
                found.setdefault(old.file.digest, known)
    return list(found.values())


def _can_be_patched(new: New) -> bool:
    return not new.source.tensors and new.source.size >= LEAST


def _is_prefix(old: Old) -> bool:
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


# --- what to do -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What a delta comes to before anything is coded, in files, tensors and raw bytes.

    Attributes:
        reused_files: Files that are left out.
        reused: Their bytes.
        same_tensors: Tensors that a base has.
        same: Their bytes.
        like_tensors: Tensors that are coded as a difference, where that is smaller.
        like: Their bytes.
        patched_files: Files that are coded as patches.
        patched: Their bytes.
        rest: Bytes of everything else.
    """

    reused_files: int = 0
    reused: int = 0
    same_tensors: int = 0
    same: int = 0
    like_tensors: int = 0
    like: int = 0
    patched_files: int = 0
    patched: int = 0
    rest: int = 0


class Delta:
    """Which files to pack, and which ranges of base files their spans build on: `feed.Bases` for the writer.

    Args:
        news: The files of the new release.
        library: What the bases have.
        volume_size: Largest length of a volume in bytes.
        releases: Which of the library's bases to build on; all by default.
        reporter: Receives progress of what is tried, in bytes.

    Attributes:
        sources: The files to pack, those that become patches last.
        tally: What it comes to.
    """

    def __init__(
        self,
        news: Sequence[New],
        library: Library,
        *,
        volume_size: int,
        releases: Sequence[OldRelease] | None = None,
        reporter: Reporter = _SILENT,
    ) -> None:
        self.tally = Tally()
        self._reporter = reporter
        self._library = library
        self._releases = library.releases if releases is None else releases
        self._index = _Index(library, self._releases)
        self._news = news
        held = _digests(self._releases)
        self._reused = [new for new in news if new.marks and new.marks.digest in held]
        left_out = {id(new) for new in self._reused}
        packed = [new for new in news if id(new) not in left_out]
        self._files: dict[int, _Packed] = {}
        for new in _distinct(packed):
            source = replace(new.source, digest=new.marks.digest) if new.marks else new.source
            self._files[id(source)] = _Packed(new, source, self._index)
        with ThreadPoolExecutor(1) as helper:  # what codecs keep for their thread goes with it
            helper.submit(self._choose_patches, plan.solid_size(volume_size)).result()
        self.sources = tuple(file.source for file in _in_order(self._files.values()))
        self._numbers = self._number()
        self._count()

    # -- for the writer

    def spans(self, source: Source) -> Iterator[Span]:
        """Return the spans of a file of `sources`, those like a range of a base file with its place."""
        for span in self._files[id(source)].spans():
            yield span if span.base is None else replace(span, base=self._numbered(span.base))

    def read(self, place: Place, size: int) -> Buffer:
        """Return the `size` bytes from `place` on, fewer only at the end of the base file."""
        number = self._back[place.file]
        return self._library.bases.read(number, place.offset, min(size, self._size(number) - place.offset))

    # -- for the manifest

    @property
    def bases(self) -> tuple[Base, ...]:
        """What the manifest says of the bases; a base that nothing is taken from is none."""
        return self._bases

    def digests(self, packed: Sequence[Digest]) -> list[Digest]:
        """Return the digest of each new file, given those of `sources`, in the order of the new files."""
        files = (self._files[id(source)].new for source in self.sources)
        found = {id(new): digest for new, digest in zip(files, packed, strict=True)}
        return [found[id(new)] if id(new) in found else _known(new) for new in self._news]

    def is_worth(self, spared: int) -> bool:
        """Return whether the package is smaller with its bases than without, also where the head names them.

        Args:
            spared: Bytes, about, that frames take less than without bases.
        """
        reused = {_known(new) for new in self._reused}
        others = sum(file.digest not in reused for base in self._bases for file in base.files)
        cost = len(self._bases) * _NAMED + others * _LISTED + self._more_frames() * _FRAME
        return spared + self.tally.reused // _LEFT > cost

    def _more_frames(self) -> int:
        """Return how many frames there are more than without bases: small tensors share fewer of them."""
        plain = [source for source in self.sources if not source.solid]
        alone = sum(1 for _ in plan.cuts(span for source in plain for span in plan.spans(source)))
        based = sum(1 for _ in plan.cuts(span for source in plain for span in self.spans(source)))
        return max(0, based - alone)

    def check(self) -> None:
        """See once more that no base file was written to since it was hashed.

        Raises:
            IntegrityError: One was.
        """
        self._library.bases.check()

    # -- inside

    def _size(self, number: int) -> int:
        return self._library.files[number - 1].file.size

    def _numbered(self, place: Place) -> Place:
        return Place(self._numbers[place.file], place.offset)

    def _choose_patches(self, largest: int) -> None:
        """Try which files become smaller as patches: those of runtimes all together, each other one by itself."""
        files = list(self._files.values())
        solid = [file for file in files if file.source.solid]
        for group in (solid, *([file] for file in files if not file.source.solid)):
            patched = [file for file in group if file.prefix is not None]
            if patched and not self._is_smaller(group, largest):
                for file in patched:
                    file.prefix = None

    def _is_smaller(self, group: "list[_Packed]", largest: int) -> bool:
        """Return whether a group is smaller with the patches in it than without; both are coded to know it."""
        alone = sum(coded(Feed([File(file.source, None) for file in group], 0, largest, None), self._reporter))
        files = [File(file.source, None) for file in _in_order(group)]
        total = 0
        based = Feed(files, 0, largest, _Trial(self._library, self._files))
        with closing(coded(based, self._reporter)) as sizes:
            for size in sizes:
                total += size
                if total >= alone:
                    return False
        return True

    def _number(self) -> dict[int, int]:
        """Number the base files that are needed, over all bases in order, and note what the manifest says of them."""
        used = {span.base.file for file in self._files.values() for span in file.spans() if span.base is not None}
        wanted = {self._library.files[number - 1].file.digest for number in used}
        wanted |= {_known(new) for new in self._reused}
        bases: list[Base] = []
        listed: dict[Digest, int] = {}
        for release in self._releases:
            files = [old.file for old in release.files if old.file.digest in wanted - listed.keys()]
            for file in files:
                listed[file.digest] = len(listed) + 1
            if files:
                bases.append(Base(release.release, release.product, release.version, tuple(files)))
        self._bases = tuple(bases)
        numbers = {number: listed[self._library.files[number - 1].file.digest] for number in used}
        self._back = {new: old for old, new in numbers.items()}
        return numbers

    def _count(self) -> None:
        tally = self.tally
        tally.reused_files = len(self._reused)
        tally.reused = sum(new.source.size for new in self._reused)
        for file in self._files.values():
            file.count(tally)


def _distinct(news: Iterable[New]) -> Iterator[New]:
    """Yield the first of new files that are equal."""
    seen: set[Digest] = set()
    for new in news:
        if new.marks is None:
            yield new
        elif new.marks.digest not in seen:
            seen.add(new.marks.digest)
            yield new


def _in_order(files: "Iterable[_Packed]") -> "list[_Packed]":
    """Return files of runtimes that become patches after those that share frames."""
    return sorted(files, key=lambda file: file.prefix is not None and file.source.solid)


def _known(new: New) -> Digest:
    assert new.marks is not None, "it was found by its digest"
    return new.marks.digest


@dataclass(frozen=True, slots=True)
class _Trial:
    """`feed.Bases` before base files have their final numbers."""

    library: Library
    files: "Mapping[int, _Packed]"

    def spans(self, source: Source) -> Iterable[Span]:
        return self.files[id(source)].spans()

    def read(self, place: Place, size: int) -> Buffer:
        whole = self.library.files[place.file - 1].file.size
        return self.library.bases.read(place.file, place.offset, min(size, whole - place.offset))


class _Index:
    """Finds tensors of bases by digest and by name, and files by path."""

    def __init__(self, library: Library, releases: Sequence[OldRelease]) -> None:
        chosen = _digests(releases)
        self._library = library
        self._by_digest: dict[bytes, _Where] = {}
        self._by_name: dict[_Key, _Where] = {}
        self._counterparts = Counterparts(releases)
        for number, old in enumerate(library.files, 1):
            if old.file.digest not in chosen:
                continue
            for place, tensor in enumerate(old.tensors):
                self._by_name.setdefault(_key(tensor), (number, tensor.start))
                if (digest := library.marks[number].tensors.get(place)) is not None:
                    self._by_digest.setdefault(digest, (number, tensor.start))

    def counterpart(self, path: str) -> int | None:
        """Return the number of the file that the one at `path` replaces."""
        old = self._counterparts.of(path)
        return None if old is None else self._library.numbers.get(old.file.digest)

    def tensors(self, number: int) -> Mapping[_Key, _Where]:
        """Return the tensors of one file by name."""
        return {_key(tensor): (number, tensor.start) for tensor in self._library.files[number - 1].tensors}

    def same(self, digest: bytes | None) -> _Where | None:
        """Return where a tensor of that digest lies."""
        return None if digest is None else self._by_digest.get(digest)

    def named(self, key: _Key) -> _Where | None:
        """Return where a tensor of that name, type and length lies."""
        return self._by_name.get(key)

    def size(self, number: int) -> int:
        """Return the length of a file in bytes."""
        return self._library.files[number - 1].file.size

    def is_prefix(self, number: int) -> bool:
        """Return whether a file can be patched."""
        return _is_prefix(self._library.files[number - 1])


def _key(tensor: Tensor) -> _Key:
    return tensor.name, tensor.dtype, _length(tensor)


class _Packed:
    """A file of the stream, and what its spans build on. Base files have the library's numbers here.

    Attributes:
        new: The file.
        source: What is packed: its source, with its digest where that is known.
        prefix: The file that it may be a patch to; None for none.
    """

    def __init__(self, new: New, source: Source, index: _Index) -> None:
        self.new, self.source = new, source
        self.prefix: int | None = None
        self._index = index
        self._like = index.counterpart(new.path)
        self._same: set[int] = set()
        self._places: dict[int, _Where] = dict(self._find()) if source.tensors else {}
        if _can_be_patched(new) and self._like is not None and index.is_prefix(self._like):
            self.prefix = self._like

    def _find(self) -> Iterator[tuple[int, _Where]]:
        """Yield where each tensor begins, and where the one begins that it is, or is like."""
        own = self._index.tensors(self._like) if self._like is not None else {}
        marks = self.new.marks.tensors if self.new.marks else {}
        for number, tensor in enumerate(self.source.tensors):
            same = self._index.same(marks.get(number))
            if same is not None:
                self._same.add(tensor.start)
            found = same or own.get(_key(tensor)) or self._index.named(_key(tensor))
            if found is not None:
                yield tensor.start, found

    def spans(self) -> Iterator[Span]:
        """Yield the spans, with places in the library's files."""
        if self.prefix is not None:
            yield from self._patches(self.prefix)
            return
        at, run = 0, _Run(self._index)
        shift = None if self._like is None or not self.source.tensors else (self._like, 0)
        for span in plan.spans(self.source):
            own = self._places.get(at)
            if own is not None:
                shift = own[0], own[1] - at
            if not span.is_small:
                yield from run.end()
                yield replace(span, base=_place(self._index, shift, at, span.size))
            else:
                run.add(at, span, own)
            at += span.size
        yield from run.end()

    def _patches(self, prefix: int) -> Iterator[Span]:
        """Yield the file as patches, each to the part of the base file around the same place."""
        last = max(0, self._index.size(prefix) - PREFIX)
        (whole,) = plan.spans(self.source)
        for start in range(0, whole.size, _STEP):
            place = Place(prefix, min(max(0, start - _BEFORE), last))
            yield Span(min(_STEP, whole.size - start), whole.kind, place, is_patch=True)

    def count(self, tally: Tally) -> None:
        """Add to `tally` what becomes of this file."""
        if self.prefix is not None:
            tally.patched_files += 1
            tally.patched += self.source.size
            return
        found = 0
        for tensor in self.source.tensors:
            if tensor.start not in self._places:
                continue
            found += _length(tensor)
            if tensor.start in self._same:
                tally.same_tensors += 1
                tally.same += _length(tensor)
            else:
                tally.like_tensors += 1
                tally.like += _length(tensor)
        tally.rest += self.source.size - found


def _place(index: _Index, shift: _Where | None, at: int, size: int) -> Place | None:
    """Return the range of `size` bytes that lies as far from `at` as `shift` says, where there is one."""
    if shift is None or not 0 <= at + shift[1] <= index.size(shift[0]) - size:
        return None
    return Place(shift[0], at + shift[1])


class _Run:
    """Small spans that follow each other: they share frames, so one distance has to do for all of them."""

    def __init__(self, index: _Index) -> None:
        self._index = index
        self._spans: list[Span] = []
        self._start = 0
        self._largest = 0
        self._shift: _Where | None = None

    def add(self, at: int, span: Span, own: _Where | None) -> None:
        if not self._spans:
            self._start = at
        self._spans.append(span)
        if own is not None and span.size > self._largest:
            self._largest, self._shift = span.size, (own[0], own[1] - at)

    def end(self) -> Iterator[Span]:
        size = sum(span.size for span in self._spans)
        place = _place(self._index, self._shift, self._start, size)
        at = 0
        for span in self._spans:
            yield replace(span, base=place and Place(place.file, place.offset + at))
            at += span.size
        self._spans, self._largest, self._shift = [], 0, None
