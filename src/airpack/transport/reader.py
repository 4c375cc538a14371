"""Volumes to files: nothing is decoded before its digest matched, nothing is committed before its file's did.

    reader thread: read chunks → pool: SHA-256 of each chunk, then decode → calling thread: sink, SHA-256 of the file

For each volume, in order (docs/spec/package.md section 6):

1. its table has the signed digest, and only then is parsed: bounded, its frames continue where those before ended;
2. each frame that was not verified before is read once into memory; each of its chunks must have the table's digest;
3. a frame that touches a wanted file is decoded from that buffer to exactly its size, and its parts are delivered;
4. a file is committed once all its bytes have the file's signed digest.

What is not there, or not as it was signed, keeps nothing else from being read: it is told at the end, place by place.
What is signed but wrong ends the reading at once.
"""

import hashlib
from collections.abc import Callable, Container, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from airpack.errors import IntegrityError
from airpack.formats.package import PackageManifest
from airpack.formats.volume import HEADER, PREFIX, Chunk, Codec, Frame, Table, parse_table
from airpack.fsops import interruptible
from airpack.transport import codec, plan
from airpack.transport.damage import Finding, Kind
from airpack.transport.delivery import Delivery, NullSink, Sink
from airpack.transport.outcome import Outcome, refuse_missing
from airpack.transport.pipeline import ordered
from airpack.transport.progress import Progress
from airpack.transport.volumes import Media
from airpack.types import Digest, Reporter, Silent

__all__ = ["Bases", "NullSink", "Outcome", "Sink", "open_media", "unpack", "unpack_all"]

Bases = Callable[[int, int, int], bytes]
"""Returns bytes of a base file: its number in the manifest from 1, offset and length in bytes."""

_SILENT: Final = Silent()


def open_media(manifest: PackageManifest, payload: Digest, folders: Iterable[Path]) -> Media:
    """Look for the volumes of a package; the caller closes what is returned.

    Args:
        manifest: The signed package manifest.
        payload: Digest of the manifest's signed bytes.
        folders: Where volumes are looked for.
    """
    media = Media(manifest, payload, folders)
    try:
        media.survey()
    except BaseException:
        media.close()
        raise
    return media


def unpack_all(
    manifest: PackageManifest,
    payload: Digest,
    folders: Iterable[Path],
    *,
    wanted: Container[Digest],
    sink: Sink,
    bases: Bases | None = None,
    reporter: Reporter = _SILENT,
    task: str = "unpack",
) -> Outcome:
    """Deliver the wanted files to `sink`, every byte verified, and take nothing less than the whole package.

    Every chunk of every volume then had its signed digest. The arguments are those of `open_media` and `unpack`.

    Raises:
        IntegrityError: Anything in a volume is not what was signed.
        PartialError: Volumes are missing; then nothing is read.
        StorageError: The medium cannot be read.
        Exception: Whatever `sink` raises.
    """
    with open_media(manifest, payload, folders) as media:
        if not media.rescues:
            missing = [number for number in media.missing if number not in media.refused]
            refuse_missing(media, [media.volumes[number].name for number in missing])
        outcome = unpack(media, wanted=wanted, sink=sink, bases=bases, reporter=reporter, task=task)
        outcome.refuse(media)
        return outcome


def unpack(
    media: Media,
    *,
    wanted: Container[Digest],
    sink: Sink,
    progress: Progress | None = None,
    bases: Bases | None = None,
    reporter: Reporter = _SILENT,
    workers: int = 2,
    task: str = "unpack",
) -> Outcome:
    """Deliver the wanted files to `sink`, as far as the media have them, every byte verified.

    Frames that touch no wanted file are hashed, but not decoded: a medium is either as it was signed or found damaged,
    whatever a site holds already (ADR 6).

    Args:
        media: The volumes, surveyed.
        wanted: Digests of the files to deliver; digests that the package does not list are not looked for.
        sink: Takes the files.
        progress: Frames that earlier runs have verified and delivered; they are not read again.
        bases: Gives bytes of base files, whose digests were checked; None where they are not at hand: then frames that
            build on them are hashed, but not decoded.
        reporter: Receives progress in stored bytes.
        workers: Threads that verify and decode, at least 1.
        task: What `reporter` is told is being done.

    Raises:
        IntegrityError: Something is signed, but wrong: a table, a frame that does not decode, a file's digest.
        Exception: Whatever `sink` raises.
    """
    reading = _Reading(media, wanted, sink, progress or Progress(), bases)
    reporter.start(task, sum(info.data for info in media.manifest.volumes))
    try:
        return reading.run(reporter, workers)
    finally:
        reporter.finish()


