"""Files to volumes, in one pass (docs/spec/package.md sections 4 and 5).

    reader thread: read, SHA-256 of the file → pool: encode, SHA-256 of the chunks → calling thread: write in order

1. Each source is read once, and what was read must be what was announced (`feed`).
2. The stream has two parts that are read side by side: first all other files, then those of runtimes, whose few large
   frames are under way in a core of their own meanwhile.
3. Volumes have temporary names until `seal` wrote their headers, which need the digest of the manifest that lists them.
4. No existing volume of that package name is ever replaced.
"""

import hashlib
import itertools
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from airpack.errors import InputError, StorageError
from airpack.formats.package import FileInfo, ParityGroup, VolumeInfo, header_of
from airpack.formats.volume import ENTRY, Codec, Entry, emit_table
from airpack.fsops import NewFile, make_dir
from airpack.transport import codec, parity, plan
from airpack.transport.feed import SOLID_ROOM, Bases, Feed, File, Frame, changed, distinct
from airpack.transport.pipeline import Ordered
from airpack.transport.planes import Buffer
from airpack.transport.unsealed import Unsealed
from airpack.types import Digest, Limits, Reporter, Silent, Source

VOLUME_SIZE: Final = 2 << 30  # bytes: FAT32 takes it, and so do tools that count in 31 bits

_PLAIN_BUDGET: Final = 12 << 20  # bytes of frames between reading and writing
_SOLID_BUDGET: Final = SOLID_ROOM + (16 << 20)  # likewise: a large frame, and a short one after it
_NAME = re.compile(r"[a-z0-9._-]{1,95}\Z")
_SILENT: Final = Silent()


@dataclass(frozen=True, slots=True)
class _Packed:
    """A frame as stored.

    Attributes:
        entries: Its part of the table.
        data: Its bytes.
        size: Its length before coding, in bytes.
        path: The file to name in progress.
        spared: Bytes, about, that it takes less than without its base.
    """

    entries: bytes
    data: Buffer
    size: int
    path: str
    spared: int


