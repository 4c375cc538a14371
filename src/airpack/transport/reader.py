"""Volumes to files: nothing is decoded before its digest matched, nothing is committed before its file's did.

    reader thread: read chunks → pool: SHA-256 of each chunk, then decode → calling thread: SHA-256 of the file, sink

For each volume, in order (docs/spec/package.md section 6):

1. a regular file of exactly the signed size, opened once and never through a link;
2. its header is byte for byte the one that the signed manifest implies;
3. its table has the signed digest, and only then is parsed: bounded, its frames continue where the last volume's
   ended;
4. each frame that touches a wanted file is read once into memory; each of its chunks must have the table's digest;
5. the frame is decoded from that buffer to exactly its size, and the wanted parts are delivered in stream order;
6. a file is committed once all its bytes have the file's signed digest.

Errors name the volume, the chunk (from 1) and its bytes in the volume file.
"""

import hashlib
import os
from collections.abc import Container, Generator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from airpack.errors import AirpackError, IntegrityError, NotFoundError, PartialError, StorageError
from airpack.formats.package import FileInfo, PackageManifest, VolumeInfo
from airpack.formats.volume import ENTRY, HEADER, Chunk, Frame, Header, Table, parse_table
from airpack.fsops import close_read, interruptible, open_regular
from airpack.transport import codec, plan
from airpack.transport.pipeline import Ordered
from airpack.types import Digest, Reporter, Silent

_COPY_AGAIN = "copy this volume again from where the package was built, and run the same command again"
_NAMED = 20  # missing volumes named in one message
_SILENT: Final = Silent()


class FileSink(Protocol):
    """Takes the bytes of one file."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes; `data` is only valid during the call."""

    def commit(self) -> None:
        """All bytes were written and have the signed digest."""

    def abort(self) -> None:
        """The file will not be completed. Follows a failed `write` or `commit` too."""


class Sink(Protocol):
    """Takes files, one after the other."""

    def begin(self, file: FileInfo) -> FileSink:
        """Begin `file`; the one before was committed."""


class NullSink:
    """A `Sink` and `FileSink` that keeps nothing: `unpack` into it verifies."""

    def begin(self, file: FileInfo) -> Self:  # noqa: ARG002 -- the protocol's signature
        """Begin nothing."""
        return self

    def write(self, data: memoryview) -> None:
        """Drop `data`."""

    def commit(self) -> None:
        """Keep nothing."""

    def abort(self) -> None:
        """Nothing to remove."""


def check_volumes(manifest: PackageManifest, folder: Path) -> None:
    """Check that every volume is there, regular, and of its signed size; nothing is read.

    Args:
        manifest: The signed package manifest.
        folder: Where the volumes lie.

    Raises:
        IntegrityError: A volume is a link, a device or a pipe, or has another size.
        PartialError: Volumes are missing; the context has the list `missing`.
        StorageError: The medium cannot be read.
    """
    missing = interruptible(lambda: _missing(manifest, folder))
    if missing:
        shown = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
        raise PartialError(
            f"{len(missing)} of {len(manifest.volumes)} volumes are missing in {folder}: {shown}",
            hint="put them beside the head file and run the same command again",
            path=str(folder),
            missing=missing,
        )


def _missing(manifest: PackageManifest, folder: Path) -> list[str]:
    """Return the names of volumes that are not there; each of the others is opened once."""
    missing = []
    for info in manifest.volumes:
        try:
            with _Volume(folder, info):
                pass
        except NotFoundError:
            missing.append(info.name)
    return missing


def unpack(
    manifest: PackageManifest,
    payload_digest: Digest,
    folder: Path,
    *,
    wanted: Container[Digest],
    sink: Sink,
    reporter: Reporter = _SILENT,
    workers: int = 2,
    task: str = "unpack",
) -> None:
    """Deliver the wanted files to `sink`, in stream order, every byte verified.

    When this returns, every chunk of every volume had its signed digest, and each wanted file of the manifest was
    committed once. Frames that touch no wanted file are hashed, but not decoded: a medium is either as it was signed or
    refused, whatever a site holds already.

    Args:
        manifest: The signed package manifest.
        payload_digest: Digest of the manifest's signed bytes.
        folder: Where the volumes lie.
        wanted: Digests of the files to deliver; digests that the package does not list are not looked for.
        sink: Takes the files.
        reporter: Receives progress in stored bytes.
        workers: Threads that verify and decode, at least 1.
        task: What `reporter` is told is being done.

    Raises:
        IntegrityError: Anything in a volume is not what was signed.
        PartialError: Volumes are missing.
        StorageError: The medium cannot be read.
        Exception: Whatever `sink` raises.
    """
    check_volumes(manifest, folder)
    stream = plan.Stream(manifest.files, wanted)
    reporter.start(task, sum(info.data for info in manifest.volumes))
    delivery = _Delivery(manifest.files, sink)
    plans = _plans(manifest, payload_digest, folder, stream)
    try:
        for number in stream.wanted:
            if manifest.files[number].size == 0:
                delivery.take(number, memoryview(b""))
        with Ordered(plans, _read, _decode, cost=_cost, workers=workers) as frames:
            for frame in frames:
                for piece in frame.pieces:
                    delivery.take(piece.file, frame.data[piece.start : piece.stop])
                reporter.advance(frame.stored, frame.volume)
    finally:
        delivery.abort()
        reporter.finish()


