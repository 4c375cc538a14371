"""Says which bytes of a model file are tensors, and of what type, from the file's own header.

    read_layout("safetensors", stream, size)  ->  Layout(tensors=(Tensor("w", 104, 108, "fp32"),), ...)

It decides how bytes are coded, and which of them a delta may leave out; never what they are: every byte of a file
travels and is hashed whatever is said here. So a file that the walker can make no sense of simply has no tensors, and
one that lies about them is only coded badly.

Rules held here:

1. Data of tensors is never read on purpose: only headers, by offset, at most `_READ` bytes and `_STEPS` fields.
2. Nothing recurses; what is kept in memory is bounded by what was read.
3. Ranges lie within the file and do not overlap; a type with planes has a whole number of elements.

Formats: safetensors (github.com/huggingface/safetensors, "Format"); GGUF 2 and 3, little-endian
(github.com/ggml-org/ggml, docs/gguf.md); ONNX (onnx.proto, onnx/docs/ExternalData.md).
"""

import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, BinaryIO, Final, NamedTuple

from airpack.errors import IntegrityError
from airpack.formats.canonical import parse
from airpack.types import Tensor

_HEADER: Final = 16 << 20  # bytes of a safetensors header, as facts.identify takes it
_READ: Final = 256 << 20  # bytes read of one file: an ONNX file costs a block for each tensor
_STEPS: Final = 1 << 20  # fields, keys or tensors that are looked at in one file
_TENSORS: Final = 1 << 17  # tensors of one file
_STRINGS: Final = 1 << 22  # strings in the arrays of one GGUF file: vocabularies have some 800,000
_BLOCK: Final = 8 << 10  # bytes read at once: headers of tensors lie far apart
_NAME: Final = 4096  # bytes of a name or of a location

