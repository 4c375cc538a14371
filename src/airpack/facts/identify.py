"""Says what a file is by its first bytes, whatever its name claims.

    identify("weights.bin", head, size)  ->  FormatFact(path="weights.bin", name="pickle", ..., unsafe=True, ...)

Law 5 stands over it: an unsafe format is named wherever it can begin, a container that hides its content is no "data".
`unsafe` follows `formats.compat.UNSAFE`, so that the builder's view and the site's policy cannot differ.
Nothing is loaded, imported or unpickled; the time taken is bounded by `HEAD`, never by the size of the file.

Not found, by design: a pickle without a header that names nothing within its first `_MOST_OPS` opcodes; an object array
behind the first 64 KiB of an .npz, which numpy refuses to load by itself.
"""

import codecs
import pickletools
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from airpack.errors import IntegrityError
from airpack.formats.canonical import parse
from airpack.formats.compat import OPAQUE, UNSAFE

HEAD: Final = 64 << 10  # bytes looked at

_Found = tuple[str, str] | None  # (name, detail)

_MAGIC: Final = (  # (offset, bytes, name)
    (0, b"\x7fELF", "elf"),
    (0, b"\xfe\xed\xfa\xce", "mach-o"),
    (0, b"\xfe\xed\xfa\xcf", "mach-o"),
    (0, b"\xce\xfa\xed\xfe", "mach-o"),
    (0, b"\xcf\xfa\xed\xfe", "mach-o"),
    (0, b"\xca\xfe\xba\xbe", "mach-o"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"ZF0x", "joblib"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07", "rar"),
    (257, b"ustar", "tar"),
    *((offset, b"\x89HDF\r\n\x1a\n", "hdf5") for offset in (0, 512, 1024, 2048, 4096, 8192, 16384, 32768)),
)
_BZIP2 = re.compile(rb"BZh[1-9]1AY&SY")
_LZMA = re.compile(rb"\x5d\x00\x00..\xff{8}", re.DOTALL)  # as joblib writes it; xz has its own magic

_SAFETENSORS_HEADER: Final = 16 << 20  # bytes
_GGUF_VERSIONS: Final = range(1, 4)
_GGUF_LEAST: Final = {"tensor": 24, "key": 13}  # bytes that one tensor or key takes at least


@dataclass(frozen=True, slots=True)
class FormatFact:
    """What one file is.

    Attributes:
        path: The file, as the caller names it.
        name: One of the names in `formats.compat`: `INERT`, `UNSAFE` or `OPAQUE`.
        detail: What more the head says, such as a version; may be empty.
        unsafe: Whether loading it may run code of its maker.
        reason: Why it is unsafe, or why that cannot be decided; empty for the rest.
    """

    path: str
    name: str
    detail: str
    unsafe: bool
    reason: str


def identify(path: str, head: bytes, size: int) -> FormatFact:
    """Return what the file is whose first bytes are `head`.

    Args:
        path: The file's name, for messages only: it decides nothing.
        head: The first `HEAD` bytes, or all of them when the file is shorter.
        size: Length of the whole file in bytes.

    Returns:
        A fact; never raises. Grade `static`: it rests on the bytes alone.
    """
    head = head[:HEAD]
    for reader in _READERS:
        found = reader(head, size)
        if found is not None:
            name, detail = found
            return FormatFact(path, name, detail, name in UNSAFE, UNSAFE.get(name, "") or OPAQUE.get(name, ""))
    return FormatFact(path, "data", "", unsafe=False, reason="")


def _empty(head: bytes, _size: int) -> _Found:
    return None if head else ("empty", "")


# --- pickle -----------------------------------------------------------------------------------------------------------

_OPS: Final = {ord(op.code): op for op in pickletools.opcodes}
_PROTOCOLS: Final = range(6)
_MOST_OPS: Final = 4096
_WALKABLE: Final = frozenset(op for op in _OPS if op not in b"\x80\x95")  # headers would have been seen already
_LENGTHS: Final = {-2: "<B", -3: "<i", -4: "<I", -5: "<Q"}  # pickletools' codes for a length before the argument
_PLAIN_CONTAINER = re.compile(rb"\((?:[dlt])p[0-9]{1,9}\n|[\])}]q\x00")
_LINE_FORMS: Final = {
    ord("I"): re.compile(rb"[+-]?[0-9]+\Z"),
    ord("L"): re.compile(rb"[+-]?[0-9]+L?\Z"),
    ord("F"): re.compile(rb"[+-]?[0-9.eEinfa+-]+\Z"),
    ord("S"): re.compile(rb"'.*'\Z|\".*\"\Z", re.DOTALL),
    ord("p"): re.compile(rb"[0-9]+\Z"),
    ord("g"): re.compile(rb"[0-9]+\Z"),
}
_IDENTIFIER = re.compile(rb"[A-Za-z_][A-Za-z0-9_.]*\Z")
_MARK, _TUPLE, _OTHER = "mark", "tuple", "other"


def _pickle(head: bytes, size: int) -> _Found:
    """Find pickles: those with a protocol header, and those without (protocols 0 and 1) that call something.

    The second kind is text-like, so it is believed only when a valid stack machine reaches a call.
    """
    if head[:1] == b"\x80" and len(head) > 1:
        known = head[1] in _PROTOCOLS and (size == 2 or (len(head) > 2 and head[2] in _OPS))  # noqa: PLR2004 - offsets
        return ("pickle", f"protocol {head[1]}") if known else None
    if _PLAIN_CONTAINER.match(head):
        return "pickle", "protocol 0 or 1"
    return ("pickle", "protocol 0 or 1, calls a name") if _calls(head, size) else None


def _calls(head: bytes, size: int) -> bool:
    """Say whether `head` is a valid run of pickle opcodes that calls a named object.

    A run that is valid to the end of the head, or for `_MOST_OPS`, and has named an object counts as well.
    """
    stack: list[str] = []
    at = named = 0
    for _ in range(_MOST_OPS):
        if at >= len(head):
            return bool(named) and size > len(head)
        code = head[at]
        if code not in _WALKABLE or code == ord("."):
            return False
        end = _argument_end(head, at + 1, code)
        if end is None:
            return False
        named += code in b"ci\x93"
        if _is_call(code, stack) and named:
            return True
        if not _apply(code, stack):
            return False
        at = end
    return bool(named)


def _argument_end(head: bytes, at: int, code: int) -> int | None:
    """Return where the next opcode stands; None when the argument is not a valid one."""
    argument = _OPS[code].arg
    if argument is None:
        return at
    if argument.n >= 0:
        return at + argument.n
    if argument.n in _LENGTHS:
        width = struct.calcsize(_LENGTHS[argument.n])
        if at + width > len(head):
            return None
        length: int = struct.unpack_from(_LENGTHS[argument.n], head, at)[0]
        return at + width + length if length >= 0 else None
    for _ in range(2 if code in b"ci" else 1):
        end = head.find(b"\n", at)
        form = _IDENTIFIER if code in b"ci" else _LINE_FORMS.get(code)
        if end < 0 or (form is not None and not form.match(head, at, end)):
            return None
        at = end + 1
    return at


def _is_call(code: int, stack: list[str]) -> bool:
    """Say whether this opcode, on this stack, makes the unpickler call something."""
    if code in b"R\x81":  # REDUCE, NEWOBJ: a callable and its arguments
        return len(stack) > 1 and stack[-1] == _TUPLE and stack[-2] != _MARK
    if code == ord("o"):  # OBJ: a mark, a class, its arguments
        return _MARK in stack[:-1]
    return code == ord("i") and _MARK in stack  # INST


def _apply(code: int, stack: list[str]) -> bool:
    """Do to `stack` what the opcode does; false when the stack does not allow it."""
    before = [str(item) for item in _OPS[code].stack_before]
    after = [str(item) for item in _OPS[code].stack_after]
    if "mark" in before:
        if _MARK not in stack:
            return False
        while stack.pop() != _MARK:
            pass
        before = before[: before.index("mark")]
    if len(stack) < len(before) or (before and _MARK in stack[-len(before) :] and code != ord("0")):
        return False
    del stack[len(stack) - len(before) :]
    stack += [item if item in {_MARK, _TUPLE} else _OTHER for item in after]
    return True


# --- formats with a magic number --------------------------------------------------------------------------------------


def _magic(head: bytes, _size: int) -> _Found:
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name, ""
    if _BZIP2.match(head):
        return "bzip2", ""
    return ("lzma", "") if _LZMA.match(head) else None


def _windows_program(head: bytes, _size: int) -> _Found:
    if head[:2] != b"MZ" or len(head) < 64:  # noqa: PLR2004 - length of the DOS header
        return None
    (offset,) = struct.unpack_from("<I", head, 60)
    return ("pe", "") if head[offset : offset + 4] == b"PE\0\0" else None


def _gguf(head: bytes, size: int) -> _Found:
    """Find GGUF: magic, u32 version, u64 tensors, u64 keys; of either byte order."""
    if head[:4] != b"GGUF" or len(head) < 24:  # noqa: PLR2004 - length of the fixed header
        return None
    for order, note in (("<", ""), (">", ", big-endian")):
        version, tensors, keys = struct.unpack_from(order + "IQQ", head, 4)
        fits = tensors * _GGUF_LEAST["tensor"] <= size and keys * _GGUF_LEAST["key"] <= size
        if version in _GGUF_VERSIONS and fits:
            return "gguf", f"version {version}{note}"
    return None


def _safetensors(head: bytes, size: int) -> _Found:
    """Find safetensors: u64 length of a JSON header, and the header, within the file."""
    if len(head) < 10:  # noqa: PLR2004 - the length and the shortest header, {}
        return None
    (length,) = struct.unpack_from("<Q", head)
    if not 2 <= length <= min(_SAFETENSORS_HEADER, size - 8) or head[8:9] != b"{":  # noqa: PLR2004 - as above
        return None
    if 8 + length > len(head):
        return "safetensors", f"header of {length} bytes"
    try:
        header = parse(head[8 : 8 + length], what="header")
    except IntegrityError:
        return "safetensors-odd", "header is not strict JSON"
    tensors = len(header) - ("__metadata__" in header)
    return "safetensors", f"{tensors} tensors"


def _flatbuffer(head: bytes, _size: int) -> _Found:
    """Find .pte (`ET12`) and TFLite (`TFL3`) by the file identifier of flatbuffers, at byte 4."""
    identifier = head[4:8]
    if identifier[:2] == b"ET" and identifier[2:].isdigit():
        return "pte", identifier.decode("ascii")
    return ("tflite", "TFL3") if identifier == b"TFL3" else None


def _tensorrt(head: bytes, _size: int) -> _Found:
    """Find a TensorRT plan: tag `ftrt`, u32 0 at 4, the version in bytes 24 to 27."""
    if head[:8] != b"ftrt\0\0\0\0" or len(head) < 28:  # noqa: PLR2004 - length of the fixed header
        return None
    return "tensorrt", "version " + ".".join(str(byte) for byte in head[24:28])


def _zlib(head: bytes, _size: int) -> _Found:
    """Find bare zlib streams, as joblib writes them: a valid two-byte header, and a start that inflates."""
    if len(head) < 8 or head[0] & 15 != 8 or int.from_bytes(head[:2], "big") % 31:  # noqa: PLR2004 - RFC 1950
        return None
    try:
        zlib.decompressobj().decompress(head[:512], 64)
    except zlib.error:
        return None
    return "zlib", ""


# --- arrays and ZIP ---------------------------------------------------------------------------------------------------

_NPY: Final = b"\x93NUMPY"
_OBJECTS = re.compile(rb"'\|?O'|\"\|?O\"|'O[0-9]'")
_ENTRY: Final = b"PK\x03\x04"
_MOST_ENTRIES: Final = 256
_TORCH = re.compile(
    r"[^/]+/(data\.pkl|constants\.pkl|data/[0-9]+|constants/[0-9]+|\.data/.*|\.format_version|\.storage_alignment"
    r"|code/.*|version|byteorder|archive_format|archive_version)\Z|(.*/)?[^/]+\.(pkl|pickle)\Z"
)
_KERAS: Final = frozenset({"config.json", "metadata.json", "model.weights.h5"})


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    extra: bytes
    start: bytes  # the first bytes of the content, inflated


def _npy(head: bytes, _size: int) -> _Found:
    if not head.startswith(_NPY):
        return None
    return ("npy-object", "") if _holds_objects(head) else ("npy", "")


def _holds_objects(start: bytes) -> bool:
    """Say whether a .npy header names the type of Python objects, also as one field of a record."""
    return start.startswith(_NPY) and bool(_OBJECTS.search(start[: start.find(b"\n") + 1 or None]))


def _zip(head: bytes, _size: int) -> _Found:
    """Find ZIP files, and what kind they are by the entries that begin within the head."""
    if head[:4] not in {_ENTRY, b"PK\x05\x06", b"PK\x07\x08"}:
        return None
    entries = list(_entries(head))
    names = {entry.name for entry in entries}
    if any(_TORCH.match(entry.name) or entry.extra.startswith(b"FB") for entry in entries):
        return "torch-zip", ""
    if len(names & _KERAS) > 1 or any(name.endswith((".h5", ".hdf5", ".keras")) for name in names):
        return "keras-zip", ""
    if any(_holds_objects(entry.start) for entry in entries):
        return "npz-object", ""
    if names and all(name.endswith(".npy") for name in names):
        return "npz", ""
    return "zip", ""


def _entries(head: bytes) -> Iterator[_Entry]:
    """Yield what local headers stand in `head`; sizes in them are often absent, so they are searched for."""
    at = 0
    for _ in range(_MOST_ENTRIES):
        at = head.find(_ENTRY, at)
        if at < 0 or at + 30 > len(head):
            return
        method, name_length, extra_length = struct.unpack_from("<8xH16xHH", head, at)
        name_end = at + 30 + name_length
        data = name_end + extra_length
        yield _Entry(
            name=head[at + 30 : name_end].decode("latin-1"),
            extra=head[name_end:data],
            start=_inflated(head[data : data + 1024], method),
        )
        at += 4


def _inflated(data: bytes, method: int) -> bytes:
    if method != 8:  # noqa: PLR2004 - deflate, APPNOTE 4.4.5
        return data
    try:
        return zlib.decompressobj(-15).decompress(data, 1024)
    except zlib.error:
        return b""


# --- protobuf ---------------------------------------------------------------------------------------------------------

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ONNX_FIELDS: Final = {
    1: _VARINT,  # ir_version
    2: _BYTES,  # producer_name
    3: _BYTES,  # producer_version
    4: _BYTES,  # domain
    5: _VARINT,  # model_version
    6: _BYTES,  # doc_string
    7: _BYTES,  # graph
    8: _BYTES,  # opset_import
    14: _BYTES,  # metadata_props
    20: _BYTES,  # training_info
    25: _BYTES,  # functions
    26: _BYTES,  # configuration
}
_GRAPH: Final = 7
_GRAPH_FIELDS: Final = frozenset({1, 2, 5, 10, 11, 12, 13, 14, 15, 16})  # GraphProto, all of them length-delimited
_LARGEST_IR: Final = 255
_MOST_FIELDS: Final = 4096
_COREML_MODELS: Final = range(200, 3001)  # the fields of the oneof Type
_LARGEST_SPECIFICATION: Final = 100


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    wire: int
    value: int  # of a varint
    start: int  # of the content
    end: int


def _onnx(head: bytes, size: int) -> _Found:
    """Find ONNX: a ModelProto whose first field is ir_version and that has a graph. onnx.proto, `ModelProto`."""
    fields = _fields(head, size)
    if not fields or fields[0].number != 1 or not 1 <= fields[0].value <= _LARGEST_IR:
        return None
    if any(_ONNX_FIELDS.get(field.number) != field.wire for field in fields):
        return None
    graphs = [field for field in fields if field.number == _GRAPH]
    if len(graphs) != 1 or not _is_graph(head, graphs[0]):
        return None
    return "onnx", f"IR {fields[0].value}"


def _is_graph(head: bytes, field: _Field) -> bool:
    tag = _varint(head, field.start)
    return tag is not None and tag[0] & 7 == _BYTES and tag[0] >> 3 in _GRAPH_FIELDS


def _coreml(head: bytes, size: int) -> _Found:
    """Find Core ML: specificationVersion, description, and a field of the model oneof. Model.proto, `Model`."""
    fields = _fields(head, size)
    expected = [(1, _VARINT), (2, _BYTES)]
    if [(field.number, field.wire) for field in fields[:2]] != expected:
        return None
    if not 1 <= fields[0].value <= _LARGEST_SPECIFICATION:
        return None
    found = any(field.number in _COREML_MODELS and field.wire == _BYTES for field in fields)
    return ("coreml", f"specification {fields[0].value}") if found else None


def _fields(head: bytes, size: int) -> list[_Field]:
    """Return the top-level protobuf fields that begin within `head`; none when the bytes are not protobuf."""
    fields: list[_Field] = []
    at = 0
    while at < len(head):
        field = _field(head, at)
        if field is None:
            # A field cut off by the end of the head is no fault; anything else is.
            return fields if size > len(head) and at + 20 > len(head) else []
        if field.end > size or field.number == 0 or len(fields) == _MOST_FIELDS:
            return []
        fields.append(field)
        at = field.end
    return fields


def _field(head: bytes, at: int) -> _Field | None:
    tag = _varint(head, at)
    if tag is None:
        return None
    number, wire, start = tag[0] >> 3, tag[0] & 7, tag[1]
    if wire in {_FIXED64, _FIXED32}:
        return _Field(number, wire, 0, start, start + (8 if wire == _FIXED64 else 4))
    value = _varint(head, start)
    if value is None or wire not in {_VARINT, _BYTES}:
        return None
    end = value[1] + (value[0] if wire == _BYTES else 0)
    return _Field(number, wire, value[0], value[1], end)


def _varint(head: bytes, at: int) -> tuple[int, int] | None:
    """Return (value, where it ends) of a varint of at most ten bytes."""
    value = 0
    for index, byte in enumerate(head[at : at + 10]):
        value |= (byte & 127) << (7 * index)
        if byte < 128:  # noqa: PLR2004 - the continuation bit
            return value, at + index + 1
    return None


# --- text -------------------------------------------------------------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")


def _text(head: bytes, size: int) -> _Found:
    """Find UTF-8 text, and JSON in it."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=size <= len(head))
    except UnicodeDecodeError:
        return None
    if _CONTROL.search(text):
        return None
    if not text.lstrip().startswith(("{", "[")):
        return "text", ""
    if size > len(head):
        return "json", ""
    try:
        parse(head, what="file")
    except IntegrityError:
        return "text", ""
    return "json", ""


# Pickles come first: a file that is both a pickle and something else is a pickle.
_READERS: Final[tuple[Callable[[bytes, int], _Found], ...]] = (
    _empty,
    _pickle,
    _magic,
    _windows_program,
    _gguf,
    _safetensors,
    _flatbuffer,
    _tensorrt,
    _npy,
    _zip,
    _zlib,
    _onnx,
    _coreml,
    _text,
)
