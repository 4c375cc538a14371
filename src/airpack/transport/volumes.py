"""The volumes of one package, wherever they lie: several folders, any order, duplicates, some damaged, some not there.

    with Media(manifest, payload, [Path("/media/one"), Path("/media/two")]) as media:
        media.survey()                              # which files serve as which volume
        table = media.table(0)                      # the bytes whose digest is signed, or None
        stored = media.read(0, frame.chunks)        # as the medium has them: whoever decodes them hashes them first
        chunk = media.chunk(0, frame.chunks[0])     # with the signed digest, from whichever source has it, or None
        media.damage                                # what no source had as it was signed, place by place

Rules held here (docs/spec/package.md section 6):

1. Only regular files under listed names are opened, never through a link, and only for reading.
2. What a file is, its header says, not its name: it serves as the volume whose 128 bytes it begins with. A header that
   is damaged hides nothing, for the manifest implies it: the file then serves under its name.
3. Nothing is handed out as good before its digest is the signed one. A place that does not answer, or answers with
   other bytes, is asked for in the other copies, then again a bounded number of times, then of the rescues.
4. An error of the medium is a finding with its place, never the end of the reading.

A *rescue* is another source of a volume's bytes, such as a repair volume or parity (`Rescue`, `Media.rescues`).
Everything but `survey` may be called from several threads at once.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from airpack.errors import AirpackError, IntegrityError, NotFoundError
from airpack.formats.package import PackageManifest, parity_headers_of
from airpack.formats.volume import ENTRY, HEADER, Chunk, Header
from airpack.fsops import interruptible
from airpack.transport.damage import Damage, Finding, Kind
from airpack.transport.files import OpenFiles, read_into
from airpack.types import Digest

_COPY_AGAIN: Final = "copy this volume again from where the package was built, and run the same command again"
_BRING_MATCHING: Final = "bring the volumes that were made with this head"
_TRIES: Final = 3  # times that one place of one file is asked for
_REPEATS: Final = 64  # second and third tries at one file in all: a dying disc takes half a minute for each
_GONE: Final = frozenset({errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN, errno.ENOMEDIUM})
"""Errors that say that there is no medium any more, rather than that a place on it is bad."""


class Rescue(Protocol):
    """Another source of the bytes of volumes. What it gives is hashed before it is used."""

    def covers(self, position: int) -> bool:
        """Return whether this source may have bytes of the volume at `position` although no file serves as it."""

    def header(self, position: int) -> bool:
        """Return whether this source makes up for a damaged header of the volume at `position`."""

    def table(self, position: int) -> bytes | None:
        """Return all slots of the table of the volume at `position`, None where it has none."""

    def chunk(self, position: int, chunk: Chunk) -> bytes | None:
        """Return the stored bytes of `chunk` of the volume at `position`, None where it has none."""


@dataclass(slots=True)
class Copy:
    """One file that serves as a volume.

    Attributes:
        path: Where it lies.
        size: Its length in bytes.
        expected: The volume's length in bytes; more than the file's where that was cut short.
        repeats: Second and third tries that it may still be asked for.
        gone: Whether its medium was taken away.
    """

    path: Path
    size: int
    expected: int
    repeats: int = _REPEATS
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a place of a file is not what was signed.

    Attributes:
        kind: What is wrong.
        reason: The same for people, to follow the name of the place.
        is_foreign: Whether the file belongs elsewhere.
    """

    kind: Kind
    reason: str
    is_foreign: bool = False


@dataclass(slots=True)
class Listed:
    """A file that the manifest lists, and where it was found.

    Attributes:
        name: File name.
        size: Signed length in bytes.
        header: The 128 bytes that it begins with.
        copies: The files that serve as it, in the order in which their folders were named.
        has_header: Whether one of them begins as it must.
        fault: What is wrong with the header of the first that does not.
    """

    name: str
    size: int
    header: bytes
    copies: list[Copy] = field(default_factory=list)
    has_header: bool = False
    fault: Fault | None = None

    @property
    def is_there(self) -> bool:
        """Whether a file serves as this volume, as far as is known now."""
        return any(not copy.gone for copy in self.copies)


@dataclass(frozen=True, slots=True)
class _Place:
    """A place of a volume that has a signed digest: a chunk, or the table (number 0)."""

    position: int
    number: int
    offset: int
    length: int
    digest: bytes


