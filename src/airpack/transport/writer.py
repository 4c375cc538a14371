"""Files to volumes, in one pass (docs/spec/package.md sections 4 and 5).

    reader thread: read, SHA-256 of the file → pool: encode, SHA-256 of the chunk → calling thread: write in order

1. Each source is read once; only large sources of equal size and unknown digest are read twice, so that equal ones
   are stored once.
2. What was read must be what was announced: a source with other bytes than its size or its digest says was changed
   while it was packed, and the whole package is dropped.
3. Volumes have temporary names until `seal` wrote their headers, which need the digest of the manifest that lists them.
4. No existing volume of that package name is ever replaced.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from airpack.errors import InputError, IntegrityError, StorageError
from airpack.formats.package import FileInfo, ParityGroup, VolumeInfo, header_of
from airpack.formats.volume import ENTRY, Entry, emit_table
from airpack.fsops import NewFile, make_dir, remove_file
from airpack.transport import codec, parity, plan
from airpack.transport.pipeline import ordered
from airpack.types import Digest, Limits, Reporter, Silent, Source

VOLUME_SIZE: Final = 2 << 30  # bytes: FAT32 takes it, and so do tools that count in 31 bits

_NAME = re.compile(r"[a-z0-9._-]{1,95}\Z")
_SILENT: Final = Silent()


@dataclass(frozen=True, slots=True)
class _Raw:
    """A frame as read: where it begins in the stream, its bytes, and the file to name in progress."""

    offset: int
    data: bytes
    path: str


@dataclass(frozen=True, slots=True)
class _Packed:
    """A frame as stored: its table entry and its bytes."""

    entry: Entry
    data: bytes
    path: str


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
        self._frames_left = 0
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

    def pack(self, sources: Sequence[Source]) -> list[Digest]:
        """Write all files of the package; called once.

        Args:
            sources: The files. Their order is the order of the stream.

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
        feed = _Feed(sources, _hash_twins(sources, self._reporter))
        self._frames_left = plan.count_frames(source.size for source in sources)
        announced = sum(source.size for source in sources)
        self._reporter.start("pack", announced)
        try:
            with closing(ordered(feed.frames(), _encode, cost=_cost, workers=self._workers)) as frames:
                for frame in frames:
                    self._write(frame)
            if self._volumes:
                self._volumes[-1].finish()
            self._files = tuple(feed.files)
            self._reporter.advance(announced - sum(file.size for file in self._files))  # equal files, stored once
        finally:
            self._reporter.finish()
        if self._parity is not None:
            self._parity.encode([(volume.file, volume.info) for volume in self._volumes])
        return feed.digests

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

    def _write(self, frame: _Packed) -> None:
        if not self._volumes or not self._volumes[-1].has_room(len(frame.data), self._volume_size):
            self._next_volume()
        self._volumes[-1].append(frame)
        self._frames_left -= 1
        self._reporter.advance(frame.entry.frame, frame.path)

    def _next_volume(self) -> None:
        if self._volumes:
            self._volumes[-1].finish()
        number = len(self._volumes) + 1
        if number > Limits.VOLUMES:
            raise InputError(
                f"the package needs more than {Limits.VOLUMES} volumes of {self._volume_size} bytes",
                hint="use a larger --volume-size",
            )
        slots = plan.count_slots(self._frames_left, self._volume_size)
        file = self._stack.enter_context(NewFile(self._out / volume_name(self._name, number)))
        self._volumes.append(_Volume(file, slots))


def volume_name(package: str, number: int) -> str:
    """Return the file name of volume `number` (from 1) of `package`."""
    return f"{package}.{number:04d}.airvol"