@dataclass(frozen=True, slots=True)
class _Plan:
    """A frame to be read: where it lies, what it must be, and which parts of it are wanted."""

    volume: "_Volume"
    frame: Frame
    pieces: list[plan.Piece]


@dataclass(frozen=True, slots=True)
class _Job:
    """A frame as read: what was planned, and its stored bytes."""

    plan: _Plan
    stored: bytearray


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A frame's verified bytes, as far as they are wanted, and which parts of them are."""

    volume: str
    stored: int
    data: memoryview
    pieces: list[plan.Piece]


def _plans(
    manifest: PackageManifest, payload_digest: Digest, folder: Path, stream: plan.Stream
) -> Generator[_Plan, None, None]:
    """Open the volumes in order and yield all their frames."""
    start = 0
    for position, info in enumerate(manifest.volumes):
        with _Volume(folder, info) as volume:
            volume.check_header(manifest.header(payload_digest, position))
            table = volume.read_table(start, stream.total, is_last=position + 1 == len(manifest.volumes))
            for frame in table.frames():
                yield _Plan(volume, frame, stream.pieces(frame.offset, frame.size))
            start = table.end


def _read(plan: _Plan) -> _Job:
    return _Job(plan, plan.volume.read_frame(plan.frame))


def _decode(job: _Job) -> _Decoded:
    """Compare each chunk's digest, and only then decode the frame."""
    volume, frame, pieces = job.plan.volume, job.plan.frame, job.plan.pieces
    at, view = 0, memoryview(job.stored)
    for chunk in frame.chunks:
        if hashlib.sha256(view[at : at + chunk.stored]).digest() != chunk.digest:
            raise volume.error(IntegrityError, "does not have its signed digest", chunk, hint=_COPY_AGAIN)
        at += chunk.stored
    if not pieces:
        return _Decoded(volume.info.name, len(job.stored), memoryview(b""), [])
    try:
        data = codec.decode(frame.codec, job.stored, frame.size)
    except IntegrityError as error:
        raise volume.error(IntegrityError, f"is not what the table says: {error}", *frame.chunks) from error
    return _Decoded(volume.info.name, len(job.stored), memoryview(data), pieces)


def _cost(plan: _Plan) -> int:
    return plan.frame.stored + plan.frame.size


