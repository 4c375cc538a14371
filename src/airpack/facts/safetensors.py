"""Reads safetensors files: the header, and whether it fits the file.

    u64 length, header, data
    {"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}

github.com/huggingface/safetensors, "Format". A header may list 20,000 tensors: those that are written as the format's
own libraries write them are read by one expression; any other way to write the same JSON is read as strict JSON.
Both give the same entries.
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from airpack.errors import IntegrityError
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.canonical import parse
from airpack.formats.facts import Count, SafetensorsFacts, clip

READER: Final = "safetensors/1"
FLOATS: Final[Mapping[str, str]] = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}  # dtypes that have planes
BITS: Final[Mapping[str, int]] = {  # of one element, by dtype
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

_LENGTH: Final = struct.Struct("<Q")
_HEADER: Final = 16 << 20  # bytes, as facts.identify takes it
_TENSORS: Final = 1 << 17
_DIMENSIONS: Final = 64
_METADATA: Final = "__metadata__"
_ENTRY: Final = re.compile(
    rb'"(?P<name>[^"\\\x00-\x1f]++)":\{"dtype":"(?P<dtype>[A-Z][A-Z0-9_]{0,31})"'
    rb',"shape":\[(?P<shape>(?:(?:0|[1-9][0-9]{0,17})(?:,(?:0|[1-9][0-9]{0,17}))*+)?)\]'
    rb',"data_offsets":\[(?P<begin>0|[1-9][0-9]{0,17}),(?P<end>0|[1-9][0-9]{0,17})\]\}(?P<more>,?)'
)
_META: Final = re.compile(rb'"__metadata__":(?P<table>\{(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+\}),?')


class Entry(NamedTuple):
    """One tensor: its name, type and shape, and where its data lies behind the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """All that comes before the data.

    Attributes:
        entries: Tensors, in the order of the header.
        metadata: What `__metadata__` holds.
        length: Bytes of the JSON.
    """

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]
    length: int

    @property
    def data(self) -> int:
        """Where the data begins."""
        return _LENGTH.size + self.length


def read_header(reader: Reader) -> Header:
    """Return the header of a safetensors file.

    Raises:
        MalformedError: It is none, or not one that can be.
        StorageError: It cannot be read.
    """
    (length,) = reader.unpack(_LENGTH, 0)
    if length > _HEADER:
        raise MalformedError(f"a header of {length} bytes; at most {_HEADER} are read", 0)
    data = reader.exactly(_LENGTH.size, length)
    entries, metadata = _as_written(data) or _as_json(data)
    return Header(tuple(entries), metadata, length)


def _as_written(data: bytes) -> tuple[list[Entry], dict[str, str]] | None:
    """Return what the header holds, if it is written as the format's libraries write it; else None."""
    at, metadata = 1, {}
    if found := _META.match(data, 1):
        table = _parse(found["table"])
        metadata, at = _texts(table), found.end()
        if data[at - 1 : at] != b",":
            return None
    entries: list[Entry] = []
    names, more = set[bytes](), b","
    shapes: dict[bytes, tuple[int, ...]] = {b"": ()}
    for match in _ENTRY.finditer(data, at):
        name, dtype, shape, begin, end, more = match.groups()
        if match.start() != at or name in names or len(entries) == _TENSORS:
            return None
        names.add(name)
        at = match.end()
        lengths = shapes.get(shape)
        if lengths is None:
            lengths = shapes[shape] = tuple(map(int, shape.split(b",")))
        try:
            entries.append(Entry(name.decode(), dtype.decode(), lengths, int(begin), int(end)))
        except UnicodeDecodeError:
            return None
        if not more:
            break
    whole = data[:1] == b"{" and not more and data[at:].rstrip(b" ") == b"}" and _METADATA.encode() not in names
    return (entries, metadata) if whole else None


def _as_json(data: bytes) -> tuple[list[Entry], dict[str, str]]:
    header = _parse(data)
    metadata = _texts(header.pop(_METADATA, {}))
    if len(header) > _TENSORS:
        raise MalformedError(f"{len(header)} tensors; at most {_TENSORS} are read", _LENGTH.size)
    return [_entry(name, value) for name, value in header.items()], metadata


def _parse(data: bytes) -> dict[str, Any]:
    try:
        value = parse(data, what="header", limit=_HEADER)
    except IntegrityError as error:
        raise MalformedError(error.message, _LENGTH.size) from error
    if not isinstance(value, dict):
        raise MalformedError("the header is no JSON object", _LENGTH.size)
    return value


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise MalformedError(f"{_METADATA} holds something else than texts", _LENGTH.size)
    return value


def _entry(name: str, value: Any) -> Entry:
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end], **more} if not more:
            if _are_lengths((*shape, begin, end)):
                return Entry(name, dtype, tuple(shape), begin, end)
    raise MalformedError(f"tensor {name[:100]!r} is no table of dtype, shape and data_offsets", _LENGTH.size)


def _are_lengths(numbers: tuple[Any, ...]) -> bool:
    return len(numbers) <= _DIMENSIONS and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)


# --- facts ------------------------------------------------------------------------------------------------------------

_KEPT: Final = 64  # entries of __metadata__
_TEXT: Final = 200  # characters of one that is kept
_LARGEST: Final = 2**53 - 1


def read(reader: Reader, notes: Notes) -> SafetensorsFacts:
    """Return what a safetensors file says.

    Raises:
        MalformedError: As `read_header`.
        StorageError: It cannot be read.
    """
    header = read_header(reader)
    notes.at("header", 0, header.data)
    for reason in _faults(header, reader.size):
        notes.problem(reason, _LENGTH.size)
    counts: dict[str, list[int]] = {}
    elements = 0
    for entry in header.entries:
        count = counts.setdefault(clip(entry.dtype, _TEXT), [0, 0])
        count[0] += 1
        count[1] += entry.end - entry.begin
        elements += math.prod(entry.shape)
    kept = [(key, value) for key, value in header.metadata.items() if max(len(key), len(value)) <= _TEXT]
    return SafetensorsFacts(
        header=header.length,
        tensors=len(header.entries),
        dtypes={name: Count(count, min(size, _LARGEST)) for name, (count, size) in counts.items()},
        parameters=min(elements, _LARGEST),
        metadata=dict(sorted(kept)[:_KEPT]),
    )


def _faults(header: Header, size: int) -> Iterator[str]:
    """Yield what the format forbids: holes, overlaps, sizes that do not fit shapes, and data that is not all there."""
    at = 0
    for entry in sorted(header.entries, key=lambda each: (each.begin, each.end)):
        if entry.begin != at or entry.end < at:
            yield f"tensor {entry.name[:100]!r} lies at {entry.begin} to {entry.end} of the data; expected from {at}"
            return
        at = entry.end
        bits = BITS.get(entry.dtype)
        needed = math.prod(entry.shape) * bits if bits else 8 * (entry.end - entry.begin)
        if needed != 8 * (entry.end - entry.begin):
            yield f"tensor {entry.name[:100]!r} has {entry.end - entry.begin} bytes; its shape needs {-(-needed // 8)}"
            return
    if header.data + at != size:
        yield f"its data ends at byte {header.data + at}; the file has {size}"
