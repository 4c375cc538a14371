"""Bytes of damaged or lost volumes, from the other volumes of their group (docs/spec/package.md section 7).

Law: damage that touches at most N volumes of a group in each row of it is undone, N being its parity volumes; a lost
volume is touched in each of its rows. What is undone are *units*: a chunk, or a table, with its signed digest.

Parity is not trusted, and needs not to be: whatever it gives is compared with a signed digest before anybody uses it.
So a unit is tried in the cheapest way first:

1. As it mostly is: only this unit is damaged. The same bytes of the others are read, nothing of them is verified, and
   the unit is computed from them.
2. With care: the chunks and parity rows that these bytes belong to are verified, which says who else is damaged. Bytes
   of good ones count, bytes that cannot be read do not. A damaged chunk within one row is damaged in that row. One that
   reaches over two rows is damaged in one of them or in both, nobody knows: every choice that the law allows is tried
   against the digest, for each row the unit's own bytes as they were read among them.

The second has a bound (`_TRIES`, `_PATIENCE`): a medium made to be slow does not keep anybody for ever. It is not met
by itself: with one parity volume never, with two where more than forty volumes of the group are damaged around one
place, with three where more than ten are.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice, pairwise, product
from typing import Final, TypeAlias

from airpack.formats.package import ParityGroup
from airpack.formats.volume import ENTRY, HEADER, ROW, ROW_DIGEST, Chunk, read_places
from airpack.transport.parity import Code, slice_size
from airpack.transport.spare import read_digests
from airpack.transport.volumes import Copy, Media

_TRIES: Final = 2048  # combinations for one unit
_PATIENCE: Final = 1 << 15  # combinations in vain for all units together
_WINDOW: Final = 64  # rows of which units are kept in memory
_UNITS: Final = 256  # units of one volume in memory, unless one row alone has more
_REMEMBERED: Final = 4096  # units of which it is remembered whether they are good
_HELD: Final = 16 << 20  # bytes of tried rows in memory

_Erased: TypeAlias = frozenset[int] | None
"""Which volumes of a group are taken for damaged in a row; None for none, the unit's own bytes being good as read."""


class Parity:
    """A `Rescue`: what the volumes of a package can say of one another.

    Args:
        media: The volumes that are at hand, those of parity among them.
    """

    def __init__(self, media: Media) -> None:
        self._media = media
        self._lock = threading.Lock()
        self._group: _Group | None = None

    def covers(self, position: int) -> bool:
        """Return whether so many volumes of the group of the one at `position` are there that it can be rebuilt."""
        with self._lock:
            group = self._open(position)
            return group is not None and group.is_enough

    def header(self, position: int) -> bool:
        """Return whether the volume at `position` is in a group: all that its header says, the manifest says too."""
        return self._find(position) is not None

    def table(self, position: int) -> bytes | None:
        """Return all slots of the table of the volume at `position`, None where they cannot be rebuilt."""
        info = self._media.manifest.volumes[position]
        return self._rebuild(position, HEADER, info.slots * ENTRY, info.table.raw)

    def chunk(self, position: int, chunk: Chunk) -> bytes | None:
        """Return the stored bytes of `chunk` of the volume at `position`, None where they cannot be rebuilt."""
        return self._rebuild(position, chunk.offset, chunk.stored, chunk.digest)

    def _rebuild(self, position: int, offset: int, length: int, digest: bytes) -> bytes | None:
        with self._lock:
            group = self._open(position)
            if group is None:
                return None
            unit = _Unit(offset - HEADER, offset - HEADER + length, digest)
            return group.rebuild(position - group.first, unit)

    def _find(self, position: int) -> int | None:
        """Return the number of the group of a volume."""
        for number, group in enumerate(self._media.manifest.parity):
            if group.first <= position < group.first + group.count:
                return number
        return None

    def _open(self, position: int) -> "_Group | None":
        """Return the group of a volume; one is kept, as volumes are read in order."""
        number = self._find(position)
        if number is None:
            return None
        groups = self._media.manifest.parity
        if self._group is None or self._group.first != groups[number].first:
            spare = sum(len(group.volumes) for group in groups[:number])
            self._group = _Group(self._media, groups[number], spare)
        return self._group


