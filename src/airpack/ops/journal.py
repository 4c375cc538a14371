"""The journal of a quarantine, kept while an import reads: see docs/spec/journal.md and ADR 16.

A record is written when the bytes of its frame are, so a kill loses neither. A power cut may lose both, or the bytes
alone: after one, only what a later record calls synced counts. And whatever it says, each file is hashed as a whole
before it is used.
"""

import os
import threading
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from airpack import fsops
from airpack.errors import IntegrityError, NotFoundError, StorageError
from airpack.formats import journal as form
from airpack.formats.journal import HEADER, RECORD, Kind, Record
from airpack.formats.package import PackageManifest
from airpack.formats.volume import Frame
from airpack.transport.progress import Progress
from airpack.types import Digest

NAME: Final = "journal"

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_BLOCK: Final = 2048 * RECORD  # bytes read at once


def this_boot() -> bytes:
    """Return what tells this start of the machine from every other; where nothing does, each call is another one."""
    try:
        return uuid.UUID(_BOOT_ID.read_text(encoding="ascii").strip()).bytes
    except (OSError, ValueError):
        return uuid.uuid4().bytes


def read_progress(folder: Path, manifest: PackageManifest, package: Digest) -> Progress:
    """Return the frames of a package that the quarantine `folder` has; nothing is changed there.

    Args:
        folder: The quarantine, which may not exist.
        manifest: The signed package manifest.
        package: Digest of its signed bytes.
    """
    return _Past(folder / NAME, manifest, package).progress()


class Journal:
    """The journal in one quarantine folder, opened for a run.

    Args:
        folder: The quarantine.
        manifest: The signed package manifest.
        package: Digest of its signed bytes.

    Attributes:
        progress: The frames that need not be read again.
        count: Records that it holds.
    """

    def __init__(self, folder: Path, manifest: PackageManifest, package: Digest) -> None:
        self._path = folder / NAME
        self._manifest, self._package = manifest, package
        self._header = form.emit_header(package)
        self._seed = form.seed_of(self._header)
        self._lock = threading.Lock()  # marks are set by whoever synced, in a thread of its own
        self._open()

    def _open(self) -> None:
        past = _Past(self._path, self._manifest, self._package)
        self.progress, self.count = past.progress(), past.count
        self._file = fsops.GrowingFile(self._path, at=HEADER + past.count * RECORD if past.count else 0)
        if not past.count:
            self._file.append(self._header)
        self._append(Record(Kind.START, boot=this_boot()))

    def add(self, position: int, frame: Frame) -> None:
        """Note a frame whose chunks had their digests and whose wanted bytes are written.

        Args:
            position: The volume's place in the manifest, from 0.
            frame: The frame.
        """
        first = frame.chunks[0].number
        self._append(Record(Kind.FRAME, len(frame.chunks), position + 1, first, frame.offset, frame.size))

    def mark(self, records: int) -> None:
        """Note, durably, that the bytes of all frames among the first `records` are durable."""
        self._append(Record(Kind.SYNCED, offset=records))
        self._file.sync()

    def forget(self, spans: Sequence[tuple[int, int]]) -> None:
        """Drop the frames that touch any of the ranges (start and stop) of the stream: they are to be read again."""
        self._file.close()
        past, merged = _Past(self._path, self._manifest, self._package), merge(spans)
        kept = [
            (number < past.durable, record)
            for number, record in past.frames()
            if not touches(merged, record.offset, record.offset + record.size)
        ]
        durable = [record for is_durable, record in kept if is_durable]
        records = [
            Record(Kind.START, boot=this_boot()),
            *durable,
            Record(Kind.SYNCED, offset=1 + len(durable)),
            *(record for is_durable, record in kept if not is_durable),
        ]
        with fsops.NewFile(self._path, mode=0o600) as new:
            new.write(self._header + b"".join(record.emit(self._seed) for record in records))
            new.commit()
        self._open()

    def close(self) -> None:
        """Close it; it stays until the quarantine goes."""
        self._file.close()

    def _append(self, record: Record) -> None:
        with self._lock:
            self._file.append(record.emit(self._seed))
            self.count += 1


class _Past:
    """What earlier runs left in a journal.

    Attributes:
        count: Records that hold together; 0 where it is not the journal of this package, or there is none.
        durable: All frames among so many first records were synced.
    """

    def __init__(self, path: Path, manifest: PackageManifest, package: Digest) -> None:
        self._path, self._manifest = path, manifest
        self._header = form.emit_header(package)
        self._seed = form.seed_of(self._header)
        self._lost: list[tuple[int, int]] = []  # ranges of records whose frames a power cut may have taken
        self.count = self.durable = 0
        if self._begins_well():
            self._weigh()

    def progress(self) -> Progress:
        """Return the frames that still count."""
        progress = Progress()
        for _, record in self.frames():
            progress.add(record.volume - 1, record.chunk, record.parts, record.offset, record.size)
        return progress

    def frames(self) -> Iterator[tuple[int, Record]]:
        """Yield the frames that still count, with the numbers of their records from 0."""
        for number, record in zip(range(self.count), self._records(), strict=False):
            if record.kind is Kind.FRAME and not any(start <= number < stop for start, stop in self._lost):
                yield number, record

    def _begins_well(self) -> bool:
        try:
            return fsops.read_start(self._path, HEADER) == self._header
        except (NotFoundError, IntegrityError):
            return False

    def _weigh(self) -> None:
        """Find out which of the records still count."""
        boot = b""
        for record in self._records():
            if record.kind is Kind.START:
                self._lose(boot, record.boot)
                boot = record.boot
            elif record.kind is Kind.SYNCED:
                self.durable = max(self.durable, min(record.offset, self.count))
            elif not self._is_possible(record):
                break
            self.count += 1
        self._lose(boot, this_boot())

    def _lose(self, before: bytes, after: bytes) -> None:
        """Between two starts of the machine, what was not synced was lost."""
        if before != after and self.durable < self.count:
            self._lost.append((self.durable, self.count))

    def _is_possible(self, record: Record) -> bool:
        """Return whether the package has such a frame, as far as its manifest tells."""
        volumes = self._manifest.volumes
        return (
            0 < record.volume <= len(volumes)
            and min(record.chunk, record.parts, record.size) > 0
            and record.chunk + record.parts - 1 <= volumes[record.volume - 1].entries
            and record.offset + record.size <= self._manifest.total
        )

    def _records(self) -> Iterator[Record]:
        return form.parse_records(self._blocks(), self._seed)

    def _blocks(self) -> Iterator[bytes]:
        descriptor = fsops.open_regular(self._path)
        try:
            at = HEADER
            while block := os.pread(descriptor, _BLOCK, at):
                yield block
                at += len(block)
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror}", path=str(self._path)) from error
        finally:
            fsops.close_read(descriptor)


def merge(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges (start and stop) in order, those that touch made one."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        else:
            merged.append((start, stop))
    return merged


def touches(merged: Sequence[tuple[int, int]], start: int, stop: int) -> bool:
    """Return whether the range from `start` to `stop` has a byte in common with any of the ranges `merge` returned."""
    if start >= stop:
        return False
    place = bisect_right(merged, (start, 1 << 64)) - 1
    return (place >= 0 and merged[place][1] > start) or (place + 1 < len(merged) and merged[place + 1][0] < stop)