class Media:
    """The volumes of one package on the media that are at hand.

    Args:
        manifest: The signed package manifest.
        payload: Digest of the manifest's signed bytes.
        folders: Where volumes are looked for; a later folder's file is used where an earlier one's fails.

    Attributes:
        manifest: The signed package manifest.
        folders: Where volumes are looked for.
        volumes: The manifest's volumes, in its order.
        parity: Its parity volumes, over all groups, in its order.
        refused: Files that lie under a volume's name and cannot serve: the first one of each volume, by its position.
        rescues: Further sources of bytes, asked in order where no copy gives what was signed.
        damage: What no source had as it was signed.
        mended: What was not as signed where it was read first, and came from another try, another copy or a rescue.
        notes: What else people should know of the media, a line each.
        recovered: Bytes that came from another try, another copy or a rescue.
    """

    def __init__(self, manifest: PackageManifest, payload: Digest, folders: Iterable[Path]) -> None:
        self.manifest = manifest
        self.folders = tuple(dict.fromkeys(folder.absolute() for folder in folders))
        self.volumes = tuple(
            Listed(info.name, info.size, manifest.header(payload, position).emit())
            for position, info in enumerate(manifest.volumes)
        )
        parity = (info for group in manifest.parity for info in group.volumes)
        self.parity = tuple(
            Listed(info.name, info.size, header.emit())
            for info, header in zip(parity, parity_headers_of(manifest.parity, payload), strict=True)
        )
        self.refused: dict[int, Finding] = {}
        self.rescues: list[Rescue] = []
        self.damage = Damage()
        self.mended = Damage()
        self.notes: list[str] = []
        self.recovered = 0
        self._payload = payload
        self._files = OpenFiles()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open; what a thread still reads is closed by that thread."""
        self._files.close()

    @property
    def missing(self) -> list[int]:
        """Positions of the volumes that no file serves as."""
        return [position for position, volume in enumerate(self.volumes) if not volume.is_there]

    @property
    def hopeless(self) -> list[int]:
        """Positions of the volumes of which there is nothing at all: no file, good or bad, and no rescue."""
        return [
            position
            for position in self.missing
            if position not in self.refused and not any(rescue.covers(position) for rescue in self.rescues)
        ]

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the package but its head is at hand."""
        return not (self.refused or self.rescues or any(volume.copies for volume in (*self.volumes, *self.parity)))

    # -- which files there are ----------------------------------------------------------------------------------------

    def survey(self) -> None:
        """Look under every listed name in every folder, and at the header of what lies there.

        Nothing is raised for a file that cannot serve: it goes into `refused`.
        """
        interruptible(self._survey)

    def _survey(self) -> None:
        listed: list[tuple[int | None, Listed]] = [*enumerate(self.volumes), *((None, file) for file in self.parity)]
        by_header = {file.header: (position, file) for position, file in listed}
        for folder in self.folders:
            for position, file in listed:
                self._look(folder / file.name, position, file, by_header)

    def _look(
        self, path: Path, position: int | None, file: Listed, by_header: dict[bytes, tuple[int | None, Listed]]
    ) -> None:
        """Take the file at `path`, if there is one, for the volume that it is: that of its name, or of its header."""
        try:
            with self._files.use(path) as descriptor:
                size = os.fstat(descriptor).st_size
                header, unread = _read_header(descriptor, by_header)
        except NotFoundError:
            return
        except (AirpackError, OSError) as error:
            self._refuse(path, position, _fault(error))
            return
        position, file = by_header.get(header, (position, file))
        fault = None if header == file.header else unread or self._judge(header, position)
        if size > file.size or (fault and size < file.size):
            self._refuse(path, position, Fault(Kind.DAMAGED, _wrong_size(size, file.size)))
        elif fault and fault.is_foreign:
            self._refuse(path, position, fault)
        else:
            file.copies.append(Copy(path, size, file.size))
            file.has_header |= fault is None
            file.fault = file.fault or fault

    def _judge(self, header: bytes, position: int | None) -> Fault:
        """Return what is wrong with a header that no listed file has."""
        try:
            found = Header.parse(header, what="it")
        except IntegrityError as error:
            return Fault(Kind.DAMAGED, f"header, bytes 0 to {HEADER}, is damaged: {error}")
        if position is None:
            reason = "is not that of a file of this package"
        else:
            reason = _difference(found, self.manifest.header(self._payload, position))
        return Fault(Kind.DAMAGED, f"header, bytes 0 to {HEADER}, {reason}", is_foreign=True)

    def _refuse(self, path: Path, position: int | None, fault: Fault) -> None:
        """Note that a file cannot serve as the volume under whose name it lies."""
        if position is not None:
            place = _Place(position, 0, 0, self.volumes[position].size, b"")
            self.refused.setdefault(position, self._finding(place, path, fault))

    # -- what they hold -----------------------------------------------------------------------------------------------

    def table(self, position: int) -> bytes | None:
        """Return all slots of the table of the volume at `position`, with their signed digest.

        Returns:
            None where no source has them; that is damage, except where no file serves as the volume.
        """
        info = self.manifest.volumes[position]
        place = _Place(position, 0, HEADER, info.slots * ENTRY, info.table.raw)
        return self._find(place, lambda rescue: rescue.table(position), was_read=False)

    def chunk(self, position: int, chunk: Chunk, *, was_read: bool = False) -> bytes | None:
        """Return the stored bytes of `chunk` of the volume at `position`, with their signed digest.

        Args:
            position: The volume's place in the manifest, from 0.
            chunk: Which chunk.
            was_read: Whether `read` has asked the first copy already, and that gave something else.

        Returns:
            None where no source has them; that is damage.
        """
        place = _Place(position, chunk.number, chunk.offset, chunk.stored, chunk.digest)
        return self._find(place, lambda rescue: rescue.chunk(position, chunk), was_read=was_read)

    def read(self, position: int, chunks: Sequence[Chunk]) -> bytearray:
        """Return the bytes of neighbouring chunks as the first copy has them: read once, not hashed yet.

        What cannot be read is zero. Where the digest is then not the signed one, `chunk` finds another source.
        """
        data = bytearray(sum(chunk.stored for chunk in chunks))
        copy = next((copy for copy in self.volumes[position].copies if not copy.gone), None)
        view, done = memoryview(data), 0
        for chunk in chunks:
            if copy is not None:
                self._read(copy, view[done : done + chunk.stored], chunk.offset)
            done += chunk.stored
        return data

    def readings(self, file: Listed, offset: int, length: int) -> Iterator[bytes]:
        """Yield what each copy of a listed file has at a place; nothing of it is verified.

        A copy that cannot be read there, or was cut short before the place's end, is left out.
        """
        for copy in file.copies:
            data = bytearray(length)
            if self._read(copy, memoryview(data), offset) is None:
                yield bytes(data)

    def own(self, position: int, chunk: Chunk) -> bytes | None:
        """Return a chunk with its signed digest from the copies alone: for a rescue, which needs other volumes.

        Nothing is asked for twice, and nothing goes into `damage`.
        """
        for data in self.readings(self.volumes[position], chunk.offset, chunk.stored):
            if hashlib.sha256(data).digest() == chunk.digest:
                return data
        return None

    def check_header(self, position: int) -> None:
        """Note it as damage where no copy of a volume begins as it must, and no rescue makes up for it."""
        volume = self.volumes[position]
        if volume.fault is None or volume.has_header:
            return
        finding = self._finding(_Place(position, 0, 0, HEADER, b""), volume.copies[0].path, volume.fault)
        with self._lock:
            is_mended = any(rescue.header(position) for rescue in self.rescues)
            (self.mended if is_mended else self.damage).add(finding)

    def check_presence(self, position: int) -> None:
        """Note it as damage where a file lies under a volume's name, but none can serve as it."""
        if not self.volumes[position].copies and position in self.refused:
            with self._lock:
                self.damage.add(self.refused[position])

    def _find(self, place: _Place, rescued: Callable[[Rescue], bytes | None], *, was_read: bool) -> bytes | None:
        """Ask every source for the bytes of `place` until one gives those that were signed."""
        volume = self.volumes[place.position]
        blamed: tuple[Path, Fault] | None = None
        for copy in _turns(volume.copies, was_read=was_read):
            found = self._ask(copy, place)
            if not isinstance(found, Fault):
                first = copy.path, Fault(Kind.DAMAGED, "did not have its signed digest at first")
                self._mend(place, blamed or (first if was_read else None))
                return found
            blamed = blamed or (copy.path, found)
        away = (
            self.folders[0] / volume.name,
            Fault(Kind.MISSING, "is not at hand: the volume is missing, and cannot be rebuilt here"),
        )
        for rescue in self.rescues:
            data = rescued(rescue)
            if data is not None and hashlib.sha256(data).digest() == place.digest:
                self._mend(place, blamed or away)
                return data
        if blamed or place.number:  # of a volume that is away, a rescue had the table, and not this
            self._lose(place, *(blamed or away))
        return None

    def _ask(self, copy: Copy, place: _Place) -> bytes | Fault:
        data = bytearray(place.length)
        fault = self._read(copy, memoryview(data), place.offset)
        if fault:
            return fault
        if hashlib.sha256(data).digest() != place.digest:
            return Fault(Kind.DAMAGED, "does not have its signed digest")
        return bytes(data)

    def _read(self, copy: Copy, into: memoryview, offset: int) -> Fault | None:
        """Fill `into` from a copy, in one try; what cannot be read stays as it was."""
        if copy.gone:
            return Fault(Kind.GONE, "cannot be read: its medium is not there any more")
        try:
            with self._files.use(copy.path) as descriptor:
                done = read_into(descriptor, into, offset)
                size = os.fstat(descriptor).st_size if done < len(into) else 0
        except NotFoundError as error:
            copy.gone = True
            return Fault(Kind.GONE, f"cannot be read: {error}")
        except (AirpackError, OSError) as error:
            copy.gone = isinstance(error, OSError) and error.errno in _GONE
            return _fault(error, gone=copy.gone)
        if done == len(into):
            return None
        if size < copy.size:
            return Fault(Kind.UNREADABLE, "is gone: the file became shorter while it was read")
        return Fault(Kind.DAMAGED, f"is not there: the file {_wrong_size(size, copy.expected)}")

    def _mend(self, place: _Place, blamed: tuple[Path, Fault] | None) -> None:
        """Note where bytes were not as signed before they were found."""
        if blamed is not None:
            with self._lock:
                self.recovered += place.length
                self.mended.add(self._finding(place, *blamed))

    def _lose(self, place: _Place, path: Path, fault: Fault) -> None:
        with self._lock:
            self.damage.add(self._finding(place, path, fault))

    def _finding(self, place: _Place, path: Path, fault: Fault) -> Finding:
        info = self.manifest.volumes[place.position]
        if not place.digest:  # the whole file, or its header, whose fault says so
            where = ""
        else:
            part = f"chunk {place.number} of {info.entries}" if place.number else "chunk table"
            where = f"{part}, bytes {place.offset} to {place.offset + place.length}, "
        return Finding(
            place.position,
            place.offset,
            place.length,
            fault.kind,
            f"volume {path}: {where}{fault.reason}",
            path,
            info.name,
            place.number,
            _BRING_MATCHING if fault.is_foreign else _COPY_AGAIN,
        )


