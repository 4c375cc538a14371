"""Reads GGUF files: keys, tensors, and where they lie. Versions 2 and 3, little-endian.

    u32 magic "GGUF", u32 version, u64 tensors, u64 keys
    key:    string name, u32 type, value            string: u64 length, bytes
    tensor: string name, u32 dimensions, u64 each, u32 ggml type, u64 offset from the start of the data
    data at the next multiple of `general.alignment`

github.com/ggml-org/ggml, docs/gguf.md. Arrays are passed over, a vocabulary of 150,000 words included.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import Count, GgufFacts, Setting

READER: Final = "gguf/1"
VERSIONS: Final = frozenset({2, 3})
FLOATS: Final[Mapping[int, str]] = {0: "fp32", 1: "fp16", 30: "bf16"}  # ggml_type of tensors that have planes
BLOCKS: Final[Mapping[int, tuple[str, int, int]]] = {  # ggml_type: name, (elements, bytes) of one block
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),  # as ggml's library for Python has it; it is in no file
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}

_HEAD: Final = struct.Struct("<4sIQQ")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_ARRAY: Final = struct.Struct("<IQ")  # type and number of its elements
_PLACE: Final = struct.Struct("<IQ")  # ggml type and offset of a tensor
_STRING, _LIST = 8, 9
_FORMS: Final[Mapping[int, struct.Struct]] = {  # by gguf_metadata_value_type
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: _U32,
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: _U64,
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_FLOATING: Final = frozenset({6, 12})

_KEYS: Final = 4096  # of one file; real ones have some fifty
_TENSORS: Final = 1 << 17
_NAME: Final = 4096  # bytes of a key or a tensor's name
_DIMENSIONS: Final = 8  # ggml has at most 4
_ALIGNMENT: Final = 32  # bytes, where general.alignment says nothing
_MOST_ALIGNMENT: Final = 1 << 20
_STRINGS: Final = 1 << 22  # strings in the arrays of one file: vocabularies have some 800,000


class Value(NamedTuple):
    """A key's value, not yet read.

    Attributes:
        kind: Its type; of its elements, for an array.
        length: Elements of an array; -1 for what is none.
        start: Where it lies; the content, for a string or an array.
        stop: Where that ends.
    """

    kind: int
    length: int
    start: int
    stop: int


class Tensor(NamedTuple):
    """What stands in the list of tensors."""

    name: str
    elements: int
    row: int  # elements of the first dimension, which blocks divide
    kind: int
    offset: int  # from the start of the data
    start: int  # where this entry lies
    stop: int

    @property
    def length(self) -> int:
        """Bytes of its data; -1 where that does not follow from its type."""
        if self.kind not in BLOCKS or self.row % BLOCKS[self.kind][1]:
            return -1
        _, elements, size = BLOCKS[self.kind]
        return self.elements // elements * size


@dataclass(frozen=True, slots=True)
class Header:
    """All that comes before the data of a GGUF file.

    Attributes:
        version: Of the format.
        values: By key.
        tensors: In the order in which they are listed.
        alignment: Bytes.
        data: Where the data begins.
    """

    version: int
    values: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    alignment: int
    data: int


def read_header(reader: Reader) -> Header:
    """Return the header of a GGUF file.

    Raises:
        MalformedError: It is none, or not one that can be.
        StorageError: It cannot be read.
    """
    magic, version, tensors, keys = reader.unpack(_HEAD, 0)
    if magic != b"GGUF" or version not in VERSIONS:
        other = int.from_bytes(version.to_bytes(4, "little"), "big")
        order = " in the other byte order" if other in VERSIONS else ""
        raise MalformedError(f"GGUF version {other if order else version}{order}; versions 2 and 3 are read", 4)
    for count, most, what in ((keys, _KEYS, "keys"), (tensors, _TENSORS, "tensors")):
        if count > most:
            raise MalformedError(f"{count} {what}; at most {most} are read", 8)
    walk = _Walk(reader)
    values, at = walk.values(keys, _HEAD.size)
    infos: list[Tensor] = []
    for _ in range(tensors):
        info = walk.tensor(at)
        infos.append(info)
        at = info.stop
    alignment = _alignment(reader, values)
    return Header(version, values, tuple(infos), alignment, -(-at // alignment) * alignment)


def _alignment(reader: Reader, values: Mapping[str, Value]) -> int:
    value = values.get("general.alignment")
    if value is None or value.kind != 4 or value.length >= 0:  # noqa: PLR2004 - a u32, by the specification
        return _ALIGNMENT
    (alignment,) = reader.unpack(_U32, value.start)
    if not 1 <= alignment <= _MOST_ALIGNMENT:
        raise MalformedError(f"general.alignment is {alignment}", value.start)
    return int(alignment)


class _Walk:
    """Passes over keys and tensors."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._left = _STRINGS

    def values(self, keys: int, at: int) -> tuple[dict[str, Value], int]:
        """Return `keys` values from `at` on, and where they end."""
        values: dict[str, Value] = {}
        for _ in range(keys):
            self._reader.step(at)
            name, start = self._name(at)
            if name in values:
                raise MalformedError(f"key {name[:100]!r} occurs twice, so two readers may see two models", at)
            (kind,) = self._reader.unpack(_U32, start)
            value = self._value(kind, start + _U32.size)
            values[name] = value
            at = value.stop
        return values, at

    def tensor(self, at: int) -> Tensor:
        """Return the entry of the list of tensors at `at`."""
        reader = self._reader
        reader.step(at)
        name, after = self._name(at)
        (count,) = reader.unpack(_U32, after)
        if count > _DIMENSIONS:
            raise MalformedError(f"a tensor of {count} dimensions; at most {_DIMENSIONS} are read", after)
        after += _U32.size
        shape = [reader.unpack(_U64, after + 8 * number)[0] for number in range(count)]
        after += 8 * count
        kind, offset = reader.unpack(_PLACE, after)
        elements = 1
        for length in shape:
            elements *= length
        return Tensor(name, elements, shape[0] if shape else 1, kind, offset, at, after + _PLACE.size)

    def _name(self, at: int) -> tuple[str, int]:
        (length,) = self._reader.unpack(_U64, at)
        if length > _NAME:
            raise MalformedError(f"a name of {length} bytes; at most {_NAME} are read", at)
        at += _U64.size
        return self._reader.exactly(at, length).decode("utf-8", "replace"), at + length

    def _value(self, kind: int, at: int) -> Value:
        within = self._reader.within
        if kind == _STRING:
            start = at + _U64.size
            return Value(kind, -1, start, within(at, start + self._reader.unpack(_U64, at)[0], "a text"))
        if kind != _LIST:
            return Value(kind, -1, at, within(at, at + _form(kind, at).size, "a value"))
        kind, count = self._reader.unpack(_ARRAY, at)
        start = at + _ARRAY.size
        if kind == _STRING:
            return Value(kind, count, start, self._pass_strings(start, count))
        return Value(kind, count, start, within(start, start + count * _form(kind, at).size, "an array"))

    def _pass_strings(self, at: int, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise MalformedError(f"arrays of more than {_STRINGS} texts", at)
        return pass_strings(self._reader, at, count)


def _form(kind: int, at: int) -> struct.Struct:
    form = _FORMS.get(kind)
    if form is None:  # arrays in arrays too: no known file has them
        raise MalformedError(f"a value of type {kind}, which is not known", at)
    return form


_RUN: Final = 512  # short texts that are passed over in one go
_SHORT: Final = 64  # bytes
_RUN_BLOCK: Final = 256 << 10  # bytes of an array of texts that are read at once
# Two in three words of a vocabulary have 4 to 10 bytes: those lengths are tried first.
_RUN_OF_TEXTS: Final = b"(?s)(?:%b){%d}" % (
    b"|".join(
        re.escape(bytes([length])) + rb"\0{7}.{%d}" % length
        for length in sorted(range(_SHORT), key=lambda n: abs(n - 7))
    ),
    _RUN,
)


def pass_strings(reader: Reader, at: int, count: int) -> int:
    """Return where `count` texts from `at` on end.

    A loop of Python takes 100 ns a text; the expression, which knows the first 64 lengths, a third of that.
    """
    run = re.compile(_RUN_OF_TEXTS)
    while count:
        block = reader.most(at, min(count * _SHORT, _RUN_BLOCK))
        place, last = 0, len(block) - _U64.size
        while count and place <= last:
            if count >= _RUN and (found := run.match(block, place)):
                place, count = found.end(), count - _RUN
            else:
                place, passed = _pass_some(block, place, min(count, _RUN))
                count -= passed
        if not place:
            raise MalformedError("an array of texts ends with the file", at)
        at = reader.within(at, at + place, "a text")
    return at


def _pass_some(block: bytes, place: int, count: int) -> tuple[int, int]:
    """Return where at most `count` texts from `place` on end, and how many begin in the block."""
    unpack, last = _U64.unpack_from, len(block) - _U64.size
    for passed in range(count):
        if place > last:
            return place, passed
        place += _U64.size + unpack(block, place)[0]
    return place, count


# --- facts ------------------------------------------------------------------------------------------------------------

_TEXT: Final = 200  # bytes of a text that is kept as a setting
_TEMPLATE: Final = 1 << 20  # bytes of a chat template
_SETTINGS: Final = 512
_LAYERS: Final = 4096  # numbers of an array that is kept: one for each layer
_OWN: Final = frozenset(  # settings that are facts of their own
    {
        "context_length",
        "block_count",
        "embedding_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
    }
)
_TEMPLATE_KEYS: Final = re.compile(r"tokenizer\.chat_template(?:\..+)?\Z", re.DOTALL)
_LARGEST: Final = 2**53 - 1


def read(reader: Reader, notes: Notes) -> GgufFacts:
    """Return what a GGUF file says.

    Raises:
        MalformedError: As `read_header`, or a value that cannot be.
        StorageError: It cannot be read.
    """
    header = read_header(reader)
    keys = _Keys(reader, notes, header.values)
    architecture = keys.text("general.architecture", "architecture")
    notes.at("version", 4, 8)
    _check_layout(reader.size, header, notes)
    return GgufFacts(
        version=header.version,
        tensors=len(header.tensors),
        type=keys.text("general.type", "type"),
        architecture=architecture,
        file_type=keys.number("general.file_type", "file_type"),
        alignment=header.alignment,
        tensor_types=_types(header, notes),
        parameters=_bounded(sum(tensor.elements for tensor in header.tensors)),
        tokenizer=keys.text("tokenizer.ggml.model", "tokenizer"),
        pre_tokenizer=keys.text("tokenizer.ggml.pre", "pre_tokenizer"),
        vocabulary=keys.length("tokenizer.ggml.tokens", "vocabulary"),
        context=keys.number(f"{architecture}.context_length", "context"),
        layers=keys.number(f"{architecture}.block_count", "layers"),
        embedding=keys.number(f"{architecture}.embedding_length", "embedding"),
        heads=keys.numbers(f"{architecture}.attention.head_count", "heads"),
        kv_heads=keys.numbers(f"{architecture}.attention.head_count_kv", "kv_heads"),
        key_length=keys.number(f"{architecture}.attention.key_length", "key_length"),
        value_length=keys.number(f"{architecture}.attention.value_length", "value_length"),
        settings=keys.settings(f"{architecture}."),
        chat_templates=keys.templates(),
        shard=keys.number("split.no", "shard"),
        shards=keys.number("split.count", "shards"),
        shard_tensors=keys.number("split.tensors.count", "shard_tensors"),
    )


class _Keys:
    """Reads the values of keys that are facts."""

    def __init__(self, reader: Reader, notes: Notes, values: Mapping[str, Value]) -> None:
        self._reader = reader
        self._notes = notes
        self._values = values

    def _find(self, key: str, fact: str) -> Value | None:
        value = self._values.get(key)
        if value is not None:
            self._notes.at(fact, value.start, value.stop)
        return value

    def text(self, key: str, fact: str) -> str:
        """Return a text; empty where there is none."""
        value = self._find(key, fact)
        if value is None:
            return ""
        found = self._scalar(value)
        if not isinstance(found, str):
            raise MalformedError(f"{key} is no text of at most {_TEXT} bytes", value.start)
        return found

    def number(self, key: str, fact: str) -> int | None:
        """Return a whole number; None where there is none."""
        value = self._find(key, fact)
        if value is None or value.length >= 0:
            return None
        found = self._scalar(value)
        if type(found) is not int:
            raise MalformedError(f"{key} is no whole number", value.start)
        return found

    def numbers(self, key: str, fact: str) -> tuple[int, ...]:
        """Return a whole number, or one for each layer."""
        value = self._find(key, fact)
        if value is None:
            return ()
        found = self._scalar(value)
        if type(found) is int:
            return (found,)
        if not isinstance(found, tuple):
            raise MalformedError(f"{key} is neither a whole number nor an array of them", value.start)
        return found

    def length(self, key: str, fact: str) -> int | None:
        """Return how many elements an array has."""
        value = self._find(key, fact)
        return _bounded(value.length) if value is not None and value.length >= 0 else None

    def settings(self, prefix: str) -> dict[str, Setting]:
        """Return all values below `prefix` that can be kept, without it."""
        found: dict[str, Setting] = {}
        for key, value in self._values.items():
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name not in _OWN and len(key) <= _TEXT and len(found) < _SETTINGS:
                setting = self._scalar(value)
                if setting is not None:
                    found[name] = setting
        return found

    def templates(self) -> tuple[str, ...]:
        """Return the keys that hold a chat template, each noted as code."""
        found = []
        for key, value in self._values.items():
            if _TEMPLATE_KEYS.match(key) and value.kind == _STRING and value.length < 0:
                if value.stop - value.start > _TEMPLATE:
                    raise MalformedError(f"{key[:100]!r} has {value.stop - value.start} bytes", value.start)
                self._notes.template(key, self._reader.exactly(value.start, value.stop - value.start), value.start)
                found.append(key[:_TEXT])
        return tuple(sorted(found))

    def _scalar(self, value: Value) -> Setting | None:
        """Return a value as a setting; None for numbers with a fraction, and for what is too long or too large."""
        if value.length >= 0:
            return self._array(value)
        if value.kind == _STRING:
            if value.stop - value.start > _TEXT:
                return None
            return _utf8(self._reader.exactly(value.start, value.stop - value.start), value.start)
        if value.kind in _FLOATING:
            return None
        (found,) = self._reader.unpack(_FORMS[value.kind], value.start)
        return found if isinstance(found, bool) or abs(found) <= _LARGEST else None

    def _array(self, value: Value) -> Setting | None:
        if value.kind == _STRING or value.kind in _FLOATING or value.length > _LAYERS:
            return None
        form = struct.Struct(f"<{value.length}{_FORMS[value.kind].format[1:]}")
        found = tuple(int(number) for number in self._reader.unpack(form, value.start))
        return found if all(abs(number) <= _LARGEST for number in found) else None


def _utf8(data: bytes, at: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("a text is not UTF-8", at + error.start) from error


def _bounded(number: int) -> int:
    return min(number, _LARGEST)


def _types(header: Header, notes: Notes) -> dict[str, Count]:
    counts: dict[int, list[int]] = {}
    for tensor in header.tensors:
        name = BLOCKS[tensor.kind][0] if tensor.kind in BLOCKS else f"type-{tensor.kind}"
        notes.at(f"tensor_types.{name}", tensor.start, tensor.stop)
        count = counts.setdefault(tensor.kind, [0, 0])
        count[0] += 1
        count[1] += max(tensor.length, 0)
    return {
        BLOCKS[kind][0] if kind in BLOCKS else f"type-{kind}": Count(count, _bounded(size))
        for kind, (count, size) in counts.items()
    }


def _check_layout(size: int, header: Header, notes: Notes) -> None:
    """Hold the tensors against the file: each once, one behind the other from the start, aligned, and all there."""
    names: set[str] = set()
    expected: int | None = 0
    for tensor in header.tensors:
        if tensor.name in names:
            notes.problem(f"tensor {tensor.name[:100]!r} occurs twice", tensor.start)
        names.add(tensor.name)
        if expected is not None and tensor.offset != expected:
            notes.problem(
                f"tensor {tensor.name[:100]!r} lies at {tensor.offset} of the data; expected {expected}", tensor.start
            )
        end = header.data + tensor.offset + max(tensor.length, 0)
        if end > size:
            notes.problem(f"tensor {tensor.name[:100]!r} ends at byte {end}; the file has {size}", tensor.start)
            return
        if tensor.length < 0 and tensor.kind in BLOCKS:
            notes.problem(
                f"tensor {tensor.name[:100]!r} has rows of {tensor.row} elements, no whole blocks", tensor.start
            )
        step = header.alignment
        expected = None if tensor.length < 0 else -(-(tensor.offset + tensor.length) // step) * step
