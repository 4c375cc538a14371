"""Walks protobuf messages in a file, passing over what is in their fields.

protobuf.dev, "Encoding". Groups, which none of the formats here ever used, are malformed.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from airpack.facts.reader import MalformedError, Reader

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
DEPTH: Final = 100  # messages inside each other, protobuf's own bound

# Number, wire type, value (of a varint), and where the content lies: a tuple, because there are very many of them.
Field: TypeAlias = tuple[int, int, int, int, int]

_LEAST: Final = 32  # bytes that are looked at for one field: a tag and a length, of ten bytes each
_SMALL: Final = 4096  # bytes of a message that is read at once
_FIXED: Final = {FIXED64: 8, FIXED32: 4}  # bytes
_LONG: Final = 128  # a varint of more than one byte begins with a byte of at least this


def fields(reader: Reader, start: int, end: int) -> Iterable[Field]:
    """Return the fields of the message that lies from `start` to exactly `end`.

    Raises:
        MalformedError: It is none; perhaps only once the fields before the fault have been looked at.
        StorageError: It cannot be read.
    """
    if end - start > _SMALL:
        return _large(reader, start, end)
    found = _small(reader.exactly(start, end - start), start)
    reader.step(start, len(found))
    return found


def _small(data: bytes, base: int) -> list[Field]:
    """Return the fields of a message that is read at once: those of nodes are, of which there are thousands."""
    found: list[Field] = []
    place, end = 0, len(data)
    try:
        while place < end:
            start, tag = place, data[place]
            place += 1
            if tag >= _LONG:
                tag, place = _varint(data, place - 1)
            wire, number, value, begin = tag & 7, tag >> 3, 0, place
            if wire == BYTES:
                length = data[place]
                place += 1
                if length >= _LONG:
                    length, place = _varint(data, place - 1)
                begin, place = place, place + length
            elif wire == VARINT:
                value, place = _varint(data, place)
            else:
                place += _FIXED[wire]
            if place > end or not number:
                raise _beyond(number, base + start, base + place, base + end)
            found.append((number, wire, value, base + begin, base + place))
    except (IndexError, ValueError, KeyError) as error:
        raise MalformedError("a field is cut off, or of a type that is not read", base + place) from error
    return found


def _large(reader: Reader, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of a message of any length, of which only tags and lengths are read."""
    block, base, last = b"", 0, -1
    at = start
    while at < end:
        reader.step(at)
        place = at - base
        if not 0 <= place <= last:
            block, base = reader.window(at, _LEAST)
            place, last = at - base, len(block) - _LEAST
        try:
            tag, place = _varint(block, place)
            number, wire, value, begin = tag >> 3, tag & 7, 0, base + place
            if wire == BYTES:
                length, place = _varint(block, place)
                begin = base + place
                stop = begin + length
            elif wire == VARINT:
                value, place = _varint(block, place)
                stop = base + place
            else:
                stop = begin + _FIXED[wire]
        except (IndexError, ValueError, KeyError) as error:
            raise MalformedError("a field is cut off, or of a type that is not read", at) from error
        if stop > end or not number:
            raise _beyond(number, at, stop, end)
        yield number, wire, value, begin, stop
        at = stop


def _beyond(number: int, at: int, stop: int, end: int) -> MalformedError:
    if not number:
        return MalformedError("a field has number 0", at)
    return MalformedError(f"a field ends at byte {stop}, its message at {end}", at)


def _varint(block: bytes, place: int) -> tuple[int, int]:
    """Return the number at `place`, and where it ends.

    Raises:
        IndexError: It goes on beyond the block.
        ValueError: It goes on for more than ten bytes.
    """
    value = block[place]
    if value < _LONG:
        return value, place + 1
    value &= 127
    for index in range(1, 10):
        byte = block[place + index]
        value |= (byte & 127) << (7 * index)
        if byte < _LONG:
            return value, place + index + 1
    raise ValueError


def numbers(reader: Reader, start: int, end: int) -> Iterator[int]:
    """Yield the numbers that are packed together from `start` to `end`.

    Raises:
        MalformedError: They are none.
        StorageError: They cannot be read.
    """
    at = start
    while at < end:
        reader.step(at)
        block, base = reader.window(at, _LEAST)
        try:
            value, place = _varint(block, at - base)
        except (IndexError, ValueError) as error:
            raise MalformedError("a number is cut off, or has more than ten bytes", at) from error
        yield value
        at = base + place
    if at != end:
        raise MalformedError("numbers reach beyond their field", at)


def text(reader: Reader, field: Field, most: int) -> str:
    """Return the text in a field, of at most `most` bytes.

    Raises:
        MalformedError: It is none in UTF-8, or longer.
        StorageError: It cannot be read.
    """
    _, wire, _, start, stop = field
    if wire != BYTES or stop - start > most:
        raise MalformedError(f"a text of {stop - start} bytes; at most {most} are read", start)
    try:
        return reader.exactly(start, stop - start).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("a text is not UTF-8", start + error.start) from error


def signed(value: int) -> int:
    """Return the int64 whose varint has `value`."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