_WIDTH: Final[Mapping[str, int]] = {"bf16": 2, "fp16": 2, "fp32": 4}
_NONE: Final[Mapping[str, tuple[Tensor, ...]]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Layout:
    """What one file says of tensors.

    Attributes:
        tensors: Those in the file itself, sorted, not overlapping.
        external: Those in other files, by the location that the file gives: a path relative to its own folder, as it
            stands there. Their sizes are not known here, so they are held against them by `fit`.
    """

    tensors: tuple[Tensor, ...] = ()
    external: Mapping[str, tuple[Tensor, ...]] = field(default_factory=lambda: _NONE)


def read_layout(name: str, stream: BinaryIO, size: int) -> Layout:
    """Return where the tensors of a model file lie.

    Args:
        name: What `facts.identify` says that the file is.
        stream: The file, which can be read at any offset.
        size: Its length in bytes.

    Returns:
        The layout; an empty one for other formats, and for files that are damaged, hostile, or cannot be read: whoever
        packs the file's bytes will meet that error.
    """
    walker = _WALKERS.get(name)
    if walker is None:
        return Layout()
    try:
        found, external = walker(_File(stream, size))
        return Layout(fit(found, size), MappingProxyType({path: tuple(each) for path, each in external.items()}))
    except (_SenselessError, OSError):
        return Layout()


def fit(tensors: Iterable[Tensor], size: int) -> tuple[Tensor, ...]:
    """Return `tensors` as ranges of one file of `size` bytes: sorted, none empty, equal ranges once.

    A range of a type with planes that is no whole number of elements becomes one of `other`. When ranges overlap, or
    lie beyond the file, whoever wrote them meant another file: then there are none.
    """
    fitted: list[Tensor] = []
    end = 0
    for tensor in sorted(tensors, key=lambda each: (each.start, each.stop, each.name)):
        if tensor.start == tensor.stop or (fitted and _range(tensor) == _range(fitted[-1])):
            continue
        if not end <= tensor.start <= tensor.stop <= size:
            return ()
        whole = (tensor.stop - tensor.start) % _WIDTH.get(tensor.dtype, 1) == 0
        fitted.append(tensor if whole else Tensor(tensor.name, tensor.start, tensor.stop, "other"))
        end = tensor.stop
    return tuple(fitted)


def _range(tensor: Tensor) -> tuple[int, int]:
    return tensor.start, tensor.stop


class _SenselessError(Exception):
    """The walker can make no sense of the file, or it asks for more work than any real one."""


_Found = tuple[list[Tensor], dict[str, list[Tensor]]]  # in the file itself, and in others by location


class _File:
    """A file read by offset, through one small block, with an account of the steps taken."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size = size
        self._stream = stream
        self._steps, self._left = _STEPS, _READ
        self._block, self._start = b"", 0

    def step(self) -> None:
        """Count one field, key or tensor."""
        self._steps -= 1
        if self._steps < 0:
            raise _SenselessError

    def exactly(self, at: int, count: int) -> bytes:
        """Return the `count` bytes at `at`; all of them lie in the file."""
        data = self.most(at, count)
        if len(data) != count:
            raise _SenselessError
        return data

    def most(self, at: int, count: int) -> bytes:
        """Return the `count` bytes at `at`, fewer at the end of the file."""
        start = at - self._start
        if start < 0 or start + count > len(self._block):
            self._block, self._start, start = self._read(at, max(count, _BLOCK)), at, 0
        return self._block[start : start + count]

    def unpack(self, form: struct.Struct, at: int) -> tuple[Any, ...]:
        return form.unpack(self.exactly(at, form.size))

    def _read(self, at: int, count: int) -> bytes:
        self._left -= count
        if self._left < 0:
            raise _SenselessError
        if at >= self.size:
            return b""
        self._stream.seek(at, os.SEEK_SET)
        data = bytearray()
        while len(data) < count and (piece := self._stream.read(count - len(data))):
            data += piece
        return bytes(data)


# --- safetensors ------------------------------------------------------------------------------------------------------

_U64: Final = struct.Struct("<Q")
_SAFETENSORS: Final[Mapping[str, str]] = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


def _safetensors(file: _File) -> _Found:
    (length,) = file.unpack(_U64, 0)
    if length > min(_HEADER, file.size - _U64.size):
        raise _SenselessError
    try:
        header = parse(file.exactly(_U64.size, length), what="header", limit=_HEADER)
    except IntegrityError as error:
        raise _SenselessError from error
    if not isinstance(header, dict):
        raise _SenselessError
    header.pop("__metadata__", None)
    start = _U64.size + length
    return [_safetensor(name, entry, start) for name, entry in header.items()], {}


def _safetensor(name: str, entry: Any, start: int) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "data_offsets": [int(begin), int(end)]} if 0 <= begin <= end:
            return Tensor(name, start + begin, start + end, _SAFETENSORS.get(dtype, "other"))
    raise _SenselessError


# --- GGUF -------------------------------------------------------------------------------------------------------------

_GGUF_HEAD: Final = struct.Struct("<4sIQQ")
_U32: Final = struct.Struct("<I")
_ARRAY: Final = struct.Struct("<IQ")
_PLACE: Final = struct.Struct("<IQ")
_GGUF_VERSIONS: Final = frozenset({2, 3})
_STRING, _LIST = 8, 9
_UINT32: Final = 4
_SIZES: Final = {
    0: 1,
    1: 1,
    2: 2,
    3: 2,
    4: 4,
    5: 4,
    6: 4,
    7: 1,
    10: 8,
    11: 8,
    12: 8,
}  # bytes, by gguf_metadata_value_type
_DIMENSIONS: Final = 8  # ggml has at most 4
_ALIGNMENT: Final = 32  # bytes, where general.alignment says nothing
_MOST_ALIGNMENT: Final = 1 << 20
_STRINGS_BLOCK: Final = 1 << 20  # bytes of a vocabulary read at once
_WORD: Final = 32  # bytes of one string in it, about
_GGUF_TYPES: Final[Mapping[int, str]] = {0: "fp32", 1: "fp16", 30: "bf16"}
_BLOCKS: Final = {  # ggml_type: (elements, bytes) of one block
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 40),  # Q8_1, as ggml's library for Python has it; it is in no file
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
}


class _Info(NamedTuple):
    """What stands in the list of tensors."""

    name: str
    elements: int
    row: int  # elements of the first dimension, which blocks divide
    type: int
    offset: int


def _gguf(file: _File) -> _Found:
    magic, version, tensors, keys = file.unpack(_GGUF_HEAD, 0)
    if magic != b"GGUF" or version not in _GGUF_VERSIONS:
        raise _SenselessError
    at, alignment = _GGUF_HEAD.size, _ALIGNMENT
    strings = _Strings(file)
    for _ in range(min(keys, _STEPS + 1)):
        file.step()
        name, at = strings.text(at)
        (kind,) = file.unpack(_U32, at)
        at += _U32.size
        if name == "general.alignment" and kind == _UINT32:
            (alignment,) = file.unpack(_U32, at)
        at = strings.skip(kind, at)
    infos: list[_Info] = []
    if tensors > _TENSORS:
        raise _SenselessError
    for _ in range(tensors):
        info, at = _gguf_info(file, strings, at)
        infos.append(info)
    if not 1 <= alignment <= _MOST_ALIGNMENT:
        raise _SenselessError
    start = -(-at // alignment) * alignment
    return [_gguf_tensor(info, start) for info in infos if _is_known(info)], {}


def _gguf_info(file: _File, strings: "_Strings", at: int) -> tuple[_Info, int]:
    name, at = strings.text(at)
    (count,) = file.unpack(_U32, at)
    if count > _DIMENSIONS:
        raise _SenselessError
    at += _U32.size
    form = struct.Struct(f"<{count}Q")
    shape = file.unpack(form, at)
    kind, offset = file.unpack(_PLACE, at + form.size)
    elements = 1
    for length in shape:
        elements *= length
    return _Info(name, elements, shape[0] if shape else 1, kind, offset), at + form.size + _PLACE.size


def _is_known(info: _Info) -> bool:
    """Return whether the tensor's length follows from its type; what does not is left between the others."""
    return info.type in _BLOCKS and info.row % _BLOCKS[info.type][0] == 0


def _gguf_tensor(info: _Info, start: int) -> Tensor:
    elements, size = _BLOCKS[info.type]
    begin = start + info.offset
    return Tensor(info.name, begin, begin + info.elements // elements * size, _GGUF_TYPES.get(info.type, "other"))


class _Strings:
    """The values of a GGUF file: texts that are read, and others that are passed over."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._left = _STRINGS

    def text(self, at: int) -> tuple[str, int]:
        """Return the text at `at` and where it ends."""
        (length,) = self._file.unpack(_U64, at)
        if length > _NAME:
            raise _SenselessError
        at += _U64.size
        return self._file.exactly(at, length).decode("utf-8", "replace"), at + length

    def skip(self, kind: int, at: int) -> int:
        """Return where the value of type `kind` at `at` ends."""
        if kind == _STRING:
            return self._skip_strings(at, 1)
        if kind != _LIST:
            return self._within(at + _size_of(kind))
        kind, count = self._file.unpack(_ARRAY, at)
        at += _ARRAY.size
        return self._skip_strings(at, count) if kind == _STRING else self._within(at + count * _size_of(kind))

    def _skip_strings(self, at: int, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise _SenselessError
        unpack, width = _U64.unpack_from, _U64.size
        while count:
            block = self._file.most(at, min(count * _WORD, _STRINGS_BLOCK))
            place, last = 0, len(block) - width
            while count and place <= last:
                place += width + unpack(block, place)[0]
                count -= 1
            if not place:
                raise _SenselessError
            at = self._within(at + place)
        return at

    def _within(self, at: int) -> int:
        if at > self._file.size:
            raise _SenselessError
        return at


def _size_of(kind: int) -> int:
    if kind not in _SIZES:  # arrays in arrays too: no known file has them
        raise _SenselessError
    return _SIZES[kind]


# --- ONNX -------------------------------------------------------------------------------------------------------------

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WORTH: Final = 16  # bytes: a smaller message holds no tensor that matters
_MOST_DIMS: Final = 64
_MOST_ENTRIES: Final = 16  # in external_data
_ONNX_TYPES: Final[Mapping[int, str]] = {1: "fp32", 10: "fp16", 16: "bf16"}
_ONNX_WIDTHS: Final = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
_INSIDE: Final[Mapping[str, Mapping[int, str]]] = {  # message, field number, message there
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_LABEL: Final = {"node": 2, "attribute": 1}  # output, name: they stand before what they label
_DIMS, _TYPE, _FLOATS, _TENSOR_NAME, _RAW, _EXTERNAL = 1, 2, 4, 8, 9, 13


class _Field(NamedTuple):
    """One protobuf field: its number, wire type, value if it is a varint, and where its content lies."""

    number: int
    wire: int
    value: int
    start: int
    end: int


def _onnx(file: _File) -> _Found:
    inside: list[Tensor] = []
    outside: dict[str, list[Tensor]] = {}
    waiting = deque([("model", 0, file.size, "")])
    while waiting:  # in the order of the file, so that blocks are read once
        message, start, end, label = waiting.popleft()
        if message == "tensor":
            _onnx_tensor(file, start, end, label).place(inside, outside)
            continue
        for each in _fields(file, start, end):
            if each.number == _LABEL.get(message):
                label += _text(file, each) + "/"
            if len(waiting) + len(inside) > _TENSORS:
                raise _SenselessError
            child = _INSIDE[message].get(each.number)
            if child and each.wire == _BYTES and each.end - each.start >= _WORTH:
                waiting.append((child, each.start, each.end, label[:_NAME]))
    return inside, outside


@dataclass(slots=True)
class _OnnxTensor:
    """A TensorProto as far as it says where its data lies."""

    name: str
    type: int = 0
    dims: list[int] = field(default_factory=list)
    data: _Field | None = None
    external: dict[str, str] = field(default_factory=dict)

    def place(self, inside: list[Tensor], outside: dict[str, list[Tensor]]) -> None:
        dtype = _ONNX_TYPES.get(self.type, "other")
        if self.data is not None:
            inside.append(Tensor(self.name, self.data.start, self.data.end, dtype))
        elif self.external.get("location"):
            start, length = self._number("offset", 0), self._number("length", self._length())
            if start >= 0 and length > 0:
                found = outside.setdefault(self.external["location"], [])
                found.append(Tensor(self.name, start, start + length, dtype))

    def _number(self, key: str, default: int) -> int:
        text = self.external.get(key)
        if text is None:
            return default
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1  # noqa: PLR2004 - 64 bits

    def _length(self) -> int:
        """Return the bytes that the shape asks for; -1 where the type does not say."""
        length = _ONNX_WIDTHS.get(self.type, -1)
        for dim in self.dims:
            length *= dim
        return length


def _onnx_tensor(file: _File, start: int, end: int, label: str) -> _OnnxTensor:
    tensor = _OnnxTensor(label)
    for each in _fields(file, start, end):
        if each.number == _TYPE:
            tensor.type = each.value
        elif each.number == _DIMS:
            tensor.dims += _dims(file, each)
        elif each.number == _TENSOR_NAME:
            tensor.name = label + _text(file, each)
        elif each.wire == _BYTES and each.number in {_RAW, _FLOATS}:
            tensor.data = each
        elif each.number == _EXTERNAL:
            _read_entry(file, each, tensor.external)
        if len(tensor.dims) > _MOST_DIMS or len(tensor.external) > _MOST_ENTRIES:
            raise _SenselessError
    return tensor


def _dims(file: _File, dims: _Field) -> Iterator[int]:
    """Yield the dimensions in one field: a single one, or several packed together."""
    if dims.wire == _VARINT:
        yield dims.value
    elif dims.wire == _BYTES:
        at = dims.start
        while at < dims.end:
            file.step()
            value, at = _varint(file, at)
            yield value


def _read_entry(file: _File, entry: _Field, into: dict[str, str]) -> None:
    if entry.wire != _BYTES:
        raise _SenselessError
    texts = {each.number: _text(file, each) for each in _fields(file, entry.start, entry.end) if each.number in {1, 2}}
    into[texts.get(1, "")] = texts.get(2, "")


def _text(file: _File, each: _Field) -> str:
    if each.wire != _BYTES or each.end - each.start > _NAME:
        raise _SenselessError
    return file.exactly(each.start, each.end - each.start).decode("utf-8", "replace")


def _fields(file: _File, start: int, end: int) -> Iterator[_Field]:
    """Yield the protobuf fields from `start` to exactly `end`, passing over what is in them."""
    while start < end:
        file.step()
        tag, at = _varint(file, start)
        number, wire, value, stop = tag >> 3, tag & 7, 0, at
        if wire in {_VARINT, _BYTES}:
            value, at = _varint(file, at)
            stop = at + (value if wire == _BYTES else 0)
        elif wire in {_FIXED64, _FIXED32}:
            stop = at + (8 if wire == _FIXED64 else 4)
        else:
            raise _SenselessError
        if stop > end or not number:
            raise _SenselessError
        yield _Field(number, wire, value, at, stop)
        start = stop


def _varint(file: _File, at: int) -> tuple[int, int]:
    """Return the varint at `at`, of at most ten bytes, and where it ends."""
    value = 0
    for index, byte in enumerate(file.most(at, 10)):
        value |= (byte & 127) << (7 * index)
        if byte < 128:  # noqa: PLR2004 - the continuation bit
            return value, at + index + 1
    raise _SenselessError


_WALKERS: Final[Mapping[str, Callable[[_File], _Found]]] = {
    "safetensors": _safetensors,
    "gguf": _gguf,
    "onnx": _onnx,
}
FORMATS: Final = frozenset(_WALKERS)
"""The formats in which tensors are found."""
