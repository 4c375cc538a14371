"""Parity volumes: any damage that touches at most N volumes in each row of their group can be undone.

    row r of a group = bytes [128 + r MiB, 128 + (r + 1) MiB) of each of its data volumes, zeros beyond a volume's end
    parity bytes of that row = Reed-Solomon over them, byte by byte (docs/spec/package.md section 7)

This is the only home of zfec. Its code is systematic: shares 0 to k - 1 are the data itself, the rest is parity.

1. Parity is made of volumes that are finished. What is read back for it must have the digests that the volumes' tables
   say: bytes that the disk changed meanwhile never become parity, they end the build.
2. Memory is bounded: all volumes of a group are read side by side, a slice of each at a time.
3. Rows have digests, so that a reader knows which parity to trust. They stand before and behind the parity bytes,
   because without them the whole volume would be of little use.
"""

import hashlib
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import zfec

from airpack.errors import InputError, IntegrityError, StorageError
from airpack.formats.package import GROUP, ParityGroup, ParityInfo, VolumeInfo, parity_headers_of, parity_size
from airpack.formats.volume import ENTRY, HEADER, ROW, ROW_DIGEST, read_places
from airpack.fsops import NewFile, close_read
from airpack.transport.pipeline import Ordered
from airpack.transport.unsealed import Unsealed
from airpack.types import Digest, Limits, Reporter, Silent

MOST: Final = 128  # parity volumes for each group: half of what a group may have

_STRIPE: Final = 4 << 20  # bytes of all slices that are in memory as one job
_BUDGET: Final = 24 << 20  # bytes of all jobs
_SMALLEST: Final = 16 << 10  # bytes of a slice: what 256 volumes leave
_ENTRIES: Final = 64  # table entries of a volume in memory at once
_SILENT: Final = Silent()


# --- arithmetic -------------------------------------------------------------------------------------------------------