@dataclass(frozen=True, slots=True)
class _Job:
    """A frame as read, and which parts of it are wanted.

    Attributes:
        position: The volume's place in the manifest.
        frame: What it must be.
        stored: Its stored bytes; None where they could not be had at all.
        pieces: The parts of wanted files, none where it is only hashed.
    """

    position: int
    frame: Frame
    stored: bytearray | None
    pieces: list[plan.Piece]


@dataclass(frozen=True, slots=True)
class _Checked:
    """What became of a job: the bytes of the frame where they are wanted, or the chunks that are not as signed."""

    job: _Job
    data: memoryview | None
    bad: tuple[int, ...] = ()


class _Reading:
    """One reading of media."""

    def __init__(
        self, media: Media, wanted: Container[Digest], sink: Sink, progress: Progress, bases: Bases | None
    ) -> None:
        self._media, self._sink, self._progress, self._bases = media, sink, progress, bases
        self._manifest = media.manifest
        self._base_sizes = tuple(file.size for file in self._manifest.base_files)
        self._stream = plan.Stream(self._manifest.files, wanted)
        self._delivery = Delivery(self._manifest.files, self._stream, sink, progress)
        self._unread: set[int] = set()
        self._unproven: set[int] = set()

    def run(self, reporter: Reporter, workers: int) -> Outcome:
        for position in range(len(self._media.volumes)):
            self._media.check_header(position)
        self._delivery.begin()
        with closing(ordered(self._jobs(), self._check, cost=_cost, workers=workers)) as results:
            for checked in results:
                self._deliver(self._repaired(checked))
                job = checked.job
                reporter.advance(job.frame.stored, self._manifest.volumes[job.position].name)
        return self._outcome()

    # -- in the reader's thread

    def _jobs(self) -> Generator[_Job, None, None]:
        """Read the volumes in order and yield all frames that were not verified before."""
        end, is_adjacent = 0, True
        for position, info in enumerate(self._manifest.volumes):
            if self._progress.count(position) == info.entries:
                is_adjacent = False
                continue
            data = self._media.table(position)
            if data is None:
                self._unread.add(position)
                is_adjacent = False
                continue
            table = self._parse(position, data)
            self._check_place(position, table, end, is_adjacent=is_adjacent)
            for frame in table.frames():
                if not self._progress.has(position, frame.chunks[0].number):
                    pieces = self._stream.pieces(frame.offset, frame.size)
                    yield _Job(position, frame, self._read(position, frame), pieces)
            end, is_adjacent = table.end, True

    def _parse(self, position: int, data: bytes) -> Table:
        info = self._manifest.volumes[position]
        try:
            return parse_table(data, entries=info.entries, stored=info.data, bases=self._base_sizes, what="it")
        except IntegrityError as error:
            raise self._wrong_table(position, str(error), hint=error.hint) from error

    def _check_place(self, position: int, table: Table, end: int, *, is_adjacent: bool) -> None:
        """Refuse a table whose frames do not continue the stream, as far as its neighbours are known."""
        total, is_last = self._stream.total, position + 1 == len(self._manifest.volumes)
        if table.start < end or (is_adjacent and table.start != end):
            reason = f"frames begin at byte {table.start} of the files, {end} must stand there"
            raise self._wrong_table(position, reason)
        if table.end > total or (is_last and table.end != total):
            raise self._wrong_table(position, f"frames reach byte {table.end} of the files, which have {total}")

    def _wrong_table(self, position: int, reason: str, *, hint: str = "") -> IntegrityError:
        info = self._manifest.volumes[position]
        place = Chunk(0, b"", HEADER, info.size - info.data - HEADER)
        return self._wrong(position, f"is signed but wrong: {reason}", place, hint=hint)

    def _read(self, position: int, frame: Frame) -> bytearray | None:
        """Return the stored bytes of a frame as the first copy has them, or as rescues do where there is none."""
        if frame.codec is Codec.BASE:
            return bytearray()
        if self._media.volumes[position].is_there:
            return self._media.read(position, frame.chunks)
        found = [self._media.chunk(position, chunk) for chunk in frame.chunks]
        return None if None in found else bytearray().join(part for part in found if part is not None)

    # -- in the pool

    def _check(self, job: _Job) -> _Checked:
        """Compare each chunk's digest, and only then decode the frame."""
        if job.stored is None:
            return _Checked(job, None)
        if job.frame.codec is not Codec.BASE and (bad := _differing(job.frame, job.stored)):
            return _Checked(job, None, bad)
        return _Checked(job, self._decode(job, job.stored))

    def _decode(self, job: _Job, stored: bytearray) -> memoryview | None:
        """Return the frame in `stored`, each chunk of which has its digest; None where it is not wanted."""
        frame = job.frame
        if not job.pieces or (frame.codec.has_base and self._bases is None):
            return None
        try:
            if frame.codec is Codec.BASE:
                return self._base_range(frame)
            return memoryview(codec.decode(frame.codec, stored, frame.size))
        except IntegrityError as error:
            raise self._wrong(job.position, f"is not what the table says: {error}", *frame.chunks) from error

    def _base_range(self, frame: Frame) -> memoryview:
        """Return a frame of which nothing is stored."""
        data = self._base(frame, frame.size)
        if hashlib.sha256(data).digest() != frame.chunks[0].digest:
            raise IntegrityError("the range of the base file has another digest")
        return memoryview(data)

    def _prefix(self, frame: Frame) -> int:
        """Return how many bytes of its base file a frame builds on."""
        if frame.codec is Codec.PATCH:
            return min(PREFIX, self._base_sizes[frame.base - 1] - frame.base_offset)
        return frame.size

    def _base(self, frame: Frame, length: int) -> bytes:
        assert self._bases is not None
        return self._bases(frame.base, frame.base_offset, length)

    # -- in the calling thread

    def _repaired(self, checked: _Checked) -> _Checked:
        """Ask other sources for the chunks that are not as signed; where all are had, decode the frame."""
        job = checked.job
        if not checked.bad or job.stored is None:
            return checked
        at = 0
        for number, chunk in enumerate(job.frame.chunks):
            if number in checked.bad:
                data = interruptible(lambda: self._media.chunk(job.position, chunk, was_read=True))  # noqa: B023, at once
                if data is not None:
                    job.stored[at : at + chunk.stored] = data
            at += chunk.stored
        return self._check(job)

    def _deliver(self, checked: _Checked) -> None:
        job, data = checked.job, checked.data
        if checked.bad or job.stored is None:
            self._unread.add(job.position)
        elif data is None and job.pieces:
            self._unproven.update(piece.file for piece in job.pieces)
        else:
            for piece in job.pieces:
                assert data is not None, "what is wanted was decoded"
                self._delivery.take(piece, job.frame.offset, data[piece.start : piece.stop])
            self._sink.settle(job.position, job.frame)

    def _outcome(self) -> Outcome:
        media, volumes = self._media, self._manifest.volumes
        needed = set() if self._delivery.is_whole else self._unread
        for position in needed:
            media.check_presence(position)
        ranges = media.damage.ranges
        away = {number for number in needed if not media.volumes[number].is_there and number not in media.refused}
        return Outcome(
            missing=tuple(volumes[position].name for position in sorted(away)),
            damaged={volumes[position].name: places for position, places in ranges.items() if position not in away},
            damage=media.damage,
            dropped=tuple(file.digest for file in self._delivery.dropped),
            unproven=len(self._unproven),
        )

    def _wrong(self, position: int, what: str, *chunks: Chunk, hint: str = "") -> IntegrityError:
        """Return the error that neighbouring chunks are as signed, but wrong; number 0 is the table."""
        volume, first, last = self._media.volumes[position], chunks[0], chunks[-1]
        length = last.offset + last.stored - first.offset
        numbers = f"chunk {first.number}" + (f" to {last.number}" if last is not first else "")
        part = f"{numbers} of {self._manifest.volumes[position].entries}" if first.number else "chunk table"
        path = next((copy.path for copy in volume.copies), self._media.folders[0] / volume.name)
        line = f"volume {path}: {part}, bytes {first.offset} to {first.offset + length}, {what}"
        finding = Finding(
            position, first.offset, length, Kind.DAMAGED, line, path, volume.name, chunk=first.number, hint=hint
        )
        error = finding.error()
        assert isinstance(error, IntegrityError)
        return error


def _differing(frame: Frame, stored: bytearray) -> tuple[int, ...]:
    """Return which of the frame's chunks do not have their digest, counted from 0."""
    at, view, bad = 0, memoryview(stored), []
    for number, chunk in enumerate(frame.chunks):
        if hashlib.sha256(view[at : at + chunk.stored]).digest() != chunk.digest:
            bad.append(number)
        at += chunk.stored
    return tuple(bad)


def _cost(job: _Job) -> int:
    return job.frame.stored + job.frame.size
