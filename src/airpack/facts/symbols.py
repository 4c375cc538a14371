"""The dynamic symbols of one ELF file, found as its loader finds them: through its hash table.

    symbols = Symbols(Elf(reader))
    list(symbols.wanted())             ->  what other files must define for it
    symbols.defines(b"ggml_new_tensor", "")

System V gABI chapter 5, "Hash Table"; "GNU hash" as glibc's dl-lookup.c reads it; Linux Standard Base Core, "Symbol
Versioning". A table of many symbols is never read as a whole to answer for one name.
"""

import struct
from collections.abc import Iterator
from functools import cached_property
from typing import Final, NamedTuple

from airpack.facts.elf import (
    DT_GNU_HASH,
    DT_HASH,
    DT_SYMTAB,
    DT_VERSYM,
    STB_GLOBAL,
    STB_GNU_UNIQUE,
    STB_WEAK,
    VERSION,
    Elf,
    version_definitions,
    version_needs,
)
from airpack.facts.reader import MalformedError

_SYMBOLS: Final = 1 << 21  # dynamic symbols of one file
_BUCKETS: Final = 1 << 21
_DEFINING: Final = frozenset({STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE})


class Wanted(NamedTuple):
    """A symbol that a file needs from others; library and version are empty where it does not say."""

    name: bytes
    library: str
    version: str


class Place(NamedTuple):
    """Where a defined symbol's object lies: its address when loaded, and its size in bytes."""

    address: int
    size: int


class _Row(NamedTuple):
    name: int
    binding: int
    section: int
    place: Place