class _Volume:
    """One volume being written: chunks first, then the table before them, and the header when all is signed."""

    def __init__(self, file: NewFile, slots: int) -> None:
        self.path, self.file = file.path, file
        self._slots = slots
        self._entries = bytearray()
        self._table = Digest.of(b"")
        self._size = plan.first_chunk(slots)
        self._is_published = False
        file.seek(self._size)

    @property
    def info(self) -> VolumeInfo:
        return VolumeInfo(self.path.name, self._size, len(self._entries) // ENTRY, self._slots, self._table)

    def has_room(self, stored: int, volume_size: int) -> bool:
        return len(self._entries) < self._slots * ENTRY and self._size + stored <= volume_size

    def append(self, frame: _Packed) -> None:
        self.file.write(frame.data)
        self._entries += frame.entry.emit()
        self._size += len(frame.data)

    def finish(self) -> None:
        """Write the table; the file is synced and closed, for there may be thousands."""
        table = emit_table(self._entries, self._slots)
        self._table = Digest.of(table)
        self.file.write_at(table, plan.first_chunk(0))
        self.file.park()

    def publish(self, header: bytes) -> None:
        self.file.resume()
        self.file.write_at(header, 0)
        self._is_published = True  # from here on it may have its name, even if the folder cannot be synced
        self.file.commit()

    def withdraw(self) -> None:
        """Take the name back: a later volume could not be published."""
        if self._is_published:
            remove_file(self.path)


class _Feed:
    """Reads the sources in order and yields raw frames; knows afterwards which files the stream holds.

    Args:
        sources: The files to read.
        known: The digest of a source where it is known before it is read.
    """

    def __init__(self, sources: Sequence[Source], known: Sequence[Digest | None]) -> None:
        self.files: list[FileInfo] = []
        self.digests: list[Digest] = []
        self._work = list(zip(sources, known, strict=True))
        self._seen: set[Digest] = set()
        self._offset = 0
        self._gathered: list[bytes] = []
        self._gathered_size = 0

    def frames(self) -> Generator[_Raw, None, None]:
        path = ""
        for source, known in self._work:
            path = source.path
            if plan.is_small(source.size):
                yield from self._small(source, known)
            elif known in self._seen:
                self.digests.append(known)
            else:
                yield from self._flush(path)
                yield from self._large(source, known)
        yield from self._flush(path)

    def _small(self, source: Source, known: Digest | None) -> Iterator[_Raw]:
        data = _read_whole(source)
        digest = Digest.of(data)
        _check_digest(source, known, digest)
        if digest not in self._seen and self._gathered_size + len(data) > plan.FRAME:
            yield from self._flush(source.path)
        if digest not in self._seen:
            self._gathered.append(data)
            self._gathered_size += len(data)
        self._record(digest, source.size)

    def _large(self, source: Source, known: Digest | None) -> Iterator[_Raw]:
        digest = hashlib.sha256()
        for data in _read_frames(source):
            digest.update(data)
            yield self._next(data, source.path)
        found = Digest.from_raw(digest.digest())
        _check_digest(source, known, found)
        self._record(found, source.size)

    def _record(self, digest: Digest, size: int) -> None:
        self.digests.append(digest)
        if digest not in self._seen:
            self._seen.add(digest)
            self.files.append(FileInfo(digest, size))

    def _flush(self, path: str) -> Iterator[_Raw]:
        if self._gathered_size:
            data = b"".join(self._gathered)
            self._gathered, self._gathered_size = [], 0
            yield self._next(data, path)

    def _next(self, data: bytes, path: str) -> _Raw:
        frame = _Raw(self._offset, data, path)
        self._offset += len(data)
        return frame


def _encode(frame: _Raw) -> _Packed:
    number, stored = codec.encode(frame.data)
    digest = hashlib.sha256(stored).digest()
    return _Packed(Entry(digest, frame.offset, len(stored), len(frame.data), number), stored, frame.path)


def _cost(frame: _Raw) -> int:
    return 2 * len(frame.data)


def _hash_twins(sources: Sequence[Source], reporter: Reporter) -> list[Digest | None]:
    """Return each source's digest where it is known; large ones that may equal another are read for it."""
    sizes = Counter(source.size for source in sources if not plan.is_small(source.size))
    twins = [source.digest is None and sizes[source.size] > 1 for source in sources]
    if not any(twins):
        return [source.digest for source in sources]
    reporter.start("compare", sum(source.size for source, twin in zip(sources, twins, strict=True) if twin))
    try:
        return [_hash(source, reporter) if twin else source.digest for source, twin in zip(sources, twins, strict=True)]
    finally:
        reporter.finish()


def _hash(source: Source, reporter: Reporter) -> Digest:
    digest = hashlib.sha256()
    for data in _read_frames(source):
        digest.update(data)
        reporter.advance(len(data), source.path)
    return Digest.from_raw(digest.digest())


def _read_frames(source: Source) -> Iterator[bytes]:
    """Yield the bytes of a large source frame by frame, and refuse it when it is shorter or longer than announced."""
    with _opened(source) as stream:
        done = 0
        for length in plan.cuts(source.size):
            data = _read(stream, length)
            done += len(data)
            if len(data) < length:
                raise _changed(source, f"expected {source.size} bytes, found {done}")
            yield data
        if stream.read(1):
            raise _changed(source, f"expected {source.size} bytes, found more")


def _read_whole(source: Source) -> bytes:
    """Return the bytes of a small source."""
    with _opened(source) as stream:
        data = _read(stream, source.size + 1)
    if len(data) != source.size:
        found = "more" if len(data) > source.size else str(len(data))
        raise _changed(source, f"expected {source.size} bytes, found {found}")
    return data


def _read(stream: BinaryIO, length: int) -> bytes:
    """Return `length` bytes, fewer only at the end: streams may return less than they are asked for."""
    data = stream.read(length)
    while data and len(data) < length and (more := stream.read(length - len(data))):
        data += more
    return data


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    try:
        with source.open() as stream:
            yield stream
    except OSError as error:
        raise StorageError(f"cannot read {source.path}: {error.strerror or error}", path=source.path) from error


def _check_digest(source: Source, known: Digest | None, found: Digest) -> None:
    if known is not None and known != found:
        raise _changed(source, f"expected {known}, found {found}")


def _changed(source: Source, what: str) -> IntegrityError:
    return IntegrityError(
        f"{source.path} is not what it was announced as, or changed while it was packed: {what}",
        hint="leave the files alone while they are packed, and run the same command again",
        path=source.path,
    )


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
