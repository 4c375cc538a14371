"""Walks the tables of a flatbuffer in a file.

flatbuffers.dev, "Internals": a table begins with an i32, which taken from its own offset leads to its vtable:
u16 bytes of the vtable, u16 bytes of the table, then the offset of each field in the table, 0 for one that is absent.
A vector or a text is a u32 count and then its elements; other tables, vectors and texts are referred to by a u32 offset
from where that offset stands.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from airpack.facts.reader import MalformedError, Reader

U8: Final = struct.Struct("<B")
I8: Final = struct.Struct("<b")
I32: Final = struct.Struct("<i")
U32: Final = struct.Struct("<I")
I64: Final = struct.Struct("<q")
U64: Final = struct.Struct("<Q")
_VTABLE: Final = struct.Struct("<HH")
_U16: Final = struct.Struct("<H")
_WORK: Final = 4  # things that a table counts as: it takes longer to look at than other formats' fields


class Vector(NamedTuple):
    """Where the elements of a vector lie, and how many there are (`length`)."""

    start: int
    length: int


_EMPTY: Final = Vector(0, 0)


def root(reader: Reader) -> "Table":
    """Return the root table of the flatbuffer at the start of the file.

    Raises:
        MalformedError: There is none.
        StorageError: It cannot be read.
    """
    return Table(reader, _referred(reader, 0))


def _referred(reader: Reader, at: int) -> int:
    (offset,) = reader.unpack(U32, at)
    if not offset:
        raise MalformedError("an offset leads to itself", at)
    return at + int(offset)


class Table:
    """One table; a field is named by its number, which is its place in the schema.

    Attributes:
        start: Where it lies.
        stop: Where it ends.
    """

    __slots__ = ("_fields", "_reader", "start", "stop")

    def __init__(self, reader: Reader, start: int) -> None:
        reader.step(start, _WORK)
        self._reader = reader
        self.start = start
        vtable = start - reader.unpack(I32, start)[0]
        if vtable < 0:
            raise MalformedError("the fields of a table are described before the file begins", start)
        length, size = reader.unpack(_VTABLE, vtable)
        if length < _VTABLE.size or length % 2 or size < I32.size:
            raise MalformedError("the fields of a table are described by too few bytes", vtable)
        self.stop = reader.within(start, start + size, "a table")
        self._fields = reader.exactly(vtable + _VTABLE.size, length - _VTABLE.size)

    def _at(self, field: int, width: int) -> int:
        """Return where a field of `width` bytes lies; 0 for one that is absent."""
        if 2 * field + 2 > len(self._fields):
            return 0
        (offset,) = _U16.unpack_from(self._fields, 2 * field)
        if not offset:
            return 0
        if self.start + offset + width > self.stop:
            raise MalformedError(f"field {field} of a table lies outside it", self.start)
        return int(self.start + offset)

    def number(self, field: int, form: struct.Struct, default: int = 0) -> int:
        """Return a number.

        Raises:
            MalformedError: It lies elsewhere than in the table.
            StorageError: It cannot be read.
        """
        at = self._at(field, form.size)
        return int(self._reader.unpack(form, at)[0]) if at else default

    def table(self, field: int) -> "Table | None":
        """Return the table that a field refers to; None for none.

        Raises:
            MalformedError: There is none at that place.
            StorageError: It cannot be read.
        """
        at = self._at(field, U32.size)
        return Table(self._reader, _referred(self._reader, at)) if at else None

    def vector(self, field: int, width: int) -> Vector:
        """Return the vector of elements of `width` bytes that a field refers to; an empty one for none.

        Raises:
            MalformedError: It does not lie in the file.
            StorageError: It cannot be read.
        """
        at = self._at(field, U32.size)
        if not at:
            return _EMPTY
        place = _referred(self._reader, at)
        (count,) = self._reader.unpack(U32, place)
        start = place + U32.size
        self._reader.within(start, start + count * width, "a vector")
        return Vector(start, count)

    def text(self, field: int, most: int) -> str:
        """Return a text of at most `most` bytes; an empty one for none.

        Raises:
            MalformedError: It is longer, no UTF-8, or not in the file.
            StorageError: It cannot be read.
        """
        start, count = self.vector(field, 1)
        if count > most:
            raise MalformedError(f"a text of {count} bytes; at most {most} are read", start)
        try:
            return self._reader.exactly(start, count).decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError("a text is not UTF-8", start + error.start) from error

    def numbers(self, field: int, form: struct.Struct, most: int) -> tuple[int, ...]:
        """Return a vector of at most `most` numbers.

        Raises:
            MalformedError: They are more, or not in the file.
            StorageError: They cannot be read.
        """
        start, count = self.vector(field, form.size)
        if count > most:
            raise MalformedError(f"{count} numbers; at most {most} are read", start)
        self._reader.step(start, count)
        return tuple(number for (number,) in form.iter_unpack(self._reader.exactly(start, count * form.size)))

    def tables(self, field: int) -> Iterator["Table"]:
        """Yield the tables that a vector refers to.

        Raises:
            MalformedError: There is none at such a place.
            StorageError: They cannot be read.
        """
        start, count = self.vector(field, U32.size)
        for number in range(count):
            yield Table(self._reader, _referred(self._reader, start + U32.size * number))
