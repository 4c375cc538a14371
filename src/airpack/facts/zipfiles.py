"""Reads the directory of a ZIP file, and what is stored in it, within bounds.

    local headers and content, central directory, [ZIP64 end, its locator,] end of central directory

PKWARE's APPNOTE.TXT 6.3, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16. Offsets count from the start of the file, as Torch's
reader takes them. What the directory says and what stands before the content must be the same name: readers differ in
which they believe.
"""

import struct
import zlib
from typing import Final, NamedTuple

from airpack.facts.reader import MalformedError, Reader

STORED, DEFLATED = 0, 8

_ENTRIES: Final = 1 << 17
_DIRECTORY: Final = 64 << 20  # bytes
_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_CENTRAL: Final = struct.Struct("<4s4B4H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_EXTRA: Final = struct.Struct("<HH")
_COMMENT: Final = 65_535  # bytes
_ZIP64: Final = 1  # id of the extra field
_LARGE, _MANY = 0xFFFFFFFF, 0xFFFF
_ENCRYPTED: Final = 1


class Entry(NamedTuple):
    """One file in the directory.

    Attributes:
        name: As it stands there.
        method: `STORED`, `DEFLATED` or another.
        flags: General purpose bits.
        packed: Bytes of the content as it lies there.
        size: Bytes of the content.
        local: Where its local header stands.
    """

    name: str
    method: int
    flags: int
    packed: int
    size: int
    local: int


def entries(reader: Reader) -> list[Entry]:
    """Return the files in the directory of a ZIP file.

    Raises:
        MalformedError: There is none, a name occurs twice, or it is beyond the bounds.
        StorageError: It cannot be read.
    """
    count, size, at = _directory(reader)
    if count > _ENTRIES or size > _DIRECTORY or at + size > reader.size:
        raise MalformedError(f"a directory of {count} files and {size} bytes; at most {_ENTRIES} are read", at)
    found: dict[str, Entry] = {}
    end = at + size
    for _ in range(count):
        reader.step(at)
        entry, after = _entry(reader, at)
        if entry.name in found:
            raise MalformedError(f"{entry.name[:100]!r} is in it twice, so two readers may see two files", at)
        found[entry.name] = entry
        at = after
    if at != end:
        raise MalformedError("the directory does not end where it says", at)
    return list(found.values())


def _directory(reader: Reader) -> tuple[int, int, int]:
    """Return how many files the directory lists, its bytes, and where it begins."""
    start = max(0, reader.size - _END.size - _COMMENT)
    tail = reader.exactly(start, reader.size - start)
    place = tail.rfind(b"PK\x05\x06", 0, len(tail) - _END.size + 4)
    if place < 0:
        raise MalformedError("no directory of a ZIP file", start)
    at = start + place
    _, disk, _, _, count, size, offset, comment = reader.unpack(_END, at)
    if at + _END.size + comment != reader.size:
        raise MalformedError("bytes follow the end of a ZIP file", at)
    if disk not in {0, _MANY}:
        raise MalformedError("a ZIP file in several parts", at)
    if count == _MANY or _LARGE in {size, offset}:
        return _directory64(reader, at)
    return count, size, offset


def _directory64(reader: Reader, end: int) -> tuple[int, int, int]:
    if end < _LOCATOR.size:
        raise MalformedError("no directory of a ZIP64 file", end)
    mark, _, at, _ = reader.unpack(_LOCATOR, end - _LOCATOR.size)
    if mark != b"PK\x06\x07":
        raise MalformedError("no directory of a ZIP64 file", end)
    found = reader.unpack(_END64, at)
    if found[0] != b"PK\x06\x06":
        raise MalformedError("no directory of a ZIP64 file", at)
    count, size, offset = found[-3:]
    return int(count), int(size), int(offset)


def _entry(reader: Reader, at: int) -> tuple[Entry, int]:
    found = reader.unpack(_CENTRAL, at)
    mark, flags, method = found[0], found[5], found[6]
    packed, size, name_length, extra_length, comment_length = found[10:15]
    local = found[-1]
    if mark != b"PK\x01\x02":
        raise MalformedError("no file of a directory", at)
    name_at = at + _CENTRAL.size
    name = reader.exactly(name_at, name_length).decode("utf-8", "replace")
    end = name_at + name_length + extra_length + comment_length
    if _LARGE in {packed, size, local}:
        extra = reader.exactly(name_at + name_length, extra_length)
        size, packed, local = _wide(extra, (size, packed, local), at)
    return Entry(name, method, flags, packed, size, local), end


def _wide(extra: bytes, numbers: tuple[int, int, int], at: int) -> tuple[int, int, int]:
    """Return size, packed size and offset with those that are too large for 32 bits from the extra field."""
    place = 0
    while place + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, place)
        place += _EXTRA.size
        if kind == _ZIP64:
            data = extra[place : place + length]
            found = []
            for number in numbers:
                if number == _LARGE:
                    if len(data) < 8:  # noqa: PLR2004 - one number
                        break
                    found.append(int.from_bytes(data[:8], "little"))
                    data = data[8:]
                else:
                    found.append(number)
            if len(found) == len(numbers):
                return found[0], found[1], found[2]
        place += length
    raise MalformedError("a file of a directory says no size", at)


def place(reader: Reader, entry: Entry) -> tuple[int, int]:
    """Return where the content of `entry` lies in the file, packed or not.

    Raises:
        MalformedError: Nowhere, or under another name.
        StorageError: It cannot be read.
    """
    mark, *_, name_length, extra_length = reader.unpack(_LOCAL, entry.local)
    name_at = entry.local + _LOCAL.size
    if mark != b"PK\x03\x04":
        raise MalformedError(f"{entry.name[:100]!r} does not begin where the directory says", entry.local)
    if reader.exactly(name_at, name_length).decode("utf-8", "replace") != entry.name:
        raise MalformedError(f"{entry.name[:100]!r} has another name where it lies", entry.local)
    start = name_at + name_length + extra_length
    return start, reader.within(start, start + entry.packed, f"{entry.name[:100]!r}")


def content(reader: Reader, entry: Entry, most: int) -> bytes:
    """Return the content of `entry`, of at most `most` bytes.

    Raises:
        MalformedError: It is longer, encrypted, packed in a way that is not read, or damaged.
        StorageError: It cannot be read.
    """
    if entry.size > most or entry.packed > most or entry.flags & _ENCRYPTED:
        raise MalformedError(f"{entry.name[:100]!r} is encrypted, or has more than {most} bytes", entry.local)
    start, stop = place(reader, entry)
    data = reader.exactly(start, stop - start)
    if entry.method == DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.size + 1)
        except zlib.error as error:
            raise MalformedError(f"{entry.name[:100]!r} is damaged", start) from error
    elif entry.method != STORED:
        raise MalformedError(f"{entry.name[:100]!r} is packed by method {entry.method}", entry.local)
    if len(data) != entry.size:
        raise MalformedError(f"{entry.name[:100]!r} has not the {entry.size} bytes that the directory says", start)
    return data