@dataclass(frozen=True, slots=True)
class _Unit:
    """Bytes with a digest of their own: a table, a chunk, or a row of a parity volume.

    Attributes:
        start: First byte, counted as rows are: from behind the header, or from the first byte of parity.
        stop: End.
        digest: The 32 bytes of their SHA-256.
    """

    start: int
    stop: int
    digest: bytes

    def touches(self, start: int, stop: int) -> bool:
        """Return whether it has bytes from `start` to `stop`."""
        return self.start < stop and start < self.stop

    @property
    def is_in_one_row(self) -> bool:
        """Whether its damage is damage of one known row."""
        return self.start // ROW == (self.stop - 1) // ROW


@dataclass(frozen=True, slots=True)
class _Window:
    """The units of one volume that touch some rows, in order."""

    start: int
    stop: int
    units: tuple[_Unit, ...]


class _Group:
    """The volumes of one group, numbered from 0, parity volumes last; bytes of them are counted as rows are.

    Args:
        media: Reads them.
        group: What the manifest says.
        spare: Number of its first parity volume, from 0 over all groups.
    """

    def __init__(self, media: Media, group: ParityGroup, spare: int) -> None:
        self.first = group.first
        self._media, self._group, self._spare = media, group, spare
        self._infos = media.manifest.volumes[group.first : group.first + group.count]
        self._files = (
            *media.volumes[group.first : group.first + group.count],
            *media.parity[spare : spare + len(group.volumes)],
        )
        self._code = Code(group.count, len(group.volumes))
        self._slice = slice_size(group.count)
        self._windows: dict[int, _Window] = {}
        self._blind: set[int] = set()  # volumes whose digests cannot be had
        self._state: OrderedDict[tuple[int, _Unit], Copy | None] = OrderedDict()  # the copy that has it as signed
        self._patience = _PATIENCE

    @property
    def is_enough(self) -> bool:
        """Whether as many volumes are there as data volumes are in the group."""
        return sum(file.is_there for file in self._files) >= self._code.data

    def rebuild(self, number: int, unit: _Unit) -> bytes | None:
        """Return the bytes of a unit of data volume `number`, which have its digest; None where that cannot be."""
        data = self._decode(number, unit.start, unit.stop, self._likely(number, unit))
        if data is not None and hashlib.sha256(data).digest() == unit.digest:
            return bytes(data)
        if not self._files[number].is_there and len(self._usable(unit.start, frozenset({number}))) < self._code.data:
            return None
        return self._search(number, unit)

    # -- reading and computing ----------------------------------------------------------------------------------------

    def _is_data(self, number: int) -> bool:
        return number < self._group.count

    def _length(self, number: int) -> int:
        """Return how many bytes a volume has of its own."""
        return self._infos[number].size - HEADER if self._is_data(number) else self._group.length

    def _offset(self, number: int) -> int:
        """Return where the first byte of the first row stands in a volume's file."""
        return HEADER if self._is_data(number) else HEADER + self._group.rows * ROW_DIGEST

    def _read(self, number: int, start: int, stop: int) -> bytes | None:
        """Return bytes of a volume as they can be read; zeros beyond its end."""
        end = max(min(stop, self._length(number)), start)
        parts = [self._read_copy(number, copy, *span) for copy, *span in self._sources(number, start, end)]
        data = b"".join(part for part in parts if part is not None)
        return data.ljust(stop - start, b"\x00") if None not in parts else None

    def _sources(self, number: int, start: int, stop: int) -> Iterator[tuple[Copy | None, int, int]]:
        """Yield which copy of a volume to read where: one that is known to be good there, else the first."""
        if len(self._files[number].copies) > 1:
            known = [(unit, copy) for (other, unit), copy in self._state.items() if other == number and copy]
            for unit, copy in sorted(known, key=lambda item: item[0].start):
                if unit.touches(start, stop):
                    if unit.start > start:
                        yield None, start, unit.start
                    yield copy, max(unit.start, start), min(unit.stop, stop)
                    start = min(unit.stop, stop)
        if start < stop:
            yield None, start, stop

    def _read_copy(self, number: int, copy: Copy | None, start: int, stop: int) -> bytes | None:
        """Return bytes from one copy of a volume, or from the first that can be read there."""
        file = self._files[number]
        one = file if copy is None else replace(file, copies=[copy])
        return next(self._media.readings(one, self._offset(number) + start, stop - start), None)

    def _usable(self, start: int, erased: frozenset[int]) -> list[int]:
        """Return the volumes that can have bytes from `start` on: they are there, or end before and have zeros."""
        return [
            number
            for number, file in enumerate(self._files)
            if number not in erased and (file.is_there or start >= self._length(number))
        ]

    def _decode(self, number: int, start: int, stop: int, erased: frozenset[int]) -> bytearray | None:
        """Return bytes of a volume as the others, but those in `erased`, say that they are; nothing is verified."""
        usable = self._usable(start, erased)
        if len(usable) < self._code.data:
            return None
        data = bytearray()
        for at, end in _cuts(start, stop, self._slice):
            shares: dict[int, bytes | bytearray] = {}
            for other in usable:  # data volumes first: what is there as it is needs not be computed
                share = self._read(other, at, end)
                if share is not None:
                    shares[other] = share
                if len(shares) == self._code.data:
                    break
            if len(shares) < self._code.data:
                return None
            data += self._code.decode(shares, number)
        return data

    def _is_codeword(self, start: int, stop: int) -> bool:
        """Return whether all volumes agree as they are read: then the law says that none of them is damaged here."""
        for at, end in _cuts(start, stop, self._slice):
            shares = [self._read(number, at, end) for number in range(len(self._files))]
            data = [share for share in shares[: self._code.data] if share is not None]
            if len(data) < self._code.data or self._code.encode(data) != shares[self._code.data :]:
                return False
        return True

    # -- who is damaged -----------------------------------------------------------------------------------------------

    def _likely(self, number: int, unit: _Unit) -> frozenset[int]:
        """Return which volumes to leave out first: those that were found damaged there already."""
        bad = {
            other for (other, known), good in self._state.items() if not good and known.touches(unit.start, unit.stop)
        }
        erased = frozenset(bad | {number})
        return erased if len(erased) <= self._code.parity else frozenset({number})

    def _units(self, number: int, start: int, stop: int) -> list[_Unit] | None:
        """Return the units of a volume that touch bytes of one row; None where its digests cannot be had."""
        if start >= self._length(number):
            return []
        window = self._windows.get(number)
        if window is None or not window.start <= start < stop <= window.stop:
            if number in self._blind:
                return None
            window = self._load(number, start // ROW * ROW)
            if window is None:
                self._blind.add(number)
                return None
            self._windows[number] = window
        return [unit for unit in window.units if unit.touches(start, stop)]

    def _load(self, number: int, start: int) -> _Window | None:
        """Read the digests of a volume, and keep those of the row from `start` on and of some rows behind it."""
        if self._is_data(number):
            table = self._table(number)
            return None if table is None else _window(_chunks(table), start)
        digests = read_digests(self._media, self._spare + number - self._group.count)
        return None if digests is None else _window(_rows(digests, self._group.length), start)

    def _table(self, number: int) -> bytes | None:
        """Return the table of a data volume from the first copy that has it as signed."""
        info = self._infos[number]
        readings = self._media.readings(self._files[number], HEADER, info.slots * ENTRY)
        return next((data for data in readings if hashlib.sha256(data).digest() == info.table.raw), None)

    def _is_good(self, number: int, unit: _Unit) -> bool:
        """Return whether some copy of a volume has the digest of a unit; read once, as long as it is remembered."""
        key = (number, unit)
        if key not in self._state:
            self._state[key] = next(
                filter(lambda copy: self._has(number, copy, unit), self._files[number].copies), None
            )
            if len(self._state) > _REMEMBERED:
                self._state.popitem(last=False)
        return self._state[key] is not None

    def _has(self, number: int, copy: Copy, unit: _Unit) -> bool:
        data = self._read_copy(number, copy, unit.start, unit.stop)
        return data is not None and hashlib.sha256(data).digest() == unit.digest

    # -- trying -------------------------------------------------------------------------------------------------------

    def _search(self, number: int, unit: _Unit) -> bytes | None:
        """Return the bytes of a unit from whichever choice of damaged volumes, row by row, gives its digest."""
        spans = list(_cuts(unit.start, unit.stop, ROW))
        options = [self._options(number, start, stop) for start, stop in spans]
        tried = _Tried(self, number, spans)
        for choice in islice(_choices(options), max(min(_TRIES, self._patience), 1)):
            data = tried.join(choice)
            if data is not None and hashlib.sha256(data).digest() == unit.digest:
                return data
            self._patience -= 1
        return None

    def _options(self, number: int, start: int, stop: int) -> list[_Erased]:
        """Return what may be right for bytes of a volume in one row, as the law allows it."""
        damaged, unsure = self._judge(number, start, stop)
        room = self._code.parity - 1 - len(damaged)
        fixed = frozenset(damaged | {number})
        if len(unsure) <= room:
            return [fixed | frozenset(unsure)]
        as_read: list[_Erased] = [None] if self._read(number, start, stop) is not None else []
        if as_read and not damaged and self._is_codeword(start, stop):
            return as_read
        if room < 0:
            return as_read
        return [*as_read, *(fixed | frozenset(some) for some in islice(combinations(unsure, room), _TRIES))]

    def _judge(self, number: int, start: int, stop: int) -> tuple[set[int], list[int]]:
        """Return which of the other volumes are damaged in one row, and which may be."""
        damaged: set[int] = set()
        unsure: list[int] = []
        for other in range(len(self._files)):
            units = self._units(other, start, stop) if other != number else []
            bad = [] if units is None else [unit for unit in units if not self._is_good(other, unit)]
            if units is not None and not bad:
                continue
            if any(unit.is_in_one_row for unit in bad) or self._read(other, start, stop) is None:
                damaged.add(other)
            else:
                unsure.append(other)
        return damaged, unsure

    def bytes_of(self, number: int, start: int, stop: int, erased: _Erased) -> bytes | bytearray | None:
        """Return bytes of a volume in one row under one choice."""
        return self._read(number, start, stop) if erased is None else self._decode(number, start, stop, erased)


class _Tried:
    """What choices gave, row by row, as far as memory allows."""

    def __init__(self, group: _Group, number: int, spans: list[tuple[int, int]]) -> None:
        self._group, self._number, self._spans = group, number, spans
        self._known: dict[tuple[int, _Erased], bytes | bytearray | None] = {}
        self._held = 0

    def join(self, choice: Sequence[_Erased]) -> bytes | None:
        """Return the bytes of the unit under `choice`, None where a part of it cannot be had."""
        parts = []
        for place, erased in enumerate(choice):
            part = self._part(place, erased)
            if part is None:
                return None
            parts.append(part)
        return b"".join(parts)

    def _part(self, place: int, erased: _Erased) -> bytes | bytearray | None:
        key = (place, erased)
        if key not in self._known:
            start, stop = self._spans[place]
            if self._held + stop - start > _HELD:
                self._known.clear()
                self._held = 0
            self._held += stop - start
            self._known[key] = self._group.bytes_of(self._number, start, stop, erased)
        return self._known[key]


def _cuts(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the pieces of a range, cut at the multiples of `size`."""
    return pairwise((start, *range((start // size + 1) * size, stop, size), stop))


def _choices(options: Sequence[Sequence[_Erased]]) -> Iterator[tuple[_Erased, ...]]:
    """Yield one option for each row, in every combination: those first that change seldom from row to row.

    Damage is in one place. So of a table over many rows, choices with few changes are likely, and come early.
    """
    free = [place for place, some in enumerate(options) if len(some) > 1]
    if not all(options):
        return
    for changes in range(max(len(free), 1)):
        for cuts in combinations(range(1, len(free)), changes):
            runs = [free[start:stop] for start, stop in pairwise((0, *cuts, len(free)))]
            shared = [_shared([options[place] for place in run]) for run in runs if run]
            for picks in product(*shared):
                if any(left == right for left, right in pairwise(picks)):
                    continue  # that came with fewer changes
                choice = [some[0] for some in options]
                for run, pick in zip(runs, picks, strict=False):
                    for place in run:
                        choice[place] = pick
                yield tuple(choice)


def _shared(options: Sequence[Sequence[_Erased]]) -> list[_Erased]:
    """Return what all rows of a run may have."""
    return [erased for erased in options[0] if all(erased in some for some in options[1:])]


def _chunks(table: bytes) -> Iterator[_Unit]:
    """Yield the stored chunks of a volume, behind its table, which is good."""
    at = len(table)
    for digest, stored in read_places(table):
        if stored:
            yield _Unit(at, at + stored, digest)
        at += stored


def _rows(digests: bytes, length: int) -> Iterator[_Unit]:
    """Yield the rows of a parity volume."""
    for number, at in enumerate(range(0, length, ROW)):
        yield _Unit(at, min(at + ROW, length), digests[number * ROW_DIGEST : (number + 1) * ROW_DIGEST])


def _window(units: Iterator[_Unit], start: int) -> _Window:
    """Return those of a volume's units that touch the row from `start` on, and some rows behind it."""
    kept: list[_Unit] = []
    stop = start + _WINDOW * ROW
    for unit in units:
        if unit.start >= stop:
            break
        if len(kept) >= _UNITS and unit.start >= start + ROW:
            stop = unit.start // ROW * ROW
            break
        if unit.stop > start:
            kept.append(unit)
    return _Window(start, stop, tuple(kept))