class PackWriter:
    """Writes the volumes of one package. Leaving the context without `seal` removes everything.

        with PackWriter(folder, "encoder-1.2.0") as writer:
            digests = writer.pack(sources)
            files, volumes = writer.close()
            paths = writer.seal(payload)

    Args:
        out: Folder of the package; created when missing.
        name: Package name, `[a-z0-9._-]{1,95}`; volumes are `NAME.0001.airvol` and so on.
        volume_size: Largest length of one volume file in bytes, from 2 MiB to 1 TiB.
        parity_volumes: Parity volumes for each group of volumes, from 0 to 128.
        workers: Threads that encode, at least 1.
        reporter: Receives progress in raw bytes.

    Attributes:
        spared: Bytes, about, that frames take less than without bases.

    Raises:
        InputError: A bad name, size or number, or volumes of this name exist already.
    """

    def __init__(
        self,
        out: Path,
        name: str,
        *,
        volume_size: int = VOLUME_SIZE,
        parity_volumes: int = 0,
        workers: int = 2,
        reporter: Reporter = _SILENT,
    ) -> None:
        _check_arguments(name, volume_size, workers, parity_volumes)
        self._out, self._name = out, name
        self._volume_size, self._workers, self._reporter = volume_size, workers, reporter
        self._volumes: list[_Volume] = []
        self._parity: parity.ParityWriter | None = None
        if parity_volumes:
            self._volume_size = parity.largest_data(volume_size)
            self._parity = parity.ParityWriter(out, name, parity_volumes, workers=workers, reporter=reporter)
        self._files: tuple[FileInfo, ...] = ()
        self.spared = 0
        self._chunks_left = self._bytes_left = 0
        self._spare_slots = plan.SPARE_SLOTS
        self._is_packed = self._is_sealed = False
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        make_dir(self._out)
        _refuse_existing(self._out, self._name)
        if self._parity is not None:
            self._stack.enter_context(self._parity)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if not self._is_sealed:
            for volume in self._volumes:
                volume.withdraw()

    def pack(self, sources: Sequence[Source], bases: Bases | None = None) -> list[Digest]:
        """Write all files of the package; called once.

        Args:
            sources: The files. Their order is the order of the stream, except that those of runtimes come last.
            bases: What the sites hold already; without it, the package stands alone.

        Returns:
            The SHA-256 of the raw bytes of each source, in the order given.

        Raises:
            IntegrityError: A source's bytes are not of its size or its digest.
            InputError: More files, larger files or more volumes than a package may have.
            StorageError: A source cannot be read, or a volume cannot be written.
        """
        if self._is_packed:
            raise RuntimeError("pack() is called once, with all sources")
        self._is_packed = True
        _check_sources(sources)
        files, places = distinct(sources, self._reporter)
        largest = plan.solid_size(self._volume_size)
        plain = Feed([file for file in files if not file.source.solid], 0, largest, bases)
        solid = Feed([file for file in files if file.source.solid], plain.size, largest, bases)
        announced = sum(source.size for source in sources)
        self._reporter.start("pack", announced)
        try:
            self._write_all(plain, solid)
            self._reporter.advance(announced - plain.size - solid.size)  # equal files, stored once
        finally:
            self._reporter.finish()
        self._files = (*plain.infos, *solid.infos)
        _refuse_late_twins(self._files, files)
        if self._parity is not None:
            self._parity.encode([(volume.file, volume.info) for volume in self._volumes])
        return [self._files[place].digest for place in places]

    def close(self) -> tuple[tuple[FileInfo, ...], tuple[VolumeInfo, ...]]:
        """Return the files in stream order and the volumes, for the manifest that is then signed."""
        if not self._is_packed:
            raise RuntimeError("close() comes after pack()")
        return self._files, tuple(volume.info for volume in self._volumes)

    @property
    def groups(self) -> tuple[ParityGroup, ...]:
        """The groups of volumes with parity, for the manifest; none where none was asked for, or nothing is stored."""
        return self._parity.groups if self._parity is not None else ()

    def seal(self, package_payload: bytes) -> list[Path]:
        """Write the headers and give the volumes their names, durably.

        Args:
            package_payload: The package manifest's signed bytes, made from what `close` returned and `groups`.

        Returns:
            The volume files in order, parity volumes last; none when the files have no bytes.

        Raises:
            StorageError: A volume cannot be written.
            InputError: Somebody else made a volume of that name meanwhile.
        """
        _, infos = self.close()
        payload = Digest.of(package_payload)
        _refuse_existing(self._out, self._name)
        for position, volume in enumerate(self._volumes):
            volume.publish(header_of(infos, payload, position).emit())
        spare = self._parity.seal(payload) if self._parity is not None else []
        self._is_sealed = True
        return [*(volume.path for volume in self._volumes), *spare]

    def _write_all(self, plain: Feed, solid: Feed) -> None:
        self._chunks_left = plain.count_chunks() + solid.count_chunks()
        self._bytes_left = plain.size + solid.size
        with (
            Ordered(
                plain.plans(), plain.read, _encode, cost=plain.cost, workers=self._workers, budget=_PLAIN_BUDGET
            ) as first,
            Ordered(solid.plans(), solid.read, _encode, cost=solid.cost, workers=1, budget=_SOLID_BUDGET) as last,
        ):
            for frame in itertools.chain(first, last):
                self._write(frame)
                del frame  # a large one must not stay while the next is made
        if self._volumes:
            self._volumes[-1].finish()

    def _write(self, frame: _Packed) -> None:
        if not self._volumes or not self._volumes[-1].has_room(frame, self._volume_size):
            self._next_volume()
        self._volumes[-1].append(frame)
        self.spared += frame.spared
        self._chunks_left -= len(frame.entries) // ENTRY
        self._bytes_left -= frame.size
        self._reporter.advance(frame.size, frame.path, self._volumes[-1].path.name)

    def _next_volume(self) -> None:
        if self._volumes:
            self._volumes[-1].finish()
            if self._volumes[-1].info.size < self._volume_size // 2:
                self._spare_slots *= 4  # a delta of which next to nothing is stored
        number = len(self._volumes) + 1
        if number > Limits.VOLUMES:
            raise InputError(
                f"the package needs more than {Limits.VOLUMES} volumes of {self._volume_size} bytes",
                hint="use a larger --volume-size",
            )
        slots = plan.count_slots(self._chunks_left, self._bytes_left, self._volume_size, self._spare_slots)
        file = self._stack.enter_context(NewFile(self._out / volume_name(self._name, number)))
        self._volumes.append(_Volume(file, slots))


def volume_name(package: str, number: int) -> str:
    """Return the file name of volume `number` (from 1) of `package`."""
    return f"{package}.{number:04d}.airvol"


