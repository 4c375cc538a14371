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

from collections.abc import Container, Generator, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from airpack.errors import IntegrityError
from airpack.formats.package import PackageManifest
from airpack.formats.volume import ENTRY, HEADER, Chunk, Table, parse_table
from airpack.fsops import interruptible
from airpack.transport.delivery import Delivery, NullSink, Sink
from airpack.transport.frames import Bases, Checked, Decoder, Plan, wrong
from airpack.transport.outcome import Outcome, refuse_missing
from airpack.transport.pipeline import Ordered
from airpack.transport.plan import Stream
from airpack.transport.progress import Progress
from airpack.transport.rebuild import Parity
from airpack.transport.repairs import Repairs
from airpack.transport.volumes import Media
from airpack.types import Digest, Reporter, Silent

__all__ = ["Bases", "NullSink", "Outcome", "Sink", "open_media", "unpack", "unpack_all", "unpack_whole"]

_SILENT: Final = Silent()


def open_media(manifest: PackageManifest, payload: Digest, folders: Iterable[Path]) -> Media:
    """Look for the volumes of a package; the caller closes what is returned.

    Args:
        manifest: The signed package manifest.
        payload: Digest of the manifest's signed bytes.
        folders: Where volumes are looked for.
    """
    media = Media(manifest, payload, folders)
    repairs = Repairs(media, payload)
    try:
        media.survey()
        repairs.survey()
        media.rescues += [repairs] if repairs.is_any else []
        media.rescues += [Parity(media)] if any(file.is_there for file in media.parity) else []
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
        return unpack_whole(media, wanted=wanted, sink=sink, bases=bases, reporter=reporter, task=task)


def unpack_whole(
    media: Media,
    *,
    wanted: Container[Digest],
    sink: Sink,
    bases: Bases | None = None,
    reporter: Reporter = _SILENT,
    task: str = "unpack",
) -> Outcome:
    """Do the same from media that are open; afterwards they tell what was mended."""
    refuse_missing(media, [media.volumes[number].name for number in media.hopeless])
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
        reporter: Receives progress in stored bytes, each file by its digest.
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


class _Reading:
    """One reading of media."""

    def __init__(
        self, media: Media, wanted: Container[Digest], sink: Sink, progress: Progress, bases: Bases | None
    ) -> None:
        self._media, self._sink, self._progress = media, sink, progress
        self._manifest = media.manifest
        self._base_sizes = tuple(file.size for file in self._manifest.base_files)
        self._stream = Stream(self._manifest.files, wanted)
        self._delivery = Delivery(self._manifest.files, self._stream, sink, progress)
        self._decoder = Decoder(media, bases)
        self._unread: set[int] = set()
        self._unproven: set[int] = set()
        self._passed = self._told = 0  # stored bytes that earlier runs had read: met so far, and told

    def run(self, reporter: Reporter, workers: int) -> Outcome:
        for position in range(len(self._media.volumes)):
            self._media.check_header(position)
        self._delivery.begin()
        decoder = self._decoder
        with Ordered(self._plans(), decoder.read, decoder.check, cost=_cost, workers=workers) as results:
            for checked in results:
                self._deliver(checked)
                plan = checked.plan
                del checked  # its bytes go before the next is waited for
                self._tell(reporter, plan.frame.stored, plan)
        self._tell(reporter, 0)
        return self._outcome()

    def _tell(self, reporter: Reporter, stored: int, plan: Plan | None = None) -> None:
        """Say what was read, and what was passed over meanwhile because an earlier run had read it."""
        passed = self._passed
        done, self._told = stored + passed - self._told, passed
        if plan is None:
            if done:
                reporter.advance(done)
            return
        files = [self._manifest.files[piece.file] for piece in plan.pieces[-1:]]
        item = str(files[0].digest) if files else ""
        reporter.advance(done, item, self._manifest.volumes[plan.position].name)

    # -- in the reader's thread

    def _plans(self) -> Generator[Plan, None, None]:
        """Go through the volumes in order, and yield all frames that were not verified before."""
        end, is_adjacent = 0, True
        for position, info in enumerate(self._manifest.volumes):
            if self._progress.count(position) == info.entries:
                self._passed += info.data
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
                if self._progress.has(position, frame.chunks[0].number):
                    self._passed += frame.stored
                else:
                    yield Plan(position, frame, self._stream.pieces(frame.offset, frame.size))
            end, is_adjacent = table.end, True

    def _parse(self, position: int, data: bytes) -> Table:
        info = self._manifest.volumes[position]
        try:
            return parse_table(data, entries=info.entries, stored=info.data, bases=self._base_sizes, what="it")
        except IntegrityError as error:
            raise self._wrong(position, str(error), hint=error.hint) from error

    def _check_place(self, position: int, table: Table, end: int, *, is_adjacent: bool) -> None:
        """Refuse a table whose frames do not continue the stream, as far as its neighbours are known."""
        total, is_last = self._stream.total, position + 1 == len(self._manifest.volumes)
        if table.start < end or (is_adjacent and table.start != end):
            reason = f"frames begin at byte {table.start} of the files, {end} must stand there"
            raise self._wrong(position, reason)
        if table.end > total or (is_last and table.end != total):
            raise self._wrong(position, f"frames reach byte {table.end} of the files, which have {total}")

    def _wrong(self, position: int, reason: str, *, hint: str = "") -> IntegrityError:
        place = Chunk(0, b"", HEADER, self._manifest.volumes[position].slots * ENTRY)
        return wrong(self._media, position, f"is signed but wrong: {reason}", place, hint=hint)

    # -- in the calling thread

    def _deliver(self, checked: Checked) -> None:
        """Deliver a frame; what is not as signed is first asked for elsewhere, and else noted as unread."""
        plan = checked.plan
        if checked.bad:
            checked = interruptible(partial(self._decoder.mend, checked))
        if checked.bad or checked.is_lost:
            self._unread.add(plan.position)
            return
        for piece in plan.pieces:
            if checked.data is None:
                self._unproven.add(piece.file)
            else:
                self._delivery.take(piece, plan.frame.offset, checked.data[piece.start : piece.stop])
        if checked.data is not None or not plan.pieces:
            self._sink.settle(plan.position, plan.frame)

    def _outcome(self) -> Outcome:
        media, volumes = self._media, self._manifest.volumes
        needed = set() if self._delivery.is_whole else self._unread
        for position in needed:
            media.check_presence(position)
        ranges = media.damage.ranges
        # Of a volume that is missing, but was had in parts, only the others are needed.
        away = sorted(
            number
            for number in needed - ranges.keys()
            if not media.volumes[number].is_there and number not in media.refused
        )
        return Outcome(
            missing=tuple(volumes[position].name for position in away),
            damaged={volumes[position].name: places for position, places in ranges.items()},
            damage=media.damage,
            dropped=tuple(file.digest for file in self._delivery.dropped),
            unproven=len(self._unproven),
            mended={volumes[position].name: places for position, places in media.mended.ranges.items()},
        )


def _cost(plan: Plan) -> int:
    return plan.cost