class Symbols:
    """The dynamic symbols of one file; nothing is read before it is asked for."""

    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        self._reader = elf.reader

    def wanted(self) -> Iterator[Wanted]:
        """Yield the symbols without which the file cannot be loaded; weak ones are left out.

        Raises:
            MalformedError: Its tables contradict themselves.
            StorageError: They cannot be read.
        """
        needs = {number: (need.library, need.version) for number, need in version_needs(self._elf)}
        start, stop = self._elf.strings
        for number, row in self._rows():
            if row.section or row.binding != STB_GLOBAL or not row.name:
                continue
            library, version = needs.get(self._version(number), ("", ""))
            yield Wanted(self._reader.name(start + row.name, stop), library, version)

    def defines(self, name: bytes, version: str) -> bool:
        """Return whether the file defines `name`, in `version` where one is given; raises as `wanted`."""
        return self.find(name, version) is not None

    def find(self, name: bytes, version: str = "") -> Place | None:
        """Return where the file defines `name`, in `version` where one is given; raises as `wanted`."""
        for number in self._candidates(name):
            row = self._row(number)
            if not row.section or row.binding not in _DEFINING or not self._is(row.name, name):
                continue
            if not version or self._has_version(number, version):
                return row.place
        return None

    def _has_version(self, number: int, version: str) -> bool:
        """Return whether a definition has this version; a file that names no versions has them all, to its loader."""
        return not self._definitions or self._definitions.get(self._version(number)) == version

    @cached_property
    def _definitions(self) -> dict[int, str]:
        return {number: name for number, name, _ in version_definitions(self._elf)}

    def _version(self, number: int) -> int:
        at = self._elf.dynamic.get(DT_VERSYM)
        if at is None:
            return 0
        found: int = self._reader.unpack(self._elf.forms.half, self._elf.offset(at + 2 * number, 2))[0]
        return found & VERSION

    def _is(self, index: int, name: bytes) -> bool:
        start, stop = self._elf.strings
        at = start + index
        return at + len(name) < stop and self._reader.exactly(at, len(name) + 1) == name + b"\0"

    def _row(self, number: int) -> _Row:
        form = self._elf.forms.symbol
        address = self._elf.dynamic.get(DT_SYMTAB, 0) + number * form.size
        return self._fields(form.unpack(self._reader.exactly(self._elf.offset(address, form.size), form.size)))

    def _fields(self, row: tuple[int, ...]) -> _Row:
        if self._elf.wide:
            name, info, _, section, value, size = row
        else:
            name, value, size, info, _, section = row
        return _Row(name, info >> 4, section, Place(value, size))

    def _rows(self) -> Iterator[tuple[int, _Row]]:
        form, count = self._elf.forms.symbol, self._count
        if DT_SYMTAB not in self._elf.dynamic or not count:
            return
        start = self._elf.offset(self._elf.dynamic[DT_SYMTAB], count * form.size)
        number = 0
        whole = (1 << 16) * form.size
        for begin in range(start, start + count * form.size, whole):
            data = self._reader.exactly(begin, min(whole, start + count * form.size - begin))
            for fields in form.iter_unpack(data):
                yield number, self._fields(fields)
                number += 1

    @cached_property
    def _count(self) -> int:
        """Number of dynamic symbols: only a hash table tells."""
        if self._hash is not None:
            return self._hash[1]
        if self._gnu is None:
            return 0
        return self._gnu_count(self._gnu)

    # --- the older table: buckets and chains of symbol numbers ---

    @cached_property
    def _hash(self) -> tuple[int, int, int] | None:
        """Buckets, symbols and place of the older hash table."""
        address = self._elf.dynamic.get(DT_HASH)
        if address is None:
            return None
        at = self._elf.offset(address, 8)
        buckets, symbols = self._reader.unpack(struct.Struct(self._elf.order + "II"), at)
        if buckets > _BUCKETS or symbols > _SYMBOLS:
            raise MalformedError(f"a hash table of {symbols} symbols", at)
        return buckets, symbols, at + 8

    def _candidates(self, name: bytes) -> Iterator[int]:
        """Yield the numbers of the symbols that may have this name."""
        if self._gnu is not None:
            yield from self._gnu_candidates(self._gnu, name)
        elif self._hash is not None:
            yield from self._hash_candidates(*self._hash, name)

    def _hash_candidates(self, buckets: int, symbols: int, start: int, name: bytes) -> Iterator[int]:
        if not buckets:
            return
        number = self._int(start + 4 * (_old_hash(name) % buckets))
        for _ in range(symbols):
            if not number:
                return
            if number >= symbols:
                raise MalformedError(f"a hash chain leads to symbol {number} of {symbols}", start)
            yield number
            number = self._int(start + 4 * (buckets + number))
        raise MalformedError("a hash chain without end", start)

    # --- the newer table: a filter, buckets, and chains of hashes in the order of the symbols ---

    @cached_property
    def _gnu(self) -> "_GnuHash | None":
        address = self._elf.dynamic.get(DT_GNU_HASH)
        if address is None:
            return None
        forms = self._elf.forms
        at = self._elf.offset(address, forms.gnu_hash.size)
        buckets, first, words, shift = self._reader.unpack(forms.gnu_hash, at)
        if buckets > _BUCKETS or words > _BUCKETS or first > _SYMBOLS or not words or not buckets or shift >= 32:  # noqa: PLR2004 - bits of a hash
            raise MalformedError("a hash table of impossible size", at)
        bloom = at + forms.gnu_hash.size
        table = bloom + words * forms.word.size
        return _GnuHash(buckets, first, words, shift, bloom, table, table + 4 * buckets)

    def _gnu_candidates(self, table: "_GnuHash", name: bytes) -> Iterator[int]:
        value, bits = _gnu_hash(name), self._elf.bits
        size = self._elf.forms.word.size
        (word,) = self._reader.unpack(self._elf.forms.word, table.bloom + value // bits % table.words * size)
        if not word >> value % bits & word >> (value >> table.shift) % bits & 1:
            return
        number = self._int(table.buckets + 4 * (value % table.length))
        if number < table.first:
            return
        while True:
            self._reader.step(table.chains)
            found = self._int(table.chains + 4 * (number - table.first))
            if found | 1 == value | 1:
                yield number
            if found & 1:
                return
            number += 1

    def _gnu_count(self, table: "_GnuHash") -> int:
        numbers = struct.Struct(self._elf.order + "I")
        most = 0
        for _, piece in self._reader.pieces(table.buckets, table.chains):
            most = max(most, *(value for (value,) in numbers.iter_unpack(piece)))
        if most < table.first:
            return table.first
        while not self._int(table.chains + 4 * (most - table.first)) & 1:
            most += 1
            self._reader.step(table.chains)
        if most >= _SYMBOLS:
            raise MalformedError(f"a hash table of {most} symbols", table.buckets)
        return most + 1

    def _int(self, at: int) -> int:
        value: int = self._reader.unpack(self._elf.forms.int, at)[0]
        return value


class _GnuHash(NamedTuple):
    """Where the parts of a GNU hash table lie in the file."""

    length: int  # number of buckets
    first: int  # number of the first symbol in it
    words: int  # of its filter
    shift: int
    bloom: int
    buckets: int
    chains: int


def _gnu_hash(name: bytes) -> int:
    value = 5381
    for char in name:
        value = value * 33 + char & 0xFFFFFFFF
    return value


def _old_hash(name: bytes) -> int:
    value = 0
    for char in name:
        value = (value << 4) + char
        value = (value ^ (value & 0xF0000000) >> 24) & 0x0FFFFFFF
    return value