class _Volume(Unsealed):
    """One volume being written: chunks first, then the table before them, and the header when all is signed."""

    def __init__(self, file: NewFile, slots: int) -> None:
        super().__init__(file)
        self._slots = slots
        self._entries = bytearray()
        self._table = Digest.of(b"")
        self._size = plan.first_chunk(slots)
        file.seek(self._size)

    @property
    def info(self) -> VolumeInfo:
        return VolumeInfo(self.path.name, self._size, len(self._entries) // ENTRY, self._slots, self._table)

    def has_room(self, frame: _Packed, volume_size: int) -> bool:
        has_slots = len(self._entries) + len(frame.entries) <= self._slots * ENTRY
        return has_slots and self._size + len(frame.data) <= volume_size

    def append(self, frame: _Packed) -> None:
        self.file.write(frame.data)
        self._entries += frame.entries
        self._size += len(frame.data)

    def finish(self) -> None:
        """Write the table; the file is synced and closed, for there may be thousands."""
        table = emit_table(self._entries, self._slots)
        self._table = Digest.of(table)
        self.file.write_at(table, plan.first_chunk(0))
        self.file.park()


def _encode(frame: Frame) -> _Packed:
    kind, stored, spared = smallest(frame)
    view = memoryview(stored)
    parts = [view[at : at + Limits.CHUNK] for at in range(0, len(view), Limits.CHUNK)] or [view]
    place = frame.span.base if kind.has_base else None
    entries = bytearray()
    for number, part in enumerate(parts):
        digest = hashlib.sha256(frame.data if kind is Codec.BASE else part).digest()
        base = (place.file, place.offset) if place else (0, 0)
        entries += Entry(digest, frame.offset, len(part), frame.span.size, kind, number, len(parts), *base).emit()
    return _Packed(bytes(entries), stored, frame.span.size, frame.path, spared)


def smallest(frame: Frame) -> tuple[Codec, Buffer, int]:
    """Return the codec and the stored bytes of a frame, with its base or without, whichever is less.

    The third value is by how many bytes, about, that is less than without its base.
    """
    if frame.span.base is None:
        return *codec.encode(frame.data, frame.span.kind), 0
    if frame.span.is_patch:
        based = codec.encode_patch(frame.data, frame.base)
    else:
        based = codec.encode_delta(frame.data, frame.base, frame.span.kind)
    if based[0] is Codec.BASE:
        return *based, codec.estimate(frame.data)
    alone = codec.encode(frame.data, frame.span.kind)
    return *min(alone, based, key=lambda way: len(way[1])), max(0, len(alone[1]) - len(based[1]))


def _refuse_late_twins(infos: Sequence[FileInfo], files: Sequence[File]) -> None:
    """Refuse files that became equal after they were compared: a manifest lists each digest once."""
    seen: set[Digest] = set()
    for info, file in zip(infos, files, strict=True):
        if info.digest in seen:
            raise changed(file.source, "another file has the same bytes now")
        seen.add(info.digest)


def _check_arguments(name: str, volume_size: int, workers: int, parity_volumes: int) -> None:
    if not _NAME.match(name):
        raise InputError(f"package name must be 1 to 95 of a-z, 0-9, '.', '_' and '-'; found {name[:100]!r}")
    if not plan.SMALLEST_VOLUME <= volume_size <= Limits.VOLUME:
        raise InputError(
            f"volume size must be from {plan.SMALLEST_VOLUME} to {Limits.VOLUME} bytes, found {volume_size}",
            hint="--volume-size 2GiB fits every file system",
        )
    if workers < 1:
        raise InputError(f"workers must be at least 1, found {workers}")
    if not 0 <= parity_volumes <= parity.MOST:
        raise InputError(f"parity must be from 0 to {parity.MOST} volumes a group, found {parity_volumes}")


def _check_sources(sources: Sequence[Source]) -> None:
    if len(sources) > Limits.FILES:
        raise InputError(f"a package carries at most {Limits.FILES} files, found {len(sources)}")
    for source in sources:
        if not 0 <= source.size <= Limits.FILE:
            raise InputError(
                f"{source.path} has {source.size} bytes; at most {Limits.FILE} are packed", path=source.path
            )


def volumes_in(out: Path, package: str) -> list[Path]:
    """Return what lies in the folder `out` under a name that a volume of `package` may have, sorted.

    Raises:
        StorageError: The folder cannot be listed.
    """
    pattern = re.compile(re.escape(package) + r"\.(?:[0-9]{4}|p[0-9]{2,4})\.airvol")
    try:
        return sorted(path for path in out.iterdir() if pattern.fullmatch(path.name))
    except OSError as error:
        raise StorageError(f"cannot list {out}: {error.strerror}", path=str(out)) from error


def _refuse_existing(out: Path, name: str) -> None:
    """Refuse a folder that has volumes of this package: they may be the only copy of what another head lists."""
    found = volumes_in(out, name)
    if found:
        raise InputError(
            f"{found[0]} exists already; volumes are never replaced",
            hint="give another output folder, or remove the old package first",
            path=str(found[0]),
            volumes=[path.name for path in found],
        )