def group_sizes(volumes: int, parity: int) -> list[int]:
    """Return how many data volumes each group has: as few groups as can be, as even as can be.

    Args:
        volumes: Data volumes of the package.
        parity: Parity volumes for each group, at least 1.
    """
    groups = -(-volumes // (GROUP - parity))
    bounds = [volumes * number // groups for number in range(groups + 1)] if groups else []
    return [end - start for start, end in pairwise(bounds)]


def largest_data(volume_size: int) -> int:
    """Return the largest length of a data volume whose parity volume has at most `volume_size` bytes."""
    whole, rest = divmod(volume_size - HEADER, ROW + 2 * ROW_DIGEST)
    return HEADER + whole * ROW + max(rest - 2 * ROW_DIGEST, 0)


def slice_size(shares: int) -> int:
    """Return how many bytes of each of `shares` volumes are held at once: a power of two that divides a row."""
    size = ROW
    while size > _SMALLEST and size * shares > _STRIPE:
        size //= 2
    return size


class Code:
    """The Reed-Solomon code of one group.

    Args:
        data: Data volumes, k.
        parity: Parity volumes.
    """

    def __init__(self, data: int, parity: int) -> None:
        self.data, self.parity, self.shares = data, parity, data + parity
        self._encoder = zfec.Encoder(data, data + parity)
        self._decoder = zfec.Decoder(data, data + parity)

    def encode(self, slices: Sequence[bytes | bytearray]) -> list[bytes]:
        """Return the parity of `slices`, one for each data volume, all of one length."""
        return list(self._encoder.encode(tuple(slices), tuple(range(self.data, self.data + self.parity))))

    def decode(self, shares: dict[int, bytes | bytearray], wanted: int) -> bytes | bytearray:
        """Return share `wanted` of the data, from exactly k `shares` of one length, by their numbers.

        Whether they are right is not known here: the result is as good as they are.
        """
        spare = iter(sorted(number for number in shares if number >= self.data))
        # zfec moves shares into their places in the sequences that it is given; here each stands there already.
        numbers = [number if number in shares else next(spare) for number in range(self.data)]
        result: list[bytes | bytearray] = self._decoder.decode([shares[number] for number in numbers], numbers)
        return result[wanted]


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stripe:
    """A slice of each data volume of a group, as read back and compared; `done` of all these bytes are the volumes'."""

    code: Code
    slices: list[bytearray]
    done: int


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The parity of a stripe."""

    parts: list[bytes]
    done: int


class ParityWriter:
    """Writes the parity volumes of one package over its finished volumes. Leaving it without `seal` removes them.

    Args:
        out: Folder of the package, which exists.
        name: Package name; parity volumes are `NAME.p01.airvol` and so on.
        parity: Parity volumes for each group, from 1 to `MOST`.
        workers: Threads that encode, at least 1.
        reporter: Receives progress in bytes of data volumes.

    Attributes:
        groups: What was encoded, for the manifest that is then signed.
    """

    def __init__(self, out: Path, name: str, parity: int, *, workers: int = 2, reporter: Reporter = _SILENT) -> None:
        self._out, self._name, self._parity = out, name, parity
        self._workers, self._reporter = workers, reporter
        self._stack = ExitStack()
        self._volumes: list[_ParityVolume] = []
        self.groups: tuple[ParityGroup, ...] = ()
        self._is_sealed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if not self._is_sealed:
            for volume in self._volumes:
                volume.withdraw()

    def encode(self, volumes: Sequence[tuple[NewFile, VolumeInfo]]) -> None:
        """Write parity over the data volumes of the package, in order; each is finished and parked.

        Raises:
            InputError: A package cannot have that many parity volumes.
            IntegrityError: A volume is not what was written.
            StorageError: A volume cannot be read or written.
        """
        sizes = group_sizes(len(volumes), self._parity)
        if len(sizes) * self._parity > Limits.VOLUMES:
            raise InputError(
                f"{len(volumes)} volumes would need more than {Limits.VOLUMES} parity volumes",
                hint="use a larger --volume-size",
            )
        groups = []
        self._reporter.start("parity", sum(info.size - HEADER for _, info in volumes))
        try:
            first = 0
            for size in sizes:
                groups.append(self._group(first, volumes[first : first + size]))
                first += size
        finally:
            self._reporter.finish()
        self.groups = tuple(groups)

    def _group(self, first: int, volumes: Sequence[tuple[NewFile, VolumeInfo]]) -> ParityGroup:
        length = max(info.size for _, info in volumes) - HEADER
        numbers = range(len(self._volumes) + 1, len(self._volumes) + 1 + self._parity)
        written = [self._create(number, length) for number in numbers]
        self._volumes += written
        code = Code(len(volumes), self._parity)
        with ExitStack() as stack:
            read = [stack.enter_context(_Finished(file, info)) for file, info in volumes]
            encoded = Ordered(
                _lengths(length, code.shares),
                lambda count: _read_stripe(code, read, count),
                _encode,
                cost=lambda count: count * code.shares,
                workers=self._workers,
                budget=_BUDGET,
            )
            for stripe in stack.enter_context(encoded):
                for volume, part in zip(written, stripe.parts, strict=True):
                    volume.append(part)
                self._reporter.advance(stripe.done, volume=written[0].path.name)
            for finished in read:
                finished.check_end()
        for volume in written:
            volume.finish()
        return ParityGroup(first, len(volumes), length, tuple(volume.info for volume in written))

    def _create(self, number: int, length: int) -> "_ParityVolume":
        path = self._out / parity_name(self._name, number)
        return _ParityVolume(self._stack.enter_context(NewFile(path)), length)

    def seal(self, payload: Digest) -> list[Path]:
        """Write the headers and give the volumes their names, durably.

        Args:
            payload: Digest of the manifest's signed bytes, which lists the groups that `encode` returned.

        Returns:
            The parity volumes in order.

        Raises:
            StorageError: A volume cannot be written.
        """
        for volume, header in zip(self._volumes, parity_headers_of(self.groups, payload), strict=True):
            volume.publish(header.emit())
        self._is_sealed = True
        return [volume.path for volume in self._volumes]


def parity_name(package: str, number: int) -> str:
    """Return the file name of parity volume `number` (from 1, over all groups) of `package`."""
    return f"{package}.p{number:02d}.airvol"


def _lengths(length: int, shares: int) -> Generator[int, None, None]:
    """Yield the lengths of the slices of a group's volumes, in order."""
    size = slice_size(shares)
    for start in range(0, length, size):
        yield min(size, length - start)


def _read_stripe(code: Code, volumes: Sequence["_Finished"], count: int) -> _Stripe:
    """Read the next `count` bytes of all volumes of a group."""
    done = sum(volume.left(count) for volume in volumes)
    return _Stripe(code, [volume.read(count) for volume in volumes], done)


def _encode(stripe: _Stripe) -> _Encoded:
    return _Encoded(stripe.code.encode(stripe.slices), stripe.done)


class _Finished:
    """A finished data volume, read once from behind its header to its end and beyond.

    Everything that is handed out was hashed, and all of it has the digests that were written once `check_end` returned.
    The table's entries are read a second time, some at once, because all tables of a group would not fit into memory.

    Raises:
        IntegrityError: The volume is not what was written.
        StorageError: It cannot be read.
    """

    def __init__(self, file: NewFile, info: VolumeInfo) -> None:
        self._path, self._info = file.path, info
        self._descriptor = file.open_read()
        self._at = HEADER
        self._units = self._walk()
        self._digest = hashlib.sha256()
        self._open, self._expected = next(self._units)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close_read(self._descriptor)

    def left(self, count: int) -> int:
        """Return how many of the next `count` bytes are the volume's own."""
        return min(count, self._info.size - self._at)

    def read(self, count: int) -> bytearray:
        """Return the next `count` bytes; beyond the end of the volume they are zero."""
        data = bytearray(count)
        view = memoryview(data)[: self.left(count)]
        self._read(view, self._at)
        self._at += len(view)
        while view:
            view = self._check(view)
        return data

    def _check(self, view: memoryview) -> memoryview:
        """Hash the bytes of the unit in hand, compare it when it is complete, and return the bytes behind it."""
        piece = view[: self._open]
        self._digest.update(piece)
        self._open -= len(piece)
        if not self._open:
            if self._digest.digest() != self._expected:
                raise self._changed()
            self._digest = hashlib.sha256()
            self._open, self._expected = next(self._units, (0, b""))
            if not self._open and self._at < self._info.size:
                raise self._changed()
        return view[len(piece) :]

    def check_end(self) -> None:
        """Refuse a volume whose units do not end where it ends, or whose entries were read otherwise than before."""
        if self._open or self._at != self._info.size:
            raise self._changed()

    def _walk(self) -> Iterator[tuple[int, bytes]]:
        """Yield length and digest of the table and of each stored chunk."""
        info, whole = self._info, hashlib.sha256()
        yield info.slots * ENTRY, info.table.raw
        for first in range(0, info.slots, _ENTRIES):
            data = bytearray(min(_ENTRIES, info.slots - first) * ENTRY)
            self._read(memoryview(data), HEADER + first * ENTRY)
            whole.update(data)
            yield from ((stored, digest) for digest, stored in read_places(data) if stored)
        if whole.digest() != info.table.raw:
            raise self._changed()

    def _read(self, into: memoryview, offset: int) -> None:
        try:
            while into:
                count = os.preadv(self._descriptor, [into], offset)
                if not count:
                    raise self._changed()
                into, offset = into[count:], offset + count
        except OSError as error:
            raise StorageError(
                f"cannot read {self._path}, which was written just now: {error.strerror}",
                hint="write the package to another disk",
                path=str(self._path),
            ) from error

    def _changed(self) -> IntegrityError:
        return IntegrityError(
            f"{self._path} is not what was written to it just now, found while its parity was made",
            hint="write the package to another disk",
            path=str(self._path),
        )


class _ParityVolume(Unsealed):
    """One parity volume being written: parity first, the digests around it next, and the header when all is signed.

    Args:
        file: Where it is written.
        length: Bytes of parity.
    """

    def __init__(self, file: NewFile, length: int) -> None:
        super().__init__(file)
        self._size = parity_size(length)
        self._digests = bytearray()
        self._row, self._open = hashlib.sha256(), ROW
        self._table = Digest.of(b"")
        file.seek(HEADER + -(-length // ROW) * ROW_DIGEST)

    @property
    def info(self) -> ParityInfo:
        return ParityInfo(self.path.name, self._size, self._table)

    def append(self, data: bytes) -> None:
        """Take the next bytes of parity; none of these pieces reaches over the end of a row."""
        self.file.write(data)
        self._row.update(data)
        self._open -= len(data)
        if not self._open:
            self._end_row()

    def _end_row(self) -> None:
        self._digests += self._row.digest()
        self._row, self._open = hashlib.sha256(), ROW

    def finish(self) -> None:
        """Write the digests of the rows, twice; the file is synced and closed."""
        if self._open < ROW:
            self._end_row()
        self._table = Digest.of(self._digests)
        self.file.write(self._digests)
        self.file.write_at(self._digests, HEADER)
        self.file.park()
