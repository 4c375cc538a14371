"""Byte planes of floats: one part of all elements, then the next (docs/spec/package.md section 4.3).

Exponents of neighbouring weights are alike and mantissas are noise: apart, an entropy coder sees it. The work goes in
blocks that stay in a core's cache, which makes it twice as fast.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Buffer: TypeAlias = bytes | bytearray | memoryview
_Array: TypeAlias = NDArray[Any]

_BLOCK: Final = 1 << 16  # elements
_KEPT: Final = 1 << 20  # bytes of scratch that a thread keeps: larger frames are rare, and their scratch goes
_LOCAL = threading.local()


class Layout(Enum):
    """What the elements of a frame are."""

    BF16 = auto()
    FP16 = auto()
    FP32 = auto()


def split(frame: Buffer, layout: Layout) -> memoryview:
    """Return the planes of `frame`, end to end, in memory that this thread's next call writes over.

    Args:
        frame: Little-endian elements, any number of whole ones.
        layout: What they are.
    """
    way, planes = _WAYS[layout], _scratch("planes", len(frame))
    _walk(way, way.split, np.frombuffer(frame, way.element), planes)
    return planes.data


def join(planes: Buffer, layout: Layout) -> memoryview:
    """Return the frame whose planes, end to end, are `planes`, in memory of its own.

    Law: `join(split(frame, layout), layout) == frame`.

    Args:
        planes: As `split` returns them.
        layout: What the elements are.
    """
    way, frame = _WAYS[layout], np.empty(len(planes), np.uint8)
    _walk(way, way.join, frame.view(way.element), np.frombuffer(planes, np.uint8))
    return frame.data


def xor(frame: Buffer, base: Buffer) -> memoryview:
    """Return `frame` XOR `base`, which is as long, in memory of its own.

    Raises:
        ValueError: They are not of one length.
    """
    if len(frame) != len(base):
        raise ValueError(f"a frame of {len(frame)} bytes and {len(base)} bytes of its base")
    return np.bitwise_xor(np.frombuffer(frame, np.uint8), np.frombuffer(base, np.uint8)).data


def room(size: int) -> memoryview:
    """Return `size` bytes to write to; nobody has cleared them."""
    return np.empty(size, np.uint8).data


def any_bit(data: Buffer) -> bool:
    """Return whether any bit of `data` is set."""
    return bool(np.frombuffer(data, np.uint8).any())


_Step: TypeAlias = Callable[[_Array, list[_Array], _Array], None]
"""Takes a block of elements, the same block of each plane, and room for a block of elements."""


@dataclass(frozen=True, slots=True)
class _Way:
    """How elements are split: numpy's name of one and of each of its parts, and the two directions."""

    element: str
    parts: tuple[str, ...]
    split: _Step
    join: _Step


def _walk(way: _Way, step: _Step, elements: _Array, planes: _Array) -> None:
    """Call `step` block by block."""
    parts, at = [], 0
    for name in way.parts:
        end = at + elements.size * np.dtype(name).itemsize
        parts.append(planes[at:end].view(name))
        at = end
    spare = _scratch("spare", _BLOCK * elements.itemsize).view(elements.dtype)
    for start in range(0, elements.size, _BLOCK):
        block = elements[start : start + _BLOCK]
        step(block, [part[start : start + _BLOCK] for part in parts], spare[: block.size])


def _split_bf16(block: _Array, parts: list[_Array], spare: _Array) -> None:
    exponent, rest = parts
    _narrow(np.right_shift(block, 7, out=spare), exponent)
    _narrow(_lower_sign(block, spare), rest)


def _join_bf16(block: _Array, parts: list[_Array], spare: _Array) -> None:
    exponent, rest = parts
    np.bitwise_and(_extend(rest, spare), 0x807F, out=spare)
    np.copyto(block, exponent)
    np.left_shift(block, 7, out=block)
    np.bitwise_or(block, spare, out=block)


def _split_fp16(block: _Array, parts: list[_Array], spare: _Array) -> None:
    high, low = parts
    _narrow(np.right_shift(block, 8, out=spare), high)
    _narrow(block, low)


def _join_fp16(block: _Array, parts: list[_Array], spare: _Array) -> None:
    high, low = parts
    np.copyto(spare, low)
    np.copyto(block, high)
    np.left_shift(block, 8, out=block)
    np.bitwise_or(block, spare, out=block)


def _split_fp32(block: _Array, parts: list[_Array], spare: _Array) -> None:
    exponent, rest, low = parts
    _narrow(np.right_shift(block, 23, out=spare), exponent)
    _narrow(np.right_shift(_lower_sign(block, spare), 16, out=spare), rest)
    _narrow(block, low)


def _join_fp32(block: _Array, parts: list[_Array], spare: _Array) -> None:
    exponent, rest, low = parts
    np.left_shift(_extend(rest, spare), 16, out=spare)
    np.bitwise_and(spare, 0x807F0000, out=spare)
    np.copyto(block, low)
    np.bitwise_or(spare, block, out=spare)
    np.copyto(block, exponent)
    np.left_shift(block, 23, out=block)
    np.bitwise_or(block, spare, out=block)


def _narrow(wide: _Array, out: _Array) -> None:
    """Write the lowest bits of `wide` into the smaller elements of `out`."""
    np.copyto(out, wide, casting="unsafe")


def _lower_sign(block: _Array, out: _Array) -> _Array:
    """Return the elements with the sign also where the exponent's last bit was, right above the mantissa."""
    last = 0x80 if block.itemsize == 2 else 0x80_0000  # noqa: PLR2004, of bf16 or of fp32
    np.right_shift(block, 8, out=out)
    np.bitwise_xor(out, block, out=out)
    np.bitwise_and(out, last, out=out)
    return np.bitwise_xor(out, block, out=out)


def _extend(rest: _Array, out: _Array) -> _Array:
    """Return the bytes `rest` as the larger elements `out`, the highest bit of each in all bits above it too."""
    np.copyto(out.view(f"<i{out.itemsize}"), rest.view("i1"))
    return out


def _scratch(name: str, size: int) -> _Array:
    """Return `size` bytes that this thread keeps from one call to the next."""
    if size > _KEPT:
        return np.empty(size, np.uint8)
    if not hasattr(_LOCAL, name):
        setattr(_LOCAL, name, np.empty(_KEPT, np.uint8))
    kept: _Array = getattr(_LOCAL, name)
    return kept[:size]


_WAYS: Final = {
    Layout.BF16: _Way("<u2", ("u1", "u1"), _split_bf16, _join_bf16),
    Layout.FP16: _Way("<u2", ("u1", "u1"), _split_fp16, _join_fp16),
    Layout.FP32: _Way("<u4", ("u1", "u1", "<u2"), _split_fp32, _join_fp32),
}
