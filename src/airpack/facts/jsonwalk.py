"""Walks large JSON in a file: finds members of an object without building the rest.

    for name, start in Json(reader).members(0): ...

A `tokenizer.json` has ten million bytes, of which some hundred say what it is. What is passed over is held to brackets
and quotes only; what is asked for is read by `value`, as strict JSON (formats.canonical).
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from airpack.errors import IntegrityError
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.canonical import parse

_DEPTH: Final = 64
_BLOCK: Final = 256 << 10  # bytes looked at at once
_LONGEST: Final = 4 << 20  # bytes of one text
_MEMBERS: Final = 1 << 17  # of one object that is looked into
_NAME: Final = 4096  # bytes of a member's name

_TEXT: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BETWEEN: Final = rb'[^"\[\]{}]*+'
_FLAT: Final = _BETWEEN + rb"(?:" + _TEXT + _BETWEEN + rb")*+"
# All up to a bracket that is not closed within two levels.
_PASS: Final = re.compile(
    _BETWEEN + rb"(?:(?:" + _TEXT + rb"|\[" + _FLAT + rb"\]|\{" + _FLAT + rb"\})" + _BETWEEN + rb")*+", re.DOTALL
)
_ONE_TEXT: Final = re.compile(_TEXT, re.DOTALL)
_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_SCALAR: Final = re.compile(rb"[-+.0-9A-Za-z]++")


class Json:
    """One file of JSON.

    Where an object or list ends is found out once: whoever looks into a member before asking for the next saves that
    it is passed over again.

    Args:
        reader: The file.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._ends: dict[int, int] = {}

    def members(self, at: int) -> Iterator[tuple[str, int]]:
        """Yield name and start of the value of each member of the object at `at`; nothing for what is no object.

        Raises:
            MalformedError: A name occurs twice, or it is beyond the bounds.
            StorageError: It cannot be read.
        """
        reader, begin = self._reader, at
        mark, at = _next(reader, at)
        if mark != b"{":
            return
        seen: set[str] = set()
        mark, after = _next(reader, at)
        while mark != b"}":
            start = _space(reader, at)
            stop = _text_end(reader, start)
            name = value(reader, start, stop, _NAME)
            if name in seen or len(seen) == _MEMBERS:
                raise MalformedError(f"member {str(name)[:60]!r} occurs twice, or there are too many", start)
            seen.add(name)
            start = _space(reader, _expect(reader, stop, b":"))
            yield name, start
            mark, after = _next(reader, self.end(start))
            if mark not in {b",", b"}"}:
                raise MalformedError("a member is followed by neither another nor the end", after - 1)
            at = after
        self._ends[begin] = after

    def know(self, at: int, end: int) -> None:
        """Take it that the value that begins at `at` ends at `end`, because somebody has read it."""
        self._ends[at] = end

    def end(self, at: int) -> int:
        """Return where the value that begins at `at` ends.

        Raises:
            MalformedError: It is none, ends nowhere, or is beyond the bounds.
            StorageError: It cannot be read.
        """
        if at not in self._ends:
            self._ends[at] = _end(self._reader, at)
        return self._ends[at]

    def first(self, at: int) -> bytes:
        """Return the byte that the first item of the list at `at` begins with; none for an empty list, or no list.

        Raises:
            MalformedError: It is beyond the bounds.
            StorageError: It cannot be read.
        """
        mark, after = _next(self._reader, at)
        return _next(self._reader, after)[0].replace(b"]", b"") if mark == b"[" else b""


def _end(reader: Reader, at: int) -> int:
    head = reader.most(at, 1)
    if head == b'"':
        return _text_end(reader, at)
    if head in {b"{", b"["}:
        return _pass(reader, at)
    block, base = reader.window(at, 64)
    found = _SCALAR.match(block, at - base)
    if not found:
        raise MalformedError("there is no value of JSON", at)
    return base + found.end()


def value(reader: Reader, start: int, stop: int, most: int) -> Any:
    """Return the value from `start` to `stop`, of at most `most` bytes.

    Raises:
        MalformedError: It is no strict JSON, or longer.
        StorageError: It cannot be read.
    """
    if stop - start > most:
        raise MalformedError(f"a value of {stop - start} bytes; at most {most} are read", start)
    try:
        return parse(reader.exactly(start, stop - start), what="a value", limit=most)
    except IntegrityError as error:
        raise MalformedError(error.message, start) from error


def _pass(reader: Reader, at: int) -> int:
    """Return where the object or list that begins at `at` ends."""
    depth, size = 1, _BLOCK
    at += 1
    while True:
        reader.step(at)
        block = reader.most(at, size)
        place = 0
        while place < len(block):
            reader.step(at)
            found = _PASS.match(block, place)
            place = found.end() if found else place
            mark = block[place : place + 1]
            if mark in {b"{", b"["}:
                depth += 1
            elif mark in {b"}", b"]"}:
                depth -= 1
            else:
                break  # within a text, or at the end of the block
            place += 1
            if depth == 0:
                return at + place
            if depth > _DEPTH:
                raise MalformedError(f"JSON is nested deeper than {_DEPTH} levels", at + place)
        at, size = _further(at, place, block, size)


def _further(at: int, place: int, block: bytes, size: int) -> tuple[int, int]:
    """Return where to go on, and how many bytes to look at: more where a text is longer than a block."""
    if len(block) < size or size > _LONGEST:
        raise MalformedError("JSON ends within a value, or a text is too long", at + place)
    return at + place, _BLOCK if place else 2 * size


def _text_end(reader: Reader, at: int) -> int:
    size = 1024
    while True:
        reader.step(at)
        block = reader.most(at, size)
        found = _ONE_TEXT.match(block)
        if found:
            return at + found.end()
        _, size = _further(at, 0, block, size)


def _space(reader: Reader, at: int) -> int:
    """Return where the white space from `at` on ends."""
    while True:
        reader.step(at)
        block, base = reader.window(at, 1)
        found = _SPACE.match(block, at - base)
        at = base + found.end() if found else at
        if at - base < len(block) or at >= reader.size:
            return at


def _next(reader: Reader, at: int) -> tuple[bytes, int]:
    """Return the next byte that is no white space, none at the end, and where it ends."""
    at = _space(reader, at)
    return reader.most(at, 1), at + 1


def _expect(reader: Reader, at: int, mark: bytes) -> int:
    found, after = _next(reader, at)
    if found != mark:
        raise MalformedError(f"expected {mark.decode()!r} of JSON", at)
    return after