def _turns(copies: Sequence[Copy], *, was_read: bool) -> Iterator[Copy]:
    """Yield the copies to ask, in order: each once, then again as long as they may be asked."""
    first = next((copy for copy in copies if not copy.gone), None) if was_read else None
    yield from (copy for copy in copies if copy is not first)
    for _ in range(_TRIES - 1):
        for copy in copies:
            if copy.repeats > 0 and not copy.gone:
                copy.repeats -= 1
                yield copy


def _read_header(descriptor: int, known: Container[bytes]) -> tuple[bytes, Fault | None]:
    """Return the first 128 bytes of a file, and what kept them from being read; others than known ones are asked again.

    Args:
        descriptor: The open file.
        known: Every header that the package has.
    """
    fault = None
    header = bytearray(HEADER)
    for _ in range(_TRIES):
        try:
            done = read_into(descriptor, memoryview(header), 0)
        except OSError as error:
            fault = Fault(Kind.UNREADABLE, f"header, bytes 0 to {HEADER}, {_fault(error).reason}")
            continue
        fault = None
        if bytes(header) in known or done < HEADER:
            return bytes(header[:done]), None
    return (b"", fault) if fault else (bytes(header), None)


def _fault(error: AirpackError | OSError, *, gone: bool = False) -> Fault:
    if isinstance(error, IntegrityError):
        return Fault(Kind.DAMAGED, error.message)
    reason = error.message if isinstance(error, AirpackError) else f"cannot be read: {error.strerror or error}"
    return Fault(Kind.GONE if gone else Kind.UNREADABLE, reason)


def _wrong_size(size: int, expected: int) -> str:
    state = "it was cut short" if size < expected else "it has trailing data"
    return f"has {size} bytes, expected {expected}: {state}, or belongs to another package"


def _difference(found: Header, expected: Header) -> str:
    """Return how a well-formed header is not the expected one, for people who mixed up media."""
    if found.package != expected.package:
        return (
            f"belongs to another package: it names manifest {found.package.short}, this head signs "
            f"{expected.package.short}"
        )
    if (found.index, found.count) != (expected.index, expected.count):
        return f"says volume {found.index} of {found.count}, expected {expected.index} of {expected.count}"
    return (
        f"says {found.entries} chunks in {found.slots} slots and {found.data} bytes, expected {expected.entries} in "
        f"{expected.slots} and {expected.data}"
    )