class _Volume:
    """One open volume file of the signed size.

    Raises:
        NotFoundError: It is not there.
        IntegrityError: It is no regular file, or has another size.
        StorageError: It cannot be opened.
    """

    def __init__(self, folder: Path, info: VolumeInfo) -> None:
        self.info = info
        self.path = folder / info.name
        self._descriptor = open_regular(self.path)
        try:
            size = os.fstat(self._descriptor).st_size
        except OSError as error:
            close_read(self._descriptor)
            raise StorageError(f"cannot look at {self.path}: {error.strerror}", volume=info.name) from error
        if size != info.size:
            close_read(self._descriptor)
            state = "it was cut short" if size < info.size else "it has trailing data"
            raise IntegrityError(
                f"volume {self.path} has {size} bytes, expected {info.size}: {state}, or belongs to another package",
                hint=_COPY_AGAIN,
                path=str(self.path),
                volume=info.name,
                expected=info.size,
                found=size,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close_read(self._descriptor)

    def check_header(self, expected: Header) -> None:
        """Compare the header with the one that the manifest implies.

        Raises:
            IntegrityError: It is another one.
        """
        place = Chunk(0, b"", 0, HEADER)
        found = bytes(self._read(place))
        if found == expected.emit():
            return
        try:
            reason = _difference(Header.parse(found, what="it"), expected)
        except IntegrityError as error:
            reason = f"is damaged: {error}"
        raise self.error(IntegrityError, reason, place, hint="bring the volumes that were made with this head")

    def read_table(self, start: int, total: int, *, is_last: bool) -> Table:
        """Return the chunk table.

        Args:
            start: Where its frames must begin in the stream, in bytes.
            total: Length of the stream in bytes.
            is_last: Whether its frames must reach the end of the stream.

        Raises:
            IntegrityError: Its digest is not the signed one, or it says what cannot be.
        """
        info, place = self.info, Chunk(0, b"", HEADER, self.info.slots * ENTRY)
        data = bytes(self._read(place))
        if Digest.of(data) != info.table:
            raise self.error(IntegrityError, "does not have its signed digest", place, hint=_COPY_AGAIN)
        try:
            table = parse_table(data, entries=info.entries, stored=info.data, what="it")
        except IntegrityError as error:
            raise self.error(IntegrityError, f"is signed but wrong: {error}", place, hint=error.hint) from error
        if table.start != start:
            reason = f"is signed but wrong: frames begin at byte {table.start} of the files, {start} must stand there"
            raise self.error(IntegrityError, reason, place)
        if table.end > total or (is_last and table.end != total):
            reason = f"is signed but wrong: frames reach byte {table.end} of the files, which have {total}"
            raise self.error(IntegrityError, reason, place)
        return table

    def read_frame(self, frame: Frame) -> bytearray:
        """Return the stored bytes of all chunks of `frame`, read once."""
        return self._read(*frame.chunks)

    def _read(self, *chunks: Chunk) -> bytearray:
        """Return the bytes of neighbouring chunks."""
        data = bytearray(sum(chunk.stored for chunk in chunks))
        view, done = memoryview(data), 0
        for chunk in chunks:
            end = done + chunk.stored
            while done < end:
                done += self._read_some(view[done:end], chunks[0].offset + done, chunk)
        return data

    def _read_some(self, into: memoryview, offset: int, chunk: Chunk) -> int:
        try:
            count = os.preadv(self._descriptor, [into], offset)
        except OSError as error:
            raise self.error(StorageError, f"cannot be read: {error.strerror}", chunk, hint=_COPY_AGAIN) from error
        if count == 0:
            raise self.error(StorageError, "is gone: the file became shorter while it was read", chunk)
        return count

    def error(self, kind: type[AirpackError], what: str, *chunks: Chunk, hint: str = "") -> AirpackError:
        """Return an error that names the place of neighbouring `chunks`; number 0 is the header or the table."""
        first, last = chunks[0], chunks[-1]
        length = last.offset + last.stored - first.offset
        numbers = f"chunk {first.number}" + (f" to {last.number}" if last is not first else "")
        part = f"{numbers} of {self.info.entries}" if first.number else ("chunk table" if first.offset else "header")
        context: dict[str, Any] = {"path": str(self.path), "volume": self.info.name, "chunk": first.number}
        return kind(
            f"volume {self.path}: {part}, bytes {first.offset} to {first.offset + length}, {what}",
            hint=hint,
            offset=first.offset,
            length=length,
            **context,
        )


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


class _Delivery:
    """Hands bytes to file sinks, one file at a time, and commits each file whose digest holds."""

    def __init__(self, files: tuple[FileInfo, ...], sink: Sink) -> None:
        self._files, self._sink = files, sink
        self._open: FileSink | None = None
        self._digest = hashlib.sha256()
        self._done = 0

    def take(self, number: int, data: memoryview) -> None:
        """Deliver the next bytes of file `number`; frames come in order, so the file before is complete."""
        file = self._files[number]
        if self._open is None:
            self._open, self._done, self._digest = self._sink.begin(file), 0, hashlib.sha256()
        self._digest.update(data)
        self._open.write(data)
        self._done += len(data)
        if self._done == file.size:
            self._complete(file, self._open)

    def _complete(self, file: FileInfo, sink: FileSink) -> None:
        found = Digest.from_raw(self._digest.digest())
        if found != file.digest:
            raise IntegrityError(
                f"a file of the package has digest {found}, expected {file.digest}: its chunks are as signed, so the "
                "package itself is wrong",
                hint="ask the builder for a new package",
                digest=str(file.digest),
                found=str(found),
            )
        sink.commit()
        self._open = None

    def abort(self) -> None:
        """Abort the file in hand, if any."""
        if self._open is not None:
            sink, self._open = self._open, None
            sink.abort()
