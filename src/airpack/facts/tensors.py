"""Says which bytes of a model file are tensors, and of what type, from the file's own header.

    read_layout("safetensors", stream, size)  ->  Layout(tensors=(Tensor("w", 104, 108, "fp32"),), ...)

It decides how bytes are coded, and which of them a delta may leave out; never what they are: every byte of a file
travels and is hashed whatever is said here. So a file that the walker can make no sense of simply has no tensors, and
one that lies about them is only coded badly.

Rules held here:

1. Data of tensors is never read on purpose: only headers, by the readers of facts (`gguf`, `onnx`, `safetensors`).
2. Ranges lie within the file and do not overlap; a type with planes has a whole number of elements.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import BinaryIO, Final

from airpack.errors import StorageError
from airpack.facts import gguf, onnx, safetensors
from airpack.facts.reader import MalformedError, Reader
from airpack.types import Tensor

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
        found, external = walker(Reader(stream, size))
        return Layout(fit(found, size), MappingProxyType({path: tuple(each) for path, each in external.items()}))
    except (MalformedError, StorageError):
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


_Found = tuple[list[Tensor], dict[str, list[Tensor]]]  # in the file itself, and in others by location


def _safetensors(reader: Reader) -> _Found:
    header = safetensors.read_header(reader)
    start = header.data
    return [
        Tensor(name, start + begin, start + end, safetensors.FLOATS.get(dtype, "other"))
        for name, dtype, _, begin, end in header.entries
        if begin <= end
    ], {}


def _gguf(reader: Reader) -> _Found:
    """Return the tensors whose length follows from their type; what does not is left between the others."""
    header = gguf.read_header(reader)
    found = []
    for tensor in header.tensors:
        start = header.data + tensor.offset
        if tensor.length >= 0:
            dtype = gguf.FLOATS.get(tensor.kind, "other")
            found.append(Tensor(tensor.name, start, start + tensor.length, dtype))
    return found, {}


def _onnx(reader: Reader) -> _Found:
    inside: list[Tensor] = []
    outside: dict[str, list[Tensor]] = {}
    for tensor in onnx.read_model(reader).tensors:
        dtype = onnx.FLOATS.get(tensor.kind, "other")
        if tensor.location and (place := tensor.outside):
            outside.setdefault(tensor.location, []).append(Tensor(tensor.name, *place, dtype))
        elif tensor.data is not None and not tensor.elsewhere:
            inside.append(Tensor(tensor.name, *tensor.data, dtype))
    return inside, outside


_WALKERS: Final[Mapping[str, Callable[[Reader], _Found]]] = {
    "safetensors": _safetensors,
    "gguf": _gguf,
    "onnx": _onnx,
}
FORMATS: Final = frozenset(_WALKERS)
"""The formats in which tensors are found."""
